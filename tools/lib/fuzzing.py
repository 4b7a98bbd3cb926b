"""tools/fuzz: the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hostile
from fuzz_targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main"]


def main(description: str) -> int:
    """Run the tool; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/fuzz",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Targets: " + "; ".join(f"{name} ({each.what})" for name, each in TARGETS.items()),
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="what to test; all if none")
    parser.add_argument("--seed", type=int, default=0, help="of the damage [%(default)s]")
    parser.add_argument("--cases", type=int, help="damaged files of a measured run")
    parser.add_argument("--case", type=int, help="only this one, here, with what it raises")
    parser.add_argument("--file", type=Path, help="only this file, here, with what it raises")
    parser.add_argument("--seconds", type=int, help="guided by coverage, each target for so long")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}")
    names = options.targets or list(TARGETS)
    if options.case is not None or options.file:
        if len(options.targets) != 1:
            parser.error("--case and --file want one target")
        if options.file and not options.file.is_file():
            parser.error(f"there is no file {options.file}")
        return _one(names[0], options)
    if options.seconds:
        return _guided(names, options.seed, options.seconds)
    return _measured(names, options.seed, options.cases)


def _one(name: str, options: argparse.Namespace) -> int:
    if options.file:
        data = options.file.read_bytes()
    else:
        damaged = hostile.made(name, options.seed, options.case)
        data = damaged.data
        print(f"{len(data)} bytes; {damaged}")
    answer = hostile.measured(TARGETS[name].run, data)
    print(f"{answer['seconds']:.3f} s, {answer['megabytes']:.1f} MB")
    if problem := hostile.problem(answer):
        print(answer["traceback"] or problem, file=sys.stderr)
        return 1
    return 0


def _measured(names: Iterable[str], seed: int, cases: int | None) -> int:
    findings = 0
    for name in names:
        summary = hostile.run(name, seed, cases or TARGETS[name].cases)
        print(summary, flush=True)
        for finding in summary.findings:
            print(f"  {finding}", flush=True)
        findings += len(summary.findings)
    return 1 if findings else 0


def _guided(names: Iterable[str], seed: int, seconds: int) -> int:
    import guided

    from pybpfload.testing.vm.cache import cache_folder

    findings = 0
    for name in names:
        done = guided.hunt(name, seed, seconds, cache_folder() / "fuzz" / name)
        print(
            f"{name}: {done.executions} executions in {done.seconds:.0f} s, "
            f"{done.coverage} branches, {done.corpus} files in the corpus, "
            f"{len(done.findings)} findings",
            flush=True,
        )
        for each in done.findings:
            print(
                f"  {each.signature} ({each.size} bytes)\n    tools/fuzz {name} --file {each.file}"
            )
        findings += len(done.findings)
    return 1 if findings else 0
