"""The two ELF tables that are read in bulk (System V ABI, "Symbol Table" and "Relocation").

pyelftools reads headers and sections; symbols and relocations can number in the tens of thousands
and are decoded by :mod:`struct` from these descriptions.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from construct import Int8ub, Int16ub, Int16ul, Int32ub, Int32ul, Int64ub, Int64ul, Struct

__all__ = ["layouts"]


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return a namespace with ``symbol`` (``Elf64_Sym``) and ``rel`` (``Elf64_Rel``)."""
    little = byteorder == "<"
    u16, u32, u64 = (Int16ul, Int32ul, Int64ul) if little else (Int16ub, Int32ub, Int64ub)
    return SimpleNamespace(
        symbol=Struct(
            "st_name" / u32,
            "st_info" / Int8ub,  # binding << 4 | type
            "st_other" / Int8ub,  # visibility in the low two bits
            "st_shndx" / u16,
            "st_value" / u64,
            "st_size" / u64,
        ),
        rel=Struct("r_offset" / u64, "r_info" / u64),  # symbol << 32 | type
    )
