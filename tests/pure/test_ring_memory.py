"""Rings in memory that a test writes as programs would: reading, batches, and what is wrong."""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
import tempfile
import time
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from signals import Tick, interrupted

from pybpfload.btf.build import BtfBuilder
from pybpfload.errors import BpfError
from pybpfload.formats import ringbuf as fmt
from pybpfload.runtime import overwritable
from pybpfload.runtime.buffer import EventBuffer
from pybpfload.runtime.events import EventTypes
from pybpfload.runtime.overwritable import OverwritableRing
from pybpfload.runtime.poller import Poller
from pybpfload.runtime.ringbuf import Ring, RingBuffer
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = mmap.PAGESIZE


class Memory:
    """What a ring is mapped from: a file, written by :meth:`put` as the kernel does it."""

    def __init__(self, size: int = PAGE) -> None:
        self.size = size
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.file.truncate(2 * PAGE + 2 * size)
        self.memory = mmap.mmap(self.file.fileno(), 0)
        self.end = 0
        self.map: Any = SimpleNamespace(
            name="ring", max_entries=size, fileno=self.file.fileno, event_types=types()
        )

    def position(self, page: int, value: int, *, at: int = 0) -> None:
        struct.pack_into("=Q", self.memory, page * PAGE + at, value)

    def consumer(self) -> int:
        return int.from_bytes(self.memory[:8], sys.byteorder)

    def put(self, data: bytes, *, busy: bool = False, discard: bool = False) -> None:
        word = len(data) | busy * fmt.BUSY | discard * fmt.DISCARD
        self.write(struct.pack("=II", word, 2) + data + bytes(-len(data) % 8))

    def write(self, record: bytes) -> None:
        at = self.end % self.size
        first, rest = record[: self.size - at], record[self.size - at :]
        for copy in (2 * PAGE, 2 * PAGE + self.size):
            self.memory[copy + at : copy + at + len(first)] = first
            self.memory[copy : copy + len(rest)] = rest
        self.end += len(record)
        self.position(1, self.end)


def types(choice: str | None = "event") -> EventTypes:
    builder = BtfBuilder()
    u32, char = builder.add_int("u32", 4), builder.add_int("char", 1)
    text = builder.add_array(char, 8, u32)
    builder.add_struct("event", 16, [("a", u32, 0), ("b", u32, 32), ("text", text, 64)])
    return EventTypes(builder.btf(), "ring", choice)


def event(number: int, text: bytes = b"text") -> bytes:
    return struct.pack("=II8s", number, number + 1, text)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    made.memory.close()  # nobody looks into it any more
    made.file.close()


@pytest.fixture
def ring(memory: Memory) -> Iterator[Ring]:
    made = Ring(memory.map, raw=False, sources=False)
    yield made
    made.close()


def drained(ring: Ring, limit: int = 1 << 62) -> list[Any]:
    out: deque[Any] = deque()
    ring.drain(out, limit)
    return list(out)


def test_records_are_typed_and_given_back(memory: Memory, ring: Ring) -> None:
    for number in range(1000):
        memory.put(event(number), discard=number % 7 == 3)
        if number % 100 == 99:
            expected = [n for n in range(number - 99, number + 1) if n % 7 != 3]
            assert [(e.a, e.b, e.text) for e in drained(ring)] == [
                (n, n + 1, "text") for n in expected
            ]
            assert memory.consumer() == memory.end
            assert ring.available == 0


def test_a_limit_leaves_the_rest(memory: Memory, ring: Ring) -> None:
    for number in range(10):
        memory.put(event(number))
    assert [e.a for e in drained(ring, 3)] == [0, 1, 2]
    assert memory.consumer() == 3 * 24
    assert [e.a for e in drained(ring)] == [3, 4, 5, 6, 7, 8, 9]


def test_a_record_that_is_being_written_stops_everything_behind_it(
    memory: Memory, ring: Ring
) -> None:
    memory.put(event(1))
    memory.put(event(2), busy=True)
    memory.put(event(3))
    assert [e.a for e in drained(ring)] == [1]
    assert memory.consumer() == 24
    assert not ring.has_data()
    assert drained(ring) == []


@pytest.mark.parametrize("consumer", [8, 4, 1 << 63, 1 << 20])
def test_positions_that_cannot_be(memory: Memory, ring: Ring, consumer: int) -> None:
    memory.position(0, consumer)
    for _ in range(2):
        with pytest.raises(BpfError, match=r"map ring: .* another reader"):
            drained(ring)
    assert memory.consumer() == consumer


def test_more_than_the_ring_holds(memory: Memory, ring: Ring) -> None:
    memory.position(1, memory.size + 8)
    with pytest.raises(BpfError, match="another reader"):
        drained(ring)


