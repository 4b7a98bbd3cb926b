"""Ring buffers and perf buffers against the machine's own kernel.

The programs are socket filters that nobody attaches: they run by ``BPF_PROG_TEST_RUN`` only.

One module: rings of all kinds are asked the same questions by the same producers.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import producers
import pytest
from producers import make_map, perf_output, ringbuf_discard, ringbuf_output, run
from signals import Tick, interrupted

from pybpfload.errors import BpfError, KernelError, NotSupportedError
from pybpfload.kernel import cpus
from pybpfload.runtime.fence import full_fence
from pybpfload.runtime.overwritable import OverwritableRing
from pybpfload.runtime.perfbuf import PerfBuffer
from pybpfload.runtime.ringbuf import RingBuffer
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.kernel.fd import FileDescriptor
    from pybpfload.runtime.map import Map

pytestmark = pytest.mark.live

# What kernels may do differently is asked of each of them.
every_kernel = pytest.mark.vm

NO_WAKEUP = 1


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as undo:
        before = set(os.listdir("/proc/self/fd"))
        yield undo
    assert set(os.listdir("/proc/self/fd")) <= before, "descriptors are left open"


@pytest.fixture
def counter(stack: ExitStack) -> Map[int, int]:
    return stack.enter_context(make_map(MapType.ARRAY, 4, 8, 2, name="counter"))


def new_ring(stack: ExitStack, size: int = 1 << 16) -> Map[Any, Any]:
    return stack.enter_context(make_map(MapType.RINGBUF, 0, 0, size, name="ring"))


@pytest.fixture
def ring(stack: ExitStack) -> Map[Any, Any]:
    return new_ring(stack)


@pytest.fixture
def send(stack: ExitStack, ring: Map[Any, Any], counter: Map[int, int]) -> FileDescriptor:
    return stack.enter_context(ringbuf_output(ring, counter))


def number(record: bytes) -> int:
    value: int = struct.unpack_from("=Q", record)[0]
    return value


# Ring buffer


@every_kernel
def test_records_come_in_order(ring: Map[Any, Any], send: FileDescriptor) -> None:
    with RingBuffer(ring) as buffer:
        assert buffer.consume() == []
        run(send, 100)
        assert buffer.available == 100 * 24
        assert buffer.size == 1 << 16
        assert [number(record) for record in buffer.poll(1)] == list(range(100))
        assert buffer.available == 0
        run(send, 3)
        assert [number(record) for record in buffer.consume(2)] == [100, 101]
        assert buffer.available == 24
        assert [number(record) for record in buffer.consume()] == [102]


@every_kernel
def test_a_ring_is_used_again_and_again(ring: Map[Any, Any], send: FileDescriptor) -> None:
    with RingBuffer(ring) as buffer:
        seen: list[int] = []
        for _ in range(20):
            run(send, 1000)  # 24000 bytes of 65536: goes over the end every third time
            seen += [number(record) for record in buffer.consume()]
        assert seen == list(range(20_000))


@every_kernel
def test_discarded_records_are_left_out(
    stack: ExitStack, ring: Map[Any, Any], send: FileDescriptor
) -> None:
    discard = stack.enter_context(ringbuf_discard(ring))
    with RingBuffer(ring) as buffer:
        for _ in range(3):
            run(discard)
            run(send)
        run(discard)
        assert [number(record) for record in buffer.poll(1)] == [0, 1, 2]
        assert buffer.available == 0
        run(discard)
        start = time.monotonic()
        assert buffer.poll(0.05) == []
        assert 0.04 < time.monotonic() - start < 5


@every_kernel
def test_a_full_ring_drops_and_the_program_knows(
    ring: Map[Any, Any], send: FileDescriptor, counter: Map[int, int]
) -> None:
    with RingBuffer(ring) as buffer:
        run(send, 5000)
        records = buffer.consume()
        assert len(records) == 5000 - counter[1]
        assert counter[1] > 0
        assert [number(record) for record in records] == list(range(len(records)))


def test_records_of_every_length(stack: ExitStack, ring: Map[Any, Any], counter: Any) -> None:
    with RingBuffer(ring) as buffer:
        for length in range(16, 64):
            send = stack.enter_context(ringbuf_output(ring, counter, length))
            run(send)
            (record,) = buffer.consume()
            assert len(record) == length


def test_waiting_ends_with_the_time(ring: Map[Any, Any]) -> None:
    with RingBuffer(ring) as buffer:
        start = time.monotonic()
        assert buffer.poll(0.05) == []
        assert 0.04 < time.monotonic() - start < 5
        assert buffer.poll(0) == []


@every_kernel
def test_waiting_ends_with_an_event(ring: Map[Any, Any], send: FileDescriptor) -> None:
    timer = threading.Timer(0.05, run, (send,))
    timer.start()
    with RingBuffer(ring) as buffer:
        assert len(buffer.poll(10)) == 1
    timer.join()


@every_kernel
def test_records_without_wake_up_are_found_all_the_same(
    stack: ExitStack, ring: Map[Any, Any], counter: Any
) -> None:
    quiet = stack.enter_context(ringbuf_output(ring, counter, flags=NO_WAKEUP))
    with RingBuffer(ring) as buffer:
        timer = threading.Timer(0.02, run, (quiet,))
        timer.start()
        assert len(buffer.poll(0.2)) == 1  # at the end of the time
        timer.join()


@every_kernel
def test_iterating_ends_when_another_thread_closes(
    ring: Map[Any, Any], send: FileDescriptor
) -> None:
    buffer = RingBuffer(ring)
    run(send, 5)
    timer = threading.Timer(0.1, buffer.close)
    timer.start()
    start = time.monotonic()
    assert [number(record) for record in buffer] == [0, 1, 2, 3, 4]
    assert time.monotonic() - start < 5
    timer.join()
    assert buffer.closed
    assert list(buffer) == []
    buffer.close()
    with pytest.raises(ValueError, match="ring buffer is closed"):
        buffer.consume()


@pytest.mark.parametrize("what", ["raise", "close"])
def test_iterating_ends_with_a_signal(ring: Map[Any, Any], what: str) -> None:
    buffer = RingBuffer(ring)

    def handler(*_: object) -> None:
        if what == "raise":
            raise KeyboardInterrupt
        buffer.close()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        start = time.monotonic()
        if what == "raise":
            with pytest.raises(KeyboardInterrupt):
                next(iter(buffer))
        else:
            assert list(buffer) == []
        assert time.monotonic() - start < 5
    finally:
        signal.signal(signal.SIGALRM, before)
        buffer.close()


@every_kernel
def test_leaving_a_loop_loses_nothing(ring: Map[Any, Any], send: FileDescriptor) -> None:
    run(send, 2000)
    seen = []
    for _ in range(3):
        for record in ring:  # each loop reads on where the last one stopped
            seen.append(number(record))
            if len(seen) == 1500:
                run(send, 1000)
            if len(seen) % 1000 == 0:
                break
    assert seen == list(range(3000))


@every_kernel
def test_the_descriptor_is_for_event_loops(ring: Map[Any, Any], send: FileDescriptor) -> None:
    with RingBuffer(ring) as buffer:
        assert select.select([buffer], [], [], 0)[0] == []
        run(send)
        assert select.select([buffer], [], [], 5)[0] == [buffer]
        assert len(buffer.consume()) == 1
        assert select.select([buffer], [], [], 0)[0] == []


@every_kernel
def test_several_rings(stack: ExitStack, counter: Map[int, int]) -> None:
    rings = [new_ring(stack, 4096), new_ring(stack, 8192)]
    programs = [stack.enter_context(ringbuf_output(each, counter)) for each in rings]
    with RingBuffer(rings, sources=True) as buffer:
        assert buffer.size == 4096 + 8192
        run(programs[1])
        run(programs[0], 2)
        got = [(source, number(record)) for source, record in buffer.poll(1)]
        assert got == [(rings[0], 1), (rings[0], 2), (rings[1], 0)]


def test_callbacks(ring: Map[Any, Any], send: FileDescriptor) -> None:
    seen: list[int] = []

    def callback(record: bytes) -> None:
        seen.append(number(record))
        if number(record) == 1:
            raise RuntimeError("stop")

    with RingBuffer(ring) as buffer:
        run(send, 4)
        with pytest.raises(RuntimeError, match="stop"):
            buffer.dispatch(callback)
        assert buffer.dispatch(callback) == 2
        assert seen == [0, 1, 2, 3]
        assert buffer.dispatch(callback, 0) == 0


def test_an_error_of_a_decoder_loses_one_record(ring: Map[Any, Any], send: FileDescriptor) -> None:
    class Bad:
        name, size = "bad", 16

        def decode(self, buffer: memoryview, offset: int = 0) -> int:
            value = number(bytes(buffer[offset : offset + 8]))
            if value == 2:
                raise RuntimeError("two")
            return value

        def encode(self, value: int) -> bytes:
            raise NotImplementedError

    ring.event_type = Bad()
    with RingBuffer(ring) as buffer:
        run(send, 5)
        assert buffer.consume() == [0, 1]
        with pytest.raises(RuntimeError, match="two"):
            buffer.consume()
        assert buffer.consume() == [3, 4]


def test_closing_while_records_are_decoded(ring: Map[Any, Any], send: FileDescriptor) -> None:
    """As a signal handler may do it: memory is let go when nobody looks into it any more."""

    class Closing:
        name, size = "closing", 16

        def decode(self, data: memoryview, offset: int = 0) -> int:
            buffer.close()
            return number(bytes(data[offset : offset + 8]))

        def encode(self, value: int) -> bytes:
            raise NotImplementedError

    ring.event_type = Closing()
    buffer = RingBuffer(ring)
    run(send, 3)
    assert buffer.consume() == [0, 1, 2]
    with pytest.raises(ValueError, match="closed"):
        buffer.consume()
    with pytest.raises(ValueError, match="closed"):
        assert buffer.available


def test_a_closed_reader_is_opened_again(ring: Map[Any, Any], send: FileDescriptor) -> None:
    with ring.reader() as reader:
        run(send)
        assert len(reader.consume()) == 1
    run(send)
    assert [number(record) for record in ring.reader().consume()] == [1]


def test_typed_or_raw(ring: Map[Any, Any], send: FileDescriptor) -> None:
    from pybpfload.btf.build import BtfBuilder
    from pybpfload.runtime.events import EventTypes

    builder = BtfBuilder()
    u64 = builder.add_int("u64", 8)
    builder.add_struct("ring", 16, [("number", u64, 0), ("cpu", u64, 64)])
    ring._event_types = EventTypes(builder.btf(), ring.name)
    with RingBuffer(ring) as typed:
        run(send)
        (event,) = typed.consume()
        assert event.number == 0
        assert event.cpu < cpus.possible_cpus()
    with RingBuffer(ring, raw=True) as raw:
        run(send)
        assert number(raw.consume()[0]) == 1


def test_only_ring_buffers(stack: ExitStack, counter: Map[int, int]) -> None:
    with pytest.raises(TypeError, match="type ARRAY, not a ring buffer"):
        RingBuffer(counter)
    with pytest.raises(TypeError, match="not a perf event array"):
        PerfBuffer(counter)


@every_kernel
@pytest.mark.kernel("5.12")  # a program cannot fetch and add before
def test_producers_on_every_cpu(stack: ExitStack, counter: Map[int, int]) -> None:
    """Nothing torn, lost or repeated while all CPUs write: sequence numbers add up exactly."""
    workers = cpus.possible_cpus()
    few = "20000" if "PYBPFLOAD_VM_EVENTS" in os.environ else "100000"  # emulated, all is slow
    each = int(os.environ.get("PYBPFLOAD_STRESS", few))
    ring = new_ring(stack, 1 << 20)
    programs = [
        stack.enter_context(ringbuf_output(ring, counter, length)) for length in (16, 24, 40, 104)
    ]

    def produce(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        for step in range(each // 1000):
            run(programs[step % len(programs)], 1000)

    online = cpus.online_cpus()
    threads = [
        threading.Thread(target=produce, args=(online[n % len(online)],)) for n in range(workers)
    ]
    seen = bytearray(workers * each)
    got = 0
    with RingBuffer(ring, raw=True) as buffer:
        for thread in threads:
            thread.start()
        while True:
            alive = any(thread.is_alive() for thread in threads)
            full_fence()
            records = buffer.poll(0.05)
            for record in records:
                first, cpu, *rest = struct.unpack(f"={len(record) // 8}Q", record)
                assert not seen[first]
                assert cpu in online
                assert rest == list(range(2, len(record) // 8))
                seen[first] = 1
            got += len(records)
            if not records and not alive:
                break
        for thread in threads:
            thread.join()
        assert buffer.available == 0
    assert counter[0] == workers * each
    assert got + counter[1] == workers * each
    assert sum(seen) == got
    assert got > each // 10


# Batches


@pytest.mark.parametrize("form", ["records", "array", "views"])
def test_batches(stack: ExitStack, counter: Map[int, int], form: Any) -> None:
    if form == "array":
        pytest.importorskip("numpy")
    rings = [new_ring(stack, 1 << 16), new_ring(stack, 4096)]
    programs = [stack.enter_context(ringbuf_output(each, counter)) for each in rings]
    seen: list[int] = []
    with RingBuffer(rings, raw=True) as buffer:
        for step in range(30):
            run(programs[step % 3 == 0], 100)
            for _ in range(2):
                batch = buffer.read_batch(form, timeout=0)
                if batch is not None:
                    seen += [number(bytes(record)) for record in batch]
        batch = buffer.read_batch(form, timeout=0.01)
        assert batch is None if form == "array" else batch == []
        assert buffer.available == 0
    assert sorted(seen) == list(range(3000))


@every_kernel
def test_a_lease_ends_with_the_next_call(ring: Map[Any, Any], send: FileDescriptor) -> None:
    with RingBuffer(ring) as buffer:
        run(send, 10)
        views = buffer.read_batch("views", limit=4)
        assert [number(bytes(view)) for view in views] == [0, 1, 2, 3]
        assert buffer.available == 10 * 24  # their space is not given back yet
        assert [number(record) for record in buffer.consume(1)] == [4]
        assert buffer.available == 5 * 24
        with pytest.raises(ValueError, match="released"):
            bytes(views[0])
        views = buffer.read_batch("views")
    with pytest.raises(ValueError, match="released"):
        bytes(views[0])


def test_a_batch_waits(ring: Map[Any, Any], send: FileDescriptor) -> None:
    timer = threading.Timer(0.05, run, (send, 3))
    timer.start()
    with RingBuffer(ring, sources=True) as buffer:
        source, views = buffer.read_batch("views", timeout=10)
        assert source is ring
        assert len(views) >= 1
        timer.join()


def test_iterating_and_batches_do_not_mix(ring: Map[Any, Any], send: FileDescriptor) -> None:
    with RingBuffer(ring) as buffer:
        run(send, 10)
        assert number(next(iter(buffer))) == 0
        with pytest.raises(ValueError, match="read events ahead"):
            buffer.read_batch("views")
        assert len(buffer.consume()) == 9
        assert buffer.read_batch("views", timeout=0) == []
        with pytest.raises(ValueError, match="no form of batches"):
            buffer.read_batch("tuples")  # type: ignore[call-overload]
        for call in (buffer.consume, buffer.poll, buffer.read_batch):
            with pytest.raises(ValueError, match="limit 0 is not positive"):
                call(limit=0)


def test_dispatch_by_type(ring: Map[Any, Any], send: FileDescriptor) -> None:
    from pybpfload.btf.build import BtfBuilder
    from pybpfload.runtime.events import EventTypes

    builder = BtfBuilder()
    u64 = builder.add_int("u64", 8)
    for name in ("even", "odd"):
        builder.add_struct(name, 16, [("number", u64, 0), ("cpu", u64, 64)])

    def choose(record: memoryview) -> str | None:
        return (None if record[0] % 5 == 4 else "odd") if record[0] % 2 else "even"

    ring._event_types = EventTypes(builder.btf(), ring.name, choose)
    seen: dict[str, list[Any]] = {"even": [], "odd": [], "rest": []}
    with RingBuffer(ring) as buffer:
        run(send, 10)
        callbacks: dict[Any, Any] = {
            "even": lambda event: seen["even"].append(event.number),
            None: lambda event: seen["rest"].append(event),
        }
        assert buffer.dispatch(callbacks) == 10
        assert seen["even"] == [0, 2, 4, 6, 8]
        assert [len(event) for event in seen["rest"]] == [2, 2, 2, 2, 16]
        run(send)
        run(send)
        del callbacks[None]
        with pytest.raises(KeyError, match="no callback for events of type odd"):
            buffer.dispatch(callbacks)
        callbacks[type(seen["rest"][0])] = seen["odd"].append
        run(send, 2)
        assert buffer.dispatch(callbacks) == 2
        assert len(seen["odd"]) == 1


@every_kernel
@pytest.mark.kernel("6.19")
def test_the_oldest_records_are_overwritten(stack: ExitStack, counter: Map[int, int]) -> None:
    flags = MapFlag.RB_OVERWRITE
    ring = stack.enter_context(make_map(MapType.RINGBUF, 0, 0, 4096, name="ring", flags=flags))
    send = stack.enter_context(ringbuf_output(ring, counter))
    with RingBuffer(ring) as buffer:
        run(send, 10)
        assert [number(record) for record in buffer.poll(5)] == list(range(10))
        for end in (1010, 2010):
            run(send, 1000)
            assert 0 < buffer.available <= 4096
            got = [number(record) for record in buffer.consume()]
            assert got == list(range(end - len(got), end))
            assert 4096 // 24 - 1 <= len(got) <= 4096 // 24
            assert buffer.available == 0
        assert counter[1] == 0  # no program found it full
        assert isinstance(buffer.rings[0], OverwritableRing)
        assert buffer.rings[0].overwritten == (2000 - 2 * len(got)) * 24
        run(send, 1000)
        views = buffer.read_batch("views", limit=5)
        assert [number(bytes(view)) for view in views] == list(
            range(3010 - len(got), 3015 - len(got))
        )


def test_kernels_that_overwrite_nothing_say_so() -> None:
    if producers.KERNEL >= (6, 19):
        pytest.skip("this kernel has rings that programs overwrite")
    with pytest.raises(NotSupportedError, match=r"6\.19"):
        make_map(MapType.RINGBUF, 0, 0, 4096, name="ring", flags=MapFlag.RB_OVERWRITE)


# Event loops


def in_asyncio(main: Any) -> Any:
    import asyncio

    return asyncio.run(main(None, asyncio.sleep))


def in_trio(main: Any) -> Any:
    trio = pytest.importorskip("trio")
    return trio.run(main, trio.lowlevel.wait_readable, trio.sleep)


def in_anyio(main: Any) -> Any:
    anyio = pytest.importorskip("anyio")
    return anyio.run(main, anyio.wait_readable, anyio.sleep)


@pytest.mark.parametrize("loop", [in_asyncio, in_trio, in_anyio])
def test_async_for(ring: Map[Any, Any], send: FileDescriptor, loop: Any) -> None:
    async def main(wait: Any, sleep: Any) -> list[int]:
        seen = []
        with RingBuffer(ring) as buffer:
            timer = threading.Timer(0.05, run, (send, 600))
            timer.start()
            async for record in buffer if wait is None else buffer.stream(wait):
                seen.append(number(record))
                if len(seen) % 100 == 0:
                    await sleep(0)
                if len(seen) == 500:
                    break
            timer.join()
            assert [number(record) for record in buffer.consume()] == list(range(500, 600))
            ending = threading.Timer(0.05, buffer.close)
            ending.start()
            start = time.monotonic()
            async for _ in buffer.stream(wait):
                raise AssertionError
            assert time.monotonic() - start < 5
            ending.join()
        return seen

    assert loop(main) == list(range(500))


def test_async_for_sleeps_and_is_cancelled(ring: Map[Any, Any], send: FileDescriptor) -> None:
    import asyncio

    async def main() -> None:
        with RingBuffer(ring) as buffer:

            async def read() -> None:
                async for record in buffer:
                    seen.append(number(record))  # noqa: PERF401 - as it comes

            seen: list[int] = []
            before = time.process_time()
            task = asyncio.create_task(read())
            for count in (1, 2, 3):
                run(send, count)
                await asyncio.sleep(0.05)
            assert len(seen) == 6
            assert time.process_time() - before < 0.1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            run(send)
            assert len(buffer.consume()) == 1

    asyncio.run(main())


def test_a_signal_handler_closes_an_async_loop(ring: Map[Any, Any]) -> None:
    import asyncio

    async def main() -> None:
        with RingBuffer(ring) as buffer:
            asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, buffer.close)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert [event async for event in buffer] == []

    asyncio.run(main())


# Perf buffer


@pytest.fixture
def array(stack: ExitStack) -> Map[Any, Any]:
    entries = cpus.possible_cpus()
    return stack.enter_context(make_map(MapType.PERF_EVENT_ARRAY, 4, 4, entries, name="array"))


@pytest.fixture
def emit(stack: ExitStack, array: Map[Any, Any], counter: Map[int, int]) -> FileDescriptor:
    return stack.enter_context(perf_output(array, counter))


@pytest.fixture
def one_cpu() -> Iterator[int]:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    yield cpu
    os.sched_setaffinity(0, before)


@every_kernel
def test_samples_come_with_their_cpu(
    array: Map[Any, Any], emit: FileDescriptor, one_cpu: int
) -> None:
    with PerfBuffer(array, with_cpu=True) as buffer:
        assert sorted(buffer.rings) == cpus.online_cpus()
        run(emit, 10)
        got = buffer.poll(5)
        assert [number(record) for _, record in got] == list(range(10))
        assert {cpu for cpu, _ in got} == {one_cpu}
        assert buffer.lost == 0


@every_kernel
def test_samples_go_over_the_end(array: Map[Any, Any], emit: FileDescriptor, one_cpu: int) -> None:
    with PerfBuffer(array, page_count=1) as buffer:
        seen: list[int] = []
        for _ in range(300):
            run(emit, 7)
            seen += [number(record) for record in buffer.consume()]
        assert seen == list(range(2100))


@every_kernel
def test_lost_samples_are_counted(
    array: Map[Any, Any], emit: FileDescriptor, counter: Map[int, int], one_cpu: int
) -> None:
    told: list[tuple[int, int]] = []
    with PerfBuffer(array, page_count=1, on_lost=lambda *what: told.append(what)) as buffer:
        run(emit, 1000)
        first = buffer.consume()
        assert len(first) == 1000 - counter[1] < 1000
        run(emit, 2)  # the kernel tells with the next one that fits
        assert len(buffer.consume()) == 2
        assert buffer.lost == counter[1] == buffer.lost_by_cpu[one_cpu]
        assert told == [(one_cpu, counter[1])]


def test_an_error_of_a_decoder_loses_one_sample(
    array: Map[Any, Any], emit: FileDescriptor, counter: Map[int, int], one_cpu: int
) -> None:
    def choose(record: memoryview) -> None:
        if number(bytes(record)) == 2:
            raise RuntimeError("two")

    array.event_type = choose
    with PerfBuffer(array, page_count=1) as buffer:
        run(emit, 1000)
        assert [number(record) for record in buffer.consume()] == [0, 1]
        with pytest.raises(RuntimeError, match="two"):
            buffer.consume()
        rest = buffer.consume()
        assert [number(record) for record in rest] == list(range(3, 3 + len(rest)))
        run(emit)
        assert len(buffer.consume()) == 1
        assert buffer.lost == counter[1]


def test_an_exception_of_a_signal_handler_loses_no_sample(
    array: Map[Any, Any], emit: FileDescriptor, one_cpu: int
) -> None:
    seen: list[int] = []
    sent, ticks = 0, 0
    with PerfBuffer(array, cpu_numbers=[one_cpu]) as buffer:
        while True:
            run(emit, 3)
            sent += 3
            try:
                seen += [number(each) for each in interrupted(buffer.consume, ticks + 1)]
            except Tick:
                ticks += 1
                seen += [number(each) for each in buffer.consume()]
            else:
                break  # it never came that far
        assert seen == list(range(sent))
        assert ticks > 10


def test_a_second_reader_of_a_perf_buffer_is_refused(
    array: Map[Any, Any], emit: FileDescriptor, one_cpu: int
) -> None:
    with array.reader() as reader:
        with pytest.raises(BpfError, match=r"map array: <PerfBuffer fd \d+> reads it already"):
            PerfBuffer(array, page_count=8)
        run(emit, 2)
        assert [number(record) for record in reader.consume()] == [0, 1]
    with PerfBuffer(array, cpu_numbers=[one_cpu]) as buffer:
        with pytest.raises(BpfError, match="close it first"):
            array.reader()
        run(emit)
        assert [number(record) for record in buffer.consume()] == [2]


@every_kernel
def test_a_closed_perf_buffer_leaves_nothing(
    array: Map[Any, Any], emit: FileDescriptor, counter: Map[int, int]
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with PerfBuffer(array):
        run(emit)
        assert counter[1] == 0
    assert len(os.listdir("/proc/self/fd")) == before
    run(emit)
    assert counter[1] == 1  # there is no ring any more


def test_a_map_of_perf_events_is_iterated(array: Map[Any, Any], emit: FileDescriptor) -> None:
    reader = array.reader()
    run(emit, 2)
    assert [number(next(iter(array))) for _ in range(2)] == [0, 1]
    assert array.reader() is reader


@every_kernel
def test_wake_up_after_several_samples(
    array: Map[Any, Any], emit: FileDescriptor, one_cpu: int
) -> None:
    with PerfBuffer(array, wakeup_events=4) as buffer:
        run(emit, 3)
        assert select.select([buffer], [], [], 0)[0] == []
        run(emit)
        assert select.select([buffer], [], [], 5)[0] == [buffer]
        assert len(buffer.poll(1)) == 4


@pytest.mark.parametrize("count", [0, 3, -1])
def test_page_counts(array: Map[Any, Any], count: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        PerfBuffer(array, page_count=count)


def test_too_many_pages_leave_nothing_open(array: Map[Any, Any]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match="mmap"):
        PerfBuffer(array, page_count=1 << 24)
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_some_cpus(array: Map[Any, Any], emit: FileDescriptor, one_cpu: int) -> None:
    with PerfBuffer(array, cpu_numbers=[one_cpu]) as buffer:
        assert list(buffer.rings) == [one_cpu]
        run(emit)
        assert len(buffer.poll(5)) == 1
    with pytest.raises(KernelError, match="perf_event_open"):
        PerfBuffer(array, cpu_numbers=[-2])


@every_kernel
def test_typed_samples_have_padding_to_the_right_size(
    stack: ExitStack, array: Map[Any, Any], counter: Map[int, int], one_cpu: int
) -> None:
    from pybpfload.btf.build import BtfBuilder
    from pybpfload.runtime.events import EventTypes

    builder = BtfBuilder()
    u64 = builder.add_int("u64", 8)
    u32 = builder.add_int("u32", 4)
    members = [("number", u64, 0), ("cpu", u64, 64), ("two", u32, 128)]
    builder.add_struct("array", 20, members)
    array._event_types = EventTypes(builder.btf(), array.name)
    emit = stack.enter_context(perf_output(array, counter, 20))
    with PerfBuffer(array) as buffer:
        run(emit)
        (event,) = buffer.poll(5)
        assert (event.number, event.cpu) == (0, one_cpu)
        assert event.two == (2 if sys.byteorder == "little" else 0)  # the first half of a 64-bit 2


def test_an_interpreter_that_ends_with_open_buffers_says_nothing_odd() -> None:
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from producers import *\n"
        "ring = make_map(MapType.RINGBUF, 0, 0, 4096)\n"
        "it = iter(ring)\n"
        "ring.reader()\n"
    )
    here = os.path.dirname(producers.__file__ or "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, here],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "RingBuffer" not in done.stderr
