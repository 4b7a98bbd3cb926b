"""The loop over the CO-RE records of an object (libbpf ``bpf_object__relocate_core``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload import logs
from pybpfload.errors import FormatError, RelocationError
from pybpfload.isa.insn import LDIMM64
from pybpfload.relocate.core import access, compute, match, patch
from pybpfload.relocate.core.candidates import Candidate, Candidates, Target
from pybpfload.relocate.core.decision import Budget, CoreDecision, CoreKind, Failure, Outcome, Spec
from pybpfload.relocate.failure import at_function

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.btf.ext import CoreRelo
    from pybpfload.isa.insn import Insn
    from pybpfload.object.spec import ObjectSpec, ProgramSpec

__all__ = ["check_records", "relocate_core"]

_AMBIGUOUS = "ask first for a member that only the right one of them has: that rules out the others"
_DISAGREEMENT = "code and BTF of the object do not agree; compile it again"
_INCOMPLETE = "that BTF is damaged or only declares the type; relocate against one that defines it"


def relocate_core(
    spec: ObjectSpec, code: dict[int, list[Insn]], target: Target, *, everything: bool
) -> list[CoreDecision]:
    """Apply all CO-RE relocations of an object, in the order of its records.

    Args:
        spec: The object; not changed.
        code: Instructions of each function by ``id()`` of its spec; edited.
        target: What to relocate against.
        everything: Do all programs, not only those that are loaded.

    Returns:
        A decision for every record that was processed.

    Raises:
        RelocationError: A record cannot be honoured; its decision is attached.
    """
    check_records(spec)
    left_out = set() if everything else {*map(id, spec)} - {*map(id, spec.loaded_programs.values())}
    records = [
        (serial, index, record, function)
        for function in spec.functions
        if id(function) not in left_out
        for serial, index, record in function.core_relos
    ]
    if not records:
        return []
    records.sort(key=lambda item: item[0])
    btf = spec.require_btf("CO-RE")
    candidates = Candidates(btf, target)
    budget = Budget(len(records))
    decisions = []
    log = logs.debug(logs.RELOCATIONS)
    for serial, index, record, function in records:
        budget.start()
        insns = code[id(function)]
        decision = _decide(spec, candidates, target, budget, insns, serial, index, record, function)
        decisions.append(decision)
        if log is not None:
            log("%s", _told(decision))
    return decisions


def _told(decision: CoreDecision) -> str:
    """A decision in one line, for the logger."""
    target = f" -> {decision.target} of {decision.target.btf.name}" if decision.target else ""
    value = "" if decision.value is None else f", {decision.original} -> {decision.value}"
    reason = f" ({decision.reason})" if decision.reason else ""
    place = f"{decision.function}, instruction {decision.insn}"
    return f"{place}: {decision}{target}{value}: {decision.outcome}{reason}"


def check_records(spec: ObjectSpec) -> None:
    """Refuse damaged records, also those of code that is not relocated, as libbpf does.

    Raises:
        RelocationError: There is one.
    """
    for section, record in spec.btf_ext.core_relos() if spec.btf_ext is not None else ():
        if not section:
            raise RelocationError(
                "CO-RE relocations for a section without a name",
                file=spec.path,
                section=".BTF.ext",
                hint=_DISAGREEMENT,
            )
        if record.insn_off % 8:
            raise RelocationError(
                "CO-RE relocation is not at an instruction",
                file=spec.path,
                section=section,
                offset=record.insn_off,
                hint=_DISAGREEMENT,
            )


def _decide(
    spec: ObjectSpec,
    candidates: Candidates,
    target: Target,
    budget: Budget,
    insns: list[Insn],
    serial: int,
    index: int,
    record: CoreRelo,
    function: ProgramSpec,
) -> CoreDecision:
    width = 2 if insns[index].code == LDIMM64 else 1
    try:
        kind = CoreKind(record.kind)
    except ValueError:
        raise at_function(
            function,
            index,
            f"CO-RE relocation of unknown kind {record.kind}",
            file=spec.path,
            hint=_DISAGREEMENT,
        ) from None
    decision = CoreDecision(serial, function.name, index, kind, record.access_str)
    decision.before = tuple(insns[index : index + width])
    try:
        _resolve(decision, candidates, target, budget, insns, record, spec.byteorder)
    except (Failure, FormatError) as error:
        decision.reason = str(error)
        raise at_function(
            function,
            index,
            f"CO-RE relocation {decision}: {decision.reason}",
            file=spec.path,
            decision=decision,
            symbol=_name_of(candidates.local, record.type_id),
            hint=error.hint or (_INCOMPLETE if isinstance(error, FormatError) else _DISAGREEMENT),
        ) from error
    decision.after = tuple(insns[index : index + width])
    return decision


def _name_of(btf: Btf, type_id: int) -> str | None:
    return btf.type_name(type_id) or None if 0 < type_id < len(btf) else None


def _resolve(
    decision: CoreDecision,
    candidates: Candidates,
    target: Target,
    budget: Budget,
    insns: list[Insn],
    record: CoreRelo,
    byteorder: str,
) -> None:
    btf, kind, type_id = candidates.local, decision.kind, record.type_id
    name = btf.type_name(type_id) if type_id else ""
    if kind == CoreKind.LOCAL_TYPE_ID:
        local = decision.local = access.parse_spec(btf, type_id, record.access_str, kind)
        original = value = compute.compute(local, byteorder)
        _apply(decision, insns, original, value, None)
        return
    if not name:
        raise Failure(
            f"{btf.describe(type_id)} has no name to look for",
            "give the type that the program relocates a name",
        )
    offered = candidates[type_id]
    decision.candidates = [(c.btf.name, c.type_id) for c in offered]
    local = decision.local = access.parse_spec(btf, type_id, record.access_str, kind)
    if target.btf is None:
        raise Failure("there is no BTF to relocate against", "give a kernel's, as btf=...")
    matched: list[tuple[Candidate, Spec]] = []
    for candidate in offered:
        budget.spend()
        found = match.match_spec(local, candidate.btf, candidate.type_id, budget)
        if found is not None:
            matched.append((candidate, found))
    original = (
        compute.compute(local, byteorder)
        if kind != CoreKind.FIELD_EXISTS
        else compute.Value(1, True)
    )
    if not matched:
        missing = compute.missing_value(kind)
        if missing is None:
            decision.original = original.value
            decision.outcome = Outcome.POISONED
            decision.reason = (
                f"the target has no {name!r}"
                if not offered
                else f"no {name!r} of the target has this field"
            )
            patch.poison(insns, decision.insn)
            return
        _apply(decision, insns, original, missing, None)
        return
    first = matched[0][1]
    value = compute.compute(first, byteorder)
    for _, other in matched[1:]:
        if other.bit_offset != first.bit_offset:
            raise Failure(
                f"ambiguous: the field is at bit {first.bit_offset} in {first} "
                f"and at {other.bit_offset} in {other}",
                _AMBIGUOUS,
            )
        other_value = compute.compute(other, byteorder)
        if other_value.value != value.value:
            raise Failure(
                f"ambiguous: {value.value} for {first} and {other_value.value} for {other}",
                _AMBIGUOUS,
            )
    candidates.keep(type_id, [candidate for candidate, _ in matched])
    decision.target = first
    resize = (
        compute.size_change(local, original, first, value) if kind == CoreKind.BYTE_OFF else None
    )
    _apply(decision, insns, original, value, resize)


def _apply(
    decision: CoreDecision,
    insns: list[Insn],
    original: compute.Value,
    value: compute.Value,
    resize: bool | None,
) -> None:
    decision.original = original.value
    reason = patch.patch(insns, decision.insn, original, value, resize)
    if reason is not None:
        decision.outcome = Outcome.POISONED
        decision.reason = reason
        return
    decision.value = value.value
    now = tuple(insns[decision.insn : decision.insn + len(decision.before)])
    decision.outcome = Outcome.UNCHANGED if now == decision.before else Outcome.PATCHED
