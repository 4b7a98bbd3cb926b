"""tools/differential: options, settings and the report. The work is in tests/differential."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import libbpf_pool as pool

from pybpfload.testing.vm import kernels

if TYPE_CHECKING:
    from libbpf_compare import Result

_THIS_KERNEL = Path("/sys/kernel/btf/vmlinux")
_REASONS = 40  # shown in the table
_LINES = 8  # shown of each object


def main(description: str) -> int:
    """Run the tool; returns its exit status."""
    parser = _parser(description)
    options = parser.parse_args()
    if problem := _problem(options):
        parser.error(problem)
    if reason := pool.why_not():
        print(f"differential: {reason}", file=sys.stderr)
        return 2
    fixtures = [pool.ROOT / "fixtures" / folder for folder in ("bpfel", "bpfeb")]
    objects = pool.objects_below(options.objects or fixtures)
    settings = _settings(options)
    tasks = [(setting, path) for setting in settings for path in objects]
    if not tasks:
        print("differential: nothing to compare: no objects, or no BTF", file=sys.stderr)
        return 2
    totals, results = pool.Totals(), []
    started = time.monotonic()
    for result in pool.compare_all(tasks, jobs=options.jobs, patience=options.patience):
        totals.add(result)
        results.append(vars(result))
        if not options.json:
            _show(result, verbose=options.verbose)
    seconds = time.monotonic() - started
    if options.json:
        summary = {**totals.to_json(), "wall": seconds, "jobs": options.jobs}
        print(json.dumps({"results": results, "totals": summary}, indent=1))
    else:
        _summarise(totals, seconds, options.jobs)
    return 1 if totals.different or totals.crashed else 0


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/differential",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "objects", nargs="*", type=Path, metavar="OBJECT",
        help="objects, and folders with *.o at any depth [all fixtures]",
    )  # fmt: skip
    add(
        "--btf", action="append", type=Path, default=[], metavar="FILE",
        help="a file with a kernel's BTF [the running kernel's]",
    )  # fmt: skip
    add("--kernel", action="append", default=[], metavar="NAME", help="a kernel of tools/kernels")
    add(
        "--module", action="append", default=[], metavar="NAME",
        help="a module of each --kernel that is loaded; not with --age",
    )  # fmt: skip
    add(
        "--age", action="append", default=[], metavar="VERSION",
        help="make each a kernel that refuses what came after VERSION; before 5.4 it has no BTF of "
        "its own, and the loaders are given it",
    )  # fmt: skip
    add(
        "-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
        help="how many at a time [%(default)s]",
    )  # fmt: skip
    add(
        "--patience", type=float, default=pool.PATIENCE, metavar="S",
        help="seconds for one object [%(default)g]",
    )  # fmt: skip
    add("--json", action="store_true", help="print results and totals as JSON")
    add("-v", "--verbose", action="store_true", help="a line for each object")
    return parser


def _problem(options: argparse.Namespace) -> str:
    """What makes no sense in the options."""
    for path in (*options.objects, *options.btf):
        if not path.exists():
            return f"there is no {path}"
    if unknown := [name for name in options.kernel if name not in kernels.KERNELS]:
        return f"no kernel is called {unknown[0]}; there are {', '.join(kernels.KERNELS)}"
    if options.module and (options.age or not options.kernel):
        return "--module goes with --kernel, and without --age"
    for age in options.age:
        if not re.fullmatch(r"\d+\.\d+", age):
            return f"--age wants a version such as 5.4, not {age}"
    return "" if options.jobs > 0 else "--jobs wants one at least"


def _settings(options: argparse.Namespace) -> list[pool.Setting]:
    made = [pool.Setting(path.name, path) for path in options.btf]
    for name in options.kernel:
        btf = pool.kernel_btf(name, fetch=True)
        files = [(each, pool.module_btf(name, each, fetch=True)) for each in options.module]
        modules = tuple((each, path) for each, path in files if path is not None)
        assert btf is not None
        made.append(pool.Setting(name, btf, modules))
    if not made and _THIS_KERNEL.exists():
        made = [pool.Setting("this kernel", _THIS_KERNEL)]
    if not options.age:
        return made
    return [
        pool.Setting.old(each.name, each.btf, age)
        for each in made
        for age in options.age
        if each.btf is not None
    ]


def _show(result: Result, *, verbose: bool) -> None:
    head = f"{result.object} on {result.setting}"
    counts = result.counts
    if verbose:
        print(
            f"{head}: {counts['runs']} runs, {counts['loaded']} loaded, "
            f"{counts['programs']} programs, {counts['instructions']} instructions"
        )
    if result.crashed:
        print(f"{head}: {result.crashed}")
    shown = result.differences if verbose else result.differences[:_LINES]
    for line in shown:
        print(f"{head}: {line}")
    if others := len(result.differences) - len(shown):
        print(f"{head}: and {others} more (--verbose shows them)")
    for line in result.known if verbose else ():
        print(f"{head}: as documented: {line}")


def _summarise(totals: pool.Totals, seconds: float, jobs: int) -> None:
    if totals.refusals:
        print("\nrefused by both, by stage and libbpf's words:")
        for reason, count in totals.refusals.most_common(_REASONS):
            print(f"{count:7} {reason}")
        others = len(totals.refusals) - _REASONS
        if others > 0:
            print(f"        and {others} more reasons")
    counts, spent = totals.counts, totals.seconds
    print(
        f"\n{totals.comparisons} comparisons in {seconds:.1f} s with {jobs} workers: "
        f"{counts['runs']} runs, of which {counts['loaded']} loaded; "
        f"{counts['programs']} programs, {counts['instructions']} instructions, "
        f"{counts['relocations']} CO-RE relocations, {counts['maps']} maps, "
        f"{counts['attributes']} attributes"
    )
    print(
        "CPU seconds: "
        + ", ".join(f"{who} {spent[who]:.1f}" for who in ("pybpfload", "libbpf", "harness"))
    )
    print(
        f"{totals.different} with differences, {totals.known} with documented differences, "
        f"{totals.crashed} crashed"
    )
