"""Sending records to programs through a user ring buffer (Linux 6.1).

The layout is described in :mod:`pybpfload.formats.ringbuf`: a ring buffer the other way round. User
space reserves and writes, a program takes with ``bpf_user_ringbuf_drain()``. What the kernel relies
on (``__bpf_user_ringbuf_peek()`` in ``kernel/bpf/ringbuf.c``), and how it is kept
(:mod:`pybpfload.runtime.fence` has the reasons):

1. The consumer's position is read, then :func:`fence` (acquire): what lies below it was read by the
   program, and may be written.
2. A header that says *busy* is written, then :func:`fence` (release), then the producer's position,
   which makes room behind it: whoever sees the position sees the header.
3. The data is written, then :func:`fence` (release), then the header without *busy*, in one aligned
   8-byte store: whoever sees that it is finished sees the data.

Records are taken in the order in which they were reserved; one that is not finished holds up those
behind it. So a signal handler that raises must not leave one behind. Publishing a record and noting
that it is not finished are two assignments side by side, and so are finishing it and noting that:
CPython runs no handler between them, because nothing is called there. The next use of the
ring throws away records that are not finished and belong to nobody any more.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from warnings import warn
from weakref import ref

from pybpfload.errors import BpfError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.fence import Position, fence
from pybpfload.runtime.poller import EDGE, WRITABLE, Poller
from pybpfload.runtime.ringscan import BUSY, DISCARD, HEADER, LENGTH, stride
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from pybpfload.runtime.map import Map

__all__ = ["RingFullError", "Sample", "UserRingBuffer"]

_Result = TypeVar("_Result")
_LOOK = 0.02  # seconds: the kernel tells one of several who wait
_BIG_ENDIAN = sys.byteorder == "big"


class RingFullError(BpfError, BlockingIOError):
    """There was no room in a user ring buffer, for as long as one was ready to wait."""


class _Room:
    """Room for a record: what a ring and a sample both know of it.

    Attributes:
        header: Its header, while it is published and not finished.
        data: The record.
        size: Bytes of it.
    """

    __slots__ = ("data", "header", "size")

    def __init__(self, data: memoryview) -> None:
        self.header: Position | None = None
        self.data = data
        self.size = len(data)

    def finish(self, flag: int) -> None:
        header = self.header
        if header is None:
            raise ValueError("the sample was submitted or discarded already")
        self.data.release()
        word = _header(self.size | flag)
        fence()
        header.cell.value = word
        self.header = None
        header.close()


class Sample:
    """Room for a record that was reserved and is not sent yet.

        with ring.reserve(16) as data:
            data[:] = ...

    sends it at the end of the block, and throws it away if that raises. A program gets neither it
    nor what was reserved behind it before it is submitted or discarded. One that was forgotten is
    thrown away, with a ``ResourceWarning``, when the ring is used the next time.
    """

    __slots__ = ("__weakref__", "_room")

    def __init__(self, room: _Room) -> None:
        self._room = room

    @property
    def data(self) -> memoryview:
        """The record, writable, with what the ring held there before; until it is finished."""
        return self._room.data

    def submit(self) -> None:
        """Send it.

        Raises:
            ValueError: It was submitted or discarded before.
            BufferError: Something was made of ``data`` that could still write into it.
        """
        self._room.finish(0)

    def discard(self) -> None:
        """Throw it away; raises as :meth:`submit`."""
        self._room.finish(DISCARD)

    def __enter__(self) -> memoryview:
        return self._room.data

    def __exit__(self, kind: object, *error: object) -> None:
        if self._room.header is not None:
            self._room.finish(DISCARD if kind else 0)


def _header(word: int) -> int:
    """The 8 bytes of a header as a number: its first word, and zero."""
    return word << 32 if _BIG_ENDIAN else word


class UserRingBuffer:
    """The sending side of a user ring buffer (Linux 6.1).

    ::

        with UserRingBuffer(obj.maps["orders"]) as orders:
            orders.send({"number": 7, "name": "seven"})      # typed by the object's BTF
            with orders.reserve(16, timeout=1) as data:      # or any bytes
                data[:] = bytes(16)

    Threads may share one, and a signal handler may close it. A ring has one sender: a second one in
    another process would overwrite what this one writes.

    Args:
        map: The map.

    Attributes:
        map: As above.
        size: Bytes of the ring.

    Raises:
        TypeError: It is no user ring buffer.
        KernelError: It may not be read and written, or there are too many open files.
    """

    def __init__(self, map: Map[Any, Any]) -> None:  # noqa: A002
        if map.type != MapType.USER_RINGBUF:
            raise TypeError(f"map {map.name} is of type {map.type.name}, not a user ring buffer")
        import mmap

        page = mmap.PAGESIZE
        self.map = map
        self.size = map.max_entries
        self._lock = threading.RLock()  # held while positions are read and written
        self._rooms: list[tuple[_Room, ref[Sample]]] = []  # all that may be unfinished
        self._users = 0  # more than 0 means this thread does so, while the lock is held
        self._closed = False
        self._poller = Poller()
        try:
            self._poller.add(map.fileno(), WRITABLE | EDGE)
            head = door.mmap(map.fileno(), page, 0)
            try:
                body = door.mmap(map.fileno(), page + 2 * self.size, page, write=True)
            except BaseException:
                head.close()
                raise
        except OSError as error:
            self._poller.close()
            raise kernel_error(error.errno or 0, "mmap", f"map {map.name}") from None
        except BaseException:
            self._poller.close()
            raise
        self._memory: tuple[mmap.mmap, ...] = (head, body)
        self._data = page
        self._consumer = Position(head, 0)
        self._producer = Position(body, 0)

    @property
    def available(self) -> int:
        """Bytes that the program has not taken yet: records with their headers.

        Raises:
            ValueError: It is closed.
            BpfError: The positions make no sense.
        """
        return self._safely(self._used)

    def _safely(self, action: Callable[[], _Result]) -> _Result:
        """Hold the lock, and the memory even if a signal handler closes the buffer meanwhile.

        Raises:
            ValueError: The buffer is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the user ring buffer is closed")
            self._users += 1
            try:
                if self._users == 1:
                    self._clear_forgotten()
                return action()
            finally:
                self._users -= 1
                if self._closed and not self._users:
                    self._release()

    def _used(self) -> int:
        consumer, producer = self._consumer.load(), self._producer.load()
        if producer & 7 or not 0 <= producer - consumer <= self.size:
            raise BpfError(
                f"map {self.map.name}: the sender's position {producer} does not fit that of "
                f"programs, {consumer}; is there another sender?"
            )
        return producer - consumer

    def reserve(self, size: int, *, timeout: float | None = 0) -> Sample:
        """Make room for a record.

        Args:
            size: Bytes of it.
            timeout: Seconds to wait at most until the program has taken enough; ``None`` waits for
                ever. Draining wakes, unless it is done with ``BPF_RB_NO_WAKEUP``.

        Raises:
            RingFullError: There is no room.
            ValueError: A record of this size never fits, or the buffer is closed.
            BpfError: The positions make no sense: somebody else sends too.
            RuntimeError: Called by a signal handler that interrupted another call of it.
        """
        if not 0 <= size <= LENGTH or stride(size) > self.size:
            raise ValueError(f"map {self.map.name}: {size} bytes do not fit into {self.size}")
        deadline = None if timeout is None else time.monotonic() + timeout
        sample = None
        try:
            while True:
                sample = self._safely(lambda: self._reserve(size))
                if sample is not None:
                    return sample
                rest = _LOOK if deadline is None else deadline - time.monotonic()
                if rest <= 0:
                    raise RingFullError(f"map {self.map.name}: no room for {size} bytes")
                self._poller.wait(min(rest, _LOOK))
        except BaseException:
            if sample is not None:  # a signal handler raised: nobody will ever get it
                with suppress(ValueError):  # it is not published
                    sample.discard()
            raise

    def _reserve(self, size: int) -> Sample | None:
        if self._users > 1:
            raise RuntimeError(f"map {self.map.name}: the signal handler interrupted a reservation")
        step = stride(size)
        if self.size - self._used() < step:
            return None
        fence()
        position = self._producer.load()
        body = self._memory[1]
        at = self._data + (position & self.size - 1)
        header, producer = Position(body, at), self._producer
        header.store(_header(size | BUSY))
        room = _Room(memoryview(body)[at + HEADER : at + HEADER + size])
        sample = Sample(room)
        self._rooms.append((room, ref(sample)))
        fence()
        producer.cell.value = position + step
        room.header = header
        return sample

    def _clear_forgotten(self) -> None:
        """Throw away what nobody can finish any more: it would hold up all that come behind it."""
        for room, sample in self._rooms:
            if room.header is not None and sample() is None:
                with suppress(BufferError):  # somebody has the data and may still write into it
                    room.finish(DISCARD)
                    warn("a sample of a user ring buffer was forgotten", ResourceWarning, 2)
        self._rooms = [each for each in self._rooms if each[0].header is not None]

    def send(self, record: Any, *, timeout: float | None = 0) -> None:
        """Send a record.

        Args:
            record: What the map's event type takes: a record, a dict, a tuple; ``bytes`` of any
                length are sent as they are.
            timeout: As for :meth:`reserve`.

        Raises:
            ValueMismatchError: The record does not fit its type.
            TypeError: It is not ``bytes``, and there is no type, or more than one.
            RingFullError, ValueError, BpfError: As for :meth:`reserve`.
        """
        raw = record
        if not isinstance(raw, (bytes, bytearray, memoryview)):
            raw = self.map.event_types.encode(record)
        sample = self.reserve(len(raw), timeout=timeout)
        try:
            sample.data[:] = raw
            sample.submit()
        except BaseException:
            with suppress(ValueError):  # it is submitted
                sample.discard()
            raise

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def close(self) -> None:
        """Close it, and end all waiting; again does nothing.

        Samples that are not submitted yet may still be.
        """
        if self._closed:
            return
        self._closed = True
        self._poller.close()
        with self._lock:
            if not self._users:
                self._release()

    def _release(self) -> None:
        self._clear_forgotten()
        self._consumer.close()
        self._producer.close()
        for part in self._memory:
            with suppress(BufferError):  # of samples; it goes with the last of them
                part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<UserRingBuffer of map {self.map.name}{', closed' if self._closed else ''}>"
