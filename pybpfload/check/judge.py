"""Will an object load on a kernel, what stands in its way, and what it does without.

Asks BTF, the kernel's configuration and its symbols, never a running kernel; the verifier is not
run. So "loads" means that the kernel has all that the object refers to. What cannot be told is said
to be so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pybpfload.check import rules
from pybpfload.check.attach import doubts
from pybpfload.check.needs import Need, map_needs, program_needs
from pybpfload.check.reach import Reach, explore
from pybpfload.check.settings import Settings
from pybpfload.check.stack import stack_depth
from pybpfload.check.verdict import Finding, Verdict
from pybpfload.errors import BpfError, RelocationError
from pybpfload.object.spec import ExternKind, Named
from pybpfload.relocate import ReferenceKind, Relocation, match_struct_ops, relocate
from pybpfload.relocate.externs import WEAK_HINT, Symbol, resolve_typed
from pybpfload.relocate.source import SourceLines
from pybpfload.uapi import MapType, name_of

if TYPE_CHECKING:
    from pybpfload.check.kernel import Kernel
    from pybpfload.object.spec import MapSpec, ObjectSpec
    from pybpfload.relocate import RelocatedProgram

__all__ = ["check"]

_OF_MAPS = frozenset({MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})
_SETTING_OF = rules.needed_settings()
_MOST_FAILURES = 64  # programs that cannot be relocated; for each of them all is done once more
_CONTEXT_SINCE = "7.0"  # before, for all programs; Linux 7.2 goes by the type of the program
_STACKS_SINCE = "6.13"
_REMEDIES = {
    "helper": "ask before calling it: bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_...)",
    "program type": "leave the program out on such kernels: autoload = False",
    "attach type": "leave the program out on such kernels: autoload = False",
    "map type": "do without the map on such kernels: autocreate = False, and ask before using it",
    "relocation": "ask before reading it: bpf_core_field_exists(), bpf_core_type_exists() or "
    "bpf_core_enum_value_exists()",
    "kfunc": "ask before calling it: bpf_ksym_exists()",
}
_CPUS = {"6.6": "-mcpu=v3", "5.1": "-mcpu=v2", "4.14": "-mcpu=v1"}  # which do without what it is


def check(spec: ObjectSpec, kernel: Kernel) -> Verdict:
    """Check an object against a kernel.

    Looks at the programs and maps that loading would load, at what their code that can be reached
    asks for, and at what their sections attach them to. Makes no system call.

    Args:
        spec: The object; it is not changed.
        kernel: The kernel.
    """
    return _Check(spec, kernel).run()


class _Check:
    def __init__(self, spec: ObjectSpec, kernel: Kernel) -> None:
        self.spec = spec
        self.kernel = kernel
        self.target = kernel.target
        self.verdict = Verdict(spec.path, kernel.name, release=kernel.release)
        self.is_gpl = spec.license in rules.GPL_LICENSES
        self.settings = Settings(spec, kernel)
        self.missing: set[str] = set()  # weak externs
        self.symbols: dict[str, Symbol] = {}

    def run(self) -> Verdict:
        btf = self.target.btf
        if btf is not None and btf.byteorder != self.spec.byteorder:
            other = "bpfel" if self.spec.byteorder == ">" else "bpfeb"
            what, remedy = "the kernel has the other byte order", f"build it with -target {other}"
            self.problem(what, "target", remedy=remedy)
            return self.verdict
        if self.kernel.setting("CONFIG_BPF_SYSCALL") == "":
            self.problem("the kernel was built without CONFIG_BPF_SYSCALL", "feature")
        relocation = self.relocated()
        self.externs(relocation)
        for program in relocation.programs.values():
            self.program(program)
        for found in self.spec.maps.values():
            if found.autocreate and found.reuse is None:
                self.map(found)
        try:
            match_struct_ops(self.spec, self.target)
        except BpfError as error:
            self.error(error, "struct_ops")
        return self.verdict

    def problem(self, what: str, kind: str, **more: Any) -> None:
        self.verdict.problems.append(Finding(what, kind, **more))

    def unknown(self, what: str, kind: str, **more: Any) -> None:
        self.verdict.unknown.append(Finding(what, kind, **more))

    def error(self, error: BpfError, kind: str, program: str = "") -> None:
        """A problem that is known as an error; the file, and the program, are told beside it."""
        remedy, text = error.hint or "", str(error)
        file = getattr(error, "file", None)
        for front in (f"{file}, ", f"{file}: ", f"program {program}, ", f"program {program}: "):
            text = text.removeprefix(front)
        self.problem(text.removesuffix(f"; {remedy}"), kind, program=program, remedy=remedy)

    def relocated(self) -> Relocation:
        """Relocate, without the programs that cannot be, so that each of them is told."""
        left, spec = dict(self.spec.loaded_programs), self.spec
        for _ in range(_MOST_FAILURES):
            try:
                return relocate(spec, self.target)
            except RelocationError as error:
                self.error(error, "relocation", error.program or "")
                named = [key for key, each in left.items() if each.name == error.program]
                for key in named or list(left):
                    del left[key]
                if not left:
                    break
                spec = _with_programs(self.spec, set(left))
        else:
            what = f"whether {len(left)} more programs can be relocated: {_MOST_FAILURES} cannot"
            self.unknown(what, "relocation")
        return Relocation(spec, self.target, {}, [])

    def externs(self, relocation: Relocation) -> None:
        """Look for kernel symbols and settings."""
        used = {r.name for p in relocation.programs.values() for r in p.references}
        for name, extern in self.spec.externs.items():
            if name not in used or extern.kind == ExternKind.KCONFIG:
                continue
            if not extern.is_typed or not self.kernel.tells_functions:
                there = None if extern.is_typed else self.kernel.has_symbol(extern.name)
                if there is None and not extern.weak:
                    what = f"whether the kernel has the symbol {extern.name}: its types do not say"
                    self.unknown(what, "extern")
                elif there is False and extern.weak:
                    self.missing.add(name)
                elif there is False:
                    what = f"the kernel has no symbol {extern.name}"
                    self.problem(what, "extern", remedy=WEAK_HINT)
                continue
            try:
                found = resolve_typed(self.spec, extern, self.target)
            except BpfError as error:
                self.error(error, "extern")
                continue
            if found is None:
                self.missing.add(name)
                continue
            self.symbols[name] = found
            # The kernel takes the type from BTF, and then the address from its symbols.
            if extern.kind == ExternKind.KSYM and self.kernel.has_symbol(extern.name) is False:
                what = f"the kernel's types have the variable {extern.name}, its symbols have not"
                remedy = "it was built without CONFIG_KALLSYMS_ALL, or lost the variable"
                self.problem(what, "extern", remedy=remedy)
        self.verdict.problems += self.settings.problems
        self.verdict.unknown += self.settings.unknown

    def map(self, found: MapSpec) -> None:
        for need in map_needs(found):
            self.need(need, prefix=f"map {found.name}: ")
        # What the definition leaves to whoever loads the object.
        if found.type in _OF_MAPS and found.inner is None:
            self.unknown(f"map {found.name} needs an inner map, to be given before loading", "map")
        if found.type == MapType.RINGBUF and not found.max_entries:
            self.unknown(f"map {found.name} needs a size, to be given before loading", "map")

    def program(self, program: RelocatedProgram) -> None:
        name = program.name
        for doubt in doubts(program.spec, self.kernel):
            found = self.verdict.problems if doubt.sure else self.verdict.unknown
            found.append(Finding(doubt.what, "target", name, remedy=doubt.remedy))
        settings = self.settings.values
        reach = explore(program, self.spec, missing=self.missing, settings=settings)
        lines = SourceLines(program, self.spec)

        def at(insn: int) -> dict[str, Any]:
            line = lines[insn] if insn >= 0 else None
            return {"program": name, "insn": insn, "source": str(line) if line else ""}

        for insn, why, remedy in sorted(self.gaps(program)):
            guarded = insn not in reach.alive
            remedy = "" if guarded else remedy  # which it has taken
            finding = Finding(why, "relocation", remedy=remedy, **at(insn))
            (self.verdict.degraded if guarded else self.verdict.problems).append(finding)
        for need in program_needs(program, reach.alive):
            self.need(need, **at(need.insn))
        self.licence(program)
        self.context(program, reach, at)
        self.kfuncs(program, reach, at)
        self.size(program, reach)

    def gaps(self, program: RelocatedProgram) -> set[tuple[int, str, str]]:
        """Instructions that no kernel accepts, because this one lacks something; why; a remedy."""
        found = {(insn, why, _REMEDIES["relocation"]) for insn, why in program.poisons.items()}
        for reference in program.references:
            if reference.name in self.missing and program.insns[reference.insn].is_call:
                why = f"the kernel has no {reference.name}()"
                found.add((reference.insn, why, _REMEDIES["kfunc"]))
        return found

    def need(self, need: Need, prefix: str = "", **where: Any) -> None:
        known = self.kernel.knows(need.enum, need.number) if need.enum else None
        if known is None and need.since is not None:
            known = self.kernel.has_come(need.since)
        if known is False:
            remedy = _REMEDIES.get(need.kind, "").replace("...", need.name.removeprefix("bpf_"))
            if need.kind == "instruction" and need.since in _CPUS:
                remedy = f"compile it with {_CPUS[need.since]}"
            what = f"{prefix}the kernel has no {need}"
            self.problem(what, need.kind, since=need.since, remedy=remedy, **where)
            return
        if known is None:
            what = f"{prefix}whether the kernel has {need}"
            self.unknown(what, need.kind, since=need.since, **where)
        setting = _SETTING_OF.get((need.enum, need.number), "")
        if setting and self.kernel.setting(setting) == "":
            what = f"{prefix}the kernel was built without {setting}, which {need} needs"
            self.problem(what, need.kind, remedy=_REMEDIES.get(need.kind, ""), **where)
        if need.kind == "helper" and not self.is_gpl and need.name in rules.GPL_HELPERS:
            self.not_gpl(f"{need} is for programs under the GPL", where)

    def not_gpl(self, what: str, where: dict[str, Any]) -> None:
        has = f"that of the object is {self.spec.license!r}" if self.spec.license else "it has none"
        remedy = 'char LICENSE[] SEC("license") = "GPL";'
        self.problem(f"{what}; {has}", "license", remedy=remedy, **where)

    def licence(self, program: RelocatedProgram) -> None:
        kind = program.spec.prog_type
        if kind in rules.GPL_PROGRAMS and not self.is_gpl:
            what = f"programs of type {name_of(kind)} need a licence compatible with the GPL"
            self.not_gpl(what, {"program": program.name})

    def context(self, program: RelocatedProgram, reach: Reach, at: Any) -> None:
        """Old verifiers take the context only as it was given, with an offset in the access."""
        if self.kernel.has_come(_CONTEXT_SINCE) is not False:
            return
        for insn, moved in sorted(reach.moved_context.items()):
            what = f"the context is accessed through a pointer to which {moved} was added"
            remedy = (
                "have the compiler put the offset into the access: "
                "__attribute__((preserve_static_offset)) on the type, or a volatile member"
            )
            self.problem(what, "context", remedy=remedy, **at(insn))

    def kfuncs(self, program: RelocatedProgram, reach: Reach, at: Any) -> None:
        """Functions may be called if the kernel marks them, and by programs of certain types."""
        calls = [
            each
            for each in program.references
            if each.kind == ReferenceKind.KFUNC
            and each.insn in reach.alive
            and program.insns[each.insn].is_call
        ]
        if calls and not self.is_gpl:
            self.not_gpl(f"{calls[0].name}() is for programs under the GPL", at(calls[0].insn))
        called = []
        for name, insn in {each.name: each.insn for each in reversed(calls)}.items():
            symbol = self.symbols.get(name)
            if symbol is None or symbol.btf is None:
                continue
            marked = symbol.type_id in self.kernel.kfuncs(symbol.btf)
            if self.kernel.tells_kfuncs and not marked:
                what = f"{name}() is a function of the kernel, but none that programs may call"
                self.problem(what, "extern", **at(insn))
            else:
                called.append(name)
        if called:
            kind = name_of(program.spec.prog_type)
            what = f"whether programs of type {kind} may call {', '.join(called)}"
            self.unknown(f"{what}: types do not say", "extern", program=program.name)

    def size(self, program: RelocatedProgram, reach: Reach) -> None:
        count = len(program.insns)
        if count > rules.MOST_INSNS:
            what = f"it has {count} instructions; at most {rules.MOST_INSNS} are accepted"
            self.problem(what, "size", program=program.name)
        depth = stack_depth(program, reach.alive)
        if depth > rules.MOST_STACK:
            what = f"it takes {depth} bytes of stack with its subprograms, of {rules.MOST_STACK}"
            remedy = "put large variables into a map, such as a per-CPU array"
            sure = self.kernel.has_come(_STACKS_SINCE) is False
            say = self.problem if sure else self.unknown
            say(what, "size", program=program.name, remedy=remedy)


def _with_programs(spec: ObjectSpec, keys: set[str]) -> ObjectSpec:
    """A spec that has only some programs loaded; all but programs and functions is shared."""
    copies = {id(each): replace(each) for each in spec.functions}
    programs = [(key, copies[id(each)]) for key, each in spec.programs.items()]
    for key, program in programs:
        program.autoload = key in keys
    return replace(spec, functions=list(copies.values()), programs=Named("program", programs))
