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

import errno
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pybpfload.btf.types import DeclTag, Enum, Enum64, Func, Kind, Struct
from pybpfload.isa.insn import Insn, encode
from pybpfload.kernel import door, probe
from pybpfload.kernel.attrs import layout
from pybpfload.kernel.call import invoke
from pybpfload.kernel.cmd_misc import btf_load_attempt
from pybpfload.kernel.cmd_prog import prog_load_attempt
from pybpfload.kernel.fd import at_least_3
from pybpfload.kernel.since import first_version
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import AttachType, Helper, LinkType, MapFlag, MapType, ProgFlag, ProgType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pybpfload.btf import Btf

__all__ = [
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
]

_ORDER: Final[Any] = "<" if sys.byteorder == "little" else ">"
_UNCLEAR = (errno.EPERM, errno.EACCES, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSYS)
_ENOTSUPP: Final = 524
_NO_BTF: Final = "the kernel shows no BTF"
_LOG_SIZE: Final = 1 << 16
_LONG_LOG_SIZE: Final = 1 << 20  # the log has a line for every instruction


class Answer(NamedTuple):
    """Whether the kernel has something.

    Attributes:
        has: ``None`` if that could not be told.
        why: How that was found out, or why it could not be.
        since: First version of Linux that has it, as far as is known; distributions backport.
    """

    has: bool | None
    why: str
    since: str | None = None

    def __bool__(self) -> bool:
        return self.has is True

    @property
    def text(self) -> str:
        """``yes``, ``no`` or ``unknown``."""
        return {True: "yes", False: "no", None: "unknown"}[self.has]


def _word(number: int) -> str:
    return errno.errorcode.get(number, "ENOTSUPP" if number == _ENOTSUPP else str(number))


# Programs

_RETURN_0 = (Insn(0xB7), Insn(0x95))


class _Form(NamedTuple):
    """A way to try a program type out: what a program needs besides its instructions.

    Attributes:
        name: For people, where a type has several.
        attach_type: Its ``expected_attach_type``; of struct_ops the name of a member.
        flags: Its ``prog_flags``.
        place: Type in the kernel's BTF that it names; loading attaches nothing there.
    """

    name: str = ""
    attach_type: int | str = 0
    flags: int = 0
    place: tuple[Kind, str] | None = None


_SLEEPABLE: Final = ProgFlag.SLEEPABLE
_SCHED_SWITCH: Final = (Kind.TYPEDEF, "btf_trace_sched_switch")
_ITER: Final = (Kind.FUNC, "bpf_iter_task")
_TESTED: Final = (Kind.FUNC, "bpf_fentry_test1")
_HOOK: Final = (Kind.FUNC, "bpf_lsm_file_open")

# All other types need nothing.
_FORMS: Final[dict[ProgType, tuple[_Form, ...]]] = {
    ProgType.CGROUP_SOCK_ADDR: (_Form(attach_type=AttachType.CGROUP_INET4_CONNECT),),
    ProgType.CGROUP_SOCKOPT: (_Form(attach_type=AttachType.CGROUP_GETSOCKOPT),),
    ProgType.SK_LOOKUP: (_Form(attach_type=AttachType.SK_LOOKUP),),
    ProgType.NETFILTER: (_Form(attach_type=AttachType.NETFILTER),),
    ProgType.SYSCALL: (_Form(flags=_SLEEPABLE),),
    ProgType.KPROBE: (_Form("kprobe"), _Form("uprobe.s", flags=_SLEEPABLE)),
    ProgType.TRACING: (
        _Form("tp_btf", AttachType.TRACE_RAW_TP, place=_SCHED_SWITCH),
        _Form("iter", AttachType.TRACE_ITER, place=_ITER),
        _Form("iter.s", AttachType.TRACE_ITER, _SLEEPABLE, _ITER),
        _Form("fentry", AttachType.TRACE_FENTRY, place=_TESTED),
        _Form("fexit", AttachType.TRACE_FEXIT, place=_TESTED),
    ),
    ProgType.LSM: (
        _Form("lsm", AttachType.LSM_MAC, place=_HOOK),
        _Form("lsm.s", AttachType.LSM_MAC, _SLEEPABLE, _HOOK),
    ),
    ProgType.STRUCT_OPS: (
        _Form("tcp_congestion_ops", "ssthresh", place=(Kind.STRUCT, "tcp_congestion_ops")),
    ),
    ProgType.EXT: (),  # the function of another program, which is not made here
}
_PLACED: Final = (ProgType.TRACING, ProgType.LSM, ProgType.EXT, ProgType.STRUCT_OPS)


