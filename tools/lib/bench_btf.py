"""What tools/bench measures of ``pybpfload btf c``, beside bpftool."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from bench_result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BAR = 6  # times bpftool's time
_RUNS = 9  # at most


def btf_c(runs: int) -> Iterator[Result]:
    """How many times bpftool's processor time a kernel's header takes, both in fresh processes.

    Kernels and bpftool are those of the cache; the two commands run by turns, as a busy machine
    slows both.
    """
    from corpus import find_bpftool

    from pybpfload.testing.vm.cache import cache_folder

    kernels = sorted((cache_folder() / "btf").glob("*.btf"))
    if not kernels:
        note = "kernels are fetched by tools/vm"
        yield Result("btf-c", "btf c of vmlinux", "x", None, note=note, bar=_BAR)
        return
    bpftool = find_bpftool()
    for path in kernels:
        ours = [sys.executable, "-m", "pybpfload", "btf", "c", path]
        theirs = [bpftool, "btf", "dump", "file", path, "format", "c"]
        _seconds(ours)  # fills caches
        _seconds(theirs)
        pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(min(runs, _RUNS))]
        mine, other = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        quarter = len(ratios) // 4
        spread = ratios[-1 - quarter] - ratios[quarter]
        note = f"{mine * 1e3:.0f} ms, bpftool {other * 1e3:.0f} ms"
        what = f"btf c of {path.stem}"
        yield Result("btf-c", what[:59], "x bpftool", mine / other, spread, note, _BAR)


def _seconds(command: list[str | Path]) -> float:
    """Processor time of a process, with what it starts."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return usage.ru_utime + usage.ru_stime
