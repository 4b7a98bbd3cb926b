"""Captures of packets as ``tcpdump -w`` writes them (libpcap's classic format, not pcapng).

A header of 24 bytes (magic, version, time zone, accuracy, longest packet, link type), then packets:
a header of 16 bytes (seconds, fraction, bytes here, bytes on the wire) and the bytes. The writer's
byte order is known by the magic. Source: the IETF draft ``draft-ietf-opsawg-pcap``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ETHERNET", "read_pcap", "write_pcap"]

ETHERNET: Final = 1
"""Link type of packets that begin with an Ethernet header."""

_HEADER = "IHHiIII"
_RECORD = "IIII"
_MAGICS = (0xA1B2C3D4, 0xA1B23C4D)  # fractions in microseconds, in nanoseconds
_LONGEST = 1 << 18  # bytes of a packet, as tcpdump has it
_PCAPNG = b"\x0a\x0d\x0d\x0a"


def read_pcap(data: bytes, *, name: str = "capture") -> tuple[int, list[bytes]]:
    """Read the packets of a capture.

    Args:
        data: Content of the file.
        name: What to call it in errors.

    Returns:
        The link type, and the packets, as far as they were captured.

    Raises:
        FormatError: It is no capture, or damaged.
    """
    if data[:4] == _PCAPNG:
        raise FormatError("it is pcapng; convert it: editcap -F pcap IN OUT", file=name)
    for order in "<>":
        header, record = struct.Struct(order + _HEADER), struct.Struct(order + _RECORD)
        if len(data) >= header.size and header.unpack_from(data)[0] in _MAGICS:
            break
    else:
        raise FormatError("it is no capture of packets (pcap)", file=name, offset=0)
    link_type = header.unpack_from(data)[6] & 0x0FFFFFFF  # above: length of a check sum
    packets, at = [], header.size
    while at < len(data):
        if at + record.size > len(data):
            raise FormatError("the header of a packet is cut short", file=name, offset=at)
        length = record.unpack_from(data, at)[2]
        start = at + record.size
        if length > len(data) - start:
            what = f"a packet of {length} bytes is cut short"
            raise FormatError(what, file=name, offset=start)
        packets.append(data[start : start + length])
        at = start + length
    return link_type, packets


def write_pcap(packets: Iterable[bytes], *, link_type: int = ETHERNET) -> bytes:
    """Make a capture of packets, all of which were seen in 1970.

    Args:
        packets: The packets, whole.
        link_type: What they begin with.

    Returns:
        Content of the file, little endian.
    """
    header = struct.pack("<" + _HEADER, _MAGICS[0], 2, 4, 0, 0, _LONGEST, link_type)
    record = struct.Struct("<" + _RECORD)
    return header + b"".join(record.pack(0, 0, len(p), len(p)) + p for p in packets)
