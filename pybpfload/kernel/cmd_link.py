"""Commands of bpf(2) on links."""

from __future__ import annotations

import errno

from pybpfload.kernel.attrs import layout
from pybpfload.kernel.call import call, invoke, refused
from pybpfload.kernel.fd import at_least_3
from pybpfload.uapi import AttachFlag, AttachType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from typing_extensions import Buffer

__all__ = ["link_create", "link_detach", "link_kind", "link_update"]

# Which arm of the union an attach type uses. Source of the rule: libbpf, bpf_link_create().
_KINDS = {
    AttachType.TRACE_ITER: "iter",
    AttachType.PERF_EVENT: "perf_event",
    AttachType.TRACE_KPROBE_MULTI: "kprobe_multi",
    AttachType.TRACE_KPROBE_SESSION: "kprobe_multi",
    AttachType.TRACE_UPROBE_MULTI: "uprobe_multi",
    AttachType.TRACE_UPROBE_SESSION: "uprobe_multi",
    AttachType.TRACE_FENTRY_MULTI: "tracing_multi",
    AttachType.TRACE_FEXIT_MULTI: "tracing_multi",
    AttachType.TRACE_FSESSION_MULTI: "tracing_multi",
    AttachType.TRACE_RAW_TP: "tracing",
    AttachType.TRACE_FENTRY: "tracing",
    AttachType.TRACE_FEXIT: "tracing",
    AttachType.TRACE_FSESSION: "tracing",
    AttachType.MODIFY_RETURN: "tracing",
    AttachType.LSM_MAC: "tracing",
    AttachType.NETFILTER: "netfilter",
    AttachType.TCX_INGRESS: "mprog",
    AttachType.TCX_EGRESS: "mprog",
    AttachType.NETKIT_PRIMARY: "mprog",
    AttachType.NETKIT_PEER: "mprog",
    AttachType.LSM_CGROUP: "mprog",
}

# Types that can be attached through BPF_RAW_TRACEPOINT_OPEN where links of them are unknown.
_RAW = (
    AttachType.TRACE_RAW_TP,
    AttachType.TRACE_FENTRY,
    AttachType.TRACE_FEXIT,
    AttachType.MODIFY_RETURN,
    AttachType.LSM_MAC,
)


def link_kind(attach_type: int) -> str:
    """Which group of options of :func:`link_create` goes with an attach type; ``""`` for none."""
    found = _KINDS.get(AttachType(attach_type))
    if found is None:
        return "mprog" if AttachType(attach_type).name.startswith("CGROUP_") else ""
    return found


def link_create(
    prog_fd: int,
    target_fd: int,
    attach_type: int,
    *,
    flags: int = 0,
    target_btf_id: int = 0,
    cookie: int = 0,
    iter_info: Buffer = b"",
    syms: Sequence[str] = (),
    addrs: Sequence[int] = (),
    cookies: Sequence[int] = (),
    multi_flags: int = 0,
    path: str = "",
    path_fd: int = 0,
    offsets: Sequence[int] = (),
    ref_ctr_offsets: Sequence[int] = (),
    pid: int = 0,
    btf_ids: Sequence[int] = (),
    pf: int = 0,
    hooknum: int = 0,
    priority: int = 0,
    netfilter_flags: int = 0,
    relative_fd: int = 0,
    relative_id: int = 0,
    expected_revision: int = 0,
) -> int:
    """``BPF_LINK_CREATE`` (Linux 5.7): attach a program by a link.

    Where the kernel answers EINVAL to a plain link of a raw_tp, fentry, fexit, fmod_ret or LSM
    program, ``BPF_RAW_TRACEPOINT_OPEN`` is tried, as libbpf does: such links came later.

    Args:
        prog_fd: The program (the map, for struct_ops).
        target_fd: Control group, network namespace, sockmap or perf event; interface index for
            XDP, tcx and netkit; target program with ``target_btf_id``; otherwise 0.
        attach_type: :class:`~pybpfload.uapi.AttachType`. It decides which options are allowed.
        flags: :class:`~pybpfload.uapi.AttachFlag`.
        target_btf_id: Function of the target program (fentry and others 5.10).
        cookie: Value that the program can ask for (perf events 5.15, tracing 5.19).
        iter_info: Parameters of an iterator, 16 bytes (maps 5.9, control groups 6.1, tasks 6.1).
        syms: Names of functions (multi-kprobes 5.18).
        addrs: Addresses of functions instead.
        cookies: One for each function, offset or id.
        multi_flags: :class:`~pybpfload.uapi.KprobeMultiFlag` or ``UprobeMultiFlag``.
        path: File (multi-uprobes 6.6).
        path_fd: The file, open; needs ``UprobeMultiFlag.PATH_FD``.
        offsets: File offsets of the probes, bytes.
        ref_ctr_offsets: File offsets of the semaphores, one for each probe.
        pid: Process to watch, 0 for all.
        btf_ids: Functions (tracing-multi 7.2).
        pf: Protocol family (netfilter 6.4).
        hooknum: Netfilter hook.
        priority: Netfilter priority.
        netfilter_flags: :class:`~pybpfload.uapi.NetfilterFlag`.
        relative_fd: Program or link to go before or after (tcx, netkit 6.6, control groups 6.17).
        relative_id: The same by id; sets ``AttachFlag.ID``.
        expected_revision: Fail with ESTALE if the list has changed since.

    Returns:
        The descriptor, which the caller owns.

    Raises:
        KernelError: The kernel refused.
        ValueError: An option has no meaning for this attach type, or lists differ in length.
    """
    if relative_fd and relative_id:
        raise ValueError("relative_fd and relative_id exclude each other")
    if relative_id:
        flags |= AttachFlag.ID
    kind = "tracing" if target_btf_id else link_kind(attach_type)
    options: dict[str, Any] = {
        "target_btf_id": target_btf_id,
        "cookie": cookie,
        "iter_info": iter_info,
        "syms": syms,
        "addrs": addrs,
        "cookies": cookies,
        "multi_flags": multi_flags,
        "path": path,
        "path_fd": path_fd,
        "offsets": offsets,
        "ref_ctr_offsets": ref_ctr_offsets,
        "pid": pid,
        "btf_ids": btf_ids,
        "pf": pf,
        "hooknum": hooknum,
        "priority": priority,
        "netfilter_flags": netfilter_flags,
        "relative_fd": relative_id or relative_fd,
        "expected_revision": expected_revision,
    }
    given = {name: value for name, value in options.items() if value}
    keep: list[object] = []
    values = _arm(kind, AttachType(attach_type), given, keep)
    attr = layout(f"LINK_CREATE/{kind}" if values else "LINK_CREATE").build(
        prog_fd=prog_fd, target_fd=target_fd, attach_type=attach_type, flags=flags, **values
    )
    attr.keep.append(keep)
    result = at_least_3(invoke(attr))
    if result == -errno.EINVAL and not (target_fd or given or flags) and attach_type in _RAW:
        from pybpfload.kernel.cmd_misc import raw_tracepoint_open

        return raw_tracepoint_open(None, prog_fd)
    if result < 0:
        name = AttachType(attach_type).name.lower()
        raise refused(result, attr, f"program fd {prog_fd} ({name})")
    return result


