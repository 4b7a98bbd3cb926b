"""Reading perf buffers: what ``bpf_perf_event_output()`` sends (Linux 4.4).

There is one ring for each CPU (:mod:`pybpfload.runtime.perfring`), which has what the reader owes
the kernel. The layout is described in :mod:`pybpfload.formats.perf`.

*CPUs that come and go.* The event of a CPU that goes offline is stopped for good
(``perf_event_exit_cpu()`` in ``kernel/events/core.c``): what is in its ring can be read, but after
the CPU has come back ``bpf_perf_event_output()`` fails there with EOPNOTSUPP, and on a CPU that
was not there before with ENOENT. Both need a new event in the map.
"""

from __future__ import annotations

import errno
import struct
from collections import Counter
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import bpf, cpus
from pybpfload.runtime.buffer import EventBuffer
from pybpfload.runtime.events import BYTES
from pybpfload.runtime.perfring import CpuRing, OverwrittenCpuRing, RingOptions
from pybpfload.uapi import MapType, PerfSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybpfload.runtime.events import Decoder
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.perfscan import Run

__all__ = ["Lost", "PerfBuffer", "Sample"]

_U32 = struct.Struct("=I")
_READERS: WeakKeyDictionary[object, WeakSet[PerfBuffer]] = WeakKeyDictionary()  # of opened maps
_DETAILS = {PerfSample.TID: "II", PerfSample.TIME: "Q"}  # in the kernel's order


class Lost(NamedTuple):
    """Stands in the stream where samples are missing.

    Attributes:
        cpu: The CPU that sent them.
        events: How many they are.
    """

    cpu: int
    events: int


class Sample(NamedTuple):
    """An event with what the kernel noted beside it; ``None`` for what was not asked for.

    Attributes:
        event: What the program sent.
        cpu: On which CPU.
        pid, tid: In which process and thread, as the reader's PID namespace numbers them.
        time: When, in ns of ``CLOCK_MONOTONIC``, as ``time.monotonic_ns()`` has it.
    """

    event: Any
    cpu: int
    pid: int | None = None
    tid: int | None = None
    time: int | None = None


