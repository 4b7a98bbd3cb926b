"""The BPF ring buffer as user space maps it (``kernel/bpf/ringbuf.c``, since Linux 5.8).

A ring of ``size`` data bytes (a power of two, whole pages) is mapped from the map's descriptor in
two parts:

================== ============ =============================================================
file offset        access       content
================== ============ =============================================================
0                  read, write  ``consumer``: how far user space has read
1 page             read         ``producer``: how far programs have reserved space
2 pages            read         ``size`` bytes of data, and once more the same bytes, so that a
                                record that goes over the end can be read in one piece
================== ============ =============================================================

Positions only grow; ``position % size`` is the place in the data. Records follow each other from
``consumer`` to ``producer``, each at a multiple of 8. Everything is in the machine's byte order.

Rings with ``BPF_F_RB_OVERWRITE`` (6.19) have another position 16 bytes behind ``producer``, that of
the oldest record that is not overwritten yet: from there to ``producer`` there are records,
whatever ``consumer`` says. (Between the two stands, since 6.11, the position of the oldest record
that is still being written, which is the kernel's own business.)

A user ring buffer (6.1) is the same with the roles exchanged: user space may write all but the
first page, and a program takes the records.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from construct import (
    Aligned,
    BitsInteger,
    BitStruct,
    Bytes,
    ByteSwapped,
    Flag,
    Int32ub,
    Int32ul,
    Int64ub,
    Int64ul,
    Struct,
    this,
)

__all__ = ["BUSY", "DISCARD", "HEADER_SIZE", "LENGTH_MASK", "layouts"]

BUSY = 1 << 31
"""Flag in the length word: the program is still writing the record; nothing behind it may be
read."""

DISCARD = 1 << 30
"""Flag in the length word: the program has thrown the record away."""

LENGTH_MASK = DISCARD - 1
"""The length in the length word."""

HEADER_SIZE = 8
"""Bytes in front of each record's data."""


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct descriptions: ``position`` (a page's first 8 bytes), ``length``
        (the bits of a record's first word), ``record`` (header and data).
    """
    little = byteorder == "<"
    bits = BitStruct("busy" / Flag, "discard" / Flag, "size" / BitsInteger(30))
    length = ByteSwapped(bits) if little else bits
    return SimpleNamespace(
        position=Int64ul if little else Int64ub,
        length=length,
        record=Aligned(
            8,
            Struct(
                "length" / length,
                # Distance in pages from the start of the kernel's own structure: not for readers.
                "page_offset" / (Int32ul if little else Int32ub),
                "data" / Bytes(this.length.size),
            ),
        ),
    )