@pytest.mark.parametrize("form", ["records", "structs", "array", "views"])
def test_a_length_that_cannot_be(memory: Memory, ring: Ring, form: str) -> None:
    if form == "array":
        pytest.importorskip("numpy")
    memory.write(struct.pack("=II", 1 << 29, 0) + bytes(16))
    for _ in range(2):
        with pytest.raises(BpfError, match="beyond 24"):
            {
                "records": lambda: drained(ring),
                "structs": lambda: ring.copy(10, form),
                "array": lambda: ring.copy(10, form),
                "views": lambda: ring.lease(10),
            }[form]()
    assert memory.consumer() == 0


def test_leased_views_are_the_ring_itself(memory: Memory, ring: Ring) -> None:
    memory.put(b"", discard=True)
    memory.put(event(1))
    memory.put(b"other")
    memory.put(event(2), busy=True)
    views = ring.lease(10)
    assert [bytes(view) for view in views] == [event(1), b"other"]
    assert all(view.readonly for view in views)
    assert memory.consumer() in (0, 8)
    place = memory.memory.find(b"other", 2 * PAGE)
    memory.memory[place : place + 5] = b"OTHER"
    assert bytes(views[1]) == b"OTHER"
    ring.end_lease()
    assert memory.consumer() == 8 + 24 + 16
    with pytest.raises(ValueError, match="released"):
        bytes(views[0])
    assert ring.lease(10) == []


def test_what_was_made_of_a_leased_view_may_outlive_the_ring(memory: Memory, ring: Ring) -> None:
    memory.put(event(1))
    (view,) = ring.lease(1)
    part = view[:4]
    ring.close()
    assert bytes(part) == event(1)[:4]
    part.release()


# Arrays


def test_batches_as_arrays(memory: Memory, ring: Ring) -> None:
    numpy = pytest.importorskip("numpy")
    for number in range(90):
        memory.put(event(number), discard=number % 10 == 9)
    batch = ring.copy(50, "array")
    assert batch is not None
    assert batch.dtype.names == ("a", "b", "text")
    assert batch["a"].tolist() == [n for n in range(90) if n % 10 != 9][:50]
    assert (batch["b"] == batch["a"] + 1).all()
    assert set(batch["text"].tolist()) == {b"text"}
    rest = ring.copy(50, "array")
    assert rest is not None
    assert len(rest) == 81 - 50
    assert ring.copy(50, "array") is None
    assert memory.consumer() == memory.end
    assert isinstance(rest, numpy.ndarray)
    assert rest.flags.owndata or rest.base.flags.owndata


def test_batches_as_structs(memory: Memory, ring: Ring) -> None:
    seen = []
    for number in range(1000):  # goes over the end of the ring at all places
        memory.put(event(number), discard=number % 10 == 9)
        if number % 23 == 22:
            batch = ring.copy(50, "structs")
            assert {each.text for each in batch} == {b"text"}
            assert all(each.b == each.a + 1 for each in batch)
            seen += [each.a for each in batch]
    assert seen == [n for n in range(989) if n % 10 != 9]
    assert type(batch[0]).__name__ == "event"
    assert ring.copy(50, "structs") is not None
    assert ring.copy(50, "structs") is None


def test_structs_of_other_lengths(memory: Memory, ring: Ring) -> None:
    ring._types = types(None)
    ring._types.map_name = "events"
    for length in (12, 12, 16, 5):
        memory.put(event(7)[:length])
    short, full = ring.copy(10, "structs"), ring.copy(10, "structs")
    assert [(each.a, each.b, each.text) for each in short] == [(7, 8, b"text")] * 2
    assert [(each.a, each.b, each.text) for each in full] == [(7, 8, b"text")]
    with pytest.raises(TypeError, match="records of 5 bytes have no type"):
        ring.copy(10, "structs")


def test_an_array_ends_where_the_length_changes(memory: Memory, ring: Ring) -> None:
    pytest.importorskip("numpy")
    ring._types = types(None)
    ring._types.map_name = "events"
    for length in (16, 16, 12, 12, 5, 16):
        memory.put(event(7)[:length])
    first, second, third, last = (ring.copy(10, "array") for _ in range(4))
    assert [len(each) for each in (first, second, third, last)] == [2, 2, 1, 1]  # type: ignore[arg-type]
    assert second is not None
    assert second["a"].tolist() == [7, 7]
    assert second["text"].tolist() == [b"text", b"text"]
    assert third is not None
    assert third.shape == (1, 5)  # of no type: it ends before the array
    assert bytes(third[0]) == event(7)[:5]


