"""What all commands share: the argument parser, opening objects, JSON."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from pybpfload.cli import GROUPS, NEEDS
from pybpfload.cli.failure import UsageError, did_you_mean
from pybpfload.cli.style import WHEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pybpfload.object.spec import Named, ObjectSpec

__all__ = [
    "Parser",
    "check_names",
    "draws_unicode",
    "open_object",
    "parser_of",
    "print_json",
    "seconds",
]


class Parser(argparse.ArgumentParser):
    """Argument parser of one command; wrong usage is a :class:`UsageError`, in one line.

    Args:
        command: Name of the command.
        description: What it does.
        examples: Worked examples, and what else the help ends with.
        needs: What it needs, if not what its group does.
    """

    def __init__(self, command: str, description: str, examples: str, *, needs: str = "") -> None:
        super().__init__(
            prog=f"pybpfload {command}",
            description=description,
            epilog=f"{examples.rstrip()}\n\nneeds: {needs or _needs(command)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.color = False  # Python 3.14 would decide by itself
        self.examples = examples
        self.add_argument("--json", action="store_true", help="print JSON, for programs")
        self.add_argument(
            "-v", "--verbose", action="store_true", help="say more: logs, definitions, causes"
        )
        self.add_argument(
            "--color",
            metavar="WHEN",
            choices=WHEN,
            default="auto",
            help="colour: auto (on a terminal, unless NO_COLOR is set), always, never",
        )

    def print_help(self, file: Any = None) -> None:
        """Print the help, or hand over the parser when :func:`parser_of` asks for it."""
        if _asked is None:
            super().print_help(file)
        else:
            _asked.append(self)

    def add_btf_files(self, help: str = "BTF to relocate against; may be repeated") -> None:  # noqa: A002
        """Add ``--btf FILE``, the kernel's first: what ``cli.relocation.read_target()`` takes."""
        self.add_argument("--btf", metavar="FILE", action="append", default=[], help=help)

    def add_programs(self, what: str = "program") -> None:
        """Add ``--program NAME``."""
        text = f"only this {what}; may be repeated"
        self.add_argument("--program", metavar="NAME", action="append", default=[], help=text)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise UsageError(f"{message}; see {self.prog} --help")

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments.

        Raises:
            UsageError: They make no sense.
        """
        # Intermixed: words may follow options, as in "disasm OBJ --btf FILE PROG".
        options, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            option = unknown[0].partition("=")[0]
            close = did_you_mean(option, self._option_string_actions)
            raise UsageError(f"unknown argument {option!r}{close or f'; see {self.prog} --help'}")
        return options


_asked: list[Parser] | None = None


def parser_of(run: Callable[[Sequence[str]], int], *words: str) -> Parser | None:
    """Return the parser that a command reads its arguments with: its ``--help`` as data.

    Completion, the manual page and tests are made from it.

    Args:
        run: The command's ``run``.
        words: What comes before the options, for commands that have commands of their own.
    """
    global _asked
    found: list[Parser] = []
    before, _asked = _asked, found
    try:
        run([*words, "--help"])
    except SystemExit:  # argparse, after it would have printed
        pass
    finally:
        _asked = before
    return found[0] if found else None


def _needs(command: str) -> str:
    name = command.partition(" ")[0]
    return next((NEEDS[group] for group, has in GROUPS.items() if name in has), NEEDS["live"])


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


def draws_unicode(*, ascii_only: bool = False) -> bool:
    """Whether drawings on standard output may use more than ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or ""
    return not ascii_only and encoding.lower().startswith("utf")


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document on standard output."""
    import json

    json.dump(document, sys.stdout, indent=indent, allow_nan=False)
    sys.stdout.write("\n")


def seconds(text: str) -> float:
    """Read a time in seconds, for ``type=`` of an argument."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds")
    return number


def count(text: str) -> int:
    """Read how often or how many, 1 to what 32 bits hold, for ``type=`` of an argument."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no count, 1 to {(1 << 32) - 1}")
    return int(text)
