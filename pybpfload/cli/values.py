"""Values by BTF: as JSON, and as text for people."""

from __future__ import annotations

import json
import math
from enum import Enum
from typing import TYPE_CHECKING, Any

from pybpfload.cli.failure import visible

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["plain", "pretty"]


def plain(value: Any, of_bytes: Callable[[bytes], Any] = bytes.hex) -> Any:
    """Turn a value into what JSON has.

    Integers, booleans and text stay what they are. Enumerators become their names, numbers that the
    enum does not name stay numbers. Bytes become a string of hexadecimal digits, records become
    objects, arrays become arrays. Floats that JSON does not have become the strings ``"nan"``,
    ``"inf"`` and ``"-inf"``.

    Args:
        value: The value.
        of_bytes: Makes something else of bytes.
    """
    if isinstance(value, Enum):
        return value.name if value.name in type(value).__members__ else value.value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return of_bytes(bytes(value))
    if fields := getattr(type(value), "_fields", None):
        pairs = zip(fields, tuple(value), strict=True)
        return {name: plain(item, of_bytes) for name, item in pairs}
    return [plain(item, of_bytes) for item in value]


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
