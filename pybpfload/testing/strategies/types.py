"""Strategies of C types.

What a type is made of gets names by number (``a``, ``b``, ..., ``s0``, ``e0``), so that no two
things of one case share a name and smaller cases read better.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, TypeVar

from hypothesis import strategies as st

from pybpfload.testing.cmodel import (
    BOOL,
    INT,
    INTS,
    UCHAR,
    ULONG,
    VOID,
    Array,
    CType,
    Enum,
    Field,
    Float,
    Function,
    Int,
    Pointer,
    Qualified,
    Record,
    Tag,
    Typedef,
    strip,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypothesis.strategies import DrawFn

__all__ = ["Names", "byte_orders", "enums", "records", "types"]

T = TypeVar("T")

byte_orders = st.sampled_from("<>")
"""Byte order as in :mod:`struct`."""

_FLOATS = (Float("float", 4), Float("double", 8))
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Names:
    """Names that were not used yet."""

    def __init__(self) -> None:
        self._numbers: dict[str, Iterator[int]] = {}
        self.origins = count(1)

    def field(self) -> str:
        """``a`` to ``z``, then ``a1``."""
        number = self._next("field")
        return _LETTERS[number % 26] + (str(number // 26) if number >= 26 else "")

    def enumerator(self) -> str:
        """``A`` to ``Z``, then ``A1``."""
        number = self._next("enumerator")
        return _LETTERS[number % 26].upper() + (str(number // 26) if number >= 26 else "")

    def of(self, letter: str) -> str:
        """A letter with a number: ``s0``."""
        return f"{letter}{self._next(letter)}"

    def _next(self, kind: str) -> int:
        return next(self._numbers.setdefault(kind, count()))


def types(names: Names | None = None, *, depth: int = 2) -> st.SearchStrategy[CType]:
    """Strategy of types that a field can have: all kinds, qualified and renamed, nested.

    Args:
        names: Names already in use.
        depth: How deep structs, arrays and prototypes nest.
    """
    return _fresh(names, lambda draw, using: _type(draw, using, depth))


def records(
    names: Names | None = None, *, depth: int = 2, max_fields: int = 6
) -> st.SearchStrategy[Record]:
    """Strategy of structs and unions with a tag, laid out by the rules of C.

    They hold integers, bit fields, arrays (flexible ones at the end), enums, pointers to anything
    and to themselves, and other structs and unions, also anonymous ones; some are packed or
    aligned.

    Args:
        names: Names already in use.
        depth: How deep they nest.
        max_fields: Fields of each of them at most.
    """
    return _fresh(names, lambda draw, using: _record(draw, using, depth, max_fields, tagged=True))


def enums(names: Names | None = None) -> st.SearchStrategy[Enum]:
    """Strategy of enums with a tag: of 1 to 8 bytes, signed or not, ENUM64 where values need it."""
    return _fresh(names, _enum)


def _fresh(names: Names | None, make: Callable[[DrawFn, Names], T]) -> st.SearchStrategy[T]:
    """Strategy that begins with new names for each example, unless names are given."""

    @st.composite
    def made(draw: DrawFn) -> T:
        return make(draw, names or Names())

    return made()


def number(signed: bool, bits: int) -> st.SearchStrategy[int]:
    """Numbers of so many bits; their borders often."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.sampled_from([0, 1, high, low]) | st.integers(low, high)


def _enum(draw: DrawFn, names: Names) -> Enum:
    size = draw(st.sampled_from([4, 4, 4, 8, 1, 2]))
    values = draw(st.lists(number(draw(st.booleans()), 8 * size), min_size=1, max_size=4))
    return Enum(names.of("e"), tuple((names.enumerator(), value) for value in values), size)


def _record(draw: DrawFn, names: Names, depth: int, max_fields: int = 4, *, tagged: bool) -> Record:
    name = names.of("s") if tagged else ""
    keyword = draw(st.sampled_from(["struct", "struct", "struct", "union"]))
    own = Tag(keyword, name) if tagged else None
    found = [
        _field(draw, names, depth, own, keyword) for _ in range(draw(st.integers(1, max_fields)))
    ]
    if keyword == "struct" and draw(_seldom):
        of = draw(st.sampled_from(INTS))
        found.append(Field(names.field(), Array(of, 0), origin=next(names.origins)))
    if all(f.is_padding for f in found):
        found.append(Field(names.field(), INT, origin=next(names.origins)))
    packed = draw(_seldom)
    align = draw(st.sampled_from([1, 16, 2])) if draw(_seldom) else 1
    return Record(name, tuple(found), keyword, packed, align)


def _field(draw: DrawFn, names: Names, depth: int, tag: Tag | None, keyword: str) -> Field:
    what = draw(st.sampled_from(_FIELDS))
    if what == "bits":
        return _bit_field(draw, names)
    if what == "padding" and keyword == "struct":
        of = draw(st.sampled_from(INTS[:5]))
        return Field("", of, draw(st.integers(0, 8 * of.size)))
    if what == "anonymous" and depth:
        inner = _record(draw, names, depth - 1, 3, tagged=False)
        return Field("", inner, origin=next(names.origins))
    return Field(names.field(), _type(draw, names, depth, tag), origin=next(names.origins))


_FIELDS = ["plain"] * 5 + ["bits"] * 2 + ["anonymous", "padding"]
_seldom = st.sampled_from([False] * 7 + [True])


def _bit_field(draw: DrawFn, names: Names) -> Field:
    of: CType = draw(st.sampled_from([*INTS[:6], BOOL]))
    if draw(_seldom):
        of = _enum(draw, names)
    if draw(_seldom):
        of = Typedef(names.of("t"), of)
    base = strip(of)
    assert isinstance(base, (Int, Enum))
    bits = 1 if base == BOOL else draw(st.integers(1, 8 * base.size))
    return Field(names.field(), of, bits, origin=next(names.origins))


def _type(draw: DrawFn, names: Names, depth: int, tag: Tag | None = None) -> CType:
    choices = _CHOICES if depth else _LEAVES
    return draw(st.sampled_from(choices))(draw, names, depth, tag)


def _integer(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    return draw(st.sampled_from(INTS))


def _enumeration(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    return _enum(draw, names)


def _float(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    return draw(st.sampled_from(_FLOATS))


def _pointer(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    to: list[CType] = [VOID, INT, Tag("struct", "elsewhere"), Qualified("const", UCHAR)]
    if tag:
        to.append(tag)
    made: CType = Pointer(draw(st.sampled_from(to)))
    return Qualified("restrict", made) if draw(_seldom) else made


def _function(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    params = draw(st.lists(st.sampled_from([INT, ULONG, Pointer(VOID)]), max_size=3))
    returns = draw(st.sampled_from([VOID, INT]))
    return Pointer(Function(returns, tuple((names.field(), param) for param in params)))


def _array(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    of = _type(draw, names, depth - 1, tag)
    return Array(of, draw(st.integers(1, 4)))


def _struct(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    return _record(draw, names, depth - 1, 3, tagged=draw(st.booleans()))


def _typedef(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    return Typedef(names.of("t"), _type(draw, names, depth - 1, tag))


def _qualified(draw: DrawFn, names: Names, depth: int, tag: Tag | None) -> CType:
    word = draw(st.sampled_from(["const", "volatile"]))
    return Qualified(word, _type(draw, names, depth - 1, tag))


_LEAVES: list[Callable[[DrawFn, Names, int, Tag | None], CType]] = [
    _integer, _integer, _integer, _pointer, _enumeration, _float,
]  # fmt: skip
_CHOICES = [*_LEAVES, _array, _struct, _typedef, _qualified, _function]
