"""BTF: the lazy table, the builder and the editor against the construct description."""

from __future__ import annotations

import random

import pytest
from btf_samples import KINDS, layout_blob, names, numbered, orders, sample, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.edit import BtfEditor
from pybpfload.btf.table import essential_name
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt


def by_construct(types: list[t.Type], order: str) -> bytes:
    """The blob of some types, built by the construct description alone."""
    d = fmt.layouts(order)
    strings, offsets, out = bytearray(b"\0"), {"": 0}, bytearray()

    def name(text: str) -> int:
        if text not in offsets:
            offsets[text] = len(strings)
            strings.extend(text.encode() + b"\0")
        return offsets[text]

    def word(description: object, **fields: int) -> int:
        raw = description.build(fields)  # type: ignore[attr-defined]
        return int.from_bytes(raw, "little" if order == "<" else "big")

    for value in types:
        vlen, kflag, third, tail = 0, False, 0, bytearray()
        # BtfBuilder adds the names of elements before that of the type
        match value:
            case t.Int():
                third = value.size
                tail += d.int_encoding.build(
                    {"encoding": value.encoding, "offset": value.offset, "bits": value.bits}
                )
            case t.Reference():
                third = value.type
            case t.Array():
                tail += d.array.build(
                    {
                        "type": value.type,
                        "index_type": value.index_type,
                        "nelems": value.nelems,
                    }
                )
            case t.Composite():
                third, vlen = value.size, len(value.members)
                kflag = value.kflag
                for m in value.members:
                    offset = m.bit_offset
                    if kflag:
                        offset = word(
                            d.member_offset,
                            bitfield_size=m.bitfield_size,
                            bit_offset=m.bit_offset,
                        )
                    tail += d.member.build(
                        {"name_off": name(m.name), "type": m.type, "offset": offset}
                    )
            case t.Enum():
                third, vlen, kflag = value.size, len(value.values), value.signed
                for e in value.values:
                    signed = e.value - (1 << 32) if e.value >= 1 << 31 else e.value
                    tail += d.enumerator.build({"name_off": name(e.name), "value": signed})
            case t.Enum64():
                third, vlen, kflag = value.size, len(value.values), value.signed
                for e in value.values:
                    low, high = e.value & 0xFFFFFFFF, e.value >> 32 & 0xFFFFFFFF
                    tail += d.enumerator64.build(
                        {"name_off": name(e.name), "lo32": low, "hi32": high}
                    )
            case t.Fwd():
                kflag = value.is_union
            case t.Func():
                third, vlen = value.type, value.linkage
            case t.FuncProto():
                third, vlen = value.return_type, len(value.params)
                for p in value.params:
                    tail += d.param.build({"name_off": name(p.name), "type": p.type})
            case t.Var():
                third = value.type
                tail += d.var.build({"linkage": value.linkage})
            case t.Datasec():
                third, vlen = value.size, len(value.entries)
                for s in value.entries:
                    tail += d.datasec_entry.build(
                        {"type": s.type, "offset": s.offset, "size": s.size}
                    )
            case t.Float():
                third = value.size
            case t.DeclTag():
                third = value.type
                tail += d.decl_tag.build({"component_idx": value.component})
        info = word(d.info, kflag=kflag, kind=int(value.kind), vlen=vlen)
        out += d.type.build({"name_off": name(value.name), "info": info, "size_or_type": third})
        out += tail
    header = d.header.build(
        {
            "magic": fmt.MAGIC,
            "version": 1,
            "flags": 0,
            "hdr_len": fmt.HEADER_SIZE,
            "type_off": 0,
            "type_len": len(out),
            "str_off": len(out),
            "str_len": len(strings),
        }
    )
    return bytes(header + out + strings)


@given(tables, orders)
def test_table_and_builder_agree_with_the_description(types: list[t.Type], order: str) -> None:
    blob = by_construct(types, order)
    assert [Btf.from_bytes(blob)[i] for i in range(1, len(types) + 1)] == types
    builder = BtfBuilder(order)
    assert [builder.add_type(value) for value in types] == list(range(1, len(types) + 1))
    assert builder.build() == blob
    btf = builder.btf()
    assert btf.byteorder == order
    assert BtfEditor(btf).build() == blob


