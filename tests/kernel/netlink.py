"""Netlink requests that make the kernel do what the tests watch. They change nothing that lasts."""

from __future__ import annotations

import contextlib
import socket
import struct

NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 1, 4, 0x400, 0x200
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """One netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def add_filter_to_missing_qdisc(ifindex: int = 1) -> int:
    """Ask for a filter on a qdisc that does not exist; return the kernel's error number."""
    parent = 0x12340000
    tcmsg = struct.pack("=BxxxiIII", 0, ifindex, 0, parent, 1 << 16 | socket.htons(3))
    body = tcmsg + attribute(1, b"u32\0")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        sock.settimeout(5)
        sock.bind((0, 0))
        sock.send(message(44, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body))
        answer = sock.recv(65536)
    return -struct.unpack_from("=i", answer, 16)[0]


def add_and_drop_nft_table(name: bytes = b"pybpfload_test") -> None:
    """Make an nftables table and delete it, in one transaction."""
    subsystem = 10

    def nfgen(family: int, res_id: int) -> bytes:
        return struct.pack("=BBH", family, 0, socket.htons(res_id))

    table = nfgen(2, 0) + attribute(1, name + b"\0")
    batch = message(0x10, NLM_F_REQUEST, nfgen(0, subsystem), 1)
    batch += message(subsystem << 8 | 0, NLM_F_REQUEST | NLM_F_CREATE, table, 2)
    batch += message(subsystem << 8 | 2, NLM_F_REQUEST | NLM_F_ACK, table, 3)
    batch += message(0x11, NLM_F_REQUEST, nfgen(0, subsystem), 4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(5)
        sock.bind((0, 0))
        sock.send(batch)
        with contextlib.suppress(TimeoutError):
            answer = sock.recv(65536)
            error = struct.unpack_from("=i", answer, 16)[0]
            if error:
                raise OSError(-error, f"nftables refused: {error}")
