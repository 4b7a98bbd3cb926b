"""The machine code of a loaded program, by function, with names and source lines."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import NotPermittedError, NotSupportedError
from pybpfload.runtime.debuginfo import (
    Function,
    btf_of,
    functions,
    kernel_symbols,
    source_lines,
    symbols,
)
from pybpfload.runtime.machine import disassemble

if TYPE_CHECKING:
    from pybpfload.kernel.bpf import ProgInfo
    from pybpfload.relocate.source import SourceLine

__all__ = ["JitedFunction", "JitedInsn", "jited"]

_ADDRESS = re.compile(r"\b(?:0x)?([0-9a-f]{12,16})\b")


class JitedInsn(NamedTuple):
    """An instruction of the machine.

    Attributes:
        offset: Where it begins in its function, bytes.
        code: Its bytes.
        text: The instruction.
        comment: What its addresses are of: functions of the program or the kernel; may be empty.
        source: Its line of C, ``None`` where the program's BTF does not tell.
    """

    offset: int
    code: bytes
    text: str
    comment: str
    source: SourceLine | None


class JitedFunction(NamedTuple):
    """Machine code of a program or one of its subprograms.

    Attributes:
        name: Its name by BTF, or ``""``.
        symbol: What ``/proc/kallsyms`` calls it.
        prototype: Its declaration in C, ``""`` without BTF.
        address: Where it is in the kernel.
        code: The bytes.
        sources: Lines of C, with the offset of their first byte.
        insns: The instructions, where they were asked for.
    """

    name: str
    symbol: str
    prototype: str
    address: int
    code: bytes
    sources: list[tuple[int, SourceLine]]
    insns: list[JitedInsn]

    def source_at(self, offset: int) -> SourceLine | None:
        """The line of C of a byte."""
        found = bisect_right(self.sources, offset, key=_start) - 1
        return self.sources[found][1] if found >= 0 else None


def _start(source: tuple[int, SourceLine]) -> int:
    return source[0]


def jited(info: ProgInfo, *, text: bool = False) -> list[JitedFunction]:
    """Machine code of a loaded program, by function.

    Args:
        info: Of :meth:`Program.info`.
        text: Whether to disassemble it.

    Raises:
        NotSupportedError: The program is not compiled; or no disassembler is installed.
        NotPermittedError: The kernel does not show the machine code to this process.
    """
    if not info.jited_prog_len:
        error = NotSupportedError(f"program {info.name} is not compiled, the kernel interprets it")
        error.hint = "sysctl net.core.bpf_jit_enable=1 before it is loaded"
        raise error
    if not info.jited_insns:
        raise NotPermittedError(
            1,
            "BPF_OBJ_GET_INFO_BY_FD",
            f"machine code of program {info.name}",
            hint="it is shown to who may see kernel addresses: with CAP_SYSLOG, and sysctl "
            "kernel.kptr_restrict 0 or 1",
        )
    found = _functions(info)
    if text:
        names = _Names(found)
        found = [each._replace(insns=_insns(each, names)) for each in found]
    return found


def _functions(info: ProgInfo) -> list[JitedFunction]:
    btf = btf_of(info)
    declared = functions(info, btf)
    lines = [line for _, line in source_lines(info, btf)]
    addressed = [*zip(info.jited_line_info, lines, strict=False)]
    called = symbols(info, [each.name for each in declared])
    found, start = [], 0
    lengths = info.jited_func_lens or [len(info.jited_insns)]  # one function, before 4.18
    for at, length in enumerate(lengths):
        address = info.jited_ksyms[at] if at < len(info.jited_ksyms) else 0
        _, name, prototype = declared[at] if at < len(declared) else Function(0, "", "")
        found.append(
            JitedFunction(
                name,
                called[at] if at < len(called) else "",
                prototype,
                address,
                info.jited_insns[start : start + length],
                [(there - address, line) for there, line in addressed
                 if address <= there < address + length],
                [],
            )
        )  # fmt: skip
        start += length
    return found


def _insns(function: JitedFunction, names: _Names) -> list[JitedInsn]:
    return [
        JitedInsn(*each, names.of(each.text), function.source_at(each.offset))
        for each in disassemble(function.code, function.address)
    ]


class _Names:
    """What is at addresses: the functions of the program, or symbols of the kernel."""

    def __init__(self, found: list[JitedFunction]) -> None:
        self._functions = [each for each in found if each.address]
        self._symbols = kernel_symbols() if self._functions else None

    def of(self, text: str) -> str:
        """What the last address in an instruction is of; nothing if there is none."""
        addresses = _ADDRESS.findall(text)
        return self._at(int(addresses[-1], 16)) if addresses else ""

    def _at(self, address: int) -> str:
        for each in self._functions:
            if each.address <= address < each.address + len(each.code):
                return _plus(each.name or each.symbol, address - each.address)
        if self._symbols is None:
            return ""
        frame = self._symbols.frame(address)
        return _plus(frame.symbol, frame.offset) if frame.symbol else ""


def _plus(name: str, offset: int) -> str:
    return f"{name}+{offset:#x}" if offset else name
