"""Which CO-RE relocations of an object come out differently on two kernels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pybpfload.errors import RelocationError
from pybpfload.relocate.core import CoreKind, Outcome
from pybpfload.relocate.core.driver import check_records, relocate_core

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.isa.insn import Insn
    from pybpfload.object.spec import ObjectSpec, ProgramSpec
    from pybpfload.relocate.core.candidates import Target

__all__ = ["CoreChange", "Result", "core_changes"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one relocation comes to on one kernel.

    Attributes:
        outcome: One of :class:`Outcome`, or ``"failed"``: the object cannot be relocated.
        value: The value, ``None`` where there is none.
        target: The access in the kernel's types, ``""`` if nothing matched.
        reason: Why it was poisoned or failed.
    """

    outcome: str
    value: int | None
    target: str
    reason: str

    def __str__(self) -> str:
        if self.outcome in ("failed", Outcome.POISONED):
            return f"{self.outcome}: {self.reason}"
        return str(self.value)


@dataclass(frozen=True, slots=True)
class CoreChange:
    """A relocation whose result differs.

    Attributes:
        function: Program or subprogram.
        insn: Index of the instruction there.
        kind: What was asked.
        local: The access in the object's own types.
        before, after: The results.
    """

    function: str
    insn: int
    kind: CoreKind
    local: str
    before: Result
    after: Result

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        results = {
            side: {
                "outcome": result.outcome,
                "value": result.value,
                "target": result.target,
                "reason": result.reason,
            }
            for side, result in (("before", self.before), ("after", self.after))
        }
        return {
            "function": self.function,
            "insn": self.insn,
            "kind": self.kind.name.lower(),
            "local": self.local,
            **results,
        }


def core_changes(spec: ObjectSpec, before: Target, after: Target) -> Iterator[CoreChange]:
    """Relocate each record of an object by itself on two kernels.

    Ids of types differ between any two kernels, so that they count only where one has no such type.

    Args:
        spec: The object; not changed.
        before: One kernel.
        after: The other.

    Yields:
        The relocations that come out differently, function by function.

    Raises:
        FormatError: The BTF of the object or of a kernel is damaged.
        RelocationError: The object's records are damaged.
    """
    check_records(spec)
    spec = replace(spec, btf_ext=None)  # whose records would be checked once for each of them
    for function in spec.functions:
        code = list(function.insns)
        for record in function.core_relos:
            _, insn, relo = record
            local, old = _result(spec, function, code, record, before)
            code[insn : insn + 2] = function.insns[insn : insn + 2]
            _, new = _result(spec, function, code, record, after)
            code[insn : insn + 2] = function.insns[insn : insn + 2]
            is_id = relo.kind == CoreKind.TARGET_TYPE_ID and bool(old.value) and bool(new.value)
            if (old.outcome, old.value) != (new.outcome, new.value) and not is_id:
                yield CoreChange(function.name, insn, CoreKind(relo.kind), local, old, new)


def _result(
    spec: ObjectSpec, function: ProgramSpec, code: list[Insn], record: Any, target: Target
) -> tuple[str, Result]:
    """One record on one kernel: the access in the object's types, and what comes of it.

    Patches the instruction in ``code``.
    """
    alone = replace(function, core_relos=[record])
    part = replace(spec, functions=[alone])
    try:
        (decision,) = relocate_core(part, {id(alone): code}, target, everything=True)
    except RelocationError as error:
        local = str(error.decision.local or "") if error.decision else ""
        return local, Result("failed", None, "", str(error))
    where = str(decision.target) if decision.target else ""
    return str(decision.local or ""), Result(
        decision.outcome, decision.value, where, decision.reason
    )
