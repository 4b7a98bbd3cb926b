"""BTF objects that the kernel holds, and what uses them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf
from pybpfload.kernel.btf import of_id
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.linkinfo import TracingLinkInfo
from pybpfload.uapi import AttachType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from pybpfload.btf import Btf

    Info = TypeVar("Info")

__all__ = ["LoadedBtf", "loaded_btf"]


class LoadedBtf(NamedTuple):
    """A BTF object of the running kernel.

    Attributes:
        id: Its id.
        name: ``"vmlinux"``, the module's name, or ``""`` of what programs brought (Linux 5.11).
        size: Of its own types and strings, without those of its base, bytes.
        kernel: Whether it is of the kernel or a module (Linux 5.11).
        prog_ids: Programs that were loaded with it, ascending.
        map_ids: Maps whose keys and values it has the types of, ascending.
        link_ids: Links that attach a program to a function or tracepoint of it (fentry, tp_btf,
            LSM, ...; Linux 5.13), ascending.
    """

    id: int
    name: str
    size: int
    kernel: bool
    prog_ids: list[int]
    map_ids: list[int]
    link_ids: list[int]

    def types(self) -> Btf:
        """Its types.

        Raises:
            KernelError: It is gone, or may not be read.
            FormatError: It is damaged.
        """
        return of_id(self.id)


def loaded_btf() -> list[LoadedBtf]:
    """All BTF objects of the running kernel, by ascending ids (Linux 5.4, CAP_SYS_ADMIN).

    Raises:
        NotPermittedError: Without CAP_SYS_ADMIN.
    """
    programs = _infos("prog", bpf.prog_get_fd_by_id, lambda fd: bpf.prog_info(fd, arrays=False))
    maps = _infos("map", bpf.map_get_fd_by_id, bpf.map_info)
    links = _infos("link", bpf.link_get_fd_by_id, bpf.link_info)
    with_programs = [(each.btf_id, each.id) for each in programs]
    with_maps = [(each.btf_id, each.id) for each in maps]
    with_links = [
        (each.target_obj_id, each.id)
        for each in links
        # Of freplace, which has no attach type, it is the id of a program.
        if isinstance(each, TracingLinkInfo) and each.attach_type != AttachType(0)
    ]
    return [
        LoadedBtf(
            each.id,
            each.name,
            each.btf_size,
            each.kernel_btf,
            *([user for of, user in users if of == each.id]
              for users in (with_programs, with_maps, with_links)),
        )
        for each in _infos("btf", bpf.btf_get_fd_by_id, lambda fd: bpf.btf_info(fd, data=False))
    ]  # fmt: skip


def _infos(kind: str, opened: Callable[[int], int], info: Callable[[int], Info]) -> Iterator[Info]:
    """What the kernel tells about all objects of a kind; what goes meanwhile is left out."""
    try:
        for number in bpf.iter_ids(kind):
            try:
                fd = FileDescriptor(opened(number), f"{kind} id {number}")
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
                continue
            with fd:
                yield info(fd.fileno())
    except KernelError as error:
        if kind != "link" or error.errno != errno.EINVAL:  # no links before Linux 5.8
            raise
