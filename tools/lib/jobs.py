"""Jobs of tools/test: a command each, run some at a time, with what came of it counted."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from typing import IO, TYPE_CHECKING

from environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

RESULTS = ROOT / "results"
"""Logs and JUnit reports of the last run."""

_running: set[int] = set()
_NO_TESTS = 5
"""pytest's exit status when it ran no test."""


@dataclasses.dataclass
class Job:
    """A command to run.

    Attributes:
        name: What people call it; unlike that of all others.
        command: The command.
        reports: The folder where it leaves its JUnit files, any number of `*.xml` at any depth;
            None: it is one check, not a run of tests.
        prepare: Called before the command is run.
        timeout: Seconds after which it is ended, and has failed.
    """

    name: str
    command: list[str]
    reports: Path | None = None
    prepare: Callable[[], object] | None = None
    timeout: float = 1200

    @property
    def log(self) -> Path:
        """What the command printed."""
        return RESULTS / (re.sub(r"[^\w.-]+", "-", self.name) + ".log")


@dataclasses.dataclass
class Outcome:
    """What came of a job.

    Attributes:
        passed: Tests that passed.
        failed: Tests that failed, and jobs that ended badly without one.
        skips: For each reason, how many tests were skipped for it.
        seconds: Wall time.
        verdict: `"ok"`, `"FAILED"` or `"skipped"`.
        parts: Where the tests ran in several suites (one for each kernel), what came of each.
    """

    name: str
    job: Job
    passed: int = 0
    failed: int = 0
    skips: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0
    verdict: str = "ok"
    parts: list[Outcome] = dataclasses.field(default_factory=list)

    @property
    def skipped(self) -> int:
        """Tests that were skipped."""
        return self.skips.total()


def run_all(jobs: Iterable[Job], *, at_a_time: int, done: Callable[[Outcome], None]) -> None:
    """Run jobs, in the order given, and tell the outcome of each as soon as it is known."""
    lock = threading.Lock()

    def one(job: Job) -> None:
        outcome = run(job)
        with lock:
            done(outcome)

    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        for future in [pool.submit(one, job) for job in jobs]:
            future.result()


def run(job: Job) -> Outcome:
    """Run one job to its end."""
    started = time.monotonic()
    RESULTS.mkdir(exist_ok=True)
    with job.log.open("wb") as log:
        if job.prepare is not None:
            job.prepare()
        status = _status(job, log)
    outcome = Outcome(job.name, job, seconds=time.monotonic() - started)
    if job.reports is not None:
        suites = [
            suite
            for report in sorted(job.reports.rglob("*.xml"))
            for suite in ET.parse(report).getroot().iter("testsuite")
        ]
        for suite in suites:
            part = _count(suite, job)
            outcome.passed += part.passed
            outcome.failed += part.failed
            outcome.skips += part.skips
            if len(suites) > 1:
                outcome.parts.append(part)
        nothing_ran = outcome.passed + outcome.failed == 0
        if status not in (0, _NO_TESTS) and not outcome.failed:
            outcome.failed = 1
        elif nothing_ran:
            outcome.verdict = "skipped"
    else:
        outcome.passed, outcome.failed = (1, 0) if status == 0 else (0, 1)
    if outcome.failed:
        outcome.verdict = "FAILED"
    return outcome


def _status(job: Job, log: IO[bytes]) -> int:
    """Exit status of the job's command, which is ended with all its children when time is up."""
    process = subprocess.Popen(
        job.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    _running.add(process.pid)
    try:
        return process.wait(job.timeout)
    except subprocess.TimeoutExpired:
        end_all(process.pid)
        log.write(f"\nended: it took more than {job.timeout:.0f} seconds\n".encode())
        return process.wait()
    finally:
        _running.discard(process.pid)


def end_all(*groups: int) -> None:
    """End process groups, all running jobs' if none is named."""
    for group in groups or tuple(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def _count(suite: ET.Element, job: Job) -> Outcome:
    part = Outcome(suite.get("name", ""), job, seconds=float(suite.get("time", 0)))
    for case in suite.iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            part.failed += 1
        elif skip is not None:
            part.skips[skip.get("message") or "no reason given"] += 1
        else:
            part.passed += 1
    if part.failed:
        part.verdict = "FAILED"
    return part
