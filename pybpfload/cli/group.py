"""Commands that have commands of their own: ``pybpfload prog list``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.cli.common import Parser, parser_of
from pybpfload.cli.failure import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Command", "run_group"]


class Command(NamedTuple):
    """One command of a group.

    Attributes:
        run: Takes the arguments, returns the exit status.
        about: What it does.
    """

    run: Callable[[Sequence[str]], int]
    about: str


def run_group(
    group: str,
    about: str,
    commands: Mapping[str, Command],
    arguments: Sequence[str],
    examples: str = "",
) -> int:
    """Run the command that the first word names.

    Args:
        group: Name of the group.
        about: What it is for.
        commands: The commands by name.
        arguments: What follows the name of the group; options may stand before the command.
        examples: Worked examples for the help of the group, a line each; by default the first of
            each command in the help of that.

    Raises:
        UsageError: There is no such command.
    """
    rest = list(arguments)
    at = next((i for i, word in enumerate(rest) if not word.startswith("-")), None)
    if at is None:
        width = max(map(len, commands))
        lines = [f"  {name:{width}}  {command.about}" for name, command in commands.items()]
        examples = examples or "\n".join(_examples(group, commands))
        parser = Parser(group, about, "\n".join(["commands:", *lines, "", "examples:", examples]))
        parser.add_argument("command", metavar="COMMAND", choices=commands, help="what to do")
        asked = bool({"-h", "--help"} & {*rest})
        parser.print_help(None if asked else sys.stderr)
        return 0 if asked else 2
    name = rest.pop(at)
    if name not in commands:
        close = did_you_mean(name, commands) or f"; there are: {', '.join(commands)}"
        raise UsageError(f"{group} has no command {name!r}{close}")
    return commands[name].run(rest)


def _examples(group: str, commands: Mapping[str, Command]) -> Iterator[str]:
    for name, command in commands.items():
        parser = parser_of(command.run)
        lines = parser.examples.splitlines() if parser else []
        words = ["pybpfload", group, name]
        yield from [line for line in lines if line.split()[:3] == words][:1]
