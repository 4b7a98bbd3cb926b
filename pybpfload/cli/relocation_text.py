"""The text of ``pybpfload relocate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.cli.failure import visible
from pybpfload.cli.table import table
from pybpfload.isa.disasm import disassemble
from pybpfload.relocate import Outcome, ReferenceKind
from pybpfload.uapi import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.object.spec import ObjectSpec
    from pybpfload.relocate import CoreDecision, Reference, RelocatedProgram, Relocation

__all__ = ["render"]

_CODE_WIDTH = 44


def render(result: Relocation, files: list[str], *, verbose: bool) -> Iterator[str]:
    """Yield the lines about a relocation."""
    spec = result.object
    against = ", ".join(files) or "no BTF: it needs none"
    yield f"{visible(spec.path)}, relocated against {visible(against)}"
    for program in result.programs.values():
        yield ""
        yield from _program(result, program, verbose)


def _program(result: Relocation, program: RelocatedProgram, verbose: bool) -> Iterator[str]:
    what = name_of(program.spec.prog_type)
    if program.spec.expected_attach_type:
        what += f", {name_of(program.spec.expected_attach_type)}"
    count = len(program.insns)
    yield (
        f'program {visible(program.name)} SEC("{visible(program.spec.section)}"), {what}, '
        f"{count} instruction{'s' * (count != 1)}"
    )
    yield from _code(result.object, program)
    if program.core:
        yield ""
        yield from table(
            ("insn", "CO-RE", "local", "target", "value", "was", "outcome"),
            [_decision(result, insn, decision) for insn, decision in program.core],
        )
        for insn, decision in program.core:
            if decision.reason:
                yield f"  {insn} {decision.outcome}: {visible(decision.reason)}"
            if verbose:
                offered = [f"[{number}] of {name}" for name, number in decision.candidates]
                yield f"  {insn} candidates: {visible(', '.join(offered)) or 'none'}"


def _decision(result: Relocation, insn: int, decision: CoreDecision) -> tuple[object, ...]:
    target = None
    if decision.target is not None:
        target = str(decision.target)
        if decision.target.btf is not result.target.btf:
            target += f" in {decision.target.btf.name}"
    return (
        insn,
        decision.kind_name,
        str(decision.local),
        target,
        decision.value,
        decision.original,
        decision.outcome,
    )


def _code(spec: ObjectSpec, program: RelocatedProgram) -> Iterator[str]:
    labels = {start: visible(function.name) for function, start in program.functions}
    names = {r.insn: visible(_reference(spec, r)) for r in program.references}
    for insn, decision in program.core:
        note = visible(_core_note(decision))
        names[insn] = f"{names[insn]}; {note}" if insn in names else note
    for insn, reason in program.poisons.items():
        names.setdefault(insn, visible(reason))
    for line in disassemble(program.insns, labels=labels, names=names, helpers=_helpers(program)):
        if line.index in labels:
            yield f"{labels[line.index]}:"
        remarks = [line.comment] if line.comment else []
        remarks += [f"invalid: {problem}" for problem in line.problems]
        code = f"{line.index:6d}: {line.text}"
        yield f"{code:{_CODE_WIDTH}}  ; {'; '.join(remarks)}" if remarks else code


def _reference(spec: ObjectSpec, reference: Reference) -> str:
    if reference.kind == ReferenceKind.MAP_VALUE:
        for variable in spec.variables.values():
            distance = reference.addend - variable.offset
            if variable.map.name == reference.name and 0 <= distance < max(variable.size, 1):
                return f"&{variable.name}" + (f"+{distance}" if distance else "")
        return f"map_value {reference.name}+{reference.addend}"
    offset = f"+{reference.addend}" if reference.kind == ReferenceKind.JUMP_TABLE else ""
    return f"{reference.kind} {reference.name}{offset}"


def _core_note(decision: CoreDecision) -> str:
    local = decision.local
    path = ""
    if local is not None:
        path = str(local).partition("] ")[2].partition(" (")[0]
    if decision.outcome == Outcome.POISONED:
        return f"CO-RE {decision.kind_name} {path}: poisoned"
    return f"CO-RE {decision.kind_name} {path} = {decision.value}"


def _helpers(program: RelocatedProgram) -> dict[int, str]:
    numbers = {insn.imm for insn in program.insns if insn.is_helper_call}
    if not numbers:
        return {}
    from pybpfload.uapi import Helper

    known = Helper._value2member_map_
    return {n: f"bpf_{Helper(n).name.lower()}" for n in numbers if n in known}
