"""Netlink messages, as far as attaching programs to devices and routes needs them.

Source: ``linux/netlink.h``, ``linux/rtnetlink.h``, ``linux/if_link.h``, ``linux/pkt_cls.h``,
``linux/lwtunnel.h``, ``linux/seg6_local.h``, RFC 3549.

A message is a header, a fixed part that its type prescribes, and attributes: type, length,
payload, padded to 4 bytes. An attribute may nest others. All integers are in the machine's byte
order.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from enum import IntEnum, IntFlag
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

__all__ = [
    "ALIGNMENT",
    "NESTED",
    "Bpf",
    "Encap",
    "Ifla",
    "LwtBpf",
    "MessageFlag",
    "MessageType",
    "RouteType",
    "Rta",
    "Seg6Local",
    "Tca",
    "Xdp",
    "XdpFlag",
    "layouts",
]

ALIGNMENT: Final = 4
"""Messages and attributes start at multiples of so many bytes."""

NESTED: Final = 0x8000
"""Bit of an attribute's type that says that its payload is attributes (``NLA_F_NESTED``)."""


class MessageType(IntEnum):
    """Types of messages: the general ones, then those of rtnetlink (``RTM_*``)."""

    ERROR = 2
    DONE = 3
    NEWLINK = 16
    GETLINK = 18
    SETLINK = 19
    NEWROUTE = 24
    DELROUTE = 25
    NEWQDISC = 36
    DELQDISC = 37
    GETQDISC = 38
    NEWTFILTER = 44
    DELTFILTER = 45
    GETTFILTER = 46


class MessageFlag(IntFlag):
    """Flags of a message (``NLM_F_*``); those from 0x100 on depend on the kind of request."""

    REQUEST = 0x1
    MULTI = 0x2
    ACK = 0x4
    ECHO = 0x8
    DUMP = 0x300  # of a GET request
    REPLACE = 0x100  # of a NEW request
    EXCL = 0x200
    CREATE = 0x400
    CAPPED = 0x100  # of an acknowledgement: the request in it is only its header
    ACK_TLVS = 0x200  # of an acknowledgement: attributes follow


class Ifla(IntEnum):
    """Attributes of a network device."""

    IFNAME = 3
    XDP = 43


class Xdp(IntEnum):
    """Attributes in :attr:`Ifla.XDP` (``IFLA_XDP_*``)."""

    FD = 1
    ATTACHED = 2
    FLAGS = 3
    PROG_ID = 4
    DRV_PROG_ID = 5
    SKB_PROG_ID = 6
    HW_PROG_ID = 7
    EXPECTED_FD = 8


class XdpFlag(IntFlag):
    """Flags of attaching an XDP program (``XDP_FLAGS_*``)."""

    UPDATE_IF_NOEXIST = 1
    SKB_MODE = 2
    DRV_MODE = 4
    HW_MODE = 8
    REPLACE = 16  # Linux 5.7


class Tca(IntEnum):
    """Attributes of a queueing discipline or filter (``TCA_*``)."""

    KIND = 1
    OPTIONS = 2


class Bpf(IntEnum):
    """Attributes in :attr:`Tca.OPTIONS` of a ``bpf`` filter (``TCA_BPF_*``)."""

    FD = 6
    NAME = 7
    FLAGS = 8
    TAG = 10
    ID = 11  # Linux 4.13


class RouteType(IntEnum):
    """Types of routes (``RTN_*``) that may have an encapsulation, by ip(8)'s names."""

    UNICAST = 1
    LOCAL = 2


class Rta(IntEnum):
    """Attributes of a route (``RTA_*``)."""

    DST = 1
    OIF = 4
    GATEWAY = 5
    PRIORITY = 6
    TABLE = 15
    ENCAP_TYPE = 21
    ENCAP = 22


class Encap(IntEnum):
    """Values of :attr:`Rta.ENCAP_TYPE` (``LWTUNNEL_ENCAP_*``)."""

    BPF = 6  # Linux 4.10
    SEG6_LOCAL = 7  # Linux 4.14


class LwtBpf(IntEnum):
    """Attributes in :attr:`Rta.ENCAP` of type ``BPF`` (``LWT_BPF_*``), and in each hook of it."""

    IN = 1
    OUT = 2
    XMIT = 3
    XMIT_HEADROOM = 4
    PROG_FD = 1  # of a hook
    PROG_NAME = 2


class Seg6Local(IntEnum):
    """Attributes in :attr:`Rta.ENCAP` of type ``SEG6_LOCAL``, and in :attr:`BPF` of it."""

    ACTION = 1
    BPF = 8  # Linux 4.18
    END_BPF = 15  # a value of ACTION
    PROG = 1  # in BPF
    PROG_NAME = 2


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct ``Struct``s: ``message`` (``nlmsghdr``), ``attribute`` (with its
        payload and padding), ``error`` (``nlmsgerr``, the beginning of an acknowledgement's
        payload), ``link`` (``ifinfomsg``), ``traffic`` (``tcmsg``), ``route`` (``rtmsg``).
    """
    from construct import (
        Aligned,
        Bytes,
        Int8ub,
        Int16ub,
        Int16ul,
        Int32sb,
        Int32sl,
        Int32ub,
        Int32ul,
        Padding,
        Struct,
        this,
    )

    little = byteorder == "<"
    u16, u32, s32 = (Int16ul, Int32ul, Int32sl) if little else (Int16ub, Int32ub, Int32sb)
    return SimpleNamespace(
        message=Struct(
            "length" / u32,  # this header included
            "type" / u16,
            "flags" / u16,
            "sequence" / u32,
            "port" / u32,
        ),
        attribute=Aligned(
            ALIGNMENT,
            Struct("length" / u16, "type" / u16, "payload" / Bytes(this.length - 4)),
        ),
        error=Struct("error" / s32),
        link=Struct(
            "family" / Int8ub,
            Padding(1),
            "type" / u16,
            "index" / s32,
            "flags" / u32,
            "change" / u32,
        ),
        traffic=Struct(
            "family" / Int8ub,
            Padding(3),
            "index" / s32,
            "handle" / u32,
            "parent" / u32,
            "info" / u32,  # of a filter: priority << 16 | protocol, which is in network order
        ),
        route=Struct(
            "family" / Int8ub,
            "dst_len" / Int8ub,  # bits
            "src_len" / Int8ub,
            "tos" / Int8ub,
            "table" / Int8ub,
            "protocol" / Int8ub,  # who made it
            "scope" / Int8ub,
            "type" / Int8ub,
            "flags" / u32,
        ),
    )
