"""C text of BTF types: declarations and struct definitions, for messages and for people to read.

Declarators follow C's own syntax, from the name outwards. As in libbpf's C dump (``btf_dump.c``)
modifiers of arrays and of prototypes are left out, an empty parameter list is ``(void)`` and a
last parameter without type is ``...``. Anonymous structs, unions and enums are shown as
``struct {...}``. Names with characters that a terminal may obey are shown escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybpfload.btf.table import Btf

__all__ = ["Declarer", "declare", "define", "printable", "room_for", "type_text"]

_MAX_DEPTH = 32  # prototypes inside parameters of prototypes; types without name in each other
_MAX_CHAIN = 256  # pointers to pointers and the like
_MAX_LINES = 1 << 16  # of one definition
_ROOM, _ROOM_PER_BYTE = 1 << 17, 4  # characters; kernels need less than one for each byte

_DERIVED = t.MODIFIERS | {t.Kind.PTR, t.Kind.ARRAY, t.Kind.FUNC_PROTO, t.Kind.FUNC, t.Kind.VAR}
_QUALIFIERS: dict[int, str] = {
    t.Kind.CONST: "const",
    t.Kind.VOLATILE: "volatile",
    t.Kind.RESTRICT: "restrict",
}
_TAGS: dict[int, str] = {
    t.Kind.STRUCT: "struct ",
    t.Kind.UNION: "union ",
    t.Kind.ENUM: "enum ",
    t.Kind.ENUM64: "enum ",
}


def type_text(btf: Btf, type_id: int) -> str:
    """Return a type as C writes it without a name: ``struct event *``, ``char[16]``.

    Raises:
        FormatError: The type refers to itself without end, or to an id that does not exist.
    """
    return declare(btf, type_id)


def declare(btf: Btf, type_id: int, name: str = "") -> str:
    """Return the C declaration of something of a type: ``char comm[16]``.

    For a VAR or FUNC the name is its own unless another is given. Qualifiers stand where C reads
    them: ``const char *const p``.

    Args:
        btf: The table.
        type_id: The type.
        name: What is declared, ``""`` for a type without a name.

    Raises:
        FormatError: The type refers to itself without end, or to an id that does not exist.
    """
    found = btf[type_id]
    if not name and isinstance(found, (t.Func, t.Var)):
        name = found.name
    return Declarer(btf).text(type_id, name)


def define(btf: Btf, type_id: int, *, declarer: Declarer | None = None) -> str:
    """Return the C definition of a struct, union or enum, with offsets as comments.

    Offsets and sizes are bytes; a bit field shows ``byte:bit``, counted as BTF counts bits.
    Typedefs and modifiers in front are stepped over. Types of members are named, not defined,
    except that anonymous members are written out where they stand.

    Args:
        btf: The table.
        type_id: The type.
        declarer: What declares members; one of the same table for those who define many types.

    Raises:
        FormatError: Something else than a struct, union or enum, or a type that contains itself.
    """
    target = btf[btf.strip(type_id)]
    if isinstance(target, (t.Enum, t.Enum64)):
        lines = [f"\t{printable(e.name)} = {e.value}," for e in target.values]
        head = f"enum {printable(target.name)}".rstrip()
        return "\n".join([f"{head} {{", *lines, f"}}; /* size {target.size} */"])
    if not isinstance(target, t.Composite):
        raise FormatError(f"{btf.describe(type_id)} has no definition", file=btf.name)
    return _define_composite(btf, target, declarer or Declarer(btf, room_for(btf)))


def printable(name: str) -> str:
    """Return a name with control and other unprintable characters escaped."""
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def _define_composite(btf: Btf, target: t.Composite, declarer: Declarer) -> str:
    lines: list[str] = []
    # What is still to be written, last first: a line, or a composite with its depth, its offset
    # in bits and the text behind its closing brace.
    todo: list[str | tuple[t.Composite, int, int, str]] = [
        (target, 0, 0, f"; /* size {target.size} */")
    ]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            lines.append(item)
            continue
        composite, depth, start, tail = item
        if depth > _MAX_DEPTH or len(lines) > _MAX_LINES:
            raise FormatError(
                f"{btf.describe(target.id)} nests too deep or has too many members", file=btf.name
            )
        indent = "\t" * depth
        keyword = "struct" if isinstance(composite, t.Struct) else "union"
        head = f"{keyword} {printable(composite.name)}".rstrip()
        lines.append(f"{indent}{head} {{")
        todo.append(f"{indent}}}{tail}")
        for member in reversed(composite.members):
            at = start + member.bit_offset
            inner = btf[btf.strip(member.type, typedefs=False)]
            place = f"; /* {at // 8}" + (f":{at % 8}" if member.bitfield_size else "") + " */"
            if isinstance(inner, t.Composite) and not inner.name:
                named = f" {printable(member.name)}" if member.name else ""
                todo.append((inner, depth + 1, at, named + place))
            else:
                text = declarer.text(member.type, member.name)
                width = f":{member.bitfield_size}" if member.bitfield_size else ""
                todo.append(f"{indent}\t{text}{width}{place}")
    return "\n".join(lines)


def room_for(btf: Btf) -> int:
    """Characters that suffice to declare all that honest BTF has, several times over."""
    return _ROOM + _ROOM_PER_BYTE * len(btf.to_bytes())


class Declarer:
    """Makes declarations; what does not depend on the name is worked out once for each type.

    Whoever spells types in another way overrides :meth:`base` and :meth:`identifier`.

    Args:
        btf: The table.
        room: How many characters the texts of all types may have together: those of strangers'
            types could double with each.

    Attributes:
        known: What :meth:`parts` found so far, by type id.
    """

    def __init__(self, btf: Btf, room: int = _ROOM) -> None:
        self._btf = btf
        self._kind: Callable[[int], int] = btf.kind
        self._room = room
        self.known: dict[int, tuple[str, str]] = {}
        # How many texts were made that hold only where they stand; what has one is not kept.
        self._passing = 0

    def text(self, type_id: int, name: str = "", depth: int = 0) -> str:
        """Declaration of ``name``; only parameters of prototypes go deeper."""
        before, after = self.parts(type_id, depth)
        if name:
            return f"{before}{self.identifier(name)}{after}"
        return before + after if after.startswith("(") else before.rstrip() + after

    def parts(self, type_id: int, depth: int = 0) -> tuple[str, str]:
        """What stands before and behind the name of something of a type: ``char (*``, ``)[16]``.

        Args:
            type_id: The type.
            depth: How many prototypes it is a parameter in.

        Raises:
            FormatError: As of :func:`declare`.
        """
        parts = self.known.get(type_id)
        if parts is not None:
            return parts
        known, passing = self.known, self._passing
        chain: list[int] = []  # from the type to what its declaration begins with
        inner = type_id
        while parts is None:
            if self._kind(inner) not in _DERIVED:
                parts = f"{self.base(inner)} ", ""
                if passing == self._passing:
                    known[inner] = parts
                break
            chain.append(inner)
            if len(chain) > _MAX_CHAIN or depth > _MAX_DEPTH:
                raise self._endless(type_id)
            inner = self._made_of(inner)
            parts = known.get(inner)
        for each in reversed(chain):
            before, after = parts = self._derive(each, *parts, depth)
            self._room -= len(before) + len(after)
            if self._room < 0:
                raise self._endless(type_id)
            if passing == self._passing:
                known[each] = parts
        return parts

    def base(self, type_id: int) -> str:
        """Spell the type that a declaration begins with."""
        return _base_name(self._btf, type_id)

    def identifier(self, name: str) -> str:
        """Spell the name of what is declared."""
        return printable(name)

    def _derive(self, type_id: int, before: str, after: str, depth: int) -> tuple[str, str]:
        """The parts of a type from those of the one that it is made of."""
        kind = self._kind(type_id)
        function_or_array = after.startswith(("(", "["))
        if kind == t.Kind.PTR:
            return (f"{before}(*", f"){after}") if function_or_array else (f"{before}*", after)
        if word := _QUALIFIERS.get(kind):
            _, star, behind = before.rpartition("*")
            if not function_or_array and word not in behind.split():
                before = f"{before}{word} " if star else f"{word} {before}"
            return before, after
        if kind == t.Kind.TYPE_TAG:
            return f"{before}{_attribute(self._btf, type_id)} ", after
        found = self._btf[type_id]
        if isinstance(found, t.Array):
            return before, f"[{found.nelems}]{after}"
        if isinstance(found, t.FuncProto):
            return before, f"({self._params(found, depth)}){after}"
        return before, after

    def _made_of(self, type_id: int) -> int:
        found = self._btf[type_id]
        assert isinstance(found, (t.Reference, t.Array, t.FuncProto, t.Func, t.Var))
        return found.return_type if isinstance(found, t.FuncProto) else found.type

    def _params(self, proto: t.FuncProto, depth: int) -> str:
        params = [
            "..." if not p.name and not p.type else self.text(p.type, p.name, depth + 1)
            for p in proto.params
        ]
        if params == ["..."]:
            # A prototype of one nameless void parameter, as libbpf reads it.
            return "void"
        return ", ".join(params) or "void"

    def _endless(self, type_id: int) -> FormatError:
        return FormatError(
            f"{self._btf.describe(type_id)} refers to itself or is too long to declare",
            file=self._btf.name,
            section=".BTF",
        )


def _attribute(btf: Btf, type_tag: int) -> str:
    owner, at = btf._locate(type_tag)
    name = printable(btf.type_name(type_tag))
    # With the kind flag (Linux 6.15) it is no tag but an attribute: address_space(1).
    kflag = owner._words[at + 1] >> 31
    return f"__attribute__(({name}))" if kflag else f'__attribute__((btf_type_tag("{name}")))'


def _base_name(btf: Btf, type_id: int) -> str:
    kind, name = btf.kind(type_id), printable(btf.type_name(type_id))
    if kind in _TAGS:
        return _TAGS[kind] + (name or "{...}")
    found = btf[type_id]
    if isinstance(found, t.Fwd):
        return ("union " if found.is_union else "struct ") + name
    if isinstance(found, t.DeclTag):
        return f'__attribute__((btf_decl_tag("{name}")))'
    if isinstance(found, t.Datasec):
        return f"section {name}"
    if isinstance(found, t.Opaque):
        return f"kind {found.raw_kind} {name}".rstrip()
    return name or f"kind {kind}"
