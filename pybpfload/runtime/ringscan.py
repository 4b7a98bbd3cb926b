"""Finding the finished records of a BPF ring buffer, as runs of equal ones.

Pure: it looks at memory that it is given. The layout is described in
:mod:`pybpfload.formats.ringbuf`.

Rings mostly hold records of one size in a row. The ring is mapped twice in a row too, so the length
words of such a run lie in memory at a constant distance, wherever the end of the ring is: they are
one strided ``memoryview``, and a single comparison, in C, says whether they are all the same. What
follows (decoding, copying) goes run by run as well, so the cost of a record in Python is that of
its values.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, TypeAlias

from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BUSY", "DISCARD", "HEADER", "LENGTH", "Run", "one_by_one", "scan", "stride"]

Run: TypeAlias = tuple[int, int, int, int]
"""Finished records of one length that follow each other: offset of the first one's data in the
ring, from which that of the next is a :func:`stride` on; the length; how many they are; position
behind the last one."""

# As in formats.ringbuf, which costs construct to import; a test compares them.
BUSY = 1 << 31
DISCARD = 1 << 30
LENGTH = DISCARD - 1
HEADER = 8

_LEAST, _MOST = 16, 4096  # headers that are compared at once


def stride(length: int) -> int:
    """Bytes from one record to the next: header, data, padding to a multiple of 8."""
    return length + HEADER + 7 & -8


def scan(
    words: memoryview, consumer: int, producer: int, size: int, limit: int, *, uniform: bool = False
) -> tuple[list[Run], int]:
    """Find the finished records between two positions.

    Args:
        words: The ring's data, as 32-bit words; twice in a row, or as much of the second time as
            lies below ``producer``.
        consumer: Position of the first record.
        producer: Position behind the last one, at most ``size`` on.
        size: Bytes of the ring, a power of two.
        limit: At most so many records.
        uniform: Only records of one length, that of the first.

    Returns:
        The records, those that were thrown away left out; and the position behind the last one that
        was looked at. A record that is still being written ends the search.

    Raises:
        BpfError: A record reaches beyond ``producer``: the positions are not the ring's.
    """
    runs: list[Run] = []
    position = consumer
    mask = size - 1
    while position < producer and limit > 0:
        at = position & mask
        word = words[at >> 2]
        if word & BUSY:
            break
        length = word & LENGTH
        step = length + HEADER + 7 & -8
        most = min((producer - position) // step, limit)
        count = 1
        if most > 1 and words[at + step >> 2] == word:
            count = _same(words, at >> 2, step >> 2, word, most)
        if not word & DISCARD:
            if uniform and runs and runs[0][1] != length:
                break
            limit -= count
            runs.append((at + HEADER, length, count, position + count * step))
        position += count * step
    if position > producer:
        raise BpfError(
            f"ring buffer: a record reaches to position {position}, beyond {producer}, the end of "
            "what programs have written; is there another reader?"
        )
    return runs, position


def _same(words: memoryview, first: int, step: int, word: int, most: int) -> int:
    """How many records, ``step`` words apart, begin with ``word``; the first one does."""
    count, part = 1, _LEAST
    while count < most:
        part = min(part, most - count)
        heads = words[first + count * step : first + (count + part) * step : step]
        if heads != memoryview(array("I", (word,)) * part):
            # Programs may finish one of them meanwhile.
            others = (index for index, head in enumerate(heads.tolist()) if head != word)
            return count + next(others, part)
        count += part
        part = min(8 * part, _MOST)
    return count


def one_by_one(run: Run) -> Iterator[tuple[Run, int]]:
    """Runs of one record each, and the position behind it."""
    at, length, count, end = run
    step = stride(length)
    for index in range(count):
        behind = end - (count - 1 - index) * step
        yield (at + index * step, length, 1, behind), behind
