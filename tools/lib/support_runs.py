"""Test runs that docs/support-matrix.md is made of: a file for each kernel, kept until the next."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from environment import ROOT

from pybpfload.testing.vm import kernels, matrix

HERE = "here"
"""The name for the kernel of this machine."""

_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_LIVE = ("buffers", "perf_buffers", "user_ringbuf")
_DEFINITION = re.compile(r"class (Test\w+)|( *)(?:async )?def (test_\w+)")


@dataclasses.dataclass
class Run:
    """What became of the tests on one kernel.

    Attributes:
        kernel: Its name, as in `pybpfload.testing.vm`; or `HERE`.
        release: As of `uname -r`.
        machine: The architecture, by Debian's name.
        commit: The commit that was tested; with "+" if files were changed since.
        date: When, as YYYY-MM-DD.
        tests: By pytest's node id: outcome, and the reason if it was skipped.
    """

    kernel: str
    release: str
    machine: str
    commit: str
    date: str
    tests: dict[str, tuple[str, str]]

    @property
    def title(self) -> str:
        """The kernel's name, with its version if the name does not tell."""
        version = ".".join(self.release.split(".")[:2])
        return self.kernel if self.kernel.startswith(version) else f"{self.kernel} ({version})"


def tests() -> list[str]:
    """The tests that there are, without their parameters, as pytest's node ids."""
    found = []
    for file in _files():
        scope = ""
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            if named := _DEFINITION.match(line):
                scope = f"{named[1]}::" if named[1] else scope if named[2] else ""
                if named[3]:
                    found.append(f"{file}::{scope}{named[3]}")
    return found


def _files() -> list[str]:
    kernel = sorted((ROOT / "tests" / "kernel").glob("test_*.py"))
    live = [ROOT / "tests" / "live" / f"test_{name}.py" for name in _LIVE]
    # In this order, because the last conftest.py is the one that tests/kernel imports from.
    return [str(each.relative_to(ROOT)) for each in [*live, *kernel]]


def run(kernel: str, words: list[str], timeout: float) -> Run:
    """Run tests on a kernel.

    Args:
        kernel: Its name, or `HERE`.
        words: pytest's arguments: tests.
        timeout: Seconds.

    Raises:
        VirtualMachineError: It cannot be booted, or the run was no good.
    """
    tests = _here(words) if kernel == HERE else _in_a_machine(kernel, words, timeout)
    release, machine = platform.release(), _DEBIAN.get(platform.machine(), platform.machine())
    if kernel != HERE:
        found = kernels.find(kernel)
        release, machine = found.release, found.architecture
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return Run(kernel, release, machine, _commit(), today, tests)


def _in_a_machine(kernel: str, words: list[str], timeout: float) -> dict[str, tuple[str, str]]:
    (found,) = matrix.run_tests([kernel], words, timeout=timeout, folder=ROOT)
    if found.problem:
        print(f"{kernel}: {found.problem}", file=sys.stderr)
    return {name: (test.outcome, test.detail[:300]) for name, test in found.tests.items()}


def _here(words: list[str]) -> dict[str, tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *words]
        subprocess.run(command, cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    found = {}
    for case in cases:
        place, group, scope = f".{case.get('classname')}".partition(".Test")
        scope = f"Test{scope}::" if group else ""
        name = f"{place[1:].replace('.', '/')}.py::{scope}{case.get('name')}"
        skip = case.find("skipped")
        bad = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if bad else "passed" if skip is None else "skipped"
        found[name] = (outcome, skip.get("message", "") if skip is not None else "")
    return found


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def save(made: Run, folder: Path) -> None:
    """Write a run into a folder, in the place of an earlier one of its kernel."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(made), indent=1, sort_keys=True)
    (folder / f"{made.kernel}.json").write_text(f"{text}\n", encoding="utf-8")


def load(folder: Path) -> list[Run]:
    """Read all runs of a folder."""
    return [Run(**json.loads(path.read_text("utf-8"))) for path in sorted(folder.glob("*.json"))]
