"""Executables and shared libraries: where in the file their functions are.

A uprobe is put at an offset of a file, which the symbols of the file lead to. Both ELF classes and
byte orders are read, and what ``strip`` leaves. Source of the rules: libbpf, ``elf.c``; they differ
in that imported functions are never meant here, and that the default version of a symbol wins where
libbpf finds the name ambiguous.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.elf.reader import Names, guarded
from pybpfload.errors import FormatError
from pybpfload.formats.packed import packed
from pybpfload.pattern import glob_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from struct import Struct
    from typing import Protocol

    class Content(Protocol):
        """A file of which parts can be had: ``bytes``, or something that reads them on demand."""

        def __len__(self) -> int: ...
        def __getitem__(self, part: slice, /) -> bytes: ...


__all__ = [
    "BinarySection",
    "Function",
    "RawSymbols",
    "Segment",
    "Symbol",
    "UserBinary",
    "address_at",
]

PT_LOAD = 1
PF_X = 1
ET_EXEC, ET_DYN = 2, 3
SHT_NOBITS = 8
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STT_OBJECT, STT_FUNC, STT_GNU_IFUNC = 1, 2, 10
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
NT_GNU_BUILD_ID = ("NT_GNU_BUILD_ID", 3)
VER_FLG_BASE = 1
_HIDDEN = 0x8000  # of an entry in the table of versions: not the default one
_MOST_HEADERS = 1 << 16  # what can be told without an escape, which only objects need
_LARGEST_SMALL = 4096  # bytes of a section with a build id or a file's name
_NAMES_LIMIT = 16  # as in the reader of objects
_TABLES = {"symtab": ("SHT_SYMTAB", 2), "dynsym": ("SHT_DYNSYM", 11)}
_VERSYM = ("SHT_GNU_versym", 0x6FFFFFFF)
_VERDEF = ("SHT_GNU_verdef", 0x6FFFFFFD)


class Segment(NamedTuple):
    """A part of the file that is loaded to memory; all numbers are bytes.

    Attributes:
        offset: Where it begins in the file.
        address: Where it is in memory, less the place where the whole file is loaded.
        size: Bytes in memory.
        executable: Whether it holds code.
    """

    offset: int
    address: int
    size: int
    executable: bool


class BinarySection(NamedTuple):
    """A section's header; ``type`` is a number, or a name where pyelftools has one."""

    name: str
    type: int | str
    address: int
    offset: int
    size: int
    link: int


class Symbol(NamedTuple):
    """An entry of a symbol table.

    Attributes:
        name: Without a version.
        version: ``""`` if it has none.
        is_default: Whether it is what new programs are linked with.
        address: As :attr:`Segment.address`.
        section: Index of its section.
        is_weak: Whether another symbol of its name goes before it.
        type: ``STT_...``.
    """

    name: str
    version: str
    is_default: bool
    address: int
    section: int
    is_weak: bool
    type: int

    @property
    def full_name(self) -> str:
        """``name``, ``name@VERSION``, or ``name@@VERSION`` for the default one."""
        mark = "@@" if self.is_default else "@"
        return f"{self.name}{mark}{self.version}" if self.version else self.name


class Function(NamedTuple):
    """A function that is in the file.

    Attributes:
        name: As in the symbol table, with its version if there is one.
        offset: Of its first instruction in the file, bytes.
    """

    name: str
    offset: int


class RawSymbols(NamedTuple):
    """A symbol table as it is in the file, for who reads all of it.

    Attributes:
        records: The entries, a whole number of them.
        layout: Of an entry: ``Elf64_Sym`` or ``Elf32_Sym`` in the file's byte order.
        strings: The names, each ended by a zero byte.
    """

    records: bytes
    layout: Struct
    strings: bytes


