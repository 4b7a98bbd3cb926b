"""All types of a table as numbers and tuples, for what walks over a whole kernel's.

A :class:`~pybpfload.btf.table.Btf` decodes a type into an object when somebody asks for it. To
write all of a kernel's types as C, that would make 130,000 objects which are looked at once.
"""

from __future__ import annotations

from array import array
from itertools import repeat
from typing import TYPE_CHECKING

from pybpfload.btf.types import Kind
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybpfload.btf.table import Btf

__all__ = ["Bulk"]

_NAMES_LIMIT = 64  # characters of all names together, in multiples of the string part


class Bulk:
    """All types of a table and its base.

    Args:
        btf: The table.
        spell: What is made of each name; asked once for each string of the table.

    Attributes:
        kinds: The kind of each type, by id; an ``IndexError`` for what is no id.
        thirds: The third word of each type, by id: its size, or the type that it is made of.
    """

    def __init__(self, btf: Btf, spell: Callable[[str], str] = str) -> None:
        self._btf = btf
        self._names = _Names(btf, spell)
        tables = [btf]
        while (base := tables[-1].base) is not None:
            tables.append(base)
        self.kinds = b"\0" + b"".join(table.own_kinds() for table in reversed(tables))
        self.thirds = array("I", [0])
        self._name_offsets = array("I", [0])
        for table in reversed(tables):
            words = table._words
            self._name_offsets.extend([words[at] for at in table._offsets])
            self.thirds.extend([words[at + 2] for at in table._offsets])

    def name(self, type_id: int) -> str:
        """The name of a type, spelt; ``""`` if it has none."""
        return self._names[self._name_offsets[type_id]]

    def enumerators(self, type_id: int) -> list[str]:
        """The names of the values of an enum, spelt."""
        step = 2 if self.kinds[type_id] == Kind.ENUM else 3
        return [self._names[offset] for offset in self._elements(type_id, step)[::step]]

    def members(self, type_id: int) -> Iterable[tuple[str, int, int, int]]:
        """Members of a struct or union: name, spelt; type; offset and width of a bit field in bits.

        The width of what is no bit field is 0.
        """
        owner, at = self._btf._locate(type_id)
        run = self._elements(type_id, 3)
        names, offsets = map(self._names.__getitem__, run[::3]), run[2::3]
        widths: Iterable[int] = repeat(0)
        if owner._words[at + 1] >> 31:
            offsets, widths = [at & 0xFFFFFF for at in offsets], [at >> 24 for at in offsets]
        return zip(names, run[1::3], offsets, widths)  # noqa: B905 - each has as many

    def member_types(self, type_id: int) -> list[int]:
        """The types of the members of a struct or union."""
        return self._elements(type_id, 3)[1::3]

    def param_types(self, type_id: int) -> list[int]:
        """The types of the parameters of a prototype."""
        return self._elements(type_id, 2)[1::2]

    def element(self, type_id: int) -> int:
        """The type of the elements of an array."""
        owner, at = self._btf._locate(type_id)
        return int(owner._words[at + fmt.TYPE_WORDS])

    def _elements(self, type_id: int, size: int) -> list[int]:
        """The words of the elements of a type, of which each has so many."""
        owner, at = self._btf._locate(type_id)
        start = at + fmt.TYPE_WORDS
        count = owner._words[at + 1] & 0xFFFFFF
        found: list[int] = owner._words[start : start + size * count].tolist()
        return found


class _Names(dict[int, str]):
    """Names by the offsets of their strings."""

    def __init__(self, btf: Btf, spell: Callable[[str], str]) -> None:
        self._btf, self._spell = btf, spell
        self._left = _NAMES_LIMIT * btf._end_str

    def __missing__(self, offset: int) -> str:
        raw = self._btf.string(offset)
        name = self[offset] = self._spell(raw) if raw else ""
        self._left -= len(name)
        if self._left < 0:
            raise FormatError(
                "names overlap so that they exceed the string part many times",
                file=self._btf.name,
                section=".BTF",
            )
        return name
