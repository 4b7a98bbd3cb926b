"""Values: what each C type is in Python, there and back.

One module: all codecs are made of the same few types here, and put through the same properties.
"""

from __future__ import annotations

import copy
import ctypes
import json
import math
import pickle
import struct
from enum import IntEnum
from typing import Any

import pytest
from btf_samples import orders, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.btf import Btf, arrays
from pybpfload.btf import types as t
from pybpfload.btf.arrays import CText
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.records import RecordCodec
from pybpfload.btf.values import Record, ValueMismatchError, codec, raw_codec
from pybpfload.errors import BpfError, FormatError

both_orders = pytest.mark.parametrize("order", "<>")


class Types(BtfBuilder):
    """Types to build with; ``of`` gives the codec of one when all are there."""

    def __init__(self, order: str = "<") -> None:
        super().__init__(order)
        self.int = self.add_int("int", 4, t.INT_SIGNED)
        self.u8 = self.add_int("unsigned char", 1)
        self.u16 = self.add_int("unsigned short", 2)
        self.u32 = self.add_int("unsigned int", 4)
        self.u64 = self.add_int("unsigned long", 8)
        self.s8 = self.add_int("signed char", 1, t.INT_SIGNED)
        self.char = self.add_int("char", 1, t.INT_SIGNED)
        self.bool = self.add_int("_Bool", 1, t.INT_BOOL)
        self.double = self.add_float("double", 8)

    def arr(self, of: int, n: int) -> int:
        return self.add_array(of, n, self.u32)

    def of(self, type_id: int) -> Any:
        return codec(self.btf(), type_id)


def event(order: str = "<") -> Any:
    b = Types(order)
    return b.of(
        b.add_struct(
            "event",
            64,
            [
                ("pid", b.u32, 0),
                ("delta", b.int, 32),
                ("ts", b.u64, 64),
                ("comm", b.arr(b.char, 16), 128),
                ("mac", b.arr(b.u8, 6), 256),
                ("file", b.arr(b.char, 24), 320),
            ],
        )
    )


# Scalars


