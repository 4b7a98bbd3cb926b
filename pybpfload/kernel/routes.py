"""Routes whose packets go through programs (light weight tunnels), by rtnetlink.

Source of the rules: ``man 8 ip-route`` (``encap bpf``, ``encap seg6local``); the kernel's
``net/core/lwt_bpf.c``, ``net/ipv6/seg6_local.c``. A route made here belongs to nobody: it stays
when the process ends.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from pybpfload.formats.netlink import (
    Encap,
    LwtBpf,
    MessageFlag,
    MessageType,
    RouteType,
    Rta,
    Seg6Local,
    layouts,
)
from pybpfload.kernel.netlink import attribute, nest, request

if TYPE_CHECKING:
    import ipaddress
    import socket
    from collections.abc import Mapping

__all__ = ["MAIN_TABLE", "Route", "add_route", "bpf_encap", "delete_route", "seg6local_encap"]

_ORDER: Final = "<" if sys.byteorder == "little" else ">"
_FAMILIES: Final = {4: 2, 6: 10}  # AF_INET, AF_INET6
_BY_ADMINISTRATOR: Final = 4  # RTPROT_STATIC, as ip(8) but for its own RTPROT_BOOT
_UNIVERSE, _LINK, _HOST, _NOWHERE = 0, 253, 254, 255  # RT_SCOPE_*

MAIN_TABLE: Final = 254


class Route(NamedTuple):
    """Where packets go, and what they pass through.

    Attributes:
        prefix: To where.
        encap: What :func:`bpf_encap` or :func:`seg6local_encap` made.
        ifindex: Index of the device that they leave by, 0 to let the gateway tell.
        gateway: Who carries them on, or ``None``.
        type: :class:`~pybpfload.formats.netlink.RouteType`.
        table: Number of the routing table.
        metric: Smaller ones win; IPv6 takes 0 for 1024.
    """

    prefix: ipaddress.IPv4Network | ipaddress.IPv6Network
    encap: bytes
    ifindex: int = 0
    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    type: RouteType = RouteType.UNICAST
    table: int = MAIN_TABLE
    metric: int = 0


def bpf_encap(programs: Mapping[LwtBpf, tuple[int, str]], *, headroom: int = 0) -> bytes:
    """Attributes of a route that runs programs (Linux 4.10).

    Args:
        programs: ``LwtBpf.IN``, ``OUT``, ``XMIT`` to a descriptor and a name for people.
        headroom: Bytes that the program of ``XMIT`` may put before packets.
    """
    inner = [
        nest(hook, attribute(LwtBpf.PROG_FD, fd), attribute(LwtBpf.PROG_NAME, name))
        for hook, (fd, name) in programs.items()
    ]
    if headroom:
        inner.append(attribute(LwtBpf.XMIT_HEADROOM, headroom))
    return _encap(Encap.BPF, *inner)


def seg6local_encap(prog_fd: int, name: str) -> bytes:
    """Attributes of a route whose segments a program handles (``End.BPF``, Linux 4.18)."""
    return _encap(
        Encap.SEG6_LOCAL,
        attribute(Seg6Local.ACTION, Seg6Local.END_BPF),
        nest(
            Seg6Local.BPF, attribute(Seg6Local.PROG, prog_fd), attribute(Seg6Local.PROG_NAME, name)
        ),
    )


def add_route(route: Route, *, replace: bool = False, via: socket.socket | None = None) -> None:
    """Make a route.

    Args:
        route: The route.
        replace: Take the place of the route of that prefix, table and metric.
        via: As for :func:`pybpfload.kernel.netlink.request`, here and below.

    Raises:
        KernelError: EEXIST: there is such a route; EOPNOTSUPP: the kernel has no such
            encapsulation; ENETUNREACH: the gateway cannot be reached; ENETDOWN: the device is down.
    """
    flags = MessageFlag.CREATE | (MessageFlag.REPLACE if replace else MessageFlag.EXCL)
    # A host is in this machine, a neighbour on the link, all others behind a gateway.
    local, direct = route.type == RouteType.LOCAL, route.gateway is None
    scope = _HOST if local else _LINK if direct and route.prefix.version == 4 else _UNIVERSE
    request(MessageType.NEWROUTE, _message(route, scope), flags=flags, target=_name(route), via=via)


def delete_route(route: Route, *, via: socket.socket | None = None) -> None:
    """Remove a route.

    Of IPv4 only one with programs of the same names, of IPv6 any of that prefix, table and metric
    by that device.

    Raises:
        KernelError: ESRCH: there is none.
    """
    request(MessageType.DELROUTE, _message(route, _NOWHERE), target=_name(route), via=via)


def _encap(kind: Encap, *inner: bytes) -> bytes:
    number = int(kind).to_bytes(2, sys.byteorder)
    return attribute(Rta.ENCAP_TYPE, number) + nest(Rta.ENCAP, *inner)


def _message(route: Route, scope: int) -> bytes:
    made: bytes = layouts(_ORDER).route.build(
        {
            "family": _FAMILIES[route.prefix.version],
            "dst_len": route.prefix.prefixlen,
            "src_len": 0,
            "tos": 0,
            "table": 0,  # the attribute tells: this is too narrow
            "protocol": _BY_ADMINISTRATOR,
            "scope": scope,
            "type": route.type,
            "flags": 0,
        }
    )
    made += attribute(Rta.DST, route.prefix.network_address.packed)
    made += attribute(Rta.TABLE, route.table)
    if route.ifindex:
        made += attribute(Rta.OIF, route.ifindex)
    if route.gateway is not None:
        made += attribute(Rta.GATEWAY, route.gateway.packed)
    metric = route.metric or (1024 if route.prefix.version == 6 else 0)  # 0 would match any
    if metric:
        made += attribute(Rta.PRIORITY, metric)
    return made + route.encap


def _name(route: Route) -> str:
    return f"route to {route.prefix}"
