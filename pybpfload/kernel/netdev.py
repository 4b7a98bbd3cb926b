"""XDP and tc programs of network devices by rtnetlink, which kernels without such links need.

Source of the rules: libbpf, ``bpf_xdp_*()`` and ``bpf_tc_*()``; ``man 7 rtnetlink``, ``man 8
tc-bpf``. An attachment made here belongs to nobody: it stays when the process ends.
"""

from __future__ import annotations

import errno
import socket
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pybpfload.formats.netlink import (
    Bpf,
    Ifla,
    MessageFlag,
    MessageType,
    Tca,
    Xdp,
    XdpFlag,
    layouts,
)
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.netlink import attribute, attributes, nest, request

if TYPE_CHECKING:
    from pybpfload.errors import KernelError

__all__ = [
    "EGRESS",
    "INGRESS",
    "TcFilter",
    "XdpInfo",
    "create_clsact",
    "delete_clsact",
    "has_clsact",
    "has_filters",
    "interface_index",
    "tc_attach",
    "tc_detach",
    "tc_filters",
    "tc_query",
    "xdp_attach",
    "xdp_query",
]

_ORDER: Final = "<" if sys.byteorder == "little" else ">"

CLSACT: Final = 0xFFFFFFF1
"""Parent of the queueing discipline ``clsact`` (Linux 4.5), which holds filters and no queue."""

INGRESS: Final = 0xFFFFFFF2
"""Parent of the filters for what comes in."""

EGRESS: Final = 0xFFFFFFF3
"""Parent of the filters for what goes out."""

_ETH_P_ALL: Final = socket.htons(3)  # in network order wherever the kernel keeps it
_DIRECT_ACTION: Final = 1  # TCA_BPF_FLAG_ACT_DIRECT: the program's result is the verdict


def interface_index(device: str | int) -> int:
    """Index of a network device.

    Args:
        device: Its name or index.

    Raises:
        KernelError: ENODEV: there is none of that name in this network namespace.
    """
    if isinstance(device, int):
        return device
    index = door.interface_index(device)
    if index < 0:
        raise kernel_error(
            index,
            "if_nametoindex",
            f"network device {device}",
            hint="there is none of that name in this network namespace",
        )
    return index


# XDP


class XdpInfo(NamedTuple):
    """What XDP programs a device has.

    Attributes:
        mode: ``""`` none, ``"native"``, ``"generic"``, ``"offload"``, ``"multi"`` several of them.
        prog_id: The program when there is one, else 0.
        native_id, generic_id, offload_id: The program of each mode, 0 for none.
    """

    mode: str
    prog_id: int
    native_id: int
    generic_id: int
    offload_id: int


_XDP_MODES = ("", "native", "generic", "offload", "multi")  # XDP_ATTACHED_*


def xdp_attach(
    ifindex: int,
    prog_fd: int,
    flags: int = 0,
    *,
    expected_fd: int | None = None,
    via: socket.socket | None = None,
) -> None:
    """Put an XDP program on a device, or take it away (``RTM_SETLINK``, Linux 4.8).

    Args:
        ifindex: Index of the device.
        prog_fd: The program, -1 to take away what is there.
        flags: :class:`~pybpfload.formats.netlink.XdpFlag`.
        expected_fd: The program that must be there, -1 for none; needs ``XdpFlag.REPLACE``, which
            is set (Linux 5.7).
        via: As for :func:`pybpfload.kernel.netlink.request`, here and below.

    Raises:
        KernelError: EBUSY: there is a program already; EEXIST: there is one, and another was
            expected; EOPNOTSUPP: the driver has no such mode.
    """
    inner = [attribute(Xdp.FD, prog_fd)]
    if expected_fd is not None:
        flags |= XdpFlag.REPLACE
    if flags:
        inner.append(attribute(Xdp.FLAGS, flags))
    if expected_fd is not None:
        inner.append(attribute(Xdp.EXPECTED_FD, expected_fd))
    request(
        MessageType.SETLINK,
        _link(ifindex) + nest(Ifla.XDP, *inner),
        target=f"XDP of network device {ifindex}",
        via=via,
    )


