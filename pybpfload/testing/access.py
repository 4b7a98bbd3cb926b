"""Where a path through C types leads, by the model: access strings, places, and bytes in memory.

    access = Access(task, (0, 1))         # (&task)->pid, access string "0:1"
    place = access.place                  # where the program's own types put it
    there = access.within(new_task)       # where the field is in the changed type, or None
    there.write(image, 1234, "<")

A field is followed by :attr:`Field.origin`, not by its name: this says what became of it and
not what a relocator finds.
"""

from __future__ import annotations

from typing import NamedTuple

from pybpfload.testing.cmodel import (
    Array,
    CType,
    Enum,
    Field,
    Float,
    Int,
    Pointer,
    Record,
    layout,
    size_of,
    strip,
)

__all__ = ["Access", "Place"]

_ORDERS = {"<": "little", ">": "big"}


class Place(NamedTuple):
    """Something in memory.

    Attributes:
        bit: Where it starts, in bits from the start of the root.
        type: What it is, without typedefs and qualifiers.
        bits: Its width when it is a bit field.
        named: Whether it is a member, not an element of an array or the root.
    """

    bit: int
    type: CType
    bits: int | None = None
    named: bool = True

    @property
    def width(self) -> int:
        """In bits."""
        return size_of(self.type) * 8 if self.bits is None else self.bits

    @property
    def signed(self) -> bool:
        """Whether the number there may be negative."""
        return isinstance(self.type, (Int, Enum)) and self.type.signed

    @property
    def is_number(self) -> bool:
        """Whether it is an integer, an enum or a pointer: what a register takes."""
        return isinstance(self.type, (Int, Enum, Pointer, Float)) and self.width <= 64

    @property
    def element(self) -> CType:
        """Its type; of an array that of what it consists of in the end."""
        found = self.type
        while isinstance(found, Array):
            found = strip(found.of)
        return found

    @property
    def unit(self) -> tuple[int, int] | None:
        """First byte and size of the integer that holds it; ``None`` when no 8 bytes do.

        Of a bit field it is the integer of its declared type that lies at a multiple of its size,
        or, if the field goes beyond that, one of twice the size (:file:`bpf_core_read.h` reads bit
        fields so).
        """
        if self.bits is None:
            return self.bit // 8, size_of(self.type)
        size = size_of(self.type)
        while size <= 8:
            first = self.bit // (8 * size) * size
            if self.bit + self.bits <= (first + size) * 8:
                return first, size
            size *= 2
        return None

    def write(self, image: bytearray, value: int, order: str) -> None:
        """Put a number there; what does not fit is cut off."""
        for at, bit in self._bits(order):
            image[at] = image[at] & ~(1 << bit) | (value & 1) << bit
            value >>= 1

    def read(self, image: bytes | bytearray, order: str) -> int:
        """Get the number that is there; negative ones as such when the type has them."""
        value = sum((image[at] >> bit & 1) << i for i, (at, bit) in enumerate(self._bits(order)))
        if self.signed and self.width and value >> self.width - 1:
            value -= 1 << self.width
        return value

    def _bits(self, order: str) -> list[tuple[int, int]]:
        """Byte and bit in it, of each bit, the least significant one first."""
        if order == "<":
            return [divmod(self.bit + i, 8) for i in range(self.width)]
        last = self.bit + self.width - 1
        return [(at // 8, 7 - at % 8) for at in range(last, self.bit - 1, -1)]


class Access(NamedTuple):
    """A path from a pointer to something in what it points to.

    Attributes:
        root: Type that the pointer points to.
        indices: Of the access string: element of the root, then members and elements.
    """

    root: CType
    indices: tuple[int, ...]

    def __str__(self) -> str:
        return ":".join(map(str, self.indices))

    def __repr__(self) -> str:
        return f"Access({self.text}, {str(self)!r})"

    @property
    def text(self) -> str:
        """As C writes it, with ``p`` for the pointer."""
        first, *steps = self._steps()
        text = f"p[{first}]" if first else "p"
        arrow = "." if first else "->"
        for step in steps:
            if isinstance(step, Field):
                if step.name:
                    text += arrow + step.name
                    arrow = "."
            else:
                text, arrow = f"{text}[{step}]", "."
        return text

    def _steps(self) -> list[int | Field]:
        first, *rest = self.indices
        steps: list[int | Field] = [first]
        current = strip(self.root)
        for index in rest:
            if isinstance(current, Record):
                steps.append(current.members[index])
                current = strip(current.members[index].type)
            else:
                assert isinstance(current, Array)
                steps.append(index)
                current = strip(current.of)
        return steps

    @property
    def place(self) -> Place:
        """Where it is in the program's own types."""
        place = self.within(self.root)
        assert place is not None
        return place

    def within(self, root: CType) -> Place | None:
        """Where it is in another type that was made of the root.

        Returns:
            The place, or ``None`` if a field on the way is gone or an array has become too short.
        """
        current = strip(root)
        first, *steps = self._steps()
        assert isinstance(first, int)
        place = Place(first * size_of(current) * 8, current, named=False)
        is_last = False  # of its record: an array without elements there is flexible
        for step in steps:
            if isinstance(step, Field):
                if not step.name:
                    continue  # found through what is in it
                found = _find(place.type, step.origin) if isinstance(place.type, Record) else None
                if found is None:
                    return None
                bit, member, is_last = found
                place = Place(place.bit + bit, strip(member.type), member.bits)
                continue
            array = place.type
            if not isinstance(array, Array):
                return None
            if step >= array.nelems and not (array.nelems == 0 and place.named and is_last):
                return None
            of = strip(array.of)
            place = Place(place.bit + step * size_of(of) * 8, of, named=False)
        return place


def _find(record: Record, origin: object) -> tuple[int, Field, bool] | None:
    """Bit offset of the member with an origin, also inside anonymous members; is it the last?"""
    place = layout(record)
    for member, bit in zip(record.members, place.offsets, strict=True):
        if member.name:
            if origin is not None and member.origin == origin:
                return bit, member, member is record.members[-1]
        else:
            inner = strip(member.type)
            found = _find(inner, origin) if isinstance(inner, Record) else None
            if found is not None:
                return bit + found[0], *found[1:]
    return None
