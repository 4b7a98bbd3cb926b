"""The perf buffer's parser against its construct description, without any kernel."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import BpfError
from pybpfload.formats import perf as fmt
from pybpfload.formats.flat import flat
from pybpfload.runtime import perfbuf
from pybpfload.runtime.perfbuf import scan

ORDER = "<" if sys.byteorder == "little" else ">"
LAYOUT = fmt.layouts(ORDER)


def record(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 8)
    header = LAYOUT.header.build({"type": kind, "misc": 0, "size": fmt.HEADER_SIZE + len(body)})
    return header + body


def sample(data: bytes) -> bytes:
    size = (len(data) + 4 + 7 & -8) - 4
    body = LAYOUT.sample.build({"size": size, "data": data.ljust(size, b"\0")})
    return record(fmt.SAMPLE, body)


def lost(count: int) -> bytes:
    return record(fmt.LOST, LAYOUT.lost.build({"id": 7, "lost": count}))


def ring_of(size: int, start: int, content: bytes) -> memoryview:
    assert len(content) <= size
    ring = bytearray(b"\xff" * size)
    for offset, byte in enumerate(content):
        ring[(start + offset) % size] = byte
    return memoryview(bytes(ring))


def test_constants_are_those_of_the_description() -> None:
    assert (perfbuf._DATA_HEAD, perfbuf._DATA_TAIL) == (fmt.DATA_HEAD, fmt.DATA_TAIL)
    assert (perfbuf._LOST, perfbuf._SAMPLE) == (fmt.LOST, fmt.SAMPLE)
    assert perfbuf._HEADER.size == fmt.HEADER_SIZE == LAYOUT.header.sizeof()
    assert flat(LAYOUT.header).unpack(bytes(range(8))) == perfbuf._HEADER.unpack(bytes(range(8)))
    raw = LAYOUT.lost.build({"id": 1, "lost": 1234})
    assert perfbuf._LOST_COUNT.unpack(raw) == (1234,)
    control = LAYOUT.control.build(
        {
            "version": 0,
            "compat_version": 0,
            "data_head": 11,
            "data_tail": 22,
            "data_offset": 0,
            "data_size": 0,
        }
    )
    assert int.from_bytes(control[fmt.DATA_HEAD :][:8], sys.byteorder) == 11
    assert int.from_bytes(control[fmt.DATA_TAIL :][:8], sys.byteorder) == 22


parts = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda data: ("sample", data)),
        st.integers(1, 1000).map(lambda count: ("lost", count)),
        st.just(("other", 0)),
    ),
    max_size=12,
)


@given(parts, st.integers(0, 10_000), st.integers(1, 20))
def test_finds_the_records_that_were_built(
    wanted: list[tuple[str, bytes | int]], start: int, limit: int
) -> None:
    start *= 8
    make = {"sample": sample, "lost": lost, "other": lambda _: record(99, bytes(16))}
    content = b"".join(make[kind](value) for kind, value in wanted)  # type: ignore[operator]
    data = ring_of(1024, start, content)
    samples, missing, position = [], 0, start
    while position < start + len(content):
        found, count, position = scan(data, position, start + len(content), limit)
        assert len(found) <= limit
        missing += count
        samples += [bytes(buffer[at : at + size]) for buffer, at, size, _ in found]
    assert position == start + len(content)
    expected = [value for kind, value in wanted if kind == "sample"]
    assert [got[: len(each)] for got, each in zip(samples, expected, strict=True)] == expected
    assert all(
        len(got) % 8 == 4 and not any(got[len(e) :])
        for got, e in zip(samples, expected, strict=True)
    )
    assert missing == sum(value for kind, value in wanted if kind == "lost")  # type: ignore[misc]


def test_positions_behind_samples() -> None:
    content = sample(b"a") + lost(3) + sample(b"b")
    found, _, position = scan(ring_of(1024, 8, content), 8, 8 + len(content), 10)
    assert [each[3] for each in found] == [8 + len(sample(b"a")), position]


@pytest.mark.parametrize("size", [0, 4, 8, 12, 20, 64])
def test_a_bad_size_is_an_error_and_no_endless_loop(size: int) -> None:
    content = LAYOUT.header.build({"type": fmt.SAMPLE, "misc": 0, "size": size}) + bytes(24)
    with pytest.raises(BpfError, match="another reader"):
        scan(ring_of(64, 0, content), 0, 32, 10)
