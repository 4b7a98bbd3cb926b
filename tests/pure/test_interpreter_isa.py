"""What each instruction does in the interpreter (RFC 9669), in both byte orders.

The expected numbers are worked out by hand; ``tests/live/test_interpreter_kernel.py`` asks the
kernel.
"""

import pytest

from pybpfload.isa import insn as isa
from pybpfload.isa import table
from pybpfload.isa.insn import Insn
from pybpfload.testing import Interpreter, InterpreterError, Memory
from pybpfload.uapi import ProgType

A, B, MINUS_ONE = 0x1122334455667788, 0x99AABBCCDDEEFF00, (1 << 64) - 1
LOWEST, LOWEST_32 = 1 << 63, 1 << 31

ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def run(*insns, order="<", **options):
    """r0 after instructions that end in nothing."""
    code = [*insns, isa.exit_()]
    return Interpreter(memory=Memory(order), **options).run(code).value


def binary(code, off, left, right, imm=0):
    """r0 after one operation on r0 = left and r1 = right."""
    return run(*isa.ld_imm64(0, left), *isa.ld_imm64(1, right), Insn(code, 0, 1, off, imm))


def constant(code, off, left, imm):
    return run(*isa.ld_imm64(0, left), Insn(code, 0, 0, off, imm))


# operation, off, left, right -> 64 bits, 32 bits
ARITHMETIC = [
    (isa.ALU_ADD, 0, MINUS_ONE, 2, 1, 1),
    (isa.ALU_ADD, 0, 0xFFFFFFFF, 1, 1 << 32, 0),
    (isa.ALU_SUB, 0, 1, 2, MINUS_ONE, 0xFFFFFFFF),
    (isa.ALU_MUL, 0, A, A, A * A, A * A),
    (isa.ALU_DIV, 0, 7, 2, 3, 3),
    (isa.ALU_DIV, 0, MINUS_ONE, 2, MINUS_ONE >> 1, 0x7FFFFFFF),
    (isa.ALU_DIV, 0, A, 0, 0, 0),
    (isa.ALU_DIV, 0, A, 1 << 32, 0x11223344, 0),  # the low half of the divisor is zero
    (isa.ALU_MOD, 0, 7, 4, 3, 3),
    (isa.ALU_MOD, 0, A, 0, A, 0x55667788),
    (isa.ALU_MOD, 0, A, 1 << 32, 0x55667788, 0x55667788),
    (isa.ALU_DIV, 1, -7, 2, -3, -3),
    (isa.ALU_DIV, 1, 7, -2, -3, -3),
    (isa.ALU_DIV, 1, -7, -2, 3, 3),
    (isa.ALU_DIV, 1, -7, 0, 0, 0),
    (isa.ALU_MOD, 1, -7, 2, -1, -1),
    (isa.ALU_MOD, 1, 7, -2, 1, 1),
    (isa.ALU_MOD, 1, -7, 0, -7, -7),
    (isa.ALU_OR, 0, 0xF0, 0x0F, 0xFF, 0xFF),
    (isa.ALU_AND, 0, MINUS_ONE, B, B, 0xDDEEFF00),
    (isa.ALU_XOR, 0, A, A, 0, 0),
    (isa.ALU_LSH, 0, 1, 31, LOWEST_32, LOWEST_32),
    (isa.ALU_LSH, 0, 1, 33, 1 << 33, 2),  # counts are masked
    (isa.ALU_LSH, 0, 1, 64, 1, 1),
    (isa.ALU_RSH, 0, MINUS_ONE, 4, MINUS_ONE >> 4, 0x0FFFFFFF),
    (isa.ALU_RSH, 0, A, 32, 0x11223344, 0x55667788),
    (isa.ALU_ARSH, 0, B, 4, 0xF99AABBCCDDEEFF0, 0xFDDEEFF0),
    (isa.ALU_ARSH, 0, A, 4, A >> 4, 0x05566778),
    (isa.ALU_MOV, 0, A, B, B, 0xDDEEFF00),
    (isa.ALU_MOV, 8, A, 0x80, -128, -128),
    (isa.ALU_MOV, 8, A, 0x17F, 0x7F, 0x7F),
    (isa.ALU_MOV, 16, A, 0x8000, -32768, -32768),
]


@pytest.mark.parametrize(("op", "off", "left", "right", "wide", "narrow"), ARITHMETIC)
def test_arithmetic(op, off, left, right, wide, narrow):
    assert binary(isa.ALU64 | op | isa.SRC_X, off, left, right) == wide % (1 << 64)
    assert binary(isa.ALU | op | isa.SRC_X, off, left, right) == narrow % (1 << 32)
    fits = -(1 << 31) <= right < 1 << 31
    if fits and not (op == isa.ALU_MOV and off):
        assert constant(isa.ALU64 | op, off, left, right) == wide % (1 << 64)
        assert constant(isa.ALU | op, off, left, right) == narrow % (1 << 32)