def test_arrays_without_a_type_are_rows_of_bytes(memory: Memory) -> None:
    pytest.importorskip("numpy")
    ring = Ring(memory.map, raw=True, sources=False)
    memory.put(b"")
    memory.put(b"ab")
    memory.put(b"cd")
    empty, rows = ring.copy(10, "array"), ring.copy(10, "array")
    assert empty is not None
    assert empty.shape == (1, 0)
    assert rows is not None
    assert rows.tolist() == [list(b"ab"), list(b"cd")]
    ring.close()


def test_records_of_several_types_are_no_array(memory: Memory, ring: Ring) -> None:
    pytest.importorskip("numpy")
    ring._types = EventTypes(types().btf, "ring", lambda record: None)
    memory.put(event(1))
    with pytest.raises(TypeError, match="several types; choose one by event_type"):
        ring.copy(10, "array")
    assert memory.consumer() == 0


# Rings in which the oldest records are overwritten


@pytest.fixture
def recorder(memory: Memory) -> Iterator[OverwritableRing]:
    made = OverwritableRing(memory.map, raw=False, sources=False)
    yield made
    made.close()


ROUND = PAGE // 24  # events that the ring holds at most


def record(memory: Memory, first: int, last: int) -> None:
    """Write events as programs do, which overwrite the oldest ones."""
    for number in range(first, last):
        oldest = max(0, (number + 1 - ROUND) * 24)
        memory.position(1, oldest, at=16)
        memory.put(event(number))


def test_the_newest_records_are_left(memory: Memory, recorder: OverwritableRing) -> None:
    record(memory, 0, 10)
    assert [e.a for e in drained(recorder)] == list(range(10))
    assert recorder.overwritten == 0
    record(memory, 10, 1000)
    assert recorder.available == ROUND * 24
    assert recorder.has_data()
    assert [e.a for e in drained(recorder)] == list(range(1000 - ROUND, 1000))
    assert recorder.overwritten == (1000 - ROUND - 10) * 24
    assert recorder.available == 0
    assert not recorder.has_data()
    assert memory.consumer() == 24_000


