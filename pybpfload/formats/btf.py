"""BTF, the kernel's type format, and BTF.ext, its companion in object files.

Source: Documentation/bpf/btf.rst.

A ``.BTF`` section is a header, a run of type records and a run of NUL-terminated strings. Type ids
count from 1 in the order of the records; 0 is ``void``. Every type record is a common part of 12
bytes, then what its
kind adds: nothing, one fixed record, or ``vlen`` records. All fields are 32 bits wide and aligned
to 4 bytes, except the first four bytes of the header.

Since Linux 7.1 a header may be 32 bytes long and name a *layout* section, which tells the size of
each kind's additions, so that a reader can step over kinds that it does not know.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

__all__ = ["EXTRA_WORDS", "HEADER_SIZE", "MAGIC", "TYPE_WORDS", "WORDS", "layouts"]

MAGIC = 0xEB9F
"""First two bytes of ``.BTF`` and ``.BTF.ext``, in the byte order of the file."""

HEADER_SIZE = 24
"""Bytes of the header that every kernel knows; 32 with the layout fields (Linux 7.1)."""

TYPE_WORDS = 3
"""Size of the common part of a type record, in 32-bit words."""

WORDS: dict[int, tuple[str, str, str]] = {
    1: (".", ".", ""),  # INT: size; encoding word
    2: ("t", "", ""),  # PTR
    3: (".", "tt.", ""),  # ARRAY: element, index, number
    4: (".", "", "st."),  # STRUCT: size; members
    5: (".", "", "st."),  # UNION
    6: (".", "", "s."),  # ENUM: size; enumerators
    7: (".", "", ""),  # FWD
    8: ("t", "", ""),  # TYPEDEF
    9: ("t", "", ""),  # VOLATILE
    10: ("t", "", ""),  # CONST
    11: ("t", "", ""),  # RESTRICT
    12: ("t", "", ""),  # FUNC: prototype; vlen is its linkage
    13: ("t", "", "st"),  # FUNC_PROTO: returned type; parameters
    14: ("t", ".", ""),  # VAR: linkage
    15: (".", "", "t.."),  # DATASEC: size; variables
    16: (".", "", ""),  # FLOAT (5.13): size
    17: ("t", ".", ""),  # DECL_TAG (5.16): component index
    18: ("t", "", ""),  # TYPE_TAG (5.17)
    19: (".", "", "s.."),  # ENUM64 (6.0): size; enumerators
}
"""Kind -> what each word is: the third of the common part, words added once, words per ``vlen``
element. ``t`` is a type id, ``s`` a string offset, ``.`` a number."""

EXTRA_WORDS = {kind: (len(once), len(each)) for kind, (_, once, each) in WORDS.items()}
"""Kind -> (words added once, words added per ``vlen`` element)."""


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct ``Struct``s: ``header``, ``header_layout`` (fields of a 32-byte
        header after the first 24), ``layout_entry``, ``type``, ``info`` (the bits of
        ``type.info``), ``int_encoding``, ``array``, ``member``, ``enumerator``, ``enumerator64``,
        ``param``, ``var``, ``datasec_entry``, ``decl_tag``, and for BTF.ext ``ext_header``,
        ``ext_header_core``, ``info_header``, ``info_block``, ``func_info``, ``line_info``,
        ``core_relo``.
    """
    # Imported here because the constants above are needed at every start, and construct is slow.
    from construct import (
        BitsInteger,
        BitStruct,
        ByteSwapped,
        Flag,
        Int8ub,
        Int16ub,
        Int16ul,
        Int32sb,
        Int32sl,
        Int32ub,
        Int32ul,
        Struct,
    )
    from construct import Padding as Pad

    little = byteorder == "<"
    u16, u32, s32 = (Int16ul, Int32ul, Int32sl) if little else (Int16ub, Int32ub, Int32sb)

    def bits(*fields: Any) -> Any:
        # Bit fields are described from the most significant bit of the 32-bit word down.
        return ByteSwapped(BitStruct(*fields)) if little else BitStruct(*fields)

    return SimpleNamespace(
        header=Struct(
            "magic" / u16,
            "version" / Int8ub,
            "flags" / Int8ub,
            "hdr_len" / u32,
            "type_off" / u32,  # offsets count from the end of the header
            "type_len" / u32,
            "str_off" / u32,
            "str_len" / u32,
        ),
        header_layout=Struct("layout_off" / u32, "layout_len" / u32),
        layout_entry=Struct("info_sz" / Int8ub, "elem_sz" / Int8ub, "flags" / u16),
        type=Struct("name_off" / u32, "info" / u32, "size_or_type" / u32),
        # Before 7.2 kind had 5 bits and vlen 16; the bits between were zero.
        info=bits("kflag" / Flag, "kind" / BitsInteger(7), "vlen" / BitsInteger(24)),
        int_encoding=bits(
            Pad(4),
            "encoding" / BitsInteger(4),
            "offset" / BitsInteger(8),
            Pad(8),
            "bits" / BitsInteger(8),
        ),
        array=Struct("type" / u32, "index_type" / u32, "nelems" / u32),
        member=Struct("name_off" / u32, "type" / u32, "offset" / u32),
        # With kflag set, a member's offset word is split.
        member_offset=bits("bitfield_size" / BitsInteger(8), "bit_offset" / BitsInteger(24)),
        enumerator=Struct("name_off" / u32, "value" / s32),
        enumerator64=Struct("name_off" / u32, "lo32" / u32, "hi32" / u32),
        param=Struct("name_off" / u32, "type" / u32),
        var=Struct("linkage" / u32),
        datasec_entry=Struct("type" / u32, "offset" / u32, "size" / u32),
        decl_tag=Struct("component_idx" / s32),
        ext_header=Struct(
            "magic" / u16,
            "version" / Int8ub,
            "flags" / Int8ub,
            "hdr_len" / u32,
            "func_info_off" / u32,
            "func_info_len" / u32,
            "line_info_off" / u32,
            "line_info_len" / u32,
        ),
        ext_header_core=Struct("core_relo_off" / u32, "core_relo_len" / u32),
        info_header=Struct("rec_size" / u32),
        info_block=Struct("sec_name_off" / u32, "num_info" / u32),
        func_info=Struct("insn_off" / u32, "type_id" / u32),
        line_info=Struct(
            "insn_off" / u32, "file_name_off" / u32, "line_off" / u32, "line_col" / u32
        ),
        core_relo=Struct("insn_off" / u32, "type_id" / u32, "access_str_off" / u32, "kind" / u32),
    )
