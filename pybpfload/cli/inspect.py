"""``pybpfload inspect``: what is in an object. Offline, on any system, for either byte order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, draws_unicode, open_object, print_json

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload inspect tracer.bpf.o
  pybpfload inspect -v tracer.bpf.o          with the definitions of its structs
  pybpfload inspect --tree tracer.bpf.o      what each program calls, uses, asks of types
  pybpfload inspect --html page.html tracer.bpf.o
  pybpfload inspect --json tracer.bpf.o | jq '.programs[].section'
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("inspect", "Show what is in BPF objects.", _EXAMPLES)
    parser.add_argument("objects", metavar="OBJ", nargs="+", help="a BPF object file")
    parser.add_argument("--tree", action="store_true", help="show a tree instead of tables")
    parser.add_argument("--ascii", action="store_true", help="draw the tree with ASCII only")
    parser.add_argument("--html", metavar="FILE", help="write a page with all of it, code included")
    options = parser.read(arguments)

    from pybpfload.cli.describe import describe
    from pybpfload.cli.failure import report
    from pybpfload.errors import BpfError

    status = 0
    specs, described = [], []
    for path in options.objects:
        try:
            spec = open_object(path)
            described.append(describe(spec))
            specs.append(spec)
        except (BpfError, OSError) as error:
            # The others are shown all the same.
            status = report(error, verbose=options.verbose) or 1
    if options.html and specs:
        from pybpfload.cli.describe_html import html

        Path(options.html).write_text(html(specs), encoding="utf-8")
    if options.json:
        if described or len(options.objects) > 1:
            print_json(described[0] if len(options.objects) == 1 else described)
        return status

    for position, one in enumerate(described):
        if position:
            print()
        for line in _lines(one, options):
            print(line)
    return status


def _lines(one: dict[str, Any], options: Namespace) -> Iterator[str]:
    if options.tree:
        from pybpfload.cli.describe_tree import tree

        return tree(one).lines(unicode=draws_unicode(ascii_only=options.ascii))
    from pybpfload.cli.describe_text import render

    return render(one, verbose=options.verbose)
