"""What `features` says is true in both directions: absent before the kernel that brought it."""

from __future__ import annotations

import functools
import os
import platform
import re
from typing import TYPE_CHECKING

import pytest

from pybpfload import features
from pybpfload.kernel import kconfig
from pybpfload.kernel.since import version_pair
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import Helper, MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.vm

# What a kernel may be built without: the option that brings it.
_OPTIONS = {
    "lirc_mode2": "BPF_LIRC_MODE2",
    "lwt_in": "LWTUNNEL_BPF",
    "lwt_out": "LWTUNNEL_BPF",
    "lwt_xmit": "LWTUNNEL_BPF",
    "lwt_seg6local": "IPV6_SEG6_BPF",
    "netfilter": "NETFILTER_BPF_LINK",
    "lsm": "BPF_LSM",
    "inode_storage": "BPF_LSM",
    "xskmap": "XDP_SOCKETS",
    "sched_cls": "NET",
    "sched_act": "NET",
    "bpf_rc_repeat": "BPF_LIRC_MODE2",
    "bpf_rc_keydown": "BPF_LIRC_MODE2",
    "bpf_rc_pointer_rel": "BPF_LIRC_MODE2",
    "bpf_override_return": "BPF_KPROBE_OVERRIDE",
    "bpf_inode_storage_get": "BPF_LSM",
    "bpf_inode_storage_delete": "BPF_LSM",
    "bpf_bprm_opts_set": "BPF_LSM",
    "bpf_ima_inode_hash": "BPF_LSM",
    "bpf_ima_file_hash": "BPF_LSM",
}
# What only some processors have.
_MACHINES = {
    "arena": ("x86_64", "aarch64"),
    "insn_array": ("x86_64",),
    "may_goto": ("x86_64", "aarch64", "riscv64", "ppc64le", "loongarch64"),
    "load_acquire": ("x86_64", "aarch64", "riscv64"),
    "syscall_wrapper": ("x86_64", "aarch64", "s390x"),
}
# Helpers that even root may call only where the kernel is not locked down, or the program of one
# special kind.
_ELSEWHERE = {
    "bpf_probe_write_user": "lockdown",
    "bpf_tcp_send_ack": "struct_ops of congestion controls that name it",
}


@functools.cache
def configuration() -> str:
    return kconfig.read_kernel_config()[0].decode()


def excused(name: str) -> bool:
    """Whether this kernel, of the right age, may lack it all the same."""
    if name in _MACHINES:
        return platform.machine() not in _MACHINES[name]
    option = _OPTIONS.get(name)
    return option is not None and not re.search(
        rf"^CONFIG_{option}=[ym]$", configuration(), re.MULTILINE
    )


# Told by enumerators of the kernel's BTF, whose version is that of the header.
_RUNNING = (kernel_version() >> 16, kernel_version() >> 8 & 255)


@pytest.fixture(scope="module")
def answers():
    return features.sweep()


def contradictions(answers: Mapping[str, features.Answer]) -> list[str]:
    """Answers that do not go with the version of Linux that brought the thing."""
    wrong = []
    for name, answer in answers.items():
        if answer.since is None:
            continue
        due = version_pair(answer.since) <= _RUNNING
        if answer.has and not due:
            wrong.append(f"{name} came with {answer.since}, and is here: {answer.why}")
        if answer.has is False and due and not excused(name):
            wrong.append(f"{name} came with {answer.since}, and is not here: {answer.why}")
    return wrong


@pytest.mark.parametrize(
    "area", ["program types", "map types", "attach types", "link types", "instructions", "loading"]
)
def test_claims(answers, area):
    assert contradictions(answers[area]) == []
    young = [
        name
        for name, answer in answers[area].items()
        if answer.since and version_pair(answer.since) > _RUNNING
    ]
    assert all(answers[area][name].has is False for name in young)


