"""Attaching: one module per family, chosen by the SEC() table and the program's types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError, BpfError, KernelError, NotSupportedError
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from pybpfload.object.spec import ProgramSpec
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "is_automatic", "left_alone"]

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


# What attach() wants to be told, by module.
_WANTED = {
    "cgroup": "a control group",
    "iter": "what to go over",
    "kprobe": "a kernel function",
    "kprobe_multi": "kernel functions",
    "lirc": "an infrared receiver",
    "lwt": "a route",
    "netfilter": "a netfilter hook",
    "netns": "a network namespace",
    "perf_event": "a perf event",
    "raw_tracepoint": "a raw tracepoint",
    "sockets": "a socket or a map of sockets",
    "tc": "a network device",
    "tracepoint": "a tracepoint",
    "tracing_multi": "kernel functions",
    "uprobe": "a file and a function of it",
    "uprobe_multi": "a file and functions of it",
    "usdt": "a file and a probe of it",
    "xdp": "a network device",
}
_RUN_OTHERWISE = {
    ProgType.SYSCALL: "test_run() runs it",
    ProgType.STRUCT_OPS: "it is attached with its map",
    ProgType.SCHED_ACT: "tc(8) attaches actions to filters",
}
_RUN_FROM_MAPS = {AttachType.XDP_DEVMAP: "devmap", AttachType.XDP_CPUMAP: "cpumap"}


def left_alone(spec: ProgramSpec) -> str | None:
    """Why :meth:`Object.attach` leaves a program alone, one clause; ``None`` if it attaches it.

    That is a matter of the section name alone; ``autoattach`` is not looked at.
    """
    if reason := _RUN_OTHERWISE.get(spec.prog_type):
        return reason
    if spec.prog_type == ProgType.XDP and spec.expected_attach_type in _RUN_FROM_MAPS:
        return f"a {_RUN_FROM_MAPS[AttachType(spec.expected_attach_type)]} runs it for its entries"
    if _says_where(spec):
        return None
    home = _by_spec(spec)
    wanted = f": attach() wants {_WANTED[home]}" if home in _WANTED else ""
    return f'SEC("{spec.section}") does not say where{wanted}'


def is_automatic(spec: ProgramSpec) -> bool:
    """Whether the section name alone says where to attach."""
    return left_alone(spec) is None


def _says_where(spec: ProgramSpec) -> bool:
    if not _is_of_section(spec) or spec.sec is None or not spec.sec.auto:
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

    from pybpfload.runtime.attach.common import check_options

    try:
        module = import_module(f"{__name__}.{_home(program.spec, loaded_for)}")
        check_options(program, module.attach, options)
        link: Link = module.attach(program, loaded_for, target, **options)
    except BpfError as error:
        _name_program(error, program.name)
        raise
    return link


def _name_program(error: BpfError, name: str) -> None:
    """Say of an error that does not tell yet which program could not be attached."""
    if name in str(error):
        return
    if isinstance(error, AttachError):
        error.program = name
    elif isinstance(error, NotSupportedError):
        error.message = f"program {name}: {error.message}"
    elif isinstance(error, KernelError):
        error.target = f"{error.target}, for program {name}" if error.target else f"program {name}"
    else:
        error.hint = "; ".join(filter(None, (error.hint, f"program {name} is not attached to it")))


def _is_of_section(spec: ProgramSpec) -> bool:
    """Whether the section's row still tells what the program is."""
    return spec.sec is not None and spec.prog_type == spec.sec.prog_type


def _by_spec(spec: ProgramSpec) -> str | None:
    """Name of the module that attaches such programs, as far as the spec tells."""
    if _is_of_section(spec) and spec.sec is not None and spec.sec.auto:
        return _FAMILIES[spec.sec.auto]
    return _BY_ATTACH_TYPE.get(AttachType(spec.expected_attach_type)) or _BY_PROG_TYPE.get(
        spec.prog_type
    )


def _home(spec: ProgramSpec, loaded_for: AttachTarget) -> str:
    """Name of the module that attaches such programs."""
    found = _by_spec(spec)
    if loaded_for.btf_id and found is None and spec.prog_type not in _RUN_OTHERWISE:
        # Loaded for set_attach_target(), in a section of any name.
        is_iterator = spec.expected_attach_type == AttachType.TRACE_ITER
        return "iter" if is_iterator and spec.prog_type == ProgType.TRACING else "tracing"
    if found is None:
        why = left_alone(spec)
        raise AttachError(f"it cannot be attached: {why}", program=spec.name)
    return found