def _vmlinux() -> Btf | None:
    """The kernel's BTF, where it can be read."""
    from pybpfload.errors import BpfError
    from pybpfload.kernel import btf

    try:
        return btf.vmlinux()
    except (BpfError, OSError):
        return None


def _forms(kind: ProgType) -> list[tuple[str, dict[str, int]]]:
    """The ways to try a type out that this kernel has places for: name, arguments of the load."""
    known: dict[ProgType, list[tuple[str, dict[str, int]]]] = door.cache().setdefault("forms", {})
    if kind not in known:
        found = ((form.name, _arguments(form)) for form in _FORMS.get(kind, (_Form(),)))
        known[kind] = [(name, arguments) for name, arguments in found if arguments is not None]
    return known[kind]


def _arguments(form: _Form) -> dict[str, int] | None:
    """Arguments of a load; ``None`` if the kernel has no such place, or shows no BTF."""
    place, attach_type = 0, form.attach_type
    if form.place is not None:
        table = _vmlinux()
        place = table.find(form.place[1], form.place[0]) if table is not None else 0
        if table is None or not place:
            return None
        struct = table[place]
        if isinstance(struct, Struct):
            names = [member.name for member in struct.members]
            attach_type = names.index(attach_type) if attach_type in names else 0
    return {
        "expected_attach_type": int(attach_type),
        "prog_flags": form.flags,
        "attach_btf_id": place,
    }


def _load(kind: int, insns: Sequence[Insn], **options: Any) -> tuple[int, bytes]:
    """Try to load a program: 0 or the negative error number, and the log."""
    log = bytearray(_LOG_SIZE if len(insns) < 100 else _LONG_LOG_SIZE)
    if kind == ProgType.KPROBE:
        options["kern_version"] = kernel_version()  # which kernels before 5.0 compare
    fd, _ = prog_load_attempt(
        kind, encode(insns, _ORDER), "GPL", log_level=1, log_buf=log, **options
    )
    if fd >= 0:
        door.close(fd)
    return min(fd, 0), bytes(log).partition(b"\0")[0]


def _trial(kind: ProgType, name: str, options: dict[str, int]) -> int:
    """Load a program that does nothing, in a form of a type: 0 or the negative error number."""
    known: dict[tuple[int, str], int] = door.cache().setdefault("trials", {})
    result = known.get((kind, name))
    if result is None:
        result, _ = _load(kind, _RETURN_0, **options)
        if -result not in _UNCLEAR:
            known[kind, name] = result
    return result


def prog_type(kind: ProgType) -> Answer:
    """Whether programs of a type can be loaded."""
    since = first_version("ProgType", kind)
    numbers = []
    for name, options in _forms(kind):
        result = _trial(kind, name, options)
        if result == 0:
            return Answer(True, f"one was loaded{_in(name)}", since)
        numbers.append(-result)
    if not numbers:
        return _without_place(kind, since)
    unclear = [number for number in numbers if number in _UNCLEAR]
    if unclear:
        return Answer(None, _word(unclear[0]), since)
    return Answer(False, f"loading one gives {_word(numbers[0])}", since)


def _in(name: str) -> str:
    return f" ({name})" if name else ""


