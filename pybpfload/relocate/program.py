"""Putting a program together: CO-RE, subprograms, references (libbpf ``bpf_object__relocate``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.isa import insn as isa
from pybpfload.object.spec import ExternKind, ObjectSpec, ProgramSpec, Reloc, RelocKind
from pybpfload.relocate.core.candidates import Target
from pybpfload.relocate.core.decision import Outcome
from pybpfload.relocate.core.driver import relocate_core
from pybpfload.relocate.core.patch import poison
from pybpfload.relocate.failure import DAMAGED, at_function
from pybpfload.relocate.jumptables import jump_table
from pybpfload.relocate.link import Linked, Linker

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable

    from pybpfload.btf import Btf
    from pybpfload.isa.insn import Insn
    from pybpfload.object.spec import ExternSpec
    from pybpfload.relocate.core.decision import CoreDecision

__all__ = [
    "KFUNC_POISON",
    "MAP_POISON",
    "Reference",
    "ReferenceKind",
    "RelocatedProgram",
    "Relocation",
    "relocate",
]

MAP_POISON = 2001000000
"""Plus the index of the map: helper number that stands for a map that was not created."""

KFUNC_POISON = 2002000000
"""Plus the index of the extern: helper number that stands for a weak kfunc that was not found."""


class ReferenceKind:
    """What an instruction waits for."""

    MAP = "map"
    MAP_VALUE = "map_value"
    KCONFIG = "kconfig"
    KSYM = "ksym"
    KSYM_BTF = "ksym_btf"
    KFUNC = "kfunc"
    JUMP_TABLE = "jump_table"


class Reference(NamedTuple):
    """Something that only a running kernel can fill in; until then the immediates are zero.

    Attributes:
        insn: Index of the instruction in the final program.
        kind: One of :class:`ReferenceKind`.
        name: Name of the map or extern in :attr:`ObjectSpec.maps` or
            :attr:`ObjectSpec.externs`, or ``.jumptables``.
        addend: Byte offset inside the map value, or in ``.jumptables``; 0 otherwise.
    """

    insn: int
    kind: str
    name: str
    addend: int = 0


@dataclass(slots=True, eq=False)
class RelocatedProgram:
    """A program with its subprograms appended.

    Attributes:
        spec: What it was made of.
        insns: All instructions.
        references: What is still to be filled in, in the order of the instructions.
        functions: Its functions as ``(spec, index of the first instruction)``, the program itself
            first.
        core: CO-RE decisions as ``(instruction index in the final program, decision)``.
        func_info, line_info: Records for the kernel as flat arrays of native 32-bit words, ``None``
            when the object has none for the program.
        func_info_rec_size, line_info_rec_size: Size of one record in bytes.
        jump_tables: Byte offset in ``.jumptables`` -> for each entry of the table there, the index
            of an instruction in the final program; for a map of type ``INSN_ARRAY`` (6.19).
        poisons: Instruction index -> why it was replaced by a call that cannot work.
    """

    spec: ProgramSpec
    insns: list[Insn]
    references: list[Reference] = field(default_factory=list)
    functions: list[tuple[ProgramSpec, int]] = field(default_factory=list)
    core: list[tuple[int, CoreDecision]] = field(default_factory=list)
    func_info: array[int] | None = None
    line_info: array[int] | None = None
    func_info_rec_size: int = 0
    line_info_rec_size: int = 0
    jump_tables: dict[int, tuple[int, ...]] = field(default_factory=dict)
    poisons: dict[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the program."""
        return self.spec.name


@dataclass(slots=True, eq=False)
class Relocation:
    """Result of :func:`relocate`.

    Attributes:
        object: The spec it was made of.
        target: What it was relocated against.
        programs: By name, in the object's order.
        decisions: Every CO-RE decision, in the order of the records.
    """

    object: ObjectSpec
    target: Target
    programs: dict[str, RelocatedProgram]
    decisions: list[CoreDecision]


def relocate(
    spec: ObjectSpec,
    target: Target | Btf | None = None,
    *,
    modules: Iterable[Btf] = (),
    everything: bool = False,
    exception_callbacks: bool = True,
) -> Relocation:
    """Relocate an object against the types of a kernel, without asking that kernel anything.

    Args:
        spec: The object. It is not changed; the same arguments always give the same result.
        target: BTF of the kernel, or a :class:`Target`. Objects without CO-RE relocations need
            none.
        modules: BTFs of modules, searched for types that ``target`` does not have.
        everything: Do all programs, not only those that are loaded.
        exception_callbacks: Append the functions that ``exception_callback:`` tags name. A kernel
            without declaration tags (before 5.16) has no use for them and would refuse a function
            that nobody calls.

    Returns:
        The final instructions of every program, with symbolic references, and every CO-RE decision.

    Raises:
        RelocationError: Something cannot be resolved or patched.
    """
    if not isinstance(target, Target):
        target = Target(target, modules)
    # Every function is relocated once, on a copy of its own; programs then take copies of that.
    code = {id(function): list(function.insns) for function in spec.functions}
    decisions = relocate_core(spec, code, target, everything=everything)
    _mark_function_addresses(spec, code)
    linker = Linker(spec, code, exception_callbacks=exception_callbacks)
    by_serial = {decision.serial: decision for decision in decisions}
    programs = {}
    linked = [
        (key, function, linker.link(function))
        for key, function in (spec.programs if everything else spec.loaded_programs).items()
    ]
    for key, function, result in linked:
        program = RelocatedProgram(
            function,
            result.insns,
            functions=result.functions,
            func_info=result.func_info,
            line_info=result.line_info,
            func_info_rec_size=result.func_info_rec_size,
            line_info_rec_size=result.line_info_rec_size,
        )
        _collect_core(program, by_serial)
        _resolve_references(spec, program, result)
        programs[key] = program
    return Relocation(spec, target, programs, decisions)


