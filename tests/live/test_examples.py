"""The examples, run as people run them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from snippets import ROOT

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux"),
    pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to load BPF"
    ),
]


@contextlib.contextmanager
def start(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run an example; what fails here must not wait for it."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def test_execsnoop_shows_children_of_one_process_until_interrupted():
    with start("execsnoop.py", str(os.getpid())) as tracer:
        assert tracer.stdout.readline().split() == ["PID", "PARENT", "COMMAND"]
        child = subprocess.Popen(["sh", "-c", "exit 3"])
        child.wait()
        executed, ended = (tracer.stdout.readline() for _ in range(2))
        tracer.send_signal(signal.SIGINT)
        rest, complaints = tracer.communicate(timeout=30)
    assert executed.split()[:4] == ["exec", str(child.pid), str(os.getpid()), "sh"]
    assert ended.split()[:4] == ["exit", str(child.pid), str(os.getpid()), "sh"]
    assert "exit status 3" in ended
    assert (tracer.returncode, rest, complaints) == (0, "", "")


def test_iter_tasks_lists_this_process():
    with start("iter_tasks.py") as lister:
        output, complaints = lister.communicate(timeout=30)
    assert (lister.returncode, complaints) == (0, "")
    assert str(os.getpid()) in [line.split()[0] for line in output.splitlines()]


def test_netlink_extack_works_or_says_in_one_line_why_not():
    with start("netlink_extack.py") as tracer:
        output, complaints = tracer.communicate(timeout=30)
    if tracer.returncode == 0:
        lines = [line.split(":")[0].strip() for line in output.splitlines()]
        assert lines == ["fentry", "tracepoint", "fexit"]
    else:
        assert complaints.startswith("netlink_extack: ")
        assert len(complaints.splitlines()) == 1


def test_my_program_computes_the_same_on_the_interpreter_and_in_this_kernel():
    words = ["-m", "pytest", "-q", "-rA", "-m", "not boots", "--bpf-run=both"]
    chosen = ["-k", "this_kernel or counted or dropped", "examples/test_my_program.py"]
    done = subprocess.run(
        [sys.executable, *words, "-p", "no:cacheprovider", *chosen],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    for test in ("test_bytes_are_counted_by_protocol", "test_long_packets_are_dropped[1001-1]"):
        assert f"PASSED examples/test_my_program.py::{test}\n" in done.stdout


def test_the_package_of_the_guide():
    """docs/tracer-from-scratch.md: its tests, and the command as its users run it."""
    folder = ROOT / "examples" / "failsnoop"
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "kernel_btfs=running"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("3 passed"), done.stdout
    command = [sys.executable, "-m", "failsnoop", "--parent", str(os.getpid())]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout.readline().split() == ["PID", "COMMAND", "SECONDS", "WHY"]
        subprocess.run(["sh", "-c", "exit 3"], check=False)
        assert tracer.stdout.readline().endswith("exit status 3\n")
        tracer.send_signal(signal.SIGINT)
        assert tracer.wait(30) == 0
