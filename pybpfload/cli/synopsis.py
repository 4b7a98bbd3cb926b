"""The command line as data: each command, its options and what they take.

Read from the parsers that the commands themselves use, so completion and the manual page have
nothing of their own to keep current.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.cli import COMMANDS, module_of
from pybpfload.cli.common import parser_of

if TYPE_CHECKING:
    from argparse import Action
    from collections.abc import Iterator

    from pybpfload.cli.common import Parser

__all__ = ["OBJECTS", "Argument", "Entry", "commands_of", "entries"]

OBJECTS, FILES, NOTHING = "objects", "files", "nothing"
"""What can be completed besides words: files that end in ``.o``, any file, nothing."""

_TAKES = {
    "OBJ": OBJECTS,
    "FILE": FILES,
    "SRC": FILES,
    "BTF": FILES,
    "PATH": FILES,
    "PCAP": FILES,
    "DIR": FILES,
}
"""What can be completed for each metavar; nothing for others."""


_WORD = re.compile("[A-Z]+")  # of "[SRC] TYPE"


class Argument(NamedTuple):
    """An option or operand of a command.

    Attributes:
        flags: ``-v``, ``--verbose``; none for an operand.
        metavar: How the help calls its value, ``""`` for an option without one.
        takes: :data:`OBJECTS`, ``"files"`` or ``"nothing"``; of no meaning when there are words.
        words: The words it takes; empty if they are not fixed.
        many: Whether it may be given more than once.
        about: Its help.
    """

    flags: tuple[str, ...]
    metavar: str
    takes: str
    words: tuple[str, ...]
    many: bool
    about: str


class Entry(NamedTuple):
    """A command, or a command of one that has commands of its own.

    Attributes:
        path: ``"inspect"``, ``"prog list"``.
        about: What it does.
        parser: What reads its arguments.
    """

    path: str
    about: str
    parser: Parser

    @property
    def options(self) -> list[Argument]:
        """Its options, ``--help`` included."""
        return [_argument(each) for each in self._actions() if each.option_strings]

    @property
    def operands(self) -> list[Argument]:
        """Its operands, in order."""
        return [_argument(each) for each in self._actions() if not each.option_strings]

    def _actions(self) -> list[Action]:
        return [each for each in self.parser._actions if each.help != SUPPRESS]


def commands_of(name: str) -> dict[str, str]:
    """Commands that a command has of its own, and what they do; none for most."""
    group = getattr(module_of(name), "COMMANDS", {})
    return {word: command.about for word, command in group.items()}


def entries() -> Iterator[Entry]:
    """Every command with options, in the order of the help."""
    for name, about in COMMANDS.items():
        run = module_of(name).run
        for word, does in (commands_of(name) or {"": about}).items():
            parser = parser_of(run, *[word][: bool(word)])
            if parser is not None:
                yield Entry(f"{name} {word}".rstrip(), does, parser)


def _argument(action: Action) -> Argument:
    valued = action.nargs != 0
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Argument(
        tuple(action.option_strings),
        metavar if valued else "",
        next((_TAKES[word] for word in _WORD.findall(metavar) if word in _TAKES), NOTHING),
        tuple(map(str, action.choices or ())),
        action.nargs in ("+", "*") or type(action).__name__ in ("_AppendAction", "_ExtendAction"),
        (action.help or "").replace("%%", "%"),
    )
