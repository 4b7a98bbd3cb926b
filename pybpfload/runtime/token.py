"""Making a BPF token from a BPF filesystem that delegates rights (Linux 6.9).

Source of the rules: libbpf, ``bpf_object_prepare_token()``.
"""

from __future__ import annotations

import errno
import os

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf, bpffs, door, probe
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.token import Token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["VARIABLE", "find_token"]

VARIABLE = "LIBBPF_BPF_TOKEN_PATH"
"""Environment variable with the path of a BPF filesystem; empty to do without tokens."""

_REASONS = {
    errno.ENOENT: "it delegates nothing; mount it with delegate_cmds, delegate_maps, "
    "delegate_progs and delegate_attachs",
    errno.EINVAL: "it is not the root of a BPF filesystem",
    errno.EOPNOTSUPP: "tokens are for processes in a user namespace, this one is in the first",
    errno.EPERM: "this process needs CAP_BPF in its user namespace, which must be the one that the "
    "filesystem was mounted for",
}
# Why there is usually none, which nobody wants to know.
_USUAL = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTDIR)


def find_token(
    path: str | os.PathLike[str] | bool | None, note: Callable[[BaseException], None]
) -> Token | None:
    """Make a token, where there is something to make it of.

    Args:
        path: A BPF filesystem, from which it must be possible; ``False`` or ``""`` for no token.
            ``None``: what :data:`VARIABLE` says, as if it were given here; if that is not set, the
            one at ``/sys/fs/bpf``, if possible. ``True``: that one, and it must be possible.
        note: Is told why ``/sys/fs/bpf`` gave none, if that is remarkable.

    Returns:
        The token, which the caller closes.

    Raises:
        NotSupportedError: The kernel has no tokens.
        KernelError: It is not possible; says why.
    """
    if path is None:
        path = os.environ.get(VARIABLE)
    if path is None:
        try:
            return _make(bpffs.DEFAULT)
        except KernelError as error:
            if error.errno not in _USUAL:
                note(error)
            return None
    if path is False or path == "":
        return None
    where = bpffs.DEFAULT if path is True else os.fspath(path)
    probe.require(Feature.TOKEN, f"token of {where}")
    return _make(where)


def _make(path: str) -> Token:
    try:
        directory = door.open_fd(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", path) from None
    try:
        return Token(FileDescriptor(bpf.token_create(directory), f"token of {path}"), path)
    except KernelError as error:
        error.target = path
        error.hint = _REASONS.get(error.errno or 0, error.hint)
        raise
    finally:
        door.close(directory)
