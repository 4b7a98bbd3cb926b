"""Finding types in BTF: by name, kind, size, members, and the types of members."""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import Declarer, room_for
from pybpfload.btf.layout import flat_members
from pybpfload.errors import FormatError
from pybpfload.pattern import glob_pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf.table import Btf

__all__ = ["Found", "search"]

_SIZED = frozenset(
    {t.Kind.INT, t.Kind.STRUCT, t.Kind.UNION, t.Kind.FLOAT, t.Kind.DATASEC, *t.ENUM_KINDS}
)
_TAGS: dict[str, tuple[t.Kind, ...]] = {
    "struct": (t.Kind.STRUCT, t.Kind.FWD),
    "union": (t.Kind.UNION, t.Kind.FWD),
    "enum": (t.Kind.ENUM, t.Kind.ENUM64),
}
_TAGS[""] = tuple({kind for kinds in _TAGS.values() for kind in kinds})
_UNTAGGED = (t.Kind.INT, t.Kind.FLOAT, t.Kind.TYPEDEF)  # C names these without
_COMPOSITES = (t.Kind.STRUCT, t.Kind.UNION)
_MEMBERS, _BYTES_PER_MEMBER = 1 << 16, 8  # looked at for one search; kernels have one in 40 bytes
_TYPE = re.compile(r"\s*(?:(struct|union|enum)\s+)?([^*]*[^*\s])\s*((?:\*\s*)*)")


@dataclass(frozen=True, slots=True)
class Found:
    """A type that was found.

    Attributes:
        id: Its id.
        kind: Its kind.
        name: Its name; that of a struct or union without one is the name of a typedef of it.
        size: In bytes; ``None`` for what has none.
        members: Members that were asked for: path, offset in bits, C declaration.
    """

    id: int
    kind: t.Kind
    name: str
    size: int | None
    members: tuple[tuple[str, int, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "id": self.id,
            "kind": self.kind.name,
            "name": self.name,
            "size": self.size,
            "members": [
                {"path": path, "bits_offset": offset, "declaration": text}
                for path, offset, text in self.members
            ],
        }


def search(
    btf: Btf,
    name: str = "",
    *,
    kind: t.Kind | None = None,
    member: str = "",
    member_type: str = "",
    size: int | None = None,
) -> Iterator[Found]:
    """Find types; what is not asked for does not matter.

    Args:
        btf: The types; of split BTF only its own.
        name: Name, or a pattern with ``*`` and ``?``; also ``struct NAME``, ``union``, ``enum``.
        kind: Of the type itself.
        member: Name of a member, or such a pattern; also one inside a type without name.
        member_type: Type of a member in C: ``struct list_head``, ``pid_t``, ``struct sock *``.
            Qualifiers, and how many elements it is an array of, do not matter; nor need
            ``struct``, ``union`` and ``enum`` be said, unless a typedef has that name, too.
        size: Size in bytes.

    Yields:
        Types by ascending id. With ``member`` or ``member_type`` only structs and unions that have
        a name themselves or by a typedef.

    Raises:
        FormatError: The BTF is damaged.
        ValueError: ``member_type`` is no type.
    """
    tag, _, tagged = name.partition(" ")
    of_tag: set[t.Kind] = set(t.Kind)
    if tag and tag in _TAGS:
        name, of_tag = tagged.strip(), set(_TAGS[tag])
    named = glob_pattern(name).fullmatch if name else None
    wanted = _WantedType(btf, member_type) if member_type else None
    of_member = glob_pattern(member).fullmatch if member else None
    inside = bool(member or member_type)
    kinds = of_tag & {*_COMPOSITES, t.Kind.TYPEDEF} if inside else of_tag
    declarer = Declarer(btf, room_for(btf))
    left = _MEMBERS + len(btf.to_bytes()) // _BYTES_PER_MEMBER
    for type_id, number in zip(btf.own_ids(), btf.own_kinds(), strict=True):
        if number not in kinds:
            continue
        called = btf.type_name(type_id)
        if not called or (named is not None and not named(called)):
            continue
        target = type_id
        if inside and number == t.Kind.TYPEDEF:
            target = _of_typedef(btf, type_id)
        if not target or kind not in (None, btf.kind(target)):
            continue
        has = btf.size(target) if btf.kind(target) in _SIZED else None
        if size is not None and has != size:
            continue
        members: tuple[tuple[str, int, str], ...] = ()
        if inside:
            inner = sorted(flat_members(btf, target), key=itemgetter(2))
            left -= len(inner)
            if left < 0:
                raise FormatError("types without name are mentioned too often", file=btf.name)
            members = tuple(
                (path, offset, declarer.text(each.type, each.name))
                for path, each, offset in inner
                if (of_member is None or of_member(each.name))
                and (wanted is None or wanted.matches(each.type))
            )
            if not members:
                continue
        yield Found(target, t.Kind(btf.kind(target)), called, has, members)


def _of_typedef(btf: Btf, type_id: int) -> int:
    """The struct or union without name that a typedef names; 0 if it names something else."""
    target = btf[type_id]
    assert isinstance(target, t.Typedef)
    inner = btf.strip(target.type, typedefs=False)
    return inner if btf.kind(inner) in _COMPOSITES and not btf.type_name(inner) else 0


class _WantedType:
    """A type in C, as far as people search for them: a name and stars behind it."""

    def __init__(self, btf: Btf, text: str) -> None:
        found = _TYPE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no type, as 'struct sock *' is one")
        tag, name, stars = found.groups()
        self._btf = btf
        self._stars = stars.count("*")
        called = [(i, btf.kind(i)) for i in btf.find_all(" ".join(name.split()))]
        untagged = {i for i, kind in called if kind in _UNTAGGED} if not tag else set()
        self._ids = untagged or {i for i, kind in called if kind in _TAGS[tag or ""]}
        self._void = name == "void" and not tag
        self._known: dict[int, bool] = {}

    def matches(self, type_id: int) -> bool:
        """Whether something is of the type, or an array of it."""
        known = self._known.get(type_id)
        if known is None:
            known = self._known[type_id] = self._compare(type_id)
        return known

    def _compare(self, type_id: int) -> bool:
        btf, stars = self._btf, self._stars
        for _ in range(len(btf)):
            type_id = btf.strip(type_id, typedefs=False)
            found = btf[type_id]
            if isinstance(found, t.Array):
                type_id = found.type
            elif isinstance(found, t.Ptr) and stars:
                stars -= 1
                type_id = found.type
            else:
                break
        return not stars and (type_id in self._ids or (self._void and not type_id))
