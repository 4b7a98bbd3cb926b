"""C headers made from BTF, such as ``vmlinux.h``: every type defined before it is needed.

:func:`dump_c` writes what clang reads back with the same layout when it compiles for BPF:

* A definition follows those of all types that it contains; what it only points to is declared. The
  order is found by a walk with a stack of its own, as types may nest as deep as a file says.
* Tags (of structs, unions and enums) and identifiers (of typedefs and enumerators) are two name
  spaces, and in each a second use of a name becomes ``NAME___2``, which CO-RE takes for the same
  name. What is no identifier of C gets underscores.
* BTF has offsets, C has alignment. Each definition is laid out as clang does it: where C would come
  to another offset, bit fields without name fill the gap, and where it could not come to the offset
  at all the struct is packed.
* Types without a name are written out where they are used.

The names are libbpf's (``btf_dump.c``); the order, and the layout of unions that are larger than
their members, are not. Functions and variables are left out.
"""

from __future__ import annotations

import re
from itertools import count
from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import Declarer, steps_for
from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybpfload.btf.table import Btf

__all__ = ["CHeader", "dump_c"]

_HEAD = """\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

"""
_TAIL = """\
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
"""

_NO_IDENTIFIER = re.compile(r"\W", re.ASCII)
_WORDS_OF_C = frozenset({
    "char", "short", "int", "long", "signed", "unsigned", "float", "double", "void", "bool",
    "_Bool", "_Complex", "__int128", "_Float16", "_Float32", "_Float64", "_Float128", "__float128",
})  # fmt: skip
_BUILTIN = "__builtin_va_list"  # the compiler's own; that of the kernel's architecture is another
_MODES = {1: "byte", 2: "HI", 8: "word"}  # of enums that clang would give 4 bytes
_MARK = "\ufffc"  # stands for the name in a declaration that is kept for later
_INLINE_DEPTH = 32  # structs without name in each other
_OUTPUT_RATIO = 8  # characters of text for each byte of BTF; kernels need less than one
_LONG_GAP = 64  # bytes that are filled by an array and not by bit fields
_ALIGNMENTS = frozenset({1, 2, 4, 8, 16})

_DEFINED = frozenset({t.Kind.STRUCT, t.Kind.UNION, t.Kind.TYPEDEF, t.Kind.FWD, *t.ENUM_KINDS})
_NEW, _UNDER_WAY, _DONE = range(3)


def dump_c(btf: Btf, roots: Iterable[int] | None = None) -> str:
    """Return a C header with the definitions of types, as ``bpftool btf dump ... format c``.

    Args:
        btf: The types. Of split BTF its own and what they need of the base.
        roots: Ids of the types wanted, with all that they need; all by default.

    Raises:
        FormatError: A type contains itself, has no size where it needs one, or the text would be
            many times longer than the BTF.
    """
    return CHeader(btf).text(roots)


