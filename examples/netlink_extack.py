"""Trace a BPF program with BPF programs: one error message of the kernel seen three times.

    sudo python examples/netlink_extack.py

A tracepoint program gets the messages that netlink sends along with its errors. A fentry and a
fexit program are attached to *that program's own function*: the first runs before it and the
second after it, with its return value. All three send into one ring buffer.

Needs a kernel that permits trampolines (fentry and fexit): Linux 5.10 or later with the BPF JIT,
and no policy against it. In a virtual machine:

    tools/vm --kernel 6.12 -- python3 examples/netlink_extack.py
"""

import os
import socket
import struct
import sys
from pathlib import Path

import pybpfload

FIXTURES = Path(__file__).parents[1] / "fixtures"
OBJECT = FIXTURES / ("bpfel" if sys.byteorder == "little" else "bpfeb") / "extack.bpf.o"

NLMSG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
TCMSG = struct.Struct("=B3xiIII")  # family, interface, handle, parent, info
RTM_NEWTFILTER = 44
NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
NETLINK_ROUTE, TCA_KIND, ETH_P_ALL = 0, 1, 3


def add_filter_to_missing_qdisc() -> None:
    """Ask for a filter below a qdisc that loopback does not have; the kernel refuses."""
    parent, priority = 0x1234_0000, 1
    info = priority << 16 | socket.htons(ETH_P_ALL)
    body = TCMSG.pack(0, socket.if_nametoindex("lo"), 0, parent, info)
    body += struct.pack("=HH4s", 8, TCA_KIND, b"u32\0")
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    header = NLMSG_HEADER.pack(NLMSG_HEADER.size + len(body), RTM_NEWTFILTER, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as netlink:
        netlink.send(header + body)
        netlink.recv(4096)


def main() -> None:
    spec = pybpfload.open(OBJECT)
    spec.variables["target_tgid"].value = os.getpid()
    traced = spec.programs["tp__netlink_extack"]
    for name in ("fentry__netlink_extack", "fexit__netlink_extack"):
        spec.programs[name].set_attach_target(traced, traced.name)
        spec.programs[name].autoload = True
    with spec.load() as obj:
        obj.attach()
        add_filter_to_missing_qdisc()
        for event in obj.maps["events"].reader().poll(1):
            source = event.source.name.removeprefix("SOURCE_").lower()
            returned = f" (it returned {event.retval})" if source == "fexit" else ""
            print(f"{source:>10}: {event.msg}{returned}")


if __name__ == "__main__":
    try:
        main()
    except pybpfload.BpfError as error:
        sys.exit(f"netlink_extack: {error}")
