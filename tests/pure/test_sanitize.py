"""Sanitising BTF: each row of the reference's table (section 7.5), and what must stay."""

from __future__ import annotations

import pytest
from btf_samples import layout_blob, sample, tables
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.sanitize import FEATURES, is_empty, sanitize
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.since import version_pair

pytestmark = pytest.mark.parametrize("order", "<>")


def everything(order: str) -> Btf:
    b = sample(order)
    proto = b.add_func_proto(1, [("x", 1)])
    b.add_func("shown", proto, 1)
    b.add_func("hidden", proto, 0)
    var = b.add_var("special", 1)
    b.add_datasec("?struct_ops.link", 8, [(var, 4, 4)])
    b.add_enum("signed", 4, [("N", -1)])
    b.add_float("float", 4)
    return b.btf("object")


def by_kind(btf: Btf, kind: int) -> list[int]:
    return [i for i in btf if btf.kind(i) == kind]


def changed(before: Btf, after: Btf) -> set[int]:
    return {i for i in before if before[i] != after[i]}


def test_nothing_lacking(order: str) -> None:
    btf = everything(order)
    assert sanitize(btf, set()) is btf
    assert sanitize(btf, {"BTF_LAYOUT"}) is btf  # it has none


def test_what_may_lack_is_what_is_probed(order: str) -> None:
    probed = {f.name: version_pair(f.since) for f in Feature if f.name.startswith("BTF_")}
    assert set(probed) == FEATURES
    assert probed["BTF_DATASEC"] < probed["BTF_EMPTY_DATASEC"] < probed["BTF_FLOAT"]


def test_unknown_feature(order: str) -> None:
    with pytest.raises(ValueError, match="FEAT_BTF"):
        sanitize(everything(order), {"FEAT_BTF"})


