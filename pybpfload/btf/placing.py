"""Where clang puts the members of a struct when it compiles for BPF, and what fills gaps between.

Positions, sizes and alignments are in bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Gaps", "place", "round_up"]

_LONG_GAP = 8 * 64  # is filled by an array and not by bit fields
_UNITS = [("long", 64), ("int", 32), ("short", 16), ("char", 8)]


def round_up(number: int, multiple: int) -> int:
    """The next multiple of a number."""
    return -(-number // multiple) * multiple


def place(position: int, width: int, size: int, align: int, *, packed: bool = False) -> int:
    """Where a member begins that comes at a position.

    Args:
        position: Where the one in front of it ends.
        width: Of a bit field; 0 for what is none.
        size: Of its type.
        align: Of its type.
        packed: Whether the struct is.
    """
    if not width:
        align = 8 if packed else align
        return -(-position // align) * align
    if not packed and size and position // size != (position + width - 1) // size:
        return round_up(position, size)  # it would lie across two of its type
    return position


class Gaps:
    """What stands for bytes that no member has.

    Args:
        align: Of the struct; a bit field that needs more would raise it elsewhere than for BPF,
            where those without name need none.
        arrays: Numbers for members that are arrays; those of inner structs without name count on.
    """

    def __init__(self, align: int, arrays: Iterator[int]) -> None:
        self._units = [(name, bits) for name, bits in _UNITS if bits <= align] or _UNITS
        self._arrays = arrays

    def fill(self, start: int, end: int) -> list[str]:
        """Lines of C that take up the bits between two positions."""
        lines = []
        while start < end:
            rest = end - start
            if start % 8 == 0 and rest > _LONG_GAP:
                lines.append(f"\t{self.array(rest // 8)}\n")
                start = end - rest % 8
                continue
            fitting = (unit for unit in self._units if start % unit[1] == 0 and rest >= unit[1])
            name, bits = next(fitting, ("char", min(8 - start % 8, rest)))
            lines.append(f"\t{name}: {bits};\n")
            start += bits
        return lines

    def array(self, size: int) -> str:
        """A member of so many bytes; its name is no other's."""
        return f"unsigned char __gap_{next(self._arrays)}[{size}];"
