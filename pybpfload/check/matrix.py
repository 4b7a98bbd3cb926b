"""Many objects against many kernels."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from pybpfload.check.judge import check
from pybpfload.check.kernel import Kernel
from pybpfload.check.verdict import Finding, Verdict
from pybpfload.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from pybpfload.object.spec import ObjectSpec

__all__ = ["check_files"]

_PORTION = 16  # objects of one task: enough to be worth sending, few enough to show progress


def check_files(
    objects: Sequence[str], kernels: Sequence[str], *, executor: Executor | None = None
) -> Iterator[Verdict]:
    """Check each object against each kernel.

    Args:
        objects: Paths of objects. One that cannot be opened fails on every kernel.
        kernels: What :meth:`Kernel.read` takes.
        executor: Where to run; in this thread by default. Processes are worth it for hundreds of
            objects.

    Yields:
        Verdicts, as they come.

    Raises:
        FormatError: There is no BTF in a kernel.
        OSError: A kernel cannot be read.
    """
    tasks = [
        (objects[start : start + _PORTION], kernel)
        for kernel in kernels
        for start in range(0, len(objects), _PORTION)
    ]
    if executor is None:
        for task in tasks:
            yield from _task(*task)
        return
    from concurrent.futures import as_completed

    futures = [executor.submit(_task, *task) for task in tasks]
    try:
        for future in as_completed(futures):
            yield from future.result()
    finally:
        for future in futures:
            future.cancel()


def _task(objects: Sequence[str], kernel: str) -> list[Verdict]:
    found = _kernel(kernel)
    return [_one(path, found) for path in objects]


def _one(path: str, kernel: Kernel) -> Verdict:
    try:
        return check(_spec(path), kernel)
    except (BpfError, OSError) as error:
        return Verdict(path, kernel.name, [Finding(str(error), "object")])


@lru_cache(maxsize=4)
def _kernel(source: str) -> Kernel:
    return Kernel.read(source)


@lru_cache(maxsize=64)
def _spec(path: str) -> ObjectSpec:
    from pybpfload import open as open_object

    return open_object(path)
