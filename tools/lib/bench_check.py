"""What tools/bench measures of ``pybpfload check``: many objects on several kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench_result import Result, median_and_spread
from environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OBJECTS, _KERNELS = 100, 5
_BAR = 30.0  # seconds
_RUNS = 3  # at most: it is no matter of milliseconds


def check(runs: int) -> Iterator[Result]:
    """Time that passes while a fresh process checks 100 objects on 5 kernels.

    It uses all processors, so what others do adds to it; processor time is told beside it.

    Objects are fixtures and, where the cache has them, self tests of the kernel. Kernels are those
    of the cache, each once as BTF alone and once as an image that is unpacked, with its
    configuration and modules.
    """
    from pybpfload.testing.vm.cache import cache_folder

    cache = cache_folder()
    objects = _objects(cache)
    for what, kernels in (
        ("BTF alone", sorted((cache / "btf").glob("*.btf"))),
        ("images and modules", sorted(p.parent for p in (cache / "kernels").glob("*/vmlinuz"))),
    ):
        little = [each for each in kernels if "s390x" not in each.name]
        # Those of x86-64 first; that of riscv64 comes with three times as many modules.
        chosen = sorted(little, key=lambda each: _other(each.name))[:_KERNELS]
        title = f"check {len(objects)} objects on {len(chosen)} kernels, {what}"
        if len(objects) < _OBJECTS or len(chosen) < _KERNELS:
            note = f"{_KERNELS} kernels are fetched by tools/vm, objects made by tools/corpus"
            yield Result("check", title, "s", None, note=note, bar=_BAR)
            continue
        measured = [_seconds(objects, chosen) for _ in range(min(runs, _RUNS))]
        passed, spread = median_and_spread([each for each, _ in measured])
        busy, _ = median_and_spread([each for _, each in measured])
        note = f"{busy:.1f} s of processor time, {os.cpu_count()} processors"
        yield Result("check", title, "s", passed, spread, note, _BAR)


def _other(name: str) -> bool:
    return "arm64" in name or "riscv64" in name


def _objects(cache: Path) -> list[Path]:
    fixtures = sorted((ROOT / "fixtures" / "bpfel").glob("*.bpf.o"))
    good = [each for each in fixtures if not each.name.startswith("bad_")]
    tests = sorted((cache / "corpus" / "selftests" / "bpfel").glob("*.o"))
    step = max(len(tests) * 2 // _OBJECTS, 1)
    return [*good[: _OBJECTS // 2], *tests[::step], *good[_OBJECTS // 2 :]][:_OBJECTS]


def _seconds(objects: list[Path], kernels: list[Path]) -> tuple[float, float]:
    """Time that passes, and processor time of the process and its children."""
    command = [sys.executable, "-m", "pybpfload", "check", "--json", "--kernel", *kernels, "--"]
    before, started = os.times(), time.monotonic()
    done = subprocess.run([*command, *objects], stdout=subprocess.PIPE, check=False)
    passed, after = time.monotonic() - started, os.times()
    verdicts = json.loads(done.stdout)
    assert len(verdicts) == len(objects) * len(kernels), done.returncode
    spent = after.children_user - before.children_user + after.children_system
    return passed, spent - before.children_system
