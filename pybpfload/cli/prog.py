"""``pybpfload prog``: programs of the running kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import Kind, commands
from pybpfload.cli.prog_dump import dump

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    # Programs of network cards that are gone cannot be asked; those are orphans, but not listed.
    made |= {"orphaned": False, "bytes_xlated": info.xlated_prog_len}
    made["jited"] = bool(info.jited_prog_len)
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
    "dump": Command(dump, "show the instructions with names and source, or the machine code"),
}
"""Its commands."""
