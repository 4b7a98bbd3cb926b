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
    from pybpfload.btf.table import Btf

__all__ = ["Declarer", "declare", "define", "printable", "steps_for", "type_text"]

_MAX_DEPTH = 32  # prototypes inside parameters of prototypes
_MAX_STEPS = 4096  # types walked for one text: parameters multiply with each level

_ALL_STEPS = 1 << 17  # for all declarations of a table, and one more for each of its bytes

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
    return Declarer(btf).text(type_id, name, 0)


def define(btf: Btf, type_id: int) -> str:
    """Return the C definition of a struct, union or enum, with offsets as comments.

    Offsets and sizes are bytes; a bit field shows ``byte:bit``, counted as BTF counts bits.
    Typedefs and modifiers in front are stepped over. Types of members are named, not defined,
    except that anonymous members are written out where they stand.

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
    return _define_composite(btf, target)


def printable(name: str) -> str:
    """Return a name with control and other unprintable characters escaped."""
    return name if name.isprintable() else name.encode("unicode_escape").decode("ascii")


def _define_composite(btf: Btf, target: t.Composite) -> str:
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
        if depth > _MAX_DEPTH or len(lines) > _MAX_STEPS * 16:
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
                text = declare(btf, member.type, member.name)
                width = f":{member.bitfield_size}" if member.bitfield_size else ""
                todo.append(f"{indent}\t{text}{width}{place}")
    return "\n".join(lines)


def steps_for(btf: Btf) -> int:
    """Steps that suffice to declare all that honest BTF has, several times over."""
    return _ALL_STEPS + len(btf.to_bytes())


class Declarer:
    """Makes declarations; counts the steps, of which types of strangers could need many.

    Whoever spells types in another way overrides :meth:`base` and :meth:`identifier`.

    Args:
        btf: The table.
        steps: How many types may be walked for all declarations together.
    """

    def __init__(self, btf: Btf, steps: int = _MAX_STEPS) -> None:
        self._btf = btf
        self._left = steps
        self._least = 0

    def text(self, type_id: int, name: str = "", depth: int = 0) -> str:
        """Declaration of ``name``; only parameters of prototypes go deeper."""
        btf = self._btf
        if not depth:
            self._least = max(0, self._left - _MAX_STEPS)
        inner = self.identifier(name)
        qualifiers: list[str] = []
        first = type_id
        while True:
            self._left -= 1
            if self._left < self._least or depth > _MAX_DEPTH:
                raise FormatError(
                    f"{btf.describe(first)} refers to itself or is too long to declare",
                    file=btf.name,
                    section=".BTF",
                )
            found = btf[type_id]
            if found.kind in _QUALIFIERS:
                qualifiers.append(_QUALIFIERS[found.kind])
            elif isinstance(found, t.TypeTag):
                tag = f'__attribute__((btf_type_tag("{printable(found.name)}")))'
                inner = _join(tag, _join(_ordered(qualifiers), inner))
                qualifiers = []
            elif isinstance(found, t.Ptr):
                inner = "*" + _join(_ordered(qualifiers), inner)
                qualifiers = []
            elif isinstance(found, t.Array):
                inner = f"{_group(inner)}[{found.nelems}]"
                qualifiers = []
            elif isinstance(found, t.FuncProto):
                inner = f"{_group(inner)}({self._params(found, depth)})"
                qualifiers = []
            elif isinstance(found, (t.Func, t.Var)):
                inner = inner or self.identifier(found.name)
            else:
                return _join(_ordered(qualifiers), _join(self.base(found), inner))
            if isinstance(found, t.FuncProto):
                type_id = found.return_type
            else:
                assert isinstance(found, (t.Reference, t.Array, t.Func, t.Var))
                type_id = found.type

    def base(self, found: t.Type) -> str:
        """Spell the type that a declaration begins with."""
        return _base_name(found)

    def identifier(self, name: str) -> str:
        """Spell the name of what is declared."""
        return printable(name)

    def _params(self, proto: t.FuncProto, depth: int) -> str:
        params = [
            "..." if not p.name and not p.type else self.text(p.type, p.name, depth + 1)
            for p in proto.params
        ]
        if params == ["..."]:
            # A prototype of one nameless void parameter, as libbpf reads it.
            return "void"
        return ", ".join(params) or "void"


def _ordered(qualifiers: list[str]) -> str:
    return " ".join(dict.fromkeys(qualifiers))


def _join(left: str, right: str) -> str:
    if not left or not right:
        return left or right
    return left + right if right[0] == "[" else f"{left} {right}"


def _group(inner: str) -> str:
    return f"({inner})" if inner.startswith(("*", "__attribute__")) else inner


def _base_name(found: t.Type) -> str:
    name = printable(found.name)
    if found.kind in _TAGS:
        return _TAGS[found.kind] + (name or "{...}")
    if isinstance(found, t.Fwd):
        return ("union " if found.is_union else "struct ") + name
    if isinstance(found, t.DeclTag):
        return f'__attribute__((btf_decl_tag("{name}")))'
    if isinstance(found, t.Datasec):
        return f"section {name}"
    if isinstance(found, t.Opaque):
        return f"kind {found.raw_kind} {name}".rstrip()
    return name or f"kind {int(found.kind)}"
