"""Codecs: between bytes and Python values, one kind of codec for each kind of C type.

Every codec has one ``struct`` code that reads it as a single value, and perhaps a function that
turns that value into the final one. So a struct of any types is read by one precompiled
:class:`struct.Struct` and few calls. :mod:`pybpfload.btf.values` makes codecs from BTF and has the
table of which C type becomes what.

Nothing is allocated by a size that BTF claims: reading slices what the buffer really has.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import chain, repeat
from reprlib import Repr
from typing import TYPE_CHECKING, Any, ClassVar

from pybpfload.errors import BpfError, FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "BoolCodec",
    "BtfEnum",
    "Codec",
    "EnumCodec",
    "FloatCodec",
    "IntCodec",
    "RawCodec",
    "ValueMismatchError",
    "WideIntCodec",
    "unpack_many",
]

INT_CODES = {1: "bB", 2: "hH", 4: "iI", 8: "qQ"}
"""Size in bytes -> ``struct`` codes, signed and unsigned."""

_FLOAT_CODES = {2: "e", 4: "f", 8: "d"}
_BYTEORDER = {"<": "little", ">": "big"}
_MAX_ENCODE = 1 << 30  # bytes; BTF may claim 4 GiB for a type
_MAX_ENUMERATORS = 4096  # CPython 3.10 takes quadratic time to make an enum

shorten = Repr()
shorten.maxstring = shorten.maxother = 60


class ValueMismatchError(BpfError, ValueError):
    """A value does not fit its C type, or a buffer is too short for it.

    Attributes:
        path: Where in the value, as C would write it: ``event.comm[3]``.
        expected: What fits there.
        got: What was given.
    """

    def __init__(self, expected: str, got: str, path: str = "") -> None:
        self.path = path
        self.expected = expected
        self.got = got
        super().__init__(expected, got, path)

    @classmethod
    def of(cls, expected: str, value: object) -> ValueMismatchError:
        """Make the error for a value, which is shown shortened."""
        return cls(expected, f"{shorten.repr(value)} ({type(value).__name__})")

    def below(self, parent: str) -> ValueMismatchError:
        """Put a step in front of the path, and return the error itself."""
        self.path = parent + self.path
        return self

    def __str__(self) -> str:
        return f"{self.path or 'value'}: expected {self.expected}, got {self.got}"


class Codec:
    """Reads and writes values of one C type. Immutable; may be shared by threads, and pickled.

    Attributes:
        name: The type as C writes it: ``struct event``, ``pid_t``, ``char[16]``.
        size: Size in bytes.
        code: ``struct`` code that reads it as one value, without byte order.
        order: Byte order, ``"<"`` or ``">"``.
        convert: Makes the final value from what ``code`` gives; ``None`` when it is that already.
        loss: What reading and writing again may change: 0 nothing, 1 padding, 2 the kind of a NaN,
            3 the number behind a truth value.
        cost: Number of Python values that reading makes.
        fields: Number of members of structs inside, those of arrays counted once.
        overlaps: Whether members of structs inside share bytes.
    """

    __slots__ = (
        "__weakref__",
        "_struct",
        "code",
        "convert",
        "cost",
        "fields",
        "loss",
        "name",
        "order",
        "overlaps",
        "size",
    )

    _arguments: ClassVar[tuple[str, ...]]
    """Attributes that its class is called with to make the same codec again."""

    def __init__(self, name: str, size: int, code: str, order: str) -> None:
        self.name = name
        self.size = size
        self.code = code
        self.order = order
        self.convert: Callable[[Any], Any] | None = None
        self.loss = 0
        self.cost = 1
        self.fields = 0
        self.overlaps = False
        self._struct = struct.Struct(order + code)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Codec:
        return self  # it never changes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name}: {self.size} bytes>"

    @property
    def label(self) -> str:
        """What a value is called at the start of the path of an error."""
        return self.name

    def decode(self, buffer: Any, offset: int = 0, size: int | None = None) -> Any:
        """Read one value.

        Args:
            buffer: Bytes, or any buffer of single bytes.
            offset: Where the value starts, not negative.
            size: Number of bytes that belong to the value, all up to the end of the buffer by
                default. A flexible array at the end of a struct takes what there is.

        Raises:
            ValueMismatchError: There are fewer bytes than the type has.
        """
        if size is not None and size < self.size:
            raise self._short(size)
        try:
            (raw,) = self._struct.unpack_from(buffer, offset)
        except struct.error:
            raise self._short(len(buffer) - offset) from None
        return raw if self.convert is None else self.convert(raw)

    def decode_many(
        self, buffer: Any, offsets: Sequence[int] | None = None, size: int | None = None
    ) -> list[Any]:
        """Read many values, several times as fast as one by one.

        Args:
            buffer: Bytes, or any buffer of single bytes.
            offsets: Where each value starts, not negative: a ``range`` for values at equal
                distances, which is fastest, else any sequence. By default the values fill the
                buffer, one behind the other.
            size: Number of bytes that belong to each value, :attr:`size` by default. A flexible
                array at the end of a struct takes what there is beyond that.

        Raises:
            ValueMismatchError: There are fewer bytes than the type has, or, without ``offsets``,
                the buffer does not hold a whole number of values.
        """
        view = memoryview(buffer)
        places = self.places(view, offsets, size)
        return self._many(view, places, self.size if size is None else size)

    def places(
        self, view: memoryview, offsets: Sequence[int] | None = None, size: int | None = None
    ) -> Sequence[int]:
        """Return where each value starts; see :meth:`decode_many` for arguments and errors."""
        if size is None:
            size = self.size
        elif size < self.size:
            raise self._short(size)
        if offsets is None:
            if len(view) % size if size else len(view):
                found = f"{len(view)} bytes"
                raise ValueMismatchError(f"a multiple of {size} bytes", found, self.label)
            return range(0, len(view), size or 1)
        if offsets:
            ends = (offsets[0], offsets[-1]) if isinstance(offsets, range) else offsets
            if len(view) - max(ends) < size:
                raise self._short(len(view) - max(ends))
        return offsets

    def _many(self, view: memoryview, offsets: Sequence[int], size: int) -> list[Any]:
        """Do what :meth:`decode_many` does, once it is known that the buffer is long enough."""
        raws: Sequence[Any]
        if isinstance(offsets, range) and offsets.step == self.size and len(self.code) == 1:
            start = offsets[0] if offsets else 0
            raws = struct.unpack_from(f"{self.order}{len(offsets)}{self.code}", view, start)
        else:
            raws = list(chain.from_iterable(unpack_many(self._struct, view, offsets)))
        return list(raws if self.convert is None else self._convert_many(raws))

    def _convert_many(self, raws: Sequence[Any]) -> Iterable[Any]:
        """Do what :attr:`convert`, which is not ``None``, does, for many values."""
        assert self.convert is not None
        return map(self.convert, raws)

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value: :attr:`size`, and more for what a flexible array holds.

        Raises:
            ValueMismatchError: The value does not fit the type.
        """
        out = self._blank()
        try:
            self._write(out, 0, value)
            if self.overlaps:
                self._check(out, 0, value)
        except ValueMismatchError as error:
            raise error.below(self.label) from None
        return bytes(out)

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        """Write a value's bytes into ``out``; padding in it is left as it is.

        Raises:
            ValueMismatchError: The value does not fit; its path starts below this type.
        """
        raise NotImplementedError

    def _check(self, out: bytearray, offset: int, value: Any) -> None:
        """Make sure that a value that was written is what is read.

        It is not if a member that shares bytes with it says something else. This can be told only
        when all is written: ``True`` is written as 1, but is what a byte of 2 means, too.

        Raises:
            ValueMismatchError: It is not.
        """
        alone = bytearray(self.size)
        self._write(alone, 0, value)
        wanted, found = Codec.decode(self, alone), Codec.decode(self, out, offset)
        if self.encode(wanted) != self.encode(found):
            raise ValueMismatchError.of("the value that other members give the same bytes", value)

    def named(self, name: str) -> Codec:
        """Return the same codec under another name of the type."""
        if name == self.name:
            return self
        other: Codec = object.__new__(type(self))
        for kind in type(self).__mro__[:-1]:
            for slot in kind.__dict__["__slots__"]:
                if slot != "__weakref__":
                    setattr(other, slot, getattr(self, slot))
        other.name = name
        return other

    def check_size(self) -> None:
        """Make sure that memory may be taken for a value by the size that BTF claims.

        Raises:
            FormatError: It claims more than 1 GiB.
        """
        if self.size > _MAX_ENCODE:
            raise FormatError(f"{self.name} of {self.size} bytes is too large to be written")

    def _blank(self) -> bytearray:
        self.check_size()
        return bytearray(self.size)

    def _short(self, available: int) -> ValueMismatchError:
        found = f"{max(available, 0)} bytes"
        return ValueMismatchError(f"at least {self.size} bytes", found, self.label)