@pytest.mark.parametrize(
    ("off", "left", "right", "wide"),
    [(1, LOWEST, MINUS_ONE, LOWEST), (1, LOWEST, 1, LOWEST), (0, LOWEST, MINUS_ONE, 0)],
)
def test_division_of_the_lowest_number(off, left, right, wide):
    assert binary(isa.ALU64 | isa.ALU_DIV | isa.SRC_X, off, left, right) == wide
    assert binary(isa.ALU64 | isa.ALU_MOD | isa.SRC_X, 1, left, right) == 0
    narrow = LOWEST_32 if off else 0
    assert binary(isa.ALU | isa.ALU_DIV | isa.SRC_X, off, LOWEST_32, right) == narrow


def test_constants_are_sign_extended_to_64_bits_only():
    assert constant(isa.ALU64 | isa.ALU_MOV, 0, 0, -2) == MINUS_ONE - 1
    assert constant(isa.ALU | isa.ALU_MOV, 0, 0, -2) == 0xFFFFFFFE
    assert constant(isa.ALU64 | isa.ALU_AND, 0, A, -0x100) == A & ~0xFF
    assert constant(isa.ALU64 | isa.ALU_DIV, 0, MINUS_ONE, -1) == 1
    assert constant(isa.ALU | isa.ALU_DIV, 0, MINUS_ONE, -1) == 1


def test_move_of_32_bits_sign_extended():
    assert binary(isa.ALU64 | isa.ALU_MOV | isa.SRC_X, 32, A, LOWEST_32) == 0xFFFFFFFF80000000


def test_negation():
    assert constant(isa.ALU64 | isa.ALU_NEG, 0, 1, 0) == MINUS_ONE
    assert constant(isa.ALU | isa.ALU_NEG, 0, 1, 0) == 0xFFFFFFFF
    assert constant(isa.ALU64 | isa.ALU_NEG, 0, LOWEST, 0) == LOWEST


@ORDERS
def test_byte_swaps(order):
    cut = {16: 0x7788, 32: 0x55667788, 64: A}
    swapped = {16: 0x8877, 32: 0x88776655, 64: 0x8877665544332211}
    own, other = (isa.SRC_K, isa.SRC_X) if order == "<" else (isa.SRC_X, isa.SRC_K)
    for bits in (16, 32, 64):
        for code, expected in (
            (isa.ALU | isa.ALU_END | own, cut),
            (isa.ALU | isa.ALU_END | other, swapped),
            (isa.ALU64 | isa.ALU_END, swapped),
        ):
            made = run(*isa.ld_imm64(0, A), Insn(code, 0, 0, 0, bits), order=order)
            assert made == expected[bits]


# operation, left, right -> taken on 64 bits, taken on 32 bits
JUMPS = [
    (isa.JMP_JEQ, A, A, True, True),
    (isa.JMP_JEQ, A, 0x55667788, False, True),
    (isa.JMP_JNE, A, 0x55667788, True, False),
    (isa.JMP_JSET, 6, 2, True, True),
    (isa.JMP_JSET, 6, 1, False, False),
    (isa.JMP_JSET, 1 << 40, 1 << 40, True, False),
    (isa.JMP_JGT, MINUS_ONE, 1, True, True),
    (isa.JMP_JGT, 1 << 32, 1, True, False),
    (isa.JMP_JGE, 1, 1, True, True),
    (isa.JMP_JLT, 1, MINUS_ONE, True, True),
    (isa.JMP_JLE, 2, 1, False, False),
    (isa.JMP_JSGT, MINUS_ONE, 1, False, False),
    (isa.JMP_JSGT, 1, MINUS_ONE, True, True),
    (isa.JMP_JSGE, LOWEST_32, 1, True, False),
    (isa.JMP_JSLT, LOWEST, 0, True, False),
    (isa.JMP_JSLE, 0xFFFFFFFF, 0, False, True),
]


@pytest.mark.parametrize(("op", "left", "right", "wide", "narrow"), JUMPS)
def test_conditional_jumps(op, left, right, wide, narrow):
    for cls, expected in ((isa.JMP, wide), (isa.JMP32, narrow)):
        operands = (*isa.ld_imm64(2, left), *isa.ld_imm64(3, right))
        tail = (isa.mov64_imm(0, 1), isa.exit_(), isa.mov64_imm(0, 2))
        taken = run(*operands, Insn(cls | op | isa.SRC_X, 2, 3, 2), *tail) == 2
        assert taken == expected
        if right < 1 << 31:
            assert (run(*operands, Insn(cls | op, 2, 0, 2, right), *tail) == 2) == expected


