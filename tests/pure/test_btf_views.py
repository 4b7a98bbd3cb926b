"""BTF as people look at it: raw dump, layout, search."""

from __future__ import annotations

from xml.etree.ElementTree import fromstring

import pytest
from btf_samples import sample

from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.dump import dump_lines, record
from pybpfload.btf.layout import layout
from pybpfload.btf.search import search
from pybpfload.errors import FormatError

# In the form that bpftool has, of which 7.1 prints the same lines for kernels and fixtures.
RAW = """\
[1] INT 'int' size=4 bits_offset=0 nr_bits=32 encoding=SIGNED
[2] INT 'unsigned long' size=8 bits_offset=0 nr_bits=64 encoding=(none)
[3] INT 'char' size=1 bits_offset=0 nr_bits=8 encoding=SIGNED
[4] ARRAY '(anon)' type_id=3 index_type_id=1 nr_elems=16
[5] ENUM 'flags' encoding=SIGNED size=4 vlen=3
	'NONE' val=0
	'ONE' val=1
	'MINUS' val=-1
[6] ENUM64 'wide' encoding=UNSIGNED size=8 vlen=1
	'BIG' val=1099511627776ULL
[7] STRUCT 'event' size=32 vlen=4
	'pid' type_id=1 bits_offset=0
	'low' type_id=1 bits_offset=32 bitfield_size=3
	'high' type_id=1 bits_offset=35 bitfield_size=5
	'comm' type_id=4 bits_offset=64
[8] STRUCT 'event___old' size=4 vlen=1
	'pid' type_id=1 bits_offset=0
[9] UNION 'both' size=8 vlen=3
	'l' type_id=2 bits_offset=0
	'e' type_id=6 bits_offset=0
	'f' type_id=5 bits_offset=0
[10] CONST '(anon)' type_id=3
[11] TYPE_TAG 'user' type_id=10
[12] PTR '(anon)' type_id=11
[13] RESTRICT '(anon)' type_id=12
[14] FWD 'hidden' fwd_kind=union
[15] PTR '(anon)' type_id=7
[16] FUNC_PROTO '(anon)' ret_type_id=1 vlen=3
	'ctx' type_id=15
	'text' type_id=13
	'(anon)' type_id=0
[17] FUNC 'handle' type_id=16 linkage=global
[18] TYPEDEF 'both_t' type_id=9
[19] VOLATILE '(anon)' type_id=18
[20] VAR 'state' type_id=19, linkage=global
[21] DATASEC '.data' size=8 vlen=1
	type_id=20 offset=0 size=8 (VAR 'state')
[22] DECL_TAG 'hot' type_id=7 component_idx=0
[23] FLOAT 'double' size=8
"""


@pytest.mark.parametrize("order", "<>")
def test_dump(order: str) -> None:
    btf = sample(order).btf()
    assert "\n".join([*dump_lines(btf), ""]) == RAW
    assert list(dump_lines(btf, [15])) == ["[15] PTR '(anon)' type_id=7"]


def test_record() -> None:
    btf = sample().btf()
    assert record(btf[7])["members"][1] == {
        "name": "low",
        "type_id": 1,
        "bits_offset": 32,
        "bitfield_size": 3,
    }
    assert list(record(btf[21])) == ["id", "kind", "name", "size", "vlen", "vars"]


def mixed() -> BtfBuilder:
    """A struct with all that a layout can show: 136 bytes, three cache lines."""
    b = BtfBuilder("<")
    char = b.add_int("char", 1, t.INT_SIGNED)
    int_ = b.add_int("int", 4, t.INT_SIGNED)
    long = b.add_int("long", 8, t.INT_SIGNED)
    inner = b.add_struct("", 16, [("c", char, 0), ("l", long, 64)])
    either = b.add_union("", 16, [("", inner, 0), ("i", int_, 0)])
    text = b.add_array(char, 60, int_)
    members = [
        ("c", char, 0),
        ("bits", int_, 32, 3),
        ("more", int_, 40, 2),
        ("text", text, 64),
        ("", either, 576),
        ("in", inner, 704),
        ("last", int_, 832),
    ]
    b.add_typedef("mixed_t", b.add_struct("mixed", 136, members))
    return b


