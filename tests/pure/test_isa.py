from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import FormatError
from pybpfload.formats import insn as insn_format
from pybpfload.isa import insn as isa
from pybpfload.isa.insn import Insn, decode, encode

orders = st.sampled_from(["<", ">"])
registers = st.integers(0, 15)
s16 = st.integers(-(2**15), 2**15 - 1)
s32 = st.integers(-(2**31), 2**31 - 1)
insns = st.builds(Insn, st.integers(0, 255), registers, registers, s16, s32)
code = st.lists(insns, max_size=8)


@given(code, orders)
def test_what_is_encoded_is_decoded(slots, order):
    data = encode(slots, order)
    assert len(data) == isa.INSN_SIZE * len(slots)
    assert decode(data, order) == slots
    assert all(type(slot) is Insn for slot in decode(data, order))


@given(st.binary(max_size=64).map(lambda data: data[: len(data) // 8 * 8]), orders)
def test_what_is_decoded_is_encoded(data, order):
    assert encode(decode(data, order), order) == data


@given(st.binary(min_size=8, max_size=8), orders)
def test_decoder_agrees_with_the_description(data, order):
    [fast] = decode(data, order)
    slow = insn_format.slot(order).parse(data)
    assert fast == (slow.code, slow.regs.dst, slow.regs.src, slow.off, slow.imm)


@given(insns, orders)
def test_encoder_agrees_with_the_description(insn, order):
    regs = {"dst": insn.dst, "src": insn.src}
    fields = {"code": insn.code, "regs": regs, "off": insn.off, "imm": insn.imm}
    assert encode([insn], order) == insn_format.slot(order).build(fields)


def test_sizes_agree():
    assert isa.INSN_SIZE == insn_format.SIZE == insn_format.slot("<").sizeof()


def test_example_of_the_rfc():
    # RFC 9669 section 3.1: r1 += 0x11223344
    add = Insn(0x07, 1, 0, 0, 0x11223344)
    assert encode([add], "<") == bytes.fromhex("07 01 0000 44332211")
    assert encode([add], ">") == bytes.fromhex("07 10 0000 11223344")


@given(st.binary(max_size=64), orders)
def test_any_bytes_decode_or_are_a_format_error(data, order):
    if len(data) % 8:
        with pytest.raises(FormatError) as caught:
            decode(data, order)
        assert caught.value.offset == len(data) // 8 * 8
    else:
        assert len(decode(data, order)) == len(data) // 8


def test_any_buffer_decodes():
    data = encode([isa.mov64_imm(0, 1), isa.exit_()], "<")
    wanted = decode(data, "<")
    assert decode(bytearray(data), "<") == wanted
    assert decode(memoryview(data), "<") == wanted
    assert decode(memoryview(data).cast("I"), "<") == wanted


@pytest.mark.parametrize(
    "bad",
    [
        Insn(256),
        Insn(-1),
        Insn(0, dst=16),
        Insn(0, dst=-1),
        Insn(0, src=16),
        Insn(0, off=2**15),
        Insn(0, imm=2**31),
        Insn(0, imm=-(2**31) - 1),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_field_out_of_range_is_a_format_error(bad, order):
    with pytest.raises(FormatError) as caught:
        encode([isa.exit_(), bad], order)
    assert caught.value.offset == 8


@given(st.integers(0, 2**64 - 1))
def test_64_bit_constants(value):
    first, second = isa.ld_imm64(3, value, src=isa.PSEUDO_MAP_VALUE)
    assert isa.imm64(first, second) == value
    assert isa.ld_imm64(3, value - 2**64, src=isa.PSEUDO_MAP_VALUE) == (first, second)
    assert first[:4] == (isa.LDIMM64, 3, isa.PSEUDO_MAP_VALUE, 0)
    assert second[:4] == (0, 0, 0, 0)
    assert decode(encode([first, second], ">"), ">") == [first, second]


@given(st.integers())
def test_to_s32_keeps_the_low_bits(value):
    assert -(2**31) <= isa.to_s32(value) < 2**31
    assert (isa.to_s32(value) - value) % 2**32 == 0


@pytest.mark.parametrize(
    ("built", "wanted"),
    [
        (isa.mov64_imm(1, -2), "b7 01 0000 feffffff"),
        (isa.mov64_reg(1, 10), "bf a1 0000 00000000"),
        (isa.alu64_imm(isa.ALU_ADD, 2, -8), "07 02 0000 f8ffffff"),
        (isa.alu64_reg(isa.ALU_SUB, 2, 3), "1f 32 0000 00000000"),
        (isa.ldx(isa.SIZE_DW, 1, 10, -8), "79 a1 f8ff 00000000"),
        (isa.ldx(isa.SIZE_B, 1, 2), "71 21 0000 00000000"),
        (isa.stx(isa.SIZE_W, 10, 1, -4), "63 1a fcff 00000000"),
        (isa.st(isa.SIZE_H, 10, -2, 7), "6a 0a feff 07000000"),
        (isa.atomic(isa.SIZE_DW, isa.ATOMIC_ADD | isa.ATOMIC_FETCH, 1, 2), "db 21 0000 01000000"),
        (isa.ja(-1), "05 00 ffff 00000000"),
        (isa.jmp_imm(isa.JMP_JNE, 1, 5, 3), "55 01 0300 05000000"),
        (isa.jmp_reg(isa.JMP_JSLT, 1, 2, 3), "cd 21 0300 00000000"),
        (isa.call(6), "85 00 0000 06000000"),
        (isa.call(-1, isa.PSEUDO_CALL), "85 10 0000 ffffffff"),
        (isa.call(9, isa.PSEUDO_KFUNC_CALL, 1), "85 20 0100 09000000"),
        (isa.exit_(), "95 00 0000 00000000"),
    ],
)
def test_constructors(built, wanted):
    assert encode([built], "<") == bytes.fromhex(wanted)


def test_what_kind_of_instruction():
    load = isa.ldx(isa.SIZE_H, 1, 2)
    assert (load.insn_class, load.mode, load.size_bytes) == (isa.LDX, isa.MODE_MEM, 2)
    assert load.is_load
    assert not load.is_store
    store = isa.stx(isa.SIZE_DW, 1, 2)
    assert (store.is_store, store.size_bytes) == (True, 8)
    add = isa.alu64_imm(isa.ALU_XOR, 1, 2)
    assert (add.is_alu, add.op, add.is_jmp) == (True, isa.ALU_XOR, False)
    assert isa.ja(1).is_jmp
    assert isa.exit_().is_exit
    helper, subprog, kfunc = isa.call(1), isa.call(1, 1), isa.call(1, 2)
    assert all(call.is_call and call.is_jmp for call in (helper, subprog, kfunc))
    kinds = [
        (c.is_helper_call, c.is_subprog_call, c.is_kfunc_call) for c in (helper, subprog, kfunc)
    ]
    assert kinds == [(True, False, False), (False, True, False), (False, False, True)]
    assert isa.ld_imm64(1, 0)[0].is_ldimm64
    assert isa.ld_imm64(1, 0, isa.PSEUDO_FUNC)[0].is_func_reference


def test_decoding_does_not_import_construct():
    script = "import sys, pybpfload.isa.insn; sys.exit('construct' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
