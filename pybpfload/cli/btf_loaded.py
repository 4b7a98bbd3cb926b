"""``pybpfload btf list`` and ``btf show``: BTF that the running kernel holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.cli import NEEDS
from pybpfload.cli.common import Parser
from pybpfload.cli.failure import UsageError, did_you_mean
from pybpfload.cli.live import Owners, needs_linux, one_word, print_list, print_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.runtime.loaded_btf import LoadedBtf

__all__ = ["record", "run"]

_COLUMNS = {
    "ID": "id",
    "NAME": "name",
    "SIZE": "size",
    "PROGRAMS": "prog_ids",
    "MAPS": "map_ids",
    "LINKS": "link_ids",
    "HELD BY": "pids",
}


def record(loaded: LoadedBtf) -> dict[str, Any]:
    """A BTF object as ``bpftool -j btf show`` has it; ``link_ids`` added."""
    made: dict[str, Any] = {
        "id": loaded.id,
        "size": loaded.size,
        "prog_ids": loaded.prog_ids,
        "map_ids": loaded.map_ids,
        "link_ids": loaded.link_ids,
        "kernel": loaded.kernel,
    }
    if loaded.name:
        made["name"] = loaded.name
    return made


def run(arguments: Sequence[str]) -> int:
    """Run ``btf list`` or ``btf show`` and return the exit status."""
    parser = Parser(
        "btf list",
        "List the BTF that the running kernel holds, and what uses it, or show one.",
        "examples:\n"
        "  pybpfload btf list\n"
        "  pybpfload btf show vmlinux --json\n"
        "  pybpfload btf c id:42                                its types, as C\n",
        needs=NEEDS["live"],
    )
    parser.add_argument("btf", metavar="BTF", nargs="?", help="an id, or a module's name")
    options = parser.read(one_word(arguments))
    needs_linux()
    from pybpfload.runtime.loaded_btf import loaded_btf

    found = loaded_btf()
    if options.btf is not None:
        found = [_named(found, options.btf)]
    owners = Owners()
    records = [{**record(each), **owners.of("btf", each.id)} for each in found]
    if options.btf is not None:
        print_one(records[0], json=options.json)
    else:
        print_list(records, _COLUMNS, "no BTF", json=options.json)
    return 0


def _named(loaded: Sequence[LoadedBtf], text: str) -> LoadedBtf:
    for each in loaded:
        if text and text in (each.name, str(each.id), f"id:{each.id}"):
            return each
    close = did_you_mean(text, {each.name for each in loaded if each.name})
    raise UsageError(f"the kernel holds no BTF {text!r}{close}")
