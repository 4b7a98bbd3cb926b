"""The least BTF: what is left of a table, and that relocation does not see what is gone."""

from __future__ import annotations

import pytest
from btf_samples import sample
from core_case import (
    BYTE_OFF,
    ENUM_VALUE,
    FIELD_EXISTS,
    TARGET_ID,
    TYPE_EXISTS,
    TYPE_MATCHES,
    TYPE_SIZE,
    Types,
    object_of,
)
from insns import mov

import pybpfload
from pybpfload.btf import Btf, BtfBuilder, Kind
from pybpfload.relocate import CoreKind, minimize, relocate
from pybpfload.relocate.core.access import parse_spec
from pybpfload.relocate.core.compute import compute

TARGET = pybpfload.open("fixtures/bpfel/core_target.bpf.o").btf
FIXTURES = (
    "core_anon", "core_arrays", "core_bits", "core_enums", "core_flavors", "core_local",
    "core_match", "core_poison", "core_sizes",
)  # fmt: skip


def reread(btf: Btf) -> Btf:
    found = Btf.from_bytes(btf.to_bytes(), name=btf.name)
    found.validate()
    return found


def check_same(spec: pybpfload.ObjectSpec, target: Btf, small: Btf, ids) -> int:
    """Relocate against both; returns the number of decisions that found something."""
    whole = relocate(spec, target, everything=True)
    least = relocate(spec, small, everything=True)
    moved = False
    for one, other in zip(whole.decisions, least.decisions, strict=True):
        if one.kind == CoreKind.TARGET_TYPE_ID and one.value:
            assert other.value == ids[one.value]
            moved = True
            continue
        assert (one.value, one.outcome, one.after) == (other.value, other.outcome, other.after)
    if not moved:
        for name, program in whole.programs.items():
            assert program.insns == least.programs[name].insns
    return sum(each.target is not None for each in whole.decisions)


@pytest.mark.parametrize("name", FIXTURES)
def test_fixture(name):
    spec = pybpfload.open(f"fixtures/bpfel/{name}.bpf.o")
    small, ids = minimize(TARGET, [spec])
    assert len(small.to_bytes()) < len(TARGET.to_bytes()) / 5
    assert check_same(spec, TARGET, reread(small), ids)


def test_several_objects_share_one_table():
    specs = [pybpfload.open(f"fixtures/bpfel/{name}.bpf.o") for name in FIXTURES]
    small, ids = minimize(TARGET, specs)
    for spec in specs:
        check_same(spec, TARGET, reread(small), ids)
    assert len(small) > max(len(minimize(TARGET, [spec]).btf) for spec in specs)
    assert len(minimize(TARGET, []).btf) == 1


def small_of(local: Types, target: Types, *asked: tuple[int, str, int]) -> Btf:
    """The least BTF for some questions, of which each is asked in an instruction of its own."""
    records = [(at, *each) for at, each in enumerate(asked)]
    insns = [mov(local_value(local, *each)) for each in asked]
    spec = object_of(local, records, insns)
    btf = target.btf("target")
    small, ids = minimize(btf, [spec])
    check_same(spec, btf, reread(small), ids)
    return small


def local_value(local: Types, type_id: int, access: str, kind: int) -> int:
    """The number that the compiler leaves in the instruction."""
    return compute(parse_spec(local.btf(), type_id, access, CoreKind(kind)), "<").value


def parts(btf: Btf, name: str) -> list[str]:
    (found,) = btf.find_all(name)
    each = btf[found]
    return [part.name for part in (each.values if hasattr(each, "values") else each.members)]


def test_members_and_types_that_nobody_asks_for_are_gone():
    local, target = Types(), Types()
    asked = local.plain("outer", ("b", local.int))
    inner = target.plain("inner", ("x", target.int))
    target.plain(
        "outer", ("a", target.add_ptr(inner)), ("b", target.add_typedef("int_t", target.int))
    )
    small = small_of(local, target, (asked, "0:0", BYTE_OFF))
    assert parts(small, "outer") == ["b"]
    outer = small[small.find("outer")]
    assert (outer.size, outer.members[0].bit_offset) == (16, 64)
    assert [small.type_name(each) for each in small] == ["int", "int_t", "outer"]


