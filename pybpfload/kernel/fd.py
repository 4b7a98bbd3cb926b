"""Ownership of file descriptors."""

from __future__ import annotations

from warnings import warn  # not in __del__: when Python ends, nothing can be imported

from pybpfload.kernel import door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["FileDescriptor", "at_least_3", "fdinfo"]


class FileDescriptor:
    """Owns a descriptor and closes it exactly once.

    Dropping an open one gives a ``ResourceWarning`` (and closes it).

    Args:
        fd: The descriptor to own.
        what: What it is, for messages, for example ``"map events"``.
    """

    __slots__ = ("__weakref__", "_fd", "_kernel", "what")

    def __init__(self, fd: int, what: str = "") -> None:
        self._fd = -1
        self._kernel = door.current()  # where it came from is where it must be closed
        self.what = what
        if fd < 0:
            raise ValueError(f"{fd} is not a file descriptor")
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor's number.

        Raises:
            ValueError: It is closed.
        """
        if self._fd < 0:
            raise ValueError(f"{self.what or 'descriptor'} is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether it is closed or given away."""
        return self._fd < 0

    def close(self) -> None:
        """Close it; again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._kernel.close(fd)

    def detach(self) -> int:
        """Give up ownership and return the number; whoever takes it must close it.

        Raises:
            ValueError: It is closed.
        """
        fd = self.fileno()
        self._fd = -1
        return fd

    def linger(self) -> FileDescriptor:
        """Give it to an object that closes it silently as soon as nobody refers to it any more.

        Raises:
            ValueError: It is closed.
        """
        other = _Lingering(self.fileno(), self.what)
        other._kernel = self._kernel
        self.detach()
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else f"fd {self._fd}"
        return f"<{type(self).__name__} {self.what + ': ' if self.what else ''}{state}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()


class _Lingering(FileDescriptor):
    __slots__ = ()

    def __del__(self) -> None:
        self.close()


def at_least_3(fd: int) -> int:
    """Move a descriptor that took the number of a standard stream out of the way.

    Args:
        fd: A descriptor fresh from the kernel, or a negative error number, which is passed on.

    Returns:
        The descriptor, 3 or higher (close-on-exec if it was moved), or a negative error number.
    """
    if 0 <= fd < 3:
        moved = door.dup(fd, 3)
        door.close(fd)
        return moved
    return fd


def fdinfo(path: str) -> dict[str, str]:
    """What the kernel says of a descriptor in a file of ``/proc/PID/fdinfo``.

    Returns:
        Values by name; nothing if the file is not there or may not be read.
    """
    try:
        text = door.read_file(path, 4096).decode(errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}
