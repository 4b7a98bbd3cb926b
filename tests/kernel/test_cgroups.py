"""Programs of control groups: one of each attach type, seen to run, to change something, to stop.

All happens in a control group and a network namespace of the test's own.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from network import Counted, datagram

import pybpfload
from pybpfload.kernel.since import first_version
from pybpfload.runtime.attach.common import LegacyLink
from pybpfload.uapi import AttachFlag, AttachType, LinkType

pytestmark = [pytest.mark.vm, pytest.mark.needs_feature("config:CGROUP_BPF")]

V4, V6 = (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")
PORT = 7777  # what the fixture puts into addresses


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def bind(family: int, address: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.bind((address, 0))


def talk(family: int, address: str) -> int:
    """Send a datagram and receive it; the port that it seems to come from, 0 of the true one."""
    with (
        socket.socket(family, socket.SOCK_DGRAM) as to,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        to.bind((address, 0))
        to.settimeout(0.5)
        sender.sendto(b"hello", to.getsockname())
        port = to.recvfrom(10)[1][1]
        return 0 if port == sender.getsockname()[1] else port


def names(family: int, address: str) -> tuple[int, int]:
    """The ports of a connection's ends, as they seem: 0 of the one that was bound."""
    with (
        socket.socket(family, socket.SOCK_DGRAM) as to,
        socket.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        to.bind((address, 0))
        sender.connect(("127.0.0.1" if family == socket.AF_INET else "::1", 9))
        return sender.getpeername()[1], sender.getsockname()[1]


def connect(family: int, address: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as own:
        own.connect((address, 9))


def unix(kind: int) -> None:
    """Exchange something over named UNIX sockets and ask for their names."""
    with socket.socket(socket.AF_UNIX, kind) as to, socket.socket(socket.AF_UNIX, kind) as own:
        to.bind(f"\0pybpfload-test-{os.getpid()}")
        if kind == socket.SOCK_STREAM:
            to.listen()
            own.connect(to.getsockname())
            own.getpeername()
        else:
            own.sendto(b"hello", to.getsockname())
            to.recvfrom(10)


def open_null() -> None:
    Path("/dev/null").open().close()


def read_sysctl() -> None:
    Path("/proc/sys/kernel/ostype").read_text()


def get_option() -> None:
    with udp() as own:
        own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def set_option() -> None:
    with udp() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)


def connect_stream() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), 10),
    ):
        server.accept()[0].close()


SEEN = object()  # it only sees what happens

# Attach type -> what it sees, and what becomes of that when the program changes something: an
# error or another result.
TYPES = {
    "inet_ingress": (lambda: talk(*V4), TimeoutError),
    "inet_egress": (lambda: talk(*V4), PermissionError),
    "inet_sock_create": (lambda: udp().close(), PermissionError),
    "inet_sock_release": (lambda: udp().close(), SEEN),
    "sock_ops": (connect_stream, SEEN),
    "device": (open_null, PermissionError),
    "inet4_bind": (lambda: bind(*V4), PermissionError),
    "inet6_bind": (lambda: bind(*V6), PermissionError),
    "inet4_connect": (lambda: connect(*V4), PermissionError),
    "inet6_connect": (lambda: connect(*V6), PermissionError),
    "inet4_post_bind": (lambda: bind(*V4), PermissionError),
    "inet6_post_bind": (lambda: bind(*V6), PermissionError),
    "udp4_sendmsg": (lambda: talk(*V4), PermissionError),
    "udp6_sendmsg": (lambda: talk(*V6), PermissionError),
    "sysctl": (read_sysctl, PermissionError),
    "udp4_recvmsg": (lambda: talk(*V4), PORT),
    "udp6_recvmsg": (lambda: talk(*V6), PORT),
    "getsockopt": (get_option, PermissionError),
    "setsockopt": (set_option, PermissionError),
    "inet4_getpeername": (lambda: names(*V4)[0], PORT),
    "inet6_getpeername": (lambda: names(*V6)[0], PORT),
    "inet4_getsockname": (lambda: names(*V4)[1], PORT),
    "inet6_getsockname": (lambda: names(*V6)[1], PORT),
    "unix_connect": (lambda: unix(socket.SOCK_STREAM), PermissionError),
    "unix_sendmsg": (lambda: unix(socket.SOCK_DGRAM), PermissionError),
    "unix_recvmsg": (lambda: unix(socket.SOCK_DGRAM), SEEN),
    "unix_getpeername": (lambda: unix(socket.SOCK_STREAM), SEEN),
    "unix_getsockname": (lambda: unix(socket.SOCK_STREAM), SEEN),
}
YOUNG = [pytest.param(each, marks=pytest.mark.kernel("6.7")) for each in TYPES if "unix" in each]
OLD = [each for each in TYPES if "unix" not in each]