def test_unconditional_jumps():
    skipped = (isa.mov64_imm(0, 1), isa.exit_())
    for jump in (isa.ja(2), Insn(isa.JMP32 | isa.JMP_JA, imm=2), Insn(0xE5, off=0)):
        expected = 1 if jump.code == 0xE5 else 7  # may_goto goes on
        assert run(jump, *skipped, isa.mov64_imm(0, 7)) == expected


def test_may_goto_ends_a_loop_at_last(monkeypatch):
    from pybpfload.testing.interpreter import machine

    monkeypatch.setattr(machine, "MAX_LOOPS", 100)
    loop = (isa.mov64_imm(0, 0), Insn(0xE5, off=2), isa.alu64_imm(isa.ALU_ADD, 0, 1), isa.ja(-3))
    assert run(*loop) == 99


# Memory


@ORDERS
@pytest.mark.parametrize("size", [isa.SIZE_B, isa.SIZE_H, isa.SIZE_W, isa.SIZE_DW])
def test_loads_and_stores(order, size):
    width = Insn(size).size_bytes
    mask = (1 << 8 * width) - 1
    stored = run(
        *isa.ld_imm64(1, B | 0x80),
        isa.stx(size, 10, 1, -8),
        isa.ldx(size, 0, 10, -8),
        order=order,
    )
    assert stored == (B | 0x80) & mask
    assert run(isa.st(size, 10, -8, -2), isa.ldx(size, 0, 10, -8), order=order) == -2 & mask
    if size != isa.SIZE_DW:
        extended = run(
            isa.st(size, 10, -8, -2), Insn(isa.LDX | isa.MODE_MEMSX | size, 0, 10, -8), order=order
        )
        assert extended == MINUS_ONE - 1


@ORDERS
def test_bytes_of_a_word_are_in_the_order_of_the_machine(order):
    first = run(
        *isa.ld_imm64(1, A), isa.stx(isa.SIZE_DW, 10, 1, -8), isa.ldx(0x10, 0, 10, -8), order=order
    )
    assert first == (0x88 if order == "<" else 0x11)


def test_unaligned_access():
    code = (isa.st(isa.SIZE_DW, 10, -16, 0), isa.st(isa.SIZE_DW, 10, -8, 0x77))
    assert run(*code, isa.ldx(isa.SIZE_DW, 0, 10, -15)) == 0x77 << 56


# operation -> what is in memory, what is in the register when it fetches
ATOMICS = [
    (isa.ATOMIC_ADD, lambda old, value: old + value),
    (isa.ATOMIC_OR, lambda old, value: old | value),
    (isa.ATOMIC_AND, lambda old, value: old & value),
    (isa.ATOMIC_XOR, lambda old, value: old ^ value),
    (isa.ATOMIC_XCHG, lambda old, value: value),
]


@ORDERS
@pytest.mark.parametrize(("op", "function"), ATOMICS)
@pytest.mark.parametrize("size", [isa.SIZE_W, isa.SIZE_DW])
def test_atomics(order, op, function, size):
    mask = (1 << 8 * Insn(size).size_bytes) - 1
    start = (*isa.ld_imm64(1, A), *isa.ld_imm64(2, B), isa.stx(isa.SIZE_DW, 10, 1, -8))
    # What the operation sees and leaves of the 8 bytes, read as one number of its size.
    look = isa.ldx(size, 0, 10, -8)
    old = run(*start, look, order=order)
    for fetch in (0, isa.ATOMIC_FETCH):
        operation = isa.atomic(size, op | fetch, 10, 2, -8)
        assert run(*start, operation, look, order=order) == function(old, B & mask) & mask
        fetched = run(*start, operation, isa.mov64_reg(0, 2), order=order)
        is_fetching = fetch or op == isa.ATOMIC_XCHG
        assert fetched == (old if is_fetching else B)


@pytest.mark.parametrize(("size", "mask"), [(isa.SIZE_W, 0xFFFFFFFF), (isa.SIZE_DW, MINUS_ONE)])
def test_compare_and_exchange(size, mask):
    start = (*isa.ld_imm64(1, A), *isa.ld_imm64(2, B), isa.stx(isa.SIZE_DW, 10, 1, -8))
    operation = isa.atomic(size, isa.ATOMIC_CMPXCHG, 10, 2, -8)
    same = (*start, *isa.ld_imm64(0, A), operation)
    assert run(*same) == A & mask
    assert run(*same, isa.ldx(size, 0, 10, -8)) == B & mask
    other = (*start, isa.mov64_imm(0, 5), operation)
    assert run(*other) == A & mask
    assert run(*other, isa.ldx(isa.SIZE_DW, 0, 10, -8)) == A


