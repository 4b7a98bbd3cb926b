"""Listings: the code of an object with all that the object says of it.

Each instruction as text, with its bytes, its line of C, and in words what it refers to: helpers,
kernel functions, maps, variables, subprograms, CO-RE relocations and what they come to on a kernel.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pybpfload.charts.diagram import Box, Diagram, Way
from pybpfload.errors import FormatError
from pybpfload.isa import table
from pybpfload.isa.cfg import EdgeKind, control_flow
from pybpfload.isa.disasm import disassemble
from pybpfload.isa.insn import encode
from pybpfload.object.functions import Finder
from pybpfload.object.spec import ExternKind, RelocKind
from pybpfload.relocate.core.access import parse_spec
from pybpfload.relocate.core.candidates import Target
from pybpfload.relocate.core.decision import CoreDecision, CoreKind, Failure, Outcome
from pybpfload.relocate.core.driver import relocate_core
from pybpfload.relocate.info import InfoTable
from pybpfload.relocate.jumptables import jump_table
from pybpfload.relocate.link import Linked
from pybpfload.relocate.program import Reference, ReferenceKind, RelocatedProgram
from pybpfload.relocate.source import SourceLines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pybpfload.btf import Btf
    from pybpfload.btf.ext import CoreRelo
    from pybpfload.isa.cfg import ControlFlow
    from pybpfload.isa.disasm import Line
    from pybpfload.isa.insn import Insn
    from pybpfload.object.spec import ExternSpec, ObjectSpec, ProgramSpec, Reloc, VariableSpec
    from pybpfload.relocate.source import SourceLine

__all__ = ["Lister", "Listing", "Row", "Words", "helper_names", "listings"]

_OFFSET = attrgetter("offset")

_LONGEST = 500  # characters of a note

_LOOKS = {
    EdgeKind.FALL: Way(0, 0, colour="gray"),
    EdgeKind.JUMP: Way(0, 0),
    EdgeKind.TAKEN: Way(0, 0, "taken", "forestgreen"),
    EdgeKind.NOT_TAKEN: Way(0, 0, "not taken", "firebrick", dashed=True),
    EdgeKind.TABLE: Way(0, 0, "jump table", "blue"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction of a listing.

    Attributes:
        line: The instruction as text, with its index, target, and as ``comment`` what it refers to.
        code: Its bytes, in the object's byte order.
        source: Its line of C, ``None`` where the compiler says nothing.
        label: ``L0``, ``L1``, ... if a jump leads here, ``T0``, ``T1``, ... if nothing but a jump
            table does, ``""`` otherwise.
    """

    line: Line
    code: bytes
    source: SourceLine | None
    label: str


@dataclass(frozen=True)
class Listing:
    """A function of an object.

    Attributes:
        function: The function.
        insns: Its instructions: those of the file, or if a target was given, those after CO-RE.
        rows: Its instructions, explained; slots are counted in the function.
        core: CO-RE decisions as ``(instruction index, decision)``; empty without a target.
        tables: Slots that its jump tables lead to.
    """

    function: ProgramSpec
    insns: list[Insn]
    rows: list[Row]
    core: list[tuple[int, CoreDecision]] = field(default_factory=list)
    tables: tuple[int, ...] = ()

    @cached_property
    def control_flow(self) -> ControlFlow:
        """Its blocks and the ways between them."""
        lines = [row.line for row in self.rows]
        return control_flow(self.insns, tables=self.tables, lines=lines)

    def diagram(self, *, source: bool = True) -> Diagram:
        """Its control flow as a diagram: ``.text()``, ``.dot()``, ``.mermaid()``, ``.svg()``.

        Args:
            source: Show lines of C above their instructions.
        """
        flow = self.control_flow
        texts: list[list[str]] = [[] for _ in flow.blocks]
        titles: list[str] = []
        before: SourceLine | None = None
        for row in self.rows:
            index = row.line.index
            if len(titles) < len(flow.blocks) and flow.blocks[len(titles)].start == index:
                titles.append(row.label or (f"at {index}" if index else self.function.name))
                before = None
            if source and row.source is not None and row.source != before:
                texts[len(titles) - 1].append(f"; {row.source.text}")
                before = row.source
            comment = f"  ; {row.line.comment}" if row.line.comment else ""
            texts[len(titles) - 1].append(f"{index:4d}: {row.line.text}{comment}")
        return Diagram(
            self.function.name,
            tuple(Box(title, tuple(lines)) for title, lines in zip(titles, texts, strict=True)),
            tuple(
                _LOOKS[edge.kind]._replace(source=edge.source, target=edge.target)
                for edge in flow.edges
            ),
        )


