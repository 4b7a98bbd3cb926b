"""``pybpfload gen``: files made from an object. Offline, on any system, for either byte order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, open_object, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload gen stubs -o tracer_bpf.pyi tracer.bpf.o

and in the program that loads it:
  if TYPE_CHECKING:
      from tracer_bpf import ObjectSpec
  spec = cast("ObjectSpec", pybpfload.open("tracer.bpf.o"))
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("gen", "Make a file from a BPF object.", _EXAMPLES)
    parser.add_argument(
        "what", choices=["stubs"], help="stubs: a .pyi that tells editors and type checkers of it"
    )
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to; standard output")
    options = parser.read(arguments)

    from pybpfload.cli.stubs import stub_text

    text = stub_text(open_object(options.object))
    if options.output and options.output != "-":
        Path(options.output).write_text(text, encoding="utf-8")
    elif options.json:
        print_json({"object": options.object, "stubs": text})
    else:
        sys.stdout.write(text)
    return 0
