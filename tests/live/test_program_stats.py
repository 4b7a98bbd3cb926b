"""Runs and run time of programs on the machine's own kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pybpfload

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
CALLS = 20_000


@pytest.fixture
def counter():
    """A program that runs at each system call of the machine, and counts those of this process."""
    spec = pybpfload.open(FIXTURES / "minimal.bpf.o")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        obj.attach()
        yield obj


def provoke():
    for _ in range(CALLS):
        os.getppid()


def test_runs_of_a_program_are_seen(counter):
    number = counter.programs["count_syscalls"].info(code=False).id
    with pybpfload.ProgramStats() as stats:
        before = counter.maps["counts"][0]
        provoke()
        counted = counter.maps["counts"][0] - before
        (seen,) = [each for each in stats.sample() if each.id == number]
    assert counted >= CALLS
    # It runs for the calls of other processes, too, before it looks whose they are.
    assert counted <= seen.runs <= seen.total_runs
    assert 1 < seen.average_ns < 100_000
    assert 0 < seen.cpu < os.cpu_count()
    assert (seen.name, seen.misses) == ("count_syscalls", 0)
    after = counter.programs["count_syscalls"].info(code=False)
    assert (after.run_cnt, after.run_time_ns) >= (seen.total_runs, seen.total_run_ns)


def test_nothing_is_counted_when_nobody_asks(counter):
    if Path("/proc/sys/kernel/bpf_stats_enabled").read_text() != "0\n":
        pytest.skip("kernel.bpf_stats_enabled is not 0: this kernel counts always")
    program = counter.programs["count_syscalls"]
    for _ in range(50):  # another test's process may have asked for a while
        before = program.info(code=False).run_cnt
        provoke()
        if program.info(code=False).run_cnt == before:
            return
    pytest.fail("the kernel goes on counting")


def test_the_command_until_a_signal(counter):
    number = counter.programs["count_syscalls"].info(code=False).id
    with subprocess.Popen(
        [sys.executable, "-m", "pybpfload", "top", "--json", "--interval", "0.2"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        json.loads(process.stdout.readline())
        provoke()
        runs = 0
        while runs < CALLS:
            programs = json.loads(process.stdout.readline())["programs"]
            (shown,) = [each for each in programs if each["id"] == number]
            runs += shown["runs"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert os.getpid() in [each["pid"] for each in shown["pids"]]
