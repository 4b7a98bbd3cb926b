"""Structs and unions as records: immutable tuples with named fields, one class per BTF type.

A record is a value, as an integer is: reading a map twice gives two records, and changing one would
change nothing in the map. So records cannot be changed, only made: from keywords, or with
:meth:`Record._replace`. They hash and compare as tuples do, and unions agree with themselves,
because all members are read from the same bytes.

Nothing here is made by ``exec``. Names from BTF become keys of the class namespace, with these
rules: names with two underscores at both ends (``__class__``, ``__del__``) and those of
:class:`Record` that start with one (``_fields``) get no attribute and are found in
:meth:`Record.asdict` only; a Python keyword is an attribute as it is (``getattr(event, "from")``)
and with an underscore behind it (``event.from_``).
"""

from __future__ import annotations

import collections
import keyword
import struct
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.codecs import (
    BoolCodec,
    Codec,
    EnumCodec,
    ValueMismatchError,
    as_bool,
    as_bytes,
    as_int,
    unpack_many,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["BitsCodec", "Field", "Record", "RecordCodec"]

_BYTEORDER: dict[str, Any] = {"<": "little", ">": "big"}
_RESERVED = frozenset({"_fields", "_codec", "_replace", "_asdict"})
_PORTION = 256  # records whose columns are converted at a time: they fit into a cache
_new = tuple.__new__


def _plain_getter(index: int, doc: str) -> property:
    return property(lambda record: tuple.__getitem__(record, index), doc=doc)


# What collections.namedtuple reads its fields with: twice as fast as a property of an itemgetter.
_getter: Any = getattr(collections, "_tuplegetter", _plain_getter)


class Field(NamedTuple):
    """A member of a record.

    Attributes:
        name: Its name in C; that of a second member of the same name has a number behind it.
        offset: In bytes from the start of the record.
        codec: Reads and writes it.
    """

    name: str
    offset: int
    codec: Codec


class Record(tuple[Any, ...]):
    """Base of the classes made from structs and unions.

    Fields are attributes and the elements of the tuple, in the order of ``_fields``. Members of
    anonymous structs and unions are fields of the record around them, as in C. A field has
    precedence over the method of the same name, which is then ``Record.asdict(event)``.

    Records can be pickled, so they can be sent to other processes. What is pickled are their bytes
    and, once for all of a class that are pickled together, the layout. Unpickling makes a class
    anew: it has the same name and fields, and its records equal the pickled ones, but it is not the
    same class.

    Making one: ``Event(pid=1, comm="x")``, or by position. What is not given is zero. Of members
    that share bytes only one is needed.

    Raises:
        ValueMismatchError: A value does not fit, a name is unknown, or values given for members
            that share bytes contradict each other.
    """

    __slots__ = ()

    _fields: ClassVar[tuple[str, ...]]
    _codec: ClassVar[RecordCodec]

    def __new__(cls, /, *values: Any, **fields: Any) -> Record:
        """Make a record from values by position or by name."""
        return cls._codec.make(values, fields)

    def __repr__(self) -> str:
        pairs = zip(self._fields, self, strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._codec, self._codec.encode(self))

    def __copy__(self) -> Record:
        return self  # it never changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        return self

    def asdict(self) -> dict[str, Any]:
        """Return field names and values; records inside become dicts too, tuples lists."""
        return {name: _plain(value) for name, value in zip(self._fields, tuple(self), strict=True)}

    _asdict = asdict

    def to_bytes(self) -> bytes:
        """Return the bytes of the record; padding is zero."""
        return self._codec.encode(self)

    @classmethod
    def from_buffer(cls, buffer: Any, offset: int = 0) -> Record:
        """Read a record, see :meth:`Codec.decode`."""
        return cls._codec.decode(buffer, offset)

    def _replace(self, /, **fields: Any) -> Record:
        """Return a copy with other values for some fields; members that share bytes follow."""
        return self._codec.replace(self, fields)


def _again(codec: RecordCodec, raw: bytes) -> Record:
    return codec.decode(raw)


class BitsCodec(Codec):
    """A bit field, over all bytes that it touches.

    Args:
        inner: Codec of its type; tells sign, enum and bool.
        bit: Its first bit in the first byte: from the least significant one in little-endian BTF,
            from the most significant one in big-endian BTF, as compilers number them.
        width: In bits.

    Attributes:
        inner, width: As above.
        shift: Its lowest bit in the number that its bytes are in the byte order of the BTF.
    """

    __slots__ = ("_bool", "_byteorder", "_mask", "inner", "shift", "width")
    _arguments = ("inner", "bit", "width")

    def __init__(self, inner: Codec, bit: int, width: int) -> None:
        size = (bit + width + 7) // 8
        super().__init__(f"{inner.name}:{width}", size, f"{size}s", inner.order)
        self._byteorder = _BYTEORDER[inner.order]
        self.inner = inner
        self._bool = isinstance(inner, BoolCodec)
        self.width = width
        self._mask = (1 << width) - 1
        self.shift = bit if inner.order == "<" else 8 * size - bit - width
        self.loss = 3 if self._bool and width > 1 else 1
        self.convert = self._from_bytes

    @property
    def bit(self) -> int:
        """Its first bit, as above."""
        return self.shift if self.order == "<" else 8 * self.size - self.shift - self.width

    @property
    def signed(self) -> bool:
        """Whether its highest bit is a sign."""
        return bool(getattr(self.inner, "signed", False))

    def _from_bytes(self, raw: bytes) -> Any:
        number = int.from_bytes(raw, self._byteorder) >> self.shift & self._mask
        if self._bool:
            return number != 0
        if self.signed and number >> self.width - 1:
            number -= self._mask + 1
        if isinstance(self.inner, EnumCodec) and self.inner.convert:
            return self.inner.convert(number)
        return number

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        if self._bool:
            value = as_bool(value)
        elif isinstance(self.inner, EnumCodec):
            value = self.inner.number(value)
        number = as_int(value, self.width, self.signed) & self._mask
        end = offset + self.size
        old = int.from_bytes(out[offset:end], self._byteorder)
        new = old & ~(self._mask << self.shift) | number << self.shift
        out[offset:end] = new.to_bytes(self.size, self._byteorder)


class RecordCodec(Codec):
    """Structs and unions.

    Args:
        name: The type as C writes it.
        label: Name of the record class.
        size: In bytes.
        order: Byte order.
        fields: Members in order, within ``size``.

    Attributes:
        record: The class.
        members: The fields.
    """

    __slots__ = (
        "_by_name",
        "_conversions",
        "_flat",
        "_flexible",
        "_new_record",
        "_overlapping",
        "_pack",
        "_single",
        "_unpack",
        "_unparsings",
        "_write_order",
        "members",
        "record",
    )
    _arguments = ("name", "label", "size", "order", "members")

    def __init__(
        self, name: str, label: str, size: int, order: str, fields: Iterable[Field]
    ) -> None:
        super().__init__(name, size, f"{size}s", order)
        self.members = tuple(fields)
        names = tuple(member.name for member in self.members)
        self._by_name = {name: index for index, name in enumerate(names)}
        self.record = _make_class(label, names, self)
        # A bound method is called faster than a function of the class and the values.
        bound: Any = classmethod(_new)
        self._new_record: Callable[[Iterable[Any]], Record] = bound.__get__(None, self.record)
        self.cost = 1 + sum(member.codec.cost for member in self.members)
        self.fields = sum(1 + member.codec.fields for member in self.members)
        ends = [m.offset + m.codec.size for m in self.members if m.codec.size]
        covered = max(ends, default=0)
        self._flexible = tuple(
            (index, member.offset, member.codec)
            for index, member in enumerate(self.members)
            if isinstance(member.codec, (ArrayCodec, BytesCodec, TextCodec))
            and member.offset >= covered
            and not member.codec.size
            and member.codec.element_size
        )
        self.convert = self._closed if self._flexible else self.decode
        # Where members share bytes, those that lose least are written last and decide.
        self._write_order = sorted(
            range(len(names)), key=lambda index: -self.members[index].codec.loss
        )
        self._plan()

    def _plan(self) -> None:
        """Find out whether one ``struct.Struct`` reads all fields, and which need converting."""
        position, holes, codes = 0, False, []
        self._overlapping = False
        for member in self.members:
            gap = member.offset - position
            if gap < 0:
                self._overlapping = True
                break
            holes = holes or gap > 0
            codes.append((f"{gap}x" if gap else "") + member.codec.code)
            position = member.offset + member.codec.size
        tail = self.size - position
        padded = self._overlapping or holes or tail > 0
        self.loss = max([int(padded), *(member.codec.loss for member in self.members)])
        self.overlaps = self._overlapping or any(m.codec.overlaps for m in self.members)
        self._conversions = tuple(
            (index, member.codec.convert)
            for index, member in enumerate(self.members)
            if member.codec.convert is not None
        )
        self._unparsings = tuple(
            (index, member.codec.encode)
            for index, member in enumerate(self.members)
            if member.codec.convert is not None and member.codec.code.endswith("s")
        )
        # Members that share bytes are read one by one, each with its own size and nothing beyond.
        self._single = tuple(
            (member.codec._struct.unpack_from, member.offset, member.codec.convert)
            for member in self.members
        )
        self._pack = self._unpack = self._flat = None
        if not self._overlapping:
            self._flat = struct.Struct(self.order + "".join(codes) + (f"{tail}x" if tail else ""))
            self._unpack = self._flat.unpack_from
            if not self._flexible:
                self._pack = self._flat.pack

    @property
    def label(self) -> str:
        """Name of the struct without ``struct``."""
        return self.record.__name__

    def index(self, name: str) -> int | None:
        """Position of a field; a Python keyword may have an underscore behind it (``from_``)."""
        found = self._by_name.get(name)
        if found is None and isinstance(name, str) and keyword.iskeyword(name[:-1]):
            found = self._by_name.get(name.removesuffix("_"))
        return found

    def decode(self, buffer: Any, offset: int = 0, size: int | None = None) -> Record:
        """Read one record; see :meth:`Codec.decode`."""
        if size is not None and size < self.size:
            raise self._short(size)
        if self._unpack is not None:
            try:
                values: Any = self._unpack(buffer, offset)
            except struct.error:
                raise self._short(len(buffer) - offset) from None
            if self._conversions:
                values = list(values)
                for index, convert in self._conversions:
                    values[index] = convert(values[index])
        else:
            if len(buffer) - offset < self.size:
                raise self._short(len(buffer) - offset)
            values = []
            for unpack, start, final in self._single:
                (raw,) = unpack(buffer, offset + start)
                values.append(raw if final is None else final(raw))
        if self._flexible:
            end = len(buffer) if size is None else offset + size
            values = list(values)
            for index, start, codec in self._flexible:
                values[index] = codec.flexible(bytes(buffer[offset + start : end]))
        return self._new_record(values)

    def _many(self, view: memoryview, offsets: Sequence[int], size: int) -> list[Any]:
        """Read many; conversions are made column by column, most of them in C."""
        if self._flexible:
            return [self.decode(view, offset, size) for offset in offsets]
        make = self._new_record
        if self._flat is not None:
            rows = unpack_many(self._flat, view, offsets)
            if not self._conversions:
                return list(map(make, rows))
            made: list[Any] = []
            while portion := list(islice(rows, _PORTION)):
                columns: list[Any] = list(zip(*portion, strict=True))
                for index, _ in self._conversions:
                    columns[index] = self.members[index].codec._convert_many(columns[index])
                made += map(make, zip(*columns, strict=True))
            return made
        columns = [  # each as if it were alone, so flexible arrays inside hold nothing
            Codec._many(member.codec, view, _shifted(offsets, member.offset), member.codec.size)
            for member in self.members
        ]
        return list(map(make, zip(*columns, strict=True)))

    def _convert_many(self, raws: Sequence[Any]) -> Iterable[Any]:
        if self._flexible or not self.size:
            return super()._convert_many(raws)
        return self._many(
            memoryview(b"".join(raws)), range(0, len(raws) * self.size, self.size), self.size
        )

    def _closed(self, raw: bytes) -> Record:
        """Read a record that lies inside another type, where a flexible array holds nothing."""
        values = list(self.decode(raw))
        for index, _, codec in self._flexible:
            values[index] = codec.flexible(b"")
        return self._new_record(values)

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a record, dict, tuple of all fields, or bytes of exact size.

        Fields that a dict does not name are zero. The bytes are longer than :attr:`size` when a
        flexible array at the end holds something.
        """
        if self._pack is not None and type(value) is self.record:
            # It came from decode, so everything in it fits.
            if self._unparsings:
                values = list(value)
                for index, unparse in self._unparsings:
                    values[index] = unparse(values[index])
                return self._pack(*values)
            return self._pack(*value)
        out = self._blank()
        try:
            raw = as_bytes(value)
            if raw is not None:
                return self._exactly(raw)
            given = self._given(value)
            self._put(out, 0, given)
            if self.overlaps and type(value) is not self.record:
                self._check_given(out, 0, given)
            self._put_flexible(out, given)
        except ValueMismatchError as error:
            raise error.below(self.label) from None
        return bytes(out)

    def _exactly(self, raw: bytes) -> bytes:
        if len(raw) != self.size and not (self._flexible and len(raw) > self.size):
            raise ValueMismatchError(f"{self.size} bytes", f"{len(raw)}")
        return raw

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        raw = as_bytes(value)
        if raw is not None:
            if len(raw) != self.size:
                raise ValueMismatchError(f"{self.size} bytes", f"{len(raw)}")
            out[offset : offset + self.size] = raw
            return
        given = self._given(value)
        self._put(out, offset, given)
        for index, start, codec in self._flexible:
            if index in given:
                self._put_member(out, offset + start, codec, index, given)  # must be empty

    def _put(self, out: bytearray, offset: int, given: dict[int, Any]) -> None:
        """Write the given fields, but not flexible arrays."""
        flexible = {index for index, _, _ in self._flexible}
        for index in self._write_order:
            if index in given and index not in flexible:
                member = self.members[index]
                self._put_member(out, offset + member.offset, member.codec, index, given)

    def _put_member(
        self, out: bytearray, at: int, codec: Codec, index: int, given: dict[int, Any]
    ) -> None:
        try:
            codec._write(out, at, given[index])
        except ValueMismatchError as error:
            raise error.below(f".{self.members[index].name}") from None

    def _given(self, value: Any) -> dict[int, Any]:
        """Return the values given for fields, by their index."""
        if isinstance(value, Record) and type(value) is not self.record:
            value = dict(zip(value._fields, tuple(value), strict=True))
        if isinstance(value, (list, tuple)):
            if len(value) != len(self.members):
                raise ValueMismatchError(f"{len(self.members)} fields", f"{len(value)}")
            return dict(enumerate(value))
        if not isinstance(value, Mapping):
            raise ValueMismatchError.of(f"{self.label} record, dict or bytes", value)
        given = {}
        for name, item in value.items():
            index = self.index(name)
            if index is None:
                names = list(self._by_name)
                shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
                raise ValueMismatchError(f"only fields {shown}", f"{name!r}")
            given[index] = item
        return given

    def _check(self, out: bytearray, offset: int, value: Any) -> None:
        if as_bytes(value) is not None:
            super()._check(out, offset, value)
            return
        self._check_given(out, offset, self._given(value))

    def _check_given(self, out: bytearray, offset: int, given: dict[int, Any]) -> None:
        for index, item in given.items():
            name, start, codec = self.members[index]
            if codec.size:
                try:
                    codec._check(out, offset + start, item)
                except ValueMismatchError as error:
                    raise error.below(f".{name}") from None

    def _put_flexible(self, out: bytearray, given: dict[int, Any]) -> None:
        """Write what the flexible arrays hold; the longest decides when there are several."""
        parts = []
        for index, start, codec in self._flexible:
            if index in given:
                try:
                    parts.append((start, codec.encode_flexible(given[index])))
                except ValueMismatchError as error:
                    raise error.below(f".{self.members[index].name}") from None
        for start, raw in sorted(parts, key=lambda part: len(part[1])):
            out[start:] = raw.ljust(self.size - start, b"\0")

    def make(self, values: tuple[Any, ...], fields: dict[str, Any]) -> Record:
        """Make a record from values by position and by name."""
        if len(values) > len(self.members):
            error = ValueMismatchError(f"at most {len(self.members)} values", f"{len(values)}")
            raise error.below(self.label)
        given = dict(zip(self._by_name, values, strict=False))
        for name in fields:
            if name in given:
                raise ValueMismatchError("one value", "two", f"{self.label}.{name}")
        return self.decode(self.encode({**given, **fields}))

    def replace(self, record: Record, fields: dict[str, Any]) -> Record:
        """Make a record from another one and values for some fields."""
        out = bytearray(self.encode(record))
        try:
            given = self._given(fields)
            self._put(out, 0, given)
            if self.overlaps:
                self._check_given(out, 0, given)
            self._put_flexible(out, given)
        except ValueMismatchError as error:
            raise error.below(self.label) from None
        return self.decode(out)


def _shifted(offsets: Sequence[int], by: int) -> Sequence[int]:
    if isinstance(offsets, range):
        return range(offsets.start + by, offsets.stop + by, offsets.step)
    return [offset + by for offset in offsets]


def _make_class(label: str, names: tuple[str, ...], codec: RecordCodec) -> type[Record]:
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__module__": __name__,
        "_fields": names,
        "_codec": codec,
    }
    for index, name in enumerate(names):
        if name not in _RESERVED and not (name.startswith("__") and name.endswith("__")):
            namespace[name] = _getter(index, f"Field {index}.")
    for name in names:
        if keyword.iskeyword(name):
            namespace.setdefault(name + "_", namespace[name])
    return type(label, (Record,), namespace)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return Record.asdict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
