"""The versions that brought things: every number of the UAPI has one, and only one."""

from __future__ import annotations

import re

import pytest

from pybpfload import uapi
from pybpfload.kernel import since
from pybpfload.kernel.attrs import layout, names
from pybpfload.kernel.probe import Feature


@pytest.mark.parametrize("enum", since.ENUMS)
def test_every_member_has_a_version(enum: str) -> None:
    members = {int(m) for m in getattr(uapi, enum).__members__.values()}
    unknown = sorted(m for m in members if since.first_version(enum, m) is None)
    assert unknown == []
    assert since.first_version(enum, 1 << 40) is None


# What has a lower number than something older, because it was merged through another tree.
LATE = {"Helper": [120, 122, 125, 134]}


@pytest.mark.parametrize("enum", since.ENUMS)
def test_numbers_came_in_order(enum: str) -> None:
    numbers = sorted({int(m) for m in getattr(uapi, enum).__members__.values()})
    versions = [since.version_pair(since.first_version(enum, n) or "") for n in numbers]
    late = [
        n for n, v, following in zip(numbers, versions, versions[1:], strict=False) if following < v
    ]
    assert late == LATE.get(enum, [])


def test_an_unknown_class() -> None:
    with pytest.raises(KeyError):
        since.first_version("Nothing", 1)


def test_fields_are_younger_than_their_command_and_in_order() -> None:
    for name in names():
        ours = layout(name)
        command = since.version_pair(since.first_version("Cmd", ours.command) or "")
        for field, version in ours.since.items():
            assert field in ours.fields
            assert since.version_pair(version) >= command, (name, field)


def test_all_versions_are_versions() -> None:
    for feature in Feature:
        assert re.fullmatch(r"\d\.\d+", feature.since)
        assert since.version_pair(feature.since) <= uapi.UAPI_VERSION[:2]


# Features of the probes that are plain numbers of the UAPI: both tables must agree.
SAME = {
    "PROBE_READ_KERN": ("Helper", 113),
    "BPF_COOKIE": ("Helper", 174),
    "MEMCG_ACCOUNT": ("Helper", 160),
    "PROG_BIND_MAP": ("Cmd", 35),
    "BTF": ("Cmd", 18),
    "PERF_LINK": ("AttachType", 41),
    "UPROBE_MULTI_LINK": ("AttachType", 48),
    "ARRAY_MMAP": ("MapFlag", 0x400),
}


@pytest.mark.parametrize("name", SAME)
def test_features_agree(name: str) -> None:
    assert Feature[name].since == since.first_version(*SAME[name])


def test_attach_types_of_tracing_programs():
    multi, raw_tp = uapi.AttachType.TRACE_FENTRY_MULTI, uapi.AttachType.TRACE_RAW_TP
    told = since.too_young_attach_type(uapi.ProgType.TRACING, multi, 0x50A00)
    assert told == "the attach type TRACE_FENTRY_MULTI came with Linux 7.2, this is 5.10"
    assert since.too_young_attach_type(uapi.ProgType.TRACING, multi, 0x70200) is None
    assert since.too_young_attach_type(uapi.ProgType.TRACING, raw_tp, 0x50A00) is None
    assert since.too_young_attach_type(uapi.ProgType.STRUCT_OPS, multi, 0x50A00) is None
