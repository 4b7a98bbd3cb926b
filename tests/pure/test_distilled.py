"""Distilled bases: made, relocated, and in files. tests/differential shows that libbpf agrees."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING

import pytest
from btf_samples import layout_blob, sample
from test_image import elf as elf_of_sections

import pybpfload
from pybpfload.btf import Btf, BtfBuilder, dedup, distill_base, relocate_base, to_byteorder
from pybpfload.btf import types as t
from pybpfload.cli import main
from pybpfload.errors import FormatError
from pybpfload.testing.mutate import mutate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def shown(btf: Btf) -> list[str]:
    return [btf.describe(type_id) for type_id in btf.own_ids()]


def module(base: Btf) -> BtfBuilder:
    """A split table that refers to many things in the table of ``btf_samples.sample``."""
    b = BtfBuilder(base.byteorder, base=base)
    event = b.add_const(base.find("event"))
    nameless = len(base)
    b.add_struct(
        "own",
        80,
        [("event", event, 0), ("state", base.find("both_t"), 256), ("node", nameless + 2, 320)],
    )
    b.add_ptr(nameless + 1)
    b.add_func("own_handle", base[base.find("handle")].type)
    b.add_var("rate", base.find("double"))
    b.add_typedef("wide_t", base.find("wide"))
    return b


def elf(split: Btf, **kind: int) -> bytes:
    """A module with its BTF, and with its base in ``.BTF.base``."""
    sections = {".BTF": split.to_bytes(), ".BTF.base": split.base.to_bytes()}
    return elf_of_sections(sections, split.byteorder, **kind)


# Distilling


@pytest.mark.parametrize("order", "<>")
def test_distilled(order):
    base = sample(order).btf()
    split = module(base).btf("own")
    made, ids = distill_base(split)
    # Of the base only what has a name, and nothing of what it consists of.
    assert [made.base[type_id] for type_id in made.base] == [
        t.Int(1, "int", 4, t.INT_SIGNED, 0, 32),
        t.Int(2, "char", 1, t.INT_SIGNED, 0, 8),
        t.Enum(3, "wide", 8, (), False),
        t.Struct(4, "event", 32, ()),
        t.Union(5, "both", 8, ()),
        t.Float(6, "double", 8),
    ]
    assert shown(made) == [
        "const <anon> [7]", "struct own [8]", "ptr <anon> [9]", "func own_handle [10]",
        "var rate [11]", "typedef wide_t [12]",
        # what came along from the base
        "const <anon> [13]", "type_tag user [14]", "ptr <anon> [15]", "restrict <anon> [16]",
        "ptr <anon> [17]", "func_proto <anon> [18]", "typedef both_t [19]",
    ]  # fmt: skip
    made.validate()
    assert ids[0] == 0
    assert [made.describe(ids[i]) for i in split.own_ids()] == shown(made)[:6]
    for type_id in base:
        moved = ids[type_id]
        assert not moved or made.type_name(moved) == base.type_name(type_id)
    assert not ids[base.find("hidden")]
    assert (made.byteorder, made.pointer_size, made.name) == (order, 8, "own")


def test_what_has_no_name_comes_along():
    b = BtfBuilder()
    number = b.add_int("int", 4)
    inner = b.add_union("", 4, [("x", b.add_fwd("hidden"), 0), ("y", number, 0)])
    flags = b.add_enum("", 4, [("A", 1)])
    base = b.btf()
    b = BtfBuilder(base=base)
    b.add_struct("own", 8, [("u", inner, 0), ("f", flags, 32)])
    made = distill_base(b.btf()).btf
    assert shown(made.base) == ["int int [1]", "fwd hidden [2]"]
    assert made[4].members == (t.Member("x", 2, 0), t.Member("y", 1, 0))
    assert made[5].values == (t.Enumerator("A", 1),)
    assert made[3].members == (t.Member("u", 4, 0), t.Member("f", 5, 32))


def test_distilled_over_two_bases():
    lower = sample().btf()
    middle = module(lower).btf()
    b = BtfBuilder(base=middle)
    b.add_struct("top", 80, [("a", middle.find("wide_t"), 0), ("b", middle.find("own"), 64)])
    made = distill_base(b.btf()).btf
    assert shown(made.base) == ["enum wide [1]", "struct own [2]"]
    assert shown(made) == ["struct top [3]", "typedef wide_t [4]"]


def test_nothing_to_distill():
    b = BtfBuilder()
    pointer = b.add_ptr(0)
    base = b.btf()
    b = BtfBuilder(base=base)
    b.add_const(pointer)
    made = distill_base(b.btf()).btf
    assert len(made.base) == 1
    assert [made[1].type, made[2].type] == [2, 0]  # libbpf leaves the pointer out
    made = distill_base(BtfBuilder(base=base).btf()).btf
    assert (len(made.base), len(made)) == (1, 1)
    with pytest.raises(ValueError, match="has no base"):
        distill_base(base)


def test_what_cannot_be_distilled():
    base = sample().btf()
    b = BtfBuilder(base=base)
    b.add_decl_tag("hot", base.find("handle"))
    with pytest.raises(FormatError, match=r"it refers to func handle \[17\] of its base"):
        distill_base(b.btf("odd"))
    b = BtfBuilder()
    b.add_enum("e", 3, [])
    b = BtfBuilder(base=b.btf())
    b.add_ptr(1)
    with pytest.raises(FormatError, match=r"enum e \[1\] has 3 bytes"):
        distill_base(b.btf())
    with pytest.raises(FormatError, match="unknown kind 25, which cannot be distilled"):
        distill_base(Btf.from_bytes(layout_blob(), base=base))
    b = BtfBuilder(base=base)
    b.add_ptr(99)
    with pytest.raises(FormatError, match="refers to type 99"):
        distill_base(b.btf())


# Relocating


@pytest.mark.parametrize("order", "<>")
def test_relocated_onto_its_own_base(order):
    base = sample(order).btf()
    split = module(base).btf()
    distilled, ids = distill_base(split)
    found, further = relocate_base(distilled, base)
    assert found.base is base
    found.validate()
    assert shown(found)[: len(split.own_ids())] == shown(split)
    known = [type_id for type_id in base if 0 < ids[type_id] < len(distilled.base)]
    assert [further[ids[type_id]] for type_id in known] == known
    # What came along is in the base, too.
    assert dedup(found).btf.to_bytes() == dedup(split).btf.to_bytes()


def test_relocated_onto_another_base():
    split = distill_base(module(sample().btf()).btf("own.ko")).btf
    b = BtfBuilder()
    b.add_typedef("event", 0)  # a typedef is never meant
    b.add_float("double", 8)
    b.add_enum("wide", 8, [("BIG", 1)])
    event = b.add_struct("event", 32, [("other", 2, 0)])
    b.add_int("char", 1, t.INT_SIGNED)
    b.add_int("int", 4, t.INT_SIGNED)
    b.add_union("both", 8, [])
    base = b.btf("vmlinux")
    found, ids = relocate_base(split, base)
    assert list(ids) == [0, 6, 5, 3, event, 7, 2, *range(8, 8 + 13)]
    assert found[8].type == event
    assert found[found.find("own")].members[0] == t.Member("event", 8, 0)
    found.validate()


def test_relocated_keeps_its_layout():
    base = sample().btf()
    made = distill_base(module(base).btf()).btf
    b = BtfBuilder(base=made.base)
    b.add_btf(made)
    b.add_layout()
    assert relocate_base(b.btf(), base).btf.has_layout
    assert not relocate_base(made, base).btf.has_layout


def scalar(kind: str, size: int = 4, encoding: int = 0) -> Callable[[BtfBuilder], int]:
    if kind == "int":
        return lambda b: b.add_int("x", size, encoding)
    return lambda b: b.add_float("x", size)


def composite(kind: str, size: int = 8, *, bits: bool = False) -> Callable[[BtfBuilder], int]:
    members = [("low", 0, 0, 3)] if bits else []
    if kind == "struct":
        return lambda b: b.add_struct("x", size, members)
    return lambda b: b.add_union("x", size, members)


def enum(kind: str, size: int = 4) -> Callable[[BtfBuilder], int]:
    if kind == "enum":
        return lambda b: b.add_enum("x", size, [("A", 1)])
    return lambda b: b.add_enum64("x", size, [("A", 1)])


def fwd(*, is_union: bool = False) -> Callable[[BtfBuilder], int]:
    return lambda b: b.add_fwd("x", is_union=is_union)


STRUCT, UNION, INT = composite("struct"), composite("union"), scalar("int")


@pytest.mark.parametrize(
    ("needed", "there", "which"),
    [
        # integers, floats: name, size, encoding
        (INT, [INT], 0),
        (INT, [scalar("int", 8), INT], 1),
        (INT, [scalar("int", 4, t.INT_SIGNED)], None),
        (INT, [scalar("float")], None),
        (INT, [INT, INT], None),
        (scalar("float"), [scalar("float"), scalar("float", 8)], 0),
        # enums: of either kind
        (enum("enum"), [enum("enum64", 8), enum("enum64", 4)], 1),
        (enum("enum64", 8), [enum("enum", 8)], 0),
        (enum("enum"), [enum("enum", 8)], None),
        (enum("enum"), [INT], None),
        # structs behind pointers: any size, unless there are several
        (STRUCT, [composite("struct", 16)], 0),
        (STRUCT, [composite("struct", 16), STRUCT], 1),
        (STRUCT, [composite("struct", 16), UNION], 1),
        (STRUCT, [composite("struct", 16), composite("struct", 4)], None),
        (STRUCT, [STRUCT, STRUCT], None),
        (STRUCT, [composite("union", 16)], 0),
        (STRUCT, [fwd()], 0),
        (STRUCT, [STRUCT, fwd()], None),
        (STRUCT, [enum("enum")], None),
        # declarations: a struct without or a union with bit fields
        (fwd(), [fwd(is_union=True), fwd()], 1),
        (fwd(), [STRUCT], 0),
        (fwd(), [composite("struct", bits=True)], None),
        (fwd(is_union=True), [UNION], None),
        (fwd(is_union=True), [composite("union", bits=True)], 0),
        (fwd(), [STRUCT, composite("struct", 16)], None),
        (fwd(), [INT], None),
    ],
)
def test_matches(needed, there, which):
    b = BtfBuilder()
    b.add_ptr(needed(b))
    old = b.btf()
    b = BtfBuilder(base=old)
    b.add_const(2)
    split = distill_base(b.btf("own.ko")).btf
    b = BtfBuilder()
    b.add_int("other", 4)
    ids = [add(b) for add in there]
    base = b.btf("vmlinux")
    if which is None:
        with pytest.raises(FormatError, match=r"own\.ko, section \.BTF\.base: .* x \[1\]"):
            relocate_base(split, base)
    else:
        assert relocate_base(split, base).ids[1] == ids[which]


@pytest.mark.parametrize("wrapped", [False, True])
def test_members_need_their_size(wrapped):
    b = BtfBuilder()
    number = b.add_int("int", 4)
    b.add_struct("x", 8, [])
    b = BtfBuilder(base=b.btf())
    of = 2
    if wrapped:
        of = b.add_typedef("x_t", b.add_array(b.add_volatile(2), 1, number))
    b.add_struct("own", 8, [("x", of, 0)])
    split = distill_base(b.btf("own.ko")).btf
    b = BtfBuilder()
    b.add_int("int", 4)
    b.add_fwd("x")
    b.add_struct("x", 8, [])
    assert 3 in relocate_base(split, b.btf()).ids
    b.add_fwd("x")  # after a match any size is another one
    with pytest.raises(FormatError, match="several matches"):
        relocate_base(split, b.btf())
    b = BtfBuilder()
    b.add_int("int", 4)
    b.add_struct("x", 16, [])
    with pytest.raises(FormatError) as caught:
        relocate_base(split, b.btf("vmlinux"))
    assert str(caught.value) == (
        f"own.ko, section .BTF.base: struct x [{split.base.find('x')}] of 8 bytes has no match "
        "in vmlinux, where there is struct x [2] of 16 bytes"
    )


def test_refusals():
    base = sample().btf("vmlinux")
    split = module(base).btf("own.ko")
    made = distill_base(split).btf
    with pytest.raises(FormatError, match=r"int int \[1\] of 4 bytes is not in empty"):
        relocate_base(made, BtfBuilder().btf("empty"))
    twice = BtfBuilder()
    for _ in range(2):
        twice.add_int("int", 4, t.INT_SIGNED)
    with pytest.raises(FormatError, match=r"int int \[1\] .* has several matches .* types 1, 2"):
        relocate_base(made, twice.btf())
    with pytest.raises(FormatError, match=r"its base is not distilled: array <anon> \[4\] is in"):
        relocate_base(split, sample().btf())
    with pytest.raises(FormatError, match="vmlinux is of the other byte order"):
        relocate_base(made, to_byteorder(base, ">"))
    with pytest.raises(FormatError, match="unknown kind 25, which cannot be relocated"):
        relocate_base(Btf.from_bytes(layout_blob(), base=made.base), base)
    for table, other in ((base, split), (split, base), (distill_base(made).btf, made.base)):
        if table.base is other or table.base is None:
            with pytest.raises(ValueError, match="no distilled base"):
                relocate_base(table, other)


def test_types_that_refer_to_themselves():
    b = BtfBuilder()
    b.add_struct("x", 8, [])
    b = BtfBuilder(base=b.btf())
    first = len(b)
    b.add_const(first + 1)
    b.add_volatile(first)
    b.add_struct("own", 8, [("a", first, 0), ("b", 1, 0)])
    made = distill_base(b.btf()).btf
    b = BtfBuilder()
    b.add_struct("x", 16, [])
    with pytest.raises(FormatError, match="no match"):
        relocate_base(made, b.btf())


def test_damage_ends_in_an_error():
    """Whatever is in the parts, nothing but a FormatError comes of it."""
    base = sample().btf()
    made = distill_base(module(base).btf()).btf
    split, distilled = made.to_bytes(), made.base.to_bytes()
    outcomes = [0, 0, 0]
    for seed in range(120):
        parts = mutate(split, seed).data, mutate(distilled, seed + 1).data
        for types, below in ((parts[0], distilled), (split, parts[1]), parts):
            try:
                table = Btf.from_bytes(types, base=Btf.from_bytes(below))
                outcomes[0] += 1
                distill_base(table)
                outcomes[1] += 1
                relocate_base(table, base)
                outcomes[2] += 1
            except FormatError:
                continue
    assert min(outcomes) > 10, outcomes


# Files


def test_read_with_and_without_a_base(tmp_path: Path):
    base = sample().btf()
    split = module(base).btf()
    made = distill_base(split).btf
    path = tmp_path / "own.ko"
    path.write_bytes(elf(made))
    alone = pybpfload.read_btf(path)
    assert alone.to_bytes() == made.to_bytes()
    assert alone.base.to_bytes() == made.base.to_bytes()
    other = BtfBuilder()
    other.add_ptr(0)
    other.add_btf(base)
    other = other.btf()
    found = pybpfload.read_btf(path, base=other)
    assert found.base is other
    assert found.to_bytes() == relocate_base(made, other).btf.to_bytes()
    assert pybpfload.read_btf(lzma.compress(elf(made)), base=other).to_bytes() == found.to_bytes()
    with pytest.raises(FormatError, match="is not in tiny"):
        pybpfload.read_btf(path, base=BtfBuilder().btf("tiny"))


@pytest.mark.parametrize(("bits", "size"), [(32, 4), (64, 8)])
def test_pointer_size_is_that_of_the_file(bits, size):
    split = distill_base(module(sample(">").btf()).btf()).btf
    found = pybpfload.read_btf(elf(split, bits=bits))
    assert (found.pointer_size, found.base.pointer_size) == (size, size)
    assert found.size(found.find("own") + 1) == size


def test_damaged_base_is_named():
    split = distill_base(module(sample().btf()).btf()).btf
    data = elf_of_sections({".BTF": split.to_bytes(), ".BTF.base": split.base.to_bytes()[:50]})
    with pytest.raises(FormatError, match=r"^BTF, section \.BTF\.base.* ends beyond the data"):
        pybpfload.read_btf(data)


def test_commands(tmp_path: Path, capsys):
    base = sample().btf()
    made = distill_base(module(base).btf()).btf
    path, kernel = tmp_path / "own.ko", tmp_path / "vmlinux"
    path.write_bytes(elf(made))
    kernel.write_bytes(base.to_bytes())
    assert main(["btf", "dump", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[7] CONST '(anon)' type_id=4"
    assert main(["btf", "dump", str(path), "--base", str(kernel)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[{len(base)}] CONST '(anon)' type_id={base.find('event')}"
    assert main(["btf", "layout", str(path), "own", "--base", str(kernel)]) == 0
    assert "struct event" in capsys.readouterr().out
    kernel.write_bytes(BtfBuilder().build())
    assert main(["btf", "dump", str(path), "--base", str(kernel)]) == 1
    assert "own.ko, section .BTF.base: int int [1] of 4 bytes is not in" in capsys.readouterr().err
