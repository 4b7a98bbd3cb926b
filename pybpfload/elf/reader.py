"""ELF64 relocatable files as plain values: sections, symbols, relocations.

pyelftools reads the headers. It was written for files from compilers and may raise almost anything
on a damaged one, so this module is the only one that touches it, and whatever it raises leaves here
as a :class:`FormatError`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pybpfload.errors import FormatError
from pybpfload.formats.packed import packed

__all__ = ["ElfFile", "Names", "Relocation", "Section", "Symbol", "guarded", "read_elf"]

EM_NONE, EM_BPF = 0, 247
ET_REL = 1
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_REL = 1, 2, 3, 8, 9
SHT_LLVM_ADDRSIG = 0x6FFF4C03
SHF_EXECINSTR = 4
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION = 0, 1, 2, 3
STV_DEFAULT, STV_INTERNAL, STV_HIDDEN = 0, 1, 2

_SECTION_HEADER_SIZE = 64

_SYMBOL_SIZE = packed("elf", "<").symbol.size
_REL_SIZE = packed("elf", "<").rel.size

# Bounds for hostile files, in multiples of the file's size: names share suffixes in honest string
# tables too, section contents overlap in none.
_NAMES_LIMIT = 16
_CONTENTS_LIMIT = 2


class Symbol(NamedTuple):
    """One symbol; ``index`` is its place in the table, ``value`` and ``size`` are in bytes."""

    index: int  # type: ignore[assignment]  # not the method of tuple
    name: str
    value: int
    size: int
    type: int
    binding: int
    visibility: int
    shndx: int

    @property
    def is_extern(self) -> bool:
        """Undefined here and to be found elsewhere (libbpf ``sym_is_extern``)."""
        return (
            self.shndx == SHN_UNDEF
            and self.binding in (STB_GLOBAL, STB_WEAK)
            and self.type == STT_NOTYPE
        )

    @property
    def is_hidden(self) -> bool:
        """Whether its visibility keeps it inside the object (HIDDEN or INTERNAL)."""
        return self.visibility in (STV_HIDDEN, STV_INTERNAL)


class Relocation(NamedTuple):
    """One relocation: ``offset`` in bytes in the target section, ``symbol`` an index."""

    offset: int
    symbol: int
    type: int


@dataclass(slots=True)
class Section:
    """One section. NOBITS sections such as ``.bss`` have a ``size`` but empty ``data``."""

    index: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int
    data: memoryview = field(repr=False)


@dataclass(slots=True)
class ElfFile:
    """A parsed ELF64 file.

    Attributes:
        name: What it is called in messages.
        byteorder: ``"<"`` or ``">"``.
        sections: In file order; index 0 is the empty one.
        symbols: The symbol table; empty when there is none.
    """

    name: str
    byteorder: str
    type: int
    machine: int
    sections: list[Section]
    symbols: list[Symbol] = field(default_factory=list)

    def section(self, name: str) -> Section | None:
        """Return the first section of that name, or ``None``."""
        return next((s for s in self.sections if s.name == name), None)

    def relocations(self, section: Section) -> list[Relocation]:
        """Decode a section of type REL.

        Raises:
            FormatError: Its entries have the wrong size, or one names a symbol outside the table.
        """
        if section.entsize != _REL_SIZE or section.size % _REL_SIZE:
            raise FormatError(
                f"relocation entries of {section.entsize} bytes in {section.size}, "
                f"expected {_REL_SIZE}",
                file=self.name,
                section=section.name,
            )
        rel = packed("elf", self.byteorder).rel
        return [
            Relocation(offset, info >> 32, info & 0xFFFFFFFF)
            for offset, info in rel.iter_unpack(section.data)
        ]


def read_elf(data: bytes, name: str) -> ElfFile:
    """Parse a 64-bit ELF file of either byte order.

    Args:
        data: The whole file.
        name: What to call it in messages.

    Raises:
        FormatError: It isn't ELF, not 64-bit, or damaged.
    """
    try:
        return _read(data, name)
    except FormatError as error:
        raise error.located(file=name) from None


def _read(data: bytes, name: str) -> ElfFile:
    if data[:4] != b"\x7fELF":
        what = "it is empty" if not data else f"it starts with {bytes(data[:4])!r}"
        raise FormatError(f"not an ELF file: {what}")
    if len(data) < 64:
        raise FormatError(f"cut short: {len(data)} bytes are less than an ELF header")
    if data[4] != 2:
        raise FormatError("not a 64-bit ELF file, as BPF objects are", offset=4)
    if data[5] not in (1, 2):
        raise FormatError(f"unknown byte order {data[5]}, expected 1 (little) or 2 (big)", offset=5)
    if data[6] != 1:
        raise FormatError(f"unknown ELF version {data[6]}, expected 1", offset=6)
    byteorder = "<" if data[5] == 1 else ">"
    _check_length(data, byteorder)
    elf = guarded(_Headers, data, byteorder)
    header = elf.header
    count = guarded(elf.count)
    if header["e_shentsize"] != _SECTION_HEADER_SIZE and count:
        raise FormatError(
            f"section headers of {header['e_shentsize']} bytes, expected {_SECTION_HEADER_SIZE}",
            offset=58,
        )
    if count * _SECTION_HEADER_SIZE > len(data):
        raise FormatError(f"{count} section headers cannot fit {len(data)} bytes", offset=60)
    view = memoryview(data).toreadonly()
    sections = []
    names = Names(_string_table(elf, view, count), _NAMES_LIMIT * len(data))
    budget = _CONTENTS_LIMIT * len(data)
    for index in range(count):
        raw = guarded(elf.section, index)
        section = _section(index, raw, names, view)
        budget -= len(section.data)
        if budget < 0:
            raise FormatError("sections overlap", section=section.name)
        sections.append(section)
    result = ElfFile(
        name, byteorder, _number(header["e_type"], _TYPES), _machine(data, byteorder), sections
    )
    _read_symbols(result, _NAMES_LIMIT * len(data))
    return result


def _check_length(data: bytes, byteorder: str) -> None:
    """Say of a file that was cut short what is missing: section headers are usually its end."""
    order: Literal["little", "big"] = "little" if byteorder == "<" else "big"
    start = int.from_bytes(data[40:48], order)  # e_shoff
    count = int.from_bytes(data[60:62], order)  # e_shnum
    if start and start + max(count, 1) * _SECTION_HEADER_SIZE > len(data):
        raise FormatError(
            f"cut short: its {count} section headers at {start:#x} "
            f"go beyond the file of {len(data)} bytes",
            offset=40,
        )


class _Headers:
    """The file header and the section headers.

    pyelftools' parser of these, without its ``ELFFile``: that one brings the whole of DWARF, which
    costs as much to import as everything else that opening an object needs.
    """

    def __init__(self, data: bytes, byteorder: str) -> None:
        from elftools.common.utils import struct_parse

        self._parse = struct_parse
        self._stream = io.BytesIO(data)
        self._size = len(data)
        self.header = struct_parse(_file_header(byteorder), self._stream, stream_pos=0)
        osabi = self.header["e_ident"]["EI_OSABI"]
        self._section = _section_header(
            byteorder, self.header["e_type"], self.header["e_machine"], osabi
        )

    def count(self) -> int:
        """Number of sections; from 65280 on it stands in the first section header (gABI, 4)."""
        if not self.header["e_shoff"]:
            return 0
        return int(self.header["e_shnum"] or self.section(0)["sh_size"])

    def names_index(self) -> int:
        """Index of the section with the names; if it is large, it stands in the first header."""
        index = self.header["e_shstrndx"]
        return int(self.section(0)["sh_link"] if index in ("SHN_XINDEX", 0xFFFF) else index)

    def section(self, index: int) -> Any:
        """Parse the header of one section."""
        offset = self.header["e_shoff"] + index * self.header["e_shentsize"]
        if offset > self._size:
            raise FormatError(f"header of section {index} lies beyond the end of the file")
        return self._parse(self._section, self._stream, stream_pos=offset)


# pyelftools builds its parsers anew for each file, which takes longer than reading a small object.


@lru_cache(maxsize=2)
def _file_header(byteorder: str) -> Any:
    from elftools.elf.structs import ELFStructs

    structs = ELFStructs(little_endian=byteorder == "<", elfclass=64)
    structs.create_basic_structs()
    return structs.Elf_Ehdr


@lru_cache(maxsize=8)
def _section_header(byteorder: str, kind: Any, machine: Any, osabi: Any) -> Any:
    from elftools.elf.structs import ELFStructs

    structs = ELFStructs(little_endian=byteorder == "<", elfclass=64)
    structs.create_basic_structs()
    structs.create_advanced_structs(kind, machine, osabi)
    return structs.Elf_Shdr


def guarded(function: Any, *arguments: Any) -> Any:
    """Call into pyelftools and turn whatever it raises into a FormatError."""
    try:
        return function(*arguments)
    except FormatError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise FormatError(f"damaged ELF structure: {reason}") from error


_TYPES = {"ET_NONE": 0, "ET_REL": 1, "ET_EXEC": 2, "ET_DYN": 3, "ET_CORE": 4}
_SECTION_TYPES = {
    "SHT_NULL": 0,
    "SHT_PROGBITS": 1,
    "SHT_SYMTAB": 2,
    "SHT_STRTAB": 3,
    "SHT_RELA": 4,
    "SHT_HASH": 5,
    "SHT_DYNAMIC": 6,
    "SHT_NOTE": 7,
    "SHT_NOBITS": 8,
    "SHT_REL": 9,
    "SHT_LLVM_ADDRSIG": SHT_LLVM_ADDRSIG,
}


def _number(value: Any, names: dict[str, int]) -> int:
    """Undo pyelftools' naming of numbers; a name of no interest here becomes -1."""
    return value if isinstance(value, int) else names.get(value, -1)


