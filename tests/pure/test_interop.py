"""C types for other libraries: users' classes, ctypes, numpy."""

from __future__ import annotations

import collections
import ctypes
import enum
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NewType

import pytest
from btf_samples import orders, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from test_values import Types, both_orders, event, sound

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.records import BitsCodec, RecordCodec
from pybpfload.btf.values import ValueMismatchError, codec, raw_codec
from pybpfload.errors import BpfError
from pybpfload.interop import numpy_types
from pybpfload.interop.ctypes_types import ctypes_class
from pybpfload.interop.python_types import TypeMismatchError, codec_for

if TYPE_CHECKING:
    from pybpfload.btf import types as t

numpy = pytest.importorskip("numpy")

EVENT = {
    "pid": 7,
    "delta": -2,
    "ts": 1 << 40,
    "comm": "bash",
    "mac": b"abcdef",
    "file": "/bin/bash",
}

Nanoseconds = NewType("Nanoseconds", int)


class State(enum.Enum):
    IDLE = 0
    BUSY = 1


@dataclass
class Event:
    pid: int
    comm: str
    ts: Nanoseconds = Nanoseconds(0)
    mac: Annotated[bytes, "hardware address"] = b""
    seen: list[str] = field(default_factory=list, init=False)


class ShortEvent(NamedTuple):
    ts: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    x: int
    y: Any


@dataclass
class Line:
    ends: list[Place]
    state: State
    mid: Place | None
    on: bool
    raw: bytes
    from_: int
    ratio: float
    pair: tuple[int, int]


def line(order: str = "<") -> RecordCodec:
    b = Types(order)
    point = b.add_struct("point", 8, [("x", b.int, 0), ("y", b.int, 32)])
    state = b.add_enum("state", 4, [("IDLE", 0), ("BUSY", 1), ("BROKEN", 2)])
    return b.of(
        b.add_struct(
            "line",
            64,
            [
                ("ends", b.arr(point, 2), 0),
                ("state", state, 128),
                ("mid", point, 160),
                ("on", b.bool, 224),
                ("raw", b.arr(b.char, 4), 232),
                ("from", b.u32, 264, 3),
                ("ratio", b.double, 320),
                ("pair", b.arr(b.u16, 2), 384),
            ],
        )
    )


@both_orders
def test_a_dataclass(order: str) -> None:
    c = event(order)
    raw = c.encode(EVENT)
    own = codec_for(Event, c)
    value = own.decode(raw)
    assert value == Event(7, "bash", Nanoseconds(1 << 40), b"abcdef")
    assert own.decode_many(raw * 3) == [value] * 3
    # What the class does not have is zero.
    assert own.encode(value) == c.encode({**EVENT, "delta": 0, "file": ""})
    assert own.encode(EVENT) == raw
    assert own.encode(c.decode(raw)) == raw
    assert (own.size, own.name, own.label) == (c.size, c.name, c.label)
    with pytest.raises(ValueMismatchError, match=r"^event\.pid: expected int"):
        own.encode(Event("7", "bash"))  # type: ignore[arg-type]
    with pytest.raises(ValueMismatchError):
        own.decode(raw[:-1])


@both_orders
def test_named_tuples(order: str) -> None:
    c = event(order)
    raw = c.encode(EVENT)
    for wanted in (ShortEvent, collections.namedtuple("Bare", "ts pid")):
        own = codec_for(wanted, c)
        value = own.decode(raw)
        assert (type(value), value) == (wanted, (1 << 40, 7))
        assert own.encode(value) == c.encode({"ts": 1 << 40, "pid": 7})
        assert own.decode_many(raw * 2) == [value, value]
    whole = collections.namedtuple("Whole", c.record._fields)  # type: ignore[misc]
    assert codec_for(whole, c).decode(raw) == c.decode(raw)


