"""Step 3: following an access in the types of the target (libbpf ``bpf_core_spec_match``)."""

from __future__ import annotations

from pybpfload.btf import Btf
from pybpfload.btf import types as t
from pybpfload.btf.table import essential_name
from pybpfload.relocate.core.access import is_flexible
from pybpfload.relocate.core.decision import (
    ENUMVAL_KINDS,
    MAX_SPEC,
    TYPE_KINDS,
    Accessor,
    Budget,
    CoreKind,
    Failure,
    Spec,
)

__all__ = ["match_spec", "types_compatible", "types_match"]

_LEVELS = 32
_MASK = 0xFFFFFFFF
_ENDS = frozenset(
    {t.Kind.VOID, t.Kind.STRUCT, t.Kind.UNION, t.Kind.ENUM, t.Kind.ENUM64, t.Kind.FWD}
)


def match_spec(local: Spec, target: Btf, candidate: int, budget: Budget) -> Spec | None:
    """Follow a local access from a candidate type.

    Returns:
        The access in the target's types, or ``None`` when the candidate does not have it.

    Raises:
        Failure: A rule makes this fatal rather than a mismatch.
    """
    spec = Spec(target, candidate, local.kind)
    if local.kind in TYPE_KINDS:
        if local.kind == CoreKind.TYPE_MATCHES:
            fits = types_match(local.btf, local.root, target, candidate, budget)
        else:
            fits = types_compatible(local.btf, local.root, target, candidate, budget)
        return spec if fits else None
    if local.kind in ENUMVAL_KINDS:
        return _match_enumerator(local, target, candidate, spec)
    current = candidate
    for position, accessor in enumerate(local.accessors):
        if accessor.name is not None:
            member = _find_member(local, accessor, target, current, spec, budget)
            if member is None:
                return None
            current = member
            continue
        if position:
            array = target[target.strip(current)]
            if not isinstance(array, t.Array):
                return None
            if accessor.index >= array.nelems and not is_flexible(target, spec.last, array):
                return None
            current = array.type
        if len(spec.raw) == MAX_SPEC:
            raise Failure("the target nests too deeply")
        current = target.strip(current)
        spec.accessors.append(Accessor(current, accessor.index, None))
        spec.raw.append(accessor.index)
        spec.bit_offset = spec.bit_offset + accessor.index * target.size(current) * 8 & _MASK
    return spec


def _match_enumerator(local: Spec, target: Btf, candidate: int, spec: Spec) -> Spec | None:
    stripped = target.strip(candidate)
    enum = target[stripped]
    if not isinstance(enum, (t.Enum, t.Enum64)):
        return None
    wanted = essential_name(local.accessors[0].name or "")
    for index, enumerator in enumerate(enum.values):
        if essential_name(enumerator.name) == wanted:
            spec.accessors.append(Accessor(stripped, index, enumerator.name))
            spec.raw.append(index)
            return spec
    return None


def _find_member(
    local: Spec, accessor: Accessor, target: Btf, type_id: int, spec: Spec, budget: Budget
) -> int | None:
    """Find the member that an accessor names, in anonymous members too.

    Returns:
        The type id of the member, or ``None``. ``spec`` is extended only when it is found.
    """
    parent = local.btf[accessor.type_id]
    assert isinstance(parent, t.Composite)
    wanted_type = parent.members[accessor.index].type
    raw, bit_offset = len(spec.raw), spec.bit_offset

    # Depth is bounded by MAX_SPEC, because every level takes an index.
    def search(current: int) -> int | bool | None:
        current = target.strip(current)
        composite = target[current]
        if not isinstance(composite, t.Composite):
            return None
        for index, member in enumerate(composite.members):
            budget.spend()
            if len(spec.raw) == MAX_SPEC:
                raise Failure("the target nests too deeply")
            before = spec.bit_offset
            spec.raw.append(index)
            spec.bit_offset = before + member.bit_offset & _MASK
            if not member.name:
                found = search(member.type)
                if found is not None and found is not False:
                    return found
            elif member.name == accessor.name:
                # The first member of that name ends the search of this struct, compatible or not.
                if fields_compatible(local.btf, wanted_type, target, member.type, budget):
                    spec.accessors.append(Accessor(current, index, member.name))
                    return member.type
                spec.raw.pop()
                spec.bit_offset = before
                return False
            spec.raw.pop()
            spec.bit_offset = before
        return None

    found = search(type_id)
    if found is None or found is False:
        del spec.raw[raw:]
        spec.bit_offset = bit_offset
        return None
    return found


def _same_kind(one: int, other: int) -> bool:
    return one == other or (one in t.ENUM_KINDS and other in t.ENUM_KINDS)


def fields_compatible(
    local: Btf, local_id: int, target: Btf, target_id: int, budget: Budget
) -> bool:
    """Whether a member may stand for one of the other type (``bpf_core_fields_are_compat``)."""
    while True:
        budget.spend()
        local_id, target_id = local.strip(local_id), target.strip(target_id)
        one, other = local[local_id], target[target_id]
        if isinstance(one, t.Composite) and isinstance(other, t.Composite):
            return True
        if not _same_kind(one.kind, other.kind):
            return False
        if isinstance(one, (t.Ptr, t.Float)):
            return True
        if isinstance(one, (t.Fwd, t.Enum, t.Enum64)):
            if not one.name or not other.name:
                return True
            return essential_name(one.name) == essential_name(other.name)
        if isinstance(one, t.Int) and isinstance(other, t.Int):
            return one.offset == 0 and other.offset == 0
        if isinstance(one, t.Array) and isinstance(other, t.Array):
            local_id, target_id = one.type, other.type
            continue
        return False


