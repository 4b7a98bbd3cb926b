"""Arrows beside lines of text, from line to line.

They look like this::

    .---- if r1 == 0x0 goto L0
    | .-- goto L1
    '-|-> exit
      '-> r0 = 0x0

Nothing here knows what the lines say.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MOST_LANES", "arrows"]

MOST_LANES: Final = 12
"""Arrows side by side; those that find no room are not drawn, the longest ones."""


class _Signs(NamedTuple):
    across: str
    down: str
    top: str
    middle: str
    bottom: str
    head: str


_ASCII = _Signs("-", "|", ".", "+", "'", ">")
_UNICODE = _Signs("─", "│", "╭", "├", "╰", "▶")


def arrows(
    rows: int, ways: Iterable[tuple[int, int]], *, unicode: bool = False, most: int = MOST_LANES
) -> list[str]:
    """Draw arrows to stand in front of lines of text.

    Arrows to the same line share one lane; shorter ones are nearer to the text.

    Args:
        rows: Number of lines.
        ways: From which line to which; what is outside of the lines is left out.
        unicode: Draw with box drawing characters instead of ASCII.
        most: Lanes at most.

    Returns:
        For each line a string, all of the same width; all empty if there is nothing to draw.
    """
    into: dict[int, set[int]] = {}
    for source, target in ways:
        if 0 <= source < rows and 0 <= target < rows:
            into.setdefault(target, set()).add(source)
    spans = [(min(target, *sources), max(target, *sources), target, sources)
             for target, sources in into.items()]  # fmt: skip
    lanes: list[list[tuple[int, int]]] = []
    placed = []
    for top, bottom, target, sources in sorted(spans, key=lambda s: (s[1] - s[0], s[0])):
        lane = _lane(lanes, top, bottom, most)
        if lane is not None:
            placed.append((lane, top, bottom, target, sources))
    if not placed:
        return [""] * rows
    signs = _UNICODE if unicode else _ASCII
    width = 2 * len(lanes) + 1
    canvas = [[" "] * width for _ in range(rows)]
    for lane, top, bottom, _, _ in placed:
        column = width - 3 - 2 * lane
        for row in range(top + 1, bottom):
            canvas[row][column] = signs.down
    for lane, top, bottom, target, sources in placed:
        column = width - 3 - 2 * lane
        for row in {target, *sources}:
            line = canvas[row]
            for crossed in range(column + 1, width):
                if line[crossed] == " ":
                    line[crossed] = signs.across
            line[column] = (
                signs.across
                if top == bottom
                else signs.top
                if row == top
                else signs.bottom
                if row == bottom
                else signs.middle
            )
    for _, _, _, target, _ in placed:
        canvas[target][-1] = signs.head
    return ["".join(line) for line in canvas]


def _lane(lanes: list[list[tuple[int, int]]], top: int, bottom: int, most: int) -> int | None:
    """Find the innermost lane with room from one line to another, and take it."""
    for number, taken in enumerate(lanes):
        at = bisect_left(taken, (top, top))
        is_free = (at == 0 or taken[at - 1][1] < top) and (
            at == len(taken) or taken[at][0] > bottom
        )
        if is_free:
            insort(taken, (top, bottom))
            return number
    if len(lanes) == most:
        return None
    lanes.append([(top, bottom)])
    return len(lanes) - 1
