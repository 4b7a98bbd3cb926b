"""Random programs that the verifier accepts by construction.

A program starts with known numbers in all registers and in some stack, does random things to them
and to the value of a map, and leaves all of it in its context, the argument of a ``syscall``
program. Only scalars are in registers between the pieces it is made of; jumps go forward, to the
start of a later piece, and loops count down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pybpfload.isa import insn as i
from pybpfload.isa.insn import Insn

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

CONTEXT_SIZE = 8 * 18
"""Bytes of the context: r0 to r9, then the stack slots."""
MAP_SIZE = 64
"""Bytes of the map's value."""

_SLOTS = range(-72, -8, 8)  # stack that is played with; the context's address is above it
_SAVED = -8
_SPARE = -80
_SIZES = {i.SIZE_B: 1, i.SIZE_H: 2, i.SIZE_W: 4, i.SIZE_DW: 8}
_SHIFTS = (i.ALU_LSH, i.ALU_RSH, i.ALU_ARSH)
_DIVISIONS = (i.ALU_DIV, i.ALU_MOD)
_PLAIN = (i.ALU_ADD, i.ALU_SUB, i.ALU_MUL, i.ALU_OR, i.ALU_AND, i.ALU_XOR, i.ALU_MOV)
_ALU = (*_PLAIN, *_DIVISIONS, *_SHIFTS)
_UNSIGNED = (i.JMP_JGT, i.JMP_JGE, i.JMP_JLT, i.JMP_JLE)
_SIGNED = (i.JMP_JSGT, i.JMP_JSGE, i.JMP_JSLT, i.JMP_JSLE)
_CONDITIONS = (i.JMP_JEQ, i.JMP_JNE, i.JMP_JSET, *_UNSIGNED, *_SIGNED)
_PLAIN_ATOMICS = (i.ATOMIC_ADD, i.ATOMIC_OR, i.ATOMIC_AND, i.ATOMIC_XOR)
_FETCHING = tuple(op | i.ATOMIC_FETCH for op in _PLAIN_ATOMICS)
_ATOMICS = (*_PLAIN_ATOMICS, *_FETCHING, i.ATOMIC_XCHG, i.ATOMIC_CMPXCHG)
_SWAPS = (i.ALU | i.ALU_END | i.SRC_K, i.ALU | i.ALU_END | i.SRC_X, i.ALU64 | i.ALU_END)
_UNARY = (i.ALU | i.ALU_NEG, i.ALU64 | i.ALU_NEG, *_SWAPS)
_EDGES = [0, 1, 2, 7, 8, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF]
_EDGES += [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63]


class RandomProgram(NamedTuple):
    """A program, and which of its instructions refer to the map's value."""

    insns: list[Insn]
    map_values: list[int]


class _Jump(NamedTuple):
    """A jump whose distance is known only when all pieces are: to piece number ``piece``."""

    insn: Insn
    piece: int


class _Call(NamedTuple):
    """A call of function number ``function``."""

    function: int


def random_program(random: Random, length: int) -> RandomProgram:
    """Make a program of ``length`` pieces, some of them several instructions."""
    return _Generator(random).make(length)


