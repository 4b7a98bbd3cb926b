"""The ring buffer's parser against its construct description, without any kernel."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import BpfError
from pybpfload.formats import ringbuf as fmt
from pybpfload.runtime import ringscan
from pybpfload.runtime.ringscan import one_by_one, scan, stride

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


def payloads(words: memoryview, runs: list[ringscan.Run]) -> list[bytes]:
    """The data of the records in runs."""
    data = words.cast("B")
    return [
        bytes(data[each : each + length])
        for at, length, count, _ in runs
        for each in range(at, at + count * stride(length), stride(length))
    ]


def ring_of(size: int, start: int, content: bytes) -> memoryview:
    """The words of a ring in which ``content`` begins at position ``start``, mapped twice."""
    assert len(content) <= size
    ring = bytearray(b"\xff" * size)
    for offset, byte in enumerate(content):
        ring[(start + offset) % size] = byte
    return memoryview(bytes(ring) * 2).cast("I")


def test_constants_are_those_of_the_description() -> None:
    assert (ringscan.BUSY, ringscan.DISCARD) == (fmt.BUSY, fmt.DISCARD)
    assert (ringscan.LENGTH, ringscan.HEADER) == (fmt.LENGTH_MASK, fmt.HEADER_SIZE)
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


record = st.tuples(st.binary(max_size=40), st.sampled_from(["ready", "ready", "discard", "busy"]))
many = st.builds(lambda each, count: [each] * count, record, st.integers(1, 40))
records = st.lists(st.one_of(record.map(lambda each: [each]), many), max_size=6).map(
    lambda parts: [each for part in parts for each in part][:80]
)


@given(records, st.integers(0, 10_000), st.integers(1, 20))
def test_finds_the_records_that_were_built(
    wanted: list[tuple[bytes, str]], start: int, limit: int
) -> None:
    size = 4096
    start *= 8
    content = b"".join(
        build(data, busy=state == "busy", discard=state == "discard") for data, state in wanted
    )
    words = ring_of(size, start, content)
    runs, position = scan(words, start, start + len(content), size, limit)

    expected, ends, end = [], [], start
    for payload, state in wanted:
        if state == "busy" or len(expected) == limit:
            break
        end += len(build(payload))
        if state == "ready":
            expected.append(payload)
            ends.append(end)
    if len(expected) == limit:  # what is thrown away behind the last one may wait
        assert position <= end
    else:
        assert position == end
    assert payloads(words, runs) == expected
    single = [each for run in runs for each in one_by_one(run)]
    assert [behind for _, behind in single] == ends
    assert payloads(words, [run for run, _ in single]) == expected
    assert all(count == 1 and end == behind for (_, _, count, end), behind in single)


@given(records, st.integers(0, 127), st.booleans(), st.integers(1, 90))
def test_going_on_from_the_position_gives_the_rest(
    wanted: list[tuple[bytes, str]], start: int, uniform: bool, limit: int
) -> None:
    size = 4096
    start *= 8
    ready = [(data, state) for data, state in wanted if state != "busy"]
    content = b"".join(build(data, discard=state == "discard") for data, state in ready)
    words = ring_of(size, start, content)
    got = []
    position = start
    while position < start + len(content):
        runs, position = scan(words, position, start + len(content), size, limit, uniform=uniform)
        assert sum(count for _, _, count, _ in runs) <= limit
        assert not uniform or len({length for _, length, _, _ in runs}) <= 1
        got += payloads(words, runs)
    assert got == [data for data, state in ready if state == "ready"]


@pytest.mark.parametrize("length", [0, 1, 8, 61, 64])
def test_equal_records_are_one_run_wherever_the_ring_ends(length: int) -> None:
    size = 1 << 16
    content = build(bytes(range(length))) * (size // stride(length))
    for start in (0, 8, size - 8, size // 2):
        words = ring_of(size, start, content)
        runs, end = scan(words, start, start + len(content), size, 1 << 62)
        assert runs == [(start + 8, length, size // stride(length), end)]
        assert end == start + len(content)


def test_an_empty_ring_has_nothing() -> None:
    assert scan(ring_of(64, 0, b""), 128, 128, 64, 10) == ([], 128)


def test_a_busy_record_hides_what_is_behind_it() -> None:
    content = build(b"one") + build(b"two", busy=True) + build(b"three")
    words = ring_of(64, 0, content)
    found, position = scan(words, 0, len(content), 64, 10)
    assert found == [(8, 3, 1, 16)]
    assert position == 16


def test_a_record_that_reaches_too_far_is_an_error() -> None:
    content = build(bytes(40))
    with pytest.raises(BpfError, match="position 48, beyond 24"):
        scan(ring_of(64, 0, content), 0, 24, 64, 10)
