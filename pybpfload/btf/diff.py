"""What changed from one BTF to another: types that vanished and appeared, members that moved.

Types are those with a name: structs, unions, enums, typedefs, functions. Members are compared by
name, those of types without name by the path to them, so that wrapping some of them into a union
changes nothing. Where a name has several types of a kind, the first of each side are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import Declarer, room_for
from pybpfload.btf.layout import flat_members
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from re import Pattern

    from pybpfload.btf.table import Btf

__all__ = ["KINDS", "Change", "TypeChange", "diff"]

KINDS = ("struct", "union", "enum", "typedef", "function")
"""What is compared, by its name in :class:`TypeChange`."""

_MEMBERS, _BYTES_PER_MEMBER = 1 << 16, 8  # compared; kernels have one in 40 bytes

# How messages call a kind; enums of both kinds are the same to C.
_KINDS = {
    t.Kind.STRUCT: "struct",
    t.Kind.UNION: "union",
    t.Kind.ENUM: "enum",
    t.Kind.ENUM64: "enum",
    t.Kind.TYPEDEF: "typedef",
    t.Kind.FUNC: "function",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing about a type.

    Attributes:
        what: ``"size"``, ``"type"``, ``"prototype"``; of members and enumerators also
            ``"vanished"``, ``"appeared"``, ``"moved"``, ``"grew"``, ``"shrank"``, ``"value"``.
        name: Path of the member, name of the enumerator; ``""`` for the type itself.
        before, after: Sizes in bytes, offsets and widths in bits, values, or C text; ``None`` where
            there is nothing.
    """

    what: str
    name: str
    before: int | str | None
    after: int | str | None

    def __str__(self) -> str:
        """In words; offsets in bytes."""
        before, after = self.before, self.after
        if self.what == "moved":
            before, after = _place(before), _place(after)
        elif self.what in ("grew", "shrank"):
            before, after = _width(before), _width(after)
        if before is None or after is None:
            text = f"{self.what}: {before if after is None else after}"
        else:
            text = f"{self.what}: {before} -> {after}"
        return f"{self.name} {text}" if self.name else text


@dataclass(frozen=True, slots=True)
class TypeChange:
    """What changed about a type.

    Attributes:
        kind: ``"struct"``, ``"union"``, ``"enum"``, ``"typedef"`` or ``"function"``.
        name: Its name.
        what: ``"vanished"``, ``"appeared"`` or ``"changed"``.
        changes: What exactly, if it changed.
    """

    kind: str
    name: str
    what: str
    changes: tuple[Change, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "kind": self.kind,
            "name": self.name,
            "what": self.what,
            "changes": [
                {"what": c.what, "name": c.name, "before": c.before, "after": c.after}
                for c in self.changes
            ],
        }


def diff(
    before: Btf,
    after: Btf,
    *,
    kinds: Iterable[str] = KINDS,
    pattern: Pattern[str] | None = None,
) -> Iterator[TypeChange]:
    """Compare two tables.

    Args:
        before: The older one.
        after: The newer one.
        kinds: Which kinds of types, of :data:`KINDS`.
        pattern: Only types whose whole name matches, as of
            :func:`pybpfload.pattern.glob_pattern`.

    Yields:
        Types that changed, sorted by kind in the order of ``kinds`` and by name.

    Raises:
        FormatError: One of them is damaged.
    """
    kinds = tuple(kinds)
    old, new = _named(before, kinds, pattern), _named(after, kinds, pattern)
    left, right = _Side(before), _Side(after)
    for kind in kinds:
        for name in sorted({*old[kind], *new[kind]}):
            old_id, new_id = old[kind].get(name), new[kind].get(name)
            if new_id is None:
                yield TypeChange(kind, name, "vanished")
            elif old_id is None:
                yield TypeChange(kind, name, "appeared")
            elif changes := tuple(_changes(left, old_id, right, new_id)):
                yield TypeChange(kind, name, "changed", changes)


