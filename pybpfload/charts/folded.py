"""Folded stacks: one line for each stack, its frames outermost first, and how often it was seen.

    python;main;read;vfs_read_[k] 42

The format that flame graph tools exchange (Brendan Gregg's ``stackcollapse-*.pl``). Frames of the
kernel end with ``_[k]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Folded = Mapping[tuple[str, ...], int] | Mapping[str, int]
    """Counts by stack, the outermost frame first; a text has a semicolon between two frames."""

__all__ = ["KERNEL", "frames_of", "read_folded", "write_folded"]

KERNEL = "_[k]"
"""End of the names of kernel frames."""

_SEPARATORS = str.maketrans({";": ":", "\n": " ", "\r": " "})


def frames_of(stack: tuple[str, ...] | str) -> tuple[str, ...]:
    """The frames of a stack, which may be given as in a line of the format: ``main;read``."""
    return tuple(stack.split(";")) if isinstance(stack, str) else stack


def write_folded(folded: Folded) -> str:
    """Text of counts by stack, sorted.

    The format has no way to write a semicolon or a new line in a name: they become colons and
    blanks. A stack without frames or samples is left out.
    """
    lines: dict[str, int] = {}
    for stack, count in folded.items():
        if stack and count:
            line = ";".join(frame.translate(_SEPARATORS) for frame in frames_of(stack))
            lines[line] = lines.get(line, 0) + count
    return "".join(f"{line} {lines[line]}\n" for line in sorted(lines))


def read_folded(text: str | Iterable[str]) -> dict[tuple[str, ...], int]:
    """Counts by stack of text or lines; empty lines and comments (``#``) are skipped.

    Raises:
        FormatError: A line does not end with a number of samples.
    """
    found: dict[tuple[str, ...], int] = {}
    lines = text.split("\n") if isinstance(text, str) else text
    for number, line in enumerate(lines, 1):
        line = line.rstrip()
        if not line or line.startswith("#"):
            continue
        frames, _, count = line.rpartition(" ")
        if not frames or not (count.isascii() and count.isdigit()) or len(count) > 18:
            raise FormatError(
                f"line {number} does not end with a number of samples", section="folded stacks"
            )
        stack = tuple(frames.split(";"))
        found[stack] = found.get(stack, 0) + int(count)
    return found