class UserBinary:
    """An executable or shared library.

    Args:
        data: The whole file; only the parts that are asked for are read.
        name: What it is called in messages.

    Attributes:
        data, name: As given.
        bits: 32 or 64.
        byteorder: ``"<"`` or ``">"``.
        machine: ``EM_...`` number of the architecture.
        is_position_independent: Whether it can be loaded anywhere: libraries and most programs.
        segments: What is loaded, in the order of the file.
        sections: All sections; none if the section headers were stripped, too.

    Raises:
        FormatError: It is no ELF file that can be run, or damaged.
    """

    def __init__(self, data: Content, name: str) -> None:
        start = data[:52]
        if start[:4] != b"\x7fELF":
            what = f"it starts with {start[:4]!r}" if start else "it is empty"
            hint = "a script: probe its interpreter" if start[:2] == b"#!" else None
            raise FormatError(f"not an ELF file: {what}", file=name, hint=hint)
        if len(start) < 52 or start[4] not in (1, 2) or start[5] not in (1, 2):
            raise FormatError("damaged ELF header", file=name)
        self.data, self.name = data, name
        self.bits = 32 * start[4]
        self.byteorder = "<" if start[5] == 1 else ">"
        order = "little" if start[5] == 1 else "big"
        kind = int.from_bytes(start[16:18], order)  # type: ignore[arg-type]
        if kind not in (ET_EXEC, ET_DYN):
            raise FormatError(f"an ELF file of type {kind}, no executable or library", file=name)
        self.is_position_independent = kind == ET_DYN
        self.machine = int.from_bytes(start[18:20], order)  # type: ignore[arg-type]
        try:
            self._headers = guarded(_Headers, data, self.bits, self.byteorder)
            self.segments: list[Segment] = guarded(self._headers.segments)
            self.sections: list[BinarySection] = guarded(self._headers.sections)
        except FormatError as error:
            raise error.located(file=name) from None

    def section(self, name: str) -> BinarySection | None:
        """The first section of that name, or ``None``."""
        return next((s for s in self.sections if s.name == name), None)

    def content(self, section: BinarySection) -> bytes:
        """The bytes of a section.

        Raises:
            FormatError: It goes beyond the end of the file.
        """
        if section.type in (SHT_NOBITS, "SHT_NOBITS"):
            return b""
        if section.offset + section.size > len(self.data):
            raise FormatError("cut short", file=self.name, section=section.name)
        return self.data[section.offset : section.offset + section.size]

    def segment_at(self, address: int) -> Segment | None:
        """The segment that is loaded to an address, or ``None``."""
        return next((s for s in self.segments if 0 <= address - s.address < s.size), None)

    @property
    def build_id(self) -> bytes:
        """What ``ld --build-id`` put there, mostly 20 bytes; empty if there is none."""
        section = self.section(".note.gnu.build-id")
        if section is None or section.size > _LARGEST_SMALL:
            return b""
        try:
            for owner, kind, content in self.notes(section):
                if owner == "GNU" and kind in NT_GNU_BUILD_ID:
                    return bytes(content)
        except FormatError:
            pass
        return b""

    @property
    def debug_link(self) -> tuple[str, int] | None:
        """Name and CRC-32 of the file with what was stripped (section ``.gnu_debuglink``)."""
        section = self.section(".gnu_debuglink")
        if section is None or not 8 <= section.size <= _LARGEST_SMALL:
            return None
        content = self.content(section)
        name, end, _ = content.partition(b"\0")
        if not end or not name:
            return None
        order = "little" if self.byteorder == "<" else "big"
        return name.decode(errors="surrogateescape"), int.from_bytes(content[-4:], order)  # type: ignore[arg-type]

    def notes(self, section: BinarySection) -> Iterator[tuple[str, Any, bytes]]:
        """Owner, type and content of each note in a section, as pyelftools reads them.

        Raises:
            FormatError: They are damaged.
        """
        from elftools.elf.notes import iter_notes

        self._headers.stream = io.BytesIO(self.content(section))
        found = iter_notes(self._headers, 0, section.size)
        while (note := guarded(next, found, None)) is not None:
            yield note["n_name"] or "", note["n_type"], note["n_descdata"]

    def find(self, name: str) -> list[Function]:
        """Where a function is.

        Looked for in the dynamic symbols first, then in all; the first table that has it decides.
        In a table, a strong symbol goes before weak ones, and the default version before others;
        if that is chosen when the program starts (:meth:`is_ifunc`), no other stands in for it.

        Args:
            name: ``function``, ``function@VERSION`` or ``function@@VERSION``.

        Returns:
            Nothing; or one function; or several, which only differ in their places, if the name is
            ambiguous.

        Raises:
            FormatError: A symbol table is damaged.
        """
        for table in ("dynsym", "symtab"):
            named = [s for s in self._named(table, name) if s.section != SHN_UNDEF]
            default = [s for s in named if s.is_default]
            if default and all(s.type == STT_GNU_IFUNC for s in default):
                return []  # programs get what it chooses, not the function of an old version
            found = [s for s in named if s.type == STT_FUNC]
            strong = [s for s in found if not s.is_weak]
            found = strong or found[:1]
            if len({s.address for s in found}) > 1:
                found = [s for s in found if s.is_default] or found
            functions = self._functions(found)
            if functions:
                return functions
        return []

    def matching(self, pattern: str) -> list[Function]:
        """All functions whose names match a pattern, each place once.

        Looked for in all symbols; in the dynamic ones if there are no others, or none matches.

        Args:
            pattern: ``*`` stands for anything, ``?`` for one character. Versions count only if the
                pattern has an ``@``.

        Raises:
            FormatError: A symbol table is damaged.
        """
        wanted = glob_pattern(pattern)
        for table in ("symtab", "dynsym"):
            functions = self._functions(
                s
                for s in self._symbols(table)
                if s.type == STT_FUNC
                and wanted.fullmatch(s.full_name if "@" in pattern else s.name)
            )
            if functions:
                return functions
        return []

    def function_names(self) -> set[str]:
        """Names of all functions that are in the file, without their versions.

        Raises:
            FormatError: A symbol table is damaged.
        """
        return {
            s.name
            for table in _TABLES
            for s in self._symbols(table)
            if s.type == STT_FUNC and self._place(s) is not None
        }

    def is_ifunc(self, name: str) -> bool:
        """Whether a name is that of a function which is chosen when the program starts."""
        return any(s.type == STT_GNU_IFUNC for t in _TABLES for s in self._named(t, name))

    def address_of(self, name: str) -> int | None:
        """Address of a variable or function; ``None`` if it is not there or ambiguous."""
        found = {
            s.address
            for table in _TABLES
            for s in self._named(table, name)
            if s.type in (STT_OBJECT, STT_FUNC) and s.section != SHN_UNDEF
        }
        return found.pop() if len(found) == 1 else None

    def _functions(self, symbols: Iterable[Symbol]) -> list[Function]:
        found: dict[int, str] = {}
        for symbol in symbols:
            offset = self._place(symbol)
            if offset is not None:
                found.setdefault(offset, symbol.full_name)
        return [Function(name, offset) for offset, name in found.items()]

    def _place(self, symbol: Symbol) -> int | None:
        """Offset in the file; ``None`` for what is imported or in no section."""
        if symbol.section == SHN_UNDEF or symbol.section >= len(self.sections):
            return None
        section = self.sections[symbol.section]
        return symbol.address - section.address + section.offset

    # Symbol tables

    def raw_symbols(self, table: str) -> RawSymbols | None:
        """``"symtab"`` or ``"dynsym"`` as it is in the file; ``None`` if there is none.

        Raises:
            FormatError: It goes beyond the end of the file, or has no names.
        """
        section = next((s for s in self.sections if s.type in _TABLES[table]), None)
        if section is None:
            return None
        if not 0 < section.link < len(self.sections):
            raise FormatError("it has no string table", file=self.name, section=section.name)
        layout = getattr(packed("elf", self.byteorder), "symbol" if self.bits == 64 else "symbol32")
        records = self.content(section)
        records = records[: len(records) - len(records) % layout.size]
        return RawSymbols(records, layout, self.content(self.sections[section.link]))

    def _named(self, table: str, name: str) -> Iterator[Symbol]:
        plain, _, version = name.partition("@")
        version = version.removeprefix("@")
        for symbol in self._symbols(table, only=plain):
            if symbol.name == plain and version in ("", symbol.version):
                yield symbol

    def _symbols(self, table: str, only: str | None = None) -> Iterator[Symbol]:
        """The symbols of a table; with ``only``, those of a name, without looking at the others."""
        raw = self.raw_symbols(table)
        if raw is None:
            return
        names = Names(raw.strings, _NAMES_LIMIT * len(self.data))
        chosen = None if only is None else _offsets_of(only, raw.strings)
        versions = self._versions() if table == "dynsym" else {}
        numbers = self._version_numbers() if versions else []
        for index, fields in enumerate(raw.layout.iter_unpack(raw.records)):
            if chosen is not None and fields[0] not in chosen:
                continue
            if self.bits == 64:
                name_at, info, _, shndx, value, _ = fields
            else:
                name_at, value, _, info, _, shndx = fields
            try:
                name, _, version = names.at(name_at, "symbol", index).partition("@")
            except FormatError as error:
                raise error.located(file=self.name, section=f".{table}") from None
            hidden = bool(version) and not version.startswith("@")
            if index < len(numbers):
                version = versions.get(numbers[index] & ~_HIDDEN, "")
                hidden = bool(numbers[index] & _HIDDEN)
            yield Symbol(
                name, version.removeprefix("@"), not hidden, value, shndx,
                info >> 4 == STB_WEAK, info & 15,
            )  # fmt: skip

    def _version_numbers(self) -> memoryview | list[int]:
        """For each dynamic symbol the number of its version."""
        section = next((s for s in self.sections if s.type in _VERSYM), None)
        if section is None:
            return []
        from array import array
        from sys import byteorder

        content = self.content(section)
        numbers = array("H", content[: len(content) & ~1])
        if (self.byteorder == "<") != (byteorder == "little"):
            numbers.byteswap()
        return memoryview(numbers)

    def _versions(self) -> dict[int, str]:
        """Names of the versions that the file defines, by number."""
        section = next((s for s in self.sections if s.type in _VERDEF), None)
        if section is None or not 0 < section.link < len(self.sections):
            return {}
        strings, content = self.content(self.sections[section.link]), self.content(section)
        records = packed("elf", self.byteorder)
        found: dict[int, str] = {}
        at = 0
        while at + records.verdef.size <= len(content):
            _, flags, number, _, _, aux, following = records.verdef.unpack_from(content, at)
            if not flags & VER_FLG_BASE and at + aux + records.verdaux.size <= len(content):
                start = records.verdaux.unpack_from(content, at + aux)[0]
                end = strings.find(b"\0", start, start + 256)
                found[number] = strings[start : max(end, start)].decode(errors="backslashreplace")
            if not following:
                break
            at += following
        return found


