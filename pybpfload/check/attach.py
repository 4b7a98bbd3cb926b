"""Whether a kernel has what programs are attached to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.btf import types as t
from pybpfload.check.kernel import module_name
from pybpfload.object.places import in_btf, traceable
from pybpfload.pattern import glob_pattern
from pybpfload.uapi import AttachType, ProgType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf import Btf
    from pybpfload.check.kernel import Kernel
    from pybpfload.object.spec import ProgramSpec

__all__ = ["Doubt", "doubts"]

_TRAMPOLINES = frozenset(
    {AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT, AttachType.MODIFY_RETURN}
)
# Family of attachments -> the setting that it needs, besides those of the program type.
_SETTINGS = {
    "kprobe": "CONFIG_KPROBE_EVENTS",
    "uprobe": "CONFIG_UPROBE_EVENTS",
    "kprobe-multi": "CONFIG_FPROBE",
    "kprobe-session": "CONFIG_FPROBE",
}
_SECURITY = "security_"  # functions with this in front may have their result replaced


class Doubt(NamedTuple):
    """What is wrong with where a program is attached.

    Attributes:
        what: A sentence.
        sure: Whether it is, or only may be so.
        remedy: What to do about it.
    """

    what: str
    sure: bool
    remedy: str = ""


def doubts(program: ProgramSpec, kernel: Kernel) -> Iterator[Doubt]:
    """What is wrong with where a program is attached."""
    sec, where = program.sec, program.attach_to
    if sec is None or kernel.target.btf is None or program.attach_program is not None:
        return
    setting = _SETTINGS.get(sec.auto, "")
    if setting and kernel.setting(setting) == "":
        yield Doubt(f"the kernel was built without {setting}, which {sec.name} needs", True)
    if not where:
        if sec.needs_btf_id:
            yield Doubt("it names no target: one is to be given before loading", False)
        return
    if sec.needs_btf_id and program.prog_type != ProgType.EXT:
        yield from _in_types(program, where, kernel)
    elif sec.auto == "raw_tp":
        yield from _tracepoint(where, where, kernel)
    elif sec.auto == "tp":
        category, _, name = where.partition("/")
        # Those of single system calls are made of data, of which types tell nothing.
        if category != "syscalls":
            yield from _tracepoint(where, name, kernel)
    elif sec.auto in ("kprobe", "kprobe-multi", "kprobe-session") and not where[0].isdigit():
        yield from _kprobe(where.partition("+")[0].rpartition(":")[2], kernel)


def _tracepoint(where: str, name: str, kernel: Kernel) -> Iterator[Doubt]:
    if not _owner(kernel, f"btf_trace_{name}", t.Kind.TYPEDEF):
        what = f"the kernel has no tracepoint {where!r}{_without_modules(kernel)}"
        yield Doubt(what, kernel.tells_tracepoints)


def _kprobe(name: str, kernel: Kernel) -> Iterator[Doubt]:
    is_pattern = "*" in name or "?" in name
    if _matches(name, kernel) if is_pattern else _owner(kernel, name, t.Kind.FUNC):
        return
    there = None if is_pattern else kernel.has_symbol(name)
    if there is None:
        why = "inlined, renamed by the compiler, in a module, or not there"
        what = f"the kernel's types have no function {name!r}: {why}"
        yield Doubt(what, False, _instead(name, kernel))
    elif not there:
        yield Doubt(f"the kernel has no function {name!r}", True, _instead(name, kernel))


def _matches(name: str, kernel: Kernel) -> bool:
    pattern = glob_pattern(name)
    return any(map(pattern.fullmatch, kernel.functions))


def _in_types(program: ProgramSpec, where: str, kernel: Kernel) -> Iterator[Doubt]:
    prefix, kind, what = in_btf(program)
    module, _, name = where.rpartition(":")
    owner = _owner(kernel, prefix + name, kind, module)
    if owner is None:
        if module and kernel.module(module) is None:
            text = f"there is no BTF of module {module}, whose {what} {name!r} it is for"
            yield Doubt(text, True, f"load the module, or give the kernel with {module}'s BTF")
            return
        typedef = kind == t.Kind.TYPEDEF
        sure = kernel.tells_tracepoints if typedef else kernel.tells_functions
        place = f"module {module}" if module else "the kernel"
        remedy = _instead(name, kernel) if not prefix else ""
        yield Doubt(
            f"{place} has no {what} {name!r} to attach to{_without_modules(kernel)}", sure, remedy
        )
        return
    if program.expected_attach_type not in _TRAMPOLINES:
        return
    if not traceable(*owner):
        yield Doubt(f"no trampoline can carry the arguments of {name!r}", True)
    replaces = program.expected_attach_type == AttachType.MODIFY_RETURN
    if replaces and not name.startswith(_SECURITY):
        text = f"whether the result of {name!r} may be replaced: types do not say"
        yield Doubt(text, False, "it may where the kernel has ALLOW_ERROR_INJECTION for it")
    elif program.sec is not None and program.sec.sleepable:
        yield Doubt(f"whether {name!r} may sleep: types do not say", False)


def _without_modules(kernel: Kernel) -> str:
    return "" if kernel.target.modules else " (BTF of modules was not given)"


def _instead(name: str, kernel: Kernel) -> str:
    """What else may be meant by the name of a function."""
    found = kernel.functions_like(name)
    made = [each for each in found if each.startswith(f"{name}.")]
    if made:
        return f"the compiler has made {', '.join(made)} of it"
    return f"did you mean {found[0]!r}?" if found else ""


def _owner(kernel: Kernel, name: str, kind: t.Kind, module: str = "") -> tuple[Btf, int] | None:
    """The BTF that has a type, and its number there."""
    btf: Any = kernel.target.btf
    if not module and (found := btf.find(name, kind)):
        return btf, found
    for each in kernel.target.modules:
        if module_name(each).startswith(module) and (found := each.find_own(name, kind)):
            return each, found
    return None