def _named(
    btf: Btf, kinds: tuple[str, ...], pattern: Pattern[str] | None
) -> dict[str, dict[str, int]]:
    """Ids of the types with a name by kind and name."""
    found: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    wanted = {number: found[kind] for number, kind in _KINDS.items() if kind in found}
    for type_id, number in zip(btf.own_ids(), btf.own_kinds(), strict=True):
        if number not in wanted:
            continue
        name = btf.type_name(type_id)
        if name and (pattern is None or pattern.fullmatch(name)):
            wanted[t.Kind(number)].setdefault(name, type_id)
    return found


class _Side:
    """One of the two tables; texts of types are made once."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._left = _MEMBERS + len(btf.to_bytes()) // _BYTES_PER_MEMBER
        self._declarer = Declarer(btf, room_for(btf))
        self._texts: dict[int, str] = {}

    def text(self, type_id: int) -> str:
        """The C text of a type."""
        known = self._texts.get(type_id)
        if known is None:
            known = self._texts[type_id] = self._declarer.text(type_id)
        return known

    def members(self, type_id: int) -> dict[str, tuple[t.Member, int]]:
        """Members by path, and their offsets."""
        found = {path: (member, offset) for path, member, offset in flat_members(self.btf, type_id)}
        self._left -= len(found)
        if self._left < 0:
            raise FormatError("types without name are mentioned too often", file=self.btf.name)
        return found

    def bits(self, member: t.Member) -> int:
        """Width of a member in bits."""
        return member.bitfield_size or 8 * self.btf.size(member.type)


def _changes(left: _Side, old_id: int, right: _Side, new_id: int) -> Iterator[Change]:
    old, new = left.btf[old_id], right.btf[new_id]
    if isinstance(old, t.Composite) and isinstance(new, t.Composite):
        if old.size != new.size:
            yield Change("size", "", old.size, new.size)
        yield from _member_changes(left, old_id, right, new_id)
    elif isinstance(old, (t.Enum, t.Enum64)) and isinstance(new, (t.Enum, t.Enum64)):
        if old.size != new.size:
            yield Change("size", "", old.size, new.size)
        was = {each.name: each.value for each in old.values}
        now = {each.name: each.value for each in new.values}
        for name in {**was, **now}:
            if was.get(name) != now.get(name):
                what = "vanished" if name not in now else "value" if name in was else "appeared"
                yield Change(what, name, was.get(name), now.get(name))
    elif isinstance(old, (t.Typedef, t.Func)) and isinstance(new, (t.Typedef, t.Func)):
        before, after = left.text(old.type), right.text(new.type)
        if before != after:
            yield Change("prototype" if isinstance(old, t.Func) else "type", "", before, after)


def _member_changes(left: _Side, old_id: int, right: _Side, new_id: int) -> Iterator[Change]:
    was, now = left.members(old_id), right.members(new_id)
    for path in {**was, **now}:
        if path not in now:
            yield Change("vanished", path, left.text(was[path][0].type), None)
            continue
        if path not in was:
            yield Change("appeared", path, None, right.text(now[path][0].type))
            continue
        (old, old_at), (new, new_at) = was[path], now[path]
        if old_at != new_at:
            yield Change("moved", path, old_at, new_at)
        before, after = left.text(old.type), right.text(new.type)
        if before != after:
            yield Change("type", path, before, after)
        size_before, size_after = left.bits(old), right.bits(new)
        if size_before != size_after:
            what = "grew" if size_before < size_after else "shrank"
            yield Change(what, path, size_before, size_after)


def _place(bits: int | str | None) -> str:
    assert isinstance(bits, int)
    return f"{bits // 8}:{bits % 8}" if bits % 8 else str(bits // 8)


def _width(bits: int | str | None) -> str:
    assert isinstance(bits, int)
    return f"{bits} bits" if bits % 8 else f"{bits // 8} bytes"