def test_root_can_tell(answers):
    """Where nothing is forbidden, every question is answered."""
    if "PYBPFLOAD_VM_EVENTS" not in os.environ:
        pytest.skip("not in a virtual machine: this kernel may forbid root something")
    unknown = {name for area in answers.values() for name, a in area.items() if a.has is None}
    assert unknown == set()


@pytest.fixture(scope="module")
def helpers():
    """What each program type says of each helper."""
    return {kind: features.helpers(kind) for kind in ProgType if kind}


def test_helpers(answers, helpers):
    """A helper that is due can be called by some type of programs, any other by none."""
    together = {}
    for name in next(iter(helpers.values())):
        answers_ = [found[name] for found in helpers.values()]
        best = [a for has in (True, None, False) for a in answers_ if a.has is has]
        together[name] = best[0]
    assert len(together) == len([each for each in Helper if each])
    assert contradictions({n: a for n, a in together.items() if n not in _ELSEWHERE}) == []


@pytest.mark.parametrize(
    ("kind", "may", "may_not"),
    [
        (ProgType.XDP, "xdp_adjust_head", "skb_load_bytes"),
        (ProgType.SOCKET_FILTER, "skb_load_bytes", "xdp_adjust_head"),
        (ProgType.KPROBE, "probe_read_user", "xdp_adjust_head"),
        (ProgType.TRACEPOINT, "get_stackid", "override_return"),
        (ProgType.SCHED_CLS, "redirect", "seq_write"),
        (ProgType.CGROUP_SYSCTL, "sysctl_get_name", "skb_load_bytes"),
    ],
)
def test_helpers_of_a_type(helpers, kind, may, may_not):
    assert helpers[kind][f"bpf_{may}"].has is True
    assert helpers[kind][f"bpf_{may_not}"].has is False


@pytest.mark.needs_feature("btf")
def test_helpers_of_programs_that_name_a_place(helpers):
    tracing = helpers[ProgType.TRACING]
    assert tracing["bpf_seq_write"].has is True
    assert tracing["bpf_xdp_adjust_head"].has is not True
    if configuration().count("CONFIG_BPF_JIT=y"):
        assert helpers[ProgType.STRUCT_OPS]["bpf_map_lookup_elem"].has is True
        assert helpers[ProgType.STRUCT_OPS]["bpf_seq_write"].has is False


# Kernel function -> a type that may call it, since when.
_KFUNCS = {
    "tcp_slow_start": (ProgType.STRUCT_OPS, "5.13"),
    "bpf_rcu_read_lock": (ProgType.TRACING, "6.2"),
    "bpf_task_acquire": (ProgType.TRACING, "6.2"),
    "bpf_cast_to_kern_ctx": (ProgType.XDP, "6.2"),
    "bpf_xdp_metadata_rx_hash": (ProgType.XDP, "6.3"),
    "bpf_cpumask_create": (ProgType.TRACING, "6.3"),
    "bpf_dynptr_from_skb": (ProgType.SCHED_CLS, "6.4"),
    "bpf_iter_num_new": (ProgType.SOCKET_FILTER, "6.4"),
    "bpf_iter_task_new": (ProgType.TRACING, "6.7"),
    "bpf_preempt_disable": (ProgType.KPROBE, "6.10"),
    "bpf_copy_from_user_str": (ProgType.SYSCALL, "6.12"),
}


@pytest.mark.needs_feature("btf", "jit")
def test_kfuncs_of_types():
    found = {
        name: features.kfunc(kind, name)._replace(since=since)
        for name, (kind, since) in _KFUNCS.items()
    }
    assert contradictions(found) == []
    assert features.kfunc(ProgType.XDP, "bpf_dynptr_from_skb").has is False
    assert features.kfunc(ProgType.XDP, "vfs_read").has is False
    assert features.kfunc(ProgType.XDP, "no_such_function").why.startswith("no function of")


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
    assert "vfs_read" not in found
    of_xdp = features.kfuncs_for(ProgType.XDP)
    assert list(of_xdp) == found
    assert of_xdp["bpf_dynptr_from_xdp"].has is True
    assert of_xdp["bpf_dynptr_from_skb"].has is False
