"""What notebooks show of objects: the text of the commands, as HTML.

``_repr_html_`` of the classes asks for it, so that nothing of this is imported elsewhere. What is
shown may come from a hostile file: it is escaped, and only so much of it is shown.
"""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from pybpfload.cli.failure import visible
from pybpfload.cli.style import chosen
from pybpfload.cli.table import shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.check import Verdict
    from pybpfload.object.spec import ObjectSpec
    from pybpfload.runtime.program import Program
    from pybpfload.verifier import Explanation

__all__ = ["explanation", "program", "spec", "verdict"]

_MOST_LINES = 400
_WIDEST = 1000  # characters of a line
_STYLE = "white-space: pre; overflow-x: auto; line-height: 1.3; text-align: left"


def spec(shown: ObjectSpec) -> str:
    """An object as ``pybpfload inspect`` shows it."""
    from pybpfload.cli.describe import describe
    from pybpfload.cli.describe_text import render

    return _view(render(describe(shown), verbose=False))


def verdict(shown: Verdict) -> str:
    """A verdict as ``pybpfload check -v`` shows it."""
    from pybpfload.cli.check_report import text

    return _view(text([shown], [shown.object], [shown.kernel], verbose=True))


def explanation(shown: Explanation) -> str:
    """A verifier log as ``pybpfload log`` shows it."""
    return _view(shown.lines())


def program(shown: Program) -> str:
    """A loaded program: what it is, where it is attached; asks the kernel unless it is closed."""
    rows = [
        ("program", shown.name),
        ("section", shown.spec.section),
        ("type", shown.type.name.lower()),
        ("target", shown.attach_target),
    ]
    if shown.closed:
        rows.append(("closed", "yes"))
    else:
        info = shown.info(code=False)
        rows += [
            ("id", str(info.id)),
            ("tag", str(info.tag)),
            ("bytes", f"{info.xlated_prog_len}, as machine code {info.jited_prog_len}"),
            ("maps", ", ".join(map(str, info.map_ids))),
            ("runs", f"{info.run_cnt}, {info.run_time_ns} ns" if info.run_cnt else ""),
            ("attached", ", ".join(str(link.target) for link in shown.links if not link.closed)),
        ]
    return _view(f"{name:10}{value}" for name, value in rows if value)


def _view(lines: Iterable[str]) -> str:
    lines = iter(lines)
    with chosen("never"):
        shown = [escape(shorten(visible(line), _WIDEST)) for line in islice(lines, _MOST_LINES)]
        rest = sum(1 for _ in lines)
    if rest:
        shown.append(f"<i>and {rest} more lines</i>")
    return f'<pre style="{_STYLE}">' + "\n".join(shown) + "</pre>"
