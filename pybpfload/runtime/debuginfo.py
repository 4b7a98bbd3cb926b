"""What explains the code of loaded programs: functions and source lines, symbols of the kernel."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf.cdecl import declare
from pybpfload.kernel import door
from pybpfload.relocate.source import SourceLine
from pybpfload.runtime.maphandle import kernel_btf
from pybpfload.uapi import BPF_OBJ_NAME_LEN

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.kernel.bpf import ProgInfo
    from pybpfload.symbols.kernel import KernelSymbols

__all__ = [
    "Function",
    "btf_of",
    "functions",
    "kernel_symbols",
    "source_lines",
    "symbols",
    "whole_name",
]


class Function(NamedTuple):
    """A function of a loaded program.

    Attributes:
        start: Index of its first instruction.
        name: Its name.
        prototype: Its declaration in C.
    """

    start: int
    name: str
    prototype: str


def btf_of(info: ProgInfo) -> Btf | None:
    """BTF of a program, if it has any.

    Args:
        info: Of :meth:`Program.info`, here and below.
    """
    return kernel_btf(info.btf_id) if info.btf_id else None


def functions(info: ProgInfo, btf: Btf | None) -> list[Function]:
    """The functions in their order; none without BTF."""
    if btf is None or info.func_info_rec_size < 8:
        return []
    records = (
        struct.unpack_from("=II", info.func_info, at)
        for at in range(0, len(info.func_info), info.func_info_rec_size)
    )
    return [Function(start, btf[number].name, declare(btf, number)) for start, number in records]


def source_lines(info: ProgInfo, btf: Btf | None) -> list[tuple[int, SourceLine]]:
    """Lines of C with the index of their first instruction, in their order; none without BTF."""
    if btf is None or info.line_info_rec_size < 16:
        return []
    records = (
        struct.unpack_from("=IIII", info.line_info, at)
        for at in range(0, len(info.line_info), info.line_info_rec_size)
    )
    return [
        (start, SourceLine(btf.string(file), place >> 10, btf.string(text).strip()))
        for start, file, text, place in records
    ]


def symbols(info: ProgInfo, names: list[str]) -> list[str]:
    """What ``/proc/kallsyms`` calls the functions of a program.

    Source of the rule: the kernel's ``bpf_get_prog_name()``. Subprograms of a program without BTF
    are all called ``F``.

    Args:
        info: Of the program.
        names: Names of its functions, if it has BTF.
    """
    tags = [info.tag, *info.prog_tags[1:]]
    names = names or [info.name, *["F"] * (len(tags) - 1)]
    return ["_".join(filter(None, ("bpf_prog", *each))) for each in zip(tags, names, strict=False)]


def whole_name(info: ProgInfo) -> str:
    """Name of a program by its BTF, because the kernel keeps only 15 characters of it.

    Args:
        info: With or without code.
    """
    if len(info.name) < BPF_OBJ_NAME_LEN - 1:
        return info.name
    name = next((each.name for each in functions(info, btf_of(info))), "")
    return name if name.startswith(info.name) else info.name


def kernel_symbols() -> KernelSymbols:
    """The kernel's symbols, which are read once: that takes a quarter of a second.

    Raises:
        KernelError: They cannot be read.
    """
    from pybpfload.symbols.kernel import KernelSymbols

    cache = door.cache()
    if "kernel symbols" not in cache:
        cache["kernel symbols"] = KernelSymbols()
    found: KernelSymbols = cache["kernel symbols"]
    return found
