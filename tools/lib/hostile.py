"""tools/fuzz: a bounded, seeded run of damaged files, each measured.

    python hostile.py TARGET SEED FIRST END MEGABYTES    the worker: what run() starts

The worker reads one damaged file after another and prints a line of JSON for each. Its address
space is limited, and a case that does not come back in time is interrupted, so that neither takes
the machine along; a worker that dies is replaced behind the case that it died of.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pybpfload.testing.mutate import Mutation

__all__ = ["MEGABYTES", "SECONDS", "Summary", "made", "measured", "problem", "run"]

SECONDS = 2.0
"""Most processor time of one case."""
MEGABYTES = 200
"""Most memory of one case, beyond what was in use before it."""

_PATIENCE = 60.0  # seconds of wall time for one case; a worker is then ended
_TRIES = 3  # a machine with other work makes slow; what is slow each time is slow


@dataclass
class Summary:
    """What came of a run.

    Attributes:
        target: Name of the target.
        cases: How many were run.
        seconds: Processor time of all.
        slowest: Seconds of the slowest case, and its number.
        largest: Megabytes of the largest case, and its number.
        findings: What is wrong, with the command that shows it again.
    """

    target: str
    cases: int = 0
    seconds: float = 0.0
    slowest: tuple[float, int] = (0.0, 0)
    largest: tuple[float, int] = (0.0, 0)
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.target:12} {self.cases:6} cases {self.seconds:6.1f} s; "
            f"slowest {self.slowest[0] * 1000:5.0f} ms (case {self.slowest[1]}), "
            f"largest {self.largest[0]:5.1f} MB (case {self.largest[1]}), "
            f"{len(self.findings)} findings"
        )


def made(target: str, seed: int, case: int) -> Mutation:
    """The damaged file of a case: the same one for the same numbers, everywhere."""
    from fuzz_targets import TARGETS

    from pybpfload.testing.mutate import mutate

    seeds = TARGETS[target].seeds()
    draw = random.Random(f"{seed}:{target}:{case}")
    return mutate(draw.choice(seeds), draw, others=seeds)


def run(target: str, seed: int, cases: int) -> Summary:
    """Read damaged files and measure.

    Args:
        target: Name of a target.
        seed: Of the damage.
        cases: How many files.
    """
    summary = Summary(target)
    while summary.cases < cases:
        done = 0
        for answer in _worker(target, seed, summary.cases, cases):
            case = summary.cases
            summary.cases, done = summary.cases + 1, done + 1
            summary.seconds += answer["seconds"]
            summary.slowest = max(summary.slowest, (answer["seconds"], case))
            summary.largest = max(summary.largest, (answer["megabytes"], case))
            if found := problem(answer):
                summary.findings.append(f"{found}\n    {_command(target, seed, case)}")
        if summary.cases < cases:
            command = _command(target, seed, summary.cases)
            summary.findings.append(f"the process died, or did not answer in time\n    {command}")
            summary.cases += 1
    return summary


def _command(target: str, seed: int, case: int) -> str:
    return f"tools/fuzz {target} --seed {seed} --case {case}"


def problem(answer: dict) -> str:
    """What is wrong with an answer of :func:`measured`; empty if nothing is."""
    if answer["problem"]:
        return answer["problem"]
    if answer["seconds"] > SECONDS:
        return f"it took {answer['seconds']:.1f} s, more than {SECONDS:.0f}"
    if answer["megabytes"] > MEGABYTES:
        return f"it took {answer['megabytes']:.0f} MB, more than {MEGABYTES}"
    return ""


def _worker(target: str, seed: int, first: int, end: int) -> Iterator[dict]:
    """The answers of a worker, until it is done or dies."""
    numbers = map(str, (seed, first, end, 2 * MEGABYTES))
    command = [sys.executable, __file__, target, *numbers]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for line in worker.stdout:
            yield json.loads(line)


# The worker


class TooSlow(BaseException):  # not an Exception, which code under test may catch
    """A case takes far longer than it may."""


def _work(target: str, seed: int, first: int, end: int, megabytes: int) -> None:
    from fuzz_targets import TARGETS

    wanted = TARGETS[target]
    wanted.run(wanted.seeds()[0])  # imports what it needs
    gc.freeze()
    _limit_memory(megabytes)
    for case in range(first, end):
        faulthandler.dump_traceback_later(_PATIENCE, exit=True)
        data = made(target, seed, case).data
        answer = measured(wanted.run, data)
        for _ in range(_TRIES - 1):
            if answer["problem"] or answer["seconds"] <= SECONDS:
                break
            answer = min(answer, measured(wanted.run, data), key=lambda each: each["seconds"])
        print(json.dumps(answer), flush=True)


def measured(run: Callable[[bytes], None], data: bytes) -> dict:
    """Read a file: seconds, megabytes, and what was raised if it should not have been."""
    before = _reset_peak()
    started = time.process_time()
    raised = trace = ""
    signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_PROF, 5 * SECONDS)
    try:
        run(data)
    except (Exception, TooSlow) as error:
        trace = traceback.format_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        raised = f"{type(error).__name__} at {where}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - started
    megabytes = (_status("VmHWM") - before) / 1024
    return {"problem": raised, "traceback": trace, "seconds": seconds, "megabytes": megabytes}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _limit_memory(megabytes: int) -> None:
    """Let the address space grow by so much and no further."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _reset_peak() -> float:
    """Begin a new peak; returns what is in use, in KiB (proc_pid_clear_refs(5))."""
    with contextlib.suppress(OSError):  # else the peak is that of all cases so far: never too low
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1])
    raise LookupError(name)


if __name__ == "__main__":
    _work(sys.argv[1], *map(int, sys.argv[2:]))
