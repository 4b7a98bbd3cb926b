"""What commands on programs, maps and links of the running kernel share.

The keys of JSON documents are those of ``bpftool -j`` where it has the same listing.
"""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import UsageError, did_you_mean, visible
from pybpfload.cli.group import Command
from pybpfload.cli.table import shorten, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pybpfload.runtime.holders import Holder

__all__ = [
    "Kind",
    "Owners",
    "commands",
    "needs_linux",
    "object_name",
    "one_word",
    "open_named",
    "print_list",
    "print_one",
    "program_name",
]

_SAME = 15  # characters of a name that the kernel keeps
_LONGEST_ID = 10  # digits of a number of 32 bits
_MOST = 20  # for which a cell could have room


class Owners:
    """Who keeps objects alive, looked up once."""

    def __init__(self) -> None:
        from pybpfload.runtime.holders import holders, pins

        self._holders: dict[tuple[str, int], list[Holder]] = holders()
        self._pins = pins()

    def of(self, kind: str, number: int) -> dict[str, Any]:
        """Keys ``pinned`` and ``pids`` of an object; left out where there is nothing to tell.

        Args:
            kind: ``"prog"``, ``"map"``, ``"link"`` or ``"btf"``.
            number: Its id.
        """
        paths = [pin.path for pin in self._pins if pin.kind == kind and pin.id == number]
        processes = [holder._asdict() for holder in self._holders.get((kind, number), ())]
        return {
            **({"pinned": paths} if paths else {}),
            **({"pids": processes} if processes else {}),
        }


class Kind(NamedTuple):
    """Programs, maps or links.

    Attributes:
        command: The command, and the kind as :mod:`pybpfload.runtime.holders` calls it.
        opened: Returns the class.
        record: Describes an open one; ``Owners`` adds who holds it.
        columns: Headings of the listing, and the keys of the record behind them.
    """

    command: str
    opened: Callable[[], Any]
    record: Callable[[Any], dict[str, Any]]
    columns: Mapping[str, str]


def needs_linux() -> None:
    """Refuse other systems.

    Raises:
        NotSupportedError: This is none.
    """
    if not sys.platform.startswith("linux"):
        from pybpfload.errors import NotSupportedError

        raise NotSupportedError(f"this needs a running Linux kernel, and this is {sys.platform}")


def object_name(info: Any) -> str:
    """Name of a map or program by what the kernel told; of a link, that of its program."""
    return str(info.name) if hasattr(info, "name") else program_name(info.prog_id)


def program_name(number: int) -> str:
    """Whole name of the program of an id; ``""`` if there is none, or none any more."""
    from pybpfload.errors import KernelError
    from pybpfload.runtime.program import Program

    try:
        with Program.from_id(number) as program:
            return program.whole_name()
    except KernelError:
        return ""


_WORDS = {"id": "{}", "name": "{}", "tag": "tag:{}", "pinned": "{}"}


def one_word(arguments: Sequence[str]) -> list[str]:
    """With what bpftool names an object by, ``id 42``, as the one word that it is here."""
    words = list(arguments)
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    kind, *named = words[at : at + 2] or [""]
    if kind in _WORDS and named and not named[0].startswith("-"):
        words[at : at + 2] = [_WORDS[kind].format(named[0])]
    return words


def open_named(cls: Any, text: str) -> Any:
    """Open the program, map or link that an argument names.

    Args:
        cls: ``Program``, ``Map`` or ``Link``.
        text: An id, a name (of a link: that of its program), ``tag:HEX``, or the path of a pin,
            which has a ``/`` in it.

    Raises:
        UsageError: There is none of that name or tag, or more than one.
        KernelError: There is none of that id or path, or it may not be opened.
    """
    needs_linux()
    kind = cls.__name__.lower()
    if text.isascii() and text.isdecimal():
        if len(text.lstrip("0")) > _LONGEST_ID or int(text) >= 1 << 32:
            raise UsageError(f"there is no {kind} {text}: ids have 32 bits")
        return cls.from_id(int(text))
    if "/" in text:
        return cls.from_pin(text)
    wanted = {text, text.encode()[:_SAME].decode(errors="replace")}
    name = object_name
    if text.startswith("tag:"):
        if kind != "program":
            raise UsageError(f"{text}: only programs have tags")
        wanted, name = {text[4:].lower()}, _tag
    brief = {"code": False} if kind == "program" else {}
    names = {info.id: name(info) for info in (each.info(**brief) for each in cls.all())}
    found = [n for n, there in names.items() if there in wanted or there[:_SAME] == text]
    if not found:
        raise UsageError(f"there is no {kind} {text!r}{did_you_mean(text, set(names.values()))}")
    if len(found) > 1 and kind == "program":
        found = [n for n in found if program_name(n) == text] or found
    if len(found) > 1:
        which = ", ".join(map(str, found))
        raise UsageError(f"there are {len(found)} {kind}s {text!r}; say which id: {which}")
    return cls.from_id(found[0])