@both_orders
@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_integers(order: str, size: int, signed: bool) -> None:
    b = Types(order)
    c = b.of(b.add_int("number", size, int(signed)))
    low, high = (
        (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if signed else (0, (1 << 8 * size) - 1)
    )
    for value in (low, 0, 1, high):
        raw = value.to_bytes(size, "little" if order == "<" else "big", signed=signed)
        assert c.encode(value) == raw
        assert c.decode(b"?" + raw, 1) == value
    for wrong in (low - 1, high + 1, "1", 1.0, None, b"\0" * size):
        with pytest.raises(ValueMismatchError, match=f"number: expected int from {low} to {high}"):
            c.encode(wrong)
    with pytest.raises(ValueMismatchError, match=f"at least {size} bytes, got {size - 1} bytes"):
        c.decode(bytes(size - 1))
    with pytest.raises(ValueMismatchError):
        c.decode(bytes(size), 0, size - 1)
    assert (c.name, c.size) == ("number", size)


@both_orders
def test_bool(order: str) -> None:
    b = Types(order)
    wide = b.add_int("bool32", 4, t.INT_BOOL)
    for c, raw in ((b.of(b.bool), b"\1"), (b.of(wide), struct.pack(order + "I", 1))):
        assert c.decode(raw) is True
        assert c.decode(bytes(len(raw))) is False
        assert c.decode(b"\7" * len(raw)) is True
        assert c.encode(True) == c.encode(1) == raw
        for wrong in (2, "yes", None):
            with pytest.raises(ValueMismatchError):
                c.encode(wrong)


@both_orders
def test_floats(order: str) -> None:
    b = Types(order)
    for size, code in ((2, "e"), (4, "f"), (8, "d")):
        c = b.of(b.add_float("x", size))
        assert c.decode(struct.pack(order + code, 1.5)) == 1.5
        assert c.encode(1.5) == struct.pack(order + code, 1.5)
        assert math.isnan(c.decode(c.encode(math.nan)))
        with pytest.raises(ValueMismatchError):
            c.encode("1.5")
    with pytest.raises(ValueMismatchError):
        b.of(b.add_float("x", 4)).encode(1e300)
    assert b.of(b.add_float("long double", 16)).decode(bytes(range(16))) == bytes(range(16))
    with pytest.raises(FormatError):
        b.of(b.add_float("x", 3))


@both_orders
def test_pointers(order: str) -> None:
    b = Types(order)
    c = b.of(b.add_ptr(0))
    assert (c.size, c.name) == (8, "void *")
    assert c.decode(c.encode(0xFFFF888000000000)) == 0xFFFF888000000000
    narrow = Btf.from_bytes(b.build(), pointer_size=4)
    assert codec(narrow, len(narrow) - 1).size == 4


@both_orders
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_enums(order: str, size: int) -> None:
    b = Types(order)
    c = b.of(b.add_enum("state", size, [("IDLE", 0), ("BUSY", 1), ("ERROR", -1)]))
    busy = c.decode(c.encode(1))
    assert isinstance(busy, IntEnum)
    assert busy is c.enum.BUSY
    assert (busy.name, type(busy).__name__, f"{busy} {busy:3d}") == ("BUSY", "state", "1   1")
    assert c.decode(b"\xff" * size).name == "ERROR"
    odd = c.decode(c.encode(77))
    assert (odd, odd.name, repr(odd)) == (77, "UNKNOWN_77", "<state.UNKNOWN_77: 77>")
    assert c.encode("ERROR") == c.encode(-1) == c.encode(c.enum.ERROR)
    for wrong in ("NONE", 1 << 8 * size, None, 1.0):
        with pytest.raises(ValueMismatchError):
            c.encode(wrong)


def test_enum64() -> None:
    b = Types()
    c = b.of(b.add_enum64("big", 8, [("BIG", 1 << 63)]))
    assert c.decode(c.encode("BIG")).name == "BIG"
    with pytest.raises(ValueMismatchError):
        c.encode(-1)


HOSTILE_NAMES = [
    *("mro", "__class__", "_x_", "_missing_", "__init__", "name", "value", "_value_", "real"),
    *("__str__", "_BtfEnum__x", "_e__x", "class", "", "with space", "\x1b[2J", "_", "__", "___"),
    *("to_bytes", "_generate_next_value_", "_ignore_", "__slots__", "__del__", "_fields", "count"),
    *("asdict", "_codec", "_replace", "__getattribute__", "from", "from_", "index", "__module__"),
    *("__eq__", "__hash__", "__doc__", "__new__", "_asdict", "self", "cls", "__reduce_ex__"),
]


def test_enumerators_of_any_name() -> None:
    b = Types()
    c = b.of(b.add_enum("e", 4, [(name, n) for n, name in enumerate(HOSTILE_NAMES)]))
    for n, name in enumerate(HOSTILE_NAMES):
        member = c.decode(c.encode(n))
        assert member == n
        assert not name or c.encode(name) == c.encode(n)
        assert not name or member.name in (name, "e" + name)
        assert f"{member}" == str(n)
    assert c.decode(c.encode(0)).name == "emro"


@given(st.lists(st.text("_aem", max_size=5)))
def test_enumerators_of_random_names(names: list[str]) -> None:
    b = Types()
    c = b.of(b.add_enum("e", 4, [(name, n) for n, name in enumerate(names)]))
    for n in range(len(names)):
        assert c.decode(c.encode(n)) == n


def test_enum_of_very_many() -> None:
    b = Types()
    c = b.of(b.add_enum("e", 4, [(f"E{n}", n) for n in range(5000)]))
    assert type(c.decode(c.encode(7))) is int
    assert c.encode("E4999") == c.encode(4999)


# Arrays


def test_text() -> None:
    b = Types()
    c = b.of(b.arr(b.add_typedef("name_t", b.add_const(b.char)), 8))
    assert c.name == "const name_t[8]" or c.name == "name_t[8]"
    assert c.decode(b"bash\0\0\0\0") == "bash"
    assert type(c.decode(b"bash\0\0\0\0")) is str
    assert c.decode(b"12345678") == "12345678"
    assert c.encode("bash") == c.encode(b"bash") == b"bash\0\0\0\0"
    assert c.encode("é") == b"\xc3\xa9" + bytes(6)
    assert c.encode("\udcff") == b"\xff" + bytes(7)
    assert c.encode(b"a\0b") == b"a\0b" + bytes(5)
    for wrong in ("123456789", b"123456789", "ééééé", "a\0b", "\ud800", 5, None, [1]):
        with pytest.raises(ValueMismatchError):
            c.encode(wrong)


def test_text_that_is_not_all() -> None:
    b = Types()
    c = b.of(b.arr(b.char, 8))
    rest, broken = c.decode(b"ab\0junk!"), c.decode(b"a\xffb\0\0\0\0\0")
    assert rest == "ab"
    assert broken == r"a\xffb"
    for value, raw in ((rest, b"ab\0junk!"), (broken, b"a\xffb\0\0\0\0\0")):
        assert isinstance(value, CText)
        assert value.raw == c.encode(value) == raw
        assert hash(value) == hash(str(value))
        assert copy.deepcopy(value) == value
    json.dumps(rest)
    with pytest.raises(ValueMismatchError):
        b.of(b.arr(b.char, 4)).encode(rest)


@given(st.binary(min_size=8, max_size=8))
def test_text_keeps_all_bytes(raw: bytes) -> None:
    b = Types()
    c = b.of(b.arr(b.char, 8))
    value = c.decode(raw)
    assert c.encode(value) == raw
    str(value).encode()  # can always be printed


def test_texts_that_are_kept_are_few() -> None:
    b = Types()
    c = b.of(b.arr(b.char, 16))
    raws = [b"%d" % number + bytes(16 - len(b"%d" % number)) for number in range(10_000)]
    assert c.decode_many(b"".join(raws)) == [str(number) for number in range(10_000)]
    assert [c.decode(raw) for raw in raws] == [str(number) for number in range(10_000)]
    assert 0 < len(arrays._short_texts) <= 4096


def test_bytes() -> None:
    b = Types()
    for c in (b.of(b.arr(b.u8, 4)), b.of(b.arr(b.add_typedef("__u8", b.u8), 4))):
        assert c.decode(b"\0\1\2\3") == b"\0\1\2\3"
        assert c.encode(b"\0\1\2\3") == c.encode([0, 1, 2, 3]) == b"\0\1\2\3"
        assert c.encode(bytearray(4)) == c.encode(memoryview(bytes(4))) == bytes(4)
        for wrong in (b"123", b"12345", "1234", [256, 0, 0, 0], 4, ["1"]):
            with pytest.raises(ValueMismatchError):
                c.encode(wrong)


@both_orders
def test_arrays(order: str) -> None:
    b = Types(order)
    c = b.of(b.arr(b.int, 3))
    raw = struct.pack(order + "3i", 1, -2, 3)
    assert c.decode(raw) == (1, -2, 3)
    assert c.encode([1, -2, 3]) == c.encode((1, -2, 3)) == c.encode(raw) == raw
    for wrong in ([1, 2], [1, 2, 3, 4], "123", {0: 1}, 5, {1, 2, 3}, b"123"):
        with pytest.raises(ValueMismatchError):
            c.encode(wrong)
    with pytest.raises(ValueMismatchError) as caught:
        c.encode([1, 2, "x"])
    assert str(caught.value) == (
        "(int[3])[2]: expected int from -2147483648 to 2147483647, got 'x' (str)"
    )
    assert b.of(b.arr(b.s8, 2)).decode(b"\xff\1") == (-1, 1)
    assert b.of(b.arr(b.bool, 2)).decode(b"\0\2") == (False, True)
    assert b.of(b.arr(b.arr(b.char, 4), 2)).decode(b"ab\0\0cd\0\0") == ("ab", "cd")
    assert b.of(b.arr(b.arr(b.u16, 2), 2)).decode(struct.pack(order + "4H", 1, 2, 3, 4)) == (
        (1, 2),
        (3, 4),
    )
    assert b.of(b.arr(b.arr(b.u16, 2), 2)).encode([[1, 2], (3, 4)]) == struct.pack(
        order + "4H", 1, 2, 3, 4
    )
    assert b.of(b.arr(b.add_int("u128", 16), 1)).decode(b"\xff" * 16) == ((1 << 128) - 1,)
    assert b.of(b.arr(b.int, 0)).decode(b"") == ()


# Structs


@both_orders
def test_struct(order: str) -> None:
    c = event(order)
    raw = struct.pack(order + "IiQ16s6s2x24s", 1, -2, 3, b"bash", b"abcdef", b"/bin/bash")
    e = c.decode(b"junk" + raw + b"more", 4)
    assert isinstance(e, Record)
    assert isinstance(e, tuple)
    assert (e.pid, e.delta, e.ts, e.comm, e.mac, e.file) == e
    assert e == (1, -2, 3, "bash", b"abcdef", "/bin/bash")
    assert e._fields == ("pid", "delta", "ts", "comm", "mac", "file")
    assert repr(e) == ("event(pid=1, delta=-2, ts=3, comm='bash', mac=b'abcdef', file='/bin/bash')")
    assert e.asdict() == dict(zip(e._fields, e, strict=True))
    assert e.to_bytes() == bytes(e._codec.encode(e)) == raw
    assert type(e).from_buffer(raw) == e
    assert (c.name, c.label, c.size, type(e)) == ("struct event", "event", 64, c.record)
    assert hash(e) == hash(c.decode(raw))
    assert copy.copy(e) is e
    assert copy.deepcopy([e]) == [e]
    for given_value in (e, e.asdict(), tuple(e), list(e), raw, bytearray(raw)):
        assert c.encode(given_value) == raw
    assert c.decode(memoryview(bytearray(raw))) == e
    assert c.decode((ctypes.c_char * 64).from_buffer_copy(raw)) == e


def test_making_records() -> None:
    c = event()
    made = c.record
    assert made() == (0, 0, 0, "", bytes(6), "")
    assert made(1, comm="x").asdict()["comm"] == "x"
    e = made(pid=1, comm="x")
    assert e._replace(pid=2, file="/") == made(pid=2, comm="x", file="/")
    assert e.pid == 1
    with pytest.raises(AttributeError):
        e.pid = 3
    with pytest.raises(AttributeError):
        e.new = 3
    assert c.encode({"pid": 1}) == made(1).to_bytes()
    # A record of the same fields from another table, as after loading twice
    assert c.encode(event().record(pid=1)) == made(1).to_bytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"comm": "x" * 17}, "event.comm: expected at most 16 bytes of text, got 17 in "),
        ({"pid": -1}, "event.pid: expected int from 0 to 4294967295, got -1 (int)"),
        ({"nope": 1}, "event: expected only fields pid, delta, ts, comm, mac, file, got 'nope'"),
        ({5: 1}, "event: expected only fields pid, delta, ts, comm, mac, file, got 5"),
        ((1, 2), "event: expected 6 fields, got 2"),
        (b"short", "event: expected 64 bytes, got 5"),
        (7, "event: expected event record, dict or bytes, got 7 (int)"),
        ("text", "event: expected event record, dict or bytes, got 'text' (str)"),
    ],
)
def test_misfits(value: Any, message: str) -> None:
    with pytest.raises(ValueMismatchError) as caught:
        event().encode(value)
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, (BpfError, ValueError))
    assert len(str(caught.value)) < 200


