"""What `features` says is true in both directions: absent before the kernel that brought it."""

from __future__ import annotations

import pytest

from pybpfload import features
from pybpfload.kernel.since import version_pair
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import Helper, MapType, ProgType

pytestmark = pytest.mark.vm

# Parts that a kernel may be built without, or that its processor may not have.
_OPTIONAL = {
    "lirc_mode2", "lwt_in", "lwt_out", "lwt_xmit", "lwt_seg6local", "netfilter", "lsm", "ext",
    "tracing", "struct_ops", "arena", "insn_array", "xskmap", "sched_act", "sched_cls", "netkit",
    "syscall_wrapper", "arg_ctx_tag", "inode_storage",
}  # fmt: skip
# Told by enumerators of the kernel's BTF, whose version is that of the header.
_RUNNING = (kernel_version() >> 16, kernel_version() >> 8 & 255)


@pytest.fixture(scope="module")
def answers():
    return features.sweep()


@pytest.mark.parametrize(
    "area", ["program types", "map types", "attach types", "link types", "instructions", "loading"]
)
def test_claims(answers, area):
    wrong = []
    for name, answer in answers[area].items():
        if answer.since is None:
            continue
        due = version_pair(answer.since) <= _RUNNING
        if answer.has and not due:
            wrong.append(f"{name} came with {answer.since}, and is here: {answer.why}")
        if answer.has is False and due and name not in _OPTIONAL:
            wrong.append(f"{name} came with {answer.since}, and is not here: {answer.why}")
    assert not wrong


@pytest.mark.parametrize("kind", [ProgType.XDP, ProgType.SOCKET_FILTER, ProgType.KPROBE])
def test_helpers(kind):
    found = features.helpers(kind)
    assert len(found) == len([each for each in Helper if each])
    assert found["bpf_map_lookup_elem"].has
    young = [
        name
        for name, answer in found.items()
        if answer.has and answer.since and version_pair(answer.since) > _RUNNING
    ]
    assert young == []
    assert found["bpf_xdp_adjust_head"].has is (kind == ProgType.XDP)


def test_single_answers():
    assert features.map_type(MapType.HASH)
    assert features.map_type(MapType(9999)).text == "no"
    assert features.prog_type(ProgType.SOCKET_FILTER).why == "one was loaded"
    assert features.prog_type(ProgType(9999)).text == "no"
    with pytest.raises(KeyError):
        features.instruction("v99")


def test_settings():
    assert {name: value for name, value, _ in features.settings()}[
        "kernel.unprivileged_bpf_disabled"
    ] in ("0", "1", "2")


@pytest.mark.kernel("6.12")
@pytest.mark.needs_feature("btf")
def test_kfuncs():
    found = features.kfuncs()
    if found is None:
        pytest.skip("the kernel's BTF marks no kfuncs")
    assert "bpf_task_acquire" in found