def test_datasec(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_DATASEC"})
    variables, sections = by_kind(btf, t.Kind.VAR), by_kind(btf, t.Kind.DATASEC)
    assert changed(btf, clean) == {*variables, *sections}
    for i in variables:
        assert clean[i] == t.Int(i, btf.type_name(i), 1, 0, 0, 8)
    data, special = sections
    state, other = variables
    assert clean[data] == t.Struct(data, "_data", 8, (t.Member("state", state, 0),))
    member = t.Member("special", other, 32)
    assert clean[special] == t.Struct(special, "_struct_ops_link", 8, (member,))
    clean.validate()


def test_empty_datasec(order: str) -> None:
    """clang describes a .rodata of constants without names so; kernels before 5.12 refuse it."""
    b = sample(order)
    b.add_datasec(".rodata", 40, [])
    b.add_datasec("?.data.unused", 8, [])
    btf = b.btf("object")
    constants, unused = btf.find(".rodata"), btf.find("?.data.unused")
    clean = sanitize(btf, {"BTF_EMPTY_DATASEC", "BTF_QMARK_DATASEC"})
    assert changed(btf, clean) == {constants, unused}
    assert clean[constants] == t.Struct(constants, "_rodata", 40, ())
    assert clean[unused] == t.Struct(unused, "__data_unused", 8, ())
    assert is_empty(btf, constants)
    assert not is_empty(btf, btf.find(".data"))
    assert not is_empty(btf, btf.find("int"))


def test_question_mark(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_QMARK_DATASEC"})
    [_, special] = by_kind(btf, t.Kind.DATASEC)
    assert changed(btf, clean) == {special}
    assert clean.type_name(special) == "_struct_ops.link"


def test_decl_tag(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_DECL_TAG"})
    [tag] = by_kind(btf, t.Kind.DECL_TAG)
    assert changed(btf, clean) == {tag}
    assert clean[tag] == t.Int(tag, "hot", 1, 0, 0, 8)


def test_func(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_FUNC", "BTF_GLOBAL_FUNC"})
    protos, functions = by_kind(btf, t.Kind.FUNC_PROTO), by_kind(btf, t.Kind.FUNC)
    assert changed(btf, clean) == {*protos, *functions}
    for i in functions:
        assert clean[i] == t.Typedef(i, btf.type_name(i), btf[i].type)  # type: ignore[attr-defined]
    for i in protos:
        enum = clean[i]
        assert isinstance(enum, t.Enum)
        assert enum.size == 4
        assert not enum.signed
        params = btf[i].params  # type: ignore[attr-defined]
        assert [(e.name, e.value) for e in enum.values] == [(p.name, p.type) for p in params]


def test_global_func(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_GLOBAL_FUNC"})
    assert changed(btf, clean) == {btf.find("handle"), btf.find("shown")}
    assert all(clean[i].linkage == 0 for i in by_kind(btf, t.Kind.FUNC))  # type: ignore[attr-defined]


def test_float(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_FLOAT"})
    floats = by_kind(btf, t.Kind.FLOAT)
    assert changed(btf, clean) == set(floats)
    assert [clean[i] for i in floats] == [
        t.Struct(floats[0], "", 8, ()),
        t.Struct(floats[1], "", 4, ()),
    ]


def test_type_tag(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_TYPE_TAG"})
    [tag] = by_kind(btf, t.Kind.TYPE_TAG)
    assert changed(btf, clean) == {tag}
    assert clean[tag] == t.Const(tag, "", btf[tag].type)  # type: ignore[attr-defined]


def test_enum64(order: str) -> None:
    btf = everything(order)
    clean = sanitize(btf, {"BTF_ENUM64"})
    wide, signed, flags = btf.find("wide"), btf.find("signed"), btf.find("flags")
    assert changed(btf, clean) == {wide, signed, flags}
    placeholder = clean.find("enum64_placeholder")
    assert placeholder == len(btf) == len(clean) - 1
    assert clean[placeholder] == t.Int(placeholder, "enum64_placeholder", 1, 0, 0, 8)
    assert clean[wide] == t.Union(wide, "wide", 8, (t.Member("BIG", placeholder, 0),))
    assert clean[signed] == t.Enum(signed, "signed", 4, (t.Enumerator("N", 0xFFFFFFFF),), False)


def test_layout(order: str) -> None:
    # With the layout part goes the only knowledge of unknown kinds; this one has none.
    b = BtfBuilder(order)
    b.add_int("int", 4)
    b.add_layout()
    btf = b.btf()
    assert len(sanitize(btf, {"BTF_FLOAT"}).to_bytes()) == len(btf.to_bytes())
    clean = sanitize(btf, {"BTF_LAYOUT"})
    assert len(clean.to_bytes()) == len(btf.to_bytes()) - 88
    assert clean[1] == btf[1]
    if order == "<":
        kept = sanitize(Btf.from_bytes(layout_blob()), {"BTF_FLOAT"})
        assert isinstance(kept[2], t.Opaque)


@given(st.data())
def test_the_result_needs_nothing_that_is_lacking(order: str, data: st.DataObject) -> None:
    types = data.draw(tables)
    lacks = data.draw(st.sets(st.sampled_from(sorted(FEATURES))))
    b = BtfBuilder(order)
    for value in types:
        if isinstance(value, t.Datasec):
            value.entries = tuple(
                t.SecVar(e.type % (len(types) + 1), e.offset, e.size) for e in value.entries
            )
        b.add_type(value)
    btf = b.btf()
    clean = sanitize(btf, lacks)
    kinds = {clean.kind(i) for i in clean}
    gone = {
        "BTF_FUNC": {t.Kind.FUNC, t.Kind.FUNC_PROTO},
        "BTF_DATASEC": {t.Kind.DATASEC, t.Kind.VAR},
        "BTF_FLOAT": {t.Kind.FLOAT},
        "BTF_DECL_TAG": {t.Kind.DECL_TAG},
        "BTF_TYPE_TAG": {t.Kind.TYPE_TAG},
        "BTF_ENUM64": {t.Kind.ENUM64},
    }
    for feature in lacks:
        assert not kinds & gone.get(feature, set())
    assert len(clean) - len(btf) in (0, 1)
    assert sanitize(clean, lacks) is clean
