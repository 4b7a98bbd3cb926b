"""Access strings: how they are read, and what they mean in the object's own types."""

from __future__ import annotations

import contextlib

import pytest
from core_case import (
    BYTE_OFF,
    BYTE_SZ,
    ENUM_VALUE,
    FIELD_EXISTS,
    LOCAL_ID,
    TYPE_EXISTS,
    Types,
    decide,
    fails,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.relocate.core.access import parse_access, parse_spec
from pybpfload.relocate.core.decision import CoreKind, Failure


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("0", [0]),
        ("0:1:2", [0, 1, 2]),
        ("12:345", [12, 345]),
        (" 0:\t+1", [0, 1]),
        ("0 1+2", [0, 1, 2]),
        ("-0", [0]),
        ("0000000000000000000000000000007", [7]),
        ("2147483647", [2147483647]),
        ("4294967296", [0]),
        ("-" + "9" * 5000, [0]),
        (":".join(["1"] * 64), [1] * 64),
    ],
)
def test_strings(text, indices):
    assert parse_access(text) == indices


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":0", "0:", "0::1", "0: ", "0 ", "a", "0x1", "0:1a", "1.5", "-1", "0:-1",
        "2147483648", "9" * 5000, "\u0661", "0\u00a01", ":".join(["1"] * 65),
    ],
)  # fmt: skip
def test_strings_that_are_refused(text):
    with pytest.raises(Failure):
        parse_access(text)


@given(st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=64))
def test_every_list_of_indices(indices):
    assert parse_access(":".join(map(str, indices))) == indices


@given(st.text(":0123456789+- \t", max_size=30))
def test_no_string_breaks_it(text):
    with contextlib.suppress(Failure):
        assert all(0 <= index < 1 << 31 for index in parse_access(text))


def worked_example() -> tuple[Types, int, Types]:
    """The example of the libbpf notes, section 6.5."""
    local = Types()
    inner = local.add_struct(
        "in",
        24,
        [("q", local.add_array(local.add_array(local.int, 3, local.int), 2, local.int), 0)],
    )
    anonymous = local.add_struct(
        "", 100, [("v0", local.int, 0), ("arr", local.add_array(inner, 4, local.int), 32)]
    )
    union = local.add_union("", 100, [("u", local.int, 0), ("", anonymous, 0)])
    tail = local.add_array(local.u8, 0, local.int)
    s = local.add_struct("s", 104, [("pad", local.int, 0), ("", union, 32), ("tail", tail, 832)])

    target = Types()
    inner = target.add_struct(
        "in",
        72,
        [
            ("z", target.long, 0),
            ("q", target.add_array(target.add_array(target.int, 3, target.int), 5, target.int), 64),
        ],
    )
    anonymous = target.add_struct(
        "", 440, [("u", target.int, 0), ("arr", target.add_array(inner, 6, target.int), 64)]
    )
    tail = target.add_array(target.u8, 0, target.int)
    target.add_struct(
        "s",
        448,
        [("pad", target.int, 0), ("v0", target.int, 32), ("", anonymous, 64), ("tail", tail, 3584)],
    )
    return local, s, target


def test_worked_example():
    local, s, target = worked_example()
    decision = decide(local, target, s, "2:1:1:1:3:0:1", BYTE_OFF, 300)
    assert str(decision) == (
        f"<byte_off> [{s}] struct s[2].arr[3].q[1] (2:1:1:1:3:0:1 @ offset 300)"
    )
    assert (decision.original, decision.value) == (300, 1148)
    assert decision.target.raw == [2, 2, 1, 3, 1, 1]
    assert decision.target.bit_offset == 1148 * 8
    assert [(a.index, a.name) for a in decision.target.accessors] == [
        (2, None), (1, "arr"), (3, None), (1, "q"), (1, None),
    ]  # fmt: skip


def test_flexible_array_of_the_worked_example():
    local, s, target = worked_example()
    decision = decide(local, target, s, "0:2:7", BYTE_OFF, 111)
    assert (decision.value, decision.target.raw) == (455, [0, 3, 7])


