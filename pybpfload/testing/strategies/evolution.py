"""Strategies of types and of what a kernel has made of them (:class:`.cases.Evolution`).

The kernel's type is the program's after some changes. A field that a change keeps keeps its
:attr:`~pybpfload.testing.cmodel.Field.origin`; one that is renamed, or becomes something that no
relocation takes for the same, loses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from pybpfload.testing.cases import Evolution, flavored
from pybpfload.testing.cmodel import (
    INT,
    INTS,
    VOID,
    Array,
    CType,
    Enum,
    Field,
    Float,
    Function,
    Int,
    Pointer,
    Qualified,
    Record,
    Tag,
    Typedef,
    parts,
    strip,
)
from pybpfload.testing.strategies.types import (
    Choices,
    Names,
    _bit_field,
    _enum,
    _record,
    _type,
    drawn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypothesis import strategies as st

__all__ = ["evolutions"]

_Fields: TypeAlias = "list[Field]"


def evolutions(
    before: CType | None = None, *, max_changes: int = 4, names: Names | None = None
) -> st.SearchStrategy[Evolution]:
    """Strategy of types and what became of them.

    Fields are moved, renamed, retyped, resized, dropped, made bit fields or plain ones, wrapped in
    anonymous structs and unions or taken out of them; others come in. Enumerators are renumbered,
    renamed and dropped. Records are packed, given another alignment, kind or flavor, or are gone.

    Args:
        before: A struct or union with a tag, a typedef of one, or an enum; by default any. Fields
            that have no :attr:`Field.origin` get one.
        max_changes: Changes at most.
        names: Names already in use; by default those of ``before``.

    Raises:
        ValueError: ``before`` is another type, or has no name or no fields.
    """
    if before is not None:
        _check(before)

    def made(draw: Choices, using: Names) -> Evolution:
        if before is None:
            return _evolution(draw, using, _root(draw, using), max_changes)
        if names is None:
            using = Names(_names(before))
        return _evolution(draw, using, _told_apart(before, using), max_changes)

    return drawn(names, made)


def _check(before: CType) -> None:
    root = strip(before)
    can_change = (isinstance(root, Record) and bool(root.fields)) or (
        isinstance(root, Enum) and bool(root.values)
    )
    if not can_change or not getattr(before, "name", ""):
        raise ValueError(
            "an evolution starts with a struct, union or enum that has a name and fields, "
            f"not with {before!r}"
        )


def _names(type: CType) -> Iterator[str]:  # noqa: A002
    """All names in a type and in what it refers to."""
    for part in parts(type):
        yield getattr(part, "name", "")
        if isinstance(part, Record):
            yield from (member.name for member in part.fields)
        elif isinstance(part, Enum):
            yield from (name for name, _ in part.values)


def _told_apart(type: CType, names: Names) -> CType:  # noqa: A002
    """Return a type whose fields all have an origin."""
    if isinstance(type, (Typedef, Qualified, Array)):
        return replace(type, of=_told_apart(type.of, names))
    if not isinstance(type, Record):
        return type
    fields = []
    for member in type.fields:
        if not member.is_padding:
            origin = next(names.origins) if member.origin is None else member.origin
            member = replace(member, type=_told_apart(member.type, names), origin=origin)
        fields.append(member)
    return replace(type, fields=tuple(fields))


def _root(draw: Choices, names: Names) -> CType:
    what = draw.of(["record", "record", "record", "enum", "typedef"])
    root: CType
    if what == "enum":
        root = _enum(draw, names)
        if draw.seldom():
            assert isinstance(root, Enum)
            root = replace(
                root, values=tuple((f"{name}___old", value) for name, value in root.values)
            )
    elif what == "typedef":
        root = Typedef(names.of("t"), _record(draw, names, 2, tagged=draw.coin()))
    else:
        root = _record(draw, names, 2, 6, tagged=True)
    return flavored(root, "mine") if draw.seldom() else root


def _evolution(draw: Choices, names: Names, before: CType, max_changes: int) -> Evolution:
    changes = _Changes(draw, names, before)
    for _ in draw.several(0, max_changes):
        changes.apply()
    after: CType | None = changes.now
    name = before.name.split("___")[0]  # type: ignore[attr-defined]
    decoys: tuple[CType, ...] = ()
    fate = draw.of(_FATES)
    if fate == "flavor":
        after = flavored(changes.now, "kernel")
        changes.said.append(f"{name} is a flavor")
    elif name != before.name:  # type: ignore[attr-defined]
        after = replace(changes.now, name=name)  # type: ignore[call-arg]
    if fate == "gone":
        after = None
        decoys = (draw.of(_others(before, name)),)
        changes.said.append(f"{name} is gone")
    return Evolution(before, after, tuple(changes.said), changes.matches, decoys)


_FATES = ["stays"] * 8 + ["flavor", "gone"]


def _others(before: CType, name: str) -> list[CType]:
    """Types of the same name that are of another kind."""
    others: list[CType] = [Typedef(name, INT)]
    if isinstance(before, Typedef):
        others = [Record(name, (Field("z", INT),))]
    if isinstance(before, Record):
        keyword = "union" if before.keyword == "struct" else "struct"
        others += [Record(name, before.fields, keyword), Pointer(Tag(before.keyword, name))]
    return others


class _Changes:
    """A type while it changes.

    Attributes:
        now: What it has become.
        said: What was done, in words.
    """

    def __init__(self, draw: Choices, names: Names, before: CType) -> None:
        self.draw = draw
        self.names = names
        self.now = before
        self.said: list[str] = []
        self._breaks = 0
        self._added: set[str] = set()  # enumerators
        self._for_good = not _comparable(before)

    @property
    def matches(self) -> bool | None:
        """See :attr:`Evolution.matches`. Of two changes one may take back what the other did."""
        if self._for_good:
            return False
        return {0: True, 1: False}.get(self._breaks)

    def apply(self) -> None:
        """Do one more change, if what was chosen can be done."""
        root = strip(self.now)
        if isinstance(root, Enum):
            new: CType = self.change_enum(root)
        else:
            records = _records(root)
            root = self.draw.of(records)
            assert isinstance(root, Record)
            change = self.draw.of(_CHANGES)
            new = change(self, root)
        self.now = _swap(self.now, root, new)

    def say(self, what: str, field: Field | None = None, *, breaks: str = "") -> None:
        """Keep in mind what was done, and whether the type still has all that it had.

        Args:
            what: What was done.
            field: To which field; what becomes of one that came in later does not matter.
            breaks: ``"once"`` if another change might take it back, ``"for good"`` if not.
        """
        self.said.append(what)
        if breaks and (field is None or field.origin is not None):
            self._breaks += 1
            self._for_good = self._for_good or breaks == "for good"

    def pick(self, fields: tuple[Field, ...]) -> int:
        """Choose a field."""
        return self.draw.between(0, len(fields) - 1)

    # Records

    def insert(self, record: Record) -> Record:
        """Put a new field in."""
        at = self.draw.between(0, len(record.fields))
        if self.draw.seldom():
            made = _bit_field(self.draw, self.names)
        elif self.draw.seldom():
            made = Field("", _record(self.draw, self.names, 0, 2, tagged=False))
        else:
            made = Field(self.names.field(), _type(self.draw, self.names, 1))
        made = _without_origin(made)
        self.say(f"{made.name or 'an anonymous member'} comes in")
        return replace(record, fields=(*record.fields[:at], made, *record.fields[at:]))

    def move(self, record: Record) -> Record:
        """Move a field."""
        fields = list(record.fields)
        field = fields.pop(self.pick(record.fields))
        fields.insert(self.draw.between(0, len(fields)), field)
        self.say(f"{field.name or 'an anonymous member'} moves")
        return replace(record, fields=tuple(fields))

    def drop(self, record: Record) -> Record:
        """Take a field out."""
        at = self.pick(record.fields)
        if len(record.fields) == 1:
            return record
        gone = record.fields[at]
        self.say(f"{gone.name or 'an anonymous member'} is dropped", gone, breaks="for good")
        return replace(record, fields=record.fields[:at] + record.fields[at + 1 :])

    def rename(self, record: Record) -> Record:
        """Give a field another name."""
        at = self.pick(record.fields)
        field = record.fields[at]
        if not field.name:
            return record
        new = replace(field, name=self.names.field(), origin=None)
        self.say(f"{field.name} is called {new.name}", field, breaks="for good")
        return _put(record, at, new)

    def retype(self, record: Record) -> Record:
        """Give a field another type that is taken for the same."""
        at = self.pick(record.fields)
        field = record.fields[at]
        if not field.name:
            return record
        new, breaks = self._compatible(field)
        if new == field:
            return record
        self.say(f"{field.name} has another type or width", field, breaks=breaks)
        return _put(record, at, new)

    def replace(self, record: Record) -> Record:
        """Give a field a type that is not taken for the same."""
        at = self.pick(record.fields)
        field = record.fields[at]
        if not field.name or field.origin is None:
            return record
        self.say(f"{field.name} becomes something else", field, breaks="for good")
        new: CType = INT
        if isinstance(strip(field.type), Int):
            new = self.draw.of([Pointer(VOID), Float("float", 4), Array(INT, 2)])
        return _put(record, at, Field(field.name, new))

    def wrap(self, record: Record) -> Record:
        """Put fields into an anonymous struct or union."""
        first = self.pick(record.fields)
        last = self.draw.between(first, len(record.fields) - 1)
        inside = record.fields[first : last + 1]
        keyword = self.draw.of(["struct", "union"])
        if all(field.is_padding for field in inside):
            return record
        kept = next((field for field in inside if field.origin is not None), inside[0])
        names = " ".join(field.name or "_" for field in inside)
        self.say(f"{names} in an anonymous {keyword}", kept, breaks="once")
        wrapped = Field("", Record("", inside, keyword))
        return replace(record, fields=(*record.fields[:first], wrapped, *record.fields[last + 1 :]))

    def unwrap(self, record: Record) -> Record:
        """Put the fields of an anonymous member in its place."""
        at = self.pick(record.fields)
        field = record.fields[at]
        inner = strip(field.type)
        if field.name or not isinstance(inner, Record):
            return record
        kept = field if field.origin is not None else None
        self.say("an anonymous member is dissolved", kept or inner.fields[0], breaks="once")
        return replace(record, fields=record.fields[:at] + inner.fields + record.fields[at + 1 :])

    def pack(self, record: Record) -> Record:
        """Take alignment away, or give it."""
        self.say(f"{record.name or 'an anonymous record'} is packed or no longer")
        return replace(record, packed=not record.packed)

    def align(self, record: Record) -> Record:
        """Align the whole."""
        self.say(f"{record.name or 'an anonymous record'} is aligned")
        return replace(record, align=self.draw.of([16, 32]))

    # Types of fields

    def _compatible(self, field: Field) -> tuple[Field, str]:
        """A field of another type or width that is taken for the same, and what that breaks."""
        base = strip(field.type)
        if self.draw.seldom():
            renamed = Typedef(self.names.of("t"), Qualified("const", field.type))
            return replace(field, type=renamed), ""
        if isinstance(base, Int) and base.size <= 8:
            return self._another_int(field, base)
        if isinstance(base, Enum):
            if field.bits is not None:
                return field, ""
            return replace(field, type=self.change_enum(base)), ""
        if isinstance(base, Pointer):
            to = self.draw.of([VOID, INT, Tag("struct", "another")])
            return replace(field, type=Pointer(to)), "once"
        if isinstance(base, Float):
            return replace(field, type=Float("double", 8)), "once"
        if isinstance(base, Array):
            return self._another_array(field, base)
        assert isinstance(base, Record)
        keyword = self.draw.of(("struct", "union"))
        # Another tag, for no two records share one; neither counts where a field is looked for.
        name = self.names.of("s") if base.name else ""
        breaks = "" if (keyword, name) == (base.keyword, base.name) else "once"
        return replace(field, type=replace(base, keyword=keyword, name=name)), breaks

    def _another_int(self, field: Field, base: Int) -> tuple[Field, str]:
        if self.draw.coin() and base.encoding != 4:
            # To a bit field, from one, or to one of another width.
            bits: int | None = self.draw.between(1, 8 * base.size)
            if field.bits is not None and self.draw.coin():
                bits = None
            return replace(field, bits=bits), ""
        new = self.draw.of(INTS)
        assert isinstance(new, Int)
        bits = None if field.bits is None else min(field.bits, 8 * new.size)
        bits = 1 if bits is not None and new.encoding == 4 else bits
        same = (base.name, base.size, base.signed) == (new.name, new.size, new.signed)
        return replace(field, type=new, bits=bits), "" if same else "once"

    def _another_array(self, field: Field, base: Array) -> tuple[Field, str]:
        of = base.of
        if isinstance(strip(of), Int) and self.draw.coin():
            of = self.draw.of(INTS)
        return replace(field, type=Array(of, self.draw.between(0, 6))), "once"

    # Enums

    def change_enum(self, enum: Enum) -> Enum:
        """Change an enum: its values, their names, its size."""
        what = self.draw.of(["renumber", "add", "drop", "rename", "resize"])
        values = list(enum.values)
        at = self.draw.between(0, len(values) - 1)
        name, value = values[at]
        if what == "renumber":
            values[at] = name, self.draw.number(enum.signed, 8 * enum.size)
            self.say(f"{name} is {values[at][1]}")
        elif what == "add":
            values.insert(
                at, (self.names.enumerator(), self.draw.number(enum.signed, 8 * enum.size))
            )
            self._added.add(values[at][0])
            self.say(f"{values[at][0]} comes in")
        elif what == "resize":
            return self._resized(enum)
        else:
            if what == "drop" and len(values) > 1:
                del values[at]
                keeps = False
            else:
                keeps = "___" not in name and self.draw.seldom()  # a flavor of its name
                values[at] = f"{name}___new" if keeps else self.names.enumerator(), value
            keeps = keeps or name in self._added
            self.say(f"{name} is gone or renamed", breaks="" if keeps else "once")
        return replace(enum, values=tuple(values))

    def _resized(self, enum: Enum) -> Enum:
        size = self.draw.of([4, 8, 1, 2])
        low, high = (-(1 << 8 * size - 1), 1 << 8 * size - 1) if enum.signed else (0, 1 << 8 * size)
        if size == enum.size or not all(low <= value < high for _, value in enum.values):
            return enum
        self.say(f"{enum.name} has {size} bytes", breaks="once")
        return replace(enum, size=size)


_CHANGES: Final[list[Callable[[_Changes, Record], CType]]] = [
    _Changes.insert, _Changes.move, _Changes.drop, _Changes.rename, _Changes.retype,
    _Changes.retype, _Changes.retype, _Changes.replace, _Changes.wrap, _Changes.unwrap,
    _Changes.pack, _Changes.align,
]  # fmt: skip


def _put(record: Record, at: int, field: Field) -> Record:
    return replace(record, fields=(*record.fields[:at], field, *record.fields[at + 1 :]))


def _records(type: CType) -> list[Record]:  # noqa: A002
    """All records with fields that a type consists of, itself first."""
    type = strip(type)  # noqa: A001
    if isinstance(type, Array):
        return _records(type.of)
    if isinstance(type, Record) and type.fields:
        return [type, *(inner for field in type.fields for inner in _records(field.type))]
    return []


def _swap(type: CType, old: CType, new: CType) -> CType:  # noqa: A002
    """Return a type with one that it consists of replaced."""
    if type is old:
        return new
    if isinstance(type, (Typedef, Qualified, Array)):
        return replace(type, of=_swap(type.of, old, new))
    if isinstance(type, Record):
        fields = tuple(replace(f, type=_swap(f.type, old, new)) for f in type.fields)
        return replace(type, fields=fields)
    return type


def _without_origin(field: Field) -> Field:
    return replace(field, type=_strange(field.type), origin=None)


def _strange(type: CType) -> CType:  # noqa: A002
    """Return a type whose fields are none of the program's."""
    if isinstance(type, (Typedef, Qualified, Array)):
        return replace(type, of=_strange(type.of))
    if isinstance(type, Record):
        return replace(type, fields=tuple(map(_without_origin, type.fields)))
    return type


def _comparable(type: CType, behind_pointer: bool = False) -> bool:  # noqa: A002
    """Whether ``bpf_core_type_matches()`` finds a type in itself: not if there is a float in it."""
    type = strip(type)  # noqa: A001
    if isinstance(type, Float):
        return False
    if isinstance(type, Pointer):
        return _comparable(type.to, True)
    if isinstance(type, Array):
        return _comparable(type.of, behind_pointer)
    if isinstance(type, Function):
        parts = [type.returns, *(param for _, param in type.params)]
        return all(_comparable(part, behind_pointer) for part in parts)
    if isinstance(type, Record) and not behind_pointer:
        return all(_comparable(member.type) for member in type.members)
    return True
