"""Making BTF from nothing: :class:`BtfBuilder`.

What is made is kept as it will lie in the blob: one array of 32-bit words with the type records,
the position of each, and one run of strings. References to other types may point forward and are
not checked; :meth:`Btf.validate` does that.

The record layouts are those of :mod:`pybpfload.formats.btf`; the rules for names, sizes and values
are those of libbpf's ``btf__add_*`` where a blob would not be readable otherwise, and left to the
kernel where they are a matter of policy.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.table import Btf
from pybpfload.btf.words import Places, Texts, require_known_kinds, string_offsets
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt
from pybpfload.formats.packed import packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import TypeAlias

    MemberLike: TypeAlias = t.Member | tuple[str, int, int] | tuple[str, int, int, int]
    SecVarLike: TypeAlias = t.SecVar | tuple[int, int, int]

__all__ = ["NATIVE", "BtfBuilder"]

NATIVE = "<" if sys.byteorder == "little" else ">"
"""This machine's byte order, as in :mod:`struct`."""

MAX_VLEN = 0xFFFFFF
"""Most elements of one type record: 24 bits (16 before Linux 7.2)."""

_VERSION = 1

_REFERENCE_KINDS = {
    t.Ptr: t.Kind.PTR,
    t.Typedef: t.Kind.TYPEDEF,
    t.Volatile: t.Kind.VOLATILE,
    t.Const: t.Kind.CONST,
    t.Restrict: t.Kind.RESTRICT,
    t.TypeTag: t.Kind.TYPE_TAG,
}


