"""Jump tables: where a program's computed jumps lead (libbpf ``create_jt_map``, libbpf 1.7).

The compiler leaves them in ``.jumptables``, eight bytes an entry: the byte offset of an instruction
in the section of the function that jumps. The kernel (6.19) wants indices in the whole program, so
each program has tables of its own.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from pybpfload.errors import RelocationError
from pybpfload.relocate.failure import DAMAGED

if TYPE_CHECKING:
    from pybpfload.object.spec import ObjectSpec, Reloc
    from pybpfload.relocate.link import Linked

__all__ = ["jump_table"]

_ENTRY = 8
_INSN = 8
_LARGEST = 0xFFFFFFFF


def jump_table(spec: ObjectSpec, linked: Linked, reloc: Reloc) -> tuple[int, ...]:
    """Work out the jump table that an instruction refers to.

    Args:
        spec: The object.
        linked: The program.
        reloc: The reference; its instruction is counted in the whole program.

    Returns:
        For each entry, the index of an instruction in the whole program.

    Raises:
        RelocationError: The table is not whole, or an entry leads to before the function that uses
            it, or very far behind it.
    """

    def refuse(message: str) -> RelocationError:
        return RelocationError(
            f"jump table {message}",
            file=spec.path,
            section=".jumptables",
            offset=reloc.sym_off,
            program=linked.functions[0][0].name,
            insn=reloc.insn,
            hint=DAMAGED,
        )

    if reloc.sym_off % _ENTRY or reloc.size % _ENTRY:
        raise refuse(f"has {reloc.size} bytes, which are no whole entries of {_ENTRY}")
    if not reloc.size:
        raise refuse("is empty")
    if reloc.sym_off + reloc.size > len(spec.jump_tables):
        raise refuse(f"has {reloc.size} bytes, beyond the end of the section")
    # Offsets are those of the section; the function was moved from there to its position.
    starts = [start for _, start in linked.functions]
    function, start = linked.functions[bisect_right(starts, reloc.insn) - 1]
    count = reloc.size // _ENTRY
    entries = struct.unpack_from(f"{spec.byteorder}{count}Q", spec.jump_tables, reloc.sym_off)
    table = tuple(entry // _INSN - function.start + start for entry in entries)
    for entry, index in zip(entries, table, strict=True):
        if not 0 <= index <= _LARGEST:
            raise refuse(f"leads to {entry:#x}, which is not in function {function.name}")
    return table
