"""The ring of one CPU in a perf buffer: mapping, taking records out, giving space back.

What the reader owes the kernel (``linux/perf_event.h``, above ``data_head``) is kept as
:mod:`pybpfload.runtime.fence` says: ``data_head`` is read, then :func:`fence`, then the records;
when they are decoded, which copies them, :func:`fence`, and ``data_tail`` is written in one aligned
8-byte store. Everything up to ``data_head`` is complete, so nothing is scanned twice.

A ring that is *overwritten* is mapped read-only, so there is no ``data_tail``, and the kernel never
finds it full. It writes from the end to the start: the newest record is at ``data_head``, and from
there records follow each other up to the oldest, which may be overwritten in part. To read it:

1. Output is paused (``PERF_EVENT_IOC_PAUSE_OUTPUT``); what programs send meanwhile is lost.
2. ``data_head`` is read, then :func:`fence`; what was written since the last time is copied.
3. :func:`fence`, and ``data_head`` is read again: a program that was in the middle of writing when
   output was paused may have finished now, over the oldest bytes of the copy. They are left out.
4. Output goes on, and the copy is decoded.
"""

from __future__ import annotations

import errno
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.errors import KernelError
from pybpfload.kernel import door, perf
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.buffer import decode_portion
from pybpfload.runtime.fence import Position, fence
from pybpfload.runtime.perfscan import Run, one_by_one, scan, scan_backward

if TYPE_CHECKING:
    import mmap
    from collections import deque
    from collections.abc import Callable, Sequence

    from pybpfload.uapi import PerfSample

__all__ = ["CpuRing", "OverwrittenCpuRing", "RingOptions"]

# As in formats.perf, which costs construct to import; a test compares them.
_DATA_HEAD = 1024
_DATA_TAIL = 1032

_TICKS = 0.02  # seconds: two ticks at 100 Hz

_PORTION = 256  # samples that are decoded before their space is given back, as in ring buffers


class RingOptions(NamedTuple):
    """What all rings of a perf buffer have in common.

    Attributes:
        pages: Pages of data, a power of two.
        wakeup_events, watermark, sample_type: As for :func:`perf.open_bpf_output`.
        decode: Appends the values of a run's samples to a list: ``decode(cpu, run, out)``.
        on_lost: Called with a CPU and how many samples it has lost.
    """

    pages: int
    wakeup_events: int
    watermark: int
    sample_type: PerfSample
    decode: Callable[[int, Run, list[Any]], None]
    on_lost: Callable[[int, int], object]

    @property
    def body(self) -> int:
        """Bytes of the body of a sample without data."""
        return 4 + 8 * self.sample_type.bit_count()