def test_pointers_lose_what_they_point_to():
    local, target = Types(), Types()
    asked = local.plain("s", ("p", local.add_ptr(0)))
    inner = target.plain("inner", ("x", target.int))
    target.plain("s", ("p", target.add_ptr(inner)))
    small = small_of(local, target, (asked, "0:0", BYTE_OFF))
    assert small[small[small.find("s")].members[0].type].type == 0
    assert not small.find("inner")


def test_every_candidate_that_fits_keeps_its_path():
    local, target = Types(), Types()
    asked = local.plain("s", ("a", local.int), ("b", local.int))
    target.plain("s___one", ("a", target.int))
    target.plain("s___two", ("a", target.int), ("b", target.int))
    small = small_of(local, target, (asked, "0:0", BYTE_OFF), (asked, "0:1", BYTE_OFF))
    assert parts(small, "s___one") == ["a"]
    assert parts(small, "s___two") == ["a", "b"]


def test_array_without_length_does_not_get_to_be_the_last_member():
    local, target = Types(), Types()
    asked = local.plain("s", ("list", local.add_array(local.int, 4, local.u32)))
    empty = target.add_array(target.int, 0, target.u32)
    target.plain("s", ("list", empty), ("x", target.int), ("y", target.int))
    small = small_of(local, target, (asked, "0:0", FIELD_EXISTS), (asked, "0:0:2", FIELD_EXISTS))
    assert parts(small, "s") == ["list", "y"]


def test_types_that_do_not_match_still_do_not():
    local, target = Types(), Types()
    asked = local.plain("s", ("p", local.add_ptr(0)))
    target.plain("s", ("p", target.add_ptr(target.int)))
    small_of(local, target, (asked, "0:0", BYTE_OFF), (asked, "0", TYPE_MATCHES))


def test_structs_are_compared_with_all_members_and_behind_pointers_by_name():
    local, target = Types(), Types()
    for types in (local, target):
        behind = types.plain("behind", ("x", types.int))
        inside = types.plain("inside", ("y", types.u64))
        typedef = types.add_typedef("inside_t", inside)
        types.plain("s", ("p", types.add_ptr(behind)), ("i", typedef))
    asked = local.btf().find("s")
    small = small_of(local, target, (asked, "0", TYPE_MATCHES))
    assert parts(small, "s") == ["p", "i"]
    assert parts(small, "inside") == ["y"]
    assert parts(small, "behind") == []
    small = small_of(local, target, (asked, "0", TYPE_SIZE), (asked, "0", TYPE_EXISTS))
    assert parts(small, "s") == []
    assert len(small) == 2


def test_enumerators_and_ids():
    local, target = Types(), Types()
    asked = local.add_enum("e", 4, [("TWO", 2)])
    target.add_enum("e", 4, [("ONE", 1), ("TWO", 5)])
    small = small_of(local, target, (asked, "0", ENUM_VALUE), (asked, "0", TARGET_ID))
    assert parts(small, "e") == ["TWO"]


def test_size_of_pointers_stays_known():
    b = BtfBuilder()
    b.add_int("long", 4, 1)
    b.add_int("int", 4, 1)
    small = minimize(b.btf(), []).btf
    assert [small.type_name(each) for each in small] == ["long"]
    assert reread(small).pointer_size == 4


def test_split_tables_are_refused():
    with pytest.raises(ValueError, match="is split"):
        minimize(BtfBuilder(base=sample().btf()).btf(), [])


def test_nothing_of_another_kind_is_kept():
    spec = pybpfload.open("fixtures/bpfel/core_local.bpf.o")
    small = minimize(TARGET, [spec]).btf
    assert not {small.kind(each) for each in small} & {Kind.FUNC, Kind.VAR, Kind.DATASEC}
