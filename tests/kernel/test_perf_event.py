"""Programs that perf events call, of this process only."""

from __future__ import annotations

import mmap
import os
import threading
import time

import pytest

import pybpfload
from pybpfload.kernel import cpus, perf, probe
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.attach.common import LinkGroup
from pybpfload.uapi import LinkType, PerfSoftware, PerfType

pytestmark = pytest.mark.vm


@pytest.fixture
def sampled(opened):
    spec = opened("perf_event")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        yield obj


def samples(obj, seconds: float = 10.0) -> int:
    """Samples that come while this process works; waits for one as long as it may take."""
    before = obj.variables["samples"].value
    end = time.monotonic() + seconds
    while time.monotonic() < end and obj.variables["samples"].value == before:
        sum(range(10_000))
    return obj.variables["samples"].value - before


def test_clock_of_all_cpus(sampled):
    link = sampled.programs["on_sample"].attach("cpu-clock", frequency=200)
    if len(cpus.online_cpus()) > 1:
        assert isinstance(link, LinkGroup)
        assert len(link.links) == len(cpus.online_cpus())
    assert samples(sampled) > 0
    link.close()
    assert samples(sampled, 0.3) == 0


def test_clock_of_one_process(sampled):
    with sampled.programs["on_sample"].attach("task-clock", period=1_000_000, pid=os.getpid()):
        assert samples(sampled) > 0


@pytest.mark.parametrize("started", ["before", "after"])
def test_threads_of_the_process(sampled, started):
    """Other threads are watched, too: those that are there, and those that are started later."""
    go, many = threading.Event(), 50  # more than the thread that waits here gets

    def work() -> None:
        go.wait()
        end = time.monotonic() + 10
        while time.monotonic() < end and sampled.variables["samples"].value < many:
            sum(range(10_000))

    thread = threading.Thread(target=work)
    if started == "before":
        thread.start()
    with sampled.programs["on_sample"].attach("task-clock", period=10**6, pid=os.getpid()) as link:
        assert isinstance(link, LinkGroup) or started == "after"
        if started == "after":
            thread.start()
        go.set()
        thread.join()
        assert sampled.variables["samples"].value >= many
    before = sampled.variables["samples"].value
    sum(range(1_000_000))
    assert sampled.variables["samples"].value == before


def test_page_faults(sampled):
    """Every fault is one event, so the count is exact enough to be compared."""
    with sampled.programs["on_sample"].attach("page-faults", period=1, pid=os.getpid()):
        before = sampled.variables["samples"].value
        with mmap.mmap(-1, 64 * mmap.PAGESIZE) as fresh:
            for at in range(0, len(fresh), mmap.PAGESIZE):
                fresh[at] = 1
        assert sampled.variables["samples"].value - before >= 60


def test_event_that_the_caller_opened(sampled):
    attr = perf.event_attr(
        type=PerfType.SOFTWARE, config=PerfSoftware.TASK_CLOCK, sample_period=1_000_000, disabled=1
    )
    with FileDescriptor(perf.open_event(attr, pid=os.getpid()), "own event") as event:
        with sampled.programs["on_sample"].attach(event):
            assert samples(sampled) > 0
        assert samples(sampled, 0.3) == 0
        assert not event.closed


@pytest.mark.kernel("5.15")
def test_link(sampled):
    with sampled.programs["on_sample"].attach("task-clock", period=10**6, pid=os.getpid()) as link:
        assert link.info().type == LinkType.PERF_EVENT


def test_by_ioctl(sampled):
    program = sampled.programs["on_sample"]
    link = program.attach("task-clock", period=10**6, pid=os.getpid(), link=False)
    assert samples(sampled) > 0
    link.close()
    assert samples(sampled, 0.3) == 0
    with pytest.raises(ValueError, match="cookies are of links"):
        program.attach("task-clock", period=10**6, pid=os.getpid(), link=False, cookie=1)
    if not probe.has(Feature.PERF_LINK):
        with pytest.raises(pybpfload.NotSupportedError, match=r"5\.15"):
            program.attach("task-clock", period=10**6, pid=os.getpid(), link=True)


def test_mistakes(sampled):
    program = sampled.programs["on_sample"]
    with pytest.raises(pybpfload.AttachError, match="cpu-clock"):
        program.attach("cpu-glock", frequency=1)
    with pytest.raises(pybpfload.AttachError, match="name one of"):
        program.attach()
    for options in ({}, {"frequency": 1, "period": 1}):
        with pytest.raises(ValueError, match="frequency or period"):
            program.attach("cpu-clock", **options)
    with pytest.raises(pybpfload.KernelError):
        program.attach("task-clock", period=1, pid=2**22 + 1)