def _mark_function_addresses(spec: ObjectSpec, code: dict[int, list[Insn]]) -> None:
    for function in spec.functions:
        insns = code[id(function)]
        for reloc in function.relocs:
            if reloc.kind == RelocKind.FUNCTION:
                insns[reloc.insn] = insns[reloc.insn]._replace(src=isa.PSEUDO_FUNC)


def _collect_core(program: RelocatedProgram, by_serial: dict[int, CoreDecision]) -> None:
    for function, start in program.functions:
        for serial, index, _ in sorted(function.core_relos, key=lambda entry: entry[1]):
            decision = by_serial[serial]
            program.core.append((start + index, decision))
            if decision.outcome == Outcome.POISONED:
                program.poisons[start + index] = f"{decision}: {decision.reason}"


def _resolve_references(spec: ObjectSpec, program: RelocatedProgram, linked: Linked) -> None:
    maps, externs = list(spec.maps.items()), list(spec.externs.items())
    insns = program.insns
    for reloc in linked.relocs:
        at = reloc.insn
        if reloc.kind in (RelocKind.CALL, RelocKind.FUNCTION):
            continue  # the linker has done them
        if insns[at].code == isa.CALL and insns[at].imm == 0xBAD2310:
            continue  # poisoned by CO-RE
        if insns[at].code == isa.LDIMM64 and at + 1 >= len(insns):
            raise at_function(
                program.spec, at, "64-bit constant is cut short", file=spec.path, hint=DAMAGED
            )
        if reloc.kind in (RelocKind.MAP, RelocKind.MAP_VALUE):
            name, map_spec = maps[reloc.index]
            _refer_to_map(program, reloc, name, map_spec.autocreate)
        elif reloc.kind == RelocKind.JUMP_TABLE:
            if reloc.sym_off not in program.jump_tables:
                program.jump_tables[reloc.sym_off] = jump_table(spec, linked, reloc)
            insns[at] = insns[at]._replace(src=isa.PSEUDO_MAP_VALUE, off=0, imm=0)
            program.references.append(
                Reference(at, ReferenceKind.JUMP_TABLE, ".jumptables", reloc.sym_off)
            )
        else:
            _refer_to_extern(program, reloc, *externs[reloc.index])
    program.references.sort(key=lambda reference: reference.insn)


def _refer_to_map(program: RelocatedProgram, reloc: Reloc, name: str, exists: bool) -> None:
    insns, at = program.insns, reloc.insn
    if not exists:
        poison(insns, at, MAP_POISON + reloc.index)
        program.poisons[at] = f"map {name} was not created"
        return
    if reloc.kind == RelocKind.MAP:
        insns[at] = insns[at]._replace(src=isa.PSEUDO_MAP_FD, imm=0)
        program.references.append(Reference(at, ReferenceKind.MAP, name))
        return
    # The compiler leaves the offset inside a section symbol in the first half.
    offset = _signed32(insns[at].imm + reloc.sym_off)
    insns[at] = insns[at]._replace(src=isa.PSEUDO_MAP_VALUE, imm=0)
    insns[at + 1] = insns[at + 1]._replace(imm=offset)
    program.references.append(Reference(at, ReferenceKind.MAP_VALUE, name, offset))


def _refer_to_extern(
    program: RelocatedProgram, reloc: Reloc, name: str, extern: ExternSpec
) -> None:
    insns, at = program.insns, reloc.insn
    if reloc.kind == RelocKind.EXTERN_CALL:
        insns[at] = insns[at]._replace(src=isa.PSEUDO_KFUNC_CALL, off=0, imm=0)
        program.references.append(Reference(at, ReferenceKind.KFUNC, name))
        return
    src, second, kind = insns[at].src, 0, ReferenceKind.KSYM
    if extern.kind == ExternKind.KCONFIG:
        src, second, kind = isa.PSEUDO_MAP_VALUE, extern.offset, ReferenceKind.KCONFIG
    elif extern.is_typed:
        src, second, kind = isa.PSEUDO_BTF_ID, 0, ReferenceKind.KSYM_BTF
        if extern.kind == ExternKind.KFUNC:
            kind = ReferenceKind.KFUNC
    insns[at] = insns[at]._replace(src=src, imm=0)
    insns[at + 1] = insns[at + 1]._replace(imm=second)
    program.references.append(Reference(at, kind, name, second))


def _signed32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value
