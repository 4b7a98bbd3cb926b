"""``pybpfload run``: load an object, attach its programs, print what they send, until Ctrl-C."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, check_names, open_object, seconds
from pybpfload.cli.failure import UsageError, complain, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.object.spec import ObjectSpec
    from pybpfload.runtime.object import Object
    from pybpfload.runtime.program import Program

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload run tracer.bpf.o
  pybpfload run --set target_pid=1234 --set config.verbose=true tracer.bpf.o
  pybpfload run --json --duration 10 tracer.bpf.o | jq 'select(.map == "events") | .event'
  pybpfload run --program dump_task iterators.bpf.o

Values are read by the variable's type: 10, 0xff, true, an enumerator's name, text, or
a,b,c for an array. What is printed: events of ring and perf buffers, lines of iterator
programs, and bpf_printk() lines if the object prints any; with -v also the last values
of variables. Ctrl-C (or SIGTERM) detaches everything and ends with status 0; a second
Ctrl-C waits for nothing.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("run", "Load an object, attach its programs, print their events.", _EXAMPLES)
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="initial value of a global variable; may be repeated",
    )
    parser.add_programs("program, also one of a '?' section")
    parser.add_argument("--duration", metavar="SECONDS", type=seconds, help="stop after this time")
    parser.add_argument("--btf", metavar="FILE", help="BTF of the kernel, if it shows none")
    options = parser.read(arguments)
    spec = open_object(options.object)
    _choose(spec, options.program)
    if options.set:
        from pybpfload.cli.assign import set_variable

        for setting in options.set:
            set_variable(spec, setting)
    if not sys.platform.startswith("linux"):
        from pybpfload.errors import NotSupportedError

        raise NotSupportedError(
            f"loading needs Linux, and this is {sys.platform}; inspect and relocate work everywhere"
        )

    from pybpfload.cli.stream import Output, Stop, Stream

    output = Output(json_lines=options.json)
    with Stop(options.duration) as stop, spec.load(btf=options.btf) as obj:
        if options.verbose:
            for note in obj.notes:
                complain(f"note: {note}")
        if stop.requested:
            complain("stopped before anything was attached")
            return 0
        with Stream(spec, obj, output) as stream:
            # Buffers are open before the first program runs, so that no event is lost.
            attached, iterators, status = _attach(obj, verbose=options.verbose)
            if status:
                return status
            stop.start()
            for program in iterators:
                stream.run_iterator(program, stop)
            if attached:
                until = "" if options.duration is None else f" or {options.duration:g} s are over"
                plural = "s" if attached > 1 else ""
                complain(f"{obj.name}: {attached} program{plural} attached, until Ctrl-C{until}")
                stream.run(stop)
                for link in obj.links:
                    link.close()
                stream.finish()
            complain(stream.summary())
            if options.verbose:
                _show_variables(obj)
    return 0


def _choose(spec: ObjectSpec, names: list[str]) -> None:
    """Load the programs that were asked for, or else those of the object that are on."""
    check_names(names, spec.programs)
    if names:
        for name, program in spec.programs.items():
            program.autoload = name in names
    if not any(program.autoload for program in spec.programs.values()):
        if not spec.programs:
            raise UsageError(f"{spec.path} has no programs")
        raise UsageError(
            f"{spec.path}: all programs are in '?' sections, which are loaded on demand only; "
            f"choose with --program: {', '.join(spec.programs)}"
        )


def _attach(obj: Object, *, verbose: bool) -> tuple[int, list[Program], int]:
    """Attach what can be attached by its section name.

    Returns:
        The number of programs attached, the iterators to run, and the exit status: not 0 when a
        program could not be attached.
    """
    from pybpfload.errors import BpfError
    from pybpfload.runtime.attach import left_alone

    attached = status = 0
    iterators = []
    for program in obj.programs.values():
        spec = program.spec
        if reason := left_alone(spec):
            complain(f"program {program.name} is loaded, not attached: {reason}")
        elif spec.sec is not None and spec.sec.auto == "iter":
            iterators.append(program)
        else:
            try:
                link = program.attach()
            except BpfError as error:
                # The others are tried too, so that every failure is told.
                status = report(error, verbose=verbose, about=f"program {program.name}") or status
                continue
            attached += 1
            if verbose:
                complain(f"program {program.name} is attached to {link.target}")
    if not attached and not iterators and not status:
        complain(f"no program of {obj.name} says by its section name what to attach it to")
        status = 1
    return attached, iterators, status


def _show_variables(obj: Object) -> None:
    """Print the last values of what the programs may have written."""
    from pybpfload.cli.values import pretty
    from pybpfload.errors import BpfError

    for name, variable in obj.variables.items():
        if not variable.read_only and not name.startswith("__export_"):
            with suppress(BpfError):  # its type has no values
                complain(f"{name} = {pretty(variable.value)}")
