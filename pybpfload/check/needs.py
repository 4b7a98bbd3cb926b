"""What a program asks of a kernel, apart from its types: kinds of things, helpers, instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pybpfload import uapi
from pybpfload.isa import insn as isa
from pybpfload.isa import table
from pybpfload.isa.disasm import disassemble
from pybpfload.kernel.since import first_version
from pybpfload.relocate import ReferenceKind
from pybpfload.uapi import MapFlag

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from pybpfload.object.spec import MapSpec, ProgramSpec
    from pybpfload.relocate import RelocatedProgram

__all__ = ["Need", "map_needs", "program_needs"]

# What references ask for: libbpf's features of the same names.
_REFERENCES = {
    ReferenceKind.MAP_VALUE: ("global variables", "5.2"),
    ReferenceKind.KCONFIG: ("global variables", "5.2"),
    ReferenceKind.KSYM_BTF: ("variables of the kernel", "5.10"),
    ReferenceKind.KFUNC: ("calls of kernel functions", "5.13"),
    ReferenceKind.JUMP_TABLE: ("jump tables", "6.19"),
}
# What calls and 64-bit constants ask for stands elsewhere, but for these sources.
_SOURCES = {
    (isa.CALL, isa.PSEUDO_CALL): ("functions", "4.16"),
    (isa.LDIMM64, isa.PSEUDO_FUNC): ("callbacks", "5.13"),
}
_FEW_INSNS = 4096  # of a program before 5.2 (BPF_MAXINSNS)
_POISONED = 100_000_000  # numbers of helpers that libbpf writes where something is missing


class Need(NamedTuple):
    """Something that the kernel has to know.

    Attributes:
        kind: ``"program type"``, ``"attach type"``, ``"program flag"``, ``"map type"``, ``"map
            flag"``, ``"helper"``, ``"instruction"``, ``"feature"``.
        name: Its name: ``ringbuf``, ``bpf_loop``, ``r1 = *(s8 *)(r2 + 0x0)``.
        since: First kernel that has it; ``None`` if no kernel known here has.
        enum: Class of :mod:`pybpfload.uapi` that numbers it, or ``""``.
        number: Its number there.
        insn: Index of the first instruction that asks for it, -1 if none does.
    """

    kind: str
    name: str
    since: str | None
    enum: str = ""
    number: int = 0
    insn: int = -1

    def __str__(self) -> str:
        return self.name if self.kind == "feature" else f"{self.kind} {self.name}"


def program_needs(program: RelocatedProgram, alive: Container[int]) -> Iterator[Need]:
    """What a program needs; each thing once.

    Args:
        program: The program, relocated.
        alive: Indices of the instructions that count (:func:`~pybpfload.check.reach.reachable`).
    """
    yield from _type_needs(program.spec)
    if len(program.insns) > _FEW_INSNS:
        yield Need("feature", f"programs of {len(program.insns)} instructions", "5.2")
    seen: set[object] = set()
    for reference in program.references:
        young = _REFERENCES.get(reference.kind)
        if young and young not in seen and reference.insn in alive:
            seen.add(young)
            yield Need("feature", *young, insn=reference.insn)
    step = iter(range(len(program.insns)))
    for index in step:
        insn = program.insns[index]
        if insn.is_ldimm64:
            next(step, None)
        if index not in alive:
            continue
        if insn.is_helper_call:
            if insn.imm not in seen and not insn.imm >= _POISONED:
                seen.add(insn.imm)
                yield _member("helper", "Helper", insn.imm, index)
        elif insn.code in (isa.CALL, isa.LDIMM64):
            young = _SOURCES.get((insn.code, insn.src))
            if young and young not in seen:
                seen.add(young)
                yield Need("feature", *young, insn=index)
        elif (form := table.find(insn)) is not None:
            key = (form.code, tuple(form.fixed.items()))
            if key not in seen:
                seen.add(key)
                (line,) = disassemble([insn])
                yield Need("instruction", line.text, form.since, insn=index)


def _type_needs(program: ProgramSpec) -> Iterator[Need]:
    yield _member("program type", "ProgType", program.prog_type)
    optional = program.sec is not None and program.sec.attach_type_optional
    if program.expected_attach_type and not optional and not _is_member(program):
        yield _member("attach type", "AttachType", program.expected_attach_type)
    yield from _bits("program flag", "ProgFlag", program.flags)


def _is_member(program: ProgramSpec) -> bool:
    """Whether the attach type is the index of a struct_ops member."""
    return program.prog_type == uapi.ProgType.STRUCT_OPS


def map_needs(found: MapSpec) -> Iterator[Need]:
    """What a map needs, and the maps inside it."""
    yield _member("map type", "MapType", found.type)
    # Where arrays cannot be mapped, loading leaves the flag of sections out.
    yield from _bits("map flag", "MapFlag", found.flags & ~(found.is_internal * MapFlag.MMAPABLE))
    if found.inner is not None:
        yield from map_needs(found.inner)


def _member(kind: str, enum: str, number: int, insn: int = -1) -> Need:
    name = uapi.name_of(getattr(uapi, enum)(number))
    if enum == "Helper":
        name = f"bpf_{name}"
    return Need(kind, name, first_version(enum, number), enum, number, insn)


def _bits(kind: str, enum: str, flags: int) -> Iterator[Need]:
    for bit in (1 << shift for shift in range(32) if flags >> shift & 1):
        yield _member(kind, enum, bit)
