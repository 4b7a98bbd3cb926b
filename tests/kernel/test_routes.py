"""Programs of routes: packets pass through them, or are dropped by them, until the route is gone.

All happens in a network namespace of the test's own. ip(8) tells what routes there are.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import netlink
import pytest
from network import CLONE_NEWNET, ETH_P_ALL, LIBC, Counted

import pybpfload
from pybpfload.runtime.attach.common import LegacyLink

pytestmark = [pytest.mark.vm, pytest.mark.needs_feature("config:LWTUNNEL_BPF")]

V4, V6 = "10.1.0.1", "fc00:1::1"
HOOKS = ["on_lwt_in", "on_lwt_out", "on_lwt_xmit"]


@pytest.fixture
def routes(opened, netns):
    """The programs of the fixture `lwt`, in a network namespace of the test's own."""
    return Counted(opened("lwt"))


def arrives(address: str) -> bool:
    """Whether a datagram to that address of this machine arrives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM) as to,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        to.bind(("", 0))
        to.settimeout(0.3)
        try:
            sender.sendto(b"hello", (address, to.getsockname()[1]))
            return to.recv(10) == b"hello"
        except (TimeoutError, PermissionError):  # a program for what goes out lets the sender know
            return False


def shown(*words: str) -> list[dict]:
    """Routes, as ip(8) tells them."""
    if not shutil.which("ip"):
        pytest.skip("ip(8) is not installed")
    done = subprocess.run(["ip", "-j", *words], check=True, capture_output=True)
    return json.loads(done.stdout or "[]")


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("name", HOOKS)
def test_each_hook(routes, name, address):
    with routes.loaded(name) as obj:
        with obj.programs[name].attach(address, device="lo", type="local") as link:
            assert isinstance(link, LegacyLink)
            assert link.kind == "lwt"
            assert routes.runs(name, lambda: arrives(address)) > 0
            assert arrives(address)
            obj.variables["drop"].value = True
            assert not arrives(address)
        with pytest.raises(OSError, match="unreachable"):
            arrives(address)  # the route is gone


def test_all_hooks_of_one_route(routes):
    with routes.loaded(*HOOKS) as obj:
        first, *others = (obj.programs[name] for name in HOOKS)
        with first.attach(V4, device="lo", type="local", beside=others, headroom=14):
            for name in HOOKS:
                assert routes.runs(name, lambda: arrives(V4)) > 0
        with pytest.raises(ValueError, match="one of each"):
            first.attach(V4, device="lo", type="local", beside=[first])


@pytest.mark.needs_feature("config:IPV6_SEG6_BPF")
def test_seg6local(routes):
    """A packet that goes by way of an address where the program sees it, and out of a device."""
    netlink.add_pair("veth", "near", "far")
    netlink.set_up("near", netlink.IFF_NOARP)  # nobody has to answer for the last segment
    shown("-6", "route", "add", "fc00:3::/64", "dev", "near")
    shown("-6", "address", "add", "fc00:9::1/64", "dev", "lo", "nodad")  # to send from
    for setting in ("all/seg6_enabled", "lo/seg6_enabled", "all/forwarding"):
        Path("/proc/sys/net/ipv6/conf", setting).write_text("1")

    def goes_on() -> bool:
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as there,
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
        ):
            there.bind(("far", ETH_P_ALL))
            there.settimeout(0.3)
            # A segment routing header, RFC 8754: 2 segments, last one first.
            header = bytes([0, 4, 4, 1, 1, 0, 0, 0]) + bytes(16)
            header += socket.inet_pton(socket.AF_INET6, "fc00:2::1")
            sender.setsockopt(socket.IPPROTO_IPV6, 57, header)  # IPV6_RTHDR
            sender.bind(("fc00:9::1", 0))
            sender.sendto(b"by way of", ("fc00:3::1", 9))
            try:
                while not there.recv(1 << 16).endswith(b"by way of"):
                    pass
            except TimeoutError:
                return False
            return True

    with routes.loaded("on_seg6local") as obj:
        program = obj.programs["on_seg6local"]
        with program.attach("fc00:2::/64", device="lo", type="local"):
            assert routes.runs("on_seg6local", goes_on) == 1
            assert goes_on()
            obj.variables["drop"].value = True
            assert not goes_on()
        with pytest.raises(ValueError, match="IPv6 only"):
            program.attach("10.1.0.0/24", device="lo")


class TestAsIpTells:
    @pytest.mark.parametrize(("prefix", "metric"), [("10.1.0.0/24", 7), ("fc00:1::/64", 0)])
    def test_route(self, routes, prefix, metric):
        netlink.add_pair("veth", "near", "far")
        family = "-6" if ":" in prefix else "-4"
        with routes.loaded("on_lwt_out") as obj:
            program = obj.programs["on_lwt_out"]
            with program.attach(prefix, device="near", metric=metric, table=1000):
                (route,) = shown(family, "route", "show", "table", "1000")
                assert (route["dst"], route["dev"]) == (prefix, "near")
                assert route.get("metric", 0) == (metric or 1024)
                told = json.dumps(route["encap"]) + json.dumps(route)
                assert "bpf" in told
                assert f"{program.name}:[{program.info().id}]" in told
            assert shown(family, "route", "show", "table", "1000") == []

    def test_gateway(self, routes):
        netlink.add_pair("veth", "near", "far")
        shown("route", "add", "192.168.7.0/24", "dev", "near")
        with routes.loaded("on_lwt_xmit") as obj:
            program = obj.programs["on_lwt_xmit"]
            with program.attach("10.1.0.0/24", gateway="192.168.7.1"):
                (route,) = shown("route", "show", "10.1.0.0/24")
                assert (route["gateway"], route["dev"]) == ("192.168.7.1", "near")
            with pytest.raises(pybpfload.KernelError, match="no device reaches"):
                program.attach("10.1.0.0/24", gateway="172.16.0.1")

    def test_the_route_that_took_its_place_stays(self, routes):
        with routes.loaded("on_lwt_out") as obj, routes.loaded("on_lwt_out") as other:
            first = obj.programs["on_lwt_out"].attach("10.1.0.0/24", device="lo")
            taker = other.programs["on_lwt_out"]
            with pytest.raises(pybpfload.KernelError, match="takes its place"):
                taker.attach("10.1.0.0/24", device="lo")
            second = taker.attach("10.1.0.0/24", device="lo", replace=True)
            first.close()
            (route,) = shown("route", "show", "10.1.0.0/24")
            assert f"[{taker.info().id}]" in json.dumps(route)
            second.close()
            assert shown("route", "show", "10.1.0.0/24") == []

    def test_removed_by_somebody_else(self, routes):
        with routes.loaded("on_lwt_out") as obj:
            for prefix in ("10.1.0.0/24", "fc00:1::/64"):
                link = obj.programs["on_lwt_out"].attach(prefix, device="lo")
                subprocess.run(["ip", "route", "del", prefix, "dev", "lo"], check=True)
                link.close()

    def test_closed_in_another_namespace(self, routes):
        with open("/proc/thread-self/ns/net", "rb") as first, routes.loaded("on_lwt_out") as obj:
            link = obj.programs["on_lwt_out"].attach("10.1.0.0/24", device="lo")
            assert LIBC.unshare(CLONE_NEWNET) == 0
            link.close()
            assert LIBC.setns(first.fileno(), CLONE_NEWNET) == 0
            assert shown("route", "show", "10.1.0.0/24") == []


@pytest.mark.parametrize(
    ("target", "options", "error", "words"),
    [
        (None, {"device": "lo"}, pybpfload.AttachError, "say to where"),
        (V4, {}, pybpfload.AttachError, "by which device"),
        (V4, {"device": "nowhere"}, pybpfload.AttachError, "nowhere"),
        ("10.1.0.1/24", {"device": "lo"}, ValueError, "host bits"),
        ("here", {"device": "lo"}, ValueError, "here"),
        (V4, {"gateway": V6}, ValueError, "not of the family"),
        (V4, {"device": "lo", "type": "blackhole"}, ValueError, "unicast, local"),
        (V4, {"device": "lo", "headroom": 257}, ValueError, "out of range"),
        (V4, {"device": "lo", "table": -1}, ValueError, "out of range"),
    ],
)
def test_what_is_no_route(routes, target, options, error, words):
    with routes.loaded("on_lwt_in") as obj, pytest.raises(error, match=words):
        obj.programs["on_lwt_in"].attach(target, **options)
