"""``pybpfload cgroup``: programs of control groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import needs_linux, program_name
from pybpfload.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.runtime.attached import Attachment

__all__ = ["COMMANDS", "run"]

_USUAL = "/sys/fs/cgroup"
_EXAMPLES = """\
examples:
  pybpfload cgroup list
  pybpfload cgroup list --effective /sys/fs/cgroup/system.slice
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("cgroup", "Programs of control groups.", COMMANDS, arguments)


def _list(arguments: Sequence[str]) -> int:
    parser = Parser("cgroup list", "List the programs of a control group.", _EXAMPLES)
    parser.add_argument(
        "group", metavar="DIR", nargs="?", help="its directory; the root of all by default"
    )
    parser.add_argument(
        "--effective", action="store_true", help="what runs for it, by the groups above, too"
    )
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.kernel.mounts import mounted
    from pybpfload.runtime.attached import attached

    if options.group is None:
        options.group = (mounted("cgroup2") or [_USUAL])[0]
    path = options.group if "/" in options.group else f"./{options.group}"
    found = [
        _record(each, options.effective) for each in attached(path, effective=options.effective)
    ]
    if options.json:
        print_json(found)
        return 0
    keys = ("id", "attach_type", "attach_flags", "name")
    rows = [[record.get(key) for key in keys] for record in found]
    print("\n".join(table(("PROG", "ATTACH TYPE", "FLAGS", "NAME"), rows) or ["  no programs"]))
    return 0


def _record(each: Attachment, effective: bool) -> dict[str, Any]:
    """A program as ``bpftool -j cgroup show`` has it."""
    from pybpfload.uapi import AttachFlag

    flags = {AttachFlag.ALLOW_OVERRIDE: "override", AttachFlag.ALLOW_MULTI: "multi"}
    told = {} if effective else {"attach_flags": ",".join(
        name for flag, name in flags.items() if each.flags & flag)}  # fmt: skip
    return {
        "id": each.prog_id,
        "attach_type": each.place,
        **told,
        "name": program_name(each.prog_id),
    }


COMMANDS = {"list": Command(_list, "list them"), "show": Command(_list, "the same")}
"""Its commands."""
