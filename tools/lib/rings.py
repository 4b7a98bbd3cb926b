"""tools/test: the jobs there are, which of them this machine can run, and the report."""

from __future__ import annotations

import argparse
import collections
import functools
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import environment
import jobs
from environment import ROOT
from jobs import Job, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

RINGS = {
    "lint": "ruff, types, import contracts",
    "pure": "no privilege, no Linux",
    "fuzz": "damaged files by the thousand, measured",
    "live": "this machine's kernel",
    "differential": "against libbpf, on one scripted kernel",
    "kernel": "kernels in virtual machines",
}
_LINT_IMPORTS = "from importlinter.cli import lint_imports_command as run; run()"
# What cannot be mounted makes the tests that need it be skipped, with the reason.
_MOUNT = """
mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
exec "$@"
"""


_OTHER_PROCESSORS = (
    *("attached", "cpu_hotplug", "handles", "iterators", "kprobes", "objects", "old_kernel"),
    *("routes", "struct_ops_live", "tracepoints", "tracing", "tracing_multi", "uprobe", "usdt"),
    "vm_smoke",
)
"""Of ``tests/kernel``, what runs on arm64 and s390x."""


def main(description: str) -> int:
    """Run the tool; returns its exit status."""
    options = _parser(description).parse_args()
    wanted = options.ring or (["lint", "pure"] if options.quick else list(RINGS))
    # A shell that starts a command in the background has it ignore Ctrl-C, and so its children.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    shutil.rmtree(jobs.RESULTS, ignore_errors=True)
    started = time.monotonic()
    outcomes: list[Outcome] = []
    not_run: dict[str, str] = {}

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        print(_line(outcome), flush=True)
        if outcome.verdict == "FAILED":
            print(_last_lines(outcome.job.log), flush=True)

    side_by_side: list[Job] = []
    alone: list[Job] = []
    for ring in RINGS:
        if ring not in wanted:
            continue
        if reason := _cannot_run(ring):
            not_run[ring] = reason
        elif ring in ("lint", "pure", "fuzz"):
            side_by_side += _jobs(ring, options)
            if options.quick:  # the slowest checks by far; mypy knows nearly all that they know
                slow = ("pyright", "stubs", "docs")
                side_by_side = [job for job in side_by_side if job.name not in slow]
        else:
            alone += _jobs(ring, options)
    # The longest first, so that no processor waits for it at the end.
    side_by_side.sort(key=lambda job: (job.reports is None, job.name != "fuzz"))
    jobs.run_all(side_by_side, at_a_time=os.cpu_count() or 1, done=done)
    jobs.run_all(alone, at_a_time=1, done=done)
    return _report(outcomes, not_run, time.monotonic() - started, options)


def _interrupted(number: int, frame: object) -> None:
    jobs.end_all()
    os._exit(128 + number)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/test",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Rings: " + "; ".join(f"{name} ({text})" for name, text in RINGS.items()),
    )
    parser.add_argument(
        "--quick", action="store_true", help="lint and the pure ring on one Python, within a minute"
    )
    parser.add_argument(
        "--ring", action="append", choices=RINGS, help="only this ring; may be repeated"
    )
    parser.add_argument(
        "--require", action="append", choices=RINGS, default=[], metavar="RING",
        help="fail if this ring is skipped, even if this machine cannot run it",
    )  # fmt: skip
    parser.add_argument("-k", metavar="WORDS", help="only tests that match, as in pytest")
    return parser


def _cannot_run(ring: str) -> str | None:
    """Why this machine cannot run a ring; None if it can."""
    if ring in ("fuzz", "live", "differential"):
        if not sys.platform.startswith("linux"):
            return "needs Linux"
        if ring == "live" and os.geteuid() != 0:
            return "needs root"
    if ring == "kernel":
        missing = [each for each in ("apt-get", "dpkg-deb") if shutil.which(each) is None]
        if missing:
            return f"needs Debian's {' and '.join(missing)}"
    return None


def _jobs(ring: str, options: argparse.Namespace) -> Iterator[Job]:
    if ring == "lint":
        yield from _lint()
        yield _pytest("stubs", ["tests/checkers"], options)
        yield _docs()
    elif ring == "pure":
        yield from _pure(options)
    elif ring == "fuzz":
        yield _pytest("fuzz", ["tests/fuzz"], options)
    elif ring == "live":
        yield _live(options)
    elif ring == "differential":
        # Neither side touches the real kernel, so all processors can be at it.
        spread = ["tests/differential", "-n", str(os.cpu_count() or 1)]
        yield _pytest("differential", spread, options)
    else:
        job = _pytest("kernel", ["tests/kernel", "--kernels=5.10,6.1,6.12,sid"], options)
        job.timeout = 2400
        yield job
        # Their emulation is several times as slow: what can depend on the processor.
        files = [f"tests/kernel/test_{name}.py" for name in _OTHER_PROCESSORS]
        others = ["--kernels=6.12-arm64,6.12-s390x", "--kernel-timeout=1500"]
        job = _pytest("kernel arm64 s390x", [*files, *others], options)
        job.timeout = 2400
        yield job
        # What maps and buffers do differently by age: the oldest and the newest kernel.
        names = ("buffers", "perf_buffers", "user_ringbuf", "map_types")
        files = [f"tests/live/test_{name}.py" for name in names]
        yield _pytest("kernel live", [*files, "--kernels=5.10,sid"], options)
        # What docs/testing-programs.md shows of virtual machines, as users have it.
        yield _pytest("my program", ["examples/test_my_program.py", "-m", "boots"], options)


