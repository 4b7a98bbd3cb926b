"""Reading BPF ring buffers (Linux 5.8).

The layout is described in :mod:`pybpfload.formats.ringbuf`. What the reader owes the kernel, and
how it is kept (:mod:`pybpfload.runtime.fence` has the reasons):

1. The producer's position is read, then :func:`fence` (acquire): records up to it have headers.
2. Headers are read up to that position or to the first record that is still being written
   (:func:`~pybpfload.runtime.ringscan.scan`), then :func:`fence` (acquire): these records are
   complete.
3. Records are decoded, which copies them; then :func:`fence` (release), and the consumer's position
   is written, in one aligned 8-byte store: their space is free.

This goes in portions of at most 256 records, so a full ring gets room early, and the price of the
fences (nothing on x86-64 and s390x) is shared.

Programs wake a reader only when it had read everything before their record, so before waiting it
looks once more, behind a full barrier on every machine: ``store consumer; load producer`` may be
reordered even on x86-64, and then both sides would believe that the other is busy.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from pybpfload.errors import BpfError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.buffer import EventBuffer, decode_portion, limit_of
from pybpfload.runtime.events import BYTES
from pybpfload.runtime.fence import Position, fence
from pybpfload.runtime.maphandle import MapHandle
from pybpfload.runtime.ringscan import BUSY, Run, one_by_one, scan, stride
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Sequence

    from pybpfload.runtime.events import Decoder
    from pybpfload.runtime.map import Map

__all__ = ["Ring", "RingBuffer", "Taken"]

_PORTION = 256  # records: with their values they fit into the first cache


class Taken(NamedTuple):
    """Finished records where they lie in memory.

    Attributes:
        data: The memory.
        runs: The records in it.
        base: What makes positions in the ring of those in ``runs``.
        end: Position in the ring behind the last one.
    """

    data: memoryview
    runs: list[Run]
    base: int
    end: int


class Ring:
    """One ring of a :class:`RingBuffer`.

    Attributes:
        map: Its map.
        size: Bytes of the ring.
    """

    portion = _PORTION

    def __init__(self, map: Map[Any, Any], raw: bool, sources: bool) -> None:  # noqa: A002
        import mmap

        page = mmap.PAGESIZE
        self.map = map
        self.size = map.max_entries
        self._types = None if raw else map.event_types
        self._source = map if sources else None
        self._leased: list[memoryview] = []
        self._lease_end = 0
        self._done: int | None = None  # what lies below is given out, and not given back yet
        fd = map.fileno()
        try:
            head = door.mmap(fd, page, 0, write=True)
            try:
                body = door.mmap(fd, page + 2 * self.size, page)
            except BaseException:
                head.close()
                raise
        except OSError as error:
            raise kernel_error(error.errno or 0, "mmap", f"map {map.name}") from None
        self._memory: tuple[mmap.mmap, ...] = (head, body)
        self._consumer = Position(head, 0)
        self._producer = Position(body, 0)
        self._data = memoryview(body)[page:]
        self._words = self._data.cast("I")

    @property
    def available(self) -> int:
        """Bytes that are waiting: records with their headers, unfinished and thrown away ones too.

        Raises:
            ValueError: The buffer is closed.
        """
        if not self._memory:
            raise ValueError("the ring buffer is closed")
        oldest = self.oldest()
        return self._producer.load() - oldest

    def oldest(self) -> int:
        """Position of the oldest record that was not read."""
        return self._consumer.load()

    def has_data(self) -> bool:
        """Whether there is a finished record."""
        position = self.oldest()
        if self._producer.load() == position:
            return False
        fence()
        return not self._words[(position & self.size - 1) >> 2] & BUSY

    def take(self, producer: int, limit: int, *, uniform: bool = False) -> Taken | None:
        """Find the oldest finished records, which stay in the ring until :meth:`free`.

        Args:
            producer: Only records below this position, which was read before.
            limit: At most so many.
            uniform: Only records of the first one's length.

        Returns:
            At least one record, perhaps of those that were thrown away and are left out; ``None``
            if there are none.

        Raises:
            BpfError: The positions or headers make no sense.
        """
        consumer = self._consumer.load()
        self.check(consumer, producer, most=self.size)
        fence()
        runs, end = scan(self._words, consumer, producer, self.size, limit, uniform=uniform)
        if end == consumer:
            return None
        fence()
        return Taken(self._data, runs, 0, end)

    def check(self, consumer: int, producer: int, *, most: int) -> None:
        """Refuse positions that cannot be: somebody else has written the consumer's.

        Raises:
            BpfError: They are more than ``most`` bytes apart, or odd.
        """
        if consumer & 7 or not 0 <= producer - consumer <= most:
            raise BpfError(
                f"map {self.map.name}: the reader's position {consumer} does not fit that of "
                f"programs, {producer}; is there another reader?"
            )

    def free(self, position: int) -> None:
        """Give back everything below a position, which nobody may look at any more."""
        fence()
        self._consumer.store(position)

    def settle(self) -> None:
        """Give back what is given out: :meth:`drain` may have been interrupted in between."""
        if self._done is not None:
            self.free(self._done)
            self._done = None

    def drain(self, pending: deque[Any], limit: int) -> None:
        """Append what is there now, until ``pending`` has ``limit`` events (or a few more).

        Raises:
            BpfError: The positions or headers make no sense; or a record, as its decoder says.
            Exception: What a function of the user's, or a signal handler, has raised.
        """
        producer = self._producer.load()
        while len(pending) < limit:
            taken = self.take(producer, min(self.portion, limit - len(pending)))
            if taken is None:
                return

            def decode(runs: Sequence[Run], out: list[Any], data: memoryview = taken.data) -> None:
                self._decode(data, runs, out)

            events, done, failure = decode_portion(decode, taken.runs, one_by_one)
            if self._source is not None:
                events = [(self._source, event) for event in events]
            end = taken.end if done is None else taken.base + done
            # No signal handler runs between these two, see pybpfload.runtime.buffer.
            pending += events
            self._done = end
            self.settle()
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure  # it would hold this frame, and the ring with it
            if done is not None or end >= producer:
                return

    def _decode(self, data: memoryview, runs: Sequence[Run], out: list[Any]) -> None:
        append = out.append
        known, decoder = -1, BYTES
        for at, length, count, _ in runs:
            if length != known:
                decoder, known = self.decoder(length), length
            if count == 1:
                append(decoder.one(data, at, length))
                continue
            step = stride(length)
            offsets = range(at, at + count * step, step)
            if decoder.many is not None:
                out += decoder.many(data, offsets, length)
                continue
            for each in offsets:
                append(decoder.one(data, each, length))

    def decoder(self, length: int) -> Decoder:
        """What decodes records of one length."""
        return BYTES if self._types is None else self._types.decoders(length)

    def copy(self, limit: int, form: str) -> Any:
        """The oldest records of one length in one array; ``None`` if there are none."""
        from pybpfload.runtime.ringbatch import array_of, structs_of

        producer = self._producer.load()
        while taken := self.take(producer, limit, uniform=True):
            found = None
            if taken.runs:
                length = taken.runs[0][1]
                codec = self._types.codec(length) if self._types else None
                if form == "array":
                    found = array_of(taken.data, taken.runs, codec)
                elif codec is not None:
                    found = structs_of(taken.data, taken.runs, codec)
                else:
                    raise TypeError(f"map {self.map.name}: records of {length} bytes have no type")
            self.free(taken.end)
            if found is not None:
                return found
        return None

    def lease(self, limit: int) -> list[memoryview]:
        """The oldest records where they are; their space is given back by :meth:`end_lease`."""
        producer = self._producer.load()
        while taken := self.take(producer, limit):
            if not taken.runs:  # all were thrown away
                self.free(taken.end)
                continue
            data = taken.data
            self._lease_end = taken.end
            self._leased = [
                data[each : each + length]
                for at, length, count, _ in taken.runs
                for each in range(at, at + count * stride(length), stride(length))
            ]
            return self._leased.copy()
        return []

    def end_lease(self) -> None:
        """Make leased views unusable and give their space back."""
        leased, self._leased = self._leased, []
        if leased:
            for view in leased:
                with suppress(BufferError):  # somebody made an array of it
                    view.release()
            self.free(self._lease_end)

    def close(self) -> None:
        """Let go of the memory; again does nothing."""
        memory, self._memory = self._memory, ()
        if memory:
            self.settle()
            self.end_lease()
            self._words.release()
            self._data.release()
            self._consumer.close()
            self._producer.close()
            for part in memory:
                with suppress(BufferError):  # somebody looks into it; it goes with the last of them
                    part.close()


class RingBuffer(EventBuffer):
    """Events of one or several BPF ring buffers (Linux 5.8).

    ::

        with RingBuffer(obj.maps["events"]) as events:
            for event in events:
                ...

    ``for event in obj.maps["events"]`` is the same in short. Events are typed by the object's BTF
    as :class:`~pybpfload.runtime.events.EventTypes` says. Events of one ring come in the order in
    which programs reserved their space; between rings there is no order. A ring has one reader: its
    position is in the ring.

    A record that does not fit is lost, and only the program knows (its ``bpf_ringbuf_output`` or
    ``bpf_ringbuf_reserve`` fails): let it count. A ring with ``BPF_F_RB_OVERWRITE`` (6.19) loses
    the oldest records instead, see :class:`~pybpfload.runtime.overwritable.OverwritableRing`.

    Args:
        maps: The map or maps.
        raw: Give out ``bytes`` instead of typed values.
        sources: Give out ``(map, event)``.

    Attributes:
        rings: The rings, one for each map.

    Raises:
        TypeError: A map is no ring buffer.
        KernelError: A map may not be read and written, or there are too many open files.
    """

    _what = "ring buffer"

    def __init__(
        self,
        maps: Map[Any, Any] | Iterable[Map[Any, Any]],
        *,
        raw: bool = False,
        sources: bool = False,
    ) -> None:
        self.rings: list[Ring] = []
        super().__init__()
        self._sources = sources
        try:
            for each in [maps] if isinstance(maps, MapHandle) else maps:
                self.rings.append(_ring_of(each, raw, sources))
                self._poller.add(each.fileno())
        except BaseException:
            self.close()
            raise

    @property
    def available(self) -> int:
        """Bytes that are waiting in all rings.

        Raises:
            ValueError: The buffer is closed.
        """
        with self._lock:
            return sum(ring.available for ring in self.rings)

    @property
    def size(self) -> int:
        """Bytes of all rings."""
        return sum(ring.size for ring in self.rings)

    @overload
    def read_batch(
        self,
        form: Literal["records"] = ...,
        *,
        limit: int | None = ...,
        timeout: float | None = ...,
    ) -> list[Any]: ...
    @overload
    def read_batch(
        self,
        form: Literal["structs", "array"],
        *,
        limit: int | None = ...,
        timeout: float | None = ...,
    ) -> Any: ...
    @overload
    def read_batch(
        self, form: Literal["views"], *, limit: int | None = ..., timeout: float | None = ...
    ) -> list[memoryview]: ...

    def read_batch(
        self,
        form: Literal["records", "structs", "array", "views"] = "records",
        *,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Wait for events and return those that are there then, in one of four forms.

        * ``"records"``: a list of typed records, as :meth:`poll` gives them.
        * ``"structs"``: a ctypes array of structures, of the type that BTF has: twice as fast if
          only some members are looked at, because these alone become Python values. Members are as
          in C: numbers, also for enums, and ``bytes`` for texts.
        * ``"array"``: a numpy array of the type that BTF has (rows of bytes if they have none).
        * ``"views"``: a list of read-only ``memoryview``, which are the ring's own memory. They are
          *leased until the next call that reads*: then, or when the buffer is closed, their space
          is given back to programs and they cannot be used any more (``ValueError``). What was made
          of them and is no copy (slices, arrays) shows from then on what programs write.

        Structs and arrays are one copy of the ring's memory. All records in one are of one length:
        one of another length ends the batch and begins the next. All but records come from one ring
        at a time, of several each in its turn; with ``sources`` they are ``(map, batch)``. They are
        given back before the call returns: an exception of a signal handler may lose that batch.

        Args:
            form: As above.
            limit: At most so many events, 1 or more.
            timeout: Seconds to wait at most; ``None`` waits for ever.

        Returns:
            At least one event; none (``None`` for structs and arrays) after the time, or when the
            buffer was closed meanwhile.

        Raises:
            ValueError: The buffer is closed, or iterating has read ahead (``consume()`` has these).
            TypeError: Structs or an array, and the type of a record is not settled by its length.
            ImportError: An array, and there is no numpy.
        """
        if form == "records":
            return self.poll(timeout, limit=limit)
        if form not in ("structs", "array", "views"):
            raise ValueError(f"no form of batches: {form!r}")
        room = limit_of(limit)
        found = self._wait(lambda: self._batch(form, room), timeout)
        return [] if found is None and form == "views" else found

    def _batch(self, form: str, limit: int) -> Any:
        with self._reading():
            if self._pending:
                raise ValueError("iterating has read events ahead; consume() has them")
            for ring in self._in_turn(self.rings):
                found = ring.lease(limit) if form == "views" else ring.copy(limit, form)
                if found is not None and len(found):
                    return (ring.map, found) if self._sources else found
        return None

    def _begin(self) -> None:
        for ring in self.rings:
            ring.end_lease()
            ring.settle()

    def _drain(self, limit: int) -> None:
        for ring in self._in_turn(self.rings):
            ring.drain(self._pending, limit)

    def _has_data(self) -> bool:
        return any(ring.has_data() for ring in self.rings)

    def _release(self) -> None:
        for ring in self.rings:
            ring.close()


def _ring_of(map: Map[Any, Any], raw: bool, sources: bool) -> Ring:  # noqa: A002
    if map.type != MapType.RINGBUF:
        raise TypeError(f"map {map.name} is of type {map.type.name}, not a ring buffer")
    if map.flags & MapFlag.RB_OVERWRITE:
        from pybpfload.runtime.overwritable import OverwritableRing

        return OverwritableRing(map, raw, sources)
    return Ring(map, raw, sources)
