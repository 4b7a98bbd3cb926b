"""C types as values, laid out as compilers do and written as BTF: a model to compare with.

    pid = Field("pid", INT)
    task = Record("task", (Field("state", ULONG), pid, Field("ready", UINT, bits=1)))
    layout(task).offsets      # in bits: (0, 64, 96)
    made = Types([task])
    made.btf()[made.id(task)]

Nothing of this is used by the loader, and nothing of the loader's layout or relocation is used
here: what both say about a type can be compared.

Layout follows the System V ABI as GCC and Clang implement it for 64-bit Linux: a field lies at a
multiple of its alignment; a bit field starts at the next bit unless it would cross a border of its
declared type. Bits count from the least significant one on little endian and from the most
significant one on big endian, in C as in BTF, so that offsets are the same numbers for both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.btf import cdecl
from pybpfload.btf.build import BtfBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pybpfload.btf import Btf

__all__ = [
    "BOOL",
    "CHAR",
    "INT",
    "INTS",
    "LONG",
    "UCHAR",
    "UINT",
    "ULONG",
    "USHORT",
    "VOID",
    "Array",
    "CType",
    "Enum",
    "Field",
    "Float",
    "Function",
    "Int",
    "Layout",
    "Pointer",
    "Qualified",
    "Record",
    "Tag",
    "Typedef",
    "Types",
    "Void",
    "align_of",
    "layout",
    "parts",
    "size_of",
    "strip",
]

_SIGNED, _CHAR, _BOOL = 1, 2, 4
_POINTER_SIZE = 8


class Shown:
    """Something whose ``repr`` is text of several lines, in failing examples of Hypothesis too."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        for at, line in enumerate(repr(self).splitlines()):
            if at:
                printer.break_()
            printer.text(line)


@dataclass(frozen=True, repr=False)
class CType(Shown):
    """What all types are. They are compared by what they consist of; their ``repr`` is C."""

    def __repr__(self) -> str:
        types = Types([self])
        if isinstance(self, (Record, Enum)):
            return cdecl.define(types.btf(), types.id(self))
        return cdecl.type_text(types.btf(), types.id(self))


@dataclass(frozen=True, repr=False)
class Void(CType):
    """``void``."""


@dataclass(frozen=True, repr=False)
class Int(CType):
    """An integer of ``size`` bytes and its encoding in BTF: 1 signed, 2 char, 4 bool."""

    name: str
    size: int
    encoding: int = 0

    @property
    def signed(self) -> bool:
        """Whether it may be negative."""
        return bool(self.encoding & _SIGNED)


@dataclass(frozen=True, repr=False)
class Float(CType):
    """A floating point number of ``size`` bytes."""

    name: str
    size: int


@dataclass(frozen=True, repr=False)
class Enum(CType):
    """An enum of ``size`` bytes; values that need it make it an ENUM64."""

    name: str
    values: tuple[tuple[str, int], ...]
    size: int = 4

    @property
    def signed(self) -> bool:
        """Whether a value is negative."""
        return any(value < 0 for _, value in self.values)

    @property
    def is_wide(self) -> bool:
        """Whether it takes an ENUM64."""
        return self.size == 8 or any(not -(1 << 31) <= v < 1 << 32 for _, v in self.values)


@dataclass(frozen=True, repr=False)
class Pointer(CType):
    """A pointer."""

    to: CType


@dataclass(frozen=True, repr=False)
class Array(CType):
    """An array; one of no elements at the end of a struct is flexible."""

    of: CType
    nelems: int


@dataclass(frozen=True, repr=False)
class Typedef(CType):
    """Another name of a type."""

    name: str
    of: CType


@dataclass(frozen=True, repr=False)
class Qualified(CType):
    """A type with ``const``, ``volatile`` or ``restrict``."""

    word: str
    of: CType


@dataclass(frozen=True, repr=False)
class Function(CType):
    """A prototype; only pointers lead to it."""

    returns: CType
    params: tuple[tuple[str, CType], ...] = ()


@dataclass(frozen=True, repr=False)
class Tag(CType):
    """``struct name`` or ``union name``: a record defined elsewhere, or nowhere.

    Only pointers lead to it. This is how a type refers to itself.
    """

    keyword: str
    name: str


