"""What the kernel can do with BPF, for people who want to know before they write a program.

Every answer is one of three: yes, no, or could not tell; and says why. Program types, map types,
helpers, kfuncs and instructions are tried out, by loading the smallest program or map that needs
them; what kinds of links and attach types there are is read from the kernel's own BTF, because
making them would attach something. :mod:`pybpfload.kernel.probe` knows the features that loading
depends on.

Source of the probes: libbpf, ``libbpf_probes.c``; the kernel's ``syscall.c`` and ``verifier.c`` for
what refusals mean.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from pybpfload.btf.types import Enum, Enum64, Kind
from pybpfload.errors import BpfError
from pybpfload.isa.insn import Insn
from pybpfload.kernel import door, kconfig, probe
from pybpfload.kernel.attrs import layout
from pybpfload.kernel.call import invoke
from pybpfload.kernel.cmd_misc import btf_load_attempt
from pybpfload.kernel.fd import at_least_3
from pybpfload.kernel.since import first_version
from pybpfload.kernel.trials import (
    ENOTSUPP,
    NO_BTF,
    RETURN_0,
    UNCLEAR,
    Answer,
    helper,
    helpers,
    kfunc,
    kfuncs,
    kfuncs_for,
    load,
    prog_type,
    trampolines,
    vmlinux,
    word,
)
from pybpfload.uapi import AttachType, LinkType, MapFlag, MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "CONFIG",
    "INSTRUCTIONS",
    "SETTINGS",
    "Answer",
    "attach_types",
    "feature",
    "features",
    "helper",
    "helpers",
    "instruction",
    "kfunc",
    "kfuncs",
    "kfuncs_for",
    "link_types",
    "map_type",
    "prog_type",
    "settings",
    "sweep",
    "trampolines",
]


# Maps


def _map_arguments(kind: MapType) -> dict[str, Any]:
    """Arguments of the smallest map of a type."""
    wants: dict[str, Any] = {"key_size": 4, "value_size": 4, "max_entries": 1}
    name = kind.name
    if kind == MapType.STACK_TRACE:
        wants["value_size"] = 8
    elif name in ("CGROUP_STORAGE", "PERCPU_CGROUP_STORAGE", "CGROUP_STORAGE_DEPRECATED",
                  "PERCPU_CGROUP_STORAGE_DEPRECATED"):  # fmt: skip
        wants.update(key_size=16, value_size=8, max_entries=0)
    elif kind in (MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER):
        wants["key_size"] = 0
    elif kind == MapType.LPM_TRIE:
        wants.update(key_size=8, map_flags=MapFlag.NO_PREALLOC)
    elif kind in (MapType.RINGBUF, MapType.USER_RINGBUF):
        wants.update(key_size=0, value_size=0, max_entries=_page_size())
    elif kind == MapType.ARENA:
        wants.update(key_size=0, value_size=0, map_flags=MapFlag.MMAPABLE)
    elif kind == MapType.STRUCT_OPS:
        wants["btf_vmlinux_value_type_id"] = 1
    elif kind == MapType.INSN_ARRAY:
        wants["value_size"] = 16
    elif name == "RHASH":
        wants["map_flags"] = MapFlag.NO_PREALLOC
    elif name.endswith("_STORAGE"):
        wants.update(max_entries=0, map_flags=MapFlag.NO_PREALLOC)
    return wants


def _page_size() -> int:
    import mmap

    return mmap.PAGESIZE


def map_type(kind: MapType) -> Answer:
    """Whether maps of a type can be made."""
    since = first_version("MapType", kind)
    wants = _map_arguments(kind)
    opened: list[int] = []
    try:
        if kind.name.endswith("_STORAGE") and wants["max_entries"] == 0 and wants["key_size"] == 4:
            btf = btf_load_attempt(_INT_BTF)[0]
            if btf < 0:
                return Answer(None, f"its BTF cannot be loaded: {word(-btf)}", since)
            opened.append(btf)
            wants.update(btf_fd=btf, btf_key_type_id=1, btf_value_type_id=1)
        elif kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
            inner = _make_map(MapType.HASH, {"key_size": 4, "value_size": 4, "max_entries": 1})
            if inner < 0:
                return Answer(None, f"no inner map can be made: {word(-inner)}", since)
            opened.append(inner)
            wants["inner_map_fd"] = inner
        made = _make_map(kind, wants)
        if made >= 0:
            opened.append(made)
            return Answer(True, "one was made", since)
    finally:
        for fd in opened:
            door.close(fd)
    if kind == MapType.STRUCT_OPS and made == -ENOTSUPP:
        return Answer(True, "the kernel looked for the type of its value", since)
    if -made in UNCLEAR:
        return Answer(None, word(-made), since)
    return Answer(False, f"making one gives {word(-made)}", since)


# One int of 32 bits: enough for key and value.
_INT_BTF: Final = struct.pack(
    "=HBBIIIII4I", 0xEB9F, 1, 0, 24, 0, 16, 16, 5, 1, 1 << 24, 4, 1 << 24 | 32
) + b"\0int\0"  # fmt: skip


def _make_map(kind: int, arguments: dict[str, Any]) -> int:
    return at_least_3(invoke(layout("MAP_CREATE").build(map_type=kind, **arguments)))


# Instructions

_LOAD_1 = Insn(0xB7, dst=1, imm=1)

INSTRUCTIONS: Final[dict[str, tuple[str, str, tuple[Insn, ...]]]] = {
    "v1": ("the first instruction set", "3.18", RETURN_0),
    "v2": (
        "less-than jumps",
        "4.14",
        (_LOAD_1, Insn(0xA5, dst=1, imm=2), *RETURN_0),
    ),
    "v3": (
        "32-bit jumps",
        "5.1",
        (_LOAD_1, Insn(0x16, dst=1, imm=1), *RETURN_0),
    ),
    "v4": (
        "sign extension, unconditional byte swaps, signed division, long jumps",
        "6.6",
        (_LOAD_1, Insn(0xBF, dst=1, src=1, off=8), *RETURN_0),
    ),
    "loops": (
        "loops with a bound",
        "5.3",
        (_LOAD_1, Insn(0x07, dst=1, imm=1), Insn(0xA5, dst=1, off=-2, imm=5), *RETURN_0),
    ),
    "atomics": (
        "atomic operations that give the old value",
        "5.12",
        (
            Insn(0x7A, dst=10, off=-8),
            _LOAD_1,
            Insn(0xDB, dst=10, src=1, off=-8, imm=1),
            *RETURN_0,
        ),
    ),
    "may_goto": (
        "loops that the kernel ends",
        "6.9",
        (Insn(0xB7), Insn(0xE5, off=1), *RETURN_0),
    ),
    "load_acquire": (
        "loads and stores with an order",
        "6.15",
        (
            Insn(0x7A, dst=10, off=-8),
            Insn(0xDB, dst=1, src=10, off=-8, imm=0x100),
            *RETURN_0,
        ),
    ),
    "long_programs": (
        "programs of more than 4,096 instructions, for privileged users",
        "5.2",
        (*[Insn(0xB7)] * 4200, Insn(0x95)),
    ),
}
"""Name -> what it means, first kernel that has it, a program that needs it."""


def instruction(name: str) -> Answer:
    """Whether the kernel accepts a kind of instructions.

    Args:
        name: A key of :data:`INSTRUCTIONS`.

    Raises:
        KeyError: There is no such kind.
    """
    _, since, code = INSTRUCTIONS[name]
    result, log = load(ProgType.SOCKET_FILTER, code)
    if result == 0:
        return Answer(True, "a program that needs it was loaded", since)
    if -result in UNCLEAR and not log:
        return Answer(None, word(-result), since)
    last = (log.decode(errors="replace").strip().splitlines() or [word(-result)])[-1]
    return Answer(False, last if not last.startswith("processed") else word(-result), since)


# What the kernel's BTF tells


def _enumerators(name: str) -> frozenset[str] | None:
    table = vmlinux()
    if table is None:
        return None
    found = table.find(name, Kind.ENUM)
    if not found:
        return frozenset()
    made = table[found]
    assert isinstance(made, (Enum, Enum64))
    return frozenset(each.name for each in made.values)


def _told(enum: str, prefix: str, kinds: Sequence[Any]) -> dict[str, Answer]:
    known = _enumerators(enum)
    found = {}
    for kind in kinds:
        since = first_version(type(kind).__name__, kind)
        if known is None:
            answer = Answer(None, NO_BTF, since)
        else:
            has = prefix + kind.name in known
            answer = Answer(
                has, f"{'' if has else 'not '}in enum {enum} of the kernel's BTF", since
            )
        found[kind.name.lower()] = answer
    return found


def link_types() -> dict[str, Answer]:
    """Kinds of links by name; that the kernel knows one does not tell that it is built in."""
    found = _told("bpf_link_type", "BPF_LINK_TYPE_", [each for each in LinkType if each])
    # The number was given out with Linux 5.19, before there were such links.
    told = _told("bpf_attach_type", "BPF_", [AttachType.STRUCT_OPS])["struct_ops"]
    found["struct_ops"] = told._replace(since=found["struct_ops"].since)
    return found


def attach_types() -> dict[str, Answer]:
    """Attach types by name; as for :func:`link_types`."""
    return _told("bpf_attach_type", "BPF_", list(AttachType))


# The features that loading depends on, and the system's settings


def feature(which: probe.Feature) -> Answer:
    """One of the features that loading depends on."""
    has, _ = probe.probe(which)
    return Answer(has, probe.why(which), which.since)


def features() -> dict[str, Answer]:
    """All of them by name."""
    return {each.name.lower(): feature(each) for each in probe.Feature}


SETTINGS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "kernel.unprivileged_bpf_disabled": (
        "whether processes without CAP_BPF may use BPF",
        {"0": "they may", "1": "they may not, until the next boot", "2": "they may not"},
    ),
    "net.core.bpf_jit_enable": (
        "whether programs are compiled",
        {"0": "they are interpreted", "1": "they are", "2": "they are, and the code is logged"},
    ),
    "net.core.bpf_jit_harden": (
        "whether constants are blinded",
        {"0": "no", "1": "those of processes without CAP_BPF", "2": "all"},
    ),
    "net.core.bpf_jit_kallsyms": (
        "whether compiled programs are in /proc/kallsyms",
        {"0": "no", "1": "for root"},
    ),
    "net.core.bpf_jit_limit": ("bytes for compiled programs of processes without CAP_BPF", {}),
    "kernel.bpf_stats_enabled": (
        "whether run time is counted",
        {"0": "no", "1": "yes, which costs time"},
    ),
    "kernel.kptr_restrict": (
        "who sees addresses in /proc/kallsyms",
        {"0": "root, or all (perf_event_paranoid)", "1": "CAP_SYSLOG", "2": "nobody"},
    ),
    "kernel.perf_event_paranoid": (
        "what processes without CAP_PERFMON may measure",
        {"-1": "all", "0": "no raw tracepoints", "1": "no CPUs", "2": "not the kernel",
         "3": "nothing", "4": "nothing"},
    ),
}  # fmt: skip
"""Kernel setting -> what it is about, what its values mean."""


CONFIG: Final[dict[str, str]] = {
    "CONFIG_BPF": "classic BPF, for sockets and seccomp",
    "CONFIG_BPF_SYSCALL": "bpf(2)",
    "CONFIG_HAVE_EBPF_JIT": "whether there is a compiler for this architecture",
    "CONFIG_BPF_JIT": "the compiler of programs",
    "CONFIG_BPF_JIT_ALWAYS_ON": "no interpreter: all programs are compiled",
    "CONFIG_DEBUG_INFO_BTF": "BTF of the kernel: CO-RE, fentry, tp_btf, iterators, kfuncs",
    "CONFIG_DEBUG_INFO_BTF_MODULES": "BTF of modules",
    "CONFIG_CGROUPS": "control groups",
    "CONFIG_CGROUP_BPF": "programs of control groups",
    "CONFIG_CGROUP_NET_CLASSID": "bpf_get_cgroup_classid()",
    "CONFIG_SOCK_CGROUP_DATA": "helpers that ask for the control group of a socket",
    "CONFIG_BPF_EVENTS": "programs on kprobes, uprobes, tracepoints",
    "CONFIG_KPROBE_EVENTS": "kprobes",
    "CONFIG_UPROBE_EVENTS": "uprobes",
    "CONFIG_TRACING": "tracefs",
    "CONFIG_FTRACE_SYSCALLS": "tracepoints of single system calls",
    "CONFIG_FUNCTION_ERROR_INJECTION": "fmod_ret, bpf_override_return()",
    "CONFIG_BPF_KPROBE_OVERRIDE": "bpf_override_return()",
    "CONFIG_FPROBE": "kprobe.multi",
    "CONFIG_BPF_LSM": "LSM programs",
    "CONFIG_X86_KERNEL_IBT": "functions begin with endbr64, which kprobes skip (x86)",
    "CONFIG_NET": "networking",
    "CONFIG_XDP_SOCKETS": "AF_XDP",
    "CONFIG_LWTUNNEL_BPF": "programs of routes",
    "CONFIG_NET_ACT_BPF": "tc actions",
    "CONFIG_NET_CLS_BPF": "tc filters",
    "CONFIG_NET_CLS_ACT": "tc actions, tcx",
    "CONFIG_NET_SCH_INGRESS": "clsact, which tc filters are attached to",
    "CONFIG_NETKIT": "netkit devices",
    "CONFIG_NETFILTER_BPF_LINK": "netfilter programs",
    "CONFIG_NETFILTER_XT_MATCH_BPF": "iptables' match bpf",
    "CONFIG_XFRM": "bpf_skb_get_xfrm_state()",
    "CONFIG_IP_ROUTE_CLASSID": "bpf_get_route_realm()",
    "CONFIG_IPV6_SEG6_BPF": "programs of SRv6",
    "CONFIG_BPF_STREAM_PARSER": "programs of maps of sockets",
    "CONFIG_BPF_LIRC_MODE2": "programs of infrared receivers",
    "CONFIG_HID_BPF": "programs of input devices",
    "CONFIG_SCHED_CLASS_EXT": "schedulers (sched_ext)",
    "CONFIG_TEST_BPF": "the module that tests the compiler",
    "CONFIG_HZ": "ticks in a second, as bpf_jiffies64() counts them",
}
"""Option of the kernel's configuration -> what it is for."""


