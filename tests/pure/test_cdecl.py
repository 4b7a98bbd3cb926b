"""C text of types."""

from __future__ import annotations

import pytest
from btf_samples import sample

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.cdecl import declare, define, type_text
from pybpfload.errors import FormatError


class Types(BtfBuilder):
    """Some types to start from."""

    def __init__(self) -> None:
        super().__init__("<")
        self.int = self.add_int("int", 4, 1)
        self.char = self.add_int("char", 1, 1)
        self.event = self.add_struct("event", 4, [("pid", self.int, 0)])


def test_plain() -> None:
    b = Types()
    cases = [
        (0, "x", "void x"),
        (b.int, "x", "int x"),
        (b.event, "e", "struct event e"),
        (b.event, "", "struct event"),
        (b.add_union("", 4, []), "u", "union {...} u"),
        (b.add_enum("", 4, []), "", "enum {...}"),
        (b.add_enum64("big", 8, []), "", "enum big"),
        (b.add_fwd("f"), "", "struct f"),
        (b.add_fwd("f", is_union=True), "", "union f"),
        (b.add_typedef("pid_t", b.int), "p", "pid_t p"),
        (b.add_float("double", 8), "d", "double d"),
        (b.add_datasec(".data", 0, []), "", "section .data"),
        (b.add_decl_tag("hot", b.event), "", '__attribute__((btf_decl_tag("hot")))'),
        (b.add_var("counter", b.int), "", "int counter"),
        (b.add_var("counter", b.int), "other", "int other"),
    ]
    btf = b.btf()
    assert [declare(btf, i, name) for i, name, _ in cases] == [text for _, _, text in cases]


def test_declarators() -> None:
    b = Types()
    const_event = b.add_const(b.event)
    pointer = b.add_ptr(const_event)
    fn = b.add_func_proto(pointer, [("", b.int), ("", b.char)])
    fn_ptr = b.add_ptr(fn)
    arr = b.add_array(b.char, 16, b.int)
    takes_fn = b.add_func_proto(0, [("cb", fn_ptr), ("", 0)])
    none = b.add_func_proto(0, [])
    tag = b.add_type_tag("user", b.char)
    cases = [
        (arr, "comm", "char comm[16]"),
        (arr, "", "char[16]"),
        (pointer, "", "const struct event *"),
        (pointer, "e", "const struct event *e"),
        (b.add_const(pointer), "e", "const struct event *const e"),
        (b.add_const(pointer), "", "const struct event *const"),
        (b.add_restrict(b.add_ptr(b.char)), "s", "char *restrict s"),
        (b.add_const(b.add_volatile(b.int)), "v", "const volatile int v"),
        (b.add_const(const_event), "e", "const struct event e"),
        (fn_ptr, "fn", "const struct event *(*fn)(int, char)"),
        (fn_ptr, "", "const struct event *(*)(int, char)"),
        (fn, "", "const struct event *(int, char)"),
        (b.add_ptr(fn_ptr), "pp", "const struct event *(**pp)(int, char)"),
        (b.add_array(fn_ptr, 4, b.int), "table", "const struct event *(*table[4])(int, char)"),
        (b.add_array(arr, 2, b.int), "names", "char names[2][16]"),
        (b.add_ptr(arr), "row", "char (*row)[16]"),
        (b.add_array(b.add_ptr(b.int), 0, b.int), "p", "int *p[0]"),
        (takes_fn, "f", "void f(const struct event *(*cb)(int, char), ...)"),
        (
            b.add_ptr(b.add_func_proto(fn_ptr, [])),
            "g",
            "const struct event *(*(*g)(void))(int, char)",
        ),
        (b.add_func_proto(b.int, [("", 0)]), "f", "int f(void)"),
        (b.add_func("run", none), "", "void run(void)"),
        (b.add_ptr(tag), "s", 'char __attribute__((btf_type_tag("user"))) *s'),
        (b.add_const(arr), "c", "char c[16]"),
    ]
    btf = b.btf()
    assert [declare(btf, i, name) for i, name, _ in cases] == [text for _, _, text in cases]
    assert type_text(btf, fn_ptr) == declare(btf, fn_ptr)


def test_names_that_a_terminal_obeys() -> None:
    b = BtfBuilder()
    bad = b.add_typedef("\x1b[2Jgone\n", 0)
    assert declare(b.btf(), bad, "x") == r"\x1b[2Jgone\n x"


@pytest.mark.parametrize("order", "<>")
def test_define(order: str) -> None:
    btf = sample(order).btf()
    assert define(btf, btf.find("event")) == (
        "struct event {\n"
        "\tint pid; /* 0 */\n"
        "\tint low:3; /* 4:0 */\n"
        "\tint high:5; /* 4:3 */\n"
        "\tchar comm[16]; /* 8 */\n"
        "}; /* size 32 */"
    )
    assert define(btf, btf.find("flags")) == (
        "enum flags {\n\tNONE = 0,\n\tONE = 1,\n\tMINUS = -1,\n}; /* size 4 */"
    )
    assert define(btf, btf.find("both_t")).startswith("union both {\n")
    with pytest.raises(FormatError, match="has no definition"):
        define(btf, btf.find("int"))


def test_define_anonymous_members() -> None:
    b = Types()
    inner = b.add_struct("", 8, [("a", b.int, 0), ("b", b.int, 32)])
    union = b.add_union("", 8, [("", inner, 0), ("raw", b.add_array(b.char, 8, b.int), 0)])
    named = b.add_struct("", 4, [("z", b.int, 0)])
    outer = b.add_struct("outer", 16, [("n", b.int, 0), ("", union, 32), ("last", named, 96)])
    assert define(b.btf(), outer) == (
        "struct outer {\n"
        "\tint n; /* 0 */\n"
        "\tunion {\n"
        "\t\tstruct {\n"
        "\t\t\tint a; /* 4 */\n"
        "\t\t\tint b; /* 8 */\n"
        "\t\t}; /* 4 */\n"
        "\t\tchar raw[8]; /* 4 */\n"
        "\t}; /* 4 */\n"
        "\tstruct {\n"
        "\t\tint z; /* 12 */\n"
        "\t} last; /* 12 */\n"
        "}; /* size 16 */"
    )


def hostile() -> list[BtfBuilder]:
    """Types without end, and types that end but multiply."""
    loop = BtfBuilder()
    loop.add_const(1)
    pointers = BtfBuilder()
    pointers.add_ptr(1)
    array = BtfBuilder()
    array.add_array(1, 2, 1)
    itself = BtfBuilder()
    itself.add_func_proto(1, [("a", 1), ("b", 1)])
    doubling = BtfBuilder()
    for n in range(30):
        doubling.add_func_proto(n, [("a", n), ("b", n)])
    doubling.add_func_proto(30, [("a", 30), ("b", 30)])
    return [loop, pointers, array, itself, doubling]


@pytest.mark.parametrize("number", range(5))
def test_hostile_declarations(number: int) -> None:
    btf = hostile()[number].btf()
    with pytest.raises(FormatError):
        declare(btf, len(btf) - 1)


def test_hostile_definitions() -> None:
    b = BtfBuilder()
    b.add_struct("", 1, [("", 1, 0)])
    with pytest.raises(FormatError):
        define(b.btf(), 1)
    b = BtfBuilder()
    b.add_struct("", 1, [])
    for n in range(1, 31):
        b.add_struct("", 1, [("", n, 0), ("", n, 0)])
    with pytest.raises(FormatError):
        define(b.btf(), 31)
