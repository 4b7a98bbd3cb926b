"""Why the verifier refused a program: the kind of mistake that its sentences name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pybpfload.verifier.sentences import SENTENCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CAUSES", "Cause", "find"]

_LONGEST = 1024  # characters of a sentence (the kernel's BPF_VERIFIER_TMP_LOG_SIZE)
_MOST = 100  # sentences, of which the last is what the verifier said in the end
_GROUP = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Cause:
    """A kind of mistake.

    Attributes:
        name: A word for programs, stable.
        why: What the verifier's sentence means.
        remedies: What usually helps, the likeliest first.
    """

    name: str
    why: str
    remedies: tuple[str, ...]


CAUSES: Sequence[tuple[re.Pattern[str], Cause]] = tuple(
    (re.compile(pattern), Cause(name, why, tuple(remedies)))
    for name, pattern, why, remedies in SENTENCES
)
"""Patterns and what they mean, in the order in which they are tried."""


def find(reasons: Sequence[str]) -> Cause | None:
    """The cause that fits what the verifier said.

    Args:
        reasons: Its sentences; only the end is looked at of more than a verifier would say.

    Returns:
        The cause, with what the sentence names filled in, or ``None``.
    """
    lines = [line[:_LONGEST] for line in reasons[: -_MOST - 1 : -1]]
    for pattern, cause in CAUSES:
        for line in lines:
            if found := pattern.search(line):
                # A group that several branches have is told apart by a number behind its name.
                known = {k.rstrip("0123456789"): v for k, v in found.groupdict("").items() if v}
                return Cause(cause.name, _fill(cause.why, known), cause.remedies)
    return None


def _fill(text: str, known: dict[str, str]) -> str:
    return _GROUP.sub(lambda found: known.get(found[1], "it"), text)
