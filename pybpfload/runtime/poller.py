"""Waiting for several descriptors at once, with a way to be woken."""

from __future__ import annotations

import os
import threading
import time

from pybpfload.kernel import door

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select

__all__ = ["EDGE", "READABLE", "WRITABLE", "Poller"]

# CPython runs signal handlers before and after a system call. A signal right between its last look
# and the call does not end the call: so calls are short, and Ctrl-C is never lost for long.
_SLICE = 0.2  # seconds

READABLE, WRITABLE, EDGE = 1, 4, 1 << 31  # EPOLLIN, EPOLLOUT, EPOLLET


class Poller:
    """An epoll object, and an eventfd in it as a bell.

    Its own descriptor becomes readable when one of the others does, or when it is closed by another
    thread, so any event loop can wait for it.
    """

    def __init__(self) -> None:
        self._waiting = threading.RLock()
        self._closing = self._closed = False
        self._epoll: select.epoll = door.epoll()
        try:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._epoll.close()
            raise
        try:
            self._epoll.register(self._bell, READABLE)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Descriptor of the epoll object.

        Raises:
            ValueError: It is closed.
        """
        return self._epoll.fileno()

    def add(self, fd: int, events: int = READABLE) -> None:
        """Wait for this one too.

        Args:
            fd: The descriptor.
            events: For what; with ``EDGE``, only for what happens from now on, once for each time.

        Raises:
            OSError: As epoll_ctl(2).
        """
        self._epoll.register(fd, events)

    def wait(self, timeout: float | None) -> bool:
        """Wait until something is ready, or closed; signals are handled meanwhile.

        Args:
            timeout: Seconds; ``None`` waits for ever.

        Returns:
            Whether something is ready.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            return False  # another thread has waited all the time
        try:
            while not self._closing:
                rest = _SLICE if deadline is None else deadline - time.monotonic()
                if self._epoll.poll(max(min(rest, _SLICE), 0), 8):
                    return not self._closing
                if rest <= 0:
                    break
        except (OSError, ValueError):
            if not self._closing:  # by a signal handler, in this very call
                raise
        finally:
            self._waiting.release()
        return False

    def clear(self) -> None:
        """Forget what has happened so far at descriptors that are waited for with ``EDGE``."""
        self._epoll.poll(0)

    def ring(self) -> None:
        """Wake who waits, for good."""
        self._closing = True
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Wake who waits, and close; again does nothing."""
        if self._closed:
            return
        self._closed = True
        self.ring()
        with self._waiting:
            self._epoll.close()
            os.close(self._bell)