def test_misfits_of_making() -> None:
    made = event().record
    for wrong in (lambda: made(*range(7)), lambda: made(1, pid=1), lambda: made(1)._replace(x=1)):
        with pytest.raises(ValueMismatchError, match=r"^event"):
            wrong()
    with pytest.raises(ValueMismatchError, match=r"^event: expected at least 64 bytes, got 63 "):
        made.from_buffer(bytes(63))
    with pytest.raises(ValueMismatchError):
        made.from_buffer(bytes(64), 64)
    with pytest.raises(ValueMismatchError):
        event().decode(bytes(64), 0, 63)


def nested(order: str) -> tuple[Types, int]:
    b = Types(order)
    point = b.add_struct("point", 8, [("x", b.int, 0), ("y", b.int, 32)])
    line = b.add_struct(
        "line",
        48,
        [
            ("ends", b.arr(point, 2), 0),
            ("id", b.u16, 128),
            ("mid", b.add_const(b.add_typedef("point_t", point)), 160),
            ("flags", b.arr(b.bool, 4), 224),
            ("wide", b.add_int("__int128", 16, 1), 256),
        ],
    )
    return b, line


@both_orders
def test_nested(order: str) -> None:
    b, line = nested(order)
    btf = b.btf()
    c: Any = codec(btf, line)
    value = c.record(ends=[{"x": 1}, (2, 3)], mid={"y": -1}, flags=[True] * 4, wide=-5)
    assert value.ends[1].y == 3
    assert value.mid == (0, -1)
    assert value.wide == -5
    assert c.decode(value.to_bytes()) == value
    assert value.asdict()["ends"] == [{"x": 1, "y": 0}, {"x": 2, "y": 3}]
    assert json.loads(json.dumps(value.asdict()))["mid"] == {"x": 0, "y": -1}
    with pytest.raises(ValueMismatchError) as caught:
        c.encode({"ends": [(0, 0), {"y": 1 << 40}]})
    assert caught.value.path == "line.ends[1].y"
    # The class of a struct is one, whatever typedefs lead to it.
    assert type(value.mid) is codec(btf, btf.find("point")).record  # type: ignore[attr-defined]
    assert codec(btf, btf.find("point_t")).name == "point_t"
    assert codec(btf, btf.find("point_t")) is codec(btf, btf.find("point_t"))


