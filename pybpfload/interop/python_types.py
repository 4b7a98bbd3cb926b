"""Users' own classes for C types: checked against BTF once, field by field, and then just used.

What may stand for which C type, as the class itself or as the annotation of one of its fields:

=======================================  ==========================================================
Python                                   C
=======================================  ==========================================================
dataclass, ``NamedTuple``                struct or union with a member for each field, found by name
                                         (``from_`` for a member ``from``). Members that the class
                                         does not have are not read, and written as zero.
``ctypes.Structure``, ``ctypes.Union``   the same layout: each field at its offset, of the same size
                                         (:mod:`pybpfload.interop.ctypes_types`)
record class of an object's BTF          the same type
``int``                                  integers, enums, pointers, bit fields
``bool``                                 ``_Bool``
an ``Enum`` class                        enums and integers; enumerators of the same name must have
                                         the same number. A number without a member stays ``int``.
``float``                                floating point numbers
``str``                                  ``char[N]``
``bytes``                                ``char[N]`` (all N bytes), ``unsigned char[N]``
``tuple[X, ...]``, ``list[X]``,          arrays of what may be X
``Sequence[X]``, ``tuple[X, X, X]``
``X | Y``                                what may be X, else what may be Y
``Any``, no annotation                   everything, as BTF has it
=======================================  ==========================================================

``Annotated`` and ``NewType`` stand for what they are made of. Fields of a dataclass with
``init=False`` are the user's own.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from operator import itemgetter
from typing import Any, NamedTuple

from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.codecs import (
    BoolCodec,
    Codec,
    EnumCodec,
    FloatCodec,
    IntCodec,
    RawCodec,
    WideIntCodec,
)
from pybpfload.btf.records import BitsCodec, Record, RecordCodec
from pybpfload.btf.values import raw_codec
from pybpfload.errors import BpfError

__all__ = ["Mismatch", "PythonCodec", "TypeMismatchError", "codec_for", "own_codec"]

_MAX_DEPTH = 32  # classes inside classes; BTF has no more levels
_SHOWN = 4  # mismatches in a message

Convert = Callable[[Any], Any]


class Mismatch(NamedTuple):
    """A field of a user's class that does not fit the C type.

    Attributes:
        field: Path of the field, ``""`` for the class itself: ``comm``, ``source.port``.
        expected: What BTF has there, with offset and size; or that it has nothing.
        got: What the class has there.
    """

    field: str
    expected: str
    got: str

    def __str__(self) -> str:
        where = f"field {self.field}: " if self.field else ""
        return f"{where}BTF has {self.expected}, the class has {self.got}"


class TypeMismatchError(BpfError, TypeError):
    """A user's class does not fit the C type that it is to stand for.

    Attributes:
        python_type: The class.
        c_type: The C type.
        mismatches: Each field that does not fit, in the order of the class.
    """

    def __init__(self, python_type: Any, c_type: str, mismatches: Sequence[Mismatch]) -> None:
        self.python_type = python_type
        self.c_type = c_type
        self.mismatches = tuple(mismatches)
        super().__init__(python_type, c_type, self.mismatches)

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.mismatches[:_SHOWN]))
        more = len(self.mismatches) - _SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        return f"{type_name(self.python_type)} does not fit {self.c_type}: {shown}{rest}"


class PythonCodec(Codec):
    """Values of a user's class: those of a C type, converted.

    Writing takes what the codec of the C type takes, too.

    Args:
        inner: Codec of the C type.
        make: Makes the user's value from one of ``inner``.
        unmake: Makes what ``inner`` can write from a user's value; leaves anything else alone.

    Attributes:
        inner: As above.
    """

    __slots__ = ("_make", "_unmake", "inner")

    def __init__(self, inner: Codec, make: Convert, unmake: Convert) -> None:
        super().__init__(inner.name, inner.size, inner.code, inner.order)
        self.inner = inner
        self._make = make
        self._unmake = unmake
        self.loss, self.cost, self.fields = inner.loss, inner.cost, inner.fields
        self.overlaps = inner.overlaps
        self.convert = self._convert

    @property
    def label(self) -> str:
        """What a value is called in errors."""
        return self.inner.label

    @property
    def members(self) -> Any:
        """Members of the C type if it is a struct."""
        return getattr(self.inner, "members", ())

    def _convert(self, raw: Any) -> Any:
        convert = self.inner.convert
        return self._make(raw if convert is None else convert(raw))

    def decode(self, buffer: Any, offset: int = 0, size: int | None = None) -> Any:
        """Read one value; see :meth:`Codec.decode`."""
        return self._make(self.inner.decode(buffer, offset, size))

    def _many(self, view: memoryview, offsets: Sequence[int], size: int) -> list[Any]:
        return list(map(self._make, self.inner._many(view, offsets, size)))

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value; see :meth:`Codec.encode`."""
        return self.inner.encode(self._unmake(value))

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        self.inner._write(out, offset, self._unmake(value))

    def _check(self, out: bytearray, offset: int, value: Any) -> None:
        self.inner._check(out, offset, self._unmake(value))