def _tag(info: Any) -> str:
    return str(info.tag)


_EXAMPLES = {
    "list": ("list", "list --json", "show 42"),
    "pin": ("pin 42 /sys/fs/bpf/kept",),
    "unpin": ("unpin /sys/fs/bpf/kept",),
}


def commands(kind: Kind) -> dict[str, Command]:
    """The commands that programs, maps and links all have."""
    word = kind.command.upper()
    which = f"{word} is an id, a name, {'tag:HEX, ' * (kind.command == 'prog')}or the path of a pin"

    def parser(name: str, about: str) -> Parser:
        examples = "\n".join(f"  pybpfload {kind.command} {each}" for each in _EXAMPLES[name])
        return Parser(f"{kind.command} {name}", about, f"examples:\n{examples}\n\n{which}.")

    def listing(arguments: Sequence[str]) -> int:
        made = parser("list", "List all of this kind that the kernel has, or show one.")
        made.add_argument("object", metavar=word, nargs="?", help="only this, with all there is")
        options = made.read(one_word(arguments))
        needs_linux()
        owners = Owners()
        if options.object is None:
            found = [_described(kind, each, owners) for each in kind.opened().all()]
            nothing = f"no {kind.command}s"
            print_list(found, kind.columns, nothing, json=options.json)
        else:
            with open_named(kind.opened(), options.object) as one:
                print_one(_described(kind, one, owners), json=options.json)
        return 0

    def pin(arguments: Sequence[str]) -> int:
        made = parser("pin", "Keep it alive by a name in a BPF filesystem.")
        made.add_argument("object", metavar=word, help="what to pin")
        made.add_argument("path", metavar="PATH", help="where, below /sys/fs/bpf mostly")
        options = made.read(one_word(arguments))
        with open_named(kind.opened(), options.object) as one:
            one.pin_path = None
            one.pin(options.path)
        if options.json:
            print_json({"pinned": options.path})
        return 0

    def unpin(arguments: Sequence[str]) -> int:
        made = parser("unpin", "Remove a name from a BPF filesystem.")
        made.add_argument("path", metavar="PATH", help="the pin")
        options = made.read(arguments)
        needs_linux()
        with kind.opened().from_pin(options.path) as one:
            one.unpin()
        if options.json:
            print_json({"unpinned": options.path})
        return 0

    return {
        "list": Command(listing, "list all, or show one"),
        "show": Command(listing, "the same"),
        "pin": Command(pin, "keep one alive by a name in a BPF filesystem"),
        "unpin": Command(unpin, "remove such a name"),
    }


def _described(kind: Kind, one: Any, owners: Owners) -> dict[str, Any]:
    record = kind.record(one)
    return {**record, **owners.of(kind.command, record["id"])}


def print_list(
    found: Sequence[dict[str, Any]], columns: Mapping[str, str], nothing: str, *, json: bool
) -> None:
    """Print a table of records, or all that they have as JSON.

    Args:
        found: The records.
        columns: As in :class:`Kind`.
        nothing: What to say if there are none.
        json: Whether to print JSON.
    """
    if json:
        print_json(found)
        return
    rows = [[_cell(key, record.get(key)) for key in columns.values()] for record in found]
    print("\n".join(table(tuple(columns), rows) or [f"  {nothing}"]))


def print_one(record: dict[str, Any], *, json: bool) -> None:
    """Print all that a record has, a line each, or as JSON."""
    if json:
        print_json(record)
        return
    width = max(map(len, record))
    for key, value in record.items():
        if key == "loaded_at":
            when = datetime.fromtimestamp(value).astimezone()
            value = when.isoformat(" ", "seconds")
        print(f"  {key:{width}}  {visible(_text(value))}")


def _cell(key: str, value: Any) -> Any:
    if key == "prog_id" and not value:
        return None  # a link of struct_ops has none
    if isinstance(value, list):
        return _several([_text(each) for each in value])
    return value if isinstance(value, int) or value is None else shorten(_text(value))


def _several(texts: list[str]) -> str:
    """As many as there is room for: of an id that is cut the rest would be another id."""
    for shown in range(min(len(texts), _MOST), 1, -1):
        more = f" and {len(texts) - shown} more" if shown < len(texts) else ""
        text = ", ".join(texts[:shown]) + more
        if shorten(text) == text:
            return text
    return shorten(", ".join(texts))


def _text(value: Any) -> str:
    """A value of a record for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        if set(value) == {"pid", "comm"}:
            return f"{value['comm']} ({value['pid']})"
        return " ".join(f"{key}={_text(item)}" for key, item in value.items())
    return str(value)
