"""Matching: which types and members of the target stand for local ones."""

from __future__ import annotations

from typing import Any

import pytest
from core_case import (
    BYTE_OFF,
    ENUM_EXISTS,
    ENUM_VALUE,
    FIELD_EXISTS,
    TYPE_EXISTS,
    TYPE_MATCHES,
    TYPE_SIZE,
    Types,
    decide,
    fails,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.relocate.core.decision import Budget, Failure
from pybpfload.relocate.core.match import fields_compatible, types_compatible, types_match

# Members


def find(local_members: list, target_members: list, access: str = "0:0"):
    """Byte offset of a member in the target, ``None`` when there is none."""
    local, target = Types(), Types()
    s = local.add_struct("s", 64, resolve(local, local_members))
    target.add_struct("s", 64, resolve(target, target_members))
    decision = decide(local, target, s, access, FIELD_EXISTS, 1)
    assert decision.value == (decision.target is not None)
    return decision.target.bit_offset // 8 if decision.target is not None else None


def resolve(types: Types, members: list) -> list:
    """Members as ``(name, type, byte offset)``; types as nested lists or names of attributes."""
    return [(name, type_of(types, of), 8 * at) for name, of, at in members]


def type_of(types: Types, of: Any) -> int:
    match of:
        case str():
            return getattr(types, of)
        case int():
            return of
        case ["struct", name, *members]:
            return types.add_struct(name, 32, resolve(types, members))
        case ["union", name, *members]:
            return types.add_union(name, 32, resolve(types, members))
        case ["array", element, count]:
            return types.add_array(type_of(types, element), count, types.int)
        case ["ptr", pointee]:
            return types.add_ptr(type_of(types, pointee))
        case ["const" | "volatile" | "restrict" as kind, inner]:
            return getattr(types, f"add_{kind}")(type_of(types, inner))
        case ["typedef", name, inner]:
            return types.add_typedef(name, type_of(types, inner))
        case ["tag", inner]:
            return types.add_type_tag("tag", type_of(types, inner))
        case ["enum", name, *values]:
            return types.add_enum(name, 4, [(v, at) for at, v in enumerate(values)])
        case ["enum64", name, *values]:
            return types.add_enum64(name, 8, [(v, at) for at, v in enumerate(values)])
        case ["enum8", name, *values]:
            return types.add_enum(name, 1, [(v, at) for at, v in enumerate(values)])
        case ["fwd", name]:
            return types.add_fwd(name)
        case ["fwd union", name]:
            return types.add_fwd(name, is_union=True)
        case ["float", size]:
            return types.add_float("float", size)
        case ["int", name, size, encoding]:
            return types.add_int(name, size, encoding)
        case ["int at", offset]:
            return types.add_int("int", 4, 1, offset=offset)
        case ["proto", result, *params]:
            return types.add_func_proto(
                type_of(types, result),
                [(f"p{at}", type_of(types, p)) for at, p in enumerate(params)],
            )
        case ["func", proto]:
            return types.add_func("f", type_of(types, proto))
    raise AssertionError(of)


INT = [("x", "int", 0)]


def test_members_are_found_by_name():
    assert find(INT, [("a", "int", 0), ("x", "int", 8)]) == 8
    assert find(INT, [("X", "int", 0), ("x_", "int", 4), ("x___v1", "int", 8)]) is None


def test_members_in_anonymous_members():
    inner = ["struct", "", ("a", "int", 0), ("x", "int", 4)]
    assert (
        find(INT, [("p", "int", 0), ("", ["union", "", ("q", "int", 0), ("", inner, 8)], 8)]) == 20
    )
    assert find(INT, [("named", inner, 8)]) is None
    assert find(INT, [("", "int", 0), ("x", "int", 12)]) == 12


def test_first_member_of_a_name_ends_the_search_there():
    clash = ["struct", "", ("x", ["ptr", "int"], 0)]
    assert find(INT, [("x", ["ptr", "int"], 0), ("x", "int", 8)]) is None
    assert find(INT, [("", clash, 0), ("x", "int", 8)]) == 8


def test_local_parent_counts_for_nothing():
    local = [("u", ["union", "mine", ("x", "int", 0)], 4)]
    target = [("u", ["struct", "theirs", ("pad", "int", 0), ("x", "int", 4)], 8)]
    assert find(local, target, "0:0:0") == 12


def test_arrays():
    def array(count: int):
        return [("a", ["array", "int", count], 0)]

    assert find(array(4), [("a", ["array", "int", 8], 8)], "0:0:3") == 20
    assert find(array(4), [("a", ["array", "int", 2], 8)], "0:0:3") is None
    assert find(array(4), [("a", ["array", "int", 0], 8)], "0:0:3") == 20  # flexible
    assert find(array(4), [("a", ["array", "int", 0], 8), ("b", "int", 32)], "0:0:3") is None
    assert find(array(0), [("a", ["array", "int", 9], 8)], "0:0:3") == 20
    assert find(array(4), [("a", "int", 8)], "0:0:3") is None
    nested = [("a", ["array", ["array", "int", 3], 2], 0)]
    assert find(nested, [("a", ["array", ["array", "int", 5], 4], 8)], "0:0:1:2") == 8 + 20 + 8


def test_named_step_into_something_else():
    local = [("s", ["struct", "t", ("x", "int", 0)], 0)]
    assert find(local, [("s", ["struct", "t", ("x", "int", 4)], 0)], "0:0:0") == 4
    assert find(local, [("s", ["fwd", "t"], 0)], "0:0:0") is None
    assert find(local, [("s", "int", 0)], "0:0:0") is None


def test_too_deep():
    local, target = Types(), Types()
    s = local.plain("s", ("x", local.int))
    inner = target.add_struct("", 8, [("x", target.int, 0)])
    for _ in range(70):
        inner = target.add_struct("", 8, [("", inner, 0)])
    target.add_struct("s", 8, [("", inner, 0)])
    assert fails(local, target, s, "0:0", FIELD_EXISTS) == "the target nests too deeply"


def test_root_without_size_is_fatal():
    """Even for the question whether the field exists."""
    local, target = Types(), Types()
    alias = local.add_typedef("foo_t", local.plain("foo", ("a", local.int)))
    target.add_typedef("foo_t", target.add_fwd("opaque"))
    assert "fwd opaque" in fails(local, target, alias, "0:0", FIELD_EXISTS)


def test_hostile_types_do_not_take_for_ever(monkeypatch):
    """Two anonymous members of the same type at every level: 2^60 ways to look at."""
    monkeypatch.setattr("pybpfload.relocate.core.decision._STEPS", 1 << 13)
    local, target = Types(), Types()
    s = local.plain("s", ("x", local.int))
    inner = target.add_struct("", 8, [("y", target.int, 0)])
    for _ in range(60):
        inner = target.add_struct("", 8, [("", inner, 0), ("", inner, 0)])
    target.add_struct("s", 8, [("", inner, 0)])
    assert "so entangled" in fails(local, target, s, "0:0", FIELD_EXISTS)


# Types of members


def compatible(mine: Any, theirs: Any) -> bool:
    local, target = Types(), Types()
    ids = type_of(local, mine), type_of(target, theirs)
    return fields_compatible(local.btf(), ids[0], target.btf(), ids[1], Budget())


ENUM = ["enum", "e", "A"]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ("int", "u64", True),
        ("int", "bool", True),
        ("int", ["int at", 3], False),
        (["int at", 3], "int", False),
        (["struct", "a"], ["union", "b"], True),
        (["struct", "a"], ["fwd", "a"], False),
        (["ptr", "int"], ["ptr", 0], True),
        (["ptr", "int"], "u64", False),
        (["float", 4], ["float", 8], True),
        (["float", 4], "int", False),
        (["fwd", "a"], ["fwd union", "a"], True),
        (["fwd", "a"], ["fwd", "b"], False),
        (["fwd", "a___x"], ["fwd", "a___y"], True),
        (ENUM, ["enum", "e___other"], True),
        (ENUM, ["enum64", "e"], True),
        (ENUM, ["enum", "f"], False),
        (ENUM, ["enum", ""], True),
        (["enum", ""], ENUM, True),
        (ENUM, "int", False),
        (["array", "int", 3], ["array", "u64", 5], True),
        (["array", "int", 3], ["array", ["ptr", "int"], 3], False),
        (["array", ["array", "int", 3], 2], ["array", "int", 6], False),
        (["array", "int", 3], "int", False),
        (["const", ["typedef", "t", "int"]], ["volatile", ["tag", "u8"]], True),
        (["restrict", "int"], ["typedef", "t", ["const", "int"]], True),
        (0, 0, False),
        (0, "int", False),
        (["proto", "int"], ["proto", "int"], False),
        (["func", ["proto", 0]], ["func", ["proto", 0]], False),
    ],
)
def test_compatible_members(mine, theirs, expected):
    assert compatible(mine, theirs) is expected


