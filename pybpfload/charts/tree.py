"""Trees as lines of text.

They look like this::

    tracer.bpf.o
    |-- programs
    |   `-- on_exec
    `-- maps
        `-- events
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Tree"]

_ASCII = ("|-- ", "`-- ", "|   ", "    ")
_UNICODE = ("├── ", "└── ", "│   ", "    ")


class Tree(NamedTuple):
    """A label and what is below it.

    Attributes:
        label: One line, shown as it is.
        children: Trees, in the order in which they are shown.
    """

    label: str
    children: tuple[Tree, ...] = ()

    def lines(self, *, unicode: bool = False) -> Iterator[str]:
        """Yield its lines: the label, and below it those of the children, with guides.

        Args:
            unicode: Draw with box drawing characters instead of ASCII.
        """
        branch, last, past, blank = _UNICODE if unicode else _ASCII
        yield self.label
        waiting = [("", self.children, 0)]  # trees may be deeper than Python's stack
        while waiting:
            before, children, position = waiting.pop()
            if position == len(children):
                continue
            child = children[position]
            ends = position + 1 == len(children)
            yield f"{before}{last if ends else branch}{child.label}"
            waiting.append((before, children, position + 1))
            waiting.append((before + (blank if ends else past), child.children, 0))