def _without_place(kind: ProgType, since: str | None) -> Answer:
    """Whether the kernel knows a type whose programs name a place, when there is none to name.

    Type 1 of the kernel's BTF is no place; what counts is whether the verifier gets so far.
    """
    result, log = _load(kind, _RETURN_0, attach_btf_id=1)
    if log or result == -_ENOTSUPP:
        return Answer(True, "the verifier looked at one", since)
    if -result in _UNCLEAR:
        return Answer(None, _word(-result), since)
    return Answer(False, f"loading one gives {_word(-result)}", since)


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
                return Answer(None, f"its BTF cannot be loaded: {_word(-btf)}", since)
            opened.append(btf)
            wants.update(btf_fd=btf, btf_key_type_id=1, btf_value_type_id=1)
        elif kind in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
            inner = _make_map(MapType.HASH, {"key_size": 4, "value_size": 4, "max_entries": 1})
            if inner < 0:
                return Answer(None, f"no inner map can be made: {_word(-inner)}", since)
            opened.append(inner)
            wants["inner_map_fd"] = inner
        made = _make_map(kind, wants)
        if made >= 0:
            opened.append(made)
            return Answer(True, "one was made", since)
    finally:
        for fd in opened:
            door.close(fd)
    if kind == MapType.STRUCT_OPS and made == -_ENOTSUPP:
        return Answer(True, "the kernel looked for the type of its value", since)
    if -made in _UNCLEAR:
        return Answer(None, _word(-made), since)
    return Answer(False, f"making one gives {_word(-made)}", since)


# One int of 32 bits: enough for key and value.
_INT_BTF: Final = struct.pack(
    "=HBBIIIII4I", 0xEB9F, 1, 0, 24, 0, 16, 16, 5, 1, 1 << 24, 4, 1 << 24 | 32
) + b"\0int\0"  # fmt: skip


def _make_map(kind: int, arguments: dict[str, Any]) -> int:
    return at_least_3(invoke(layout("MAP_CREATE").build(map_type=kind, **arguments)))


# Helpers


def _callable(kind: ProgType, call: Insn, since: str | None) -> Answer:
    """Whether programs of a type may contain a call, in any of the type's forms.

    A call without arguments is refused in most cases; what counts is what the verifier says of the
    function itself.
    """
    answers = []
    for name, options in _forms(kind):
        if (result := _trial(kind, name, options)) < 0:
            if -result in _UNCLEAR:
                answers.append(Answer(None, _word(-result), since))
            continue
        result, log = _load(kind, (call, Insn(0x95)), **options)
        answer = _verdict(result, log.decode(errors="replace"), since)
        if answer.has:
            return answer._replace(why=answer.why + _in(name))
        answers.append(answer)
    if not answers:
        return Answer(None, "no program of this type can be loaded to try it", since)
    unclear = [answer for answer in answers if answer.has is None]
    return (unclear or answers)[0]


# What the verifier says of helpers and kfuncs that it does not know, or not for this type.
_REFUSALS: Final = (
    "unknown func", "invalid func", "program of this type", "is not allowed", "reserved fields",
    "JIT does not support",
)  # fmt: skip


def _verdict(result: int, log: str, since: str | None) -> Answer:
    if result == 0:
        return Answer(True, "a program that calls it was loaded", since)
    refusal = next((line for line in log.splitlines() if any(w in line for w in _REFUSALS)), None)
    if refusal is not None:
        return Answer(False, refusal.strip(), since)
    if log:
        return Answer(True, "the verifier looked at its arguments", since)
    return Answer(None, _word(-result), since)


def helper(kind: ProgType, number: int) -> Answer:
    """Whether programs of a type may call a helper, in at least one form of the type.

    Args:
        kind: Program type.
        number: :class:`~pybpfload.uapi.Helper`.
    """
    return _callable(kind, Insn(0x85, imm=number), first_version("Helper", number))


def helpers(kind: ProgType) -> dict[str, Answer]:
    """All helpers by name, for programs of a type; it takes about a tenth of a second."""
    return {f"bpf_{each.name.lower()}": helper(kind, each) for each in Helper if each}


# Kernel functions


def kfuncs() -> list[str] | None:
    """Names of the functions of the kernel, without its modules, that some programs may call.

    Returns:
        ``None`` where the kernel's BTF does not mark them (before Linux 6.10), or is not there;
        :func:`kfunc` tells of single ones all the same.
    """
    table = _vmlinux()
    if table is None:
        return None
    found = set()
    for type_id in table.find_all("bpf_kfunc", Kind.DECL_TAG):
        tag = table[type_id]
        assert isinstance(tag, DeclTag)
        marked = table[tag.type]
        if isinstance(marked, Func):
            found.add(marked.name)
    return sorted(found) or None


