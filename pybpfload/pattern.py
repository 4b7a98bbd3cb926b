"""Patterns of names as libbpf has them: ``*`` is anything, ``?`` one character; that is all."""

from __future__ import annotations

import re

__all__ = ["glob_pattern"]

_STARS = re.compile(r"\*+")


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """What ``fullmatch()`` of names is asked of; brackets and backslashes mean themselves.

    Source of the rule: libbpf, ``glob_match()``.
    """
    first, *parts = [re.escape(part).replace(r"\?", ".") for part in _STARS.split(pattern)]
    if not parts:
        return re.compile(first, re.DOTALL)
    # What is between two stars is taken where it comes first: any other place would leave less for
    # what follows. Said by groups, which are not tried again (as fnmatch does), a name takes no
    # longer than it is long, however many stars there are.
    middle = "".join(f"(?=(?P<p{n}>.*?{part}))(?P=p{n})" for n, part in enumerate(parts[:-1]))
    return re.compile(f"{first}{middle}.*{parts[-1]}", re.DOTALL)
