"""Programs of sockets and of maps of sockets.

Source of the rules: ``man 7 socket``; libbpf, ``bpf_program__attach_sockmap()``;
``Documentation/bpf/map_sockmap.rst``.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.attach.common import LegacyLink, create_link, explain, is_open
from pybpfload.runtime.handles import descriptor, duplicate
from pybpfload.uapi import ProgType, name_of

if TYPE_CHECKING:
    from pybpfload.runtime.handles import HasFileno
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

# Program type -> options of a socket that attach and detach (asm-generic/socket.h).
_OPTIONS = {
    ProgType.SOCKET_FILTER: (50, 27),  # SO_ATTACH_BPF 3.19, SO_DETACH_FILTER
    ProgType.SK_REUSEPORT: (52, 68),  # SO_ATTACH_REUSEPORT_EBPF 4.5, SO_DETACH_REUSEPORT_BPF 5.3
}
_IN_MAPS = (ProgType.SK_MSG, ProgType.SK_SKB)
_HINTS = {
    errno.EOPNOTSUPP: "this is no sockmap or sockhash, or the program's section does not say "
    "which of its programs it is (sk_skb/stream_verdict, sk_skb/stream_parser, sk_msg)",
    errno.EINVAL: "this is no sockmap or sockhash, or the program is not for one",
    errno.EBUSY: "the map has such a program already, or one that excludes it",
}


def attach(
    program: Program, loaded_for: AttachTarget, target: Any, *, link: bool | None = None
) -> Link:
    """Attach to a socket (socket filters, reuseport) or to a map of sockets (sk_msg, sk_skb).

    A socket has one program of a kind, and a later one takes its place. The link does not keep the
    socket open, with which the attachment ends. Closing the link takes the program away unless
    this function has put another one there since; the kernel does not tell whether somebody else
    has.

    Args:
        program: The program.
        loaded_for: Unused: the target is chosen at attach.
        target: The socket or map: anything with ``fileno()``, or a descriptor.
        link: Maps: ``True``: only by a link (Linux 6.10); ``False``: without one. Sockets have
            none.

    Raises:
        AttachError: No socket or map is given.
        NotSupportedError: The kernel has no links of sockmaps, and only one was allowed.
        KernelError: The kernel refuses.
    """
    in_map = program.spec.prog_type in _IN_MAPS
    kind = "map of sockets" if in_map else "socket"
    if not is_open(target):
        raise AttachError(f"it attaches to a {kind}: give one", program=program.name)
    if not in_map:
        if link:
            raise NotSupportedError(
                f"program {program.name}: sockets have no links", feature="links of sockets"
            )
        return _to_socket(program, target)
    held = duplicate(target, kind)
    try:
        if link is not False:
            try:
                made = create_link(
                    program,
                    held.fileno(),
                    kind="sockmap",
                    target=held.what,
                    since="6.10",
                    hints=_HINTS,
                )
            except NotSupportedError:
                if link:
                    raise
            else:
                held.close()
                return made
        return _to_map(program, held)
    except BaseException:
        held.close()
        raise


class _OnSocket:
    """Where a program on a socket is: the socket, which may be closed, and its options."""

    def __init__(self, socket: HasFileno | int, options: tuple[int, int]) -> None:
        self.socket = socket
        self.attach_option, self.detach_option = options
        self.key = (self._identity(), self.detach_option)

    def _identity(self) -> tuple[int, int]:
        """Which socket it is; another one or none after it was closed."""
        told = door.fstat(descriptor(self.socket))
        return told.st_dev, told.st_ino

    def take(self, program: Program) -> None:
        fd = descriptor(self.socket)
        result = door.set_socket_option(fd, self.attach_option, program.fileno())
        if result >= 0:
            return
        hint = None
        if program.spec.prog_type == ProgType.SK_REUSEPORT and result == -errno.EINVAL:
            hint = "set SO_REUSEPORT on the socket and bind it first"
        raise kernel_error(result, "setsockopt", f"program {program.name} to socket", hint=hint)

    def leave(self, program: str) -> None:
        try:
            if self._identity() != self.key[0]:
                return
        except (OSError, ValueError):
            return  # it is closed
        result = door.set_socket_option(descriptor(self.socket), self.detach_option, 0)
        if result < 0 and result != -errno.ENOENT:
            raise kernel_error(result, "setsockopt", f"program {program} of socket")


def _to_socket(program: Program, target: HasFileno | int) -> Link:
    try:
        place = _OnSocket(target, _OPTIONS[program.spec.prog_type])
    except OSError as error:
        what = f"program {program.name} to socket fd {descriptor(target)}"
        raise kernel_error(error.errno or errno.EBADF, "fstat", what) from None
    return LegacyLink(
        program,
        kind=name_of(program.spec.prog_type),
        target=f"socket fd {descriptor(target)}",
        undo=lambda _: place.leave(program.name),
        do=lambda: place.take(program),
        place=place.key,
    )


def _to_map(program: Program, held: Any) -> Link:
    attach_type = program.spec.expected_attach_type
    place = None
    with suppress(KernelError):  # what is no map is refused below
        place = ("sockmap", bpf.map_info(held.fileno()).id, attach_type)

    def do() -> None:
        try:
            bpf.prog_attach(program.fileno(), held.fileno(), attach_type)
        except KernelError as error:
            explain(error, program, held.what, _HINTS)
            raise

    def undo(fd: int) -> None:
        try:
            bpf.prog_detach(held.fileno(), attach_type, prog_fd=fd)
        except KernelError as error:
            if error.errno != errno.ENOENT:  # another program has taken its place
                raise

    return LegacyLink(
        program,
        kind="sockmap",
        target=held.what,
        undo=undo,
        held=held,
        do=do,
        place=place,
    )
