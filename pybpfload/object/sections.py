"""The table of SEC() names: what a section name says of type, attach type and attaching.

This is the table of libbpf 1.8, in its order; Documentation/bpf/libbpf/program_types.rst in the
kernel tree explains each row. Columns: name (``+``: may be followed by ``/`` and more), program
type, expected attach type (``-``: 0), flags, and the family of attachments that
:meth:`Object.attach` uses (``-``: none, the user says where).

Flags: ``S`` sleepable; ``B`` needs the BTF id of what it attaches to, at load; ``O`` expected
attach type is left out on kernels that do not have the field; ``A`` known to
``libbpf_attach_type_by_name``; ``F`` XDP with fragments; ``U`` USDT.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from pybpfload.uapi import AttachType, ProgType

__all__ = ["SecDef", "find_section", "section_table"]


class SecDef(NamedTuple):
    """One row of the table.

    Attributes:
        name: Section name without what may follow it.
        extended: Whether ``/`` and more may follow the name.
        prog_type: :class:`pybpfload.uapi.ProgType`.
        attach_type: :class:`pybpfload.uapi.AttachType`, 0 when the row has none.
        flags: Letters as explained at the top of this module.
        auto: Family of attachments, ``""`` when the program cannot be attached by its section name
            alone.
    """

    name: str
    extended: bool
    prog_type: ProgType
    attach_type: AttachType
    flags: str
    auto: str

    @property
    def sleepable(self) -> bool:
        """Whether the program is loaded with ``BPF_F_SLEEPABLE``."""
        return "S" in self.flags

    @property
    def needs_btf_id(self) -> bool:
        """Whether loading needs the BTF id of the attach target."""
        return "B" in self.flags

    @property
    def frags(self) -> bool:
        """Whether the program is loaded with ``BPF_F_XDP_HAS_FRAGS``."""
        return "F" in self.flags

    @property
    def usdt(self) -> bool:
        """Statically defined tracing: through multi-uprobe links where there are any (6.6)."""
        return "U" in self.flags

    @property
    def attach_type_optional(self) -> bool:
        """Whether kernels without the ``expected_attach_type`` field may load it without."""
        return "O" in self.flags

    def matches(self, section: str) -> bool:
        """Whether a section name (without a leading ``?``) belongs to this row."""
        return section == self.name or (self.extended and section.startswith(self.name + "/"))


@lru_cache(maxsize=1)
def section_table() -> tuple[SecDef, ...]:
    """Return all rows in the order in which they are tried."""
    rows = []
    for line in _TABLE.strip().splitlines():
        name, prog_type, attach_type, flags, auto = (cell.strip() for cell in line.split("|"))
        rows.append(
            SecDef(
                name.removesuffix(" +"),
                name.endswith(" +"),
                ProgType[prog_type],
                AttachType(0) if attach_type == "-" else AttachType[attach_type],
                flags.replace("-", ""),
                "" if auto == "-" else auto,
            )
        )
    return tuple(rows)


@lru_cache(maxsize=1024)
def find_section(section: str) -> SecDef | None:
    """Return the row for a section name without a leading ``?``, ``None`` when there is none."""
    return next((row for row in section_table() if row.matches(section)), None)


_TABLE = """
socket                 |SOCKET_FILTER          |-                             |- |-
sk_reuseport/migrate   |SK_REUSEPORT           |SK_REUSEPORT_SELECT_OR_MIGRATE|A |-
sk_reuseport           |SK_REUSEPORT           |SK_REUSEPORT_SELECT           |A |-
kprobe +               |KPROBE                 |-                             |- |kprobe
uprobe +               |KPROBE                 |-                             |- |uprobe
uprobe.s +             |KPROBE                 |-                             |S |uprobe
kretprobe +            |KPROBE                 |-                             |- |kprobe
uretprobe +            |KPROBE                 |-                             |- |uprobe
uretprobe.s +          |KPROBE                 |-                             |S |uprobe
kprobe.multi +         |KPROBE                 |TRACE_KPROBE_MULTI            |- |kprobe-multi
kretprobe.multi +      |KPROBE                 |TRACE_KPROBE_MULTI            |- |kprobe-multi
kprobe.session +       |KPROBE                 |TRACE_KPROBE_SESSION          |- |kprobe-session
uprobe.multi +         |KPROBE                 |TRACE_UPROBE_MULTI            |- |uprobe-multi
uretprobe.multi +      |KPROBE                 |TRACE_UPROBE_MULTI            |- |uprobe-multi
uprobe.session +       |KPROBE                 |TRACE_UPROBE_SESSION          |- |uprobe-multi
uprobe.multi.s +       |KPROBE                 |TRACE_UPROBE_MULTI            |S |uprobe-multi
uretprobe.multi.s +    |KPROBE                 |TRACE_UPROBE_MULTI            |S |uprobe-multi
uprobe.session.s +     |KPROBE                 |TRACE_UPROBE_SESSION          |S |uprobe-multi
ksyscall +             |KPROBE                 |-                             |- |ksyscall
kretsyscall +          |KPROBE                 |-                             |- |ksyscall
usdt +                 |KPROBE                 |-                             |U |usdt
usdt.s +               |KPROBE                 |-                             |US|usdt
tc/ingress             |SCHED_CLS              |TCX_INGRESS                   |- |-
tc/egress              |SCHED_CLS              |TCX_EGRESS                    |- |-
tcx/ingress            |SCHED_CLS              |TCX_INGRESS                   |- |-
tcx/egress             |SCHED_CLS              |TCX_EGRESS                    |- |-
tc                     |SCHED_CLS              |-                             |- |-
classifier             |SCHED_CLS              |-                             |- |-
action                 |SCHED_ACT              |-                             |- |-
netkit/primary         |SCHED_CLS              |NETKIT_PRIMARY                |- |-
netkit/peer            |SCHED_CLS              |NETKIT_PEER                   |- |-
tracepoint +           |TRACEPOINT             |-                             |- |tp
tp +                   |TRACEPOINT             |-                             |- |tp
tracepoint.s +         |TRACEPOINT             |-                             |S |tp
tp.s +                 |TRACEPOINT             |-                             |S |tp
raw_tracepoint +       |RAW_TRACEPOINT         |-                             |- |raw_tp
raw_tp +               |RAW_TRACEPOINT         |-                             |- |raw_tp
raw_tracepoint.s +     |RAW_TRACEPOINT         |-                             |S |raw_tp
raw_tp.s +             |RAW_TRACEPOINT         |-                             |S |raw_tp
raw_tracepoint.w +     |RAW_TRACEPOINT_WRITABLE|-                             |- |raw_tp
raw_tp.w +             |RAW_TRACEPOINT_WRITABLE|-                             |- |raw_tp
tp_btf +               |TRACING                |TRACE_RAW_TP                  |B |trace
tp_btf.s +             |TRACING                |TRACE_RAW_TP                  |BS|trace
fentry +               |TRACING                |TRACE_FENTRY                  |B |trace
fmod_ret +             |TRACING                |MODIFY_RETURN                 |B |trace
fexit +                |TRACING                |TRACE_FEXIT                   |B |trace
fentry.s +             |TRACING                |TRACE_FENTRY                  |BS|trace
fmod_ret.s +           |TRACING                |MODIFY_RETURN                 |BS|trace
fexit.s +              |TRACING                |TRACE_FEXIT                   |BS|trace
fsession +             |TRACING                |TRACE_FSESSION                |B |trace
fsession.s +           |TRACING                |TRACE_FSESSION                |BS|trace
fsession.multi +       |TRACING                |TRACE_FSESSION_MULTI          |- |tracing-multi
fsession.multi.s +     |TRACING                |TRACE_FSESSION_MULTI          |S |tracing-multi
fentry.multi +         |TRACING                |TRACE_FENTRY_MULTI            |- |tracing-multi
fexit.multi +          |TRACING                |TRACE_FEXIT_MULTI             |- |tracing-multi
fentry.multi.s +       |TRACING                |TRACE_FENTRY_MULTI            |S |tracing-multi
fexit.multi.s +        |TRACING                |TRACE_FEXIT_MULTI             |S |tracing-multi
freplace +             |EXT                    |-                             |B |trace
lsm +                  |LSM                    |LSM_MAC                       |B |lsm
lsm.s +                |LSM                    |LSM_MAC                       |BS|lsm
lsm_cgroup +           |LSM                    |LSM_CGROUP                    |B |-
iter +                 |TRACING                |TRACE_ITER                    |B |iter
iter.s +               |TRACING                |TRACE_ITER                    |BS|iter
syscall                |SYSCALL                |-                             |S |-
xdp.frags/devmap       |XDP                    |XDP_DEVMAP                    |F |-
xdp/devmap             |XDP                    |XDP_DEVMAP                    |A |-
xdp.frags/cpumap       |XDP                    |XDP_CPUMAP                    |F |-
xdp/cpumap             |XDP                    |XDP_CPUMAP                    |A |-
xdp.frags              |XDP                    |XDP                           |F |-
xdp                    |XDP                    |XDP                           |AO|-
perf_event             |PERF_EVENT             |-                             |- |-
lwt_in                 |LWT_IN                 |-                             |- |-
lwt_out                |LWT_OUT                |-                             |- |-
lwt_xmit               |LWT_XMIT               |-                             |- |-
lwt_seg6local          |LWT_SEG6LOCAL          |-                             |- |-
sockops                |SOCK_OPS               |CGROUP_SOCK_OPS               |AO|-
sk_skb/stream_parser   |SK_SKB                 |SK_SKB_STREAM_PARSER          |AO|-
sk_skb/stream_verdict  |SK_SKB                 |SK_SKB_STREAM_VERDICT         |AO|-
sk_skb/verdict         |SK_SKB                 |SK_SKB_VERDICT                |AO|-
sk_skb                 |SK_SKB                 |-                             |- |-
sk_msg                 |SK_MSG                 |SK_MSG_VERDICT                |AO|-
lirc_mode2             |LIRC_MODE2             |LIRC_MODE2                    |AO|-
flow_dissector         |FLOW_DISSECTOR         |FLOW_DISSECTOR                |AO|-
cgroup_skb/ingress     |CGROUP_SKB             |CGROUP_INET_INGRESS           |AO|-
cgroup_skb/egress      |CGROUP_SKB             |CGROUP_INET_EGRESS            |AO|-
cgroup/skb             |CGROUP_SKB             |-                             |- |-
cgroup/sock_create     |CGROUP_SOCK            |CGROUP_INET_SOCK_CREATE       |A |-
cgroup/sock_release    |CGROUP_SOCK            |CGROUP_INET_SOCK_RELEASE      |A |-
cgroup/sock            |CGROUP_SOCK            |CGROUP_INET_SOCK_CREATE       |AO|-
cgroup/post_bind4      |CGROUP_SOCK            |CGROUP_INET4_POST_BIND        |A |-
cgroup/post_bind6      |CGROUP_SOCK            |CGROUP_INET6_POST_BIND        |A |-
cgroup/bind4           |CGROUP_SOCK_ADDR       |CGROUP_INET4_BIND             |A |-
cgroup/bind6           |CGROUP_SOCK_ADDR       |CGROUP_INET6_BIND             |A |-
cgroup/connect4        |CGROUP_SOCK_ADDR       |CGROUP_INET4_CONNECT          |A |-
cgroup/connect6        |CGROUP_SOCK_ADDR       |CGROUP_INET6_CONNECT          |A |-
cgroup/connect_unix    |CGROUP_SOCK_ADDR       |CGROUP_UNIX_CONNECT           |A |-
cgroup/sendmsg4        |CGROUP_SOCK_ADDR       |CGROUP_UDP4_SENDMSG           |A |-
cgroup/sendmsg6        |CGROUP_SOCK_ADDR       |CGROUP_UDP6_SENDMSG           |A |-
cgroup/sendmsg_unix    |CGROUP_SOCK_ADDR       |CGROUP_UNIX_SENDMSG           |A |-
cgroup/recvmsg4        |CGROUP_SOCK_ADDR       |CGROUP_UDP4_RECVMSG           |A |-
cgroup/recvmsg6        |CGROUP_SOCK_ADDR       |CGROUP_UDP6_RECVMSG           |A |-
cgroup/recvmsg_unix    |CGROUP_SOCK_ADDR       |CGROUP_UNIX_RECVMSG           |A |-
cgroup/getpeername4    |CGROUP_SOCK_ADDR       |CGROUP_INET4_GETPEERNAME      |A |-
cgroup/getpeername6    |CGROUP_SOCK_ADDR       |CGROUP_INET6_GETPEERNAME      |A |-
cgroup/getpeername_unix|CGROUP_SOCK_ADDR       |CGROUP_UNIX_GETPEERNAME       |A |-
cgroup/getsockname4    |CGROUP_SOCK_ADDR       |CGROUP_INET4_GETSOCKNAME      |A |-
cgroup/getsockname6    |CGROUP_SOCK_ADDR       |CGROUP_INET6_GETSOCKNAME      |A |-
cgroup/getsockname_unix|CGROUP_SOCK_ADDR       |CGROUP_UNIX_GETSOCKNAME       |A |-
cgroup/sysctl          |CGROUP_SYSCTL          |CGROUP_SYSCTL                 |A |-
cgroup/getsockopt      |CGROUP_SOCKOPT         |CGROUP_GETSOCKOPT             |A |-
cgroup/setsockopt      |CGROUP_SOCKOPT         |CGROUP_SETSOCKOPT             |A |-
cgroup/dev             |CGROUP_DEVICE          |CGROUP_DEVICE                 |AO|-
struct_ops +           |STRUCT_OPS             |-                             |- |-
struct_ops.s +         |STRUCT_OPS             |-                             |S |-
sk_lookup              |SK_LOOKUP              |SK_LOOKUP                     |A |-
netfilter              |NETFILTER              |NETFILTER                     |- |-
"""
