"""Programs of devices, namespaces and sockets: each is seen to run, and to stop.

All happens in a network namespace of the test's own.
"""

from __future__ import annotations

import os
import socket

import netlink
import pytest
from network import CLONE_NEWNET, ETH_P_ALL, LIBC, LOST, PATIENCE, datagram, stream

import pybpfload
from pybpfload.formats.netlink import Bpf, MessageFlag, MessageType, Tca
from pybpfload.kernel import netdev
from pybpfload.kernel.netlink import attribute, nest, request
from pybpfload.runtime.attach.common import LegacyLink
from pybpfload.uapi import AttachType, LinkType

pytestmark = pytest.mark.vm

SOL_PACKET, PACKET_FANOUT = 263, 18


class TestXdp:
    @pytest.mark.kernel("5.9")
    def test_link(self, netns, network):
        with network.loaded("on_xdp") as obj:
            with obj.programs["on_xdp"].attach("lo") as link:
                assert network.runs("on_xdp", datagram) == 1
                info = link.info()
                assert (info.type, info.details["ifindex"]) == (LinkType.XDP, 1)
                assert netdev.xdp_query(1).mode == "generic"
                with pytest.raises(pybpfload.KernelError, match="has an XDP program already"):
                    obj.programs["on_xdp"].attach("lo", link=False)
            assert netdev.xdp_query(1).mode == ""

    @pytest.mark.parametrize("device", ["lo", 1])
    def test_by_rtnetlink(self, netns, network, device):
        link = network.sees("on_xdp", datagram, device, link=False, mode="generic")
        assert isinstance(link, LegacyLink)

    def test_the_driver_has_no_such_mode(self, netns, network):
        with (
            network.loaded("on_xdp") as obj,
            pytest.raises(pybpfload.KernelError, match="mode='generic'"),
        ):
            obj.programs["on_xdp"].attach("lo", mode="native")

    def test_replacing_by_rtnetlink(self, netns, network):
        with network.loaded("on_xdp") as obj, network.loaded("on_xdp") as other:
            old = obj.programs["on_xdp"]
            first = old.attach("lo", link=False, mode="generic")
            second = other.programs["on_xdp"].attach("lo", mode="generic", replace=old)
            assert netdev.xdp_query(1).prog_id == other.programs["on_xdp"].info().id
            first.close()  # it is not there any more, and must not take away the other one
            assert netdev.xdp_query(1).prog_id == other.programs["on_xdp"].info().id
            second.close()
            assert netdev.xdp_query(1).prog_id == 0

    @pytest.mark.kernel("5.9")
    def test_a_link_that_took_its_place_stays(self, netns, network):
        with network.loaded("on_xdp") as obj, network.loaded("on_xdp") as other:
            first = obj.programs["on_xdp"].attach("lo", link=False, mode="generic")
            netdev.xdp_attach(1, -1, 2)
            with other.programs["on_xdp"].attach("lo", mode="generic"):
                first.close()
                assert netdev.xdp_query(1).prog_id == other.programs["on_xdp"].info().id

    @pytest.mark.parametrize(
        ("name", "options"),
        [("on_xdp", {"link": False, "mode": "generic"}), ("on_tc", {"direction": "ingress"})],
    )
    def test_closed_in_another_namespace(self, netns, network, name, options):
        """It is detached in the one where it was attached."""
        with open("/proc/thread-self/ns/net", "rb") as first, network.loaded(name) as obj:
            link = obj.programs[name].attach("lo", **options)
            assert LIBC.unshare(CLONE_NEWNET) == 0
            link.close()
            assert LIBC.setns(first.fileno(), CLONE_NEWNET) == 0
            assert netdev.xdp_query(1).mode == ""
            assert not netdev.has_clsact(1)

    @pytest.mark.kernel("5.9")
    def test_updating_a_link(self, netns, network):
        with network.loaded("on_xdp") as obj, network.loaded("on_xdp") as other:
            with obj.programs["on_xdp"].attach("lo") as link:
                link.update(other.programs["on_xdp"], old=obj.programs["on_xdp"])
                assert netdev.xdp_query(1).prog_id == other.programs["on_xdp"].info().id

    def test_no_device(self, netns, network):
        with network.loaded("on_xdp") as obj:
            with pytest.raises(pybpfload.AttachError, match="network device nowhere"):
                obj.programs["on_xdp"].attach("nowhere")
            with pytest.raises(pybpfload.AttachError, match="name one"):
                obj.programs["on_xdp"].attach()


