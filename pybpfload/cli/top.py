"""``pybpfload top``: how often programs run, and how long that takes."""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import ArgumentTypeError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pybpfload.cli.common import Parser, count, seconds
from pybpfload.cli.live import needs_linux
from pybpfload.cli.table import shorten, table

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Sequence

    from pybpfload.runtime.holders import Holder
    from pybpfload.runtime.stats import ProgramActivity

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload top
  pybpfload top --sort runs --interval 5 --rows 10
  pybpfload top --count 3 --json           # three lines, each a document

While it runs, the kernel counts (BPF_ENABLE_STATS, Linux 5.8), which costs each run of each
program some tens of nanoseconds. Before 5.8 let it count always: sysctl kernel.bpf_stats_enabled=1.
"""

_SORT: dict[str, Callable[[ProgramActivity], Any]] = {
    "time": lambda each: -each.cpu,
    "runs": lambda each: -each.runs_per_second,
    "average": lambda each: -each.average_ns,
    "misses": lambda each: -each.misses,
    "total": lambda each: -each.total_runs,
    "name": lambda each: each.name,
    "id": lambda each: each.id,
}
"""Orders; programs that are alike in them are in that of their ids."""

_SHORTEST = 0.01  # seconds

_COLUMNS = ("ID", "TYPE", "NAME", "RUNS/S", "CPU %", "AVG NS", "RUNS", "MISSES", "HELD BY")

# Control sequences of xterm, which all terminals of today know.
_OTHER_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[?7l"  # no cursor, long lines are cut
_BACK = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _END_LINE, _END_SCREEN = "\x1b[H", "\x1b[K\n", "\x1b[J"


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("top", "Show how often programs run and how long that takes.", _EXAMPLES)
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_interval, default=1.0, help="time between two looks"
    )
    parser.add_argument("--count", metavar="N", type=count, help="end after so many intervals")
    parser.add_argument(
        "--sort",
        metavar="KEY",
        choices=_SORT,
        default="time",
        help=f"order: {', '.join(_SORT)}; most first, by time if not said",
    )
    parser.add_argument("-n", "--rows", metavar="N", type=count, help="show so many at most")
    options = parser.read(arguments)
    needs_linux()
    from pybpfload.cli.stream import Stop
    from pybpfload.runtime.stats import ProgramStats

    left = options.count
    with Stop(None) as stop, ProgramStats() as stats, _output(options) as show:
        while left != 0 and stop.sleep(options.interval):
            show(sorted(stats.sample(), key=_SORT[options.sort]))
            left = None if left is None else left - 1
    return 0


@contextmanager
def _output(options: Namespace) -> Iterator[Callable[[list[ProgramActivity]], None]]:
    """What shows the programs of an interval: as a document, as text, or on the whole screen."""
    holders, most = _Holders(), options.rows
    if options.json:
        from pybpfload.cli.stream import Output

        output = Output(json_lines=True)
        yield lambda found: output.document(_document(found[:most], holders))
    elif not _is_terminal():
        yield lambda found: print(*_lines(found, most, holders), "", sep="\n", flush=True)
    else:
        with _screen() as draw:
            yield lambda found: draw(_lines(found, most, holders))


class _Holders:
    """Processes that have programs open, looked up again whenever a program is new."""

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._found: dict[tuple[str, int], list[Holder]] = {}

    def of(self, number: int) -> list[Holder]:
        from pybpfload.runtime.holders import holders

        if number not in self._asked:
            self._asked.add(number)
            self._found = holders()
        return self._found.get(("prog", number), [])


def _document(found: Sequence[ProgramActivity], holders: _Holders) -> dict[str, Any]:
    """An interval; totals have the keys of ``bpftool -j prog show``."""
    programs = [
        {
            "id": each.id,
            "type": each.type.name.lower(),
            "name": each.name,
            "tag": each.tag,
            "seconds": each.seconds,
            "runs": each.runs,
            "run_ns": each.run_ns,
            "misses": each.misses,
            "runs_per_second": each.runs_per_second,
            "cpu": each.cpu,
            "average_ns": each.average_ns,
            "run_cnt": each.total_runs,
            "run_time_ns": each.total_run_ns,
            "recursion_misses": each.total_misses,
            "pids": [holder._asdict() for holder in holders.of(each.id)],
        }
        for each in found
    ]
    return {"time": time.time(), "programs": programs}


def _lines(found: Sequence[ProgramActivity], most: int | None, holders: _Holders) -> list[str]:
    runs, cpu = sum(each.runs_per_second for each in found), sum(each.cpu for each in found)
    active = sum(bool(each.runs) for each in found)
    programs = f"{len(found)} program{'s' * (len(found) != 1)}, {active} ran"
    heading = f"{time.strftime('%H:%M:%S')}  {programs}: {runs:.0f} runs/s, {cpu:.2%} of one CPU"
    rows = [
        (
            each.id,
            each.type.name.lower(),
            each.name,
            round(each.runs_per_second),
            100 * each.cpu,
            round(each.average_ns),
            each.total_runs,
            each.total_misses,
            shorten(", ".join(f"{comm} ({pid})" for pid, comm in holders.of(each.id))),
        )
        for each in found[:most]
    ]
    return [heading, *table(_COLUMNS, rows)]


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def _screen() -> Iterator[Callable[[Sequence[str]], None]]:
    """Draw over what was drawn before, on a screen of its own; the last of it stays to be read."""
    last: Sequence[str] = ()

    def draw(lines: Sequence[str]) -> None:
        nonlocal last
        last = lines[: shutil.get_terminal_size().lines - 1]
        # In one piece, and nothing is erased that is not written anew: that would flicker.
        sys.stdout.write(_HOME + "".join(line + _END_LINE for line in last) + _END_SCREEN)
        sys.stdout.flush()

    sys.stdout.write(_OTHER_SCREEN)
    try:
        yield draw
    finally:
        sys.stdout.write(_BACK + "".join(f"{line}\n" for line in last))
        sys.stdout.flush()


def _interval(text: str) -> float:
    time = seconds(text)
    if time < _SHORTEST:
        raise ArgumentTypeError(f"{text!r} is too short, the shortest is {_SHORTEST} seconds")
    return time
