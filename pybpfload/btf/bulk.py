"""All types of a table as numbers and tuples, for what walks over a whole kernel's.

A :class:`~pybpfload.btf.table.Btf` decodes a type into an object when somebody asks for it. To
write all of a kernel's types as C, that would make 130,000 objects which are looked at once.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Any, TypeAlias

from pybpfload.btf.types import Kind
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from pybpfload.btf.table import Btf

__all__ = ["Bulk", "Member", "identifier"]

Member: TypeAlias = "tuple[str, int, int, int]"
"""Of a struct or union: name; type; offset and width of a bit field in bits, 0 of what is none."""

# Each byte as C allows it in an identifier; the end of a string is kept.
_IN_C = bytes(
    each if chr(each).isascii() and (chr(each).isalnum() or not each) else 95 for each in range(256)
)
_NAMES_LIMIT = 64  # characters of all names together, in multiples of the string part


class Bulk:
    """All types of a table and its base.

    Type ids are not checked: one that is too high raises an ``IndexError``.

    Names are made identifiers of C by :func:`identifier`.

    Attributes:
        kinds: The kind of each type, by id.
        words: The records of all types.
        starts: Where in the words the record of each type is, by id.
    """

    def __init__(self, btf: Btf) -> None:
        tables = btf.layers()
        self.kinds = b"\0" + b"".join(table.own_kinds() for table in tables)
        self._names = _Names(btf, b"".join([table._strings for table in tables]))
        self.starts = array("I", [0])
        self.words: Any = tables[0]._words
        self.starts.extend(tables[0]._offsets)
        for table in tables[1:]:
            before = len(self.words)
            self.words = array("I", bytes(self.words) + bytes(table._words))
            self.starts.extend([before + at for at in table._offsets])

    def ids(self, kinds: Collection[int], start: int = 0) -> list[int]:
        """The ids of all types of some kinds, ascending, from one on."""
        pattern = re.compile(b"[%b]" % re.escape(bytes(kinds)))
        return [found.start() for found in pattern.finditer(self.kinds, start)]

    def name(self, type_id: int) -> str:
        """The name of a type; ``""`` if it has none."""
        return self._names[self.words[self.starts[type_id]]]

    def third(self, type_id: int) -> int:
        """The third word of a type: of most its size, or the type that it is made of."""
        return int(self.words[self.starts[type_id] + 2])

    def made_of(self, type_id: int) -> int:
        """The type of an array's elements; of what else is made of one type, that type."""
        if self.kinds[type_id] == Kind.ARRAY:
            return int(self.words[self.starts[type_id] + fmt.TYPE_WORDS])
        return self.third(type_id)

    def kflag(self, type_id: int) -> bool:
        """The kind flag of a type."""
        return bool(self.words[self.starts[type_id] + 1] >> 31)

    def members(self, type_id: int) -> Iterable[Member]:
        """Members of a struct or union."""
        run = self._elements(type_id, 3)
        names, offsets = map(self._names.__getitem__, run[::3]), run[2::3]
        if not self.kflag(type_id):
            return zip(names, run[1::3], offsets, repeat(0))
        widths = [at >> 24 for at in offsets]
        return zip(names, run[1::3], [at & 0xFFFFFF for at in offsets], widths, strict=True)

    def member_types(self, type_id: int) -> list[int]:
        """The types of the members of a struct or union."""
        return self._elements(type_id, 3)[1::3]

    def enumerators(self, type_id: int) -> list[tuple[str, int]]:
        """Names and values of an enum; values as :class:`pybpfload.btf.types.Enum` has them."""
        if self.kinds[type_id] == Kind.ENUM:
            bits, run = 32, self._elements(type_id, 2)
            names, values = run[::2], run[1::2]
        else:
            bits, run = 64, self._elements(type_id, 3)
            names, parts = run[::3], zip(run[1::3], run[2::3], strict=True)
            values = [high << 32 | low for low, high in parts]
        if self.kflag(type_id):
            values = [value - (value >> bits - 1 << bits) for value in values]
        return [(self._names[n], value) for n, value in zip(names, values, strict=True)]

    def param_types(self, type_id: int) -> list[int]:
        """The types of the parameters of a prototype."""
        return self._elements(type_id, 2)[1::2]

    def _elements(self, type_id: int, size: int) -> list[int]:
        """The words of the elements of a type, of which each has so many."""
        at = self.starts[type_id]
        start, count = at + fmt.TYPE_WORDS, self.words[at + 1] & 0xFFFFFF
        found: list[int] = self.words[start : start + size * count].tolist()
        return found


def identifier(name: str) -> str:
    """Make a name one that C allows: what it may not have in it becomes an underscore."""
    clean = name.encode("utf-8", "replace").translate(_IN_C).decode("ascii")
    return f"_{clean}" if clean[:1].isdecimal() else clean


class _Names(dict[int, str]):
    """Names by the offsets of their strings.

    All strings are there from the beginning: to cut the string part into pieces at once takes half
    as long as to cut out those that are asked for. What is left are ends of strings.
    """

    def __init__(self, btf: Btf, strings: bytes) -> None:
        self._btf = btf
        self._text = strings.translate(_IN_C).decode("ascii")
        self._left = _NAMES_LIMIT * len(strings)
        names = self._text.split("\0")
        offsets = accumulate([len(name) + 1 for name in names[:-1]], initial=0)
        super().__init__(zip(offsets, names, strict=True))
        for digit in re.finditer("(?:^|\0)(?=[0-9])", self._text):
            self[digit.end()] = f"_{self[digit.end()]}"

    def __missing__(self, offset: int) -> str:
        if offset >= len(self._text):
            self._btf.string(offset)  # raises
        name = self._text[offset : self._text.index("\0", offset)]
        self._left -= len(name)
        if self._left < 0:
            raise FormatError(
                "names overlap so that they exceed the string part many times",
                file=self._btf.name,
                section=".BTF",
            )
        self[offset] = name = f"_{name}" if name[:1].isdecimal() else name
        return name