@both_orders
def test_anonymous_members(order: str) -> None:
    b = Types(order)
    pair = b.add_struct("", 8, [("low", b.u32, 0), ("high", b.u32, 32)])
    union = b.add_union("", 8, [("", pair, 0), ("whole", b.u64, 0)])
    c = b.of(b.add_struct("reg", 12, [("id", b.u32, 0), ("", union, 32)]))
    assert c.record._fields == ("id", "low", "high", "whole")
    value = c.record(id=1, low=2, high=3)
    whole = struct.unpack(order + "Q", struct.pack(order + "2I", 2, 3))[0]
    assert value.whole == whole
    assert c.record(id=1, whole=whole) == value
    assert (
        value._replace(low=9).whole
        == struct.unpack(order + "Q", struct.pack(order + "2I", 9, 3))[0]
    )
    assert c.encode(value) == c.encode(value.asdict()) == struct.pack(order + "3I", 1, 2, 3)
    with pytest.raises(ValueMismatchError, match=r"reg\.low: expected the value that other"):
        c.encode({"low": 1, "whole": 2 | 2 << 32})


@both_orders
def test_union(order: str) -> None:
    b = Types(order)
    record = b.add_struct("odd", 8, [("a", b.u8, 0), ("b", b.u32, 32)])
    c = b.of(
        b.add_union(
            "any",
            8,
            [
                ("f", b.double, 0),
                ("yes", b.bool, 0),
                ("n", b.u64, 0),
                ("raw", b.arr(b.u8, 8), 0),
                ("s", record, 0),
            ],
        )
    )
    value = c.decode(struct.pack(order + "d", 2.5))
    assert value.f == 2.5
    assert value.raw == struct.pack(order + "d", 2.5)
    assert c.encode({"f": 2.5}) == value.raw
    assert value._replace(n=0).f == 0.0
    # Members that lose something on the way do not spoil the others.
    for raw in (b"\7" * 8, b"\1\2\3\4\5\6\7\x08", struct.pack(order + "Q", 0x7FF0000000000001)):
        value = c.decode(raw)
        assert c.encode(value) == raw
        assert c.encode(value.asdict()) == raw
        assert value._replace().to_bytes() == raw
    with pytest.raises(ValueMismatchError, match=r"any\.f: expected the value that other"):
        c.encode({"f": 1.0, "n": 5})


@both_orders
def test_truth_values_that_share_bytes(order: str) -> None:
    b = Types(order)
    first = 0 if order == "<" else 7  # the least significant bit
    inner = b.add_union("inner", 1, [("yes", b.bool, 0), ("odd", b.u8, first, 1)])
    outer = b.add_union("outer", 1, [("inner", inner, 0), ("n", b.u8, 0)])
    several = b.of(b.arr(outer, 1))
    c = b.of(outer)
    # By themselves True would be 1, which is odd; the number makes it 2, and all three are right.
    even = c.decode(b"\2")
    assert even.asdict() == {"inner": {"yes": True, "odd": 0}, "n": 2}
    assert c.encode(even.asdict()) == c.encode(tuple(even)) == b"\2"
    assert c.encode({"inner": {"yes": True}, "n": 2}) == b"\2"
    assert c.encode({"inner": {"yes": True}}) == b"\1"
    for wrong, place in (
        ({"inner": {"yes": True, "odd": 0}}, "inner.yes"),
        ({"inner": {"yes": True}, "n": 0}, "inner.yes"),
        ({"inner": {"yes": False}, "n": 2}, "inner.yes"),
        ({"inner": {"odd": 1}, "n": 2}, "inner.odd"),
        ({"inner": b"\1", "n": 2}, "inner"),
    ):
        with pytest.raises(ValueMismatchError, match=rf"^outer\.{place}: expected the value that"):
            c.encode(wrong)
        with pytest.raises(ValueMismatchError, match=rf"\[0\]\.{place}: expected the value that"):
            several.encode([wrong])


