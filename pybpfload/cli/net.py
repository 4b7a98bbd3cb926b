"""``pybpfload net``: programs of network devices and of network namespaces."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import needs_linux, program_name
from pybpfload.cli.table import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.kernel.linkinfo import NetfilterLinkInfo
    from pybpfload.runtime.attached import Attachment

__all__ = ["COMMANDS", "run"]

_EXAMPLES = """\
examples:
  pybpfload net list
  pybpfload net list eth0 --json
  pybpfload net list --netns blue
"""
_XDP_MODES = {"generic": "generic", "native": "driver", "offload": "offload"}  # bpftool's order


class _Found(NamedTuple):
    """What is attached in a network namespace: to devices (index, name, what), and to itself."""

    devices: list[tuple[int, str, Attachment]]
    itself: list[Attachment]


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("net", "Programs of network devices.", COMMANDS, arguments)


def _list(arguments: Sequence[str]) -> int:
    parser = Parser(
        "net list",
        "List programs of network devices: XDP, tc, tcx, netkit; and of netfilter.",
        _EXAMPLES,
    )
    parser.add_argument("devices", metavar="DEVICE", nargs="*", help="only these; all by default")
    parser.add_argument(
        "--netns", metavar="NS", help="another network namespace: its path, name, or a process' id"
    )
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.kernel.netns import in_network_namespace

    if options.netns is None:
        found = _look(options.devices)
    else:
        found = in_network_namespace(options.netns, lambda: _look(options.devices))
    filters = [] if options.devices else _netfilter()
    if options.json:
        print_json([_document(found, filters)])
        return 0
    rows = [
        (name, each.kind, each.place, each.prog_id, program_name(each.prog_id),
         each.link_id or None, each.priority or None)
        for name, each in [*((name, each) for _, name, each in found.devices),
                           *(("-", each) for each in found.itself)]
    ]  # fmt: skip
    rows += [
        ("-", "netfilter", each.place, each.prog_id, program_name(each.prog_id), each.id,
         each.priority)
        for each in filters
    ]  # fmt: skip
    columns = ("DEVICE", "KIND", "PLACE", "PROG", "NAME", "LINK", "PRIORITY")
    print("\n".join(table(columns, rows) or ["  no programs"]))
    return 0


def _detach(arguments: Sequence[str]) -> int:
    parser = Parser(
        "net detach",
        "Take a program away from a network device, in all places where it is attached there.",
        "examples:\n  pybpfload net detach eth0 drop_some\n  pybpfload net detach eth0 142\n\n"
        "What XDP and netfilter links hold is taken away by link detach.\n",
    )
    parser.add_argument("device", metavar="DEVICE", help="the network device")
    parser.add_argument("program", metavar="PROG", help="an id, or a name")
    parser.add_argument(
        "--netns", metavar="NS", help="another network namespace: its path, name, or a process' id"
    )
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.cli.attachments import detach_named
    from pybpfload.kernel.netns import in_network_namespace

    def there() -> list[Attachment]:
        return detach_named(options.device, options.program)

    gone = there() if options.netns is None else in_network_namespace(options.netns, there)
    if options.json:
        print_json([{"devname": options.device, "kind": each.kind, "place": each.place,
                     "id": each.prog_id} for each in gone])  # fmt: skip
    return 0


def _look(names: Sequence[str]) -> _Found:
    """Ask in the network namespace that this thread is in."""
    from pybpfload.kernel import door, netdev
    from pybpfload.runtime.attached import attached

    devices = [(netdev.interface_index(name), name) for name in names] or door.interfaces()
    found = [(index, name, each) for index, name in devices for each in attached(index)]
    return _Found(found, [] if names else attached())


def _netfilter() -> list[NetfilterLinkInfo]:
    """Links of all network namespaces: the kernel does not tell which one each is of."""
    from pybpfload.kernel.linkinfo import NetfilterLinkInfo
    from pybpfload.runtime.link import Link

    found = [link.info() for link in Link.all()]
    return [each for each in found if isinstance(each, NetfilterLinkInfo)]


def _document(found: _Found, filters: Sequence[NetfilterLinkInfo]) -> dict[str, Any]:
    """As ``bpftool -j net show`` has it; ours has ``sk_lookup`` and more about tc and netfilter."""
    made: dict[str, Any] = {
        "xdp": [], "tc": [], "flow_dissector": [],
        "netfilter": [_of_netfilter(each) for each in filters], "sk_lookup": [],
    }  # fmt: skip
    for (index, name), attachments in groupby(found.devices, lambda each: each[:2]):
        device = {"devname": name, "ifindex": index}
        here = [each for _, _, each in attachments]
        programs = [
            {"mode": shown, "id": each.prog_id}
            for mode, shown in _XDP_MODES.items()
            for each in here
            if (each.kind, each.place) == ("xdp", mode)
        ]
        if len(programs) > 1:
            made["xdp"].append({**device, "multi_attachments": programs})
        made["xdp"] += [{**device, **each} for each in programs if len(programs) == 1]
        made["tc"] += [{**device, **_of_tc(each)} for each in here if each.kind != "xdp"]
    for each in found.itself:
        made[each.place].append({"id": each.prog_id})
    return made


def _of_tc(each: Attachment) -> dict[str, Any]:
    if each.kind == "tc":
        return {
            "kind": f"clsact/{each.place}",
            "name": each.name,
            "id": each.prog_id,
            "prog_name": program_name(each.prog_id),
            "priority": each.priority,
            "handle": each.handle,
        }
    return {
        "kind": f"{each.kind}/{each.place}",
        "name": program_name(each.prog_id),
        "prog_id": each.prog_id,
        "prog_flags": [1 << bit for bit in range(32) if each.flags >> bit & 1],
        "link_id": each.link_id,
        "link_flags": [],  # no kernel has any yet
    }


def _of_netfilter(each: NetfilterLinkInfo) -> dict[str, Any]:
    return {
        "id": each.prog_id,
        "link_id": each.id,
        "pf": int(each.pf),
        "hook": int(each.hooknum),
        "prio": each.priority,
        "flags": int(each.flags),
    }


COMMANDS = {
    "list": Command(_list, "list them"),
    "show": Command(_list, "the same"),
    "detach": Command(_detach, "take one away from a device"),
}
"""Its commands."""