class TestTc:
    @pytest.mark.parametrize("direction", ["ingress", "egress"])
    def test_filter(self, netns, network, direction):
        network.sees("on_tc", datagram, "lo", direction=direction)
        # clsact, which was made for it, went with it.
        with pytest.raises(pybpfload.KernelError):
            netdev.delete_clsact(1)

    def test_filters_have_names_and_an_order(self, netns, network):
        netdev.create_clsact(1)
        with network.loaded("on_tc") as obj:
            program = obj.programs["on_tc"]
            with (
                program.attach("lo", direction="ingress", priority=20, handle=3),
                program.attach("lo", direction="ingress", priority=10),
            ):
                found = netdev.tc_filters(1, netdev.INGRESS)
                assert [each.priority for each in found] == [10, 20]
                assert {each.prog_id for each in found} == {program.info().id}
                assert all(each.direct_action for each in found)
                assert found[1] == netdev.tc_query(1, netdev.INGRESS, 3, 20)
                with pytest.raises(pybpfload.KernelError, match="handle and priority"):
                    program.attach("lo", direction="ingress", priority=20, handle=3)
            assert netdev.tc_filters(1, netdev.INGRESS) == []
        assert netdev.create_clsact(1) is False  # it was there before, so it stays

    def test_the_filter_that_took_its_place_stays(self, netns, network):
        with network.loaded("on_tc") as obj, network.loaded("on_tc") as other:
            place = {"handle": 1, "priority": 5}
            link = obj.programs["on_tc"].attach("lo", direction="ingress", **place)
            foreign = other.programs["on_tc"]
            netdev.tc_attach(1, netdev.INGRESS, foreign.fileno(), "x", replace=True, **place)
            link.close()
            assert netdev.tc_query(1, netdev.INGRESS, 1, 5).prog_id == foreign.info().id

    def test_clsact_stays_while_others_have_filters(self, netns, network):
        with network.loaded("on_tc") as obj:
            link = obj.programs["on_tc"].attach("lo", direction="ingress")
            program = obj.programs["on_tc"].fileno()
            body = netdev._traffic(1, netdev.EGRESS, protocol=socket.htons(0x0800))  # only IPv4
            body += attribute(Tca.KIND, "bpf")
            body += nest(Tca.OPTIONS, attribute(Bpf.FD, program), attribute(Bpf.NAME, "x"))
            request(MessageType.NEWTFILTER, body, flags=MessageFlag.CREATE)
            link.close()
            assert netdev.has_filters(1, netdev.EGRESS)
            assert not netdev.has_filters(1, netdev.INGRESS)
            assert [each.name for each in netdev.tc_filters(1, netdev.EGRESS)] == ["x"]
            assert netdev.has_clsact(1)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_clsact_goes_with_the_last_filter(self, netns, network, order):
        with network.loaded("on_tc") as obj:
            links = [
                obj.programs["on_tc"].attach("lo", direction=each) for each in ("ingress", "egress")
            ]
            for number in order:
                assert netdev.has_clsact(1)
                links[number].close()
            assert not netdev.has_clsact(1)
            netdev.create_clsact(1)  # somebody else makes one: it is not ours any more
            obj.programs["on_tc"].attach("lo", direction="ingress").close()
            assert netdev.has_clsact(1)

    @pytest.mark.parametrize(
        "wrong", [{"priority": 1 << 16}, {"priority": -1}, {"handle": 1 << 32}]
    )
    def test_numbers_out_of_range(self, netns, network, wrong):
        with network.loaded("on_tc") as obj, pytest.raises(ValueError, match="out of range"):
            obj.programs["on_tc"].attach("lo", direction="ingress", **wrong)
        assert not netdev.has_clsact(1)

    @pytest.mark.kernel("6.6")
    @pytest.mark.parametrize("side", ["ingress", "egress"])
    def test_tcx(self, netns, network, side):
        assert network.sees(f"on_tcx_{side}", datagram, "lo").kind == "tcx"

    @pytest.mark.kernel("6.6")
    def test_tcx_order(self, netns, network):
        with network.loaded("on_tcx_ingress") as a, network.loaded("on_tcx_ingress") as b:
            with network.loaded("on_tcx_ingress") as c:
                one, two, three = (each.programs["on_tcx_ingress"] for each in (a, b, c))
                first = one.attach("lo")
                two.attach("lo", before=first)
                three.attach("lo", after=two)
                found = pybpfload.lowlevel.prog_query(1, AttachType.TCX_INGRESS)
                ids = [each.info().id for each in (two, three, one)]
                assert list(found.prog_ids) == ids
                with pytest.raises(pybpfload.KernelError, match="changed since that revision"):
                    one.attach("lo", revision=found.revision - 1)
                with pytest.raises(ValueError, match="exclude each other"):
                    one.attach("lo", before=first, after=first)

    @pytest.mark.kernel(below="6.6")
    def test_without_tcx_a_filter_does_it(self, netns, network):
        """The program type is the same; what tcx calls a verdict, direct action understands."""
        with network.loaded("on_tcx_ingress") as obj:
            with obj.programs["on_tcx_ingress"].attach("lo") as link:
                assert link.kind == "tc"
                assert network.runs("on_tcx_ingress", datagram) == 1
            with pytest.raises(pybpfload.NotSupportedError, match=r"tcx.*6\.6"):
                obj.programs["on_tcx_ingress"].attach("lo", link=True)

    @pytest.mark.kernel(below="6.7")
    def test_no_netkit(self, netns, network):
        with (
            network.loaded("on_netkit") as obj,
            pytest.raises(pybpfload.NotSupportedError) as caught,
        ):
            obj.programs["on_netkit"].attach("lo")
        assert "netkit" in caught.value.feature.lower()
        assert caught.value.since == "6.7"

    @pytest.mark.needs_feature("config:NETKIT")
    def test_netkit_needs_a_netkit_device(self, netns, network):
        with (
            network.loaded("on_netkit") as obj,
            pytest.raises(pybpfload.KernelError, match="device lo primary"),
        ):
            obj.programs["on_netkit"].attach("lo")


