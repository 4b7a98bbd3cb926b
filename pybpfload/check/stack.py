"""How much stack a program uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.isa import insn as isa
from pybpfload.isa import table

if TYPE_CHECKING:
    from collections.abc import Container

    from pybpfload.relocate import RelocatedProgram

__all__ = ["stack_depth"]

_FRAME = 10  # the frame pointer, r10
_MOVE = isa.ALU64 | isa.ALU_MOV | isa.SRC_X
_ADD = isa.ALU64 | isa.ALU_ADD | isa.SRC_K
_DEEPEST = 8  # calls inside calls that the verifier takes (MAX_CALL_FRAMES)


def stack_depth(program: RelocatedProgram, alive: Container[int] | None = None) -> int:
    """Bytes of stack along the deepest chain of calls.

    By accesses and addresses at constant offsets from the frame pointer, each frame rounded up to 8
    bytes; the verifier rounds to 32 (or 16, with the JIT, since 6.6).

    Args:
        program: The program.
        alive: Indices of the instructions that count, all by default.
    """
    starts = sorted(start for _, start in program.functions) or [0]
    ends = [*starts[1:], len(program.insns)]
    frames: dict[int, int] = {}
    calls: dict[int, set[int]] = {}
    for start, end in zip(starts, ends, strict=True):
        frames[start], calls[start] = _frame(program, start, end, alive)
    depth = frames
    for _ in range(_DEEPEST):
        depth = {s: frames[s] + max((depth.get(c, 0) for c in calls[s]), default=0) for s in starts}
    return depth[starts[0]]


def _frame(
    program: RelocatedProgram, start: int, end: int, alive: Container[int] | None
) -> tuple[int, set[int]]:
    """Bytes of stack that a function uses, and the functions that it calls."""
    lowest = 0
    calls: set[int] = set()
    copies: dict[int, int] = {}  # register -> its distance from the frame pointer
    for index in range(start, end):
        if alive is not None and index not in alive:
            continue
        insn = program.insns[index]
        if (insn.is_load and insn.src == _FRAME) or (insn.is_store and insn.dst == _FRAME):
            lowest = min(lowest, insn.off)
        elif insn.code == _MOVE and insn.src == _FRAME:
            copies[insn.dst] = 0
        elif insn.code == _ADD and insn.dst in copies:
            copies[insn.dst] += insn.imm
            lowest = min(lowest, copies[insn.dst])
        elif insn.is_alu or insn.is_load or insn.is_ldimm64:
            copies.pop(insn.dst, None)
        elif insn.is_call:
            copies.clear()
            form = table.find(insn)
            target = table.target(insn, form, index) if form is not None else None
            if insn.is_subprog_call and target is not None:
                calls.add(target)
    return -lowest + 7 & -8, calls
