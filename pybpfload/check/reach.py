"""Which instructions of a relocated program can be reached, as far as constants tell.

Relocation leaves calls that no kernel accepts where something is missing, and programs guard them:

    if (bpf_core_field_exists(task->loginuid))
            id = BPF_CORE_READ(task, loginuid.val);

The verifier sees the constant 0 in the condition and never looks at the guarded code. So does this:
it follows constants through registers, arithmetic and conditions, and through the loads of
variables that no program can change (``.rodata``, ``.kconfig``), and takes both ways wherever it
knows no better.
What it finds is never too little, but may be too much: the verifier also follows values through the
stack, and ranges.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from pybpfload.isa import insn as isa
from pybpfload.isa import table
from pybpfload.isa.alu import ARITHMETIC, CONDITIONS, MASK32, MASK64, sign_extend
from pybpfload.object.spec import MapKind
from pybpfload.relocate import ReferenceKind

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from pybpfload.isa.insn import Insn
    from pybpfload.object.spec import ObjectSpec
    from pybpfload.relocate import RelocatedProgram

__all__ = ["Reach", "explore", "reachable"]


class Place(NamedTuple):
    """Address of something in a map's value."""

    map: str
    offset: int


class Context(NamedTuple):
    """The program's context (the argument of its entry), plus so many bytes.

    The verifier does not take it for non-zero.
    """

    offset: int


NON_ZERO: Final = "non-zero"
"""Of a value nothing is known but that it is not zero, such as the address of a symbol."""

Value: TypeAlias = "int | Place | Context | str | None"
"""A register: a number (unsigned, 64 bits), an address, :data:`NON_ZERO`, or unknown."""

_REGISTERS = 11
_SETTINGS = ".kconfig"  # the map of the kernel's settings, which no map of the object is called
_UNKNOWN: tuple[Value, ...] = (None,) * _REGISTERS


class Reach(NamedTuple):
    """What the verifier may come to.

    Attributes:
        alive: Indices of first slots, of subprograms and callbacks too.
        moved_context: Index of an instruction that reads or writes the context through a register
            to which a number was added -> that number, in bytes.
    """

    alive: set[int]
    moved_context: dict[int, int]


def explore(
    program: RelocatedProgram,
    spec: ObjectSpec,
    *,
    missing: Container[str] = (),
    settings: Mapping[str, bytes] | None = None,
    given: Mapping[int, int | None] | None = None,
) -> Reach:
    """Find the instructions that the verifier may come to.

    Args:
        program: A program of a relocation.
        spec: Its object, whose constants are taken as they are now.
        missing: Names of weak externs that the kernel lacks; their addresses are 0.
        settings: Values of ``__kconfig`` externs as far as they are known, in this machine's byte
            order.
        given: Index of an instruction -> the number that it puts into its register, whatever is
            written there; ``None`` for any.
    """
    walk = _Walk(program, spec, missing, settings or {}, given or {})
    walk.run()
    return Reach(set(walk.states), walk.moved_context())


def reachable(
    program: RelocatedProgram,
    spec: ObjectSpec,
    *,
    missing: Container[str] = (),
    given: Mapping[int, int | None] | None = None,
) -> set[int]:
    """:attr:`Reach.alive` of :func:`explore`, whose arguments these are."""
    return explore(program, spec, missing=missing, given=given).alive


