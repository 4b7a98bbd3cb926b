"""Aligned plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.failure import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["shorten", "table"]


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Align rows under their headings.

    Args:
        columns: Headings; columns of numbers are aligned to the right, empty ones left out.
        rows: Cells; what is not a string is shown by ``str()``, ``None`` and ``""`` as ``-``.

    Returns:
        The lines, indented by two, headings first; nothing when there are no rows.
    """
    content = [[None if cell == "" else cell for cell in row] for row in rows]
    if not content:
        return []
    used = [i for i in range(len(columns)) if any(row[i] is not None for row in content)]
    numeric = [all(row[i] is None or isinstance(row[i], int) for row in content) for i in used]
    texts = [[columns[i] for i in used]]
    texts += [["-" if row[i] is None else visible(str(row[i])) for i in used] for row in content]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for text in texts:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(text, widths, numeric, strict=True)
        ]
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def shorten(text: str, width: int = 60) -> str:
    """Cut a text in its middle."""
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 3]}...{text[-tail:]}"
