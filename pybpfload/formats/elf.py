"""The tables of an ELF file (System V ABI, chapters "Object Files" to "Relocation").

Those of ELF64, as BPF objects are; of ELF32 the one record that has its fields in another order.

pyelftools reads the headers of the file and its sections, which are described here for who writes
or damages files. Symbols and relocations can number in the tens of thousands and are decoded by
:mod:`struct` from these descriptions.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    ByteSwapped,
    Int8ub,
    Int16ub,
    Int16ul,
    Int32ub,
    Int32ul,
    Int64ub,
    Int64ul,
    Nibble,
    Struct,
)

__all__ = ["layouts"]


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct ``Struct``s: ``header`` (``Elf64_Ehdr``), ``section``
        (``Elf64_Shdr``), ``segment`` (``Elf64_Phdr``), ``symbol`` (``Elf64_Sym``), ``symbol32``
        (``Elf32_Sym``), ``rel`` (``Elf64_Rel``), the bits of ``symbol.st_info`` and
        ``rel.r_info``, and ``verdef`` and ``verdaux`` (GNU symbol versions: Linux Standard Base,
        Core, "Symbol Versioning").
    """
    little = byteorder == "<"
    u16, u32, u64 = (Int16ul, Int32ul, Int64ul) if little else (Int16ub, Int32ub, Int64ub)
    r_info = BitStruct("symbol" / BitsInteger(32), "type" / BitsInteger(32))
    return SimpleNamespace(
        header=Struct(
            "ei_mag" / Bytes(4),
            "ei_class" / Int8ub,  # 2: 64 bits
            "ei_data" / Int8ub,  # 1: little endian, 2: big
            "ei_version" / Int8ub,
            "ei_osabi" / Int8ub,
            "ei_abiversion" / Int8ub,
            "ei_pad" / Bytes(7),
            "e_type" / u16,
            "e_machine" / u16,
            "e_version" / u32,
            "e_entry" / u64,
            "e_phoff" / u64,
            "e_shoff" / u64,
            "e_flags" / u32,
            "e_ehsize" / u16,
            "e_phentsize" / u16,
            "e_phnum" / u16,
            "e_shentsize" / u16,
            "e_shnum" / u16,
            "e_shstrndx" / u16,
        ),
        section=Struct(
            "sh_name" / u32,
            "sh_type" / u32,
            "sh_flags" / u64,
            "sh_addr" / u64,
            "sh_offset" / u64,
            "sh_size" / u64,
            "sh_link" / u32,
            "sh_info" / u32,
            "sh_addralign" / u64,
            "sh_entsize" / u64,
        ),
        segment=Struct(
            "p_type" / u32,
            "p_flags" / u32,
            "p_offset" / u64,
            "p_vaddr" / u64,
            "p_paddr" / u64,
            "p_filesz" / u64,
            "p_memsz" / u64,
            "p_align" / u64,
        ),
        symbol=Struct(
            "st_name" / u32,
            "st_info" / Int8ub,
            "st_other" / Int8ub,  # visibility in the low two bits
            "st_shndx" / u16,
            "st_value" / u64,
            "st_size" / u64,
        ),
        symbol32=Struct(
            "st_name" / u32,
            "st_value" / u32,
            "st_size" / u32,
            "st_info" / Int8ub,
            "st_other" / Int8ub,
            "st_shndx" / u16,
        ),
        st_info=BitStruct("binding" / Nibble, "type" / Nibble),
        verdef=Struct(
            "vd_version" / u16,
            "vd_flags" / u16,
            "vd_ndx" / u16,
            "vd_cnt" / u16,
            "vd_hash" / u32,
            "vd_aux" / u32,  # offset of the first name, from here
            "vd_next" / u32,  # offset of the next version, from here; 0: this is the last
        ),
        verdaux=Struct("vda_name" / u32, "vda_next" / u32),
        rel=Struct("r_offset" / u64, "r_info" / u64),
        r_info=ByteSwapped(r_info) if little else r_info,
    )
