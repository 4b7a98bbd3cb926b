"""Netlink: a request to the kernel and its answers.

Only what attaching programs to network devices needs; the messages are described in
:mod:`pybpfload.formats.netlink`. Every request has a socket of its own, as in libbpf, so that no
answer can be taken for another's.
"""

from __future__ import annotations

import errno
import struct
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from pybpfload.formats.netlink import ALIGNMENT, NESTED, MessageFlag, MessageType, layouts
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error

if TYPE_CHECKING:
    import socket

__all__ = ["KERNEL_SAYS", "attribute", "attributes", "nest", "request", "route_socket"]

_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_HEADER_SIZE: Final = 16
_PATIENCE: Final = 10.0  # seconds; the kernel answers within the call that sends the request
_GET: Final = (MessageType.GETLINK, MessageType.GETTFILTER)
_EXT_ACK_MESSAGE: Final = 1  # NLMSGERR_ATTR_MSG, Linux 4.12

KERNEL_SAYS: Final = "the kernel says: "
"""How a hint begins that is in the kernel's own words."""


def attribute(kind: int, payload: bytes | int | str) -> bytes:
    """An attribute: type, length, payload, padding.

    Args:
        kind: Its type.
        payload: Bytes; a number, which becomes 32 bits wide; text, which gets a NUL at its end.
    """
    if isinstance(payload, str):
        payload = payload.encode() + b"\0"
    elif isinstance(payload, int):
        payload = (payload & 0xFFFFFFFF).to_bytes(4, sys.byteorder)
    made: bytes = layouts(_ORDER).attribute.build(
        {"length": 4 + len(payload), "type": kind, "payload": payload}
    )
    return made


def nest(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | NESTED, b"".join(inner))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes that follow one another in ``data``, by type; the first one of each type.

    What is cut short at the end is left out.
    """
    found: dict[int, bytes] = {}
    position = 0
    while position + 4 <= len(data):
        length, kind = struct.unpack_from(_ORDER + "HH", data, position)
        if length < 4 or position + length > len(data):
            break
        found.setdefault(kind & ~(NESTED | NESTED >> 1), data[position + 4 : position + length])
        position += _aligned(length)
    return found


def route_socket() -> socket.socket:
    """A socket for :func:`request`, which stays in the network namespace that this thread is in.

    Raises:
        KernelError: There are too many descriptors.
    """
    try:
        return door.netlink(0)
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "socket", "rtnetlink") from None


def request(
    kind: MessageType,
    body: bytes,
    *,
    flags: int = 0,
    target: str | None = None,
    protocol: int = 0,
    via: socket.socket | None = None,
) -> list[bytes]:
    """Send one message to the kernel and gather its answers.

    Args:
        kind: Type of the message.
        body: Fixed part and attributes.
        flags: Besides ``REQUEST``; without ``DUMP`` an acknowledgement is asked for as well.
        target: On what, for messages.
        protocol: Netlink protocol: 0 ``NETLINK_ROUTE``, 16 ``NETLINK_GENERIC``.
        via: A socket of that protocol; without it one in the thread's network namespace.

    Returns:
        The payload of each answer, without its header; none for a mere acknowledgement.

    Raises:
        KernelError: The kernel refuses; where it says why (since Linux 4.12), that is the hint.
    """
    operation = f"RTM_{kind.name}" if protocol == 0 else "netlink"
    dump = kind in _GET and flags & MessageFlag.DUMP == MessageFlag.DUMP
    flags |= MessageFlag.REQUEST | (0 if dump else MessageFlag.ACK)
    message = layouts(_ORDER).message.build(
        {
            "length": _HEADER_SIZE + len(body),
            "type": kind,
            "flags": flags,
            "sequence": 1,
            "port": 0,
        }
    )
    try:
        with nullcontext(via) if via is not None else door.netlink(protocol) as socket:
            socket.settimeout(_PATIENCE)
            socket.send(message + body)
            return _answers(socket, operation, target)
    except TimeoutError:
        raise kernel_error(errno.ETIMEDOUT, operation, target) from None
    except OSError as error:
        if hasattr(error, "operation"):
            raise
        raise kernel_error(error.errno or errno.EIO, operation, target) from None


def _answers(socket: socket.socket, operation: str, target: str | None) -> list[bytes]:
    found: list[bytes] = []
    while True:
        for header, payload in _messages(_datagram(socket)):
            done = header.type == MessageType.DONE
            if not done and header.type != MessageType.ERROR:
                found.append(payload)
                continue
            # A dump that fails half-way says so at its end.
            number = 0 if done and len(payload) < 4 else layouts(_ORDER).error.parse(payload).error
            if number == 0:  # the acknowledgement, which comes last
                return found
            raise kernel_error(number, operation, target, hint=_reason(header, payload))


def _datagram(socket: socket.socket) -> bytes:
    from socket import MSG_PEEK, MSG_TRUNC

    # With MSG_TRUNC the kernel tells the whole length, however small the buffer is.
    size = socket.recv_into(bytearray(1), 1, MSG_PEEK | MSG_TRUNC)
    return socket.recv(max(size, 1))


def _messages(data: bytes) -> list[tuple[Any, bytes]]:
    found: list[tuple[Any, bytes]] = []
    position = 0
    while position + _HEADER_SIZE <= len(data):
        header = layouts(_ORDER).message.parse(data[position : position + _HEADER_SIZE])
        if header.length < _HEADER_SIZE or position + header.length > len(data):
            break
        found.append((header, data[position + _HEADER_SIZE : position + header.length]))
        position += _aligned(header.length)
    return found


def _reason(header: Any, payload: bytes) -> str | None:
    """What the kernel says about an error, in its own words."""
    if not header.flags & MessageFlag.ACK_TLVS or len(payload) < 4 + _HEADER_SIZE:
        return None
    request = layouts(_ORDER).message.parse(payload[4 : 4 + _HEADER_SIZE])
    echoed = _HEADER_SIZE if header.flags & MessageFlag.CAPPED else _aligned(request.length)
    text = attributes(payload[4 + echoed :]).get(_EXT_ACK_MESSAGE)
    return f"{KERNEL_SAYS}{text.rstrip(bytes(1)).decode(errors='replace')}" if text else None


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