def codec_for(python_type: Any, codec: Codec) -> Codec:
    """Return a codec that reads and writes a C type as a class of the user's.

    The class is checked once, here.

    Args:
        python_type: The class, or another type as the table above has it. ``Any`` and the record
            class of the C type itself give ``codec``.
        codec: Codec of the C type (:func:`pybpfload.btf.values.codec`). Of one without BTF
            (:func:`pybpfload.btf.values.raw_codec`) the size is all that can be checked: it may be
            an integer, ``bytes`` or a ctypes structure.

    Raises:
        TypeMismatchError: They do not fit; names every field, both types, offset and size.
        TypeError: It is no type, or its annotations cannot be evaluated.
    """
    if isinstance(codec, PythonCodec):
        codec = codec.inner
    if _is_ctypes(_bare(python_type)):
        from pybpfload.interop.ctypes_types import CtypesCodec

        return CtypesCodec(codec, _bare(python_type))
    checker = _Checker()
    make, unmake = checker.conversion(python_type, codec, "", place_of(codec))
    if checker.mismatches:
        raise TypeMismatchError(python_type, codec.name, checker.mismatches)
    if make is None and unmake is None:
        return codec
    return PythonCodec(codec, make or _same, unmake or _same)


def own_codec(python_type: Any) -> Codec | None:
    """Return the codec of a class that has a layout of its own.

    That is a record class, or a ctypes structure, which then is as large as it says. ``None`` for
    any other.
    """
    if isinstance(python_type, type) and issubclass(python_type, Record):
        return python_type._codec
    if not _is_ctypes(python_type):
        return None
    import ctypes

    return codec_for(python_type, raw_codec(ctypes.sizeof(python_type)))


def type_name(python_type: Any) -> str:
    """How messages call a type: ``int``, ``Event``, ``tuple[int, ...]``."""
    if isinstance(python_type, type) and not typing.get_args(python_type):
        return python_type.__qualname__
    return str(python_type).replace("typing.", "")


def _same(value: Any) -> Any:
    return value


class _Field(NamedTuple):
    """A field of a class: its name, its position in the record, and conversions."""

    name: str
    position: int
    make: Convert | None
    unmake: Convert | None
    by_keyword: bool


