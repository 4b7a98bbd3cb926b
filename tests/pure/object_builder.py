"""Object files from nothing, for tests of what no compiler makes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pybpfload.btf.build import BtfBuilder
from pybpfload.formats import btf as btf_formats
from pybpfload.formats import elf as elf_formats
from pybpfload.isa.insn import Insn, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGBITS, SYMTAB, STRTAB, NOBITS, REL = 1, 2, 3, 8, 9
WRITE, ALLOC, EXEC = 1, 2, 4
LOCAL, GLOBAL, WEAK = 0, 1, 2
NOTYPE, OBJECT, FUNC, SECTION = 0, 1, 2, 3
DEFAULT, INTERNAL, HIDDEN = 0, 1, 2

EXIT = Insn(0x95)
CALL_SELF = Insn(0x85, src=1, imm=-1)  # as compilers write a call that has a relocation


def mov(imm: int, dst: int = 1) -> Insn:
    """``r1 = imm``, 64 bits wide."""
    return Insn(0xB7, dst=dst, imm=imm)


def load(size: int, off: int) -> Insn:
    """``r1 = *(size *)(r2 + off)``."""
    return Insn({1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}[size], dst=1, src=2, off=off)


def wide(value: int, src: int = 0) -> list[Insn]:
    """LDIMM64, both halves."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value & (1 << 64) - 1))
    return [Insn(0x18, dst=1, src=src, imm=low), Insn(0, imm=high)]