def xdp_query(ifindex: int, *, via: socket.socket | None = None) -> XdpInfo:
    """Ask what XDP programs a device has (``RTM_GETLINK``; program ids since Linux 4.13).

    Raises:
        KernelError: ENODEV: there is no such device.
    """
    target = f"network device {ifindex}"
    answers = request(MessageType.GETLINK, _link(ifindex), target=target, via=via)
    found = attributes(answers[0][16:]) if answers else {}
    xdp = attributes(found.get(Ifla.XDP, b""))
    mode = xdp.get(Xdp.ATTACHED, b"\0")[0]
    ids = (
        _number(xdp.get(which))
        for which in (Xdp.PROG_ID, Xdp.DRV_PROG_ID, Xdp.SKB_PROG_ID, Xdp.HW_PROG_ID)
    )
    return XdpInfo(_XDP_MODES[mode] if mode < len(_XDP_MODES) else "multi", *ids)


# tc


class TcFilter(NamedTuple):
    """A BPF filter of a device.

    Attributes:
        parent: :data:`INGRESS`, :data:`EGRESS`, or the handle of a class or queueing discipline.
        handle, priority: Together its name within the parent; filters run by ascending priority.
        prog_id: The program.
        name: What the filter is called, for people.
        direct_action: Whether the program's result is the verdict.
    """

    parent: int
    handle: int
    priority: int
    prog_id: int
    name: str
    direct_action: bool


def create_clsact(ifindex: int) -> bool:
    """Give a device the queueing discipline ``clsact``, which filters need (Linux 4.5).

    Returns:
        Whether it was made; ``False`` when it is there already.
    """
    body = _traffic(ifindex, parent=CLSACT, handle=0xFFFF0000) + attribute(Tca.KIND, "clsact")
    flags = MessageFlag.CREATE | MessageFlag.EXCL
    try:
        request(MessageType.NEWQDISC, body, flags=flags, target=f"clsact of device {ifindex}")
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def delete_clsact(ifindex: int, *, via: socket.socket | None = None) -> None:
    """Remove ``clsact`` and with it all its filters, whoever made them.

    Raises:
        KernelError: ENOENT or EINVAL: there is none.
    """
    body = _traffic(ifindex, parent=CLSACT, handle=0xFFFF0000) + attribute(Tca.KIND, "clsact")
    request(MessageType.DELQDISC, body, target=f"clsact of device {ifindex}", via=via)


def has_clsact(ifindex: int) -> bool:
    """Whether a device has ``clsact``, and not ``ingress``, which would be in the same place.

    Filters for ``EGRESS`` of an ``ingress`` would see what comes in.
    """
    body = _traffic(ifindex, parent=CLSACT, handle=0xFFFF0000) + attribute(Tca.KIND, "clsact")
    try:
        request(MessageType.GETQDISC, body, target=f"clsact of device {ifindex}")
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return False
        raise
    return True


def has_filters(ifindex: int, parent: int, *, via: socket.socket | None = None) -> bool:
    """Whether a parent has filters of any kind, not only BPF ones."""
    return bool(_filters(ifindex, parent, via))


def tc_attach(
    ifindex: int,
    parent: int,
    prog_fd: int,
    name: str,
    *,
    handle: int = 0,
    priority: int = 0,
    replace: bool = False,
) -> TcFilter:
    """Add a filter that runs a program and takes its result as the verdict.

    Args:
        ifindex: Index of the device.
        parent: As in :class:`TcFilter`.
        prog_fd: The program.
        name: What to call the filter.
        handle: 0 lets the kernel choose.
        priority: 1 to 65535; 0 lets the kernel choose.
        replace: Take the place of the filter of that handle and priority, if there is one.

    Returns:
        The filter as the kernel made it.

    Raises:
        KernelError: EEXIST: there is a filter of that handle and priority; EINVAL or ENOENT: the
            device has no such parent.
    """
    options = nest(
        Tca.OPTIONS,
        attribute(Bpf.FD, prog_fd),
        attribute(Bpf.NAME, name),
        attribute(Bpf.FLAGS, _DIRECT_ACTION),
    )
    body = _traffic(ifindex, parent, handle, priority) + attribute(Tca.KIND, "bpf") + options
    flags = MessageFlag.CREATE | MessageFlag.ECHO
    flags |= MessageFlag.REPLACE if replace else MessageFlag.EXCL
    answers = request(
        MessageType.NEWTFILTER, body, flags=flags, target=f"tc filter of device {ifindex}"
    )
    made = [_filter(answer) for answer in answers]
    if len(made) != 1 or made[0] is None:
        raise _unexpected(ifindex)
    return made[0]


