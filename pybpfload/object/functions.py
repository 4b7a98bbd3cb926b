"""Cutting functions out of code sections, and finding the function that holds an instruction."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from pybpfload.elf import reader as elf_reader
from pybpfload.errors import FormatError
from pybpfload.isa.insn import INSN_SIZE, decode
from pybpfload.object.sections import find_section
from pybpfload.object.spec import ObjectSpec, ProgramSpec
from pybpfload.uapi import ProgFlag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.elf.reader import ElfFile, Section, Symbol
    from pybpfload.object.opener import Layout

__all__ = ["Finder", "cut", "find_types"]


def cut(elf: ElfFile, layout: Layout, spec: ObjectSpec) -> list[ProgramSpec]:
    """Make a :class:`ProgramSpec` of every function symbol (libbpf ``bpf_object__add_programs``).

    Bytes that no function symbol covers belong to no program.

    Raises:
        FormatError: A function lies outside its section, is not made of whole instructions, or is
            static outside ``.text``.
    """
    code = layout.code
    by_section: dict[int, list[Symbol]] = {section.index: [] for section in code}
    for symbol in elf.symbols:
        if symbol.type == elf_reader.STT_FUNC and symbol.shndx in by_section:
            by_section[symbol.shndx].append(symbol)
    budget = sum(section.size for section in code)
    found = []
    for section in code:
        symbols = by_section[section.index]
        whole = len(section.data) // INSN_SIZE * INSN_SIZE if symbols else 0
        insns = decode(section.data[:whole], spec.byteorder)  # type: ignore[arg-type]
        for symbol in symbols:
            _check(symbol, section)
            # Functions may overlap in a hostile file: bound them by a multiple of the code.
            budget -= symbol.size // 4
            if budget < 0:
                raise FormatError("functions overlap", section=section.name, symbol=symbol.name)
            start = symbol.value // INSN_SIZE
            found.append(
                ProgramSpec(
                    symbol.name,
                    section.name.removeprefix("?"),
                    insns[start : start + symbol.size // INSN_SIZE],
                    autoload=not section.name.startswith("?"),
                    is_subprogram=section.index == layout.text,
                    is_global=symbol.binding != elf_reader.STB_LOCAL,
                    is_hidden=symbol.binding != elf_reader.STB_LOCAL and symbol.is_hidden,
                    section_index=section.index,
                    section_name=section.name,
                    start=start,
                )
            )
    found.sort(key=lambda function: (function.section_index, function.start))
    return found


def _check(symbol: Symbol, section: Section) -> None:
    place: dict[str, Any] = {
        "section": section.name,
        "offset": symbol.value,
        "symbol": symbol.name,
    }
    if symbol.value + symbol.size > section.size:
        raise FormatError(
            f"function of {symbol.size} bytes goes beyond its section of {section.size}",
            **place,
        )
    if section.name != ".text" and symbol.binding == elf_reader.STB_LOCAL:
        raise FormatError(
            "static functions are only allowed in .text",
            hint="remove static, or SEC() if it is no program",
            **place,
        )
    if not symbol.size or symbol.size % INSN_SIZE or symbol.value % INSN_SIZE:
        raise FormatError(
            f"function at {symbol.value} of {symbol.size} bytes is not made of 8-byte instructions",
            **place,
        )


def find_types(spec: ObjectSpec) -> None:
    """Set program types by the SEC() table and collect the entry programs by name."""
    for function in spec.functions:
        if function.is_subprogram:
            continue
        function.sec = find_section(function.section)
        if function.sec is not None:
            function.prog_type = function.sec.prog_type
            function.expected_attach_type = function.sec.attach_type
            if function.sec.sleepable:
                function.flags |= ProgFlag.SLEEPABLE
            if function.sec.frags:
                function.flags |= ProgFlag.XDP_HAS_FRAGS
        spec.programs.add(function.name, function, function.section)


class Finder:
    """Finds the function that holds an instruction of a section."""

    def __init__(self, functions: Iterable[ProgramSpec]) -> None:
        self._by_index: dict[int, tuple[list[int], list[ProgramSpec]]] = {}
        for function in functions:
            starts, members = self._by_index.setdefault(function.section_index, ([], []))
            starts.append(function.start)
            members.append(function)

    def by_index(self, section: int, insn: int) -> tuple[ProgramSpec, int] | None:
        """Return ``(function, index in it)`` for an instruction of an ELF section, or ``None``."""
        if section not in self._by_index:
            return None
        starts, members = self._by_index[section]
        at = bisect_right(starts, insn) - 1
        if at < 0:
            return None
        function = members[at]
        local = insn - function.start
        return (function, local) if local < len(function.insns) else None