LAYOUT = """\
struct mixed {
	char c;                                                 /*     0     1 */
	/* XXX 3 bytes hole */
	int bits:3;                                             /*     4: 0  3 */
	/* XXX 5 bits hole */
	int more:2;                                             /*     5: 0  2 */
	/* XXX 22 bits hole */
	char text[60];                                          /*     8    60 */
	/* XXX 4 bytes hole */
	/* --- cacheline 1 boundary (64 bytes) was 8 bytes ago --- */
	union {
		struct {
			char c;                                 /*    72     1 */
			/* XXX 7 bytes hole */
			long l;                                 /*    80     8 */
		};                                              /*    72    16 */
		int i;                                          /*    72     4 */
	};                                                      /*    72    16 */
	struct {
		char c;                                         /*    88     1 */
		/* XXX 7 bytes hole */
		long l;                                         /*    96     8 */
	} in;                                                   /*    88    16 */
	int last;                                               /*   104     4 */
	/* XXX 28 bytes padding */

	/* size: 136, cachelines: 3, members: 7 */
	/* sum members: 97 bytes, holes: 2, sum holes: 7 bytes */
	/* sum bitfield members: 5 bits, bit holes: 2, sum bit holes: 27 bits */
	/* padding: 28 bytes */
	/* last cacheline: 8 bytes */
};"""


def test_layout() -> None:
    btf = mixed().btf()
    made = layout(btf, btf.find("mixed_t"))
    assert str(made) == LAYOUT
    assert made.to_dict()["padding_bits"] == 8 * 28
    assert [row.path for row in made.rows if row.what == "member"][3:] == [
        "text", "c", "l", "i", "in.c", "in.l", "last",
    ]  # fmt: skip
    assert layout(btf, btf.find("mixed"), line=256).lines == 1


def test_what_is_free_behind_bit_fields() -> None:
    """As pahole counts: bits of the unit that holds the bit field, bytes behind it."""
    b = BtfBuilder("<")
    int_ = b.add_int("int", 4, t.INT_SIGNED)
    long = b.add_int("long", 8, t.INT_SIGNED)
    members = [("a", int_, 0, 15), ("l", long, 64), ("z", int_, 128, 8)]
    added = b.add_struct("s", 24, members)
    made = layout(b.btf(), added)
    gaps = [(r.what, r.offset, r.bits, r.bitfield) for r in made.rows if r.what != "member"]
    assert gaps == [
        ("hole", 15, 17, True), ("hole", 32, 32, False),
        ("padding", 136, 24, True), ("padding", 160, 32, False),
    ]  # fmt: skip
    assert str(made).partition("\n\n")[2].splitlines()[1:-2] == [
        "\t/* sum members: 8 bytes, holes: 1, sum holes: 4 bytes */",
        "\t/* sum bitfield members: 23 bits, bit holes: 1, sum bit holes: 17 bits */",
        "\t/* padding: 4 bytes */",
        "\t/* bit padding: 24 bits */",
    ]
    assert (len(made.holes), made.padding) == (2, 56)


def drawn(svg: str) -> list[str]:
    """What is shown of each box of a picture when it is pointed at."""
    spaced = "{http://www.w3.org/2000/svg}"
    return [each.findtext(f"{spaced}title") or "" for each in fromstring(svg).iter(f"{spaced}g")]


def test_layout_as_a_picture() -> None:
    btf = mixed().btf()
    made = layout(btf, btf.find("mixed_t"))
    assert made._repr_svg_() == made.svg()
    boxes = drawn(made.svg())
    assert boxes[:4] == [
        "char c, @0, 1 B", "3 bytes hole", "int bits:3, @4:0, 3 bits", "5 bits hole",
    ]  # fmt: skip
    assert "union { struct; int i }, @72, 16 B" in boxes
    assert "long l, @96, 8 B (in.l)" in boxes
    assert boxes.count("28 bytes padding") == 2  # in the second cache line and in the third
    for part in ("struct mixed", ">64<", ">128<", "cachelines: 3", "4 B hole"):
        assert part in made.svg()
    inside = layout(btf, btf[btf.find("mixed")].members[4].type)  # type: ignore[attr-defined]
    assert drawn(inside.svg()) == [
        "char c, @0, 1 B",
        "7 bytes hole",
        "long l, @8, 8 B",
        "int i, @0, 4 B",
    ]


def test_pictures_of_what_strangers_call_their_members() -> None:
    b = BtfBuilder("<")
    long = b.add_int("long", 8, t.INT_SIGNED)
    b.add_struct("a<b>&", 1 << 20, [("</svg>\x1b", b.add_array(long, 1 << 17, long), 0)])
    b.add_struct("overlapping", 8, [("x", long, 0), ("y", long, 0), ("z", long, 1 << 20)])
    btf = b.btf()
    svg = layout(btf, btf.find("a<b>&")).svg()
    assert "16383 more rows of" in svg
    assert len(svg) < 1 << 13
    assert "</svg>\\x1b" in drawn(svg)[0]
    assert drawn(layout(btf, btf.find("overlapping")).svg()) == ["long x, @0, 8 B"]