def test_acquire_and_release():
    for size in (isa.SIZE_B, isa.SIZE_H, isa.SIZE_W, isa.SIZE_DW):
        mask = (1 << 8 * Insn(size).size_bytes) - 1
        code = (
            isa.st(isa.SIZE_DW, 10, -8, 0),
            *isa.ld_imm64(1, A),
            isa.atomic(size, isa.ATOMIC_STORE_REL, 10, 1, -8),
            isa.atomic(size, isa.ATOMIC_LOAD_ACQ, 0, 10, -8),
        )
        assert run(*code) == A & mask


@ORDERS
def test_packet_loads(order):
    packet = bytes(range(64))

    def load(size, mode, src=0, imm=0):
        code = [
            isa.mov64_reg(6, 1),
            isa.mov64_imm(7, 3),
            Insn(isa.LD | mode | size, 0, src, 0, imm),
            isa.alu64_imm(isa.ALU_ADD, 0, 1),
            isa.exit_(),
        ]
        run = Interpreter(memory=Memory(order)).run(code, packet, prog_type=ProgType.SCHED_CLS)
        return run.value

    # Packets are big endian on any machine; one past the end ends the program with 0.
    assert load(isa.SIZE_W, isa.MODE_ABS, imm=4) == 0x04050607 + 1
    assert load(isa.SIZE_H, isa.MODE_IND, src=7, imm=4) == 0x0708 + 1
    assert load(isa.SIZE_B, isa.MODE_IND, src=7, imm=0) == 3 + 1
    assert load(isa.SIZE_B, isa.MODE_ABS, imm=64) == 0
    assert load(isa.SIZE_W, isa.MODE_ABS, imm=61) == 0


# Functions


def test_functions_have_registers_and_a_stack_of_their_own():
    code = [
        isa.mov64_imm(6, 1),
        isa.mov64_imm(1, 40),
        isa.st(isa.SIZE_DW, 10, -8, 1),
        isa.call(4, src=isa.PSEUDO_CALL),
        isa.alu64_reg(isa.ALU_ADD, 0, 6),
        isa.ldx(isa.SIZE_DW, 1, 10, -8),
        isa.alu64_reg(isa.ALU_ADD, 0, 1),
        isa.exit_(),
        isa.mov64_imm(6, 100),
        isa.st(isa.SIZE_DW, 10, -8, 1000),
        isa.mov64_reg(0, 1),
        isa.exit_(),
    ]
    found = Interpreter().run(code)
    assert (found.value, found.steps) == (42, len(code))


def test_a_function_may_use_the_stack_of_its_caller():
    code = [
        isa.st(isa.SIZE_DW, 10, -8, 7),
        isa.mov64_reg(1, 10),
        isa.alu64_imm(isa.ALU_ADD, 1, -8),
        isa.call(1, src=isa.PSEUDO_CALL),
        isa.exit_(),
        isa.ldx(isa.SIZE_DW, 0, 1, 0),
        isa.exit_(),
    ]
    assert Interpreter().run(code).value == 7


def recursive(depth):
    """A function that calls itself until r1 is 0."""
    return [
        isa.mov64_imm(1, depth),
        isa.jmp_imm(isa.JMP_JEQ, 1, 0, 2),
        isa.alu64_imm(isa.ALU_SUB, 1, 1),
        isa.call(-3, src=isa.PSEUDO_CALL),
        isa.mov64_imm(0, 5),
        isa.exit_(),
    ]


def test_eight_functions_deep():
    assert Interpreter().run(recursive(7)).value == 5
    with pytest.raises(InterpreterError, match="more than 8 deep") as caught:
        Interpreter().run(recursive(8))
    assert caught.value.calls == (("", 4),) * 7


# The table


def plain_forms():
    """Instructions that need nothing but registers and a stack, of kernels up to 7.1."""
    for forms in table.FORMS.values():
        for form in forms:
            cls = form.code & isa.CLASS_MASK
            elsewhere = cls == isa.LD or form.code in (isa.CALL, isa.EXIT) or "gotox" in form.text
            if form.since not in (None, "7.2") and not elsewhere:
                yield pytest.param(form, id=f"{form.code:#x} {form.text}")


@pytest.mark.parametrize("form", list(plain_forms()))
def test_every_instruction_of_the_table_is_there(form):
    insn = Insn(form.code)._replace(**form.fixed)
    start = [isa.mov64_imm(register, 1) for register in range(6)]
    if insn.is_load or insn.is_store:
        start = [isa.mov64_reg(register, 10) for register in range(6)]
        start += [isa.st(isa.SIZE_DW, 10, -8, 0)]
        insn = insn._replace(off=-8)
    code = [*start, insn, isa.mov64_imm(0, 3), isa.exit_()]
    if "addr_space_cast" in form.text:  # arenas are not modelled
        with pytest.raises(InterpreterError, match="has no address spaces"):
            Interpreter().run(code)
    else:
        assert Interpreter().run(code).value == 3
