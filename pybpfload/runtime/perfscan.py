"""Finding the records of a perf ring, as runs of equal ones.

Pure: it looks at memory that it is given. The layout is described in
:mod:`pybpfload.formats.perf`.

A program's samples are mostly of one size, so the headers of a run of them are the same 64-bit word
at a constant distance: one strided ``memoryview``, and a single comparison, in C, says whether they
are all the same. Decoding goes run by run as well.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Run", "one_by_one", "scan", "scan_backward"]

# As in formats.perf, which costs construct to import; a test compares them.
_HEADER = struct.Struct("=IHH")
_LOST_COUNT = struct.Struct("=8xQ")
_LOST = 2
_SAMPLE = 9

_LEAST, _MOST = 16, 4096  # headers that are compared at once


class Run(NamedTuple):
    """Samples of one size that follow each other, or one record that tells of lost ones.

    Attributes:
        data: What they lie in: the ring, or a copy of a record that goes over the end.
        offsets: Where in it each begins, behind its header.
        size: Bytes of each, without the header.
        end: Position behind the last one.
        lost: How many samples did not fit; then there are no samples.
    """

    data: memoryview
    offsets: range
    size: int
    end: int
    lost: int = 0

    @property
    def step(self) -> int:
        """Bytes from one to the next."""
        return self.size + _HEADER.size


def one_by_one(run: Run) -> Iterator[tuple[Run, int]]:
    """Runs of one record each, and the position behind it."""
    if not run.offsets:
        yield run, run.end
    count = len(run.offsets)
    for index in range(count):
        behind = run.end - (count - 1 - index) * run.step
        yield run._replace(offsets=run.offsets[index : index + 1], end=behind), behind


def scan(data: memoryview, tail: int, head: int, limit: int, *, body: int = 4) -> list[Run]:
    """Find the records between two positions.

    Args:
        data: The ring, as single bytes; their number is a power of two.
        tail: Position of the first record.
        head: Position behind the last one.
        limit: At most so many samples.
        body: The shortest body of a sample, in bytes.

    Returns:
        The records; those of other types are left out, but the last run's ``end`` is behind them.

    Raises:
        BpfError: A record is shorter than its type, or reaches beyond ``head``.
    """
    size = len(data)
    words = data.cast("Q")
    runs: list[Run] = []
    position = tail
    while position < head and limit > 0:
        at = position & size - 1
        kind, _, length = _HEADER.unpack_from(data, at)
        if not _sound(kind, length, body) or position + length > head:
            raise BpfError(
                f"perf buffer: the record at position {position} has {length} bytes of "
                f"{head - position}; is there another reader?"
            )
        record, first, count = data, at + _HEADER.size, 1
        if at + length > size:
            record = memoryview(bytes(data[at:]) + bytes(data[: at + length - size]))
            first = _HEADER.size
        elif kind == _SAMPLE:
            most = min(head - position, size - at) // length
            count = _same(words, at >> 3, length >> 3, min(most, limit))
        position += count * length
        runs.append(_run(record, first, kind, length, count, position))
        limit -= len(runs[-1].offsets)
    return runs


def scan_backward(data: memoryview, *, body: int = 4) -> tuple[list[Run], int]:
    """Find the records of a ring that is written from its end to its start.

    Args:
        data: What was written last, at most the size of the ring, in a row: the newest record is
            first, and the oldest, which may have been overwritten in part, last.
        body: The shortest body of a sample, in bytes.

    Returns:
        The records, the oldest first; positions count from the oldest byte that is whole. And how
        many bytes they take.

    Raises:
        BpfError: There is something else than records.
    """
    words = data[: len(data) & -8].cast("Q")
    found: list[tuple[int, int, int, int]] = []
    at = 0
    while at + _HEADER.size <= len(data):
        kind, _, length = _HEADER.unpack_from(data, at)
        if not _sound(kind, length, body):
            raise BpfError(f"perf buffer: {length} bytes at offset {at} are no record")
        most = (len(data) - at) // length
        if not most:
            break  # overwritten in part
        count = _same(words, at >> 3, length >> 3, most) if kind == _SAMPLE else 1
        found.append((at, kind, length, count))
        at += count * length
    runs: list[Run] = []
    size, end = at, 0
    for at, kind, length, count in reversed(found):
        end += count * length
        run = _run(data, at + _HEADER.size, kind, length, count, end)
        runs.append(run._replace(offsets=run.offsets[::-1]))
    return runs, size


def _sound(kind: int, length: int, body: int) -> bool:
    """Whether a record can have that length."""
    least = {_SAMPLE: body, _LOST: _LOST_COUNT.size}.get(kind, 0)
    return length >= least + _HEADER.size and not length & 7


def _run(data: memoryview, first: int, kind: int, length: int, count: int, end: int) -> Run:
    size = length - _HEADER.size
    if kind == _SAMPLE:
        return Run(data, range(first, first + count * length, length), size, end)
    lost = _LOST_COUNT.unpack_from(data, first)[0] if kind == _LOST else 0
    return Run(data, range(0), size, end, lost)


def _same(words: memoryview, first: int, step: int, most: int) -> int:
    """How many records, ``step`` words apart and at most ``most``, begin with the first's word."""
    word = words[first]
    count, part = 1, _LEAST
    while count < most:
        part = min(part, most - count)
        heads = words[first + count * step : first + (count + part) * step : step]
        if heads != memoryview(array("Q", (word,)) * part):
            others = (index for index, head in enumerate(heads.tolist()) if head != word)
            return count + next(others, part)
        count += part
        part = min(8 * part, _MOST)
    return count
