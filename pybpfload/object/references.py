"""What each instruction refers to, from the ELF relocations.

The relocation *type* is never looked at: the opcode and the symbol decide (libbpf
``bpf_object__collect_prog_relos``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.elf import reader as elf_reader
from pybpfload.errors import FormatError
from pybpfload.isa.insn import CALL, LDIMM64
from pybpfload.object import maps
from pybpfload.object.functions import Finder
from pybpfload.object.spec import MapKind, Reloc, RelocKind
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from pybpfload.elf.reader import Relocation, Section, Symbol
    from pybpfload.isa.insn import Insn
    from pybpfload.object.opener import Layout
    from pybpfload.object.spec import ObjectSpec

__all__ = ["collect"]


def collect(layout: Layout, spec: ObjectSpec) -> None:
    """Give every function its references, and maps their declared values.

    Raises:
        FormatError: A relocation refers to something that a BPF program cannot refer to; it says
            what and where.
    """
    maps.apply_declared_values(layout, spec)
    special = {section.index for section in layout.struct_ops}
    if layout.maps is not None:
        special.add(layout.maps.index)
    collector = _Collector(layout, spec)
    for section, target in layout.relocations:
        if target.index not in special:
            for entry in layout.elf.relocations(section):
                collector.add(section, target, entry)
    for function in spec.functions:
        function.relocs.sort(key=lambda reloc: (reloc.insn, reloc.kind))


class _Collector:
    def __init__(self, layout: Layout, spec: ObjectSpec) -> None:
        self.layout, self.spec = layout, spec
        self.finder = Finder(spec.functions)
        self.externs = {e.symbol: i for i, e in enumerate(spec.externs.values())}
        specs = list(spec.maps.values())
        # The first map wins where two definitions start at one place.
        self.user_maps = {
            m.offset: i for i, m in reversed(list(enumerate(specs))) if m.kind == MapKind.USER
        }
        # By position: sections of equal names make maps of equal names.
        internal = [i for i, m in enumerate(specs) if m.is_internal and m.kind != MapKind.KCONFIG]
        self.data_maps = {
            section.index: i for (section, _), i in zip(layout.data, internal, strict=True)
        }
        self.arena = next((i for i, m in enumerate(specs) if m.type == MapType.ARENA), -1)

    def add(self, section: Section, target: Section, entry: Relocation) -> None:
        elf = self.layout.elf
        place: dict[str, Any] = {"section": section.name, "offset": entry.offset}
        if entry.symbol >= len(elf.symbols):
            raise FormatError(f"names symbol {entry.symbol}, which does not exist", **place)
        symbol = elf.symbols[entry.symbol]
        place["symbol"] = symbol.name
        if symbol.shndx >= len(elf.sections):
            raise FormatError(
                f"symbol is in section {symbol.shndx:#x}, which does not exist",
                hint="if it is a variable without initial value, compile with -fno-common",
                **place,
            )
        if entry.offset % 8 or entry.offset >= target.size:
            raise FormatError("is not at an instruction", **place)
        found = self.finder.by_index(target.index, entry.offset // 8)
        if found is None:
            return  # typical for a weak function that the static linker replaced
        function, index = found
        function.relocs.append(self.classify(symbol, index, function.insns[index], place))

    def classify(self, symbol: Symbol, index: int, insn: Insn, place: dict[str, Any]) -> Reloc:
        """Decide by opcode and symbol; the first rule that applies wins."""
        if insn.code not in (CALL, LDIMM64):
            raise FormatError(
                f"instruction with opcode {insn.code:#04x} cannot refer to anything", **place
            )
        is_call = insn.code == CALL
        if symbol.is_extern:
            extern = self.externs.get(symbol.index)
            if extern is None:
                raise FormatError(
                    "extern is not declared in BTF", hint="declare it __ksym or __kconfig", **place
                )
            return Reloc(index, RelocKind.EXTERN_CALL if is_call else RelocKind.EXTERN, extern)
        text = self.layout.text
        if is_call:
            if insn.src != 1:
                raise FormatError("call of something that is not a BPF function", **place)
            if not symbol.shndx or symbol.shndx != text:
                raise FormatError(
                    "called function is not in .text",
                    hint="a program cannot be called; move its code to a function without SEC()",
                    **place,
                )
            if symbol.value % 8:
                raise FormatError(
                    f"called function starts at {symbol.value}, inside an instruction", **place
                )
            return Reloc(index, RelocKind.CALL, sym_off=symbol.value)
        if not symbol.shndx or symbol.shndx >= elf_reader.SHN_LORESERVE:
            raise FormatError(
                "symbol is defined nowhere",
                hint="define the variable, or declare it extern with __ksym or __kconfig",
                **place,
            )
        if symbol.shndx == text and (
            (symbol.binding == elf_reader.STB_LOCAL and symbol.type == elf_reader.STT_SECTION)
            or (symbol.binding != elf_reader.STB_LOCAL and symbol.type == elf_reader.STT_FUNC)
        ):
            if symbol.value % 8 or insn.imm % 8:
                raise FormatError("address inside an instruction", **place)
            return Reloc(index, RelocKind.FUNCTION, sym_off=symbol.value)
        if self.layout.arena is not None and symbol.shndx == self.layout.arena.index:
            if self.arena < 0:
                raise FormatError(
                    "arena variable, but the object has no arena map",
                    hint="define a map of type BPF_MAP_TYPE_ARENA",
                    **place,
                )
            return Reloc(index, RelocKind.MAP_VALUE, self.arena, symbol.value)
        tables = self.layout.jump_tables
        if tables is not None and symbol.shndx == tables.index:
            return Reloc(index, RelocKind.JUMP_TABLE, sym_off=symbol.value, size=symbol.size)
        if symbol.shndx in self.data_maps:
            return Reloc(index, RelocKind.MAP_VALUE, self.data_maps[symbol.shndx], symbol.value)
        if self.layout.maps is None or symbol.shndx != self.layout.maps.index:
            name = self.layout.elf.sections[symbol.shndx].name
            raise FormatError(
                f"symbol is in section {name!r}, which programs cannot refer to",
                hint="they can to .data, .rodata, .bss, .data.NAME ..., .maps and .text",
                **place,
            )
        if symbol.value not in self.user_maps:
            raise FormatError(f"no map starts at offset {symbol.value} of .maps", **place)
        return Reloc(index, RelocKind.MAP, self.user_maps[symbol.value])
