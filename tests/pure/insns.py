"""Instructions that tests write often."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pybpfload.isa.insn import Insn
from pybpfload.testing.objects import FUNC

if TYPE_CHECKING:
    from pybpfload.testing.objects import ObjectBuilder

EXIT = Insn(0x95)
CALL_SELF = Insn(0x85, src=1, imm=-1)  # as compilers write a call that has a relocation


def mov(imm: int, dst: int = 1) -> Insn:
    """``r1 = imm``, 64 bits wide."""
    return Insn(0xB7, dst=dst, imm=imm)


def load(size: int, off: int) -> Insn:
    """``r1 = *(size *)(r2 + off)``."""
    return Insn({1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}[size], dst=1, src=2, off=off)


def wide(value: int, src: int = 0) -> list[Insn]:
    """LDIMM64, both halves."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value & (1 << 64) - 1))
    return [Insn(0x18, dst=1, src=src, imm=low), Insn(0, imm=high)]


def sole(made: ObjectBuilder, section: str, insns: list[Insn], name: str = "program") -> int:
    """Add a program that has a section for itself, of whatever name; returns the section."""
    index = made.code(section, insns)
    made.symbol(name, index, 0, 8 * len(insns), kind=FUNC)
    return index