def _machine(data: bytes, byteorder: str) -> int:
    return int.from_bytes(data[18:20], "little" if byteorder == "<" else "big")


def _string_table(elf: Any, view: memoryview, count: int) -> bytes:
    index = guarded(elf.names_index)
    if not 0 < index < count:
        raise FormatError(
            f"section name table index {index} is not among the {count} sections", offset=62
        )
    raw = guarded(elf.section, index)
    offset, size = raw["sh_offset"], raw["sh_size"]
    if offset + size > len(view):
        raise FormatError(
            "cut short: the section names lie beyond the end of the file", offset=offset
        )
    return bytes(view[offset : offset + size])


def _section(index: int, raw: Any, names: Names, view: memoryview) -> Section:
    name = names.at(raw["sh_name"], "section", index)
    kind = _number(raw["sh_type"], _SECTION_TYPES)
    offset, size = raw["sh_offset"], raw["sh_size"]
    if kind in (0, SHT_NOBITS) or not size:
        data = view[:0]
    elif offset + size > len(view):
        raise FormatError(
            f"cut short: its {size} bytes at {offset:#x} go beyond the file of {len(view)}",
            section=name,
        )
    else:
        data = view[offset : offset + size]
    return Section(
        index,
        name,
        kind,
        raw["sh_flags"],
        offset,
        size,
        raw["sh_link"],
        raw["sh_info"],
        raw["sh_addralign"],
        raw["sh_entsize"],
        data,
    )


