"""Leaving one copy of each type: :func:`dedup`, with the rules of libbpf's ``btf__dedup``.

Types of several compilation units refer to each other in circles, so equality of two of them is
equality of two graphs. Here a type is two things: its *shape*, a number that stands for everything
in its record but the ids of other types, and its *edges*, those ids. Two types are equal when their
shapes are and their edges lead to equal types.

The steps are those of libbpf:

1. integers, floats, enums and forward declarations have no edges: equal shapes are enough;
2. structs, unions and typedefs are compared as graphs with each earlier one of the same shape,
   assuming on the way that what is being compared is equal. What was found equal on the way is
   merged at once, and a forward declaration merges with the struct that it meets;
3. what is left of forward declarations goes to the struct of that name if there is but one;
4. pointers, arrays, prototypes and the like have no circles any more: they are equal when their
   shapes are and their edges lead to the same types;
5. what is left is numbered anew.

Variables and data sections are never merged. Where the compiler left two equal types in one graph,
libbpf also looks whether two types are identical, to a depth of 16; there it takes any two arrays
of equal length for equal (it compares one with itself), here their elements have to agree as well.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.types import COMPOSITE_KINDS, ENUM_KINDS, Kind
from pybpfload.btf.words import Places, Renumbered, Texts, require_known_kinds
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from pybpfload.btf.table import Btf

__all__ = ["dedup"]

_UNMAPPED = 0xFFFFFFFF
_IN_PROGRESS = 0xFFFFFFFE
_IDENTICAL_LEVELS = 16
_GLANCES = 3
_STEPS, _STEPS_PER_TYPE = 1 << 20, 1 << 7  # of comparing graphs; a kernel takes a few for each type
_VLEN = 0xFFFFFF

_PRIMITIVES = frozenset({Kind.INT, Kind.FLOAT, Kind.FWD})
_BRANCHING = COMPOSITE_KINDS | {Kind.ARRAY, Kind.FUNC_PROTO}
_COMPOSITES_OR_ENUMS = COMPOSITE_KINDS | ENUM_KINDS | {Kind.FWD}
_COMPARED = COMPOSITE_KINDS | {Kind.TYPEDEF}
_UNIQUE = frozenset({Kind.VAR, Kind.DATASEC})
_NOT_IN_GRAPHS = _UNIQUE | {Kind.DECL_TAG}


def dedup(btf: Btf) -> Renumbered:
    """Return a table in which each type is there once.

    The types of a base stay; those of a split table that are there too are left out.

    Args:
        btf: A table, such as several put together by
            :meth:`~pybpfload.btf.build.BtfBuilder.add_btf`.

    Returns:
        The new table, with only those strings that its types use, and the new id of each old type:
        what else has type ids in it (``.BTF.ext``, instructions) has to be changed accordingly.

    Raises:
        FormatError: A type refers outside the table or, without a struct between, to itself; it is
            of a kind that this package does not know; or the types are so entangled that comparing
            them would take for ever, which those of compilers never are.
    """
    return _Dedup(btf).run()


class _Dedup:
    """All types of a table and its bases, and what each became.

    Attributes:
        info: Second word of each type.
        name: Number of its name, 0 for none.
        shape: Number of all that is in its record but type ids.
        edges: Those type ids.
        key: Number of its shape and of what is known at a glance of its edges. Equal types have
            equal ones; of equal shapes, such as anonymous unions, a kernel has hundreds.
        map: Type id -> id of the type that takes its place, perhaps by way of others; its own for
            one that stays.
    """

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.info, self.name, self.shape = array("I", [0]), array("I", [0]), array("I", [0])
        self.edges: list[tuple[int, ...]] = [()]
        self._read_all()
        self.key = self._keys()
        self.map = array("I", [_UNMAPPED]) * len(btf)
        self.map[: btf.start_id] = array("I", range(btf.start_id))
        self.left = _STEPS + _STEPS_PER_TYPE * len(btf)
        # Those that stay, by key; of enums those of any shape, by name.
        self.found: dict[int, list[int]] = {}
        self.enums: dict[int, list[int]] = {}
        self.references: dict[tuple[int, tuple[int, ...]], int] = {}
        for type_id in range(1, btf.start_id):
            self._remember(type_id)

    def run(self) -> Renumbered:
        own = self.btf.own_ids()
        for type_id in own:
            self._primitive(type_id)
        for type_id in own:
            self._composite(type_id)
        self._resolve_forwards()
        for type_id in own:
            self._reference(type_id)
        return self._compact()

    # Reading

    def _read_all(self) -> None:
        numbers, shapes = {b"": 0}, {b"": 0}
        for layer in self.btf.layers():
            require_known_kinds(layer, "deduplicated")
            self._read(layer, numbers, shapes)

    def _read(self, table: Btf, numbers: dict[bytes, int], shapes: dict[bytes, int]) -> None:
        words = array("I", bytes(table._words))
        names, types, texts = Places("s"), Places("t"), Texts(table)
        starts = [*table._offsets, len(words)]
        count = len(self.btf)
        for at, end in pairwise(starts):
            record = words[at:end]
            info = record[1]
            for place in names[info]:
                record[place] = numbers.setdefault(texts[record[place]], len(numbers))
            edges = tuple([record[place] for place in types[info]])
            if edges:
                if max(edges) >= count:
                    raise self._damaged(len(self.info), f"refers to type {max(edges)}")
                for place in types[info]:
                    record[place] = 0
            self.info.append(info)
            self.name.append(record[0])
            self.shape.append(shapes.setdefault(record.tobytes(), len(shapes)))
            self.edges.append(edges)

    def _keys(self) -> array[int]:
        """See :attr:`key`. A struct with a name may meet its declaration: only the name counts."""
        numbers: dict[tuple[int, ...], int] = {}
        by_name = [
            -1 - name if kind in _COMPOSITES_OR_ENUMS and name else 0
            for name, kind in ((self.name[i], self.kind(i)) for i in range(len(self.info)))
        ]
        keys = list(self.shape)
        for _ in range(_GLANCES):
            glance = [name or key for name, key in zip(by_name, keys, strict=True)]
            keys = [
                numbers.setdefault((shape, *[glance[to] for to in edges]), len(numbers))
                for shape, edges in zip(self.shape, self.edges, strict=True)
            ]
        return array("I", keys)

    def _damaged(self, type_id: int, what: str) -> FormatError:
        return FormatError(f"type {type_id} {what}", file=self.btf.name, section=".BTF")

    def kind(self, type_id: int) -> int:
        return self.info[type_id] >> 24 & 0x7F

    # What became of a type

    def resolve(self, type_id: int) -> int:
        """Follow :attr:`map` to its end, and halve the way for those who come later."""
        types = self.map
        while (after := types[type_id]) != type_id and after < _IN_PROGRESS:
            further = types[after]
            if further < _IN_PROGRESS:
                types[type_id] = further
            type_id = after
        return type_id

    def _settle(self, type_id: int, became: int) -> None:
        self.map[type_id] = became
        if became == type_id:
            self._remember(type_id)

    def _remember(self, type_id: int) -> None:
        """Make a type that stays known to those that come later."""
        kind = self.kind(type_id)
        if kind in _UNIQUE:
            return
        if kind in ENUM_KINDS:
            self.enums.setdefault(self.name[type_id], []).append(type_id)
        if kind in _PRIMITIVES or kind in _COMPARED or kind in ENUM_KINDS:
            self.found.setdefault(self.key[type_id], []).append(type_id)
        else:
            self.references.setdefault((self.shape[type_id], self.edges[type_id]), type_id)

    # 1: types without edges

    def _primitive(self, type_id: int) -> None:
        kind = self.kind(type_id)
        if kind in _UNIQUE:
            self.map[type_id] = type_id
        elif kind in _PRIMITIVES or kind in ENUM_KINDS:
            same = self.found.get(self.key[type_id])
            became = same[0] if same else type_id
            if kind in ENUM_KINDS and not same:
                became = self._enum(type_id)
            self._settle(type_id, became)

    def _enum(self, type_id: int) -> int:
        """An enum without enumerators is a forward declaration: of any enum of that name."""
        others = self.enums.get(self.name[type_id], [])
        if not self.info[type_id] & _VLEN:
            return others[-1] if others else type_id
        forwards = [other for other in others if not self.info[other] & _VLEN]
        for other in forwards:
            self.map[other] = type_id
        if forwards:  # each is resolved once
            self.enums[self.name[type_id]] = [each for each in others if each not in set(forwards)]
        return type_id

    # 2: graphs

    def _composite(self, type_id: int) -> None:
        if self.map[type_id] != _UNMAPPED or self.kind(type_id) not in _COMPARED:
            return
        for candidate in reversed(self.found.get(self.key[type_id], ())):
            result = self._equal(type_id, candidate)
            if result is None:
                continue
            assumed, adjusts_base = result
            self._merge(assumed, adjusts_base)
            if not adjusts_base:
                self._settle(type_id, candidate)
                return
        self._settle(type_id, type_id)

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise FormatError(
                "the types are too entangled to be compared", file=self.btf.name, section=".BTF"
            )

    def _equal(self, type_id: int, known: int) -> tuple[dict[int, int], bool] | None:
        """Compare the graph below a type with that below one that stays.

        Returns:
            ``None`` if they differ. Otherwise what was assumed, as known type -> type; and whether
            that would make a struct of a forward declaration in the base, which nobody can do.
        """
        assumed: dict[int, int] = {}
        adjusts_base = False
        resolve, shape, infos = self.resolve, self.shape, self.info
        waiting = [(type_id, known)]
        while waiting:
            type_id, known = waiting.pop()
            if type_id == known or resolve(type_id) == resolve(known):
                continue
            if infos[known] >> 24 & 0x7F == Kind.FWD:
                known = resolve(known)
            before = assumed.get(known)
            if before is not None:
                if before != type_id and not self._identical(before, type_id):
                    return None
                continue
            assumed[known] = type_id
            kind = infos[type_id] >> 24 & 0x7F
            if shape[type_id] != shape[known] and not self._same_shape(type_id, known):
                forward = self._declaration(type_id, known)
                if not forward:
                    return None
                adjusts_base |= forward == known < self.btf.start_id
                continue
            if kind in _NOT_IN_GRAPHS:
                raise self._damaged(type_id, "is a variable, section or tag that types refer to")
            if kind not in ENUM_KINDS and (edges := self.edges[type_id]):
                self._spend(1 + len(edges))
                if len(edges) == 1:
                    waiting.append((edges[0], self.edges[known][0]))
                else:
                    waiting.extend(zip(reversed(edges), reversed(self.edges[known]), strict=True))
        return assumed, adjusts_base

    def _declaration(self, one: int, other: int) -> int:
        """Which of two types of a name is the forward declaration of the other; 0 if neither is."""
        if self.name[one] == self.name[other]:
            for forward, whole in ((one, other), (other, one)):
                if self.kind(forward) == Kind.FWD and self.kind(whole) == self._declared(forward):
                    return forward
        return 0

    def _declared(self, forward: int) -> int:
        """Kind of what a forward declaration declares."""
        return Kind.UNION if self.info[forward] >> 31 else Kind.STRUCT

    def _same_shape(self, one: int, other: int) -> bool:
        if self.shape[one] == self.shape[other]:
            return True
        return (
            self.kind(one) == self.kind(other)
            and self.kind(one) in ENUM_KINDS
            and self.name[one] == self.name[other]
            and not (self.info[one] & _VLEN and self.info[other] & _VLEN)
        )

    def _identical(self, one: int, other: int) -> bool:
        """Whether two types that compete for one place are copies (``btf_dedup_identical_types``).

        Nothing is assumed here; structs inside structs are followed to a certain depth.
        """
        levels: dict[tuple[int, int], int] = {}  # what was compared, with how many levels left
        waiting = [(one, other, _IDENTICAL_LEVELS)]
        while waiting:
            one, other, level = waiting.pop()
            if one == other or levels.get((one, other), level + 1) <= level:
                continue
            levels[one, other] = level
            self._spend(1 + len(self.edges[one]))
            kind = self.kind(one)
            if level <= 0 or kind != self.kind(other) or kind in _NOT_IN_GRAPHS:
                return False
            if not self._same_shape(one, other):
                return False
            if kind not in ENUM_KINDS:
                level -= kind in _BRANCHING
                waiting += [
                    (mine, theirs, level)
                    for mine, theirs in zip(self.edges[one], self.edges[other], strict=True)
                ]
        return True

    def _merge(self, assumed: dict[int, int], adjusts_base: bool) -> None:
        """Make true what was assumed of structs and forward declarations."""
        for known, type_id in assumed.items():
            known, type_id = self.resolve(known), self.resolve(type_id)
            kind, known_kind = self.kind(type_id), self.kind(known)
            if known_kind == Kind.FWD and kind != Kind.FWD:
                # In a split table too: what refers to the base's forward declaration may then
                # refer to the struct.
                self.map[known] = type_id
            if adjusts_base:
                continue
            if kind == Kind.FWD and known_kind != Kind.FWD:
                self.map[type_id] = known
            elif (
                kind in COMPOSITE_KINDS
                and known_kind != Kind.FWD
                and self.map[known] != _UNMAPPED
                and self.map[type_id] == _UNMAPPED
            ):
                # The id of the whole type is not mapped yet; this one is settled before its turn.
                self.map[type_id] = known

    # 3: forward declarations

    def _resolve_forwards(self) -> None:
        only: dict[int, int] = {}  # by name; 0 when there are several
        for type_id, became in enumerate(self.map):
            if became == type_id and self.kind(type_id) in COMPOSITE_KINDS:
                only[self.name[type_id]] = 0 if self.name[type_id] in only else type_id
        for type_id in self.btf.own_ids():
            if self.kind(type_id) == Kind.FWD and self.map[type_id] == type_id:
                found = only.get(self.name[type_id])
                if found and self.kind(found) == self._declared(type_id):
                    self.map[type_id] = found

    # 4: references

    def _reference(self, type_id: int) -> None:
        waiting = [(type_id, False)]
        while waiting:
            type_id, known = waiting.pop()
            if known:
                edges = tuple(map(self.resolve, self.edges[type_id]))
                same = self.references.setdefault((self.shape[type_id], edges), type_id)
                self.map[type_id] = same
            elif self.map[type_id] == _IN_PROGRESS:
                raise self._damaged(type_id, "refers to itself")
            elif self.map[type_id] == _UNMAPPED:
                self.map[type_id] = _IN_PROGRESS
                waiting.append((type_id, True))
                waiting += [(to, False) for to in self.edges[type_id]]

    # 5: the new table

    def _compact(self) -> Renumbered:
        btf = self.btf
        ends = list(map(self.resolve, range(len(btf))))
        kept = [old for old in btf.own_ids() if ends[old] == old]
        numbers = array("I", range(len(btf)))
        for new, old in enumerate(kept, btf.start_id):
            numbers[old] = new
        ids = array("I", [numbers[end] for end in ends])
        builder = BtfBuilder(btf.byteorder, base=btf.base)
        if btf.has_layout:
            builder.add_layout()
        builder.add_records(btf, kept, ids)
        return Renumbered(builder.btf(btf.name), ids)