@pytest.mark.parametrize("more", [1, ROUND // 2, 3 * ROUND])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_what_is_overwritten_while_it_is_copied_is_left_out(
    memory: Memory,
    recorder: OverwritableRing,
    monkeypatch: pytest.MonkeyPatch,
    more: int,
    when: int,
) -> None:
    record(memory, 0, 1000)
    fences = 0

    def fence() -> None:
        nonlocal fences
        fences += 1
        if fences == when:
            record(memory, 1000, 1000 + more)

    monkeypatch.setattr(overwritable, "fence", fence)
    got = [e.a for e in drained(recorder)] + [e.a for e in drained(recorder)]
    assert got == list(range(1000 + more - ROUND, 1000 + more))
    assert recorder.overwritten == (1000 + more - ROUND) * 24


def test_programs_that_are_always_faster_give_nothing_and_no_hang(
    memory: Memory, recorder: OverwritableRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 1000
    record(memory, 0, written)

    def fence() -> None:
        nonlocal written
        record(memory, written, written + ROUND)
        written += ROUND

    with monkeypatch.context() as patch:
        patch.setattr(overwritable, "fence", fence)
        assert drained(recorder) == []
    assert [e.a for e in drained(recorder)] == list(range(written - ROUND, written))


def test_an_unfinished_record_stays(memory: Memory, recorder: OverwritableRing) -> None:
    record(memory, 0, 300)
    memory.put(event(300), busy=True)
    memory.put(event(301))
    memory.position(1, (302 - ROUND) * 24, at=16)
    assert [e.a for e in drained(recorder)] == list(range(302 - ROUND, 300))
    assert drained(recorder) == []
    assert memory.consumer() == 300 * 24


def test_a_record_that_nobody_finishes_costs_little() -> None:
    """Looking for it again is put off, longer each time."""

    class Stuck(EventBuffer):
        looks = 0

        def _has_data(self) -> bool:
            return True

        def _drain(self, limit: int) -> None:
            self.looks += 1

        def _release(self) -> None:
            pass

    with Stuck() as buffer:
        start = time.monotonic()
        assert buffer.poll(0.2) == []
        assert 0.19 < time.monotonic() - start < 5
        assert 5 < buffer.looks < 30


def test_a_signal_that_comes_right_before_waiting_is_not_lost() -> None:
    """It cannot end a system call that has not begun, so none may last long."""
    asked = []

    class Deaf:
        def poll(self, timeout: float, most: int) -> list[Any]:
            asked.append(timeout)
            if len(asked) == 3:
                raise KeyboardInterrupt
            return []

    poller = Poller()
    real, poller._epoll = poller._epoll, Deaf()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        poller.wait(None)
    assert all(0 < timeout <= 0.5 for timeout in asked)
    poller._epoll = real
    start = time.monotonic()
    assert not poller.wait(0.3)
    assert 0.29 < time.monotonic() - start < 5
    poller.close()


# Signal handlers that raise


@pytest.fixture
def buffer(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Iterator[RingBuffer]:
    monkeypatch.setattr(Poller, "add", lambda *arguments: None)  # a file cannot be waited for
    memory.map.type, memory.map.flags = MapType.RINGBUF, 0
    with RingBuffer([memory.map]) as made:
        yield made


iterators: list[Iterator[Any]] = []


def ways() -> dict[str, Callable[[RingBuffer, list[Any]], object]]:
    def iterate(buffer: RingBuffer, seen: list[Any]) -> None:
        iterators.append(iter(buffer))  # so that it is not closed while it is watched
        for each in iterators[-1]:
            seen.append(each)
            if not (buffer.available or buffer._pending):
                return

    def consume(buffer: RingBuffer, seen: list[Any]) -> None:
        seen += buffer.consume(3)

    def poll(buffer: RingBuffer, seen: list[Any]) -> None:
        seen += buffer.poll(0, limit=3)

    return {"iterate": iterate, "consume": consume, "poll": poll}


@pytest.mark.parametrize("way", ways())
def test_an_exception_of_a_signal_handler_is_raised_and_loses_nothing(
    memory: Memory, buffer: RingBuffer, way: str
) -> None:
    seen: list[Any] = []
    take = partial(ways()[way], buffer, seen)
    sent, ticks, number = 0, 0, 1
    while True:
        for _ in range(5):
            memory.put(event(sent))
            sent += 1
        try:
            interrupted(take, number)
        except Tick:
            ticks += 1
            seen += buffer.consume()
        else:
            break  # it never came that far
        assert [each.a for each in seen] == list(range(sent))
        assert memory.consumer() == memory.end
        iterators.clear()
        number += 1
    iterators.clear()
    assert ticks == number - 1 > 10


def test_an_error_that_does_not_come_again_is_not_the_records(memory: Memory, ring: Ring) -> None:
    alarms = [2]

    def choose(record: memoryview) -> str:
        if alarms == [record[0]]:
            alarms.clear()
            raise TimeoutError
        return "event"

    ring._types = EventTypes(types().btf, "ring", choose)
    for number in range(5):
        memory.put(event(number))
    pending: deque[Any] = deque()
    with pytest.raises(TimeoutError):
        ring.drain(pending, 1 << 62)
    ring.drain(pending, 1 << 62)
    assert [each.a for each in pending] == [0, 1, 2, 3, 4]


def test_a_busy_ring_does_not_hold_up_others() -> None:
    class Busy(EventBuffer):
        def _drain(self, limit: int) -> None:
            for ring in self._in_turn("abc"):
                self._pending += ring * (limit - len(self._pending))

        def _has_data(self) -> bool:
            return True

        def _release(self) -> None:
            pass

    with Busy() as busy:
        assert [busy.consume(2) for _ in range(4)] == [list(2 * each) for each in "abca"]


def test_a_stream_looks_again_before_it_sleeps() -> None:
    """A program that sees a reader which has not caught up wakes nobody."""

    class Discarding(EventBuffer):
        """The first look frees records that were thrown away; meanwhile there comes another."""

        looks = 0

        def _drain(self, limit: int) -> None:
            self.looks += 1
            if self.looks == 2:
                self._pending += ["event"]

        def _has_data(self) -> bool:
            return self.looks == 1

        def _release(self) -> None:
            pass

    async def first() -> Any:
        async for each in discarding:
            return each
        return None

    async def main() -> Any:
        return await asyncio.wait_for(first(), 5)

    with Discarding() as discarding:
        assert asyncio.run(main()) == "event"


def test_a_stream_lets_others_run_and_is_for_one_task() -> None:
    class Endless(EventBuffer):
        def _drain(self, limit: int) -> None:
            self._pending += range(limit)

        def _has_data(self) -> bool:
            return True

        def _release(self) -> None:
            pass

    async def main() -> int:
        count = 0
        task = asyncio.create_task(asyncio.sleep(0.01))
        async for _ in endless:
            count += 1
            if task.done():
                break
        return count

    with Endless() as endless:
        assert asyncio.run(main()) > 256

    async def two() -> list[Any]:
        stream = silent.stream()

        async def one() -> Any:
            return await anext(stream)

        tasks = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        silent.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    class Silent(Endless):
        def _drain(self, limit: int) -> None:
            pass

        def _has_data(self) -> bool:
            return False

    with Silent() as silent:
        ended, refused = asyncio.run(two())
    assert isinstance(ended, StopAsyncIteration)
    assert "another task waits for this stream" in str(refused)
