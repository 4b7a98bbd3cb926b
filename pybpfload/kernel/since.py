"""Which kernel brought which command, type, flag and helper.

For messages and for the scripted kernel of tests only: distributions backport, so what the running
kernel can do is found out by trying (:mod:`~pybpfload.kernel.probe`). The versions of the fields of
``bpf_attr`` stand in :mod:`~pybpfload.kernel.attrs`, those of instructions in
:mod:`pybpfload.isa.table`, those of what is probed in ``probe.Feature``.

Source: the history of ``linux/bpf.h``.
"""

from __future__ import annotations

from typing import NamedTuple

from pybpfload import uapi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pybpfload.kernel.attrs import Attr, Layout

__all__ = [
    "ENUMS",
    "Used",
    "came_later",
    "first_version",
    "too_young",
    "too_young_attach_type",
    "too_young_helper",
    "used",
    "version_pair",
]

# Class of pybpfload.uapi -> per line a version and what came with it: names, helpers by number.
# `A..B` is a range.
_TABLES = {
    "Cmd": """
        3.18 MAP_CREATE..PROG_LOAD
        4.4  OBJ_PIN OBJ_GET
        4.10 PROG_ATTACH PROG_DETACH
        4.12 PROG_TEST_RUN
        4.13 PROG_GET_NEXT_ID..OBJ_GET_INFO_BY_FD
        4.15 PROG_QUERY
        4.17 RAW_TRACEPOINT_OPEN
        4.18 BTF_LOAD BTF_GET_FD_BY_ID TASK_FD_QUERY
        4.20 MAP_LOOKUP_AND_DELETE_ELEM
        5.2  MAP_FREEZE
        5.4  BTF_GET_NEXT_ID
        5.6  MAP_LOOKUP_BATCH..MAP_DELETE_BATCH
        5.7  LINK_CREATE LINK_UPDATE
        5.8  LINK_GET_FD_BY_ID LINK_GET_NEXT_ID ENABLE_STATS ITER_CREATE
        5.9  LINK_DETACH
        5.10 PROG_BIND_MAP
        6.9  TOKEN_CREATE
        6.17 PROG_STREAM_READ_BY_FD
        7.0  PROG_ASSOC_STRUCT_OPS
        7.2  COMMON_ATTRS
    """,
    "ProgType": """
        3.18 UNSPEC
        3.19 SOCKET_FILTER
        4.1  KPROBE SCHED_CLS SCHED_ACT
        4.7  TRACEPOINT
        4.8  XDP
        4.9  PERF_EVENT
        4.10 CGROUP_SKB CGROUP_SOCK LWT_IN LWT_OUT LWT_XMIT
        4.13 SOCK_OPS
        4.14 SK_SKB
        4.15 CGROUP_DEVICE
        4.17 SK_MSG RAW_TRACEPOINT CGROUP_SOCK_ADDR
        4.18 LWT_SEG6LOCAL LIRC_MODE2
        4.19 SK_REUSEPORT
        4.20 FLOW_DISSECTOR
        5.2  CGROUP_SYSCTL RAW_TRACEPOINT_WRITABLE
        5.3  CGROUP_SOCKOPT
        5.5  TRACING
        5.6  STRUCT_OPS EXT
        5.7  LSM
        5.9  SK_LOOKUP
        5.14 SYSCALL
        6.4  NETFILTER
    """,
    "MapType": """
        3.18 UNSPEC
        3.19 HASH ARRAY
        4.2  PROG_ARRAY
        4.3  PERF_EVENT_ARRAY
        4.6  PERCPU_HASH PERCPU_ARRAY STACK_TRACE
        4.8  CGROUP_ARRAY
        4.10 LRU_HASH LRU_PERCPU_HASH
        4.11 LPM_TRIE
        4.12 ARRAY_OF_MAPS HASH_OF_MAPS
        4.14 DEVMAP SOCKMAP
        4.15 CPUMAP
        4.18 XSKMAP SOCKHASH
        4.19 CGROUP_STORAGE REUSEPORT_SOCKARRAY
        4.20 PERCPU_CGROUP_STORAGE QUEUE STACK
        5.2  SK_STORAGE
        5.4  DEVMAP_HASH
        5.6  STRUCT_OPS
        5.8  RINGBUF
        5.10 INODE_STORAGE
        5.11 TASK_STORAGE
        5.16 BLOOM_FILTER
        6.1  USER_RINGBUF
        6.2  CGRP_STORAGE
        6.9  ARENA
        6.19 INSN_ARRAY
        7.2  RHASH
    """,
    "AttachType": """
        4.10 CGROUP_INET_INGRESS..CGROUP_INET_SOCK_CREATE
        4.13 CGROUP_SOCK_OPS
        4.14 SK_SKB_STREAM_PARSER SK_SKB_STREAM_VERDICT
        4.15 CGROUP_DEVICE
        4.17 SK_MSG_VERDICT..CGROUP_INET6_POST_BIND
        4.18 CGROUP_UDP4_SENDMSG CGROUP_UDP6_SENDMSG LIRC_MODE2
        4.20 FLOW_DISSECTOR
        5.2  CGROUP_SYSCTL CGROUP_UDP4_RECVMSG CGROUP_UDP6_RECVMSG
        5.3  CGROUP_GETSOCKOPT CGROUP_SETSOCKOPT
        5.5  TRACE_RAW_TP TRACE_FENTRY TRACE_FEXIT
        5.7  MODIFY_RETURN LSM_MAC
        5.8  TRACE_ITER..XDP_DEVMAP
        5.9  CGROUP_INET_SOCK_RELEASE..XDP
        5.13 SK_SKB_VERDICT
        5.14 SK_REUSEPORT_SELECT SK_REUSEPORT_SELECT_OR_MIGRATE
        5.15 PERF_EVENT
        5.18 TRACE_KPROBE_MULTI
        6.0  LSM_CGROUP
        6.4  STRUCT_OPS NETFILTER
        6.6  TCX_INGRESS TCX_EGRESS TRACE_UPROBE_MULTI
        6.7  CGROUP_UNIX_CONNECT..NETKIT_PEER
        6.10 TRACE_KPROBE_SESSION
        6.13 TRACE_UPROBE_SESSION
        7.0  TRACE_FSESSION
        7.2  TRACE_FENTRY_MULTI..TRACE_FSESSION_MULTI
    """,
    "LinkType": """
        5.7  UNSPEC..CGROUP
        5.8  ITER NETNS
        5.9  XDP
        5.15 PERF_EVENT
        5.18 KPROBE_MULTI
        6.4  STRUCT_OPS NETFILTER
        6.6  TCX UPROBE_MULTI
        6.7  NETKIT
        6.10 SOCKMAP
        7.2  TRACING_MULTI
    """,
    "MapFlag": """
        4.6  NO_PREALLOC
        4.10 NO_COMMON_LRU
        4.14 NUMA_NODE
        4.15 RDONLY WRONLY
        4.17 STACK_BUILD_ID
        5.0  ZERO_SEED
        5.2  RDONLY_PROG WRONLY_PROG
        5.4  CLONE
        5.5  MMAPABLE
        5.10 PRESERVE_ELEMS INNER_MAP
        6.4  LINK
        6.5  PATH_FD
        6.9  VTYPE_BTF_OBJ_FD TOKEN_FD SEGV_ON_FAULT NO_USER_CONV
        6.19 RB_OVERWRITE
    """,
    "ProgFlag": """
        4.12 STRICT_ALIGNMENT
        5.0  ANY_ALIGNMENT
        5.3  TEST_RND_HI32
        5.4  TEST_STATE_FREQ
        5.10 SLEEPABLE
        5.18 XDP_HAS_FRAGS
        6.3  XDP_DEV_BOUND_ONLY
        6.8  TEST_REG_INVARIANTS
        6.9  TOKEN_FD
    """,
    "Helper": """
        3.18 0
        3.19 1..3
        4.1  4..11
        4.2  12..16
        4.3  17..22
        4.4  23..25
        4.5  26
        4.6  27..30
        4.8  31..36
        4.9  37..41
        4.10 42..44
        4.11 45
        4.12 46..47
        4.13 48..50
        4.14 51..53
        4.15 54..57
        4.16 58..59
        4.17 60..64
        4.18 65..80
        4.19 81..83
        4.20 84..90
        5.0  91..92
        5.1  93..98
        5.2  99..108
        5.3  109..110
        5.5  111..118
        5.6  119 121 123..124
        5.7  120 122 126..129 135
        5.8  125 130..134
        5.9  136..141
        5.10 142..155
        5.11 156..162
        5.12 163
        5.13 164..165
        5.14 166..168
        5.15 169..175
        5.16 176..179
        5.17 180..185
        5.18 186..193
        5.19 194..203
        6.0  204..207
        6.1  208..209
        6.2  210..211
    """,
}

