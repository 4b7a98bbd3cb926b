"""Kernel constants of Linux 7.2.13, from ``linux/bpf.h`` and ``linux/perf_event.h``.

Written by ``tools/gen-uapi``. Names are the kernel's without their common prefix:
``BPF_PROG_TYPE_XDP`` is ``ProgType.XDP``. A number that is newer than this table is no error:
``ProgType(999)`` is a member named ``UNKNOWN_999``, and flags keep unknown bits.

Each class is made when it is first asked for, because making an enumeration costs 15 microseconds
a member. ``uapi.pyi`` spells them out for people and type checkers.
"""
# pyright: reportUnsupportedDunderAll=false

from __future__ import annotations

from enum import IntEnum, IntFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [  # noqa: RUF022, F822
    "UAPI_VERSION",
    "BPF_OBJ_NAME_LEN",
    "BPF_TAG_SIZE",
    "BPF_BUILD_ID_SIZE",
    "PERF_ATTR_SIZE_VER5",
    "PERF_FLAG_FD_CLOEXEC",
    "KernelEnum",
    "name_of",
    "Cmd",
    "ProgType",
    "MapType",
    "AttachType",
    "LinkType",
    "PerfEventType",
    "TaskFdType",
    "StatsType",
    "CgroupIterOrder",
    "StreamId",
    "XdpAction",
    "TcxAction",
    "SkAction",
    "StackBuildIdStatus",
    "PerfType",
    "PerfSoftware",
    "PerfHardware",
    "PerfRecord",
    "PerfSample",
    "MapFlag",
    "ProgFlag",
    "ElemFlag",
    "AttachFlag",
    "QueryFlag",
    "TestRunFlag",
    "KprobeMultiFlag",
    "UprobeMultiFlag",
    "NetfilterFlag",
    "Helper",
]

UAPI_VERSION = (7, 2, 13)
"""Version of the kernel whose headers these constants are from."""

BPF_OBJ_NAME_LEN = 16
BPF_TAG_SIZE = 8
BPF_BUILD_ID_SIZE = 20
PERF_ATTR_SIZE_VER5 = 112
PERF_FLAG_FD_CLOEXEC = 8


class KernelEnum(IntEnum):
    """Base of the enumerations here: tolerates numbers that are not in the table."""

    @classmethod
    def _missing_(cls, value: object) -> KernelEnum | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    __str__ = int.__repr__
    __format__ = int.__format__  # that of 3.10 does not know the codes of numbers


def name_of(member: IntEnum) -> str:
    """Name as libbpf and bpftool print it: ``name_of(ProgType.SCHED_CLS) == "sched_cls"``."""
    return member.name.lower()


def __getattr__(name: str) -> type[IntEnum] | type[IntFlag]:
    table = _ENUMS.get(name)
    if table is None and name not in _FLAGS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text, words = table or _FLAGS[name]
    members: list[tuple[str, int]] = []
    number = 0
    for word in words.split():
        member, _, value = word.partition("=")
        number = int(value, 0) if value else number
        members.append((member, number))
        number += 1
    make: Any = KernelEnum if table else IntFlag
    made: type[IntEnum] | type[IntFlag] = make(name, members, module=__name__)
    made.__doc__ = text
    globals()[name] = made
    return made


