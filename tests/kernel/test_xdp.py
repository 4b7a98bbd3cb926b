"""XDP on a real driver: programs on entries of maps, fragments, programs bound to one device.

Devices are pairs of veth in a network namespace of the test's own.
"""

from __future__ import annotations

import socket
from pathlib import Path

import netlink
import pytest
from network import Counted, Wire, frame

import pybpfload
from pybpfload.uapi import ProgFlag

pytestmark = [pytest.mark.vm, pytest.mark.kernel("5.10"), pytest.mark.needs_feature("config:VETH")]


@pytest.fixture
def wire(netns):
    """Two devices and the cable between them."""
    quiet = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    if quiet.exists():  # else the devices send on their own
        quiet.write_text("1")
    netlink.add_pair("veth", "near", "far")
    return Wire("near", "far")


@pytest.fixture
def xdp(opened):
    """The programs of the fixture `xdp_maps`."""
    return Counted(opened("xdp_maps"))


def test_program_of_a_devmap_entry(wire, xdp, network):
    """What comes out of `far` is sent into `near2`, past the entry's program, and out of `far2`."""
    netlink.add_pair("veth", "near2", "far2")
    near2 = socket.if_nametoindex("near2")
    with (
        xdp.loaded("to_device", "on_devmap") as obj,
        network.loaded("on_xdp") as other,
        other.programs["on_xdp"].attach("far2", mode="native"),  # else veth takes no frames
        obj.programs["to_device"].attach("far", mode="native"),
    ):
        on_entry = obj.programs["on_devmap"]
        obj.maps["devices"][0] = near2, on_entry
        assert obj.maps["devices"][0] == (near2, on_entry.info().id)
        assert xdp.runs("on_devmap", lambda: wire.arrives(frame(), at="far2")) == 1
        assert wire.arrives(frame(), at="far2")
        obj.variables["drop"].value = True
        assert not wire.arrives(frame(), at="far2")
        obj.maps["devices"][0] = near2  # without a program
        assert xdp.runs("on_devmap", lambda: wire.arrives(frame(), at="far2")) == 0
        assert wire.arrives(frame(), at="far2")


def test_program_of_a_cpumap_entry(wire, xdp):
    """What comes out of `far` goes to another processor, and past the entry's program there."""
    with (
        xdp.loaded("to_cpu", "on_cpumap") as obj,
        obj.programs["to_cpu"].attach("far", mode="native"),
    ):
        on_entry = obj.programs["on_cpumap"]
        obj.maps["cpus"][0] = 64, on_entry
        assert obj.maps["cpus"][0] == (64, on_entry.info().id)
        assert xdp.runs("on_cpumap", lambda: wire.arrives(frame())) == 1
        assert wire.arrives(frame())
        obj.variables["drop"].value = True
        assert not wire.arrives(frame())
        obj.maps["cpus"][0] = 64, None
        assert xdp.runs("on_cpumap", lambda: wire.arrives(frame())) == 0


@pytest.mark.parametrize(("name", "kind"), [("on_devmap", "devmap"), ("on_cpumap", "cpumap")])
def test_programs_of_entries_are_not_attached(wire, xdp, name, kind):
    with xdp.loaded(name) as obj:
        with pytest.raises(pybpfload.AttachError, match=f"entries of a {kind}"):
            obj.programs[name].attach("far")


def test_a_program_for_devices_is_none_for_entries(wire, xdp):
    with xdp.loaded("to_device") as obj:
        with pytest.raises(pybpfload.KernelError):
            obj.maps["devices"][0] = 1, obj.programs["to_device"]
        with pytest.raises(KeyError):
            obj.maps["devices"][0]
        for wrong in (-1, (1, "name"), (1, 2, 3)):
            with pytest.raises(pybpfload.ValueMismatchError, match="number and a program"):
                obj.maps["cpus"][0] = wrong


