"""Two columns of lines side by side with arrows from line to line, as SVG: what became of what."""

from __future__ import annotations

from typing import Final, NamedTuple

from pybpfload.charts.svg import FONT_SIZE, LETTER, document, escape, number

__all__ = ["Column", "Line", "Pair"]

_LINE: Final = 18  # pixels from line to line
_PADDING: Final = 10
_MARGIN: Final = 20
_HEAD: Final = 48
_BETWEEN: Final = 90  # room for the arrows
_WIDEST: Final = 56  # letters

_MARKER: Final = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#1a6e2e"/></marker></defs>'
)


class Line(NamedTuple):
    """A line of a column.

    Attributes:
        text: What it says.
        place: Stands in front of it, aligned to the right: an offset, a value.
        marked: Whether it is one that the picture is about.
    """

    text: str
    place: str = ""
    marked: bool = False


class Column(NamedTuple):
    """Lines in a box.

    Attributes:
        title: Stands above the box.
        lines: From top to bottom.
    """

    title: str
    lines: tuple[Line, ...]


class Pair(NamedTuple):
    """Two columns and the arrows from the left one to the right one.

    Attributes:
        title: What it is a picture of.
        left, right: The columns.
        arrows: Numbers of a line on the left and one on the right, from 0.
        notes: Lines below: what that comes to.
    """

    title: str
    left: Column
    right: Column
    arrows: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()

    def svg(self) -> str:
        """One SVG file that needs nothing else, the same for the same pair."""
        widths = [_width(column) for column in (self.left, self.right)]
        lefts = [_MARGIN, _MARGIN + widths[0] + _BETWEEN]
        height = max(_height(self.left), _height(self.right))
        body = [
            _MARKER,
            f'<text class="head" x="{_MARGIN}" y="24">{escape(self.title)}</text>',
            *_column(self.left, lefts[0], widths[0], "from"),
            *_column(self.right, lefts[1], widths[1], "to"),
            *(
                _arrow(lefts[0] + widths[0], _middle(a), lefts[1], _middle(b))
                for a, b in self.arrows
            ),
        ]
        y = _HEAD + height + _LINE
        for row, note in enumerate(self.notes):
            body.append(_text(_MARGIN, y + _LINE * (row + 1), note))
        widest = max([lefts[1] + widths[1] - _MARGIN, len(self.title) * LETTER * 1.35,
                      *(len(note) * LETTER for note in self.notes)])  # fmt: skip
        return document(
            widest + 2 * _MARGIN,
            y + _LINE * len(self.notes) + _MARGIN,
            self.title,
            "; ".join(self.notes) or f"{len(self.arrows)} arrows between two columns.",
            body,
            ".head { font-size: 16px } .title { font-weight: bold } .place { fill: #666 } "
            ".box { fill: #f7f7f7; stroke: #444 } .from { fill: #ffe7a3 } .to { fill: #c9ebcf } "
            ".arrow { fill: none; stroke: #1a6e2e; stroke-width: 1.5 }",
        )


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _room(column: Column) -> float:
    """Width that the places take."""
    longest = max((len(line.place) for line in column.lines), default=0)
    return (longest + 2) * LETTER if longest else 0.0


def _width(column: Column) -> float:
    texts = [len(_short(line.text)) * LETTER for line in column.lines]
    wanted = max(texts, default=0.0) + _room(column)
    return max(wanted, len(_short(column.title)) * LETTER) + 2 * _PADDING


def _height(column: Column) -> float:
    return _LINE * (1 + len(column.lines)) + 2 * _PADDING


def _middle(row: int) -> float:
    """Height of the middle of a line of a column."""
    return _HEAD + _PADDING + _LINE * (row + 1.5)


def _column(column: Column, left: float, width: float, mark: str) -> list[str]:
    top = _HEAD + _LINE
    size = f'width="{number(width)}" height="{number(_height(column) - _LINE)}"'
    made = [
        _text(left, _HEAD + FONT_SIZE, _short(column.title), "title"),
        f'<rect class="box" x="{number(left)}" y="{number(top)}" {size} rx="3"/>',
    ]
    start = left + _PADDING + _room(column)
    for row, line in enumerate(column.lines):
        middle = _middle(row)
        if line.marked:
            made.append(
                f'<rect class="{mark}" x="{number(left + 1)}" y="{number(middle - _LINE / 2)}" '
                f'width="{number(width - 2)}" height="{_LINE}"/>'
            )
        if line.place:
            before = start - (len(line.place) + 2) * LETTER
            made.append(_text(before, middle + 4, line.place, "place"))
        made.append(_text(start, middle + 4, _short(line.text)))
    return made


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    place = f'x="{number(x)}" y="{number(y)}"'
    return f'<text{mark} {place} xml:space="preserve">{escape(text)}</text>'


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    middle = number((x + to_x) / 2)
    curve = f"C{middle} {number(y)} {middle} {number(to_y)} {number(to_x)} {number(to_y)}"
    return f'<path class="arrow" d="M{number(x)} {number(y)} {curve}" marker-end="url(#head)"/>'
