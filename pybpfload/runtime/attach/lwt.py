"""Programs of routes (light weight tunnels): Linux 4.10, ``lwt_seg6local`` 4.18.

Attaching makes a route, as ``ip route add PREFIX encap bpf ...`` does; the kernel has no links of
them. Source of the rules: ``man 8 ip-route``.
"""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING

from pybpfload.errors import AttachError, KernelError, NotSupportedError
from pybpfload.formats.netlink import LwtBpf, RouteType
from pybpfload.kernel import routes
from pybpfload.kernel.netlink import route_socket
from pybpfload.kernel.routes import Route
from pybpfload.runtime.attach.common import LegacyLink, device_index, explain
from pybpfload.uapi import ProgType

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach"]

_HOOKS = {
    ProgType.LWT_IN: LwtBpf.IN,
    ProgType.LWT_OUT: LwtBpf.OUT,
    ProgType.LWT_XMIT: LwtBpf.XMIT,
}
_TYPES = {each.name.lower(): each for each in RouteType}
_MAX_HEADROOM = 256  # LWT_BPF_MAX_HEADROOM

_HINTS = {
    errno.EEXIST: "there is a route of that prefix, table and metric; `replace` takes its place",
    errno.ENETDOWN: "the device is down",
    errno.ENETUNREACH: "no device reaches the gateway",
}


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: str | ipaddress.IPv4Network | ipaddress.IPv6Network | None,
    *,
    device: str | int | None = None,
    gateway: str | ipaddress.IPv4Address | ipaddress.IPv6Address | None = None,
    beside: Sequence[Program] = (),
    type: str = "unicast",  # noqa: A002 - ip(8)'s word
    table: int = routes.MAIN_TABLE,
    metric: int = 0,
    headroom: int = 0,
    replace: bool = False,
) -> Link:
    """Make a route whose packets go through the program.

    Closing the link removes the route: of IPv4 unless somebody has put another one in its place,
    of IPv6 that of its prefix, table, metric and device, whatever it runs by then. The route
    outlives the process if that is killed.

    Args:
        program: The program. ``lwt_in`` sees packets of the route when they have come in,
            ``lwt_out`` before they go out, ``lwt_xmit`` after that, with a link layer header to
            follow; ``lwt_seg6local`` handles packets whose segment routing header names an
            address of the prefix (IPv6 only).
        loaded_for: Unused: the route is chosen at attach.
        target: Where the packets go: ``"10.1.0.0/24"``, ``"fc00::/64"``, an address.
        device: Name or index of the device that they leave by.
        gateway: Address of who carries them on.
        beside: Programs of the other hooks for the same route, one for each of ``lwt_in``,
            ``lwt_out``, ``lwt_xmit``.
        type: ``"unicast"``; ``"local"`` for an address of this machine.
        table: Number of the routing table.
        metric: Smaller ones win; 0 is IPv6's 1024.
        headroom: Bytes, at most 256, that an ``lwt_xmit`` program may put before packets.
        replace: Take the place of the route of that prefix, table and metric, for good: closing
            does not bring it back.

    Raises:
        AttachError: No prefix or device is named, or there is no such device.
        NotSupportedError: The kernel has no such routes.
        KernelError: The kernel refuses.
        ValueError: It is no prefix or address, a number is out of its range, or two programs are
            for one hook.
    """
    if target is None or (device is None and gateway is None):
        raise AttachError(
            "it attaches to a route: say to where and by which device, as in "
            "attach('10.1.0.0/24', device='eth0')",
            program=program.name,
        )
    if type not in _TYPES:
        raise ValueError(f"type is {type!r}, not one of {', '.join(_TYPES)}")
    if not (0 <= table < 1 << 32 and 0 <= metric < 1 << 32 and 0 <= headroom <= _MAX_HEADROOM):
        raise ValueError(f"table {table}, metric {metric} or headroom {headroom} is out of range")
    prefix = ipaddress.ip_network(target)
    hop = None if gateway is None else ipaddress.ip_address(gateway)
    if hop is not None and hop.version != prefix.version:
        raise ValueError(f"gateway {hop} is not of the family of {prefix}")
    encap, feature, since = _encap(program, prefix.version, beside, headroom)
    ifindex = 0 if device is None else device_index(program, device)
    route = Route(prefix, encap, ifindex, hop, _TYPES[type], table, metric)
    via = route_socket()  # the thread may be in another namespace when it detaches

    def do() -> None:
        try:
            routes.add_route(route, replace=replace, via=via)
        except KernelError as error:
            explain(error, program, f"route {prefix}", _HINTS)
            if error.errno == errno.EOPNOTSUPP:
                raise NotSupportedError(
                    f"program {program.name}: this kernel has no {feature}",
                    feature=feature,
                    since=since,
                ) from error
            raise

    return LegacyLink(
        program,
        kind="lwt",
        target=f"route {prefix}",
        undo=lambda _: _remove(route, via),
        held=via,
        do=do,
    )


def _encap(
    program: Program, version: int, beside: Sequence[Program], headroom: int
) -> tuple[bytes, str, str]:
    """Attributes of the route, what a kernel needs for them, and since when it has that."""

    def named(each: Program) -> tuple[int, str]:
        return each.fileno(), f"{each.name}:[{each.info().id}]"

    if program.type == ProgType.LWT_SEG6LOCAL:
        if beside or headroom:
            raise ValueError("beside and headroom are of lwt_in, lwt_out and lwt_xmit")
        if version != 6:
            raise ValueError("segments are routed by IPv6 only")
        made = routes.seg6local_encap(*named(program))
        return made, "routes with seg6local programs (CONFIG_IPV6_SEG6_BPF)", "4.18"
    hooks = {}
    for each in (program, *beside):
        hook = _HOOKS.get(each.type)
        if hook is None or hook in hooks:
            wanted = "lwt_in, lwt_out and lwt_xmit, one of each"
            raise ValueError(f"program {each.name} is not for this route: it takes {wanted}")
        hooks[hook] = named(each)
    made = routes.bpf_encap(hooks, headroom=headroom)
    return made, "routes with programs (CONFIG_LWTUNNEL_BPF)", "4.10"


def _remove(route: Route, via: socket.socket) -> None:
    try:
        routes.delete_route(route, via=via)
    except KernelError as error:
        if error.errno not in (errno.ESRCH, errno.ENODEV):  # gone, as with its device
            raise
