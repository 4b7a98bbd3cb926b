"""``pybpfload log``: a verifier log explained. Offline, of any kernel, on any system."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import visible
from pybpfload.cli.style import BAD, DIM, GOOD, NAME, TITLE, paint

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload log refused.txt
  bpftool prog load x.bpf.o /sys/fs/bpf/x 2>&1 | pybpfload log
  pybpfload log --json refused.txt | jq '.[0].cause.name'

FILE is a log as the kernel wrote it, or what libbpf, bpftool or another loader printed with
logs in it. Nothing is loaded, and no kernel is asked.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("log", "Explain why the verifier refused a program.", _EXAMPLES)
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="the log [standard input]"
    )
    options = parser.read(arguments)

    from pybpfload.errors import FormatError
    from pybpfload.verifier import explain, split

    if options.file == "-":
        text = sys.stdin.buffer.read().decode(errors="replace")
    else:
        with open(options.file, "rb") as file:  # noqa: PTH123 - the message names it as it was given
            text = file.read().decode(errors="replace")
    found = [explain(log, program=program) for program, log in split(text)]
    if not any(each.log.steps or each.log.statistics.processed is not None for each in found):
        raise FormatError("there is no verifier log in it", file=options.file)
    if options.json:
        print_json([each.to_dict() for each in found])
        return 0
    for position, each in enumerate(found):
        if position:
            print()
        for line in each.lines(every_step=options.verbose):
            print(_painted(visible(line)))
    return 0


_LOOKS = (
    (re.compile(r"(?:program \S+: )?accepted"), GOOD),
    (re.compile(r"(?:program .*: )?(?:refused: |the log ends)"), BAD),
    (re.compile(r"  (?:in|at|why|help) "), TITLE),
    (re.compile(r"  (?:the way there$|\S+.*, from$)"), NAME),
    (re.compile(r"    tested on the way:"), DIM),
)
"""Looks of what lines of an explanation begin with."""


def _painted(line: str) -> str:
    for pattern, look in _LOOKS:
        if match := pattern.match(line):
            return paint(match[0], look) + line[match.end() :]
    return line
