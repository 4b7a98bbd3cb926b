"""The text of ``pybpfload relocate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.cli.failure import visible
from pybpfload.cli.table import table
from pybpfload.isa.disasm import disassemble
from pybpfload.relocate.listing import Words, helper_names
from pybpfload.uapi import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.relocate import CoreDecision, RelocatedProgram, Relocation

__all__ = ["render"]

_CODE_WIDTH = 44


def render(result: Relocation, files: list[str], *, verbose: bool) -> Iterator[str]:
    """Yield the lines about a relocation."""
    spec = result.object
    against = ", ".join(files) or "no BTF: it needs none"
    yield f"{visible(spec.path)}, relocated against {visible(against)}"
    words = Words(spec)
    for program in result.programs.values():
        yield ""
        yield from _program(result, program, words, verbose)


def _program(
    result: Relocation,
    program: RelocatedProgram,
    words: Words,
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
    yield from _code(program, words)
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


def _code(program: RelocatedProgram, words: Words) -> Iterator[str]:
    labels = {start: visible(function.name) for function, start in program.functions}
    names = {r.insn: visible(words.reference(r)) for r in program.references}
    for insn, decision in program.core:
        note = visible(words.decision(decision))
        names[insn] = f"{names[insn]}; {note}" if insn in names else note
    for insn, reason in program.poisons.items():
        names.setdefault(insn, visible(reason))
    helpers = helper_names(program.insns)
    for line in disassemble(program.insns, labels=labels, names=names, helpers=helpers):
        if line.index in labels:
            yield f"{labels[line.index]}:"
        remarks = [line.comment] if line.comment else []
        remarks += [f"invalid: {problem}" for problem in line.problems]
        code = f"{line.index:6d}: {line.text}"
        yield f"{code:{_CODE_WIDTH}}  ; {'; '.join(remarks)}" if remarks else code