@pytest.mark.slow
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_in_the_property(kind: t.Kind, order: str) -> None:
    @settings(max_examples=10, database=None)
    @given(KINDS[kind])
    def check(value: t.Type) -> None:
        [value] = numbered([value])
        btf = Btf.from_bytes(by_construct([value], order))
        assert btf.kind(1) == kind
        assert btf[1] == value
        assert btf.type_name(1) == value.name

    check()
    assert set(KINDS) == set(t.Kind) - {t.Kind.VOID}


@pytest.mark.parametrize("order", "<>")
def test_sample(order: str) -> None:
    btf = sample(order).btf("sample")
    btf.validate()
    assert btf.pointer_size == 8
    assert btf.size(btf.find("event")) == 32
    assert btf.size(btf.find("both_t")) == 8
    assert btf.kind(btf.strip(btf.find("both_t"))) == t.Kind.UNION
    assert btf.find("event", t.Kind.UNION) == 0
    assert btf.find("nothing") == btf.find("") == btf.find("int\0") == 0
    assert btf.find_essential("event") == [btf.find("event"), btf.find("event___old")]
    assert repr(btf) == f"<Btf sample: {len(btf) - 1} types>"


def test_both_byte_orders_hold_the_same_types() -> None:
    little, big = sample("<").btf(), sample(">").btf()
    assert [little[i] for i in little] == [big[i] for i in big]
    assert little.to_bytes() != big.to_bytes()


def test_names_that_share_suffixes() -> None:
    # "event" as the end of "my_event": a linker may fold strings like that.
    b = BtfBuilder()
    b.add_typedef("my_event", 0)
    b.add_typedef("my_event___x", 0)
    btf_editor = BtfEditor(b.btf())
    at = btf_editor.name_offset(1)
    folded = BtfBuilder()
    folded._words, folded._offsets = btf_editor._words, btf_editor._offsets
    folded._strings = btf_editor._strings
    for type_id in (1, 2):
        start = folded._offsets[type_id - 1]
        folded._words[start] += 3
    folded._offsets.append(len(folded._words))
    folded._words.extend([at, t.Kind.TYPEDEF << 24, 0])
    btf = folded.btf()
    assert [btf.type_name(i) for i in btf] == ["event", "event___x", "my_event"]
    assert btf.find_all("event") == [1]
    assert btf.find_all("my_event") == [3]
    assert btf.find_essential("event") == [1, 2]
    assert btf.find_all("vent") == []


def test_split_btf() -> None:
    base = sample().btf("vmlinux")
    b = BtfBuilder(base=base)
    mine = b.add_struct("mine", 4, [("pid", base.find("int"), 0)])
    again = b.add_struct("event", 8, [("mine", mine, 0)])  # a name from the strings of the base
    last = b.add_typedef("mine_t", mine)
    assert mine == len(base)
    split = b.btf("module")
    split.validate()
    assert split.base is base
    assert list(split.own_ids()) == [mine, again, last]
    assert split[base.find("event")] is base[base.find("event")]
    assert split.find_all("event") == [base.find("event"), again]
    assert split.find("event") == base.find("event")
    assert split.find_own("event") == again
    assert split.find_all("mine") == [mine]
    assert split.find_own("int") == 0
    assert split.find_essential("event") == [again]
    assert split.type_name(again) == "event"
    assert split.size(last) == 4
    assert b"\0event\0" not in b.build()
    edited = BtfEditor(split)
    edited.set_name(mine, "yours")
    assert edited.finish().type_name(mine) == "yours"
    with pytest.raises(FormatError):
        edited.set_name(1, "base types are not ours")
    with pytest.raises(FormatError):
        edited.replace_chars(again, bytes.maketrans(b"e", b"E"))
    assert base.string(edited.add_string("int")) == "int"


@given(names, st.lists(st.text("ab_", max_size=8), max_size=12))
def test_lookup_is_a_linear_search(wanted: str, listed: list[str]) -> None:
    b = BtfBuilder()
    for name in listed:
        b.add_typedef(name, 0)
    btf = b.btf()
    expected = [i for i, name in enumerate(listed, 1) if name and name == wanted]
    assert btf.find_all(wanted) == expected
    assert btf.find(wanted) == (expected[0] if expected else 0)
    if wanted and essential_name(wanted) == wanted:
        flavors = [i for i, name in enumerate(listed, 1) if essential_name(name) == wanted]
        assert btf.find_essential(wanted) == flavors


