"""A test suite on several kernels: one virtual machine each, and a table of what passed where.

This is what `pytest --kernels` and tools/test-kernels do. In each machine pytest runs once; the
plugin (`pybpfload.testing.plugin`) reports every test from there as it happens, so that it is known
which test a kernel died of.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pybpfload.testing.vm.cache import VirtualMachineError
from pybpfload.testing.vm.kernels import KERNELS, find
from pybpfload.testing.vm.machine import Result, VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SIGNS = {
    "passed": "pass",
    "failed": "FAIL",
    "error": "ERROR",
    "skipped": "skip",
    "xfailed": "xfail",
    "xpassed": "XPASS",
    "died": "DIED",
    "not run": "-",
}
_BAD = {"failed", "error", "died", "not run"}


@dataclasses.dataclass
class TestOutcome:
    """What became of one test on one kernel.

    Attributes:
        outcome: pytest's word: `"passed"`, `"failed"`, `"error"`, `"skipped"`, `"xfailed"`,
            `"xpassed"`; or `"died"`: the kernel or its time was over during it; or `"not run"`
            after that.
        seconds: How long it took.
        detail: Why it failed or was skipped.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    outcome: str
    seconds: float = 0.0
    detail: str = ""


@dataclasses.dataclass
class KernelRun:
    """What became of a test suite on one kernel.

    Attributes:
        kernel: The kernel's name.
        tests: Outcomes by pytest's node id, in the order in which they came.
        problem: Why the run as a whole is no good; empty if it is.
        result: How the machine ended; `None` if there was none.
    """

    kernel: str
    tests: dict[str, TestOutcome] = dataclasses.field(default_factory=dict)
    problem: str = ""
    result: Result | None = None

    @property
    def title(self) -> str:
        """The kernel's name, with its version where that is not the same."""
        return f"{self.kernel} ({self.result.release})" if self.result else self.kernel

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not self.problem and not any(test.outcome in _BAD for test in self.tests.values())

    def count(self) -> collections.Counter[str]:
        """How many tests had each outcome."""
        return collections.Counter(test.outcome for test in self.tests.values())


def main(
    names: Sequence[str],
    arguments: Sequence[str],
    *,
    jobs: int = 2,
    timeout: float = 900,
    junit: str | Path | None = None,
    folder: Path | None = None,
) -> int:
    """Run pytest on kernels and print what came of it.

    Args:
        names: Names of kernels.
        arguments: pytest's. If they select no marks, those tests are run that are marked `vm`.
        jobs: How many machines run at a time.
        timeout: Seconds for each.
        junit: A file for all results in JUnit's XML format, the kernels being its test suites.
        folder: The working directory.

    Returns:
        An exit status as pytest's: 0 if nothing failed, 1 if something did.
    """
    start = time.monotonic()
    runs = run_tests(names, arguments, jobs=jobs, timeout=timeout, folder=folder, on_end=_print_run)
    print()
    print(table(runs))
    print()
    print(details(runs))
    if junit is not None:
        path = Path(junit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(junit_xml(runs))
    counts = sum((run.count() for run in runs), collections.Counter[str]())
    problems = sum(bool(run.problem) for run in runs)
    failed = sum(counts[outcome] for outcome in _BAD) + problems
    passed = counts["passed"] + counts["xfailed"] + counts["xpassed"]
    print(f"{time.monotonic() - start:.0f} seconds for {len(runs)} kernels")
    print(f"{passed} passed, {failed} failed, {counts['skipped']} skipped")
    return 1 if failed else 0


def run_tests(
    names: Sequence[str],
    arguments: Sequence[str],
    *,
    jobs: int = 2,
    timeout: float = 900,
    folder: Path | None = None,
    on_end: Any = None,
) -> list[KernelRun]:
    """Run pytest on kernels.

    Args:
        names: Names of kernels.
        arguments: pytest's. If they select no marks, those tests are run that are marked `vm`.
        jobs: How many machines run at a time.
        timeout: Seconds for each.
        folder: The working directory.
        on_end: Called with each `KernelRun` as it is complete.

    Returns:
        A run for each name, in the same order.

    Raises:
        VirtualMachineError: There is no such kernel.
    """
    for name in names:
        find(name)
    words = ["python3", "-m", "pytest", "-p", "pybpfload.testing.plugin", "-p", "no:cacheprovider"]
    words += ["--color=no", *arguments]
    if not any(word == "-m" or word.startswith("-m=") for word in arguments):
        words += ["-m", "vm"]
    lock = threading.Lock()

    def one(name: str) -> KernelRun:
        run = _run_one(name, words, timeout, folder)
        if on_end is not None:
            with lock:
                on_end(run)
        return run

    if jobs == 1 or len(names) == 1:
        return [one(name) for name in names]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, name) for name in names]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            # Threads cannot be interrupted, but the machines end with this process.
            os._exit(130)


def _run_one(name: str, words: Sequence[str], timeout: float, folder: Path | None) -> KernelRun:
    run = KernelRun(name)
    try:
        run.result = VirtualMachine(name).run(words, folder=folder, timeout=timeout)
    except VirtualMachineError as error:
        run.problem = str(error)
        return run
    return read_events(run, run.result.events)