class IntCodec(Codec):
    """Integers of 1, 2, 4 or 8 bytes, and pointers."""

    __slots__ = ("signed",)
    _arguments: ClassVar[tuple[str, ...]] = ("name", "size", "signed", "order")

    def __init__(self, name: str, size: int, signed: bool, order: str) -> None:
        super().__init__(name, size, INT_CODES[size][not signed], order)
        self.signed = signed

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        try:
            self._struct.pack_into(out, offset, value)
        except struct.error:
            raise ValueMismatchError.of(int_range(8 * self.size, self.signed), value) from None


class WideIntCodec(Codec):
    """Integers of 16 bytes."""

    __slots__ = ("_byteorder", "signed")
    _arguments = ("name", "size", "signed", "order")

    def __init__(self, name: str, size: int, signed: bool, order: str) -> None:
        super().__init__(name, size, f"{size}s", order)
        self.signed = signed
        self._byteorder: Any = _BYTEORDER[order]
        self.convert = self._from_bytes

    def _from_bytes(self, raw: bytes) -> int:
        return int.from_bytes(raw, self._byteorder, signed=self.signed)

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        number = as_int(value, 8 * self.size, self.signed)
        raw = number.to_bytes(self.size, self._byteorder, signed=self.signed)
        out[offset : offset + self.size] = raw


