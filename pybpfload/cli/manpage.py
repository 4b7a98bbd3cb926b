"""The manual page ``pybpfload.1``, made from :mod:`pybpfload.cli.synopsis`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pybpfload import __version__
from pybpfload.cli import GROUPS, NEEDS
from pybpfload.cli.synopsis import entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.cli.synopsis import Argument, Entry

__all__ = ["page"]

_COMMON = ("--help", "--json", "--verbose", "--color")

_STATUS = {
    "0": "done; also when Ctrl-C ended run, or the reader of a pipe left",
    "1": "failed: damaged object, relocation or verifier failure, no such file",
    "2": "wrong usage: unknown command, option, program or variable",
    "3": "not permitted: capabilities, lockdown, file permissions",
    "4": "not supported by this kernel, architecture or system",
    "130": "interrupted",
}

_ENVIRONMENT = {
    "NO_COLOR": "No colour if it is set and not empty, unless \\-\\-color says otherwise.",
    "TERM": "No colour if it is dumb.",
    "LIBBPF_BPF_TOKEN_PATH": "BPF filesystem on which a BPF token is made before loading.",
}


def page() -> str:
    """The manual page in roff, with the macros of man(7)."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield f'.TH PYBPFLOAD 1 "" "pybpfload {__version__}" "User Commands"'
    yield ".SH NAME"
    yield "pybpfload \\- open, inspect, relocate, check and run BPF objects"
    yield ".SH SYNOPSIS"
    yield ".B pybpfload"
    yield ".I COMMAND"
    yield "[options] [arguments]"
    yield ".SH DESCRIPTION"
    yield "Libbpf in pure Python. The result goes to standard output and nothing else does;"
    yield "notices and errors go to standard error, each in one line."
    every = list(entries())
    yield ".SH OPTIONS"
    yield "Every command takes these, also before its name."
    for option in every[0].options:
        if set(option.flags) & {*_COMMON}:
            yield from _option(option)
    for group, commands in GROUPS.items():
        yield f".SH {group.upper()} COMMANDS"
        yield f"Needed: {_text(NEEDS[group])}."
        for entry in every:
            if entry.path.partition(" ")[0] in commands:
                yield from _command(entry)
    yield ".SH EXIT STATUS"
    for status, meaning in _STATUS.items():
        yield from (".TP", f".B {status}", _text(meaning))
    yield ".SH ENVIRONMENT"
    for name, meaning in _ENVIRONMENT.items():
        yield from (".TP", f".B {name}", meaning)
    yield ".SH SEE ALSO"
    yield ".BR bpf (2),"
    yield ".BR bpftool (8),"
    yield ".BR capabilities (7)"


def _command(entry: Entry) -> Iterator[str]:
    yield f".SS pybpfload {_text(entry.path)}"
    usage = " ".join(entry.parser.format_usage().split()).removeprefix("usage: ")
    yield from (f".B {_text(usage)}", ".PP", _text(entry.parser.description or entry.about))
    for argument in (*entry.operands, *entry.options):
        if not set(argument.flags) & {*_COMMON}:
            yield from _option(argument)
    blocks = re.split(r"\n\s*\n", entry.parser.examples.strip())
    for block in blocks:
        title, _, rest = block.partition("\n")
        if rest and title.endswith(":"):
            yield from (".PP", _text(title), ".RS 2", ".nf")
            yield from (_text(line.removeprefix("  ")) for line in rest.splitlines())
            yield from (".fi", ".RE")
        else:
            yield from (".PP", *map(_text, block.splitlines()))


def _option(argument: Argument) -> Iterator[str]:
    flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
    value = f"\\fI{_text(argument.metavar)}\\fR" if argument.metavar else ""
    about = argument.about
    if not all(word in about for word in argument.words):
        about += f" ({', '.join(argument.words)})"
    yield from (".TP", f"{flags} {value}".strip(), _text(about))


def _text(text: str) -> str:
    """Escape what roff would obey."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text
