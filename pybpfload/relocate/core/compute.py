"""Step 4: from an access to the number for the instruction (libbpf ``bpf_core_calc_relo``)."""

from __future__ import annotations

from typing import NamedTuple

from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.relocate.core.decision import (
    ENUMVAL_KINDS,
    FIELD_KINDS,
    CoreKind,
    Failure,
    Spec,
)

__all__ = ["Value", "compute", "missing_value", "size_change"]

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_INT_SIGNED = 1


class Value(NamedTuple):
    """A number and what an instruction has to know about it.

    Attributes:
        value: Unsigned, 64 bits.
        checked: Whether the instruction must hold this value before it is patched.
        mem_size: Bytes that a load or store of the field moves; 0 when that does not apply.
        mem_type: Type of the field in its BTF, 0 for a bit field.
    """

    value: int
    checked: bool
    mem_size: int = 0
    mem_type: int = 0


def missing_value(kind: CoreKind) -> Value | None:
    """Value when the target has nothing that matches; ``None``: the instruction is poisoned."""
    if kind in (
        CoreKind.FIELD_EXISTS,
        CoreKind.TARGET_TYPE_ID,
        CoreKind.TYPE_EXISTS,
        CoreKind.TYPE_SIZE,
        CoreKind.ENUMVAL_EXISTS,
        CoreKind.TYPE_MATCHES,
    ):
        return Value(0, checked=True)
    return None


def compute(spec: Spec, byteorder: str) -> Value:
    """Compute the value of an access on its side.

    Args:
        spec: The access.
        byteorder: ``"<"`` or ``">"``: of the machine that the program will run on. It decides the
            left shift of bit fields.

    Raises:
        Failure: The rule has no value for it, which fails the relocation of the object.
    """
    kind = spec.kind
    if kind in FIELD_KINDS:
        return _field(spec, byteorder)
    if kind in ENUMVAL_KINDS:
        return _enumerator(spec)
    if kind in (CoreKind.LOCAL_TYPE_ID, CoreKind.TARGET_TYPE_ID):
        return Value(spec.root, checked=False)
    if kind == CoreKind.TYPE_SIZE:
        return Value(spec.btf.size(spec.root), checked=True)
    return Value(1, checked=True)


def _enumerator(spec: Spec) -> Value:
    if spec.kind == CoreKind.ENUMVAL_EXISTS:
        return Value(1, checked=True)
    enum = spec.btf[spec.last.type_id]
    assert isinstance(enum, (t.Enum, t.Enum64))
    value = enum.values[spec.last.index].value
    if isinstance(enum, t.Enum):
        # Always sign-extended, whatever the enum's signedness.
        value &= _MASK32
        value -= 1 << 32 if value >> 31 else 0
    return Value(value & _MASK64, checked=True)


def _unwrap_arrays(btf: Btf, type_id: int) -> int:
    """Type id of the innermost element of (nested) arrays."""
    for _ in range(len(btf)):
        type_id = btf.strip(type_id)
        described = btf[type_id]
        if not isinstance(described, t.Array):
            break
        type_id = described.type
    return type_id


def _field(spec: Spec, byteorder: str) -> Value:
    kind, btf, last = spec.kind, spec.btf, spec.last
    if kind == CoreKind.FIELD_EXISTS:
        return Value(1, checked=True)
    if last.name is None:
        # The root itself, or an array element.
        if kind == CoreKind.BYTE_OFF:
            element = _unwrap_arrays(btf, last.type_id)
            return Value(spec.bit_offset // 8, True, btf.size(element), last.type_id)
        if kind == CoreKind.BYTE_SZ:
            return Value(btf.size(last.type_id), checked=True)
        raise Failure(
            f"{kind.name.lower()} of something that is not a member",
            "ask it of a member, not of an element of an array or a whole type",
        )
    parent = btf[last.type_id]
    assert isinstance(parent, t.Composite)
    member = parent.members[last.index]
    member_type = btf.strip(member.type)
    described = btf[member_type]
    bit_offset, bit_size = spec.bit_offset, member.bitfield_size
    is_bitfield = bit_size > 0
    if is_bitfield:
        # The storage unit is the declared type's, widened until the field fits.
        unit = getattr(described, "size", 0)
        if not unit:
            raise Failure(f"{btf.describe(member_type)} cannot be a bit field")
        byte_offset = bit_offset // 8 // unit * unit
        while bit_offset + bit_size - byte_offset * 8 > unit * 8:
            if unit >= 8:
                raise Failure(
                    "the bit field does not fit 64 bits",
                    "ask only whether it exists, and read its bytes by their own offset",
                )
            unit *= 2
            byte_offset = bit_offset // 8 // unit * unit
    else:
        unit = btf.size(member_type)
        byte_offset = bit_offset // 8
        bit_size = unit * 8
    checked = not is_bitfield
    if kind == CoreKind.BYTE_OFF:
        if is_bitfield:
            return Value(byte_offset, checked)
        return Value(byte_offset, checked, btf.size(_unwrap_arrays(btf, member_type)), member_type)
    if kind == CoreKind.BYTE_SZ:
        return Value(unit, checked)
    if kind == CoreKind.SIGNED:
        return Value(int(_is_signed(described)), checked=True)
    if kind == CoreKind.LSHIFT_U64:
        if byteorder == "<":
            shift = 64 - (bit_offset + bit_size - byte_offset * 8)
        else:
            shift = (8 - unit) * 8 + (bit_offset - byte_offset * 8)
        return Value(shift & _MASK32, checked)
    return Value(64 - bit_size & _MASK32, checked=True)


def _is_signed(described: t.Type) -> bool:
    if isinstance(described, (t.Enum, t.Enum64)):
        return described.signed
    return isinstance(described, t.Int) and described.signed


def size_change(local: Spec, mine: Value, target: Spec, theirs: Value) -> bool | None:
    """Whether a load or store may change its access size to the target's.

    Returns:
        ``None`` when sizes are equal, ``True`` when it may, ``False`` when the instruction has to
        be poisoned.
    """
    if mine.mem_size == theirs.mem_size:
        return None
    one = local.btf[local.btf.strip(mine.mem_type)] if mine.mem_type else None
    other = target.btf[target.btf.strip(theirs.mem_type)] if theirs.mem_type else None
    if isinstance(one, t.Ptr) and isinstance(other, t.Ptr):
        return True
    return (
        isinstance(one, t.Int)
        and isinstance(other, t.Int)
        and one.encoding != _INT_SIGNED
        and other.encoding != _INT_SIGNED
    )
