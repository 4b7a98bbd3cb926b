"""Patching: what each class of instruction can take, and when it is poisoned instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from core_case import (
    BYTE_OFF,
    BYTE_SZ,
    FIELD_EXISTS,
    LOCAL_ID,
    POISON,
    RSHIFT,
    TARGET_ID,
    TYPE_EXISTS,
    TYPE_SIZE,
    Types,
    fails,
    object_of,
    run,
)  # fmt: skip
from insns import EXIT, load, mov, wide

from pybpfload.btf.build import BtfBuilder
from pybpfload.errors import RelocationError
from pybpfload.isa.insn import Insn
from pybpfload.relocate import Outcome, relocate

if TYPE_CHECKING:
    from collections.abc import Callable

POISONED = Insn(0x85, imm=POISON)
LDX_W, LDX_DW = 0x61, 0x79


def moved(old: int, new: int, size: int = 4) -> tuple[Types, int, Types]:
    """A member at one offset here, at another one in the target."""
    local, target = Types(), Types()
    kinds = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
    s = local.add_struct("s", old + size, [("x", getattr(local, kinds[size]), 8 * old)])
    target.add_struct("s", new + size, [("x", getattr(target, kinds[size]), 8 * new)])
    return local, s, target


def patched(insn: Insn | list[Insn], old: int, new: int):
    local, s, target = moved(old, new)
    insns = insn if isinstance(insn, list) else [insn]
    found, (decision,) = run(local, target, [(0, s, "0:0", BYTE_OFF)], insns)
    return found, decision


def error(insn: Insn | list[Insn], old: int, new: int) -> str:
    with pytest.raises(RelocationError) as caught:
        patched(insn, old, new)
    assert caught.value.decision.before
    return caught.value.decision.reason


@pytest.mark.parametrize("code", [0xB7, 0xB4, 0x07, 0x67, 0x77, 0xC7, 0x57, 0x04])
def test_arithmetic(code):
    """Any operation with a constant, 32 or 64 bits wide."""
    before = Insn(code, dst=3, imm=8)
    (after,), decision = patched(before, 8, 1000)
    assert after == before._replace(imm=1000)
    assert (decision.before, decision.after) == ((before,), (after,))
    assert (decision.outcome, decision.original, decision.value) == (Outcome.PATCHED, 8, 1000)


def test_arithmetic_takes_the_low_half():
    local, target = Types(), Types()
    s = local.plain("s", ("x", local.u64))
    target.add_struct("s", 0x90000010, [("x", target.u64, 0)])
    (insn,), (decision,) = run(local, target, [(0, s, "0", TYPE_SIZE)], [mov(8)])
    assert (insn.imm & 0xFFFFFFFF, decision.value) == (0x90000010, 0x90000010)


def test_arithmetic_with_a_register():
    assert "has no constant to patch" in error(Insn(0xBF, dst=1, src=2, imm=8), 8, 16)


@pytest.mark.parametrize("code", [0x61, 0x62, 0x63, 0x81, 0xC3])
def test_loads_and_stores(code):
    """LDX, ST, STX, sign-extending loads and atomics."""
    before = Insn(code, dst=1, src=2, off=8, imm=5)
    (after,), decision = patched(before, 8, 1000)
    assert after == before._replace(off=1000)
    assert decision.outcome == Outcome.PATCHED


def test_offsets_have_15_bits():
    assert patched(load(4, 8), 8, 32764)[0][0].off == 32764
    assert error(load(4, 8), 8, 32768) == (
        "offset 32768 does not fit the 15 bits that an instruction has"
    )


@pytest.mark.parametrize("value", [8, 0x1_0000_0008 & 0xFFFFFFFF, 0xFFFFFFF8])
def test_wide_constants(value):
    local, target = Types(), Types()
    s = local.add_struct("s", value + 4 & 0xFFFFFFFF, [("x", local.u32, 64)])
    target.add_struct("s", value, [("x", target.u32, 0)])
    found, _ = run(local, target, [(0, s, "0", TYPE_SIZE)], [*wide(value + 4 & 0xFFFFFFFF), EXIT])
    assert found == [*wide(value), EXIT]


@pytest.mark.parametrize(
    "insns",
    [
        [Insn(0x18, dst=1, imm=8)],
        [Insn(0x18, dst=1, imm=8), EXIT],
        [Insn(0x18, dst=1, src=1, imm=8), Insn(0)],
        [Insn(0x18, dst=1, off=1, imm=8), Insn(0)],
        [Insn(0x18, dst=1, imm=8), Insn(0, dst=1)],
        [Insn(0x18, dst=1, imm=8), Insn(0, src=1)],
        [Insn(0x18, dst=1, imm=8), Insn(0, off=1)],
        [Insn(0x30, imm=8), Insn(0)],
        [Insn(0x00, imm=8), Insn(0)],
    ],
)
def test_wide_constants_that_are_none(insns):
    assert "is not a plain 64-bit constant" in error(insns, 8, 16)


@pytest.mark.parametrize("code", [0x85, 0x05, 0x15, 0x95, 0x16, 0x06])
def test_jumps(code):
    assert error(Insn(code, imm=8, off=8), 8, 16) == (
        f"opcode {code:#04x} cannot take a relocated value"
    )


@pytest.mark.parametrize(
    ("insns", "what"),
    [
        ([mov(9)], "constant is 0x9"),
        ([mov(-8)], "constant is 0xfffffffffffffff8"),
        ([load(4, 9)], "offset is 0x9"),
        ([load(4, -8)], "offset is 0xfffffffffffffff8"),
        (wide(9), "constant is 0x9"),
        (wide(8 | 1 << 32), "constant is 0x100000008"),
    ],
)
def test_instructions_must_hold_what_was_expected(insns, what):
    told = error(insns, 8, 16)
    assert told == f"the instruction's {what}, by its own types it should be 0x8"


def test_what_is_not_checked():
    local, target = Types(), Types()
    s = local.add_struct("s", 8, [("x", local.u32, 5, 3)])
    target.add_struct("s", 8, [("x", target.u32, 40, 3)])
    for kind in (BYTE_OFF, BYTE_SZ):
        run(local, target, [(0, s, "0:0", kind)], [mov(1234)])
    assert "should be 0x3d" in fails(local, target, s, "0:0", RSHIFT, 1234)
    for kind in (LOCAL_ID, TARGET_ID):
        run(local, target, [(0, s, "0", kind)], [mov(1234)])
    assert "should be 0x1" in fails(local, target, s, "0", TYPE_EXISTS, 1234)


# Sizes


MEMBERS: dict[str, Callable[[Types], int]] = {
    "u8": lambda t: t.u8,
    "u16": lambda t: t.u16,
    "u32": lambda t: t.u32,
    "u64": lambda t: t.u64,
    "u128": lambda t: t.add_int("u128", 16),
    "int": lambda t: t.int,
    "long": lambda t: t.long,
    "bool": lambda t: t.bool,
    "char": lambda t: t.add_int("char", 1, 2),
    "signed char": lambda t: t.add_int("sc", 2, 3),
    "pointer": lambda t: t.add_ptr(t.u8),
    "enum": lambda t: t.add_enum("e", 4, [("A", 1)]),
    "enum8": lambda t: t.add_enum("e", 8, [("A", 1)]),
    "struct4": lambda t: t.add_struct("in", 4, []),
    "struct8": lambda t: t.add_struct("in", 8, []),
    "u32[4]": lambda t: t.add_array(t.u32, 4, t.int),
    "u64[4]": lambda t: t.add_array(t.u64, 4, t.int),
    "float": lambda t: t.add_float("float", 4),
    "double": lambda t: t.add_float("double", 8),
    "bits": lambda t: t.u32,
}


def resized(mine: str, theirs: str, insn: Insn, access: str = "0:1"):
    """A member of one type here and of another one in the target, where it lies 8 bytes further."""
    sides = []
    for kind, at in ((mine, 8), (theirs, 16)):
        types = Types()
        member = ("x", MEMBERS[kind](types), 8 * at, *([32] if kind == "bits" else []))
        sides.append((types, types.add_struct("s", 64, [("pad", types.u64, 0), member])))
    (local, s), (target, _) = sides
    found, (decision,) = run(local, target, [(0, s, access, BYTE_OFF)], [insn])
    return found[0], decision


@pytest.mark.parametrize(
    ("mine", "theirs", "size", "after"),
    [
        ("u32", "u64", 4, 8),
        ("u64", "u32", 8, 4),
        ("u32", "u8", 4, 1),
        ("u16", "u32", 2, 4),
        ("bool", "u32", 1, 4),
        ("u32", "bool", 4, 1),
        ("char", "u32", 1, 4),
        ("u8", "signed char", 1, 2),
    ],
)
def test_sizes_may_change(mine, theirs, size, after):
    for code_of in (lambda n: load(n, 8), lambda n: load(n, 8)._replace(code=load(n, 8).code + 2)):
        insn, decision = resized(mine, theirs, code_of(size))
        assert (insn.size_bytes, insn.off) == (after, 16)
        assert insn.code & ~0x18 == code_of(size).code & ~0x18  # mode and class stay
        assert decision.outcome == Outcome.PATCHED


@pytest.mark.parametrize(
    ("mine", "theirs", "size"),
    [
        ("int", "long", 4),
        ("long", "int", 8),
        ("int", "u64", 4),
        ("u32", "long", 4),
        ("enum", "enum8", 4),
        ("struct4", "struct8", 4),
        ("float", "double", 4),
        ("u32[4]", "u64[4]", 4),
        ("u32", "bits", 4),
        ("bits", "u32", 4),
    ],
)
def test_sizes_that_may_not_change_poison_loads(mine, theirs, size):
    insn, decision = resized(mine, theirs, load(size, 8))
    assert insn == POISONED
    assert (decision.outcome, decision.value) == (Outcome.POISONED, None)
    assert decision.target is not None
    assert "is not of a kind that can be read in another size" in decision.reason


@pytest.mark.parametrize(("mine", "theirs"), [("int", "long"), ("u32[4]", "u64[4]")])
def test_arithmetic_does_not_care_for_sizes(mine, theirs):
    assert resized(mine, theirs, mov(8))[0] == mov(16)


def test_pointers_of_32_bit_targets():
    local = Types()
    s = local.add_struct("s", 8, [("x", local.add_ptr(0), 0)])
    small = BtfBuilder()
    small.add_int("long", 4, 1)
    small.add_struct("s", 8, [("pad", small.add_int("int", 4, 1), 0), ("x", small.add_ptr(0), 32)])
    result = relocate(object_of(local, [(0, s, "0:0", BYTE_OFF)], [load(8, 0)]), small.btf())
    assert result.programs["main"].insns == [load(4, 4)]


def test_element_of_an_array():
    insn, _ = resized("u32[4]", "u64[4]", load(4, 12), "0:1:1")
    assert insn == load(8, 24)


def test_equal_sizes_of_other_types():
    for mine, theirs in (("int", "u32"), ("u32", "enum"), ("u64", "pointer")):
        size = 8 if mine == "u64" else 4
        if (mine, theirs) == ("int", "u32"):
            assert resized(mine, theirs, load(size, 8))[0] == load(size, 16)
        else:
            assert (
                resized(mine, theirs, load(size, 8))[0] == POISONED
            )  # not the same kind: no match
    sign_extending = Insn(0x81, dst=1, src=2, off=8)
    assert resized("int", "u32", sign_extending)[0] == sign_extending._replace(off=16)


def test_bit_field_to_bit_field_keeps_the_access():
    local, target = Types(), Types()
    s = local.add_struct("s", 8, [("x", local.u32, 5, 3)])
    target.add_struct("s", 16, [("x", target.u64, 70, 3)])
    (insn,), _ = run(local, target, [(0, s, "0:0", BYTE_OFF)], [load(4, 0)])
    assert insn == load(4, 8)


def test_access_of_another_size_than_the_member():
    with pytest.raises(RelocationError, match="the instruction moves 2 bytes, the field has 4"):
        resized("u32", "u64", load(2, 8))


def test_size_that_no_instruction_moves():
    with pytest.raises(RelocationError, match="no instruction moves the 16 bytes of the target's"):
        resized("u32", "u128", load(4, 8))


def test_offset_is_checked_before_the_size():
    local, target = Types(), Types()
    s = local.add_struct("s", 8, [("x", local.int, 0)])
    target.add_struct("s", 40000, [("x", target.long, 8 * 39000)])
    told = fails_with(local, target, s, load(4, 0))
    assert "does not fit the 15 bits" in told


def fails_with(local: Types, target: Types, s: int, insn: Insn) -> str:
    with pytest.raises(RelocationError) as caught:
        run(local, target, [(0, s, "0:0", BYTE_OFF)], [insn])
    return caught.value.decision.reason


# Poison


@pytest.mark.parametrize(
    "insns", [[mov(8)], [load(4, 8)], [Insn(0x85, imm=3)], [EXIT], [Insn(0x18, imm=8)]]
)
def test_poisoning_never_fails(insns):
    local = Types()
    s = local.add_struct("s", 16, [("x", local.u32, 64)])
    found, (decision,) = run(local, Types(), [(0, s, "0:0", BYTE_OFF)], insns)
    assert found == [POISONED]
    assert decision.outcome == Outcome.POISONED


def test_both_halves_of_a_wide_constant_are_poisoned():
    local = Types()
    s = local.add_struct("s", 16, [("x", local.u32, 64)])
    found, (decision,) = run(local, Types(), [(0, s, "0:0", BYTE_OFF)], [*wide(0), EXIT])
    assert found == [POISONED, POISONED, EXIT]
    assert len(decision.before) == len(decision.after) == 2


def test_poison_is_told_in_the_program():
    local = Types()
    s = local.add_struct("s", 16, [("x", local.u32, 64)])
    spec = object_of(local, [(1, s, "0:0", BYTE_OFF)], [EXIT, mov(8)])
    program = relocate(spec, Types().btf()).programs["main"]
    assert program.poisons == {
        1: f"<byte_off> [{s}] struct s.x (0:0 @ offset 8): the target has no 's'"
    }


# Several records, odd records


def test_several_records_on_one_instruction():
    """Each applies to the result of the one before it."""
    local, target = Types(), Types()
    s = local.add_struct("s", 16, [("x", local.u32, 64)])
    target.add_struct("s", 24, [("x", target.u32, 128)])
    again = local.add_struct("s___2", 24, [("x", local.u32, 128)])
    records = [(0, s, "0:0", BYTE_OFF), (0, again, "0:0", BYTE_OFF)]
    found, decisions = run(local, target, records, [load(4, 8)])
    assert found == [load(4, 16)]
    assert [d.outcome for d in decisions] == [Outcome.PATCHED, Outcome.UNCHANGED]
    with pytest.raises(RelocationError, match="offset is 0x10, by its own types it should be 0x8"):
        run(local, target, records[:1] * 2, [load(4, 8)])


def test_unknown_kind():
    local = Types()
    with pytest.raises(RelocationError, match="unknown kind 13") as caught:
        run(local, Types(), [(0, local.int, "0", 13)], [mov(0)])
    assert (caught.value.program, caught.value.insn) == ("main", 0)


def test_unchanged():
    local, s, target = moved(8, 8)
    _, (decision,) = run(local, target, [(0, s, "0:0", BYTE_OFF)], [mov(8)])
    assert (decision.outcome, decision.value) == (Outcome.UNCHANGED, 8)


def test_field_exists_on_a_wide_constant():
    local, s, target = moved(8, 16)
    found, _ = run(local, target, [(0, s, "0:0", FIELD_EXISTS)], wide(1))
    assert found == wide(1)
    found, _ = run(local, Types(), [(0, s, "0:0", FIELD_EXISTS)], wide(1))
    assert found == wide(0)