def _lint() -> Iterator[Job]:
    for name, arguments in {
        "pyright": ["-m", "pyright", "--level", "error"],
        "mypy": ["-m", "mypy"],
        "import contracts": ["-c", _LINT_IMPORTS],
        "ruff check": ["-m", "ruff", "check", "."],
        "ruff format": ["-m", "ruff", "format", "--check", "."],
    }.items():
        yield Job(name, [sys.executable, *arguments])


def _docs() -> Job:
    """The site; its tools have an environment of their own, which other tests do not need."""
    folder = ROOT / ".venv-docs"
    python = str(folder / "bin" / "python")
    job = Job("docs", [python, *environment.SPHINX, "docs", str(jobs.RESULTS / "docs")])
    job.prepare = functools.partial(environment.provide, folder, ["docs"])
    return job


def _pure(options: argparse.Namespace) -> Iterator[Job]:
    own = sys.version_info[:2]
    if options.quick:
        # One Python, so its tests can have all processors.
        spread = ["tests/pure", "-n", str(os.cpu_count() or 1), "--hypothesis-profile=quick"]
        spread += ["-m", "not slow"]
        yield _pytest("pure {}.{}".format(*own), spread, options)
        return
    yield _pytest("pure {}.{}".format(*own), ["tests/pure"], options)
    for interpreter in environment.interpreters():
        if interpreter.version[:2] == own:
            continue
        folder = ROOT / f".venv-{interpreter.short}"
        python = folder / "bin" / "python"
        job = _pytest(f"pure {interpreter.short}", ["tests/pure"], options, python=python)
        job.prepare = functools.partial(environment.provide, folder, ["test"], interpreter)
        yield job


def _live(options: argparse.Namespace) -> Job:
    """Tests on this machine's kernel, with file systems that they need mounted for them alone."""
    job = _pytest("live", ["tests/live", "tests/kernel"], options)
    namespace = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*namespace, "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0:
        job.command = [*namespace, "sh", "-c", _MOUNT, "sh", *job.command]
    return job


def _pytest(
    name: str,
    arguments: list[str],
    options: argparse.Namespace,
    *,
    python: Path = Path(sys.executable),
) -> Job:
    """A run of tests by the Python of a virtual environment."""
    reports = jobs.RESULTS / name.replace(" ", "-")
    command = [str(python), "-m", "pytest", *arguments, f"--junitxml={reports}/report.xml"]
    command += ["-o", "faulthandler_timeout=300"]  # shows where a test hangs
    if options.k:
        command += ["-k", options.k]
    return Job(name, command, reports)


def _line(outcome: Outcome, indent: str = "") -> str:
    counts = (
        f"{outcome.passed:6} passed {outcome.failed:4} failed {outcome.skipped:4} skipped"
        if outcome.job.reports is not None
        else ""
    )
    name = f"{indent}{outcome.name}"
    line = f"{name:<24} {outcome.verdict:<8} {outcome.seconds:6.1f} s  {counts}"
    return line.rstrip()


def _last_lines(log: Path, most: int = 200) -> str:
    lines = log.read_text(errors="replace").splitlines()
    if len(lines) > most:
        lines = [f"... {log.relative_to(ROOT)} has all {len(lines)} lines", *lines[-most:]]
    return "\n".join(f"    {line}" for line in lines)


def _report(
    outcomes: list[Outcome], not_run: dict[str, str], seconds: float, options: argparse.Namespace
) -> int:
    """Print the summary; returns the exit status."""
    print(f"\n{'ring':<24} {'result':<8} {'time':>8}  {'tests':>12}")
    for outcome in outcomes:
        print(_line(outcome))
        for part in outcome.parts:
            print(_line(part, indent="  "))
    for ring, reason in not_run.items():
        print(f"{ring:<24} not run: {reason}")
    _list_skips(outcomes)
    complaints = [
        f"the {outcome.name} ring could run here, but every test of it was skipped"
        for outcome in outcomes
        if outcome.verdict == "skipped" and not options.k
    ]
    complaints += [f"the {ring} ring is required" for ring in options.require if ring in not_run]
    for complaint in complaints:
        print(f"FAILED: {complaint}")
    failed = sum(outcome.failed for outcome in outcomes) + len(complaints)
    passed = sum(outcome.passed for outcome in outcomes)
    skipped = sum(outcome.skipped for outcome in outcomes)
    print(f"\n{seconds:.0f} seconds in all")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


def _list_skips(outcomes: list[Outcome]) -> None:
    reasons: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        for reason, count in outcome.skips.items():
            # What this machine or kernel has instead differs from place to place.
            reasons[reason.partition("; this is ")[0]][outcome.name] += count
    if reasons:
        print("\nskipped:")
    for reason, where in sorted(reasons.items()):
        places = ", ".join(f"{count} in {name}" for name, count in where.items())
        print(f"  {textwrap.shorten(reason, 160)}: {places}")
