"""The instructions of a loaded program, as the verifier has left them, with names and source lines.

Source of the rules: the kernel's ``bpf_insn_prepare_dump()``, ``jit_subprogs()``. What the verifier
has rewritten is shown as it is: helpers are calls relative to ``__bpf_call_base`` by now, maps are
their ids, and of calls of subprograms of a compiled program ``off`` tells the distance and ``imm``
which one it is.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf.types import Datasec
from pybpfload.errors import BpfError, NotPermittedError
from pybpfload.isa import insn as isa
from pybpfload.isa.disasm import disassemble
from pybpfload.isa.insn import decode, to_s32
from pybpfload.runtime.debuginfo import (
    Function,
    btf_of,
    functions,
    kernel_symbols,
    source_lines,
    symbols,
)
from pybpfload.runtime.map import Map
from pybpfload.uapi import Helper

if TYPE_CHECKING:
    from pybpfload.isa.disasm import Line
    from pybpfload.isa.insn import Insn
    from pybpfload.kernel.bpf import ProgInfo
    from pybpfload.relocate.source import SourceLine

__all__ = ["XlatedLine", "xlated"]

_MAPS = (isa.PSEUDO_MAP_FD, isa.PSEUDO_MAP_VALUE)


class XlatedLine(NamedTuple):
    """An instruction of a loaded program.

    Attributes:
        line: The instruction as text; what it refers to is its comment.
        code: Its bytes.
        source: Its line of C, ``None`` where the program's BTF does not tell.
        function: Name of the function that begins here, or ``""``.
        prototype: Its declaration in C, ``""`` where the program's BTF does not tell.
    """

    line: Line
    code: bytes
    source: SourceLine | None
    function: str
    prototype: str


def xlated(info: ProgInfo) -> list[XlatedLine]:
    """Disassemble a loaded program.

    Args:
        info: Of :meth:`Program.info`.

    Raises:
        NotPermittedError: The kernel does not show the instructions to this process.
    """
    if not info.xlated_insns:
        raise NotPermittedError(
            1,
            "BPF_OBJ_GET_INFO_BY_FD",
            f"instructions of program {info.name}",
            hint="it needs CAP_PERFMON and CAP_BPF, and kernel.kptr_restrict or bpf_jit_harden "
            "that let this process see kernel addresses",
        )
    insns = decode(info.xlated_insns, "<" if sys.byteorder == "little" else ">")
    btf = btf_of(info)
    if info.jited_prog_len:
        insns = [each._replace(imm=each.off, off=0) if each.is_subprog_call else each
                 for each in insns]  # fmt: skip
    begins = {each.start: each for each in functions(info, btf) or _called_functions(info, insns)}
    names = _Names(insns)
    labels = {start: each.name for start, each in begins.items()}
    lines = disassemble(insns, labels=labels, names=names.by_index)
    sources = _Sources(source_lines(info, btf))
    nothing = Function(0, "", "")
    return [
        XlatedLine(
            line,
            info.xlated_insns[line.index * 8 : (line.index + line.slots) * 8],
            sources.at(line.index),
            *begins.get(line.index, nothing)[1:],
        )
        for line in lines
    ]


def _called_functions(info: ProgInfo, insns: list[Insn]) -> list[Function]:
    """Functions of a program without BTF: what is called, or whose address is taken."""
    starts = {0}
    for index, each in enumerate(insns):
        if each.is_subprog_call or each.is_func_reference:
            starts.add(index + 1 + each.imm)
    names = symbols(info, [])
    names[0] = info.name or names[0]
    return [Function(at, name, "") for at, name in zip(sorted(starts), names, strict=False)]


class _Sources:
    """Source lines by index."""

    def __init__(self, lines: list[tuple[int, SourceLine]]) -> None:
        self._starts = [start for start, _ in lines]
        self._lines = [line for _, line in lines]

    def at(self, index: int) -> SourceLine | None:
        found = bisect_right(self._starts, index) - 1
        return self._lines[found] if found >= 0 else None


class _Names:
    """What instructions refer to."""

    def __init__(self, insns: list[Insn]) -> None:
        self.by_index: dict[int, str] = {}
        self._maps: dict[int, Map[int, int] | None] = {}
        calls = {}
        try:
            for index, each in enumerate(insns):
                if each.is_ldimm64 and each.src in _MAPS:
                    offset = insns[index + 1].imm if each.src == isa.PSEUDO_MAP_VALUE else None
                    self.by_index[index] = self._map(each.imm & 0xFFFFFFFF, offset)
                elif each.is_helper_call and each.imm == Helper.TAIL_CALL:
                    self.by_index[index] = "bpf_tail_call"  # it is an instruction of its own
                elif each.is_helper_call or each.is_kfunc_call:
                    calls[index] = to_s32(each.imm)
        finally:
            for opened in self._maps.values():
                if opened is not None:
                    opened.close()
        if calls:
            self.by_index |= _called(calls)

    def _map(self, number: int, offset: int | None) -> str:
        """The map of an id, or the variable at an offset of its value."""
        if number not in self._maps:
            try:
                self._maps[number] = Map.from_id(number)
            except BpfError:  # it is not ours to open
                self._maps[number] = None
        opened = self._maps[number]
        if opened is None:
            return f"map id {number}"
        if offset is None:
            return f"map {opened.name}"
        return _variable(opened, offset) or f"map {opened.name} + {offset:#x}"


def _variable(opened: Map[int, int], offset: int) -> str:
    btf = opened.btf
    section = btf[btf.strip(opened.value_type_id)] if btf and opened.value_type_id else None
    if btf is not None and isinstance(section, Datasec):
        for entry in section.entries:
            if entry.offset <= offset < entry.offset + entry.size:
                beyond = offset - entry.offset
                return f"&{btf[entry.type].name}{f' + {beyond:#x}' if beyond else ''}"
    return ""


def _called(calls: dict[int, int]) -> dict[int, str]:
    """Names of helpers and kernel functions; nothing where kernel addresses are hidden."""
    try:
        kernel = kernel_symbols()
        base = kernel.addresses("__bpf_call_base")
    except BpfError:
        return {}
    if not base:
        return {}
    frames = {index: kernel.frame(base[0] + distance) for index, distance in calls.items()}
    return {at: each.symbol for at, each in frames.items() if each.symbol and not each.offset}
