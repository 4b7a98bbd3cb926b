"""Errors as one line on standard error and an exit status."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING

from pybpfload.cli import style
from pybpfload.errors import (
    BpfError,
    KernelError,
    NotSupportedError,
    RelocationError,
    VerifierError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["UsageError", "complain", "did_you_mean", "report", "visible"]

FAILED, USAGE, NOT_PERMITTED, NOT_SUPPORTED = 1, 2, 3, 4
_LACKING = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, 524})  # 524: the kernel's own ENOTSUPP


class UsageError(Exception):
    """The command line makes no sense: exit status 2."""


def report(error: Exception, *, verbose: bool, about: str = "") -> int | None:
    """Print an error on standard error: one line, and what is known beyond that if ``verbose``.

    Args:
        error: The error.
        verbose: Whether to print the verifier's log, what failed before, and causes.
        about: What it is about, if the error may not say so itself.

    Returns:
        The exit status, or ``None`` when it is no error that a user can make.
    """
    if not isinstance(error, (UsageError, BpfError, OSError)):
        return None
    line = _line(error)
    if about not in line:
        line = f"{about}: {line}"
    details = list(_details(error))
    if isinstance(error, VerifierError) and error.log and not verbose:
        line += " (-v shows the verifier's log)"
    complain(line, look=style.BAD)
    if verbose:
        for detail in details:
            print(detail, file=sys.stderr)
    return status_of(error)


def complain(message: str, *, look: str = style.DIM) -> None:
    """Print one line on standard error, with the name of the program in front.

    Args:
        message: The line.
        look: That of the name, which tells errors from notices.
    """
    name = style.paint("pybpfload:", look, stream=sys.stderr)
    print(f"{name} {visible(' '.join(message.splitlines()))}", file=sys.stderr, flush=True)


def status_of(error: Exception) -> int:
    """Exit status that stands for an error."""
    if isinstance(error, UsageError):
        return USAGE
    if isinstance(error, PermissionError):
        return NOT_PERMITTED
    if isinstance(error, NotSupportedError):
        return NOT_SUPPORTED
    if isinstance(error, KernelError) and error.errno in _LACKING:
        return NOT_SUPPORTED
    return FAILED


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` for the known word that is most like ``word``, or ``""``."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), n=1)
    return f", did you mean {found[0]!r}?" if found else ""


def visible(text: str) -> str:
    """Return a text with what a terminal may obey escaped; it may come from a hostile file."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _line(error: Exception) -> str:
    if isinstance(error, BpfError):
        text = str(error)
        if error.hint and error.hint not in text:
            text += f"; {error.hint}"
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _details(error: Exception) -> Iterator[str]:
    """What ``-v`` shows below the line."""
    if isinstance(error, VerifierError) and error.log:
        # Its first line says what the error itself has said.
        yield from (visible(line) for line in [*error.explanation.lines()][1:])
        yield f"verifier log of program {visible(error.program)}:"
        yield from (f"  {visible(line)}" for line in error.log.splitlines())
    if isinstance(error, RelocationError) and error.decision is not None:
        offered = [f"[{number}] of {name}" for name, number in error.decision.candidates]
        yield f"  candidates: {', '.join(offered) or 'none'}"
    if isinstance(error, BpfError):
        for earlier in error.swallowed:
            yield f"  before that: {visible(_of_any(earlier))}"
    cause = error.__cause__
    for _ in range(8):
        if cause is None:
            break
        yield f"  because of: {visible(_of_any(cause))}"
        cause = cause.__cause__


def _of_any(error: BaseException) -> str:
    text = _line(error) if isinstance(error, Exception) else str(error)
    return " ".join(text.splitlines()) or type(error).__name__
