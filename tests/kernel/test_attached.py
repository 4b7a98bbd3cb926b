"""What is attached to devices, namespaces and maps, and that ip(8) and tc(8) see the same."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess

import netlink
import pytest
from network import datagram

import pybpfload
from pybpfload.kernel.version import kernel_version

pytestmark = pytest.mark.vm


def run(*command: str) -> list[dict]:
    """What a program of iproute2 says, in JSON."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]}(8) is not installed")
    done = subprocess.run([*command], check=True, capture_output=True)
    return json.loads(done.stdout or "[]")


@contextlib.contextmanager
def pinned(program: pybpfload.Program, bpffs: str):
    program.pin(f"{bpffs}/pybpfload-attached-{os.getpid()}")
    try:
        yield program.pin_path
    finally:
        program.unpin()


def test_all_of_a_device(netns, network):
    with network.loaded("on_xdp", "on_tc") as obj, network.loaded("on_tc") as other:
        xdp, tc, also = obj.programs["on_xdp"], obj.programs["on_tc"], other.programs["on_tc"]
        with (
            xdp.attach("lo", mode="generic"),
            tc.attach("lo", direction="ingress", priority=20),
            also.attach("lo", direction="ingress", priority=10, handle=3),
            tc.attach("lo", direction="egress", priority=5),
        ):
            found = pybpfload.attached("lo")
            assert found == pybpfload.attached(1)
            assert [(each.kind, each.place, each.prog_id, each.priority) for each in found] == [
                ("xdp", "generic", xdp.info().id, 0),
                ("tc", "ingress", also.info().id, 10),
                ("tc", "ingress", tc.info().id, 20),
                ("tc", "egress", tc.info().id, 5),
            ]
            assert found[1].handle == 3
            with pybpfload.Program.from_id(found[0].prog_id) as same:
                assert same.info().tag == xdp.info().tag
        assert pybpfload.attached("lo") == []


@pytest.mark.kernel("6.6")
def test_tcx(netns, network):
    with network.loaded("on_tcx_ingress", "on_tcx_egress") as obj:
        come, go = obj.programs["on_tcx_ingress"], obj.programs["on_tcx_egress"]
        with come.attach("lo") as link, go.attach("lo"):
            first, second = pybpfload.attached("lo")
            assert first[:4] == ("tcx", "ingress", come.info().id, link.info().id)
            assert second[:3] == ("tcx", "egress", go.info().id)
            assert second.revision > 1  # of an empty list
            with pytest.raises(pybpfload.KernelError, match="changed since that revision"):
                come.attach("lo", revision=first.revision - 1)


@pytest.mark.kernel("5.9")
def test_namespace(netns, network):
    with network.loaded("on_sk_lookup", "on_flow_dissector") as obj:
        lookup, dissector = obj.programs["on_sk_lookup"], obj.programs["on_flow_dissector"]
        with lookup.attach(), lookup.attach(), dissector.attach():
            found = pybpfload.attached()
            assert [each[:3] for each in found] == [
                ("netns", "flow_dissector", dissector.info().id),
                ("netns", "sk_lookup", lookup.info().id),
                ("netns", "sk_lookup", lookup.info().id),
            ]
            with open("/proc/thread-self/ns/net", "rb") as own:
                assert pybpfload.attached(own) == found
        assert pybpfload.attached("/proc/thread-self/ns/net") == []


@pytest.mark.kernel("5.18")
def test_sockmap(network):
    with network.loaded("on_sk_msg") as obj:
        with obj.programs["on_sk_msg"].attach(obj.maps["socks"]):
            (found,) = pybpfload.attached(obj.maps["socks"])
            assert found[:3] == ("sockmap", "sk_msg_verdict", obj.programs["on_sk_msg"].info().id)
        assert pybpfload.attached(obj.maps["socks"]) == []


@pytest.mark.kernel(below="5.18")
def test_sockmaps_do_not_tell(network):
    with network.loaded("on_sk_msg") as obj:
        with pytest.raises(pybpfload.NotSupportedError, match=r"sockmaps.*5\.18"):
            pybpfload.attached(obj.maps["socks"])


def test_nothing_to_ask(netns, tmp_path):
    with pytest.raises(pybpfload.KernelError, match="network device nowhere"):
        pybpfload.attached("nowhere")
    with pytest.raises(pybpfload.KernelError, match="none of these"):
        pybpfload.attached(tmp_path)
    with pytest.raises(pybpfload.KernelError, match="No such file"):
        pybpfload.attached(tmp_path / "nothing")
    for target in (None, "lo"):
        with pytest.raises(ValueError, match="only control groups"):
            pybpfload.attached(target, effective=True)