class BoolCodec(Codec):
    """``_Bool`` of any integer size: everything but zero is true."""

    __slots__ = ()
    _arguments = ("name", "size", "order")

    def __init__(self, name: str, size: int, order: str) -> None:
        super().__init__(name, size, "?" if size == 1 else INT_CODES[size][1], order)
        self.loss = 3
        if size > 1:
            self.convert = bool

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        self._struct.pack_into(out, offset, as_bool(value))


class FloatCodec(Codec):
    """Floating point numbers of 2, 4 or 8 bytes."""

    __slots__ = ()
    _arguments = ("name", "size", "order")

    def __init__(self, name: str, size: int, order: str) -> None:
        super().__init__(name, size, _FLOAT_CODES[size], order)
        self.loss = 2  # a signalling NaN comes back as a quiet one

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        try:
            self._struct.pack_into(out, offset, value)
        except (struct.error, OverflowError):
            raise ValueMismatchError.of(f"float of {self.size} bytes", value) from None


class BtfEnum(IntEnum):
    """Base of the enums made from BTF: tolerates numbers that the enum does not name.

    Members can be pickled, with all that is needed to make the enum again; see :class:`Record`.
    """

    @classmethod
    def _missing_(cls, value: object) -> BtfEnum | None:
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        codec: EnumCodec = getattr(type(self), "_codec_")  # noqa: B009 - no member for mypy
        return _member_again, (codec, int(self))

    def __copy__(self) -> BtfEnum:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> BtfEnum:
        return self

    def __str__(self) -> str:
        return int.__repr__(self)

    def __format__(self, format_spec: str) -> str:
        return int.__format__(self, format_spec)


def _member_again(codec: EnumCodec, number: int) -> int:
    return codec._member(number)


