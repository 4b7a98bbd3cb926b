"""C headers made from BTF. ``tools/check-c-header`` has clang compile those of whole kernels."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from btf_samples import sample

from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.cdump import dump_c
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from pybpfload.btf.table import Btf


class Types(BtfBuilder):
    """Some types to start from."""

    def __init__(self) -> None:
        super().__init__("<")
        self.int = self.add_int("int", 4, t.INT_SIGNED)
        self.char = self.add_int("char", 1, t.INT_SIGNED)
        self.long = self.add_int("long int", 8, t.INT_SIGNED)


def definitions(btf: Btf, roots: list[int] | None = None) -> list[str]:
    """The header without its frame, split into definitions."""
    parts = dump_c(btf, roots).split("\n\n")
    assert "pragma clang attribute push" in parts[1]
    assert "pragma clang attribute pop" in parts[-2]
    assert parts[-1] == "#endif /* __VMLINUX_H__ */\n"
    return parts[2:-2]


def test_what_is_contained_comes_first_and_what_is_pointed_to_is_declared() -> None:
    b = Types()
    outer, inner_t, inner = len(b), len(b) + 1, len(b) + 2
    pointer, hidden, hidden_pointer = len(b) + 3, len(b) + 4, len(b) + 5
    b.add_struct("outer", 24, [("in", inner_t, 0), ("n", pointer, 64), ("h", hidden_pointer, 128)])
    b.add_typedef("inner_t", inner)
    b.add_struct("inner", 8, [("owner", pointer, 0)])
    b.add_ptr(outer)
    b.add_fwd("hidden")
    b.add_ptr(hidden)
    assert definitions(b.btf()) == [
        "struct inner;",
        "typedef struct inner inner_t;",
        "struct outer;",
        "struct inner {\n\tstruct outer *owner;\n};",
        "struct hidden;",
        "struct outer {\n\tinner_t in;\n\tstruct outer *n;\n\tstruct hidden *h;\n};",
    ]


def test_roots_bring_what_they_need_and_nothing_else() -> None:
    b = Types()
    needed = b.add_enum("mode", 4, [("ON", 1)])
    b.add_struct("other", 4, [("x", b.int, 0)])
    wanted = b.add_const(b.add_struct("wanted", 4, [("m", needed, 0)]))
    assert definitions(b.btf(), [wanted]) == [
        "enum mode {\n\tON = 1,\n};",
        "struct wanted {\n\tenum mode m;\n};",
    ]


def test_names_are_unique_in_each_name_space_and_identifiers() -> None:
    b = Types()
    first = b.add_struct("x", 4, [("a", b.int, 0)])
    b.add_union("x", 4, [("b", b.int, 0)])
    b.add_typedef("x", first)
    b.add_enum("e", 4, [("x", 1), ("x___2", 2), ("RED", -1)])
    b.add_enum("", 1, [("RED", 2)])
    b.add_struct("core::Option<u8>", 1, [("0", b.char, 0)])
    assert definitions(b.btf()) == [
        "struct x {\n\tint a;\n};",
        "union x___2 {\n\tint b;\n};",
        "typedef struct x x;",
        "enum e {\n\tx___2 = 1,\n\tx___2___2 = 2,\n\tRED = -1,\n};",
        "struct core__Option_u8_ {\n\tchar _0;\n};",
        "enum {\n\tRED___2 = 2,\n} __attribute__((mode(byte)));",
    ]


@pytest.mark.parametrize(
    ("size", "packed", "members", "text"),
    [
        (8, 0, [("c", "char", 0), ("i", "int", 32)], "char c; int i;"),  # C does that itself
        (8, 1, [("c", "char", 0), ("i", "int", 8)], "char c; int i; char: 8; char: 8; char: 8;"),
        (
            12,
            0,
            [("c", "char", 0), ("i", "int", 64)],
            "char c; char: 8; short: 16; int: 32; int i;",
        ),
        (16, 0, [("l", "long", 0)], "long int l; long: 64;"),
        (12, 1, [("l", "long", 0), ("i", "int", 64)], "long int l; int i;"),
        (4, 0, [("a", "int", 0, 3), ("b", "int", 5, 4)], "int a: 3; char: 2; int b: 4;"),
        (
            6,
            1,
            [("a", "int", 0, 31), ("b", "int", 31, 4)],
            "int a: 31; int b: 4; char: 5; char: 8;",
        ),
        (128, 0, [("i", "int", 0)], "int i; unsigned char __gap_1[124];"),
        (
            4,
            1,
            [("i", "int", 0), ("j", "int", 16)],
            "int i; /* j overlaps what is in front of it */",
        ),
    ],
)
def test_layout_is_that_of_the_btf(size: int, packed: bool, members: list, text: str) -> None:
    b = Types()
    b.add_struct("s", size, [(name, getattr(b, of), *at) for name, of, *at in members])
    (definition,) = definitions(b.btf())
    tail = "} __attribute__((packed));" if packed else "};"
    assert definition.split() == f"struct s {{ {text} {tail}".split()


def test_packed_unions_and_types_without_name() -> None:
    b = Types()
    inner = b.add_struct("", 8, [("c", b.char, 0), ("l", b.int, 32)])
    b.add_union("u", 64, [("", inner, 0), ("list", b.add_array(inner, 2, b.int), 0)])
    b.add_struct("p", 5, [("c", b.char, 0), ("i", b.int, 8)])
    b.add_struct("flexible", 4, [("n", b.int, 0), ("data", b.add_array(b.char, 0, b.int), 32)])
    inline = "struct {\n\t\tchar c;\n\t\tint l;\n\t}"
    assert definitions(b.btf()) == [
        f"union u {{\n\t{inline};\n\t{inline} list[2];\n\tunsigned char __gap_1[64];\n}};",
        "struct p {\n\tchar c;\n\tint i;\n} __attribute__((packed));",
        "struct flexible {\n\tint n;\n\tchar data[0];\n};",
    ]


def test_a_member_without_name_of_a_struct_with_one_is_written_out() -> None:
    """As newer kernels have it (-fms-extensions); plain C would declare nothing there."""
    b = Types()
    tree = b.add_struct("tree", 8, [("l", b.long, 0)])
    b.add_struct("outer", 12, [("", tree, 0), ("i", b.int, 64)])
    assert definitions(b.btf())[1] == (
        "struct outer {\n\tstruct {\n\t\tlong int l;\n\t};\n\tint i;\n} __attribute__((packed));"
    )


@pytest.mark.parametrize("order", "<>")
def test_one_of_each_kind(order: str) -> None:
    text = dump_c(sample(order).btf())
    for part in ("\tint low: 3;\n\tint high: 5;", "BIG = 1099511627776ULL,", "union hidden;",
                 "struct event___old {", "typedef union both both_t;"):  # fmt: skip
        assert part in text


def test_split_btf_brings_what_it_needs_of_its_base() -> None:
    base = Types()
    of_base = base.add_struct("base", 4, [("i", base.int, 0)])
    base.add_struct("unused", 4, [("i", base.int, 0)])
    split = BtfBuilder("<", base=base.btf())
    split.add_struct("mine", 4, [("b", of_base, 0)])
    assert definitions(split.btf()) == [
        "struct base {\n\tint i;\n};",
        "struct mine {\n\tstruct base b;\n};",
    ]


def test_kfuncs_have_prototypes_that_a_macro_hides() -> None:
    b = Types()
    hidden = b.add_ptr(b.add_fwd("hidden"))
    arena = b.add_ptr(b.add(t.Kind.TYPE_TAG, "address_space(1)", 0, kflag=True))
    user = b.add_ptr(b.add_type_tag("user", b.char))
    release = b.add_func("release", b.add_func_proto(0, [("it", hidden), ("", user)]))
    alloc = b.add_func("alloc", b.add_func_proto(arena, [("count__sz", b.int)]))
    b.add_func("other", b.add_func_proto(0, []))
    for function in (release, alloc):
        b.add_decl_tag("bpf_kfunc", function)
    b.add_decl_tag("bpf_fastcall", release)
    b.add_decl_tag("bpf_kfunc", hidden)  # of no function
    text = dump_c(b.btf())
    begin = text.index("#ifndef BPF_NO_KFUNC_PROTOTYPES\n")
    assert "struct hidden;\n" in text[:begin]
    assert [line for line in text[begin:].splitlines() if line.startswith("extern")] == [
        "extern void __attribute__((address_space(1))) *alloc(int count__sz) __weak __ksym;",
        (
            "extern __bpf_fastcall void release(struct hidden *it, "
            'char __attribute__((btf_type_tag("user"))) *) __weak __ksym;'
        ),
    ]
    assert "other" not in text
    assert text.index("#endif /* BPF_NO_KFUNC_PROTOTYPES */") > text.index("release")
    assert "KFUNC" not in dump_c(b.btf(), [b.int])


def nested(levels: int) -> BtfBuilder:
    """Structs without name, each with two of the one before: the text doubles with each."""
    b = Types()
    inner = b.add_struct("", 0, [])
    for _ in range(levels):
        inner = b.add_struct("", 0, [("a", inner, 0), ("b", inner, 0)])
    b.add_struct("all", 0, [("a", inner, 0)])
    return b


def loop() -> BtfBuilder:
    b = Types()
    b.add_struct("me", 4, [("me", len(b), 0)])
    return b


def void() -> BtfBuilder:
    b = Types()
    b.add_struct("empty", 4, [("nothing", 0, 0)])
    return b


def typedefs() -> BtfBuilder:
    b = Types()
    b.add_typedef("a", len(b) + 1)
    b.add_typedef("b", len(b) - 1)
    return b


def pointers() -> BtfBuilder:
    """A long chain of pointers, and a member for each."""
    b = Types()
    to = [b.add_ptr(b.int)]
    for _ in range(4000):
        to.append(b.add_ptr(to[-1]))
    b.add_struct("all", 8 * len(to), [(f"m{i}", type_id, 64 * i) for i, type_id in enumerate(to)])
    return b


def forwards() -> BtfBuilder:
    """Many declarations and definitions of one name, which must not be searched again each time."""
    b = Types()
    for _ in range(3000):
        b.add_fwd("x")
        b.add_struct("x", 4, [("p", b.int, 0)])
    b.add_struct("me", 4, [("me", len(b), 0)])
    return b


def nameless() -> BtfBuilder:
    """What tools/fuzz found: a declaration of nothing is not that of a struct without name."""
    b = Types()
    b.add_struct("", 4, [("a", b.int, 0)])
    b.add_typedef("t", b.add_fwd(""))
    return b


@pytest.mark.parametrize(
    "hostile",
    [lambda: nested(28), lambda: nested(60), loop, void, typedefs, pointers, forwards, nameless],
)
def test_hostile(hostile) -> None:
    btf = hostile().btf()
    start = time.process_time()
    with pytest.raises(FormatError):
        dump_c(btf)
    assert time.process_time() - start < 2


def test_an_enum_of_4_gigabytes_takes_no_time() -> None:
    b = Types()
    b.add_typedef("e", b.add_enum("", 0xFFFFFFFF, [(f"E{n}", n) for n in range(64)]))
    start = time.process_time()
    assert "E63 = 63" in dump_c(b.btf())
    assert time.process_time() - start < 2
