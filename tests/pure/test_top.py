"""Runs and run time of programs, against a scripted kernel; tests/live has a real one."""

import errno
import json
import os
import signal
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main, stream, top
from pybpfload.errors import NotPermittedError, NotSupportedError
from pybpfload.testing.fakekernel import FakeKernel

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

ROOT = Path(__file__).parents[2]
MINIMAL = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb") / "minimal.bpf.o"
SYSCTL = "/proc/sys/kernel/bpf_stats_enabled"


@pytest.fixture
def fake():
    """A kernel with a program that ran before anybody counted in this process."""
    files = {
        "/sys/kernel/btf/vmlinux": pybpfload.open(MINIMAL).btf.to_bytes(),
        "/proc/7/comm": b"tracer\n",
    }
    with FakeKernel(files=files) as kernel, pybpfload.open(MINIMAL).load():
        kernel.prog = kernel.of_kind("prog")[-1]
        kernel.prog.runs = (1000, 10, 0)
        kernel.files["/proc/7/fdinfo/3"] = b"prog_id:\t%d\n" % kernel.prog.id
        before = len(kernel.fds)
        yield kernel
        assert len(kernel.fds) == before
    assert kernel.leaked() == []


@pytest.fixture
def intervals(fake, monkeypatch):
    """What the program does in each interval: its runs afterwards, or what to call."""
    script = []

    def sleep(stop, seconds):
        if not script:
            return False
        next_one = script.pop(0)
        if callable(next_one):
            next_one()
        else:
            fake.prog.runs = next_one
        return not stop.requested

    monkeypatch.setattr(stream.Stop, "sleep", sleep)
    return script


def counting(kernel):
    return [each for each in kernel.leaked() if each.kind == "stats"]


def test_what_was_done_between_two_samples(fake):
    with pybpfload.ProgramStats() as stats:
        assert len(counting(fake)) == 1
        fake.prog.runs = (4000, 30, 2)
        (first,) = stats.sample()
        (second,) = stats.sample()
    assert (first.id, first.name, first.type.name) == (
        fake.prog.id,
        "count_syscalls",
        "RAW_TRACEPOINT",
    )
    assert (first.runs, first.run_ns, first.misses, first.average_ns) == (20, 3000, 2, 150.0)
    assert (first.total_runs, first.total_run_ns, first.total_misses) == (30, 4000, 2)
    assert first.runs_per_second == 20 / first.seconds
    assert first.cpu == 3000 / (first.seconds * 1e9)
    assert (second.runs, second.run_ns, second.average_ns, second.total_runs) == (0, 0, 0.0, 30)
    assert counting(fake) == []
    with pytest.raises(ValueError, match="closed"):
        stats.sample()
    stats.close()


def test_programs_come_and_go(fake):
    with pybpfload.ProgramStats() as stats:
        with pybpfload.open(MINIMAL).load():
            fake.of_kind("prog")[-1].runs = (500, 5, 0)
            known, new = stats.sample()
            assert (known.runs, new.runs, new.total_runs) == (0, 5, 5)
        assert [each.id for each in stats.sample()] == [known.id]
        # One is listed, and gone when it is opened.
        fake.on("PROG_GET_FD_BY_ID", lambda call: -errno.ENOENT)
        assert stats.sample() == []


def test_a_refusal_leaves_nothing_open(fake):
    fake.refuses["PROG_GET_NEXT_ID"] = errno.EPERM
    with pytest.raises(NotPermittedError):
        pybpfload.ProgramStats()
    assert counting(fake) == []


def test_kernels_that_cannot_be_asked_to_count(fake):
    fake.refuses["ENABLE_STATS"] = errno.EINVAL
    with pytest.raises(NotSupportedError, match=r"5\.8") as caught:
        pybpfload.ProgramStats()
    assert caught.value.hint is None  # it has no such sysctl either
    fake.files[SYSCTL] = b"0\n"
    with pytest.raises(NotSupportedError) as caught:
        pybpfload.ProgramStats()
    assert "sysctl kernel.bpf_stats_enabled=1" in caught.value.hint
    fake.files[SYSCTL] = b"1\n"
    with pybpfload.ProgramStats() as stats:
        assert [each.id for each in stats.sample()] == [fake.prog.id]


