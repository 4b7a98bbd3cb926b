"""Levels of stack traces that name files by their build ids (``linux/bpf.h``, since Linux 4.17).

Maps of type ``STACK_TRACE`` with ``BPF_F_STACK_BUILD_ID``, and ``bpf_get_stack()`` with
``BPF_F_USER_BUILD_ID``, hold an array of ``struct bpf_stack_build_id``, innermost level first, in
the machine's byte order. Other stack traces are arrays of 64-bit addresses that end with a 0.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from construct import Bytes, Int32sb, Int32sl, Int64ub, Int64ul, Struct

__all__ = ["layouts"]


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct ``Struct``s: ``build_id`` (``struct bpf_stack_build_id``).
    """
    little = byteorder == "<"
    return SimpleNamespace(
        build_id=Struct(
            # 0: nothing, the trace ends; 1: build id and offset; 2: an address, no build id
            "status" / (Int32sl if little else Int32sb),
            "build_id" / Bytes(20),  # a shorter one has zeros behind it
            "offset" / (Int64ul if little else Int64ub),  # in the file in bytes; or the address
        )
    )
