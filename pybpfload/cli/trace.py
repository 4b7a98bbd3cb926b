"""``pybpfload trace``: what programs print."""

from __future__ import annotations

import select
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, seconds
from pybpfload.cli.live import needs_linux, one_word, open_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.cli.stream import Output, Stop

__all__ = ["run"]

_EXAMPLES = """\
PROG is an id, a name, tag:HEX, or the path of a pin.

examples:
  pybpfload trace                          # bpf_printk() of all programs
  pybpfload trace --duration 10 --json
  pybpfload trace on_exec                  # its streams: bpf_stream_printk(), and what went wrong

Lines of bpf_printk() have one reader at a time, who takes them from all others; so do streams.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("trace", "Show what programs print, until Ctrl-C.", _EXAMPLES)
    parser.add_argument(
        "programs", metavar="PROG", nargs="*", help="the streams of this program (Linux 6.17)"
    )
    parser.add_argument("--duration", metavar="SECONDS", type=seconds, help="stop after this time")
    parser.add_argument("--all", action="store_true", help="other lines of the trace buffer, too")
    options = parser.read(one_word(arguments))
    needs_linux()
    from pybpfload.cli.stream import Output, Stop

    output = Output(json_lines=options.json)
    with Stop(options.duration) as stop:
        if options.programs:
            _streams(options.programs, stop, output)
        else:
            _printk(stop, output, only_bpf=not options.all)
    return 0


def _printk(stop: Stop, output: Output, *, only_bpf: bool) -> None:
    from pybpfload.runtime.trace import trace_pipe

    with trace_pipe(only_bpf=only_bpf) as lines:
        poll = select.poll()
        poll.register(lines.fileno(), select.POLLIN)
        stop.start()
        while not stop.requested:
            poll.poll(stop.wait * 1000)
            for line in lines.read_lines():
                output.printk(line)
            sys.stdout.flush()


def _streams(names: Sequence[str], stop: Stop, output: Output) -> None:
    from pybpfload.runtime.program import Program

    with ExitStack() as stack:
        programs = [stack.enter_context(open_named(Program, name)) for name in names]
        stop.start()
        while True:
            for program in programs:
                for which in ("stdout", "stderr"):
                    for line in program.read_stream(which).splitlines():
                        output.stream_line(program.name, which, line)
            sys.stdout.flush()
            if stop.requested:
                return
            time.sleep(stop.wait)
