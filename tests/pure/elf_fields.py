"""The fields of an object file by name and place, so that tests can corrupt them one at a time.

Meant for valid files; it reads them with nothing but :mod:`struct`, so that it shares no mistake
with the code under test.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = (
    "e_ident_class:4:1 e_ident_data:5:1 e_ident_version:6:1 e_type:16:2 e_machine:18:2 "
    "e_version:20:4 e_entry:24:8 e_phoff:32:8 e_shoff:40:8 e_flags:48:4 e_ehsize:52:2 "
    "e_phentsize:54:2 e_phnum:56:2 e_shentsize:58:2 e_shnum:60:2 e_shstrndx:62:2"
)
_SECTION = (
    "sh_name:0:4 sh_type:4:4 sh_flags:8:8 sh_addr:16:8 sh_offset:24:8 sh_size:32:8 sh_link:40:4 "
    "sh_info:44:4 sh_addralign:48:8 sh_entsize:56:8"
)
_SYMBOL = "st_name:0:4 st_info:4:1 st_other:5:1 st_shndx:6:2 st_value:8:8 st_size:16:8"
_INSN = "opcode:0:1 registers:1:1 off:2:2 imm:4:4"
_REL = "r_offset:0:8 r_type:8:4 r_sym:12:4"
_REL_BIG = "r_offset:0:8 r_sym:8:4 r_type:12:4"


class Field(NamedTuple):
    """A number in the file: ``size`` bytes at ``offset``."""

    name: str
    offset: int
    size: int
    order: str

    def get(self, data: bytes) -> int:
        return int.from_bytes(data[self.offset : self.offset + self.size], self.order)

    def set(self, data: bytes, value: int) -> bytes:
        value &= (1 << 8 * self.size) - 1
        encoded = value.to_bytes(self.size, self.order)
        return data[: self.offset] + encoded + data[self.offset + self.size :]


class Part(NamedTuple):
    """A run of bytes: the header, the section headers, or the contents of a section."""

    name: str
    offset: int
    size: int
    is_code: bool = False


def parts(data: bytes) -> list[Part]:
    """The header, the table of section headers, and all sections that have contents in the file."""
    order = "<" if data[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", data, 40)
    count, names_index = struct.unpack_from(order + "HH", data, 60)
    headers = [struct.unpack_from(order + "IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]
    names_at = headers[names_index][4]
    found = [Part("ELF header", 0, 64), Part("section headers", table, 64 * count)]
    for header in headers:
        at = names_at + header[0]
        name = data[at : data.index(b"\0", at)].decode()
        if header[1] not in (0, 8):
            found.append(Part(name, header[4], header[5], bool(header[2] & 4)))
    return found


def fields(data: bytes) -> list[Field]:
    """All numbers in headers, symbols, relocations, instructions, BTF and BTF.ext."""
    order = "little" if data[5] == 1 else "big"
    found = list(_record("header", 0, _HEADER, order))
    for part in parts(data):
        if part.name == "section headers":
            for index in range(part.size // 64):
                found += _record(f"section {index}", part.offset + 64 * index, _SECTION, order)
        elif part.is_code:
            for at in range(part.offset, part.offset + part.size, 8):
                found += _record(f"code {part.name}", at, _INSN, order)
        elif part.name == ".symtab":
            for index in range(part.size // 24):
                found += _record(f"symbol {index}", part.offset + 24 * index, _SYMBOL, order)
        elif part.name.startswith(".rel") and "BTF" not in part.name:
            layout = _REL if order == "little" else _REL_BIG
            for at in range(part.offset, part.offset + part.size, 16):
                found += _record(part.name, at, layout, order)
        elif part.name == ".BTF":
            found += _btf(data, part, order)
        elif part.name == ".BTF.ext":
            found += _words(part.name, part.offset + 4, part.size - 4, order)
    return found


def _btf(data: bytes, part: Part, order: str) -> Iterator[Field]:
    yield from _words("BTF header", part.offset + 4, 20, order)
    header, types, length = struct.unpack_from(
        ("<" if order == "little" else ">") + "III", data, part.offset + 4
    )
    yield from _words("BTF types", part.offset + header + types, length, order)


def _words(name: str, offset: int, size: int, order: str) -> Iterator[Field]:
    for index in range(size // 4):
        yield Field(f"{name} word {index}", offset + 4 * index, 4, order)


def _record(name: str, offset: int, layout: str, order: str) -> Iterator[Field]:
    for field in layout.split():
        label, at, size = field.split(":")
        yield Field(f"{name} {label}", offset + int(at), int(size), order)
