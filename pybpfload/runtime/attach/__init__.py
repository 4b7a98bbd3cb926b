"""Attaching: one module per family, chosen by the SEC() table and the program's types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from pybpfload.object.spec import ProgramSpec
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "is_automatic"]

_FAMILIES = {
    "trace": "tracing",
    "lsm": "tracing",
    "tracing-multi": "tracing_multi",
    "raw_tp": "raw_tracepoint",
    "tp": "tracepoint",
    "iter": "iter",
    "kprobe": "kprobe",
    "ksyscall": "kprobe",
    "kprobe-multi": "kprobe_multi",
    "kprobe-session": "kprobe_multi",
    "uprobe": "uprobe",
    "uprobe-multi": "uprobe_multi",
    "usdt": "usdt",
}

# Programs whose section does not tell what to attach to: by attach type, else by program type.
_BY_ATTACH_TYPE = {AttachType.LSM_CGROUP: "cgroup"}
_BY_PROG_TYPE = {
    ProgType.XDP: "xdp",
    ProgType.SCHED_CLS: "tc",
    ProgType.SCHED_ACT: "tc",
    ProgType.CGROUP_SKB: "cgroup",
    ProgType.CGROUP_SOCK: "cgroup",
    ProgType.CGROUP_SOCK_ADDR: "cgroup",
    ProgType.CGROUP_SOCKOPT: "cgroup",
    ProgType.CGROUP_DEVICE: "cgroup",
    ProgType.CGROUP_SYSCTL: "cgroup",
    ProgType.SOCK_OPS: "cgroup",
    ProgType.SK_LOOKUP: "netns",
    ProgType.FLOW_DISSECTOR: "netns",
    ProgType.SK_MSG: "sockets",
    ProgType.SK_SKB: "sockets",
    ProgType.SOCKET_FILTER: "sockets",
    ProgType.SK_REUSEPORT: "sockets",
    ProgType.NETFILTER: "netfilter",
    ProgType.PERF_EVENT: "perf_event",
    ProgType.LWT_IN: "lwt",
    ProgType.LWT_OUT: "lwt",
    ProgType.LWT_XMIT: "lwt",
    ProgType.LWT_SEG6LOCAL: "lwt",
    ProgType.LIRC_MODE2: "lirc",
}


def is_automatic(spec: ProgramSpec) -> bool:
    """Whether the section name alone says where to attach."""
    if spec.sec is None or spec.prog_type != spec.sec.prog_type or not spec.sec.auto:
        return False
    if spec.sec.auto == "iter":
        from pybpfload.runtime.attach.iter import needs_parameters

        return not needs_parameters(spec)
    if spec.sec.auto.startswith("uprobe") and not spec.attach_to:
        return False  # SEC("uprobe/") is a bare section, too (libbpf)
    return spec.attach_to is not None or spec.attach_program is not None


def attach(
    program: Program, loaded_for: AttachTarget, target: Any, options: dict[str, Any]
) -> Link:
    """Attach a program; see :meth:`Program.attach`."""
    from importlib import import_module

    module = import_module(f"{__name__}.{_home(program.spec, loaded_for)}")
    link: Link = module.attach(program, loaded_for, target, **options)
    return link


def _home(spec: ProgramSpec, loaded_for: AttachTarget) -> str:
    """Name of the module that attaches such programs."""
    family = spec.sec.auto if spec.sec is not None and spec.prog_type == spec.sec.prog_type else ""
    if family:
        return _FAMILIES[family]
    if found := _BY_ATTACH_TYPE.get(AttachType(spec.expected_attach_type)):
        return found
    if loaded_for.btf_id:
        # Loaded for set_attach_target(), in a section of any name.
        is_iterator = spec.expected_attach_type == AttachType.TRACE_ITER
        return "iter" if is_iterator and spec.prog_type == ProgType.TRACING else "tracing"
    if found := _BY_PROG_TYPE.get(spec.prog_type):
        return found
    raise AttachError(f"SEC({spec.section!r}) does not tell what to attach to", program=spec.name)
