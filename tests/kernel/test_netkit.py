"""Programs of netkit devices: on what leaves either end of a pair, and their order."""

from __future__ import annotations

import struct

import netlink
import pytest
from network import Wire, frame

import pybpfload
from pybpfload.uapi import AttachType, LinkType

pytestmark = [pytest.mark.vm, pytest.mark.kernel("6.7"), pytest.mark.needs_feature("config:NETKIT")]

IFLA_NETKIT_MODE, NETKIT_L2 = 5, 0


@pytest.fixture
def pair(netns):
    """The two ends of a netkit device, which take Ethernet frames; the first is the primary one."""
    mode = netlink.attribute(IFLA_NETKIT_MODE, struct.pack("=I", NETKIT_L2))
    netlink.add_pair("netkit", "near", "far", mode)
    return Wire("near", "far")


@pytest.mark.parametrize("side", ["primary", "peer"])
def test_each_side(pair, network, side):
    """Programs of a side see what that side sends; both are attached to the primary device."""
    network.spec.programs["on_netkit"].expected_attach_type = AttachType[f"NETKIT_{side.upper()}"]
    there, back = pair, Wire("far", "near")
    seen, other = (there, back) if side == "primary" else (back, there)
    with network.loaded("on_netkit") as obj:
        program = obj.programs["on_netkit"]
        with program.attach("near") as link:
            assert (link.kind, link.info().type) == ("netkit", LinkType.NETKIT)
            assert network.runs("on_netkit", lambda: seen.arrives(frame())) > 0
            assert seen.arrives(frame())
            (found,) = pybpfload.attached("near")
            assert found[:3] == ("netkit", side, program.info().id)
            assert found.link_id == link.info().id
            assert pybpfload.attached("far") == []
            obj.variables["drop"].value = 1
            assert not seen.arrives(frame())
            assert other.arrives(frame())
        assert seen.arrives(frame())
    assert pybpfload.attached("near") == []


def test_order_and_revision(pair, network):
    with network.loaded("on_netkit") as a, network.loaded("on_netkit") as b:
        with network.loaded("on_netkit") as c, network.loaded("on_netkit") as d:
            one, two, three, four = (each.programs["on_netkit"] for each in (a, b, c, d))
            first = one.attach("near")
            revision = pybpfload.attached("near")[0].revision
            two.attach("near", before=first, revision=revision)
            three.attach("near", after=two)
            there = pybpfload.attached("near")
            assert [each.prog_id for each in there] == [p.info().id for p in (two, three, one)]
            with pytest.raises(pybpfload.KernelError, match="changed since that revision"):
                one.attach("near", revision=revision)
            first.update(four, old=one)
            assert pybpfload.attached("near")[2].prog_id == four.info().id


def test_not_on_the_peer(pair, network):
    with network.loaded("on_netkit") as obj:
        with pytest.raises(pybpfload.KernelError, match="primary device of a netkit pair"):
            obj.programs["on_netkit"].attach("far")
        with pytest.raises(pybpfload.KernelError, match="primary device of a netkit pair"):
            obj.programs["on_netkit"].attach("lo")
        with pytest.raises(ValueError, match="links only"):
            obj.programs["on_netkit"].attach("near", link=False)