@both_orders
def test_bit_fields(order: str) -> None:
    b = Types(order)
    color = b.add_enum("color", 4, [("RED", 0), ("BLUE", 2)])
    c = b.of(
        b.add_struct(
            "bits",
            12,
            [
                ("a", b.u32, 0, 3),
                ("b", b.int, 3, 5),
                ("yes", b.bool, 8, 1),
                ("c", color, 9, 2),
                ("over", b.u32, 12, 20),  # across bytes
                ("d", b.u64, 32, 33),  # across words
                ("last", b.u8, 72),
            ],
        )
    )
    value = c.record(a=5, b=-3, yes=True, c="BLUE", over=0xABCDE, d=1 << 32 | 1, last=7)
    assert value == (5, -3, True, 2, 0xABCDE, 1 << 32 | 1, 7)
    assert value.c.name == "BLUE"
    assert c.decode(value.to_bytes()) == value
    number = int.from_bytes(value.to_bytes(), "little" if order == "<" else "big")
    if order == "<":
        assert number & 7 == 5
        assert number >> 12 & 0xFFFFF == 0xABCDE
    else:
        assert number >> 93 == 5
        assert number >> 96 - 32 & 0xFFFFF == 0xABCDE
    for wrong in (
        {"a": 8},
        {"b": 16},
        {"b": -17},
        {"yes": 2},
        {"c": "GREEN"},
        {"c": 4},
        {"a": "1"},
    ):
        with pytest.raises(ValueMismatchError, match=r"^bits\."):
            c.encode(wrong)


def test_bit_fields_as_the_compiler_lays_them_out() -> None:
    class Bits(ctypes.LittleEndianStructure):
        _fields_ = (
            ("a", ctypes.c_uint, 3),
            ("b", ctypes.c_int, 5),
            ("c", ctypes.c_uint, 20),
            ("d", ctypes.c_uint, 13),
        )

    class BigBits(ctypes.BigEndianStructure):
        _fields_ = Bits._fields_

    for kind, order in ((Bits, "<"), (BigBits, ">")):
        b = Types(order)
        members = [
            ("a", b.u32, 0, 3),
            ("b", b.int, 3, 5),
            ("c", b.u32, 8, 20),
            ("d", b.u32, 32, 13),
        ]
        c = b.of(b.add_struct("bits", 8, members))
        native = kind(5, -2, 0x54321, 0x1234)
        assert c.decode(bytes(native)) == (5, -2, 0x54321, 0x1234)
        assert c.encode({"a": 5, "b": -2, "c": 0x54321, "d": 0x1234}) == bytes(native)


def test_old_bit_fields() -> None:
    # Before Linux 4.20 the width was in an integer type of its own (no kflag).
    b = Types()
    three = b.add_int("unsigned int", 4, 0, 3)
    shifted = b.add_int("unsigned int", 4, 0, 5, 3)
    c = b.of(b.add_struct("old", 4, [("a", three, 0), ("b", shifted, 0)]))
    assert c.decode(b"\xfd\0\0\0") == (5, 31)


@both_orders
def test_packed(order: str) -> None:
    b = Types(order)
    c = b.of(b.add_struct("odd", 15, [("a", b.u8, 0), ("b", b.u64, 8), ("c", b.u32, 88)]))
    raw = struct.pack(order + "BQ2xI", 1, 2, 3)
    assert c.decode(raw) == (1, 2, 3)
    assert c.encode((1, 2, 3)) == raw


@both_orders
def test_flexible_arrays(order: str) -> None:
    b = Types(order)
    ints = b.of(b.add_struct("list", 4, [("n", b.u32, 0), ("items", b.arr(b.u16, 0), 32)]))
    raw = struct.pack(order + "I3H", 3, 1, 2, 3)
    value = ints.decode(raw + b"x")
    assert value == (3, (1, 2, 3))
    assert value.to_bytes() == ints.encode({"n": 3, "items": [1, 2, 3]}) == raw
    assert ints.decode(raw, 0, 8).items == (1, 2)
    assert ints.decode(b"??" + raw, 2).items == (1, 2, 3)
    assert ints.decode(raw[:4]) == (3, ())
    assert ints.encode({"n": 3}) == raw[:4]
    assert value._replace(items=[7]).items == (7,)
    assert value._replace(n=9).items == (1, 2, 3)
    text = b.of(b.add_struct("msg", 4, [("n", b.u32, 0), ("text", b.arr(b.char, 0), 32)]))
    assert text.decode(raw[:4] + b"hello\0").text == "hello"
    assert text.record(n=1, text="hello").to_bytes()[4:] == b"hello"
    key = b.of(b.add_struct("lpm", 4, [("prefixlen", b.u32, 0), ("data", b.arr(b.u8, 0), 32)]))
    assert key.encode({"prefixlen": 24, "data": b"\x0a\0\0\0"})[4:] == b"\x0a\0\0\0"
    assert key.encode(bytes(8)) == bytes(8)
    with pytest.raises(ValueMismatchError, match=r"list\.items\[1\]"):
        ints.encode({"items": [1, -1]})
    # In padding at the end
    tight = b.of(
        b.add_struct("t", 8, [("n", b.u32, 0), ("k", b.u8, 32), ("data", b.arr(b.u8, 0), 40)])
    )
    assert tight.decode(bytes(5) + b"abc").data == b"abc"
    assert tight.record(data=b"abcd").to_bytes() == bytes(5) + b"abcd"
    assert tight.record(data=b"a").to_bytes() == bytes(5) + b"a\0\0"
    assert len(tight.decode(bytes(5) + b"abcdef")._replace(data=b"xy").data) == 3


