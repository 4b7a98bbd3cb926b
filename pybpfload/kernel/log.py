"""The verifier's log: what it says, in data.

The log is text for people and changes with kernel versions, so nothing depends on these readings:
a log that is not understood gives no instruction and no source line, and a plain summary.
"""

from __future__ import annotations

import re

from pybpfload.kernel.call import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = [
    "POISON_CORE",
    "POISON_KFUNC",
    "POISON_MAP",
    "LogReading",
    "explain_poison",
    "read_log",
]

POISON_CORE = 195896080
"""Helper number that marks an unresolved CO-RE relocation (libbpf's constant)."""
POISON_MAP = 2001000000
"""Helper number, plus the map's index, that marks a reference to a map that was not created."""
POISON_KFUNC = 2002000000
"""Helper number, plus the extern's index, that marks a call of an unresolved kfunc."""

_TAIL = 1 << 16  # characters; the reason is at the end, and a log may have a hundred megabytes


class LogReading(Record):
    """What a log says.

    Attributes:
        summary: The verifier's own reason, empty if the log tells none.
        insn: Index of the instruction it stopped at, in units of 8 bytes, or ``None``.
        source: Source line of that instruction, ``file:line: text`` or only the text, or ``None``.
    """

    __slots__ = ("insn", "source", "summary")
    summary: str
    insn: int | None
    source: str | None


def read_log(log: str) -> LogReading:
    """Find the reason, the instruction and the source line in a log of level 1 or 2.

    The reason is what stands behind the last instruction (without statistics and register states),
    its last two lines at most. :func:`pybpfload.verifier.explain` has the rest.
    """
    from pybpfload.verifier.log import read  # needed after a failure only

    found = read(log[-_TAIL:])
    return LogReading(summary="; ".join(found.reasons[-2:]), insn=found.insn, source=found.source)


_POISONED = re.compile(r"(\d{1,9}): \(85\) call unknown#(\d{1,10})\s*$")
_INVALID = re.compile(r"invalid func unknown#(\d{1,10})\s*$")
_MEANING = {
    "core": "<invalid CO-RE relocation>",
    "map": "<invalid BPF map reference>",
    "kfunc": "<invalid kfunc call>",
}


def explain_poison(log: str, poisons: Mapping[int, Any]) -> tuple[str, str | None, Any]:
    """Replace the verifier's words about a poisoned instruction by what they mean.

    An instruction that could not be relocated is replaced by a call of a helper that does not
    exist, which only matters if the verifier can reach it. Source of the rule: libbpf,
    ``fixup_verifier_log()``: only the last 10 lines are looked at.

    Args:
        log: The log.
        poisons: Index of each poisoned instruction: something whose ``str()`` explains it in one
            line. The log is left alone where there is nothing.

    Returns:
        The new log, the kind (``"core"``, ``"map"``, ``"kfunc"``, or ``None`` if there was no
        poison), and what ``poisons`` has for it.
    """
    lines = log.split("\n")
    for i in range(len(lines) - 1, max(0, len(lines) - 11), -1):
        invalid, call = _INVALID.match(lines[i]), _POISONED.match(lines[i - 1])
        if not invalid or not call or invalid.group(1) != call.group(2):
            continue
        number, insn = int(call.group(2)), int(call.group(1))
        if number == POISON_CORE:
            kind = "core"
        elif number // 10000 == POISON_MAP // 10000:
            kind = "map"
        elif number // 1000000 == POISON_KFUNC // 1000000:
            kind = "kfunc"
        else:
            continue
        meaning = poisons.get(insn)
        if meaning is None:
            break
        lines[i - 1 : i + 1] = [f"{insn}: {_MEANING[kind]}", str(meaning)]
        return "\n".join(lines), kind, meaning
    return log, None, None
