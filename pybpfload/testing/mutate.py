"""Damage to files, the same for the same seed: bytes, numbers of the format, names and text.

    for seed in range(1000):
        damaged = mutate(data, seed)
        try:
            pybpfload.open(damaged.data)
        except pybpfload.BpfError:
            pass
        else:
            ...   # harmless damage; whatever else is raised is a bug, and `damaged` says of what

Bytes that are changed at random mostly hit what nobody reads. Most changes are therefore made to
the records that :mod:`pybpfload.testing.fields` finds: a field takes an odd value or that of the
same field elsewhere, a record that of a sibling, a name is cut, joined to its neighbour or spelled
as an access string. Files without such records are text or packed, and damaged as that.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.testing.fields import Record, parts, records

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["INTERESTING", "Mutation", "mutate"]

INTERESTING = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 17, 20, 24, 32, 63, 64, 127, 255, 256, 4095, 65535,
    0xFF00, 0xFFF1, 0xFFFFFF, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 63,
    (1 << 63) - 1, (1 << 64) - 1,
)  # fmt: skip
"""Sizes of records, borders of integers, and numbers with a meaning, such as section indexes."""

_LETTERS = b"0123456789:._-/?=\"' \n\0aAxX\x7f\x80\xff"
_WORDS = (
    b"0:1:2", b"0:0", "\N{GREEK SMALL LETTER ALPHA}".encode(), b"___v1", b"typename:", b"?",
    b"CONFIG_", b"=y", b"ffffffff81000000 T ", b"\t[module]", b".data", b".ksyms", b"struct ",
)  # fmt: skip
_GROWTH = 1 << 16  # bytes that one change adds at most


class Mutation(NamedTuple):
    """A damaged file.

    Attributes:
        data: The file.
        changes: What was done, in words, in order.
    """

    data: bytes
    changes: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.changes) or "unchanged"


def mutate(
    data: bytes,
    seed: int | str | random.Random,
    *,
    others: Sequence[bytes] = (),
    most: int = 4,
) -> Mutation:
    """Damage a file.

    Args:
        data: An ELF64 file of BPF, raw BTF, text, or anything else.
        seed: Decides what is done; the same seed does the same on every system and Python. A
            :class:`random.Random`, that of ``hypothesis.strategies.randoms()`` for example, is
            drawn from.
        others: Files that parts may be taken from; ``data`` itself if there are none.
        most: How many changes are made at most. Few changes get deep into the reading code, so one
            is likeliest.

    Returns:
        The damaged file, at most 64 KiB larger for each change, and what was done to it.
    """
    draw = seed if isinstance(seed, random.Random) else random.Random(seed)
    changed = bytearray(memoryview(data))  # and not any iterable of numbers, such as a Btf
    changes = []
    count = min(draw.choice((1, 1, 1, 2, 2, 3, 4, 6, 8)), most)
    kinds = _FORMATTED if records(bytes(data)) else _PLAIN
    for _ in range(count):
        change = draw.choice(kinds)
        changes.append(change(_Work(changed, bytes(data), others, draw)))
    return Mutation(bytes(changed), tuple(changes))


class _Work(NamedTuple):
    """What a change works with.

    Attributes:
        data: The file so far, to be changed.
        original: The file before all changes, in which records are looked for: their places are
            known from there even when what says so has been damaged.
        others: Files to take parts from.
        draw: Decides.
    """

    data: bytearray
    original: bytes
    others: Sequence[bytes]
    draw: random.Random

    def record(self, *kinds: str) -> Record | None:
        """Any record: each kind is as likely, though there be one header and a thousand types."""
        found: dict[str, list[Record]] = {}
        for each in records(self.original):
            if not kinds or each.kind in kinds:
                found.setdefault(each.kind, []).append(each)
        return self.draw.choice(found[self.draw.choice(list(found))]) if found else None

    def sibling(self, record: Record) -> Record:
        """Any record of the same kind."""
        return self.draw.choice([r for r in records(self.original) if r.kind == record.kind])

    def place(self, size: int = 0) -> int:
        """Any offset at which `size` bytes lie in the file."""
        return self.draw.randint(0, max(len(self.data) - size, 0))

    def length(self) -> int:
        """A number of bytes: mostly few, mostly whole words."""
        return min(self.draw.choice((1, 2, 4, 8, 16, 24, 64, 256, 4096)), len(self.data))


# Numbers, records and names of a format


def _field(work: _Work) -> str:
    """A field takes another value."""
    record = work.record()
    if record is None:
        return _bytes(work)
    field = work.draw.choice(record.fields)
    old = field.get(work.data)
    how = work.draw.randrange(5)
    if how == 0:
        value = work.draw.choice(INTERESTING)
    elif how == 1:
        value = old + work.draw.choice((-24, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 24))
    elif how == 2:
        value = old ^ 1 << work.draw.randrange(field.bits)
    elif how == 3:
        value = work.sibling(record).field(field.name).get(work.data)
    else:
        value = work.draw.randrange(1 << field.bits)
    value &= (1 << field.bits) - 1
    field.put(work.data, value)
    return f"{field} {old:#x} -> {value:#x}"


def _record(work: _Work) -> str:
    """A record becomes a copy of one of its kind, or the two change places."""
    record = work.record()
    if record is None:
        return _copy(work)
    other = work.sibling(record)
    if other == record:
        return _field(work)
    here, there = (slice(each.offset, each.offset + each.size) for each in (record, other))
    one, two = bytes(work.data[here]), bytes(work.data[there])
    if len(one) != len(two):  # one of them was cut off
        return _field(work)
    work.data[here] = two
    if work.draw.random() < 0.5:
        return f"{record} = {other}"
    work.data[there] = one
    return f"{record} <-> {other}"


def _name(work: _Work) -> str:
    """Letters of names change, ends of names among them."""
    tables = [part for part in parts(work.original) if "str" in part.name and part.size]
    if not tables:
        return _bytes(work)
    table = work.draw.choice(tables)
    start = table.offset + work.draw.randrange(table.size)
    access = work.record("core_relo")
    strings = next((part for part in tables if part.name == "BTF strings"), None)
    if access is not None and strings is not None and work.draw.random() < 0.5:
        start = strings.offset + access.field("access_str_off").get(work.original)
    if work.draw.random() < 0.5:
        new = work.draw.choice(_WORDS)
    else:
        new = bytes(work.draw.choices(_LETTERS, k=work.draw.randint(1, 4)))
    new = new[: max(len(work.data) - start, 0)]
    work.data[start : start + len(new)] = new
    return f"{table.name}: {new!r} at {start:#x}"


def _cut_at_record(work: _Work) -> str:
    """The file ends at the start or end of a record, or a byte off it."""
    record = work.record()
    if record is None:
        return _cut(work)
    end = record.offset + work.draw.choice((0, record.size)) + work.draw.choice((-1, 0, 1))
    del work.data[max(end, 0) :]
    return f"cut at {end:#x}, by {record}"


# Bytes


def _bytes(work: _Work) -> str:
    """Some bytes change."""
    if not work.data:
        return "nothing to change"
    places = [work.place(1) for _ in range(work.draw.randint(1, 8))]
    for place in places:
        work.data[place] = work.draw.randrange(256)
    return f"bytes changed at {', '.join(map(hex, places))}"


def _bit(work: _Work) -> str:
    if not work.data:
        return "nothing to change"
    place, bit = work.place(1), work.draw.randrange(8)
    work.data[place] ^= 1 << bit
    return f"bit {bit} of {place:#x} flipped"


def _fill(work: _Work) -> str:
    """A run of one byte."""
    length = work.length()
    place, byte = work.place(length), work.draw.choice(b"\0\xff\x01 0")
    work.data[place : place + length] = bytes([byte]) * length
    return f"{length} bytes of {byte:#x} at {place:#x}"


def _copy(work: _Work) -> str:
    """A run is overwritten by another one."""
    length = work.length()
    source, place = work.place(length), work.place(length)
    work.data[place : place + length] = work.data[source : source + length]
    return f"{length} bytes of {source:#x} copied to {place:#x}"


def _cut(work: _Work) -> str:
    place = work.place()
    del work.data[place:]
    return f"cut at {place:#x}"


def _remove(work: _Work) -> str:
    length = work.length()
    place = work.place(length)
    del work.data[place : place + length]
    return f"{length} bytes removed at {place:#x}"


def _insert(work: _Work) -> str:
    """A run is put in, once or many times."""
    length = work.length()
    source, place = work.place(length), work.place()
    times = min(work.draw.choice((1, 1, 2, 16, 1000)), _GROWTH // max(length, 1))
    work.data[place:place] = work.data[source : source + length] * times
    return f"{length} bytes of {source:#x} put in {times} times at {place:#x}"


def _splice(work: _Work) -> str:
    """The start of the file with the rest of another, or a run of another within it."""
    other = work.draw.choice(work.others) if work.others else work.original
    if work.draw.random() < 0.5:
        place = work.place()
        rest = other[work.draw.choice((place, work.draw.randint(0, len(other)))) :][:_GROWTH]
        work.data[place:] = rest
        return f"{len(rest)} bytes of another file from {place:#x} on"
    length = min(work.length(), len(other))
    source, place = work.draw.randint(0, len(other) - length), work.place(length)
    work.data[place : place + length] = other[source : source + length]
    return f"{length} bytes of another file at {place:#x}"


def _word(work: _Work) -> str:
    """Something that has a meaning in names and lines of text is put in."""
    place, word = work.place(), work.draw.choice(_WORDS)
    work.data[place:place] = word
    return f"{word!r} put in at {place:#x}"


def _line(work: _Work) -> str:
    """A line is left out, doubled, or trades places with another."""
    lines = bytes(work.data).splitlines(keepends=True)
    if not lines:
        return "nothing to change"
    one, two = work.draw.randrange(len(lines)), work.draw.randrange(len(lines))
    how = work.draw.choice(("left out", "doubled", f"traded with {two}"))
    if how == "left out":
        del lines[one]
    elif how == "doubled":
        lines.insert(one, lines[one])
    else:
        lines[one], lines[two] = lines[two], lines[one]
    work.data[:] = b"".join(lines)
    return f"line {one} {how}"


_ANYWHERE = (_bytes, _bit, _fill, _copy, _cut, _splice)
_FORMATTED: tuple[Callable[[_Work], str], ...] = (
    *(_field,) * 12, *(_record,) * 3, *(_name,) * 3, _cut_at_record, _remove, _insert, *_ANYWHERE,
)  # fmt: skip
_PLAIN: tuple[Callable[[_Work], str], ...] = (
    *(_word, _line, _remove, _insert) * 2, *_ANYWHERE,
)  # fmt: skip
