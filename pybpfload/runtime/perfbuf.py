"""Reading perf buffers: what ``bpf_perf_event_output()`` sends (Linux 4.4).

The layout is described in :mod:`pybpfload.formats.perf`. There is one ring for each CPU. What the
reader owes the kernel (``linux/perf_event.h``, above ``data_head``) is kept as in
:mod:`pybpfload.runtime.ringbuf`: ``data_head`` is read, then :func:`fence`, then the records; when
they are decoded, which copies them, :func:`fence`, and ``data_tail`` is written in one aligned
8-byte store. Everything up to ``data_head`` is complete, so nothing is scanned twice.
"""

from __future__ import annotations

import errno
import struct
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import bpf, cpus, door, perf
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.buffer import EventBuffer
from pybpfload.runtime.fence import Position, fence
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybpfload.runtime.map import Map

    # Buffer (the ring itself, or a copy of a record that goes over the end), offset and length of
    # the data in it, position behind the record.
    Sample: TypeAlias = tuple[memoryview, int, int, int]

__all__ = ["CpuRing", "PerfBuffer", "scan"]

# As in formats.perf, which costs construct to import; a test compares them.
_DATA_HEAD = 1024
_DATA_TAIL = 1032
_HEADER = struct.Struct("=IHH")
_RAW_SIZE = struct.Struct("=I")
_LOST_COUNT = struct.Struct("=8xQ")
_LOST = 2
_SAMPLE = 9

_LEAST = {_SAMPLE: 16, _LOST: 24}  # bytes of the shortest record

_BATCH = 256


def scan(data: memoryview, tail: int, head: int, limit: int) -> tuple[list[Sample], int, int]:
    """Find the records between two positions. Pure: makes no system call.

    Args:
        data: The ring, as single bytes; their number is a power of two.
        tail: Position of the first record.
        head: Position behind the last one.
        limit: At most so many samples.

    Returns:
        The samples; how many records the kernel says to have lost; the position behind the last
        record. Records of other types are left out.

    Raises:
        BpfError: A record is shorter than its header or reaches beyond ``head``.
    """
    size = len(data)
    mask = size - 1
    found: list[Sample] = []
    lost = 0
    position = tail
    while position < head and len(found) < limit:
        at = position & mask
        kind, _, length = _HEADER.unpack_from(data, at)
        if length < _LEAST.get(kind, _HEADER.size) or length & 7 or position + length > head:
            raise BpfError(
                f"perf buffer: the record at position {position} has {length} bytes of "
                f"{head - position}; is there another reader?"
            )
        position += length
        record = data
        if at + length > size:
            record = memoryview(bytes(data[at:]) + bytes(data[: at + length - size]))
            at = 0
        if kind == _SAMPLE:
            (count,) = _RAW_SIZE.unpack_from(record, at + _HEADER.size)
            start = at + _HEADER.size + _RAW_SIZE.size
            found.append((record, start, min(count, at + length - start), position))
        elif kind == _LOST:
            lost += _LOST_COUNT.unpack_from(record, at + _HEADER.size)[0]
    return found, lost, position


