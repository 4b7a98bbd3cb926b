"""``pybpfload prog dump``: the code of a loaded program, for BPF's machine or for this one."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import complain, visible
from pybpfload.cli.live import one_word, open_named
from pybpfload.cli.style import DIM, TITLE, paint
from pybpfload.errors import NotSupportedError
from pybpfload.isa.insn import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.relocate.source import SourceLine
    from pybpfload.runtime.jited import JitedFunction, JitedInsn
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.xlated import XlatedLine

__all__ = ["dump"]

_EXAMPLES = """\
examples:
  pybpfload prog dump 42
  pybpfload prog dump on_exec --json
  pybpfload prog dump --jited --bytes on_exec

PROG is an id, a name, tag:HEX, or the path of a pin. Machine code is disassembled by objdump
(binutils) or capstone, if one of them is installed.
"""

_HIDDEN = "it needs CAP_SYSLOG, and sysctl kernel.kptr_restrict 0 or 1"
_CODE_WIDTH = 44
_HEX_ROW = 16  # bytes
_BETWEEN_OPERANDS = re.compile(r",\s*(?![^(\[]*[)\]])")  # not the commas of an address


def dump(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser(
        "prog dump",
        "Show the instructions of a loaded program as the verifier has left them.",
        _EXAMPLES,
    )
    parser.add_argument("program", metavar="PROG", help="the program")
    parser.add_argument("--jited", action="store_true", help="the machine code instead")
    parser.add_argument("--bytes", action="store_true", help="show the bytes of instructions")
    options = parser.read(one_word(_as_options(arguments)))
    from pybpfload.runtime.program import Program

    show = _show_jited if options.jited else _show_xlated
    with open_named(Program, options.program) as program:
        show(program, json=options.json, code=options.bytes)
    return 0


def _as_options(arguments: Sequence[str]) -> list[str]:
    """With what bpftool says in words, ``dump jited id 42 opcodes``, as options."""
    words = list(arguments)
    operands = [i for i, word in enumerate(words) if not word.startswith("-")]
    if len(operands) > 1 and words[operands[0]] in ("xlated", "jited"):
        if words[operands[-1]] == "opcodes" and len(operands) > 2:
            words[operands[-1]] = "--bytes"
        if words.pop(operands[0]) == "jited":
            words.append("--jited")
    return words


def _show_xlated(program: Program, *, json: bool, code: bool) -> None:
    lines = program.xlated()
    if any(each.line.text == "call 0x0" and not each.line.comment for each in lines):
        complain(f"which helpers are called is hidden from this process; {_HIDDEN}")
    if json:
        print_json([_instruction(each, code) for each in lines])
    else:
        _print(_instructions(lines, code))


def _show_jited(program: Program, *, json: bool, code: bool) -> None:
    functions = program.jited()
    try:
        functions = program.jited(text=True)
    except NotSupportedError as error:
        complain(f"{error}; {error.hint}")
    if json:
        print_json([_function(each) for each in functions])
    else:
        _print(line for each in functions for line in _machine_code(each, code))


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        print(line)


def _instructions(lines: Sequence[XlatedLine], code: bool) -> Iterator[str]:
    before = None
    for each in lines:
        if each.function:
            yield paint(f"{visible(each.function)}:", TITLE)
        yield from _source(each.source, before)
        before = each.source
        shown = f"{each.code.hex(' ', 8):34} " if code else ""
        text = f"{each.line.index:6d}: {shown}{visible(each.line.text)}"
        yield _with_comment(text, each.line.comment, _CODE_WIDTH + len(shown))


def _source(source: SourceLine | None, before: SourceLine | None) -> Iterator[str]:
    if source is not None and source != before:
        yield paint(f"; {visible(source.text)}", DIM)


def _with_comment(text: str, comment: str, width: int) -> str:
    return f"{text:{width}}  ; {visible(comment)}" if comment else text


def _machine_code(function: JitedFunction, code: bool) -> Iterator[str]:
    name, length = visible(function.name or function.symbol), len(function.code)
    place = f"{visible(function.symbol)} at {function.address:#x}"
    yield paint(f"{name}: {place}, {length} bytes", TITLE)
    if not function.insns:
        yield from _hex(function)
    width = max((len(each.code) for each in function.insns), default=0) * 3
    before = None
    for each in function.insns:
        yield from _source(each.source, before)
        before = each.source
        shown = f"{each.code.hex(' '):{width}} " if code else ""
        text = f"{each.offset:6x}: {shown}{visible(each.text)}"
        yield _with_comment(text, each.comment, _CODE_WIDTH + len(shown))


def _hex(function: JitedFunction) -> Iterator[str]:
    """The bytes, in rows that begin anew at each line of C."""
    starts = sorted({0, *(at for at, _ in function.sources)})
    before = None
    for start, end in zip(starts, [*starts[1:], len(function.code)], strict=True):
        source = function.source_at(start)
        yield from _source(source, before)
        before = source
        for at in range(start, end, _HEX_ROW):
            yield f"{at:6x}: {function.code[at : min(at + _HEX_ROW, end)].hex(' ')}"


def _said(source: SourceLine | None) -> dict[str, Any]:
    if source is None:
        return {}
    return {"src": source.text, "file": source.file, "line_num": source.number}


def _instruction(each: XlatedLine, code: bool) -> dict[str, Any]:
    """An instruction, with the keys of ``bpftool -j prog dump xlated``."""
    return {
        **({"function": each.function} if each.function else {}),
        **({"proto": each.prototype} if each.prototype else {}),
        **_said(each.source),
        "disasm": each.line.text,
        "index": each.line.index,
        "comment": each.line.comment,
        "code": each.code.hex(),
        **({"opcodes": _fields(each.code)} if code else {}),
    }


def _fields(code: bytes) -> dict[str, Any]:
    """The bytes of an instruction by field; a second slot belongs to the immediate."""
    insn = decode(code, "<" if sys.byteorder == "little" else ">")[0]
    return {
        "code": f"{insn.code:#04x}",
        "src_reg": f"{insn.src:#x}",
        "dst_reg": f"{insn.dst:#x}",
        "off": _hex_bytes(code[2:4]),
        "imm": _hex_bytes(code[4:]),
    }


def _hex_bytes(data: bytes) -> list[str]:
    return [f"{byte:#04x}" for byte in data]


def _function(each: JitedFunction) -> dict[str, Any]:
    """A function, with the keys of ``bpftool -j prog dump jited``."""
    return {
        **({"proto": each.prototype} if each.prototype else {}),
        "name": each.symbol,
        "function": each.name,
        "address": hex(each.address),
        "code": each.code.hex(),
        "insns": [_machine_instruction(insn) for insn in each.insns],
    }


def _machine_instruction(each: JitedInsn) -> dict[str, Any]:
    operation, _, operands = each.text.partition(" ")
    return {
        **_said(each.source),
        "pc": hex(each.offset),
        "operation": operation,
        "operands": _BETWEEN_OPERANDS.split(operands) if operands else [None],
        "comment": each.comment,
        "opcodes": _hex_bytes(each.code),
    }