class _Generator:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.calls = random.choice([0, 0, 1, 2])
        self.uncalled = set(range(1, self.calls + 1))

    def make(self, length: int) -> RandomProgram:
        main: list[Insn | _Call] = [i.stx(i.SIZE_DW, 10, 1, _SAVED)]
        for slot in _SLOTS:
            main += [*i.ld_imm64(0, self.number()), i.stx(i.SIZE_DW, 10, 0, slot)]
        main += self.start_registers(range(10))
        main += self.flatten(self.pieces(length, range(10), calls=self.calls))
        functions = [self.function(number + 1) for number in range(self.calls)]
        for number in sorted(self.uncalled):  # the verifier wants no unreachable code
            main += self.call(number)
        return _assemble([main + _leave_everything(), *functions])

    def function(self, number: int) -> list[Insn | _Call]:
        """A function of five numbers; it may call those after it."""
        body: list[Insn | _Call] = [i.st(i.SIZE_DW, 10, slot, 5) for slot in _SLOTS[-2:]]
        body += self.start_registers((0, 6, 7, 8, 9))
        later = self.calls - number
        body += self.flatten(
            self.pieces(self.random.randint(1, 6), range(10), calls=later, first=number + 1)
        )
        return [*body, i.exit_()]

    def start_registers(self, registers: range | tuple[int, ...]) -> list[Insn | _Call]:
        return [insn for r in registers for insn in i.ld_imm64(r, self.number())]

    def number(self) -> int:
        random = self.random
        kind = random.randrange(3)
        if kind == 0:
            return random.getrandbits(64)
        value = random.choice(_EDGES) if kind == 1 else random.getrandbits(8)
        return (-value if random.getrandbits(1) else value) & 0xFFFFFFFFFFFFFFFF

    def imm(self) -> int:
        return i.to_s32(self.number())

    def flatten(self, pieces: list[list[Insn | _Jump | _Call]]) -> list[Insn | _Call]:
        """Put pieces behind each other and fill in the distances of jumps between them."""
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece))
        out: list[Insn | _Call] = []
        for piece in pieces:
            for item in piece:
                if isinstance(item, _Jump):
                    distance = starts[min(item.piece, len(pieces))] - len(out) - 1
                    field = "imm" if item.insn.code == i.JMP32 | i.JMP_JA else "off"
                    out.append(item.insn._replace(**{field: distance}))
                else:
                    out.append(item)
        return out

    def pieces(
        self, count: int, registers: range, *, calls: int, first: int = 1
    ) -> list[list[Insn | _Jump | _Call]]:
        random = self.random
        kinds: list[Callable[[], list[Insn | _Jump | _Call]]] = [
            *[self.alu] * 6,
            *[self.unary] * 2,
            *[self.stack] * 3,
            self.stack_atomic,
            self.map_value,
            self.loop,
        ]
        slots = _SLOTS if first == 1 else _SLOTS[-2:]
        self.slots = slots
        jumps = 0
        pieces: list[list[Insn | _Jump | _Call]] = []
        for number in range(count):
            choice = random.randrange(20)
            if choice < 4 and jumps < 8:
                jumps += 1
                pieces.append(self.jump(number + 1 + random.randint(0, 4)))
            elif choice == 4 and calls:
                pieces.append([*self.call(first + random.randrange(calls))])
            else:
                pieces.append(random.choice(kinds)())
        return pieces

    def call(self, function: int) -> list[Insn | _Call]:
        self.uncalled.discard(function)
        return [_Call(function), *self.start_registers(range(1, 6))]

    def register(self) -> int:
        return self.random.randrange(10)

    # Pieces

    def alu(self, dst: int | None = None, keep: int = -1) -> list[Insn | _Jump | _Call]:
        random = self.random
        dst = self.register() if dst is None else dst
        cls, bits = random.choice(((i.ALU, 32), (i.ALU64, 64)))
        op = random.choice(_ALU)
        off = 0
        if op in _DIVISIONS:
            off = random.getrandbits(1)
        if random.getrandbits(1):
            src = self.register()
            if op == i.ALU_MOV:
                off = random.choice((0, 8, 16, 32) if bits == 64 else (0, 8, 16))
            operation = Insn(cls | op | i.SRC_X, dst, src, off)
            if op in _DIVISIONS and src not in (dst, keep) and not random.randrange(3):
                return [i.mov64_imm(src, 0), operation]
            return [operation]
        imm = self.imm()
        if op in _SHIFTS:
            imm = random.randrange(bits)
        elif op in _DIVISIONS:
            imm = imm or 3
        return [Insn(cls | op | i.SRC_K, dst, 0, off, imm)]

    def unary(self) -> list[Insn | _Jump | _Call]:
        code = self.random.choice(_UNARY)
        imm = self.random.choice((16, 32, 64)) if code & i.OP_MASK == i.ALU_END else 0
        return [Insn(code, self.register(), 0, 0, imm)]

    def access(self, base: int, lowest: int, size_of: int, aligned: bool) -> Insn:
        """A load or store of a scalar somewhere in memory."""
        random = self.random
        size = random.choice(list(_SIZES))
        step = _SIZES[size] if aligned else 1
        off = lowest + random.randrange(0, size_of - _SIZES[size] + 1, step)
        kind = random.randrange(4)
        if kind == 0:
            return i.st(size, base, off, self.imm())
        if kind == 1:
            return i.stx(size, base, self.other(base), off)
        if kind == 2 and size != i.SIZE_DW:
            return Insn(i.LDX | i.MODE_MEMSX | size, self.other(base), base, off)
        return i.ldx(size, self.other(base), base, off)

    def other(self, register: int) -> int:
        return self.random.choice([r for r in range(10) if r != register])

    def atomic(self, base: int, lowest: int, size_of: int) -> list[Insn]:
        random = self.random
        kind = random.randrange(8)
        if kind < 2:
            size = random.choice(list(_SIZES))
            off = lowest + random.randrange(0, size_of, _SIZES[size])
            if kind:
                return [i.atomic(size, i.ATOMIC_STORE_REL, base, self.other(base), off)]
            return [i.atomic(size, i.ATOMIC_LOAD_ACQ, self.other(base), base, off)]
        size = random.choice((i.SIZE_W, i.SIZE_DW))
        off = lowest + random.randrange(0, size_of, _SIZES[size])
        op = random.choice(_ATOMICS)
        operation = i.atomic(size, op, base, self.other(base), off)
        if op == i.ATOMIC_CMPXCHG and size == i.SIZE_W:
            # RFC 9669, section 5.3: what was in memory is zero-extended into r0. Linux 6.18 on x86
            # forgets to clear the upper half where the verifier has pruned the path behind.
            return [Insn(i.ALU | i.ALU_MOV | i.SRC_X, 0, 0), operation]
        return [operation]

    def stack(self) -> list[Insn | _Jump | _Call]:
        return [self.access(10, self.slots[0], 8 * len(self.slots), aligned=True)]

    def stack_atomic(self) -> list[Insn | _Jump | _Call]:
        return [*self.atomic(10, self.slots[0], 8 * len(self.slots))]

    def map_value(self) -> list[Insn | _Jump | _Call]:
        random = self.random
        base = random.randrange(1, 10)  # r0 may be an operand of its own
        piece: list[Insn | _Jump | _Call] = [
            *i.ld_imm64(base, 0, src=i.PSEUDO_MAP_VALUE),
        ]
        for _ in range(random.randint(1, 3)):
            if random.getrandbits(1):
                piece.append(self.access(base, 0, MAP_SIZE, aligned=False))
            else:
                piece += self.atomic(base, 0, MAP_SIZE)
        return [*piece, *i.ld_imm64(base, self.number())]

    def loop(self) -> list[Insn | _Jump | _Call]:
        counter = self.register()
        body = [
            insn
            for _ in range(self.random.randint(1, 3))
            for insn in self.alu(self.other(counter), keep=counter)
        ]
        back = -len(body) - 2
        return [
            i.mov64_imm(counter, self.random.randint(1, 4)),
            *body,
            i.alu64_imm(i.ALU_SUB, counter, 1),
            i.jmp_imm(i.JMP_JNE, counter, 0, back),
        ]

    def jump(self, target: int) -> list[Insn | _Jump | _Call]:
        random = self.random
        cls = random.choice((i.JMP, i.JMP32))
        op = random.choice(_CONDITIONS)
        if random.getrandbits(1):
            condition = Insn(cls | op | i.SRC_X, self.register(), self.register())
        else:
            condition = Insn(cls | op | i.SRC_K, self.register(), 0, 0, self.imm())
        kind = random.randrange(4)
        if kind == 0:  # an unconditional jump, which the condition leaps over
            ja = random.choice((i.JMP | i.JMP_JA, i.JMP32 | i.JMP_JA))
            return [condition._replace(off=1), _Jump(Insn(ja), target)]
        if kind == 1:
            return [_Jump(Insn(i.JMP | i.JMP_JCOND), target)]
        return [_Jump(condition, target)]


