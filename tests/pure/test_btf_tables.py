"""Whole tables: appended, rebuilt, in the other byte order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from btf_samples import layout_blob, orders, sample, tables
from hypothesis import given, settings

import pybpfload
from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.edit import to_byteorder
from pybpfload.btf.table import _references_of
from pybpfload.btf.words import Places
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt

FIXTURES = ("fixtures/bpfel/core_target.bpf.o", "fixtures/bpfeb/maps.bpf.o")


def all_types(btf: Btf) -> list[t.Type]:
    return [btf[type_id] for type_id in btf]


def built(types: list[t.Type], order: str = "<") -> Btf:
    b = BtfBuilder(order)
    for each in types:
        b.add_type(each)
    return b.btf()


# Roles of words


def test_roles_of_words_are_those_of_decoding():
    table = sample().btf()
    types, strings = Places("t"), Places("s")
    assert {table.kind(type_id) for type_id in table} >= set(fmt.WORDS) - {7}
    for type_id, at in enumerate(table._offsets, 1):
        words, decoded = table._words, table[type_id]
        info = words[at + 1]
        assert tuple(words[at + p] for p in types[info]) == _references_of(decoded)
        parts = [getattr(decoded, name, ()) for name in ("members", "values", "params")]
        names = [decoded.name, *(each.name for part in parts for each in part)]
        assert [table.string(words[at + p]) for p in strings[info]] == names


# Appending


@given(tables, orders)
@settings(max_examples=15)
def test_rebuilt_from_its_types(types, order):
    table = built(types, order)
    again = BtfBuilder(order)
    for each in all_types(table):
        again.add_type(each)
    assert again.build() == table.to_bytes()


@pytest.mark.parametrize("path", FIXTURES)
def test_appending_to_nothing_is_the_table(path):
    btf = pybpfload.open(path).btf
    b = BtfBuilder(btf.byteorder)
    assert b.add_btf(btf) == 1
    copy = b.btf()
    assert all_types(copy) == all_types(btf)
    again = BtfBuilder(btf.byteorder)
    again.add_btf(copy)
    assert again.build() == copy.to_bytes()  # strings are in the order of their first use now


def test_appended_types_refer_to_each_other():
    one, two = sample().btf(), sample().btf()
    b = BtfBuilder()
    b.add_btf(one)
    first = b.add_btf(two)
    both = b.btf()
    both.validate()
    assert first == len(one)
    assert len(both) == len(one) + len(two) - 1
    assert len(both._strings) == len(one._strings)
    event = both.find_all("event", t.Kind.STRUCT)[1]
    assert event == one.find("event", t.Kind.STRUCT) + first - 1
    assert all(member.type >= first for member in both[event].members)


def test_append_to_a_split_table():
    base = sample().btf()
    b = BtfBuilder(base=base)
    pointer = b.add_ptr(base.find("event"))
    own = b.add_struct("own", 8, [("event", pointer, 0)])
    split = b.btf()
    more = BtfBuilder(base=base)
    more.add_int("before", 4)
    assert more.add_btf(split) == len(base) + 1
    grown = more.btf()
    assert grown[grown.find("own")] == replace(
        split[own], id=own + 1, members=(t.Member("event", pointer + 1, 0),)
    )
    assert grown[pointer + 1].type == base.find("event")
    with pytest.raises(ValueError, match="another base"):
        BtfBuilder(base=sample().btf()).add_btf(split)


def test_split_over_split():
    """Names and strings are found in every layer; the first of a split one follows no NUL."""
    lower = BtfBuilder()
    lower.add_int("int", 4)
    lower = lower.btf()
    middle = BtfBuilder(base=lower)
    middle.add_struct("mid", 4, [("first", 1, 0)])
    middle = middle.btf()
    b = BtfBuilder(base=middle)
    for name in ("int", "mid", "first", "own"):
        b.add_typedef(name, 2)
    top = b.btf()
    assert top.layers() == [lower, middle, top]
    assert top._strings == b"own\0"
    found = {name: top.find_all(name) for name in ("int", "mid", "first", "own", "other")}
    assert found == {"int": [1, 3], "mid": [2, 4], "first": [5], "own": [6], "other": []}
    assert [top.find_own(name) for name in found] == [3, 4, 5, 6, 0]
    again = Btf.from_bytes(top.to_bytes(), base=middle)
    assert all_types(again) == all_types(top)


def test_unknown_kinds_are_not_appended_or_swapped():
    odd = Btf.from_bytes(layout_blob(), name="odd")
    with pytest.raises(FormatError, match="type 2 is of unknown kind 25, which cannot be appended"):
        BtfBuilder().add_btf(odd)
    with pytest.raises(FormatError, match="type 2 is of unknown kind 25, which cannot be swapped"):
        to_byteorder(odd, ">")


# Byte order


@given(tables, orders)
@settings(max_examples=15)
def test_swapped(types, order):
    table = built(types, order)
    other = "<>"[order == "<"]
    swapped = to_byteorder(table, other)
    assert swapped.to_bytes() == built(types, other).to_bytes()
    assert to_byteorder(swapped, order).to_bytes() == table.to_bytes()
    assert to_byteorder(table, order) is table


def test_swapped_with_layout():
    b = sample("<")
    b.add_layout()
    swapped = to_byteorder(b.btf(), ">")
    expected = sample(">")
    expected.add_layout()
    assert swapped.to_bytes() == expected.build()
    assert swapped.has_layout


def test_swapped_split():
    base = sample("<").btf()
    b = BtfBuilder("<", base=base)
    b.add_typedef("event_t", base.find("event"))
    split = b.btf()
    other = to_byteorder(base, ">")
    swapped = to_byteorder(split, ">", base=other)
    assert swapped[len(base)] == split[len(base)]
    for wrong in (None, base):
        with pytest.raises(ValueError, match="needs base="):
            to_byteorder(split, ">", base=wrong)
    with pytest.raises(ValueError, match="byteorder is 'big'"):
        to_byteorder(base, "big")