def types_compatible(
    local: Btf, local_id: int, target: Btf, target_id: int, budget: Budget, level: int = _LEVELS
) -> bool:
    """Whether two types correspond in outline (libbpf ``__bpf_core_types_are_compat``).

    Names do not count. Also used for typed ksyms and kfuncs.

    Raises:
        Failure: The types nest too deeply.
    """
    if not _same_kind(local.kind(local_id), target.kind(target_id)):
        return False
    for _ in range(_LEVELS):
        budget.spend()
        local_id, target_id = local.strip(local_id), target.strip(target_id)
        one, other = local[local_id], target[target_id]
        if not _same_kind(one.kind, other.kind):
            return False
        if one.kind in _ENDS and not isinstance(one, t.Opaque):
            return True
        if isinstance(one, t.Int) and isinstance(other, t.Int):
            return one.offset == 0 and other.offset == 0
        if isinstance(one, (t.Ptr, t.Array)) and isinstance(other, (t.Ptr, t.Array)):
            local_id, target_id = one.type, other.type
            continue
        if isinstance(one, t.FuncProto) and isinstance(other, t.FuncProto):
            if len(one.params) != len(other.params):
                return False
            for mine, theirs in zip(one.params, other.params, strict=True):
                if level - 1 <= 0:
                    raise Failure("function types nest too deeply")
                if not types_compatible(
                    local,
                    local.strip(mine.type),
                    target,
                    target.strip(theirs.type),
                    budget,
                    level - 1,
                ):
                    return False
            local_id, target_id = local.strip(one.return_type), target.strip(other.return_type)
            continue
        return False
    raise Failure("types nest too deeply")


def types_match(
    local: Btf,
    local_id: int,
    target: Btf,
    target_id: int,
    budget: Budget,
    behind_ptr: bool = False,
    level: int = _LEVELS,
) -> bool:
    """Whether the target's type has all of the local one, by name (``__bpf_core_types_match``).

    Raises:
        Failure: The types nest too deeply.
    """
    if level <= 0:
        raise Failure("types nest too deeply")
    for _ in range(_LEVELS):
        budget.spend()
        local_id, target_id = local.strip(local_id), target.strip(target_id)
        one, other = local[local_id], target[target_id]
        if not _names_match(one.name if local_id else "", other.name if target_id else ""):
            return False
        if isinstance(one, t.Void):
            return isinstance(other, t.Void)
        if isinstance(one, t.Fwd):
            if isinstance(other, t.Fwd):
                return one.is_union == other.is_union
            return behind_ptr and isinstance(other, t.Union if one.is_union else t.Struct)
        if isinstance(one, (t.Enum, t.Enum64)):
            return isinstance(other, (t.Enum, t.Enum64)) and _enums_match(one, other, budget)
        if isinstance(one, t.Composite):
            if behind_ptr:
                if isinstance(other, t.Fwd):
                    return other.is_union == isinstance(one, t.Union)
                return one.kind == other.kind
            return (
                isinstance(other, t.Composite)
                and one.kind == other.kind
                and _members_match(local, one, target, other, budget, level)
            )
        if isinstance(one, t.Int):
            return (
                isinstance(other, t.Int) and one.size == other.size and one.signed == other.signed
            )
        if isinstance(one, t.Ptr):
            if not isinstance(other, t.Ptr):
                return False
            behind_ptr = True
            local_id, target_id = one.type, other.type
        elif isinstance(one, t.Array):
            if not isinstance(other, t.Array) or one.nelems != other.nelems:
                return False
            local_id, target_id = one.type, other.type
        elif isinstance(one, t.FuncProto):
            if not isinstance(other, t.FuncProto) or len(one.params) != len(other.params):
                return False
            for mine, theirs in zip(one.params, other.params, strict=True):
                if not types_match(
                    local, mine.type, target, theirs.type, budget, behind_ptr, level - 1
                ):
                    return False
            local_id, target_id = one.return_type, other.return_type
        else:
            return False
    raise Failure("types nest too deeply")


def _names_match(one: str, other: str) -> bool:
    if one == other:
        return True
    return bool(one and other) and essential_name(one) == essential_name(other)


def _enums_match(one: t.Enum | t.Enum64, other: t.Enum | t.Enum64, budget: Budget) -> bool:
    if one.size != other.size or len(one.values) > len(other.values):
        return False
    budget.spend(len(other.values))
    known = {essential_name(value.name) for value in other.values}
    return all(essential_name(value.name) in known for value in one.values)


def _members_match(
    local: Btf, one: t.Composite, target: Btf, other: t.Composite, budget: Budget, level: int
) -> bool:
    if len(one.members) > len(other.members):
        return False
    budget.spend(len(other.members))
    named: dict[str, list[t.Member]] = {}
    for theirs in other.members:
        named.setdefault(essential_name(theirs.name), []).append(theirs)
    return all(
        any(
            types_match(local, mine.type, target, theirs.type, budget, False, level - 1)
            for theirs in named.get(essential_name(mine.name), ())
        )
        for mine in one.members
    )
