"""How the type of an event is found (:class:`EventTypes`)."""

from __future__ import annotations

import ctypes
import struct
from typing import Any, NamedTuple

import pytest

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.values import codec
from pybpfload.errors import BpfError
from pybpfload.runtime.events import EventTypes


class Types:
    """A BTF with some structs; variables are added by the tests."""

    def __init__(self) -> None:
        self.builder = BtfBuilder()
        self.u32 = self.builder.add_int("u32", 4)
        self.char = self.builder.add_int("char", 1)

    def struct(self, name: str, *members: str, tail: int | None = None, kind: int = 0) -> int:
        """A struct of 32-bit members (the first of type ``kind``), perhaps with text behind."""
        listed: list[Any] = [
            (member, kind if kind and not number else self.u32, 32 * number)
            for number, member in enumerate(members)
        ]
        size = 4 * len(members)
        if tail is not None:
            array = self.builder.add_array(self.char, tail, self.u32)
            listed.append(("text", array, 8 * size))
            size += tail
        return self.builder.add_struct(name, size, listed)

    def export(self, name: str, of: int, *, pointer: bool = True) -> None:
        if pointer:
            of = self.builder.add_ptr(self.builder.add_const(of))
        self.builder.add_var(name, of)

    def map(self, name: str, *records: str) -> None:
        """A map's variable with declaration tags."""
        definition = self.builder.add_struct("", 0, [])
        variable = self.builder.add_var(name, definition)
        for record in records:
            self.builder.add_decl_tag(f"record:{record}", variable)

    def events(self, name: str = "events", choice: Any = None) -> EventTypes:
        return EventTypes(self.builder.btf(), name, choice)


def decode(types: EventTypes, record: bytes, *, padded: bool = False) -> Any:
    """Decode a record in the middle of a buffer, as rings do."""
    if padded:
        record += bytes(-(len(record) + 4) % 8)
    buffer = memoryview(b"\xee" * 8 + record + b"\xee" * 8)
    return types.decoder(len(record), padded=padded)(buffer, 8, len(record))


ONE, TWO, THREE = (struct.pack(f"={n}I", *range(1, n + 1)) for n in (1, 2, 3))


@pytest.mark.parametrize("name", ["event", "events", "event_t", "events_t"])
def test_a_struct_named_like_the_map(name: str) -> None:
    types = Types()
    types.struct(name, "a", "b")
    found = types.events()
    assert found.candidates == [f"struct {name}"]
    assert decode(found, TWO) == (1, 2)
    assert type(decode(found, TWO)).__name__ == name


def test_a_typedef_named_like_the_map() -> None:
    types = Types()
    types.builder.add_typedef("event_t", types.struct("", "a", "b"))
    assert decode(types.events(), TWO) == (1, 2)


@pytest.mark.parametrize("name", ["__export_x", "unused", "unused_event", "_whatever"])
@pytest.mark.parametrize("pointer", [True, False])
def test_exported_by_a_variable(name: str, pointer: bool) -> None:
    types = Types()
    types.export(name, types.struct("whatever", "a"), pointer=pointer)
    assert decode(types.events(), ONE) == (1,)


def test_other_variables_export_nothing() -> None:
    types = Types()
    types.export("config", types.struct("config", "a"))
    assert types.events().candidates == []
    assert decode(types.events(), ONE) == ONE


def test_of_several_the_one_of_the_size() -> None:
    types = Types()
    for size in (1, 2):
        types.export(f"__export_{size}", types.struct(f"s{size}", *"ab"[:size]))
    found = types.events()
    assert type(decode(found, ONE)).__name__ == "s1"
    assert type(decode(found, TWO)).__name__ == "s2"
    assert decode(found, THREE) == THREE
    assert decode(found, b"") == b""


def test_of_several_of_the_size_the_one_named_like_the_map_or_none() -> None:
    types = Types()
    types.export("__export_a", types.struct("other", "a"))
    types.export("__export_b", types.struct("third", "b"))
    assert decode(types.events(), ONE) == ONE
    types = Types()
    types.export("__export_a", types.struct("other", "a"))
    types.struct("event", "b")
    assert type(decode(types.events(), ONE)).__name__ == "event"


def test_declared_for_the_map() -> None:
    types = Types()
    types.map("first", "number")
    types.map("second")
    types.export("__export_pair", types.struct("pair", "a", "b"))
    types.struct("number", "a")
    assert types.events("first").candidates == ["struct number"]
    assert types.events("second").candidates == []  # exports are for nobody in particular
    assert decode(types.events("first"), TWO) == TWO


def test_a_record_that_ends_in_its_last_array() -> None:
    types = Types()
    types.struct("event", "a", tail=8)
    assert decode(types.events(), ONE + b"hello") == (1, "hello")
    assert decode(types.events(), ONE) == (1, "")
    assert decode(types.events(), ONE[:3]) == ONE[:3]
    assert decode(types.events(), ONE + bytes(9)) == ONE + bytes(9)


def test_a_flexible_array_takes_the_rest_of_the_record() -> None:
    types = Types()
    types.struct("event", "a", tail=0)
    assert decode(types.events(), ONE + b"hello") == (1, "hello")
    assert decode(types.events(), ONE) == (1, "")


def test_sizes_with_padding() -> None:
    types = Types()
    types.struct("event", "a", "b")
    assert decode(types.events(), TWO, padded=True) == (1, 2)
    assert decode(types.events(), THREE, padded=True) == (1, 2)  # cannot be told apart
    assert decode(types.events(), ONE, padded=True) == ONE
    assert decode(types.events(), TWO) == (1, 2)
    assert decode(types.events(), THREE) == THREE


