"""What comes out of checking: whether an object will load, and what stands in its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DEGRADED", "FAILS", "LOADS", "Finding", "Verdict"]

LOADS, DEGRADED, FAILS = "loads", "degraded", "fails"
"""Verdicts: the kernel has everything; it lacks something that the programs ask for before they use
it; it lacks something without which they cannot be loaded or attached."""


@dataclass(frozen=True)
class Finding:
    """Something that the kernel lacks, or that cannot be told.

    Attributes:
        what: A sentence.
        kind: ``"object"``, ``"relocation"``, ``"extern"``, ``"kconfig"``, ``"target"``,
            ``"struct_ops"``, ``"license"``, ``"context"``, ``"size"``, ``"map"``, or a kind of
            :class:`~pybpfload.check.needs.Need`.
        program: Name of the program, empty for the object.
        insn: Index of the instruction, -1 for none.
        source: Its C line, empty if unknown.
        since: First version of Linux that has it, ``None`` if there is none or that is not the
            point.
        remedy: What to do about it, empty if there is nothing to say.
    """

    what: str
    kind: str
    program: str = ""
    insn: int = -1
    source: str = ""
    since: str | None = None
    remedy: str = ""

    def __str__(self) -> str:
        where = f"program {self.program}" if self.program else ""
        if self.insn >= 0:
            where += f", instruction {self.insn}"
        if self.source:
            where += f" ({self.source})"
        what = f"{self.what} (Linux {self.since})" if self.since else self.what
        line = f"{where}: {what}" if where else what
        return f"{line}; {self.remedy}" if self.remedy else line

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "kind": self.kind,
            "what": self.what,
            "program": self.program or None,
            "insn": self.insn if self.insn >= 0 else None,
            "source": self.source or None,
            "since": self.since,
            "remedy": self.remedy or None,
        }


@dataclass
class Verdict:
    """What came out for one object and one kernel.

    Attributes:
        object, kernel: Their names.
        release: The kernel's release, ``""`` if it is not known.
        problems: What keeps it from loading or attaching.
        degraded: What the kernel lacks and the programs do without.
        unknown: What could not be told.
    """

    object: str
    kernel: str
    problems: list[Finding] = field(default_factory=list)
    degraded: list[Finding] = field(default_factory=list)
    unknown: list[Finding] = field(default_factory=list)
    release: str = ""

    @property
    def result(self) -> str:
        """One of :data:`LOADS`, :data:`DEGRADED`, :data:`FAILS`."""
        return FAILS if self.problems else DEGRADED if self.degraded else LOADS

    def _repr_html_(self) -> str:
        from importlib import import_module  # the room of commands is above this one

        return str(import_module("pybpfload.cli.notebook").verdict(self))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "object": self.object,
            "kernel": self.kernel,
            "release": self.release or None,
            "result": self.result,
            "problems": [each.to_dict() for each in self.problems],
            "degraded": [each.to_dict() for each in self.degraded],
            "unknown": [each.to_dict() for each in self.unknown],
        }