def tc_detach(
    ifindex: int, parent: int, handle: int, priority: int, *, via: socket.socket | None = None
) -> None:
    """Remove one filter.

    Raises:
        KernelError: ENOENT: there is none.
    """
    body = _traffic(ifindex, parent, handle, priority) + attribute(Tca.KIND, "bpf")
    request(MessageType.DELTFILTER, body, target=f"tc filter of device {ifindex}", via=via)


def tc_query(
    ifindex: int, parent: int, handle: int, priority: int, *, via: socket.socket | None = None
) -> TcFilter:
    """Ask for one filter.

    Raises:
        KernelError: ENOENT: there is none.
    """
    body = _traffic(ifindex, parent, handle, priority) + attribute(Tca.KIND, "bpf")
    answers = request(
        MessageType.GETTFILTER, body, target=f"tc filter of device {ifindex}", via=via
    )
    found = [_filter(answer) for answer in answers]
    if len(found) != 1 or found[0] is None:
        raise _unexpected(ifindex)
    return found[0]


def tc_filters(ifindex: int, parent: int) -> list[TcFilter]:
    """All BPF filters of a parent, in the order in which they run.

    None as well if there is no such device or parent: the kernel does not tell.
    """
    answers = _filters(ifindex, parent, None)
    return [found for answer in answers if (found := _filter(answer)) and found.handle]


def _filters(ifindex: int, parent: int, via: socket.socket | None) -> list[bytes]:
    return request(
        MessageType.GETTFILTER,
        _traffic(ifindex, parent, protocol=0),  # of all protocols
        flags=MessageFlag.DUMP,
        target=f"tc filters of device {ifindex}",
        via=via,
    )


# Messages


def _link(ifindex: int) -> bytes:
    made: bytes = layouts(_ORDER).link.build(
        {"family": 0, "type": 0, "index": ifindex, "flags": 0, "change": 0}
    )
    return made


def _traffic(
    ifindex: int, parent: int, handle: int = 0, priority: int = 0, protocol: int = _ETH_P_ALL
) -> bytes:
    info = priority << 16 | protocol if priority or parent != CLSACT else 0
    made: bytes = layouts(_ORDER).traffic.build(
        {"family": 0, "index": ifindex, "handle": handle, "parent": parent, "info": info}
    )
    return made


def _filter(answer: bytes) -> TcFilter | None:
    """The filter that an answer describes; ``None`` if it is not a BPF one."""
    fixed: Any = layouts(_ORDER).traffic.parse(answer[:20])
    found = attributes(answer[20:])
    if _text(found.get(Tca.KIND)) != "bpf":
        return None
    options = attributes(found.get(Tca.OPTIONS, b""))
    return TcFilter(
        fixed.parent,
        fixed.handle,
        fixed.info >> 16,
        _number(options.get(Bpf.ID)),
        _text(options.get(Bpf.NAME)),
        bool(_number(options.get(Bpf.FLAGS)) & _DIRECT_ACTION),
    )


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload, sys.byteorder) if payload else 0


def _text(payload: bytes | None) -> str:
    return (payload or b"").rstrip(b"\0").decode(errors="replace")


def _unexpected(ifindex: int) -> KernelError:
    return kernel_error(
        errno.EPROTO, "RTM_GETTFILTER", f"tc filter of device {ifindex}", hint="no filter came back"
    )
