"""Command lines in the documentation: whether the commands take such arguments."""

from __future__ import annotations

from contextlib import suppress

from pybpfload.cli import COMMANDS, module_of
from pybpfload.cli.common import parser_of
from pybpfload.cli.failure import UsageError


def assert_parses(words: list[str]) -> None:
    """A command's parser takes these words.

    Raises:
        UsageError: It does not.
        AssertionError: There is no such command.
    """
    command, *rest = words
    assert command in COMMANDS, f"there is no command {command}"
    run = module_of(command).run
    parser = None
    if rest and not rest[0].startswith("-"):
        with suppress(UsageError):  # the word was no command of the command's
            parser = parser_of(run, rest[0])
    parser = parser or parser_of(run)
    assert parser is not None
    own = len(parser.prog.split()) - 2  # "pybpfload map get"
    parser.parse_args(rest[own:])
