"""``pybpfload map``: maps of the running kernel."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, print_json, seconds
from pybpfload.cli.failure import UsageError, visible
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import Kind, commands, one_word, open_named

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from pybpfload.cli.assign import Steps
    from pybpfload.cli.elements import Elements
    from pybpfload.runtime.variable import Variable

__all__ = ["COMMANDS", "record", "run"]

_WORDS = """\
MAP is an id, a name, or the path of a pin. Keys and values are read by their BTF types:
10, 0xff, true, an enumerator's name, text, a,b,c for an array, JSON for structs; without
BTF integers, or bytes as hexadecimal digits; networks for LPM tries. Values of maps of
programs and of maps are what names a program or map. In .data, .bss and .rodata the key
is a variable, or a part of one.

examples:
  pybpfload map get counts 0
  pybpfload map set flows '{"addr": "0a000001", "port": 443}' '{"packets": 1}'
  pybpfload map set /sys/fs/bpf/config 0 0x10
  pybpfload map dump counts --json
  pybpfload map get execsnoo.bss dropped
  pybpfload map set tracer.data 'limits[2].bytes' 4096
  pybpfload map del flows --all
  pybpfload map push queue 7
  pybpfload map pop queue
  pybpfload map watch events
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("map", "Maps of the running kernel, and their elements.", COMMANDS, arguments)


def record(opened: Any) -> dict[str, Any]:
    """A map as ``bpftool -j map show`` has it."""
    info = opened.info()
    more = opened.fdinfo()
    made: dict[str, Any] = {"id": info.id, "type": info.type.name.lower()}
    if info.name:
        made["name"] = info.name
    made |= {
        "flags": info.map_flags,
        "bytes_key": info.key_size,
        "bytes_value": info.value_size,
        "max_entries": info.max_entries,
    }
    if "memlock" in more:
        made["bytes_memlock"] = int(more["memlock"])
    if "owner_prog_type" in more:
        from pybpfload.uapi import ProgType

        made["owner_prog_type"] = ProgType(int(more["owner_prog_type"])).name.lower()
        made["owner_jited"] = bool(int(more.get("owner_jited", "0")))
    if "frozen" in more:
        made["frozen"] = int(more["frozen"])
    if info.btf_id:
        made["btf_id"] = info.btf_id
    return made


def _dump(arguments: Sequence[str]) -> int:
    options = _parser("dump", "Show all elements of a map.").read(one_word(arguments))
    with _elements(options) as elements:
        if options.json:
            print_json([elements.document(*each) for each in elements])
            return 0
        count = 0
        for each in elements:
            sys.stdout.write(visible(elements.line(*each)) + "\n")
            count += 1
        if not count:
            print("  no elements")
    return 0


def _get(arguments: Sequence[str]) -> int:
    parser = _parser("get", "Show the value of a key, or a variable of a section.")
    parser.add_argument("key", metavar="KEY", help="the key; the variable: NAME, NAME.MEMBER[2]")
    options = parser.read(arguments)
    with _elements(options) as elements:
        named = elements.variable(options.key)
        if named is not None:
            _print_variable(*named, options.key, json=options.json)
            return 0
        found = elements.get(elements.key(options.key))
        if options.json:
            print_json(elements.document(*found))
        else:
            print(visible(elements.line(*found)))
    return 0


def _print_variable(variable: Variable, steps: Steps, name: str, *, json: bool) -> None:
    from pybpfload.cli.assign import part
    from pybpfload.cli.values import plain, pretty

    value = part(variable.codec, variable.value, steps)
    if json:
        print_json({"name": name, "value": plain(value)})
    else:
        print(f"{visible(name)}: {pretty(value, top=True)}")