class CHeader:
    """A header under construction.

    Attributes:
        btf: The types.
        names: The C names of the types that were defined, with keyword: ``struct task_struct``, by
            type id.
    """

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.names: dict[int, str] = {}
        self._spelling = _Spelling(self)
        self._state = bytearray(len(btf))
        self._declared = bytearray(len(btf))
        self._ready: set[tuple[int, bool]] = set()  # walked, and all that it needs is there
        self._tags: dict[str, int] = {}
        self._identifiers: dict[str, int] = {_BUILTIN: 1}
        self._spelt: dict[int, tuple[str, str]] = {}
        self._packed_align: dict[int, tuple[bool, int]] = {}
        self._extents: dict[int, tuple[int, int]] = {}
        self._resolved: dict[tuple[str, bool], int] = {}
        self._arrays = count(1)
        self._depth = self._inlined = 0
        self._enums_inlined: set[int] = set()
        self._chunks: list[str] = []
        self._left = _OUTPUT_RATIO * (len(btf.to_bytes()) + (1 << 16))

    def text(self, roots: Iterable[int] | None = None) -> str:
        """Return the header, once; the arguments and errors are those of :func:`dump_c`."""
        btf = self.btf
        self._put(_HEAD)
        if roots is None:
            lonely = []
            for type_id, kind in zip(btf.own_ids(), btf.own_kinds(), strict=True):
                if kind in _DEFINED:
                    if btf.type_name(type_id):
                        self._define(type_id)
                    elif kind in t.ENUM_KINDS:
                        lonely.append(type_id)
            self._define_lonely_enums(lonely)
        else:
            for type_id in roots:
                self._define(btf.strip(type_id, typedefs=False))
        self._put(_TAIL)
        return "".join(self._chunks)

    def _put(self, text: str) -> None:
        self._left -= len(text)
        if self._left < 0:
            raise self._error("the types are so entangled that their text has no end")
        self._chunks.append(text)

    def _error(self, message: str) -> FormatError:
        return FormatError(message, file=self.btf.name, section=".BTF")

    # Order

    def _define(self, root: int) -> None:
        """Write the definition of a type behind those of all that it needs."""
        if self._state[root] == _DONE:
            return
        stack = [(root, self._needs(root))]
        self._state[root] = _UNDER_WAY
        while stack:
            type_id, needs = stack[-1]
            for needed, complete in needs:
                state = self._state[needed]
                if state == _DONE:
                    continue
                if not complete:
                    self._declare(needed)
                    continue
                if state == _UNDER_WAY:
                    raise self._error(f"{self.btf.describe(needed)} contains itself")
                self._state[needed] = _UNDER_WAY
                stack.append((needed, self._needs(needed)))
                break
            else:
                stack.pop()
                self._write(type_id)
                self._state[type_id] = _DONE

    def _needs(self, type_id: int) -> Iterator[tuple[int, bool]]:
        """What has to be written before a type: ids, and whether defined or only declared."""
        found = self.btf[type_id]
        if isinstance(found, t.Composite):
            for member in found.members:
                if (member.type, True) not in self._ready:
                    yield from self._mentioned(member.type, True)
        elif isinstance(found, t.Typedef):
            yield from self._mentioned(found.type, False)
        elif not isinstance(found, (t.Enum, t.Enum64, t.Fwd, t.Int, t.Float)):
            yield from self._mentioned(type_id, False)

    def _mentioned(self, type_id: int, complete: bool) -> Iterator[tuple[int, bool]]:
        """What the declaration of something of a type needs; complete if it takes up space."""
        first = (type_id, complete)
        if first in self._ready:
            return
        btf, seen, todo = self.btf, {first}, [first]
        while todo:
            type_id, complete = todo.pop()
            found = btf[type_id]
            then: list[tuple[int, bool]] = []
            if isinstance(found, t.Typedef):
                yield type_id, True
                if complete:
                    then.append((found.type, True))
            elif isinstance(found, t.Ptr):
                then.append((found.type, False))
            elif isinstance(found, t.Array):  # C wants its elements complete, even behind a pointer
                then.append((found.type, True))
            elif isinstance(found, t.FuncProto):
                then.append((found.return_type, False))
                then += [(param.type, False) for param in found.params]
            elif isinstance(found, t.Composite):
                yield type_id, complete or not found.name
            elif isinstance(found, t.Fwd):
                yield self._resolve(found), False
            elif isinstance(found, (t.Enum, t.Enum64)):
                if found.name:
                    yield type_id, True
            elif isinstance(found, (t.Int, t.Float)):
                if not _known_to_c(found.name):
                    yield type_id, True
            elif isinstance(found, (t.Reference, t.Func, t.Var)):
                then.append((found.type, complete))
            fresh = [each for each in then if each not in seen and each not in self._ready]
            seen.update(fresh)
            todo += fresh
        self._ready |= seen

    def _resolve(self, found: t.Fwd) -> int:
        """The definition that belongs to a forward declaration, or itself if there is none."""
        known = self._resolved.get((found.name, found.is_union))
        if known is None:
            kind = t.Kind.UNION if found.is_union else t.Kind.STRUCT
            known = self.btf.find(found.name, kind) or found.id
            self._resolved[found.name, found.is_union] = known
        return known

    # Names

    def name(self, found: t.Type) -> str:
        """The name of a type in this header, without keyword; ``""`` if it has none."""
        if not found.name:
            return ""
        if isinstance(found, t.Fwd):
            found = self.btf[self._resolve(found)]
        full = self.names.get(found.id)
        if full is None:
            tagged = isinstance(found, (t.Composite, t.Enum, t.Enum64, t.Fwd))
            full = self.names[found.id] = _keyword(found) + (
                self._unique(found.name, self._tags if tagged else self._identifiers)
            )
        return full[len(_keyword(found)) :]

    def _unique(self, name: str, taken: dict[str, int]) -> str:
        name = _identifier(name)
        count = taken[name] = taken.get(name, 0) + 1
        if count == 1:
            return name
        while (numbered := f"{name}___{count}") in taken:
            count += 1
        taken[name] = count
        taken[numbered] = 1
        return numbered

    # Text

    def _declare(self, type_id: int) -> None:
        found = self.btf[type_id]
        if not self._declared[type_id] and found.name:
            self._declared[type_id] = True
            self._put(self._forward(found))

    def _forward(self, found: t.Type) -> str:
        return f"{_keyword(found)}{self.name(found)};\n\n"

    def _write(self, type_id: int) -> None:
        found = self.btf[type_id]
        self._arrays = count(1)
        if isinstance(found, t.Composite):
            self._packed_align[type_id] = self._choose_packing(found)
            if found.name:
                text = self._composite(found)
                if self._chunks[-1] == self._forward(found):  # only it itself points to it so far
                    self._chunks.pop()
                self._put(f"{text};\n\n")
        elif isinstance(found, t.Typedef):
            if found.name == "__gnuc_va_list" and not self.btf.strip(found.type):
                text = f"{_BUILTIN} {self.name(found)}"  # some compilers leave it void
            else:
                text = self._declaration(found.type, self.name(found))
            self._put(f"typedef {text};\n\n")
        elif isinstance(found, (t.Enum, t.Enum64)):
            self._put(f"{self._enum(found)};\n\n")
        elif isinstance(found, t.Fwd):
            self._declare(self._resolve(found))
        elif isinstance(found, (t.Int, t.Float)) and not _known_to_c(found.name):
            self._put(f"typedef {_plain(found)} {self.name(found)};\n\n")

    def _define_lonely_enums(self, enums: list[int]) -> None:
        """Enums without name that no type uses: constants that somebody put into an enum."""
        for type_id in enums:
            if type_id not in self._enums_inlined:
                found = self.btf[type_id]
                assert isinstance(found, (t.Enum, t.Enum64))
                if found.values:
                    self._put(f"{self._enum(found)};\n\n")

    def _declaration(self, type_id: int, name: str) -> str:
        """Declare something; what does not depend on its name is worked out once for each type."""
        known = self._spelt.get(type_id)
        if known is None:
            inlined = self._inlined
            text = self._spelling.text(type_id, _MARK, 0)
            before, _, after = text.partition(_MARK)
            known = before, after
            # What is written out where it stands may not be repeated: enumerators are unique.
            if inlined == self._inlined:
                self._spelt[type_id] = known
        return f"{known[0]}{name}{known[1]}" if name else f"{known[0].rstrip()}{known[1]}"

    def inline(self, found: t.Composite | t.Enum | t.Enum64) -> str:
        """Write out a type without name."""
        self._inlined += 1
        if not isinstance(found, t.Composite):
            if found.id in self._enums_inlined or not found.values:
                return _plain(found)  # its enumerators are known already
            self._enums_inlined.add(found.id)
            return self._enum(found)
        if self._depth >= _INLINE_DEPTH:
            raise self._error(f"{self.btf.describe(found.id)} nests too deep")
        self._depth += 1
        try:
            return self._composite(found, named=False)
        finally:
            self._depth -= 1

    def _enum(self, found: t.Enum | t.Enum64) -> str:
        head = f"enum {self.name(found)}".rstrip()
        if not found.values:
            return head
        bits = 8 * found.size
        suffix = ("LL" if found.signed else "ULL") if isinstance(found, t.Enum64) else ""
        lines = []
        wide = False
        for each in found.values:
            # Before Linux 6.0 BTF did not say that values are signed.
            value = each.value if each.value < 1 << bits else each.value - (1 << 32)
            wide = wide or not -(1 << 31) <= value < 1 << 32
            lines.append(f"\t{self._unique(each.name, self._identifiers)} = {value}{suffix},\n")
        mode = _MODES.get(found.size)
        tail = f" __attribute__((mode({mode})))" if mode and not wide else ""
        return f"{head} {{\n{''.join(lines)}}}{tail}"

    def _composite(self, found: t.Composite, *, named: bool = True) -> str:
        packed, align = self._packed_align[found.id]
        head = f"{_keyword(found)}{self.name(found)}" if named else _keyword(found)
        lines = [f"{head.rstrip()} {{"]
        gaps = _Gaps(align, self._arrays)
        position = 0  # in bits
        union = isinstance(found, t.Union)
        for member in found.members:
            name = _identifier(member.name)
            text = self._member(member, name).replace("\n", "\n\t")
            natural, end = self._place(member, 0 if union else position, packed)
            if member.bit_offset < natural:
                lines.append(f"\t/* {name} overlaps what is in front of it */")
                continue
            if member.bit_offset > natural:
                if union:
                    lines.append(f"\t/* {name} does not start where the union does */")
                    continue
                lines += gaps.fill(position, member.bit_offset)
                _, end = self._place(member, member.bit_offset, packed)
            width = f": {member.bitfield_size}" if member.bitfield_size else ""
            if width and not name:
                text = text.rstrip()
            lines.append(f"\t{text}{width};")
            self._left -= len(text)
            if self._left < 0:
                raise self._error("the types are so entangled that their text has no end")
            position = max(position, end)
        reached = _round_up(position, 8 * align)
        if reached < 8 * found.size:
            if union:
                lines.append(f"\t{gaps.array(found.size)}")
            else:
                lines += gaps.fill(position, 8 * found.size)
        lines.append("} __attribute__((packed))" if packed else "}")
        return "\n".join(lines) if len(lines) > 2 else f"{lines[0]}{lines[1]}"

    def _member(self, member: t.Member, name: str) -> str:
        """Declaration of a member, the width of a bit field left out."""
        if not name:
            # Newer kernels are compiled with -fms-extensions: a struct that has a name may be
            # a member that has none. Written out, it is the same without that option.
            inner = self.btf[self.btf.strip(member.type)]
            if isinstance(inner, t.Composite):
                return self.inline(inner)
        return self._declaration(member.type, name)

    # Layout, as clang does it for BPF

    def _place(self, member: t.Member, position: int, packed: bool) -> tuple[int, int]:
        """Where C puts a member that comes at a position, and where it ends; in bits."""
        size, align = self._extents.get(member.type) or self._extent(member.type)
        width = member.bitfield_size
        if not width:
            unit = 8 if packed else 8 * align
            start = -(-position // unit) * unit
            return start, start + 8 * size
        unit = 8 * size
        if not packed and unit and position // unit != (position + width - 1) // unit:
            position = _round_up(position, unit)
        return position, position + width

    def _choose_packing(self, found: t.Composite) -> tuple[bool, int]:
        """Whether a struct has to be packed to come to its offsets and size; its alignment."""
        align = 1
        packed = False
        for member in found.members:
            if not member.bitfield_size or member.name:
                align = max(align, self._extent(member.type)[1])
            packed = packed or self._place(member, member.bit_offset, False)[0] > member.bit_offset
        return (True, 1) if packed or found.size % align else (False, align)

    def _extent(self, type_id: int) -> tuple[int, int]:
        """Size and alignment of a type in bytes, in this header; structs inside are laid out."""
        known = self._extents.get(type_id)
        if known is None:
            btf = self.btf
            size = btf.size(type_id)
            found = btf[btf.strip(type_id)]
            while isinstance(found, t.Array):  # its size is known, so it ends
                found = btf[btf.strip(found.type)]
            if isinstance(found, t.Composite):
                align = self._packed_align[found.id][1]
            elif isinstance(found, t.Ptr):
                align = btf.pointer_size
            else:
                align = btf.size(found.id)
            known = self._extents[type_id] = size, align if align in _ALIGNMENTS else 1
        return known


class _Spelling(Declarer):
    """Declarations with the names of a header."""

    def __init__(self, header: CHeader) -> None:
        super().__init__(header.btf, steps_for(header.btf))
        self._header = header

    def base(self, found: t.Type) -> str:
        """Names of this header; what has none is written out."""
        if isinstance(found, (t.Composite, t.Enum, t.Enum64)) and not found.name:
            return self._header.inline(found)
        if isinstance(found, (t.Composite, t.Enum, t.Enum64, t.Fwd)):
            return _keyword(found) + self._header.name(found)
        if isinstance(found, t.Typedef):
            return self._header.name(found)
        if isinstance(found, (t.Int, t.Float)) and not _known_to_c(found.name):
            return self._header.name(found) or _plain(found)
        return super().base(found)

    def identifier(self, name: str) -> str:
        """The name, made an identifier of C."""
        return name if name == _MARK else _identifier(name)


class _Gaps:
    """What stands for bytes that no member has.

    Args:
        align: Of the struct in bytes; a bit field that needs more would raise it elsewhere than for
            BPF, where those without name need none.
        arrays: Numbers for members that are arrays; those of inner structs without name count on.
    """

    def __init__(self, align: int, arrays: Iterator[int]) -> None:
        self._units = [(name, bits) for name, bits in _UNITS if bits <= 8 * align] or _UNITS
        self._arrays = arrays

    def fill(self, start: int, end: int) -> list[str]:
        """Lines that take up the bits between two positions."""
        lines = []
        while start < end:
            rest = end - start
            if start % 8 == 0 and rest > 8 * _LONG_GAP:
                lines.append(f"\t{self.array(rest // 8)}")
                start = end - rest % 8
                continue
            fitting = (unit for unit in self._units if start % unit[1] == 0 and rest >= unit[1])
            name, bits = next(fitting, ("char", min(8 - start % 8, rest)))
            lines.append(f"\t{name}: {bits};")
            start += bits
        return lines

    def array(self, size: int) -> str:
        """A member of a size in bytes; its name is no other's."""
        return f"unsigned char __gap_{next(self._arrays)}[{size}];"


_UNITS = [("long", 64), ("int", 32), ("short", 16), ("char", 8)]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _identifier(name: str) -> str:
    if name.isidentifier() and name.isascii():
        return name
    clean = _NO_IDENTIFIER.sub("_", name)
    return f"_{clean}" if clean[:1].isdigit() else clean


def _known_to_c(name: str) -> bool:
    return bool(name) and _WORDS_OF_C.issuperset(name.split())


def _keyword(found: t.Type) -> str:
    if isinstance(found, t.Composite):
        return "struct " if isinstance(found, t.Struct) else "union "
    if isinstance(found, t.Fwd):
        return "union " if found.is_union else "struct "
    return "enum " if isinstance(found, (t.Enum, t.Enum64)) else ""


def _plain(found: t.Int | t.Float | t.Enum | t.Enum64) -> str:
    """A type of C itself with the size and sign of another."""
    if isinstance(found, t.Float):
        return {4: "float", 8: "double"}.get(found.size, "long double")
    signed = "" if found.signed else "unsigned "
    sizes = {1: "char", 2: "short", 4: "int", 8: "long long", 16: "__int128"}
    return signed + sizes.get(found.size, "int")