def listings(
    spec: ObjectSpec,
    target: Target | Btf | None = None,
    *,
    functions: Iterable[ProgramSpec] | None = None,
) -> list[Listing]:
    """List the functions of an object: programs and subprograms, in the order of the file.

    Without a target this is the code as it is in the file, in the words of ``llvm-objdump -d
    --symbolize-operands``.

    Args:
        spec: The object; not changed.
        target: Relocate CO-RE against this kernel, and tell what comes of it.
        functions: Only these.

    Raises:
        RelocationError: A CO-RE relocation of these functions cannot be honoured by the target, or
            a jump table is damaged.
        FormatError: The line info refers to strings that are not there.
    """
    chosen = list(spec.functions if functions is None else functions)
    code = {id(function): list(function.insns) for function in chosen}
    decisions: dict[int, CoreDecision] = {}
    if target is not None:
        if not isinstance(target, Target):
            target = Target(target)
        part = replace(spec, functions=chosen)
        for decision in relocate_core(part, code, target, everything=True):
            decisions[decision.serial] = decision
    lister = Lister(spec, decisions)
    return [lister.listing(function, code[id(function)]) for function in chosen]


def helper_names(insns: Iterable[Insn]) -> dict[int, str]:
    """Names of the helpers that code calls, by number."""
    numbers = {insn.imm for insn in insns if insn.is_helper_call}
    if not numbers:
        return {}
    from pybpfload.uapi import Helper

    known = Helper._value2member_map_
    return {n: f"bpf_{Helper(n).name.lower()}" for n in numbers if n in known}


class Words:
    """What instructions of an object refer to, in words.

    Args:
        spec: The object.
    """

    def __init__(self, spec: ObjectSpec) -> None:
        self._variables: dict[str, list[VariableSpec]] = {}  # of each map, by their places
        for variable in sorted(spec.variables.values(), key=_OFFSET):
            self._variables.setdefault(variable.map.name, []).append(variable)

    def reference(self, reference: Reference) -> str:
        """``map events``, ``&dropped+4``, ``kfunc bpf_cpumask_create``, ``kconfig CONFIG_HZ``."""
        if reference.kind == ReferenceKind.MAP_VALUE:
            here = self._variables.get(reference.name, [])
            last = bisect_right(here, reference.addend, key=_OFFSET) - 1
            if last >= 0:
                variable = here[bisect_left(here, here[last].offset, key=_OFFSET)]
                distance = reference.addend - variable.offset
                if distance < max(variable.size, 1):
                    return f"&{variable.name}" + (f"+{distance}" if distance else "")
            return f"map_value {reference.name}+{reference.addend}"
        offset = f"+{reference.addend}" if reference.kind == ReferenceKind.JUMP_TABLE else ""
        return f"{reference.kind} {reference.name}{offset}"

    def decision(self, decision: CoreDecision) -> str:
        """``CO-RE byte_off struct task_struct.pid = 2464``, or ``: poisoned``."""
        what = self.access(decision)
        if decision.outcome == Outcome.POISONED:
            return f"{what}: poisoned"
        return f"{what} = {decision.value}"

    def access(self, decision: CoreDecision) -> str:
        """``CO-RE byte_off struct task_struct.pid``."""
        path = ""
        if decision.local is not None:
            path = str(decision.local).partition("] ")[2].partition(" (")[0]
        return f"CO-RE {decision.kind_name} {path}"


