"""Perf buffers while a CPU goes offline and comes back: in virtual machines only."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from pybpfload.kernel import cpus
from pybpfload.runtime.perfbuf import PerfBuffer

SWITCH = Path("/sys/devices/system/cpu/cpu1/online")
PACKET = bytes(14)

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif("PYBPFLOAD_VM_EVENTS" not in os.environ, reason="not in a virtual machine"),
    pytest.mark.skipif(not SWITCH.exists(), reason="CPU 1 cannot be switched off"),
]


def switch(on: bool) -> None:
    """Switch CPU 1 on or off, while this thread is bound to CPU 0."""
    os.sched_setaffinity(0, {0})
    if (SWITCH.read_text().strip() == "1") != on:
        SWITCH.write_text("1" if on else "0")
    assert cpus.online_cpus() == ([0, 1] if on else [0])


@pytest.fixture
def sender(opened):
    """The object whose program sends one numbered record when it runs."""
    before = os.sched_getaffinity(0)
    with opened("bench").load() as obj:
        yield obj
    switch(True)
    os.sched_setaffinity(0, before)


def send(sender, cpu: int) -> None:
    os.sched_setaffinity(0, {cpu})
    sender.programs["fill_perf"].test_run(PACKET)


def test_what_the_kernel_does(sender):
    """The event of a CPU that was offline is dead; what was in its ring can be read."""
    with PerfBuffer(sender.maps["samples"], with_cpu=True, cpu_numbers=[0, 1]) as buffer:
        send(sender, 1)
        assert buffer.rings[1].alive()
        switch(False)
        assert not buffer.rings[1].alive()
        switch(True)
        assert not buffer.rings[1].alive()
        send(sender, 1)
        assert sender.variables["dropped"].value == 1
        assert buffer.refresh() == [1]
        send(sender, 1)
        assert sender.variables["dropped"].value == 1
        assert [(cpu, event.sequence) for cpu, event in buffer.consume()] == [(1, 0), (1, 2)]


def test_a_cpu_that_comes_back_is_picked_up(sender):
    with PerfBuffer(sender.maps["samples"], with_cpu=True) as buffer:
        switch(False)
        send(sender, 0)
        assert [cpu for cpu, _ in buffer.poll(10)] == [0]
        switch(True)
        assert buffer.consume() == []
        send(sender, 1)
        assert [cpu for cpu, _ in buffer.poll(10)] == [1]
        assert sender.variables["dropped"].value == 0


def test_a_cpu_that_was_not_there_is_noticed_while_waiting(sender):
    switch(False)
    got = []
    with PerfBuffer(sender.maps["samples"], with_cpu=True) as buffer:
        assert list(buffer.rings) == [0]
        waiting = threading.Thread(target=lambda: got.extend(buffer.poll(60)))
        waiting.start()
        switch(True)
        end = time.monotonic() + 30
        while 1 not in buffer.rings and time.monotonic() < end:
            time.sleep(0.05)
        send(sender, 1)
        waiting.join()
        assert [cpu for cpu, _ in got] == [1]
        assert sender.variables["dropped"].value == 0
