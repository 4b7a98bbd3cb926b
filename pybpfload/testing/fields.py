"""The records that a file is made of, by kind and place, so that one can be damaged on purpose.

Where a field lies is derived from the construct descriptions in :mod:`pybpfload.formats`: a layout
is stated once. Nothing else is shared with the code that reads files, and nothing is refused: of a
damaged file the records that can be found are found.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pybpfload.formats import btf as btf_formats
from pybpfload.formats import elf as elf_formats
from pybpfload.formats import insn as insn_formats

if TYPE_CHECKING:
    from collections.abc import Iterator

    Place = tuple[str, int, int, int, int]  # name, offset, size, shift, bits

__all__ = ["Field", "Part", "Record", "fields", "parts", "records"]

_SYMTAB, _STRTAB, _NOBITS, _REL = 2, 3, 8, 9
_EXEC = 4

# Kind -> description of what follows the common part once, and for each of its vlen elements.
_EXTRA = {
    1: ("int_encoding", ""),
    3: ("array", ""),
    4: ("", "member"),
    5: ("", "member"),
    6: ("", "enumerator"),
    13: ("", "param"),
    14: ("var", ""),
    15: ("", "datasec_entry"),
    17: ("decl_tag", ""),
    19: ("", "enumerator64"),
}
# Words whose bits are described apart: (record, field) -> description.
_BITS = {
    ("symbol", "st_info"): "st_info",
    ("rel", "r_info"): "r_info",
    ("type", "info"): "info",
}


class Field(NamedTuple):
    """A number in a file.

    Attributes:
        record: Kind of the record that it belongs to, for example ``"symbol"``.
        index: Number of that record among those of its kind.
        name: As in :mod:`pybpfload.formats`, for example ``"st_value"``; of a part of a word
            ``"info.kind"``.
        offset: Of its word in the file, in bytes.
        size: Of its word, in bytes.
        shift: Of its least significant bit in the word.
        bits: How many bits it has.
        order: Byte order.
    """

    record: str
    index: int  # type: ignore[assignment]  # not the method of tuple
    name: str
    offset: int
    size: int
    shift: int
    bits: int
    order: Literal["little", "big"]

    def __str__(self) -> str:
        return f"{self.record} {self.index} {self.name}"

    def get(self, data: bytes | bytearray) -> int:
        """Read it; what lies beyond the end of the file counts as zero."""
        word = int.from_bytes(data[self.offset : self.offset + self.size], self.order)
        return word >> self.shift & (1 << self.bits) - 1

    def put(self, data: bytearray, value: int) -> None:
        """Write it, cut to its bits; nothing happens if it lies beyond the end of the file."""
        if self.offset + self.size > len(data):
            return
        mask = (1 << self.bits) - 1 << self.shift
        place = slice(self.offset, self.offset + self.size)
        word = int.from_bytes(data[place], self.order) & ~mask | value << self.shift & mask
        data[place] = word.to_bytes(self.size, self.order)

    def set(self, data: bytes, value: int) -> bytes:
        """A copy of the file with the field changed."""
        changed = bytearray(data)
        self.put(changed, value)
        return bytes(changed)


class Record(NamedTuple):
    """A header, a symbol, an instruction, a type, a member, ...

    Attributes:
        kind: For example ``"section"``, ``"type"`` or ``"core_relo"``.
        index: Its number among those of its kind (in its section, for instructions and
            relocations).
        offset: In the file, in bytes.
        size: In bytes.
        order: Byte order.
    """

    kind: str
    index: int  # type: ignore[assignment]  # not the method of tuple
    offset: int
    size: int
    order: Literal["little", "big"]

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"

    @property
    def fields(self) -> list[Field]:
        """Its numbers."""
        return [self._field(*each) for each in _layout(self.kind, self.order).values()]

    def field(self, name: str) -> Field:
        """The field of that name."""
        return self._field(*_layout(self.kind, self.order)[name])

    def _field(self, name: str, at: int, size: int, shift: int, bits: int) -> Field:
        return Field(self.kind, self.index, name, self.offset + at, size, shift, bits, self.order)


class Part(NamedTuple):
    """A run of bytes: the ELF header, the section headers, or the contents of a section."""

    name: str
    offset: int
    size: int


def parts(data: bytes) -> list[Part]:
    """The parts of an ELF64 file that have contents in it, and those of BTF inside them."""
    if data[:5] != b"\x7fELF\x02":
        return list(_btf_parts(data, Part("", 0, len(data))))
    header, sections = _headers(data)
    found = [
        Part("header", 0, min(header.size, len(data))),
        Part("section headers", *_extent(sections)),
    ]
    for section, name in zip(sections, _names(data, header, sections), strict=True):
        if section.field("sh_type").get(data) not in (0, _NOBITS):
            offset, size = _contents(data, section)
            part = Part(name or "unnamed", offset, size)
            found.append(part)
            if name == ".BTF":
                found += _btf_parts(data, part)
    return found


@lru_cache(maxsize=64)
def records(data: bytes) -> tuple[Record, ...]:
    """The records of an ELF64 file of BPF, or of raw BTF; none for anything else.

    Args:
        data: The file, damaged or not.

    Returns:
        Records of the kinds ``header``, ``section``, ``symbol``, ``rel``, ``slot`` (an
        instruction), of BTF ``btf_header``, ``type`` and the records that follow types
        (``member``, ``enumerator``, ``param``, ...), and of BTF.ext ``ext_header``,
        ``ext_header_core``, ``info_header``, ``info_block``, ``func_info``, ``line_info`` and
        ``core_relo``.
    """
    if data[:5] != b"\x7fELF\x02":
        return tuple(_btf(data, Part("", 0, len(data))))
    header, sections = _headers(data)
    found = [header, *sections]
    for section, name in zip(sections, _names(data, header, sections), strict=True):
        kind, flags = (section.field(each).get(data) for each in ("sh_type", "sh_flags"))
        part = Part(name, *_contents(data, section))
        if name == ".BTF":
            found += _btf(data, part)
        elif name == ".BTF.ext":
            found += _btf_ext(data, part)
        elif kind == _SYMTAB:
            found += _table("symbol", part, section.order)
        elif kind == _REL and "BTF" not in name:
            found += _table("rel", part, section.order)
        elif flags & _EXEC and kind != _NOBITS:
            found += _table("slot", part, section.order)
    return tuple(found)


def fields(data: bytes) -> list[Field]:
    """All numbers in the records of a file."""
    return [field for record in records(data) for field in record.fields]


# Layouts


@lru_cache(maxsize=64)
def _layout(kind: str, order: str) -> dict[str, Place]:
    """What a record of a kind consists of, by name."""
    description = _description(kind, order)
    if not hasattr(description, "subcons"):  # a word of bits
        return {place[0]: place for place in _bits("", description, 0, description.sizeof())}
    found: list[Place] = []
    at = 0
    for part in description.subcons:
        size = part.sizeof()
        inner = part.subcon
        if apart := _BITS.get((kind, part.name)):
            inner = _description(apart, order)
        if hasattr(inner, "subcon"):
            found += _bits(part.name + ".", inner, at, size)
        else:
            found.append((part.name, at, size, 0, 8 * size))
        at += size
    return {place[0]: place for place in found}


@lru_cache(maxsize=64)
def _size(kind: str) -> int:
    return int(_description(kind, "little").sizeof())


def _description(kind: str, order: str) -> Any:
    sign = "<" if order == "little" else ">"
    if kind == "slot":
        return insn_formats.slot(sign)
    if kind == "btf_header":
        return btf_formats.layouts(sign).header
    for family in (elf_formats, btf_formats):
        found = getattr(family.layouts(sign), kind, None)
        if found is not None:
            return found
    raise KeyError(kind)


def _bits(prefix: str, word: Any, at: int, size: int) -> Iterator[Place]:
    """The fields of a word that is described from its most significant bit down."""
    while not hasattr(word, "subcons"):
        word = word.subcon
    left = 8 * size
    for part in word.subcons:
        left -= part.sizeof()
        if part.name:
            yield prefix + part.name, at, size, left, part.sizeof()


# ELF


def _headers(data: bytes) -> tuple[Record, list[Record]]:
    order: Literal["little", "big"] = "big" if data[5:6] == b"\2" else "little"
    header = _record("header", 0, 0, order)
    values = {field.name: field.get(data) for field in header.fields}
    size = _size("section")
    start = values["e_shoff"]
    count = min(values["e_shnum"], max(len(data) - start, 0) // size)
    return header, [_record("section", at, start + size * at, order) for at in range(count)]


def _record(kind: str, index: int, offset: int, order: Literal["little", "big"]) -> Record:
    return Record(kind, index, offset, _size(kind), order)


def _extent(found: list[Record]) -> tuple[int, int]:
    if not found:
        return 0, 0
    return found[0].offset, found[-1].offset + found[-1].size - found[0].offset


def _contents(data: bytes, section: Record) -> tuple[int, int]:
    """Offset and size of a section's contents, as far as they lie in the file."""
    offset = min(section.field("sh_offset").get(data), len(data))
    return offset, min(section.field("sh_size").get(data), len(data) - offset)


