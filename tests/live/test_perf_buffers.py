"""What perf buffers do beside giving events out, against the machine's own kernel.

The programs are socket filters that nobody attaches: they run by ``BPF_PROG_TEST_RUN`` only.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from producers import KERNEL, make_map, perf_output, run

from pybpfload.kernel import cpus
from pybpfload.runtime.perfbuf import Lost, PerfBuffer
from pybpfload.uapi import MapType, PerfSample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.kernel.fd import FileDescriptor
    from pybpfload.runtime.map import Map

pytestmark = [pytest.mark.live, pytest.mark.vm]

PAGE = os.sysconf("SC_PAGESIZE")
RECORD = 32  # bytes in the ring of a sample of 16


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as undo:
        before = set(os.listdir("/proc/self/fd"))
        yield undo
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors are left open"


@pytest.fixture
def counter(stack: ExitStack) -> Map[int, int]:
    return stack.enter_context(make_map(MapType.ARRAY, 4, 8, 2, name="counter"))


@pytest.fixture
def array(stack: ExitStack) -> Map[Any, Any]:
    entries = cpus.possible_cpus()
    return stack.enter_context(make_map(MapType.PERF_EVENT_ARRAY, 4, 4, entries, name="array"))


@pytest.fixture
def emit(stack: ExitStack, array: Map[Any, Any], counter: Map[int, int]) -> FileDescriptor:
    return stack.enter_context(perf_output(array, counter))


@pytest.fixture(autouse=True)
def one_cpu() -> Iterator[int]:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    yield cpu
    os.sched_setaffinity(0, before)


def number(record: bytes) -> int:
    value: int = struct.unpack_from("=Q", record)[0]
    return value


def test_lost_samples_stand_in_the_stream(
    array: Map[Any, Any], emit: FileDescriptor, counter: Map[int, int], one_cpu: int
) -> None:
    with PerfBuffer(array, page_count=1, lost_events=True) as buffer:
        run(emit, 1000)
        missing = counter[1]
        assert missing
        if KERNEL >= (6, 0):
            assert buffer.lost == missing  # though no record tells of it yet
        before = buffer.consume()
        assert [number(record) for record in before] == list(range(1000 - missing))
        run(emit, 2)
        lost, *after = buffer.consume()
        assert lost == Lost(one_cpu, missing)
        assert [number(record) for record in after] == [1000, 1001]
        assert buffer.lost == missing
    assert buffer.lost == missing


def test_an_overwritten_ring_keeps_the_newest(
    array: Map[Any, Any], emit: FileDescriptor, counter: Map[int, int]
) -> None:
    room = PAGE // RECORD
    with PerfBuffer(array, page_count=1, overwritable=True) as buffer:
        assert buffer.consume() == []
        run(emit, 5)
        assert [number(record) for record in buffer.consume()] == list(range(5))
        assert buffer.overwritten == 0
        run(emit, 3 * room + 7)
        sent = 5 + 3 * room + 7
        assert [number(record) for record in buffer.consume(10)] == list(
            range(sent - room, sent - room + 10)
        )
        run(emit, 2)
        assert [number(record) for record in buffer.consume()] == list(
            range(sent - room + 10, sent)
        )
        assert [number(record) for record in buffer.consume()] == [sent, sent + 1]
        assert buffer.consume() == []
        assert buffer.overwritten == (2 * room + 7) * RECORD
        assert buffer.lost == counter[1] == 0


def test_an_overwritten_ring_of_samples_of_many_sizes(
    stack: ExitStack, array: Map[Any, Any], counter: Map[int, int]
) -> None:
    programs = [stack.enter_context(perf_output(array, counter, 8 * n)) for n in range(2, 30)]
    with PerfBuffer(array, page_count=2, overwritable=True) as buffer:
        for round_ in range(40):
            for program in programs:
                run(program)
            if round_ % 3 == 0:
                events = buffer.consume()
                found = [number(record) for record in events]
                last = (round_ + 1) * len(programs)
                assert found == list(range(last - len(found), last))
                assert len(found) > 40 or not round_
                sizes = [8 * (2 + each % len(programs)) for each in found]
                assert [len(record) // 8 * 8 for record in events] == sizes


def test_an_overwritten_ring_wakes_who_waits(array: Map[Any, Any], emit: FileDescriptor) -> None:
    with PerfBuffer(array, overwritable=True) as buffer:
        assert select.select([buffer], [], [], 0)[0] == []
        run(emit)
        assert select.select([buffer], [], [], 5)[0] == [buffer]
        assert len(buffer.poll(5)) == 1


def test_paused_output_is_lost_and_counted(
    array: Map[Any, Any], emit: FileDescriptor, counter: Map[int, int], one_cpu: int
) -> None:
    with PerfBuffer(array, lost_events=True) as buffer:
        run(emit, 2)
        buffer.pause()
        run(emit, 5)
        assert counter[1] == 5
        assert [number(record) for record in buffer.consume()] == [0, 1]
        buffer.resume()
        run(emit, 1)
        lost, after = buffer.consume()
        assert (lost, number(after)) == (Lost(one_cpu, 5), 7)
        assert buffer.lost == 5


def test_wake_up_at_a_watermark(array: Map[Any, Any], emit: FileDescriptor) -> None:
    with PerfBuffer(array, watermark=10 * RECORD) as buffer:
        run(emit, 10)
        assert select.select([buffer], [], [], 0)[0] == []
        run(emit, 1)
        assert select.select([buffer], [], [], 5)[0] == [buffer]
        assert len(buffer.poll(5)) == 11


def test_times_and_threads(array: Map[Any, Any], emit: FileDescriptor, one_cpu: int) -> None:
    with PerfBuffer(array, sample_type=PerfSample.TIME | PerfSample.TID) as buffer:
        before = time.monotonic_ns()
        run(emit, 40)
        after = time.monotonic_ns()
        samples = buffer.poll(5)
        assert [number(sample.event) for sample in samples] == list(range(40))
        assert {sample[1:4] for sample in samples} == {(one_cpu, os.getpid(), os.getpid())}
        times = [sample.time for sample in samples]
        assert [before, *times, after] == sorted([before, *times, after])
    with PerfBuffer(array, sample_type=PerfSample.TIME) as buffer:
        run(emit)
        (sample,) = buffer.poll(5)
        assert (number(sample.event), sample.cpu, sample.tid) == (40, one_cpu, None)
        assert sample.time > after


@pytest.mark.kernel("5.12")  # a program cannot fetch and add before
@pytest.mark.parametrize("overwritable", [False, True])
def test_producers_on_every_cpu(
    stack: ExitStack, array: Map[Any, Any], counter: Map[int, int], overwritable: bool
) -> None:
    """Nothing torn, repeated or out of order while all CPUs write, and what is lost adds up."""
    each = 5_000 if "PYBPFLOAD_VM_EVENTS" in os.environ else 30_000  # emulated, all is slow
    programs = [stack.enter_context(perf_output(array, counter, 8 * n)) for n in (2, 5, 13)]

    def produce(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for step in range(each // 100):
            run(programs[step % len(programs)], 100)

    online = cpus.online_cpus()
    threads = [threading.Thread(target=produce, args=(cpu,)) for cpu in online]
    last = dict.fromkeys(online, -1)
    got = told = 0
    with PerfBuffer(
        array, page_count=4, overwritable=overwritable, lost_events=True, with_cpu=True
    ) as buffer:
        for thread in threads:
            thread.start()
        while True:
            alive = any(thread.is_alive() for thread in threads)
            events = buffer.poll(0.02)
            for event in events:
                if isinstance(event, Lost):
                    told += event.events
                    continue
                ring, data = event
                first, cpu, *rest = struct.unpack_from(f"={len(data) // 8}Q", data)
                assert rest == list(range(2, len(data) // 8))
                assert cpu == ring
                assert first > last[cpu]
                last[cpu] = first
                got += 1
            if not events and not alive:
                break
        for thread in threads:
            thread.join()
        sent = len(online) * each
        assert counter[0] == sent
        assert told <= counter[1]  # the last of them are not told
        if KERNEL >= (6, 0):
            assert buffer.lost == counter[1]
        if overwritable:
            assert buffer.overwritten > 0
            assert 0 < got <= sent - counter[1]
        else:
            assert got == sent - counter[1]


def test_rings_of_cpus_that_run_stay(array: Map[Any, Any]) -> None:
    with PerfBuffer(array) as buffer:
        before = dict(buffer.rings)
        assert buffer.refresh() == []
        assert buffer.rings == before