def tagged() -> Types:
    types = Types()
    kind = types.builder.add_enum(
        "kind", 4, [("KIND_SMALL", 1), ("KIND_WORDS", 2), ("KIND_END", 3)]
    )
    types.map("events", "small", "words_event")
    types.struct("small", "kind", "a", kind=kind)
    types.struct("words_event", "kind", tail=16, kind=kind)
    return types


def test_a_type_tag_decides() -> None:
    types = tagged().events()
    small = decode(types, TWO)
    assert (type(small).__name__, small.kind.name, small.a) == ("small", "KIND_SMALL", 2)
    words = decode(types, struct.pack("=I", 2) + b"abcd")  # of the size of the other one
    assert (type(words).__name__, words.text) == ("words_event", "abcd")
    assert decode(types, struct.pack("=II", 9, 9)) == struct.pack("=II", 9, 9)
    assert decode(types, b"\1") == b"\1"
    assert decode(types, ONE) == ONE  # small is said, but it is too short
    assert decode(types, TWO, padded=True).a == 2


def test_a_tag_that_does_not_name_all_candidates_decides_nothing() -> None:
    types = tagged()
    types.map("events", "third")
    types.struct("third", "x", "y", "z")
    assert type(decode(types.events(), struct.pack("=II", 2, 0))).__name__ == "small"  # by size


def test_the_users_choice_comes_first() -> None:
    types = Types()
    chosen = types.struct("chosen", "x")
    types.struct("event", "a")
    btf = types.builder.btf()
    found = EventTypes(btf, "events", "chosen")
    assert type(decode(found, ONE)).__name__ == "chosen"
    found.choice = "struct event"
    assert type(decode(found, ONE)).__name__ == "event"
    found.choice = codec(btf, chosen)
    assert type(decode(found, ONE)).__name__ == "chosen"
    assert type(decode(found, TWO)).__name__ == "chosen"  # the user knows why
    found.choice = "u32"
    assert decode(found, ONE) == 1
    found.choice = None
    assert type(decode(found, ONE)).__name__ == "event"


def test_a_function_chooses_by_the_record() -> None:
    types = Types()
    types.struct("a", "x")
    types.struct("b", "y")
    seen = []

    def choose(record: memoryview) -> str | None:
        seen.append(bytes(record))
        return {1: "a", 2: "b"}.get(record[0])

    found = types.events(choice=choose)
    names = [type(decode(found, struct.pack("=I", n))).__name__ for n in (1, 2, 3)]
    assert names == ["a", "b", "bytes"]
    assert seen == [struct.pack("=I", n) for n in (1, 2, 3)]


def test_wrong_choices() -> None:
    types = Types()
    with pytest.raises(BpfError, match="no type nothing"):
        types.events(choice="nothing")
    with pytest.raises(BpfError, match="no BTF"):
        EventTypes(None, "events", "event")
    with pytest.raises(TypeError, match="no name of a struct"):
        types.events(choice=7)


def test_without_btf_records_are_bytes() -> None:
    assert decode(EventTypes(None, "events"), b"abc") == b"abc"
    assert EventTypes(None, "events").candidates == []


def test_a_struct_without_values_is_no_candidate() -> None:
    builder = BtfBuilder()
    fwd = builder.add_fwd("x")
    builder.add_struct("event", 4, [("f", fwd, 0)])
    assert EventTypes(builder.btf(), "events").candidates == []


class Own(NamedTuple):
    """A class of the user's for ``struct event``."""

    b: int
    a: int


class Wrong(NamedTuple):
    a: str


class Structure(ctypes.LittleEndianStructure):
    _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint32))


def test_classes_of_the_user():
    types = Types()
    types.struct("event", "a", "b")
    other = types.struct("other", "a", "b", "c")
    types.struct("third", "a", "b")
    record = struct.pack("<II", 1, 2)
    assert decode(types.events(choice=Own), record) == Own(b=2, a=1)
    assert decode(types.events(choice=Structure), record).b == 2
    assert decode(types.events("unlike", ("third", Own)), record) == Own(b=2, a=1)
    chosen = types.events()
    chosen.choice = codec(chosen.btf, other).record
    assert decode(chosen, record + b"\3\0\0\0") == (1, 2, 3)
    many = types.events(choice=Own).decoder(8)
    assert many(memoryview(record), 0, 8) == Own(b=2, a=1)
    with pytest.raises(BpfError, match=r"Wrong does not fit struct event: field a: BTF has u32"):
        types.events(choice=Wrong)
    with pytest.raises(TypeError, match=r"Its candidates are: none; choose one by event_type = "):
        types.events("unlike", Own)


def test_a_ctypes_structure_needs_no_btf():
    found = EventTypes(None, "events", Structure)
    assert decode(found, struct.pack("<II", 1, 2)).b == 2


def test_ctrl_c_while_codecs_are_made_is_no_choice_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = Types()
    types.struct("event", "a")
    events = types.events()
    with monkeypatch.context() as patch:

        def interrupt(type_id: int) -> None:
            raise KeyboardInterrupt

        patch.setattr(events, "_codec", interrupt)
        with pytest.raises(KeyboardInterrupt):
            events.decoder(4)
    assert decode(events, struct.pack("=I", 7)).a == 7
