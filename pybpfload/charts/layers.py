"""Places for boxes that are joined by arrows, in layers from top to bottom.

The steps are those of Sugiyama's method: arrows that close a circle are turned round, each box goes
below all that lead to it, long arrows are led through every layer between, boxes of a layer are put
in the order of their neighbours, and moved to be below them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Layout", "Point", "Size", "lay_out"]

Point: TypeAlias = "tuple[float, float]"

_GAP: Final = 24.0  # pixels between boxes side by side
_THREAD: Final = 8.0  # width that a long arrow takes in a layer
_BETWEEN: Final = 44.0  # between layers
_SWEEPS: Final = 8
_MOST: Final = 20_000  # boxes, arrows, and places where those pass a layer


class Size(NamedTuple):
    """Size of a box in pixels."""

    width: float
    height: float


class Layout(NamedTuple):
    """Where everything goes, in pixels from the left upper corner.

    Attributes:
        places: Left upper corner of each box.
        paths: Corners of each arrow, from its beginning to its head.
        width, height: Of the whole.
    """

    places: list[Point]
    paths: list[list[Point]]
    width: float
    height: float


def lay_out(sizes: Sequence[Size], ways: Sequence[tuple[int, int]]) -> Layout:
    """Find places for boxes and ways for arrows.

    Args:
        sizes: Of each box.
        ways: From which box to which.

    Raises:
        BpfError: There are too many boxes, or too long arrows.
    """
    count = len(sizes)
    if not count:
        return Layout([], [[] for _ in ways], 0, 0)
    turned = _closing(count, ways)
    downward = [(b, a) if n in turned else (a, b) for n, (a, b) in enumerate(ways)]
    ranks = _ranks(count, downward)
    # Threads: where an arrow passes a layer. They are numbered behind the boxes.
    widths = [size.width for size in sizes]
    chains: list[list[int]] = []
    total = count + sum(max(ranks[b] - ranks[a] - 1, 0) for a, b in downward)
    if total + len(ways) > _MOST:
        raise BpfError(
            f"a diagram of {count} boxes and {len(ways)} ways is too large to be drawn"
        ).with_hint("let Graphviz draw it from DOT")
    for a, b in downward:
        chain = [a]
        for rank in range(ranks[a] + 1, ranks[b]):
            chain.append(len(ranks))
            ranks.append(rank)
            widths.append(_THREAD)
        chains.append([*chain, b])
    layers: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
    for node, rank in enumerate(ranks):
        layers[rank].append(node)
    above: list[list[int]] = [[] for _ in ranks]
    below: list[list[int]] = [[] for _ in ranks]
    for chain in chains:
        for a, b in pairwise(chain):
            if a != b:
                above[b].append(a)
                below[a].append(b)
    _order(layers, above, below)
    centres = _centres(layers, above, below, widths)
    tops, heights, y = [], [], 0.0
    for layer in layers:
        tops.append(y)
        heights.append(max((sizes[node].height for node in layer if node < count), default=0.0))
        y += heights[-1] + _BETWEEN
    left = min(centre - width / 2 for centre, width in zip(centres, widths, strict=True))
    centres = [centre - left for centre in centres]
    places = [(centres[n] - widths[n] / 2, tops[ranks[n]]) for n in range(count)]
    paths = []
    for number, ((a, b), chain) in enumerate(zip(ways, chains, strict=True)):
        if a == b:
            paths.append(_loop(places[a], sizes[a]))
            continue
        path: list[Point] = [(centres[chain[0]], places[chain[0]][1] + sizes[chain[0]].height)]
        for node in chain[1:-1]:
            rank = ranks[node]
            path += [(centres[node], tops[rank]), (centres[node], tops[rank] + heights[rank])]
        path.append((centres[chain[-1]], tops[ranks[chain[-1]]]))
        paths.append(path[::-1] if number in turned else path)
    paths = _spread(paths, ways, sizes)
    for number, ((a, b), path) in enumerate(zip(ways, paths, strict=True)):
        # Down beside taller boxes of the layer first.
        upper = 0 if number not in turned else len(path) - 1
        x, y_end = path[upper]
        foot = tops[ranks[b if upper else a]] + heights[ranks[b if upper else a]]
        if a != b and foot > y_end:
            path.insert(upper or 1, (x, foot))
    width = max(centre + width / 2 for centre, width in zip(centres, widths, strict=True))
    return Layout(places, paths, width + _GAP, y - _BETWEEN)


def _closing(count: int, ways: Sequence[tuple[int, int]]) -> set[int]:
    """Arrows that lead back to where a walk from the first box came from."""
    leaving: list[list[int]] = [[] for _ in range(count)]
    for number, (a, _) in enumerate(ways):
        leaving[a].append(number)
    closing: set[int] = set()
    state = [0] * count  # 1: on the way there, 2: done
    for start in range(count):
        if state[start]:
            continue
        state[start] = 1
        stack = [(start, 0)]
        while stack:
            node, at = stack.pop()
            if at == len(leaving[node]):
                state[node] = 2
                continue
            stack.append((node, at + 1))
            number = leaving[node][at]
            target = ways[number][1]
            if state[target] == 1:
                if target != node:
                    closing.add(number)
            elif not state[target]:
                state[target] = 1
                stack.append((target, 0))
    return closing


def _ranks(count: int, downward: Sequence[tuple[int, int]]) -> list[int]:
    """Layer of each box: one below the lowest that leads to it."""
    waiting = [0] * count
    following: list[list[int]] = [[] for _ in range(count)]
    for a, b in downward:
        if a != b:
            following[a].append(b)
            waiting[b] += 1
    ranks = [0] * count
    work = [node for node in range(count) if not waiting[node]]
    while work:
        node = work.pop()
        for target in following[node]:
            ranks[target] = max(ranks[target], ranks[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                work.append(target)
    return ranks


def _order(layers: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Sort each layer by the mean place of the neighbours, down and up in turns."""
    place = {node: at for layer in layers for at, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        neighbours = below if sweep % 2 else above
        for layer in reversed(layers) if sweep % 2 else layers:
            means = {
                node: sum(map(place.__getitem__, neighbours[node])) / len(neighbours[node])
                if neighbours[node]
                else float(place[node])
                for node in layer
            }
            layer.sort(key=means.__getitem__)
            place.update((node, at) for at, node in enumerate(layer))


def _centres(
    layers: list[list[int]],
    above: list[list[int]],
    below: list[list[int]],
    widths: list[float],
) -> list[float]:
    """Middle of each box: where the mean of its neighbours is, as far as there is room."""
    centres = [0.0] * len(widths)
    for layer in layers:
        edge = 0.0
        for node in layer:
            centres[node] = edge + widths[node] / 2
            edge += widths[node] + _GAP
    for sweep in range(_SWEEPS):
        neighbours = below if sweep % 2 else above
        for layer in reversed(layers) if sweep % 2 else layers:
            wanted = [
                sum(centres[n] for n in neighbours[node]) / len(neighbours[node])
                if neighbours[node]
                else centres[node]
                for node in layer
            ]
            _settle(layer, wanted, widths, centres)
    return centres


def _settle(
    layer: list[int], wanted: list[float], widths: list[float], centres: list[float]
) -> None:
    """Put boxes of a layer as near to where they want to be as their order allows.

    Boxes that would overlap become a group, whose place is the mean of what its members want (the
    least squares solution, found by pooling adjacent violators).
    """
    groups: list[tuple[float, int]] = []  # sum of the wanted places of its first box, members
    offsets: list[float] = []  # of each box from the first of the layer, side by side
    for at, node in enumerate(layer):
        before = layer[at - 1] if at else node
        step = (widths[before] + widths[node]) / 2 + _GAP if at else 0.0
        offsets.append((offsets[-1] if offsets else 0.0) + step)
        total, members = wanted[at] - offsets[at], 1
        while groups and groups[-1][0] / groups[-1][1] > total / members:
            more, others = groups.pop()
            total, members = total + more, members + others
        groups.append((total, members))
    at = 0
    for total, members in groups:
        for _ in range(members):
            centres[layer[at]] = total / members + offsets[at]
            at += 1


def _loop(place: Point, size: Size) -> list[Point]:
    """From the bottom of a box round its right side to its top."""
    x, (left, top) = place[0] + size.width, place
    middle = left + size.width * 3 / 4
    bottom, out = top + size.height, x + _GAP / 2
    return [(middle, bottom), (middle, bottom + 10), (out, bottom + 10), (out, top - 10),
            (middle, top - 10), (middle, top)]  # fmt: skip


def _spread(
    paths: list[list[Point]], ways: Sequence[tuple[int, int]], sizes: Sequence[Size]
) -> list[list[Point]]:
    """Let arrows of one side of a box begin or end beside each other instead of at one point."""
    ends: dict[tuple[int, float], list[tuple[float, int, int]]] = {}
    for number, ((a, b), path) in enumerate(zip(ways, paths, strict=True)):
        if a != b:
            ends.setdefault((a, path[0][1]), []).append((path[1][0], number, 0))
            ends.setdefault((b, path[-1][1]), []).append((path[-2][0], number, -1))
    for (box, _), found in ends.items():
        step = min(16.0, sizes[box].width * 0.8 / len(found))
        for at, (_, number, end) in enumerate(sorted(found)):
            x, y = paths[number][end]
            paths[number][end] = (x + (at - (len(found) - 1) / 2) * step, y)
    return paths
