"""JSON of our listings against bpftool's: every key that it has, with the same value.

Everything compared is made by the test: in a network namespace and a control group of its own, and
watching nobody. Programs are compared in ``test_prog_dump.py``. What is not compared has its reason
in :data:`EXCEPTIONS`, :data:`NO_DUMP` and :data:`ODD_DUMP`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bpftool import bpftool, needs_bpftool

import pybpfload
from pybpfload.cli import main
from pybpfload.errors import BpfError
from pybpfload.kernel import bpf, netdev
from pybpfload.uapi import AttachType

pytestmark = [pytest.mark.live, needs_bpftool]

FIXTURES = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
CGROUP_EGRESS = AttachType.CGROUP_INET_EGRESS

EXCEPTIONS = {
    "pids": "bpftool finds them by a BPF program of its own, which not every build of it has",
}
NO_DUMP = {
    **dict.fromkeys(
        ("PERF_EVENT_ARRAY", "CGROUP_ARRAY", "XSKMAP", "SOCKMAP"),
        "an error for each element: no element can be looked up; ours is one error",
    ),
    **dict.fromkeys(
        ("DEVMAP", "DEVMAP_HASH", "CPUMAP", "REUSEPORT_SOCKARRAY", "SOCKHASH"),
        "an error for each empty element; ours leaves them out",
    ),
    **dict.fromkeys(
        ("QUEUE", "STACK", "RINGBUF", "USER_RINGBUF", "BLOOM_FILTER", "ARENA", "SK_STORAGE",
         "INODE_STORAGE", "TASK_STORAGE", "CGRP_STORAGE"),
        "an empty list, as if there were no elements; ours says that they cannot be listed",
    ),
}  # fmt: skip
ODD_DUMP = {
    "globals.data": "not valid JSON: its characters are not always escaped",
    "maps.rodata": "a section in which no variable is described; ours has its bytes",
}


def ours(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def compared(theirs, shown, where="") -> int:
    """Fail if a key is missing or differs; the number of values that were compared."""
    if isinstance(theirs, dict):
        assert isinstance(shown, dict), where
        assert not {*theirs} - {*shown} - {*EXCEPTIONS, ""}, where
        return sum(
            # What has no name is an object there; ours has its members beside the others.
            compared(value, shown[key] if key else shown, f"{where}.{key}")
            for key, value in theirs.items()
            if key not in EXCEPTIONS
        )
    if isinstance(theirs, list):
        assert len(theirs) == len(shown), where
        if where.endswith("_ids"):  # of which bpftool has no order
            theirs, shown = sorted(theirs), sorted(shown)
        return sum(
            compared(each, own, f"{where}[{at}]")
            for at, (each, own) in enumerate(zip(theirs, shown, strict=True))
        )
    if isinstance(shown, int) and isinstance(theirs, str):  # 128 bits are text there
        theirs = int(theirs, 16)
        shown &= (1 << 128) - 1
    assert shown == theirs, where
    return 1


def only(listed, key, wanted):
    """Those of a listing that the test made; others come and go meanwhile."""
    found = sorted((each for each in listed if each[key] in wanted), key=lambda each: each[key])
    assert {each[key] for each in found} == {*wanted}
    return found


@pytest.fixture
def own_network():
    """Calls a function in a network namespace of its own, which is gone afterwards."""
    with ThreadPoolExecutor(1) as thread:
        if thread.submit(LIBC.unshare, CLONE_NEWNET).result() != 0:
            pytest.skip("no network namespaces here")
        yield lambda work: thread.submit(work).result()


@pytest.fixture
def group():
    """A control group with one in it, in which no process is."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next((words[1] for words in mounts if words[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("cgroup2 is not mounted")
    made = Path(root, f"pybpfload-json-{os.getpid()}")
    (made / "inner").mkdir(parents=True)
    yield made
    (made / "inner").rmdir()
    made.rmdir()


@contextlib.contextmanager
def loaded(name, *programs):
    """A fixture with only these programs, or those that it has on."""
    spec = pybpfload.open(FIXTURES / f"{name}.bpf.o")
    for program in spec:
        program.autoload = program.name in programs if programs else program.autoload
    with spec.load() as obj:
        yield obj


def without_programs(name):
    spec = pybpfload.open(FIXTURES / f"{name}.bpf.o")
    for program in spec:
        program.autoload = False
    return spec.load()


MAPS = ["maps", "maps_types", "globals", "maps_special", "data_sections", "maps_inner"]


@pytest.mark.parametrize("name", MAPS)
def test_maps(name, capsys):
    with without_programs(name) as obj:
        ids = {each.info().id for each in obj.maps.values()}
        theirs = only(bpftool("map", "list"), "id", ids)
        shown = only(ours(capsys, "map", "list"), "id", ids)
        # In lists its btf_id may be that of the map before (bpftool 7.8).
        without = [{key: each[key] for key in each if key != "btf_id"} for each in theirs]
        assert compared(without, shown) >= 8 * len(ids)
        for number in ids:
            one = bpftool("map", "show", "id", number)
            assert compared(one, ours(capsys, "map", "show", number)) >= 8