def address_at(segments: Iterable[Segment], offset: int) -> int | None:
    """Where a byte of a file is in memory (as :attr:`Segment.address`); ``None``: nowhere.

    The first of the segments that holds it counts.
    """
    for segment in segments:
        if 0 <= offset - segment.offset < segment.size:
            return segment.address + offset - segment.offset
    return None


def _offsets_of(name: str, strings: bytes) -> set[int]:
    """Where a string table has a name, alone or with a version behind it."""
    wanted = re.compile(re.escape(name.encode(errors="surrogateescape")) + rb"(?=[\0@])")
    return {found.start() for found in wanted.finditer(strings)}


class _Headers:
    """pyelftools' parser of the headers, without its ``ELFFile``, which brings all of DWARF."""

    def __init__(self, data: Content, bits: int, byteorder: str) -> None:
        from elftools.common.utils import struct_parse
        from elftools.elf.structs import ELFStructs

        self._parse = struct_parse
        self._data = data
        self.stream = io.BytesIO(data[:64])  # what `structs` reads; iter_notes() wants it here
        self.structs = ELFStructs(little_endian=byteorder == "<", elfclass=bits)
        self.structs.create_basic_structs()
        self.header = struct_parse(self.structs.Elf_Ehdr, self.stream, stream_pos=0)
        self.structs.create_advanced_structs(
            self.header["e_type"], self.header["e_machine"], self.header["e_ident"]["EI_OSABI"]
        )

    def segments(self) -> list[Segment]:
        """The segments of type ``PT_LOAD``."""
        raws = self._table("e_phoff", "e_phentsize", self.header["e_phnum"], "Elf_Phdr")
        return [
            Segment(raw["p_offset"], raw["p_vaddr"], raw["p_memsz"], bool(raw["p_flags"] & PF_X))
            for raw in raws
            if raw["p_type"] in ("PT_LOAD", PT_LOAD)
        ]

    def sections(self) -> list[BinarySection]:
        """All sections, with their names."""
        place = ("e_shoff", "e_shentsize")
        count, names_index = self.header["e_shnum"], self.header["e_shstrndx"]
        if not self.header["e_shoff"]:
            return []
        if not count or names_index in ("SHN_XINDEX", 0xFFFF):
            first = self._table(*place, 1, "Elf_Shdr")[0]
            count = count or first["sh_size"]
            names_index = first["sh_link"] if names_index in ("SHN_XINDEX", 0xFFFF) else names_index
        raws = self._table(*place, count, "Elf_Shdr")
        if not isinstance(names_index, int) or names_index >= len(raws):
            raise FormatError("the section names are in no section")
        start, size = raws[names_index]["sh_offset"], raws[names_index]["sh_size"]
        names = Names(self._data[start : start + size], _NAMES_LIMIT * len(self._data))
        return [
            BinarySection(
                names.at(raw["sh_name"], "section", index),
                raw["sh_type"],
                raw["sh_addr"],
                raw["sh_offset"],
                raw["sh_size"],
                raw["sh_link"],
            )
            for index, raw in enumerate(raws)
        ]

    def _table(self, start: str, entry: str, count: int, record: str) -> list[Any]:
        offset, size = self.header[start], self.header[entry]
        layout = getattr(self.structs, record)
        if count > _MOST_HEADERS:
            raise FormatError(f"{count} headers, more than {_MOST_HEADERS}")
        if count and size < layout.sizeof():
            raise FormatError(f"headers of {size} bytes, expected {layout.sizeof()}")
        if offset + count * size > len(self._data):
            raise FormatError(f"cut short: {count} headers at {offset:#x} go beyond the file")
        table = io.BytesIO(self._data[offset : offset + count * size])
        return [self._parse(layout, table, stream_pos=index * size) for index in range(count)]
