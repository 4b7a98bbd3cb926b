"""Split BTF that outlives its base: :func:`distill_base`, :func:`relocate_base`.

Split BTF refers to types of its base by their ids, and those are others in the next build of the
base. So a kernel module that is not built together with its kernel brings a *distilled base* along,
in the ELF section ``.BTF.base``: for each type of the kernel that its own BTF refers to the name,
kind and size, and nothing else. Whoever loads the module finds these types in the kernel at hand
and puts their ids in place of those of the distilled base. Linux does so since 6.11, libbpf since
1.5; ``pahole --btf_features=distilled_base`` makes such modules.

Which types have a match, and which have too many, is decided here by the rules of ``btf_relocate``,
which libbpf and the kernel share. They are told where they are implemented, see :meth:`_Type.fits`.
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

__all__ = ["distill_base", "read_split", "relocate_base"]

_SCALARS = frozenset({Kind.INT, Kind.FLOAT})
_SIZED = _SCALARS | ENUM_KINDS
_DISTILLED = _SCALARS | COMPOSITE_KINDS | {Kind.ENUM, Kind.FWD}
_NAMED = _SIZED | COMPOSITE_KINDS | {Kind.FWD}
_BY_VALUE = MODIFIERS | {Kind.TYPEDEF, Kind.ARRAY}
_REFERRED = _NAMED | _BY_VALUE | {Kind.PTR, Kind.FUNC_PROTO}
_ENUM_SIZES = (1, 2, 4, 8)


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
    needed = _needed(split)
    ids = array("I", bytes(4 * len(split)))

    outlines = BtfBuilder(split.byteorder)
    for type_id in needed:
        kind, name = split.kind(type_id), split.type_name(type_id)
        if kind in _SCALARS or kind == Kind.FWD:
            ids[type_id] = outlines.add_type(split[type_id])
        elif name and kind in COMPOSITE_KINDS:
            ids[type_id] = outlines.add(kind, name, split.size(type_id))
        elif name and kind in ENUM_KINDS:
            size = split.size(type_id)
            if size not in _ENUM_SIZES:
                raise FormatError(
                    f"{split.describe(type_id)} has {size} bytes", file=split.name, section=".BTF"
                )
            ids[type_id] = outlines.add(Kind.ENUM, name, size)
    base = Btf.from_bytes(
        outlines.build(), name=_base_name(split.name), pointer_size=split.pointer_size
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


def _needed(split: Btf) -> list[int]:
    """Types of the base that have to be known, ascending."""
    references = _References(split)
    needed: set[int] = set()
    waiting = [to for type_id in split.own_ids() for to in references.of(type_id)]
    while waiting:
        type_id = waiting.pop()
        if not 0 < type_id < split.start_id or type_id in needed:
            continue
        kind = split.kind(type_id)
        if kind not in _REFERRED:
            raise FormatError(
                f"it refers to {split.describe(type_id)} of its base, which cannot be distilled",
                file=split.name,
                section=".BTF",
            )
        needed.add(type_id)
        if kind not in COMPOSITE_KINDS or not split.type_name(type_id):
            waiting += references.of(type_id)
    return sorted(needed)


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


def read_split(
    types: Any, distilled: Any, *, base: Btf | None, name: str, pointer_size: int | None = None
) -> Btf:
    """Read what a module has in its sections ``.BTF`` and ``.BTF.base``.

    As libbpf's ``btf__parse_split``.

    Args:
        types: Contents of ``.BTF``: bytes, or any buffer.
        distilled: Contents of ``.BTF.base``.
        base: BTF of the kernel onto which it is relocated; without one the distilled base stays.
        name: What to call it in messages.
        pointer_size: Size of a pointer in bytes, if it is known.

    Raises:
        FormatError: A part is damaged, or does not fit to ``base``.
    """
    try:
        own = Btf.from_bytes(distilled, name=_base_name(name), pointer_size=pointer_size)
    except FormatError as error:
        error.file, error.section = name, ".BTF.base"
        raise
    split = Btf.from_bytes(types, base=own, name=name)
    return split if base is None else relocate_base(split, base).btf


def _base_name(split: str) -> str:
    return f"{split}, distilled base"


def _matches(split: Btf, distilled: Btf, base: Btf) -> Iterator[int]:
    """For each type of the distilled base the id of the one that it is in the other base."""
    wanted = list(_types(distilled))
    for each in wanted:
        if each.kind not in _DISTILLED or not each.name:
            raise _unfit(
                split, f"its base is not distilled: {distilled.describe(each.id)} is in it"
            )
    candidates: dict[bytes, list[_Type]] = {each.name: [] for each in wanted}
    for layer in base.layers():
        for have in _types(layer, candidates):
            if have.kind in _NAMED:
                candidates[have.name].append(have)
    embedded = _embedded(split)
    for each in wanted:
        same = candidates[each.name]
        namesakes = sum(have.kind in COMPOSITE_KINDS for have in same)
        found: list[int] = []
        for have in same:
            # Only until the first match: the rule puts that in the place of the mark.
            inside = each.id in embedded and not found
            if each.fits(have, embedded=inside, namesakes=namesakes):
                found.append(have.id)
        if len(found) != 1:
            raise _no_match(split, each, same, found, base)
        yield found[0]


class _Type(NamedTuple):
    """What is compared of a type: in its record but for the encoding, which integers have."""

    id: int
    name: bytes
    kind: int
    kflag: bool
    size: int
    encoding: int

    def fits(self, have: _Type, *, embedded: bool, namesakes: int) -> bool:
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
        return self.kind == have.kind and self.encoding == have.encoding


def _types(table: Btf, names: dict[bytes, list[_Type]] | None = None) -> Iterator[_Type]:
    """The own types of a table, or those with certain names."""
    words, texts = table._words, Texts(table)
    for type_id, at in enumerate(table._offsets, table.start_id):
        name = texts[words[at]]
        if names is None or name in names:
            info = words[at + 1]
            kind = info >> 24 & 0x7F
            encoding = words[at + 3] >> 24 & 0xF if kind == Kind.INT else 0
            yield _Type(type_id, name, kind, bool(info >> 31), words[at + 2], encoding)


def _embedded(split: Btf) -> set[int]:
    """Structs and unions of the base that are members of own ones, or elements of such members."""
    references = _References(split)
    found: set[int] = set()
    seen: set[int] = set()
    for composite, kind in zip(split.own_ids(), split.own_kinds(), strict=True):
        if kind not in COMPOSITE_KINDS:
            continue
        for type_id in references.of(composite):
            while type_id not in seen and split.kind(type_id) in _BY_VALUE:
                seen.add(type_id)
                type_id = references.of(type_id)[0]  # of an array that of its elements
            if type_id < split.start_id and split.kind(type_id) in COMPOSITE_KINDS:
                found.add(type_id)
    return found


class _References:
    """The types to which a type refers, in the order in which they lie in its record."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._places = Places("t")

    def of(self, type_id: int) -> list[int]:
        owner, at = self._btf._locate(type_id)
        return [owner._words[at + place] for place in self._places[owner._words[at + 1]]]


def _no_match(
    split: Btf, each: _Type, same: list[_Type], found: list[int], base: Btf
) -> FormatError:
    assert split.base is not None
    what = f"{split.base.describe(each.id)} of {each.size} bytes"
    if found:
        told = f"has several matches in {base.name}: types {', '.join(map(str, found[:4]))}"
    elif same:
        told = f"has no match in {base.name}, where there is {_told(base, same)}"
    else:
        told = f"is not in {base.name}"
    return _unfit(split, f"{what} {told}")


def _told(base: Btf, same: list[_Type]) -> str:
    sizes = (f" of {each.size} bytes" if each.kind != Kind.FWD else "" for each in same[:4])
    return ", ".join(
        base.describe(each.id) + size for each, size in zip(same[:4], sizes, strict=True)
    )


def _unfit(split: Btf, what: str) -> FormatError:
    return FormatError(what, file=split.name, section=".BTF.base")
