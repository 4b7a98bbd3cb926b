"""The generated constants: numbers that must never change, and tolerance of unknown ones."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest

from pybpfload import uapi
from pybpfload.uapi import (
    AttachType,
    Cmd,
    ElemFlag,
    Helper,
    LinkType,
    MapFlag,
    MapType,
    PerfSample,
    ProgFlag,
    ProgType,
    name_of,
)

CLASSES = [name for name in uapi.__all__ if isinstance(getattr(uapi, name), type)]

# From the reference, A.7 and A.3, not from the generator.
KNOWN = [
    (Cmd.MAP_CREATE, 0),
    (Cmd.PROG_LOAD, 5),
    (Cmd.PROG_TEST_RUN, 10),
    (Cmd.RAW_TRACEPOINT_OPEN, 17),
    (Cmd.BTF_LOAD, 18),
    (Cmd.MAP_LOOKUP_AND_DELETE_ELEM, 21),
    (Cmd.MAP_FREEZE, 22),
    (Cmd.LINK_CREATE, 28),
    (Cmd.LINK_GET_FD_BY_ID, 30),
    (Cmd.LINK_GET_NEXT_ID, 31),
    (Cmd.ITER_CREATE, 33),
    (Cmd.TOKEN_CREATE, 36),
    (ProgType.SOCKET_FILTER, 1),
    (ProgType.TRACEPOINT, 5),
    (ProgType.XDP, 6),
    (ProgType.TRACING, 26),
    (ProgType.LSM, 29),
    (ProgType.NETFILTER, 32),
    (MapType.HASH, 1),
    (MapType.PERF_EVENT_ARRAY, 4),
    (MapType.CGROUP_STORAGE, 19),
    (MapType.RINGBUF, 27),
    (MapType.ARENA, 33),
    (MapType.RHASH, 35),
    (AttachType.CGROUP_INET_INGRESS, 0),
    (AttachType.TRACE_RAW_TP, 23),
    (AttachType.TRACE_FENTRY, 24),
    (AttachType.TRACE_FEXIT, 25),
    (AttachType.MODIFY_RETURN, 26),
    (AttachType.LSM_MAC, 27),
    (AttachType.TRACE_ITER, 28),
    (AttachType.XDP, 37),
    (AttachType.PERF_EVENT, 41),
    (AttachType.TRACE_UPROBE_MULTI, 48),
    (AttachType.NETKIT_PEER, 55),
    (AttachType.TRACE_FSESSION, 58),
    (AttachType.TRACE_FSESSION_MULTI, 61),
    (LinkType.TRACING, 2),
    (LinkType.NETKIT, 13),
    (LinkType.TRACING_MULTI, 15),
    (MapFlag.MMAPABLE, 0x400),
    (MapFlag.TOKEN_FD, 0x10000),
    (MapFlag.RB_OVERWRITE, 0x80000),
    (ProgFlag.SLEEPABLE, 0x10),
    (ProgFlag.TOKEN_FD, 0x10000),
    (ElemFlag.NOEXIST, 1),
    (ElemFlag.ALL_CPUS, 16),
    (PerfSample.RAW, 1 << 10),
    (Helper.MAP_LOOKUP_ELEM, 1),
    (Helper.PROBE_READ_KERNEL, 113),
    (Helper.KTIME_GET_COARSE_NS, 160),
    (Helper.GET_ATTACH_COOKIE, 174),
    (Helper.CGRP_STORAGE_DELETE, 211),
]


@pytest.mark.parametrize(("member", "number"), KNOWN, ids=lambda value: repr(value))
def test_numbers(member: int, number: int) -> None:
    assert member == number


def test_unknown_numbers_are_members() -> None:
    unknown = ProgType(999)
    assert unknown.name == "UNKNOWN_999"
    assert unknown == 999
    assert str(unknown) == "999"
    assert copy.deepcopy(unknown) == unknown
    assert pickle.loads(pickle.dumps(unknown)) == unknown
    assert hash(unknown) == hash(999)
    assert MapFlag(1 << 30 | 1) == 1 << 30 | 1


def test_what_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError):
        ProgType("xdp")


def test_names_as_libbpf_prints_them() -> None:
    assert name_of(ProgType.SCHED_CLS) == "sched_cls"
    assert name_of(MapType(19)) == "cgroup_storage"
    assert name_of(AttachType.CGROUP_UNIX_CONNECT) == "cgroup_unix_connect"
    assert MapType.CGROUP_STORAGE_DEPRECATED is MapType.CGROUP_STORAGE


def test_no_such_class() -> None:
    with pytest.raises(AttributeError):
        uapi.Nothing  # noqa: B018


def test_stub_and_module_agree() -> None:
    stub = Path(uapi.__file__).with_suffix(".pyi").read_text()
    spelled = {
        node.name: {
            item.targets[0].id: ast.literal_eval(item.value)
            for item in node.body
            if isinstance(item, ast.Assign)
        }
        for node in ast.parse(stub).body
        if isinstance(node, ast.ClassDef) and node.name != "KernelEnum"
    }
    assert sorted(spelled) == sorted(name for name in CLASSES if name != "KernelEnum")
    for name, members in spelled.items():
        made = getattr(uapi, name)
        assert {k: int(v) for k, v in made.__members__.items()} == members
        assert made.__doc__


def test_agree_with_the_machines_header() -> None:
    """Enumerations of the machine's own header, which may be older, are contained in ours."""
    header = Path("/usr/include/linux/bpf.h")
    if not header.exists():
        pytest.skip("no linux/bpf.h on this machine")
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    for tag, prefix, ours in (
        ("bpf_prog_type", "BPF_PROG_TYPE_", ProgType),
        ("bpf_attach_type", "BPF_", AttachType),
        ("bpf_cmd", "BPF_", Cmd),
    ):
        body = re.search(r"enum " + tag + r" \{(.*?)\}", text, re.DOTALL).group(1)
        names = [item.strip() for item in body.split(",") if item.strip() and "=" not in item]
        for number, name in enumerate(n for n in names if not n.startswith("__MAX")):
            assert ours[name.removeprefix(prefix)] == number


def test_format():
    """As any number, also in Python 3.10, whose enumerations know only the codes of text."""
    assert f"{ProgType.XDP:#x} {ProgType.XDP:d} {ProgType.XDP}" == "0x6 6 6"