@both_orders
def test_everything_inside(order: str) -> None:
    c = line(order)
    own = codec_for(Line, c)
    place = Place(x=1, y=-1)
    given_line = Line([place, place], State.BUSY, place, True, b"ab\0c", 5, 0.5, (1, 2))
    raw = own.encode(given_line)
    assert own.decode(raw) == given_line
    assert c.decode(raw).ends == ((1, -1), (1, -1))
    assert getattr(c.decode(raw), "from") == 5
    unknown = c.decode(raw)._replace(state=9)
    assert own.decode(unknown.to_bytes()).state == 9
    b = Types(order)
    two = b.of(b.arr(_add_event(b), 2))
    for one_by_one in (tuple[Event], tuple[Event, Event, Event], tuple[Event, int]):
        with pytest.raises(TypeMismatchError):
            codec_for(one_by_one, two)
    assert len(codec_for(tuple[Event, Event], two).decode(bytes(two.size))) == 2
    assert codec_for(Sequence[Any], two) is two
    array = codec_for(list[Event], codec_for(tuple[Any, ...], codec_for(list[Event], two)))
    assert array.decode(bytes(array.size)) == [Event(0, "", Nanoseconds(0), bytes(6))] * 2


def _add_event(b: Types) -> int:
    members = [("pid", b.u32, 0), ("ts", b.u64, 64), ("comm", b.arr(b.char, 16), 128)]
    return b.add_struct("event", 40, [*members, ("mac", b.arr(b.u8, 6), 256)])


def _dataclass(**fields: Any) -> Any:
    return dataclass(type("Own", (), {"__annotations__": fields}))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            _dataclass(pid=int, comm=int),
            "Own does not fit struct event: field comm: BTF has char[16] at offset 16, 16 bytes",
        ),
        (
            _dataclass(pdi=int),
            "field pdi: BTF has no such member in struct event (did you mean 'pid'?), the class",
        ),
        (_dataclass(pid=bool), "field pid: BTF has unsigned int at offset 0, 4 bytes"),
        (
            _dataclass(pid=str, ts=float, mac=str),
            "field mac: BTF has unsigned char[6] at offset 32",
        ),
        (_dataclass(pid=ShortEvent), "the class has ShortEvent"),
        (_dataclass(mac=tuple[int, ...]), "the class has tuple[int, ...]"),
        (_dataclass(pid=str | None), "the class has str | None"),
        (int, "int does not fit struct event: BTF has struct event, 64 bytes, the class has int"),
        (line().record, "line does not fit struct event"),
    ],
)
def test_what_does_not_fit(wanted: Any, message: str) -> None:
    with pytest.raises(TypeMismatchError) as caught:
        codec_for(wanted, event())
    assert message in str(caught.value)
    assert isinstance(caught.value, (BpfError, TypeError))


def test_what_does_not_fit_inside() -> None:
    @dataclass
    class Point:
        x: int
        z: float

    class Other(enum.Enum):
        IDLE = 1

    wanted = _dataclass(ends=list[Point], mid=Point, state=Other, on=int, pair=tuple[int, int, int])
    with pytest.raises(TypeMismatchError) as caught:
        codec_for(wanted, line())
    fields = [each.field for each in caught.value.mismatches]
    assert fields == ["ends[].z", "mid.z", "state", "on", "pair"]
    assert str(caught.value).endswith("; and 1 more")
    for strange in (5, "int", int | None, dict[str, int]):
        with pytest.raises((TypeError, TypeMismatchError)):
            codec_for(strange, line())
    with pytest.raises(TypeError, match="annotations of Own cannot be evaluated"):
        codec_for(_dataclass(pid="NoSuchClass"), event())


def test_scalars_and_record_classes() -> None:
    b = Types()
    state = b.of(b.add_enum("state", 4, [("IDLE", 0), ("BUSY", 1)]))
    assert codec_for(State, state).decode(b"\1\0\0\0") is State.BUSY
    assert codec_for(State, state).encode(State.BUSY) == b"\1\0\0\0"
    assert codec_for(State, raw_codec(4)).decode(b"\1\0\0\0") is State.BUSY
    assert codec_for(int, state) is state
    c = event()
    for wanted in (Any, c.record, event().record, object):
        assert codec_for(wanted, c) is c
    assert codec_for(bytes, raw_codec(6)).decode(b"abcdef") == b"abcdef"
    assert codec_for(int, raw_codec(4)).decode(bytes(4)) == 0
    assert codec_for(bytes, b.of(b.arr(b.char, 4))).decode(b"ab\0c") == b"ab\0c"
    for wanted, inner in ((bytes, raw_codec(4)), (int, raw_codec(6)), (Event, raw_codec(64))):
        with pytest.raises(TypeMismatchError):
            codec_for(wanted, inner)