def test_the_command_says_what_to_do(fake, capsys):
    fake.refuses["ENABLE_STATS"] = errno.EINVAL
    fake.files[SYSCTL] = b"0\n"
    assert main(["top"]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert "sysctl kernel.bpf_stats_enabled=1" in err


def test_blocks_of_text(intervals, capsys):
    intervals += [(3000, 20, 0), (3000, 20, 0)]
    assert main(["top", "--count", "2"]) == 0
    first, second, rest = capsys.readouterr().out.split("\n\n")
    assert rest == ""
    heading, columns, row = first.splitlines()
    assert "1 program, 1 ran" in heading
    assert columns.split()[:5] == ["ID", "TYPE", "NAME", "RUNS/S", "CPU"]
    words = row.split()
    assert words[1:3] == ["raw_tracepoint", "count_syscalls"]
    assert words[5:] == ["200", "20", "0", "tracer", "(7)"]
    assert "1 program, 0 ran" in second


def test_documents(fake, intervals, capsys):
    intervals += [(3000, 20, 1), (3500, 25, 1)]
    assert main(["top", "--json"]) == 0  # the script ends it, as Ctrl-C would
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    (program,) = first["programs"]
    assert program["pids"] == [{"pid": 7, "comm": "tracer"}]
    assert (program["id"], program["name"]) == (fake.prog.id, "count_syscalls")
    assert (program["runs"], program["run_ns"], program["misses"]) == (10, 2000, 1)
    assert (program["run_cnt"], program["run_time_ns"]) == (20, 3000)
    assert program["average_ns"] == 200
    assert second["programs"][0]["runs"] == 5
    assert second["time"] >= first["time"]


@pytest.mark.parametrize(
    ("key", "first"), [("time", 1), ("runs", 0), ("average", 1), ("total", 0), ("id", 0)]
)
def test_orders(fake, intervals, capsys, key, first):
    with pybpfload.open(MINIMAL).load():
        other = fake.of_kind("prog")[-1]

        def both():
            fake.prog.runs = (2000, 60, 0)
            other.runs = (900_000, 3, 0)

        intervals.append(both)
        assert main(["top", "--json", "--sort", key, "--rows", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (shown,) = json.loads(lines[-1])["programs"]
    assert shown["id"] == (fake.prog.id, other.id)[first]


def test_ctrl_c_ends_it_and_the_counting(fake, intervals, capsys):
    intervals += [(3000, 20, 0), lambda: os.kill(os.getpid(), signal.SIGINT), (0, 0, 0)]
    assert main(["top", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert counting(fake) == []


def test_a_terminal_is_drawn_over(intervals, monkeypatch, capsys):
    monkeypatch.setattr(top, "_is_terminal", lambda: True)
    monkeypatch.setenv("LINES", "3")
    intervals += [(3000, 20, 0), (3500, 25, 0)]
    assert main(["top"]) == 0
    begin, *frames = capsys.readouterr().out.split("\x1b[H")
    assert begin.endswith("\x1b[?7l")
    assert len(frames) == 2
    assert "\x1b[2J" not in begin + "".join(frames)  # clearing all of it would flicker
    last, back = frames[1].split("\x1b[?7h")
    lines = last.removesuffix("\x1b[J").split("\x1b[K\n")
    assert len(lines) == 3  # a heading, that of the table, and nothing
    assert back.endswith("".join(line + "\n" for line in lines[:-1]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--interval", "0"], "too short"),
        (["--interval", "x"], "no time"),
        (["--count", "0"], "is no count, 1 to "),
        (["--sort", "cpu"], "choose from"),
    ],
)
def test_wrong_usage(capsys, words, said):
    assert main(["top", *words]) == 2
    assert said in capsys.readouterr().err