class BtfBuilder:
    """A BTF under construction, empty at first. Each ``add_*`` method returns the new id.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`; this machine's by default.
        base: Table that the new one extends (split BTF); its ids and strings come first.
    """

    def __init__(self, byteorder: str = NATIVE, *, base: Btf | None = None) -> None:
        if byteorder not in ("<", ">"):
            raise ValueError(f"byteorder is {byteorder!r}, expected '<' or '>'")
        if base is not None and base.byteorder != byteorder:
            raise ValueError(f"byteorder is {byteorder!r}, that of the base {base.byteorder!r}")
        self.byteorder = byteorder
        self.base = base
        self._start_id = len(base) if base is not None else 1
        self._start_str = base._end_str if base is not None else 0
        self._words = array("I")
        self._offsets = array("I")
        self._layout = b""
        self._record_words = fmt.EXTRA_WORDS
        self._strings = bytearray(b"" if base is not None else b"\0")
        self._base_strings: dict[bytes, int] | None = None
        # Strings added since the position _searched; those before it are found by searching.
        self._added: dict[bytes, int] = {}
        self._searched = 0

    def __len__(self) -> int:
        """Highest type id plus one, as of a :class:`Btf`."""
        return self._start_id + len(self._offsets)

    # Strings

    def add_string(self, text: str | bytes) -> int:
        """Return the offset of a string, which is added when it is not there yet.

        Raises:
            ValueError: It contains a NUL character.
        """
        raw = text.encode() if isinstance(text, str) else bytes(text)
        if not raw:
            return 0
        if b"\0" in raw:
            raise ValueError(f"{text!r} contains a NUL character")
        found = self._added.get(raw)
        if found is not None:
            return found
        if self.base is not None:
            if self._base_strings is None:
                self._base_strings = string_offsets(self.base)
            if raw in self._base_strings:
                return self._base_strings[raw]
        if self._searched:
            if self._strings.startswith(raw + b"\0"):
                return self._start_str
            at = self._strings.find(b"\0" + raw + b"\0", 0, self._searched)
            if at >= 0:
                return self._start_str + at + 1
        offset = self._added[raw] = self._start_str + len(self._strings)
        self._strings += raw + b"\0"
        return offset

    # Types

    def add(
        self,
        kind: int,
        name: str | bytes = "",
        third: int = 0,
        *,
        vlen: int = 0,
        kflag: bool = False,
        extra: Sequence[int] = (),
    ) -> int:
        """Append a type record given word by word.

        Args:
            kind: Its kind, one that this package or :meth:`add_layout` knows.
            name: Its name, ``""`` for none.
            third: Size in bytes or type id, whatever the third word means for that kind.
            vlen: Number of elements (or the linkage of a function).
            kflag: The kind flag.
            extra: The words after the common part; negative numbers in two's complement.

        Raises:
            ValueError: The kind is unknown, the number of words is not that of the kind, or one
                does not fit into 32 bits.
        """
        if kind not in self._record_words:
            raise ValueError(f"kind {kind} is not known")
        once, each = self._record_words[kind]
        if len(extra) != once + each * vlen:
            raise ValueError(
                f"kind {kind} with {vlen} elements has {once + each * vlen} words, not {len(extra)}"
            )
        record = [
            self.add_string(name),
            info_word(kind, vlen, kflag),
            word(third),
            *map(word, extra),
        ]
        self._offsets.append(len(self._words))
        self._words.extend(record)
        return len(self) - 1

    def add_int(
        self, name: str, size: int, encoding: int = 0, bits: int | None = None, offset: int = 0
    ) -> int:
        """Add an integer of ``size`` bytes, ``bits`` wide (all of it by default) at bit ``offset``.

        Args:
            name: Its name.
            size: In bytes.
            encoding: ``BTF_INT_SIGNED`` 1, ``BTF_INT_CHAR`` 2, ``BTF_INT_BOOL`` 4, or 0.
            bits: Width in bits.
            offset: First bit, 0 from every compiler of today.
        """
        bits = size * 8 if bits is None else bits
        if not (0 <= encoding <= 15 and 0 <= bits <= 255 and 0 <= offset <= 255):
            raise ValueError(
                f"int {name} with encoding {encoding}, {bits} bits at {offset} cannot be encoded"
            )
        return self.add(t.Kind.INT, name, size, extra=(encoding << 24 | offset << 16 | bits,))

    def add_float(self, name: str, size: int) -> int:
        """Add a floating point number of ``size`` bytes (Linux 5.13)."""
        return self.add(t.Kind.FLOAT, name, size)

    def add_ptr(self, to: int) -> int:
        """Add a pointer to a type; 0 for ``void *``."""
        return self.add(t.Kind.PTR, "", to)

    def add_const(self, of: int) -> int:
        """Add ``const`` of a type."""
        return self.add(t.Kind.CONST, "", of)

    def add_volatile(self, of: int) -> int:
        """Add ``volatile`` of a type."""
        return self.add(t.Kind.VOLATILE, "", of)

    def add_restrict(self, of: int) -> int:
        """Add ``restrict`` of a type."""
        return self.add(t.Kind.RESTRICT, "", of)

    def add_typedef(self, name: str, of: int) -> int:
        """Add another name of a type."""
        return self.add(t.Kind.TYPEDEF, name, of)

    def add_type_tag(self, value: str, of: int) -> int:
        """Add ``btf_type_tag(value)`` on a type (Linux 5.17)."""
        return self.add(t.Kind.TYPE_TAG, value, of)

    def add_decl_tag(self, value: str, of: int, component: int = -1) -> int:
        """Add ``btf_decl_tag(value)`` on a type or one of its components (Linux 5.16)."""
        return self.add(t.Kind.DECL_TAG, value, of, extra=(component,))

    def add_array(self, of: int, nelems: int, index_type: int) -> int:
        """Add an array of ``nelems`` elements; the kernel wants ``index_type`` to be an integer."""
        return self.add(t.Kind.ARRAY, extra=(of, index_type, nelems))

    def add_struct(self, name: str, size: int, members: Iterable[MemberLike]) -> int:
        """Add a struct of ``size`` bytes.

        Args:
            name: Its name, ``""`` for an anonymous one.
            size: In bytes.
            members: Of each: name, type id, offset in bits, and for a bit field its width in bits.
        """
        return self._add_composite(t.Kind.STRUCT, name, size, members)

    def add_union(self, name: str, size: int, members: Iterable[MemberLike]) -> int:
        """Add a union; arguments as of :meth:`add_struct`."""
        return self._add_composite(t.Kind.UNION, name, size, members)

    def _add_composite(
        self,
        kind: int,
        name: str,
        size: int,
        members: Iterable[MemberLike],
        kflag: bool = False,
    ) -> int:
        listed = [m if isinstance(m, t.Member) else _member(m) for m in members]
        # One bit field makes the offsets of all members carry a width (libbpf btf__add_field).
        kflag = kflag or any(m.bitfield_size for m in listed)
        extra: list[int] = []
        for m in listed:
            if kflag and not (0 <= m.bit_offset <= 0xFFFFFF and 0 <= m.bitfield_size <= 255):
                raise ValueError(
                    f"member {m.name} of {name} cannot be encoded: "
                    f"{m.bitfield_size} bits at bit {m.bit_offset}"
                )
            extra += (self.add_string(m.name), m.type, m.bitfield_size << 24 | m.bit_offset)
        return self.add(kind, name, size, vlen=len(listed), kflag=kflag, extra=extra)

    def add_enum(
        self, name: str, size: int, values: Iterable[tuple[str, int]], *, signed: bool | None = None
    ) -> int:
        """Add an enum of ``size`` bytes with 32-bit values.

        Args:
            name: Its name, ``""`` for an anonymous one.
            size: In bytes.
            values: Names and values.
            signed: Whether values are signed; by default when one of them is negative.
        """
        listed = list(values)
        kflag = any(v < 0 for _, v in listed) if signed is None else signed
        extra = [x for n, v in listed for x in (self.add_string(n), _enumerator(n, v, kflag, 32))]
        return self.add(t.Kind.ENUM, name, size, vlen=len(listed), kflag=kflag, extra=extra)

    def add_enum64(
        self, name: str, size: int, values: Iterable[tuple[str, int]], *, signed: bool | None = None
    ) -> int:
        """Add an enum with 64-bit values (Linux 6.0); arguments as of :meth:`add_enum`."""
        listed = list(values)
        kflag = any(v < 0 for _, v in listed) if signed is None else signed
        extra: list[int] = []
        for n, v in listed:
            raw = _enumerator(n, v, kflag, 64)
            extra += (self.add_string(n), raw & 0xFFFFFFFF, raw >> 32)
        return self.add(t.Kind.ENUM64, name, size, vlen=len(listed), kflag=kflag, extra=extra)

    def add_fwd(self, name: str, *, is_union: bool = False) -> int:
        """Add a forward declaration of a struct or union."""
        return self.add(t.Kind.FWD, name, kflag=is_union)

    def add_func(self, name: str, proto: int, linkage: int = 1) -> int:
        """Add a function; linkage 0 is static, 1 global, 2 extern."""
        return self.add(t.Kind.FUNC, name, proto, vlen=linkage)

    def add_func_proto(
        self, return_type: int, params: Iterable[t.Param | tuple[str, int]] = ()
    ) -> int:
        """Add a prototype with names and types of parameters; ``("", 0)`` at the end is ``...``."""
        pairs = [(p.name, p.type) if isinstance(p, t.Param) else p for p in params]
        extra = [x for n, p in pairs for x in (self.add_string(n), p)]
        return self.add(t.Kind.FUNC_PROTO, "", return_type, vlen=len(pairs), extra=extra)

    def add_var(self, name: str, of: int, linkage: int = 1) -> int:
        """Add a variable; linkage 0 is static, 1 global, 2 extern."""
        return self.add(t.Kind.VAR, name, of, extra=(linkage,))

    def add_datasec(self, name: str, size: int, entries: Iterable[SecVarLike]) -> int:
        """Add a data section and its variables: id of the VAR or FUNC, offset and size in bytes."""
        extra = datasec_words(entries)
        return self.add(t.Kind.DATASEC, name, size, vlen=len(extra) // 3, extra=extra)

    def add_type(self, value: t.Type) -> int:
        """Append a decoded type as it is; ids in it are not translated (libbpf ``btf__add_type``).

        Raises:
            ValueError: It is ``void`` or of a kind that this package does not know.
        """
        if isinstance(value, t.Reference):
            return self.add(_REFERENCE_KINDS[type(value)], value.name, value.type)
        if isinstance(value, t.Int):
            return self.add_int(value.name, value.size, value.encoding, value.bits, value.offset)
        if isinstance(value, t.Composite):
            return self._add_composite(
                value.kind, value.name, value.size, value.members, value.kflag
            )
        if isinstance(value, (t.Enum, t.Enum64)):
            add = self.add_enum if isinstance(value, t.Enum) else self.add_enum64
            pairs = [(e.name, e.value) for e in value.values]
            return add(value.name, value.size, pairs, signed=value.signed)
        if isinstance(value, t.Array):
            return self.add(
                t.Kind.ARRAY, value.name, extra=(value.type, value.index_type, value.nelems)
            )
        if isinstance(value, t.Fwd):
            return self.add_fwd(value.name, is_union=value.is_union)
        if isinstance(value, t.Func):
            return self.add_func(value.name, value.type, value.linkage)
        if isinstance(value, t.FuncProto):
            # Prototypes have no names; a damaged one may.
            extra = [x for p in value.params for x in (self.add_string(p.name), p.type)]
            return self.add(
                t.Kind.FUNC_PROTO,
                value.name,
                value.return_type,
                vlen=len(value.params),
                extra=extra,
            )
        if isinstance(value, t.Var):
            return self.add_var(value.name, value.type, value.linkage)
        if isinstance(value, t.Datasec):
            return self.add_datasec(value.name, value.size, value.entries)
        if isinstance(value, t.Float):
            return self.add_float(value.name, value.size)
        if isinstance(value, t.DeclTag):
            return self.add_decl_tag(value.name, value.type, value.component)
        raise ValueError(f"{value!r} cannot be added")

    def add_btf(self, btf: Btf) -> int:
        """Append all own types of a table, references between them included.

        Types and strings of a base are not copied: a split table's base must be that of the
        builder. As libbpf's ``btf__add_btf``.

        Returns:
            The id that the first of them got; the others follow in their order.

        Raises:
            FormatError: A type is of a kind that this package does not know, so nobody can tell
                what its words refer to; or a string lies outside the table.
            ValueError: The table is split over another base.
        """
        if btf.base is not None and btf.base is not self.base:
            raise ValueError(f"{btf.name} is split over another base than what is built")
        require_known_kinds(btf, "appended")
        first = len(self)
        shift = first - btf.start_id
        ids = [i + shift if i >= btf.start_id else i for i in range(len(btf))]
        self.add_records(btf, btf.own_ids(), ids)
        return first

    def add_records(self, btf: Btf, kept: Iterable[int], ids: Sequence[int]) -> None:
        """Append some own types of a table, of kinds that are known, word by word.

        Args:
            btf: The table. Its base may be another one than that of the builder.
            kept: Ids of the types, in the order in which they are added.
            ids: New id of each type of the table, those of its base included.

        Raises:
            FormatError: A type or string lies outside the table.
        """
        texts, strings = Texts(btf), {0: 0}
        stay = btf._start_str if btf.base is self.base else 0  # strings of the same base
        string_places, type_places = Places("s"), Places("t")
        words = array("I", bytes(btf._words))
        ends = [*btf._offsets[1:], len(words)]
        for type_id in kept:
            at = btf._offsets[type_id - btf.start_id]
            record = words[at : ends[type_id - btf.start_id]]
            for place in string_places[record[1]]:
                offset = record[place]
                if offset >= stay:
                    if offset not in strings:
                        strings[offset] = self.add_string(texts[offset])
                    record[place] = strings[offset]
            for place in type_places[record[1]]:
                if record[place] >= len(ids):
                    raise FormatError(
                        f"type {type_id} refers to type {record[place]}, highest is {len(ids) - 1}",
                        file=btf.name,
                        section=".BTF",
                    )
                record[place] = ids[record[place]]
            self._offsets.append(len(self._words))
            self._words += record

    def add_layout(self, unknown: Mapping[int, tuple[int, int]] | None = None) -> None:
        """Add the layout part, by which readers step over kinds they do not know (Linux 7.1).

        Args:
            unknown: Kinds that this package does not know, as words added once and words added for
                each element; :meth:`add` takes them from now on.
        """
        self._record_words = {**fmt.EXTRA_WORDS, **(unknown or {})}
        entry = packed("btf", self.byteorder).layout_entry
        sizes = (self._record_words.get(i, (0, 0)) for i in range(max(self._record_words) + 1))
        self._layout = b"".join(entry.pack(4 * once, 4 * each, 0) for once, each in sizes)

    # Result

    def build(self) -> bytes:
        """Return the blob: a header of 24 bytes, types, strings.

        With a layout part, added or taken over from an edited table, the header has 32 bytes and
        the layout follows the types.
        """
        words = self._words
        if self.byteorder != NATIVE:
            words = words[:]
            words.byteswap()
        records = packed("btf", self.byteorder)
        types_len, layout_len = 4 * len(words), len(self._layout)
        more = b""
        if layout_len:
            more = records.header_layout.pack(types_len, layout_len)
        header = records.header.pack(
            fmt.MAGIC,
            _VERSION,
            0,
            fmt.HEADER_SIZE + len(more),
            0,
            types_len,
            types_len + layout_len,
            len(self._strings),
        )
        return b"".join((header, more, words.tobytes(), self._layout, self._strings))

    def btf(self, name: str = "BTF") -> Btf:
        """Return the table over what :meth:`build` gives.

        Raises:
            FormatError: An edited table has types of a kind that is only known from its layout
                part, and that was dropped.
        """
        return Btf.from_bytes(self.build(), base=self.base, name=name)


def info_word(kind: int, vlen: int, kflag: bool) -> int:
    """Put the second word of a type record together."""
    if not 0 <= vlen <= MAX_VLEN:
        raise ValueError(f"{vlen} elements do not fit into a type record, {MAX_VLEN} are the most")
    return kflag << 31 | kind << 24 | vlen


def word(value: int) -> int:
    """Return a number as it lies in 32 bits, a negative one in two's complement."""
    if not -(1 << 31) <= value < 1 << 32:
        raise ValueError(f"{value} does not fit into 32 bits")
    return value & 0xFFFFFFFF


def _member(given: tuple[str, int, int] | tuple[str, int, int, int]) -> t.Member:
    return t.Member(given[0], given[1], given[2], given[3] if len(given) == 4 else 0)


def _enumerator(name: str, value: int, signed: bool, bits: int) -> int:
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    if not low <= value < high:
        raise ValueError(f"enumerator {name} = {value} does not fit into {bits} bits")
    return value & (1 << bits) - 1


def datasec_words(entries: Iterable[SecVarLike]) -> list[int]:
    """Words of the entries of a DATASEC."""
    words: list[int] = []
    for entry in entries:
        words += (entry.type, entry.offset, entry.size) if isinstance(entry, t.SecVar) else entry
    return words