class Names:
    """A string table; what it hands out may be ``budget`` bytes in all."""

    def __init__(self, table: bytes, budget: int) -> None:
        self._table = table
        self._budget = budget
        self._seen: dict[int, str] = {}

    def at(self, offset: int, what: str, index: int) -> str:
        """The name at an offset, for the ``what`` of an index; that of index 0 is empty."""
        if not index:
            return ""  # the first entry of either table is empty
        name = self._seen.get(offset)
        if name is None:
            name = self._seen[offset] = self._decode(offset, f"name of {what} {index}")
        return name

    def _decode(self, offset: int, what: str) -> str:
        table = self._table
        if offset >= len(table):
            if offset == 0:
                return ""
            raise FormatError(f"{what} lies at {offset} of a string table of {len(table)} bytes")
        end = table.find(b"\0", offset)
        if end < 0:
            raise FormatError(f"{what} at {offset} of its string table has no end")
        self._budget -= end - offset
        if self._budget < 0:
            raise FormatError(f"{what} overlaps too many others")
        return table[offset:end].decode("utf-8", "backslashreplace")


def _read_symbols(elf: ElfFile, names_budget: int) -> None:
    tables = [s for s in elf.sections if s.type == SHT_SYMTAB]
    if len(tables) > 1:
        raise FormatError("two symbol tables, expected one", section=tables[1].name)
    if not tables:
        return
    table = tables[0]
    if not 0 < table.link < len(elf.sections):
        raise FormatError(
            f"its string table is section {table.link}, which does not exist", section=table.name
        )
    if table.entsize != _SYMBOL_SIZE or table.size % _SYMBOL_SIZE:
        raise FormatError(
            f"symbols of {table.entsize} bytes in {table.size}, expected {_SYMBOL_SIZE}",
            section=table.name,
        )
    names = Names(bytes(elf.sections[table.link].data), names_budget)
    layout = packed("elf", elf.byteorder).symbol
    for index, (name_off, info, other, shndx, value, size) in enumerate(
        layout.iter_unpack(table.data)
    ):
        if info & 0xF == STT_SECTION and 0 < shndx < len(elf.sections):
            name = elf.sections[shndx].name  # its own is usually empty
        else:
            name = names.at(name_off, "symbol", index)
        elf.symbols.append(
            Symbol(index, name, value, size, info & 0xF, info >> 4, other & 3, shndx)
        )