class _Checker:
    """Compares types and collects what does not fit.

    Attributes:
        mismatches: What did not fit so far.
    """

    def __init__(self) -> None:
        self.mismatches: list[Mismatch] = []
        self._depth = 0

    def conversion(
        self, python_type: Any, codec: Codec, path: str, place: str
    ) -> tuple[Convert | None, Convert | None]:
        """Return how values are made from those of a codec, and the reverse; ``None``: not at all.

        Args:
            python_type: What the user wants.
            codec: Codec of the C type.
            path: The field, for messages.
            place: The C type with its offset and size, for messages.
        """
        wanted = _bare(python_type)
        if self._depth > _MAX_DEPTH:
            raise TypeError(f"{type_name(python_type)} nests more than {_MAX_DEPTH} deep")
        self._depth += 1
        try:
            found = self._conversion(wanted, codec, path, place)
        finally:
            self._depth -= 1
        if found is None:
            self.mismatches.append(Mismatch(path, place, type_name(python_type)))
            return None, None
        return found

    def _conversion(
        self, wanted: Any, codec: Codec, path: str, place: str
    ) -> tuple[Convert | None, Convert | None] | None:
        if wanted is Any or wanted is object:
            return None, None
        origin = typing.get_origin(wanted)
        if origin in (typing.Union, types.UnionType):
            return self._union(wanted, codec, path, place)
        if (origin or wanted) in (tuple, list, Sequence):
            return self._array(wanted, codec, path)
        if not isinstance(wanted, type):
            raise TypeError(f"{type_name(wanted)} cannot stand for a C type")
        if _is_ctypes(wanted):
            from pybpfload.interop.ctypes_types import conversion

            make, unmake, found = conversion(wanted, codec, path, place)
            self.mismatches += found
            return make, unmake
        if issubclass(wanted, Record):
            return (None, None) if _is_same_type(wanted, codec) else None
        if dataclasses.is_dataclass(wanted) or _is_named_tuple(wanted):
            return self._fields(wanted, codec, path) if isinstance(codec, RecordCodec) else None
        if issubclass(wanted, enum.Enum):
            return _enum(wanted, codec)
        return _scalar(wanted, codec)

    def _union(
        self, wanted: Any, codec: Codec, path: str, place: str
    ) -> tuple[Convert | None, Convert | None] | None:
        before = len(self.mismatches)
        for alternative in typing.get_args(wanted):
            found = self.conversion(alternative, codec, path, place)
            if len(self.mismatches) == before:
                return found
            del self.mismatches[before:]
        return None

    def _array(
        self, wanted: Any, codec: Codec, path: str
    ) -> tuple[Convert | None, Convert | None] | None:
        if not isinstance(codec, ArrayCodec):
            return None
        arguments, origin = typing.get_args(wanted), typing.get_origin(wanted)
        container = list if (origin or wanted) is list else tuple
        if (
            origin is tuple
            and arguments[-1:] != (Ellipsis,)
            and (len(arguments) != codec.count or len(set(arguments)) > 1)
        ):
            return None
        element = codec.element
        make, unmake = self.conversion(
            arguments[0] if arguments else Any, element, f"{path}[]", place_of(element)
        )
        return (
            _all(container, make) if make or container is list else None,
            _elements(unmake) if unmake else None,
        )

    def _fields(
        self, wanted: Any, codec: RecordCodec, path: str
    ) -> tuple[Convert | None, Convert | None]:
        fields = []
        for name, annotation, by_keyword in _declared(wanted):
            index = codec.index(name)
            below = f"{path}.{name}" if path else name
            if index is None:
                known = [member.name for member in codec.members]
                close = get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                self.mismatches.append(
                    Mismatch(below, f"no such member in {codec.name}{hint}", type_name(annotation))
                )
                continue
            _, offset, inner = codec.members[index]
            converted = self.conversion(annotation, inner, below, place_of(inner, offset))
            fields.append(_Field(name, index, *converted, by_keyword))
        return _maker(wanted, fields), _unmaker(wanted, codec, fields)


def place_of(codec: Codec, offset: int | None = None) -> str:
    """How messages call a C type: ``char[16] at offset 8, 16 bytes``."""
    at = "" if offset is None else f" at offset {offset}"
    return f"{codec.name}{at}, {codec.size} bytes"


def _bare(python_type: Any) -> Any:
    """Step over ``Annotated`` and ``NewType``."""
    while True:
        if typing.get_origin(python_type) is typing.Annotated:
            python_type = typing.get_args(python_type)[0]
        elif hasattr(python_type, "__supertype__"):
            python_type = python_type.__supertype__
        else:
            return python_type


def _is_ctypes(wanted: Any) -> bool:
    ctypes = sys.modules.get("ctypes")  # who has such a class has imported it
    return (
        ctypes is not None
        and isinstance(wanted, type)
        and issubclass(wanted, (ctypes.Structure, ctypes.Union))
    )


def _is_named_tuple(wanted: type) -> bool:
    return issubclass(wanted, tuple) and hasattr(wanted, "_fields") and hasattr(wanted, "_make")


def _is_same_type(wanted: type[Record], codec: Codec) -> bool:
    """Whether a record class is that of a codec, perhaps made from another copy of the BTF."""
    if not isinstance(codec, RecordCodec):
        return False
    own = wanted._codec
    return codec.record is wanted or (
        (own.size, own.order, own.label) == (codec.size, codec.order, codec.label)
        and [(m.name, m.offset, m.codec.name) for m in own.members]
        == [(m.name, m.offset, m.codec.name) for m in codec.members]
    )