class ObjectBuilder:
    """An ELF64 object under construction.

    Args:
        order: ``"<"`` or ``">"``.

    Attributes:
        btf: Its types; written when there are any.
        machine, type: Of the ELF header.
    """

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.machine, self.type = 247, 1
        self.btf = BtfBuilder(order)
        self.func_info: dict[str, list[tuple[int, int]]] = {}
        self.line_info: dict[str, list[tuple[int, int, int, int]]] = {}
        self.core: dict[str, list[tuple[int, int, str, int]]] = {}
        self.rec_sizes = {"func_info": 8, "line_info": 16, "core_relo": 16}
        self._sections: list[dict[str, Any]] = [{"name": "", "type": 0}]
        self._symbols: list[tuple[Any, ...]] = [("", 0, 0, 0, 0, 0, 0)]
        self._rels: dict[int, list[tuple[int, int, int]]] = {}

    def section(
        self,
        name: str,
        data: bytes = b"",
        *,
        kind: int = PROGBITS,
        flags: int = ALLOC,
        **fields: int,
    ) -> int:
        """Add a section and return its index. ``fields``: size, link, info, entsize, offset."""
        self._sections.append({"name": name, "data": data, "type": kind, "flags": flags, **fields})
        return len(self._sections) - 1

    def symbol(
        self,
        name: str,
        section: int = 0,
        value: int = 0,
        size: int = 0,
        *,
        kind: int = NOTYPE,
        binding: int = GLOBAL,
        visibility: int = DEFAULT,
    ) -> int:
        """Add a symbol and return its index."""
        self._symbols.append((name, section, value, size, kind, binding, visibility))
        return len(self._symbols) - 1

    def code(self, name: str, insns: Iterable[Insn], *, flags: int = ALLOC | EXEC) -> int:
        """Add a code section."""
        return self.section(name, encode(list(insns), self.order), flags=flags)

    def program(
        self, section: str, insns: Iterable[Insn], name: str = "program", **symbol: int
    ) -> int:
        """Add a section with one function over all of it; returns the section's index."""
        insns = list(insns)
        index = self.code(section, insns)
        self.symbol(name, index, 0, 8 * len(insns), **{"kind": FUNC, **symbol})
        return index

    def rel(self, target: int, offset: int, symbol: int, kind: int = 1) -> None:
        """Add a relocation of a section."""
        self._rels.setdefault(target, []).append((offset, symbol, kind))

    def license(self, text: str = "GPL") -> int:
        return self.section("license", text.encode() + b"\0")

    def build(self, *, symtab: bool = True) -> bytes:
        """Return the file."""
        sections = [dict(section) for section in self._sections]
        layouts = elf_formats.layouts(self.order)
        if any((self.func_info, self.line_info, self.core)):
            ext = self._ext()
            sections.append({"name": ".BTF", "type": PROGBITS, "data": self.btf.build()})
            sections.append({"name": ".BTF.ext", "type": PROGBITS, "data": ext})
        elif len(self.btf) > 1:
            sections.append({"name": ".BTF", "type": PROGBITS, "data": self.btf.build()})
        names = bytearray(b"\0")

        def name_at(name: str) -> int:
            if not name:
                return 0
            names.extend(name.encode() + b"\0")
            return len(names) - len(name.encode()) - 1

        strtab = len(sections) + len(self._rels) + symtab
        table = b"".join(
            layouts.symbol.build(
                {
                    "st_name": name_at(name),
                    "st_info": binding << 4 | kind,
                    "st_other": visibility,
                    "st_shndx": shndx,
                    "st_value": value,
                    "st_size": size,
                }
            )
            for name, shndx, value, size, kind, binding, visibility in self._symbols
        )
        symbols_at = len(sections) + len(self._rels)
        for target, entries in self._rels.items():
            data = b"".join(
                layouts.rel.build({"r_offset": offset, "r_info": symbol << 32 | kind})
                for offset, symbol, kind in entries
            )
            sections.append(
                {
                    "name": ".rel" + sections[target]["name"], "type": REL, "data": data,
                    "entsize": 16, "link": symbols_at, "info": target,
                }
            )  # fmt: skip
        if symtab:
            sections.append(
                {"name": ".symtab", "type": SYMTAB, "data": table, "entsize": 24, "link": strtab}
            )
        sections.append({"name": ".strtab", "type": STRTAB})
        for section in sections:
            section["name_at"] = name_at(section["name"])
        sections[-1]["data"] = bytes(names)
        return self._file(sections, strtab)

    def _file(self, sections: list[dict[str, Any]], names_index: int) -> bytes:
        body, headers = bytearray(), bytearray()
        for section in sections:
            data = section.get("data", b"")
            body += bytes(-len(body) % 8)
            headers += struct.pack(
                self.order + "IIQQQQIIQQ",
                section["name_at"],
                section["type"],
                section.get("flags", 0),
                0,
                section.get("offset", 64 + len(body)),
                section.get("size", len(data)),
                section.get("link", 0),
                section.get("info", 0),
                1,
                section.get("entsize", 0),
            )
            body += data
        body += bytes(-len(body) % 8)
        ident = b"\x7fELF\x02" + (b"\x01" if self.order == "<" else b"\x02") + b"\x01" + bytes(9)
        header = struct.pack(
            self.order + "HHIQQQIHHHHHH",
            self.type, self.machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections),
            names_index,
        )  # fmt: skip
        return ident + header + bytes(body) + bytes(headers)

    def _ext(self) -> bytes:
        layouts = btf_formats.layouts(self.order)
        string = self.btf.add_string
        core = {
            name: [(at, type_id, string(access), kind) for at, type_id, access, kind in records]
            for name, records in self.core.items()
        }
        parts = []
        for label, blocks in (
            ("func_info", self.func_info),
            ("line_info", self.line_info),
            ("core_relo", core),
        ):
            size = self.rec_sizes[label]
            part = b""
            for name, records in blocks.items():
                part += layouts.info_block.build(
                    {"sec_name_off": string(name), "num_info": len(records)}
                )
                for record in records:
                    words = struct.pack(f"{self.order}{len(record)}I", *record)
                    part += words + b"\xee" * (size - len(words))
            parts.append(layouts.info_header.build({"rec_size": size}) + part if part else b"")
        header = {"magic": btf_formats.MAGIC, "version": 1, "flags": 0, "hdr_len": 32}
        at = 0
        for label, part in zip(("func_info", "line_info", "core_relo"), parts, strict=True):
            header[f"{label}_off"], header[f"{label}_len"] = at, len(part)
            at += len(part)
        return (
            layouts.ext_header.build(header)
            + layouts.ext_header_core.build(header)
            + b"".join(parts)
        )
