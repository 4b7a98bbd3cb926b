"""Filling in what compilers leave open in the BTF of data sections.

clang writes DATASEC types with size 0 and global variables at offset 0; the ELF symbol table knows
better (libbpf ``btf_fixup_datasec``). Objects that went through a static linker have them filled
in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.edit import BtfEditor
from pybpfload.elf import reader as elf_reader
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.elf.reader import ElfFile, Symbol
    from pybpfload.object.spec import ObjectSpec

__all__ = ["fix_up"]

_VIRTUAL = (".kconfig", ".ksyms")  # exist in BTF only
_STATIC, _EXTERN = 0, 2  # linkage
_MASK = 0xFFFFFFFF


def fix_up(elf: ElfFile, spec: ObjectSpec) -> None:
    """Give DATASECs their size and their variables offsets, sorted; make hidden ones static.

    Raises:
        FormatError: A DATASEC names a section, or a variable a symbol, that does not exist.
    """
    btf = spec.btf
    if btf is None:
        return
    sections = [
        s
        for s in (btf[i] for i in btf if btf.kind(i) == t.Kind.DATASEC)
        if isinstance(s, t.Datasec)
    ]
    if not sections:
        return
    symbols = {
        s.name: s
        for s in reversed(elf.symbols)
        if s.type == elf_reader.STT_OBJECT
        and s.binding in (elf_reader.STB_GLOBAL, elf_reader.STB_WEAK)
    }
    editor = BtfEditor(btf)
    for section in sections:
        _fix_section(section, btf, elf, symbols, editor)
    spec.btf = editor.finish()


def _fix_section(
    section: t.Datasec, btf: Btf, elf: ElfFile, symbols: dict[str, Symbol], editor: BtfEditor
) -> None:
    by_offset = sorted(section.entries, key=lambda entry: entry.offset)
    if section.name in _VIRTUAL:
        editor.set_datasec(section.id, section.size, by_offset)
        return
    size = section.size
    fixing = size == 0
    if fixing:
        found = elf.section(section.name)
        if found is None or not found.size:
            raise FormatError(
                "BTF describes variables of this section, which the file does not have",
                section=section.name,
            )
        size = found.size
        if size > _MASK:
            raise FormatError(f"its {size} bytes are too many for BTF", section=section.name)
    entries = []
    for entry in section.entries:
        variable = btf[entry.type]
        if not isinstance(variable, t.Var):
            raise FormatError(
                f"BTF puts {btf.describe(entry.type)} into this section, expected a VAR",
                section=section.name,
            )
        offset = entry.offset
        if variable.linkage not in (_STATIC, _EXTERN):
            symbol = symbols.get(variable.name)
            if symbol is None:
                raise FormatError(
                    "the variable has BTF but no symbol",
                    section=section.name,
                    symbol=variable.name,
                    hint="do not strip BPF objects (llvm-strip -g is fine)",
                )
            if fixing:
                # The offset word is 32 bits; a symbol beyond that is caught as outside of its
                # section later.
                offset = symbol.value & _MASK
            if symbol.is_hidden:
                editor.set_var(entry.type, linkage=_STATIC)
        entries.append(t.SecVar(entry.type, offset, entry.size))
    entries.sort(key=lambda entry: entry.offset)
    editor.set_datasec(section.id, size, entries)