@pytest.mark.parametrize("name", [*MAPS, "tailcall"])
def test_elements(name, capsys):
    dumped = 0
    with loaded(name) if name == "tailcall" else without_programs(name) as obj:
        for each in obj.maps.values():
            if each.type.name in NO_DUMP or each.name in ODD_DUMP:
                continue
            if "HASH" in each.type.name and "OF_MAPS" not in each.type.name:
                key = each.key_codec.decode(bytes(range(each.key_size)))
                each[key] = each.value_codec.decode(bytes(each.value_size))
            number = each.info().id
            theirs = bpftool("map", "dump", "id", number)
            dumped += compared(theirs, ours(capsys, "map", "dump", number), each.name) > 0
    assert dumped >= 3


def test_queues(capsys):
    with without_programs("maps") as obj:
        for name in ("queue", "stack"):
            number = obj.maps[name].info().id
            for value in (7, 8):
                obj.maps[name].push(value)
            peeked = ours(capsys, "map", "peek", number)
            compared(bpftool("map", "peek", "id", number), peeked)
            assert ours(capsys, "map", "pop", number) == peeked
            theirs = bpftool("map", "pop" if name == "stack" else "dequeue", "id", number)
            assert theirs["value"] != peeked["value"]


def attach_all(obj, group):
    """A link of each kind of the network and of control groups that this kernel has."""
    programs = obj.programs
    links = [
        programs["on_xdp"].attach("lo"),
        programs["on_tcx_ingress"].attach("lo"),
        programs["on_tcx_egress"].attach("lo"),
        programs["on_netfilter"].attach("output", priority=-5, defrag=True),
        programs["on_sk_lookup"].attach(),
        programs["on_sk_msg"].attach(obj.maps["socks"]),
        programs["on_cgroup_ingress"].attach(group),
        programs["on_cgroup_egress"].attach(group / "inner"),
    ]
    netdev.create_clsact(1)
    netdev.tc_attach(1, netdev.EGRESS, programs["on_tc"].fileno(), "a-filter", priority=9)
    return [link.info().id for link in links]


NETWORK = (
    "on_xdp", "on_tc", "on_tcx_ingress", "on_tcx_egress", "on_netfilter", "on_sk_lookup",
    "on_sk_msg", "on_cgroup_ingress", "on_cgroup_egress",
)  # fmt: skip


def test_links_and_devices(own_network, group, capsys):
    def there():
        ids = attach_all(obj, group)
        listed = only(bpftool("link", "list"), "id", ids)
        shown = only(ours(capsys, "link", "list"), "id", ids)
        assert compared(listed, shown) >= 4 * len(ids)
        assert [each["name"] for each in shown][:2] == ["on_xdp", "on_tcx_ingress"]
        numbers = {obj.programs[name].info().id for name in NETWORK}
        (theirs,), (net,) = bpftool("net", "list"), ours(capsys, "net", "list")
        for document in (theirs, net):  # of netfilter links the namespace is not told
            document["netfilter"] = only(document["netfilter"], "id", numbers & {
                each["id"] for each in document["netfilter"]})  # fmt: skip
        # Its flow_dissector is no JSON if there is one (bpftool 7.8), so none is attached.
        assert compared(theirs, net) >= 25
        assert (len(net["xdp"]), len(net["tc"]), len(net["netfilter"])) == (1, 3, 1)
        assert net["sk_lookup"] == [{"id": obj.programs["on_sk_lookup"].info().id}]
        return net

    with loaded("network", *NETWORK) as obj:
        inside = own_network(there)
        (here,) = ours(capsys, "net", "list")
        assert inside["xdp"] != here["xdp"]