ENUMS = tuple(_TABLES)
"""Classes of :mod:`pybpfload.uapi` that are known here."""

_parsed: dict[str, dict[int, str]] = {}

# Fields of attributes whose numbers are members, and whose bits are flags, of such a class.
_MEMBERS = {"map_type": "MapType", "prog_type": "ProgType", "attach_type": "AttachType"}
# Types of programs whose expected attach type the kernel looks at when it loads them.
_WITH_ATTACH_TYPE = (
    "CGROUP_SKB",
    "CGROUP_SOCK",
    "CGROUP_SOCK_ADDR",
    "CGROUP_SOCKOPT",
    "SK_LOOKUP",
    "NETFILTER",
    "TRACING",
    "LSM",
)
_FLAGS = {"map_flags": "MapFlag", "prog_flags": "ProgFlag"}


def first_version(enum: str, number: int) -> str | None:
    """First kernel version that knows a number.

    Args:
        enum: One of :data:`ENUMS`.
        number: Value of a member; of flags one bit.

    Returns:
        For example ``"5.11"``; ``None`` if no kernel known here has it.

    Raises:
        KeyError: There is no such class here.
    """
    if enum not in _parsed:
        _parsed[enum] = _parse(enum)
    return _parsed[enum].get(number)


def version_pair(version: str) -> tuple[int, int]:
    """``"5.11"`` as ``(5, 11)``, for comparing.

    Raises:
        ValueError: It is not two numbers with a dot between.
    """
    major, _, minor = version.partition(".")
    return int(major), int(minor)


