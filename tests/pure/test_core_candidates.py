"""Candidates: which types of the target are considered, and how the list shrinks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from core_case import (
    BYTE_OFF,
    ENUM_EXISTS,
    FIELD_EXISTS,
    LOCAL_ID,
    TARGET_ID,
    TYPE_EXISTS,
    TYPE_SIZE,
    Types,
    decide,
    fails,
    object_of,
    run,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st
from insns import mov

from pybpfload.btf.ext import CoreRelo
from pybpfload.btf.table import essential_name
from pybpfload.errors import RelocationError
from pybpfload.object.spec import ObjectSpec, ProgramSpec
from pybpfload.relocate import Target, relocate

if TYPE_CHECKING:
    from pybpfload.btf import Btf


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("foo", "foo"),
        ("foo___v1", "foo"),
        ("foo___bar___baz", "foo___bar"),
        ("foo____bar", "foo____bar"),
        ("foo___", "foo___"),
        ("___foo", "___foo"),
        ("a___b", "a"),
        ("___", "___"),
        ("_a___b_", "_a"),
        ("a___b____c", "a"),
        ("", ""),
        ("x__y", "x__y"),
        ("x___y_", "x"),
    ],
)
def test_essential_name(name, essential):
    assert essential_name(name) == essential


@given(st.text("a_", max_size=14))
def test_essential_name_is_the_rightmost_cut(name):
    cuts = [
        at
        for at in range(1, len(name) - 3)
        if name[at : at + 3] == "___" and name[at - 1] != "_" and name[at + 3] != "_"
    ]
    assert essential_name(name) == (name[: cuts[-1]] if cuts else name)


def one_member(types: Types, name: str, member: str = "x", offset: int = 0) -> int:
    return types.add_struct(name, 8 + offset // 8, [(member, types.int, offset)])


@pytest.mark.parametrize("local_name", ["s", "s___mine", "s___other"])
@pytest.mark.parametrize("target_name", ["s", "s___kernel"])
def test_flavors_on_both_sides(local_name, target_name):
    local, target = Types(), Types()
    s = one_member(local, local_name)
    found = one_member(target, target_name, offset=64)
    for near in ("s_", "s____x", "t", "ss", "s__x", "s___"):
        one_member(target, near)
    decision = decide(local, target, s, "0:0", BYTE_OFF)
    assert decision.candidates == [("target", found)]
    assert decision.value == 8


def test_kinds_must_agree():
    makers = {
        "struct": lambda t: t.add_struct("n", 8, [("x", t.int, 0)]),
        "union": lambda t: t.add_union("n", 8, [("x", t.int, 0)]),
        "enum": lambda t: t.add_enum("n", 4, [("x", 0)]),
        "enum64": lambda t: t.add_enum64("n", 8, [("x", 0)]),
        "fwd": lambda t: t.add_fwd("n"),
        "typedef": lambda t: t.add_typedef("n", t.int),
        "int": lambda t: t.add_int("n", 4),
    }
    for mine, make in makers.items():
        local = Types()
        type_id = make(local)
        for theirs, make_target in makers.items():
            target = Types()
            make_target(target)
            found = decide(local, target, type_id, "0", TYPE_EXISTS, 1).candidates
            same = mine == theirs or {mine, theirs} == {"enum", "enum64"}
            assert bool(found) == same, (mine, theirs)


@pytest.mark.parametrize("make", ["void", "pointer", "const", "array", "anonymous"])
def test_types_without_a_name(make):
    types = Types()
    type_id = {
        "void": lambda: 0,
        "pointer": lambda: types.add_ptr(types.int),
        "const": lambda: types.add_const(types.int),
        "array": lambda: types.add_array(types.int, 1, types.int),
        "anonymous": lambda: one_member(types, ""),
    }[make]()
    assert "has no name to look for" in fails(types, types, type_id, "0", TYPE_EXISTS)
    # The kind that asks for the local id needs neither a name nor a candidate.
    assert decide(types, Types(), type_id, "0", LOCAL_ID, 99).value == type_id


def test_type_that_does_not_exist():
    assert "type id 99 is out of range" in fails(Types(), Types(), 99, "0", LOCAL_ID)


def shrinking() -> tuple[Types, int, Types]:
    local, target = Types(), Types()
    bar = local.plain("bar", ("x", local.int), ("y", local.int))
    one_member(target, "bar", "x")
    one_member(target, "bar___two", "y")
    return local, bar, target


def exists(records: list[tuple[int, str]], insns: int) -> list[int]:
    local, bar, target = shrinking()
    listed = [(at, bar, access, FIELD_EXISTS) for at, access in records]
    return [d.value for d in run(local, target, listed, [mov(1)] * insns)[1]]


def test_list_shrinks_to_what_matched():
    """Results depend on the order of the records."""
    assert exists([(0, "0:1"), (1, "0:0")], 2) == [1, 0]
    assert exists([(0, "0:0"), (1, "0:1")], 2) == [1, 0]


def test_list_stays_when_nothing_matched():
    local, bar, target = shrinking()
    local_z = local.plain("bar", ("x", local.int), ("y", local.int), ("z", local.int))
    records = [(0, local_z, "0:2", FIELD_EXISTS), (1, local_z, "0:0", FIELD_EXISTS)]
    assert [d.value for d in run(local, target, records, [mov(1)] * 2)[1]] == [0, 1]
    assert bar != local_z


def test_lists_belong_to_local_ids():
    local, bar, target = shrinking()
    flavor = local.plain("bar___z", ("x", local.int), ("y", local.int))
    records = [(0, bar, "0:1", FIELD_EXISTS), (1, flavor, "0:0", FIELD_EXISTS)]
    assert [d.value for d in run(local, target, records, [mov(1)] * 2)[1]] == [1, 1]


def test_programs_that_are_off_shrink_nothing():
    local, bar, target = shrinking()
    spec = object_of(local, [(0, bar, "0:0", FIELD_EXISTS)], [mov(1)])
    off = ProgramSpec("off", "tc", [mov(1)], autoload=False)
    on = spec.functions[0]
    off.core_relos = on.core_relos
    on.core_relos = [(1, 0, on.core_relos[0][2]._replace(access_str="0:1"))]
    spec.functions.insert(0, off)
    spec.programs.add("off", off, "tc")
    target_btf = target.btf()
    assert [d.value for d in relocate(spec, target_btf).decisions] == [1]
    assert [d.value for d in relocate(spec, target_btf, everything=True).decisions] == [1, 0]
    on.is_subprogram, off.autoload = True, False
    assert [d.value for d in relocate(spec, target_btf).decisions] == [1]  # always processed


# Ambiguity


def test_candidates_may_agree():
    local, target = Types(), Types()
    s = one_member(local, "s")
    for name in ("s", "s___b", "s"):
        one_member(target, name, offset=64)
    decision = decide(local, target, s, "0:0", BYTE_OFF)
    assert decision.value == 8
    assert len(decision.candidates) == 3
    assert decision.target.root == decision.candidates[0][1]


def test_ambiguous_offset():
    local, target = Types(), Types()
    s = one_member(local, "s")
    one_member(target, "s", offset=64)
    one_member(target, "s___b", offset=128)
    told = fails(local, target, s, "0:0", BYTE_OFF)
    assert told.startswith(
        "ambiguous: the field is at bit 64 in [8] struct s.x (0:0 @ offset 8) an"
    )


def test_ambiguous_value():
    local, target = Types(), Types()
    s = one_member(local, "s")
    one_member(target, "s")
    target.add_struct("s", 24, [("x", target.int, 0)])
    assert fails(local, target, s, "0", TYPE_SIZE, 8).startswith("ambiguous: 8 for ")
    assert fails(local, target, s, "0", TARGET_ID).startswith("ambiguous: 8 for ")
    assert decide(local, target, s, "0", TYPE_EXISTS, 1).value == 1


def test_candidates_that_do_not_match_are_not_ambiguous():
    local, target = Types(), Types()
    s = one_member(local, "s")
    one_member(target, "s", "other")
    one_member(target, "s", offset=64)
    decision = decide(local, target, s, "0:0", BYTE_OFF)
    assert (decision.value, len(decision.candidates)) == (8, 2)


# Modules


def module(base: Btf, name: str, *structs: tuple[str, int]) -> Btf:
    made = Types(base=base)
    for struct, offset in structs:
        made.add_struct(struct, 8 + offset, [("x", 1, 8 * offset)])
    return made.btf(name)


def in_modules(structs: dict[str, list[tuple[str, int]]], local_name: str = "s"):
    local, target = Types(), Types()
    s = one_member(local, local_name)
    one_member(target, "vmlinux_only", offset=64)
    base = target.btf("target")
    loaded = [module(base, name, *listed) for name, listed in structs.items()]
    spec = ObjectSpec("case", "case", "<", btf=local.btf("local"))
    program = ProgramSpec("main", "tc", [mov(0)])
    program.core_relos.append((0, 0, CoreRelo(0, s, "0:0", BYTE_OFF)))
    spec.functions = [program]
    spec.programs.add("main", program, "tc")
    calls = []

    def modules():
        calls.append(1)
        return loaded

    return relocate(spec, Target(base, modules)).decisions[0], len(calls)


def test_modules_are_asked_when_vmlinux_has_no_candidate():
    decision, calls = in_modules({"one": [("s", 16)], "two": [("t", 0)]})
    assert (decision.value, calls) == (16, 1)
    assert [name for name, _ in decision.candidates] == ["one"]


def test_modules_are_not_asked_otherwise():
    decision, calls = in_modules({"one": [("vmlinux_only", 16)]}, "vmlinux_only")
    assert (decision.value, calls) == (8, 0)


def test_all_modules_are_asked():
    decision, _ = in_modules({"one": [("s", 16)], "two": [("s___b", 16), ("s", 16)]})
    assert [name for name, _ in decision.candidates] == ["one", "two", "two"]
    assert decision.value == 16
    with pytest.raises(RelocationError, match="ambiguous"):
        in_modules({"one": [("s", 16)], "two": [("s", 24)]})


def test_modules_given_by_relocate():
    local, target = Types(), Types()
    enum = local.add_enum("e", 4, [("A", 1)])
    base = target.btf("target")
    made = Types(base=base)
    made.add_enum("e", 4, [("A", 1)])
    spec = object_of(local, [(0, enum, "0", ENUM_EXISTS)], [mov(1)])
    assert relocate(spec, base).decisions[0].value == 0
    assert relocate(spec, base, modules=[made.btf("m")]).decisions[0].value == 1


def test_no_target_at_all():
    local = Types()
    with pytest.raises(RelocationError, match="there is no BTF to relocate against"):
        run(local, None, [(0, one_member(local, "s"), "0:0", BYTE_OFF)], [mov(0)])
    assert run(local, None, [], [mov(0)])[1] == []