def _names(data: bytes, header: Record, sections: list[Record]) -> list[str]:
    index = header.field("e_shstrndx").get(data)
    if index >= len(sections):
        return [""] * len(sections)
    start, size = _contents(data, sections[index])
    table = data[start : start + size]
    offsets = (section.field("sh_name").get(data) for section in sections)
    return [table[at:].partition(b"\0")[0][:100].decode(errors="replace") for at in offsets]


def _table(kind: str, part: Part, order: Literal["little", "big"]) -> Iterator[Record]:
    size = _size(kind)
    for index in range(part.size // size):
        yield Record(kind, index, part.offset + size * index, size, order)


# BTF


def _order(data: bytes, offset: int) -> Literal["little", "big"] | None:
    magic = data[offset : offset + 2]
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    return next((o for o in orders if magic == btf_formats.MAGIC.to_bytes(2, o)), None)


def _btf_parts(data: bytes, part: Part) -> Iterator[Part]:
    order = _order(data, part.offset)
    if order is None:
        return
    header = _record("btf_header", 0, part.offset, order)
    values = {field.name: field.get(data) for field in header.fields}
    for name, label in (("type", "BTF types"), ("str", "BTF strings")):
        start = min(values["hdr_len"] + values[f"{name}_off"], part.size)
        size = min(values[f"{name}_len"], part.size - start)
        yield Part(label, part.offset + start, size)


def _btf(data: bytes, part: Part) -> Iterator[Record]:
    order = _order(data, part.offset)
    if order is None:
        return
    yield _record("btf_header", 0, part.offset, order)
    types = next(_btf_parts(data, part))
    at, end = types.offset, types.offset + types.size
    kinds = {
        name: _record(name, 0, 0, order)
        for name in ("type", *{each for both in _EXTRA.values() for each in both if each})
    }
    counts = dict.fromkeys(kinds, 0)
    counts["type"] = 1  # a type's number is its id

    def record(kind: str) -> Record:
        nonlocal at
        made = kinds[kind]._replace(index=counts[kind], offset=at)
        counts[kind] += 1
        at += made.size
        return made

    while at + kinds["type"].size <= end:
        common = record("type")
        yield common
        kind, vlen = (common.field(name).get(data) for name in ("info.kind", "info.vlen"))
        once, each = _EXTRA.get(kind, ("", ""))
        if once:
            yield record(once)
        if each:
            for _ in range(min(vlen, (end - at) // kinds[each].size)):
                yield record(each)


def _btf_ext(data: bytes, part: Part) -> Iterator[Record]:
    order = _order(data, part.offset)
    if order is None:
        return
    header = _record("ext_header", 0, part.offset, order)
    core = _record("ext_header_core", 0, part.offset + header.size, order)
    yield header
    yield core
    values = {field.name: field.get(data) for each in (header, core) for field in each.fields}
    for name in ("func_info", "line_info", "core_relo"):
        start = part.offset + min(values["hdr_len"] + values[f"{name}_off"], part.size)
        end = min(start + values[f"{name}_len"], part.offset + part.size)
        yield from _info(data, name, start, end, order)


def _info(
    data: bytes, name: str, start: int, end: int, order: Literal["little", "big"]
) -> Iterator[Record]:
    """The records of one section of BTF.ext: their size, then blocks of them."""
    first = _record("info_header", 0, start, order)
    if start + first.size > end:
        return
    yield first
    size = first.field("rec_size").get(data)
    like = _record(name, 0, 0, order)
    at, index, blocks = start + first.size, 0, 0
    block = _record("info_block", 0, 0, order)
    while at + block.size <= end and size >= like.size:
        yield (block := block._replace(index=blocks, offset=at))
        at, blocks = at + block.size, blocks + 1
        for _ in range(min(block.field("num_info").get(data), max(end - at, 0) // size)):
            yield like._replace(index=index, offset=at)
            at, index = at + size, index + 1
