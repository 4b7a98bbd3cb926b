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
    from collections.abc import Iterator, Sequence

    from pybpfload.btf.table import Btf
    from pybpfload.charts.bytes import Cell

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
        bitfield: Whether it is a bit field; of a hole or padding, whether it is the rest of what
            the bit field in front of it is stored in.
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

    def _taken(self, *, bitfields: bool) -> int:
        """Bits that its own members take up: bit fields, or all others."""
        own = [row for row in self.rows if not row.depth and row.what in ("member", "begin")]
        return sum(row.bits for row in own if row.bitfield == bitfields)

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

    def svg(self) -> str:
        """A picture: rows of cache lines, members as boxes, holes and padding hatched.

        A union in a struct is one box with the names of its members; of a union itself each member
        is drawn alone. What is cut off in a box is shown when it is pointed at.
        """
        from pybpfload.charts.bytes import byte_map

        about = "; ".join(self._totals())
        union = self.head.startswith("union")
        bands = list(_bands(self.rows)) if union else [("", _cells(self.rows, self.size))]
        return byte_map(self.head, about, bands, line=self.line)

    def _repr_svg_(self) -> str:
        return self.svg()

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
                lines.append(f"{indent}/* XXX {_gap(row)} {row.what} */")
            else:
                text = f"{row.text};" if row.what == "member" else f"}} {row.text}".rstrip() + ";"
                lines.append(f"{indent}{text.ljust(56 - 8 * row.depth)}/* {_place(row)} */")
        lines += ["", *(f"\t/* {line} */" for line in self._totals()), "};"]
        return "\n".join(lines)

    def _totals(self) -> Iterator[str]:
        yield f"size: {self.size}, cachelines: {self.lines}, members: {self.members}"
        for members, taken, what, holes in (
            ("members", False, "holes", [r.bits for r in self.holes if not r.bitfield]),
            ("bitfield members", True, "bit holes", [r.bits for r in self.holes if r.bitfield]),
        ):
            if holes:
                amount = _bits if taken else _amount
                of_members = f"sum {members}: {amount(self._taken(bitfields=taken))}"
                yield f"{of_members}, {what}: {len(holes)}, sum {what}: {amount(sum(holes))}"
        last = [row for row in self.rows if row.what == "padding" and not row.depth]
        for row in reversed(last):  # bytes before bits, as pahole
            yield f"{'bit padding' if row.bitfield else 'padding'}: {_gap(row)}"
        if self.size % self.line:
            yield f"last cacheline: {self.size % self.line} bytes"


def layout(btf: Btf, type_id: int, *, line: int = CACHE_LINE, expand: bool = False) -> Layout:
    """Lay out a struct or union.

    Args:
        btf: The table.
        type_id: The type; typedefs and modifiers in front are stepped over.
        line: Size of a cache line in bytes.
        expand: Take apart members whose types have names, too.

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
    walk = _Walk(btf, expand=expand)
    for row in walk.rows(target, 0, 0, ""):
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


class _Walk:
    """Makes rows of the members of one type and of what is taken apart in it."""

    def __init__(self, btf: Btf, *, expand: bool) -> None:
        self._btf = btf
        self._expand = expand
        self._declarer = Declarer(btf, room_for(btf))

    def rows(self, composite: t.Composite, start: int, depth: int, prefix: str) -> Iterator[Row]:
        """Rows of what lies ``start`` bits from the beginning; depth is bounded."""
        btf = self._btf
        if depth > _MAX_DEPTH:
            raise FormatError(f"{btf.describe(composite.id)} nests too deep", file=btf.name)
        reached = stored = start  # ends of the members so far, of what holds the last bit field
        union = isinstance(composite, t.Union)
        for member in composite.members:
            at = start + member.bit_offset
            bits = member.bitfield_size or 8 * btf.size(member.type)
            if not union:
                yield from _gaps("hole", depth, reached, stored, at)
            path = f"{prefix}{printable(member.name)}"
            inner = self._taken_apart(member)
            if inner is None:
                text = self._declarer.text(member.type, member.name)
                if member.bitfield_size:
                    text += f":{member.bitfield_size}"
                yield Row("member", depth, at, bits, path, text, bool(member.bitfield_size))
            else:
                head = f"{_keyword(inner)} {printable(inner.name)}".rstrip()
                yield Row("begin", depth, at, bits, path, head)
                inside = f"{path}." if member.name else prefix
                yield from self.rows(inner, at, depth + 1, inside)
                yield Row("end", depth, at, bits, path, printable(member.name))
            reached = max(reached, at + bits)
            if member.bitfield_size:
                unit = 8 * btf.size(member.type) or 8
                stored = start + (member.bit_offset // unit + 1) * unit
        if not union and composite.members:
            yield from _gaps("padding", depth, reached, stored, start + 8 * composite.size)

    def _taken_apart(self, member: t.Member) -> t.Composite | None:
        if not self._expand:
            return _without_name(self._btf, member)
        inner = self._btf.strip(member.type)
        found = self._btf[inner] if self._btf.kind(inner) in (t.Kind.STRUCT, t.Kind.UNION) else None
        return found if isinstance(found, t.Composite) and found.members else None


def _gaps(what: str, depth: int, start: int, stored: int, end: int) -> Iterator[Row]:
    """What is free from ``start`` to ``end``: bits of a bit field's storage, bytes behind it."""
    middle = min(max(start, stored), end)
    if start < middle:
        yield Row(what, depth, start, middle - start, bitfield=True)
    if middle < end:
        yield Row(what, depth, middle, end - middle)


