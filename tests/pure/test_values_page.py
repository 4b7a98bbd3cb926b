"""docs/values.md: each row of its table, in both byte orders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from test_values import Types, both_orders

from pybpfload.btf import types as t
from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.records import BitsCodec, RecordCodec
from pybpfload.btf.values import codec

PAGE = (Path(__file__).parents[2] / "docs" / "values.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| (`.+)\|$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")


class Row(NamedTuple):
    """A row: the C type, its bytes in big-endian order, the value, what else may be written."""

    c_type: str
    raw: bytes
    value: str
    given: list[str]
    written: bool


def _rows() -> list[Row]:
    table = PAGE[PAGE.index("## The table") : PAGE.index("Bytes are shown")]
    rows = []
    for line in _ROW.findall(table):
        c_type, memory, value, given = re.split(r"(?<!\\)\|", line)
        spans = [_CODE.findall(cell.replace(r"\|", "|")) for cell in (c_type, memory, value)]
        (name,), (raw,), (expression,) = spans
        reading = "reading" in memory
        rows.append(Row(name, bytes.fromhex(raw), expression, _CODE.findall(given), not reading))
    return rows


ROWS = _rows()


def build(order: str) -> dict[str, Any]:
    """Codecs of all types that the table has, by their names in it."""
    b = Types(order)
    integers = [("u8", 1, 0), ("char", 1, 1), ("s8", 1, 1), ("u16", 2, 0), ("s16", 2, 1)]
    integers += [("u32", 4, 0), ("s64", 8, 1), ("u128", 16, 0), ("s128", 16, 1)]
    ids = {name: b.add_int(name, size, signed) for name, size, signed in integers}
    ids["bool"] = b.add_int("bool", 1, t.INT_BOOL)
    for name, size in (("_Float16", 2), ("float", 4), ("double", 8), ("long double", 16)):
        ids[name] = b.add_float(name, size)
    ids["pid_t"] = b.add_typedef("pid_t", b.int)
    ids["enum state"] = b.add_enum("state", 4, [("IDLE", 0), ("BUSY", 1)])
    ids["enum big"] = b.add_enum64("big", 8, [("HUGE", 1 << 63)])
    ids["void *"] = b.add_ptr(0)
    for name, element, count in (("char[6]", "char", 6), ("u8[6]", "u8", 6), ("s8[2]", "s8", 2)):
        ids[name] = b.arr(ids[element], count)
    ids["u16[2]"] = b.arr(ids["u16"], 2)
    ids["u16[2][2]"] = b.arr(ids["u16[2]"], 2)
    ids["struct point"] = b.add_struct("point", 8, [("x", b.int, 0), ("y", b.int, 32)])
    ids["struct point[1]"] = b.arr(ids["struct point"], 1)
    ids["point_t"] = b.add_typedef("point_t", ids["struct point"])
    word = [("whole", b.u32, 0), ("raw", b.arr(b.u8, 4), 0)]
    ids["union word"] = b.add_union("word", 4, word)
    nameless = b.add_union("", 4, word)
    ids["struct reg"] = b.add_struct("reg", 8, [("id", b.u32, 0), ("", nameless, 32)])
    bits = [("a", ids["u16"], 0, 3), ("b", ids["s16"], 3, 6), ("c", ids["bool"], 9, 1)]
    ids["struct bits"] = b.add_struct("bits", 2, bits)
    ids["struct packed"] = b.add_struct("packed", 5, [("kind", ids["u8"], 0), ("size", b.u32, 8)])
    ids["struct list"] = b.add_struct(
        "list", 2, [("n", ids["u16"], 0), ("items", b.arr(ids["u16"], 0), 16)]
    )
    btf = b.btf()
    return {name: codec(btf, type_id) for name, type_id in ids.items()}


CODECS = {order: build(order) for order in "<>"}


def little(c: Any, raw: bytes) -> bytes:
    """The bytes of a little-endian object."""
    if isinstance(c, (TextCodec, BytesCodec)):
        return raw
    if isinstance(c, ArrayCodec):
        size = c.element_size
        return b"".join(little(c.element, raw[at : at + size]) for at in range(0, len(raw), size))
    if not isinstance(c, RecordCodec):
        return raw[::-1]
    if any(isinstance(member.codec, BitsCodec) for member in c.members):
        shown = re.search(r"\(of `struct bits`: `([0-9a-f ]+)`\)", PAGE)
        assert shown is not None
        return bytes.fromhex(shown[1])
    found = bytearray(raw)
    for member in c.members:
        end = member.offset + member.codec.size if member.codec.size else len(raw)
        found[member.offset : end] = little(member.codec, raw[member.offset : end])
    return bytes(found)


def test_there_are_rows_for_all_types() -> None:
    assert {row.c_type for row in ROWS} == {*CODECS["<"]}
    assert sum(bool(row.given) for row in ROWS) >= 14


@both_orders
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.c_type}: {row.value}")
def test_row(row: Row, order: str) -> None:
    c = CODECS[order][row.c_type]
    raw = row.raw if order == ">" else little(c, row.raw)
    names: dict[str, Any] = {}
    for name, each in CODECS[order].items():
        made = getattr(each, "record", None) or getattr(each, "enum", None)
        if made is not None:
            names[name.split()[-1]] = made
    wanted = eval(row.value, names)
    found = c.decode(raw)
    assert found == wanted
    assert type(found) is type(wanted) or issubclass(type(found), type(wanted))
    assert repr(found) == repr(wanted) or isinstance(found, int)
    if row.written:
        assert c.encode(found) == raw
        assert c.encode(wanted) == raw or type(found) is not type(wanted)
        for given in row.given:
            assert c.encode(eval(given, names)) == raw, given
