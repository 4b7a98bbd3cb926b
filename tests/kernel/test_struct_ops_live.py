"""struct_ops: congestion controls that carry real traffic on the loopback device."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from children import in_child

import pybpfload
from pybpfload.runtime.attach.common import LegacyLink
from pybpfload.runtime.struct_ops import StructOpsMap
from pybpfload.uapi import LinkType

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kernel("5.6"),
    pytest.mark.needs_feature("jit", "config:BPF_JIT"),
    pytest.mark.usefixtures("sound_kernel"),
]

_TCP_CONGESTION = 13


@pytest.fixture(autouse=True)
def struct_ops(opened):
    """Skip where the kernel's compiler has no trampolines for them (arm64 before 6.0)."""
    try:
        opened("struct_ops").load().close()
    except pybpfload.KernelError as error:
        if error.errno == 524:
            pytest.skip("this kernel's JIT has no trampolines")
        raise


def available() -> list[str]:
    return Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()


def talk(congestion_control: str, size: int = 100_000) -> None:
    """Send some bytes through a TCP connection that uses it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(20)
        client.setsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, congestion_control.encode())
        client.connect(server.getsockname())
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(20)
            received = 0
            client.setblocking(False)
            sent = 0
            while received < size:
                if sent < size:
                    with contextlib.suppress(BlockingIOError):
                        sent += client.send(bytes(min(size - sent, 10_000)))
                received += len(accepted.recv(1 << 16))


def test_registered_without_a_link(opened):
    with opened("struct_ops").load() as obj:
        table = obj.maps["plain"]
        assert isinstance(table, StructOpsMap)
        with table.attach() as link:
            assert isinstance(link, LegacyLink)
            assert obj.links == [link]
            assert "pybpf_cc" in available()
            before = obj.variables["initialised"].value
            talk("pybpf_cc")
            assert obj.variables["initialised"].value - before >= 1
            value = table[0]
            assert value.data.name == "pybpf_cc"
            assert value.data.init != 0
            assert value.data.release == 0
            with pytest.raises(pybpfload.KernelError, match="registered already"):
                table.attach()
        assert "pybpf_cc" not in available()


def test_attach_registers_what_is_on(opened):
    """The second of two variables of a '?' section is on, as in libbpf."""
    with opened("struct_ops").load() as obj:
        assert [link.target for link in obj.attach()] == ["plain", "off_too"]
        assert {"pybpf_cc", "pybpf_cc_too"} <= set(available())
        assert obj.attach() == []
    assert not {"pybpf_cc", "pybpf_cc_off", "pybpf_cc_too"} & set(available())


def test_autoattach_off(opened):
    spec = opened("struct_ops")
    spec.maps["plain"].autoattach = False
    with spec.load() as obj:
        assert [link.target for link in obj.attach()] == ["off_too"]


@pytest.mark.kernel("6.4")
def test_link(opened):
    with opened("struct_ops_link").load() as obj:
        (link,) = obj.attach()
        assert link.info().type == LinkType.STRUCT_OPS
        assert link.info().details["map_id"] == obj.maps["linked"].info().id
        talk("pybpf_cc_link")
        link.close()
        assert "pybpf_cc_link" not in available()


@pytest.mark.kernel("6.4")
def test_replacing_a_table_that_is_in_use(opened):
    with opened("struct_ops_link").load() as one, opened("struct_ops_link").load() as two:
        link = one.maps["linked"].attach()
        link.update(two.maps["linked"])
        assert link.info().details["map_id"] == two.maps["linked"].info().id
        talk("pybpf_cc_link")
        with pytest.raises(pybpfload.KernelError, match="another program is in place"):
            link.update(one.maps["linked"], old=one.maps["linked"])
        with opened("struct_ops").load() as other:
            with pytest.raises(pybpfload.BpfError, match="plain has no link and cannot take"):
                link.update(other.maps["plain"])
            assert "pybpf_cc" not in available()
        assert link.info().details["map_id"] == two.maps["linked"].info().id


@pytest.mark.kernel("6.4")
def test_replacing_a_table_by_one_of_another_name(opened):
    spec = opened("struct_ops_link")
    contents = spec.maps["linked"].contents
    at = contents.index(b"pybpf_cc_link")
    contents[at : at + 13] = b"pybpf_cc_name"
    with opened("struct_ops_link").load() as one, spec.load() as two:
        link = one.maps["linked"].attach()
        with pytest.raises(pybpfload.KernelError, match="of another kind or has another name"):
            link.update(two.maps["linked"])
        assert "pybpf_cc_name" not in available()


def test_a_table_without_one_of_its_functions(opened):
    """A member that is set to None is zero, and its program is not loaded."""
    spec = opened("struct_ops")
    table = next(each for each in spec.struct_ops if each.map.name == "plain")
    table.programs["init"] = None
    with spec.load() as obj:
        assert "cc_init" not in obj.programs
        with obj.maps["plain"].attach():
            talk("pybpf_cc")
            assert obj.maps["plain"][0].data.init == 0
            assert obj.variables["initialised"].value == 0


@pytest.mark.kernel(below="6.4")
def test_no_links(opened):
    with pytest.raises(pybpfload.NotSupportedError, match="no links of struct_ops") as caught:
        opened("struct_ops_link").load()
    assert caught.value.since == "6.4"


def test_a_program_that_no_table_names(opened):
    spec = opened("struct_ops")
    spec.programs["cc_unused"].autoload = True
    with pytest.raises(pybpfload.BpfError, match="no struct_ops map that is created names it"):
        spec.load()


def test_a_kernel_without_such_a_member(opened):
    """A member that the kernel does not have must be zero."""
    spec = opened("struct_ops")
    spec.maps["plain"].contents[-1] = 1
    with pytest.raises(pybpfload.RelocationError, match="has no member 'pybpfload_missing'"):
        spec.load()


@pytest.mark.kernel("6.12")
@pytest.mark.needs_feature("config:SCHED_CLASS_EXT")
@pytest.mark.skipif("PYBPFLOAD_VM_EVENTS" not in os.environ, reason="not in a virtual machine")
class TestScheduler:
    """sched_ext: while it is attached, it schedules everything, so in virtual machines only."""

    STATE = Path("/sys/kernel/sched_ext")

    def state(self) -> str:
        return (self.STATE / "state").read_text().strip()

    def until(self, state: str) -> None:
        """The kernel changes over in a thread of its own."""
        end = time.monotonic() + 20
        while self.state() != state and time.monotonic() < end:
            time.sleep(0.05)
        assert self.state() == state

    @pytest.fixture
    def spec(self, opened):
        spec = opened("sched_ext")
        spec.variables["target_tgid"].value = os.getpid()
        return spec

    def test_it_schedules_and_goes(self, spec):
        self.until("disabled")
        with spec.load() as obj:
            values = {name: obj.variables[name] for name in ("initialised", "ran", "exited")}
            (link,) = obj.attach()
            assert link.info().type == LinkType.STRUCT_OPS
            self.until("enabled")
            assert (self.STATE / "root" / "ops").read_text().strip() == "pybpf_scx"
            assert values["initialised"].value == 1
            before = values["ran"].value
            for _ in range(20):
                time.sleep(0.01)
            assert values["ran"].value - before >= 20
            assert values["exited"].value == 0
            link.close()
            self.until("disabled")
            assert not (self.STATE / "root").exists()
            assert values["exited"].value == 1
            assert obj.variables["exit_kind"].value == 64  # SCX_EXIT_UNREG
            after = values["ran"].value
            time.sleep(0.1)
            assert values["ran"].value == after

    def test_one_at_a_time(self, opened, spec):
        other = opened("sched_ext")
        with spec.load() as obj, other.load() as second:
            obj.attach()
            with pytest.raises(pybpfload.KernelError, match="or only one of its kind can be"):
                second.attach()
            assert second.links == []
        self.until("disabled")

    def test_a_process_that_is_killed(self, spec):
        """The link goes with its last descriptor, and the kernel schedules by itself again."""

        def attach_and_die() -> None:
            obj = spec.load()
            obj.attach()
            self.until("enabled")
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(AssertionError, match="the child ended with status 9"):
            in_child(attach_and_die)
        self.until("disabled")


def test_a_kernel_without_sched_ext(opened):
    if Path("/sys/kernel/sched_ext").exists():
        pytest.skip("this kernel has sched_ext")
    with pytest.raises(
        pybpfload.NotSupportedError, match="built with CONFIG_SCHED_CLASS"
    ) as caught:
        opened("sched_ext").load()
    assert (caught.value.feature, caught.value.since) == ("sched_ext_ops", "6.12")