class CpuRing:
    """The ring of one CPU.

    Attributes:
        cpu: Number of the CPU.
        overwritten: Bytes of records that were overwritten before they were read, so far.
    """

    backward = False
    overwritten = 0

    def __init__(self, cpu: int, options: RingOptions) -> None:
        import mmap

        page = mmap.PAGESIZE
        self.cpu = cpu
        self._options = options
        self._told = 0  # lost samples that records told of
        self._before = 0  # lost in rings that this one replaces
        self._stopped = False
        self._done: tuple[list[Run], int] | None = None  # given out, and not given back yet
        self._memory: mmap.mmap | None = None
        fd = perf.open_bpf_output(
            cpu,
            wakeup_events=options.wakeup_events,
            watermark=options.watermark,
            backward=self.backward,
            sample_type=options.sample_type,
        )
        self._fd = FileDescriptor(fd, f"perf event of CPU {cpu}")
        try:
            length = (1 + options.pages) * page
            self._memory = door.mmap(fd, length, write=not self.backward)
            self._map(self._memory)
            self._data = memoryview(self._memory)[page:]
            perf.enable(fd)
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

    def _map(self, memory: mmap.mmap) -> None:
        self._head = Position(memory, _DATA_HEAD)
        self._tail = Position(memory, _DATA_TAIL)

    def fileno(self) -> int:
        """Descriptor of the perf event."""
        return self._fd.fileno()

    @property
    def lost(self) -> int:
        """Samples that did not fit; exact since Linux 6.0, as far as told before."""
        exact = None
        if self._memory is not None:
            with suppress(OSError):
                exact = perf.output_state(self.fileno())[1]
        return self._before + max(self._told, exact or 0)

    def alive(self) -> bool:
        """Whether the kernel still writes into it: not once the CPU has gone offline.

        Raises:
            OSError: As read(2).
        """
        before = perf.output_state(self.fileno())[0]
        if perf.output_state(self.fileno())[0] != before:
            return True
        time.sleep(
            _TICKS
        )  # the kernel's clock may stand between its ticks where the TSC is no good
        return perf.output_state(self.fileno())[0] != before

    def has_data(self) -> bool:
        """Whether there is a record."""
        return self._head.load() != self._tail.load()

    def pause(self, pause: bool) -> None:
        """Keep the kernel from writing, or let it again.

        Raises:
            KernelError: The kernel refused.
        """
        perf.pause_output(self.fileno(), pause)
        self._stopped = pause

    def begin(self) -> None:
        """Settle up to where :meth:`take` goes: what comes meanwhile is for the next time."""
        self._until = self._head.load()

    def take(self, limit: int) -> list[Run]:
        """The oldest records, which stay there until :meth:`free`; none if there are none.

        Raises:
            BpfError: The ring has something else than records.
        """
        fence()
        limit = min(limit, _PORTION)
        return scan(self._data, self._tail.load(), self._until, limit, body=self._options.body)

    def free(self, runs: list[Run], end: int) -> None:
        """Give back all records of these runs that lie below a position."""
        fence()
        self._tail.store(end)

    def settle(self) -> None:
        """Give back what is given out: :meth:`drain` may have been interrupted in between."""
        if self._done is None:
            return
        runs, end = self._done
        self.free(runs, end)
        lost = [run.lost for run in runs if run.lost and run.end <= end]
        told = self._told + sum(lost)
        # No signal handler runs between these two, see pybpfload.runtime.buffer.
        self._told = told
        self._done = None
        for count in lost:
            self._options.on_lost(self.cpu, count)

    def drain(self, pending: deque[Any], limit: int) -> None:
        """Append what is there now, until ``pending`` has ``limit`` events (or a few more).

        Raises:
            BpfError: The ring has something else than records; or a record, as its decoder says.
            Exception: What a function of the user's, or a signal handler, has raised.
        """
        self.begin()
        while len(pending) < limit and (runs := self.take(limit - len(pending))):
            events, done, failure = decode_portion(self._decode, runs, one_by_one)
            taken = runs, runs[-1].end if done is None else done
            # No signal handler runs between these two, see pybpfload.runtime.buffer.
            pending += events
            self._done = taken
            self.settle()
            if failure is not None:
                try:
                    raise failure
                finally:
                    del failure  # it would hold this frame, and the ring with it
            if done is not None:
                return

    def _decode(self, runs: Sequence[Run], out: list[Any]) -> None:
        for run in runs:
            self._options.decode(self.cpu, run, out)

    def replaces(self, other: CpuRing) -> None:
        """Go on counting where another ring of the CPU ends."""
        self._before = other.lost

    def close(self) -> None:
        """Stop and close it; again does nothing."""
        if self._memory is None:
            self._fd.close()
            return
        lost = self.lost
        memory, self._memory = self._memory, None
        self._told = lost - self._before
        for name in ("_head", "_tail"):
            if hasattr(self, name):
                getattr(self, name).close()
        if hasattr(self, "_data"):
            with suppress(BufferError):  # somebody looks into it
                self._data.release()
        with suppress(BufferError):  # it goes with the last who does
            memory.close()
        self._fd.close()


class OverwrittenCpuRing(CpuRing):
    """The ring of one CPU, whose oldest samples the kernel overwrites (Linux 4.7)."""

    backward = True

    def __init__(self, cpu: int, options: RingOptions) -> None:
        self._seen = 0  # data_head of the last copy
        self._copied: list[Run] = []  # what of it was not given out
        super().__init__(cpu, options)

    def _map(self, memory: mmap.mmap) -> None:
        self._head = Position(memory, _DATA_HEAD)

    def has_data(self) -> bool:
        """Whether there is a record."""
        return bool(self._copied) or self._head.load() != self._seen

    def begin(self) -> None:
        """Make a copy, unless one is not given out yet."""
        if not self._copied:
            data, written = self._copy()
            self._copied, size = scan_backward(data, body=self._options.body)
            self.overwritten += written - size

    def take(self, limit: int) -> list[Run]:
        """The oldest records of the copy; :meth:`CpuRing.take`."""
        taken = []
        for run in self._copied:
            if limit <= 0:
                break
            part = run.offsets[:limit]
            end = run.end - (len(run.offsets) - len(part)) * run.step
            taken.append(run._replace(offsets=part, end=end))
            limit -= len(part)
        return taken

    def _copy(self) -> tuple[memoryview, int]:
        """What is left of what was written since the last time, and how many bytes that was."""
        paused = self._stopped
        if not paused:
            self.pause(True)
        try:
            head = self._head.load()
            fence()
            size = len(self._data)
            written = (self._seen - head) % (1 << 64)
            at = head & size - 1
            data = bytes(self._data[at:]) + bytes(self._data[:at])
            fence()
            torn = (head - self._head.load()) % (1 << 64)
        finally:
            if not paused:
                self.pause(False)
        self._seen = head
        return memoryview(data)[: min(written, max(size - torn, 0))], written

    def free(self, runs: list[Run], end: int) -> None:
        """Leave behind what lies below a position in the copy; :meth:`CpuRing.free`."""
        rest = [run for run in self._copied if run.end > end]
        if rest:
            kept = (rest[0].end - end) // rest[0].step
            rest[0] = rest[0]._replace(offsets=rest[0].offsets[-kept:])
        self._copied = rest
