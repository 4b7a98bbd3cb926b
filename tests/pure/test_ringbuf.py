"""The ring buffer's parser against its construct description, without any kernel."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import BpfError
from pybpfload.formats import ringbuf as fmt
from pybpfload.runtime import ringbuf
from pybpfload.runtime.ringbuf import scan

ORDER = "<" if sys.byteorder == "little" else ">"
LAYOUT = fmt.layouts(ORDER)


def build(data: bytes, *, busy: bool = False, discard: bool = False) -> bytes:
    return LAYOUT.record.build(
        {
            "length": {"busy": busy, "discard": discard, "size": len(data)},
            "page_offset": 2,
            "data": data,
        }
    )


def ring_of(size: int, start: int, content: bytes) -> memoryview:
    """The words of a ring in which ``content`` begins at position ``start``, mapped twice."""
    assert len(content) <= size
    ring = bytearray(b"\xff" * size)
    for offset, byte in enumerate(content):
        ring[(start + offset) % size] = byte
    return memoryview(bytes(ring) * 2).cast("I")


def test_constants_are_those_of_the_description() -> None:
    assert (ringbuf._BUSY, ringbuf._DISCARD) == (fmt.BUSY, fmt.DISCARD)
    assert (ringbuf._LENGTH, ringbuf._HEADER) == (fmt.LENGTH_MASK, fmt.HEADER_SIZE)
    for flag, word in (({"busy": True}, fmt.BUSY), ({"discard": True}, fmt.DISCARD)):
        built = LAYOUT.length.build({"busy": False, "discard": False, "size": 0} | flag)
        assert int.from_bytes(built, sys.byteorder) == word
    assert LAYOUT.position.sizeof() == 8


@pytest.mark.parametrize("order", ["<", ">"])
def test_description_round_trips(order: str) -> None:
    layout = fmt.layouts(order)
    value = {
        "length": {"busy": False, "discard": True, "size": 5},
        "page_offset": 3,
        "data": b"12345",
    }
    raw = layout.record.build(value)
    assert len(raw) == 16
    byteorder = "little" if order == "<" else "big"
    assert int.from_bytes(raw[:4], byteorder) == fmt.DISCARD | 5
    parsed = layout.record.parse(raw)
    assert parsed.data == b"12345"
    assert parsed.length.discard
    assert parsed.page_offset == 3


records = st.lists(
    st.tuples(st.binary(max_size=40), st.sampled_from(["ready", "ready", "discard", "busy"])),
    max_size=12,
)


@given(records, st.integers(0, 10_000), st.integers(1, 20))
def test_finds_the_records_that_were_built(
    wanted: list[tuple[bytes, str]], start: int, limit: int
) -> None:
    size = 1024
    start *= 8
    content = b"".join(
        build(data, busy=state == "busy", discard=state == "discard") for data, state in wanted
    )
    words = ring_of(size, start, content)
    data = words.cast("B")
    found, position = scan(words, start, start + len(content), size, limit)

    expected, end = [], start
    for payload, state in wanted:
        if state == "busy" or len(expected) == limit:
            break
        if state == "ready":
            expected.append(payload)
        end += len(build(payload))
    if len(expected) == limit:  # what is thrown away behind the last one may wait
        assert position <= end
    else:
        assert position == end
    assert [bytes(data[at : at + length]) for at, length in found] == expected


@given(records, st.integers(0, 127))
def test_going_on_from_the_position_gives_the_rest(
    wanted: list[tuple[bytes, str]], start: int
) -> None:
    size = 1024
    start *= 8
    ready = [(data, state) for data, state in wanted if state != "busy"]
    content = b"".join(build(data, discard=state == "discard") for data, state in ready)
    words = ring_of(size, start, content)
    data = words.cast("B")
    got = []
    position = start
    while position < start + len(content):
        found, position = scan(words, position, start + len(content), size, 2)
        got += [bytes(data[at : at + length]) for at, length in found]
    assert got == [data for data, state in ready if state == "ready"]


def test_an_empty_ring_has_nothing() -> None:
    assert scan(ring_of(64, 0, b""), 128, 128, 64, 10) == ([], 128)


def test_a_busy_record_hides_what_is_behind_it() -> None:
    content = build(b"one") + build(b"two", busy=True) + build(b"three")
    words = ring_of(64, 0, content)
    found, position = scan(words, 0, len(content), 64, 10)
    assert found == [(8, 3)]
    assert position == 16


def test_a_record_that_reaches_too_far_is_an_error() -> None:
    content = build(bytes(40))
    with pytest.raises(BpfError, match="another reader"):
        scan(ring_of(64, 0, content), 0, 24, 64, 10)
