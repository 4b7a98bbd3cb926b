"""``pybpfload check``: will objects load on kernels. Offline."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import UsageError
from pybpfload.cli.sources import SOURCES, read_kernel_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pybpfload.check import Kernel, Verdict

__all__ = ["run"]

_EXAMPLES = f"""\
examples:
  pybpfload check tracer.bpf.o                                     this kernel
  pybpfload check tracer.bpf.o --kernel /boot                      all kernels in there
  pybpfload check --kernel vmlinuz-5.15 --kernel linux-image-6.8.deb -- tracer.bpf.o
  pybpfload check --kernel btfs/*.btf --junit report.xml -- objects/*.bpf.o

{SOURCES}A directory is a kernel with its modules, as /sys/kernel/btf or /lib/modules/RELEASE, or
has several kernels, as /boot. What lies beside a kernel is used: config-RELEASE,
System.map-RELEASE, ../lib/modules/RELEASE. Nothing is loaded, and the verifier is not
run: "loads" means that the kernel has all that the object refers to.
Exit status: 1 if one fails.
"""

_MANY = 64  # pairs of an object and a kernel that are worth processes of their own
T = TypeVar("T")
_SHOWN_AFTER = 1.0  # seconds until progress is shown
_WIDTH = 30  # of the bar


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser("check", "Tell whether objects will load on kernels.", _EXAMPLES)
    parser.add_argument("objects", metavar="OBJ", nargs="+", help="a BPF object file")
    parser.add_argument(
        "--kernel",
        metavar="SRC",
        action="extend",
        nargs="+",
        default=[],
        help="kernels; several, and more than once [the running kernel]",
    )
    parser.add_argument(
        "--base", metavar="SRC", default="", help="the kernel of what is a module's BTF"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with the whole result")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit's XML, a case for each pair")
    parser.add_argument("--jobs", metavar="N", type=int, default=0, help="processes [processors]")
    options = parser.read(arguments)
    if options.jobs < 0:
        raise UsageError(f"--jobs {options.jobs}: it takes at least one process")
    if not options.kernel and not sys.platform.startswith("linux"):
        raise UsageError(f"this is {sys.platform}; give a kernel with --kernel SRC")
    kernels = _kernels(options.kernel or ["vmlinux"], options.base)
    names = [each if isinstance(each, str) else each.name for each in kernels]
    objects = list(dict.fromkeys(options.objects))

    total = len(objects) * len(kernels)
    with _Progress(total) as progress:
        verdicts = []
        for verdict in _verdicts(objects, kernels, options.jobs):
            verdicts.append(verdict)
            progress.show(len(verdicts), verdict)
    places = {(o, k): i for i, (o, k) in enumerate((o, k) for o in objects for k in names)}
    verdicts.sort(key=lambda each: places[each.object, each.kernel])

    from pybpfload.cli import check_report as report

    if options.html:
        Path(options.html).write_text(report.html(verdicts, objects, names), encoding="utf-8")
    if options.junit:
        Path(options.junit).write_text(report.junit(verdicts), encoding="utf-8")
    if options.json:
        print_json([each.to_dict() for each in verdicts])
    else:
        for line in report.text(verdicts, objects, names, verbose=options.verbose):
            print(line)
    return 1 if any(each.problems for each in verdicts) else 0


def _kernels(sources: Sequence[str], base: str) -> list[str | Kernel]:
    """What the arguments stand for: each kernel once."""
    from pybpfload.check import find_kernels

    found = dict.fromkeys(each for source in sources for each in find_kernels(source))
    if len(found) == 1 or base:  # what is wrong with one is wrong usage, and found at once
        return [read_kernel_source(each, base=base) for each in found]
    return list(found)


def _verdicts(objects: list[str], kernels: Sequence[str | Kernel], jobs: int) -> Iterator[Verdict]:
    from pybpfload.check import check_files

    if jobs == 1 or (not jobs and len(objects) * len(kernels) < _MANY):
        yield from check_files(objects, kernels)
        return
    import signal
    from concurrent.futures import ProcessPoolExecutor

    class Pool(ProcessPoolExecutor):
        def submit(self, work: Any, /, *args: Any, **named: Any) -> Any:
            return super().submit(_unless_stopped, work, *args, **named)

    with Pool(jobs or None, initializer=signal.signal, initargs=(signal.SIGINT, _stop)) as pool:
        yield from check_files(objects, kernels, executor=pool)


_stopped = False  # in a process of the pool: Ctrl-C came


def _stop(number: int, frame: object) -> None:
    """End the task, and those that the process has been given already."""
    global _stopped
    _stopped = True
    raise KeyboardInterrupt


def _unless_stopped(work: Callable[..., T], *args: Any, **named: Any) -> T:
    if _stopped:
        raise KeyboardInterrupt
    return work(*args, **named)


class _Progress:
    """A bar on standard error, if that is a terminal, once it takes more than a second."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.start = time.monotonic()
        self.wanted = sys.stderr is not None and sys.stderr.isatty()
        self.shown = False

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, count: int, verdict: Verdict) -> None:
        passed = time.monotonic() - self.start
        if not self.wanted or passed < _SHOWN_AFTER:
            return
        self.shown = True
        full = count * _WIDTH // self.total
        left = ""
        if count * 20 >= self.total:  # before, it would be a guess
            left = f" {passed / count * (self.total - count):.0f} s left,"
        bar = f"[{'#' * full}{'.' * (_WIDTH - full)}]"
        line = f"{bar} {count} of {self.total},{left} {Path(verdict.object).name}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]}\x1b[K", end="", file=sys.stderr, flush=True)
