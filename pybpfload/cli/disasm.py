"""``pybpfload disasm``: code with C source, names, arrows and CO-RE; control flow. Offline."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, draws_unicode, open_object, print_json
from pybpfload.cli.failure import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.object.spec import ObjectSpec, ProgramSpec
    from pybpfload.relocate.listing import Listing

__all__ = ["chosen", "document", "run"]

_EXAMPLES = """\
examples:
  pybpfload disasm tracer.bpf.o                           all programs and subprograms
  pybpfload disasm tracer.bpf.o on_exec --no-source       one of them, without C
  pybpfload disasm tracer.bpf.o --btf vmlinux-6.1         with what CO-RE makes of it there
  pybpfload disasm tracer.bpf.o on_exec --cfg svg > on_exec.svg
  pybpfload disasm tracer.bpf.o --cfg dot | dot -Tpdf > tracer.pdf

The code is that of the file, function by function, as llvm-objdump writes it. What a program
becomes with its subprograms on a kernel is shown by pybpfload relocate.
"""

_FORMATS = ("ascii", "dot", "mermaid", "svg")
_SINGLE = ("mermaid", "svg")  # a file holds one


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("disasm", "Show the code of an object, explained.", _EXAMPLES)
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_argument("programs", metavar="PROG", nargs="*", help="only these functions")
    parser.add_btf_files("relocate CO-RE against this BTF; may be repeated")
    parser.add_argument(
        "--cfg", metavar="FORMAT", choices=_FORMATS, help="control flow: ascii, dot, mermaid, svg"
    )
    parser.add_argument("--no-source", action="store_true", help="leave out the lines of C")
    parser.add_argument("--no-arrows", action="store_true", help="leave out the arrows of jumps")
    parser.add_argument("--bytes", action="store_true", help="show the bytes of instructions")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII only")
    options = parser.read(arguments)

    from pybpfload.cli.relocation import read_target
    from pybpfload.relocate.listing import listings

    spec = open_object(options.object)
    functions = chosen(spec, options.programs)
    if options.cfg in _SINGLE and len(functions) != 1:
        names = ", ".join(function.name for function in functions)
        raise UsageError(f"--cfg {options.cfg} shows one function; choose one of {names or 'none'}")
    target = read_target(spec, options.btf)[1] if options.btf else None
    made = listings(spec, target, functions=functions)
    if options.json:
        print_json([document(each) for each in made])
        return 0

    from pybpfload.cli.disasm_text import render

    unicode = draws_unicode(ascii_only=options.ascii)
    for position, each in enumerate(made):
        if options.cfg:
            diagram = each.diagram(source=not options.no_source)
            if options.cfg == "ascii":
                sys.stdout.write(diagram.text(unicode=unicode))
            else:
                sys.stdout.write(getattr(diagram, options.cfg)())
            continue
        if position:
            print()
        for line in render(
            each,
            source=not options.no_source,
            arrows=not options.no_arrows,
            code=options.bytes,
            unicode=unicode,
            verbose=options.verbose,
        ):
            print(line)
    return 0


def chosen(spec: ObjectSpec, names: Sequence[str]) -> list[ProgramSpec]:
    """Functions with the names given on the command line, all without any.

    Raises:
        UsageError: There is none of a name.
    """
    known = {function.name for function in spec.functions}
    for name in names:
        if name not in known:
            there = ", ".join(function.name for function in spec.functions) or "none"
            close = did_you_mean(name, known)
            raise UsageError(f"no program {name!r}{close or '; there are: ' + there}")
    return [function for function in spec.functions if not names or function.name in names]


def document(listing: Listing) -> dict[str, Any]:
    """Describe a listing in plain values, as ``disasm --json`` prints them.

    The keys are in ``docs/command-line.md``.
    """
    function, flow = listing.function, listing.control_flow
    return {
        "name": function.name,
        "section": function.section,
        "subprogram": function.is_subprogram,
        "instructions": [
            {
                "index": row.line.index,
                "text": row.line.text,
                "bytes": row.code.hex(),
                "source": row.source and row.source._asdict(),
                "label": row.label or None,
                "comment": row.line.comment or None,
                "target": row.line.target,
                "since": row.line.since,
                "problems": list(row.line.problems),
            }
            for row in listing.rows
        ],
        "blocks": [block._asdict() for block in flow.blocks],
        "edges": [edge._asdict() for edge in flow.edges],
    }
