"""Typed values from BTF: what each C type is in Python. ``docs/values.md`` has the whole table.

In short: integers and pointers are ``int``, ``_Bool`` ``bool``, enums members of an ``IntEnum``
made from BTF, floats ``float``; ``char[N]`` is ``str``, arrays of other unsigned bytes are
``bytes``, other arrays tuples; structs and unions are :class:`~pybpfload.btf.records.Record`.

``char[N]`` is an array of the 1-byte integer that is *called* ``char``, whether or not it is
signed; an array of any other unsigned 1-byte integer is bytes, of any other signed one a tuple.

Typedefs and modifiers change the name of a codec and nothing else. Layout is taken from BTF alone:
sizes, offsets and bit numbers are never worked out again, so packed and oddly aligned types need
nothing special. A struct that ends in an array without length takes what the buffer has beyond it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from pybpfload.btf import types as t
from pybpfload.btf.arrays import ArrayCodec, BytesCodec, CText, TextCodec
from pybpfload.btf.build import NATIVE
from pybpfload.btf.cdecl import printable, type_text
from pybpfload.btf.codecs import (
    INT_CODES,
    BoolCodec,
    BtfEnum,
    Codec,
    EnumCodec,
    FloatCodec,
    IntCodec,
    RawCodec,
    ValueMismatchError,
    WideIntCodec,
)
from pybpfload.btf.records import BitsCodec, Field, Record, RecordCodec
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf.table import Btf

__all__ = ["BtfEnum", "CText", "Codec", "Record", "ValueMismatchError", "codec", "raw_codec"]

_MAX_DEPTH = 32  # types inside types; the kernel's own limit is 32 (MAX_RESOLVE_DEPTH)
_MAX_FIELDS = 1 << 14  # members in all structs inside one type, several times the kernel's largest
_MAX_VALUES = 4096  # values made beyond _MAX_VALUES_PER_BYTE: what unions and overlaps may multiply
_MAX_VALUES_PER_BYTE = 8

_CODECS: WeakKeyDictionary[Btf, dict[int, Codec]] = WeakKeyDictionary()
# Why types have none: many variables may have a type that takes long to refuse.
_REFUSED: WeakKeyDictionary[Btf, dict[int, str]] = WeakKeyDictionary()


def codec(btf: Btf, type_id: int) -> Codec:
    """Return the codec of a type; of a variable, that of its type.

    Args:
        btf: The table, of either byte order.
        type_id: The type.

    Raises:
        FormatError: The type has no values (``void``, functions, forward declarations), contains
            itself, or its layout makes no sense.
    """
    known = _CODECS.setdefault(btf, {})
    found = known.get(type_id)
    if found is not None:
        return found
    refused = _REFUSED.setdefault(btf, {})
    if type_id in refused:
        raise FormatError(refused[type_id], file=btf.name, section=".BTF")
    try:
        return _Maker(btf, known).make(type_id, 0)
    except FormatError as error:
        refused[type_id] = error.message
        raise


@lru_cache(maxsize=256)
def raw_codec(size: int, byteorder: str = NATIVE) -> Codec:
    """Return a codec for values without BTF: ``int`` for 1, 2, 4 and 8 bytes, else ``bytes``.

    Integers are unsigned. Bytes of exactly ``size`` are always taken for writing; integers where
    they are read as such, and negative ones too.
    """
    return RawCodec(size, byteorder)


class _Maker:
    """Makes codecs for types and the types inside them."""

    def __init__(self, btf: Btf, known: dict[int, Codec]) -> None:
        self._btf = btf
        self._known = known

    def _bad(self, type_id: int, problem: str) -> FormatError:
        return FormatError(
            f"{self._btf.describe(type_id)} {problem}", file=self._btf.name, section=".BTF"
        )

    def make(self, type_id: int, depth: int) -> Codec:
        """Return the codec of a type that lies ``depth`` types deep in the one asked for."""
        wanted = type_id
        found = self._known.get(type_id)
        if found is not None:
            return found
        if depth > _MAX_DEPTH:
            raise self._bad(type_id, f"lies more than {_MAX_DEPTH} types deep, or contains itself")
        btf = self._btf
        core_id = btf.strip(type_id)
        variable = btf[core_id]
        if isinstance(variable, t.Var):
            type_id = variable.type
            core_id = btf.strip(type_id)
        core = self._known.get(core_id)
        if core is None:
            core = self._new(btf[core_id], self._label(type_id, core_id), depth)
            if (
                core.fields > _MAX_FIELDS
                or core.cost > _MAX_VALUES + _MAX_VALUES_PER_BYTE * core.size
            ):
                raise self._bad(core_id, "has too many members, or too many that share bytes")
            core = self._known.setdefault(core_id, core)
        return self._known.setdefault(wanted, core.named(type_text(btf, type_id)))

    def _label(self, type_id: int, core_id: int) -> str:
        """Name for the class: that of the type or of the typedef nearest to it."""
        label = self._btf.type_name(core_id)
        for _ in range(len(self._btf)):
            if label or type_id == core_id:
                break
            step = self._btf[type_id]
            assert isinstance(step, t.Reference)
            type_id = step.type
            following = self._btf.strip(type_id, typedefs=False)
            if isinstance(step, t.Typedef) and following == core_id:
                label = step.name
        return printable(label) or "anonymous"

    def _new(self, core: t.Type, label: str, depth: int) -> Codec:
        name, order = type_text(self._btf, core.id), self._btf.byteorder
        if isinstance(core, t.Int):
            return self._int(core, name)
        if isinstance(core, t.Ptr):
            return IntCodec(name, self._btf.pointer_size, False, order)
        if isinstance(core, (t.Enum, t.Enum64)):
            if core.size not in INT_CODES:
                raise self._bad(core.id, f"has {core.size} bytes, an enum has 1, 2, 4 or 8")
            pairs = ((e.name, e.value) for e in core.values)
            return EnumCodec(name, core.size, core.signed, order, label, pairs)
        if isinstance(core, t.Float):
            if core.size in (2, 4, 8):
                return FloatCodec(name, core.size, order)
            if core.size in (12, 16):
                return BytesCodec(name, core.size, order)
            raise self._bad(core.id, f"has {core.size} bytes, a float has 2, 4, 8, 12 or 16")
        if isinstance(core, t.Array):
            return self._array(core, name, depth)
        if isinstance(core, t.Composite):
            return RecordCodec(name, label, core.size, order, self._fields(core, depth))
        raise self._bad(core.id, "has no values")

    def _int(self, core: t.Int, name: str) -> Codec:
        order = self._btf.byteorder
        if core.size == 16:
            return WideIntCodec(name, core.size, core.signed, order)
        if core.size not in INT_CODES:
            raise self._bad(core.id, f"has {core.size} bytes, an integer has 1, 2, 4, 8 or 16")
        if core.is_bool:
            return BoolCodec(name, core.size, order)
        return IntCodec(name, core.size, core.signed, order)

    def _array(self, core: t.Array, name: str, depth: int) -> Codec:
        btf = self._btf
        if core.nelems:
            btf.size(core.id)  # refuses more than 4 GiB
        element = btf[btf.strip(core.type)]
        if isinstance(element, t.Int) and element.size == 1 and not element.is_bool:
            if element.name == "char":
                return TextCodec(name, core.nelems, btf.byteorder)
            if not element.signed:
                return BytesCodec(name, core.nelems, btf.byteorder)
        return ArrayCodec(name, self.make(core.type, depth + 1), core.nelems, btf.byteorder)

    def _fields(self, top: t.Composite, depth: int) -> Iterator[Field]:
        """Fields of a composite, those of nameless members lifted into it, in order."""
        btf = self._btf
        seen: dict[str, int] = {}
        # Iterators over members, the innermost last, with the bit where their composite starts.
        walk = [(0, iter(top.members))]
        steps = 0
        while walk:
            start, members = walk[-1]
            member = next(members, None)
            if member is None:
                walk.pop()
                continue
            steps += 1
            if steps > _MAX_FIELDS:
                raise self._bad(top.id, f"has more than {_MAX_FIELDS} members")
            core = btf[btf.strip(member.type)]
            bit = start + member.bit_offset
            if not member.name:
                if isinstance(core, t.Composite) and not member.bitfield_size:
                    if depth + len(walk) > _MAX_DEPTH:
                        raise self._bad(top.id, f"nests more than {_MAX_DEPTH} deep")
                    walk.append((bit, iter(core.members)))
                continue  # anything else without a name is padding
            name = member.name
            while name in seen:
                seen[member.name] += 1
                name = f"{member.name}_{seen[member.name]}"
            seen[name] = 1
            found = self._member(top, member, core, bit, depth)
            end = found.offset + found.codec.size
            if end > top.size:
                raise self._bad(
                    top.id, f"has {top.size} bytes, but member {printable(name)} ends at {end}"
                )
            yield found._replace(name=name)

    def _member(
        self, top: t.Composite, member: t.Member, core: t.Type, bit: int, depth: int
    ) -> Field:
        width = member.bitfield_size
        inner = self.make(member.type, depth + 1)
        if not width and isinstance(core, t.Int) and (core.offset or core.bits != 8 * core.size):
            # Before kflag (Linux 4.20) an integer type of its own described each bit field.
            width, bit = core.bits, bit + core.offset
        if width:
            if not isinstance(core, (t.Int, t.Enum, t.Enum64)) or width > 8 * core.size:
                raise self._bad(top.id, f"has a bit field of {width} bits of type {inner.name}")
            return Field(member.name, bit // 8, BitsCodec(inner, bit % 8, width))
        if bit % 8:
            raise self._bad(top.id, f"has member {printable(member.name)} at bit {bit}")
        return Field(member.name, bit // 8, inner)
