"""What ``-v`` of the live commands shows: every call to the kernel, every relocation."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pybpfload import logs
from pybpfload.cli.failure import visible
from pybpfload.kernel import door

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["watched"]


class _Visible(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def watched() -> Iterator[None]:
    """Print calls to the kernel and relocations on standard error for a while."""
    try:
        with logs.shown(logs.SYSCALLS, logs.RELOCATIONS, formatter=_Visible()):
            door.follow_logger()
            yield
    finally:
        door.follow_logger()
