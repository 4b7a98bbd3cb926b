"""``pybpfload iter``: iterator programs, which print what the kernel has."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, check_names, open_object
from pybpfload.cli.failure import UsageError, complain, visible
from pybpfload.cli.group import Command, run_group
from pybpfload.cli.live import needs_linux, open_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pybpfload.object.spec import ObjectSpec, ProgramSpec

__all__ = ["COMMANDS", "run"]

_EXAMPLES = """\
examples:
  pybpfload iter run tasks.bpf.o
  pybpfload iter run --pid 1234 files.bpf.o
  pybpfload iter run --map counts --program dump_elements elements.bpf.o

Nothing stays loaded. A pinned iterator is a file: cat /sys/fs/bpf/NAME.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    return run_group("iter", "Iterator programs.", COMMANDS, arguments)


def _run(arguments: Sequence[str]) -> int:
    parser = Parser("iter run", "Run the iterator programs of an object once.", _EXAMPLES)
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_argument(
        "--program", metavar="NAME", action="append", default=[], help="only this; may be repeated"
    )
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--map", metavar="MAP", help="the map that it goes over: id, name or pin")
    one.add_argument("--pid", metavar="PID", type=_number, help="only this process (Linux 6.1)")
    one.add_argument("--tid", metavar="TID", type=_number, help="only this thread (Linux 6.1)")
    one.add_argument("--cgroup", metavar="DIR", help="the control group where it begins")
    options = parser.read(arguments)
    given = {"pid": options.pid, "tid": options.tid, "cgroup": options.cgroup}
    over: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    spec = open_object(options.object)
    _choose(spec, options.program, {*over} | ({"map"} if options.map is not None else set()))
    needs_linux()
    from pybpfload.cli.stream import Output

    output = Output(json_lines=options.json)
    with ExitStack() as stack:
        if options.map is not None:
            from pybpfload.runtime.map import Map

            over["map"] = stack.enter_context(open_named(Map, options.map))
        obj = stack.enter_context(spec.load())
        for program in obj.programs.values():
            for line in program.iter(**over):
                output.iterator_line(program.name, line)
    sys.stdout.flush()
    return 0


def _number(text: str) -> int:
    """Read a number of a process or thread; to the kernel 0 is every one."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise ArgumentTypeError(f"{text!r} is no number of a process or thread")
    return int(text)


def _choose(spec: ObjectSpec, names: Sequence[str], over: set[str]) -> None:
    """Load the iterators that were asked for, or all that go over what was said."""
    check_names(names, spec.programs)
    iterators = {
        name: program
        for name, program in spec.programs.items()
        if program.sec is not None and program.sec.auto == "iter"
    }
    for name in names:
        if name not in iterators:
            raise UsageError(f"program {name} is no iterator; those are: {', '.join(iterators)}")
    if not iterators:
        raise UsageError(f"{visible(spec.path)} has no iterator programs (SEC iter/...)")
    fitting = _fitting(iterators, over) if over or not names else names
    for name in names:
        if name not in fitting:
            raise UsageError(f"program {name} cannot be told --{' or --'.join(sorted(over))}")
        if not over and (option := _needed(iterators[name])):
            raise UsageError(f"program {name} goes over what {option} says")
    chosen = names or fitting
    if not chosen:
        raise UsageError(f"no iterator of {visible(spec.path)} goes over that")
    for name, program in spec.programs.items():
        program.autoload = name in chosen


def _fitting(iterators: Mapping[str, ProgramSpec], over: set[str]) -> list[str]:
    """Iterators that go over what was said, or that need not be told."""
    from pybpfload.runtime.attach.iter import parameter

    if over:
        kinds = {_KINDS.get(option, option) for option in over}
        return [name for name, program in iterators.items() if parameter(program) in kinds]
    for name, program in iterators.items():
        if option := _needed(program):
            complain(f"program {visible(name)} is left out: it goes over what {option} says")
    return [name for name, program in iterators.items() if not _needed(program)]


def _needed(program: ProgramSpec) -> str:
    """The option without which an iterator cannot run, if there is one."""
    from pybpfload.runtime.attach.iter import needs_parameters, parameter

    return _OPTIONS[parameter(program)] if needs_parameters(program) else ""


_KINDS = {"pid": "task", "tid": "task"}
_OPTIONS = {"map": "--map MAP", "cgroup": "--cgroup DIR"}

COMMANDS = {"run": Command(_run, "run those of an object once")}
"""Its commands."""
