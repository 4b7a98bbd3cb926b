"""Step 1: what the program wanted, in terms of its own types (libbpf ``bpf_core_parse_spec``)."""

from __future__ import annotations

import re

from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.relocate.core.decision import (
    ENUMVAL_KINDS,
    MAX_SPEC,
    TYPE_KINDS,
    Accessor,
    CoreKind,
    Failure,
    Spec,
    shown,
)

__all__ = ["is_flexible", "parse_access", "parse_spec"]

# As C's "%d" reads it: blanks and a sign may precede a number, and such a number needs no colon
# before it.
_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?)([0-9]+)")
_LONG_DIGITS = 19  # of the largest 64-bit number; what is longer saturates
_MASK = 0xFFFFFFFF


def parse_access(text: str) -> list[int]:
    """Split an access string such as ``0:1:2`` into its indices.

    Raises:
        Failure: It is not one.
    """
    if not text or text.startswith(":"):
        raise Failure(f"access string {shown(text)!r} does not start with a number")
    indices: list[int] = []
    position = 0
    while position < len(text):
        if text[position] == ":":
            position += 1
        found = _NUMBER.match(text, position)
        if found is None:
            raise Failure(f"access string {shown(text)!r} is not made of numbers and colons")
        if len(indices) == MAX_SPEC:
            raise Failure(f"access string has more than {MAX_SPEC} indices")
        index = _c_int(*found.groups())
        if index < 0:
            raise Failure(f"access string {shown(text)!r} has a negative index")
        indices.append(index)
        position = found.end()
    return indices


def _c_int(sign: str, digits: str) -> int:
    """What C's "%d" makes of a number too large for an int: at most 64 bits, of which 32 stay."""
    digits = digits.lstrip("0")
    number = int(digits or "0") if len(digits) <= _LONG_DIGITS else 1 << 63
    number = max(-number, -1 << 63) if sign == "-" else min(number, (1 << 63) - 1)
    number &= _MASK
    return number - (1 << 32) if number >> 31 else number


def parse_spec(btf: Btf, type_id: int, access: str, kind: CoreKind) -> Spec:
    """Resolve an access string against the object's own BTF.

    Raises:
        Failure: The access does not fit the type.
    """
    spec = Spec(btf, type_id, kind)
    if kind in TYPE_KINDS:
        if access != "0":
            raise Failure(f"access string of a type is {shown(access)!r}, expected '0'")
        return spec
    spec.raw = parse_access(access)
    stripped = btf.strip(type_id)
    root = btf[stripped]
    first = spec.raw[0]
    if kind in ENUMVAL_KINDS:
        if (
            not isinstance(root, (t.Enum, t.Enum64))
            or len(spec.raw) != 1
            or first >= len(root.values)
        ):
            raise Failure(
                f"access {shown(access)!r} does not name an enumerator of {btf.describe(type_id)}"
            )
        spec.accessors.append(Accessor(stripped, first, root.values[first].name))
        return spec
    spec.accessors.append(Accessor(stripped, first, None))
    spec.bit_offset = first * btf.size(stripped) * 8 & _MASK
    current = stripped
    for index in spec.raw[1:]:
        current = btf.strip(current)
        described = btf[current]
        if isinstance(described, t.Composite):
            if index >= len(described.members):
                raise Failure(f"{btf.describe(current)} has no member {index}")
            member = described.members[index]
            spec.bit_offset = spec.bit_offset + member.bit_offset & _MASK
            if member.name:
                spec.accessors.append(Accessor(current, index, member.name))
            current = member.type
        elif isinstance(described, t.Array):
            if index >= described.nelems and not is_flexible(btf, spec.last, described):
                raise Failure(
                    f"index {index} is beyond the {described.nelems} elements of the array",
                    "give the array its length where the program declares it; without one it has "
                    "to be the last member",
                )
            current = btf.strip(described.type)
            spec.accessors.append(Accessor(current, index, None))
            spec.bit_offset = spec.bit_offset + index * btf.size(current) * 8 & _MASK
        else:
            raise Failure(
                f"{btf.describe(current)} has no members, as access {shown(access)!r} wants"
            )
    return spec


def is_flexible(btf: Btf, last: Accessor, array: t.Array) -> bool:
    """Whether an array may be indexed freely: no elements, and last member of its direct parent."""
    if array.nelems or last.name is None:
        return False
    parent = btf[last.type_id]
    return isinstance(parent, t.Composite) and last.index == len(parent.members) - 1
