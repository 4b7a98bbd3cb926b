"""Deduplication: which types become one. That libbpf agrees is shown in tests/differential."""

from __future__ import annotations

import pytest
from btf_samples import orders, sample, tables
from hypothesis import given, reject, settings

import pybpfload
from pybpfload.btf import Btf, BtfBuilder, Kind, dedup
from pybpfload.btf.deduplicate import _Dedup
from pybpfload.btf.words import Places
from pybpfload.errors import FormatError


def shown(btf: Btf) -> list[str]:
    return [btf.describe(type_id) for type_id in btf.own_ids()]


def together(*tables: Btf) -> Btf:
    b = BtfBuilder(tables[0].byteorder)
    for table in tables:
        b.add_btf(table)
    return b.btf()


def list_of(b: BtfBuilder, payload: str | None = None, member: str = "next") -> int:
    """A struct that points to itself; with a payload, to a struct of which nothing is known."""
    node = len(b)
    members = [(member, node + 1, 0)]
    if payload is not None:
        members.append(("payload", node + 2, 64))
    b.add_struct("node", 8 * len(members), members)
    b.add_ptr(node)
    if payload is not None:
        b.add_ptr(node + 3)
        b.add_fwd(payload)
    return node


def test_everything_twice_is_everything_once():
    table = sample().btf()
    found, ids = dedup(together(table, table))
    unique = [i for i in table if table.kind(i) not in (Kind.VAR, Kind.DATASEC)]
    assert len(found) - 1 == 2 * (len(table) - 1) - len(unique)
    assert [found[i] for i in table] == [table[i] for i in table]
    first = len(table)
    assert [ids[i + first - 1] for i in unique] == unique
    assert list(ids[:first]) == list(range(first))


def test_kernel_types_of_an_object_twice():
    table = pybpfload.open("fixtures/bpfel/core_target.bpf.o").btf
    once = dedup(table).btf
    twice, ids = dedup(together(once, once))
    unique = sum(once.kind(i) in (Kind.VAR, Kind.DATASEC) for i in once)
    # tags on variables stay with them
    tags = sum(once.kind(i) == Kind.DECL_TAG and once.kind(once[i].type) == Kind.VAR for i in once)
    assert len(twice) == len(once) + unique + tags
    assert all(twice[i] == once[i] for i in once)
    assert max(ids) == len(twice) - 1


@given(tables, orders)
@settings(max_examples=15)
def test_a_deduplicated_table_stays(types, order):
    b = BtfBuilder(order)
    for each in types * 2:
        b.add_type(each)
    places = Places("t")
    for at in b._offsets:  # whatever they refer to is in the table
        for place in places[b._words[at + 1]]:
            b._words[at + place] %= len(b)
    try:
        once = dedup(b.btf()).btf
    except FormatError:
        reject()  # a pointer to itself, or to a variable
    again, ids = dedup(once)
    assert list(ids) == list(range(len(once)))
    assert again.to_bytes() == once.to_bytes()


def test_circles():
    b = BtfBuilder()
    list_of(b)
    list_of(b)
    list_of(b, member="prev")
    assert shown(dedup(b.btf()).btf) == [
        "struct node [1]", "ptr <anon> [2]", "struct node [3]", "ptr <anon> [4]",
    ]  # fmt: skip


def test_a_forward_declaration_meets_its_struct():
    b = BtfBuilder()
    number = b.add_int("int", 4, 1)
    list_of(b, "data")
    start = len(b)
    b.add_struct("node", 16, [("next", start + 1, 0), ("payload", start + 2, 64)])
    b.add_ptr(start)
    b.add_ptr(start + 3)
    b.add_struct("data", 4, [("x", number, 0)])
    found, ids = dedup(b.btf())
    assert shown(found) == [
        "int int [1]", "struct node [2]", "ptr <anon> [3]", "ptr <anon> [4]", "struct data [5]",
    ]  # fmt: skip
    assert found[4].type == 5
    assert ids[start] == 2
    assert ids[5] == ids[start + 3] == 5


@pytest.mark.parametrize(
    ("kind", "number", "resolved"),
    [("struct", 1, True), ("struct", 2, False), ("union", 1, False), ("struct", 0, False)],
)
def test_a_lone_forward_declaration(kind, number, resolved):
    b = BtfBuilder()
    b.add_ptr(b.add_fwd("data"))
    for size in range(number):
        (b.add_struct if kind == "struct" else b.add_union)("data", 8 * size, [])
    found = dedup(b.btf()).btf
    assert (not found.find("data", Kind.FWD)) is resolved


def test_an_enum_without_enumerators_is_a_declaration():
    b = BtfBuilder()
    before = b.add_enum("e", 4, [])
    whole = b.add_enum("e", 4, [("A", 1)])
    after = b.add_enum("e", 4, [])
    b.add_enum64("other", 8, [("B", 1 << 40)])
    pointer = b.add_ptr(before)
    found, ids = dedup(b.btf())
    assert ids[before] == ids[whole] == ids[after] == 1
    assert len(found) - 1 == 3
    assert found[ids[pointer]].type == 1