def test_layout_with_all_taken_apart() -> None:
    b = BtfBuilder("<")
    int_ = b.add_int("int", 4, t.INT_SIGNED)
    inner = b.add_struct("inner", 8, [("i", int_, 0), ("j", int_, 32)])
    empty = b.add_struct("empty", 0, [])
    b.add_struct("outer", 8, [("in", b.add_typedef("inner_t", inner), 0), ("no", empty, 64)])
    btf = b.btf()
    plain, all_ = (layout(btf, btf.find("outer"), expand=expand) for expand in (False, True))
    assert [row.path for row in plain.rows] == ["in", "no"]
    assert [row.path for row in all_.rows if row.what == "member"] == ["in.i", "in.j", "no"]


def test_layout_of_something_else() -> None:
    btf = sample().btf()
    with pytest.raises(FormatError, match=r"int int \[1\] has no layout"):
        layout(btf, 1)
    with pytest.raises(ValueError, match="0 bytes"):
        layout(btf, 7, line=0)


def test_layout_of_what_is_deep() -> None:
    b = BtfBuilder("<")
    inner = b.add_int("int", 4, t.INT_SIGNED)
    for depth in range(12):
        inner = b.add_struct(f"s{depth}", 4, [("m", inner, 0)])
    lines = str(layout(b.btf(), inner, expand=True)).splitlines()
    assert lines[12] == "\t" * 12 + "int m;/*     0     4 */"


def test_layouts_of_hostile_types() -> None:
    b = BtfBuilder("<")
    b.add_struct("", 4, [("", 1, 0)])
    inner = b.add_struct("", 0, [])
    for _ in range(24):
        inner = b.add_struct("", 0, [("a", inner, 0), ("b", inner, 0)])
    btf = b.btf()
    for type_id in (1, inner):
        with pytest.raises(FormatError):
            layout(btf, type_id)
    b.add_struct("outer", 4, [("", inner, 0)])
    with pytest.raises(FormatError):
        list(search(b.btf(), member="x"))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"name": "event*"}, {"event", "event___old"}),
        ({"name": "event"}, {"event"}),
        ({"name": "struct e*"}, {"event", "event___old"}),
        ({"name": "union event"}, set()),
        ({"name": "enum flags", "size": 4}, {"flags"}),
        ({"name": "unsigned long"}, {"unsigned long"}),
        ({"size": 8}, {"unsigned long", "wide", "both", "double", ".data"}),
        ({"size": 8, "kind": t.Kind.UNION}, {"both"}),
        ({"member": "pid"}, {"event", "event___old"}),
        ({"member": "*o*"}, {"event"}),
        ({"member_type": "unsigned long"}, {"both"}),
        ({"member_type": "char"}, {"event"}),  # an array of them
        ({"member_type": "enum flags"}, {"both"}),
        ({"member_type": "flags"}, {"both"}),
        ({"member_type": "struct flags"}, set()),
        ({"member_type": "char *"}, set()),
        ({"kind": t.Kind.TYPEDEF}, {"both_t"}),
    ],
)
def test_search(asked: dict, found: set[str]) -> None:
    assert {each.name for each in search(sample().btf(), **asked)} == found


def test_search_of_members_of_types_without_name() -> None:
    b = mixed()
    inner = b.add_struct("", 8, [("owner", b.add_ptr(b.add_const(b.add_fwd("sock"))), 0)])
    b.add_typedef("holder_t", inner)
    btf = b.btf()
    (found,) = search(btf, member_type="struct sock*")
    assert (found.id, found.name, found.size) == (inner, "holder_t", 8)
    assert found.members == (("owner", 0, "const struct sock *owner"),)
    (found,) = search(btf, member="l")
    assert found.members == (("l", 640, "long l"), ("in.l", 768, "long l"))
    with pytest.raises(ValueError, match="no type"):
        list(search(btf, member_type="*"))


def test_members_without_name_of_structs_with_one() -> None:
    b = BtfBuilder("<")
    int_ = b.add_int("int", 4, t.INT_SIGNED)
    inner = b.add_struct("inner", 4, [("i", int_, 0)])
    b.add_struct("outer", 4, [("", b.add_typedef("inner_t", inner), 0)])
    btf = b.btf()
    assert [row.text for row in layout(btf, btf.find("outer")).rows] == [
        "struct inner",
        "int i",
        "",
    ]
    assert [each.name for each in search(btf, member="i")] == ["inner", "outer"]
