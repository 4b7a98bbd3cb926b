"""``pybpfload check``: will objects load on kernels. Offline."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pybpfload.cli.common import Parser, print_json
from pybpfload.cli.failure import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pybpfload.check import Verdict

__all__ = ["run"]

_EXAMPLES = """\
examples:
  pybpfload check tracer.bpf.o                                     this kernel
  pybpfload check --kernel vmlinuz-5.15 --kernel vmlinuz-6.8 tracer.bpf.o
  pybpfload check --kernel btfs/*.btf --junit report.xml -- objects/*.bpf.o

A kernel is a file with BTF (raw, vmlinux, vmlinuz), or a directory that has a vmlinux and the
BTF of modules beside it, as /sys/kernel/btf has. Nothing is loaded, and the verifier is not run:
"loads" means that the kernel has all that the object refers to. Exit status: 1 if one fails.
"""

_KERNEL = "/sys/kernel/btf"
_MANY = 64  # pairs of an object and a kernel that are worth processes of their own
T = TypeVar("T")
_SHOWN_AFTER = 1.0  # seconds until progress is shown


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
        help="a kernel's BTF; several, and more than once [the running kernel]",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page with the whole result")
    parser.add_argument("--junit", metavar="FILE", help="write JUnit's XML, a case for each pair")
    parser.add_argument("--jobs", metavar="N", type=int, default=0, help="processes [processors]")
    options = parser.read(arguments)
    kernels = list(dict.fromkeys(options.kernel or [_KERNEL]))
    if not options.kernel and not Path(_KERNEL).is_dir():
        raise UsageError(f"there is no {_KERNEL}; give a kernel with --kernel SRC")
    objects = list(dict.fromkeys(options.objects))

    verdicts = list(_progress(_verdicts(objects, kernels, options.jobs), objects, kernels))
    places = {(o, k): i for i, (o, k) in enumerate((o, k) for o in objects for k in kernels)}
    verdicts.sort(key=lambda each: places[each.object, each.kernel])

    from pybpfload.cli import check_report as report

    if options.html:
        Path(options.html).write_text(report.html(verdicts, objects, kernels), encoding="utf-8")
    if options.junit:
        Path(options.junit).write_text(report.junit(verdicts), encoding="utf-8")
    if options.json:
        print_json([each.to_dict() for each in verdicts])
    else:
        for line in report.text(verdicts, objects, kernels, verbose=options.verbose):
            print(line)
    return 1 if any(each.problems for each in verdicts) else 0


def _verdicts(objects: list[str], kernels: list[str], jobs: int) -> Iterator[Verdict]:
    from pybpfload.check import check_files

    if jobs == 1 or len(objects) * len(kernels) < _MANY:
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


def _progress(
    verdicts: Iterator[Verdict], objects: list[str], kernels: list[str]
) -> Iterator[Verdict]:
    """Pass on the verdicts; on a terminal, count them on standard error if it takes long."""
    start, total = time.monotonic(), len(objects) * len(kernels)
    shown = False
    for count, verdict in enumerate(verdicts, 1):
        yield verdict
        if sys.stderr.isatty() and time.monotonic() - start > _SHOWN_AFTER:
            shown = True
            print(f"\r{count} of {total}", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr, flush=True)
