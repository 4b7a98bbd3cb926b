"""Layout of structs and unions as data: members, holes, padding, cache lines (as ``pahole`` shows).

Types without name are taken apart where they stand, so that one layout has all bytes of a type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import Declarer, printable, room_for
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf.table import Btf

__all__ = ["CACHE_LINE", "Layout", "Row", "flat_members", "layout"]

CACHE_LINE = 64
"""Bytes, of most processors; 128 on some arm64 and ppc64, 256 on s390x."""

_MAX_DEPTH = 32  # structs without name in each other
_MAX_ROWS = 1 << 14  # of one layout: what is without name may be mentioned many times


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a layout.

    Attributes:
        what: ``"member"``; ``"begin"`` and ``"end"`` of a struct or union without name, which
            together are one member; ``"hole"`` between members; ``"padding"`` at the end.
        depth: How many structs and unions without name it is in.
        offset: Bits from the start of the outermost type.
        bits: Its size in bits; of a bit field its width.
        path: Names of the member and those around it, ``in.pid``; ``""`` if it has none.
        text: C declaration of a member without ``;``, head of what begins, ``""`` of others.
        bitfield: Whether it is a bit field.
    """

    what: str
    depth: int
    offset: int
    bits: int
    path: str = ""
    text: str = ""
    bitfield: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of one struct or union.

    Attributes:
        type: The type's id.
        head: ``struct task_struct``.
        size: In bytes.
        line: Size of a cache line in bytes.
        members: How many members it has itself; one without name counts as one.
        rows: All lines, in the order of the declaration.
    """

    type: int
    head: str
    size: int
    line: int
    members: int
    rows: tuple[Row, ...]

    @property
    def lines(self) -> int:
        """Cache lines that it takes when it starts with one."""
        return -(-self.size // self.line)

    @property
    def holes(self) -> tuple[Row, ...]:
        """Holes between its own members."""
        return tuple(row for row in self.rows if row.what == "hole" and not row.depth)

    @property
    def padding(self) -> int:
        """Bits behind its last member."""
        return sum(row.bits for row in self.rows if row.what == "padding" and not row.depth)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON; offsets and sizes in bits where so called."""
        return {
            "type_id": self.type,
            "name": self.head,
            "size": self.size,
            "cachelines": self.lines,
            "members": self.members,
            "holes": len(self.holes),
            "holes_bits": sum(row.bits for row in self.holes),
            "padding_bits": self.padding,
            "rows": [
                {
                    "what": row.what,
                    "depth": row.depth,
                    "bits_offset": row.offset,
                    "bits": row.bits,
                    "path": row.path,
                    "text": row.text,
                    "bitfield": row.bitfield,
                }
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        """The text that ``pahole`` users know: C with offset and size of each member, in bytes."""
        lines = [f"{self.head} {{"]
        reached = 0  # cache line
        for row in self.rows:
            indent = "\t" * (row.depth + 1)
            start = row.offset // 8
            if row.what in ("member", "begin") and start // self.line > reached:
                reached = start // self.line
                since = start - reached * self.line
                ago = f" was {since} bytes ago" if since else ""
                where = f"cacheline {reached} boundary ({reached * self.line} bytes){ago}"
                lines.append(f"{indent}/* --- {where} --- */")
            if row.what == "begin":
                lines.append(f"{indent}{row.text} {{")
            elif row.what in ("hole", "padding"):
                lines.append(f"{indent}/* XXX {_amount(row.bits)} {row.what} */")
            else:
                text = f"{row.text};" if row.what == "member" else f"}} {row.text}".rstrip() + ";"
                lines.append(f"{indent}{text:<{56 - 8 * row.depth}}/* {_place(row)} */")
        lines += ["", *(f"\t/* {line} */" for line in self._totals()), "};"]
        return "\n".join(lines)

    def _totals(self) -> Iterator[str]:
        yield f"size: {self.size}, cachelines: {self.lines}, members: {self.members}"
        for what, holes in (
            ("holes", [row.bits for row in self.holes if row.bits % 8 == 0]),
            ("bit holes", [row.bits for row in self.holes if row.bits % 8]),
        ):
            if holes:
                yield f"{what}: {len(holes)}, sum {what}: {_amount(sum(holes))}"
        if self.padding:
            yield f"padding: {_amount(self.padding)}"
        if self.size % self.line:
            yield f"last cacheline: {self.size % self.line} bytes"


def layout(btf: Btf, type_id: int, *, line: int = CACHE_LINE) -> Layout:
    """Lay out a struct or union.

    Args:
        btf: The table.
        type_id: The type; typedefs and modifiers in front are stepped over.
        line: Size of a cache line in bytes.

    Raises:
        FormatError: It is something else, has members without size, or contains itself.
        ValueError: A cache line of no bytes.
    """
    if line < 1:
        raise ValueError(f"a cache line of {line} bytes")
    target = btf[btf.strip(type_id)]
    if not isinstance(target, t.Composite):
        raise FormatError(f"{btf.describe(type_id)} has no layout", file=btf.name)
    name = target.name or (btf.type_name(type_id) if btf.kind(type_id) == t.Kind.TYPEDEF else "")
    rows: list[Row] = []
    for row in _rows(Declarer(btf, room_for(btf)), btf, target, 0, 0, ""):
        rows.append(row)
        if len(rows) > _MAX_ROWS:
            raise FormatError(f"{btf.describe(type_id)} has too many members", file=btf.name)
    head = f"{_keyword(target)} {printable(name)}".rstrip()
    return Layout(target.id, head, target.size, line, len(target.members), tuple(rows))


def flat_members(btf: Btf, type_id: int) -> Iterator[tuple[str, t.Member, int]]:
    """Members of a struct or union and of what is without name in it.

    Args:
        btf: The table.
        type_id: A struct or union itself, no typedef of it.

    Yields:
        Path (``in.pid``), member, and its offset from the start in bits.

    Raises:
        FormatError: It contains itself, or has more than 16,384 members.
    """
    todo: list[tuple[int, str, int, int]] = [(type_id, "", 0, 0)]
    left = _MAX_ROWS
    while todo:
        inside, prefix, start, depth = todo.pop()
        composite = btf[inside]
        assert isinstance(composite, t.Composite)
        left -= 1 + len(composite.members)
        if depth > _MAX_DEPTH or left < 0:
            raise FormatError(f"{btf.describe(type_id)} has too many members", file=btf.name)
        for member in composite.members:
            at = start + member.bit_offset
            path = prefix + member.name
            if member.name:
                yield path, member, at
            inner = _without_name(btf, member)
            if inner is not None:
                todo.append((inner.id, f"{path}." if member.name else prefix, at, depth + 1))


def _without_name(btf: Btf, member: t.Member) -> t.Composite | None:
    """The struct or union that is taken apart where the member stands: one of them has no name."""
    inner = btf[btf.strip(member.type, typedefs=not member.name)]
    return inner if isinstance(inner, t.Composite) and not (inner.name and member.name) else None


def _rows(
    declarer: Declarer, btf: Btf, composite: t.Composite, start: int, depth: int, prefix: str
) -> Iterator[Row]:
    # Depth is bounded, so this may call itself.
    if depth > _MAX_DEPTH:
        raise FormatError(f"{btf.describe(composite.id)} nests too deep", file=btf.name)
    reached = start
    union = isinstance(composite, t.Union)
    for member in composite.members:
        at = start + member.bit_offset
        bits = member.bitfield_size or 8 * btf.size(member.type)
        if at > reached and not union:
            yield Row("hole", depth, reached, at - reached)
        path = f"{prefix}{printable(member.name)}"
        inner = _without_name(btf, member)
        if inner is None:
            text = declarer.text(member.type, member.name)
            if member.bitfield_size:
                text += f":{member.bitfield_size}"
            yield Row("member", depth, at, bits, path, text, bool(member.bitfield_size))
        else:
            head = f"{_keyword(inner)} {printable(inner.name)}".rstrip()
            yield Row("begin", depth, at, bits, path, head)
            inside = f"{path}." if member.name else prefix
            yield from _rows(declarer, btf, inner, at, depth + 1, inside)
            yield Row("end", depth, at, bits, path, printable(member.name))
        reached = max(reached, at + bits)
    end = start + 8 * composite.size
    if reached < end and not union and composite.members:
        yield Row("padding", depth, reached, end - reached)


def _keyword(composite: t.Composite) -> str:
    return "struct" if isinstance(composite, t.Struct) else "union"


def _amount(bits: int) -> str:
    """``4 bytes``, or bits where bytes do not come out even."""
    number, unit = (bits // 8, "byte") if bits % 8 == 0 else (bits, "bit")
    return f"{number} {unit}{'s' if number != 1 else ''}"


def _place(row: Row) -> str:
    if row.bitfield:
        return f"{row.offset // 8:>5}:{row.offset % 8:>2} {row.bits:>2}"
    return f"{row.offset // 8:>5} {row.bits // 8:>5}"
