"""Patterns of names as libbpf has them: ``*`` is anything, ``?`` one character; that is all."""

from __future__ import annotations

import re

__all__ = ["glob_pattern"]


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """What ``fullmatch()`` of names is asked of; brackets and backslashes mean themselves.

    Source of the rule: libbpf, ``glob_match()``.
    """
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
