"""Links: what attaches a program, and detaches it when closed."""

from __future__ import annotations

import errno
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pybpfload.errors import BpfError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, bpffs, door, perf, probe
from pybpfload.kernel.probe import Feature
from pybpfload.runtime.handles import Handle, open_by

if TYPE_CHECKING:
    import io
    import os
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

    from pybpfload.kernel.fd import FileDescriptor
    from pybpfload.runtime.handles import HasFileno

__all__ = ["Link"]


class Link(Handle):
    """An attachment. Closing it detaches; an :class:`Object` closes the links of its programs.

    It need not be kept: its program holds it (:attr:`Program.links`) until one of them is closed.
    A link without such a program, as of :meth:`from_id`, warns with ``ResourceWarning`` when it is
    dropped without being closed, because what it alone attaches ends with it.

    Args:
        fd: The link; before Linux 5.15 the perf event, where there is one. Owned by the link from
            now on.
        kind: As below.
        target: As below.
        program: As below.
        event: The perf event that a program is attached to, if there is one; owned, too.
        cleanup: What remains to be done when all is closed, unless the link is pinned.

    Attributes:
        kind: Family of the attachment, as libbpf names it: ``trace``, ``raw_tp``, ``tp``, ``lsm``,
            ``iter``, ... Of a link that was made elsewhere, as the kernel names it:
            ``tracing``, ``raw_tracepoint``, ``perf_event``, ``iter``, ...
        target: What it is attached to, for people; of a link that was made elsewhere, as far as the
            kernel tells.
        program: Name of the program; its id when the link was made elsewhere.
        pin_path: Where it is pinned, or ``None``.
    """

    _kind = "link"

    def __init__(
        self,
        fd: FileDescriptor,
        *,
        kind: str,
        target: str,
        program: str,
        event: FileDescriptor | None = None,
        cleanup: Callable[[], None] | None = None,
    ) -> None:
        self._fd = fd
        self._event = event
        self._cleanup = cleanup
        self.kind = kind
        self.target = target
        self.program = program
        self.pin_path: str | None = None

    @classmethod
    def _of(cls, fd: FileDescriptor) -> Self:
        try:
            info = bpf.link_info(fd.fileno())
        except BaseException:
            fd.close()
            raise
        return cls(fd, kind=info.type.name.lower(), target=info.place, program=f"id {info.prog_id}")

    @classmethod
    def of_program(cls, program: HasFileno | int) -> list[Self]:
        """All links of a program, whoever made them (Linux 5.8, CAP_SYS_ADMIN).

        Attachments that are no links for the kernel are not among them; of those in a network
        device, control group and the like :func:`pybpfload.attached` tells.

        Args:
            program: Anything with ``fileno()``, or the program's id.

        Returns:
            Links of this process' own, to be closed; that detaches what nobody else holds.

        Raises:
            NotPermittedError: This process may not look.
        """
        wanted = program if isinstance(program, int) else bpf.prog_info(program.fileno()).id
        found: list[Self] = []
        try:
            for number in cls.ids():
                try:
                    link = cls._if_of(wanted, number)
                except KernelError as error:
                    if error.errno != errno.ENOENT:  # it is gone by now
                        raise
                else:
                    found += [link] if link is not None else []
        except BaseException:
            for link in found:
                link.close()
            raise
        return found

    @classmethod
    def _if_of(cls, program: int, number: int) -> Self | None:
        with ExitStack() as stack:
            fd = stack.enter_context(open_by("link", number))
            if bpf.link_info(fd.fileno(), details=False).prog_id != program:
                return None
            stack.pop_all()
        return cls._of(fd)

    @contextmanager
    def _explaining(self, hints: dict[int, str]) -> Iterator[None]:
        """Name the link in errors of the kernel, and say what they mean."""
        try:
            yield
        except KernelError as error:
            error.target = f"{self.kind} link of program {self.program}"
            error.hint = error.hint or hints.get(error.errno or 0)
            raise

    def _require_link(self, what: str) -> None:
        """Insist on a link of the kernel's.

        Raises:
            NotSupportedError: There is only a perf event.
        """
        if self._event is not None and self._event is self._fd:
            chosen = probe.has(Feature.PERF_LINK)
            why = "it was attached without a link" if chosen else "this kernel has no such links"
            raise NotSupportedError(
                f"{self!r} {what}: {why}",
                feature="perf event links",
                since=None if chosen else "5.15",
            )

    def info(self) -> bpf.LinkInfo:
        """Ask the kernel about it (``BPF_OBJ_GET_INFO_BY_FD``, links since Linux 5.8).

        Returns:
            The record of its kind in :mod:`pybpfload.lowlevel`: ``XdpLinkInfo``,
            ``KprobeMultiLinkInfo``, ...

        Raises:
            NotSupportedError: The attachment is not a link for this kernel (perf events before
                5.15, and what is attached without links).
        """
        self._require_link("has no info")
        with self._explaining({}):
            return bpf.link_info(self.fileno())

    def detach(self) -> None:
        """Detach at once but keep the link (``BPF_LINK_DETACH``, Linux 5.9).

        Raises:
            KernelError: Links of this kind can only be closed (tracing, raw_tp, perf event and
                iterator links).
            NotSupportedError: As :meth:`info`.
        """
        self._require_link("detaches when it is closed")
        with self._explaining({errno.EOPNOTSUPP: "links of this kind detach when they are closed"}):
            bpf.link_detach(self.fileno())

    def open_iter(self) -> io.BufferedReader:
        """Run the iterator program once and return its output as a binary file object.

        Every call is a new run. The file can be read after the link is closed.

        Raises:
            KernelError: EINVAL: this is not the link of an iterator.
        """
        from pybpfload.runtime.attach.iter import read_link

        with self._explaining({errno.EINVAL: "only links of iterators can be read"}):
            return read_link(self)

    def iter(self) -> Iterator[str]:
        """Run the iterator program once and yield its output by lines, without their newlines.

        Raises:
            KernelError: As :meth:`open_iter`.
        """
        from pybpfload.runtime.attach.iter import lines

        return lines(self.open_iter())

    def update(self, program: HasFileno, *, old: HasFileno | None = None) -> None:
        """Put another program in its place (``BPF_LINK_UPDATE``, Linux 5.7).

        The link goes on to be closed with the program that made it.

        Args:
            program: The new program: anything with ``fileno()``.
            old: The program that must be there, else nothing is changed.

        Raises:
            KernelError: Links of this kind cannot be updated (only those of control groups,
                network namespaces, XDP, tcx, netkit, maps of sockets, iterators and struct_ops
                can), or ``old`` is not the one there.
            NotSupportedError: As :meth:`info`.
        """
        self._require_link("cannot be updated")
        if self.kind == "struct_ops":
            self._refuse_itself(program)
        old_fd = 0 if old is None else old.fileno()
        refused = "links of this kind cannot be updated, or not with such a program"
        with self._explaining({errno.EINVAL: refused, errno.EOPNOTSUPP: refused}):
            bpf.link_update(self.fileno(), program.fileno(), old_fd=old_fd)
        self.program = getattr(program, "name", None) or self.program

    def _refuse_itself(self, table: HasFileno) -> None:
        """A struct_ops table must not take its own place.

        Linux 6.18 (``tcp_update_congestion_control()``) then adds it to its list a second time, and
        the process dies with the lock held.
        """
        mine = getattr(self.info(), "map_id", None)
        if mine == bpf.map_info(table.fileno()).id:
            raise BpfError(f"struct_ops {self.target}: this table is the one that is registered")

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Keep the attachment beyond this process, as a file on a bpffs (Linux 5.7).

        Args:
            path: Where. A missing folder is made (mode 0700), but only one.

        Raises:
            BpfError: It is pinned already.
            KernelError: EEXIST: something is there; EINVAL: the folder is not on a bpffs.
            NotSupportedError: The attachment is not a link for this kernel (perf events before
                5.15).
        """
        if self.pin_path is not None and door.exists(self.pin_path):
            raise BpfError(f"{self!r} is pinned already at {self.pin_path}")
        self._require_link("cannot be pinned")
        self.pin_path = bpffs.pin(self.fileno(), path)

    def unpin(self) -> None:
        """Remove the pin; the attachment stays as long as this link is open.

        Raises:
            BpfError: It is not pinned.
            KernelError: ENOENT: somebody else has removed it; it counts as not pinned then.
        """
        if self.pin_path is None:
            raise BpfError(f"{self!r} is not pinned")
        try:
            bpffs.unpin(self.pin_path)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                self.pin_path = None
            raise
        self.pin_path = None

    def close(self) -> None:
        """Detach, unless it is pinned. Closing again does nothing.

        Raises:
            KernelError: The kernel did not want to stop the perf event; all is closed even so.
        """
        event, self._event = self._event, None
        cleanup, self._cleanup = self._cleanup, None
        try:
            # A pinned link goes on to need its event; others may have inherited this one by fork().
            if event is not None and self.pin_path is None and not self._fd.closed:
                perf.disable(event.fileno())
        finally:
            if event is not None:
                event.close()
            self._fd.close()
            if cleanup is not None and self.pin_path is None:
                cleanup()

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}Link {self.kind} {self.program} -> {self.target}>"
