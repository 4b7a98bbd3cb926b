"""What ring buffers and perf buffers have in common: waiting, giving out, closing.

*Signals.* A handler may raise (Ctrl-C does), and what it interrupts must neither lose events nor
give them out twice. CPython runs handlers at the start of functions, behind calls and at jumps
backwards, never between other bytecodes. So wherever an event changes hands there is none of
these: decoded events and the position behind them are noted by an operator and an assignment
(:meth:`EventBuffer._drain`), and events go from the deque to the caller in C, by iterating. A
portion that was interrupted before that is still in the ring, and is decoded again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar
from warnings import warn

from pybpfload.runtime.fence import full_fence
from pybpfload.runtime.poller import Poller

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from typing import TypeAlias

    from typing_extensions import Self

    Callback: TypeAlias = Callable[[Any], object]

__all__ = ["PORTION", "EventBuffer", "decode_portion", "limit_of"]

_Batch = TypeVar("_Batch")
_Ring = TypeVar("_Ring")
_Run = TypeVar("_Run")

PORTION = 256  # events that an iteration keeps at most
_NAP, _LONGEST_NAP = 0.0005, 0.02  # seconds between looks at a record that is being written


class EventBuffer:
    """Base of :class:`RingBuffer` and :class:`PerfBuffer`: a stream of events.

    Iterating waits for events and ends when the buffer is closed, by any thread or signal handler.
    Ctrl-C and other signals are handled at once. Nothing is lost by leaving a loop, by an exception
    of a signal handler neither: events that were read and not given out yet come first the next
    time. What a call returns is the caller's: a handler that raises before it is assigned loses it.

    One reader at a time: calls from several threads wait for each other, and each event goes to
    one of them.
    """

    _what = "buffer"

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pending: deque[Any] = deque()
        self._closed = False
        self._readers = 0  # more than 0 means this thread is reading, while the lock is held
        self._poller = Poller()
        self._watchers: set[Poller] = set()
        self._turn = 0  # the ring that comes first the next time

    def _drain(self, limit: int) -> None:
        """Append the events that are there now to ``_pending``, and give their space back.

        Until it has ``limit`` events, or a few more.
        """
        raise NotImplementedError

    def _in_turn(self, rings: Iterable[_Ring]) -> list[_Ring]:
        """The rings, another one first each time: one that is never empty holds up no other."""
        every = list(rings)
        first = self._turn % max(len(every), 1)
        self._turn = first + 1
        return every[first:] + every[:first]

    def _has_data(self) -> bool:
        """Whether there is a finished record."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Called at the start of each reading."""

    def _release(self) -> None:
        """Close everything but the poller."""
        raise NotImplementedError

    def fileno(self) -> int:
        """A descriptor that is readable when there are events: for ``select`` and event loops.

        Then call :meth:`consume`. Records that programs send with ``BPF_RB_NO_WAKEUP``, or that the
        wake-up policy of a perf buffer holds back, do not make it readable.

        Raises:
            ValueError: The buffer is closed.
        """
        return self._poller.fileno()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    def consume(self, limit: int | None = None) -> list[Any]:
        """The events that are there now; does not wait.

        Args:
            limit: At most so many, 1 or more.

        Raises:
            ValueError: The buffer is closed, or the limit not positive.
        """
        out: list[Any] = []
        room = limit_of(limit)
        try:
            with self._reading():
                pending = self._pending
                if len(pending) < room:
                    self._drain(room)
                with suppress(IndexError):  # another thread iterates
                    out += map(deque.popleft, repeat(pending, min(room, len(pending))))
        except BaseException:
            self._pending.extendleft(reversed(out))
            raise
        return out

    def _read_ahead(self, limit: int = PORTION) -> bool:
        """Read events, unless some are read already; whether there are any."""
        with self._reading():
            if not self._pending:
                self._drain(limit)
        return bool(self._pending)

    def _take(self) -> Iterator[Any]:
        """Take out, one by one, the events that are read already."""
        try:
            yield from map(deque.popleft, repeat(self._pending, len(self._pending)))
        except IndexError:  # another thread has taken some of them
            return

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Hold the lock, and the memory even if a signal handler closes the buffer meanwhile.

        Raises:
            ValueError: The buffer is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError(f"the {self._what} is closed")
            self._readers += 1
            try:
                self._begin()
                yield
            finally:
                self._readers -= 1
                if self._closed and not self._readers:
                    self._release()

    def poll(self, timeout: float | None = None, *, limit: int | None = None) -> list[Any]:
        """Wait for events and return those that are there then.

        Args:
            timeout: Seconds to wait at most; ``None`` waits for ever.
            limit: At most so many.

        Returns:
            At least one event; none after the time, or when the buffer was closed meanwhile.

        Raises:
            ValueError: The buffer is closed.
        """
        return self._wait(lambda: self.consume(limit) or None, timeout) or []

    def _idle(self) -> bool:
        """Whether a reader that found nothing may sleep; ask again after each time it has looked.

        Programs wake nobody while they see a reader that has not caught up, also if it passes
        records only that were thrown away. Its position must be visible before it looks a last
        time, or each waits for the other.

        Raises:
            ValueError: The buffer is closed.
        """
        full_fence()
        with self._reading():
            return not self._has_data()

    def _wait(self, take: Callable[[], _Batch | None], timeout: float | None) -> _Batch | None:
        """Call ``take`` until it gives something else than ``None``, or the time is over.

        Raises:
            ValueError: The buffer is closed; but not if it was closed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        nap = _NAP
        found = take()
        while found is None:
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                break
            try:
                ready = not self._idle() or self._poller.wait(rest)
                found = take()
            except ValueError:
                if self._closed:
                    break
                raise
            if ready and found is None:
                # A record that is still being written, or was thrown away. Whoever writes may have
                # been put to sleep in the middle of it: look again, but less and less often.
                time.sleep(nap if rest is None else min(nap, rest))
                nap = min(2 * nap, _LONGEST_NAP)
        return found

    def dispatch(
        self, callback: Callback | Mapping[Any, Callback], timeout: float | None = None
    ) -> int:
        """Wait for events and call a function with each.

            buffer.dispatch(print)
            buffer.dispatch({"exec_event": on_exec, "exit_event": on_exit, None: print})

        Args:
            callback: The function; or one for each type: by the name of the struct, or by the class
                of the event. ``None`` has the function for all others. If one raises, the events
                behind come the next time.
            timeout: As for :meth:`poll`.

        Returns:
            Number of events; 0 after the time, or when the buffer was closed meanwhile.

        Raises:
            KeyError: There is no function for an event's type, which is in the message.
            ValueError: The buffer is closed.
        """
        self._wait(lambda: self._read_ahead(1 << 62) or None, timeout)
        count = 0
        for event in self._take():
            count += 1
            if callable(callback):
                callback(event)
            else:
                _callback_for(event, callback)(event)
        return count

    def __iter__(self) -> Iterator[Any]:
        """Events as they come, until the buffer is closed."""
        pending = self._pending
        while True:
            with suppress(IndexError):  # as in _take(); one generator less
                yield from map(deque.popleft, repeat(pending, len(pending)))
            try:
                if self._closed:
                    return
                self._wait(lambda: self._read_ahead() or None, None)
            except ValueError:
                if self._closed:  # by another thread, just now
                    return
                raise

    def stream(
        self, wait_readable: Callable[[int], Awaitable[object]] | None = None
    ) -> AsyncIterator[Any]:
        """Events as they come, until the buffer is closed, in an event loop.

            async for event in buffer: ...                                         # asyncio
            async for event in buffer.stream(trio.lowlevel.wait_readable): ...

        Nothing is lost by leaving the loop or cancelling it.

        Args:
            wait_readable: Coroutine function that waits until a descriptor is readable:
                ``trio.lowlevel.wait_readable``, ``anyio.wait_readable``; by default that of
                asyncio.

        Raises:
            ValueError: The buffer is closed.
        """
        from pybpfload.runtime.stream import EventStream, asyncio_readable

        return EventStream(self, wait_readable or asyncio_readable)

    def __aiter__(self) -> AsyncIterator[Any]:
        """Events as they come, in asyncio; see :meth:`stream`."""
        return self.stream()

    def close(self) -> None:
        """Close it and end all iterations; again does nothing."""
        if self._closed:
            return
        self._closed = True
        for watcher in list(self._watchers):
            watcher.ring()
        self._poller.close()
        with self._lock:
            if not self._readers:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'closed' if self._closed else f'fd {self.fileno()}'}>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            with suppress(ImportError):  # the interpreter is going down
                self.close()


def limit_of(limit: int | None) -> int:
    """The number that a limit means.

    Raises:
        ValueError: It is not positive: waiting for nothing would have no end.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} is not positive")
    return 1 << 62 if limit is None else limit


