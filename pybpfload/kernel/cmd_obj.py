"""Commands of bpf(2) on objects of all kinds by path and by id."""

from __future__ import annotations

import errno

from pybpfload.kernel.attrs import layout
from pybpfload.kernel.call import call, call_fd, invoke, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "btf_get_fd_by_id",
    "btf_get_next_id",
    "iter_ids",
    "link_get_fd_by_id",
    "link_get_next_id",
    "map_get_fd_by_id",
    "map_get_next_id",
    "obj_get",
    "obj_pin",
    "prog_get_fd_by_id",
    "prog_get_next_id",
]


def obj_pin(fd: int, path: str, *, file_flags: int = 0, path_fd: int = 0) -> None:
    """``BPF_OBJ_PIN`` (4.4): give a map, program or link a name in a BPF filesystem.

    Args:
        fd: The object.
        path: Where; must not exist.
        file_flags: ``MapFlag.PATH_FD`` makes ``path`` relative to ``path_fd`` (6.5).
        path_fd: An open directory.

    Raises:
        KernelError: EEXIST, ENOENT, EPERM when it is not a BPF filesystem, and others.
    """
    call("OBJ_PIN", path, pathname=path, bpf_fd=fd, file_flags=file_flags, path_fd=path_fd)


def obj_get(path: str, *, file_flags: int = 0, path_fd: int = 0) -> int:
    """``BPF_OBJ_GET`` (4.4): open a pinned map, program or link.

    Args:
        path: Its name.
        file_flags: ``MapFlag.RDONLY`` or ``WRONLY`` for maps (4.15); ``PATH_FD`` (6.5).
        path_fd: An open directory.

    Returns:
        The descriptor, which the caller owns.

    Raises:
        KernelError: ENOENT, EACCES, EPERM when it is not a BPF object, and others.
    """
    return call_fd("OBJ_GET", path, pathname=path, file_flags=file_flags, path_fd=path_fd)


def _next_id(kind: str, start_id: int) -> int | None:
    attr = layout(f"{kind}_GET_NEXT_ID").build(start_id=start_id)
    result = invoke(attr)
    if result == -errno.ENOENT:
        return None
    if result < 0:
        raise refused(result, attr)
    return attr["next_id"]


def prog_get_next_id(start_id: int) -> int | None:
    """``BPF_PROG_GET_NEXT_ID`` (4.13): the lowest id above ``start_id``, ``None`` at the end.

    Raises:
        KernelError: EPERM without privileges.
    """
    return _next_id("PROG", start_id)


def map_get_next_id(start_id: int) -> int | None:
    """``BPF_MAP_GET_NEXT_ID`` (4.13), as :func:`prog_get_next_id`."""
    return _next_id("MAP", start_id)


def btf_get_next_id(start_id: int) -> int | None:
    """``BPF_BTF_GET_NEXT_ID`` (5.4), as :func:`prog_get_next_id`."""
    return _next_id("BTF", start_id)


def link_get_next_id(start_id: int) -> int | None:
    """``BPF_LINK_GET_NEXT_ID`` (5.8), as :func:`prog_get_next_id`."""
    return _next_id("LINK", start_id)


def iter_ids(kind: str) -> Iterator[int]:
    """All ids of one kind of object.

    Objects come and go meanwhile: opening one by its id may fail with ENOENT.

    Args:
        kind: ``"prog"``, ``"map"``, ``"btf"`` or ``"link"``.

    Raises:
        KernelError: EPERM without privileges.
        ValueError: There is no such kind.
    """
    if kind not in ("prog", "map", "btf", "link"):
        raise ValueError(f"{kind!r} is not prog, map, btf or link")
    current = _next_id(kind.upper(), 0)
    while current is not None:
        yield current
        current = _next_id(kind.upper(), current)


def prog_get_fd_by_id(number: int, *, open_flags: int = 0) -> int:
    """``BPF_PROG_GET_FD_BY_ID`` (4.13): open a program by its id.

    Raises:
        KernelError: ENOENT when there is none, EPERM without privileges.
    """
    return call_fd("PROG_GET_FD_BY_ID", f"program id {number}", id=number, open_flags=open_flags)


def map_get_fd_by_id(number: int, *, open_flags: int = 0) -> int:
    """``BPF_MAP_GET_FD_BY_ID`` (4.13), as :func:`prog_get_fd_by_id`.

    Args:
        number: The id.
        open_flags: ``MapFlag.RDONLY`` or ``MapFlag.WRONLY``.
    """
    return call_fd("MAP_GET_FD_BY_ID", f"map id {number}", id=number, open_flags=open_flags)


def btf_get_fd_by_id(number: int, *, open_flags: int = 0, token_fd: int = 0) -> int:
    """``BPF_BTF_GET_FD_BY_ID`` (4.18), as :func:`prog_get_fd_by_id`."""
    return call_fd(
        "BTF_GET_FD_BY_ID",
        f"BTF id {number}",
        id=number,
        open_flags=open_flags,
        token_fd=token_fd,
    )


def link_get_fd_by_id(number: int, *, open_flags: int = 0) -> int:
    """``BPF_LINK_GET_FD_BY_ID`` (5.8), as :func:`prog_get_fd_by_id`."""
    return call_fd("LINK_GET_FD_BY_ID", f"link id {number}", id=number, open_flags=open_flags)
