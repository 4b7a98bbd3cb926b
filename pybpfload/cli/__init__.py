"""The command ``pybpfload``: one module per command, imported when that command is used.

``docs/command-line.md`` is the manual. What a command prints for programs goes to standard output,
and nothing else does; notices and errors go to standard error, an error in one line.
"""

from __future__ import annotations

import os
import sys

from pybpfload.cli.style import WHEN, chosen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

__all__ = ["COMMANDS", "GROUPS", "NEEDS", "help_text", "main", "module_of"]

GROUPS = {
    "offline": {
        "inspect": "show what is in an object: programs, maps, variables, BTF",
        "relocate": "show the final instructions and every CO-RE decision",
        "disasm": "show the code with C source, names, arrows, CO-RE; control flow",
        "btf": "types of kernels, modules, objects: C header, layouts, search, differences",
        "core": "explain each CO-RE relocation on a kernel",
        "check": "tell whether objects will load on kernels",
        "log": "explain why the verifier refused a program",
        "gen": "make a file from an object: stubs for editors and type checkers",
        "shell": "open a Python prompt with an object and its types",
        "completion": "print completion for bash, zsh or fish, or the manual page",
    },
    "live": {
        "run": "load an object, attach its programs, print their events until Ctrl-C",
        "features": "show what this kernel can do with BPF",
        "probes": "show where programs can be attached",
        "prog": "list, show, dump, pin programs of the running kernel",
        "map": "list and show maps of the running kernel; read, write, watch elements",
        "link": "list, show, detach, pin attachments of the running kernel",
        "top": "show how often programs run and how long that takes, live",
        "doctor": "tell what is in the way of loading, with remedies",
        "net": "list and detach programs of network devices",
        "cgroup": "list and detach programs of control groups",
        "iter": "run the iterator programs of an object",
        "test-run": "run a loaded program on given packets",
        "trace": "show what programs print",
    },
}
"""Commands and what they do, by where they work."""

NEEDS = {
    "offline": "no kernel, no privileges; works on any operating system",
    "live": "Linux; root, or capabilities, for most of it",
}
"""What the commands of a group need; their help says so."""

COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
"""Commands and what they do; each is a module of this package with ``run(arguments)``."""

_HELP = """\
usage: pybpfload COMMAND [options] [OBJ]
       pybpfload COMMAND --help

Open, inspect, relocate and run BPF objects that clang built.

{commands}

options, before or after the command:
  -h, --help     show this help; after a command, that of the command
  -V, --version  show the version
  -v, --verbose  say more: the verifier's log, what failed on the way; live: every system call
  --json         print JSON for programs instead of text for people
  --color WHEN   colour: auto (on a terminal, unless NO_COLOR is set), always, never

examples:
  pybpfload inspect tracer.bpf.o
  pybpfload relocate --btf vmlinux-6.1 tracer.bpf.o
  pybpfload run --set target_pid=1234 --duration 10 --json tracer.bpf.o

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not permitted, 4 not supported by
this kernel, 130 interrupted.
"""

_BEFORE_COMMAND = frozenset({"-v", "--verbose", "--json"})


def help_text() -> str:
    """The help of the program: its commands, by where they work."""
    width = max(len(name) for name in COMMANDS)  # "map" is a command's module here
    groups = (
        "\n".join(
            [
                f"{group} ({NEEDS[group]}):",
                *(f"  {name:{width}}  {text}" for name, text in commands.items()),
            ]
        )
        for group, commands in GROUPS.items()
    )
    return _HELP.format(commands="\n\n".join(groups))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the name of the program; those of the process by default.

    Returns:
        The exit status: 0 done, 1 failed, 2 wrong usage, 3 not permitted, 4 not supported by this
        kernel, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-: what is said there goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))
    with chosen(_color(arguments)):
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    # Names from files may be of any alphabet, which the terminal's encoding need not have.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    try:
        try:
            return _dispatch(arguments)
        finally:
            sys.stdout.flush()
    except SystemExit as stop:  # argparse, after --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # Whoever reads has had enough. Python flushes once more at its end: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from pybpfload.cli.failure import report

        status = report(error, verbose=_is_verbose(arguments))
        if status is None:
            raise
        return status


def _is_verbose(arguments: list[str]) -> bool:
    return "-v" in arguments or "--verbose" in arguments


def _color(arguments: list[str]) -> str:
    """Find ``--color WHEN`` and make it one word, which may stand anywhere.

    What it is has to be known before any command reads its arguments, because errors have colour.
    """
    when = "auto"
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = arguments[:end]
    while "--color" in words[:-1]:
        at = words.index("--color")
        words[at : at + 2] = [f"--color={words[at + 1]}"]
    arguments[:end] = words
    asked = [word for word in words if word.startswith("--color=")]
    when = asked[-1].partition("=")[2] if asked else "auto"
    return when if when in WHEN else "auto"


def _dispatch(arguments: list[str]) -> int:
    early: list[str] = []
    while arguments and (arguments[0] in _BEFORE_COMMAND or arguments[0].startswith("--color=")):
        early.append(arguments.pop(0))
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    command = arguments.pop(0)
    if command in ("-V", "--version"):
        from pybpfload import __version__

        print(f"pybpfload {__version__}")
        return 0
    if command not in COMMANDS:
        from pybpfload.cli.failure import UsageError, did_you_mean

        what = "option" if command.startswith("-") else "command"
        close = did_you_mean(command, COMMANDS)
        raise UsageError(f"unknown {what} {command!r}{close or '; see pybpfload --help'}")
    words = [*early, *arguments]
    run = module_of(command).run
    if command in GROUPS["live"] and _is_verbose(words):
        from pybpfload.cli.watched import watched

        with watched():
            status: int = run(words)
    else:
        status = run(words)
    return status


def module_of(command: str) -> Any:
    """Import the module of a command."""
    from importlib import import_module

    return import_module(f"{__name__}.{command.replace('-', '_')}")
