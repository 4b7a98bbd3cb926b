"""The instructions of a loaded program, as the verifier has left them, with names and source lines.

Source of the rules: the kernel's ``bpf_insn_prepare_dump()``, ``jit_subprogs()``. What the verifier
has rewritten is shown as it is: helpers are calls relative to ``__bpf_call_base`` by now, maps are
their ids, and of calls of subprograms of a compiled program ``off`` tells the distance and ``imm``
which one it is.
"""

from __future__ import annotations

import struct
import sys
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf.cdecl import declare
from pybpfload.btf.types import Datasec
from pybpfload.errors import BpfError, NotPermittedError
from pybpfload.isa import insn as isa
from pybpfload.isa.disasm import disassemble
from pybpfload.isa.insn import decode, to_s32
from pybpfload.relocate.source import SourceLine
from pybpfload.runtime.map import Map
from pybpfload.runtime.maphandle import kernel_btf
from pybpfload.uapi import BPF_OBJ_NAME_LEN

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.isa.disasm import Line
    from pybpfload.isa.insn import Insn
    from pybpfload.kernel.bpf import ProgInfo

__all__ = ["JitedFunction", "XlatedLine", "jited", "whole_name", "xlated"]

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


class JitedFunction(NamedTuple):
    """Machine code of a program or one of its subprograms.

    Attributes:
        name: Its name by BTF, or ``""``.
        address: Where it is in the kernel; 0 if that is hidden from this process.
        code: The bytes.
    """

    name: str
    address: int
    code: bytes


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
    btf = _btf(info)
    functions = _functions(info, btf)
    if info.jited_prog_len:
        insns = [each._replace(imm=each.off, off=0) if each.is_subprog_call else each
                 for each in insns]  # fmt: skip
    names = _Names(insns)
    labels = {start: name for start, (name, _) in functions.items()}
    lines = disassemble(insns, labels=labels, names=names.by_index)
    sources = _Sources(info, btf)
    return [
        XlatedLine(
            line,
            info.xlated_insns[line.index * 8 : (line.index + line.slots) * 8],
            sources.at(line.index),
            *functions.get(line.index, ("", "")),
        )
        for line in lines
    ]


def jited(info: ProgInfo) -> list[JitedFunction]:
    """Machine code of a loaded program, by function; nothing if it is hidden or not compiled.

    Args:
        info: Of :meth:`Program.info`.
    """
    names = [name for name, _ in _functions(info, _btf(info)).values()]
    found, start = [], 0
    for at, length in enumerate(info.jited_func_lens or [len(info.jited_insns)]):
        name = names[at] if at < len(names) else ""
        address = info.jited_ksyms[at] if at < len(info.jited_ksyms) else 0
        found.append(JitedFunction(name, address, info.jited_insns[start : start + length]))
        start += length
    return [each for each in found if each.code]


def whole_name(info: ProgInfo) -> str:
    """Name of a program by its BTF, because the kernel keeps only 15 characters of it.

    Args:
        info: Of :meth:`Program.info`, with or without code.
    """
    if len(info.name) < BPF_OBJ_NAME_LEN - 1:
        return info.name
    name, _ = _functions(info, _btf(info)).get(0, ("", ""))
    return name if name.startswith(info.name) else info.name


def _btf(info: ProgInfo) -> Btf | None:
    return kernel_btf(info.btf_id) if info.btf_id else None


def _functions(info: ProgInfo, btf: Btf | None) -> dict[int, tuple[str, str]]:
    """Index of the first instruction -> name and declaration, of each function."""
    found = {}
    if btf is not None and info.func_info_rec_size >= 8:
        for at in range(0, len(info.func_info), info.func_info_rec_size):
            start, type_id = struct.unpack_from("=II", info.func_info, at)
            found[start] = (btf[type_id].name, declare(btf, type_id))
    return found or {0: (info.name, "")}


class _Sources:
    """Source lines by index."""

    def __init__(self, info: ProgInfo, btf: Btf | None) -> None:
        self._starts: list[int] = []
        self._lines: list[SourceLine] = []
        if btf is None or info.line_info_rec_size < 16:
            return
        for at in range(0, len(info.line_info), info.line_info_rec_size):
            start, file, text, place = struct.unpack_from("=IIII", info.line_info, at)
            line = SourceLine(btf.string(file), place >> 10, btf.string(text).strip())
            self._starts.append(start)
            self._lines.append(line)

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
    from pybpfload.symbols.kernel import KernelSymbols

    try:
        symbols = KernelSymbols()
        base = symbols.addresses("__bpf_call_base")
    except BpfError:
        return {}
    if not base:
        return {}
    frames = {index: symbols.frame(base[0] + distance) for index, distance in calls.items()}
    return {at: each.symbol for at, each in frames.items() if each.symbol and not each.offset}
