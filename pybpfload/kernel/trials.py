"""Trying out what programs the kernel takes, and what they may call.

A program type is tried out by loading the smallest program of it, a helper or a kernel function by
loading a program that calls it, in each form of the type. :mod:`pybpfload.kernel.features` has the
rest of what can be asked.

Source: libbpf, ``libbpf_probes.c``; the kernel's ``verifier.c`` for what refusals mean.
"""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pybpfload.btf.types import DeclTag, Func, Kind, Struct
from pybpfload.isa.insn import Insn, encode
from pybpfload.kernel import door
from pybpfload.kernel.cmd_prog import prog_load_attempt
from pybpfload.kernel.since import first_version
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import AttachType, Helper, ProgFlag, ProgType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.btf import Btf

__all__ = [
    "ENOTSUPP",
    "NO_BTF",
    "RETURN_0",
    "UNCLEAR",
    "Answer",
    "helper",
    "helpers",
    "kfunc",
    "kfuncs",
    "kfuncs_for",
    "load",
    "prog_type",
    "trampolines",
    "vmlinux",
    "word",
]

UNCLEAR: Final = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOSYS,
)
"""Error numbers that say nothing about what was tried."""
ENOTSUPP: Final = 524
"""The kernel's own number for what is not supported."""
NO_BTF: Final = "the kernel shows no BTF"
"""Why something could not be told."""

_ORDER: Final[Any] = "<" if sys.byteorder == "little" else ">"
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


def word(number: int) -> str:
    """Name of an error number."""
    return errno.errorcode.get(number, "ENOTSUPP" if number == ENOTSUPP else str(number))


# Programs

RETURN_0: Final = (Insn(0xB7), Insn(0x95))
"""A program that does nothing."""


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


def vmlinux() -> Btf | None:
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
        table = vmlinux()
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


def load(kind: int, insns: Sequence[Insn], **options: Any) -> tuple[int, bytes]:
    """Try to load a program, and close it again.

    Args:
        kind: Program type.
        insns: Its instructions.
        **options: As for :func:`~pybpfload.kernel.bpf.prog_load`.

    Returns:
        0 or the negative error number, and the log.
    """
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
        result, _ = load(kind, RETURN_0, **options)
        if -result not in UNCLEAR:
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
    unclear = [number for number in numbers if number in UNCLEAR]
    if unclear:
        return Answer(None, word(unclear[0]), since)
    return Answer(False, f"loading one gives {word(numbers[0])}", since)


def trampolines() -> Answer:
    """Whether programs can be put into functions: what fentry, fexit, LSM and freplace need.

    One for a function that the kernel has for its own tests is loaded; nothing is attached.
    """
    options = next((found for name, found in _forms(ProgType.TRACING) if name == "fentry"), None)
    if options is None:
        return Answer(None, NO_BTF, "5.5")
    result = _trial(ProgType.TRACING, "fentry", options)
    if result == 0:
        return Answer(True, "a program for fentry was loaded", "5.5")
    has = None if -result in UNCLEAR else False
    return Answer(has, f"loading a program for fentry gives {word(-result)}", "5.5")


def _in(name: str) -> str:
    return f" ({name})" if name else ""


def _without_place(kind: ProgType, since: str | None) -> Answer:
    """Whether the kernel knows a type whose programs name a place, when there is none to name.

    Type 1 of the kernel's BTF is no place; what counts is whether the verifier gets so far.
    """
    result, log = load(kind, RETURN_0, attach_btf_id=1)
    if log or result == -ENOTSUPP:
        return Answer(True, "the verifier looked at one", since)
    if -result in UNCLEAR:
        return Answer(None, word(-result), since)
    return Answer(False, f"loading one gives {word(-result)}", since)


# What programs may call


def _callable(kind: ProgType, call: Insn, since: str | None) -> Answer:
    """Whether programs of a type may contain a call, in any of the type's forms.

    A call without arguments is refused in most cases; what counts is what the verifier says of the
    function itself.
    """
    answers = []
    for name, options in _forms(kind):
        if (result := _trial(kind, name, options)) < 0:
            if -result in UNCLEAR:
                answers.append(Answer(None, word(-result), since))
            continue
        result, log = load(kind, (call, Insn(0x95)), **options)
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
    return Answer(None, word(-result), since)


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
    table = vmlinux()
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
    table = vmlinux()
    if table is None:
        return Answer(None, NO_BTF)
    number = table.find(name, Kind.FUNC)
    if not number:
        return Answer(False, "no function of the kernel's BTF")
    return _callable(kind, Insn(0x85, src=2, imm=number), None)


def kfuncs_for(kind: ProgType) -> dict[str, Answer] | None:
    """All of :func:`kfuncs` by name, for programs of a type; ``None`` where they are not known."""
    names = kfuncs()
    return None if names is None else {name: kfunc(kind, name) for name in names}
