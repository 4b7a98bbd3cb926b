"""``pybpfload link``: attachments of the running kernel."""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import Kind, commands, object_name, one_word, open_named

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["COMMANDS", "record", "run"]

# What bpftool calls a field of a kind of link otherwise than the kernel.
_KEYS: dict[str, str] = {
    "interface": "devname",
    "hooknum": "hook",
    "priority": "prio",
    "count": "func_cnt",
    "func_name": "func",
    "file_name": "file",
}
_RETPROBES = ("URETPROBE", "KRETPROBE")
_EVENTS = {  # by perf(1)'s names, where they differ from the kernel's
    "page-faults-min": "minor-faults",
    "page-faults-maj": "major-faults",
    "ref-cpu-cycles": "ref-cycles",
}
_PER_PLACE = {"addrs": "addr", "offsets": "offset", "ref_ctr_offsets": "ref_ctr_offset",
              "cookies": "cookie"}  # fmt: skip


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("link", "Attachments of the running kernel.", COMMANDS, arguments)


def record(link: Any) -> dict[str, Any]:
    """A link as ``bpftool -j link show`` has it; ``name`` (of the program) and ``place`` added."""
    from pybpfload.uapi import LinkType

    info = link.info()
    made: dict[str, Any] = {
        "id": info.id,
        "type": info.type.name.lower(),
        "prog_id": info.prog_id,
        "name": object_name(info),
        "place": info.place,
    }
    details: dict[str, Any] = info.details
    kind = details.pop("perf_type", None)
    if info.type in (LinkType.KPROBE_MULTI, LinkType.UPROBE_MULTI):
        made["retprobe"] = bool(details.pop("flags"))
        made["funcs"] = _functions(details)
    elif info.type == LinkType.TRACING:
        made["prog_type"] = _program_type(info.prog_id)
    elif kind is not None:
        if "tp_name" in details:
            made["tracepoint"] = details.pop("tp_name")
        elif "config" in details:
            made["event_config"] = _event(details["event_type"], details.pop("config"))
        else:
            made["retprobe"] = kind.name in _RETPROBES
    for key, value in details.items():
        made[_KEYS.get(key, key)] = _plain(key, value)
    return made


def _functions(details: dict[str, Any]) -> list[dict[str, Any]]:
    """The places of a link that has many; of kernel functions with their names."""
    lists = {key: details.pop(key) for key in _PER_PLACE if key in details}
    found: list[dict[str, Any]] = [
        {_PER_PLACE[key]: values[at] for key, values in lists.items() if at < len(values)}
        for at in range(max(map(len, lists.values()), default=0))
    ]
    if any(lists.get("addrs", ())):  # zeros where kernel addresses are hidden
        from pybpfload.symbols import KernelSymbols

        symbols = KernelSymbols()
        for each in found:
            frame = symbols.frame(each["addr"])
            module = None if frame.module == "kernel" else frame.module
            each |= {"func": frame.symbol or "", "module": module}
    return found


def _program_type(number: int) -> str:
    from pybpfload.errors import KernelError
    from pybpfload.runtime.program import Program

    try:
        with Program.from_id(number) as program:
            return program.info(code=False).type.name.lower()
    except KernelError:  # it went meanwhile
        return ""


def _event(kind: Any, config: int) -> str | int:
    """An event of the kernel's or the processor's own by name, others by number."""
    from pybpfload.uapi import PerfHardware, PerfSoftware

    names = {"SOFTWARE": PerfSoftware, "HARDWARE": PerfHardware}.get(kind.name)
    if names is None or config not in {each.value for each in names}:
        return config
    name = str(names(config).name).lower().replace("_", "-")
    return _EVENTS.get(name, name)


def _plain(key: str, value: Any) -> Any:
    """Attach types and the like by name, as bpftool has them; flags and unknown ones as numbers."""
    if key in ("attach_type", "event_type", "order") and isinstance(value, Enum):
        if value.name in type(value).__members__:
            return value.name.lower().replace("_", "-" if key == "event_type" else "_")
        return value.value
    return int(value) if isinstance(value, (IntEnum, IntFlag)) else value


def _detach(arguments: Sequence[str]) -> int:
    parser = Parser(
        "link detach",
        "Detach a link at once; it stays as an object until nobody holds it any more.",
        "examples:\n  pybpfload link detach 42\n  pybpfload link detach /sys/fs/bpf/kept\n\n"
        "Links of tracing, raw tracepoint, perf event and iterator programs cannot be detached\n"
        "so: end the process that holds them, or remove their pin.\n",
    )
    parser.add_argument("link", metavar="LINK", help="an id, its program's name, or a pin's path")
    options = parser.read(one_word(arguments))
    with open_named(_class(), options.link) as link:
        number = link.info().id
        link.detach()
    if options.json:
        print_json({"detached": number})
    return 0


def _class() -> Any:
    from pybpfload.runtime.link import Link

    return Link


_KIND = Kind(
    "link",
    _class,
    record,
    {
        "ID": "id",
        "TYPE": "type",
        "PROG": "prog_id",
        "NAME": "name",
        "PLACE": "place",
        "ATTACH TYPE": "attach_type",
        "HELD BY": "pids",
        "PINNED": "pinned",
    },
)

COMMANDS = {**commands(_KIND), "detach": Command(_detach, "detach at once (Linux 5.9)")}
"""Its commands."""
