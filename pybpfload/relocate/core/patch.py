"""Step 5: writing the new value into the instruction (libbpf ``bpf_core_patch_insn``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.isa import insn as isa
from pybpfload.isa.insn import Insn
from pybpfload.relocate.core.decision import Failure

if TYPE_CHECKING:
    from pybpfload.relocate.core.compute import Value

__all__ = ["CORE_POISON", "patch", "poison"]

CORE_POISON = 0xBAD2310
"""Helper number that no kernel has: a poisoned instruction calls it, to fail if reached."""

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF
_SIZES = {1: isa.SIZE_B, 2: isa.SIZE_H, 4: isa.SIZE_W, 8: isa.SIZE_DW}
_BYTES = {code: size for size, code in _SIZES.items()}


def poison(insns: list[Insn], index: int, number: int = CORE_POISON) -> None:
    """Replace an instruction, both halves of LDIMM64, by a call of a helper that does not exist."""
    both = insns[index].code == isa.LDIMM64 and index + 1 < len(insns)
    insns[index] = Insn(isa.CALL, imm=number)
    if both:
        insns[index + 1] = Insn(isa.CALL, imm=number)


def patch(
    insns: list[Insn], index: int, original: Value, value: Value, resize: bool | None
) -> str | None:
    """Write a value into an instruction.

    Args:
        insns: Instructions of the function; edited.
        index: Which one.
        original: Value in the object's own types.
        value: Value for the target.
        resize: See :func:`pybpfload.relocate.core.compute.size_change`.

    Returns:
        ``None``, or the reason for which the instruction was poisoned.

    Raises:
        Failure: The instruction is not one that can take the value.
    """
    insn = insns[index]
    kind = insn.code & isa.CLASS_MASK
    if kind in (isa.ALU, isa.ALU64):
        if insn.code & isa.SRC_X:
            raise Failure("arithmetic with a register has no constant to patch")
        _expect(original, insn.imm & _MASK64, "constant")
        insns[index] = insn._replace(imm=_signed32(value.value))
    elif kind in (isa.LDX, isa.ST, isa.STX):
        _expect(original, insn.off & _MASK64, "offset")
        if value.value > 32767:
            raise Failure(
                f"offset {value.value} does not fit the 15 bits that an instruction has",
                "read the member by bpf_probe_read_kernel() at its relocated address, as "
                "BPF_CORE_READ() does",
            )
        if resize is False:
            poison(insns, index)
            return (
                f"the field has {value.mem_size} bytes in the target and {original.mem_size} here, "
                "and is not of a kind that can be read in another size"
            )
        code = insn.code
        if resize:
            access = _BYTES[code & isa.SIZE_MASK]
            if access != original.mem_size:
                raise Failure(
                    f"the instruction moves {access} bytes, the field has {original.mem_size}"
                )
            if value.mem_size not in _SIZES:
                raise Failure(
                    f"no instruction moves the {value.mem_size} bytes of the target's field",
                    "read it by bpf_probe_read_kernel() with its relocated size",
                )
            code = code & ~isa.SIZE_MASK | _SIZES[value.mem_size]
        insns[index] = insn._replace(code=code, off=value.value)
    elif kind == isa.LD:
        _patch_wide(insns, index, original, value)
    else:
        raise Failure(f"opcode {insn.code:#04x} cannot take a relocated value")
    return None


def _patch_wide(insns: list[Insn], index: int, original: Value, value: Value) -> None:
    insn = insns[index]
    second = insns[index + 1] if index + 1 < len(insns) else None
    if (
        insn.code != isa.LDIMM64
        or insn.src
        or insn.off
        or second is None
        or second.code
        or second.dst
        or second.src
        or second.off
    ):
        raise Failure(f"opcode {insn.code:#04x} is not a plain 64-bit constant")
    _expect(original, (second.imm & _MASK32) << 32 | insn.imm & _MASK32, "constant")
    insns[index] = insn._replace(imm=_signed32(value.value))
    insns[index + 1] = second._replace(imm=_signed32(value.value >> 32))


def _expect(original: Value, found: int, what: str) -> None:
    if original.checked and found != original.value:
        # An unsigned 32-bit enumerator from 2**31 on: libbpf too takes it for a negative number.
        unsigned = original.value == found | ~_MASK32 & _MASK64
        raise Failure(
            f"the instruction's {what} is {found:#x}, "
            f"by its own types it should be {original.value:#x}",
            "declare a 64-bit value in that enum, which makes it 64 bits wide"
            if unsigned
            else None,
        )


def _signed32(value: int) -> int:
    value &= _MASK32
    return value - (1 << 32) if value >> 31 else value
