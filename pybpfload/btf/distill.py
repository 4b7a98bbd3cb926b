"""Split BTF that outlives its base: :func:`distill_base` and :func:`relocate_base`.

Split BTF refers to types of its base by their ids, and those are others in the next build of the
base. So a kernel module that is not built together with its kernel brings a *distilled base* along,
in the ELF section ``.BTF.base``: for each type of the kernel that its own BTF refers to the name,
kind and size, and nothing else. Whoever loads the module finds these types in the kernel at hand
and puts their ids in place of those of the distilled base. Linux does so since 6.11, libbpf since
1.5; ``pahole --btf_features=distilled_base`` makes such modules.

Which types have a match, and which have too many, is decided here by the rules of ``btf_relocate``,
which libbpf and the kernel share. They are told where they are implemented, see
:meth:`_Outline.fits`.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.table import Btf
from pybpfload.btf.types import COMPOSITE_KINDS, ENUM_KINDS, MODIFIERS, Kind
from pybpfload.btf.words import Places, Renumbered, Texts, require_known_kinds
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["base_name", "distill_base", "relocate_base"]

_SCALARS = frozenset({Kind.INT, Kind.FLOAT})
_SIZED = _SCALARS | ENUM_KINDS
_DISTILLED = _SCALARS | COMPOSITE_KINDS | {Kind.ENUM, Kind.FWD}
_NAMED = _SIZED | COMPOSITE_KINDS | {Kind.FWD}
_BY_VALUE = MODIFIERS | {Kind.TYPEDEF, Kind.ARRAY}
_REFERRED = _NAMED | _BY_VALUE | {Kind.PTR, Kind.FUNC_PROTO}
_ENUM_SIZES = (1, 2, 4, 8)
_STEPS, _STEPS_PER_TYPE = 1 << 20, 1 << 5  # of comparing types; a kernel takes one or two for each


def base_name(split: str) -> str:
    """What to call the distilled base of a table in messages."""
    return f"{split}, distilled base"


# Distilling


def distill_base(split: Btf) -> Renumbered:
    """Return split BTF over the least base that tells which types of the old base it needs.

    The distilled base has the integers, floats and forward declarations that the split BTF refers
    to; of structs and unions with names their sizes but no members; of enums with names, 64-bit
    ones included, an enum of that size without enumerators. Whatever else of the base is needed
    (pointers, arrays, typedefs, prototypes, types without names) follows the own types of the split
    BTF. As libbpf's ``btf__distill_base``.

    Args:
        split: BTF with a base, such as that of a kernel module.

    Returns:
        The new split BTF, whose ``base`` is the distilled one, and the new id of each old type, 0
        for those that are not needed. For a module they are the sections ``.BTF`` and
        ``.BTF.base``.

    Raises:
        FormatError: It refers outside the table, to a function, variable, section or tag of the
            base, or to an enum of a size that none can have; or a type is of a kind that this
            package does not know.
        ValueError: It has no base.
    """
    if split.base is None:
        raise ValueError(f"{split.name} has no base")
    require_known_kinds(split, "distilled")
    records = _Records(split)
    needed = _needed(records)
    ids = array("I", bytes(4 * len(split)))

    outlines = BtfBuilder(split.byteorder)
    for type_id in needed:
        each = records.outline(type_id)
        if each.kind == Kind.INT:
            ids[type_id] = outlines.add(Kind.INT, each.name, each.size, extra=(each.integer,))
        elif each.kind in (Kind.FLOAT, Kind.FWD):
            ids[type_id] = outlines.add(each.kind, each.name, each.size, kflag=each.kflag)
        elif each.name and each.kind in COMPOSITE_KINDS:
            ids[type_id] = outlines.add(each.kind, each.name, each.size)
        elif each.name and each.kind in ENUM_KINDS:
            if each.size not in _ENUM_SIZES:
                raise _damaged(split, f"{split.describe(type_id)} has {each.size} bytes")
            ids[type_id] = outlines.add(Kind.ENUM, each.name, each.size)
    base = Btf.from_bytes(
        outlines.build(), name=base_name(split.name), pointer_size=split.pointer_size
    )

    moved = [type_id for type_id in needed if not ids[type_id]]
    for new, old in enumerate([*split.own_ids(), *moved], len(base)):
        ids[old] = new
    builder = BtfBuilder(split.byteorder, base=base)
    builder.add_records(split, split.own_ids(), ids)
    for layer in split.base.layers():
        own = layer.own_ids()
        builder.add_records(layer, [type_id for type_id in moved if type_id in own], ids)
    return Renumbered(builder.btf(split.name), ids)


def _needed(records: _Records) -> list[int]:
    """Types of the base that have to be known, ascending."""
    split = records.btf
    needed: set[int] = set()
    waiting = [to for type_id in split.own_ids() for to in records.references(type_id)]
    while waiting:
        type_id = waiting.pop()
        if not 0 < type_id < split.start_id or type_id in needed:
            continue
        kind = split.kind(type_id)
        if kind not in _REFERRED:
            what = f"it refers to {split.describe(type_id)} of its base, which cannot be distilled"
            raise _damaged(split, what)
        needed.add(type_id)
        if kind not in COMPOSITE_KINDS or not records.outline(type_id).name:
            waiting += records.references(type_id)
    return sorted(needed)


# Relocating


def relocate_base(split: Btf, base: Btf) -> Renumbered:
    """Return split BTF over another base, instead of the distilled one that it has.

    Each type of the distilled base has to have one match in the other base. The own types stay as
    they are, with the same distance from each other. As libbpf's ``btf__relocate``, and as the
    kernel does when it loads a module with a section ``.BTF.base``.

    Args:
        split: BTF with a distilled base.
        base: Where to find the types of the distilled base: a kernel's BTF.

    Returns:
        The new split BTF, and the new id of each old type.

    Raises:
        FormatError: A type has no match in ``base`` or more than one; the present base is not a
            distilled one; the byte orders differ; or a type is of a kind that this package does
            not know.
        ValueError: It has no base, or that is split too, or ``base`` itself.
    """
    distilled = split.base
    if distilled is None or distilled.base is not None or distilled is base:
        raise ValueError(f"{split.name} has no distilled base to be replaced")
    if split.byteorder != base.byteorder:
        raise _unfit(split, f"{base.name} is of the other byte order")
    require_known_kinds(split, "relocated")
    ids = array("I", [0, *_matches(split, distilled, base)])
    ids.extend(range(len(base), len(base) + len(split.own_ids())))
    builder = BtfBuilder(split.byteorder, base=base)
    if split.has_layout:
        builder.add_layout()
    builder.add_records(split, split.own_ids(), ids)
    return Renumbered(builder.btf(split.name), ids)


def _matches(split: Btf, distilled: Btf, base: Btf) -> Iterator[int]:
    """For each type of the distilled base the id of the one that it is in the other base."""
    wanted = list(_outlines(distilled))
    for each in wanted:
        if each.kind not in _DISTILLED or not each.name:
            what = f"its base is not distilled: {distilled.describe(each.id)} is in it"
            raise _unfit(split, what)
    candidates: dict[bytes, list[_Outline]] = {each.name: [] for each in wanted}
    for layer in base.layers():
        for have in _outlines(layer, candidates):
            if have.kind in _NAMED:
                candidates[have.name].append(have)
    embedded = _embedded(split)
    left = _STEPS + _STEPS_PER_TYPE * (len(base) + len(wanted))
    for each in wanted:
        same = candidates[each.name]
        left -= len(same)
        if left < 0:
            raise _unfit(split, f"too many types have the name of {distilled.describe(each.id)}")
        namesakes = sum(have.kind in COMPOSITE_KINDS for have in same)
        found: list[int] = []
        for have in same:
            # Only until the first match: the rule puts that in the place of the mark.
            inside = each.id in embedded and not found
            if each.fits(have, embedded=inside, namesakes=namesakes):
                found.append(have.id)
        if len(found) != 1:
            raise _unfit(split, _no_match(distilled, each, same, found, base))
        yield found[0]


def _embedded(split: Btf) -> set[int]:
    """Structs and unions of the base that are members of own ones, or elements of such members."""
    records = _Records(split)
    found: set[int] = set()
    seen: set[int] = set()
    for composite, kind in zip(split.own_ids(), split.own_kinds(), strict=True):
        if kind not in COMPOSITE_KINDS:
            continue
        for type_id in records.references(composite):
            while type_id not in seen and split.kind(type_id) in _BY_VALUE:
                seen.add(type_id)
                type_id = records.references(type_id)[0]  # of an array that of its elements
            if type_id < split.start_id and split.kind(type_id) in COMPOSITE_KINDS:
                found.add(type_id)
    return found


def _no_match(
    distilled: Btf, each: _Outline, same: list[_Outline], found: list[int], base: Btf
) -> str:
    what = _told(distilled, each)
    if found:
        return f"{what} has several matches in {base.name}: types {', '.join(map(str, found[:4]))}"
    if not same:
        return f"{what} is not in {base.name}"
    there = ", ".join([_told(base, have) for have in same[:4]])
    return f"{what} has no match in {base.name}, where there is {there}"


def _told(btf: Btf, each: _Outline) -> str:
    size = "" if each.kind == Kind.FWD else f" of {each.size} bytes"
    return btf.describe(each.id) + size


# Types, word by word


class _Outline(NamedTuple):
    """What is kept and compared of a type: the words that its record begins with.

    Attributes:
        size: In bytes; of a forward declaration 0.
        integer: The fourth word of an INT: encoding, offset and width; else 0.
    """

    id: int
    name: bytes
    kind: int
    kflag: bool
    size: int
    integer: int

    @classmethod
    def read(cls, type_id: int, words: Any, at: int, name: bytes) -> _Outline:
        info = words[at + 1]
        kind = info >> 24 & 0x7F
        integer = words[at + 3] if kind == Kind.INT else 0
        return cls(type_id, name, kind, bool(info >> 31), words[at + 2], integer)

    def fits(self, have: _Outline, *, embedded: bool, namesakes: int) -> bool:
        """Whether a type of the distilled base can be that type of the same name.

        Args:
            have: A type of the other base.
            embedded: The split BTF has the type inside a struct, not just behind pointers. Then
                its size has to be the same.
            namesakes: Number of structs and unions of that name in the other base. If there are
                several, one that has the same size is meant.
        """
        by_size = have.kind in _SIZED or (have.kind in COMPOSITE_KINDS and namesakes > 1)
        if by_size and self.size != have.size:
            return False
        if self.kind in COMPOSITE_KINDS:
            # What the other one is does not matter. A struct may thus have become a union, and a
            # struct and a declaration that is left of it are two matches.
            return not embedded or self.size == have.size
        if self.kind == Kind.FWD:
            # The flag tells declarations of unions, but structs and unions with bit fields. It is
            # compared with neither, so this finds structs without and unions with bit fields.
            if have.kind == Kind.FWD:
                return self.kflag == have.kflag
            return have.kind == (Kind.UNION if have.kflag else Kind.STRUCT)
        if self.kind == Kind.ENUM:
            return have.kind in ENUM_KINDS
        return self.kind == have.kind and self.integer >> 24 & 0xF == have.integer >> 24 & 0xF


def _outlines(table: Btf, names: dict[bytes, list[_Outline]] | None = None) -> Iterator[_Outline]:
    """The own types of a table, or those with certain names."""
    words, texts = table._words, Texts(table)
    for type_id, at in enumerate(table._offsets, table.start_id):
        name = texts[words[at]]
        if names is None or name in names:
            yield _Outline.read(type_id, words, at, name)


class _Records:
    """Single types of a table and its bases."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._places = Places("t")
        self._texts = Texts(btf)

    def outline(self, type_id: int) -> _Outline:
        owner, at = self.btf._locate(type_id)
        return _Outline.read(type_id, owner._words, at, self._texts[owner._words[at]])

    def references(self, type_id: int) -> list[int]:
        """The types to which it refers, in the order in which they lie in its record."""
        owner, at = self.btf._locate(type_id)
        return [owner._words[at + place] for place in self._places[owner._words[at + 1]]]


def _damaged(split: Btf, what: str) -> FormatError:
    return FormatError(what, file=split.name, section=".BTF")


def _unfit(split: Btf, what: str) -> FormatError:
    return FormatError(what, file=split.name, section=".BTF.base")
