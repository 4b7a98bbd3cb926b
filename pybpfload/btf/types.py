"""The kinds of BTF types as plain values, decoded one at a time from a :class:`pybpfload.btf.Btf`.

Field names follow ``struct btf_type`` and its additions in the kernel's ``uapi/linux/btf.h``. Sizes
are in bytes, offsets of members in bits, offsets of variables in bytes. References to other types
are type ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

__all__ = [
    "COMPOSITE_KINDS",
    "ENUM_KINDS",
    "FUNC_LINKAGE",
    "MODIFIERS",
    "VAR_LINKAGE",
    "Array",
    "Composite",
    "Const",
    "Datasec",
    "DeclTag",
    "Enum",
    "Enum64",
    "Enumerator",
    "Float",
    "Func",
    "FuncProto",
    "Fwd",
    "Int",
    "Kind",
    "Member",
    "Opaque",
    "Param",
    "Ptr",
    "Reference",
    "Restrict",
    "SecVar",
    "Struct",
    "Type",
    "TypeTag",
    "Typedef",
    "Union",
    "Var",
    "Void",
    "Volatile",
]


class Kind(IntEnum):
    """Kind of a BTF type (``BTF_KIND_*``)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


MODIFIERS = frozenset({Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
"""Kinds that qualify another type without changing its layout."""

COMPOSITE_KINDS = frozenset({Kind.STRUCT, Kind.UNION})

ENUM_KINDS = frozenset({Kind.ENUM, Kind.ENUM64})

VAR_LINKAGE = ("static", "global", "extern")
FUNC_LINKAGE = ("static", "global", "extern")

INT_SIGNED = 1
INT_CHAR = 2
INT_BOOL = 4


@dataclass(slots=True)
class Type:
    """What every BTF type has: its id, its name (``""`` when anonymous) and its kind."""

    id: int
    name: str
    kind: ClassVar[Kind]


class Void(Type):
    """Type id 0."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.VOID


@dataclass(slots=True)
class Int(Type):
    """Integer of ``size`` bytes; ``bits`` wide at bit ``offset`` (today always all of it)."""

    size: int
    encoding: int
    offset: int
    bits: int
    kind: ClassVar[Kind] = Kind.INT

    @property
    def signed(self) -> bool:
        """Whether ``BTF_INT_SIGNED`` is set."""
        return bool(self.encoding & INT_SIGNED)

    @property
    def is_bool(self) -> bool:
        """Whether ``BTF_INT_BOOL`` is set."""
        return bool(self.encoding & INT_BOOL)

    @property
    def is_char(self) -> bool:
        """Whether ``BTF_INT_CHAR`` is set (clang sets it never, gcc for ``char``)."""
        return bool(self.encoding & INT_CHAR)


@dataclass(slots=True)
class Reference(Type):
    """A type that is another one with something added."""

    type: int


class Ptr(Reference):
    """Pointer to ``type``."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.PTR


class Typedef(Reference):
    """Another name of ``type``."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.TYPEDEF


class Volatile(Reference):
    """``volatile`` type."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.VOLATILE


class Const(Reference):
    """``const`` type."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.CONST


class Restrict(Reference):
    """``restrict`` type."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.RESTRICT


class TypeTag(Reference):
    """``__attribute__((btf_type_tag("name")))`` on ``type`` (Linux 5.17)."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.TYPE_TAG


@dataclass(slots=True)
class Array(Type):
    """Array of ``nelems`` elements of ``type``; 0 elements for a flexible array."""

    type: int
    index_type: int
    nelems: int
    kind: ClassVar[Kind] = Kind.ARRAY


@dataclass(slots=True)
class Member:
    """Member of a struct or union.

    Attributes:
        bit_offset: Offset from the start of the struct that directly contains it, in bits.
        bitfield_size: Width in bits of a bit field, 0 for an ordinary member.
    """

    name: str
    type: int
    bit_offset: int
    bitfield_size: int = 0


@dataclass(slots=True)
class Composite(Type):
    """Struct or union of ``size`` bytes; with ``kflag`` offsets carry bit field sizes."""

    size: int
    members: tuple[Member, ...]
    kflag: bool = False


class Struct(Composite):
    """``struct``."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.STRUCT


class Union(Composite):
    """``union``."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.UNION


@dataclass(slots=True)
class Enumerator:
    """Name and value of one enumerator."""

    name: str
    value: int


@dataclass(slots=True)
class Enum(Type):
    """Enum of ``size`` bytes. ``signed`` is the kflag, which compilers set since Linux 6.0.

    Values are those of the 32-bit word read as signed or unsigned by that flag.
    """

    size: int
    values: tuple[Enumerator, ...]
    signed: bool
    kind: ClassVar[Kind] = Kind.ENUM


@dataclass(slots=True)
class Enum64(Type):
    """Enum with 64-bit values (Linux 6.0)."""

    size: int
    values: tuple[Enumerator, ...]
    signed: bool
    kind: ClassVar[Kind] = Kind.ENUM64


@dataclass(slots=True)
class Fwd(Type):
    """Forward declaration of a struct or union."""

    is_union: bool
    kind: ClassVar[Kind] = Kind.FWD


@dataclass(slots=True)
class Func(Type):
    """Function; ``type`` is its prototype, ``linkage`` 0 static, 1 global, 2 extern."""

    type: int
    linkage: int
    kind: ClassVar[Kind] = Kind.FUNC


@dataclass(slots=True)
class Param:
    """Parameter of a prototype. The last one is ``...`` when both name and type are empty."""

    name: str
    type: int


@dataclass(slots=True)
class FuncProto(Type):
    """Function prototype."""

    return_type: int
    params: tuple[Param, ...]
    kind: ClassVar[Kind] = Kind.FUNC_PROTO


@dataclass(slots=True)
class Var(Type):
    """Variable; ``linkage`` 0 static, 1 global, 2 extern."""

    type: int
    linkage: int
    kind: ClassVar[Kind] = Kind.VAR


@dataclass(slots=True)
class SecVar:
    """One variable in a data section: id of its VAR, offset and size in bytes."""

    type: int
    offset: int
    size: int


@dataclass(slots=True)
class Datasec(Type):
    """Data section of ``size`` bytes; compilers leave 0, linker or loader fill it in."""

    size: int
    entries: tuple[SecVar, ...]
    kind: ClassVar[Kind] = Kind.DATASEC


@dataclass(slots=True)
class Float(Type):
    """Floating point number of ``size`` bytes (Linux 5.13)."""

    size: int
    kind: ClassVar[Kind] = Kind.FLOAT


@dataclass(slots=True)
class DeclTag(Type):
    """``btf_decl_tag("name")`` on ``type``, or on a member or parameter of it (Linux 5.16).

    ``component`` is the index of that member or parameter, -1 for the type itself.
    """

    type: int
    component: int
    kind: ClassVar[Kind] = Kind.DECL_TAG


@dataclass(slots=True)
class Opaque(Type):
    """A kind newer than this package, stepped over by means of the layout section (Linux 7.1)."""

    raw_kind: int
    kind: ClassVar[Kind] = Kind.VOID