class _Walk:
    """What each instruction finds in the registers, until nothing new turns up."""

    def __init__(
        self,
        program: RelocatedProgram,
        spec: ObjectSpec,
        missing: Container[str],
        settings: Mapping[str, bytes],
        given: Mapping[int, int | None],
    ) -> None:
        self.insns: Sequence[Insn] = program.insns
        self.spec = spec
        self.missing = missing
        # Values of the kernel's configuration by offset and size: they are read as a whole.
        self.settings = {
            (spec.externs[name].offset, len(value)): int.from_bytes(value, sys.byteorder)
            for name, value in settings.items()
        }
        self.given = given
        self.references = {each.insn: each for each in program.references}
        self.states: dict[int, tuple[Value, ...]] = {}
        self.jumping: tuple[Value, ...] | None = None  # what all gotox together find
        self.work: list[int] = []
        self.tables = [t for targets in program.jump_tables.values() for t in targets]
        called = {
            table.target(insn, form, index)
            for index, insn in enumerate(self.insns)
            if insn.is_subprog_call or (insn.is_ldimm64 and insn.src == isa.PSEUDO_FUNC)
            if (form := table.find(insn)) is not None
        }
        self.alone = {start for function, start in program.functions if function.is_global}
        self.enter(0, (None, Context(0), *_UNKNOWN[2:]))
        for _, start in program.functions[1:]:
            if start not in called:  # the kernel calls it: an exception callback
                self.enter(start, _UNKNOWN)

    def run(self) -> None:
        while self.work:
            index = self.work.pop()
            self.step(index, self.states[index])

    def moved_context(self) -> dict[int, int]:
        found = {}
        for index, state in self.states.items():
            insn = self.insns[index]
            base = insn.src if insn.is_load else insn.dst if insn.is_store else _REGISTERS
            if base < _REGISTERS and isinstance(at := state[base], Context) and at.offset:
                found[index] = at.offset
        return found

    def enter(self, index: int, state: tuple[Value, ...]) -> None:
        """Arrive at an instruction; it is looked at again if less is known than before."""
        if not 0 <= index < len(self.insns):
            return
        known = self.states.get(index)
        if known is not None:
            state = _joined(known, state)
            if state == known:
                return
        self.states[index] = state
        self.work.append(index)

    def jump_anywhere(self, state: tuple[Value, ...]) -> None:
        """Jump through a table (gotox), to all that any table has: in one go for all such jumps."""
        joined = state if self.jumping is None else _joined(self.jumping, state)
        if joined != self.jumping:
            self.jumping = joined
            for target in self.tables or range(len(self.insns)):
                self.enter(target, joined)

    def step(self, index: int, state: tuple[Value, ...]) -> None:
        insn = self.insns[index]
        form = table.find(insn)
        following = index + (2 if insn.is_ldimm64 else 1)
        if insn.is_jmp:
            target = table.target(insn, form, index) if form is not None else None
            if insn.is_call:
                if insn.is_subprog_call and target is not None:
                    # Global functions are verified by themselves, static ones for each call.
                    known = _UNKNOWN if target in self.alone else (*state[:6], *_UNKNOWN[6:])
                    self.enter(target, known)
                self.enter(following, (*_UNKNOWN[:6], *state[6:]))
            elif insn.code == isa.EXIT:
                pass
            elif insn.op == isa.JMP_JA:
                if insn.code & isa.SRC_MASK:
                    self.jump_anywhere(state)
                elif target is not None:
                    self.enter(target, state)
            else:
                taken = None if insn.op == isa.JMP_JCOND else self.decide(insn, state)
                if taken is not False and target is not None:
                    self.enter(target, self.learn(insn, state, equal=insn.op == isa.JMP_JEQ))
                if taken is not True:
                    self.enter(following, self.learn(insn, state, equal=insn.op == isa.JMP_JNE))
            return
        if insn.is_ldimm64 and insn.src == isa.PSEUDO_FUNC and form is not None:
            target = table.target(insn, form, index)
            if target is not None:
                self.enter(target, _UNKNOWN)
        if (insn.is_alu or insn.is_load or insn.code == isa.LDIMM64) and insn.dst < _REGISTERS:
            value = self.given[index] if index in self.given else self.result(index, insn, state)
            state = (*state[: insn.dst], value, *state[insn.dst + 1 :])
        elif insn.is_store and insn.mode == isa.MODE_ATOMIC:
            # Some give back the old value, in src or r0.
            cut = list(state)
            cut[0] = None
            if insn.src < _REGISTERS:
                cut[insn.src] = None
            state = tuple(cut)
        elif insn.insn_class == isa.LD:
            state = (None, *state[1:])
        self.enter(following, state)

    def result(self, index: int, insn: Insn, state: tuple[Value, ...]) -> Value:
        """What an instruction puts into its register."""
        if insn.is_ldimm64:
            return self.constant(index, insn)
        if insn.is_load:
            base = state[insn.src] if insn.src < _REGISTERS else None
            if not isinstance(base, Place) or insn.mode not in (isa.MODE_MEM, isa.MODE_MEMSX):
                return None
            return self.read(base.map, base.offset + insn.off, insn.size_bytes, insn.mode)
        return self.arithmetic(insn, state)

    def constant(self, index: int, insn: Insn) -> Value:
        reference = self.references.get(index)
        if reference is None:
            upper = self.insns[index + 1].imm if index + 1 < len(self.insns) else 0
            number = (upper & MASK32) << 32 | insn.imm & MASK32
            return number if not insn.src else NON_ZERO
        if reference.kind == ReferenceKind.MAP_VALUE:
            return Place(reference.name, reference.addend)
        if reference.kind == ReferenceKind.KCONFIG:
            return Place(_SETTINGS, reference.addend)
        return 0 if reference.name in self.missing else NON_ZERO

    def read(self, name: str, start: int, size: int, mode: int) -> Value:
        """A number in a section that nobody can change any more."""
        if name == _SETTINGS:
            return self.settings.get((start, size))
        found = self.spec.maps.get(name)
        contents = found.contents if found is not None and found.kind == MapKind.RODATA else None
        if contents is None or not 0 <= start <= len(contents) - size:
            return None
        order: Any = "little" if self.spec.byteorder == "<" else "big"
        number = int.from_bytes(bytes(contents[start : start + size]), order)
        return sign_extend(number, 8 * size) if mode == isa.MODE_MEMSX else number

    def arithmetic(self, insn: Insn, state: tuple[Value, ...]) -> Value:
        wide = insn.insn_class == isa.ALU64
        bits, mask = (64, MASK64) if wide else (32, MASK32)
        right = self.right(insn, state)
        if insn.op == isa.ALU_MOV:
            if not insn.off:
                return right & mask if isinstance(right, int) else right if wide else None
            if not isinstance(right, int) or insn.off not in (8, 16, 32):
                return None  # a cast between address spaces
            return sign_extend(right, insn.off) & mask
        left = state[insn.dst]
        if insn.op == isa.ALU_NEG:
            return -left & mask if isinstance(left, int) else None
        if isinstance(left, Place) and isinstance(right, int) and wide and insn.op == isa.ALU_ADD:
            return Place(left.map, left.offset + isa.to_s32(right))
        if isinstance(left, Context) and isinstance(right, int) and wide and insn.op == isa.ALU_ADD:
            return Context(left.offset + isa.to_s32(right))
        compute = ARITHMETIC[bits].get((insn.op, insn.off))
        if compute is None or not isinstance(left, int) or not isinstance(right, int):
            return None
        return compute(left & mask, right & mask)

    def right(self, insn: Insn, state: tuple[Value, ...]) -> Value:
        """The second operand of arithmetic or a condition."""
        if insn.code & isa.SRC_MASK:
            return state[insn.src] if insn.src < _REGISTERS else None
        return insn.imm & MASK64

    def decide(self, insn: Insn, state: tuple[Value, ...]) -> bool | None:
        """Whether a conditional jump is taken, if that is known."""
        wide = insn.insn_class == isa.JMP
        bits, mask = (64, MASK64) if wide else (32, MASK32)
        left = state[insn.dst] if insn.dst < _REGISTERS else None
        right = self.right(insn, state)
        if isinstance(left, (Place, str)) and right == 0 and wide:
            return {isa.JMP_JEQ: False, isa.JMP_JNE: True}.get(insn.op)
        compare = CONDITIONS[bits].get(insn.op)
        if compare is None or not isinstance(left, int) or not isinstance(right, int):
            return None
        return bool(compare(left & mask, right & mask))

    def learn(self, insn: Insn, state: tuple[Value, ...], *, equal: bool) -> tuple[Value, ...]:
        """What is known behind a comparison with a constant."""
        wide = insn.insn_class == isa.JMP
        if insn.code & isa.SRC_MASK or insn.dst >= _REGISTERS or not wide:
            return state
        known = state[insn.dst]
        if equal and known is None:
            return (*state[: insn.dst], insn.imm & MASK64, *state[insn.dst + 1 :])
        return state


def _joined(a: tuple[Value, ...], b: tuple[Value, ...]) -> tuple[Value, ...]:
    """What is known of the registers whichever of two ways was taken."""
    return tuple(map(_join, a, b))


def _join(a: Value, b: Value) -> Value:
    if a == b:
        return a
    if _is_non_zero(a) and _is_non_zero(b):
        return NON_ZERO
    return None


def _is_non_zero(value: Value) -> bool:
    return value is not None and value != 0 and not isinstance(value, Context)