def settings() -> Iterator[tuple[str, str | None, str]]:
    """Settings that bear on BPF: name, value (``None`` if it cannot be read), what that means.

    First those of :data:`SETTINGS`, then what lockdown and LSMs are on, then :data:`CONFIG`, where
    an option that is not set is ``"n"``.
    """
    for name, (about, meanings) in SETTINGS.items():
        value = _read("/proc/sys/" + name.replace(".", "/"))
        meaning = meanings.get(value or "", "")
        yield name, value, f"{about}: {meaning}" if meaning else about
    lockdown = _read("/sys/kernel/security/lockdown")
    mode = lockdown.partition("[")[2].partition("]")[0] if lockdown else None
    yield "lockdown", mode, "what the kernel forbids even root: none, integrity, confidentiality"
    yield "lsm", _read("/sys/kernel/security/lsm"), "active security modules; bpf for LSM programs"
    options = _config()
    for name, about in CONFIG.items():
        yield name, None if options is None else options.get(name, "n"), about


def _config() -> dict[str, str] | None:
    try:
        text = kconfig.read_kernel_config()[0].decode(errors="replace")
    except BpfError:
        return None
    pairs = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {name: value.strip('"') for name, _, value in pairs}


def _read(path: str) -> str | None:
    try:
        return door.read_file(path, 4096).decode(errors="replace").strip()
    except OSError:
        return None


def sweep(on_each: Callable[[str], None] | None = None) -> dict[str, dict[str, Answer]]:
    """All answers but those about helpers, by area and name.

    Args:
        on_each: Called with the name of each area before it is looked at.
    """
    areas: dict[str, Callable[[], dict[str, Answer]]] = {
        "program types": lambda: {e.name.lower(): prog_type(e) for e in ProgType if e},
        "map types": lambda: {e.name.lower(): map_type(e) for e in MapType if e},
        "attach types": attach_types,
        "link types": link_types,
        "instructions": lambda: {name: instruction(name) for name in INSTRUCTIONS},
        "loading": features,
    }
    found = {}
    for area, look in areas.items():
        if on_each is not None:
            on_each(area)
        found[area] = look()
    return found
