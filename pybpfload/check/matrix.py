"""Many objects against many kernels."""

from __future__ import annotations

import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload.check.judge import check
from pybpfload.check.kernel import Kernel, kernel_of
from pybpfload.check.verdict import Finding, Verdict
from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from pybpfload.object.spec import ObjectSpec

__all__ = ["check_files"]

# Objects of one task: enough to be worth sending, few enough to show progress. Unpacking a kernel
# with its modules takes as long as a hundred objects, so where there are kernels for all processors
# it is done by one process for each.
_PORTION, _WHOLE = 16, 128

# Types are decoded when they are asked for, which is not for several threads at once. Threads are
# for those who have an executor of them anyway: they take turns, and processes are faster.
_turn = threading.Lock()


def check_files(
    objects: Sequence[str | Path],
    kernels: Sequence[str | Path | Kernel],
    *,
    executor: Executor | None = None,
) -> Iterator[Verdict]:
    """Check each object against each kernel.

    Args:
        objects: Paths of objects. One that cannot be opened fails on every kernel.
        kernels: Kernels, or what :meth:`Kernel.read` takes. Each process reads a kernel once, if
            it comes from a file.
        executor: Where to run: any of :mod:`concurrent.futures`, threads, processes, or one of your
            own; in this thread by default. Processes are worth it for hundreds of pairs.

    Yields:
        Verdicts, as they come, with the paths of objects and sources of kernels as given. What is
        left is given up when nobody takes them any more.

    Raises:
        FormatError: There is no BTF in a kernel.
        OSError: A kernel cannot be read.
    """
    paths = [str(path) for path in objects]
    portion = _WHOLE if len(kernels) >= (os.cpu_count() or 1) else _PORTION
    tasks = [
        (paths[start : start + portion], kernel if isinstance(kernel, Kernel) else str(kernel))
        for kernel in kernels
        for start in range(0, len(paths), portion)
    ]
    if executor is None:
        for names, kernel in tasks:
            found = _kernel(kernel)
            yield from (_one(path, found) for path in names)
        return
    from concurrent.futures import as_completed

    futures = [executor.submit(_task, *task) for task in tasks]
    try:
        for future in as_completed(futures):
            yield from future.result()
    finally:
        for future in futures:
            future.cancel()


def _task(objects: Sequence[str], kernel: str | Kernel) -> list[Verdict]:
    with _turn:
        found = _kernel(kernel)
        return [_one(path, found) for path in objects]


def _kernel(kernel: str | Kernel) -> Kernel:
    return kernel_of(kernel, "") if isinstance(kernel, str) else kernel


def _one(path: str, kernel: Kernel) -> Verdict:
    try:
        verdict = check(_spec(path, _version(path)), kernel)
        verdict.object = path  # as it was given, not as the object spells it
        return verdict
    except (BpfError, OSError) as error:
        return Verdict(path, kernel.name, [_unreadable(error)], release=kernel.release)


def _unreadable(error: BpfError | OSError) -> Finding:
    """Why there is no object; the file is told beside it."""
    if not isinstance(error, BpfError):
        return Finding(error.strerror or str(error), "object")
    file, remedy = getattr(error, "file", None), error.hint or ""
    what = str(error).removeprefix(f"{file}: ").removeprefix(f"{file}, ")
    return Finding(what.removesuffix(f"; {remedy}"), "object", remedy=remedy)


def _version(path: str) -> tuple[int, ...]:
    """What changes when somebody compiles an object anew."""
    known = Path(path).stat()
    return known.st_ino, known.st_size, known.st_mtime_ns


@lru_cache(maxsize=64)
def _spec(path: str, version: tuple[int, ...]) -> ObjectSpec:
    """The object in a file, read once for all kernels as long as the file is the same."""
    from pybpfload import open as open_object

    return open_object(path)
