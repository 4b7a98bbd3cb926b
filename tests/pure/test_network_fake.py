"""Attaching to the network on kernels that no test runs on, or with devices that none has.

The scripted kernel answers, and what it was asked is looked at.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import sys
from array import array
from pathlib import Path

import pytest

import pybpfload
from pybpfload.formats.netlink import MessageType, Rta, XdpFlag
from pybpfload.kernel.netlink import attributes
from pybpfload.testing.fakekernel import FakeKernel, store
from pybpfload.uapi import AttachFlag, AttachType, ProgType

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / f"bpf{'el' if sys.byteorder == 'little' else 'eb'}"
)


class RouteKernel(FakeKernel):
    """A scripted kernel that answers each message to rtnetlink with an error number.

    Attributes:
        answers: Error numbers still to be given, 0 for success, which is what comes after them.
        asked: Type, flags and body of the messages, oldest first.
    """

    answers: list[int]
    asked: list[tuple[MessageType, int, bytes]]

    def netlink(self, protocol: int):
        assert protocol == 0
        return _Socket(self)


class _Socket:
    def __init__(self, kernel: RouteKernel) -> None:
        self._kernel = kernel
        self.closed = False

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def send(self, data: bytes) -> None:
        assert not self.closed
        length, kind, flags, sequence, port = struct.unpack_from("=IHHII", data)
        assert length == len(data)
        self._kernel.asked.append((MessageType(kind), flags, data[16:]))
        number = self._kernel.answers.pop(0) if self._kernel.answers else 0
        header = struct.pack("=IHHII", 36, MessageType.ERROR, 0x100, sequence, port)
        self._answer = header + struct.pack("=i", -number) + data[:16]

    def recv_into(self, buffer: bytearray, size: int, flags: int) -> int:
        return len(self._answer)

    def recv(self, size: int) -> bytes:
        return self._answer

    def close(self) -> None:
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def kernel(version: str = "", **options) -> RouteKernel:
    """A scripted kernel of an age, or with everything."""
    fake = RouteKernel.like(version, **options) if version else RouteKernel(**options)
    fake.answers, fake.asked = [], []
    fake.dirs |= {"/cgroup", "/dev"}
    fake.files["/dev/lirc0"] = b""
    return fake


def opened(name: str, *programs: str) -> pybpfload.ObjectSpec:
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for program in spec:
        program.autoload = program.name in programs
    return spec


class TestLirc:
    """No kernel of the matrix has programs of infrared receivers."""

    def test_attached_and_detached(self):
        with kernel() as fake:
            with opened("lirc", "on_lirc").load() as obj:
                loaded = [call for call in fake.calls if call.command == "PROG_LOAD"][-1]
                assert loaded.fields["prog_type"] == ProgType.LIRC_MODE2
                link = obj.programs["on_lirc"].attach("/dev/lirc0")
                call = fake.calls[-1]
                assert call.command == "PROG_ATTACH"
                assert call.fields["attach_type"] == AttachType.LIRC_MODE2
                assert fake.fds[call.fields["target_fd"]]["path"] == "/dev/lirc0"
                assert call.fields["attach_flags"] == 0
                assert (link.kind, link.target) == ("lirc", "infrared receiver /dev/lirc0")
                link.close()
                call = fake.calls[-1]
                assert call.command == "PROG_DETACH"
                assert call.fields["attach_bpf_fd"] != 0
        assert fake.leaked() == []

    def test_unplugged(self):
        with kernel(refuses={"PROG_DETACH": errno.ENODEV}) as fake:
            with opened("lirc", "on_lirc").load() as obj:
                obj.programs["on_lirc"].attach("/dev/lirc0").close()
        assert fake.leaked() == []

    @pytest.mark.parametrize(
        ("number", "words"), [(errno.EINVAL, "no receiver"), (errno.E2BIG, "64 programs")]
    )
    def test_refused(self, number, words):
        with kernel(refuses={"PROG_ATTACH": number}) as fake:
            with opened("lirc", "on_lirc").load() as obj:
                with pytest.raises(pybpfload.KernelError, match=words):
                    obj.programs["on_lirc"].attach("/dev/lirc0")
        assert fake.leaked() == []

    def test_no_device(self):
        with kernel(), opened("lirc", "on_lirc").load() as obj:
            with pytest.raises(pybpfload.AttachError, match="there is no infrared receiver"):
                obj.programs["on_lirc"].attach("/dev/lirc1")
            with pytest.raises(pybpfload.AttachError, match="name its path"):
                obj.programs["on_lirc"].attach()

    def test_before_4_18(self):
        with kernel("4.17"), pytest.raises(pybpfload.NotSupportedError, match=r"4\.18") as caught:
            opened("lirc", "on_lirc").load()
        assert (caught.value.feature, caught.value.since) == ("the prog type LIRC_MODE2", "4.18")

    def test_query(self):
        def answer(call) -> int:
            assert call.fields["attach_type"] == AttachType.LIRC_MODE2
            if call.fields["count"]:
                store(call.fields["prog_ids"], array("I", [3, 4]).tobytes())
            call.answer("count", 2)
            return 0 if call.fields["count"] else -errno.ENOSPC

        with kernel() as fake:
            fake.filesystem_type = lambda path: 0x1373
            fake.on("PROG_QUERY", answer)
            found = pybpfload.attached("/dev/lirc0")
            assert [each[:3] for each in found] == [
                ("lirc", "lirc_mode2", 3),
                ("lirc", "lirc_mode2", 4),
            ]


class TestRoutes:
    def test_what_is_asked(self):
        with kernel() as fake, opened("lwt", "on_lwt_xmit").load() as obj:
            link = obj.programs["on_lwt_xmit"].attach("10.1.0.0/24", device="lo", headroom=14)
            (kind, flags, body) = fake.asked[-1]
            assert kind == MessageType.NEWROUTE
            assert flags == 0x605  # REQUEST, ACK, CREATE, EXCL
            assert struct.unpack_from("=8BI", body) == (2, 24, 0, 0, 0, 4, 253, 1, 0)
            found = attributes(body[12:])
            assert found[Rta.DST] == bytes([10, 1, 0, 0])
            assert found[Rta.ENCAP_TYPE] == struct.pack("=H", 6)
            hooks = attributes(found[Rta.ENCAP])
            assert hooks[4] == struct.pack("=I", 14)
            program = attributes(hooks[3])
            assert program[1] == struct.pack("=I", obj.programs["on_lwt_xmit"].fileno())
            number = obj.programs["on_lwt_xmit"].info().id
            assert program[2] == b"on_lwt_xmit:[%d]\0" % number
            link.close()
            (kind, _, again) = fake.asked[-1]
            assert kind == MessageType.DELROUTE
            assert attributes(again[12:]) == found

    @pytest.mark.parametrize(
        ("name", "target", "since"),
        [("on_lwt_in", "10.1.0.0/24", "4.10"), ("on_seg6local", "fc00::/64", "4.18")],
    )
    def test_a_kernel_without(self, name, target, since):
        with kernel() as fake, opened("lwt", name).load() as obj:
            fake.answers = [errno.EOPNOTSUPP]
            with pytest.raises(pybpfload.NotSupportedError, match="routes with") as caught:
                obj.programs[name].attach(target, device="lo")
            assert caught.value.since == since
        assert fake.leaked() == []

    @pytest.mark.parametrize("number", [errno.ESRCH, errno.ENODEV])
    def test_gone_already(self, number):
        with kernel() as fake, opened("lwt", "on_lwt_in").load() as obj:
            fake.answers = [0, number]
            obj.programs["on_lwt_in"].attach("10.1.0.0/24", device="lo").close()

    def test_not_gone(self):
        with kernel() as fake, opened("lwt", "on_lwt_in").load() as obj:
            fake.answers = [0, errno.EPERM]
            link = obj.programs["on_lwt_in"].attach("10.1.0.0/24", device="lo")
            with pytest.raises(pybpfload.NotPermittedError, match="RTM_DELROUTE"):
                link.close()
            assert link.closed


class TestXdpOffload:
    """No device of the matrix runs XDP programs itself."""

    def test_loaded_for_a_device(self):
        spec = opened("network", "on_xdp")
        spec.programs["on_xdp"].ifindex = 7
        with kernel() as fake, spec.load() as obj:
            loaded = [call for call in fake.calls if call.command == "PROG_LOAD"][-1]
            assert loaded.fields["prog_ifindex"] == 7
            fake.interface_name = lambda index: f"nic{index}"
            obj.programs["on_xdp"].attach(7, mode="offload")
            call = fake.calls[-1]
            assert call.command == "LINK_CREATE"
            assert call.fields["target_fd"] == 7
            assert call.fields["flags"] == XdpFlag.HW_MODE

    def test_by_rtnetlink(self):
        with kernel("5.8") as fake, opened("network", "on_xdp").load() as obj:
            link = obj.programs["on_xdp"].attach("lo", mode="offload")
            (kind, _, body) = fake.asked[-1]
            assert kind == MessageType.SETLINK
            xdp = attributes(attributes(body[16:])[43])
            assert xdp[1] == struct.pack("=I", obj.programs["on_xdp"].fileno())
            assert xdp[3] == struct.pack("=I", XdpFlag.HW_MODE | XdpFlag.UPDATE_IF_NOEXIST)
            link.close()
            xdp = attributes(attributes(fake.asked[-1][2][16:])[43])
            assert xdp[1] == struct.pack("=i", -1)

    def test_the_older_link_leaves_the_younger_one_alone(self):
        """They are of one program: the kernel could not tell them apart."""
        with kernel("5.8") as fake, opened("network", "on_xdp").load() as obj:
            program = obj.programs["on_xdp"]
            older = program.attach("lo", mode="generic")
            younger = program.attach("lo", replace=program)
            before = len(fake.asked)
            older.close()
            assert len(fake.asked) == before
            younger.close()
            assert len(fake.asked) == before + 1

    def test_no_links_before_5_9(self):
        with kernel("5.8"), opened("network", "on_xdp").load() as obj:
            with pytest.raises(pybpfload.NotSupportedError, match=r"5\.9"):
                obj.programs["on_xdp"].attach("lo", link=True)


class TestCgroupsWithoutLinks:
    """Links came with Linux 5.7, sharing with several others in 4.15."""

    def test_before_5_7(self):
        with kernel("5.6") as fake, opened("cgroups", "inet_egress").load() as obj:
            program = obj.programs["inet_egress"]
            link = program.attach("/cgroup")
            assert "LINK_CREATE" in fake.commands()
            call = fake.calls[-1]
            assert call.command == "PROG_ATTACH"
            assert call.fields["attach_flags"] == AttachFlag.ALLOW_MULTI
            assert call.fields["attach_type"] == AttachType.CGROUP_INET_EGRESS
            link.close()
            assert fake.calls[-1].command == "PROG_DETACH"
            with pytest.raises(pybpfload.NotSupportedError, match=r"5\.7"):
                program.attach("/cgroup", link=True)

    def test_before_4_15(self):
        def answer(call) -> int | None:
            return -errno.EINVAL if call.fields["attach_flags"] & AttachFlag.ALLOW_MULTI else None

        with kernel("4.14") as fake, opened("sections", "p_cgroup_skb_egress").load() as obj:
            fake.on("PROG_ATTACH", answer)
            program = obj.programs["p_cgroup_skb_egress"]
            with pytest.raises(pybpfload.NotSupportedError, match="sharing='override'") as caught:
                program.attach("/cgroup")
            assert caught.value.since == "4.15"
            program.attach("/cgroup", sharing="override")
            assert fake.calls[-1].fields["attach_flags"] == AttachFlag.ALLOW_OVERRIDE
        assert fake.leaked() == []

    def test_nobody_tells_before_4_15(self):
        with kernel("4.14") as fake:
            fake.filesystem_type = lambda path: 0x63677270
            with pytest.raises(pybpfload.NotSupportedError, match=r"control groups.*4\.15"):
                pybpfload.attached("/cgroup")
        assert fake.leaked() == []

    def test_a_refusal_says_of_what(self):
        with kernel() as fake:
            fake.filesystem_type = lambda path: 0x63677270
            fake.refuses["PROG_QUERY"] = errno.EPERM
            fake.files["/proc/self/status"] = b"CapEff:\t0000000000000000\n"
            with pytest.raises(pybpfload.NotPermittedError) as caught:
                pybpfload.attached("/cgroup")
        assert caught.value.target == "/cgroup"
        assert "needs CAP_NET_ADMIN, this process lacks CAP_NET_ADMIN" in str(caught.value)
        assert fake.leaked() == []

    def test_flags_of_each_program_before_6_0(self):
        """They are asked for, and when that is refused what is told of all of them is taken."""

        def answer(call) -> int | None:
            fields = call.fields
            if fields["attach_type"] != AttachType.CGROUP_DEVICE:
                return -errno.EINVAL
            if fields.get("prog_attach_flags"):
                return -errno.EINVAL
            if fields["count"]:
                store(fields["prog_ids"], array("I", [9]).tobytes())
            call.answer("count", 1)
            call.answer("attach_flags", AttachFlag.ALLOW_MULTI)
            return 0 if fields["count"] else -errno.ENOSPC

        with kernel() as fake:
            fake.filesystem_type = lambda path: 0x63677270
            fake.on("PROG_QUERY", answer)
            (found,) = pybpfload.attached("/cgroup")
            assert found[:3] == ("cgroup", "cgroup_device", 9)
            assert found.flags == AttachFlag.ALLOW_MULTI
            assert fake.leaked() == []


def test_a_failure_at_any_call_leaves_nothing_behind():
    def act() -> None:
        with opened("cgroups", "device", "sock_ops").load() as obj:
            obj.programs["device"].attach("/cgroup", link=False)
            obj.programs["sock_ops"].attach("/cgroup")

    with kernel() as fake:
        act()
    assert fake.leaked() == []
    for after in range(len(fake.calls)):
        with kernel() as failing:
            failing.fail(after, errno.ENOMEM)
            with contextlib.suppress(pybpfload.BpfError):
                act()
        assert failing.leaked() == [], f"call {after} of {len(fake.calls)}"
