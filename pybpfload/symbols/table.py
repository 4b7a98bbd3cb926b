"""From addresses to names: arrays, not an object for each symbol.

The same table holds the symbols of the kernel, of an ELF file and of a just-in-time compiler. Names
stay in the text or string table that they came in and are decoded when they are asked for.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.elf.binary import STB_GLOBAL, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pybpfload.elf.binary import UserBinary

__all__ = ["Found", "SymbolTable", "elf_symbols", "kernel_symbols", "perf_map_symbols"]

_REACH = 1 << 20  # bytes that belong to a symbol of the kernel, if no other follows
_LONGEST_NAME = 4096
_NESTED = 32  # symbols inside of others that are looked over
_MOST_SYMBOLS = 2_000_000  # in one file: a browser with all its symbols has a million
_EM_ARM = 40
_TOP = 2**64 - 1

# Which of several symbols at one address is shown: with a size, not weak, global (as perf does).
_RANK = {STB_GLOBAL: 2, STB_LOCAL: 1}
_SIZED = 4

_KERNEL_LINE = re.compile(rb"^([0-9a-f]{1,16}) \S (?=\S)", re.MULTILINE)
_PERF_MAP_LINE = re.compile(
    rb"^(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (?=\S)", re.MULTILINE
)


class Found(NamedTuple):
    """What is at an address: the text of the symbol's name, and where the symbol starts."""

    name: str
    start: int


class SymbolTable:
    """Symbols in the order of their addresses.

    Args:
        rows: Start, end, whether the end is only the furthest possible one (the next symbol ends
            it, too), and place of the name in ``names``; sorted. Of several symbols that start at
            one address the last is shown.
        names: The names, each up to ``end``.
        end: The byte that ends a name.
    """

    __slots__ = ("_end", "_ends", "_names", "_places", "_starts")

    def __init__(
        self, rows: Sequence[tuple[int, int, bool, int]], names: bytes, end: bytes
    ) -> None:
        self._names, self._end = names, end
        starts, limits, opens, places = zip(*rows, strict=True) if rows else ((), (), (), ())
        self._starts, self._places = array("Q", starts), array("Q", places)
        ends = []
        following = begin = _TOP
        for start, limit, is_open in zip(
            reversed(starts), reversed(limits), reversed(opens), strict=True
        ):
            if start != begin:
                following, begin = begin, start
            ends.append(following if is_open and following < limit else limit)
        self._ends = array("Q", [min(each, _TOP) for each in reversed(ends)])

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return len(self._names) + 3 * 8 * len(self._starts)

    @property
    def highest(self) -> int:
        """Highest address at which a symbol starts; 0 if there is none."""
        return self._starts[-1] if self._starts else 0

    def at(self, address: int) -> Found | None:
        """The symbol that an address is in, or ``None``."""
        last = bisect_right(self._starts, address) - 1
        for index in range(last, max(last - _NESTED, -1), -1):
            if address < self._ends[index]:
                return Found(self._name(self._places[index]), self._starts[index])
        return None

    def _name(self, place: int) -> str:
        end = self._names.find(self._end, place, place + _LONGEST_NAME)
        name = self._names[place : end if end >= 0 else place + _LONGEST_NAME]
        return name.decode("utf-8", "backslashreplace")


def kernel_symbols(text: bytes) -> SymbolTable:
    """The table of ``/proc/kallsyms``; a name may have a tab and ``[MODULE]`` behind it.

    No sizes are known: a symbol reaches to the next one. Of several at one address the first in
    the text counts, as for the kernel itself (``kernel/kallsyms.c``, ``get_symbol_pos()``).
    """
    lines = [(int(found[1], 16), -found.end()) for found in _KERNEL_LINE.finditer(text)]
    lines.sort()
    return SymbolTable(
        [(start, start + _REACH, True, -place) for start, place in lines], text, b"\n"
    )


def perf_map_symbols(text: bytes) -> SymbolTable:
    """The table of a ``/tmp/perf-PID.map``: lines ``START SIZE NAME``, numbers hexadecimal.

    Just-in-time compilers write such files (Linux, ``tools/perf/Documentation/jit-interface.txt``).
    What a later line says of an address goes before what an earlier one says.
    """
    lines = [
        (int(found[1], 16), found.end(), int(found[2], 16))
        for found in _PERF_MAP_LINE.finditer(text)
    ]
    lines.sort()
    rows = [(start, start + size, False, place) for start, place, size in lines]
    return SymbolTable(rows, text, b"\n")


def elf_symbols(binary: UserBinary, tables: Iterable[str] = ("symtab", "dynsym")) -> SymbolTable:
    """The functions of an executable or library: of the first table that has any.

    Raises:
        FormatError: A symbol table is damaged.
    """
    for table in tables:
        found = _functions(binary, table)
        if len(found):
            return found
    return SymbolTable((), b"", b"\0")


def _functions(binary: UserBinary, table: str) -> SymbolTable:
    raw = binary.raw_symbols(table)
    if raw is None:
        return SymbolTable((), b"", b"\0")
    if len(raw.records) > _MOST_SYMBOLS * raw.layout.size:
        raise FormatError(
            f"more than {_MOST_SYMBOLS} symbols", file=binary.name, section=f".{table}"
        )
    functions, names = (STT_FUNC, STT_GNU_IFUNC), len(raw.strings)
    ends = [section.address + section.size for section in binary.sections]
    count = len(ends)
    thumb = 1 if binary.machine == _EM_ARM else 0  # the bit that tells the kind of instructions
    records = raw.layout.iter_unpack(raw.records)
    if binary.bits == 64:
        rows = [
            (value, _RANK.get(info >> 4, 0) | bool(size) * _SIZED, size, section, name)
            for name, info, _, section, value, size in records
            if info & 15 in functions and 0 < section < count and name < names
        ]
    else:
        rows = [
            (value & ~thumb, _RANK.get(info >> 4, 0) | bool(size) * _SIZED, size, section, name)
            for name, value, size, info, _, section in records
            if info & 15 in functions and 0 < section < count and name < names
        ]
    rows.sort()
    # Assembly code may have no size: it does not go beyond its section.
    symbols = [
        (start, start + size if size else ends[section], not size, name)
        for start, _, size, section, name in rows
    ]
    return SymbolTable(symbols, raw.strings, b"\0")