def read_events(run: KernelRun, events: Iterable[str]) -> KernelRun:
    """Fill in what the plugin reported from a guest, and judge the run as a whole.

    Args:
        run: A run with its `result`.
        events: Lines as the plugin's `_Reporter` writes them; the last may be cut off.

    Returns:
        `run`.
    """
    collected: list[str] = []
    started = ""
    for line in events:
        try:
            event: Mapping[str, Any] = json.loads(line)
        except ValueError:  # the guest died while it wrote this
            continue
        if "collected" in event:
            collected = event["collected"]
        elif "started" in event:
            started = event["started"]
        elif "test" in event:
            _take_outcome(run, event)
    result = run.result
    assert result is not None
    if result.outcome != "exited":
        run.problem = result.explain()
        if started and started not in run.tests:
            run.tests[started] = TestOutcome("died", detail=run.problem.partition("\n")[0])
    elif result.status not in (0, 1):
        said = (result.stdout + result.stderr).decode(errors="replace").strip().splitlines()
        meaning = {5: "no test ran"}.get(result.status or 0, f"pytest: exit status {result.status}")
        run.problem = "\n".join([meaning, *(f"  | {line}" for line in said[-30:])])
    for test in collected:
        run.tests.setdefault(test, TestOutcome("not run"))
    return run


def _take_outcome(run: KernelRun, event: Mapping[str, Any]) -> None:
    """Note one result: a test may have several, when what follows it fails too."""
    new = TestOutcome(event["outcome"], event["seconds"], event["detail"])
    old = run.tests.get(event["test"])
    if old is not None and old.outcome in _BAD:
        new = dataclasses.replace(old, detail=f"{old.detail}\n\n{new.detail}")
    run.tests[event["test"]] = new


def table(runs: Sequence[KernelRun]) -> str:
    """Tests down, kernels across."""
    tests = list(dict.fromkeys(test for run in runs for test in run.tests))
    width = max([len(test) for test in tests] + [6])
    columns = [max(len(run.kernel), 5) for run in runs]
    lines = [
        f"{'':<{width}}  " + "  ".join(f"{run.kernel:<{columns[i]}}" for i, run in enumerate(runs))
    ]
    for test in tests:
        cells = []
        for i, run in enumerate(runs):
            outcome = run.tests.get(test)
            sign = _SIGNS.get(outcome.outcome, outcome.outcome) if outcome else ""
            cells.append(f"{sign:<{columns[i]}}")
        lines.append(f"{test:<{width}}  " + "  ".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def details(runs: Sequence[KernelRun]) -> str:
    """Why tests were skipped, why they failed, what was wrong with whole runs."""
    lines = []
    skipped: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for name, test in run.tests.items():
            if test.outcome in ("skipped", "xfailed"):
                skipped.setdefault((name, _without_release(test.detail, run)), []).append(
                    run.kernel
                )
    for (name, reason), kernels in skipped.items():
        lines.append(f"skipped {name} on {', '.join(kernels)}: {reason}")
    for run in runs:
        for name, test in run.tests.items():
            if test.outcome in _BAD - {"not run"}:
                lines += ["", f"{test.outcome.upper()} on {run.title}: {name}", test.detail]
        if run.problem:
            lines += ["", f"PROBLEM on {run.title}: {run.problem}"]
        elif run.result is not None and run.result.trouble:
            lines += ["", f"the kernel complained on {run.title}:", *run.result.trouble]
    return "\n".join(lines)


def _without_release(reason: str, run: KernelRun) -> str:
    """A reason for skipping that is the same on kernels that it says of what version they are."""
    release = run.result.release if run.result else run.kernel
    return reason.replace(f"; this is {release}", "")


def junit_xml(runs: Sequence[KernelRun]) -> bytes:
    """All results in JUnit's XML format: each kernel is a test suite."""
    top = ElementTree.Element("testsuites")
    for run in runs:
        counts = run.count()
        suite = ElementTree.SubElement(
            top,
            "testsuite",
            name=run.kernel,
            tests=str(len(run.tests)),
            failures=str(counts["failed"] + counts["died"] + counts["not run"]),
            errors=str(counts["error"] + bool(run.problem)),
            skipped=str(counts["skipped"] + counts["xfailed"]),
            time=f"{run.result.seconds if run.result else 0:.1f}",
        )
        for name, test in run.tests.items():
            place, _, short = name.partition("::")
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=place.removesuffix(".py").replace("/", "."),
                name=short or place,
                time=f"{test.seconds:.3f}",
            )
            kind = {"error": "error", "skipped": "skipped", "xfailed": "skipped"}.get(test.outcome)
            if test.outcome in _BAD:
                kind = kind or "failure"
            if kind is not None:
                message = _printable(test.detail.partition("\n")[0] or test.outcome)
                ElementTree.SubElement(case, kind, message=message).text = _printable(test.detail)
        if run.problem:
            case = ElementTree.SubElement(suite, "testcase", classname="kernel", name=run.kernel)
            message = _printable(run.problem.partition("\n")[0])
            ElementTree.SubElement(case, "error", message=message).text = _printable(run.problem)
    return bytes(ElementTree.tostring(top, encoding="utf-8", xml_declaration=True))


def kernel_names(text: str) -> list[str]:
    """The kernels that an argument names: `"5.10,6.1"`, or `"all"` that can be booted."""
    if text == "all":
        return [name for name, kernel in KERNELS.items() if kernel.bootable]
    return [name for name in text.split(",") if name]


def without_options(arguments: Iterable[str], *options: str) -> list[str]:
    """Arguments without some options and their values, given as one word or as two."""
    kept = []
    words = iter(arguments)
    for word in words:
        if word in options:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


def _print_run(run: KernelRun) -> None:
    counts = run.count()
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    time_said = (
        f" [boot {run.result.boot_seconds or 0:.1f} s, {run.result.seconds:.1f} s]"
        if run.result
        else ""
    )
    mark = "" if run.good else "  FAILED"
    print(f"{run.title}: {said or 'no tests'}{time_said}{mark}")
    sys.stdout.flush()


def _printable(text: str) -> str:
    """Text without the characters that XML cannot have."""
    return "".join(
        char if char in "\t\n" or char >= " " else "\N{REPLACEMENT CHARACTER}" for char in text
    )
