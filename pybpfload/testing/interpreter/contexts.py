"""Contexts: what r1 points to, by program type, as ``BPF_PROG_TEST_RUN`` makes them.

Sources: ``net/bpf/test_run.c``; ``struct xdp_md`` and ``struct __sk_buff`` of ``linux/bpf.h``. The
fields of those structs are views that the verifier turns into other loads; here they are memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from pybpfload.errors import BpfError
from pybpfload.uapi import ProgType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.testing.interpreter.memory import Memory, Region

__all__ = ["PACKET_TYPES", "Context", "Given", "make"]

Given: TypeAlias = "int | bytes | bytearray | memoryview | Sequence[int] | None"
"""What can be given for a context; see :meth:`~.interpreter.Interpreter.run`."""

_ETH_HLEN: Final = 14
_LOOPBACK: Final = 1  # ifindex of lo, the device of test runs
_XDP_MD_SIZE: Final = 24
_SK_BUFF_SIZE: Final = 192

# struct __sk_buff: byte offsets of its fields.
_LEN, _PKT_TYPE, _PROTOCOL, _IFINDEX, _DATA, _DATA_END, _DATA_META = 0, 4, 16, 40, 76, 80, 140

T = ProgType
_SKB: Final = frozenset(
    {T.SOCKET_FILTER, T.SCHED_CLS, T.SCHED_ACT, T.CGROUP_SKB, T.LWT_IN, T.LWT_OUT, T.LWT_XMIT}
)
_LINK_LAYER: Final = frozenset({T.SCHED_CLS, T.SCHED_ACT})  # see the Ethernet header

PACKET_TYPES: Final = _SKB | {T.XDP}
"""Types of programs that work on packets."""


class Context:
    """A context and the packet that it tells of.

    Attributes:
        address: What r1 holds.
        region: The context, ``None`` when it is the caller's.
        packet: What the program sees of the packet, or ``None``.
        header: Bytes before it that the program does not see; afterwards they are zeros.
    """

    def __init__(
        self,
        address: int,
        region: Region | None = None,
        packet: Region | None = None,
        header: int = 0,
    ) -> None:
        self.address = address
        self.region = region
        self.packet = packet
        self.header = header

    def ctx_out(self) -> bytes:
        """The context as it is now."""
        return bytes(self.region.data) if self.region is not None else b""

    def data_out(self) -> bytes:
        """The packet as it is now."""
        return bytes(self.header) + self.packet.data if self.packet is not None else b""

    def release(self, memory: Memory) -> None:
        """Take it out of memory."""
        for region in (self.region, self.packet):
            if region is not None:
                memory.release(region)


def make(
    memory: Memory,
    prog_type: int | None,
    data: bytes,
    ctx: Given,
) -> Context:
    """Make the context for a run; see :meth:`Interpreter.run`."""
    if isinstance(ctx, int):
        return Context(ctx)
    given = _content(memory, ctx)
    if prog_type == T.XDP:
        return _xdp(memory, data, given)
    if prog_type in _SKB:
        return _skb(memory, T(prog_type), data, given)
    if data:
        raise BpfError("a packet was given to a program that does not work on packets")
    region = memory.allocate(given, "context")
    return Context(region.base, region)


def _content(memory: Memory, ctx: bytes | bytearray | memoryview | Sequence[int] | None) -> bytes:
    if ctx is None or isinstance(ctx, (bytes, bytearray, memoryview)):
        return bytes(ctx or b"")
    slots = [number & 0xFFFFFFFFFFFFFFFF for number in ctx]
    return struct.pack(f"{memory.byteorder}{len(slots)}Q", *slots)


def _xdp(memory: Memory, data: bytes, given: bytes) -> Context:
    packet = memory.allocate(data, "packet", space="packet")
    end = packet.base + len(data)
    content = bytearray(_XDP_MD_SIZE)
    content[: len(given)] = given
    # data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    order = memory.byteorder
    struct.pack_into(f"{order}3I", content, 0, packet.base, end, packet.base)
    if not given:
        struct.pack_into(f"{order}I", content, 12, _LOOPBACK)
    region = memory.allocate(content, "struct xdp_md")
    return Context(region.base, region, packet)


def _skb(memory: Memory, prog_type: ProgType, data: bytes, given: bytes) -> Context:
    header = 0 if prog_type in _LINK_LAYER else _ETH_HLEN
    if len(data) < _ETH_HLEN:
        raise BpfError(f"a packet of {len(data)} bytes is no Ethernet frame")
    packet = memory.allocate(data[header:], "packet", space="packet")
    content = bytearray(_SK_BUFF_SIZE)
    content[: len(given)] = given
    order = memory.byteorder
    numbers = {
        _LEN: len(packet.data),
        _DATA: packet.base,
        _DATA_END: packet.base + len(packet.data),
        _DATA_META: packet.base,
        _PROTOCOL: struct.unpack_from(f"{order}H", data, 12)[0],
        _PKT_TYPE: _packet_type(data[:6]),
    }
    if not given:
        numbers[_IFINDEX] = _LOOPBACK
    for offset, number in numbers.items():
        struct.pack_into(f"{order}I", content, offset, number)
    region = memory.allocate(content, "struct __sk_buff")
    return Context(region.base, region, packet, header)


def _packet_type(destination: bytes) -> int:
    """``PACKET_HOST`` and so on, as ``eth_type_trans`` tells for the loopback device."""
    if destination == b"\xff" * 6:
        return 1
    if destination[0] & 1:
        return 2
    return 3 if any(destination) else 0
