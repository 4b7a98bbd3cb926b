"""Strategies of C types.

What a type is made of gets names by number (``a``, ``b``, ..., ``s0``, ``e0``), so that no two
things of one case share a name and smaller cases read better.
"""

from __future__ import annotations

from functools import lru_cache
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
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from hypothesis.strategies import DrawFn

__all__ = ["Names", "byte_orders", "enums", "records", "types"]

T = TypeVar("T")

byte_orders = st.sampled_from("<>")
"""Byte order as in :mod:`struct`."""

_FLOATS = (Float("float", 4), Float("double", 8))
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Names:
    """Names that were not used yet.

    Args:
        taken: Names that are in use.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = frozenset(taken)
        self._numbers: dict[str, Iterator[int]] = {}
        self.origins = count(1)

    def field(self) -> str:
        """``a`` to ``z``, then ``a1``."""
        return self._next("field", _lettered)

    def enumerator(self) -> str:
        """``A`` to ``Z``, then ``A1``."""
        return self._next("enumerator", lambda number: _lettered(number).upper())

    def of(self, letter: str) -> str:
        """A letter with a number: ``s0``."""
        return self._next(letter, lambda number: f"{letter}{number}")

    def _next(self, kind: str, spell: Callable[[int], str]) -> str:
        numbers = self._numbers.setdefault(kind, count())
        return next(name for name in map(spell, numbers) if name not in self._taken)


def _lettered(number: int) -> str:
    return _LETTERS[number % 26] + (str(number // 26) if number >= 26 else "")


def types(names: Names | None = None, *, depth: int = 2) -> st.SearchStrategy[CType]:
    """Strategy of types that a field can have: all kinds, qualified and renamed, nested.

    Args:
        names: Names already in use.
        depth: How deep structs, arrays and prototypes nest.
    """
    return drawn(names, lambda draw, using: _type(draw, using, depth))


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
    return drawn(names, lambda draw, using: _record(draw, using, depth, max_fields, tagged=True))


def enums(names: Names | None = None) -> st.SearchStrategy[Enum]:
    """Strategy of enums with a tag: of 1 to 8 bytes, signed or not, ENUM64 where values need it."""
    return drawn(names, _enum)


def drawn(names: Names | None, make: Callable[[Choices, Names], T]) -> st.SearchStrategy[T]:
    """Strategy of what a function makes; each example has names of its own, or those given."""

    @st.composite
    def made(draw: DrawFn) -> T:
        return make(Choices(draw), names or Names())

    return made()


class Choices:
    """Choices of one example. Small numbers and early options are where shrinking leads."""

    def __init__(self, draw: DrawFn) -> None:
        self._draw = draw

    def between(self, low: int, high: int) -> int:
        """A number, both ends included."""
        return self._draw(_integers(low, high)) if low < high else low

    def of(self, options: Sequence[T]) -> T:
        """One of some things."""
        return options[self.between(0, len(options) - 1)]

    def coin(self) -> bool:
        """Yes or no."""
        return self.between(0, 1) == 1

    def seldom(self) -> bool:
        """Yes once in eight times."""
        return self.between(0, 7) == 7

    def several(self, low: int, high: int) -> Iterator[int]:
        """Count to a number in between, which is chosen on the way: any of them can be left out."""
        for at in range(high):
            if at >= low and not self.between(0, 4):
                return
            yield at

    def number(self, signed: bool, bits: int) -> int:
        """A number of so many bits, often one at a border."""
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        if self.coin():
            return self.between(low, high)
        return self.of((0, 1, high, low, high >> 1))


# Hypothesis validates each new strategy; these few are used over and over.
_integers = lru_cache(maxsize=1024)(st.integers)


def _enum(draw: Choices, names: Names) -> Enum:
    size = draw.of([4, 4, 4, 8, 1, 2])
    signed = draw.coin()
    values = [(names.enumerator(), draw.number(signed, 8 * size)) for _ in draw.several(1, 4)]
    return Enum(names.of("e"), tuple(values), size)


def _record(
    draw: Choices, names: Names, depth: int, max_fields: int = 4, *, tagged: bool
) -> Record:
    name = names.of("s") if tagged else ""
    keyword = draw.of(["struct", "struct", "struct", "union"])
    own = Tag(keyword, name) if tagged else None
    found = [_field(draw, names, depth, own, keyword) for _ in draw.several(1, max_fields)]
    if keyword == "struct" and draw.seldom():
        of = draw.of(INTS)
        found.append(Field(names.field(), Array(of, 0), origin=next(names.origins)))
    if all(f.is_padding for f in found):
        found.append(Field(names.field(), INT, origin=next(names.origins)))
    packed = draw.seldom()
    align = draw.of([1, 16, 2]) if draw.seldom() else 1
    return Record(name, tuple(found), keyword, packed, align)


def _field(draw: Choices, names: Names, depth: int, tag: Tag | None, keyword: str) -> Field:
    what = draw.of(_FIELDS)
    if what == "bits":
        return _bit_field(draw, names)
    if what == "padding" and keyword == "struct":
        of = draw.of(INTS[:5])
        return Field("", of, draw.between(0, 8 * of.size))
    if what == "anonymous" and depth:
        inner = _record(draw, names, depth - 1, 3, tagged=False)
        return Field("", inner, origin=next(names.origins))
    return Field(names.field(), _type(draw, names, depth, tag), origin=next(names.origins))


_FIELDS = ["plain"] * 5 + ["bits"] * 2 + ["anonymous", "padding"]


def _bit_field(draw: Choices, names: Names) -> Field:
    of: CType = draw.of([*INTS[:6], BOOL])
    if draw.seldom():
        of = _enum(draw, names)
    if draw.seldom():
        of = Typedef(names.of("t"), of)
    base = strip(of)
    assert isinstance(base, (Int, Enum))
    bits = 1 if base == BOOL else draw.between(1, 8 * base.size)
    return Field(names.field(), of, bits, origin=next(names.origins))


def _type(draw: Choices, names: Names, depth: int, tag: Tag | None = None) -> CType:
    choices = _CHOICES if depth else _LEAVES
    return draw.of(choices)(draw, names, depth, tag)


def _integer(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    return draw.of(INTS)


def _enumeration(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    return _enum(draw, names)


def _float(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    return draw.of(_FLOATS)


def _pointer(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    to: list[CType] = [VOID, INT, Tag("struct", "elsewhere"), Qualified("const", UCHAR)]
    if tag:
        to.append(tag)
    made: CType = Pointer(draw.of(to))
    return Qualified("restrict", made) if draw.seldom() else made


def _function(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    params = [(names.field(), draw.of((INT, ULONG, Pointer(VOID)))) for _ in draw.several(0, 3)]
    return Pointer(Function(draw.of((VOID, INT)), tuple(params)))


def _array(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    of = _type(draw, names, depth - 1, tag)
    return Array(of, draw.between(1, 4))


def _struct(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    return _record(draw, names, depth - 1, 3, tagged=draw.coin())


def _typedef(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    return Typedef(names.of("t"), _type(draw, names, depth - 1, tag))


def _qualified(draw: Choices, names: Names, depth: int, tag: Tag | None) -> CType:
    word = draw.of(["const", "volatile"])
    return Qualified(word, _type(draw, names, depth - 1, tag))


_LEAVES: list[Callable[[Choices, Names, int, Tag | None], CType]] = [
    _integer, _integer, _integer, _pointer, _enumeration, _float,
]  # fmt: skip
_CHOICES = [*_LEAVES, _array, _struct, _typedef, _qualified, _function]
