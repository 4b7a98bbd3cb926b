"""Will an object load on a kernel? What stands in its way, and what it does without.

Asks BTF and the kernel's configuration, never a running kernel; the verifier is not run. So a
"loads" means that the kernel has all that the object refers to. What cannot be told from BTF is
said to be so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.check.needs import Need, map_needs, program_needs
from pybpfload.check.reach import reachable
from pybpfload.errors import BpfError, RelocationError
from pybpfload.object.places import in_btf, traceable
from pybpfload.object.spec import ExternKind
from pybpfload.pattern import glob_pattern
from pybpfload.relocate import Relocation, match_struct_ops, relocate
from pybpfload.relocate.externs import WEAK_HINT, resolve_typed
from pybpfload.relocate.source import SourceLines
from pybpfload.uapi import AttachType, MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.check.kernel import Kernel
    from pybpfload.object.spec import MapSpec, ObjectSpec, ProgramSpec
    from pybpfload.relocate import RelocatedProgram

__all__ = ["DEGRADED", "FAILS", "LOADS", "Finding", "Verdict", "check"]

LOADS, DEGRADED, FAILS = "loads", "degraded", "fails"
"""Verdicts: the kernel has everything; it lacks something that the programs ask for before they use
it; it lacks something without which they cannot be loaded or attached."""

_OF_MAPS = frozenset({MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})
_TRAMPOLINES = frozenset(
    {AttachType.TRACE_FENTRY, AttachType.TRACE_FEXIT, AttachType.MODIFY_RETURN}
)


@dataclass(frozen=True)
class Finding:
    """Something that the kernel lacks, or that cannot be told.

    Attributes:
        what: A sentence.
        kind: ``"relocation"``, ``"extern"``, ``"kconfig"``, ``"target"``, ``"struct_ops"``, or a
            kind of :class:`~pybpfload.check.needs.Need`.
        program: Name of the program, empty for the object.
        insn: Index of the instruction, -1 for none.
        source: Its C line, empty if unknown.
    """

    what: str
    kind: str
    program: str = ""
    insn: int = -1
    source: str = ""

    def __str__(self) -> str:
        where = f"program {self.program}" if self.program else ""
        if self.insn >= 0:
            where += f", instruction {self.insn}"
        if self.source:
            where += f" ({self.source})"
        return f"{where}: {self.what}" if where else self.what

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "kind": self.kind,
            "what": self.what,
            "program": self.program or None,
            "insn": self.insn if self.insn >= 0 else None,
            "source": self.source or None,
        }


@dataclass
class Verdict:
    """What came out for one object and one kernel.

    Attributes:
        object, kernel: Their names.
        problems: What keeps it from loading or attaching.
        degraded: What the kernel lacks and the programs do without.
        unknown: What could not be told.
    """

    object: str
    kernel: str
    problems: list[Finding] = field(default_factory=list)
    degraded: list[Finding] = field(default_factory=list)
    unknown: list[Finding] = field(default_factory=list)

    @property
    def result(self) -> str:
        """One of :data:`LOADS`, :data:`DEGRADED`, :data:`FAILS`."""
        return FAILS if self.problems else DEGRADED if self.degraded else LOADS

    def _repr_html_(self) -> str:
        from importlib import import_module  # the room of commands is above this one

        return str(import_module("pybpfload.cli.notebook").verdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "object": self.object,
            "kernel": self.kernel,
            "result": self.result,
            "problems": [each.to_dict() for each in self.problems],
            "degraded": [each.to_dict() for each in self.degraded],
            "unknown": [each.to_dict() for each in self.unknown],
        }


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
        self.verdict = Verdict(spec.path, kernel.name)

    def run(self) -> Verdict:
        btf = self.target.btf
        if btf is not None and btf.byteorder != self.spec.byteorder:
            other = "bpfel" if self.spec.byteorder == ">" else "bpfeb"
            self.problem(
                f"the kernel has the other byte order; build it with -target {other}", "target"
            )
            return self.verdict
        relocation = self.relocated()
        missing = self.externs(relocation)
        for program in relocation.programs.values():
            self.program(program, missing)
        for found in self.spec.maps.values():
            if found.autocreate and found.reuse is None:
                self.map(found)
        try:
            match_struct_ops(self.spec, self.target)
        except BpfError as error:
            self.problem(_bare(error), "struct_ops")
        return self.verdict

    def problem(self, what: str, kind: str, **where: Any) -> None:
        self.verdict.problems.append(Finding(what, kind, **where))

    def relocated(self) -> Relocation:
        """Relocate, without the programs that cannot be, so that each of them is told."""
        copy = self.spec.copy()
        while True:
            try:
                return relocate(copy, self.target)
            except RelocationError as error:
                failed = [p for p in copy.programs.values() if p.autoload]
                named = [p for p in failed if p.name == error.program]
                self.problem(_bare(error), "relocation", program=error.program or "")
                if not failed:
                    return Relocation(copy, self.target, {}, [])
                for program in named or failed:
                    program.autoload = False

    def externs(self, relocation: Relocation) -> set[str]:
        """Look for kernel symbols and settings; names of the weak ones that are not there."""
        used = {r.name for p in relocation.programs.values() for r in p.references}
        missing: set[str] = set()
        for name, extern in self.spec.externs.items():
            if name not in used or extern.kind == ExternKind.KCONFIG:
                continue
            if not extern.is_typed or not self.kernel.tells_functions:
                if not extern.weak:
                    what = f"whether the kernel has the symbol {extern.name}: its types do not say"
                    self.unknown(what, "extern")
                continue
            try:
                if resolve_typed(self.spec, extern, self.target) is None:
                    missing.add(name)
            except BpfError as error:
                self.problem(_bare(error), "extern")
        self.settings()
        return missing

    def map(self, found: MapSpec) -> None:
        for need in map_needs(found):
            self.need(need, f"map {found.name}: ")
        # What the definition leaves to whoever loads the object.
        if found.type in _OF_MAPS and found.inner is None:
            self.unknown(f"map {found.name} needs an inner map, to be given before loading", "map")
        if found.type == MapType.RINGBUF and not found.max_entries:
            self.unknown(f"map {found.name} needs a size, to be given before loading", "map")

    def settings(self) -> None:
        from pybpfload.kernel.kconfig import VIRTUAL, parse_kconfig

        kconfig = [e for e in self.spec.externs.values() if e.kind == ExternKind.KCONFIG]
        wanted = {e.name: e for e in kconfig if e.name.startswith("CONFIG_")}
        for extern in kconfig:
            virtual = extern.name.startswith("LINUX_") and extern.weak
            if extern.name not in wanted and extern.name not in VIRTUAL and not virtual:
                self.problem(f"{extern.name} is no kernel setting", "kconfig")
        strong = [name for name, extern in wanted.items() if not extern.weak]
        if not strong:
            return
        if self.kernel.kconfig is None:
            names = ", ".join(strong)
            self.unknown(f"whether {names} is set: the configuration is not known", "kconfig")
            return
        try:
            found = parse_kconfig(self.kernel.kconfig.encode(), wanted, {}, self.kernel.name)
        except BpfError as error:
            self.problem(str(error), "kconfig")
            return
        for name in strong:
            if name not in found:
                self.problem(f"{name} is not set in the configuration; {WEAK_HINT}", "kconfig")

    def unknown(self, what: str, kind: str, **where: Any) -> None:
        self.verdict.unknown.append(Finding(what, kind, **where))

    def program(self, program: RelocatedProgram, missing: set[str]) -> None:
        for what, sure in self.place(program.spec):
            found = self.verdict.problems if sure else self.verdict.unknown
            found.append(Finding(what, "target", program.name))
        alive = reachable(program, self.spec, missing=missing)
        lines = SourceLines(program, self.spec)
        for insn, why in sorted(self.gaps(program, missing)):
            line = lines[insn]
            finding = Finding(why, "relocation", program.name, insn, str(line) if line else "")
            (self.verdict.problems if insn in alive else self.verdict.degraded).append(finding)
        for need in program_needs(program, alive):
            self.need(need, "", program=program.name)

    def gaps(self, program: RelocatedProgram, missing: set[str]) -> set[tuple[int, str]]:
        """Instructions that no kernel accepts, because this one lacks something; and why."""
        found = set(program.poisons.items())
        for reference in program.references:
            if reference.name in missing and program.insns[reference.insn].is_call:
                found.add((reference.insn, f"the kernel has no {reference.name}()"))
        return found

    def need(self, need: Need, prefix: str, program: str = "") -> None:
        known = self.kernel.knows(need.enum, need.number) if need.enum else None
        if known is None and need.since is not None:
            known = self.kernel.has_come(need.since)
        since = f" (Linux {need.since})" if need.since else ""
        where: dict[str, Any] = {"program": program, "insn": need.insn}
        if known is False:
            self.problem(f"{prefix}the kernel has no {need}{since}", need.kind, **where)
        elif known is None:
            self.unknown(f"{prefix}whether the kernel has {need}{since}", need.kind, **where)

    def place(self, program: ProgramSpec) -> Iterator[tuple[str, bool]]:
        """What is wrong with where a program is attached; and whether that is sure."""
        sec, where, btf = program.sec, program.attach_to, self.target.btf
        if sec is None or btf is None or program.attach_program is not None:
            return
        if not where:
            if sec.needs_btf_id:
                yield "it names no target: one is to be given before loading", False
            return
        if sec.needs_btf_id and program.prog_type != ProgType.EXT:
            yield from self.in_types(program, where)
        elif sec.auto == "raw_tp":
            if not self.owner(f"btf_trace_{where}", t.Kind.TYPEDEF):
                yield f"the kernel has no tracepoint {where!r}", self.kernel.tells_tracepoints
        elif sec.auto == "tp":
            category, _, name = where.partition("/")
            # Those of single system calls are made of data, of which types tell nothing.
            if category != "syscalls" and not self.owner(f"btf_trace_{name}", t.Kind.TYPEDEF):
                yield f"the kernel has no tracepoint {where!r}", self.kernel.tells_tracepoints
        elif sec.auto in ("kprobe", "kprobe-multi", "kprobe-session") and not where[0].isdigit():
            name = where.partition("+")[0].rpartition(":")[2]
            if not self.function(name):
                why = "inlined, renamed by the compiler, or not there"
                yield f"the kernel's types have no function {name!r}: {why}", False

    def in_types(self, program: ProgramSpec, where: str) -> Iterator[tuple[str, bool]]:
        prefix, kind, what = in_btf(program)
        module, _, name = where.rpartition(":")
        owner = self.owner(prefix + name, kind, module)
        if owner is None:
            if module and not any(
                Path(m.name).stem.startswith(module) for m in self.target.modules
            ):
                yield f"there is no BTF of module {module}, whose {what} {name!r} it is for", True
            else:
                modules = "" if self.target.modules else " (BTF of modules was not given)"
                sure = self.kernel.tells_functions
                if kind == t.Kind.TYPEDEF:
                    sure = self.kernel.tells_tracepoints
                place = f"module {module}" if module else "the kernel"
                yield f"{place} has no {what} {name!r} to attach to{modules}", sure
        elif program.expected_attach_type in _TRAMPOLINES and not traceable(*owner):
            yield f"no trampoline can carry the arguments of {name!r}", True

    def owner(self, name: str, kind: t.Kind, module: str = "") -> tuple[Any, int] | None:
        """The BTF that has a type, and its number there."""
        btf = self.target.btf
        if btf is not None and not module and (found := btf.find(name, kind)):
            return btf, found
        for each in self.target.modules:
            if Path(each.name).stem.startswith(module) and (found := each.find_own(name, kind)):
                return each, found
        return None

    def function(self, name: str) -> bool:
        if "*" not in name and "?" not in name:
            return self.owner(name, t.Kind.FUNC) is not None
        pattern = glob_pattern(name)
        btf = self.target.btf
        return btf is not None and any(
            btf.kind(i) == t.Kind.FUNC and pattern.fullmatch(btf.type_name(i))
            for i in btf.own_ids()
        )


def _bare(error: BpfError) -> str:
    """An error without the name of the file, which is told beside it."""
    text = str(error)
    file = getattr(error, "file", None)
    return text.removeprefix(f"{file}, ").removeprefix(f"{file}: ") if file else text