# Whole types


def related(how, mine: Any, theirs: Any) -> bool:
    local, target = Types(), Types()
    ids = type_of(local, mine), type_of(target, theirs)
    return how(local.btf(), ids[0], target.btf(), ids[1], Budget())


PROTO = ["proto", "int", "u8", ["ptr", "u64"]]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (0, 0, True),
        ("int", "u64", True),
        ("int", ["int at", 1], False),
        (["struct", "a", ("x", "int", 0)], ["struct", "b"], True),
        (["struct", "a"], ["union", "a"], False),
        (["fwd", "a"], ["fwd", "b"], True),
        (["fwd", "a"], ["struct", "a"], False),
        (ENUM, ["enum64", "f"], True),
        (["ptr", "int"], ["ptr", "u8"], True),
        (["ptr", "int"], ["ptr", ["ptr", "int"]], False),
        (["ptr", "int"], ["ptr", ["const", ["typedef", "t", "int"]]], True),
        (["array", "int", 2], ["array", "int", 3], True),
        (["ptr", "int"], ["array", "int", 3], False),
        (PROTO, PROTO, True),
        (PROTO, ["proto", "u64", "int", ["ptr", "int"]], True),
        (PROTO, ["proto", 0, "u8", ["ptr", "u64"]], False),
        (PROTO, ["proto", "int", "u8"], False),
        (PROTO, ["proto", "int", "u8", "u64"], False),
        (["typedef", "t", "int"], ["typedef", "t", "u64"], True),
        (["typedef", "t", "int"], "int", False),  # kinds of the roots are compared as they are
        (["float", 4], ["float", 4], False),
        (["func", PROTO], ["func", PROTO], False),
    ],
)
def test_compatible_types(mine, theirs, expected):
    assert related(types_compatible, mine, theirs) is expected


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (0, 0, True),
        ("int", "int", True),
        ("int", ["int", "int", 4, 0], False),
        ("int", ["int", "int", 8, 1], False),
        ("u32", ["int", "unsigned", 4, 0], False),  # names count
        ("u32", ["int", "unsigned int", 4, 4], True),
        (["typedef", "t", "int"], ["typedef", "t", "int"], True),
        (["typedef", "t", ["struct", "a"]], ["typedef", "t", ["struct", "b"]], False),
        (["fwd", "a"], ["fwd", "a___x"], True),
        (["fwd", "a"], ["fwd union", "a"], False),
        (["fwd", "a"], ["struct", "a"], False),
        (["ptr", ["fwd", "a"]], ["ptr", ["struct", "a"]], True),
        (["ptr", ["fwd", "a"]], ["ptr", ["union", "a"]], False),
        (["ptr", ["fwd union", "a"]], ["ptr", ["union", "a"]], True),
        (["ptr", ["struct", "a"]], ["ptr", ["fwd", "a"]], True),
        (["ptr", ["union", "a"]], ["ptr", ["fwd", "a"]], False),
        (["ptr", ["struct", "a", ("x", "int", 0)]], ["ptr", ["struct", "a"]], True),
        (["ptr", ["struct", "a"]], ["ptr", ["union", "a"]], False),
        (["ptr", ["ptr", ["struct", "a", INT[0]]]], ["ptr", ["ptr", ["struct", "a"]]], True),
        (["ptr", ["struct", "a"]], ["ptr", "int"], False),
        (ENUM, ["enum", "e", "B", "A"], True),
        (ENUM, ["enum", "e", "A___old"], True),
        (["enum", "e", "A", "B"], ENUM, False),
        (ENUM, ["enum", "e", "C"], False),
        (ENUM, ["enum64", "e", "A"], False),
        (["enum64", "e", "A"], ["enum64", "e", "A"], True),
        (["array", "int", 3], ["array", "int", 3], True),
        (["array", "int", 3], ["array", "int", 4], False),
        (["array", "int", 3], ["array", "u32", 3], False),
        (["struct", "a", ("x", "int", 0)], ["struct", "a", ("y", "int", 0), ("x", "int", 8)], True),
        (["struct", "a", INT[0], ("y", "int", 4)], ["struct", "a", INT[0]], False),
        (["struct", "a", ("x", "int", 0)], ["struct", "a", ("x", "u32", 0)], False),
        (["struct", "a", ("x", "int", 0)], ["struct", "a", ("x___v2", "int", 0)], True),
        (["struct", "a", ("x", "int", 0)], ["union", "a", ("x", "int", 0)], False),
        (["struct", "a", ("x", "int", 0)], ["struct", "b", ("x", "int", 0)], False),
        (
            ["struct", "a", ("", ["union", "", ("x", "int", 0)], 0)],
            ["struct", "a", ("", ["union", "", ("y", "int", 0)], 0),
             ("", ["union", "", ("x", "int", 0)], 8)],
            True,
        ),
        (
            ["struct", "a", ("", ["union", "", ("x", "int", 0)], 0)],
            ["struct", "a", ("u", ["union", "", ("x", "int", 0)], 0)],
            False,
        ),
        (PROTO, PROTO, True),
        (PROTO, ["proto", "int", "u8", ["ptr", "u32"]], False),
        (PROTO, ["proto", "u32", "u8", ["ptr", "u64"]], False),
        (["float", 4], ["float", 4], False),
    ],
)  # fmt: skip
def test_matching_types(mine, theirs, expected):
    assert related(types_match, mine, theirs) is expected


