"""Reading BPF ring buffers (Linux 5.8).

The layout is described in :mod:`pybpfload.formats.ringbuf`. What the reader owes the kernel, and
how it is kept (:mod:`pybpfload.runtime.fence` has the reasons):

1. The producer's position is read, then :func:`fence` (acquire): records up to it have headers.
2. Headers are read up to that position or to the first record that is still being written, then
   :func:`fence` (acquire): these records are complete.
3. Records are decoded, which copies them; then :func:`fence` (release), and the consumer's position
   is written, in one aligned 8-byte store: their space is free.

This goes in batches of at most 256 records, so a full ring gets room early, and the price of the
fences (nothing on x86-64 and s390x) is shared.

Programs wake a reader only when it had read everything before their record, so before waiting it
looks once more, behind a full barrier on every machine: ``store consumer; load producer`` may be
reordered even on x86-64, and then both sides would believe that the other is busy.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError, NotSupportedError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.buffer import EventBuffer
from pybpfload.runtime.fence import Position, fence
from pybpfload.runtime.maphandle import MapHandle
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybpfload.runtime.map import Map

__all__ = ["Ring", "RingBuffer", "scan"]

# As in formats.ringbuf, which costs construct to import; a test compares them.
_BUSY = 1 << 31
_DISCARD = 1 << 30
_LENGTH = _DISCARD - 1
_HEADER = 8

_BATCH = 256  # records
_RUN = 64  # headers


def scan(
    words: memoryview, consumer: int, producer: int, size: int, limit: int
) -> tuple[list[tuple[int, int]], int]:
    """Find the finished records between two positions. Pure: makes no system call.

    Args:
        words: The ring's data, as 32-bit words; each of its ``size`` bytes may be read.
        consumer: Position of the first record.
        producer: Position behind the last one.
        size: Bytes of the ring, a power of two.
        limit: At most so many records.

    Returns:
        Offset of the data in the ring and length of each record, those that were thrown away left
        out; and the position behind the last record that was looked at. A record that is still
        being written ends the search.

    Raises:
        BpfError: A record reaches beyond ``producer``: somebody else writes to the ring.
    """
    mask = size - 1
    found: list[tuple[int, int]] = []
    position = consumer
    last = -1
    while position < producer and len(found) < limit:
        at = position & mask
        word = words[at >> 2]
        if word & _BUSY:
            break
        length = word & _LENGTH
        step = (length + _HEADER + 7) & -8
        position += step
        if word & _DISCARD:
            continue
        found.append((at + _HEADER, length))
        if word != last:
            last = word
            continue
        # Records of one size often follow each other: look at many of their headers in one go.
        most = min((producer - position) // step, limit - len(found), _RUN)
        first = at + step >> 2
        heads = words[first : first + most * step // 4 : step // 4].tolist()
        run = most
        if heads.count(word) != most:
            run = next(index for index, head in enumerate(heads) if head != word)
        start = at + step + _HEADER
        found += zip(range(start, start + run * step, step), repeat(length))
        position += run * step
        last = -1
    if position > producer:
        raise BpfError(
            f"ring buffer: the record at position {position} reaches beyond {producer}, the end of "
            "what programs have written; is there another reader?"
        )
    return found, position


class Ring:
    """One ring of a :class:`RingBuffer`.

    Attributes:
        map: Its map.
        size: Bytes of the ring.
    """

    def __init__(self, map: Map[Any, Any], raw: bool, sources: bool) -> None:  # noqa: A002
        if map.type != MapType.RINGBUF:
            raise TypeError(f"map {map.name} is of type {map.type.name}, not a ring buffer")
        if map.flags & MapFlag.RB_OVERWRITE:
            raise NotSupportedError(
                f"map {map.name}: reading rings that programs overwrite is not supported"
            )
        import mmap

        page = mmap.PAGESIZE
        self.map = map
        self.size = map.max_entries
        self._decoder = _raw if raw else map.event_types.decoder
        self._source = map if sources else None
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
        return self._producer.load() - self._consumer.load()

    def has_data(self) -> bool:
        """Whether there is a finished record."""
        position = self._consumer.load()
        if self._producer.load() <= position:
            return False
        fence()
        return not self._words[(position & self.size - 1) >> 2] & _BUSY

    def drain(self, out: list[Any], limit: int) -> None:
        """Append what is there now to ``out``, until that has ``limit`` events."""
        consumer = self._consumer.load()
        producer = self._producer.load()
        while consumer < producer and len(out) < limit:
            fence()
            records, behind = scan(
                self._words, consumer, producer, self.size, min(_BATCH, limit - len(out))
            )
            if behind == consumer:
                return
            fence()
            start = len(out)
            try:
                self._decode(records, out)
            except Exception:
                # Events before the bad record are given out now. It is first the next time; then
                # its error is raised, and it is left behind.
                done = len(out) - start
                kept = done or 1
                if kept < len(records):
                    behind = consumer + (records[kept][0] - _HEADER - consumer & self.size - 1)
                self._free(behind)
                if not done:
                    raise
                return
            except BaseException:
                del out[start:]  # not given back, so they are read again
                raise
            self._free(behind)
            consumer = behind

    def _decode(self, records: list[tuple[int, int]], out: list[Any]) -> None:
        data, decoder, source = self._data, self._decoder, self._source
        known, decode, append = -1, decoder(0), out.append
        for at, length in records:
            if length != known:
                decode, known = decoder(length), length
            append(decode(data, at, length))
        if source is not None:
            start = len(out) - len(records)
            out[start:] = [(source, event) for event in out[start:]]

    def _free(self, position: int) -> None:
        fence()
        self._consumer.store(position)

    def close(self) -> None:
        """Let go of the memory; again does nothing."""
        memory, self._memory = self._memory, ()
        if memory:
            self._words.release()
            self._data.release()
            self._consumer.close()
            self._producer.close()
            for part in memory:
                part.close()


class RingBuffer(EventBuffer):
    """Events of one or several BPF ring buffers (Linux 5.8).

        with RingBuffer(obj.maps["events"]) as events:
            for event in events:
                ...

    ``for event in obj.maps["events"]`` is the same in short. Events are typed by the object's BTF
    as :class:`~pybpfload.runtime.events.EventTypes` says. Events of one ring come in the order in
    which programs reserved their space; between rings there is no order. A ring has one reader: its
    position is in the ring.

    A record that does not fit is lost, and only the program knows (its ``bpf_ringbuf_output`` or
    ``bpf_ringbuf_reserve`` fails): let it count.

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
        try:
            for each in [maps] if isinstance(maps, MapHandle) else maps:
                self.rings.append(Ring(each, raw, sources))
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

    def _drain(self, out: list[Any], limit: int) -> None:
        for ring in self.rings:
            ring.drain(out, limit)

    def _has_data(self) -> bool:
        return any(ring.has_data() for ring in self.rings)

    def _release(self) -> None:
        for ring in self.rings:
            ring.close()


def _raw(length: int) -> Callable[[memoryview, int, int], bytes]:
    return _bytes


def _bytes(data: memoryview, at: int, length: int) -> bytes:
    return bytes(data[at : at + length])
