"""The text of ``pybpfload relocate``."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

from pybpfload.cli.failure import visible
from pybpfload.cli.table import table
from pybpfload.isa.disasm import disassemble
from pybpfload.relocate import Outcome, ReferenceKind
from pybpfload.uapi import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.object.spec import ObjectSpec, VariableSpec
    from pybpfload.relocate import CoreDecision, Reference, RelocatedProgram, Relocation

__all__ = ["render"]

_CODE_WIDTH = 44
_OFFSET = attrgetter("offset")


def render(result: Relocation, files: list[str], *, verbose: bool) -> Iterator[str]:
    """Yield the lines about a relocation."""
    spec = result.object
    against = ", ".join(files) or "no BTF: it needs none"
    yield f"{visible(spec.path)}, relocated against {visible(against)}"
    variables = _by_map(spec)
    for program in result.programs.values():
        yield ""
        yield from _program(result, program, variables, verbose)


def _program(
    result: Relocation,
    program: RelocatedProgram,
    variables: dict[str, list[VariableSpec]],
    verbose: bool,
) -> Iterator[str]:
    what = name_of(program.spec.prog_type)
    if program.spec.expected_attach_type:
        what += f", {name_of(program.spec.expected_attach_type)}"
    count = len(program.insns)
    yield (
        f'program {visible(program.name)} SEC("{visible(program.spec.section)}"), {what}, '
        f"{count} instruction{'s' * (count != 1)}"
    )
    yield from _code(program, variables)
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


def _code(program: RelocatedProgram, variables: dict[str, list[VariableSpec]]) -> Iterator[str]:
    labels = {start: visible(function.name) for function, start in program.functions}
    names = {r.insn: visible(_reference(variables, r)) for r in program.references}
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


def _by_map(spec: ObjectSpec) -> dict[str, list[VariableSpec]]:
    """Variables of each map in the order of their places."""
    found: dict[str, list[VariableSpec]] = {}
    for variable in sorted(spec.variables.values(), key=_OFFSET):
        found.setdefault(variable.map.name, []).append(variable)
    return found


def _reference(variables: dict[str, list[VariableSpec]], reference: Reference) -> str:
    if reference.kind == ReferenceKind.MAP_VALUE:
        here = variables.get(reference.name, [])
        last = bisect_right(here, reference.addend, key=_OFFSET) - 1
        if last >= 0:
            variable = here[bisect_left(here, here[last].offset, key=_OFFSET)]
            distance = reference.addend - variable.offset
            if distance < max(variable.size, 1):
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
