"""Netlink requests that make the kernel do what the tests watch. They change nothing that lasts."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 1, 4, 0x400, 0x200
SOL_NETLINK, NETLINK_EXT_ACK = 270, 11
RTM_NEWLINK, RTM_DELLINK = 16, 17
IFF_UP, IFF_NOARP = 0x1, 0x80
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND, IFLA_INFO_DATA = 3, 4, 18, 1, 2
INFO_PEER = 1  # VETH_INFO_PEER, IFLA_NETKIT_PEER_INFO


def message(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """One netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def ask(body: bytes, kind: int, flags: int = 0) -> None:
    """Send one message to rtnetlink; an error is an ``OSError``."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(5)
        sock.bind((0, 0))
        sock.send(message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body))
        error = -struct.unpack_from("=i", sock.recv(65536), 16)[0]
    if error:
        raise OSError(error, os.strerror(error))


def link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    """The fixed part of messages on devices."""
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


def add_pair(kind: str, name: str, peer: str, options: bytes = b"") -> None:
    """``ip link add NAME type KIND peer name PEER``, of veth or netkit, and both ends up."""
    there = link() + attribute(IFLA_IFNAME, peer.encode() + b"\0")
    info = attribute(IFLA_INFO_KIND, kind.encode() + b"\0")
    info += attribute(IFLA_INFO_DATA, attribute(INFO_PEER, there) + options)
    body = link() + attribute(IFLA_IFNAME, name.encode() + b"\0")
    ask(body + attribute(IFLA_LINKINFO, info), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
    for each in (name, peer):
        set_up(each)


def remove(device: str) -> None:
    """``ip link del DEVICE``."""
    ask(link(socket.if_nametoindex(device)), RTM_DELLINK)


def set_up(device: str, flags: int = IFF_UP) -> None:
    """``ip link set DEVICE up``, or with other flags set."""
    ask(link(socket.if_nametoindex(device), flags, flags), RTM_NEWLINK)


def set_down(device: str) -> None:
    """``ip link set DEVICE down``."""
    ask(link(socket.if_nametoindex(device), 0, IFF_UP), RTM_NEWLINK)


def rename(device: str, name: str) -> None:
    """``ip link set DEVICE name NAME``."""
    body = link(socket.if_nametoindex(device)) + attribute(IFLA_IFNAME, name.encode() + b"\0")
    ask(body, RTM_NEWLINK)


def set_mtu(device: str, mtu: int) -> None:
    """``ip link set DEVICE mtu MTU``."""
    body = link(socket.if_nametoindex(device)) + attribute(IFLA_MTU, struct.pack("=I", mtu))
    ask(body, RTM_NEWLINK)


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
