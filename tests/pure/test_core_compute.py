"""Values: offsets, sizes, bit fields, signs, enumerators, ids."""

from __future__ import annotations

import pytest
from core_case import (
    BYTE_OFF,
    BYTE_SZ,
    ENUM_EXISTS,
    ENUM_VALUE,
    FIELD_EXISTS,
    LOCAL_ID,
    LSHIFT,
    POISON,
    RSHIFT,
    SIGNED,
    TARGET_ID,
    TYPE_EXISTS,
    TYPE_MATCHES,
    TYPE_SIZE,
    Types,
    decide,
    fails,
    run,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from insns import mov, wide

from pybpfload.isa.insn import Insn
from pybpfload.relocate import CoreKind
from pybpfload.relocate.core import compute
from pybpfload.relocate.core.access import parse_spec

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1


def value(types: Types, type_id: int, access: str, kind: CoreKind, order: str = "<") -> int:
    spec = parse_spec(types.btf(), type_id, access, kind)
    return compute.compute(spec, order).value


def bit_fields() -> tuple[Types, int]:
    types = Types()
    u32, u64 = types.u32, types.u64
    return types, types.add_struct(
        "s",
        24,
        [
            ("pad", u32, 0), ("p", u32, 32, 5), ("f1", u32, 37, 3), ("f2", u32, 40, 10),
            ("f3", types.int, 50, 7), ("g1", u64, 64, 20), ("g2", u64, 84, 40),
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("member", "size", "offset", "left_le", "left_be", "right", "signed"),
    [
        (2, 4, 4, 56, 37, 61, 0),
        (3, 4, 4, 46, 40, 54, 0),
        (4, 4, 4, 39, 50, 57, 1),
        (5, 8, 8, 44, 0, 44, 0),
        (6, 8, 8, 4, 20, 24, 0),
    ],
)
def test_bit_fields(member, size, offset, left_le, left_be, right, signed):
    """The table of the libbpf notes, section 6.7."""
    types, s = bit_fields()
    access = f"0:{member}"
    assert value(types, s, access, BYTE_SZ) == size
    assert value(types, s, access, BYTE_OFF) == offset
    assert value(types, s, access, LSHIFT) == left_le
    assert value(types, s, access, LSHIFT, ">") == left_be
    assert value(types, s, access, RSHIFT) == right
    assert value(types, s, access, SIGNED) == signed


def test_bit_field_across_its_unit():
    """The unit is doubled until the field fits."""
    types = Types()
    s = types.add_struct(
        "s", 8, [("a", types.u32, 0, 20), ("b", types.u32, 20, 20), ("c", types.u64, 40, 24)]
    )
    assert [value(types, s, "0:1", kind) for kind in (BYTE_SZ, BYTE_OFF, LSHIFT, RSHIFT)] == [
        8, 0, 24, 44,
    ]  # fmt: skip
    assert value(types, s, "0:1", LSHIFT, ">") == 20


def test_bit_field_that_fits_no_unit():
    types = Types()
    s = types.add_struct("s", 9, [("a", types.u64, 0, 60), ("b", types.u64, 60, 8)])
    for kind in (BYTE_OFF, BYTE_SZ, SIGNED, LSHIFT, RSHIFT):
        assert fails(types, types, s, "0:1", kind) == "the bit field does not fit 64 bits"
    assert decide(types, types, s, "0:1", FIELD_EXISTS, 1).value == 1


def test_bit_field_that_fits_no_unit_in_the_target():
    local, target = Types(), Types()
    s = local.plain("s", ("b", local.u64))
    target.add_struct("s", 9, [("a", target.u64, 0, 60), ("b", target.u64, 60, 8)])
    assert fails(local, target, s, "0:0", BYTE_OFF) == "the bit field does not fit 64 bits"


def test_bit_offsets_count_from_the_root():
    types = Types()
    inner = types.add_struct("in", 4, [("x", types.u8, 0, 3), ("y", types.u32, 13, 10)])
    s = types.add_struct("s", 12, [("pad", types.u32, 0), ("in", inner, 64)])
    assert value(types, s, "1:1:1", BYTE_OFF) == 12 + 8
    assert value(types, s, "0:1:1", LSHIFT) == 64 - 23
    assert value(types, s, "0:1:0", BYTE_SZ) == 1


@pytest.mark.parametrize(
    ("size", "left", "left_be", "right"),
    [(1, 56, 56, 56), (2, 48, 48, 48), (4, 32, 32, 32), (8, 0, 0, 0), (16, MASK32 - 63, MASK32 - 63,
      MASK32 - 63)],
)  # fmt: skip
def test_shifts_of_ordinary_members(size, left, left_be, right):
    """32-bit arithmetic: 16 bytes give 0xffffffc0."""
    types = Types()
    s = types.add_struct("s", 32, [("pad", types.u64, 0), ("x", types.add_int("i", size), 64)])
    assert value(types, s, "0:1", LSHIFT) == left
    assert value(types, s, "0:1", LSHIFT, ">") == left_be
    assert value(types, s, "0:1", RSHIFT) == right


def members() -> tuple[Types, int]:
    types = Types()
    array = types.add_array(types.add_array(types.u16, 3, types.int), 2, types.int)
    return types, types.plain(
        "s",
        ("int", types.int),
        ("pointer", types.add_ptr(types.u8)),
        ("array", array),
        ("unsigned", types.add_typedef("t", types.add_const(types.u32))),
        ("signed_enum", types.add_enum("se", 4, [("A", -1)])),
        ("enum", types.add_enum("e", 4, [("B", 1)])),
        ("enum64", types.add_enum64("e64", 8, [("C", -1)])),
        ("float", types.add_float("double", 8)),
    )


@pytest.mark.parametrize(
    ("access", "offset", "size", "signed"),
    [
        ("0:0", 0, 4, 1),
        ("0:1", 8, 8, 0), ("0:2", 16, 12, 0), ("0:3", 24, 4, 0), ("0:4", 32, 4, 1),
        ("0:5", 40, 4, 0), ("0:6", 48, 8, 1), ("0:7", 56, 8, 0), ("2:1", 136, 8, 0),
    ],
)  # fmt: skip
def test_members(access, offset, size, signed):
    types, s = members()
    assert value(types, s, access, BYTE_OFF) == offset
    assert value(types, s, access, BYTE_SZ) == size
    assert value(types, s, access, SIGNED) == signed


def test_elements_and_roots_have_offset_and_size_only():
    types, s = members()
    assert (value(types, s, "0:2:1", BYTE_OFF), value(types, s, "0:2:1", BYTE_SZ)) == (22, 6)
    assert (value(types, s, "0:2:1:2", BYTE_OFF), value(types, s, "0:2:1:2", BYTE_SZ)) == (26, 2)
    assert (value(types, s, "3", BYTE_OFF), value(types, s, "3", BYTE_SZ)) == (192, 64)
    for access in ("0:2:1:2", "0"):
        for kind in (SIGNED, LSHIFT, RSHIFT):
            told = fails(types, types, s, access, kind)
            assert told == f"{kind.name.lower()} of something that is not a member"


@pytest.mark.parametrize(
    ("access", "size"),
    [("0:0", 4), ("0:1", 8), ("0:2", 2), ("0:2:1", 2), ("0:2:1:2", 2), ("0", 64)],
)
def test_memory_sizes(access, size):
    """What a load moves: arrays count by their innermost element."""
    types, s = members()
    spec = parse_spec(types.btf(), s, access, BYTE_OFF)
    assert compute.compute(spec, "<").mem_size == size


def test_bit_fields_have_no_memory_size():
    types, s = bit_fields()
    found = compute.compute(parse_spec(types.btf(), s, "0:2", BYTE_OFF), "<")
    assert (found.mem_size, found.mem_type, found.checked) == (0, 0, False)


@pytest.mark.parametrize("kind", list(CoreKind))
def test_what_is_checked(kind):
    types, s = bit_fields()
    enum = types.add_enum("e", 4, [("A", 0)])
    if kind in (ENUM_EXISTS, ENUM_VALUE):
        told = compute.compute(parse_spec(types.btf(), enum, "0", kind), "<")
        assert told.checked
    elif kind in (LOCAL_ID, TARGET_ID, TYPE_EXISTS, TYPE_SIZE, TYPE_MATCHES):
        told = compute.compute(parse_spec(types.btf(), s, "0", kind), "<")
        assert told.checked == (kind not in (LOCAL_ID, TARGET_ID))
    else:
        field, ordinary = (
            compute.compute(parse_spec(types.btf(), s, access, kind), "<").checked
            for access in ("0:2", "0:0")
        )
        assert ordinary
        assert field == (kind in (FIELD_EXISTS, SIGNED, RSHIFT))


# Missing in the target


@pytest.mark.parametrize("kind", list(CoreKind))
def test_missing(kind):
    local, target = Types(), Types()
    enum = local.add_enum("e", 4, [("A", 7)])
    s = local.plain("s", ("pad", local.u64), ("x", local.u64))
    types_only = kind in (TARGET_ID, TYPE_EXISTS, TYPE_SIZE, TYPE_MATCHES, LOCAL_ID)
    root = enum if kind in (ENUM_EXISTS, ENUM_VALUE) else s
    access = "0" if types_only or root == enum else "0:1"
    if kind == LOCAL_ID:
        original = 99
    elif kind == TARGET_ID:
        original = s
    else:
        original = value(local, root, access, kind)
    insns, (decision,) = run(local, target, [(0, root, access, kind)], [mov(original)])
    assert decision.target is None
    if kind == LOCAL_ID:
        assert (decision.value, insns[0]) == (s, mov(s))
    elif kind in (BYTE_OFF, BYTE_SZ, SIGNED, LSHIFT, RSHIFT, ENUM_VALUE):
        assert (decision.value, decision.outcome) == (None, "poisoned")
        assert insns == [Insn(0x85, imm=POISON)]
        assert decision.reason == f"the target has no {'e' if root == enum else 's'!r}".replace(
            " e", " 'e'"
        )
    else:
        assert (decision.value, decision.outcome, insns[0]) == (0, "patched", mov(0))


def test_missing_member():
    local, target = Types(), Types()
    s = local.plain("s", ("x", local.u64))
    target.plain("s", ("y", target.u64))
    decision = decide(local, target, s, "0:0", BYTE_OFF)
    assert decision.reason == "no 's' of the target has this field"
    assert len(decision.candidates) == 1


def test_local_errors_count_even_when_the_target_has_nothing():
    local = Types()
    forward = local.add_fwd("f")
    assert "fwd f" in fails(local, Types(), forward, "0", TYPE_SIZE)
    # ... but a forward declaration exists, and may have an id.
    assert decide(local, local, forward, "0", TYPE_EXISTS, 1).value == 1
    assert decide(local, local, forward, "0", TARGET_ID, 1).value == forward


def test_size_of_a_target_without_one():
    local, target = Types(), Types()
    s = local.add_typedef("t", local.plain("s", ("x", local.u64)))
    target.add_typedef("t", target.add_fwd("s"))
    assert decide(local, target, s, "0", TYPE_SIZE, 8).value == 0  # not even compatible
    alias = target.add_typedef("u", 0)
    mine = local.add_typedef("u", 0)
    assert alias
    assert "has no size" in fails(local, target, mine, "0", TYPE_SIZE)


def test_ids():
    local, target = Types(), Types()
    for at in range(5):
        target.plain(f"other{at}", ("x", target.u64))
    s = local.plain("s", ("x", local.u64))
    alias = local.add_typedef("alias", s)
    theirs = target.plain("s", ("x", target.u64))
    theirs_alias = target.add_typedef("alias", target.add_const(theirs))
    assert decide(local, target, s, "0", TARGET_ID, 77).value == theirs
    assert decide(local, target, alias, "0", TARGET_ID, 77).value == theirs_alias
    assert decide(local, target, alias, "0", LOCAL_ID, 77).value == alias


# Enumerators


@pytest.mark.parametrize(
    ("make", "number", "expected"),
    [
        ("add_enum", 5, 5),
        ("add_enum", -5, MASK64 - 4),
        ("add_enum", 0x7FFFFFFF, 0x7FFFFFFF),
        ("add_enum", 0x80000001, 0xFFFFFFFF80000001),  # sign-extended though it is unsigned
        ("add_enum64", 0x80000001, 0x80000001),
        ("add_enum64", -5, MASK64 - 4),
        ("add_enum64", 1 << 63, 1 << 63),
    ],
)
def test_enumerators(make, number, expected):
    local, target = Types(), Types()
    mine = local.add_enum64("e", 8, [("A", 1)])
    getattr(target, make)("e", 8, [("Z", 3), ("A", number)])
    insns, (decision,) = run(local, target, [(0, mine, "0", ENUM_VALUE)], wide(1))
    assert (decision.value, insns) == (expected, wide(expected))


def test_large_unsigned_enumerators_are_refused():
    """clang keeps 0x80000001, libbpf expects it sign-extended, and so does this."""
    types = Types()
    enum = types.add_enum("e", 4, [("A", 0x80000001)])
    with pytest.raises(Exception, match="by its own types it should be 0xffffffff80000001"):
        run(types, types, [(0, enum, "0", ENUM_VALUE)], wide(0x80000001))
    assert run(types, types, [(0, enum, "0", ENUM_VALUE)], wide(0xFFFFFFFF80000001))


# Shifting a word left and right by the values gives the field, on both byte orders


@st.composite
def packed_fields(draw):
    """A struct of adjacent bit fields and ordinary members, as a compiler may lay it out."""
    order = draw(st.sampled_from("<>"))
    types = Types(order)
    units = {1: types.u8, 2: types.u16, 4: types.u32, 8: types.u64}
    members, at = [], 0
    for index in range(draw(st.integers(1, 5))):
        size = draw(st.sampled_from([1, 2, 4, 8]))
        width = draw(st.integers(1, 8 * size))
        if at % (8 * size) + width > 8 * size:
            at += -at % (8 * size)  # the next unit
        members.append((f"m{index}", units[size], at, width))
        at += width
    total = -(-at // 64) * 8
    return types, types.add_struct("s", total, members), members, total, order


@given(packed_fields(), st.data())
@settings(max_examples=80)
def test_shifts_extract_the_field(made, data):
    types, s, members, total, order = made
    index = data.draw(st.integers(0, len(members) - 1))
    _, _, at, width = members[index]
    memory = data.draw(st.binary(min_size=total, max_size=total))
    name = "little" if order == "<" else "big"
    access = f"0:{index}"
    offset, size, left, right = (
        value(types, s, access, kind, order) for kind in (BYTE_OFF, BYTE_SZ, LSHIFT, RSHIFT)
    )
    assert offset % size == 0
    loaded = int.from_bytes(memory[offset : offset + size], name)
    found = (loaded << left & MASK64) >> right
    # Bits count from the least significant end on little endian, from the most significant on big.
    whole = int.from_bytes(memory, name)
    shift = at if order == "<" else 8 * total - at - width
    assert found == whole >> shift & (1 << width) - 1