@dataclass(frozen=True)
class Field:
    """A member of a record.

    Attributes:
        name: Its name; ``""`` for an anonymous struct or union.
        type: Its type.
        bits: Its width when it is a bit field. One without a name is padding that BTF does not
            show; of width 0, the next one starts at a border of ``type``.
        origin: What tells it from others when its name, type and place change; not compared.
    """

    name: str
    type: CType
    bits: int | None = None
    origin: object = field(default=None, compare=False, repr=False)

    @property
    def is_padding(self) -> bool:
        """Whether it only takes up room."""
        return not self.name and self.bits is not None


@dataclass(frozen=True, repr=False)
class Record(CType):
    """A struct or a union.

    Attributes:
        name: Its tag, ``""`` for none.
        fields: Its members.
        keyword: ``"struct"`` or ``"union"``.
        packed: Whether no field is aligned (``__attribute__((packed))``).
        align: Alignment in bytes that it has at least (``__attribute__((aligned))``).
    """

    name: str
    fields: tuple[Field, ...]
    keyword: str = "struct"
    packed: bool = False
    align: int = 1

    @property
    def members(self) -> tuple[Field, ...]:
        """Fields that BTF shows: access strings count these."""
        return tuple(f for f in self.fields if not f.is_padding)


VOID = Void()
BOOL = Int("_Bool", 1, _BOOL)
CHAR = Int("char", 1, _SIGNED)
UCHAR = Int("unsigned char", 1)
USHORT = Int("unsigned short", 2)
INT = Int("int", 4, _SIGNED)
UINT = Int("unsigned int", 4)
LONG = Int("long", 8, _SIGNED)
ULONG = Int("unsigned long", 8)
INTS = (
    INT, UINT, UCHAR, USHORT, ULONG, LONG, BOOL, CHAR, Int("short", 2, _SIGNED),
    Int("long long", 8, _SIGNED), Int("unsigned long long", 8), Int("char", 1, _SIGNED | _CHAR),
)  # fmt: skip
"""Integers by how simple they are; the last one is ``char`` as GCC describes it."""

_INDEX = Int("__ARRAY_SIZE_TYPE__", 4)


# Layout


class Layout(NamedTuple):
    """Where the members of a record lie.

    Attributes:
        offsets: Of :attr:`Record.members`, in bits.
        size: Of the record, in bytes.
        align: Of the record, in bytes.
    """

    offsets: tuple[int, ...]
    size: int
    align: int


def strip(type: CType) -> CType:  # noqa: A002
    """Return a type without typedefs and qualifiers in front."""
    while isinstance(type, (Typedef, Qualified)):
        type = type.of  # noqa: A001
    return type


def size_of(type: CType) -> int:  # noqa: A002
    """Return ``sizeof`` in bytes; 0 for what has no size."""
    type = strip(type)  # noqa: A001
    if isinstance(type, (Int, Float, Enum)):
        return type.size
    if isinstance(type, Pointer):
        return _POINTER_SIZE
    if isinstance(type, Array):
        return type.nelems * size_of(type.of)
    return layout(type).size if isinstance(type, Record) else 0


def align_of(type: CType) -> int:  # noqa: A002
    """Return the alignment in bytes."""
    type = strip(type)  # noqa: A001
    if isinstance(type, Array):
        return align_of(type.of)
    return layout(type).align if isinstance(type, Record) else size_of(type) or 1