class TestNamespace:
    @pytest.mark.kernel("5.9")
    @pytest.mark.parametrize("target", [None, "/proc/thread-self/ns/net"])
    def test_sk_lookup(self, netns, network, target):
        assert network.sees("on_sk_lookup", stream, target).kind == "netns"

    def test_flow_dissector(self, netns, network):
        with network.loaded("on_flow_dissector") as obj:
            with obj.programs["on_flow_dissector"].attach() as link:
                own = os.stat("/proc/thread-self/ns/net").st_ino
                assert link.info().details["netns_ino"] == own
                with pytest.raises(pybpfload.KernelError, match="one flow dissector"):
                    obj.programs["on_flow_dissector"].attach()
                # Packet sockets that share a group are chosen by the hash of a packet's flow.
                with socket.socket(
                    socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)
                ) as member:
                    member.setsockopt(SOL_PACKET, PACKET_FANOUT, os.getpid() & 0xFFFF)
                    assert network.runs("on_flow_dissector", datagram) > 0
                    link.close()
                    assert network.runs("on_flow_dissector", datagram) == 0

    def test_not_a_namespace(self, netns, network):
        with (
            network.loaded("on_sk_lookup") as obj,
            pytest.raises(pybpfload.KernelError, match="no network namespace"),
        ):
            obj.programs["on_sk_lookup"].attach("/proc/self/ns/pid")

    @pytest.mark.kernel("6.4")
    @pytest.mark.needs_feature("config:NETFILTER_BPF_LINK")
    def test_netfilter(self, netns, network):
        network.sees("on_netfilter", datagram, "input", priority=-10)

    @pytest.mark.kernel("6.6")
    @pytest.mark.needs_feature("config:NETFILTER_BPF_LINK")
    def test_netfilter_sees_fragments_or_whole_packets(self, netns, network):
        """A datagram that is longer than the device's packets comes as several fragments."""
        netlink.set_mtu("lo", 1500)

        def long_datagram() -> None:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to,
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
            ):
                to.bind(("127.0.0.1", 0))
                to.settimeout(PATIENCE)
                sender.sendto(bytes(4000), to.getsockname())
                assert len(to.recv(5000)) == 4000

        with network.loaded("on_netfilter") as obj:
            program = obj.programs["on_netfilter"]
            with program.attach("prerouting", priority=-100):
                assert network.runs("on_netfilter", long_datagram) == 3
            with program.attach("prerouting", priority=-100, defrag=True) as link:
                assert link.info().details["flags"] == 1
                assert network.runs("on_netfilter", long_datagram) == 1
            with pytest.raises(pybpfload.KernelError, match="above -400"):
                program.attach("prerouting", priority=-500, defrag=True)

    @pytest.mark.kernel("6.4", below="6.6")
    @pytest.mark.needs_feature("config:NETFILTER_BPF_LINK")
    def test_no_defrag(self, netns, network):
        with network.loaded("on_netfilter") as obj:
            with pytest.raises(pybpfload.NotSupportedError, match=r"6\.6"):
                obj.programs["on_netfilter"].attach("prerouting", defrag=True)

    @pytest.mark.kernel("6.4")
    @pytest.mark.needs_feature("config:NETFILTER_BPF_LINK")
    @pytest.mark.parametrize(("hook", "runs"), [("output", 1), ("input", 1), ("forward", 0)])
    def test_netfilter_hooks_and_families(self, netns, network, hook, runs):
        def datagram6() -> None:
            with (
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as to,
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
            ):
                to.bind(("::1", 0))
                to.settimeout(PATIENCE)
                sender.sendto(b"hello", to.getsockname())
                assert to.recv(10) == b"hello"

        with network.loaded("on_netfilter") as obj:
            program = obj.programs["on_netfilter"]
            for family, act, other in [
                ("ipv4", datagram, datagram6),
                ("ipv6", datagram6, datagram),
            ]:
                with program.attach(hook, family=family, priority=5):
                    assert network.runs("on_netfilter", act) == runs
                    assert network.runs("on_netfilter", other) == 0

    @pytest.mark.kernel("6.4")
    @pytest.mark.needs_feature("config:NETFILTER_BPF_LINK")
    def test_two_netfilter_programs_of_one_priority(self, netns, network):
        with network.loaded("on_netfilter") as obj:
            with obj.programs["on_netfilter"].attach("input"):
                with pytest.raises(pybpfload.KernelError, match="has that priority"):
                    obj.programs["on_netfilter"].attach("input")
                with obj.programs["on_netfilter"].attach("input", family="ipv6") as other:
                    assert other.info().details["pf"] == 10
            with pytest.raises(pybpfload.AttachError, match="prerouting, input"):
                obj.programs["on_netfilter"].attach("nowhere")

    @pytest.mark.kernel(below="6.4")
    def test_no_netfilter_programs(self, netns, network):
        with pytest.raises(pybpfload.NotSupportedError, match="NETFILTER") as caught:
            network.loaded("on_netfilter").__enter__()
        assert caught.value.since == "6.4"


