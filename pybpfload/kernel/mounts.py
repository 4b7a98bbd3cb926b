"""Where filesystems are mounted, as this process sees them."""

from __future__ import annotations

import re

from pybpfload.kernel import door

__all__ = ["mounted"]

_OCTAL = re.compile(r"\\([0-7]{3})")  # blanks, tabs, newlines and backslashes in paths


def mounted(kind: str) -> list[str]:
    """Mount points of a type of filesystem, in the order of mounting; none without ``/proc``.

    Args:
        kind: ``"bpf"``, ``"cgroup2"``, ``"tracefs"``, ...
    """
    try:
        lines = door.read_file("/proc/self/mounts").decode(errors="surrogateescape").splitlines()
    except OSError:
        return []
    places = (words[1] for words in map(str.split, lines) if words[2:3] == [kind])
    return [_OCTAL.sub(lambda match: chr(int(match[1], 8)), place) for place in places]