def _declared(wanted: Any) -> list[tuple[str, Any, bool]]:
    """Fields of a dataclass or named tuple: name, annotation, whether given by keyword only."""
    try:
        hints = typing.get_type_hints(wanted)
    except Exception as error:
        raise TypeError(
            f"the annotations of {type_name(wanted)} cannot be evaluated: {error}"
        ) from error
    if dataclasses.is_dataclass(wanted):
        return [
            (field.name, hints[field.name], field.kw_only is True)
            for field in dataclasses.fields(wanted)
            if field.init
        ]
    return [(name, hints.get(name, Any), False) for name in wanted._fields]


def _maker(wanted: Any, fields: list[_Field]) -> Convert:
    """How a value of the class is made from a record."""
    pick = _picker([field.position for field in fields])
    conversions = [(place, field.make) for place, field in enumerate(fields) if field.make]
    keywords = [(place, field.name) for place, field in enumerate(fields) if field.by_keyword]
    if not conversions and not keywords:
        if _is_named_tuple(wanted):
            build = wanted._make
            return lambda record: build(pick(record))
        return lambda record: wanted(*pick(record))

    def make(record: Any) -> Any:
        values = list(pick(record))
        for place, convert in conversions:
            values[place] = convert(values[place])
        if not keywords:
            return wanted(*values)
        named = {name: values[place] for place, name in keywords}
        positional = [v for v, field in zip(values, fields, strict=True) if not field.by_keyword]
        return wanted(*positional, **named)

    return make


def _picker(positions: list[int]) -> Convert:
    if len(positions) > 1:
        return itemgetter(*positions)
    return lambda record: [record[position] for position in positions]


def _unmaker(wanted: Any, codec: RecordCodec, fields: list[_Field]) -> Convert:
    """How a dict that the codec can write is made from a value of the class."""
    names = [(codec.members[field.position].name, field.name, field.unmake) for field in fields]

    def unmake(value: Any) -> Any:
        if not isinstance(value, wanted):
            return value
        given = {}
        for c_name, name, convert in names:
            item = getattr(value, name)
            given[c_name] = item if convert is None else convert(item)
        return given

    return unmake


def _all(container: Any, make: Convert | None) -> Convert:
    if make is None:
        return container  # type: ignore[no-any-return]
    return lambda values: container(map(make, values))


def _elements(unmake: Convert) -> Convert:
    def convert(values: Any) -> Any:
        return [unmake(each) for each in values] if isinstance(values, (list, tuple)) else values

    return convert


def _enum(wanted: type[enum.Enum], codec: Codec) -> tuple[Convert | None, Convert | None] | None:
    kind = codec.inner if isinstance(codec, BitsCodec) else codec
    if not isinstance(kind, (IntCodec, RawCodec)) or kind.code.endswith("s"):
        return None
    numbers = {name: member.value for name, member in wanted.__members__.items()}
    if not all(isinstance(number, int) for number in numbers.values()):
        return None
    if isinstance(kind, EnumCodec) and any(
        numbers.get(name, number) != number for name, number in kind.pairs
    ):
        return None

    def make(number: Any) -> Any:
        try:
            return wanted(int(number))
        except ValueError:
            return int(number)

    def unmake(value: Any) -> Any:
        return value.value if isinstance(value, wanted) else value

    return make, unmake


def _scalar(wanted: type, codec: Codec) -> tuple[Convert | None, Convert | None] | None:
    kind = codec.inner if isinstance(codec, BitsCodec) else codec
    if wanted is bytes:
        if isinstance(kind, TextCodec):
            return kind.encode, None
        is_bytes = isinstance(kind, BytesCodec) or (
            isinstance(kind, RawCodec) and kind.code.endswith("s")
        )
        return (None, None) if is_bytes else None
    if isinstance(kind, RawCodec):
        return (None, None) if wanted is int and not kind.code.endswith("s") else None
    fitting: dict[type, tuple[type[Codec], ...]] = {
        int: (IntCodec, WideIntCodec),
        bool: (BoolCodec,),
        float: (FloatCodec,),
        str: (TextCodec,),
    }
    return (None, None) if isinstance(kind, fitting.get(wanted, ())) else None