@given(st.data(), st.lists(st.text("ab_", max_size=6), max_size=6), st.booleans())
def test_lookup_with_names_anywhere(data: st.DataObject, strings: list[str], split: bool) -> None:
    # Names may start inside other strings, and in those of the base.
    base = None
    if split:
        b = BtfBuilder()
        b.add_typedef("a", 0)
        b.add_typedef("ab___b", 0)
        base = b.btf()
    b = BtfBuilder(base=base)
    for text in strings:
        b.add_string(text)
    end = b._start_str + len(b._strings)
    for offset in data.draw(st.lists(st.integers(0, end - 1), max_size=5)):
        b._offsets.append(len(b._words))
        b._words.extend([offset, t.Kind.TYPEDEF << 24, 0])
    btf = b.btf()
    named = {type_id: btf.type_name(type_id) for type_id in btf}
    for wanted in {*named.values(), "a", "b", "nothing"} - {""}:
        assert btf.find_all(wanted) == [i for i in btf if named[i] == wanted]
        own = [i for i in btf.own_ids() if named[i] == wanted]
        assert btf.find_own(wanted) == (own[0] if own else 0)
        if essential_name(wanted) == wanted:
            flavors = [i for i in btf.own_ids() if essential_name(named[i]) == wanted]
            assert btf.find_essential(wanted) == flavors


@pytest.mark.parametrize(
    ("name", "essential"),
    [("task___v1", "task"), ("a____b", "a____b"), ("___x", "___x"), ("a___", "a___"), ("a", "a")],
)
def test_essential_name(name: str, essential: str) -> None:
    assert essential_name(name) == essential


def read_all(blob: bytes) -> None:
    """Do everything that a reader does; only FormatError may come out."""
    try:
        btf = Btf.from_bytes(blob)
        btf.validate()
    except FormatError:
        return
    for type_id in btf:
        try:
            btf.strip(type_id)
            btf.size(type_id)
        except FormatError:
            pass
    btf.find_all("event")


@pytest.mark.parametrize("order", "<>")
def test_every_truncation(order: str) -> None:
    blob = sample(order).build()
    for end in range(len(blob)):
        with pytest.raises(FormatError):
            Btf.from_bytes(blob[:end])


@pytest.mark.slow
@pytest.mark.parametrize("order", "<>")
def test_every_byte_changed(order: str) -> None:
    blob = bytearray(sample(order).build())
    # One order after the other has its turn with each byte: both together see all of them.
    for at in range(order == ">", len(blob), 2):
        for value in (0, 0x80, 0xFF, blob[at] ^ 1):
            old, blob[at] = blob[at], value
            read_all(bytes(blob))
            blob[at] = old


