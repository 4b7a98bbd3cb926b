"""Which capabilities a command of bpf(2) needs, for saying which one a process lacks.

Source: the kernel's ``syscall.c``: ``is_perfmon_prog_type()``, ``is_net_admin_prog_type()``,
``map_create()``. Before Linux 5.8 it was CAP_SYS_ADMIN for all, which still stands in for all.
"""

from __future__ import annotations

from pybpfload.kernel.errors import missing_capabilities, setting
from pybpfload.uapi import Cmd, MapType, ProgType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybpfload.kernel.attrs import Attr

__all__ = ["lacking"]

# Programs that may read memory of the kernel.
_PERFMON = frozenset(
    {
        ProgType.KPROBE,
        ProgType.TRACEPOINT,
        ProgType.PERF_EVENT,
        ProgType.RAW_TRACEPOINT,
        ProgType.RAW_TRACEPOINT_WRITABLE,
        ProgType.TRACING,
        ProgType.LSM,
        ProgType.STRUCT_OPS,
        ProgType.EXT,
    }
)
# Programs that decide about packets, sockets or devices of others.
_NET_ADMIN = frozenset(
    {
        ProgType.SCHED_CLS,
        ProgType.SCHED_ACT,
        ProgType.XDP,
        ProgType.LWT_IN,
        ProgType.LWT_OUT,
        ProgType.LWT_XMIT,
        ProgType.LWT_SEG6LOCAL,
        ProgType.SK_SKB,
        ProgType.SK_MSG,
        ProgType.FLOW_DISSECTOR,
        ProgType.CGROUP_DEVICE,
        ProgType.CGROUP_SOCK,
        ProgType.CGROUP_SOCK_ADDR,
        ProgType.CGROUP_SOCKOPT,
        ProgType.CGROUP_SYSCTL,
        ProgType.SOCK_OPS,
        ProgType.EXT,
        ProgType.NETFILTER,
    }
)
_NET_ADMIN_MAPS = frozenset(
    {
        MapType.DEVMAP,
        MapType.DEVMAP_HASH,
        MapType.SOCKMAP,
        MapType.SOCKHASH,
        MapType.XSKMAP,
    }
)


def lacking(attr: Attr) -> str | None:
    """What this process lacks for a command that the kernel refused with EPERM.

    Returns:
        A sentence; ``None`` if it is none of these capabilities, or not known what is needed.
    """
    what, needed = _needs(attr)
    missing = missing_capabilities(*needed)
    if not missing:
        return None
    instead = "" if "CAP_SYS_ADMIN" in needed else " (or CAP_SYS_ADMIN)"
    # Without CAP_BPF, the setting says whether some programs would be let in all the same.
    value = setting("kernel.unprivileged_bpf_disabled") if "CAP_BPF" in missing else ""
    return (
        f"{what} {' and '.join(needed)}, this process lacks {' and '.join(missing)}{instead}; "
        f"run it as root or give it these capabilities{value}"
    )


_BY_ID = "listing objects and opening them by their ids needs"
_ADMIN = {
    **dict.fromkeys((c for c in Cmd if c.name.endswith(("_GET_NEXT_ID", "_GET_FD_BY_ID"))), _BY_ID),
    Cmd.TASK_FD_QUERY: "asking what descriptors of other processes stand for needs",
    Cmd.ENABLE_STATS: "counting the runs of all programs needs",
}


def _needs(attr: Attr) -> tuple[str, list[str]]:
    """What needs, and which capabilities."""
    if attr.command == Cmd.PROG_LOAD:
        kind = ProgType(attr["prog_type"])
        more = ["CAP_PERFMON"] * (kind in _PERFMON) + ["CAP_NET_ADMIN"] * (kind in _NET_ADMIN)
        return f"programs of type {kind.name} need", ["CAP_BPF", *more]
    if attr.command == Cmd.MAP_CREATE:
        made = MapType(attr["map_type"])
        more = ["CAP_NET_ADMIN"] * (made in _NET_ADMIN_MAPS)
        return f"maps of type {made.name} need", ["CAP_BPF", *more]
    if attr.command == Cmd.BTF_LOAD:
        return "loading BTF needs", ["CAP_BPF"]
    if attr.command == Cmd.PROG_QUERY:
        return "asking what is attached needs", ["CAP_NET_ADMIN"]
    if attr.command in _ADMIN:
        return _ADMIN[Cmd(attr.command)], ["CAP_SYS_ADMIN"]
    return "", []
