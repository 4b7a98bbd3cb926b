"""Values by BTF: as JSON, as text for people, and read from the command line."""

from __future__ import annotations

import json
import math
from enum import Enum
from typing import TYPE_CHECKING, Any

from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.codecs import BoolCodec, EnumCodec, FloatCodec
from pybpfload.btf.records import RecordCodec
from pybpfload.cli.failure import UsageError, did_you_mean, visible

if TYPE_CHECKING:
    from pybpfload.btf.codecs import Codec

__all__ = ["assign", "plain", "pretty"]

_TRUTH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def plain(value: Any) -> Any:
    """Turn a value into what JSON has.

    Integers, booleans and text stay what they are. Enumerators become their names, numbers that the
    enum does not name stay numbers. Bytes become a string of hexadecimal digits, records become
    objects, arrays become arrays. Floats that JSON does not have become the strings ``"nan"``,
    ``"inf"`` and ``"-inf"``.
    """
    if isinstance(value, Enum):
        return value.name if value.name in type(value).__members__ else value.value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if fields := getattr(type(value), "_fields", None):
        return {name: plain(item) for name, item in zip(fields, tuple(value), strict=True)}
    return [plain(item) for item in value]


def pretty(value: Any, *, top: bool = False) -> str:
    """Show a value to people in one line.

    Args:
        value: The value.
        top: Whether a record goes without braces: ``pid=1 comm="sh"``.
    """
    if isinstance(value, (str, bool)) and not isinstance(value, Enum):
        return visible(json.dumps(value, ensure_ascii=False))
    if fields := getattr(type(value), "_fields", None):
        pairs = zip(fields, tuple(value), strict=True)
        text = " ".join(f"{visible(name)}={pretty(item)}" for name, item in pairs)
        return text if top else f"{{{text}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(pretty, value))}]"
    return visible(str(plain(value)))


def assign(codec: Codec, old: Any, path: list[str], text: str) -> Any:
    """Read a value from the command line.

    Args:
        codec: Codec of the variable.
        old: Its value.
        path: Members on the way to what is set; empty for the whole variable.
        text: Integers in decimal, or hexadecimal with ``0x``; ``true`` or ``false``; names of
            enumerators; text for arrays of ``char``; elements with commas between them for other
            arrays, where missing ones at the end are zero; ``aa:bb:cc`` for arrays of bytes.

    Returns:
        The new value of the variable.

    Raises:
        UsageError: There is no such member or enumerator, or a record has to be set by its members.
            Any other text that does not fit is left for the codec to refuse.
    """
    if path:
        if not isinstance(codec, RecordCodec):
            raise UsageError(f"{codec.name} has no members, so no {path[0]!r}")
        for field, value in zip(codec.members, tuple(old), strict=True):
            if field.name == path[0]:
                return old._replace(**{path[0]: assign(field.codec, value, path[1:], text)})
        close = did_you_mean(path[0], [field.name for field in codec.members])
        raise UsageError(f"{codec.name} has no member {path[0]!r}{close}")
    return _parse(codec, text)


def _parse(codec: Codec, text: str) -> Any:
    """Read a text as well as the type allows; what does not fit is left for the codec to refuse."""
    if isinstance(codec, BytesCodec):
        return _bytes(codec, text)
    if isinstance(codec, ArrayCodec):
        return _elements(codec, text)
    if isinstance(codec, RecordCodec):
        members = ", ".join(field.name for field in codec.members)
        raise UsageError(f"set the members of {codec.name} one by one, as .MEMBER: {members}")
    if isinstance(codec, TextCodec):
        return text
    if isinstance(codec, BoolCodec):
        return _TRUTH.get(text.lower(), text)
    if isinstance(codec, EnumCodec) and text in codec.enum.__members__:
        return text
    try:
        return float(text) if isinstance(codec, FloatCodec) else int(text, 0)
    except ValueError:
        if isinstance(codec, EnumCodec):
            names = list(codec.enum.__members__)
            close = did_you_mean(text, names) or f"; it has {', '.join(names)}"
            raise UsageError(f"{codec.name} has no {text!r}{close}") from None
        return text


def _bytes(codec: BytesCodec, text: str) -> Any:
    colons = ":" in text
    try:
        numbers = [int(item, 16 if colons else 0) for item in text.split(":" if colons else ",")]
        return bytes(numbers).ljust(codec.size, b"\0")
    except ValueError:
        return text


def _elements(codec: ArrayCodec, text: str) -> list[Any]:
    values = [_parse(codec.element, item.strip()) for item in text.split(",")]
    zero = bytes(codec.element.size)
    values += [codec.element.decode(zero) for _ in range(codec.count - len(values))]
    return values
