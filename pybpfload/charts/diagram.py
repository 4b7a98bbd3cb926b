"""Diagrams of boxes and the ways between them: as plain text, DOT, Mermaid and SVG.

For graphs that are read from top to bottom, such as the control flow of code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pybpfload.charts.gutter import arrows
from pybpfload.charts.layers import Size, lay_out
from pybpfload.charts.svg import FONT_SIZE, LETTER, document, escape, number

if TYPE_CHECKING:
    from pybpfload.charts.layers import Point

__all__ = ["Box", "Diagram", "Way"]

_LINE: Final = 16  # pixels from line to line
_PADDING: Final = 8
_MARGIN: Final = 20
_HEAD: Final = 44
_WIDEST: Final = 100  # letters


class Box(NamedTuple):
    """A box.

    Attributes:
        title: Its first line, which need not be unlike that of others.
        lines: What stands below.
    """

    title: str
    lines: tuple[str, ...] = ()

    def shown(self) -> list[str]:
        """Its lines, each short enough and without what is not printable."""
        texts = [_plain(line) for line in (self.title, *self.lines)]
        return [t if len(t) <= _WIDEST else f"{t[: _WIDEST - 3]}..." for t in texts]


class Way(NamedTuple):
    """A way from one box to another.

    Attributes:
        source, target: Numbers of the boxes.
        label: Stands beside it; may be empty.
        colour: As CSS and DOT name it.
        dashed: Whether it is drawn with dashes.
    """

    source: int
    target: int
    label: str = ""
    colour: str = "black"
    dashed: bool = False


class Diagram(NamedTuple):
    """Boxes and the ways between them.

    Attributes:
        title: What it is a diagram of.
        boxes: In the order in which they are read, the first at the top.
        ways: Between them; a way from a box to itself is fine.
    """

    title: str
    boxes: tuple[Box, ...]
    ways: tuple[Way, ...]

    def text(self, *, unicode: bool = False) -> str:
        """Boxes one below the other; ways to the next box go straight down, others at the left."""
        rows: list[str] = []
        tops: list[int] = []
        bottoms: list[int] = []
        across, down, corners = ("─", "│", "╭╮╰╯") if unicode else ("-", "|", "++++")
        straight: dict[int, list[str]] = {}
        for way in self.ways:
            if way.target == way.source + 1:
                straight.setdefault(way.source, []).append(way.label)
        for position, box in enumerate(self.boxes):
            content = box.shown()
            width = max(map(len, content)) + 2
            rows.append(f"{corners[0]}{across * width}{corners[1]}")
            tops.append(len(rows))
            rows += [f"{down} {line.ljust(width - 2)} {down}" for line in content]
            bottoms.append(len(rows) - 1)
            rows.append(f"{corners[2]}{across * width}{corners[3]}")
            if position in straight:
                rows.append(f"    {down} {', '.join(straight[position])}".rstrip())
                rows.append("    ▼" if unicode else "    v")
            elif position + 1 < len(self.boxes):
                rows.append("")
        side = arrows(
            len(rows),
            [(bottoms[w.source], tops[w.target]) for w in self.ways if w.target != w.source + 1],
            unicode=unicode,
        )
        drawn = (f"{left} {row}".rstrip() for left, row in zip(side, rows, strict=True))
        return "\n".join([_plain(self.title), *drawn, ""])

    def dot(self) -> str:
        """In the language of Graphviz."""
        lines = [
            f"digraph {_quoted(_plain(self.title))} {{",
            "  node [shape=box, fontname=monospace, fontsize=10];",
            "  edge [fontname=monospace, fontsize=9];",
        ]
        for position, box in enumerate(self.boxes):
            text = "".join(f"{_escaped(line)}\\l" for line in box.shown())
            lines.append(f'  n{position} [label="{text}"];')
        for way in self.ways:
            style = ", style=dashed" if way.dashed else ""
            label = f", label={_quoted(way.label)}" if way.label else ""
            lines.append(f"  n{way.source} -> n{way.target} [color={way.colour}{style}{label}];")
        return "\n".join([*lines, "}", ""])

    def mermaid(self) -> str:
        """In the language of Mermaid, which GitHub and GitLab draw in Markdown."""
        lines = ["---", f"title: {_quoted(_plain(self.title))}", "---", "flowchart TD"]
        for position, box in enumerate(self.boxes):
            text = "<br/>".join(_entities(line) for line in box.shown())
            lines.append(f'  n{position}["{text}"]')
        for way in self.ways:
            arrow = "-.->" if way.dashed else "-->"
            label = f'|"{_entities(way.label)}"|' if way.label else ""
            lines.append(f"  n{way.source} {arrow}{label} n{way.target}")
        return "\n".join([*lines, ""])

    def svg(self) -> str:
        """One SVG file that needs nothing else, the same for the same diagram.

        Raises:
            BpfError: It is too large to be drawn.
        """
        contents = [box.shown() for box in self.boxes]
        sizes = [
            Size(
                max(map(len, content)) * LETTER + 2 * _PADDING,
                len(content) * _LINE + 2 * _PADDING,
            )
            for content in contents
        ]
        layout = lay_out(sizes, [(way.source, way.target) for way in self.ways])
        colours = sorted({way.colour for way in self.ways})
        body = [_marker(colour) for colour in colours]
        body.append(f'<text class="head" x="{_MARGIN}" y="24">{escape(self.title)}</text>')
        for way, path in zip(self.ways, layout.paths, strict=True):
            body.append(_path(way, [(x + _MARGIN, y + _HEAD) for x, y in path]))
        for content, size, (left, top) in zip(contents, sizes, layout.places, strict=True):
            body.append(_box(content, size, left + _MARGIN, top + _HEAD))
        return document(
            max(layout.width, len(self.title) * LETTER * 1.4) + 2 * _MARGIN,
            layout.height + _HEAD + _MARGIN,
            self.title,
            f"{len(self.boxes)} boxes and {len(self.ways)} ways between them.",
            body,
            ".head { font-size: 16px } .box rect { fill: #f7f7f7; stroke: #444 } "
            ".name { font-weight: bold } "
            ".way { fill: none; stroke-width: 1.3 }",
        )


def _plain(text: str) -> str:
    """A text in one line; it may come from a hostile file."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _entities(text: str) -> str:
    """What Mermaid takes for its own, as numbers of characters."""
    return "".join(c if c.isalnum() or c in " _.,:/+-=()" else f"#{ord(c)};" for c in text)