def _cells(rows: Sequence[Row], size: int) -> list[Cell]:
    """What a picture of a struct is made of; a union in it is one cell."""
    from pybpfload.charts.bytes import Cell

    cells: list[Cell] = []
    inside: list[str] | None = None  # what the union has whose rows these are
    depth, reached = 0, 0
    for row in rows:
        if inside is not None:
            if row.depth == depth + 1 and row.what in ("member", "end"):
                inside.append(row.text or "struct")
            if row.what != "end" or row.depth != depth:
                continue
            names = [each.rpartition(" ")[2].lstrip("*") for each in inside]
            lines = (row.text or "union", " | ".join(names), _at(row))
            about = f"union {row.path} {{ {'; '.join(inside)} }}".replace("  ", " ")
            cell, inside = Cell(row.offset, row.bits, lines, f"{about}, {_at(row)}", "union"), None
        elif row.what == "begin" and row.text.startswith("union"):
            inside, depth = [], row.depth
            continue
        elif row.what == "member":
            what = "bits" if row.bitfield else "member"
            name = row.path.rpartition(".")[2] or row.text
            about = f"{row.text}, {_at(row)}" + (f" ({row.path})" if "." in row.path else "")
            cell = Cell(row.offset, row.bits, (name, row.text, _at(row)), about, what)
        elif row.what in ("hole", "padding"):
            short = _gap(row) if row.bitfield else f"{row.bits // 8} B"
            about = f"{_gap(row)} {row.what}"
            cell = Cell(row.offset, row.bits, (f"{short} {row.what}",), about, "gap")
        else:
            continue
        if cell.start >= reached and cell.start + cell.bits <= 8 * size:
            cells.append(cell)
            reached = cell.start + cell.bits
    return cells


def _bands(rows: Sequence[Row]) -> Iterator[tuple[str, list[Cell]]]:
    """The members of a union, each with what it is made of."""
    mine: list[Row] = []
    for row in rows:
        mine.append(row)
        if not row.depth and row.what in ("member", "end"):
            inner = [each for each in mine if each.depth] or mine
            yield row.text or "struct", _cells(inner, (row.offset + row.bits) // 8)
            mine = []


def _at(row: Row) -> str:
    """Offset and size, as short as it can be."""
    if row.bitfield:
        return f"@{row.offset // 8}:{row.offset % 8}, {_bits(row.bits)}"
    return f"@{row.offset // 8}, {row.bits // 8} B"


def _keyword(composite: t.Composite) -> str:
    return "struct" if isinstance(composite, t.Struct) else "union"


def _gap(row: Row) -> str:
    return _bits(row.bits) if row.bitfield else _amount(row.bits)


def _bits(bits: int) -> str:
    return f"{bits} bit{'s' if bits != 1 else ''}"


def _amount(bits: int) -> str:
    """``4 bytes``, or bits where bytes do not come out even."""
    if bits % 8:
        return _bits(bits)
    return f"{bits // 8} byte{'s' if bits != 8 else ''}"


def _place(row: Row) -> str:
    if row.bitfield:
        return f"{row.offset // 8:>5}:{row.offset % 8:>2} {row.bits:>2}"
    return f"{row.offset // 8:>5} {row.bits // 8:>5}"
