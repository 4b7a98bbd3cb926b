"""What tools/bench measures of ``pybpfload btf c``, beside bpftool."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from bench_process import processor_seconds
from bench_result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        processor_seconds(ours)  # fills caches
        processor_seconds(theirs)
        pairs = [
            (processor_seconds(ours), processor_seconds(theirs)) for _ in range(min(runs, _RUNS))
        ]
        mine, other = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratios = sorted(a / b for a, b in pairs)
        quarter = len(ratios) // 4
        spread = ratios[-1 - quarter] - ratios[quarter]
        note = f"{mine * 1e3:.0f} ms, bpftool {other * 1e3:.0f} ms"
        what = f"btf c of {path.stem}"
        yield Result("btf-c", what[:59], "x bpftool", mine / other, spread, note, _BAR)