def chain(depth: int) -> list:
    of: Any = "int"
    for _ in range(depth):
        of = ["ptr", of]
    return of


@pytest.mark.parametrize("how", [types_compatible, types_match])
def test_rounds_are_limited(how):
    assert related(how, chain(31), chain(31))
    with pytest.raises(Failure, match="types nest too deeply"):
        related(how, chain(32), chain(32))


def nested(depth: int, how: str) -> list:
    of: Any = "int"
    for _ in range(depth):
        of = ["proto", 0, ["ptr", of]] if how == "proto" else ["struct", "s", ("x", of, 0)]
    return of


def test_levels_are_limited():
    assert related(types_compatible, nested(31, "proto"), nested(31, "proto"))
    with pytest.raises(Failure):
        related(types_compatible, nested(33, "proto"), nested(33, "proto"))
    assert related(types_match, nested(31, "struct"), nested(31, "struct"))
    with pytest.raises(Failure):
        related(types_match, nested(32, "struct"), nested(32, "struct"))


def test_steps_are_limited(monkeypatch):
    monkeypatch.setattr("pybpfload.relocate.core.decision._STEPS", 1 << 13)

    def wide(types: Types) -> int:
        of = types.add_struct("s", 4, [("x", types.int, 0)])
        for _ in range(20):
            of = types.add_struct("s", 4, [(f"m{at}", of, 0) for at in range(8)])
        return of

    local, target = Types(), Types()
    ids = wide(local), wide(target)
    with pytest.raises(Failure, match="so entangled"):
        types_match(local.btf(), ids[0], target.btf(), ids[1], Budget())


