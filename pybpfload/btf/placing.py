"""Where clang puts the members of a struct when it compiles for BPF, and what fills gaps between.

Positions, sizes and alignments are in bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf.types import COMPOSITE_KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.btf.bulk import Bulk, Member
    from pybpfload.btf.table import Btf

__all__ = ["Gaps", "Layout", "Placing", "place", "round_up"]

_LONG_GAP = 8 * 64  # is filled by an array and not by bit fields
_ALIGNMENTS = frozenset({8, 16, 32, 64, 128})
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
        return round_up(position, 8 if packed else align)
    if not packed and size and position // size != (position + width - 1) // size:
        return round_up(position, size)  # it would lie across two of its type
    return position


class Layout(NamedTuple):
    """How a struct or union has to be written.

    Attributes:
        packed: With ``__attribute__((packed))``.
        align: Its alignment in bits then.
        plain: Without anything between or behind its members.
    """

    packed: bool
    align: int
    plain: bool


class Placing:
    """Works out how structs and unions have to be written to come to their offsets and sizes.

    Args:
        btf: The types.
        bulk: The same.

    Attributes:
        layouts: What :meth:`lay_out` found, by type id.
    """

    def __init__(self, btf: Btf, bulk: Bulk) -> None:
        self.layouts: dict[int, Layout] = {}
        self._btf = btf
        self._bulk = bulk
        self._extents: dict[int, tuple[int, int]] = {}

    def lay_out(self, type_id: int, members: Sequence[Member]) -> None:
        """Lay out a struct or union; those that are its members are laid out already."""
        union = self._bulk.kinds[type_id] == Kind.UNION
        extents = self._extents
        align, end, packed, plain = 8, 0, False, True
        for name, of, offset, width in members:
            size, unit = extents.get(of) or self._extent(of)
            if unit > align and (name or not width):
                align = unit
            if width or union:
                natural = place(0 if union else end, width, size, unit)
            else:
                natural = (end + unit - 1) // unit * unit  # as place() says
            if natural != offset:
                plain = False
                packed = packed or place(offset, width, size, unit) != offset
            size = width or size
            if offset + size > end:
                end = offset + size
        whole = 8 * self._bulk.third(type_id)
        if packed or whole % align:
            self.layouts[type_id] = Layout(packed=True, align=8, plain=False)
        else:
            plain = plain and round_up(end, align) >= whole
            self.layouts[type_id] = Layout(packed=False, align=align, plain=plain)

    def with_gaps(
        self, type_id: int, members: Sequence[Member], lines: Sequence[str], arrays: Iterator[int]
    ) -> list[str]:
        """Put between members what C needs to come to their offsets.

        Args:
            type_id: A struct or union that was laid out.
            members: Its members.
            lines: Their declarations.
            arrays: As of :class:`Gaps`.
        """
        packed, align, _ = self.layouts[type_id]
        union = self._bulk.kinds[type_id] == Kind.UNION
        gaps = Gaps(align, arrays)
        found: list[str] = []
        end = 0
        for line, (name, of, offset, width) in zip(lines, members, strict=True):
            size, unit = self._extent(of)
            natural = place(0 if union else end, width, size, unit, packed=packed)
            if offset < natural:
                found.append(f"\t/* {name} overlaps what is in front of it */\n")
            elif offset > natural and union:
                found.append(f"\t/* {name} does not start where the union does */\n")
            else:
                if offset > natural:
                    found += gaps.fill(end, offset)
                found.append(line)
                end = max(end, offset + (width or size))
        whole = 8 * self._bulk.third(type_id)
        if round_up(end, align) < whole:
            found += [f"\t{gaps.array(whole // 8)}\n"] if union else gaps.fill(end, whole)
        return found

    def _extent(self, type_id: int) -> tuple[int, int]:
        """Size and alignment of a type, in this header."""
        known = self._extents.get(type_id)
        if known is None:
            btf, kinds = self._btf, self._bulk.kinds
            if kinds[type_id] == Kind.PTR:
                size = align = 8 * btf.pointer_size
            else:
                size = 8 * btf.size(type_id)
                inner = btf.strip(type_id)
                while kinds[inner] == Kind.ARRAY:  # its size is known, so it ends
                    inner = btf.strip(self._bulk.made_of(inner))
                if kinds[inner] in COMPOSITE_KINDS:
                    align = self.layouts[inner].align
                else:
                    align = 8 * btf.size(inner)
            known = self._extents[type_id] = size, align if align in _ALIGNMENTS else 8
        return known


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