def _set(arguments: Sequence[str]) -> int:
    parser = _parser(
        "set", "Set the value of a key, of a per-CPU map on all CPUs; or a variable of a section."
    )
    parser.add_argument("key", metavar="KEY", help="the key; the variable: NAME, NAME.MEMBER[2]")
    parser.add_argument("value", metavar="VALUE", help="the value; '[...]' for one for each CPU")
    parser.add_argument(
        "--cpu", metavar="N", type=int, help="of a per-CPU map, only on this CPU (Linux 7.0)"
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--noexist", action="store_true", help="only if the key is not there yet")
    only.add_argument("--exist", action="store_true", help="only if the key is there already")
    options = parser.read(arguments)
    with _elements(options) as elements:
        named = elements.variable(options.key)
        if named is not None:
            from pybpfload.cli.elements import set_part

            set_part(*named, options.value)
            return 0
        key = elements.key(options.key)
        value = elements.value(options.value)
        try:
            elements.map.put(
                key, value, noexist=options.noexist, exist=options.exist, cpu=options.cpu
            )
        finally:
            if hasattr(value, "close"):
                value.close()
    return 0


def _del(arguments: Sequence[str]) -> int:
    parser = _parser("del", "Delete a key and its value, or all.")
    parser.add_argument("key", metavar="KEY", nargs="?", help="the key")
    parser.add_argument("--all", action="store_true", help="all elements, instead of a key")
    options = parser.read(arguments)
    if options.all == (options.key is not None):
        raise UsageError("map del: say a KEY, or --all")
    with _elements(options) as elements:
        if options.all:
            elements.map.clear()
        else:
            del elements.map[elements.key(options.key)]
    return 0


def _push(arguments: Sequence[str]) -> int:
    parser = _parser("push", "Put a value into a queue, stack or Bloom filter.")
    parser.add_argument("value", metavar="VALUE", help="the value")
    parser.add_argument("--force", action="store_true", help="drop the oldest one if it is full")
    options = parser.read(arguments)
    with _elements(options) as elements:
        elements.map.push(elements.value(options.value), force=options.force)
    return 0


def _pop(arguments: Sequence[str]) -> int:
    options = _parser("pop", "Take the next value out of a queue or stack.").read(
        one_word(arguments)
    )
    return _front(options, take=True)


def _peek(arguments: Sequence[str]) -> int:
    options = _parser("peek", "Show the value that pop would take.").read(one_word(arguments))
    return _front(options, take=False)


def _front(options: Namespace, *, take: bool) -> int:
    with _elements(options) as elements:
        value = elements.front(take=take)
        if options.json:
            print_json(elements.document(b"", value))
        else:
            print(visible(elements.line(b"", value)))
    return 0


def _watch(arguments: Sequence[str]) -> int:
    parser = _parser("watch", "Show the events of a buffer, or changes of elements, until Ctrl-C.")
    parser.add_argument("--duration", metavar="SECONDS", type=seconds, help="stop after this time")
    parser.add_argument(
        "--interval", metavar="SECONDS", type=seconds, default=1.0, help="between looks; 1"
    )
    parser.add_argument(
        "--consume", action="store_true", help="take events away from whoever else reads them"
    )
    parser.add_argument("--type", metavar="NAME", help="the type of the events")
    options = parser.read(one_word(arguments))
    from pybpfload.cli.stream import Stop
    from pybpfload.cli.watch import BUFFERS, watch_changes, watch_events

    with open_named(_class(), options.map) as opened, Stop(options.duration) as stop:
        if opened.type in BUFFERS:
            consume, kind = options.consume, options.type
            watch_events(opened, stop, consume=consume, event_type=kind, json=options.json)
        else:
            try:
                watch_changes(opened, stop, interval=options.interval, json=options.json)
            except TypeError as error:
                raise UsageError(str(error)) from None
    return 0


def _parser(name: str, about: str) -> Parser:
    parser = Parser(f"map {name}", about, _WORDS)
    parser.add_argument("map", metavar="MAP", help="an id, a name, or the path of a pin")
    return parser


@contextmanager
def _elements(options: Namespace) -> Iterator[Elements]:
    """The elements of the map that is asked for; what does not fit it is wrong usage."""
    from pybpfload.cli.elements import Elements
    from pybpfload.errors import BpfError

    with open_named(_class(), options.map) as opened:
        try:
            yield Elements(opened)
        except (KeyError, IndexError) as error:
            raise BpfError(str(error.args[0])) from None
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from None


def _class() -> Any:
    from pybpfload.runtime.map import Map

    return Map


_KIND = Kind(
    "map",
    _class,
    record,
    {
        "ID": "id",
        "TYPE": "type",
        "NAME": "name",
        "KEY": "bytes_key",
        "VALUE": "bytes_value",
        "ENTRIES": "max_entries",
        "MEMORY": "bytes_memlock",
        "HELD BY": "pids",
        "PINNED": "pinned",
    },
)

COMMANDS = {
    **commands(_KIND),
    "dump": Command(_dump, "show all elements"),
    "get": Command(_get, "show the value of a key, or a variable"),
    "set": Command(_set, "set the value of a key, or a variable"),
    "del": Command(_del, "delete a key, or all"),
    "push": Command(_push, "put a value into a queue or stack"),
    "pop": Command(_pop, "take the next value out of a queue or stack"),
    "peek": Command(_peek, "show the value that pop would take"),
    "watch": Command(_watch, "show events of a buffer, or what changes, until Ctrl-C"),
}
"""Its commands."""