# Members are numbered on from the one before where no number is given.
_ENUMS: dict[str, tuple[str, str]] = {
    "Cmd": (
        "Command of the bpf(2) system call.",
        """
        MAP_CREATE MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM MAP_GET_NEXT_KEY PROG_LOAD
        OBJ_PIN OBJ_GET PROG_ATTACH PROG_DETACH PROG_TEST_RUN PROG_RUN=0xa PROG_GET_NEXT_ID
        MAP_GET_NEXT_ID PROG_GET_FD_BY_ID MAP_GET_FD_BY_ID OBJ_GET_INFO_BY_FD PROG_QUERY
        RAW_TRACEPOINT_OPEN BTF_LOAD BTF_GET_FD_BY_ID TASK_FD_QUERY MAP_LOOKUP_AND_DELETE_ELEM
        MAP_FREEZE BTF_GET_NEXT_ID MAP_LOOKUP_BATCH MAP_LOOKUP_AND_DELETE_BATCH MAP_UPDATE_BATCH
        MAP_DELETE_BATCH LINK_CREATE LINK_UPDATE LINK_GET_FD_BY_ID LINK_GET_NEXT_ID ENABLE_STATS
        ITER_CREATE LINK_DETACH PROG_BIND_MAP TOKEN_CREATE PROG_STREAM_READ_BY_FD
        PROG_ASSOC_STRUCT_OPS COMMON_ATTRS=0x10000
        """,
    ),
    "ProgType": (
        "Program type, ``prog_type`` of ``BPF_PROG_LOAD``.",
        """
        UNSPEC SOCKET_FILTER KPROBE SCHED_CLS SCHED_ACT TRACEPOINT XDP PERF_EVENT CGROUP_SKB
        CGROUP_SOCK LWT_IN LWT_OUT LWT_XMIT SOCK_OPS SK_SKB CGROUP_DEVICE SK_MSG RAW_TRACEPOINT
        CGROUP_SOCK_ADDR LWT_SEG6LOCAL LIRC_MODE2 SK_REUSEPORT FLOW_DISSECTOR CGROUP_SYSCTL
        RAW_TRACEPOINT_WRITABLE CGROUP_SOCKOPT TRACING STRUCT_OPS EXT LSM SK_LOOKUP SYSCALL
        NETFILTER
        """,
    ),
    "MapType": (
        "Map type, ``map_type`` of ``BPF_MAP_CREATE``.",
        """
        UNSPEC HASH ARRAY PROG_ARRAY PERF_EVENT_ARRAY PERCPU_HASH PERCPU_ARRAY STACK_TRACE
        CGROUP_ARRAY LRU_HASH LRU_PERCPU_HASH LPM_TRIE ARRAY_OF_MAPS HASH_OF_MAPS DEVMAP SOCKMAP
        CPUMAP XSKMAP SOCKHASH CGROUP_STORAGE CGROUP_STORAGE_DEPRECATED=0x13 REUSEPORT_SOCKARRAY
        PERCPU_CGROUP_STORAGE PERCPU_CGROUP_STORAGE_DEPRECATED=0x15 QUEUE STACK SK_STORAGE
        DEVMAP_HASH STRUCT_OPS RINGBUF INODE_STORAGE TASK_STORAGE BLOOM_FILTER USER_RINGBUF
        CGRP_STORAGE ARENA INSN_ARRAY RHASH
        """,
    ),
    "AttachType": (
        "Attach type: where a program goes; also ``expected_attach_type`` of ``BPF_PROG_LOAD``.",
        """
        CGROUP_INET_INGRESS CGROUP_INET_EGRESS CGROUP_INET_SOCK_CREATE CGROUP_SOCK_OPS
        SK_SKB_STREAM_PARSER SK_SKB_STREAM_VERDICT CGROUP_DEVICE SK_MSG_VERDICT CGROUP_INET4_BIND
        CGROUP_INET6_BIND CGROUP_INET4_CONNECT CGROUP_INET6_CONNECT CGROUP_INET4_POST_BIND
        CGROUP_INET6_POST_BIND CGROUP_UDP4_SENDMSG CGROUP_UDP6_SENDMSG LIRC_MODE2 FLOW_DISSECTOR
        CGROUP_SYSCTL CGROUP_UDP4_RECVMSG CGROUP_UDP6_RECVMSG CGROUP_GETSOCKOPT CGROUP_SETSOCKOPT
        TRACE_RAW_TP TRACE_FENTRY TRACE_FEXIT MODIFY_RETURN LSM_MAC TRACE_ITER
        CGROUP_INET4_GETPEERNAME CGROUP_INET6_GETPEERNAME CGROUP_INET4_GETSOCKNAME
        CGROUP_INET6_GETSOCKNAME XDP_DEVMAP CGROUP_INET_SOCK_RELEASE XDP_CPUMAP SK_LOOKUP XDP
        SK_SKB_VERDICT SK_REUSEPORT_SELECT SK_REUSEPORT_SELECT_OR_MIGRATE PERF_EVENT
        TRACE_KPROBE_MULTI LSM_CGROUP STRUCT_OPS NETFILTER TCX_INGRESS TCX_EGRESS TRACE_UPROBE_MULTI
        CGROUP_UNIX_CONNECT CGROUP_UNIX_SENDMSG CGROUP_UNIX_RECVMSG CGROUP_UNIX_GETPEERNAME
        CGROUP_UNIX_GETSOCKNAME NETKIT_PRIMARY NETKIT_PEER TRACE_KPROBE_SESSION TRACE_UPROBE_SESSION
        TRACE_FSESSION TRACE_FENTRY_MULTI TRACE_FEXIT_MULTI TRACE_FSESSION_MULTI
        """,
    ),
    "LinkType": (
        "Kind of a link, as its info tells.",
        """
        UNSPEC RAW_TRACEPOINT TRACING CGROUP ITER NETNS XDP PERF_EVENT KPROBE_MULTI STRUCT_OPS
        NETFILTER TCX UPROBE_MULTI NETKIT SOCKMAP TRACING_MULTI
        """,
    ),
    "PerfEventType": (
        "What a link of type ``PERF_EVENT`` sits on.",
        """
        UNSPEC UPROBE URETPROBE KPROBE KRETPROBE TRACEPOINT EVENT
        """,
    ),
    "TaskFdType": (
        "What a file descriptor of ``BPF_TASK_FD_QUERY`` stands for.",
        """
        RAW_TRACEPOINT TRACEPOINT KPROBE KRETPROBE UPROBE URETPROBE
        """,
    ),
    "StatsType": (
        "What ``BPF_ENABLE_STATS`` switches on.",
        """
        RUN_TIME
        """,
    ),
    "CgroupIterOrder": (
        "In which order a cgroup iterator walks.",
        """
        UNSPEC SELF_ONLY DESCENDANTS_PRE DESCENDANTS_POST ANCESTORS_UP CHILDREN
        """,
    ),
    "StreamId": (
        "Output streams of a program, for ``BPF_PROG_STREAM_READ_BY_FD``.",
        """
        STDOUT=1 STDERR
        """,
    ),
    "XdpAction": (
        "Return values of XDP programs.",
        """
        ABORTED DROP PASS TX REDIRECT
        """,
    ),
    "TcxAction": (
        "Return values of tcx and netkit programs.",
        """
        NEXT=-1 PASS DROP=2 REDIRECT=7
        """,
    ),
    "SkAction": (
        "Return values of sk_skb, sk_msg and sk_lookup programs.",
        """
        DROP PASS
        """,
    ),
    "StackBuildIdStatus": (
        "State of one entry of a stack trace with build ids.",
        """
        EMPTY VALID IP
        """,
    ),
    "PerfType": (
        "``type`` of ``perf_event_attr``.",
        """
        HARDWARE SOFTWARE TRACEPOINT HW_CACHE RAW BREAKPOINT
        """,
    ),
    "PerfSoftware": (
        "``config`` of a software perf event.",
        """
        CPU_CLOCK TASK_CLOCK PAGE_FAULTS CONTEXT_SWITCHES CPU_MIGRATIONS PAGE_FAULTS_MIN
        PAGE_FAULTS_MAJ ALIGNMENT_FAULTS EMULATION_FAULTS DUMMY BPF_OUTPUT CGROUP_SWITCHES
        """,
    ),
    "PerfHardware": (
        "``config`` of a hardware perf event.",
        """
        CPU_CYCLES INSTRUCTIONS CACHE_REFERENCES CACHE_MISSES BRANCH_INSTRUCTIONS BRANCH_MISSES
        BUS_CYCLES STALLED_CYCLES_FRONTEND STALLED_CYCLES_BACKEND REF_CPU_CYCLES
        """,
    ),
    "PerfRecord": (
        "Kinds of records in a perf ring buffer.",
        """
        MMAP=1 LOST COMM EXIT THROTTLE UNTHROTTLE FORK READ SAMPLE MMAP2 AUX ITRACE_START
        LOST_SAMPLES SWITCH SWITCH_CPU_WIDE NAMESPACES KSYMBOL BPF_EVENT CGROUP TEXT_POKE
        AUX_OUTPUT_HW_ID CALLCHAIN_DEFERRED
        """,
    ),
    "Helper": (
        "Helper functions by number. Everything newer than the last one is a kfunc.",
        """
        UNSPEC MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM PROBE_READ KTIME_GET_NS TRACE_PRINTK
        GET_PRANDOM_U32 GET_SMP_PROCESSOR_ID SKB_STORE_BYTES L3_CSUM_REPLACE L4_CSUM_REPLACE
        TAIL_CALL CLONE_REDIRECT GET_CURRENT_PID_TGID GET_CURRENT_UID_GID GET_CURRENT_COMM
        GET_CGROUP_CLASSID SKB_VLAN_PUSH SKB_VLAN_POP SKB_GET_TUNNEL_KEY SKB_SET_TUNNEL_KEY
        PERF_EVENT_READ REDIRECT GET_ROUTE_REALM PERF_EVENT_OUTPUT SKB_LOAD_BYTES GET_STACKID
        CSUM_DIFF SKB_GET_TUNNEL_OPT SKB_SET_TUNNEL_OPT SKB_CHANGE_PROTO SKB_CHANGE_TYPE
        SKB_UNDER_CGROUP GET_HASH_RECALC GET_CURRENT_TASK PROBE_WRITE_USER CURRENT_TASK_UNDER_CGROUP
        SKB_CHANGE_TAIL SKB_PULL_DATA CSUM_UPDATE SET_HASH_INVALID GET_NUMA_NODE_ID SKB_CHANGE_HEAD
        XDP_ADJUST_HEAD PROBE_READ_STR GET_SOCKET_COOKIE GET_SOCKET_UID SET_HASH SETSOCKOPT
        SKB_ADJUST_ROOM REDIRECT_MAP SK_REDIRECT_MAP SOCK_MAP_UPDATE XDP_ADJUST_META
        PERF_EVENT_READ_VALUE PERF_PROG_READ_VALUE GETSOCKOPT OVERRIDE_RETURN SOCK_OPS_CB_FLAGS_SET
        MSG_REDIRECT_MAP MSG_APPLY_BYTES MSG_CORK_BYTES MSG_PULL_DATA BIND XDP_ADJUST_TAIL
        SKB_GET_XFRM_STATE GET_STACK SKB_LOAD_BYTES_RELATIVE FIB_LOOKUP SOCK_HASH_UPDATE
        MSG_REDIRECT_HASH SK_REDIRECT_HASH LWT_PUSH_ENCAP LWT_SEG6_STORE_BYTES LWT_SEG6_ADJUST_SRH
        LWT_SEG6_ACTION RC_REPEAT RC_KEYDOWN SKB_CGROUP_ID GET_CURRENT_CGROUP_ID GET_LOCAL_STORAGE
        SK_SELECT_REUSEPORT SKB_ANCESTOR_CGROUP_ID SK_LOOKUP_TCP SK_LOOKUP_UDP SK_RELEASE
        MAP_PUSH_ELEM MAP_POP_ELEM MAP_PEEK_ELEM MSG_PUSH_DATA MSG_POP_DATA RC_POINTER_REL SPIN_LOCK
        SPIN_UNLOCK SK_FULLSOCK TCP_SOCK SKB_ECN_SET_CE GET_LISTENER_SOCK SKC_LOOKUP_TCP
        TCP_CHECK_SYNCOOKIE SYSCTL_GET_NAME SYSCTL_GET_CURRENT_VALUE SYSCTL_GET_NEW_VALUE
        SYSCTL_SET_NEW_VALUE STRTOL STRTOUL SK_STORAGE_GET SK_STORAGE_DELETE SEND_SIGNAL
        TCP_GEN_SYNCOOKIE SKB_OUTPUT PROBE_READ_USER PROBE_READ_KERNEL PROBE_READ_USER_STR
        PROBE_READ_KERNEL_STR TCP_SEND_ACK SEND_SIGNAL_THREAD JIFFIES64 READ_BRANCH_RECORDS
        GET_NS_CURRENT_PID_TGID XDP_OUTPUT GET_NETNS_COOKIE GET_CURRENT_ANCESTOR_CGROUP_ID SK_ASSIGN
        KTIME_GET_BOOT_NS SEQ_PRINTF SEQ_WRITE SK_CGROUP_ID SK_ANCESTOR_CGROUP_ID RINGBUF_OUTPUT
        RINGBUF_RESERVE RINGBUF_SUBMIT RINGBUF_DISCARD RINGBUF_QUERY CSUM_LEVEL SKC_TO_TCP6_SOCK
        SKC_TO_TCP_SOCK SKC_TO_TCP_TIMEWAIT_SOCK SKC_TO_TCP_REQUEST_SOCK SKC_TO_UDP6_SOCK
        GET_TASK_STACK LOAD_HDR_OPT STORE_HDR_OPT RESERVE_HDR_OPT INODE_STORAGE_GET
        INODE_STORAGE_DELETE D_PATH COPY_FROM_USER SNPRINTF_BTF SEQ_PRINTF_BTF SKB_CGROUP_CLASSID
        REDIRECT_NEIGH PER_CPU_PTR THIS_CPU_PTR REDIRECT_PEER TASK_STORAGE_GET TASK_STORAGE_DELETE
        GET_CURRENT_TASK_BTF BPRM_OPTS_SET KTIME_GET_COARSE_NS IMA_INODE_HASH SOCK_FROM_FILE
        CHECK_MTU FOR_EACH_MAP_ELEM SNPRINTF SYS_BPF BTF_FIND_BY_NAME_KIND SYS_CLOSE TIMER_INIT
        TIMER_SET_CALLBACK TIMER_START TIMER_CANCEL GET_FUNC_IP GET_ATTACH_COOKIE TASK_PT_REGS
        GET_BRANCH_SNAPSHOT TRACE_VPRINTK SKC_TO_UNIX_SOCK KALLSYMS_LOOKUP_NAME FIND_VMA LOOP
        STRNCMP GET_FUNC_ARG GET_FUNC_RET GET_FUNC_ARG_CNT GET_RETVAL SET_RETVAL XDP_GET_BUFF_LEN
        XDP_LOAD_BYTES XDP_STORE_BYTES COPY_FROM_USER_TASK SKB_SET_TSTAMP IMA_FILE_HASH KPTR_XCHG
        MAP_LOOKUP_PERCPU_ELEM SKC_TO_MPTCP_SOCK DYNPTR_FROM_MEM RINGBUF_RESERVE_DYNPTR
        RINGBUF_SUBMIT_DYNPTR RINGBUF_DISCARD_DYNPTR DYNPTR_READ DYNPTR_WRITE DYNPTR_DATA
        TCP_RAW_GEN_SYNCOOKIE_IPV4 TCP_RAW_GEN_SYNCOOKIE_IPV6 TCP_RAW_CHECK_SYNCOOKIE_IPV4
        TCP_RAW_CHECK_SYNCOOKIE_IPV6 KTIME_GET_TAI_NS USER_RINGBUF_DRAIN CGRP_STORAGE_GET
        CGRP_STORAGE_DELETE
        """,
    ),
}