class PerfBuffer(EventBuffer):
    """Events of a perf event array (Linux 4.4).

    ::

        with PerfBuffer(obj.maps["events"]) as events:
            for event in events:
                ...
            print(events.lost)

    ``for event in obj.maps["events"]`` is the same in short. Events are typed by the object's BTF
    as :class:`~pybpfload.runtime.events.EventTypes` says; ``bytes`` have up to 7 bytes of padding
    behind them, which the kernel counts in. Each CPU has a ring of its own: events of one CPU come
    in order, those of different ones do not.

    The map's elements are the rings: a second reader would take them over, and closing deletes
    them. So in one process a CPU of a map has one reader, of which ``m.reader()`` is one. CPUs that
    come online are picked up as soon as the kernel announces them; where this process gets no
    announcements, call :meth:`refresh`.

    Args:
        map: The map.
        page_count: Pages of each ring, a power of two.
        wakeup_events: Wake the reader after so many events of a CPU.
        watermark: Wake the reader when so many bytes of a CPU wait, instead.
        overwritable: Overwrite the oldest events instead of losing new ones (Linux 4.7): a flight
            recorder, of which :meth:`consume` gives what is left, the oldest first. Output of a CPU
            is paused while its ring is copied.
        sample_type: ``PerfSample.TIME`` and ``TID``: give out :class:`Sample`, with these.
        on_lost: Called with a CPU and the number of events lost there, when the kernel tells: with
            the next event that fits.
        lost_events: Give out :class:`Lost` where events are missing.
        raw: Give out ``bytes`` instead of typed values.
        with_cpu: Give out ``(cpu, event)``; a :class:`Sample` has its CPU anyway.
        cpu_numbers: Only these CPUs, and all of them. By default those that are online.

    Attributes:
        map: The map.
        rings: The rings by CPU.

    Raises:
        TypeError: It is no perf event array.
        ValueError: ``page_count`` is not a power of two, or the options exclude each other.
        BpfError: Another buffer reads the map already.
        KernelError: An event cannot be opened or mapped.
    """

    _what = "perf buffer"

    def __init__(
        self,
        map: Map[Any, Any],  # noqa: A002
        *,
        page_count: int = 64,
        wakeup_events: int = 1,
        watermark: int = 0,
        overwritable: bool = False,
        sample_type: PerfSample = PerfSample(0),  # noqa: B008 - an immutable number
        on_lost: Callable[[int, int], object] | None = None,
        lost_events: bool = False,
        raw: bool = False,
        with_cpu: bool = False,
        cpu_numbers: Iterable[int] | None = None,
    ) -> None:
        if map.type != MapType.PERF_EVENT_ARRAY:
            raise TypeError(f"map {map.name} is of type {map.type.name}, not a perf event array")
        if page_count <= 0 or page_count & (page_count - 1):
            raise ValueError(f"page_count {page_count} is not a power of two")
        if wakeup_events != 1 and watermark:
            raise ValueError("the reader is woken by wakeup_events or by watermark, not by both")
        if sample_type & ~sum(_DETAILS):
            raise ValueError(f"{sample_type!r}: only TIME and TID can be noted beside an event")
        self.map = map
        self.rings: dict[int, CpuRing] = {}
        self._only = None if cpu_numbers is None else list(cpu_numbers)
        self._types = None if raw else map.event_types
        self._with_cpu = with_cpu
        self._lost_events = lost_events
        codes = [code for bit, code in _DETAILS.items() if bit & sample_type]
        self._details = struct.Struct("=" + "".join(codes))
        self._sample_type = sample_type
        self._paused = False
        self._watch: cpus.CpuWatch | None = None
        self._new = OverwrittenCpuRing if overwritable else CpuRing
        self._options = RingOptions(
            page_count, wakeup_events, watermark, sample_type, self._decode, on_lost or _nothing
        )
        super().__init__()
        try:
            if self._only is None:
                with suppress(OSError):  # no announcements, or none in a sandbox
                    self._watch = cpus.CpuWatch()
                    self._poller.add(self._watch.fileno())
            self._claim()
            for cpu in self._wanted():
                self._open(cpu)
        except BaseException:
            self.close()
            raise

    def _wanted(self) -> list[int]:
        if self._only is not None:
            return self._only
        return [cpu for cpu in cpus.online_cpus() if cpu < self.map.max_entries]

    def _claim(self) -> None:
        """Refuse to take CPUs away from another reader of the map.

        Raises:
            BpfError: There is one.
        """
        readers = _READERS.setdefault(self.map._opened, WeakSet())
        for other in readers:
            if not other.closed and not other.rings.keys().isdisjoint(self._wanted()):
                raise BpfError(
                    f"map {self.map.name}: {other!r} reads it already, and a second reader would "
                    "take its events away; use that one (a map keeps the one that reader() has "
                    "opened), or close it first"
                )
        readers.add(self)

    def _open(self, cpu: int) -> bool:
        """Open the ring of a CPU and put it into the map; whether the CPU is there."""
        try:
            ring = self._new(cpu, self._options)
        except KernelError as error:
            if self._only is None and error.errno == errno.ENODEV:
                return False  # it went offline just now
            raise
        old = self.rings.pop(cpu, None)
        if old is not None:
            ring.replaces(old)
            old.close()
        self.rings[cpu] = ring
        self._poller.add(ring.fileno())
        if self._paused:
            ring.pause(True)
        self.map.put_bytes(_U32.pack(cpu), _U32.pack(ring.fileno()))
        return True

    def refresh(self) -> list[int]:
        """Open rings for CPUs that have come online, or were offline for a while.

        Nothing is lost of what is in rings that are replaced.

        Returns:
            CPUs that have a new ring.

        Raises:
            ValueError: The buffer is closed.
            KernelError: An event cannot be opened or mapped.
        """
        with self._reading():
            return self._refresh()

    def _refresh(self) -> list[int]:
        opened = []
        for cpu in self._wanted():
            ring = self.rings.get(cpu)
            if ring is not None:
                if ring.alive():
                    continue
                ring.drain(self._pending, 1 << 62)
            if self._open(cpu):
                opened.append(cpu)
        return opened

    def pause(self) -> None:
        """Keep programs from writing; what they send meanwhile is lost, and counted (Linux 4.7).

        Raises:
            KernelError: The kernel refused.
        """
        with self._lock:
            self._paused = True
            for ring in self.rings.values():
                ring.pause(True)

    def resume(self) -> None:
        """Let programs write again.

        Raises:
            KernelError: The kernel refused.
        """
        with self._lock:
            self._paused = False
            for ring in self.rings.values():
                ring.pause(False)

    def _decode(self, cpu: int, run: Run, out: list[Any]) -> None:
        """Append the events of a run."""
        if run.lost and self._lost_events:
            out.append(Lost(cpu, run.lost))
        if not run.offsets:
            return
        lead = self._details.size + _U32.size
        length = run.size - lead
        first, step = run.offsets.start + lead, run.offsets.step
        offsets = range(first, first + step * len(run.offsets), step)
        decoder = self.decoder(length)
        events: Iterable[Any]
        if decoder.many is not None:
            events = decoder.many(run.data, offsets, length)
        else:
            events = [decoder.one(run.data, at, length) for at in offsets]
        if self._sample_type:
            unnamed = () if PerfSample.TID & self._sample_type else (None, None)
            details = map(self._details.unpack_from, repeat(run.data), run.offsets)
            pairs = zip(events, details)  # noqa: B905 - they are equally many
            events = [Sample(event, cpu, *unnamed, *each) for event, each in pairs]
        elif self._with_cpu:
            events = zip(repeat(cpu), events)
        out += events

    def decoder(self, length: int) -> Decoder:
        """What decodes samples of one length."""
        return BYTES if self._types is None else self._types.decoders(length, padded=True)

    @property
    def lost(self) -> int:
        """Events that did not fit: exactly since Linux 6.0, as far as told before."""
        return sum(self.lost_by_cpu.values())

    @property
    def lost_by_cpu(self) -> Counter[int]:
        """Events that did not fit, by CPU."""
        with self._lock:
            return Counter({cpu: ring.lost for cpu, ring in self.rings.items()})

    @property
    def overwritten(self) -> int:
        """Bytes of records that were overwritten before they were read."""
        return sum(ring.overwritten for ring in self.rings.values())

    def _begin(self) -> None:
        for ring in self.rings.values():
            ring.settle()

    def _drain(self, limit: int) -> None:
        if self._watch is not None and self._watch.changed():
            self._refresh()
        for ring in self._in_turn(self.rings.values()):
            ring.drain(self._pending, limit)

    def _has_data(self) -> bool:
        return any(ring.has_data() for ring in self.rings.values())

    def _release(self) -> None:
        if self._watch is not None:
            self._watch.close()
        for cpu, ring in self.rings.items():
            # If the map is closed its elements are gone: they belong to the descriptor that set
            # them, unless the map has BPF_F_PRESERVE_ELEMS.
            with suppress(KernelError, ValueError):
                bpf.map_delete_elem(self.map.fileno(), _U32.pack(cpu))
            ring.close()


def _nothing(cpu: int, count: int) -> None:
    pass
