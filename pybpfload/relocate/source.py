"""Source lines of relocated code, from the line info that the compiler left in ``.BTF.ext``."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.object.spec import ObjectSpec
    from pybpfload.relocate import RelocatedProgram

__all__ = ["SourceLine", "SourceLines"]

_LONGEST = 4096  # characters; PATH_MAX, and longer than a line that people read


class SourceLine(NamedTuple):
    """A line of C.

    Attributes:
        file: As the compiler was given it.
        number: From 1.
        text: The line, without the space in front; may be empty.
    """

    file: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}".rstrip(": ")


class _Strings(dict[int, str]):
    """Strings of BTF by offset, cut short: in a hostile file all records may have a huge one."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    def __missing__(self, offset: int) -> str:
        found = self[offset] = self._btf.string(offset)[:_LONGEST]
        return found


class SourceLines:
    """The source line of each instruction of a program."""

    def __init__(self, program: RelocatedProgram, spec: ObjectSpec) -> None:
        records, step = program.line_info, program.line_info_rec_size // 4
        self._starts: list[int] = []
        self._lines: list[SourceLine] = []
        if records is None or spec.btf is None:
            return
        strings = _Strings(spec.btf)
        for at in range(0, len(records), step):
            insn, file, text, position = records[at : at + 4]
            self._starts.append(insn)
            self._lines.append(SourceLine(strings[file], position >> 10, strings[text].strip()))

    def __getitem__(self, insn: int) -> SourceLine | None:
        """Line of the instruction at an index, ``None`` where the compiler says nothing."""
        at = bisect_right(self._starts, insn) - 1
        return self._lines[at] if at >= 0 else None
