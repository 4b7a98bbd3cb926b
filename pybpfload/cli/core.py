"""``pybpfload core``: why each CO-RE relocation came out as it did. Offline."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, open_object, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.isa.insn import Insn
    from pybpfload.relocate import CoreDecision
    from pybpfload.relocate.core.decision import Spec
    from pybpfload.relocate.listing import Listing
    from pybpfload.relocate.source import SourceLine

__all__ = ["document", "run"]

_EXAMPLES = """\
examples:
  pybpfload core tracer.bpf.o                             on the running kernel
  pybpfload core --btf vmlinuz-6.1 --program on_exec tracer.bpf.o
  pybpfload core --btf vmlinux --btf nf_tables.ko --json tracer.bpf.o
  pybpfload core --btf vmlinuz-6.1 --program on_exec --insn 4 --svg tracer.bpf.o > 4.svg

A BTF file is raw BTF, an ELF file with BTF (vmlinux, a module), or a kernel image.
The first is the kernel's, the others are those of modules.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("core", "Explain the CO-RE relocations of an object.", _EXAMPLES)
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_btf_files()
    parser.add_programs("program or subprogram")
    parser.add_argument("--insn", metavar="N", type=int, help="only the relocation there")
    parser.add_argument("--svg", action="store_true", help="draw it: types of both sides, an arrow")
    options = parser.read(arguments)

    from pybpfload.cli.disasm import chosen
    from pybpfload.cli.failure import UsageError
    from pybpfload.cli.relocation import read_target
    from pybpfload.relocate.listing import listings

    spec = open_object(options.object)
    functions = chosen(spec, options.program)
    files, target = read_target(spec, options.btf)
    made = listings(spec, target, functions=functions)
    if options.insn is not None:
        made = [_only(listing, options.insn) for listing in made]
        if not any(listing.core for listing in made):
            raise UsageError(f"no relocation at instruction {options.insn}; try without --insn")
    if options.svg:
        found = [decision for listing in made for _, decision in listing.core]
        if len(found) != 1:
            raise UsageError(
                f"--svg draws one relocation, these are {len(found)}; "
                "choose it with --program and --insn"
            )
        print(found[0].picture().svg(), end="")
        return 0
    if options.json:
        print_json([entry for listing in made for entry in document(listing)])
        return 0
    for line in _text(spec.path, files, made):
        print(line)
    return 0


def _only(listing: Listing, insn: int) -> Listing:
    kept = [(index, decision) for index, decision in listing.core if index == insn]
    return replace(listing, core=kept)


def document(listing: Listing) -> list[dict[str, Any]]:
    """Describe the CO-RE decisions of a function in plain values, as ``core --json`` prints them.

    The keys are in ``docs/command-line.md``.
    """
    return [
        {
            "program": listing.function.name,
            "insn": index,
            "kind": decision.kind_name,
            "source": source and source._asdict(),
            "local": _side(decision.local),
            "candidates": [{"btf": name, "type_id": n} for name, n in decision.candidates],
            "target": _side(decision.target),
            "original": decision.original,
            "value": decision.value,
            "before": _instruction(decision.before),
            "after": _instruction(decision.after),
            "outcome": decision.outcome,
            "reason": decision.reason or None,
        }
        for index, decision, source in _decisions(listing)
    ]


def _decisions(listing: Listing) -> Iterator[tuple[int, CoreDecision, SourceLine | None]]:
    sources = {row.line.index: row.source for row in listing.rows}
    for index, decision in listing.core:
        yield index, decision, sources.get(index)


def _side(access: Spec | None) -> dict[str, Any] | None:
    if access is None:
        return None
    return {"btf": access.btf.name, "access": str(access), "declaration": access.declaration}


def _instruction(insns: tuple[Insn, ...]) -> str:
    from pybpfload.isa.disasm import disassemble

    return "; ".join(line.text for line in disassemble(insns))


def _text(path: str, files: list[str], made: list[Listing]) -> Iterator[str]:
    from pybpfload.cli.disasm_text import source_text
    from pybpfload.cli.failure import visible
    from pybpfload.cli.style import BAD, GOOD, NAME, TITLE, paint
    from pybpfload.relocate import Outcome

    against = ", ".join(files) or "no BTF: it needs none"
    yield paint(f"{visible(path)}, relocated against {visible(against)}", TITLE)
    if not any(listing.core for listing in made):
        yield "no CO-RE relocations"
    for listing in made:
        for index, decision, source in _decisions(listing):
            offered = [f"[{number}] of {name}" for name, number in decision.candidates]
            poisoned = decision.outcome == Outcome.POISONED
            there = "none" if decision.value is None else str(decision.value)
            facts = (
                ("source", source and source_text(source)),
                ("local", decision.local and str(decision.local)),
                ("", decision.local and decision.local.declaration),
                ("candidates", ", ".join(offered) or "none"),
                ("target", str(decision.target) if decision.target else "none"),
                ("", decision.target and decision.target.declaration),
                ("value", f"{decision.original} in the object, {there} there"),
                ("before", _instruction(decision.before)),
                ("after", _instruction(decision.after)),
                ("outcome", paint(decision.outcome, BAD if poisoned else GOOD)),
                ("because", visible(decision.reason)),
            )
            yield ""
            place = f"{visible(listing.function.name)}, instruction {index}"
            yield f"{paint(place, NAME)}: {decision.kind_name}"
            for what, fact in facts:
                if fact:
                    shown = fact if what == "outcome" else visible(fact)
                    yield f"  {what:10}  {shown}"
