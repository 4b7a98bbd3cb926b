"""``pybpfload net``: programs of network devices and of a network namespace."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import needs_linux, program_name
from pybpfload.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.runtime.attached import Attachment

__all__ = ["COMMANDS", "run"]

_EXAMPLES = """\
examples:
  pybpfload net list
  pybpfload net list eth0 --json
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("net", "Programs of network devices.", COMMANDS, arguments)


def _list(arguments: Sequence[str]) -> int:
    parser = Parser(
        "net list", "List programs of network devices: XDP, tc, tcx, netkit, and more.", _EXAMPLES
    )
    parser.add_argument("devices", metavar="DEVICE", nargs="*", help="only these; all by default")
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.kernel import netdev
    from pybpfload.runtime.attached import attached

    if options.devices:
        devices = [(netdev.interface_index(name), name) for name in options.devices]
    else:
        devices = socket.if_nameindex()
    found = [(index, name, each) for index, name in devices for each in attached(index)]
    whole = [] if options.devices else attached()
    if options.json:
        print_json([_document(found, whole)])
        return 0
    rows = [
        (name, each.kind, each.place, each.prog_id, program_name(each.prog_id),
         each.link_id or None, each.priority or None)
        for name, each in [*((name, each) for _, name, each in found),
                           *(("-", each) for each in whole)]
    ]  # fmt: skip
    columns = ("DEVICE", "KIND", "PLACE", "PROG", "NAME", "LINK", "PRIORITY")
    print("\n".join(table(columns, rows) or ["  no programs"]))
    return 0


def _document(
    found: Sequence[tuple[int, str, Attachment]], whole: Sequence[Attachment]
) -> dict[str, Any]:
    """As ``bpftool -j net show`` has it; ``sk_lookup`` is ours."""
    made: dict[str, Any] = {"xdp": [], "tc": [], "flow_dissector": [], "sk_lookup": []}
    for index, name, each in found:
        device = {"devname": name, "ifindex": index}
        if each.kind == "xdp":
            mode = "driver" if each.place == "native" else each.place
            made["xdp"].append({**device, "mode": mode, "id": each.prog_id})
            continue
        kind = "clsact" if each.kind == "tc" else each.kind
        record = {**device, "kind": f"{kind}/{each.place}", "name": program_name(each.prog_id)}
        if each.kind == "tc":
            record |= {"id": each.prog_id, "priority": each.priority, "handle": each.handle}
        else:
            record["prog_id"] = each.prog_id
        if each.link_id:
            record["link_id"] = each.link_id
        made["tc"].append(record)
    for each in whole:
        made[each.place].append({"id": each.prog_id})
    return made


COMMANDS = {"list": Command(_list, "list them"), "show": Command(_list, "the same")}
"""Its commands."""
