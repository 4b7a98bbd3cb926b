"""Flame graphs: where the samples are, as boxes on boxes, each as wide as it has samples.

One SVG file that needs nothing else, the same for the same counts. Whoever points at a box is told
its name, samples and share. With JavaScript, a click or Enter widens a box, Escape or a click on
the ground goes back, and "Search" or / marks the boxes that a regular expression matches; without,
it is a picture.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.charts.folded import KERNEL, frames_of
from pybpfload.charts.svg import FONT_SIZE, document, escape, fitting, number

if TYPE_CHECKING:
    from pybpfload.charts.folded import Folded

__all__ = ["Box", "flame_boxes", "flame_graph"]

_ROW = 17  # pixels
_MARGIN = 10
_HEAD = 44
_FOOT = 28
_NARROWEST = 0.1  # pixels: what is less is not drawn
_MOST_BOXES = 100_000

_STYLE = (
    ".f rect { stroke: #fff; stroke-width: .5 } .f:hover rect, .f:focus rect { stroke: #000 } "
    ".f { cursor: pointer; outline: none } .f text { pointer-events: none } "
    ".found rect { fill: #e600e6 } .above rect { opacity: .5 } .head { font-size: 16px }"
)


class Box(NamedTuple):
    """A function at one place of the graph.

    Attributes:
        name: Its frame.
        level: Number of boxes between it and the ground.
        start: Samples to the left of it.
        samples: In it and above.
    """

    name: str
    level: int
    start: int
    samples: int


def flame_boxes(folded: Folded, *, reverse: bool = False) -> list[Box]:
    """The boxes of a flame graph, those that lie on another behind it; siblings by name.

    The first is that of all samples.

    Args:
        folded: Counts by stack, the outermost frame first.
        reverse: The innermost frame is on the ground: shows who calls a function.
    """
    stacks = sorted(
        (frames_of(stack)[:: -1 if reverse else 1], count)
        for stack, count in folded.items()
        if count > 0
    )
    made: list[Box | None] = [None]
    open_boxes: list[tuple[str, int, int]] = []  # name, where it starts, place in `made`

    def close(level: int) -> None:
        while len(open_boxes) > level:
            name, start, place = open_boxes.pop()
            made[place] = Box(name, len(open_boxes) + 1, start, position - start)

    position = 0
    for stack, count in stacks:
        common = 0
        for (name, _, _), frame in zip(open_boxes, stack, strict=False):
            if name != frame:
                break
            common += 1
        close(common)
        for frame in stack[common:]:
            open_boxes.append((frame, position, len(made)))
            made.append(None)
        position += count
    close(0)
    made[0] = Box("all", 0, 0, position)
    return [box for box in made if box is not None]


def flame_graph(
    folded: Folded,
    *,
    title: str = "Flame graph",
    unit: str = "samples",
    width: int = 1200,
    inverted: bool = False,
    reverse: bool = False,
) -> str:
    """A flame graph as SVG.

    Frames of the kernel (``_[k]``) are blue, others yellow to red, each name always in the same
    shade. Boxes narrower than a tenth of a pixel are not drawn, nor more than 100,000.

    Args:
        folded: Counts by stack, the outermost frame first, as of
            :meth:`pybpfload.symbols.Stacks.folded` or :func:`pybpfload.charts.read_folded`.
        title: Stands at the top.
        unit: What was counted.
        width: Of the picture in pixels.
        inverted: The ground is at the top (an icicle graph).
        reverse: The innermost frame is on the ground.

    Returns:
        The text of the file.
    """
    boxes = flame_boxes(folded, reverse=reverse)
    total = boxes[0].samples
    room = width - 2 * _MARGIN
    scale = room / total if total else 0.0
    boxes = [box for box in boxes if box.samples * scale >= _NARROWEST or not box.level]
    if len(boxes) > _MOST_BOXES:
        boxes = sorted(sorted(boxes, key=lambda box: -box.samples)[:_MOST_BOXES], key=_order)
    levels = 1 + max(box.level for box in boxes)
    height = _HEAD + levels * _ROW + _FOOT
    body = [
        f'<text class="head" x="{width // 2}" y="24" text-anchor="middle">{escape(title)}</text>',
        f'<text id="said" x="{_MARGIN}" y="{height - 9}"> </text>',
    ]
    for box in boxes:
        row = box.level if inverted else levels - 1 - box.level
        left, right = box.start * scale, (box.start + box.samples) * scale if total else room
        body.append(_drawn(box, total, (left, right), _HEAD + row * _ROW, unit))
    body.append(_SCRIPT)
    top = "grows downwards" if inverted else "grows upwards"
    ground = "the innermost function" if reverse else "the process"
    described = (
        f"{total} {unit}. Each box is a function and as wide as it has {unit}; the graph {top} "
        f"from {ground}."
    )
    return document(width, height, title, described, body, _STYLE)


def _order(box: Box) -> tuple[int, int]:
    return box.start, box.level


def _drawn(box: Box, total: int, ends: tuple[float, float], top: int, unit: str) -> str:
    # Ends are rounded, not widths, so that boxes side by side are as wide as the one below.
    left, right = (round(_MARGIN + end, 2) for end in ends)
    wide = right - left
    is_kernel = box.name.endswith(KERNEL)
    name = box.name.removesuffix(KERNEL)
    share = 100 * box.samples / total if total else 0.0
    kind = ", kernel" if is_kernel else ""
    told = escape(f"{name} ({box.samples:,} {unit}, {share:.2f}%{kind})")
    shown = escape(fitting(name, wide - 6))
    place = f'x="{number(left)}" y="{top}" width="{number(wide)}" height="{_ROW - 1}"'
    return (
        f'<g class="f" tabindex="0" role="img" aria-label="{told}"><title>{told}</title>'
        f'<rect {place} fill="{_colour(name, is_kernel, box.level)}"/>'
        f'<text x="{number(left + 3)}" y="{top + FONT_SIZE}">{shown}</text></g>'
    )


def _colour(name: str, is_kernel: bool, level: int) -> str:
    """The ground is grey, the kernel blue, user space yellow to red; on all of them black is read.

    Kernel and user space differ in lightness of blue, which all kinds of colour blindness leave.
    """
    if not level:
        return "#c8c8c8"
    hashed = zlib.crc32(name.encode("utf-8", "surrogatepass"))
    shade, tone = hashed & 0xFF, hashed >> 8 & 0xFF
    if is_kernel:
        return f"#{110 + shade * 50 // 255:02x}{160 + tone * 40 // 255:02x}f0"
    return f"#{235 + shade * 20 // 255:02x}{110 + tone * 110 // 255:02x}{50 + shade // 8:02x}"


# Reads all it needs from the picture: places from the boxes, names from their titles.
_SCRIPT = """<script><![CDATA[
(function () {
  "use strict";
  var svg = document.documentElement, said = document.getElementById("said");
  var boxes = Array.prototype.map.call(svg.querySelectorAll(".f"), function (g) {
    var r = g.querySelector("rect"), t = g.querySelector("text");
    return {g: g, r: r, t: t, x: +r.getAttribute("x"), w: +r.getAttribute("width"),
            y: +r.getAttribute("y"), told: g.querySelector("title").textContent};
  });
  var all = boxes[0];
  function label(b, w) {
    var name = b.told.replace(/ \\([^()]*%[^()]*\\)$/, ""), room = Math.floor((w - 6) / 7.25);
    b.t.textContent = name.length <= room ? name
      : room > 4 ? name.slice(0, room - 2) + ".." : "";
  }
  function zoom(to) {
    var scale = all.w / to.w;
    boxes.forEach(function (b) {
      var inside = b.x >= to.x - 0.01 && b.x + b.w <= to.x + to.w + 0.01;
      var below = b.x <= to.x + 0.01 && b.x + b.w >= to.x + to.w - 0.01
        && Math.abs(b.y - all.y) <= Math.abs(to.y - all.y);
      var x = below ? all.x : all.x + (b.x - to.x) * scale, w = below ? all.w : b.w * scale;
      b.g.style.display = inside || below ? "" : "none";
      b.g.classList.toggle("above", below && b !== to && to !== all);
      b.r.setAttribute("x", x);
      b.r.setAttribute("width", w);
      b.t.setAttribute("x", x + 3);
      label(b, w);
    });
  }
  function search() {
    var text = window.prompt("Mark functions (regular expression):", ""), re, n = 0;
    if (text === null) { return; }
    try { re = text ? new RegExp(text) : null; } catch (e) { said.textContent = e.message; return; }
    boxes.forEach(function (b) {
      var found = Boolean(re && b !== all && re.test(b.told));
      b.g.classList.toggle("found", found);
      n += found ? 1 : 0;
    });
    said.textContent = re ? n + " marked" : "";
  }
  boxes.forEach(function (b) {
    b.g.addEventListener("click", function () { zoom(b); });
    b.g.addEventListener("mouseenter", function () { said.textContent = b.told; });
    b.g.addEventListener("focus", function () { said.textContent = b.told; });
    b.g.addEventListener("keydown", function (e) { if (e.key === "Enter") { zoom(b); } });
  });
  var button = document.createElementNS("http://www.w3.org/2000/svg", "text");
  button.textContent = "Search";
  button.setAttribute("x", all.x + all.w);
  button.setAttribute("y", 24);
  button.setAttribute("text-anchor", "end");
  button.setAttribute("tabindex", "0");
  button.setAttribute("role", "button");
  button.style.cursor = "pointer";
  button.addEventListener("click", search);
  svg.appendChild(button);
  document.addEventListener("keydown", function (e) {
    if (e.key === "Escape") { zoom(all); }
    if (e.key === "/" || (e.key === "Enter" && e.target === button)) {
      e.preventDefault();
      search();
    }
  });
})();
]]></script>"""
