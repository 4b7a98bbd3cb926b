"""Colour for people on a terminal: ANSI escape sequences, and nothing else.

What is written stays the same text: without the escape sequences it is what a pipe gets. Not rich:
importing that takes longer than most commands take in all, and a table that is wider than the
terminal should scroll, not be laid out anew.

Nothing is coloured unless :func:`chosen` is in force, as it is while a command runs; the same
renderers make plain text for notebooks.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

__all__ = ["BAD", "DIM", "GOOD", "NAME", "TITLE", "WARN", "WHEN", "chosen", "paint"]

WHEN = ("auto", "always", "never")
"""What ``--color`` takes."""

GOOD, BAD, WARN, DIM, NAME, TITLE = "32", "31", "33", "2", "36", "1"
"""Looks: parameters of "Select Graphic Rendition" (ECMA-48, 8.3.117)."""

_when = "never"


@contextmanager
def chosen(when: str) -> Iterator[None]:
    """Colour for a while.

    Args:
        when: One of :data:`WHEN`. ``"auto"`` colours what goes to a terminal, unless ``NO_COLOR``
            is set and not empty (no-color.org) or ``TERM`` is ``dumb``.
    """
    global _when
    before, _when = _when, when
    try:
        yield
    finally:
        _when = before


def paint(text: str, look: str, *, stream: TextIO | None = None) -> str:
    """Return a text as it should be written to a stream: in that look, or as it is.

    Args:
        text: The text, already :func:`~pybpfload.cli.failure.visible`.
        look: One of the looks above; an empty one is none.
        stream: Where it will be written to, standard output by default.
    """
    if not (text and look) or _when == "never" or not _wanted(stream or sys.stdout):
        return text
    return f"\x1b[{look}m{text}\x1b[0m"


def _wanted(stream: TextIO | None) -> bool:
    if _when == "always":
        return True
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False