_OPTIONS = {
    "": (),
    "iter": ("iter_info",),
    "perf_event": ("cookie",),
    "kprobe_multi": ("syms", "addrs", "cookies", "multi_flags"),
    "uprobe_multi": (
        "path",
        "path_fd",
        "offsets",
        "ref_ctr_offsets",
        "cookies",
        "multi_flags",
        "pid",
    ),
    "tracing": ("target_btf_id", "cookie"),
    "tracing_multi": ("btf_ids", "cookies"),
    "netfilter": ("pf", "hooknum", "priority", "netfilter_flags"),
    "mprog": ("relative_fd", "expected_revision"),
}


def _arm(
    kind: str, attach_type: AttachType, given: dict[str, Any], keep: list[object]
) -> dict[str, Any]:
    """The fields of one arm of the union from the options given."""
    from array import array

    for name in given:
        if name not in _OPTIONS[kind]:
            raise ValueError(f"{name} has no meaning for attach type {attach_type.name.lower()}")
    lengths = {
        len(given[name])
        for name in ("syms", "addrs", "cookies", "offsets", "ref_ctr_offsets", "btf_ids")
        if name in given
    }
    if len(lengths) > 1:
        raise ValueError("the lists of a multi link must be of the same length")
    values = dict(given)
    if kind == "perf_event" and values:
        values["bpf_cookie"] = values.pop("cookie")
    if kind == "iter" and values:
        values["iter_info_len"] = memoryview(iter_info := values["iter_info"]).nbytes
        values["iter_info"] = bytes(iter_info)
    for name in ("addrs", "cookies", "offsets", "ref_ctr_offsets"):
        if name in values:
            try:
                values[name] = array("Q", values[name])
            except OverflowError:
                raise ValueError(f"LINK_CREATE: one of {name} does not fit u64") from None
    if "btf_ids" in values:
        values["ids"] = array("I", values.pop("btf_ids"))
    if "syms" in values:
        from pybpfload.kernel.attrs import address

        values["syms"] = array("Q", [address(name, keep) for name in values["syms"]])
    if "multi_flags" in values:
        values["kprobe_flags" if kind == "kprobe_multi" else "uprobe_flags"] = values.pop(
            "multi_flags"
        )
    if lengths:
        values["cnt"] = lengths.pop()
    return values


def link_update(link_fd: int, new_fd: int, *, flags: int = 0, old_fd: int = 0) -> None:
    """``BPF_LINK_UPDATE`` (5.7): put another program (struct_ops: map, 6.4) in place.

    Args:
        link_fd: The link.
        new_fd: The program or map.
        flags: :class:`~pybpfload.uapi.AttachFlag`.
        old_fd: Only if this one is in place now; sets ``AttachFlag.REPLACE``.

    Raises:
        KernelError: EPERM when another program is in place, EINVAL for kinds without, and others.
    """
    call(
        "LINK_UPDATE",
        f"link fd {link_fd}",
        link_fd=link_fd,
        new_prog_fd=new_fd,
        flags=flags | (AttachFlag.REPLACE if old_fd else 0),
        old_prog_fd=old_fd,
    )


def link_detach(link_fd: int) -> None:
    """``BPF_LINK_DETACH`` (5.9): detach at once; the link stays as an object without effect.

    Raises:
        KernelError: EOPNOTSUPP for kinds that only detach when closed, and others.
    """
    call("LINK_DETACH", f"link fd {link_fd}", link_fd=link_fd)