def decode_portion(
    decode: Callable[[Sequence[_Run], list[Any]], None],
    runs: Sequence[_Run],
    one_by_one: Callable[[_Run], Iterable[tuple[_Run, int]]],
) -> tuple[list[Any], int | None, Exception | None]:
    """Decode the records of a portion up to the first bad one.

    An error is a record's only if it comes again: one that a signal handler raises does not, and is
    to be raised as it is.

    Args:
        decode: Appends the events of runs to a list.
        runs: The records.
        one_by_one: Splits a run into runs of one record, with the position behind each.

    Returns:
        The events; the position behind the last record that is done with, ``None`` if all are; and
        an error to raise. A bad record ends the portion before it. If it is the first, it is done
        with: its error is raised, and it is left behind.
    """
    events: list[Any] = []
    try:
        decode(runs, events)
    except Exception as error:
        failure = error
    else:
        return events, None, None
    found: Exception | None = None
    try:
        events, end = [], None
        for one, behind in chain.from_iterable(map(one_by_one, runs)):
            good, found = len(events), None
            for _ in range(2):
                try:
                    decode((one,), events)
                    break
                except Exception as error:
                    del events[good:]
                    found = error
            else:
                if end is None:
                    return [], behind, found
                return events, end, None if type(failure) is type(found) else failure
            failure, end = found or failure, behind
        return events, None, failure
    finally:
        del failure, found  # they would hold this frame, and the memory with it


def _callback_for(event: Any, callbacks: Mapping[Any, Callback]) -> Callback:
    kind = type(event)
    for key in (kind, kind.__name__, None):
        if key in callbacks:
            return callbacks[key]
    raise KeyError(f"no callback for events of type {kind.__name__}, and none for None")
