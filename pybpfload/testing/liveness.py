"""Which instructions of a relocated program can be reached, as far as constants tell.

Relocation leaves calls that no kernel accepts where something is missing, and programs guard them:

    if (bpf_core_field_exists(task->loginuid))
            id = BPF_CORE_READ(task, loginuid.val);

The verifier sees the constant 0 in the condition and never looks at the guarded code. So does this:
it follows constants through registers, arithmetic and conditions, and through the loads of
variables that no program can change (``.rodata``), and takes both ways wherever it knows no better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pybpfload.isa import insn as isa
from pybpfload.object.spec import MapKind
from pybpfload.relocate import ReferenceKind
from pybpfload.testing.interpreter.alu import ARITHMETIC, CONDITIONS, MASK32, MASK64

if TYPE_CHECKING:
    from collections.abc import Container

    from pybpfload.isa.insn import Insn
    from pybpfload.object.spec import ObjectSpec
    from pybpfload.relocate import Reference, RelocatedProgram

__all__ = ["reachable"]

_Constant: TypeAlias = "tuple[str, int]"  # map of constants, offset in its value
_Value: TypeAlias = "int | _Constant | None"
_State: TypeAlias = "tuple[_Value, ...]"

_UNKNOWN: _State = (None,) * 12
_ADDRESS = 0xFFFF_8000_0000_0000  # of something that exists; only compared with 0
_BYTES = {isa.SIZE_B: 1, isa.SIZE_H: 2, isa.SIZE_W: 4, isa.SIZE_DW: 8}


def reachable(
    program: RelocatedProgram, spec: ObjectSpec, *, missing: Container[str] = ()
) -> set[int]:
    """Indices of the instructions that the verifier may come to.

    Args:
        program: A program of a relocation.
        spec: Its object, whose constants are taken as they are now.
        missing: Names of weak externs that the kernel lacks; their addresses are 0.

    Returns:
        Indices of first slots, of subprograms and callbacks too.
    """
    return _Walk(program, spec, missing).run()


class _Walk:
    """What each instruction finds in the registers, until nothing new turns up."""

    def __init__(
        self, program: RelocatedProgram, spec: ObjectSpec, missing: Container[str]
    ) -> None:
        self._insns = program.insns
        self._references = {reference.insn: reference for reference in program.references}
        self._spec = spec
        self._missing = missing
        self._states: dict[int, _State] = {}
        self._todo: list[int] = []

    def run(self) -> set[int]:
        self._come_to(0, _UNKNOWN)
        while self._todo:
            self._step(self._todo.pop())
        return set(self._states)

    def _come_to(self, index: int, state: _State) -> None:
        """Join what is known there; each register can lose its value only once, so this ends."""
        if not 0 <= index < len(self._insns):
            return
        known = self._states.get(index)
        if known is not None:
            joined = tuple(a if a == b else None for a, b in zip(known, state, strict=True))
            if joined == known:
                return
            state = joined
        self._states[index] = state
        self._todo.append(index)

    def _step(self, index: int) -> None:
        insn, state = self._insns[index], self._states[index]
        kind = insn.code & isa.CLASS_MASK
        if kind in (isa.ALU, isa.ALU64):
            self._come_to(index + 1, _with(state, insn.dst, _computed(insn, state)))
        elif insn.code == isa.LDIMM64:
            value = self._wide(index)
            if insn.src == isa.PSEUDO_FUNC:
                self._come_to(index + 1 + insn.imm, _UNKNOWN)
            self._come_to(index + 2, _with(state, insn.dst, value))
        elif kind in (isa.LD, isa.LDX):
            self._come_to(
                index + 1, _with(state, insn.dst if kind else 0, self._loaded(insn, state))
            )
        elif kind in (isa.ST, isa.STX):
            fetches = kind == isa.STX and insn.code & isa.MODE_MASK == isa.MODE_ATOMIC
            state = _with(_with(state, insn.src, None), 0, None) if fetches else state
            self._come_to(index + 1, state)
        else:
            self._jump(index, insn, state)

    def _jump(self, index: int, insn: Insn, state: _State) -> None:
        wide = insn.code & isa.CLASS_MASK == isa.JMP
        operation = insn.code & isa.OP_MASK
        if wide and operation == isa.JMP_EXIT:
            return
        if wide and operation == isa.JMP_CALL:
            if insn.src == isa.PSEUDO_CALL:
                self._come_to(index + 1 + insn.imm, _UNKNOWN)
            self._come_to(index + 1, (None,) * 6 + state[6:])
            return
        if operation == isa.JMP_JA:
            if insn.code & isa.SRC_X:  # an indirect jump, through a table
                for target in range(len(self._insns)):
                    self._come_to(target, _UNKNOWN)
                return
            self._come_to(index + 1 + (insn.off if wide else insn.imm), state)
            return
        condition = CONDITIONS[64 if wide else 32].get(operation)
        left = state[insn.dst]
        right = state[insn.src] if insn.code & isa.SRC_X else insn.imm & MASK64
        taken: bool | None = None
        if condition is not None and isinstance(left, int) and isinstance(right, int):
            mask = MASK64 if wide else MASK32
            taken = bool(condition(left & mask, right & mask))
        if taken is not False:
            self._come_to(index + 1 + insn.off, state)
        if taken is not True:
            self._come_to(index + 1, state)

    def _wide(self, index: int) -> _Value:
        reference = self._references.get(index)
        if reference is None:
            insn, second = self._insns[index], self._insns[index + 1]
            return insn.imm & MASK32 | (second.imm & MASK32) << 32 if not insn.src else _ADDRESS
        if reference.kind == ReferenceKind.MAP_VALUE and self._is_constant(reference):
            return reference.name, reference.addend
        if reference.kind == ReferenceKind.KCONFIG:
            return None
        return 0 if reference.name in self._missing else _ADDRESS

    def _is_constant(self, reference: Reference) -> bool:
        return self._spec.maps[reference.name].kind == MapKind.RODATA

    def _loaded(self, insn: Insn, state: _State) -> _Value:
        base = state[insn.src]
        mode = insn.code & isa.MODE_MASK
        if not isinstance(base, tuple) or mode not in (isa.MODE_MEM, isa.MODE_MEMSX):
            return None
        name, offset = base
        contents, size = self._spec.maps[name].contents or b"", _BYTES[insn.code & isa.SIZE_MASK]
        start = offset + insn.off
        if not 0 <= start <= len(contents) - size:
            return None
        order = "little" if self._spec.byteorder == "<" else "big"
        raw = bytes(contents[start : start + size])
        return int.from_bytes(raw, order, signed=mode == isa.MODE_MEMSX) & MASK64  # type: ignore[arg-type]


def _with(state: _State, register: int, value: _Value) -> _State:
    return (*state[:register], value, *state[register + 1 :])


def _computed(insn: Insn, state: _State) -> _Value:
    wide = insn.code & isa.CLASS_MASK == isa.ALU64
    bits, mask = (64, MASK64) if wide else (32, MASK32)
    operation = insn.code & isa.OP_MASK
    left = state[insn.dst]
    right = state[insn.src] if insn.code & isa.SRC_X else insn.imm & MASK64
    if operation == isa.ALU_MOV:
        if insn.off:  # sign-extending, or between address spaces
            return None
        return right & mask if isinstance(right, int) else right if wide else None
    if operation == isa.ALU_NEG:
        return -left & mask if isinstance(left, int) else None
    if isinstance(left, tuple) and operation == isa.ALU_ADD and wide and isinstance(right, int):
        return left[0], left[1] + isa.to_s32(right)
    function = ARITHMETIC[bits].get((operation, insn.off))
    if function is None or not isinstance(left, int) or not isinstance(right, int):
        return None
    return function(left & mask, right & mask)