def test_through_relocation():
    local, target = Types(), Types()
    mine = local.add_struct("s", 4, [("x", local.int, 0)])
    target.add_struct("s", 8, [("x", target.u64, 0)])
    assert decide(local, target, mine, "0", TYPE_EXISTS, 1).value == 1
    assert decide(local, target, mine, "0", TYPE_SIZE, 4).value == 8
    assert decide(local, target, mine, "0", TYPE_MATCHES, 1).value == 0
    assert decide(local, local, mine, "0", TYPE_MATCHES, 1).value == 1


def test_flavors_through_relocation():
    local, target = Types(), Types()
    mine = local.add_struct("s___old", 4, [("x", local.int, 0)])
    target.add_struct("s___new", 4, [("x", target.int, 0)])
    assert decide(local, target, mine, "0", TYPE_MATCHES, 1).value == 1
    assert decide(local, target, mine, "0:0", BYTE_OFF, 0).value == 0


# Enumerators


@pytest.mark.parametrize(
    ("theirs", "value"),
    [
        (["enum", "e", "Z", "B"], 1),
        (["enum64", "e___x", "Y", "Z", "B"], 2),
        (["enum", "e", "B___old", "B"], 0),
        (["enum", "e", "b", "A"], None),
        (["enum", "f", "B"], None),
        (["typedef", "e", ["enum", "e2", "B"]], None),
    ],
)
def test_enumerators(theirs, value):
    local, target = Types(), Types()
    mine = local.add_enum("e", 4, [("A", 5), ("B___mine", 6)])
    type_of(target, theirs)
    exists = decide(local, target, mine, "1", ENUM_EXISTS, 1)
    assert exists.value == (value is not None)
    found = decide(local, target, mine, "1", ENUM_VALUE, 6)
    assert found.value == value
    assert found.outcome == ("poisoned" if value is None else "patched")


