"""The loggers, which cost nothing until somebody uses them.

``pybpfload.syscalls`` gets every call that makes, changes or closes something in the kernel,
``pybpfload.files`` what is read of ``/proc`` and ``/sys``, ``pybpfload.relocations`` every CO-RE
decision, all at level DEBUG. ``logging`` is not imported here for that: nobody can have switched on
a logger before it has been.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

__all__ = ["FILES", "RELOCATIONS", "SYSCALLS", "debug", "shown"]

SYSCALLS = "pybpfload.syscalls"
"""One record for each call: bpf(2), perf_event_open(2), mmap(2), close(2), ..."""

FILES = "pybpfload.files"
"""One record for each file or folder that is read."""

RELOCATIONS = "pybpfload.relocations"
"""One record for each CO-RE relocation."""


def debug(name: str) -> Callable[..., None] | None:
    """What logs at level DEBUG to the logger of that name; ``None`` if nobody would see it."""
    if "logging" not in sys.modules:
        return None
    import logging

    logger = logging.getLogger(name)
    return logger.debug if logger.isEnabledFor(logging.DEBUG) else None


@contextmanager
def shown(*names: str, formatter: logging.Formatter | None = None) -> Iterator[None]:
    """Print what loggers say on standard error, for a while.

    Args:
        names: The loggers.
        formatter: How; a line with nothing but the message by default.
    """
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
