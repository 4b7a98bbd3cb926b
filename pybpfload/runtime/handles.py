"""Maps, programs and links that exist already: what they have in common, and opening them."""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor, at_least_3, fdinfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

__all__ = ["Handle", "HasFileno", "descriptor", "duplicate", "open_by", "open_fd", "open_pin"]

_BY_ID: dict[str, Callable[[int], int]] = {
    "map": bpf.map_get_fd_by_id,
    "program": bpf.prog_get_fd_by_id,
    "link": bpf.link_get_fd_by_id,
}
_MARKS = {"map": b"map_type:", "program": b"prog_type:", "link": b"link_type:"}


class HasFileno(Protocol):
    """Anything that has a file descriptor."""

    def fileno(self) -> int:
        """Return the file descriptor."""
        ...


def descriptor(source: HasFileno | int) -> int:
    """Number of a descriptor, given as such or as anything with ``fileno()``."""
    return source if isinstance(source, int) else source.fileno()


def duplicate(source: HasFileno | int, what: str) -> FileDescriptor:
    """A descriptor of our own for something that somebody else has open.

    Args:
        source: The descriptor, or anything with ``fileno()``.
        what: What it is, for messages.

    Raises:
        KernelError: It is not open, or there are too many descriptors.
        ValueError: It is closed.
    """
    number = descriptor(source)
    copy = at_least_3(door.dup(number))
    if copy < 0:
        raise kernel_error(copy, "fcntl(F_DUPFD_CLOEXEC)", f"{what}, fd {number}")
    return FileDescriptor(copy, f"{what} fd {number}")


def open_pin(
    kind: str, path: str | os.PathLike[str], what: str = "", *, file_flags: int = 0
) -> FileDescriptor:
    """Open what is pinned at a path.

    Args:
        kind: ``"map"``, ``"program"`` or ``"link"``.
        path: Where.
        what: What to call it.
        file_flags: ``MapFlag.RDONLY`` or ``WRONLY`` for maps (Linux 4.15).

    Raises:
        KernelError: ENOENT: nothing is there; EACCES: no BPF object; and others.
        BpfError: It is of another kind.
    """
    where = os.fspath(path)
    fd = bpf.obj_get(where, file_flags=file_flags)
    return _checked(kind, FileDescriptor(fd, what or f"{kind} {where}"), where)


def open_fd(kind: str, source: HasFileno | int) -> FileDescriptor:
    """A descriptor of our own for a map, program or link that somebody else has open.

    Args:
        kind: ``"map"``, ``"program"`` or ``"link"``.
        source: The descriptor, or anything with ``fileno()``.

    Raises:
        KernelError: It is not open, or there are too many descriptors.
        BpfError: It is of another kind.
        ValueError: It is closed.
    """
    return _checked(kind, duplicate(source, kind), f"fd {descriptor(source)}")


def open_by(kind: str, source: Any) -> FileDescriptor:
    """A descriptor of our own for anything that tells which map, program or link is meant.

    Args:
        kind: ``"map"``, ``"program"`` or ``"link"``.
        source: Something with ``fileno()``, an id, or the path of a pin.

    Raises:
        KernelError: There is none such, or it may not be opened.
        BpfError: It is of another kind.
    """
    if hasattr(source, "fileno"):
        return open_fd(kind, source)
    if isinstance(source, int):
        what = f"{kind} id {source}"
        return FileDescriptor(_BY_ID[kind](source), what)
    return open_pin(kind, source)


def _checked(kind: str, fd: FileDescriptor, name: str) -> FileDescriptor:
    """Make sure of the kind: info about another one would be taken for that of this one."""
    try:
        text = door.read_file(f"/proc/self/fdinfo/{fd.fileno()}")
    except OSError:
        return fd  # without /proc the caller is believed
    except BaseException:
        fd.close()
        raise
    if _MARKS[kind] in text:
        return fd
    fd.close()
    found = next((other for other, mark in _MARKS.items() if mark in text), "no BPF object")
    raise BpfError(f"{name} is not a BPF {kind}, it is {'a ' * (found in _MARKS)}{found}")


class Handle:
    """A map, program or link that is open in this process.

    A context manager: leaving it closes it.
    """

    _kind: ClassVar[str]
    _fd: FileDescriptor
    pin_path: str | None

    @classmethod
    def ids(cls) -> Iterator[int]:
        """Ids of all that there are in the kernel, ascending (Linux 4.13; links 5.8).

        They come and go meanwhile: opening one by its id may fail with ENOENT.

        Raises:
            NotPermittedError: Without CAP_SYS_ADMIN.
        """
        return bpf.iter_ids("prog" if cls._kind == "program" else cls._kind)

    @classmethod
    def from_pin(cls, path: str | os.PathLike[str]) -> Self:
        """Open what is pinned at a path (maps and programs Linux 4.4, links 5.7).

        Raises:
            KernelError: Nothing is there, or it may not be opened.
            BpfError: It is of another kind.
        """
        made = cls._of(open_pin(cls._kind, path))
        made.pin_path = os.fspath(path)
        return made

    @classmethod
    def from_id(cls, number: int) -> Self:
        """Open one by its id (maps and programs Linux 4.13, links 5.8; CAP_SYS_ADMIN).

        Raises:
            KernelError: There is none with that id, or it may not be opened.
        """
        return cls._of(open_by(cls._kind, number))

    @classmethod
    def all(cls) -> Iterator[Self]:
        """All that there are in the kernel, by ascending ids; what goes meanwhile is left out.

        So are programs and maps that were given to a network card which is gone.

        Each is closed when the next one is asked for.

        Raises:
            NotPermittedError: Without CAP_SYS_ADMIN.
        """
        for number in cls.ids():
            try:
                found = cls.from_id(number)
            except KernelError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
                continue
            with found:
                yield found

    @classmethod
    @abstractmethod
    def _of(cls, fd: FileDescriptor) -> Self:
        """Make one of a descriptor, which it owns; the kernel tells what it is."""

    @abstractmethod
    def close(self) -> None:
        """Close it. Closing again does nothing."""

    def fileno(self) -> int:
        """Return the file descriptor.

        Raises:
            ValueError: It is closed.
        """
        return self._fd.fileno()

    def fdinfo(self) -> dict[str, str]:
        """What ``/proc/self/fdinfo`` says of it, such as ``memlock`` (bytes) and ``frozen``.

        Returns:
            Values by name; nothing where ``/proc`` is not mounted.
        """
        return fdinfo(f"/proc/self/fdinfo/{self.fileno()}")

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