def _marker(colour: str) -> str:
    return (
        f'<defs><marker id="head-{colour}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker></defs>'
    )


def _path(way: Way, path: list[Point]) -> str:
    (x, y), *rest = path
    drawn = f"M{number(x)} {number(y)}" + "".join(f" L{number(x)} {number(y)}" for x, y in rest)
    dashes = ' stroke-dasharray="5 3"' if way.dashed else ""
    label = escape(f"{way.label or 'way'} to box {way.target}")
    return (
        f'<path class="way" d="{drawn}" stroke="{way.colour}"{dashes} '
        f'marker-end="url(#head-{way.colour})"><title>{label}</title></path>'
    )


def _box(content: list[str], size: Size, left: float, top: float) -> str:
    place = f'x="{number(left)}" y="{number(top)}"'
    texts = [
        f"<text{' class=' + chr(34) + 'name' + chr(34) if not row else ''} "
        f'x="{number(left + _PADDING)}" '
        f'y="{number(top + _PADDING + row * _LINE + FONT_SIZE)}">{escape(line)}</text>'
        for row, line in enumerate(content)
    ]
    rect = f'<rect {place} width="{number(size.width)}" height="{number(size.height)}" rx="3"/>'
    return f'<g class="box" xml:space="preserve">{rect}{"".join(texts)}</g>'
