"""``pybpfload doctor``: why can't I load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import visible
from pybpfload.cli.live import needs_linux

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload doctor
  pybpfload doctor --json | jq '.[] | select(.state != "ok")'

Maps and programs of two instructions are tried, nothing is attached or changed. The exit
status is 1 if no program can be loaded at all.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("doctor", "Tell what is in the way of loading, with remedies.", _EXAMPLES)
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.kernel.doctor import diagnose
    from pybpfload.kernel.token import shown
    from pybpfload.runtime.token import find_token

    token = find_token(None, lambda error: None)
    with shown(token):
        findings = diagnose()
    if token is not None:
        token.close()
    if options.json:
        print_json([finding._asdict() for finding in findings])
    else:
        width = max(len(finding.topic) for finding in findings)
        for finding in findings:
            print(f"{finding.state:7}  {finding.topic:{width}}  {visible(finding.found)}")
            if finding.remedy:
                print(f"{'':7}  {'':{width}}  -> {visible(finding.remedy)}")
    return 1 if any(finding.state == "bad" for finding in findings) else 0
