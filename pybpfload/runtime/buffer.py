"""What ring buffers and perf buffers have in common: waiting, giving out, closing."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from warnings import warn

from pybpfload.runtime.fence import full_fence
from pybpfload.runtime.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

__all__ = ["EventBuffer"]

_PORTION = 1024  # events that an iteration keeps at most
_NAP = 0.0005  # seconds between looks at a record that a program is still writing


class EventBuffer:
    """Base of :class:`RingBuffer` and :class:`PerfBuffer`: a stream of events.

    Iterating waits for events and ends when the buffer is closed, by any thread or signal handler.
    Ctrl-C and other signals are handled at once. Nothing is lost by leaving a loop: events that
    were read and not given out yet come first the next time.

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

    def _drain(self, out: list[Any], limit: int) -> None:
        """Append the events that are there now, at most ``limit``, and give their space back."""
        raise NotImplementedError

    def _has_data(self) -> bool:
        """Whether there is a finished record."""
        raise NotImplementedError

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
            limit: At most so many.

        Raises:
            ValueError: The buffer is closed.
        """
        out: list[Any] = []
        room = 1 << 62 if limit is None else limit
        with self._lock:
            if self._closed:
                raise ValueError(f"the {self._what} is closed")
            pending = self._pending
            while pending and len(out) < room:
                out.append(pending.popleft())
            self._readers += 1
            try:
                if len(out) < room:
                    self._drain(out, room)
            except BaseException:
                pending.extend(out)  # their space is given back already
                raise
            finally:
                self._done()
        return out

    def _done(self) -> None:
        """A reading has ended; if a signal handler has closed the buffer meanwhile, let go."""
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
        deadline = None if timeout is None else time.monotonic() + timeout
        events = self.consume(limit)
        while not events:
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                break
            # Programs wake nobody while they see a reader that has not caught up. That reader's
            # position must be visible before it looks a last time, or each waits for the other.
            full_fence()
            with self._lock:
                if self._closed:
                    break
                self._readers += 1
                try:
                    ready = self._has_data()
                finally:
                    self._done()
            ready = ready or self._poller.wait(rest)
            with self._lock:
                if self._closed:
                    break
                events = self.consume(limit)
            if ready and not events:
                time.sleep(_NAP)  # a record that is still being written, or was thrown away
        return events

    def dispatch(self, callback: Callable[[Any], object], timeout: float | None = None) -> int:
        """Wait for events and call ``callback`` with each.

        Args:
            callback: If it raises, the events behind that one come the next time.
            timeout: As for :meth:`poll`.

        Returns:
            Number of events; 0 after the time, or when the buffer was closed meanwhile.
        """
        events = deque(self.poll(timeout))
        count = len(events)
        try:
            while events:
                callback(events.popleft())
        finally:
            self._pending.extendleft(reversed(events))
        return count

    def __iter__(self) -> Iterator[Any]:
        """Events as they come, until the buffer is closed."""
        pending = self._pending
        while True:
            try:
                event = pending.popleft()
            except IndexError:
                if self._closed:
                    return
                try:
                    pending.extend(self.poll(limit=_PORTION))
                except ValueError:
                    if self._closed:  # by another thread, just now
                        return
                    raise
            else:
                yield event

    def close(self) -> None:
        """Close it and end all iterations; again does nothing."""
        if self._closed:
            return
        self._closed = True
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
