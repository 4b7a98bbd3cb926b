"""Function and line info of linked programs, from ``.BTF.ext`` (``adjust_prog_btf_ext_info``)."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from array import array

    from pybpfload.btf.ext import InfoBlock, InfoPart
    from pybpfload.object.spec import ObjectSpec, ProgramSpec

__all__ = ["InfoTable"]


class _Section(NamedTuple):
    """The block of one ELF section: its words, and the offset field of every record."""

    words: array[int]
    offsets: array[int]
    is_sorted: bool


class InfoTable:
    """The records of one part of ``.BTF.ext``, by function.

    Args:
        spec: The object.
        part: ``func_info`` or ``line_info``.
    """

    def __init__(self, spec: ObjectSpec, part: InfoPart) -> None:
        self.rec_size = part.rec_size
        self._step = part.rec_size // 4
        self._blocks: dict[int, InfoBlock] = {}
        self._sections: dict[int, _Section] = {}
        for block in part.blocks:
            # Only the first block of a section counts.
            self._blocks.setdefault(spec.section_indexes.get(block.section, 0), block)

    def records(self, function: ProgramSpec, position: int) -> array[int] | None:
        """Records of a function for its place in a program.

        Args:
            function: The function.
            position: Index of its first instruction in the program.

        Returns:
            The records as native 32-bit words, with instruction indices instead of byte offsets;
            ``None`` when there are none.
        """
        section = self._section(function.section_index)
        if section is None:
            return None
        first, end = function.start * 8, (function.start + len(function.insns)) * 8
        start, stop = _range(section, first, end)
        if start == stop:
            return None
        records = section.words[start * self._step : stop * self._step]
        for at in range(0, len(records), self._step):
            records[at] = (records[at] // 8 + position - function.start) & 0xFFFFFFFF
        return records

    def _section(self, index: int) -> _Section | None:
        found = self._sections.get(index)
        if found is None and index in self._blocks:
            words = self._blocks[index].words
            offsets = words[:: self._step]
            is_sorted = all(map(int.__le__, offsets, offsets[1:]))
            found = self._sections[index] = _Section(words, offsets, is_sorted)
        return found


def _range(section: _Section, first: int, end: int) -> tuple[int, int]:
    """From the first record inside ``[first, end)`` to the last before any that lies beyond."""
    if section.is_sorted:
        return bisect_left(section.offsets, first), bisect_left(section.offsets, end)
    start = stop = 0
    for at, offset in enumerate(section.offsets):
        if offset >= end:
            break
        if offset >= first:
            start, stop = (start if stop else at), at + 1
    return start, stop
