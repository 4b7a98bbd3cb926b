"""``pybpfload prog``: programs of the running kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import complain, visible
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import Kind, commands, open_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.runtime.program import Program
    from pybpfload.runtime.xlated import XlatedLine

__all__ = ["COMMANDS", "record", "run"]


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("prog", "Programs of the running kernel.", COMMANDS, arguments)


def record(program: Any) -> dict[str, Any]:
    """A program as ``bpftool -j prog show`` has it."""
    from pybpfload import ktime

    info = program.info(code=False)
    more = program.fdinfo()
    made: dict[str, Any] = {"id": info.id, "type": info.type.name.lower()}
    if info.name:
        made["name"] = program.whole_name()
    made |= {"tag": info.tag, "gpl_compatible": info.gpl_compatible}
    if info.run_time_ns:
        made |= {"run_time_ns": info.run_time_ns, "run_cnt": info.run_cnt}
    if info.recursion_misses:
        made["recursion_misses"] = info.recursion_misses
    if info.load_time:
        made["loaded_at"] = ktime.to_unix_ns(info.load_time, "boottime") // 1_000_000_000
        made["uid"] = info.created_by_uid
    made |= {"bytes_xlated": info.xlated_prog_len, "jited": bool(info.jited_prog_len)}
    if info.jited_prog_len:
        made["bytes_jited"] = info.jited_prog_len
    if "memlock" in more:
        made["bytes_memlock"] = int(more["memlock"])
    if info.map_ids:
        made["map_ids"] = info.map_ids
    if info.btf_id:
        made["btf_id"] = info.btf_id
    if info.verified_insns:
        made["verified_insns"] = info.verified_insns
    return made


def _dump(arguments: Sequence[str]) -> int:
    parser = Parser(
        "prog dump",
        "Show the instructions of a loaded program as the verifier has left them.",
        "examples:\n  pybpfload prog dump 42\n  pybpfload prog dump on_exec --json\n\n"
        "PROG is an id, a name, tag:HEX, or the path of a pin.\n",
    )
    parser.add_argument("program", metavar="PROG", help="the program")
    parser.add_argument("--jited", action="store_true", help="the machine code instead, as hex")
    options = parser.read(arguments)
    with open_named(_class(), options.program) as program:
        if options.jited:
            _print_jited(program, json=options.json)
        elif options.json:
            print_json([_line(each) for each in program.xlated()])
        else:
            _print_xlated(program)
    return 0


def _print_xlated(program: Program) -> None:
    source = None
    for each in program.xlated():
        if each.function:
            print(f"{visible(each.function)}:")
        if each.source is not None and each.source != source:
            print(f"; {visible(each.source.text)}")
        source = each.source
        print(visible(str(each.line)))


def _line(each: XlatedLine) -> dict[str, Any]:
    """An instruction, with the keys of ``bpftool -j prog dump xlated``."""
    made: dict[str, Any] = {"function": each.function} if each.function else {}
    if each.prototype:
        made["proto"] = each.prototype
    if each.source is not None:
        made |= {
            "src": each.source.text,
            "file": each.source.file,
            "line_num": each.source.number,
        }
    return {
        **made,
        "disasm": each.line.text,
        "index": each.line.index,
        "comment": each.line.comment,
        "code": each.code.hex(),
    }


def _print_jited(program: Program, *, json: bool) -> None:
    functions = program.jited()
    if json:
        print_json(
            [{"name": each.name, "pc": hex(each.address), "code": each.code.hex()}
             for each in functions]
        )  # fmt: skip
        return
    if not functions:
        complain(f"program {program.name} is not compiled, or its machine code is hidden")
    for each in functions:
        print(f"{visible(each.name)}: {each.address:#x}, {len(each.code)} bytes")
        for at in range(0, len(each.code), 16):
            print(f"  {at:5x}: {each.code[at : at + 16].hex(' ')}")


def _class() -> Any:
    from pybpfload.runtime.program import Program

    return Program


_KIND = Kind(
    "prog",
    _class,
    record,
    {
        "ID": "id",
        "TYPE": "type",
        "NAME": "name",
        "TAG": "tag",
        "XLATED": "bytes_xlated",
        "JITED": "bytes_jited",
        "MAPS": "map_ids",
        "RUNS": "run_cnt",
        "HELD BY": "pids",
        "PINNED": "pinned",
    },
)

COMMANDS = {
    **commands(_KIND),
    "dump": Command(_dump, "show the instructions with names and source, or the machine code"),
}
"""Its commands."""
