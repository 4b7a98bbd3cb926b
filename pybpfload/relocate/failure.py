"""The errors of relocation, with all that is known of the place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.errors import RelocationError

if TYPE_CHECKING:
    from pybpfload.object.spec import ProgramSpec

__all__ = ["DAMAGED", "at_function"]

DAMAGED = "the file is damaged, or was linked by something other than bpftool; build it again"
"""What to do about code and relocations that no compiler makes."""


def at_function(
    function: ProgramSpec, insn: int | None, message: str, *, file: str, **details: Any
) -> RelocationError:
    """Return an error about a function, or about one of its instructions.

    Args:
        function: The program or subprogram as it is in the file.
        insn: Index of the instruction in it, ``None`` for the whole.
        message: What went wrong.
        file: Name of the object.
        **details: ``decision``, ``symbol`` and ``hint`` of the error.
    """
    return RelocationError(
        message,
        file=file,
        section=function.section_name or function.section,
        offset=None if insn is None else 8 * (function.start + insn),
        program=function.name,
        insn=insn,
        **details,
    )
