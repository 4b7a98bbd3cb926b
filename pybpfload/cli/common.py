"""What all commands share: the argument parser, opening objects, JSON."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from pybpfload.cli.failure import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.object.spec import Named, ObjectSpec

__all__ = ["Parser", "check_names", "open_object", "print_json"]


class Parser(argparse.ArgumentParser):
    """Argument parser of one command; wrong usage is a :class:`UsageError`, in one line.

    Args:
        command: Name of the command.
        description: What it does.
        examples: Worked examples, and what else the help ends with.
    """

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"pybpfload {command}",
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--json", action="store_true", help="print JSON, for programs")
        self.add_argument(
            "-v", "--verbose", action="store_true", help="say more: logs, definitions, causes"
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments.

        Raises:
            UsageError: They make no sense.
        """
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            option = unknown[0].partition("=")[0]
            close = did_you_mean(option, self._option_string_actions)
            raise UsageError(f"unknown argument {option!r}{close or f'; see {self.prog} --help'}")
        return options


def open_object(path: str) -> ObjectSpec:
    """Open an object file.

    Raises:
        FormatError: It is not a BPF object.
        OSError: It cannot be read.
    """
    import pybpfload

    return pybpfload.open(path)


def check_names(wanted: Sequence[str], known: Named) -> None:
    """Make sure that names given on the command line exist.

    Raises:
        UsageError: One does not.
    """
    for name in wanted:
        if name not in known:
            there = ", ".join(known) or "none"
            close = did_you_mean(name, known)
            raise UsageError(f"no {known.what} {name!r}{close or '; there are: ' + there}")


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document on standard output."""
    import json

    json.dump(document, sys.stdout, indent=indent, allow_nan=False)
    sys.stdout.write("\n")