def test_flexible_means_last_of_the_direct_parent():
    local = Types()
    empty = local.add_array(local.int, 0, local.int)
    last = local.add_union("", 4, [("b", local.int, 0), ("a", empty, 0)])
    first = local.add_union("", 4, [("a", empty, 0), ("b", local.int, 0)])
    good = local.add_struct("good", 12, [("n", local.int, 0), ("", last, 32), ("m", local.int, 64)])
    bad = local.add_struct("bad", 8, [("n", local.int, 0), ("", first, 32)])
    assert decide(local, local, good, "0:1:1:5", BYTE_OFF, 24).value == 24
    assert decide(local, local, bad, "0:1:0", BYTE_OFF, 4).value == 4
    assert "index 1 is beyond the 0 elements" in fails(local, local, bad, "0:1:0:1", FIELD_EXISTS)


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ("0:4", "struct s [12] has no member 4"),
        ("0:1:3", "index 3 is beyond the 3 elements of the array"),
        ("0:0:0", "int int [1] has no members, as access '0:0:0' wants"),
        ("0:2:0", "ptr <anon> [9] has no members"),
        ("0:1:0:0", "int int [1] has no members"),
        ("", "access string '' does not start with a number"),
        ("0:x", "is not made of numbers and colons"),
    ],
)
def test_accesses_that_do_not_fit(access, message):
    types = Types()
    array = types.add_array(types.int, 3, types.int)
    pointer = types.add_ptr(types.int)
    constant = types.add_const(pointer)
    later = types.add_typedef("later", constant)
    assert later == 11
    s = types.plain("s", ("a", types.int), ("b", array), ("c", later), ("d", types.int))
    assert message in fails(types, types, s, access, FIELD_EXISTS)


def test_root_is_stripped_but_kept():
    types = Types()
    s = types.plain("s", ("a", types.int))
    alias = types.add_typedef("alias", types.add_const(s))
    decision = decide(types, types, alias, "0:0", BYTE_OFF, 0)
    assert str(decision) == f"<byte_off> [{alias}] typedef alias.a (0:0 @ offset 0)"
    assert decision.local.accessors[0].type_id == s


@pytest.mark.parametrize("access", ["1", "0:0", "", "00", " 0"])
def test_types_have_no_parts(access):
    types = Types()
    s = types.plain("s", ("a", types.int))
    assert f"access string of a type is {access!r}" in fails(types, types, s, access, TYPE_EXISTS)
    assert f"access string of a type is {access!r}" in fails(types, types, s, access, LOCAL_ID)


@pytest.mark.parametrize("access", ["2", "0:0", "1:0"])
def test_enumerators_that_do_not_exist(access):
    types = Types()
    enum = types.add_enum("e", 4, [("A", 1), ("B", 2)])
    told = fails(types, types, enum, access, ENUM_VALUE)
    assert told == f"access {access!r} does not name an enumerator of enum e [{enum}]"


def test_enumerator_of_something_else():
    types = Types()
    s = types.plain("s", ("a", types.int))
    assert "does not name an enumerator of struct s" in fails(types, types, s, "0", ENUM_VALUE)


def test_root_without_size():
    types = Types()
    forward = types.add_fwd("f")
    assert "fwd f" in fails(types, types, forward, "0", BYTE_SZ)


def test_offsets_wrap_at_32_bits():
    types = Types()
    s = types.add_struct("s", 0x40000000, [("a", types.int, 0)])
    spec = parse_spec(types.btf(), s, "3:0", CoreKind.BYTE_OFF)
    assert spec.bit_offset == 3 * 0x40000000 * 8 & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("access", "text"),
    [
        ("0", "struct s (0 @ offset 0)"),
        ("3", "struct s[3] (3 @ offset 48)"),
        ("0:1", "struct s.b (0:1 @ offset 8)"),
        ("1:2", "struct s[1].c (1:2 @ offset 28.5)"),
    ],
)
def test_text(access, text):
    types = Types()
    s = types.struct(
        "s", ("a", types.u64, 0), ("b", types.int, 64), ("c", types.int, 101, 3), size=16
    )
    decision = decide(types, types, s, access, FIELD_EXISTS, 1)
    assert str(decision) == f"<field_exists> [{s}] {text}"


def test_text_of_enumerators_and_types():
    types = Types()
    enum = types.add_enum("se", 4, [("SE_A", -5), ("SE_B", 7)])
    unsigned = types.add_enum("ue", 4, [("UE_A", 0xFFFFFFFB)])
    wide = types.add_enum64("we", 8, [("WE_A", -5)])
    huge = types.add_enum64("he", 8, [("HE_A", 1 << 63)])
    assert str(decide(types, types, enum, "0", ENUM_VALUE, -5)) == (
        f"<enumval_value> [{enum}] enum se::SE_A = -5"
    )
    told = [
        str(parse_spec(types.btf(), type_id, "0", CoreKind.ENUMVAL_VALUE)).partition("::")[2]
        for type_id in (unsigned, wide, huge)
    ]
    assert told == ["UE_A = 4294967291", "WE_A = -5", "HE_A = 9223372036854775808"]
    anonymous = types.add_struct("", 4, [("x", types.int, 0)])
    assert str(decide(types, types, anonymous, "0", LOCAL_ID)) == (
        f"<local_type_id> [{anonymous}] struct <anon>"
    )
