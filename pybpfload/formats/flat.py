"""From a flat construct description to a :class:`struct.Struct`: a layout is stated once."""

from __future__ import annotations

import struct
from typing import Any

from construct import Array, Bytes, FormatField, Padding, Renamed

__all__ = ["field_names", "flat"]


def flat(description: Any) -> struct.Struct:
    """Return the :mod:`struct` equivalent of a flat construct ``Struct``.

    Args:
        description: A ``construct.Struct`` of integers, bytes and arrays of them, without nesting,
            conditions or computed fields.

    Raises:
        TypeError: The description is not flat; that is a mistake in the description's user, not in
            any input.
    """
    order = ""
    codes = []
    for field in description.subcons:
        inner = field.subcon if isinstance(field, Renamed) else field
        field_order, code = _code(inner)
        if field_order and order and field_order != order:
            raise TypeError(f"{field!r} changes byte order")
        order = order or field_order
        codes.append(code)
    return struct.Struct((order or "<") + "".join(codes))


def field_names(description: Any) -> tuple[str, ...]:
    """Names of the fields in order, those of padding left out."""
    return tuple(field.name for field in description.subcons if field.name)


def _code(inner: Any) -> tuple[str, str]:
    if isinstance(inner, FormatField):
        # A single byte has no order, whatever construct calls it.
        return (inner.fmtstr[0] if inner.length > 1 else ""), inner.fmtstr[1]
    if isinstance(inner, Bytes):
        return "", f"{inner.length}s"
    if isinstance(inner, Array):
        order, code = _code(inner.subcon)
        return order, f"{inner.count}{code}"
    if isinstance(inner, type(Padding(1))):
        return "", f"{inner.sizeof()}x"
    raise TypeError(f"{inner!r} has no flat equivalent")
