"""BPF tokens (Linux 6.9): what a BPF filesystem delegates to a user namespace.

Whoever mounts the filesystem names the commands, map types, program types and attach types that it
delegates. A process in the user namespace that owns it makes a token of it, and shows that with
every command that needs a privilege.

Which token is shown belongs to the code that runs (:func:`shown`), not to every function between
the loader and the system call: loading, feature probes and attaching all have to show it.

Source of the rules: the kernel's ``token.c``, ``map_create()`` and ``bpf_prog_load()``. A command
whose token lacks a bit is carried out as if there were none, so it ends in EPERM.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from contextvars import ContextVar

from pybpfload.kernel import door
from pybpfload.uapi import AttachType, Cmd, MapFlag, MapType, ProgType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pybpfload.kernel.attrs import Attr
    from pybpfload.kernel.fd import FileDescriptor

__all__ = ["Token", "current", "lacking", "show", "shown"]

_DELEGATED = ("cmds", "maps", "progs", "attachs")
_ALL = (1 << 64) - 1

# Command -> where its attribute has the flag that there is a token, and the token.
_FIELDS = {
    Cmd.MAP_CREATE: ("map_flags", "map_token_fd"),
    Cmd.PROG_LOAD: ("prog_flags", "prog_token_fd"),
    Cmd.BTF_LOAD: ("btf_flags", "btf_token_fd"),
    Cmd.BTF_GET_FD_BY_ID: ("open_flags", "token_fd"),
}

_current: ContextVar[Token | None] = ContextVar("token", default=None)


class Token:
    """A token, and what it stands for.

    Args:
        fd: The token, owned by this object from now on.
        path: The BPF filesystem that it was made of.

    Attributes:
        path: As above.
        features: What probes found out with this token (:mod:`pybpfload.kernel.probe`).
    """

    def __init__(self, fd: FileDescriptor, path: str) -> None:
        self.path = path
        self.features: dict[Any, Any] = {}
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor's number.

        Raises:
            ValueError: It is closed.
        """
        return self._fd.fileno()

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._fd.closed

    def close(self) -> None:
        """Close it; what was loaded with it stays. Closing again does nothing."""
        self._fd.close()

    def allowed(self) -> dict[str, int]:
        """What it delegates: ``cmds``, ``maps``, ``progs`` and ``attachs`` with a bit for each.

        Bit N stands for number N of :class:`~pybpfload.uapi.Cmd`, ``MapType``, ``ProgType``,
        ``AttachType``. Read from ``/proc/self/fdinfo``; all bits where that cannot be read.
        """
        try:
            text = door.read_file(f"/proc/self/fdinfo/{self.fileno()}").decode(errors="replace")
        except OSError:
            text = ""
        pairs = (line.partition(":") for line in text.splitlines())
        masks = {name: mask for name, _, mask in pairs}
        return {kind: _mask(masks.get(f"allowed_{kind}", "")) for kind in _DELEGATED}

    def __repr__(self) -> str:
        return f"<{'closed ' * self.closed}Token of {self.path}>"


def _mask(text: str) -> int:
    try:
        return int(text.strip(), 16)
    except ValueError:
        return _ALL  # "any"


@contextmanager
def shown(token: Token | None) -> Iterator[None]:
    """Show a token, or none, with every command that takes one, in this thread, for a while."""
    before = _current.set(token)
    try:
        yield
    finally:
        _current.reset(before)


def current() -> Token | None:
    """The token that is shown now."""
    return _current.get()


def show(attr: Attr) -> None:
    """Put the token that is shown now into an attribute, unless there is one, or it takes none."""
    token = _current.get()
    if token is None or attr.command not in _FIELDS:
        return
    flags, place = _FIELDS[attr.command]
    if attr[flags] & MapFlag.TOKEN_FD:
        return
    fields = attr.layout.fields
    struct.pack_into("=I", attr.data, fields[flags][1], attr[flags] | MapFlag.TOKEN_FD)
    struct.pack_into("=i", attr.data, fields[place][1], token.fileno())
    attr.size = max(attr.size, fields[place][1] + 4)


def lacking(attr: Attr) -> str | None:
    """What the token shown now does not delegate of a command that the kernel refused.

    Returns:
        A sentence with the mount option that would; ``None`` if it has it all, or none is shown.
    """
    token = _current.get()
    if token is None or token.closed or attr.command not in _FIELDS:
        return None
    allowed = token.allowed()
    for kind, what, number, name in _needed(attr):
        if not allowed[kind] >> number & 1:
            return (
                f"the BPF token of {token.path} does not delegate the {what} {name}; that "
                f"filesystem must be mounted with {name} in delegate_{kind}"
            )
    return None


def _needed(attr: Attr) -> Iterator[tuple[str, str, int, str]]:
    """The bits that a command needs: kind, word for people, number, the mount option's name."""
    yield "cmds", "command", attr.command, Cmd(attr.command).name.lower()
    if attr.command == Cmd.MAP_CREATE:
        number = attr["map_type"]
        yield "maps", "map type", number, MapType(number).name.lower()
    elif attr.command == Cmd.PROG_LOAD:
        number = attr["prog_type"]
        yield "progs", "program type", number, ProgType(number).name.lower()
        # Asked for whatever the program type: where it has no attach types, number 0.
        number = attr["expected_attach_type"]
        yield "attachs", "attach type", number, AttachType(number).name.lower()
