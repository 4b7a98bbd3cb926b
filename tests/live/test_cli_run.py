"""``pybpfload run`` on the running kernel, of this machine and of virtual ones.

Every object here watches this process, or its children, and nobody else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf, tracefs

# Starting the command takes seconds in a virtual machine, so only what needs one is run there.
pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
NATIVE = "bpfel" if sys.byteorder == "little" else "bpfeb"
PATIENCE = 120  # seconds; emulated machines are slow


def command(name, *options):
    path = ROOT / "fixtures" / NATIVE / f"{name}.bpf.o"
    return [
        sys.executable,
        "-W",
        "error::ResourceWarning",
        "-m",
        "pybpfload",
        "run",
        str(path),
        *options,
    ]


@contextmanager
def running(name, *options):
    """The command, once it says that the programs are attached."""
    with subprocess.Popen(
        command(name, *options),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            process.notices = []
            for line in process.stderr:
                process.notices.append(line)
                if " attached, until " in line:
                    break
            yield process
        finally:
            process.kill()


def stop(process, number=signal.SIGINT):
    """Ask it to end; return its exit status, the lines it printed, and its last words."""
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out.splitlines(), err


def finished(name, *options):
    return subprocess.run(
        command(name, *options),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def loaded(name):
    """Whether a program of that name is in the kernel."""
    found = False
    number = 0
    while not found and (number := bpf.prog_get_next_id(number)) is not None:
        with suppress(KernelError):  # it was freed just now
            fd = bpf.prog_get_fd_by_id(number)
            found = bpf.prog_info(fd).name == name
            os.close(fd)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_events_as_json_until_a_signal(number):
    with running("execsnoop", "--json", "--set", f"target_ppid={os.getpid()}") as process:
        subprocess.run(["/bin/sh", "-c", "exit 3"], check=False)
        status, lines, err = stop(process, number)
    assert status == 0
    events = [json.loads(line) for line in lines]
    assert {(e["map"], e["type"]) for e in events} == {("events", "event")}
    start, end = (e["event"] for e in events if e["event"]["comm"] == "sh")
    assert start["kind"] == "EVENT_EXEC"
    assert start["filename"] == "/bin/sh"
    assert start["ppid"] == os.getpid()
    assert end["kind"] == "EVENT_EXIT"
    assert end["exit_code"] == 3 << 8
    assert end["duration_ns"] > 0
    (words,) = err.splitlines()
    assert words.startswith("pybpfload: detached after ")
    assert words.endswith(f"; events: {len(events)} events")
    for _ in range(50):  # the kernel frees programs a little later
        if not loaded("on_exec"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the program is still loaded")


def test_events_as_text_of_several_types_and_maps():
    with running("ringbuf", "--set", f"target_tgid={os.getpid()}", "--duration", "1") as process:
        for _ in range(40):
            os.getppid()
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    lines = out.splitlines()
    assert any(line.startswith("events: kind=KIND_NUMBER syscall=") for line in lines)
    assert any(line.startswith('events: kind=KIND_TEXT length=3 text="012"') for line in lines)
    assert any(line.startswith("events: kind=KIND_PAIR left=") for line in lines)
    assert f"; events: {len(lines)} events; small: 0 events\n" in err


def test_perf_buffers_and_what_they_lost():
    with running("perfbuf", "--json", "--set", f"target_tgid={os.getpid()}") as process:
        for _ in range(100):
            os.getppid()
        status, lines, err = stop(process)
    assert status == 0
    samples = [json.loads(line) for line in lines]
    assert len(samples) >= 100
    assert {(s["map"], s["type"], s["event"]["tgid"]) for s in samples} == {
        ("events", "sample", os.getpid())
    }
    assert f"; events: {len(samples)} events, 0 lost; raw_events: 0 events, 0 lost\n" in err


def test_iterators_run_once():
    done = finished("iter_task", "--json", "--set", f"target_tgid={os.getpid()}")
    assert done.returncode == 0
    comm = Path("/proc/self/comm").read_text().strip()
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"program": "dump_task", "line": f"{os.getpid()} {comm}"}
    ]
    assert done.stderr.endswith("; dump_task: 1 line\n")
    done = finished("iter_task", "--set", f"target_tgid={os.getpid()}")
    assert done.stdout == f"{os.getpid()} {comm}\n"


@pytest.mark.vm
def test_bpf_printk():
    try:
        tracefs.root()
        mounted = True
    except KernelError:
        mounted = False
    with running("printk", "--json", "--set", f"target_tgid={os.getpid()}") as process:
        for _ in range(5):
            os.getppid()
        status, lines, err = stop(process)
    assert status == 0
    if not mounted:
        assert lines == []
        assert "bpf_printk lines cannot be shown: " in process.notices[0]
        assert "not mounted" in process.notices[0]
        return
    printed = [json.loads(line)["printk"] for line in lines]
    mine = [line for line in printed if f"pybpfload: {os.getpid()} syscall " in line]
    assert 5 <= len(mine) <= 10
    assert f"bpf_printk: {len(printed)} lines" in err


@pytest.mark.vm
def test_tracepoints():
    with running("tracepoint", "--set", f"target_tgid={os.getpid()}", "-v") as process:
        if not process.notices[-1].endswith("until Ctrl-C\n"):
            # There is no tracefs: each program is named.
            assert process.wait(PATIENCE) == 1
            told = [line for line in process.notices if line.startswith("pybpfload: ")]
            for name, line in zip(("on_exec", "on_getpgid"), told, strict=True):
                assert f"program {name}:" in line
            assert all("tracefs" in line for line in told)
            return
        assert "pybpfload: program on_exec is attached to sched/sched_process_exec\n" in (
            process.notices
        )
        os.getpgid(0)
        status, _, _ = stop(process)
    assert status == 0


@pytest.mark.vm
def test_trampolines_run_or_the_policy_is_named():
    with running("unlink", "--json", "--set", f"target_tgid={os.getpid()}") as process:
        if not process.notices[-1].endswith("until Ctrl-C\n"):
            (line,) = process.notices
            status = process.wait(PATIENCE)
            assert (status, "ENOTSUPP" in line) == (4, True) or (
                status == 3 and ("policy" in line or "lockdown" in line)
            ), (status, line)
            return
        path = Path(f"/tmp/pybpfload-{os.getpid()}")
        path.write_bytes(b"")
        path.unlink()
        status, lines, _ = stop(process)
    assert status == 0
    events = [json.loads(line)["event"] for line in lines]
    assert [e["probe"] for e in events if e["name"] == path.name] == [
        "PROBE_FENTRY",
        "PROBE_FMOD_RET",
        "PROBE_FEXIT",
    ]


def test_a_reader_that_leaves_ends_it():
    with running("execsnoop", "--set", f"target_ppid={os.getpid()}") as process:
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


def test_without_privileges():
    # Still root for file systems, so that it finds Python, but without any capability.
    code = (
        "import ctypes, sys\n"
        "header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
        "assert ctypes.CDLL(None).capset(header, none) == 0\n"
        "from pybpfload.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = command("minimal")[-2:]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "this process lacks CAP_" in line


def test_the_verifier_in_one_line_or_in_full():
    done = finished("verifier_fail", "--program", "out_of_bounds")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "program out_of_bounds: the verifier refused it at instruction " in line
    assert "verifier_fail.bpf.c" in line or "value[4]" in line
    assert "invalid access to map value" in line
    assert line.endswith("(-v shows the verifier's log)")
    done = finished("verifier_fail", "--program", "out_of_bounds", "-v")
    lines = done.stderr.splitlines()
    assert "verifier log of program out_of_bounds:" in lines
    assert any(line.startswith("  processed ") for line in lines)