def test_random_damage() -> None:
    blob = sample().build()
    source = random.Random(1)
    for _ in range(500):
        damaged = bytearray(blob)
        for _ in range(source.randrange(1, 6)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        read_all(bytes(damaged))


@given(st.binary(max_size=200), orders)
def test_random_bytes(junk: bytes, order: str) -> None:
    read_all(junk)
    magic = fmt.MAGIC.to_bytes(2, "little" if order == "<" else "big")
    read_all(magic + junk)


def test_types_without_end() -> None:
    b = BtfBuilder()
    b.add_const(2)
    b.add_volatile(1)
    b.add_array(3, 2, 3)
    b.add_array(3, 0, 3)
    btf = b.btf()
    for type_id in btf:
        with pytest.raises(FormatError):
            btf.size(type_id)
    with pytest.raises(FormatError):
        btf.strip(1)


def test_nested_empty_arrays_have_a_bound() -> None:
    b = BtfBuilder()
    for n in range(2000):
        b.add_array(n + 2, 0, 1)
    b.add_int("int", 4)
    with pytest.raises(FormatError, match="behind more than 32"):
        b.btf().size(1)


def test_layout_part() -> None:
    btf = Btf.from_bytes(layout_blob())
    assert isinstance(btf[2], t.Opaque)
    assert btf[2].raw_kind == 25
    assert btf.find("after") == 3
    editor = BtfEditor(btf)
    assert editor.build() == btf.to_bytes()
    editor.drop_layout()
    with pytest.raises(FormatError, match="unknown kind 25"):
        editor.finish()
    with pytest.raises(ValueError):
        BtfBuilder().add_type(btf[2])


# Editing


def test_edits_keep_ids_and_strings() -> None:
    btf = sample().btf("object")
    editor = BtfEditor(btf)
    var, section, func = btf.find("state"), btf.find(".data"), btf.find("handle")
    event = btf.find("event")
    editor.set_var(var, type=event, linkage=2)
    editor.set_datasec(section, 64, [t.SecVar(var, 16, 8)])
    editor.set_func_linkage(func, 0)
    editor.set_extra(event, 2, 8)
    editor.set_third(event, 40)
    editor.set_name(event, "record")
    new = editor.add_ptr(event)
    edited = editor.finish()
    edited.validate()
    assert edited.name == "object"
    assert new == len(btf)
    assert edited[var] == t.Var(var, "state", event, 2)
    assert edited[section] == t.Datasec(section, ".data", 64, (t.SecVar(var, 16, 8),))
    assert edited[func].linkage == 0  # type: ignore[attr-defined]
    assert edited.find("record") == event
    assert edited.size(event) == 40
    changed = {var, section, func, event}
    assert all(edited[i] == btf[i] for i in btf if i not in changed)
    assert edited.to_bytes().startswith(edited.to_bytes()[:24])
    assert btf.find("event") == event  # the source stays
    assert edited._strings.startswith(btf._strings)


def test_replace_chars_changes_every_user_of_the_string() -> None:
    b = BtfBuilder()
    b.add_datasec("?struct_ops.link", 0, [])
    b.add_typedef("?struct_ops.link", 0)
    editor = BtfEditor(b.btf())
    editor.replace_chars(1, bytes.maketrans(b"?", b"_"), count=1)
    assert editor.finish().type_name(2) == "_struct_ops.link"
    editor.replace_chars(1, bytes.maketrans(b".", b"_"))
    assert editor.finish().type_name(1) == "_struct_ops_link"
    # The old text is no longer there to be shared, the new one is.
    assert editor.add_string("_struct_ops_link") == editor.name_offset(1)
    editor.add_typedef("?struct_ops.link", 0)
    assert editor.finish().type_name(3) == "?struct_ops.link"
    with pytest.raises(ValueError):
        editor.replace_chars(1, bytes(256))


def test_edits_that_would_move_records() -> None:
    btf = sample().btf()
    editor = BtfEditor(btf)
    with pytest.raises(ValueError, match="words after the common part"):
        editor.set_info(btf.find("event"), kind=t.Kind.FLOAT)
    with pytest.raises(ValueError, match="words after the common part"):
        editor.set_info(btf.find("event"), vlen=2)
    with pytest.raises(ValueError, match="1 entries, not 0"):
        editor.set_datasec(btf.find(".data"), 0, [])
    with pytest.raises(ValueError, match="none at 1"):
        editor.set_extra(btf.find("state"), 1, 0)
    with pytest.raises(ValueError, match="expected VAR"):
        editor.set_var(btf.find("event"), linkage=1)
    with pytest.raises(FormatError, match="cannot be edited"):
        editor.set_third(0, 1)
    assert editor.build() == btf.to_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda b: b.add_string("a\0b"),
        lambda b: b.add(t.Kind.INT, "x", 4),
        lambda b: b.add(99, "x", 4),
        lambda b: b.add_int("x", 4, 16),
        lambda b: b.add_ptr(1 << 32),
        lambda b: b.add_struct("x", 4, [("a", 1, 1 << 24, 1)]),
        lambda b: b.add_enum("x", 4, [("A", 1 << 32)]),
        lambda b: b.add_enum("x", 4, [("A", -1), ("B", 1 << 31)]),
        lambda b: b.add_func("x", 1, 1 << 24),
        lambda b: b.add_type(t.Void(0, "void")),
    ],
)
def test_builder_refuses(wrong: object) -> None:
    b = BtfBuilder()
    with pytest.raises(ValueError):
        wrong(b)  # type: ignore[operator]
    assert len(b) == 1


def test_byte_orders_do_not_mix() -> None:
    with pytest.raises(ValueError):
        BtfBuilder("=")
    with pytest.raises(ValueError):
        BtfBuilder(">", base=sample("<").btf())