def test_other_namespaces_are_looked_into(own_network, capsys):
    """By the number of a thread in it, while this thread stays where it is."""
    import threading

    thread = own_network(threading.get_native_id)
    path = f"/proc/{os.getpid()}/task/{thread}/ns/net"
    before = os.readlink("/proc/thread-self/ns/net")
    with loaded("network", "on_xdp") as obj:
        link = pybpfload.in_network_namespace(path, lambda: obj.programs["on_xdp"].attach("lo"))
        number = obj.programs["on_xdp"].info().id
        assert [each.prog_id for each in own_network(lambda: pybpfload.attached("lo"))] == [number]
        (shown,) = ours(capsys, "net", "list", "--netns", path)
        assert shown["xdp"] == [{"devname": "lo", "ifindex": 1, "mode": "generic", "id": number}]
        assert number not in [each["id"] for each in ours(capsys, "net", "list")[0]["xdp"]]
        link.close()
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_detaching_what_others_have_attached(own_network, group, capsys):
    """What is there without links goes; what links hold is left to ``link detach``."""

    def detached(*words):
        assert main([*map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def there():
        programs = obj.programs
        netdev.xdp_attach(1, programs["on_xdp"].fileno())
        netdev.create_clsact(1)
        for parent in (netdev.INGRESS, netdev.EGRESS):
            netdev.tc_attach(1, parent, programs["on_tc"].fileno(), "a-filter")
        programs["on_tcx_ingress"].attach("lo")
        cgroup = os.open(group, os.O_RDONLY)
        bpf.prog_attach(programs["on_cgroup_egress"].fileno(), cgroup, CGROUP_EGRESS)
        os.close(cgroup)
        assert len(pybpfload.attached("lo")) == 4
        places = [each["place"] for each in detached("net", "detach", "lo", "on_tc")]
        assert places == ["ingress", "egress"]
        detached("net", "detach", "lo", programs["on_xdp"].info().id)
        detached("net", "detach", "lo", "on_tcx_ingress")  # its link, which stays as an object
        assert pybpfload.attached("lo") == []
        assert main(["net", "detach", "lo", "on_tc"]) == 2
        assert "lo has no program 'on_tc'" in capsys.readouterr().err
        assert len(detached("cgroup", "detach", group, "on_cgroup_egress")) == 1
        assert pybpfload.attached(group) == []
        for program, words in (
            (programs["on_xdp"], ("net", "detach", "lo", "on_xdp")),
            (programs["on_cgroup_ingress"], ("cgroup", "detach", group, "on_cgroup_ingress")),
        ):
            with program.attach(words[2]) as link:
                assert main([*map(str, words)]) == 1
                assert f"have to be detached: {link.info().id}" in capsys.readouterr().err

    with loaded("network", *NETWORK) as obj:
        own_network(there)


@pytest.mark.parametrize(
    ("name", "programs", "options"),
    [
        ("minimal", ("count_syscalls",), {}),
        ("rawtp", ("newtask_btf",), {}),
        ("iter_task", ("dump_task",), {}),
        ("iter_task", ("dump_task",), {"pid": os.getpid()}),
        ("tracepoint", ("on_exec",), {}),
        ("perf_event", ("on_sample",), {"event": "page-faults"}),
        ("perf_event", ("on_sample",), {"event": "minor-faults"}),
        ("iters", ("iter_cgroup",), {"cgroup": "/sys/fs/cgroup", "order": "descendants_pre"}),
        ("iters", ("iter_bpf_map_elem",), {"map": "elements"}),
    ],
)
def test_links_of_tracing(name, programs, options, group, capsys):
    with loaded(name, *programs) as obj:
        program = obj.programs[programs[0]]
        if "cgroup" in options:
            options = {**options, "cgroup": group}
        if "map" in options:
            options = {"map": obj.maps[options["map"]]}
        try:
            if "event" in options:
                program.attach(options["event"], period=10**9, pid=os.getpid())
            else:
                program.attach(**options)
        except BpfError as error:
            pytest.skip(str(error))
        for each in obj.links:
            number = each.info().id
            theirs = bpftool("link", "show", "id", number)
            assert compared(theirs, ours(capsys, "link", "show", number)) >= 4


def test_control_groups(group, capsys):
    with loaded("network", *NETWORK) as obj:
        programs = obj.programs
        programs["on_cgroup_ingress"].attach(group)
        programs["on_cgroup_egress"].attach(group / "inner")
        for words, extra in (((), ()), (("effective",), ("--effective",))):
            for where, count in ((group, 1), (group / "inner", 1 + len(words))):
                shown = ours(capsys, "cgroup", "list", where, *extra)
                assert len(shown) == count
                compared(bpftool("cgroup", "list", where, *words), shown)
            shown = ours(capsys, "cgroup", "tree", group, *extra)
            assert [each["cgroup"] for each in shown] == [str(group), str(group / "inner")]
            compared(bpftool("cgroup", "tree", group, *words), shown)


def test_btf(capsys):
    with loaded("execsnoop") as obj:
        obj.attach()
        number = obj.maps["execsnoo.bss"].info().btf_id
        ids = {number, 1}
        listed = only(bpftool("btf", "list"), "id", ids)
        shown = only(ours(capsys, "btf", "list"), "id", ids)
        assert compared(listed, shown) >= 6
        assert shown[1]["map_ids"] == sorted(
            each.info().id for each in obj.maps.values() if each.info().btf_id == number
        )
        assert len(shown[1]["prog_ids"]) == 2
        one = bpftool("btf", "show", "id", number)
        assert compared(one, ours(capsys, "btf", "show", number)) >= 3
