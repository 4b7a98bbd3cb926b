"""Waiting for several descriptors at once, with a way to be woken."""

from __future__ import annotations

import os
import threading

from pybpfload.kernel import door

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select

__all__ = ["Poller"]


class Poller:
    """An epoll object, and an eventfd in it that :meth:`close` rings.

    Its own descriptor becomes readable when one of the others does, or when it is closed by another
    thread, so any event loop can wait for it.
    """

    def __init__(self) -> None:
        self._waiting = threading.RLock()
        self._closing = False
        self._epoll: select.epoll = door.epoll()
        try:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._epoll.close()
            raise
        try:
            self._epoll.register(self._bell, 1)  # EPOLLIN
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Descriptor of the epoll object.

        Raises:
            ValueError: It is closed.
        """
        return self._epoll.fileno()

    def add(self, fd: int) -> None:
        """Wait for this one too, until it is readable.

        Raises:
            OSError: As epoll_ctl(2).
        """
        self._epoll.register(fd, 1)

    def wait(self, timeout: float | None) -> bool:
        """Wait until something is readable, or closed; signals are handled meanwhile.

        Args:
            timeout: Seconds; ``None`` waits for ever.

        Returns:
            Whether something is readable.
        """
        if not self._waiting.acquire(timeout=-1 if timeout is None else timeout):
            return False  # another thread has waited all the time
        try:
            return not self._closing and bool(self._epoll.poll(timeout, 8)) and not self._closing
        except (OSError, ValueError):
            if self._closing:  # by a signal handler, in this very call
                return False
            raise
        finally:
            self._waiting.release()

    def close(self) -> None:
        """Wake who waits, and close; again does nothing."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._bell, 1)
        with self._waiting:
            self._epoll.close()
            os.close(self._bell)