def test_flexible_arrays_inside() -> None:
    b = Types()
    inner = b.add_struct("in", 8, [("n", b.u32, 0), ("k", b.u8, 32), ("data", b.arr(b.u8, 0), 40)])
    c = b.of(b.add_struct("out", 20, [("one", inner, 0), ("two", inner, 64), ("z", b.u32, 128)]))
    value = c.decode(bytes(range(20)))
    assert value.one.data == value.two.data == b""
    assert c.decode(c.encode(value)) == value
    with pytest.raises(ValueMismatchError, match=r"out\.one\.data"):
        c.encode({"one": {"data": b"x"}})
    # A marker in the middle is no flexible array.
    marked = b.of(b.add_struct("m", 4, [("mark", b.arr(b.u8, 0), 0), ("n", b.u32, 0)]))
    assert marked.decode(bytes(8)) == (b"", 0)
    # Several at the end share the bytes.
    union = b.add_union("", 0, [("bytes", b.arr(b.u8, 0), 0), ("words", b.arr(b.u32, 0), 0)])
    shared = b.of(b.add_struct("s", 4, [("n", b.u32, 0), ("", union, 32)]))
    value = shared.decode(bytes(4) + b"\1\0\0\0\2\0")
    assert (value.bytes, value.words) == (b"\1\0\0\0\2\0", (1,))
    assert value.to_bytes() == bytes(4) + b"\1\0\0\0\2\0"
    assert shared.encode({"words": [5]}) == bytes(4) + b"\5\0\0\0"


def test_typedefs_and_variables() -> None:
    b = Types()
    pid = b.add_typedef("pid_t", b.add_typedef("__kernel_pid_t", b.int))
    anonymous = b.add_struct("", 4, [("pid", pid, 0)])
    named = b.add_typedef("outer_t", b.add_const(b.add_typedef("key_t", b.add_volatile(anonymous))))
    var = b.add_var("counter", b.add_volatile(pid))
    btf = b.btf()
    assert codec(btf, pid).name == "pid_t"
    assert codec(btf, var).name == "volatile pid_t"
    assert codec(btf, b.int).name == "int"
    assert codec(btf, var).decode(b"\1\0\0\0") == 1
    assert repr(codec(btf, named).decode(bytes(4))) == "key_t(pid=0)"
    assert codec(btf, named).name == "outer_t"
    lone = b.add_struct("", 4, [("pid", pid, 0)])
    assert repr(b.of(lone).decode(bytes(4))) == "anonymous(pid=0)"


def test_no_values() -> None:
    b = Types()
    proto = b.add_func_proto(0)
    wrong = [
        0,
        proto,
        b.add_func("f", proto),
        b.add_fwd("hidden"),
        b.add_datasec(".data", 0, []),
        b.arr(0, 4),
        b.add_int("odd", 3),
        b.add_enum("odd", 3, []),
        b.add_struct("s", 4, [("hidden", b.add_fwd("gone"), 0)]),
    ]
    btf = b.btf()
    for type_id in [*wrong, len(btf)]:
        with pytest.raises(FormatError):
            codec(btf, type_id)


def test_codecs_do_not_keep_the_table() -> None:
    import weakref

    b, line = nested("<")
    btf = b.btf()
    c = codec(btf, line)
    gone = weakref.ref(btf)
    del btf
    assert gone() is None
    assert c.decode(bytes(c.size)).id == 0


# Names


def test_fields_of_any_name() -> None:
    b = Types()
    names = [*HOSTILE_NAMES, "count", "twice", "twice", "twice"]
    c = b.of(b.add_struct("odd", len(names), [(n, b.u8, 8 * i) for i, n in enumerate(names)]))
    value = c.decode(bytes(range(len(names))))
    as_dict = Record.asdict(value)
    for position, name in enumerate(HOSTILE_NAMES):
        if name:  # one without a name is padding
            assert as_dict[name] == position
            reserved = {"_fields", "_codec", "_replace", "_asdict"}
            if not (name.startswith("__") and name.endswith("__")) and name not in reserved:
                assert getattr(value, name) == position
    assert value.class_ == HOSTILE_NAMES.index("class")
    assert value.from_ == HOSTILE_NAMES.index("from_")
    assert (value.twice, value.twice_2, value.twice_3) == tuple(value)[-3:]
    assert type(value).__name__ == "odd"
    assert value == c.decode(Record.to_bytes(value))
    assert isinstance(hash(value), int)
    assert "twice_3=" in repr(value)
    small = b.of(b.add_struct("edge", 2, [("from", b.u8, 0), ("to", b.u8, 8)]))
    edge = small.record(from_=1, to=2)
    assert getattr(edge, "from") == edge.from_ == 1
    assert small.encode({"from": 1, "to": 2}) == small.encode({"from_": 1, "to": 2})
    for wrong in ({"to_": 1}, {"xfrom": 1}, {"froms": 1}):
        with pytest.raises(ValueMismatchError):
            small.encode(wrong)


# Hostile layouts


def test_hostile_layouts() -> None:
    b = Types()
    itself = b.add_struct("itself", 8, [("again", len(b), 0)])
    loop = b.add_array(len(b), 2, b.u32)
    deep = b.u32
    for _ in range(40):
        deep = b.add_struct("deep", 4, [("x", deep, 0)])
    lifted = b.add_struct("", 4, [])
    for _ in range(25):
        lifted = b.add_struct("", 4, [("", lifted, 0), ("", lifted, 0)])
    doubled = b.add_union("u", 4, [("a", b.u32, 0), ("b", b.u32, 0)])
    for _ in range(25):
        doubled = b.add_union("u", 4, [("a", doubled, 0), ("b", doubled, 0)])
    huge = b.arr(b.arr(b.u64, 1 << 20), 1 << 20)
    wrong = [
        itself,
        loop,
        deep,
        lifted,
        doubled,
        huge,
        b.add_struct("beyond", 4, [("a", b.u64, 0)]),
        b.add_struct("beyond", 4, [("a", b.u8, 32)]),
        b.add_struct("beyond", 1, [("a", b.u32, 0, 9)]),
        b.add_struct("bit", 8, [("a", b.u32, 3)]),
        b.add_struct("bits", 8, [("a", b.u32, 0, 33)]),
        b.add_struct("bits", 8, [("a", b.double, 0, 3)]),
        b.add_struct("bits", 16, [("", doubled, 0), ("a", itself, 0, 3)]),
    ]
    btf = b.btf()
    for type_id in wrong:
        with pytest.raises(FormatError):
            codec(btf, type_id)