def test_what_differs_in_anything_stays():
    b = BtfBuilder()
    number, other = b.add_int("int", 4, 1), b.add_int("int", 4)
    for of in (number, other):
        b.add_struct("s", 4, [("x", of, 0)])
        b.add_array(of, 3, number)
        b.add_func_proto(0, [("a", of)])
    b.add_func_proto(0, [("b", number)])
    b.add_struct("s", 4, [("x", number, 0, 3)])
    b.add_enum("e", 4, [("A", 1)])
    b.add_enum("e", 4, [("A", 2)])
    b.add_func("f", 5, 0)
    b.add_func("f", 5, 1)
    b.add_decl_tag("t", 3, 0)
    b.add_decl_tag("t", 3)
    table = b.btf()
    assert shown(dedup(table).btf) == shown(table)


def test_two_copies_in_one_graph():
    """What compilers leave: one struct with two equal arrays where the other has one twice."""
    b = BtfBuilder()
    number = b.add_int("int", 4, 1)
    one, two = b.add_array(number, 4, number), b.add_array(number, 4, number)
    b.add_struct("s", 32, [("a", one, 0), ("b", one, 128)])
    b.add_struct("s", 32, [("a", one, 0), ("b", two, 128)])
    assert len(dedup(b.btf()).btf) - 1 == 3
    b = BtfBuilder()
    number, other = b.add_int("int", 4, 1), b.add_int("long", 4, 1)
    one, two = b.add_array(number, 4, number), b.add_array(other, 4, number)
    b.add_struct("s", 32, [("a", one, 0), ("b", one, 128)])
    b.add_struct("s", 32, [("a", one, 0), ("b", two, 128)])
    table = b.btf()
    assert shown(dedup(table).btf) == shown(table)


def test_split():
    base = sample().btf()
    b = BtfBuilder(base=base)
    number = b.add_int("int", 4, 1)
    comm = b.add_array(b.add_int("char", 1, 1), 16, number)
    event = b.add_struct(
        "event",
        32,
        [("pid", number, 0), ("low", number, 32, 3), ("high", number, 35, 5), ("comm", comm, 64)],
    )
    own = b.add_struct("own", 32, [("event", event, 0)])
    found, ids = dedup(b.btf())
    assert shown(found) == [f"struct own [{len(base)}]"]
    assert ids[event] == base.find("event")
    assert ids[own] == len(base)
    assert found[len(base)].members[0].type == base.find("event")
    assert found._strings == b"own\0"


def test_forward_declarations_of_a_base_stay():
    b = BtfBuilder()
    list_of(b, "data")
    base = b.btf()
    b = BtfBuilder(base=base)
    node = len(b)
    b.add_struct("node", 16, [("next", node + 1, 0), ("payload", node + 2, 64)])
    b.add_ptr(node)
    b.add_ptr(node + 3)
    b.add_struct("data", 4, [])
    found, _ = dedup(b.btf())
    found.validate()
    assert found.find_own("data", Kind.STRUCT)
    assert base.kind(base.find("data")) == Kind.FWD


def test_damage():
    b = BtfBuilder()
    b.add_ptr(9)
    with pytest.raises(FormatError, match="type 1 refers to type 9"):
        dedup(b.btf())
    b = BtfBuilder()
    b.add_const(2)
    b.add_volatile(1)
    with pytest.raises(FormatError, match="type 1 refers to itself"):
        dedup(b.btf())
    b = BtfBuilder()
    for of in (3, 4):
        b.add_struct("s", 4, [("x", of, 0)])
    for _ in range(2):
        b.add_var("v", 1)
    with pytest.raises(FormatError, match="is a variable, section or tag"):
        dedup(b.btf())


def test_entangled_types_end_soon():
    b = BtfBuilder()
    for at in range(300):  # equal as far as one can see, different at the very end
        start = len(b)
        b.add_struct("", 8, [("p", start + 1, 0)])
        for step in range(2, 9):
            b.add_ptr(start + step)
        b.add_int(f"i{at}", 8)
    worker = _Dedup(b.btf())
    assert worker.left > 1 << 20
    worker.left = 1000
    with pytest.raises(FormatError, match="too entangled"):
        worker.run()


def test_deep_graphs_need_no_stack():
    b = BtfBuilder()
    for _ in range(2):
        start = len(b)
        for at in range(1200):
            b.add_struct(f"deep{at}", 8, [("p", start + at + 1, 0)])
        b.add_int("int", 4)
        b.add_const(len(b) + 1)
        for _ in range(1200):
            b.add_ptr(len(b) + 1)
        b.add_int("int", 4)
    found = dedup(b.btf()).btf
    assert found[found.find("int")].size == 4
