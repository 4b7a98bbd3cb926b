"""From instructions to steps: what each instruction does, as a Python function.

:func:`make_steps` makes one step for every slot. What no verified program has (an instruction that
does not exist, a jump out of the program, a write to r10) becomes a step that faults, so it only
matters when it is reached, as in dead code that CO-RE has poisoned.

Sources: RFC 9669, sections by number below; ``kernel/bpf/core.c`` for what it leaves open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pybpfload.isa import insn as isa
from pybpfload.isa import table
from pybpfload.isa.alu import (
    ARITHMETIC,
    ATOMICS,
    CONDITIONS,
    MASK32,
    MASK64,
    sign_extend,
    swap,
)
from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.machine import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pybpfload.isa.insn import Insn
    from pybpfload.testing.interpreter.machine import Machine, Registers, Step

__all__ = ["fault", "make_steps"]

_NOTHING_5: Final = [NOTHING] * 5
_ARGUMENTS: Final = 11  # register number of the arguments beyond the fifth (Linux 7.2)
_SPECIAL_OFFSETS: Final = range(-0x200000, -0xF0000)  # SKF_LL_OFF, SKF_NET_OFF: from a header on


def make_steps(
    machine: Machine, insns: Sequence[Insn], start: int, special: Mapping[int, Step]
) -> list[Step]:
    """Make the steps of a program.

    Args:
        machine: What will run them.
        insns: The instructions.
        start: Index that the first step will have.
        special: Steps for instructions that need more than themselves to be understood: references,
            calls of helpers and kfuncs. By instruction index.
    """
    maker = _Maker(machine, len(insns), start)
    steps: list[Step] = []
    for index, insn in enumerate(insns):
        second = insns[index + 1] if insn.is_ldimm64 and index + 1 < len(insns) else None
        steps.append(special.get(index) or maker.step(index, insn, second))
    steps.append(fault("runs past the last instruction"))
    return steps


def fault(message: str) -> Step:
    """Return a step that is an error."""

    def step(registers: Registers) -> int:
        raise FaultError(message)

    return step


class _Maker:
    """Makes steps of one program."""

    def __init__(self, machine: Machine, length: int, start: int) -> None:
        self.machine = machine
        self.length = length
        self.start = start
        self.following = 0  # the step after the one that is being made

    def step(self, index: int, insn: Insn, second: Insn | None) -> Step:
        if not insn.code:
            return fault("jumps into a 64-bit constant")
        form = table.find(insn)
        if form is None:
            return fault("there is no such instruction")
        problems = table.problems(insn, form, second)
        if problems:
            return fault("; ".join(problems))
        if _ARGUMENTS in (form.fixed.get("dst"), form.fixed.get("src")):
            return fault("the interpreter has no arguments on the stack")
        self.following = self.start + index + 1
        if insn.is_alu:
            return self._alu(insn) if insn.dst < 10 else _FRAME_POINTER
        if insn.is_jmp:
            return self._jump(insn, getattr(insn, form.target) if form.target else None)
        if insn.is_ldimm64:
            return self._constant(insn, second)
        if insn.insn_class == isa.LD:
            return self._packet(insn)
        if insn.is_load:
            return self._load(insn) if insn.dst < 10 else _FRAME_POINTER
        if insn.insn_class == isa.STX and insn.mode == isa.MODE_ATOMIC:
            return self._atomic(insn)
        return self._store(insn)

    def target(self, distance: int) -> int | None:
        """Step that a distance from the next instruction leads to, ``None`` if it is outside."""
        step = self.following + distance
        return step if self.start <= step < self.start + self.length else None

    # Section 4.1 and 4.2: arithmetic and byte swaps

    def _alu(self, insn: Insn) -> Step:
        following, dst, src = self.following, insn.dst, insn.src
        op = insn.op
        wide = insn.insn_class == isa.ALU64
        if op == isa.ALU_MOV:
            return self._move(insn, wide)
        if op == isa.ALU_END:
            return self._unary(dst, self._swap(insn, wide))
        if op == isa.ALU_NEG:
            mask = MASK64 if wide else MASK32
            return self._unary(dst, lambda value: -value & mask)
        function = ARITHMETIC[64 if wide else 32][op, insn.off]
        if insn.code & isa.SRC_X:
            if wide:

                def step(registers: Registers) -> int:
                    registers[dst] = function(registers[dst], registers[src])
                    return following
            else:

                def step(registers: Registers) -> int:
                    registers[dst] = function(registers[dst] & MASK32, registers[src] & MASK32)
                    return following

            return step
        constant = insn.imm & (MASK64 if wide else MASK32)
        if wide:

            def step(registers: Registers) -> int:
                registers[dst] = function(registers[dst], constant)
                return following
        else:

            def step(registers: Registers) -> int:
                registers[dst] = function(registers[dst] & MASK32, constant)
                return following

        return step

    def _move(self, insn: Insn, wide: bool) -> Step:
        following, dst, src = self.following, insn.dst, insn.src
        mask = MASK64 if wide else MASK32
        if not insn.code & isa.SRC_X:
            constant = insn.imm & mask

            def step(registers: Registers) -> int:
                registers[dst] = constant
                return following

        elif insn.off in (8, 16, 32):
            bits = insn.off

            def step(registers: Registers) -> int:
                registers[dst] = sign_extend(registers[src], bits) & mask
                return following

        elif insn.off:
            return fault("the interpreter has no address spaces")
        else:

            def step(registers: Registers) -> int:
                registers[dst] = registers[src] & mask
                return following

        return step

    def _swap(self, insn: Insn, wide: bool) -> Callable[[int], int]:
        bits = insn.imm
        big = insn.code & isa.SRC_X != 0
        if wide or big == (self.machine.memory.byteorder == "<"):
            return lambda value: swap(value, bits)
        mask = (1 << bits) - 1
        return lambda value: value & mask

    def _unary(self, dst: int, function: Callable[[int], int]) -> Step:
        following = self.following

        def step(registers: Registers) -> int:
            registers[dst] = function(registers[dst])
            return following

        return step

    # Section 4.3: jumps and calls

    def _jump(self, insn: Insn, distance: int | None) -> Step:
        following, dst, src = self.following, insn.dst, insn.src
        op = insn.op
        if insn.is_exit:
            return self.machine.leave
        if insn.is_call:
            return self._call(insn)
        if distance is None:
            return self._indirect(dst)
        target = self.target(distance)
        if target is None:
            return fault("jumps out of the program")
        if op == isa.JMP_JA:
            return lambda registers: target
        if op == isa.JMP_JCOND:
            return self._may_goto(target)
        wide = insn.insn_class == isa.JMP
        condition = CONDITIONS[64 if wide else 32][op]
        if insn.code & isa.SRC_X:
            if wide:

                def step(registers: Registers) -> int:
                    return target if condition(registers[dst], registers[src]) else following
            else:

                def step(registers: Registers) -> int:
                    taken = condition(registers[dst] & MASK32, registers[src] & MASK32)
                    return target if taken else following

            return step
        constant = insn.imm & (MASK64 if wide else MASK32)
        if wide:

            def step(registers: Registers) -> int:
                return target if condition(registers[dst], constant) else following
        else:

            def step(registers: Registers) -> int:
                return target if condition(registers[dst] & MASK32, constant) else following

        return step

    def _may_goto(self, target: int) -> Step:
        following, machine = self.following, self.machine

        def step(registers: Registers) -> int:
            machine.loops_left -= 1
            return following if machine.loops_left > 0 else target

        return step

    def _indirect(self, dst: int) -> Step:
        machine, first, end = self.machine, self.start, self.start + self.length

        def step(registers: Registers) -> int:
            target = machine.step_at(registers[dst])
            if target is None or not first <= target < end:
                raise FaultError(f"jumps to {registers[dst]:#x}, which is not in the program")
            return target

        return step

    def _call(self, insn: Insn) -> Step:
        following, machine = self.following, self.machine
        target = self.target(insn.imm) if insn.is_subprog_call else None
        if not insn.is_subprog_call:
            return fault(f"calls {insn.imm}, which nobody provides")
        if target is None:
            return fault("calls a function outside of the program")
        enter = machine.enter

        def step(registers: Registers) -> int:
            enter(registers, following)
            return target

        return step

    # Section 5: loads, stores, atomics, constants, packets

    def _load(self, insn: Insn) -> Step:
        following, dst, src, off = self.following, insn.dst, insn.src, insn.off
        load = self.machine.memory.reader(insn.size_bytes, insn.mode == isa.MODE_MEMSX)

        def step(registers: Registers) -> int:
            registers[dst] = load(registers[src] + off & MASK64)
            return following

        return step

    def _store(self, insn: Insn) -> Step:
        following, dst, src, off = self.following, insn.dst, insn.src, insn.off
        if insn.mode != isa.MODE_MEM:  # nospec, which only the verifier writes
            return lambda registers: following
        store = self.machine.memory.writer(insn.size_bytes)
        if insn.insn_class == isa.ST:
            constant = insn.imm

            def step(registers: Registers) -> int:
                store(registers[dst] + off & MASK64, constant)
                return following
        else:

            def step(registers: Registers) -> int:
                store(registers[dst] + off & MASK64, registers[src])
                return following

        return step

    def _atomic(self, insn: Insn) -> Step:
        following, dst, src, off, op = self.following, insn.dst, insn.src, insn.off, insn.imm
        size = insn.size_bytes
        if op == isa.ATOMIC_LOAD_ACQ:
            return self._load(insn) if dst < 10 else _FRAME_POINTER
        load, store = self.machine.memory.reader(size), self.machine.memory.writer(size)
        if op == isa.ATOMIC_STORE_REL:

            def release(registers: Registers) -> int:
                store(registers[dst] + off & MASK64, registers[src])
                return following

            return release
        mask = (1 << 8 * size) - 1
        if op == isa.ATOMIC_CMPXCHG:

            def exchange(registers: Registers) -> int:
                address = registers[dst] + off & MASK64
                new = registers[src] & mask
                old = load(address)
                store(address, new if old == registers[0] & mask else old)
                registers[0] = old
                return following

            return exchange
        if src == 10:
            return _FRAME_POINTER
        fetch = bool(op & isa.ATOMIC_FETCH)
        function = ATOMICS.get(op & ~isa.ATOMIC_FETCH, _exchange)

        def step(registers: Registers) -> int:
            address = registers[dst] + off & MASK64
            value = registers[src]
            old = load(address)
            store(address, function(old, value))
            if fetch:
                registers[src] = old
            return following

        return step

    def _constant(self, insn: Insn, second: Insn | None) -> Step:
        following, dst = self.following + 1, insn.dst
        if second is None:
            return fault("its second half is missing")
        if dst == 10:
            return _FRAME_POINTER
        if insn.is_func_reference:
            target = self.target(insn.imm)
            if target is None:
                return fault("refers to a function outside of the program")
            constant = self.machine.address_of(target)
        elif insn.src:
            return fault("refers to something in a kernel, and nothing says to what")
        else:
            constant = isa.imm64(insn, second)

        def step(registers: Registers) -> int:
            registers[dst] = constant
            return following

        return step

    def _packet(self, insn: Insn) -> Step:
        following, src, machine = self.following, insn.src, self.machine
        indirect = insn.mode == isa.MODE_IND
        size, imm = insn.size_bytes, insn.imm

        def step(registers: Registers) -> int:
            if registers[6] != machine.context.address:
                raise FaultError("r6 is not the context")
            offset = isa.to_s32(imm + registers[src]) if indirect else imm
            packet = machine.context.packet
            if packet is None:
                raise FaultError("there is no packet")
            if offset in _SPECIAL_OFFSETS:
                raise FaultError(
                    f"packet offset {offset:#x} is not modelled (SKF_NET_OFF and such)"
                )
            registers[1:6] = _NOTHING_5
            if offset < 0 or offset + size > len(packet.data):
                registers[0] = 0  # section 5.5: ends the program
                return machine.leave(registers)
            registers[0] = int.from_bytes(packet.data[offset : offset + size], "big")
            return following

        return step


def _exchange(old: int, value: int) -> int:
    return value


_FRAME_POINTER: Final = fault("writes to r10, which is read-only")