def test_sizes_are_only_claims() -> None:
    b = Types()
    btf_types = [
        b.arr(b.u8, 0xFFFFFFF0),
        b.arr(b.char, 0xFFFFFFF0),
        b.arr(b.u32, 0x3FFFFFF0),
        b.arr(b.add_struct("s", 4, [("x", b.u32, 0)]), 0x3FFFFFF0),
        b.add_struct("big", 0xFFFFFFF0, [("x", b.arr(b.u32, 0x3FFFFFF0), 0)]),
    ]
    nothing = b.arr(b.add_struct("empty", 0, []), 0xFFFFFFF0)
    btf = b.btf()
    for type_id in btf_types:
        c = codec(btf, type_id)
        with pytest.raises(ValueMismatchError):
            c.decode(bytes(100))
        with pytest.raises(BpfError):
            c.encode({} if isinstance(c, RecordCodec) else [])
    assert codec(btf, nothing).decode(b"") == ()


@given(tables, orders, st.binary(max_size=64))
def test_any_types(types: list[t.Type], order: str, raw: bytes) -> None:
    b = BtfBuilder(order)
    for value in types:
        b.add_type(value)
    btf = b.btf()
    for type_id in range(len(btf) + 1):
        try:
            c = codec(btf, type_id)
            value = c.decode(raw)
        except BpfError:
            continue
        if c.size <= len(raw):
            assert repr(c.decode(c.encode(value))) == repr(value)
            assert len(c.decode_many(raw, [0] * 3)) == 3