@pytest.fixture
def cgroups(opened):
    """The programs of the fixture `cgroups`."""
    return Counted(opened("cgroups"))


def test_there_is_a_row_for_each_attach_type(cgroups):
    every = {each.name for each in AttachType if each.name.startswith("CGROUP_")}
    assert {f"CGROUP_{name.upper()}" for name in TYPES} == every
    for program in cgroups.spec:
        assert AttachType(program.expected_attach_type).name == f"CGROUP_{program.name.upper()}"


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("name", OLD + YOUNG)
def test_each_attach_type(netns, cgroup, cgroups, name, link):
    act, changed = TYPES[name]
    plain = act()
    with cgroups.loaded(name) as obj:
        assert cgroups.runs(name, act) == 0
        with obj.programs[name].attach(cgroup, link=link) as attached:
            assert isinstance(attached, LegacyLink) is not link
            assert cgroups.runs(name, act) > 0
            there = pybpfload.attached(cgroup)
            assert [(each.place, each.prog_id) for each in there] == [
                (f"cgroup_{name}", obj.programs[name].info().id)
            ]
            obj.variables["change"].value = 1
            if isinstance(changed, type):
                with pytest.raises(changed):
                    act()
            elif changed is not SEEN:
                assert act() == changed
        assert cgroups.runs(name, act) == 0
        if changed not in (SEEN, PORT):
            assert act() == plain
    assert pybpfload.attached(cgroup) == []


@pytest.mark.kernel(below="6.7")
@pytest.mark.parametrize("name", [each for each in TYPES if "unix" in each])
def test_attach_types_that_are_too_young(cgroup, cgroups, name):
    with pytest.raises(pybpfload.NotSupportedError, match=r"6\.7") as caught:
        with cgroups.loaded(name) as obj:
            obj.programs[name].attach(cgroup)
    assert caught.value.since == first_version("AttachType", AttachType[f"CGROUP_{name.upper()}"])
    assert name in caught.value.feature.lower()


class TestAttached:
    """What `attached` tells of control groups."""

    def test_flags(self, cgroup, network):
        with network.loaded("on_sockops") as obj:
            for sharing, flags in [("override", 1), ("multi", 2), ("none", 0)]:
                with obj.programs["on_sockops"].attach(cgroup, link=False, sharing=sharing):
                    (found,) = pybpfload.attached(cgroup)
                    assert found.kind == "cgroup"
                    assert found.flags == AttachFlag(flags)

    def test_order(self, cgroup, network):
        with network.loaded("on_sockops") as obj, network.loaded("on_sockops") as other:
            one, two = (each.programs["on_sockops"] for each in (obj, other))
            with one.attach(cgroup), two.attach(cgroup):
                ids = [each.prog_id for each in pybpfload.attached(os.fspath(cgroup))]
                assert ids == [one.info().id, two.info().id]

    def test_effective(self, cgroup, network):
        """Programs of groups above run for those below."""
        inner = cgroup / "inner"
        inner.mkdir()
        with network.loaded("on_sockops", "on_cgroup_device") as obj:
            above, here = obj.programs["on_sockops"], obj.programs["on_cgroup_device"]
            with above.attach(cgroup), here.attach(inner):
                assert [each.prog_id for each in pybpfload.attached(inner)] == [here.info().id]
                inherited = {
                    (each.place, each.prog_id)
                    for each in pybpfload.attached(inner, effective=True)
                    if each.prog_id in (above.info().id, here.info().id)
                }
                assert inherited == {
                    ("cgroup_sock_ops", above.info().id),
                    ("cgroup_device", here.info().id),
                }
                with open_folder(inner) as fd:
                    assert [each.prog_id for each in pybpfload.attached(fd)] == [here.info().id]
        inner.rmdir()


