"""What kernels demand beyond knowing a thing: settings they were built with, licences, limits.

Sources: ``linux/bpf_types.h`` (which types depend on which setting), ``gpl_only`` of the helpers'
``struct bpf_func_proto`` and ``linux/license.h``, all of Linux 6.12.
"""

from __future__ import annotations

from pybpfload.uapi import MapType, ProgType

__all__ = [
    "GPL_HELPERS",
    "GPL_LICENSES",
    "GPL_PROGRAMS",
    "MOST_INSNS",
    "MOST_STACK",
    "needed_settings",
]

MOST_INSNS = 1_000_000
"""Instructions of a program, for those with CAP_BPF (``BPF_COMPLEXITY_LIMIT_INSNS``, 5.2)."""

MOST_STACK = 512
"""Bytes of stack of a program with its subprograms (``MAX_BPF_STACK``); before 6.13, whose x86 and
arm64 JITs give subprograms of tracing programs stacks of their own."""

GPL_LICENSES = frozenset(
    {
        "GPL",
        "GPL v2",
        "GPL and additional rights",
        "Dual BSD/GPL",
        "Dual MIT/GPL",
        "Dual MPL/GPL",
    }
)
"""Licences that the kernel takes for compatible with the GPL, letter by letter."""

GPL_PROGRAMS = frozenset({ProgType.LSM, ProgType.STRUCT_OPS})
"""Types of programs that are loaded with such a licence only."""

_GPL_HELPERS = """
    check_mtu copy_from_user_task fib_lookup get_branch_snapshot get_current_task
    get_current_task_btf get_stack override_return perf_event_output perf_event_read
    perf_event_read_value perf_prog_read_value probe_read probe_read_kernel probe_read_kernel_str
    probe_read_str probe_read_user probe_read_user_str probe_write_user rc_keydown rc_pointer_rel
    rc_repeat read_branch_records seq_printf seq_printf_btf seq_write skb_output snprintf
    task_pt_regs tcp_check_syncookie tcp_gen_syncookie tcp_raw_check_syncookie_ipv4
    tcp_raw_check_syncookie_ipv6 tcp_raw_gen_syncookie_ipv4 tcp_raw_gen_syncookie_ipv6 timer_cancel
    timer_init timer_set_callback timer_start trace_printk trace_vprintk xdp_output
"""
GPL_HELPERS = frozenset(f"bpf_{name}" for name in _GPL_HELPERS.split())
"""Helpers that programs may call with such a licence only, whatever their type."""

_TABLE = {
    "CONFIG_NET": (
        """SOCKET_FILTER SCHED_CLS SCHED_ACT XDP LWT_IN LWT_OUT LWT_XMIT LWT_SEG6LOCAL SOCK_OPS
        SK_SKB SK_MSG FLOW_DISSECTOR""",
        "DEVMAP DEVMAP_HASH SK_STORAGE CPUMAP",
    ),
    "CONFIG_INET": ("SK_REUSEPORT SK_LOOKUP", "SOCKMAP SOCKHASH REUSEPORT_SOCKARRAY"),
    "CONFIG_XDP_SOCKETS": ("", "XSKMAP"),
    "CONFIG_CGROUPS": ("", "CGROUP_ARRAY CGRP_STORAGE"),
    "CONFIG_CGROUP_BPF": (
        "CGROUP_SKB CGROUP_SOCK CGROUP_SOCK_ADDR CGROUP_DEVICE CGROUP_SYSCTL CGROUP_SOCKOPT",
        "CGROUP_STORAGE PERCPU_CGROUP_STORAGE",
    ),
    "CONFIG_BPF_EVENTS": (
        "KPROBE TRACEPOINT PERF_EVENT RAW_TRACEPOINT RAW_TRACEPOINT_WRITABLE TRACING",
        "",
    ),
    "CONFIG_PERF_EVENTS": ("", "STACK_TRACE"),
    "CONFIG_BPF_LIRC_MODE2": ("LIRC_MODE2", ""),
    "CONFIG_BPF_JIT": ("STRUCT_OPS EXT", "STRUCT_OPS"),
    "CONFIG_BPF_LSM": ("LSM", "INODE_STORAGE"),
    "CONFIG_NETFILTER_BPF_LINK": ("NETFILTER", ""),
}


def needed_settings() -> dict[tuple[str, int], str]:
    """The setting that a type depends on, by class of :mod:`pybpfload.uapi` and number."""
    found: dict[tuple[str, int], str] = {}
    for setting, (programs, maps) in _TABLE.items():
        found |= {("ProgType", ProgType[name]): setting for name in programs.split()}
        found |= {("MapType", MapType[name]): setting for name in maps.split()}
    return found
