"""Lines that programs write with ``bpf_printk()``."""

from __future__ import annotations

import errno
import re
import time
from collections import deque
from typing import TYPE_CHECKING

from pybpfload.errors import KernelError
from pybpfload.kernel.tracefs import TracePipe
from pybpfload.runtime.poller import Poller

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

__all__ = ["TraceLines", "trace_pipe"]


# Before Linux 5.9 an instruction pointer stood in place of the function.
_PRINTK = re.compile(r": (?:bpf_trace_printk|0x[0-9a-f]+): ")


class TraceLines:
    """An iterator over the lines of ``trace_pipe``; see :func:`trace_pipe`."""

    def __init__(self, timeout: float | None, only_bpf: bool) -> None:
        self._timeout = timeout
        self._only_bpf = only_bpf
        self._lines: deque[str] = deque()
        self._closed = False
        try:
            self._pipe = TracePipe()
        except KernelError as error:
            if error.errno == errno.EBUSY:
                error.hint = "somebody else reads it, and it has one reader at a time"
            raise
        try:
            self._poller = Poller()
        except BaseException:
            self._pipe.close()
            raise
        try:
            self._poller.add(self._pipe.fileno())
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """A descriptor that is readable when there are lines.

        Raises:
            ValueError: It is closed.
        """
        return self._poller.fileno()

    def read_lines(self) -> list[str]:
        """The lines that are there now; does not wait.

        Raises:
            ValueError: It is closed.
            KernelError: Reading failed.
        """
        lines = self._pipe.read_lines()
        if self._only_bpf:
            lines = [line for line in lines if _PRINTK.search(line)]
        lines = [*self._lines, *lines]
        self._lines.clear()
        return lines

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while not self._lines:
            if self._closed:
                raise StopIteration
            self._lines.extend(self.read_lines())
            if self._lines:
                break
            rest = None if deadline is None else deadline - time.monotonic()
            if (rest is not None and rest <= 0) or not self._poller.wait(rest):
                raise StopIteration
        return self._lines.popleft()

    def close(self) -> None:
        """Close it and end the iteration, by any thread; again does nothing."""
        if self._closed:
            return
        self._closed = True
        self._poller.close()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_poller"):
            self.close()


def trace_pipe(timeout: float | None = None, *, only_bpf: bool = True) -> TraceLines:
    """Lines that programs write with ``bpf_printk()``, as they come.

        with pybpfload.trace_pipe() as lines:
            for line in lines:
                print(line)

    A line is as the kernel prints it: ``task-pid [cpu] flags time: bpf_trace_printk: text``. There
    is one pipe for the whole machine: those of other people's programs come too, and reading takes
    them out. It has one reader at a time; on older kernels several share the lines.

    Args:
        timeout: Seconds to wait for a line at most; then the iteration ends. ``None`` waits until
            :meth:`TraceLines.close` is called, by another thread or a signal handler.
        only_bpf: Leave out what is not from ``bpf_printk()``.

    Returns:
        An iterator and context manager.

    Raises:
        KernelError: tracefs is not mounted, or closed to this process; EBUSY: somebody else reads.
    """
    return TraceLines(timeout, only_bpf)
