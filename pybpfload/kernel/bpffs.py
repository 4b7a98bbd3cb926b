"""Names in a BPF filesystem."""

from __future__ import annotations

import errno
import os
import posixpath

from pybpfload.kernel import door
from pybpfload.kernel.cmd_obj import obj_pin
from pybpfload.kernel.errors import kernel_error

__all__ = ["BPF_FS_MAGIC", "DEFAULT", "is_bpffs", "pin", "prepare_parent", "unpin"]

BPF_FS_MAGIC = 0xCAFE4A11
"""``f_type`` of a BPF filesystem."""
DEFAULT = "/sys/fs/bpf"
"""Where it is mounted usually."""


def is_bpffs(path: str) -> bool:
    """Whether an existing file or directory is in a BPF filesystem.

    Raises:
        KernelError: It does not exist or cannot be looked at.
    """
    try:
        return door.filesystem_type(path) == BPF_FS_MAGIC
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "statfs", path) from None


def prepare_parent(path: str) -> None:
    """Make sure that an object can be pinned at ``path``: its directory is in a BPF filesystem.

    A missing directory is made (mode 0700), but not the one above it.

    Args:
        path: Where the object is to be pinned.

    Raises:
        KernelError: The directory cannot be made, or is elsewhere (EINVAL).
    """
    parent = posixpath.dirname(path) or "."
    if not door.exists(parent):
        above = posixpath.dirname(parent.rstrip("/")) or "."
        if door.exists(above) and not is_bpffs(above):
            raise _elsewhere(path, parent)
        try:
            door.make_dir(parent, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise kernel_error(error.errno or errno.EIO, "mkdir", parent) from None
    if not is_bpffs(parent):
        raise _elsewhere(path, parent)


def pin(fd: int, path: str | os.PathLike[str]) -> str:
    """Give a map, program or link a name, which keeps it alive.

    Args:
        fd: The object.
        path: Where. A missing directory is made (mode 0700), but only one.

    Returns:
        The path as a string.

    Raises:
        KernelError: EEXIST: something is there; EINVAL: not a BPF filesystem; and others.
    """
    where = os.fspath(path)
    prepare_parent(where)
    obj_pin(fd, where)
    return where


def unpin(path: str | os.PathLike[str]) -> None:
    """Remove a name, and nothing that is not in a BPF filesystem.

    Raises:
        KernelError: ENOENT: nothing is there; EINVAL: not a BPF filesystem; and others.
    """
    where = os.fspath(path)
    if not is_bpffs(posixpath.dirname(where) or "."):
        raise kernel_error(errno.EINVAL, "unlink", where, hint="it is not in a BPF filesystem")
    try:
        door.unlink(where)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "unlink", where) from None


def _elsewhere(path: str, parent: str) -> Exception:
    hint = f"{parent} is not in a BPF filesystem"
    if parent == DEFAULT or parent.startswith(DEFAULT + "/"):
        hint += f"; mount it: mount -t bpf bpf {DEFAULT}"
    else:
        hint += f"; pin below {DEFAULT} (mount -t bpf bpf {DEFAULT}, if it is not mounted)"
    return kernel_error(errno.EINVAL, "BPF_OBJ_PIN", path, hint=hint)