class Used(NamedTuple):
    """Something that a call needs the kernel to know.

    Attributes:
        what: What it is, for people.
        since: First kernel version that has it; ``None`` if no kernel known here does.
        field: The field of the attribute, if that is what is young.
    """

    what: str
    since: str | None
    field: str | None = None


def used(layout: Layout, fields: dict[str, Any]) -> Iterator[Used]:
    """What a call needs: the fields that are given, the command, types and flags.

    Args:
        layout: Of the command.
        fields: The attribute's fields by their names.
    """
    for name, version in layout.since.items():
        value = fields[name]
        if any(value) if isinstance(value, bytes) else value:
            yield Used(f"the field {name}", version, name)
    yield Used(f"the command {layout.command.name}", first_version("Cmd", layout.command))
    for name, enum in _MEMBERS.items():
        if name in fields:
            member = getattr(uapi, enum)(fields[name])
            what = f"the {name.replace('_', ' ')} {member.name}"
            yield Used(what, first_version(enum, fields[name]))
    if uapi.ProgType(fields.get("prog_type", 0)).name in _WITH_ATTACH_TYPE:
        member = uapi.AttachType(fields["expected_attach_type"])
        yield Used(f"the attach type {member.name}", first_version("AttachType", member))
    for name, enum in _FLAGS.items():
        for bit in (1 << i for i in range(32) if fields.get(name, 0) >> i & 1):
            flag = getattr(uapi, enum)(bit)
            what = f"the flag {flag.name or hex(bit)} of {name}"
            yield Used(what, first_version(enum, bit))


def too_young(attr: Attr, running: int) -> Used | None:
    """What the running kernel is probably too old for.

    Args:
        attr: The attribute of a call that the kernel refused.
        running: Its version, ``major << 16 | minor << 8 | patch``; 0 if it is not known.

    Returns:
        The youngest such thing; ``None`` if everything is older than the kernel.
    """
    asked = used(attr.layout, attr.layout.unpack(attr.data, attr.size))
    young = [each for each in asked if came_later(each.what, each.since, running)]
    return max(young, key=lambda each: version_pair(each.since or "0.0"), default=None)


def too_young_helper(number: int, running: int) -> str | None:
    """One sentence, as of :func:`came_later`, about a helper that the verifier does not know."""
    since = first_version("Helper", number)
    if since is None:
        return None
    return came_later(f"the helper {uapi.Helper(number).name}", since, running)


def too_young_attach_type(prog_type: int, attach_type: int, running: int) -> str | None:
    """As :func:`too_young_helper` for the expected attach type of a tracing program.

    Of other types, kernels do not look at it before the program is attached; of struct_ops it is no
    attach type.
    """
    if prog_type != uapi.ProgType.TRACING or not attach_type:
        return None
    member = uapi.AttachType(attach_type)
    return came_later(
        f"the attach type {member.name}", first_version("AttachType", attach_type), running
    )


def came_later(what: str, since: str | None, running: int) -> str | None:
    """One sentence if something came later than the running kernel, otherwise ``None``."""
    age = running >> 16, running >> 8 & 255
    if not running or since is None or version_pair(since) <= age:
        return None
    return f"{what} came with Linux {since}, this is {age[0]}.{age[1]}"


def _parse(enum: str) -> dict[int, str]:
    lines = _TABLES[enum].split("\n")
    # Making the enumeration of helpers would take longer than the rest of an error.
    names: Any = None if enum == "Helper" else getattr(uapi, enum)
    found: dict[int, str] = {}
    for line in lines:
        version, *words = line.split() or [""]
        for word in words:
            first, _, last = word.partition("..")
            begin = int(first if names is None else names[first])
            end = int(last if names is None else names[last]) if last else begin
            found.update(dict.fromkeys(range(begin, end + 1), version))
    return found
