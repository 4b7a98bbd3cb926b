"""``pybpfload cgroup``: programs of control groups."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import needs_linux
from pybpfload.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.runtime.attached import Attachment

__all__ = ["COMMANDS", "run"]

_LIST = """\
examples:
  pybpfload cgroup list
  pybpfload cgroup list --effective /sys/fs/cgroup/system.slice
"""
_TREE = """\
examples:
  pybpfload cgroup tree
  pybpfload cgroup tree /sys/fs/cgroup/system.slice --json
"""
_COLUMNS = {"PROG": "id", "ATTACH TYPE": "attach_type", "FLAGS": "attach_flags", "NAME": "name"}


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("cgroup", "Programs of control groups.", COMMANDS, arguments)


def _list(arguments: Sequence[str]) -> int:
    parser = _parser("list", "List the programs of a control group.", _LIST)
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.runtime.attached import cgroups

    group = options.group or next(cgroups())
    found = _records(group, effective=options.effective)
    if options.json:
        print_json(found)
        return 0
    rows = [[record.get(key) for key in _COLUMNS.values()] for record in found]
    print("\n".join(table(tuple(_COLUMNS), rows) or ["  no programs"]))
    return 0


def _tree(arguments: Sequence[str]) -> int:
    about = "List the programs of a control group and of all below it, by group."
    options = _parser("tree", about, _TREE).read(arguments)
    needs_linux()
    found = list(_below(options.group, effective=options.effective))
    if options.json:
        print_json(found)
        return 0
    rows = [
        [each["cgroup"], *(record.get(key) for key in _COLUMNS.values())]
        for each in found
        for record in each["programs"]
    ]
    print("\n".join(table(("GROUP", *_COLUMNS), rows) or ["  no programs"]))
    return 0


def _detach(arguments: Sequence[str]) -> int:
    parser = Parser(
        "cgroup detach",
        "Take a program away from a control group, for whatever it is attached there.",
        "examples:\n  pybpfload cgroup detach /sys/fs/cgroup/system.slice count_bytes\n\n"
        "What links hold is taken away by link detach.\n",
    )
    parser.add_argument("group", metavar="DIR", help="its directory")
    parser.add_argument("program", metavar="PROG", help="an id, or a name")
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.cli.attachments import detach_named

    gone = detach_named(_path(options.group), options.program)
    if options.json:
        print_json([{"id": each.prog_id, "attach_type": each.place} for each in gone])
    return 0


def _path(group: str) -> str:
    return group if "/" in group else f"./{group}"


def _parser(name: str, about: str, examples: str) -> Parser:
    parser = Parser(f"cgroup {name}", about, examples)
    parser.add_argument(
        "group", metavar="DIR", nargs="?", default="", help="its directory; the root by default"
    )
    parser.add_argument(
        "--effective", action="store_true", help="what runs for it, by the groups above, too"
    )
    return parser


def _below(root: str, *, effective: bool) -> Iterator[dict[str, Any]]:
    """Each group that has programs as ``bpftool -j cgroup tree`` has it."""
    from pybpfload.errors import KernelError
    from pybpfload.runtime.attached import cgroups

    for group in cgroups(root):
        try:
            programs = _records(group, effective=effective)
        except KernelError as error:
            if group == root or error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            continue  # it went meanwhile
        if programs:
            yield {"cgroup": group, "programs": programs}


def _records(group: str, *, effective: bool) -> list[dict[str, Any]]:
    from pybpfload.runtime.attached import attached

    return [_record(each, effective) for each in attached(_path(group), effective=effective)]


def _record(each: Attachment, effective: bool) -> dict[str, Any]:
    """A program as ``bpftool -j cgroup show`` has it."""
    from pybpfload.uapi import AttachFlag

    flags = {
        AttachFlag.ALLOW_OVERRIDE: "override",
        AttachFlag.ALLOW_MULTI: "multi",
        AttachFlag.PREORDER: "preorder",
    }
    told = {} if effective else {"attach_flags": ",".join(
        name for flag, name in flags.items() if each.flags & flag)}  # fmt: skip
    return {"id": each.prog_id, "attach_type": each.place, **told, **_program(each.prog_id)}


def _program(number: int) -> dict[str, Any]:
    """Name of a program, and the function of the kernel that it attaches to, of LSM programs."""
    from pybpfload.errors import KernelError
    from pybpfload.kernel.btf import of_id
    from pybpfload.runtime.program import Program

    made = {"name": "", "attach_btf_name": "", "attach_btf_obj_id": 0, "attach_btf_id": 0}
    try:
        with Program.from_id(number) as program:
            info = program.info(code=False)
            made["name"] = program.whole_name()
    except KernelError:  # it went meanwhile
        return made
    if info.attach_btf_id:
        made["attach_btf_name"] = of_id(info.attach_btf_obj_id).type_name(info.attach_btf_id)
        made["attach_btf_obj_id"] = info.attach_btf_obj_id
        made["attach_btf_id"] = info.attach_btf_id
    return made


COMMANDS = {
    "list": Command(_list, "list them"),
    "show": Command(_list, "the same"),
    "detach": Command(_detach, "take one away"),
    "tree": Command(_tree, "list those of a group and of all below it"),
}
"""Its commands."""
