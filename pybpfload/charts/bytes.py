"""Pictures of what lies where in memory: boxes in rows of as many bytes as a cache line has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pybpfload.charts.svg import LETTER, document, escape, fitting, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Cell", "byte_map"]

_BYTE: Final = 18.0  # pixels, of a row of 64
_ROW: Final = 52  # pixels from row to row
_BOX: Final = 44
_LEFT: Final = 70
_MARGIN: Final = 16
_HEAD: Final = 62
_WIDE: Final = 40  # what is narrower has its name turned by a quarter
_LINE: Final = 12  # from line to line
_SMALL: Final = 6.05  # width of a small letter
_MOST_LIKE: Final = 3  # rows of one cell alone that are drawn; more of them become one

_FILLS: Final = {"member": "#d9e6f2", "bits": "#e4dcf0", "union": "#f2e6cc", "gap": "url(#gap)"}
_STYLE: Final = (
    ".s { font-size: 10px; fill: #555 } "
    ".g { fill: #7a1f14; stroke: #fff; stroke-width: 4px; paint-order: stroke } "
    ".t { font-size: 16px; font-weight: bold } "
    "rect.c { stroke: #667; stroke-width: 0.7 }"
)
_HATCH: Final = (
    '<defs><pattern id="gap" width="7" height="7" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="7" height="7" fill="#fff"/>'
    '<line x1="0" y1="0" x2="0" y2="7" stroke="#c0392b" stroke-width="2"/></pattern></defs>'
)


class Cell(NamedTuple):
    """Something that takes up memory.

    Attributes:
        start: Where it begins, in bits.
        bits: Its size.
        lines: What is written in it, the most important first; what has no room is left out.
        about: What is shown when it is pointed at.
        what: ``"member"``, ``"bits"`` for a bit field, ``"union"``, or ``"gap"`` for nothing.
    """

    start: int
    bits: int
    lines: tuple[str, ...]
    about: str
    what: str = "member"


def byte_map(
    title: str, about: str, bands: Sequence[tuple[str, Sequence[Cell]]], *, line: int = 64
) -> str:
    """Draw cells.

    Args:
        title: What it is.
        about: What stands below the title.
        bands: What lies in memory, cells by ascending start; of a union each of its members alone,
            with its name.
        line: Bytes in a row.

    Returns:
        A whole SVG file.
    """
    per_bit = _BYTE * 64 / line / 8
    width = _LEFT + 64 * _BYTE + _MARGIN
    body = [
        _HATCH,
        f'<text class="t" x="{_MARGIN}" y="26">{escape(title)}</text>',
        f'<text class="s" x="{_MARGIN}" y="44">{escape(about)}</text>',
    ]
    step = max(1, line // 8)
    for tick in range(0, line, step):
        x = number(_LEFT + 8 * tick * per_bit)
        body.append(f'<text class="s" x="{x}" y="{_HEAD - 4}">{tick}</text>')
    top = _HEAD
    for label, cells in bands:
        if label:
            body.append(f'<text x="{_MARGIN}" y="{top + 14}">{escape(label)}</text>')
            top += 20
        for row, pieces in _rows(cells, 8 * line):
            if not pieces:  # more of what is above
                body.append(f'<text class="s" x="{_LEFT}" y="{top + 10}">{escape(row)}</text>')
                top += 18
                continue
            offset = f'<text class="s" x="{_LEFT - 8}" y="{top + 16}" text-anchor="end">'
            body.append(f"{offset}{escape(row)}</text>")
            for piece in pieces:
                body += _box(piece, _LEFT, top, per_bit)
            top += _ROW
    return document(width, top + _MARGIN, title, about, body, _STYLE)


class _Piece(NamedTuple):
    """The part of a cell that is in one row; ``start`` in bits from the row's beginning."""

    cell: Cell
    start: int
    bits: int
    first: bool


def _rows(cells: Sequence[Cell], row_bits: int) -> Iterator[tuple[str, list[_Piece]]]:
    """Rows with what is in them; one without anything tells how many like the last follow."""
    row, pieces = 0, list[_Piece]()
    for cell in cells:
        start, end = cell.start, cell.start + max(cell.bits, 0)
        while start < end:
            if start // row_bits != row:
                if pieces:
                    yield str(row * row_bits // 8), pieces
                row, pieces = start // row_bits, []
            full = (end - start) // row_bits
            if not pieces and start % row_bits == 0 and full > _MOST_LIKE and start > cell.start:
                yield f"… {full} more rows of {cell.lines[0]}", []
                start += full * row_bits
                continue
            stop = min(end, (row + 1) * row_bits)
            pieces.append(_Piece(cell, start - row * row_bits, stop - start, start == cell.start))
            start = stop
    if pieces:
        yield str(row * row_bits // 8), pieces


def _box(piece: _Piece, left: float, top: int, per_bit: float) -> Iterator[str]:
    cell = piece.cell
    x, width = left + piece.start * per_bit, piece.bits * per_bit
    place = f'x="{number(x)}" y="{top}" width="{number(width)}" height="{_BOX}"'
    yield f"<g><title>{escape(cell.about)}</title>"
    yield f'<rect class="c" {place} fill="{_FILLS[cell.what]}"/>'
    if cell.what == "gap":
        yield from _text(cell.lines[:1], "s g", x, top + 14, width)
    elif width >= _WIDE:
        lines = cell.lines if piece.first else (f"… {cell.lines[0]}",)
        yield from _text(lines[:1], "", x, top + 14, width)
        yield from _text(lines[1:3], "s", x, top + 26, width)
    elif width >= _LINE and (shown := fitting(cell.lines[0], _BOX * LETTER / _SMALL)):
        turned = f"translate({number(x + width / 2 + 3)} {top + _BOX - 2}) rotate(-90)"
        yield f'<text class="s" transform="{turned}">{escape(shown)}</text>'
    yield "</g>"


def _text(lines: Sequence[str], style: str, x: float, y: int, width: float) -> Iterator[str]:
    """Lines below each other, as much of each as there is room for."""
    room = (width - 5) * (LETTER / _SMALL if style else 1)
    for at, text in enumerate(lines):
        if shown := fitting(text, room):
            yield (
                f'<text class="{style}" x="{number(x + 3)}" y="{y + _LINE * at}">'
                f"{escape(shown)}</text>"
            )