@pytest.mark.parametrize("mode", [None, "native", "generic"])
def test_modes(wire, network, mode):
    with network.loaded("on_xdp") as obj:
        with obj.programs["on_xdp"].attach("far", mode=mode):
            assert network.runs("on_xdp", lambda: wire.arrives(frame())) == 1
            (found,) = pybpfload.attached("far")
            assert found.kind == "xdp"
            assert found.place == (mode or "native")
            assert found.prog_id == obj.programs["on_xdp"].info().id
        assert pybpfload.attached("far") == []
        assert network.runs("on_xdp", lambda: wire.arrives(frame())) == 0


def test_two_modes_exclude_each_other(wire, network):
    with network.loaded("on_xdp") as obj:
        with obj.programs["on_xdp"].attach("far", mode="native"):
            with pytest.raises(pybpfload.KernelError, match="mode"):
                obj.programs["on_xdp"].attach("far", mode="generic", link=False)


def test_veth_offloads_nothing(wire, network):
    with network.loaded("on_xdp") as obj:
        with pytest.raises(pybpfload.KernelError, match="loaded for it"):
            obj.programs["on_xdp"].attach("far", mode="offload")
    network.spec.programs["on_xdp"].ifindex = socket.if_nametoindex("far")
    with pytest.raises(pybpfload.KernelError, match="on_xdp"), network.loaded("on_xdp"):
        pass


@pytest.mark.kernel("5.9")
def test_updating_a_link_changes_what_runs(wire, xdp, network):
    with network.loaded("on_xdp") as obj, xdp.loaded("to_device") as other:
        with obj.programs["on_xdp"].attach("far", mode="native") as link:
            assert wire.arrives(frame())
            link.update(other.programs["to_device"], old=obj.programs["on_xdp"])
            assert not wire.arrives(frame())  # it goes to the empty place of a map
            assert xdp.runs("to_device", lambda: wire.arrives(frame(), timeout=0.1)) == 1
            with pytest.raises(pybpfload.KernelError):
                link.update(obj.programs["on_xdp"], old=obj.programs["on_xdp"])


@pytest.mark.kernel("5.18")
def test_fragments(wire, xdp, network):
    """A packet that is longer than a page needs a program that knows fragments."""
    for device in ("near", "far"):
        netlink.set_mtu(device, 9000)
    with network.loaded("on_xdp") as obj:
        with pytest.raises(pybpfload.KernelError, match="MTU"):
            obj.programs["on_xdp"].attach("far", mode="native")
    with xdp.loaded("on_frags") as obj:
        assert obj.programs["on_frags"].spec.flags & ProgFlag.XDP_HAS_FRAGS
        with obj.programs["on_frags"].attach("far", mode="native"):
            assert wire.arrives(frame(8000))
            assert obj.variables["length"].value == 8000


@pytest.mark.kernel(below="5.18")
def test_no_fragments(xdp):
    with pytest.raises(pybpfload.NotSupportedError, match="XDP_HAS_FRAGS") as caught:
        xdp.loaded("on_frags").__enter__()
    assert caught.value.since == "5.18"


@pytest.mark.kernel("6.3")
def test_program_bound_to_a_device(wire, network):
    """It runs on the driver of the device that it was loaded for, and nowhere else."""
    program = network.spec.programs["on_xdp"]
    program.ifindex = socket.if_nametoindex("far")
    program.flags |= ProgFlag.XDP_DEV_BOUND_ONLY
    with network.loaded("on_xdp") as obj:
        for device, mode in [("near", "native"), ("far", "generic")]:
            with pytest.raises(pybpfload.KernelError):
                obj.programs["on_xdp"].attach(device, mode=mode)
        with obj.programs["on_xdp"].attach("far", mode="native"):
            assert network.runs("on_xdp", lambda: wire.arrives(frame())) == 1


@pytest.mark.kernel(below="6.3")
def test_no_programs_bound_to_a_device(wire, network):
    program = network.spec.programs["on_xdp"]
    program.ifindex = socket.if_nametoindex("far")
    program.flags |= ProgFlag.XDP_DEV_BOUND_ONLY
    with pytest.raises(pybpfload.NotSupportedError, match="XDP_DEV_BOUND_ONLY") as caught:
        network.loaded("on_xdp").__enter__()
    assert caught.value.since == "6.3"
