"""Codecs of arrays: text, bytes, and tuples of anything else.

Each can also read and write a *flexible* array, one without a length at the end of a struct, which
is as long as its bytes are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any

from pybpfload.btf.codecs import Codec, ValueMismatchError, as_bytes, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ArrayCodec", "BytesCodec", "CText", "TextCodec"]


class CText(str):
    r"""Text of a char array that is not the whole array.

    A char array is text up to its first NUL, in UTF-8. When the bytes behind that are not all zero,
    or the text is not valid UTF-8 (then it is shown with ``\xNN`` escapes), the value is a
    ``CText`` and :attr:`raw` has all bytes; writing it writes those.
    """

    __slots__ = ("raw",)

    raw: bytes


class TextCodec(Codec):
    """``char[N]``: text up to the first NUL."""

    __slots__ = ("element_size",)
    _arguments = ("name", "size", "order")

    def __init__(self, name: str, size: int, order: str) -> None:
        super().__init__(name, size, f"{size}s", order)
        self.element_size = 1
        self.convert = text if size > _SHORT else _short_texts.__getitem__

    def _convert_many(self, raws: Sequence[Any]) -> Iterable[Any]:
        if self.size <= _SHORT:
            return map(_short_texts.__getitem__, raws)
        try:
            found = list(map(bytes.decode, map(bytes.rstrip, raws, repeat(b"\0"))))
        except UnicodeDecodeError:
            return map(text, raws)
        return map(text, raws) if "\0" in "".join(found) else found

    def flexible(self, raw: bytes) -> str:
        """Read an array of that many bytes."""
        return text(raw)

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a text, filled up with NULs."""
        self.check_size()
        try:
            return self._fitting(value)
        except ValueMismatchError as error:
            raise error.below(self.label) from None

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        out[offset : offset + self.size] = self._fitting(value)

    def _fitting(self, value: Any) -> bytes:
        raw = self.encode_flexible(value)
        if len(raw) > self.size:
            found = f"{len(raw)} in {shorten.repr(value)}"
            raise ValueMismatchError(f"at most {self.size} bytes of text", found)
        return raw.ljust(self.size, b"\0")

    def encode_flexible(self, value: Any) -> bytes:
        """Return the bytes of a text of any length."""
        if isinstance(value, CText):
            return value.raw
        if isinstance(value, str):
            try:
                raw = value.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                raise ValueMismatchError.of("text that UTF-8 can encode", value) from None
            if b"\0" in raw:
                raise ValueMismatchError.of("text without NUL (or bytes)", value)
            return raw
        given = as_bytes(value)
        if given is None:
            raise ValueMismatchError.of("text or bytes", value)
        return given


class BytesCodec(Codec):
    """``unsigned char[N]``, and whatever has no better Python value: bytes."""

    __slots__ = ("element_size",)
    _arguments = ("name", "size", "order")

    def __init__(self, name: str, size: int, order: str) -> None:
        super().__init__(name, size, f"{size}s", order)
        self.element_size = 1

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        raw = self.encode_flexible(value)
        if len(raw) != self.size:
            raise ValueMismatchError(f"{self.size} bytes", f"{len(raw)}")
        out[offset : offset + self.size] = raw

    def flexible(self, raw: bytes) -> bytes:
        """Read an array of that many bytes."""
        return raw

    def encode_flexible(self, value: Any) -> bytes:
        """Return bytes of any length, given as such or as a list of numbers."""
        given = as_bytes(value)
        if given is not None:
            return given
        if isinstance(value, (list, tuple)):
            try:
                return bytes(value)
            except (TypeError, ValueError):
                pass
        raise ValueMismatchError.of("bytes", value)


class ArrayCodec(Codec):
    """Any other array: a tuple. One of elements without size is empty, whatever its length."""

    __slots__ = ("_unpack", "count", "element", "element_size")
    _arguments = ("name", "element", "count", "order")

    def __init__(self, name: str, element: Codec, count: int, order: str) -> None:
        size = element.size * count
        super().__init__(name, size, f"{size}s", order)
        self.element = element
        self.element_size = element.size
        self.count = count if element.size else 0
        self.loss = element.loss
        self.cost = 1 + self.count * element.cost
        self.fields = element.fields
        self.overlaps = element.overlaps
        self._unpack = None
        if element.convert is None and len(element.code) == 1:
            self._unpack = struct.Struct(f"{order}{self.count}{element.code}").unpack
        self.convert = self._unpack or self.flexible

    @property
    def label(self) -> str:
        """The type in parentheses, so that an index can follow."""
        return f"({self.name})"

    def flexible(self, raw: bytes) -> tuple[Any, ...]:
        """Read as many whole elements as there are."""
        size, convert = self.element_size, self.element.convert
        if not size:
            return ()
        rows = self.element._struct.iter_unpack(memoryview(raw)[: len(raw) // size * size])
        if convert is None:
            return tuple([row[0] for row in rows])
        return tuple([convert(row[0]) for row in rows])

    def _write(self, out: bytearray, offset: int, value: Any) -> None:
        raw = as_bytes(value)
        if raw is not None:
            if len(raw) != self.size:
                raise ValueMismatchError(f"{self.size} bytes", f"{len(raw)}")
            out[offset : offset + self.size] = raw
            return
        items = self._items(value)
        if len(items) != self.count:
            raise ValueMismatchError(f"{self.count} elements", f"{len(items)}")
        for index, item in enumerate(items):
            try:
                self.element._write(out, offset + index * self.element_size, item)
            except ValueMismatchError as error:
                raise error.below(f"[{index}]") from None

    def _check(self, out: bytearray, offset: int, value: Any) -> None:
        if as_bytes(value) is not None or not self.element_size:
            super()._check(out, offset, value)
            return
        for index, item in enumerate(self._items(value)):
            try:
                self.element._check(out, offset + index * self.element_size, item)
            except ValueMismatchError as error:
                raise error.below(f"[{index}]") from None

    def encode_flexible(self, value: Any) -> bytes:
        """Return the bytes of any number of elements."""
        raw = as_bytes(value)
        if raw is not None:
            return raw
        items = self._items(value)
        out = bytearray(self.element_size * len(items))
        for index, item in enumerate(items):
            try:
                self.element._write(out, index * self.element_size, item)
            except ValueMismatchError as error:
                raise error.below(f"[{index}]") from None
        return bytes(out)

    def _items(self, value: Any) -> Any:
        if isinstance(value, (str, Mapping, set, frozenset)) or not hasattr(value, "__len__"):
            raise ValueMismatchError.of(f"sequence of {self.element.name}", value)
        return value


def text(raw: bytes) -> str:
    """Read a char array as text; see :class:`CText` for what is not only text."""
    try:
        found = raw.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return _ctext(raw)
    return _ctext(raw) if "\0" in found else found


class _Texts(dict[bytes, str]):
    """Texts by their bytes, those that were read lately."""

    def __missing__(self, raw: bytes) -> str:
        if len(self) >= 4096:
            self.clear()
        found = self[raw] = text(raw)
        return found


# Short ones are names of tasks and the like: the same few come again and again, and looking one up
# takes a third of the time of reading it.
_SHORT = 16
_short_texts = _Texts()


def _ctext(raw: bytes) -> CText:
    found = CText(raw.partition(b"\0")[0].decode("utf-8", "backslashreplace"))
    found.raw = raw
    return found
