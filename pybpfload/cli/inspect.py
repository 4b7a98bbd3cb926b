"""``pybpfload inspect``: what is in an object. Offline, on any system, for either byte order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, open_object, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload inspect tracer.bpf.o
  pybpfload inspect -v tracer.bpf.o          with the definitions of its structs
  pybpfload inspect --json tracer.bpf.o | jq '.programs[].section'
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("inspect", "Show what is in BPF objects.", _EXAMPLES)
    parser.add_argument("objects", metavar="OBJ", nargs="+", help="a BPF object file")
    options = parser.read(arguments)

    from pybpfload.cli.describe import describe
    from pybpfload.cli.failure import report
    from pybpfload.errors import BpfError

    status = 0
    described = []
    for path in options.objects:
        try:
            described.append(describe(open_object(path)))
        except (BpfError, OSError) as error:
            # The others are shown all the same.
            status = report(error, verbose=options.verbose) or 1
    if options.json:
        if described or len(options.objects) > 1:
            print_json(described[0] if len(options.objects) == 1 else described)
        return status

    from pybpfload.cli.describe_text import render

    for position, one in enumerate(described):
        if position:
            print()
        for line in render(one, verbose=options.verbose):
            print(line)
    return status