def _leave_everything() -> list[Insn | _Call]:
    """Copy r0 to r9 and the stack slots into the context, and return r0."""
    out: list[Insn | _Call] = [
        i.stx(i.SIZE_DW, 10, 1, _SPARE),
        i.ldx(i.SIZE_DW, 1, 10, _SAVED),
    ]
    out += [i.stx(i.SIZE_DW, 1, register, 8 * register) for register in (0, *range(2, 10))]
    for place, slot in enumerate((_SPARE, *_SLOTS), 9):
        offset = 8 if slot == _SPARE else 8 * place
        out += [i.ldx(i.SIZE_DW, 2, 10, slot), i.stx(i.SIZE_DW, 1, 2, offset)]
    return [*out, i.exit_()]


def _assemble(functions: list[list[Insn | _Call]]) -> RandomProgram:
    starts = [0]
    for function in functions:
        starts.append(starts[-1] + len(function))
    insns: list[Insn] = []
    for function in functions:
        for item in function:
            if isinstance(item, _Call):
                distance = starts[item.function] - len(insns) - 1
                insns.append(i.call(distance, src=i.PSEUDO_CALL))
            else:
                insns.append(item)
    references = [
        index
        for index, insn in enumerate(insns)
        if insn.is_ldimm64 and insn.src == i.PSEUDO_MAP_VALUE
    ]
    return RandomProgram(insns, references)