class open_folder:
    """A folder, open."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def fileno(self) -> int:
        return self._fd

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)


@pytest.mark.kernel("6.0")
@pytest.mark.needs_feature("lsm")
def test_lsm_cgroup(netns, cgroup, opened, trampolines):
    """A program of an LSM hook that runs for one control group."""
    spec = opened("lsm_cgroup")
    spec.programs["on_bind"].autoload = True
    with spec.load() as obj:
        seen, deny = obj.variables["seen"], obj.variables["deny"]
        with obj.programs["on_bind"].attach(cgroup) as link:
            assert link.info().details["attach_type"] == AttachType.LSM_CGROUP
            bind(*V4)
            assert seen.value == 1
            (found,) = pybpfload.attached(cgroup)
            assert found.place == "lsm_cgroup"
            assert found.prog_id == obj.programs["on_bind"].info().id
            deny.value = 1
            with pytest.raises(PermissionError):
                bind(*V4)
        bind(*V4)
        assert seen.value == 2


@pytest.mark.kernel(below="6.0")
def test_no_lsm_programs_of_control_groups(cgroup, opened):
    spec = opened("lsm_cgroup")
    spec.programs["on_bind"].autoload = True
    with pytest.raises(pybpfload.NotSupportedError, match=r"6\.0"), spec.load() as obj:
        obj.programs["on_bind"].attach(cgroup)


class TestSharing:
    @pytest.mark.parametrize("sharing", ["multi", "override", "none"])
    def test_without_link(self, netns, cgroup, network, sharing):
        group = str(cgroup)
        link = network.sees("on_cgroup_ingress", datagram, group, link=False, sharing=sharing)
        assert isinstance(link, LegacyLink)

    def test_the_program_that_took_its_place_stays(self, cgroup, network):
        with network.loaded("on_sockops") as obj, network.loaded("on_sockops") as other:
            options = {"link": False, "sharing": "override"}
            first = obj.programs["on_sockops"].attach(cgroup, **options)
            second = other.programs["on_sockops"].attach(cgroup, **options)
            first.close()
            fd = os.open(cgroup, os.O_RDONLY)
            try:
                there = pybpfload.lowlevel.prog_query(fd, AttachType.CGROUP_SOCK_OPS).prog_ids
                assert list(there) == [other.programs["on_sockops"].info().id]
            finally:
                os.close(fd)
            second.close()

    def test_info_and_pin(self, cgroup, network, bpffs):
        with network.loaded("on_sockops") as obj:
            with obj.programs["on_sockops"].attach(cgroup) as link:
                info = link.info()
                assert info.type == LinkType.CGROUP
                assert info.details["cgroup_id"] == cgroup.stat().st_ino
                pin = f"{bpffs}/pybpfload-test-{os.getpid()}"
                link.pin(pin)
                try:
                    with pybpfload.Link.from_pin(pin) as again:
                        assert again.info().id == info.id
                finally:
                    link.unpin()

    def test_one_that_does_not_share(self, cgroup, network):
        with network.loaded("on_sockops") as obj:
            with obj.programs["on_sockops"].attach(cgroup, sharing="none"):
                with pytest.raises(pybpfload.KernelError, match="does not share"):
                    obj.programs["on_sockops"].attach(cgroup, link=False)

    def test_not_a_group(self, cgroup, network, tmp_path):
        with network.loaded("on_sockops") as obj:
            program = obj.programs["on_sockops"]
            with pytest.raises(pybpfload.KernelError, match="no directory of a cgroup2"):
                program.attach(tmp_path)
            with pytest.raises(pybpfload.AttachError, match="there is no control group"):
                program.attach(cgroup / "nowhere")
            with pytest.raises(ValueError, match="links share always"):
                program.attach(cgroup, link=True, sharing="none")

    def test_group_that_is_removed(self, cgroup, network):
        inner = cgroup / "inner"
        inner.mkdir()
        with network.loaded("on_sockops") as obj:
            link = obj.programs["on_sockops"].attach(inner)
            inner.rmdir()
            link.close()
