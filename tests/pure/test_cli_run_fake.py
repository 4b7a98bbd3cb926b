"""``pybpfload run`` against a scripted kernel; tests/live has it on a real one."""

import errno
import json
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main
from pybpfload.testing.fakekernel import FakeKernel

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="run needs Linux")

FIXTURES = Path(__file__).parents[2] / "fixtures"
NATIVE, FOREIGN = ("bpfel", "bpfeb")[:: 1 if sys.byteorder == "little" else -1]
NO_RIGHTS = b"CapEff:\t0000000000000000\nSeccomp:\t0\n"
ALL_RIGHTS = b"CapEff:\t000001ffffffffff\nSeccomp:\t0\n"


def run(name, *options, folder=NATIVE):
    return main(["run", str(FIXTURES / folder / f"{name}.bpf.o"), *options])


def kernel(name, **options):
    """A kernel whose types are those of the object itself."""
    btf = pybpfload.open(FIXTURES / NATIVE / f"{name}.bpf.o").btf
    files = {"/sys/kernel/btf/vmlinux": btf.to_bytes(), **options.pop("files", {})}
    return FakeKernel(files=files, **options)


def one_line(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_load_attach_detach(capsys):
    with kernel("minimal") as fake:
        assert run("minimal", "--set", "target_tgid=1", "--duration", "0") == 0
    assert fake.leaked() == []
    assert "RAW_TRACEPOINT_OPEN" in fake.commands()
    out, err = capsys.readouterr()
    assert out == ""
    attached, detached = err.splitlines()
    assert attached == "pybpfload: minimal: 1 program attached, until Ctrl-C or 0 s are over"
    assert detached.startswith("pybpfload: detached after ")


def test_verbose_names_the_programs(capsys):
    with kernel("minimal"):
        assert run("minimal", "-v", "--duration", "0") == 0
    err = capsys.readouterr().err
    assert "pybpfload: program count_syscalls is attached to sys_enter\n" in err


def test_verbose_shows_every_call_while_the_command_lasts(capsys):
    with kernel("minimal") as fake:
        assert run("minimal", "-v", "--duration", "0") == 0
        seen = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bpf(")]
        assert [line[4:].partition(",")[0].partition(")")[0] for line in seen] == fake.commands()
        assert any(line.startswith("bpf(RAW_TRACEPOINT_OPEN, name='sys_enter', ") for line in seen)
        assert run("minimal", "--duration", "0") == 0
    assert "bpf(" not in capsys.readouterr().err


def test_one_program_of_an_optional_section(capsys):
    with kernel("cookies") as fake:
        assert run("cookies", "--program", "cookie_raw_tp", "--duration", "0") == 0
    assert fake.commands().count("RAW_TRACEPOINT_OPEN") == 1
    assert fake.leaked() == []


def test_a_foreign_byte_order(capsys):
    with FakeKernel() as fake:
        assert run("minimal", folder=FOREIGN) == 4
    assert "endian, this machine is" in one_line(capsys)
    assert fake.calls == []


def test_a_missing_privilege(capsys):
    with kernel(
        "minimal", refuses={"PROG_LOAD": errno.EPERM}, files={"/proc/self/status": NO_RIGHTS}
    ):
        assert run("minimal") == 3
    line = one_line(capsys)
    assert "lacks CAP_BPF" in line
    assert "run it as root" in line


def test_a_policy(capsys):
    files = {"/proc/self/status": ALL_RIGHTS}
    with kernel("minimal", refuses={"PROG_LOAD": errno.EPERM}, files=files):
        assert run("minimal") == 3
    line = one_line(capsys)
    assert "lockdown" in line
    assert "policy" in line


def test_a_kernel_without_btf(capsys):
    with FakeKernel() as fake:
        assert run("execsnoop") == 4
    assert "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)" in one_line(capsys)
    assert fake.leaked() == []


def test_every_program_that_cannot_be_attached_is_named(capsys):
    with kernel("rawtp", refuses={"RAW_TRACEPOINT_OPEN": errno.ENOENT}) as fake:
        assert run("rawtp", "--program", "sys_enter", "--program", "newtask") == 1
    assert fake.leaked() == []
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert "sys_enter" in lines[0]
    assert "newtask" in lines[1]


def test_programs_that_say_nothing_of_a_target(capsys):
    with kernel("subprogs") as fake:
        assert run("subprogs", "--program", "no_calls") == 1
    assert fake.leaked() == []
    err = capsys.readouterr().err.splitlines()
    assert err == [
        (
            'pybpfload: program no_calls is loaded, not attached: SEC("tc") does not say where: '
            "attach() wants a network device"
        ),
        "pybpfload: no program of subprogs says by its section name what to attach it to",
    ]


def test_bpf_printk_without_tracefs(capsys):
    with kernel("printk") as fake:
        assert run("printk", "--duration", "0") == 0
    assert fake.leaked() == []
    assert "bpf_printk lines cannot be shown: " in capsys.readouterr().err


def test_only_linux_can_load(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run("minimal") == 4
    assert "loading needs Linux, and this is darwin" in one_line(capsys)
    # Wrong settings are told all the same.
    assert run("minimal", "--set", "hit=1") == 2
    assert "did you mean 'hits'?" in one_line(capsys)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_detaches_everything(number, capsys):
    before = signal.getsignal(number)
    timers = []

    def soon(call):
        # From here on the handler is in place, however slow the machine is.
        me = threading.main_thread().ident
        timers.append(threading.Timer(0.3, lambda: signal.pthread_kill(me, number)))
        timers[-1].start()

    start = time.monotonic()
    with kernel("minimal") as fake:
        fake.on("RAW_TRACEPOINT_OPEN", soon)
        assert run("minimal") == 0
    (timer,) = timers
    timer.join()
    assert fake.leaked() == []
    assert time.monotonic() - start < 10
    assert signal.getsignal(number) is before
    assert "until Ctrl-C\n" in capsys.readouterr().err


def test_a_signal_while_loading_is_told(capsys):
    raised = []

    def interrupt(call):
        if not raised:
            raised.append(signal.raise_signal(signal.SIGTERM))

    with kernel("minimal") as fake:
        fake.on("MAP_CREATE", interrupt)
        assert run("minimal") == 0
    assert fake.leaked() == []
    assert one_line(capsys) == "pybpfload: stopped before anything was attached"


def test_a_signal_while_loading_stops_before_anything_is_attached(capsys):
    def interrupt(call):
        signal.raise_signal(signal.SIGINT)

    with kernel("minimal") as fake:
        fake.on("MAP_CREATE", interrupt)
        assert run("minimal") in (0, 130)  # the second signal does not wait
    assert fake.leaked() == []
    assert "RAW_TRACEPOINT_OPEN" not in fake.commands()


def test_output_as_json_lines(capsys):
    from pybpfload.cli.stream import Output

    output = Output(json_lines=True)
    output.event("events", b"\1\2")
    output.iterator_line("dump", 'a "line"')
    output.printk("sh-1 [0] bpf_trace_printk: hello")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {"map": "events", "type": None, "event": "0102"},
        {"program": "dump", "line": 'a "line"'},
        {"printk": "sh-1 [0] bpf_trace_printk: hello"},
    ]


def test_output_as_text(capsys):
    from pybpfload.cli.stream import Output

    output = Output(json_lines=False)
    output.event("events", b"\1\2")
    output.name_maps = True
    output.event("events", b"\1\2")
    output.iterator_line("dump", "a\x1bline")
    output.printk("hello")
    assert capsys.readouterr().out == "0102\nevents: 0102\na\\x1bline\nhello\n"