def test_enumerators_behind_typedefs():
    local, target = Types(), Types()
    mine = local.add_typedef("t", local.add_enum("e", 4, [("A", 5)]))
    target.add_typedef("t", target.add_const(target.add_enum64("other", 8, [("A", 7)])))
    target.add_typedef("t___2", target.add_struct("e", 4, []))
    assert decide(local, target, mine, "0", ENUM_VALUE, 5).value == 7


# Every type stands for itself

names = st.sampled_from(["a", "b", "a___x", "c"])
trees = st.recursive(
    st.sampled_from(["int", "u8", "u64", "bool", 0, ["fwd", "a"], ["enum", "e", "A", "B"]]),
    lambda inner: st.one_of(
        st.tuples(st.just("ptr"), inner).map(list),
        st.tuples(st.just("const"), inner).map(list),
        st.tuples(st.just("typedef"), names, inner).map(list),
        st.tuples(st.just("array"), inner, st.integers(0, 3)).map(list),
        st.lists(inner, max_size=3).map(
            lambda of: ["struct", "s", *((f"m{at}", each, 8 * at) for at, each in enumerate(of))]
        ),
        st.tuples(st.just("proto"), inner, inner).map(list),
    ),
    max_leaves=6,
)


@given(trees)
@settings(max_examples=60)
def test_a_type_matches_itself(tree):
    assert related(types_compatible, tree, tree)
    assert related(types_match, tree, tree)


@given(trees, trees)
@settings(max_examples=60)
def test_what_matches_is_compatible(mine, theirs):
    """Matching is the stricter question where both may be asked of one kind of root."""
    mine, theirs = ["ptr", mine], ["ptr", theirs]
    # A forward declaration may match a struct, but is not compatible with it.
    if "fwd" not in f"{mine}{theirs}" and related(types_match, mine, theirs):
        assert related(types_compatible, mine, theirs)