class TestSockets:
    def test_socket_filter(self, netns, network):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("127.0.0.1", 0))
            own.settimeout(PATIENCE)

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"hello", own.getsockname())
                assert own.recv(10) == b"hello"

            network.sees("on_socket", send, own)

    def test_reuseport(self, netns, network):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            own.bind(("127.0.0.1", 0))
            own.settimeout(PATIENCE)

            def send() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"hello", own.getsockname())
                assert own.recv(10) == b"hello"

            network.sees("on_sk_reuseport", send, own)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
            network.loaded("on_sk_reuseport") as obj,
            pytest.raises(pybpfload.KernelError, match="SO_REUSEPORT"),
        ):
            obj.programs["on_sk_reuseport"].attach(plain)

    def test_not_a_socket(self, network, tmp_path):
        with network.loaded("on_socket") as obj, (tmp_path / "file").open("w") as file:
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(pybpfload.KernelError, match="non-socket"):
                obj.programs["on_socket"].attach(file)
            assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("link", [None, False])
    @pytest.mark.parametrize(
        ("name", "where"),
        [
            ("on_sk_msg", "client"),
            ("on_sk_skb", "accepted"),
            pytest.param("on_sk_skb_any", "accepted", marks=pytest.mark.kernel("5.13")),
        ],
    )
    def test_sockmap(self, netns, network, link, name, where):
        """What a socket of the map sends, or receives, goes through the program."""
        with (
            network.loaded(name) as obj,
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), PATIENCE) as client,
        ):
            accepted, _ = server.accept()
            accepted.settimeout(PATIENCE)
            attached = obj.programs[name].attach(obj.maps["socks"], link=link)
            with accepted:
                obj.maps["socks"][1] = {"client": client, "accepted": accepted}[where].fileno()

                def send() -> None:
                    client.send(b"hello")
                    assert accepted.recv(10) == b"hello"

                assert network.runs(name, send) == 1
                obj.variables["drop"].value = 1
                with pytest.raises(LOST):
                    send()
                obj.variables["drop"].value = 0
                attached.close()
                del obj.maps["socks"][1]
                assert network.runs(name, send) == 0

    @pytest.mark.kernel("6.1")  # a 5.10 never comes back from recv(2) then
    def test_parser_and_verdict(self, netns, network):
        """One program says where messages end, another what becomes of them."""
        with (
            network.loaded("on_sk_parser", "on_sk_skb") as obj,
            obj.programs["on_sk_parser"].attach(obj.maps["socks"]),
            obj.programs["on_sk_skb"].attach(obj.maps["socks"]),
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), PATIENCE) as client,
        ):
            accepted, _ = server.accept()
            accepted.settimeout(PATIENCE)
            with accepted:
                obj.maps["socks"][1] = accepted.fileno()

                def send() -> None:
                    client.send(b"hello")
                    assert accepted.recv(10) == b"hello"

                assert network.runs("on_sk_parser", send) > 0
                assert network.runs("on_sk_skb", send) > 0

    def test_no_socket(self, network):
        with network.loaded("on_socket") as obj:
            with pytest.raises(pybpfload.AttachError, match="give one"):
                obj.programs["on_socket"].attach()