def kfunc(kind: ProgType, name: str) -> Answer:
    """Whether programs of a type may call a function of the kernel (Linux 5.13).

    Args:
        kind: Program type; in at least one form of it.
        name: The function; one of a module counts as absent.
    """
    table = _vmlinux()
    if table is None:
        return Answer(None, _NO_BTF)
    number = table.find(name, Kind.FUNC)
    if not number:
        return Answer(False, "no function of the kernel's BTF")
    return _callable(kind, Insn(0x85, src=2, imm=number), None)


def kfuncs_for(kind: ProgType) -> dict[str, Answer] | None:
    """All of :func:`kfuncs` by name, for programs of a type; ``None`` where they are not known."""
    names = kfuncs()
    return None if names is None else {name: kfunc(kind, name) for name in names}


# Instructions

_LOAD_1 = Insn(0xB7, dst=1, imm=1)

INSTRUCTIONS: Final[dict[str, tuple[str, str, tuple[Insn, ...]]]] = {
    "v1": ("the first instruction set", "3.18", _RETURN_0),
    "v2": (
        "less-than jumps",
        "4.14",
        (_LOAD_1, Insn(0xA5, dst=1, imm=2), *_RETURN_0),
    ),
    "v3": (
        "32-bit jumps",
        "5.1",
        (_LOAD_1, Insn(0x16, dst=1, imm=1), *_RETURN_0),
    ),
    "v4": (
        "sign extension, unconditional byte swaps, signed division, long jumps",
        "6.6",
        (_LOAD_1, Insn(0xBF, dst=1, src=1, off=8), *_RETURN_0),
    ),
    "loops": (
        "loops with a bound",
        "5.3",
        (_LOAD_1, Insn(0x07, dst=1, imm=1), Insn(0xA5, dst=1, off=-2, imm=5), *_RETURN_0),
    ),
    "atomics": (
        "atomic operations that give the old value",
        "5.12",
        (
            Insn(0x7A, dst=10, off=-8),
            _LOAD_1,
            Insn(0xDB, dst=10, src=1, off=-8, imm=1),
            *_RETURN_0,
        ),
    ),
    "may_goto": (
        "loops that the kernel ends",
        "6.9",
        (Insn(0xB7), Insn(0xE5, off=1), *_RETURN_0),
    ),
    "load_acquire": (
        "loads and stores with an order",
        "6.15",
        (
            Insn(0x7A, dst=10, off=-8),
            Insn(0xDB, dst=1, src=10, off=-8, imm=0x100),
            *_RETURN_0,
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
    result, log = _load(ProgType.SOCKET_FILTER, code)
    if result == 0:
        return Answer(True, "a program that needs it was loaded", since)
    if -result in _UNCLEAR and not log:
        return Answer(None, _word(-result), since)
    last = (log.decode(errors="replace").strip().splitlines() or [_word(-result)])[-1]
    return Answer(False, last if not last.startswith("processed") else _word(-result), since)


# What the kernel's BTF tells


def _enumerators(name: str) -> frozenset[str] | None:
    table = _vmlinux()
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
            answer = Answer(None, _NO_BTF, since)
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


def settings() -> Iterator[tuple[str, str | None, str]]:
    """Settings that bear on BPF: name, value (``None`` if it cannot be read), what that means."""
    for name, (about, meanings) in SETTINGS.items():
        value = _read("/proc/sys/" + name.replace(".", "/"))
        meaning = meanings.get(value or "", "")
        yield name, value, f"{about}: {meaning}" if meaning else about
    lockdown = _read("/sys/kernel/security/lockdown")
    mode = lockdown.partition("[")[2].partition("]")[0] if lockdown else None
    yield "lockdown", mode, "what the kernel forbids even root: none, integrity, confidentiality"
    yield "lsm", _read("/sys/kernel/security/lsm"), "active security modules; bpf for LSM programs"


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
