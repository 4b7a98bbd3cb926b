"""Programs of sockets and of maps of sockets.

Source of the rules: ``man 7 socket``; libbpf, ``bpf_program__attach_sockmap()``;
``Documentation/bpf/map_sockmap.rst``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.attach.common import LegacyLink, create_link, explain
from pybpfload.runtime.handles import duplicate
from pybpfload.uapi import ProgType, name_of

if TYPE_CHECKING:
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
    errno.EBUSY: "the map has such a program already, or one that excludes it",
}


def attach(
    program: Program, loaded_for: AttachTarget, target: Any, *, link: bool | None = None
) -> Link:
    """Attach to a socket (socket filters, reuseport) or to a map of sockets (sk_msg, sk_skb).

    Args:
        program: The program.
        loaded_for: Unused: the target is chosen at attach.
        target: The socket or map: anything with ``fileno()``, or a descriptor.
        link: Maps: ``True``: only by a link (Linux 6.10); ``False``: without one. Sockets have
            none: the socket stays open as long as the link, closing the link takes away whichever
            program of the kind is there, and if the process is killed the socket's end is that of
            the attachment.

    Raises:
        AttachError: No socket or map is given.
        NotSupportedError: The kernel has no links of sockmaps, and only one was allowed.
        KernelError: The kernel refuses.
    """
    in_map = program.spec.prog_type in _IN_MAPS
    kind = "map of sockets" if in_map else "socket"
    if not isinstance(target, int) and not hasattr(target, "fileno"):
        raise AttachError(f"it attaches to a {kind}: give one", program=program.name)
    held = duplicate(target, kind)
    try:
        if not in_map:
            if link:
                raise NotSupportedError(
                    f"program {program.name}: sockets have no links", feature="links of sockets"
                )
            return _to_socket(program, held)
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


def _to_socket(program: Program, held: Any) -> Link:
    attach_option, detach_option = _OPTIONS[program.spec.prog_type]
    result = door.set_socket_option(held.fileno(), attach_option, program.fileno())
    if result < 0:
        hint = None
        if program.spec.prog_type == ProgType.SK_REUSEPORT and result == -errno.EINVAL:
            hint = "set SO_REUSEPORT on the socket and bind it first"
        raise kernel_error(result, "setsockopt", f"program {program.name} to socket", hint=hint)

    def undo(_: int) -> None:
        found = door.set_socket_option(held.fileno(), detach_option, 0)
        if found < 0 and found != -errno.ENOENT:
            raise kernel_error(found, "setsockopt", f"program {program.name} of socket")

    kind = name_of(program.spec.prog_type)
    return LegacyLink(program, kind=kind, target=held.what, undo=undo, held=held)


def _to_map(program: Program, held: Any) -> Link:
    attach_type = program.spec.expected_attach_type
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

    return LegacyLink(program, kind="sockmap", target=held.what, undo=undo, held=held)