class TestDevicesThatGo:
    """Links end without a word when what they were attached to has ended."""

    @pytest.fixture
    def everything(self, netns, network, opened):
        """A device with all that it can have, and a route by it; all links."""
        netlink.add_pair("veth", "near", "far")
        routes = opened("lwt")
        routes.programs["on_lwt_out"].autoload = True
        young = kernel_version() >= 0x60600
        names = ["on_xdp", "on_tc", *(["on_tcx_ingress"] if young else [])]
        with network.loaded(*names) as obj, routes.load() as route:
            yield [
                obj.programs["on_xdp"].attach("near", link=False),
                obj.programs["on_xdp"].attach("far"),
                obj.programs["on_tc"].attach("near", direction="egress"),
                *(obj.programs[name].attach("near") for name in names[2:]),
                route.programs["on_lwt_out"].attach("10.1.0.0/24", device="near"),
            ]

    def test_removed(self, everything):
        netlink.remove("near")
        for link in everything:
            link.close()
            assert link.closed
        with pytest.raises(pybpfload.KernelError, match="network device near"):
            pybpfload.attached("near")

    def test_down(self, everything):
        """The kernel removes the routes by a device that goes down, and leaves the rest."""
        there = pybpfload.attached("near")
        netlink.set_down("near")
        assert pybpfload.attached("near") == there
        for link in everything:
            link.close()
        assert pybpfload.attached("near") == []

    def test_renamed(self, netns, network):
        netlink.add_pair("veth", "near", "far")
        with network.loaded("on_xdp", "on_tc") as obj:
            for name, options in [
                ("on_xdp", {"link": False}),
                ("on_tc", {"direction": "ingress"}),
            ]:
                link = obj.programs[name].attach("near", **options)
                netlink.set_down("near")
                netlink.rename("near", "other")
                assert len(pybpfload.attached("other")) == 1
                link.close()
                assert pybpfload.attached("other") == []
                netlink.rename("other", "near")


class TestIproute2:
    """Our messages, and those of somebody else who speaks rtnetlink."""

    def test_tc_sees_our_filters(self, netns, network):
        with network.loaded("on_tc") as obj:
            program = obj.programs["on_tc"]
            with program.attach("lo", direction="egress", priority=7, handle=0x12):
                told = run("tc", "-j", "filter", "show", "dev", "lo", "egress")
                (filter_,) = (each for each in told if "handle" in each.get("options", {}))
                assert (filter_["kind"], filter_["pref"], filter_["protocol"]) == ("bpf", 7, "all")
                options = filter_["options"]
                assert options["handle"] == "0x12"
                assert options["direct-action"] is True
                assert options["bpf_name"] == f"on_tc:[{program.info().id}]"
                assert options["prog"]["id"] == program.info().id
                kinds = [each["kind"] for each in run("tc", "-j", "qdisc", "show", "dev", "lo")]
                assert "clsact" in kinds
            kinds = [each["kind"] for each in run("tc", "-j", "qdisc", "show", "dev", "lo")]
            assert "clsact" not in kinds

    def test_tc_removes_our_filter(self, netns, network):
        with network.loaded("on_tc") as obj:
            link = obj.programs["on_tc"].attach("lo", direction="ingress")
            run("tc", "filter", "del", "dev", "lo", "ingress")
            assert network.runs("on_tc", datagram) == 0
            link.close()

    def test_we_see_filters_of_tc(self, netns, network, bpffs):
        with network.loaded("on_tc") as obj, pinned(obj.programs["on_tc"], bpffs) as pin:
            run("tc", "qdisc", "add", "dev", "lo", "clsact")
            words = f"filter add dev lo ingress prio 9 bpf direct-action object-pinned {pin}"
            run("tc", *words.split())
            assert network.runs("on_tc", datagram) == 1
            (found,) = pybpfload.attached("lo")
            assert found[:3] == ("tc", "ingress", obj.programs["on_tc"].info().id)
            assert found.priority == 9

    def test_ip_sees_our_xdp_program(self, netns, network):
        with network.loaded("on_xdp") as obj:
            with obj.programs["on_xdp"].attach("lo", mode="generic", link=False):
                (device,) = run("ip", "-j", "link", "show", "lo")
                assert device["xdp"]["prog"]["id"] == obj.programs["on_xdp"].info().id
                assert device["xdp"]["mode"] == 2  # XDP_ATTACHED_SKB
            (device,) = run("ip", "-j", "link", "show", "lo")
            assert "xdp" not in device

    def test_ip_replaces_and_removes_our_xdp_program(self, netns, network, bpffs):
        with network.loaded("on_xdp") as obj, network.loaded("on_xdp") as other:
            link = obj.programs["on_xdp"].attach("lo", mode="generic", link=False)
            with pinned(other.programs["on_xdp"], bpffs) as pin:
                run("ip", "-force", "link", "set", "dev", "lo", "xdpgeneric", "pinned", pin)
            (found,) = pybpfload.attached("lo")
            assert found[:3] == ("xdp", "generic", other.programs["on_xdp"].info().id)
            link.close()
            assert pybpfload.attached("lo") == [found]
            run("ip", "link", "set", "dev", "lo", "xdpgeneric", "off")
            assert pybpfload.attached("lo") == []
