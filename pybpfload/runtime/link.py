"""Links: what attaches a program, and detaches it when closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError
from pybpfload.kernel import bpf, bpffs, door
from pybpfload.kernel.fd import FileDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Link"]


class Link:
    """An attachment. Closing it detaches; an :class:`Object` closes the links of its programs.

    Dropping the last reference to a link that nobody closed warns with ``ResourceWarning``, because
    the attachment ends with it; call :meth:`pin` or keep the link to stay attached.

    Attributes:
        kind: Family of the attachment, as libbpf names it: ``trace``, ``raw_tp``, ``tp``, ``lsm``,
            ``iter``, ...
        target: What it is attached to, for people.
        program: Name of the program.
        pin_path: Where it is pinned, or ``None``.
    """

    def __init__(
        self,
        fd: FileDescriptor,
        *,
        kind: str,
        target: str,
        program: str,
        cleanup: Callable[[], None] | None = None,
    ) -> None:
        self._fd = fd
        self._cleanup = cleanup
        self.kind = kind
        self.target = target
        self.program = program
        self.pin_path: str | None = None

    @classmethod
    def from_pin(cls, path: str) -> Link:
        """Open a pinned link.

        Raises:
            KernelError: There is none at that path.
        """
        fd = FileDescriptor(bpf.obj_get(path), f"link {path}")
        try:
            link = cls._of(fd)
        except BaseException:
            fd.close()
            raise
        link.pin_path = path
        return link

    @classmethod
    def from_id(cls, link_id: int) -> Link:
        """Open a link by its id (Linux 5.8).

        Raises:
            KernelError: There is none with that id.
        """
        fd = FileDescriptor(bpf.link_get_fd_by_id(link_id), f"link id {link_id}")
        try:
            return cls._of(fd)
        except BaseException:
            fd.close()
            raise

    @classmethod
    def _of(cls, fd: FileDescriptor) -> Link:
        info = bpf.link_info(fd.fileno())
        return cls(fd, kind=info.type.name.lower(), target="", program=f"id {info.prog_id}")

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._fd.fileno()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._fd.closed

    def info(self) -> Any:
        """Ask the kernel about it (``BPF_OBJ_GET_INFO_BY_FD``, links since Linux 5.8).

        Raises:
            KernelError: The attachment is not a link for this kernel (perf events before 5.15).
        """
        return bpf.link_info(self.fileno())

    def detach(self) -> None:
        """Detach at once but keep the link (``BPF_LINK_DETACH``, Linux 5.9).

        Raises:
            KernelError: Links of this kind can only be closed (tracing, raw_tp, perf event and
                iterator links).
        """
        bpf.link_detach(self.fileno())

    def update(self, program: Any, *, old: Any = None) -> None:
        """Put another program in its place (``BPF_LINK_UPDATE``, Linux 5.7).

        Args:
            program: The new program: anything with ``fileno()``.
            old: The program that must be there, else nothing is changed.

        Raises:
            KernelError: Links of this kind cannot be updated, or ``old`` is not the one there.
        """
        if old is None:
            bpf.link_update(self.fileno(), program.fileno())
        else:
            bpf.link_update(self.fileno(), program.fileno(), flags=4, old_fd=old.fileno())

    def pin(self, path: str) -> None:
        """Keep the attachment beyond this process, as a file on a bpffs.

        Raises:
            BpfError: It is pinned already, or the folder is not on a bpffs.
        """
        if self.pin_path is not None:
            raise BpfError(f"{self!r} is pinned already at {self.pin_path}")
        bpffs.prepare_parent(path)
        bpf.obj_pin(self.fileno(), path)
        self.pin_path = path

    def unpin(self) -> None:
        """Remove the pin; the attachment stays as long as this link is open.

        Raises:
            BpfError: It is not pinned.
        """
        if self.pin_path is None:
            raise BpfError(f"{self!r} is not pinned")
        door.unlink(self.pin_path)
        self.pin_path = None

    def close(self) -> None:
        """Detach, unless it is pinned. Closing again does nothing."""
        cleanup, self._cleanup = self._cleanup, None
        try:
            if cleanup is not None and not self._fd.closed:
                cleanup()
        finally:
            self._fd.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed " if self._fd.closed else ""
        return f"<{state}Link {self.kind} {self.program} -> {self.target}>"
