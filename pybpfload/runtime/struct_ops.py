"""struct_ops: tables of functions for the kernel, registered from maps (Linux 5.6).

Source of the rules: libbpf, ``bpf_map__attach_struct_ops()``, ``bpf_link__update_map()``.
"""

from __future__ import annotations

import errno
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pybpfload.errors import BpfError, KernelError
from pybpfload.kernel import bpf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import LegacyLink
from pybpfload.runtime.link import Link
from pybpfload.runtime.map import Map
from pybpfload.uapi import AttachType, MapFlag

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pybpfload.relocate import StructOpsValue
    from pybpfload.runtime.handles import HasFileno
    from pybpfload.runtime.program import Program

__all__ = ["StructOpsLink", "StructOpsMap"]

_KEY = bytes(4)
# What the kernel and the owner of the struct mean when a table is registered, and when it replaces
# another one that is in use.
_REGISTER_HINTS = {
    errno.EEXIST: "something of that name is registered already, or this table is",
    errno.EBUSY: "the table is registered already, or only one of its kind can be",
    errno.EINVAL: "the kernel wants a member that is not set, or does not like a value",
    524: "the kernel's compiler of BPF programs has no trampolines, which struct_ops need",
}
_UPDATE_HINTS = {
    errno.EINVAL: "the new table is of another kind or has another name, or the kernel does not "
    "like a value",
    errno.ENOLINK: "the link is detached: the kernel, or the table's owner, has taken it back",
    errno.EOPNOTSUPP: "tables of this kind cannot be replaced while they are in use; "
    "close the link and attach the other one",
}


class StructOpsMap(Map[int, Any]):
    """A map whose value is a table of functions that the kernel calls once it is registered.

    Its value, ``m[0]``, is the kernel's struct: what the kernel says of the table's state, and the
    table.

    Attributes:
        contents: The value to be registered, with descriptors of programs in place of functions.
        links: What :meth:`attach` made and was not closed.
    """

    def __init__(self, fd: FileDescriptor, **described: Any) -> None:
        super().__init__(fd, **described)
        self.contents = bytearray()
        self.links: list[Link] = []

    def fill(self, value: StructOpsValue, programs: Mapping[int, Program]) -> None:
        """Put the loaded programs into the value.

        Args:
            value: The value as the kernel wants it, without programs.
            programs: Loaded programs by ``id()`` of their spec.

        Raises:
            BpfError: One of them was not loaded.
        """
        self.contents = bytearray(value.contents)
        for member in value.members:
            loaded = programs.get(id(member.program))
            if loaded is None:
                raise BpfError(f"map {self.name}: its program {member.program.name} was not loaded")
            # A pointer's place, of which the kernel reads a descriptor.
            self.contents[member.offset : member.offset + 8] = loaded.fileno().to_bytes(
                8, sys.byteorder
            )

    def attach(self) -> Link:
        """Register the table: by a link for sections ``.struct_ops.link`` (Linux 6.4).

        Without a link it is registered until :meth:`Link.close`, also beyond the process that is
        killed before: then ``pybpfload map del ID 0`` takes it back.

        Raises:
            KernelError: The kernel refuses; EEXIST: that name is taken.
        """
        by_link = bool(self.flags & MapFlag.LINK)
        if not by_link:
            link: Link = LegacyLink(
                self,
                kind="struct_ops",
                target=self.name,
                do=lambda: self.register(again=False),
                undo=_unregister,
            )
        else:
            self.register(again=True)
            try:
                fd = bpf.link_create(self.fileno(), 0, AttachType.STRUCT_OPS)
            except KernelError as error:
                raise self._explained(error) from None
            link = StructOpsLink(
                FileDescriptor(fd, f"link of {self.name}"),
                kind="struct_ops",
                target=self.name,
                program=self.name,
            )
        self.links = [*(known for known in self.links if not known.closed), link]
        return link

    def register(self, *, again: bool) -> None:
        """Write the value, which registers a table that has no link.

        Args:
            again: Whether it may be written already, as for a second link.

        Raises:
            KernelError: The kernel refuses.
        """
        try:
            bpf.map_update_elem(self.fileno(), _KEY, self.contents)
        except KernelError as error:
            if not (again and error.errno == errno.EBUSY):
                raise self._explained(error) from None

    def _explained(self, error: KernelError) -> KernelError:
        error.target = f"struct_ops {self.name}"
        error.hint = _REGISTER_HINTS.get(error.errno or 0) or error.hint
        return error

    def close(self) -> None:
        """Take it back and close it; again does nothing."""
        with ExitStack() as stack:  # whatever fails, all the others are closed
            stack.callback(super().close)
            for link in self.links:
                stack.callback(link.close)


def _unregister(fd: int) -> None:
    try:
        bpf.map_delete_elem(fd, _KEY)
    except KernelError as error:
        if error.errno not in (errno.ENOENT, errno.EINPROGRESS):  # it is gone, or going
            raise


class StructOpsLink(Link):
    """A registered table; closing it takes the table back."""

    def update(self, program: HasFileno, *, old: HasFileno | None = None) -> None:
        """Put another table in its place while it is in use (Linux 6.4).

        Args:
            program: A :class:`StructOpsMap` of the same kind, loaded and not registered.
            old: The map that must be there, else nothing is changed.

        Raises:
            BpfError: The map is not of a ``.struct_ops.link`` section, or it is the one that is
                registered.
            KernelError: The kernel cannot do that for this kind of table, or with this one.
        """
        self._refuse_itself(program)
        if isinstance(program, StructOpsMap):
            if not program.flags & MapFlag.LINK:  # writing its value would register it for good
                raise BpfError(
                    f"struct_ops {program.name} has no link and cannot take the place of "
                    f'{self.target}; declare it in SEC(".struct_ops.link")'
                )
            program.register(again=True)
        with self._explaining(_UPDATE_HINTS):
            bpf.link_update(
                self.fileno(), program.fileno(), old_fd=0 if old is None else old.fileno()
            )
