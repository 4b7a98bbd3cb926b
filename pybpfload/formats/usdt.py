"""Probes that programs declare themselves (USDT): the note in the file, and what BPF code is told.

The note is that of SystemTap's ``sys/sdt.h``. What the BPF side is told is a contract with the
header that its author compiled: libbpf's ``usdt.bpf.h`` reads ``struct __bpf_usdt_spec`` from the
map ``__bpf_usdt_specs``, at the index that the attach cookie tells.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

__all__ = ["ARGUMENTS", "NOTE_OWNER", "NOTE_TYPE", "SPEC_SIZES", "ArgumentKind", "layouts"]

NOTE_OWNER: Final = "stapsdt"
NOTE_TYPE: Final = 3

ARGUMENTS: Final = 12
"""Most arguments that a probe can have."""

SPEC_SIZES: Final = {304: "spec", 208: "old_spec"}
"""Size of the map's values -> description in :func:`layouts`: since libbpf 1.7, and before."""


class ArgumentKind(IntEnum):
    """Where the value of an argument is."""

    CONST = 0
    REG = 1
    REG_DEREF = 2
    SIB = 3  # base and index register, and a scale: only in the newer layout


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct ``Struct``s: ``note32`` and ``note`` (content of a note of a 32-bit
        or 64-bit file), ``spec`` and ``old_spec`` (what BPF code is told).
    """
    from construct import (
        Array,
        BitsInteger,
        BitStruct,
        ByteSwapped,
        CString,
        Int8sb,
        Int8ub,
        Int16sb,
        Int16sl,
        Int32sb,
        Int32sl,
        Int32ub,
        Int32ul,
        Int64ub,
        Int64ul,
        Padding,
        Struct,
    )

    little = byteorder == "<"
    s16, s32 = (Int16sl, Int32sl) if little else (Int16sb, Int32sb)
    u32, u64 = (Int32ul, Int64ul) if little else (Int32ub, Int64ub)

    def note(word: Any) -> Any:
        return Struct(
            "location" / word,  # address of the probe
            "base" / word,  # of the section .stapsdt.base; prelinking moves that, but not this
            "semaphore" / word,  # address of a 16-bit counter, or 0
            "provider" / CString("utf8"),
            "name" / CString("utf8"),
            "arguments" / CString("utf8"),
        )

    # Bit fields of 8, 12, 4 and 8 bits: the middle ones share a 16-bit unit, which cannot begin at
    # an odd place.
    if little:
        index = BitStruct("scale" / BitsInteger(4), "offset" / BitsInteger(12))
        place = ["kind" / Int8ub, Padding(1), "index" / ByteSwapped(index), Padding(2)]
    else:
        index = BitStruct("offset" / BitsInteger(12), "scale" / BitsInteger(4))
        place = [Padding(2), "index" / index, "kind" / Int8ub, Padding(1)]
    spec = Struct(
        "value" / u64,  # the constant, or the offset from what the registers say
        *place,
        "register" / s16,  # offset in struct pt_regs
        "signed" / Int8ub,
        "shift" / Int8sb,  # bits of a 64-bit word that the argument does not have
        Padding(6),
    )
    old_spec = Struct(
        "value" / u64,
        "kind" / s32,
        "register" / s16,
        "signed" / Int8ub,
        "shift" / Int8sb,
    )

    def whole(argument: Any) -> Any:
        return Struct(
            "arguments" / Array(ARGUMENTS, argument),
            "cookie" / u64,
            "count" / s16,
            Padding(6),
        )

    return SimpleNamespace(
        note32=note(u32), note=note(u64), spec=whole(spec), old_spec=whole(old_spec)
    )
