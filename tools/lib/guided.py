"""tools/fuzz: runs guided by coverage, with atheris (libFuzzer for Python).

    python guided.py TARGET SEED SECONDS FOLDER    the run: what hunt() starts

The run begins with the smallest seeds, since small files are read most often in a second, and with
what earlier runs kept in the corpus. It changes them by libFuzzer's means and by
:mod:`pybpfload.testing.mutate` in turn. What is found does not end it: each kind of finding is
kept once, and afterwards made small without instrumentation.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import re
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["Finding", "Hunt", "hunt", "signature"]

_SEEDS = 60
_SLOW = 5.0  # seconds of processor time; instrumented code takes about three times as long
_SHRINKING = 30.0  # seconds that are spent on making one finding small
_NOT_TARGETS = re.compile(r"pybpfload\.(__main__|runtime|testing)")


class TooSlow(BaseException):  # not an Exception, which code under test may catch
    """A case does not come to its end."""


@dataclass
class Finding:
    """Something that was raised and is no BpfError.

    Attributes:
        signature: Type and place of what was raised.
        file: A file that shows it.
        size: Bytes of the file.
    """

    signature: str
    file: Path
    size: int


@dataclass
class Hunt:
    """What came of a run.

    Attributes:
        executions: How many files were read.
        coverage: Branches reached, as libFuzzer counts them.
        seconds: Wall time.
        corpus: Files that are kept because each reaches something that the others do not.
        findings: What was found.
    """

    executions: int
    coverage: int
    seconds: float
    corpus: int
    findings: list[Finding]


def signature(run: Callable[[bytes], None], data: bytes) -> str:
    """Type and place of what reading a file raises; empty if nothing is."""
    signal.signal(signal.SIGPROF, _interrupt)
    signal.setitimer(signal.ITIMER_PROF, _SLOW)
    try:
        run(data)
    except (Exception, TooSlow) as error:
        return _signature(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ""


def _signature(error: BaseException) -> str:
    if isinstance(error, TooSlow):  # where it is interrupted is chance
        return "TooSlow"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def hunt(target: str, seed: int, seconds: int, folder: Path) -> Hunt:
    """Look for files that are read badly.

    Args:
        target: Name of a target.
        seed: Of libFuzzer's choices.
        seconds: For how long.
        folder: Where the corpus and the findings are kept.
    """
    from fuzz_targets import TARGETS

    run = TARGETS[target].run
    corpus, found = folder / "corpus", folder / "findings"
    for each in (corpus, found):
        each.mkdir(parents=True, exist_ok=True)
    for data in sorted(TARGETS[target].seeds(), key=len)[:_SEEDS]:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    started = time.monotonic()
    before = set(found.iterdir())
    command = [sys.executable, __file__, target, str(seed), str(seconds), str(folder)]
    log = folder / "log"
    with log.open("wb") as output:
        status = subprocess.run(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT, check=False
        ).returncode
    text = log.read_text(errors="replace")
    counts = re.findall(r"^#(\d+)\s.*cov: (\d+)", text, re.MULTILINE)
    new = sorted(set(found.iterdir()) - before)
    if not counts or (status and not new):  # else it is something that libFuzzer stopped for
        raise RuntimeError(f"atheris ended with {status}; {log} says why:\n{text[-3000:]}")
    return Hunt(
        int(counts[-1][0]),
        int(counts[-1][1]),
        time.monotonic() - started,
        len(list(corpus.iterdir())),
        [_small(run, file) for file in new],
    )


def _small(run: Callable[[bytes], None], file: Path) -> Finding:
    """Make a file smaller as long as what it shows stays the same."""
    data = file.read_bytes()
    wanted = signature(run, data)
    end = time.monotonic() + _SHRINKING
    step = len(data) // 2
    while wanted and step and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            for less in (
                data[:at] + data[at + step :],
                data[:at] + bytes(step) + data[at + step :],
            ):
                if less != data and len(less) <= len(data) and signature(run, less) == wanted:
                    data = less
                    break
            at += step
        step //= 2
    file.write_bytes(data)
    return Finding(wanted or "nothing without instrumentation", file, len(data))


# The run


def _run(target: str, seed: int, seconds: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["pybpfload"]):
        import pybpfload

        for module in pkgutil.walk_packages(pybpfload.__path__, "pybpfload."):
            if not _NOT_TARGETS.match(module.name):
                importlib.import_module(module.name)
        from fuzz_targets import TARGETS
    from pybpfload.testing.mutate import mutate

    run = TARGETS[target].run
    seen: set[str] = set()

    def read(data: bytes) -> None:
        found = signature(run, data)
        if found and found not in seen:
            seen.add(found)
            name = hashlib.sha1(found.encode()).hexdigest()[:12]
            (folder / "findings" / name).write_bytes(data)
            print(json.dumps({"found": found, "file": name}), flush=True)

    def change(data: bytes, most: int, number: int) -> bytes:
        if number % 2:
            return mutate(data, number).data[:most]
        return atheris.Mutate(data, most)

    corpus = folder / "corpus"
    largest = max(file.stat().st_size for file in corpus.iterdir())
    options = [
        str(corpus), f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={2 * largest}",
        f"-timeout={10 * int(_SLOW)}", "-rss_limit_mb=1000", f"-artifact_prefix={folder}/findings/",
        "-verbosity=1",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    _run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