@st.composite
def sound(draw: st.DrawFn) -> tuple[BtfBuilder, int, int]:
    """A struct of random members, some overlapping, with its size."""
    b = Types(draw(orders))
    known = [b.int, b.u8, b.u16, b.u32, b.u64, b.s8, b.char, b.bool, b.double]
    known.append(b.add_enum("e", draw(st.sampled_from([1, 2, 4, 8])), [("A", 0), ("B", 5)]))
    known.append(b.add_int("u128", 16))
    for _ in range(draw(st.integers(0, 4))):
        known.append(b.arr(draw(st.sampled_from(known)), draw(st.integers(0, 5))))
    for _ in range(draw(st.integers(1, 4))):
        btf = b.btf()
        members: list[tuple[str, int, int, int]] = []
        at = end = 0
        kind = draw(st.sampled_from([b.add_struct, b.add_union]))
        for number in range(draw(st.integers(0, 5))):
            type_id = draw(st.sampled_from(known))
            width = 0
            if isinstance(btf[type_id], (t.Int, t.Enum)) and draw(st.booleans()):
                width = draw(st.integers(1, min(8 * btf.size(type_id), 64)))
            at += draw(st.integers(0, 9)) if width else 8 * draw(st.integers(0, 3))
            if not width:
                at = (at + 7) // 8 * 8
            name = (
                ""
                if isinstance(btf[type_id], t.Composite) and draw(st.booleans())
                else f"m{number}"
            )
            members.append((name, type_id, at, width))
            end = max(end, at + (width or 8 * btf.size(type_id)))
            at = 0 if kind == b.add_union else end
        known.append(kind("", (end + 7) // 8 + draw(st.integers(0, 3)), members))
    return b, known[-1], b.btf().size(known[-1])


@given(sound(), st.data())
def test_there_and_back(built: tuple[BtfBuilder, int, int], data: st.DataObject) -> None:
    b, type_id, size = built
    c: Any = codec(b.btf(), type_id)
    assert c.size == size
    raw = data.draw(st.binary(min_size=size, max_size=size))
    value = c.decode(raw)
    again = c.encode(value)
    # A truth value that was neither 0 nor 1, and the like, is settled from here on.
    settled = c.decode(again)
    assert c.encode(settled) == again
    assert c.encode(Record.asdict(settled)) == again
    assert c.encode(tuple(settled)) == again
    assert repr(pickle.loads(pickle.dumps(settled))) == repr(settled)
    if not c.loss:
        assert again == raw
    if not c.overlaps:
        assert repr(settled) == repr(value)
    assert c.decode(b"\xff\xff\xff" + raw, 3, size) == value or "nan" in repr(value)
    assert len(value) == len(value._fields) == len(set(value._fields))


@both_orders
def test_records_can_be_pickled(order: str) -> None:
    b = Types(order)
    state = b.add_enum("state", 4, [("IDLE", 0), ("BUSY", 5)])
    point = b.add_struct("point", 4, [("x", b.u16, 0), ("y", b.u16, 16)])
    top = b.add_struct(
        "top",
        20,
        [
            ("points", b.arr(point, 2), 0),
            ("state", state, 64),
            ("low", b.u32, 96, 3),
            ("comm", b.arr(b.char, 4), 128),
            ("rest", b.arr(b.char, 0), 160),
        ],
    )
    c = b.of(top)
    record = c.decode(c.encode({"points": [(1, 2), (3, 4)], "state": 5, "low": 3, "comm": "abc"}))
    other = c.decode(c.encode(record) + b"behind")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again, second = pickle.loads(pickle.dumps([record, other], protocol))
        assert again == record
        assert repr(again) == repr(record)
        assert again.points[1].y == 4
        assert again.state.name == "BUSY"
        assert again.to_bytes() == record.to_bytes()
        assert second.rest == "behind"
        assert type(second) is type(again)
    many = len(pickle.dumps([c.decode(bytes([n] * 20)) for n in range(100)]))
    assert many - len(pickle.dumps([record])) < 100 * 40  # the layout is there only once


def test_enumerators_can_be_pickled() -> None:
    b = Types()
    c = b.of(b.add_enum("state", 4, [("IDLE", 0), ("_codec_", 1), ("_codec", 2)]))
    for number, name in ((0, "IDLE"), (1, "e_codec_"), (2, "_codec"), (77, "UNKNOWN_77")):
        member = c.decode(number.to_bytes(4, "little"))
        again = pickle.loads(pickle.dumps(member))
        assert again == member
        assert repr(again) == repr(member)
        assert again.name == name
        assert copy.deepcopy(member) is member
    both = pickle.loads(pickle.dumps([c.enum.IDLE, c.enum.IDLE]))
    assert both[0] is both[1]


# Without BTF


@both_orders
def test_raw(order: str) -> None:
    for size, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q")):
        c = raw_codec(size, order)
        assert c.decode(struct.pack(order + code, 200)) == 200
        assert c.encode(200) == struct.pack(order + code, 200)
        assert c.encode(-1) == b"\xff" * size
        assert c.encode(bytes(size)) == bytes(size)
        for wrong in (1 << 8 * size, -(1 << 8 * size), bytes(size + 1), "x", None):
            with pytest.raises(ValueMismatchError):
                c.encode(wrong)
    c = raw_codec(6, order)
    assert c.decode(b"abcdefg") == b"abcdef"
    assert c.encode(b"abcdef") == c.encode(bytearray(b"abcdef")) == b"abcdef"
    for wrong in (5, b"abc", "abcdef"):
        with pytest.raises(ValueMismatchError):
            c.encode(wrong)
    assert raw_codec(6, order) is c
    assert raw_codec(0).decode(b"") == b""


# Many values


def _places(draw: st.DrawFn, size: int, count: int) -> tuple[Any, int]:
    """Offsets of ``count`` values, and how many bytes the buffer needs for them."""
    start, gap = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    found: Any = range(start, start + count * (size + gap), size + gap or 1)
    if draw(st.booleans()):
        found = draw(st.permutations(list(found)))
    return found, max(found, default=0) + size


@settings(max_examples=25)
@given(sound(), st.data())
def test_many_at_once_are_as_one_by_one(
    built: tuple[BtfBuilder, int, int], data: st.DataObject
) -> None:
    b, type_id, _ = built
    for each in (type_id, type_id - 1):
        c: Any = codec(b.btf(), each)
        places, needed = data.draw(st.composite(_places)(c.size, data.draw(st.integers(0, 5))))
        raw = data.draw(st.binary(min_size=needed, max_size=needed + 3))
        one_by_one = [c.decode(raw, at, c.size) for at in places]
        assert repr(c.decode_many(raw, places)) == repr(one_by_one)
        if len(places) and c.size:
            with pytest.raises(ValueMismatchError, match="expected at least"):
                c.decode_many(raw[: max(places) + c.size - 1], places)


@both_orders
def test_many_of_each_kind(order: str) -> None:
    b = Types(order)
    state = b.add_enum("state", 4, [("IDLE", 0), ("BUSY", 1)])
    pair = b.add_struct("pair", 8, [("x", b.u32, 0), ("state", state, 32)])
    empty = b.add_struct("empty", 0, [])
    name = b.arr(b.char, 4)
    types = [b.u64, b.bool, b.double, state, name, b.arr(b.u16, 3), b.arr(pair, 2), pair]
    btf = b.btf()
    for type_id in types:
        c = codec(btf, type_id)
        raw = bytes(n % 3 for n in range(700 * c.size))
        found = c.decode_many(raw)
        assert found == [c.decode(raw, at) for at in range(0, len(raw), c.size)]
        assert list(map(type, found)) == [type(c.decode(raw))] * 700
        assert c.decode_many(memoryview(bytearray(raw)), range(0)) == []
        if c.size > 1:
            with pytest.raises(ValueMismatchError, match=f"expected a multiple of {c.size} bytes"):
                c.decode_many(raw + b"x")
    names = codec(btf, name)
    assert names.decode_many(b"ab\0\0a\0b\0\xff\0\0\0") == ["ab", "a", r"\xff"]
    assert names.decode_many(b"ab\0\0a\0b\0")[1].raw == b"a\0b\0"
    assert codec(btf, empty).decode_many(b"") == []
    assert len(codec(btf, empty).decode_many(b"", [0, 0])) == 2
    with pytest.raises(ValueMismatchError):
        codec(btf, empty).decode_many(b"x")


@both_orders
def test_many_with_flexible_arrays(order: str) -> None:
    b = Types(order)
    c = b.of(b.add_struct("list", 4, [("n", b.u32, 0), ("items", b.arr(b.u16, 0), 32)]))
    raw = struct.pack(order + "I2HI2H", 1, 2, 3, 4, 5, 6)
    assert c.decode_many(raw, size=8) == [(1, (2, 3)), (4, (5, 6))]
    assert c.decode_many(raw, [8], size=6) == [(4, (5,))]
    assert [each.items for each in c.decode_many(raw)] == [()] * 4
    with pytest.raises(ValueMismatchError):
        c.decode_many(raw, size=3)
    # Inside of another type it holds nothing, though there are bytes.
    inner = b.add_struct("in", 4, [("n", b.u16, 0), ("data", b.arr(b.u8, 0), 16)])
    outer = b.of(b.add_union("out", 4, [("one", inner, 0), ("all", b.u32, 0)]))
    assert [each.one.data for each in outer.decode_many(raw)] == [b""] * 4