@lru_cache(maxsize=4096)
def layout(record: Record) -> Layout:
    """Lay a record out."""
    offsets: list[int] = []
    at = end = 0  # in bits
    align = record.align
    for member in record.fields:
        if record.keyword == "union":
            at = 0
        unit = align_of(member.type) * 8
        if member.bits is not None:
            crosses = at // unit != (at + member.bits - 1) // unit
            if member.bits == 0 or (crosses and not record.packed):
                at = -(-at // unit) * unit
            width = member.bits
        else:
            at = -(-at // 8) * 8 if record.packed else -(-at // unit) * unit
            width = size_of(member.type) * 8
        if not member.is_padding:
            offsets.append(at)
            if not record.packed:
                align = max(align, unit // 8)
        at += width
        end = max(end, at)
    size = -(-end // 8)
    return Layout(tuple(offsets), -(-size // align) * align, align)


# BTF


class Types:
    """BTF of some types and of all that they refer to.

    Args:
        types: What to write; types that are equal become one.
        order: Byte order, ``"<"`` or ``">"``.
        backwards: Number types the other way round: as far as they can, references point to ids
            that come later.
    """

    def __init__(
        self, types: Iterable[CType], order: str = "<", *, backwards: bool = False
    ) -> None:
        self.order = order
        found: dict[CType, None] = {}
        for type in types:  # noqa: A001
            for part in parts(type):
                found.setdefault(part)
        self._defined = {
            (part.keyword, part.name): part
            for part in found
            if isinstance(part, Record) and part.name
        }
        listed = [
            part
            for part in found
            if part != VOID
            and not (isinstance(part, Tag) and (part.keyword, part.name) in self._defined)
        ]
        if backwards:
            listed.reverse()
        self._ids: dict[CType, int] = {part: at for at, part in enumerate(listed, 1)}
        self._types = listed

    def id(self, type: CType) -> int:  # noqa: A002
        """Return the id of a type that is part of what was given."""
        if isinstance(type, Tag):
            type = self._defined.get((type.keyword, type.name), type)  # noqa: A001
        return 0 if type == VOID else self._ids[type]

    def builder(self) -> BtfBuilder:
        """Return a builder that holds the types, for more to be added."""
        made = BtfBuilder(self.order)
        for type in self._types:  # noqa: A001
            self._add(made, type)
        return made

    def btf(self, name: str = "model") -> Btf:
        """Return the table."""
        return self.builder().btf(name)

    def _add(self, made: BtfBuilder, type: CType) -> None:  # noqa: A002
        if isinstance(type, Int):
            made.add_int(type.name, type.size, type.encoding)
        elif isinstance(type, Float):
            made.add_float(type.name, type.size)
        elif isinstance(type, Enum):
            add = made.add_enum64 if type.is_wide else made.add_enum
            add(type.name, type.size, type.values, signed=type.signed)
        elif isinstance(type, Pointer):
            made.add_ptr(self.id(type.to))
        elif isinstance(type, Array):
            made.add_array(self.id(type.of), type.nelems, self.id(_INDEX))
        elif isinstance(type, Typedef):
            made.add_typedef(type.name, self.id(type.of))
        elif isinstance(type, Qualified):
            getattr(made, f"add_{type.word}")(self.id(type.of))
        elif isinstance(type, Function):
            made.add_func_proto(self.id(type.returns), [(n, self.id(p)) for n, p in type.params])
        elif isinstance(type, Tag):
            made.add_fwd(type.name, is_union=type.keyword == "union")
        else:
            assert isinstance(type, Record)
            add_record = made.add_struct if type.keyword == "struct" else made.add_union
            place = layout(type)
            add_record(
                type.name,
                place.size,
                [
                    (member.name, self.id(member.type), at, member.bits or 0)
                    for member, at in zip(type.members, place.offsets, strict=True)
                ],
            )

    def __str__(self) -> str:
        """C text of all definitions that have a name, with offsets."""
        btf = self.btf()
        texts = []
        for part in self._types:
            if isinstance(part, (Record, Enum)) and part.name:
                texts.append(cdecl.define(btf, self.id(part)))
            elif isinstance(part, Typedef):
                of = self.id(part.of)
                if isinstance(part.of, (Record, Enum)) and not part.of.name:
                    body, _, size = cdecl.define(btf, of).rpartition("};")
                    texts.append(f"typedef {body}}} {part.name};{size}")
                else:
                    texts.append(f"typedef {cdecl.declare(btf, of, part.name)};")
        return "\n".join(texts)


def _children(type: CType) -> Sequence[CType]:  # noqa: A002
    if isinstance(type, Record):
        return [member.type for member in type.members]
    if isinstance(type, Pointer):
        return [type.to]
    if isinstance(type, Array):
        return [type.of, _INDEX]
    if isinstance(type, (Typedef, Qualified)):
        return [type.of]
    if isinstance(type, Function):
        return [type.returns, *(param for _, param in type.params)]
    return []


def parts(type: CType) -> Iterator[CType]:  # noqa: A002
    """Yield a type and all that it refers to, itself first."""
    todo = [type]
    while todo:
        part = todo.pop()
        yield part
        todo += reversed(_children(part))
