"""ctypes classes of C types, and users' ctypes classes checked against BTF.

A class made here has the layout of BTF and nothing of the platform's: it is packed, and what lies
between the members is put there as members of its own. So it is the same on every system, and for
either byte order.

============================================  =====================================================
C type                                        field
============================================  =====================================================
integers of 1 to 8 bytes, enums, pointers     integer of that size and sign
``_Bool`` of 1 byte                           ``c_bool``; of more an integer
``float``, ``double``                         ``c_float``, ``c_double``
``char[N]``                                   ``c_char * N``
integers of 16 bytes, other floats            ``c_ubyte * size``
arrays, structs, unions                       the same of their elements and members
bit fields                                    properties that read and write them in place
members that share bytes                      members of anonymous unions: each as if it were alone
============================================  =====================================================
"""

from __future__ import annotations

import ctypes
import keyword
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

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
from pybpfload.btf.records import BitsCodec, Field, Record, RecordCodec
from pybpfload.interop import as_codec
from pybpfload.interop.python_types import (
    Mismatch,
    PythonCodec,
    TypeMismatchError,
    place_of,
    type_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["CtypesCodec", "conversion", "ctypes_class"]

_ORDERS = {"<": "little-endian", ">": "big-endian"}
_SWAPPABLE = {"<": "__ctype_le__", ">": "__ctype_be__"}
_INTEGERS: dict[tuple[int, bool], Any] = {
    (1, False): ctypes.c_uint8,
    (2, False): ctypes.c_uint16,
    (4, False): ctypes.c_uint32,
    (8, False): ctypes.c_uint64,
    (1, True): ctypes.c_int8,
    (2, True): ctypes.c_int16,
    (4, True): ctypes.c_int32,
    (8, True): ctypes.c_int64,
}
_FLOATS: dict[int, Any] = {4: ctypes.c_float, 8: ctypes.c_double}
_BYTE = ctypes.c_ubyte
_BYTES = ("b", "B", "c")  # codes of single bytes
_AS_BYTES = (TextCodec, BytesCodec, WideIntCodec, FloatCodec)

_CLASSES: WeakKeyDictionary[type[Record], Any] = WeakKeyDictionary()


def ctypes_class(c_type: Any) -> Any:
    """Return the ctypes class of a struct or union, the same one each time.

    Members have the names that they have in a record. Those that begin with an underscore have an
    ``m`` in front, because ctypes and Python use such names; a Python keyword can also be had with
    an underscore behind it. Flexible arrays are arrays of length 0 that tell the offset.

    Args:
        c_type: Codec or record class.

    Raises:
        TypeError: It is no struct or union.
        FormatError: It claims more than 1 GiB.
    """
    codec = as_codec(c_type)
    if not isinstance(codec, RecordCodec):
        raise TypeError(f"{codec.name} is no struct or union")
    codec.check_size()
    found = _CLASSES.get(codec.record)
    if found is None:
        found = _CLASSES.setdefault(codec.record, _composite(codec))
    return found


def _composite(codec: RecordCodec) -> Any:
    """Make the class; members inside are made first, no deeper than BTF may nest."""
    pieces: list[tuple[str, int, Any]] = []
    bits: dict[str, property] = {}
    aliases: dict[str, str] = {}
    names: set[str] = set()
    for member in codec.members:
        name = f"m{member.name}" if member.name.startswith("_") else member.name
        while name in names:
            name += "_"
        names.add(name)
        if keyword.iskeyword(name):
            aliases[f"{name}_"] = name
        if isinstance(member.codec, BitsCodec):
            bits[name] = _bit_property(member.codec, member.offset)
        else:
            pieces.append((name, member.offset, _field_type(member.codec)))
    if _share(pieces):
        made = _union(codec, pieces)
    else:
        made = _structure(codec.label, codec.size, pieces)
    for name, found in bits.items():
        setattr(made, name, found)
    for alias, name in aliases.items():
        if not hasattr(made, alias):
            setattr(made, alias, getattr(made, name))
    return made


def _share(pieces: list[tuple[str, int, Any]]) -> bool:
    end = 0
    for _, offset, kind in pieces:
        if offset < end:
            return True
        end = offset + ctypes.sizeof(kind)
    return False


def _union(codec: RecordCodec, pieces: list[tuple[str, int, Any]]) -> Any:
    """A union of structures of one member each."""
    parts = []
    for number, piece in enumerate(pieces):
        alone = _structure(f"{codec.label}_{piece[0]}", codec.size, [piece])
        parts.append((f"_part{number}", alone))
    names = [name for name, _ in parts]
    namespace = {"_anonymous_": names, "_fields_": parts, "__slots__": ()}
    return type(codec.label, (ctypes.Union,), namespace)


def _structure(label: str, size: int, pieces: list[tuple[str, int, Any]]) -> Any:
    fields: list[tuple[str, Any]] = []
    position = 0
    for name, offset, kind in pieces:
        if offset > position:
            fields.append((f"_pad{position}", _BYTE * (offset - position)))
        fields.append((name, kind))
        position = offset + ctypes.sizeof(kind)
    if size > position:
        fields.append((f"_pad{position}", _BYTE * (size - position)))
    # The layout is asked for by name since Python 3.14; it is the one that packing always meant.
    namespace = {"_pack_": 1, "_layout_": "ms", "_fields_": fields, "__slots__": ()}
    return type(label, (ctypes.Structure,), namespace)


def _field_type(codec: Codec) -> Any:
    if isinstance(codec, RecordCodec):
        return ctypes_class(codec)
    if isinstance(codec, TextCodec):
        return ctypes.c_char * codec.size
    if isinstance(codec, ArrayCodec):
        return _field_type(codec.element) * codec.count
    kind: Any = _BYTE * codec.size
    if isinstance(codec, IntCodec):
        kind = _INTEGERS[codec.size, codec.signed]
    elif isinstance(codec, BoolCodec):
        kind = ctypes.c_bool if codec.size == 1 else _INTEGERS[codec.size, False]
    elif isinstance(codec, FloatCodec):
        kind = _FLOATS.get(codec.size, kind)
    return getattr(kind, _SWAPPABLE[codec.order], kind)


def _bit_property(codec: BitsCodec, offset: int) -> property:
    def read(self: Any) -> Any:
        return codec.decode((_BYTE * ctypes.sizeof(self)).from_buffer(self), offset)

    def write(self: Any, value: Any) -> None:
        window: Any = (_BYTE * ctypes.sizeof(self)).from_buffer(self)
        codec._write(memoryview(window).cast("B"), offset, value)  # type: ignore[arg-type]

    return property(read, write, doc=f"Bit field {codec.name}.")


# Users' classes


class CtypesCodec(PythonCodec):
    """Values of a user's structure or union, which are copies of the bytes.

    Args:
        inner: Codec of the C type.
        python_type: The class.
    """

    __slots__ = ("_class",)

    def __init__(self, inner: Codec, python_type: Any) -> None:
        make, unmake, found = conversion(python_type, inner, "", place_of(inner))
        if found:
            raise TypeMismatchError(python_type, inner.name, found)
        super().__init__(inner, make, unmake)
        self._class = python_type
        self.loss = 0

    def decode(self, buffer: Any, offset: int = 0, size: int | None = None) -> Any:
        """Copy one value; see :meth:`Codec.decode`."""
        end = offset + self.size
        if len(buffer) < end or (size is not None and size < self.size):
            raise self._short(len(buffer) - offset if size is None else size)
        return self._class.from_buffer_copy(bytes(buffer[offset:end]))

    def _many(self, view: memoryview, offsets: Sequence[int], size: int) -> list[Any]:
        return [self.decode(view, offset) for offset in offsets]


class _Leaf(NamedTuple):
    """A field of a ctypes class; bit fields have a width and the first bit of all."""

    path: str
    offset: int
    kind: Any
    width: int
    bit: int


def conversion(
    wanted: Any, codec: Codec, path: str, place: str
) -> tuple[Callable[[Any], Any], Callable[[Any], Any], list[Mismatch]]:
    """Check a user's structure or union.

    Each of its fields must be in BTF at its offset, of its size, sign and byte order. Fields that
    begin with an underscore and that BTF does not have are padding. BTF may have more members.

    Args:
        wanted: The class.
        codec: Codec of the C type, or a raw one, whose size is all that is known.
        path: The field, for messages.
        place: The C type with its offset and size, for messages.

    Returns:
        How to make values of the class from those of the codec, the reverse, and what does not fit.
    """
    size = ctypes.sizeof(wanted)
    mismatches = []
    if size != codec.size or not isinstance(codec, (RecordCodec, RawCodec)):
        mismatches.append(Mismatch(path, place, f"{type_name(wanted)}, {size} bytes"))
    elif isinstance(codec, RecordCodec) and _CLASSES.get(codec.record) is not wanted:
        mismatches = list(_compare(wanted, codec, path))

    def make(value: Any) -> Any:
        return wanted.from_buffer_copy(codec.encode(value))

    def unmake(value: Any) -> Any:
        return bytes(value) if isinstance(value, wanted) else value

    return make, unmake, mismatches


def _compare(wanted: Any, codec: RecordCodec, path: str) -> Iterator[Mismatch]:
    for leaf in _leaves(wanted):
        below = f"{path}.{leaf.path}" if path else leaf.path
        index = codec.index(leaf.path)
        got = _describe(leaf, codec.order)
        if index is None:
            if not leaf.path.startswith("_"):
                yield Mismatch(below, f"no such member in {codec.name}", got)
            continue
        member = codec.members[index]
        expected = f"{member.codec.name} at offset {member.offset}, {member.codec.size} bytes"
        if isinstance(member.codec, BitsCodec) or leaf.width:
            if not _same_bits(leaf, member, codec.order):
                yield Mismatch(below, expected, got)
        elif leaf.offset != member.offset or not _fits(leaf.kind, member.codec):
            yield Mismatch(below, expected, got)
        else:
            yield from _inside(leaf.kind, member.codec, below)


def _inside(kind: Any, codec: Codec, path: str) -> Iterator[Mismatch]:
    while isinstance(codec, ArrayCodec) and issubclass(kind, ctypes.Array):
        kind, codec, path = kind._type_, codec.element, f"{path}[]"
    if isinstance(codec, RecordCodec):
        yield from _compare(kind, codec, path)


def _leaves(wanted: Any, start: int = 0) -> Iterator[_Leaf]:
    """Fields of a class and its bases, those of anonymous members lifted."""
    for owner in reversed(wanted.__mro__):
        anonymous = owner.__dict__.get("_anonymous_", ())
        for name, kind, *width in owner.__dict__.get("_fields_", ()):
            descriptor = owner.__dict__[name]
            offset = start + descriptor.offset
            if name in anonymous:
                yield from _leaves(kind, offset)
            elif width:
                yield _Leaf(name, offset, kind, width[0], descriptor.size & 0xFFFF)
            else:
                yield _Leaf(name, offset, kind, 0, 0)


def _same_bits(leaf: _Leaf, member: Field, order: str) -> bool:
    """Whether a bit field is the same: its lowest bit, counted from the start or the end."""
    codec = member.codec
    if not isinstance(codec, BitsCodec) or leaf.width != codec.width:
        return False
    if codec.signed != (_code(leaf.kind) in "bhilq") or not _in_order(leaf.kind, order):
        return False
    if order == "<":
        return 8 * leaf.offset + leaf.bit == 8 * member.offset + codec.shift
    end = leaf.offset + ctypes.sizeof(leaf.kind)
    return 8 * end - leaf.bit == 8 * (member.offset + codec.size) - codec.shift


def _in_order(kind: Any, order: str) -> bool:
    """Whether a simple type is of a byte order; single bytes are of either."""
    return ctypes.sizeof(kind) == 1 or getattr(kind, _SWAPPABLE[order], kind) is kind


def _code(kind: Any) -> str:
    """The letter of a simple type; ``""`` of others."""
    code = getattr(kind, "_type_", "")
    return code if isinstance(code, str) else ""


def _fits(kind: Any, codec: Codec) -> bool:
    """Whether a ctypes type stands for a C type; what is inside of structs is compared later."""
    if ctypes.sizeof(kind) != codec.size:
        return False
    if isinstance(codec, RecordCodec):
        return isinstance(kind, type) and issubclass(kind, (ctypes.Structure, ctypes.Union))
    if issubclass(kind, ctypes.Array):
        element: Any = kind._type_
        if isinstance(codec, ArrayCodec):
            return kind._length_ == codec.count and _fits(element, codec.element)
        return _code(element) in _BYTES and isinstance(codec, _AS_BYTES)
    if issubclass(kind, ctypes._Pointer):
        return codec.name.endswith("*")
    code = _code(kind)
    if not code or not _in_order(kind, codec.order):
        return False
    if isinstance(codec, (EnumCodec, BoolCodec)) or codec.size == 1:
        return code in "?cbBhHiIlLqQ"
    if isinstance(codec, IntCodec):
        return code in ("bhilq" if codec.signed else "BHILQPzZ")
    return isinstance(codec, FloatCodec) and code in "fd"


def _describe(leaf: _Leaf, order: str) -> str:
    """How messages call a field; its byte order is said where it is not that of BTF."""
    words = [] if _in_order(leaf.kind, order) else [_ORDERS[">" if order == "<" else "<"]]
    words.append(type_name(leaf.kind) + (f":{leaf.width}" if leaf.width else ""))
    size = f"{ctypes.sizeof(leaf.kind)} bytes" + (f", bit {leaf.bit}" if leaf.width else "")
    return f"{' '.join(words)} at offset {leaf.offset}, {size}"