# ctypes


class CEvent(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("delta", ctypes.c_int),
        ("ts", ctypes.c_uint64),
        ("comm", ctypes.c_char * 16),
        ("mac", ctypes.c_ubyte * 6),
        ("_pad", ctypes.c_ubyte * 2),
        ("file", ctypes.c_char * 24),
    )


class CEventShifted(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (
        ("pid", ctypes.c_int32),
        ("comm", ctypes.c_char * 16),
        ("rest", ctypes.c_char * 44),
    )


def test_a_ctypes_structure() -> None:
    c = event()
    raw = c.encode(EVENT)
    own = codec_for(CEvent, c)
    value = own.decode(b"??" + raw, 2)
    assert isinstance(value, CEvent)
    assert (value.pid, value.delta, value.comm, bytes(value.mac)) == (7, -2, b"bash", b"abcdef")
    assert own.encode(value) == raw
    assert own.encode(EVENT) == raw
    assert [each.pid for each in own.decode_many(raw * 2)] == [7, 7]
    assert codec_for(CEvent, raw_codec(64)).encode(value) == raw
    with pytest.raises(ValueMismatchError, match="at least 64 bytes, got 63"):
        own.decode(raw[:-1])
    nested = codec_for(_dataclass(ends=Any, mid=_point(ctypes.c_int)), line())
    assert nested.decode(bytes(64)).mid.y == 0


def _point(kind: Any) -> Any:
    return type("Point", (ctypes.Structure,), {"_fields_": [("x", kind), ("y", kind)]})


def test_ctypes_structures_that_do_not_fit() -> None:
    with pytest.raises(TypeMismatchError) as caught:
        codec_for(CEventShifted, event())
    assert [each.field for each in caught.value.mismatches] == ["pid", "comm", "rest"]
    assert (
        "field comm: BTF has char[16] at offset 16, 16 bytes, the class has "
        "c_char_Array_16 at offset 4, 16 bytes" in str(caught.value)
    )
    with pytest.raises(TypeMismatchError, match=r"BTF has struct event, 64 bytes.*Point, 8 bytes"):
        codec_for(_point(ctypes.c_int), event())
    with pytest.raises(TypeMismatchError, match="class has little-endian c_uint at offset 0"):
        codec_for(CEvent, event(">"))
    with pytest.raises(TypeMismatchError, match=r"field mid\.x: BTF has int at offset 0, 4 bytes"):
        codec_for(_dataclass(mid=_point(ctypes.c_uint)), line())


@both_orders
def test_ctypes_bit_fields(order: str) -> None:
    b = Types(order)
    base = ctypes.LittleEndianStructure if order == "<" else ctypes.BigEndianStructure
    fields = [("a", ctypes.c_uint, 3), ("b", ctypes.c_int, 5), ("c", ctypes.c_uint, 20)]
    members = [("a", b.u32, 0, 3), ("b", b.int, 3, 5), ("c", b.u32, 8, 20)]
    c = b.of(b.add_struct("bits", 4, members))
    own = codec_for(type("Bits", (base,), {"_fields_": fields}), c)
    value = own.decode(c.encode({"a": 5, "b": -2, "c": 0x54321}))
    assert (value.a, value.b, value.c) == (5, -2, 0x54321)
    wrong = [("a", ctypes.c_uint, 4), ("b", ctypes.c_uint, 5), ("c", ctypes.c_uint, 20)]
    with pytest.raises(TypeMismatchError) as caught:
        codec_for(type("Bits", (base,), {"_fields_": wrong}), c)
    assert [each.field for each in caught.value.mismatches] == ["a", "b", "c"]


@both_orders
def test_ctypes_class(order: str) -> None:
    b = Types(order)
    point = b.add_struct("point", 8, [("x", b.int, 0), ("y", b.int, 32)])
    c = b.of(
        b.add_struct(
            "odd",
            64,
            [
                ("points", b.arr(point, 2), 8),
                ("name", b.arr(b.char, 5), 136),
                ("flag", b.bool, 176),
                ("low", b.u32, 184, 3),
                ("high", b.int, 187, 20),
                ("class", b.u16, 216),
                ("_fields_", b.u8, 232),
                ("wide", b.add_int("u128", 16), 256),
                ("ratio", b.double, 384),
            ],
        )
    )
    made = ctypes_class(c)
    assert made is ctypes_class(c.record)
    assert ctypes.sizeof(made) == 64
    value = made.from_buffer_copy(
        c.encode(
            {
                "points": [(1, -1), (2, -2)],
                "name": "ab",
                "flag": True,
                "low": 5,
                "high": -7,
                "class": 513,
                "_fields_": 9,
                "wide": 1,
                "ratio": 2.5,
            }
        )
    )
    assert (value.points[1].x, value.points[1].y, value.name, value.flag) == (2, -2, b"ab", True)
    assert (value.low, value.high, value.class_, value.m_fields_) == (5, -7, 513, 9)
    assert (len(value.wide), value.ratio) == (16, 2.5)
    value.high, value.low, value.points[0].x = 11, 1, 77
    again = c.decode(bytes(value))
    assert (again.high, again.low, again.points[0].x, again.ratio) == (11, 1, 77, 2.5)
    assert codec_for(made, c).decode(bytes(value)).high == 11
    with pytest.raises(AttributeError):
        value.nmae = b"x"
    with pytest.raises(TypeError, match="no struct"):
        ctypes_class(b.of(b.u32))


@both_orders
def test_ctypes_unions(order: str) -> None:
    b = Types(order)
    pair = b.add_struct("", 8, [("low", b.u32, 0), ("high", b.u32, 32)])
    union = b.add_union("", 8, [("", pair, 0), ("whole", b.u64, 0)])
    c = b.of(b.add_struct("reg", 16, [("id", b.u32, 0), ("", union, 64)]))
    value = ctypes_class(c)()
    value.id, value.low, value.high = 1, 2, 3
    whole = struct.unpack(order + "Q", struct.pack(order + "2I", 2, 3))[0]
    assert value.whole == whole
    assert c.decode(bytes(value)) == (1, 2, 3, whole)


@settings(max_examples=20)
@given(sound(), st.data())
def test_ctypes_classes_say_what_records_say(built: Any, data: st.DataObject) -> None:
    b, type_id, size = built
    c: Any = codec(b.btf(), type_id)
    made = ctypes_class(c)
    assert ctypes.sizeof(made) == size
    raw = data.draw(st.binary(min_size=size, max_size=size))
    value, expected = made.from_buffer_copy(raw), c.decode(raw)
    for member, wanted in zip(c.members, expected, strict=True):
        if isinstance(wanted, (int, float)) and member.codec.size < 16:
            found = getattr(value, member.name)
            assert found == wanted or repr(wanted) == repr(found) or bool(found) is wanted
    assert bytes(value) == raw


# numpy


def _same(found: Any, wanted: Any, c: Any) -> bool:
    """Whether numpy says what a codec says."""
    if isinstance(c, RecordCodec):
        return all(
            _same(found[m.name], each, m.codec)
            for m, each in zip(c.members, wanted, strict=True)
            if m.codec.size and not isinstance(m.codec, BitsCodec)
        )
    if isinstance(wanted, tuple):
        return all(_same(f, w, c.element) for f, w in zip(found, wanted, strict=True))
    if isinstance(wanted, bytes):
        return bytes(found.tobytes()) == wanted
    if isinstance(wanted, str):
        return bytes(found) == c.encode(wanted).rstrip(b"\0")
    if c.size == 16:
        return bytes(found.tobytes()) == c.encode(wanted)
    return bool(found == wanted) or bool(found) is wanted or str(found) == str(wanted)


@settings(max_examples=20)
@given(sound(), st.data())
def test_numpy_says_what_records_say(built: Any, data: st.DataObject) -> None:
    b, type_id, size = built
    c: Any = codec(b.btf(), type_id)
    kind = numpy_types.dtype(c)
    assert kind.itemsize == size
    raw = data.draw(st.binary(min_size=3 * size, max_size=3 * size))
    wanted = c.decode_many(raw, range(0, 3 * size, size) if size else [0, 0, 0])
    if not size:
        return
    found = numpy_types.array(c, raw)
    for one, expected in zip(found, wanted, strict=True):
        assert _same(one, expected, c)
    for member in c.members:
        if isinstance(member.codec, BitsCodec):
            column = numpy_types.bit_field(c, found, member.name).tolist()
            assert column == [each[c.index(member.name)] for each in wanted]


@both_orders
def test_numpy_arrays_are_views(order: str) -> None:
    c = event(order)
    raw = bytearray(c.encode(EVENT) * 4)
    found = numpy_types.array(c, raw)
    assert found["pid"].tolist() == [7] * 4
    assert found["comm"].tolist() == [b"bash"] * 4
    assert found["mac"].shape == (4, 6)
    found["pid"][1] = 9
    assert c.decode(raw, 64).pid == 9
    apart = numpy_types.array(c, b"12345678" + bytes(raw), range(8, 8 + 256, 128))
    assert (apart.shape, apart["pid"].tolist(), apart.flags.writeable) == ((2,), [7, 7], False)
    picked = numpy_types.array(c.record, raw, [64, 0])
    assert picked["pid"].tolist() == [9, 7]
    picked["pid"] = 0
    assert c.decode(raw, 64).pid == 9
    assert numpy_types.array(c, b"").shape == (0,)
    for wrong in ({"buffer": raw[:-1]}, {"buffer": raw, "offsets": [200]}):
        with pytest.raises(ValueMismatchError):
            numpy_types.array(c, **wrong)
    with pytest.raises(KeyError, match="no bit field 'pid'"):
        numpy_types.bit_field(c, found, "pid")


def test_any_buffer_of_single_bytes() -> None:
    c = event()
    raw = c.encode(EVENT) * 4
    shared = mmap.mmap(-1, len(raw))
    shared[:] = raw
    kinds = (ctypes.c_char * len(raw), ctypes.c_ubyte * len(raw))
    for buffer in (
        *(bytearray(raw), memoryview(raw), numpy.frombuffer(raw, "u1"), shared),
        *(kind.from_buffer_copy(raw) for kind in kinds),
    ):
        assert c.decode_many(buffer) == [c.decode(raw)] * 4
        assert c.decode_many(buffer, range(0, len(raw), 128)) == [c.decode(raw)] * 2
        assert numpy_types.array(c, buffer)["pid"].tolist() == [7] * 4


def test_sizes_are_only_claims() -> None:
    b = Types()
    c = b.of(b.add_struct("big", 0xFFFFFFF0, [("x", b.arr(b.u32, 0x3FFFFFF0), 0)]))
    for make in (numpy_types.dtype, ctypes_class):
        with pytest.raises(BpfError, match="too large"):
            make(c)
    deep = b.u32
    for _ in range(33):
        deep = b.arr(deep, 1)
    with pytest.raises(BpfError):
        numpy_types.dtype(b.of(deep))


@settings(max_examples=20)
@given(tables, orders)
def test_hostile_types(types: list[t.Type], order: str) -> None:
    b = BtfBuilder(order)
    for value in types:
        b.add_type(value)
    btf = b.btf()
    for type_id in range(len(btf) + 1):
        try:
            c = codec(btf, type_id)
            assert numpy_types.dtype(c).itemsize == c.size
            if isinstance(c, RecordCodec):
                assert ctypes.sizeof(ctypes_class(c)) == c.size
        except BpfError:
            continue


def test_of_an_object() -> None:
    from pathlib import Path

    import pybpfload

    fixtures = Path(__file__).parents[2] / "fixtures"
    types = pybpfload.open(fixtures / "bpfel" / "unlink.bpf.o").types
    record = types["unlink_event"](tgid=7, name="file")
    assert types.ctypes("unlink_event").from_buffer_copy(record.to_bytes()).tgid == 7
    assert types.dtype("unlink_event").itemsize == types.codec("unlink_event").size
    assert types.array("unlink_event", record.to_bytes() * 3)["tgid"].tolist() == [7] * 3
    assert struct.calcsize("I") == types.dtype("probe").itemsize
    with pytest.raises(KeyError, match="did you mean 'unlink_event'"):
        types.dtype("unlink_evnt")