class CpuRing:
    """The ring of one CPU.

    Attributes:
        cpu: Number of the CPU.
        lost: Records that did not fit, as far as the kernel has told.
    """

    def __init__(self, owner: PerfBuffer, cpu: int, pages: int, wakeup_events: int) -> None:
        import mmap

        page = mmap.PAGESIZE
        self.cpu = cpu
        self.lost = 0
        self._owner = owner
        self._memory: mmap.mmap | None = None
        self._fd = FileDescriptor(
            perf.open_bpf_output(cpu, wakeup_events=wakeup_events), f"perf event of CPU {cpu}"
        )
        try:
            self._memory = door.mmap(self._fd.fileno(), (1 + pages) * page, write=True)
            self._head = Position(self._memory, _DATA_HEAD)
            self._tail = Position(self._memory, _DATA_TAIL)
            self._data = memoryview(self._memory)[page:]
            perf.enable(self._fd.fileno())
        except OSError as error:
            self.close()
            if isinstance(error, KernelError):
                raise
            hint = "more pages than this user may lock (kernel.perf_event_mlock_kb)"
            raise kernel_error(
                error.errno or 0,
                "mmap",
                self._fd.what,
                hint=hint if error.errno == errno.EPERM else None,
            ) from None
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Descriptor of the perf event."""
        return self._fd.fileno()

    def has_data(self) -> bool:
        """Whether there is a record."""
        return self._head.load() != self._tail.load()

    def drain(self, out: list[Any], limit: int) -> None:
        """Append what is there now to ``out``, until that has ``limit`` events."""
        tail = self._tail.load()
        head = self._head.load()
        while tail < head and len(out) < limit:
            fence()
            samples, lost, behind = scan(self._data, tail, head, min(_BATCH, limit - len(out)))
            start = len(out)
            try:
                self._decode(samples, out)
            except Exception:
                # Events before the bad one are given out now. It is first the next time; then its
                # error is raised, and it is left behind.
                done = len(out) - start
                behind = samples[max(done - 1, 0)][3]
                lost = scan(self._data, tail, behind, _BATCH)[1]
                self._free(behind, lost)
                if not done:
                    raise
                return
            except BaseException:
                del out[start:]  # not given back, so they are read again
                raise
            self._free(behind, lost)
            tail = behind

    def _decode(self, samples: list[Sample], out: list[Any]) -> None:
        decoder, with_cpu, cpu = self._owner.decoder, self._owner.with_cpu, self.cpu
        known, decode = -1, decoder(0)
        for data, at, length, _ in samples:
            if length != known:
                decode = decoder(length)
                known = length
            event = decode(data, at, length)
            out.append((cpu, event) if with_cpu else event)

    def _free(self, position: int, lost: int) -> None:
        fence()
        self._tail.store(position)
        if lost:
            self.lost += lost
            if self._owner.on_lost is not None:
                self._owner.on_lost(self.cpu, lost)

    def close(self) -> None:
        """Stop and close it; again does nothing."""
        memory, self._memory = self._memory, None
        if memory is not None:
            for name in ("_head", "_tail"):
                if hasattr(self, name):
                    getattr(self, name).close()
            if hasattr(self, "_data"):
                self._data.release()
            memory.close()
        self._fd.close()


class PerfBuffer(EventBuffer):
    """Events of a perf event array (Linux 4.4).

        with PerfBuffer(obj.maps["events"]) as events:
            for event in events:
                ...
            print(events.lost)

    ``for event in obj.maps["events"]`` is the same in short. Events are typed by the object's BTF
    as :class:`~pybpfload.runtime.events.EventTypes` says; ``bytes`` have up to 7 bytes of padding
    behind them, which the kernel counts in. Each CPU has a ring of its own: events of one CPU come
    in order, those of different ones do not.

    Only CPUs that are online at the start are read. The map's elements are the rings: a second
    reader would take them over, and closing deletes them.

    Args:
        map: The map.
        page_count: Pages of each ring, a power of two.
        wakeup_events: Wake the reader after so many events of a CPU.
        on_lost: Called with a CPU and the number of events lost there, when the kernel tells: with
            the next event that fits.
        raw: Give out ``bytes`` instead of typed values.
        with_cpu: Give out ``(cpu, event)``.
        cpu_numbers: Only these CPUs.

    Attributes:
        map, with_cpu, on_lost: As above.
        rings: The rings by CPU.

    Raises:
        TypeError: It is no perf event array.
        ValueError: ``page_count`` is not a power of two.
        KernelError: An event cannot be opened or mapped.
    """

    _what = "perf buffer"

    def __init__(
        self,
        map: Map[Any, Any],  # noqa: A002
        *,
        page_count: int = 64,
        wakeup_events: int = 1,
        on_lost: Callable[[int, int], object] | None = None,
        raw: bool = False,
        with_cpu: bool = False,
        cpu_numbers: Iterable[int] | None = None,
    ) -> None:
        self.map = map
        self.rings: dict[int, CpuRing] = {}
        self.on_lost = on_lost
        self.with_cpu = with_cpu
        if map.type != MapType.PERF_EVENT_ARRAY:
            raise TypeError(f"map {map.name} is of type {map.type.name}, not a perf event array")
        if page_count <= 0 or page_count & (page_count - 1):
            raise ValueError(f"page_count {page_count} is not a power of two")
        self._types = None if raw else map.event_types
        wanted = cpus.online_cpus() if cpu_numbers is None else list(cpu_numbers)
        super().__init__()
        try:
            for cpu in wanted:
                if cpu < map.max_entries:
                    self._open(cpu, page_count, wakeup_events, skip=cpu_numbers is None)
        except BaseException:
            self.close()
            raise

    def _open(self, cpu: int, pages: int, wakeup_events: int, *, skip: bool) -> None:
        try:
            ring = CpuRing(self, cpu, pages, wakeup_events)
        except KernelError as error:
            if skip and error.errno == errno.ENODEV:
                return  # it went offline just now
            raise
        self.rings[cpu] = ring
        self._poller.add(ring.fileno())
        key, value = _RAW_SIZE.pack(cpu), _RAW_SIZE.pack(ring.fileno())
        self.map.put_bytes(key, value)

    def decoder(self, length: int) -> Callable[[memoryview, int, int], Any]:
        """The function that decodes samples of one length."""
        return _bytes if self._types is None else self._types.decoder(length, padded=True)

    @property
    def lost(self) -> int:
        """Events that did not fit, as far as the kernel has told."""
        return sum(ring.lost for ring in self.rings.values())

    @property
    def lost_by_cpu(self) -> Counter[int]:
        """Events that did not fit, by CPU."""
        return Counter({cpu: ring.lost for cpu, ring in self.rings.items()})

    def _drain(self, out: list[Any], limit: int) -> None:
        for ring in self.rings.values():
            ring.drain(out, limit)

    def _has_data(self) -> bool:
        return any(ring.has_data() for ring in self.rings.values())

    def _release(self) -> None:
        for cpu, ring in self.rings.items():
            # If the map is closed its elements are gone: they belong to the descriptor that set
            # them, unless the map has BPF_F_PRESERVE_ELEMS.
            with suppress(KernelError, ValueError):
                bpf.map_delete_elem(self.map.fileno(), _RAW_SIZE.pack(cpu))
            ring.close()


def _bytes(data: memoryview, at: int, length: int) -> bytes:
    return bytes(data[at : at + length])
