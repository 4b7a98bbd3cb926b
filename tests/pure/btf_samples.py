"""BTF for tests: strategies of types, and tables with one of each kind."""

from __future__ import annotations

from hypothesis import strategies as st

from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder

orders = st.sampled_from("<>")
names = st.text("abc_.", min_size=0, max_size=6)
ids = st.integers(0, 2**32 - 1)
words = st.integers(0, 2**32 - 1)


def composites(kind: type[t.Composite]) -> st.SearchStrategy[t.Type]:
    plain = st.builds(t.Member, names, ids, words)
    fields = st.builds(t.Member, names, ids, st.integers(0, 0xFFFFFF), st.integers(0, 255))
    return st.one_of(
        st.builds(kind, st.just(0), names, words, st.lists(plain, max_size=4).map(tuple)),
        st.builds(
            kind, st.just(0), names, words, st.lists(fields, max_size=4).map(tuple), st.just(True)
        ),
    )


def enums(kind: type, bits: int) -> st.SearchStrategy[t.Type]:
    def of(signed: bool) -> st.SearchStrategy[t.Type]:
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        value = st.builds(t.Enumerator, names, st.integers(low, high))
        return st.builds(
            kind, st.just(0), names, words, st.lists(value, max_size=4).map(tuple), st.just(signed)
        )

    return st.one_of(of(False), of(True))


none = st.just(0)
KINDS: dict[t.Kind, st.SearchStrategy[t.Type]] = {
    t.Kind.INT: st.builds(
        t.Int, none, names, words, st.integers(0, 15), st.integers(0, 255), st.integers(0, 255)
    ),
    t.Kind.PTR: st.builds(t.Ptr, none, names, ids),
    t.Kind.ARRAY: st.builds(t.Array, none, names, ids, ids, words),
    t.Kind.STRUCT: composites(t.Struct),
    t.Kind.UNION: composites(t.Union),
    t.Kind.ENUM: enums(t.Enum, 32),
    t.Kind.FWD: st.builds(t.Fwd, none, names, st.booleans()),
    t.Kind.TYPEDEF: st.builds(t.Typedef, none, names, ids),
    t.Kind.VOLATILE: st.builds(t.Volatile, none, names, ids),
    t.Kind.CONST: st.builds(t.Const, none, names, ids),
    t.Kind.RESTRICT: st.builds(t.Restrict, none, names, ids),
    t.Kind.FUNC: st.builds(t.Func, none, names, ids, st.integers(0, 2)),
    t.Kind.FUNC_PROTO: st.builds(
        t.FuncProto,
        none,
        st.just(""),
        ids,
        st.lists(st.builds(t.Param, names, ids), max_size=4).map(tuple),
    ),
    t.Kind.VAR: st.builds(t.Var, none, names, ids, words),
    t.Kind.DATASEC: st.builds(
        t.Datasec,
        none,
        names,
        words,
        st.lists(st.builds(t.SecVar, ids, words, words), max_size=4).map(tuple),
    ),
    t.Kind.FLOAT: st.builds(t.Float, none, names, words),
    t.Kind.DECL_TAG: st.builds(t.DeclTag, none, names, ids, st.integers(-(2**31), 2**31 - 1)),
    t.Kind.TYPE_TAG: st.builds(t.TypeTag, none, names, ids),
    t.Kind.ENUM64: enums(t.Enum64, 64),
}


def numbered(types: list[t.Type]) -> list[t.Type]:
    for type_id, value in enumerate(types, 1):
        value.id = type_id
    return types


tables = st.lists(st.one_of(*KINDS.values()), max_size=8).map(numbered)


def sample(order: str = "<", *, split: bool = False) -> BtfBuilder:
    """One of each kind, all references valid."""
    b = BtfBuilder(order)
    i32 = b.add_int("int", 4, t.INT_SIGNED)
    long = b.add_int("unsigned long", 8)
    char = b.add_int("char", 1, t.INT_SIGNED)
    comm = b.add_array(char, 16, i32)
    flags = b.add_enum("flags", 4, [("NONE", 0), ("ONE", 1), ("MINUS", -1)])
    wide = b.add_enum64("wide", 8, [("BIG", 1 << 40)])
    event = b.add_struct(
        "event",
        32,
        [("pid", i32, 0), ("low", i32, 32, 3), ("high", i32, 35, 5), ("comm", comm, 64)],
    )
    b.add_struct("event___old", 4, [("pid", i32, 0)])
    both = b.add_union("both", 8, [("l", long, 0), ("e", wide, 0), ("f", flags, 0)])
    tagged = b.add_type_tag("user", b.add_const(char))
    pointer = b.add_restrict(b.add_ptr(tagged))
    b.add_fwd("hidden", is_union=True)
    proto = b.add_func_proto(i32, [("ctx", b.add_ptr(event)), ("text", pointer), ("", 0)])
    b.add_func("handle", proto)
    data = b.add_var("state", b.add_volatile(b.add_typedef("both_t", both)))
    b.add_datasec(".data", 8, [(data, 0, 8)])
    b.add_decl_tag("hot", event, 0)
    b.add_float("double", 8)
    return b


def layout_blob() -> bytes:
    """A type of kind 25 with one word and two per element, told by a layout part (Linux 7.1)."""
    b = BtfBuilder("<")
    b.add_layout({25: (1, 2)})
    b.add_int("int", 4)
    b.add(25, "odd", 7, vlen=2, extra=[1, 2, 3, 4, 5])
    b.add_typedef("after", 1)
    return b.build()
