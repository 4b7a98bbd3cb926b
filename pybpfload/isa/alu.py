"""What arithmetic, comparisons and atomic operations do to numbers (RFC 9669 section 4 and 5.3).

Registers hold unsigned numbers of 64 bits. The functions here take and return unsigned numbers of
their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pybpfload.isa import insn as isa

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ARITHMETIC", "ATOMICS", "CONDITIONS", "MASK32", "MASK64", "sign_extend", "swap"]

MASK32: Final = 0xFFFFFFFF
MASK64: Final = 0xFFFFFFFFFFFFFFFF

_SIGNED: Final = 1  # off of the signed variant of division and modulo


def _arithmetic(bits: int) -> dict[tuple[int, int], Callable[[int, int], int]]:
    mask, sign = (1 << bits) - 1, 1 << bits - 1
    shift = bits - 1  # shift counts are masked, section 4.1

    def sdiv(a: int, b: int) -> int:
        # Division truncates towards zero; the lowest number by -1 is itself (section 4.1).
        if not b:
            return a & 0
        quotient = abs((a ^ sign) - sign) // abs((b ^ sign) - sign)
        return (-quotient if (a ^ b) & sign else quotient) & mask

    def smod(a: int, b: int) -> int:
        if not b:
            return a & mask
        rest = abs((a ^ sign) - sign) % abs((b ^ sign) - sign)
        return (-rest if a & sign else rest) & mask

    return {
        (isa.ALU_ADD, 0): lambda a, b: a + b & mask,
        (isa.ALU_SUB, 0): lambda a, b: a - b & mask,
        (isa.ALU_MUL, 0): lambda a, b: a * b & mask,
        (isa.ALU_DIV, 0): lambda a, b: a // b if b else a & 0,
        (isa.ALU_MOD, 0): lambda a, b: a % b if b else a & mask,
        (isa.ALU_DIV, _SIGNED): sdiv,
        (isa.ALU_MOD, _SIGNED): smod,
        (isa.ALU_OR, 0): lambda a, b: a | b,
        (isa.ALU_AND, 0): lambda a, b: a & b,
        (isa.ALU_XOR, 0): lambda a, b: a ^ b,
        (isa.ALU_LSH, 0): lambda a, b: a << (b & shift) & mask,
        (isa.ALU_RSH, 0): lambda a, b: a >> (b & shift),
        (isa.ALU_ARSH, 0): lambda a, b: (a ^ sign) - sign >> (b & shift) & mask,
    }


def _conditions(bits: int) -> dict[int, Callable[[int, int], bool | int]]:
    sign = 1 << bits - 1  # flipping it turns the signed order into the unsigned one
    return {
        isa.JMP_JEQ: lambda a, b: a == b,
        isa.JMP_JNE: lambda a, b: a != b,
        isa.JMP_JSET: lambda a, b: a & b,
        isa.JMP_JGT: lambda a, b: a > b,
        isa.JMP_JGE: lambda a, b: a >= b,
        isa.JMP_JLT: lambda a, b: a < b,
        isa.JMP_JLE: lambda a, b: a <= b,
        isa.JMP_JSGT: lambda a, b: a ^ sign > b ^ sign,
        isa.JMP_JSGE: lambda a, b: a ^ sign >= b ^ sign,
        isa.JMP_JSLT: lambda a, b: a ^ sign < b ^ sign,
        isa.JMP_JSLE: lambda a, b: a ^ sign <= b ^ sign,
    }


ARITHMETIC: Final = {bits: _arithmetic(bits) for bits in (32, 64)}
"""Width in bits -> (``ALU_*``, ``off``) -> the operation; without moves, negation, swaps."""

CONDITIONS: Final = {bits: _conditions(bits) for bits in (32, 64)}
"""Width in bits -> ``JMP_*`` -> whether the jump is taken."""

ATOMICS: Final[dict[int, Callable[[int, int], int]]] = {
    isa.ATOMIC_ADD: lambda a, b: a + b,
    isa.ATOMIC_OR: lambda a, b: a | b,
    isa.ATOMIC_AND: lambda a, b: a & b,
    isa.ATOMIC_XOR: lambda a, b: a ^ b,
}
"""``ATOMIC_*`` -> the operation on what is in memory and the register; the store cuts it."""


def sign_extend(value: int, bits: int) -> int:
    """Widen the low ``bits`` of a number to a signed number, as unsigned 64 bits."""
    sign = 1 << bits - 1
    return ((value & (1 << bits) - 1) ^ sign) - sign & MASK64


def swap(value: int, bits: int) -> int:
    """Reverse the order of the low ``bits // 8`` bytes of a number; the others become zero."""
    return int.from_bytes((value & (1 << bits) - 1).to_bytes(bits // 8, "little"), "big")
