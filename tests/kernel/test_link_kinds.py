"""Links of every kind: what the kernel tells of them, and what can be done with them."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import socket
from pathlib import Path
from typing import NamedTuple

import netlink
import pytest
from test_uprobe import Library
from user_binary import CODE_AT, MACHINES

import pybpfload
from pybpfload import KernelError, Link, NotSupportedError, lowlevel
from pybpfload.btf import Kind
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel import linkinfo, netdev
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import (
    AttachType,
    CgroupIterOrder,
    LinkType,
    PerfEventType,
    PerfSoftware,
    PerfType,
)

pytestmark = pytest.mark.vm

VERSION = (kernel_version() >> 16, kernel_version() >> 8 & 255)
COOKIE = 0x1234567890ABCDEF


class Case(NamedTuple):
    """A kind of link.

    Attributes:
        make: Gets the fixture `make`, gives a link and what the kernel should tell of it.
        record: Class of what it tells.
        told: Kernel version since which it tells all of that.
        updates: Whether a program can be put in its place.
        detaches: Whether it can be detached without being closed.
    """

    make: object
    record: type
    told: tuple[int, int]
    updates: bool = False
    detaches: bool = False


def raw_tp(make):
    program = make.program("cookies" if VERSION >= (6, 10) else "minimal", raw_tp.names)
    cookie = COOKIE if VERSION >= (6, 10) else 0
    return program.attach(cookie=cookie), {"tp_name": "sys_enter", "cookie": cookie}


raw_tp.names = ("cookie_raw_tp", "count_syscalls")


def tp_btf(make):
    program = make.program("rawtp", ("newtask_btf",))
    return program.attach(), {"tp_name": "task_newtask"}


def fentry(make):
    make.fixture("trampolines")
    program = make.program("unlink", ("unlink_enter",))
    target = kernel_btf.vmlinux().find(program.attach_target, Kind.FUNC)
    expected = {"attach_type": AttachType.TRACE_FENTRY, "target_btf_id": target}
    return program.attach(cookie=COOKIE), {**expected, "cookie": COOKIE}


def iterator(make):
    return make.program("iter_task", ("dump_task",)).attach(), {"target_name": "task", "pid": 0}


def task_iterator(make):
    program = make.program("iter_task", ("dump_task",))
    return program.attach(pid=os.getpid()), {"target_name": "task", "pid": os.getpid(), "tid": 0}


def map_iterator(make):
    program = make.program("iters", ("iter_bpf_map_elem",))
    table = next(each for each in program.maps.values() if each.type.name == "ARRAY")
    return program.attach(map=table), {"target_name": "bpf_map_elem", "map_id": table.info().id}


def cgroup_iterator(make):
    group = make.fixture("cgroup")
    link = make.program("iters", ("iter_cgroup",)).attach(cgroup=group, order="descendants_pre")
    order = CgroupIterOrder.DESCENDANTS_PRE
    return link, {"target_name": "cgroup", "cgroup_id": group.stat().st_ino, "order": order}


def tracepoint(make):
    make.fixture("tracefs")
    program = make.program("tracepoint", ("on_exec",))
    expected = {"tp_name": "sched_process_exec", "cookie": 7}
    return program.attach(cookie=7), {**expected, "perf_type": PerfEventType.TRACEPOINT}


def perf_event(make):
    program = make.program("perf_event", ("on_sample",))
    link = program.attach("page-faults", period=10**9, cpu=0, cookie=9)  # one link
    return link, {
        "perf_type": PerfEventType.EVENT,
        "event_type": PerfType.SOFTWARE,
        "config": PerfSoftware.PAGE_FAULTS,
        "cookie": 9,
    }


def kprobe(make):
    if not Path("/sys/bus/event_source/devices/kprobe").exists():
        pytest.skip("this kernel has no perf events of kprobes")
    program = make.program("kprobe", ("on_any",))
    expected = {"func_name": "vfs_unlink", "offset": 0, "missed": 0, "cookie": 3}
    link = program.attach("vfs_unlink", cookie=3)
    return link, {**expected, "perf_type": PerfEventType.KPROBE}


def kprobe_multi(make):
    program = make.program("kprobe", ("on_kprobe_multi",))
    try:
        link = program.attach(["vfs_unlink", "vfs_rename"], cookies=[5, 6])
    except KernelError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip(str(error))
    if VERSION >= (6, 9):
        by_cookie = dict(zip(link.info().cookies, link.info().addrs, strict=True))
        symbols = Path("/proc/kallsyms").read_text().splitlines()
        (unlink,) = {int(line.split()[0], 16) for line in symbols if line.endswith(" vfs_unlink")}
        assert abs(by_cookie[5] - unlink) <= 4  # endbr64
    return link, {"count": 2, "flags": 0, "missed": 0}


def library(make):
    if os.uname().machine not in MACHINES:
        pytest.skip("no machine code for this machine")
    return Library(make.fixture("tmp_path"))


def uprobe(make):
    path = str(library(make).path)
    program = make.program("uprobe", ("on_any",))
    link = program.attach(f"{path}:second", cookie=4)
    expected = {"file_name": path, "offset": CODE_AT + 64, "cookie": 4, "ref_ctr_offset": 0}
    return link, {**expected, "perf_type": PerfEventType.UPROBE}


def uprobe_multi(make):
    path = str(library(make).path)
    program = make.program("uprobe", ("on_uprobe_multi",))
    link = program.attach(path, symbols=["first", "third"], cookies=[1, 2], pid=0)
    return link, {
        "path": path,
        "count": 2,
        "pid": os.getpid(),
        "offsets": (CODE_AT, CODE_AT + 128),
        "ref_ctr_offsets": (0, 0),
        "cookies": (1, 2),
    }


def xdp(make):
    make.fixture("netns")
    return make.program("network", ("on_xdp",)).attach("lo"), {"ifindex": 1, "interface": "lo"}


def tcx(make):
    make.fixture("netns")
    link = make.program("network", ("on_tcx_egress",)).attach("lo")
    return link, {"ifindex": 1, "interface": "lo", "attach_type": AttachType.TCX_EGRESS}


def netkit(make):
    make.fixture("netns")
    try:
        netlink.add_pair("netkit", "near", "far")
    except OSError as error:
        pytest.skip(f"no netkit devices: {error}")
    link = make.program("network", ("on_netkit",)).attach("near")
    expected = {"ifindex": socket.if_nametoindex("near"), "interface": "near"}
    return link, {**expected, "attach_type": AttachType.NETKIT_PRIMARY}


def cgroup(make):
    group = make.fixture("cgroup")
    link = make.program("network", ("on_cgroup_ingress",)).attach(group)
    kind = AttachType.CGROUP_INET_INGRESS
    return link, {"cgroup_id": group.stat().st_ino, "attach_type": kind}


def netns(make):
    make.fixture("netns")
    link = make.program("network", ("on_sk_lookup",)).attach()
    number = os.stat("/proc/thread-self/ns/net").st_ino
    return link, {"netns_ino": number, "attach_type": AttachType.SK_LOOKUP}


def netfilter(make):
    make.fixture("netns")
    program = make.program("network", ("on_netfilter",))
    try:
        link = program.attach("output", family="ipv6", priority=-7)
    except KernelError as error:
        pytest.skip(f"no netfilter of IPv6: {error}")
    return link, {
        "pf": linkinfo.NetfilterFamily.IPV6,
        "hooknum": linkinfo.NetfilterHook.OUTPUT,
        "priority": -7,
        "flags": 0,
    }


def sockmap(make):
    program = make.program("network", ("on_sk_msg",))
    table = next(
        each for each in program.maps.values() if each.type.name in ("SOCKMAP", "SOCKHASH")
    )
    kind = AttachType.SK_MSG_VERDICT
    return program.attach(table), {"map_id": table.info().id, "attach_type": kind}


def tracing_multi(make):
    make.fixture("trampolines")
    program = make.program("tracing_multi", ("on_entry",))
    return program.attach(["vfs_unlink"]), {}


def old(version: str):
    return pytest.mark.kernel(version)


CASES = [
    pytest.param(Case(raw_tp, lowlevel.RawTracepointLinkInfo, (6, 17)), marks=old("5.8")),
    pytest.param(Case(tp_btf, lowlevel.RawTracepointLinkInfo, (5, 8)), marks=old("5.8")),
    pytest.param(Case(fentry, lowlevel.TracingLinkInfo, (6, 17)), marks=old("5.19")),
    pytest.param(Case(iterator, lowlevel.TaskIterLinkInfo, (5, 9), updates=True), marks=old("5.9")),
    pytest.param(
        Case(task_iterator, lowlevel.TaskIterLinkInfo, (6, 1), updates=True), marks=old("6.1")
    ),
    pytest.param(
        Case(map_iterator, lowlevel.MapIterLinkInfo, (5, 10), updates=True), marks=old("6.1")
    ),
    pytest.param(
        Case(cgroup_iterator, lowlevel.CgroupIterLinkInfo, (6, 1), updates=True), marks=old("6.1")
    ),
    pytest.param(Case(netkit, lowlevel.NetkitLinkInfo, (6, 7), True, True), marks=old("6.7")),
    pytest.param(Case(tracepoint, lowlevel.TracepointLinkInfo, (6, 9)), marks=old("6.6")),
    pytest.param(Case(perf_event, lowlevel.EventLinkInfo, (6, 9)), marks=old("6.6")),
    pytest.param(Case(kprobe, lowlevel.KprobeLinkInfo, (6, 9)), marks=old("6.6")),
    pytest.param(Case(kprobe_multi, lowlevel.KprobeMultiLinkInfo, (6, 7)), marks=old("5.18")),
    pytest.param(Case(uprobe, lowlevel.UprobeLinkInfo, (6, 9)), marks=old("6.6")),
    pytest.param(Case(uprobe_multi, lowlevel.UprobeMultiLinkInfo, (6, 9)), marks=old("6.6")),
    pytest.param(Case(xdp, lowlevel.XdpLinkInfo, (5, 9), True, True), marks=old("5.9")),
    pytest.param(Case(tcx, lowlevel.TcxLinkInfo, (6, 6), True, True), marks=old("6.6")),
    pytest.param(Case(cgroup, lowlevel.CgroupLinkInfo, (5, 8), True, True), marks=old("5.8")),
    pytest.param(Case(netns, lowlevel.NetnsLinkInfo, (5, 9), True, True), marks=old("5.9")),
    pytest.param(
        Case(netfilter, lowlevel.NetfilterLinkInfo, (6, 4), detaches=True), marks=old("6.4")
    ),
    pytest.param(Case(sockmap, lowlevel.SockmapLinkInfo, (6, 10), True, True), marks=old("6.10")),
    pytest.param(Case(tracing_multi, lowlevel.LinkInfo, (7, 2)), marks=old("7.2")),
]
every_kind = pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)


@pytest.fixture
def make(request, opened):
    """What the kinds are made with: `program(fixture, names)` loads the first that there is."""
    with contextlib.ExitStack() as stack:

        class Make:
            fixture = staticmethod(request.getfixturevalue)

            def program(self, name, candidates):
                spec = opened(name)
                (chosen,) = [each for each in candidates if each in spec.programs]
                for each in spec:
                    each.autoload = each.name == chosen
                return stack.enter_context(spec.load()).programs[chosen]

        yield Make()


def made(case, make) -> tuple[Link, dict[str, object]]:
    """The link, the way the kernel version allows it."""
    return case.make(make)


@every_kind
def test_info(case, make):
    link, expected = made(case, make)
    with link:
        info = link.info()
        assert type(info) is case.record
        assert info.id in Link.ids()
        if case.told > VERSION:
            expected = {name: value for name, value in expected.items() if "cookie" not in name}
            expected.pop("missed", None)
        if case.make is uprobe and VERSION < (6, 16):
            del expected["ref_ctr_offset"]
        assert {name: info.details[name] for name in expected} == expected


@every_kind
def test_found_by_id_and_by_program(case, make):
    link, _ = made(case, make)
    info = link.info()
    number, program = info.id, info.prog_id
    with Link.from_id(number) as again:
        assert again.info() == info
        assert again.kind == info.type.name.lower()
        assert (again.target == "") is (type(info) is lowlevel.LinkInfo)
        assert [each.info().id for each in closed(Link.of_program(program))] == [number]
        link.close()
        assert number in Link.ids()  # the other one holds it
    with pytest.raises(KernelError, match="ENOENT"):
        Link.from_id(number)
    assert Link.of_program(program) == []


@contextlib.contextmanager
def _closing(links):
    with contextlib.ExitStack() as stack:
        for each in links:
            stack.callback(each.close)
        yield links


def closed(links: list[Link]):
    """Look at links, then close them."""
    with _closing(links):
        yield from links


@every_kind
def test_update(case, make):
    link, _ = made(case, make)
    with link, lowlevel_program(link) as same:
        before = link.info()
        if case.updates:
            link.update(same)
            assert link.info() == before
            link.update(same, old=same)
        else:
            with pytest.raises(KernelError) as caught:
                link.update(same)
            assert link.program in str(caught.value)
            assert caught.value.hint
            assert link.info() == before


@contextlib.contextmanager
def lowlevel_program(link: Link):
    with pybpfload.Program.from_id(link.info().prog_id) as program:
        yield program


@every_kind
def test_detach(case, make):
    link, _ = made(case, make)
    with link:
        if case.detaches and VERSION >= (5, 9):
            link.detach()
            assert link.info().type == LinkType[case.make.__name__.upper()]
            left = link.info().details
            if "ifindex" in left:
                assert (left["ifindex"], left["interface"]) == (0, "")
        else:
            with pytest.raises(KernelError, match="detach when they are closed"):
                link.detach()


@every_kind
def test_pin(case, make, bpffs):
    link, _ = made(case, make)
    path = f"{bpffs}/pybpfload-test-{os.getpid()}"
    number = link.info().id
    link.pin(path)
    with pytest.raises(pybpfload.BpfError, match="pinned already"):
        link.pin(path)
    link.close()
    again = Link.from_pin(path)
    assert (again.info().id, again.pin_path) == (number, path)
    again.unpin()
    assert not os.path.exists(path)
    with pytest.raises(pybpfload.BpfError, match="not pinned"):
        again.unpin()
    again.close()
    deadline(lambda: number not in Link.ids())  # old kernels free a removed file's link later


# What each kernel has in its own `struct bpf_link_info`

_ARMS = {
    linkinfo.RawTracepointLinkInfo: ("raw_tracepoint",),
    linkinfo.TracingLinkInfo: ("tracing",),
    linkinfo.CgroupLinkInfo: ("cgroup",),
    linkinfo.IterLinkInfo: ("iter",),
    linkinfo.MapIterLinkInfo: ("iter", "map"),
    linkinfo.CgroupIterLinkInfo: ("iter", "cgroup"),
    linkinfo.TaskIterLinkInfo: ("iter", "task"),
    linkinfo.NetnsLinkInfo: ("netns",),
    linkinfo.XdpLinkInfo: ("xdp",),
    linkinfo.PerfEventLinkInfo: ("perf_event",),
    linkinfo.UprobeLinkInfo: ("perf_event", "uprobe"),
    linkinfo.KprobeLinkInfo: ("perf_event", "kprobe"),
    linkinfo.TracepointLinkInfo: ("perf_event", "tracepoint"),
    linkinfo.EventLinkInfo: ("perf_event", "event"),
    linkinfo.KprobeMultiLinkInfo: ("kprobe_multi",),
    linkinfo.StructOpsLinkInfo: ("struct_ops",),
    linkinfo.NetfilterLinkInfo: ("netfilter",),
    linkinfo.UprobeMultiLinkInfo: ("uprobe_multi",),
    linkinfo.TcxLinkInfo: ("tcx",),
    linkinfo.SockmapLinkInfo: ("sockmap",),
}
# Ours by the kernel's, where two of one record would have the same name.
_RENAMED = {"perf_type": "type", "event_type": "type"}
_SIZES = {"I": 4, "i": 4, "Q": 8, "text": 8, "list": 8}


def members(btf, type_id: int, start: int = 0) -> dict[str, tuple[int, int]]:
    """Offsets and type ids by name, those of unnamed members too."""
    found = {}
    for each in btf[btf.strip(type_id)].members:
        offset = start + each.bit_offset // 8
        if each.name:
            found[each.name] = (offset, each.type)
        elif btf.kind(btf.strip(each.type)) in (Kind.STRUCT, Kind.UNION):
            found |= members(btf, each.type, offset)
    return found


@pytest.mark.kernel("5.8")
@pytest.mark.parametrize("record", _ARMS, ids=lambda record: record.__name__)
def test_fields_are_where_the_kernel_has_them(record):
    btf = kernel_btf.vmlinux()
    known = members(btf, btf.find("bpf_link_info", Kind.STRUCT))
    for arm in _ARMS[record]:
        if arm not in known:
            pytest.skip(f"this kernel's structure has no {arm}")
        offset, type_id = known[arm]
        known = members(btf, type_id, offset)
    checked = 0
    for name, field in vars(record).items():
        kernels = known.get(_RENAMED.get(name, name))
        if not isinstance(field, linkinfo._Field) or name == "interface" or kernels is None:
            continue  # None: it is younger than this kernel
        assert kernels[0] == field.offset, name
        assert btf.size(kernels[1]) == _SIZES[field.code], name
        checked += 1
    assert checked


def test_nothing_is_missing():
    # Fields of netkit are those of tcx.
    assert set(_ARMS) | {linkinfo.LinkInfo, linkinfo.NetkitLinkInfo} == {
        *linkinfo._ARMS.values(),
        *linkinfo._EVENTS.values(),
        *linkinfo._ITERATORS.values(),
        linkinfo.LinkInfo,
    }


# Before there were links, and where there are none


@pytest.mark.kernel(below="5.15")
def test_perf_events_are_no_links_yet(make):
    program = make.program("perf_event", ("on_sample",))
    with program.attach("task-clock", period=10**9, pid=os.getpid()) as link:
        with pytest.raises(NotSupportedError, match=r"has no info.*5\.15"):
            link.info()
        with pytest.raises(NotSupportedError, match=r"5\.15"):
            link.update(program)


def test_programs_of_sockets(netns, network):
    """The older of two links leaves the younger program; a socket can be closed before its link."""
    with network.loaded("on_socket") as obj:
        program = obj.programs["on_socket"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.bind(("127.0.0.1", 0))

            def receive() -> None:
                own.sendto(b"x", own.getsockname())
                assert own.recv(1) == b"x"

            older, younger = program.attach(own), program.attach(own)
            with pytest.raises(NotSupportedError, match="no link of it"):
                older.info()
            older.close()
            assert network.runs("on_socket", receive) == 1
            younger.close()
            assert network.runs("on_socket", receive) == 0
            third = program.attach(own)
            name = own.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(name)  # nobody holds the closed one
            third.close()


@pytest.mark.kernel("5.8")
def test_options_of_iterators(make):
    program = make.program("iter_task", ("dump_task",))
    for act in (program.attach, program.open_iter):
        with pytest.raises(pybpfload.AttachError, match="does not take pit; its options are map,"):
            act(pit=1)


# What is attached to goes away


@pytest.mark.kernel("5.9")
def test_a_device_that_goes_down_and_vanishes(make):
    make.fixture("netns")
    netlink.add_pair("veth", "pbl0", "pbl1")
    index = socket.if_nametoindex("pbl0")
    program = make.program("network", ("on_xdp",))
    other = make.program("network", ("on_tc",))
    link, without = program.attach("pbl0"), other.attach("pbl0", direction="ingress")
    netlink.ask(netlink.link(index, 0, netlink.IFF_UP), netlink.RTM_NEWLINK)
    assert (link.info().ifindex, link.info().interface) == (index, "pbl0")  # down, and still there
    netlink.ask(netlink.link(index), 17)  # RTM_DELLINK
    assert (link.info().ifindex, link.info().interface) == (0, "")
    with pytest.raises(KernelError, match=f"xdp link of program {program.name}"):
        link.update(program)
    without.close()
    link.close()
    for each, options in ((program, {}), (other, {"direction": "ingress"})):
        with pytest.raises(pybpfload.AttachError, match="network device pbl0"):
            each.attach("pbl0", **options)
        assert not each.attached


@pytest.mark.kernel("5.8")
def test_a_cgroup_that_vanishes(make):
    group = make.fixture("cgroup") / "inner"
    group.mkdir()
    program = make.program("network", ("on_cgroup_ingress",))
    link, legacy = program.attach(group), program.attach(group, link=False)
    assert link.info().cgroup_id == group.stat().st_ino
    group.rmdir()
    deadline(lambda: link.info().cgroup_id == 0)
    legacy.close()
    link.close()
    with pytest.raises(pybpfload.AttachError, match="there is no control group"):
        program.attach(group)
    assert not program.attached


# Ctrl-C


@pytest.mark.parametrize(
    ("name", "options", "function"),
    [
        ("on_cgroup_ingress", {"link": False}, "pybpfload.kernel.bpf.prog_attach"),
        ("on_xdp", {"link": False, "mode": "generic"}, "pybpfload.kernel.netdev.xdp_attach"),
        ("on_tc", {"direction": "egress"}, "pybpfload.kernel.netdev.tc_attach"),
    ],
)
def test_interrupted_behind_the_system_call(make, monkeypatch, name, options, function):
    """The kernel has attached it, and Ctrl-C comes before anybody knows."""
    make.fixture("netns")
    place = make.fixture("cgroup") if "cgroup" in name else "lo"
    program = make.program("network", (name,))
    home, _, attribute = function.rpartition(".")
    real, done = getattr(importlib.import_module(home), attribute), []

    def interrupted(*arguments, **more):
        real(*arguments, **more)
        if not done:
            done.append(len(pybpfload.attached(place)))
            raise KeyboardInterrupt

    monkeypatch.setattr(function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.attach(place, **options)
    assert done == [1]
    assert pybpfload.attached(place) == []
    assert not program.attached
    if name == "on_tc":
        assert not netdev.has_clsact(1)


def deadline(done) -> None:
    import time

    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