class EnumCodec(IntCodec):
    """Enums of 1, 2, 4 or 8 bytes: members of an :class:`enum.IntEnum`, made when first needed.

    Enumerators that Python does not take as names (``mro``, ``_like_``, ``__these__``) get an
    ``e`` in front. An enum of no enumerators, or more than 4096, stays plain integers.

    Attributes:
        pairs: Names and numbers of the enumerators.
    """

    __slots__ = ("_known", "_label", "_type", "pairs")
    _arguments = ("name", "size", "signed", "order", "_label", "pairs")

    def __init__(
        self,
        name: str,
        size: int,
        signed: bool,
        order: str,
        label: str,
        pairs: Iterable[tuple[str, int]],
    ) -> None:
        super().__init__(name, size, signed, order)
        self._label = label
        self.pairs = tuple(pair for pair in pairs if pair[0])
        self._type: type[BtfEnum] | None = None
        self._known: dict[int, BtfEnum] = {}
        if 0 < len(self.pairs) <= _MAX_ENUMERATORS:
            self.convert = self._member

    @property
    def enum(self) -> type[BtfEnum] | None:
        """The enumeration; ``None`` when values stay plain integers."""
        if self._type is None and self.convert is not None:
            members: dict[str, int] = {}
            for name, value in self.pairs:
                odd = (
                    name == "mro"
                    or (name[0] == "_" and name[-1] == "_")
                    or name.startswith("_BtfEnum__")
                )
                members.setdefault("e" + name if odd else name, value)
            # Made under a name that no enumerator looks private to, which those above ensure.
            functional: Any = BtfEnum
            made: type[BtfEnum] = functional("BtfEnum", list(members.items()), module=__name__)
            made.__name__ = made.__qualname__ = self._label
            setattr(made, "_codec_", self)  # noqa: B010 - no enumerator may be called so
            self._known.update((int(member), member) for member in made)
            self._type = made
        return self._type

    def _member(self, raw: int) -> int:
        try:
            return self._known[raw]
        except KeyError:
            enum = self.enum
            return raw if enum is None else enum(raw)

    def _convert_many(self, raws: Sequence[Any]) -> Iterable[Any]:
        try:
            return list(map(self._known.__getitem__, raws))
        except KeyError:
            return map(self._member, raws)

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        super()._write(out, offset, self.number(value))

    def number(self, value: Any) -> Any:
        """Return the number of an enumerator given by name; anything else as it is."""
        if isinstance(value, str):
            for name, number in self.pairs:
                if name == value:
                    return number
            raise ValueMismatchError.of(f"enumerator of {self.name}", value)
        return value


class RawCodec(Codec):
    """A value without BTF: an unsigned integer for 1, 2, 4 and 8 bytes, else bytes.

    Bytes of the exact size are always taken for writing, and integers for those sizes, negative
    ones in two's complement.
    """

    __slots__ = ("_signed",)
    _arguments = ("size", "order")

    def __init__(self, size: int, order: str) -> None:
        whole = size in INT_CODES
        code = INT_CODES[size][1] if whole else f"{size}s"
        super().__init__(f"{size} bytes", size, code, order)
        self._signed = struct.Struct(order + INT_CODES[size][0]) if whole else None

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        raw = as_bytes(value)
        if raw is not None:
            if len(raw) != self.size:
                raise ValueMismatchError(f"{self.size} bytes", f"{len(raw)}")
            out[offset : offset + self.size] = raw
        elif self._signed is None:
            raise ValueMismatchError.of(f"{self.size} bytes", value)
        else:
            try:
                negative = isinstance(value, int) and value < 0
                (self._signed if negative else self._struct).pack_into(out, offset, value)
            except struct.error:
                expected = f"{self.size} bytes or an integer that fits into them"
                raise ValueMismatchError.of(expected, value) from None


def unpack_many(
    plan: struct.Struct, view: memoryview, offsets: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """Unpack at many places, none of which is beyond the buffer."""
    if type(offsets) is range and offsets.step >= plan.size > 0 and offsets and offsets[0] >= 0:
        gap, last = offsets.step - plan.size, offsets[-1]
        steps = struct.iter_unpack(f"{plan.format}{gap}x", view[offsets[0] : last])
        # There may be no such gap behind the last one.
        return chain(steps, (plan.unpack_from(view, last),))
    return map(plan.unpack_from, repeat(view), offsets)


def as_bytes(value: Any) -> bytes | None:
    """Return the bytes of a bytes-like value, ``None`` when it is something else."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return value.tobytes() if isinstance(value, memoryview) else None


def as_bool(value: Any) -> bool:
    """Return a truth value given as such or as 0 or 1."""
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueMismatchError.of("True or False", value)


def as_int(value: Any, bits: int, signed: bool) -> int:
    """Return an integer that fits into a number of bits."""
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not hasattr(value, "__index__") or not low <= (number := int(value)) < high:
        raise ValueMismatchError.of(int_range(bits, signed), value)
    return number


def int_range(bits: int, signed: bool) -> str:
    """Text of the range of an integer type."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return f"int from {low} to {high}"
