"""One BPF instruction slot: 8 bytes (RFC 9669 section 3.1).

The two register numbers share a byte, and which half is whose depends on the byte order. The second
half of a 64-bit constant (RFC 9669 section 3.2) is a slot of the same layout in which everything
but ``imm`` is zero.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

from construct import BitStruct, Int8ub, Int16sb, Int16sl, Int32sb, Int32sl, Nibble, Struct

__all__ = ["SIZE", "slot"]

SIZE = 8
"""Bytes of one slot."""


@lru_cache(maxsize=2)
def slot(byteorder: str) -> Any:
    """Return the description of one slot.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A construct ``Struct`` with ``code``, ``regs`` (with ``dst`` and ``src``), ``off``, ``imm``.
    """
    # Bit fields are described from the most significant bit down.
    if byteorder == "<":
        regs = BitStruct("src" / Nibble, "dst" / Nibble)
        return Struct("code" / Int8ub, "regs" / regs, "off" / Int16sl, "imm" / Int32sl)
    regs = BitStruct("dst" / Nibble, "src" / Nibble)
    return Struct("code" / Int8ub, "regs" / regs, "off" / Int16sb, "imm" / Int32sb)