class Lister:
    """Makes the listings of an object's functions, one by one.

    Args:
        spec: The object; not changed.
        decisions: CO-RE decisions by their serial numbers, as far as they are known.
    """

    def __init__(
        self, spec: ObjectSpec, decisions: Mapping[int, CoreDecision] | None = None
    ) -> None:
        self._spec = spec
        self._decisions = decisions or {}
        self._words = Words(spec)
        self._finder = Finder(spec.functions)
        self._maps = list(spec.maps)
        self._externs = list(spec.externs.items())
        self._text = next((f.section_index for f in spec.functions if f.is_subprogram), -1)
        ext = spec.btf_ext
        self._line_info = None if ext is None else InfoTable(spec, ext.line_info)
        self._rec_size = 0 if ext is None else ext.line_info.rec_size

    def listing(self, function: ProgramSpec, insns: list[Insn] | None = None) -> Listing:
        """List a function.

        Args:
            function: One of the object's.
            insns: Its instructions, if they are not those of the file any more.

        Raises:
            RelocationError: A jump table is damaged.
            FormatError: The line info refers to strings that are not there.
        """
        if insns is None:
            insns = function.insns
        relocs = {reloc.insn: reloc for reloc in reversed(function.relocs)}
        linked = Linked(insns, [(function, 0)])
        tables = {
            entry
            for reloc in function.relocs
            if reloc.kind == RelocKind.JUMP_TABLE
            for entry in jump_table(self._spec, linked, reloc)
        }
        notes = {index: self._referred(function, insns, reloc) for index, reloc in relocs.items()}
        for index, insn in enumerate(insns):
            if insn.is_subprog_call and index not in relocs:
                # Calls within a section are resolved by the compiler.
                notes[index] = self._function(function.section_index, function.start + index, insn)
        for serial, index, record in function.core_relos:
            note = self._core(serial, record)
            notes[index] = f"{notes[index]}; {note}" if notes.get(index) else note
        notes = {index: _short(note) for index, note in notes.items()}
        marked = _labels(insns, tables)
        labels = {0: _short(function.name), **marked}
        lines = disassemble(insns, labels=labels, names=notes, helpers=helper_names(insns))
        sources = self._sources(function, insns)
        order: Any = self._spec.byteorder
        rows = [
            Row(
                line,
                encode(insns[line.index : line.index + line.slots], order),
                sources[line.index],
                marked.get(line.index, ""),
            )
            for line in lines
        ]
        core = [
            (index, self._decisions[serial])
            for serial, index, _ in sorted(function.core_relos, key=lambda entry: entry[1])
            if serial in self._decisions
        ]
        return Listing(function, insns, rows, core, tuple(sorted(tables)))

    def _sources(self, function: ProgramSpec, insns: list[Insn]) -> SourceLines:
        records = None if self._line_info is None else self._line_info.records(function, 0)
        program = RelocatedProgram(
            function, insns, line_info=records, line_info_rec_size=self._rec_size
        )
        return SourceLines(program, self._spec)

    def _referred(self, function: ProgramSpec, insns: list[Insn], reloc: Reloc) -> str:
        insn = insns[reloc.insn]
        reference = self._words.reference
        if reloc.kind == RelocKind.CALL:
            return self._function(self._text, reloc.sym_off // 8, insn)
        if reloc.kind == RelocKind.FUNCTION:
            return self._place(self._text, (reloc.sym_off + insn.imm) // 8)
        if reloc.kind == RelocKind.MAP:
            return reference(Reference(0, ReferenceKind.MAP, self._maps[reloc.index]))
        if reloc.kind == RelocKind.MAP_VALUE:
            name = self._maps[reloc.index]
            # The compiler leaves the offset inside a section symbol in the instruction.
            return reference(Reference(0, ReferenceKind.MAP_VALUE, name, insn.imm + reloc.sym_off))
        if reloc.kind == RelocKind.JUMP_TABLE:
            return reference(Reference(0, ReferenceKind.JUMP_TABLE, ".jumptables", reloc.sym_off))
        name, extern = self._externs[reloc.index]
        return reference(Reference(0, _extern_kind(extern), name))

    def _function(self, section: int, index: int, insn: Insn) -> str:
        """Name of what a call calls: distances count from behind the instruction."""
        return self._place(section, index + insn.imm + 1)

    def _place(self, section: int, index: int) -> str:
        found = self._finder.by_index(section, index)
        if found is None:
            return ""
        function, distance = found
        return function.name + (f"+{distance * 8:#x}" if distance else "")

    def _core(self, serial: int, record: CoreRelo) -> str:
        decision = self._decisions.get(serial)
        if decision is not None:
            note = self._words.decision(decision)
            if decision.value is not None and decision.original not in (None, decision.value):
                note += f", was {decision.original}"
            return note
        if record.kind not in CoreKind._value2member_map_:
            return f"CO-RE of unknown kind {record.kind}"
        decision = CoreDecision(serial, "", 0, CoreKind(record.kind), record.access_str)
        try:
            btf = self._spec.require_btf("CO-RE")
            decision.local = parse_spec(btf, record.type_id, record.access_str, decision.kind)
        except (Failure, FormatError) as error:
            return f"CO-RE {decision.kind_name}: {error}"
        return self._words.access(decision)


def _short(note: str) -> str:
    """A note, cut short: a hostile file may have one name of a megabyte at every instruction."""
    return note if len(note) <= _LONGEST else f"{note[: _LONGEST - 3]}..."


def _extern_kind(extern: ExternSpec) -> str:
    if extern.kind == ExternKind.KSYM:
        return ReferenceKind.KSYM_BTF if extern.is_typed else ReferenceKind.KSYM
    return extern.kind  # kconfig and kfunc are the same words


def _labels(insns: Sequence[Insn], tables: set[int]) -> dict[int, str]:
    """Labels of the places that are jumped to, each kind numbered in the order of the code."""
    targets: set[int] = set()
    starts: set[int] = set()
    index = 0
    while index < len(insns):
        insn = insns[index]
        starts.add(index)
        if insn.is_jmp and not insn.is_call and (form := table.find(insn)) is not None:
            target = table.target(insn, form, index)
            if target is not None:
                targets.add(target)
        index += 2 if insn.is_ldimm64 and index + 1 < len(insns) else 1
    labels = {at: f"L{n}" for n, at in enumerate(sorted(starts & targets))}
    only_listed = sorted(starts & (tables - targets))
    return labels | {at: f"T{n}" for n, at in enumerate(only_listed)}
