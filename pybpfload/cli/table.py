"""Aligned plain text."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pybpfload.cli.failure import visible
from pybpfload.cli.style import TITLE, paint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["shorten", "table"]


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    looks: Mapping[str, str] | None = None,
) -> list[str]:
    """Align rows under their headings.

    Args:
        columns: Headings; columns of numbers are aligned to the right, empty ones left out.
        rows: Cells; what is not a string is shown by ``str()``, fractions with two decimals,
            ``None`` and ``""`` as ``-``; a list has the lines of one cell.
        looks: Looks of cells by their text; not of the first column, which has names.

    Returns:
        The lines, indented by two, headings first; nothing when there are no rows.
    """
    content = [[None if cell == "" else cell for cell in row] for row in rows]
    if not content:
        return []
    used = [i for i in range(len(columns)) if any(row[i] is not None for row in content)]
    numeric = [
        all(row[i] is None or isinstance(row[i], (int, float)) for row in content) for i in used
    ]
    shown = [[[columns[i]] for i in used], *([_cell(row[i]) for i in used] for row in content)]
    widths = [
        max(len(line) for cell in column for line in cell) for column in zip(*shown, strict=True)
    ]
    looks = looks or {}
    lines = []
    for number, text in (
        (number, text)
        for number, cells in enumerate(shown)
        for text in zip_longest(*cells, fillvalue="")
    ):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(text, widths, numeric, strict=True)
        ]
        padded[-1] = padded[-1].rstrip()
        if number == 0:
            padded = [paint(cell, TITLE) for cell in padded]
        elif looks:
            padded[1:] = [
                paint(cell, looks.get(word, ""))
                for cell, word in zip(padded[1:], text[1:], strict=True)
            ]
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def _cell(value: Any) -> list[str]:
    """Its lines."""
    if isinstance(value, list):
        return [visible(str(line)) for line in value]
    if value is None:
        return ["-"]
    return [f"{value:.2f}" if isinstance(value, float) else visible(str(value))]


def shorten(text: str, width: int = 60) -> str:
    """Cut a text in its middle."""
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 3]}...{text[-tail:]}"