_FLAGS: dict[str, tuple[str, str]] = {
    "PerfSample": (
        "``sample_type`` of ``perf_event_attr``.",
        """
        IP=1 TID TIME=4 ADDR=8 READ=0x10 CALLCHAIN=0x20 ID=0x40 CPU=0x80 PERIOD=0x100
        STREAM_ID=0x200 RAW=0x400 BRANCH_STACK=0x800 REGS_USER=0x1000 STACK_USER=0x2000
        WEIGHT=0x4000 DATA_SRC=0x8000 IDENTIFIER=0x10000 TRANSACTION=0x20000 REGS_INTR=0x40000
        PHYS_ADDR=0x80000 AUX=0x100000 CGROUP=0x200000 DATA_PAGE_SIZE=0x400000
        CODE_PAGE_SIZE=0x800000 WEIGHT_STRUCT=0x1000000
        """,
    ),
    "MapFlag": (
        "``map_flags`` of ``BPF_MAP_CREATE``; some are for opening objects too.",
        """
        NO_PREALLOC=1 NO_COMMON_LRU NUMA_NODE=4 RDONLY=8 WRONLY=0x10 STACK_BUILD_ID=0x20
        ZERO_SEED=0x40 RDONLY_PROG=0x80 WRONLY_PROG=0x100 CLONE=0x200 MMAPABLE=0x400
        PRESERVE_ELEMS=0x800 INNER_MAP=0x1000 LINK=0x2000 PATH_FD=0x4000 VTYPE_BTF_OBJ_FD=0x8000
        TOKEN_FD=0x10000 SEGV_ON_FAULT=0x20000 NO_USER_CONV=0x40000 RB_OVERWRITE=0x80000
        """,
    ),
    "ProgFlag": (
        "``prog_flags`` of ``BPF_PROG_LOAD``.",
        """
        STRICT_ALIGNMENT=1 ANY_ALIGNMENT TEST_RND_HI32=4 TEST_STATE_FREQ=8 SLEEPABLE=0x10
        XDP_HAS_FRAGS=0x20 XDP_DEV_BOUND_ONLY=0x40 TEST_REG_INVARIANTS=0x80 TOKEN_FD=0x10000
        """,
    ),
    "ElemFlag": (
        "``flags`` of the map element commands.",
        """
        ANY NOEXIST EXIST LOCK=4 CPU=8 ALL_CPUS=0x10
        """,
    ),
    "AttachFlag": (
        "``flags`` of ``BPF_PROG_ATTACH``, ``BPF_LINK_CREATE`` and ``BPF_LINK_UPDATE``.",
        """
        ALLOW_OVERRIDE=1 ALLOW_MULTI REPLACE=4 BEFORE=8 AFTER=0x10 ID=0x20 PREORDER=0x40 LINK=0x2000
        """,
    ),
    "QueryFlag": (
        "``query_flags`` of ``BPF_PROG_QUERY``.",
        """
        EFFECTIVE=1
        """,
    ),
    "TestRunFlag": (
        "``flags`` of ``BPF_PROG_TEST_RUN``.",
        """
        RUN_ON_CPU=1 XDP_LIVE_FRAMES SKB_CHECKSUM_COMPLETE=4
        """,
    ),
    "KprobeMultiFlag": (
        "``flags`` of a multi-kprobe link.",
        """
        RETURN=1
        """,
    ),
    "UprobeMultiFlag": (
        "``flags`` of a multi-uprobe link.",
        """
        RETURN=1 PATH_FD
        """,
    ),
    "NetfilterFlag": (
        "``flags`` of a netfilter link.",
        """
        IP_DEFRAG=1
        """,
    ),
}
