"""Changing a BTF table in place: :class:`BtfEditor`; and its byte order: :func:`to_byteorder`.

An edit writes into a type record and never moves one, so type ids, record sizes and string offsets
stay, and with them what ``.BTF.ext`` and instructions say about them. libbpf edits an object's BTF
the same way before it uploads it (``bpf_object__sanitize_btf``, ``bpf_object__resolve_externs``).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.build import MAX_VLEN, BtfBuilder, datasec_words, info_word, word
from pybpfload.btf.table import Btf
from pybpfload.btf.words import require_known_kinds
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt
from pybpfload.formats.packed import packed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.btf.build import SecVarLike

__all__ = ["BtfBuilder", "BtfEditor", "to_byteorder"]


class BtfEditor(BtfBuilder):
    """A copy of a table, to be changed in place and extended. The table itself stays as it is.

    Only the table's own types can be changed, not those of its base.

    Args:
        btf: What to start from.
    """

    def __init__(self, btf: Btf) -> None:
        super().__init__(btf.byteorder, base=btf.base)
        self._source = btf
        self._words = array("I", bytes(btf._words))
        self._offsets = btf._offsets[:]
        self._strings = bytearray(btf._strings)
        self._searched = len(self._strings)
        if btf._layout is not None:
            offset, length = btf._layout
            start = btf._hdr_len + offset
            self._layout = bytes(memoryview(btf._data).cast("B")[start : start + length])

    def _at(self, type_id: int) -> int:
        if not self._start_id <= type_id < len(self):
            raise FormatError(
                f"type id {type_id} cannot be edited, {self._start_id} to {len(self) - 1} can",
                file=self._source.name,
                section=".BTF",
            )
        return self._offsets[type_id - self._start_id]

    def _extra_at(self, type_id: int) -> tuple[int, int]:
        """Return the position of the words after the common part, and their number."""
        start = self._at(type_id)
        index = type_id - self._start_id + 1
        end = self._offsets[index] if index < len(self._offsets) else len(self._words)
        return start + fmt.TYPE_WORDS, end - start - fmt.TYPE_WORDS

    def _require(self, type_id: int, *kinds: t.Kind) -> int:
        at = self._at(type_id)
        kind = self._words[at + 1] >> 24 & 0x7F
        if kind not in kinds:
            raise ValueError(
                f"type {type_id} is of kind {kind}, expected {' or '.join(k.name for k in kinds)}"
            )
        return at

    def name_offset(self, type_id: int) -> int:
        """Offset of a type's name in the strings."""
        return self._words[self._at(type_id)]

    def set_info(
        self,
        type_id: int,
        *,
        kind: int | None = None,
        vlen: int | None = None,
        kflag: bool | None = None,
    ) -> None:
        """Change parts of the info word; what is not given stays.

        Raises:
            ValueError: The record would have another size.
        """
        at = self._at(type_id)
        info = self._words[at + 1]
        kind = info >> 24 & 0x7F if kind is None else kind
        vlen = info & MAX_VLEN if vlen is None else vlen
        kflag = bool(info >> 31) if kflag is None else kflag
        if (info ^ info_word(kind, vlen, kflag)) & 0x7FFFFFFF:
            once, each = fmt.EXTRA_WORDS.get(kind, (-1, 0))
            _, size = self._extra_at(type_id)
            if once + each * vlen != size:
                raise ValueError(
                    f"type {type_id} has {size} words after the common part, "
                    f"kind {kind} with vlen {vlen} needs {once + each * vlen}"
                )
        self._words[at + 1] = info_word(kind, vlen, kflag)

    def set_third(self, type_id: int, value: int) -> None:
        """Change the third word: the size in bytes or the type referred to."""
        self._words[self._at(type_id) + 2] = word(value)

    def set_name(self, type_id: int, name: str | None) -> None:
        """Rename a type; ``None`` or ``""`` makes it anonymous. The old name stays a string."""
        at = self._at(type_id)
        self._words[at] = self.add_string(name or "")

    def set_extra(self, type_id: int, word_index: int, value: int) -> None:
        """Change one word after the common part, counted from 0; negative: two's complement."""
        at, size = self._extra_at(type_id)
        if not 0 <= word_index < size:
            raise ValueError(
                f"type {type_id} has {size} words after the common part, none at {word_index}"
            )
        self._words[at + word_index] = word(value)

    def set_datasec(self, type_id: int, size: int, entries: Iterable[SecVarLike]) -> None:
        """Set the size of a data section and all its entries, whose number stays.

        Raises:
            ValueError: It is no DATASEC, or the number of entries differs.
        """
        at = self._require(type_id, t.Kind.DATASEC)
        extra = datasec_words(entries)
        start, room = self._extra_at(type_id)
        if len(extra) != room:
            raise ValueError(f"type {type_id} has {room // 3} entries, not {len(extra) // 3}")
        self._words[at + 2] = word(size)
        self._words[start : start + room] = array("I", map(word, extra))

    def set_var(
        self,
        type_id: int,
        *,
        type: int | None = None,  # noqa: A002
        linkage: int | None = None,
    ) -> None:
        """Change the type or linkage of a variable."""
        at = self._require(type_id, t.Kind.VAR)
        if type is not None:
            self._words[at + 2] = word(type)
        if linkage is not None:
            self._words[at + 3] = word(linkage)

    def set_func_linkage(self, type_id: int, linkage: int) -> None:
        """Change the linkage of a function: 0 static, 1 global, 2 extern."""
        at = self._require(type_id, t.Kind.FUNC)
        self._words[at + 1] = info_word(t.Kind.FUNC, linkage, bool(self._words[at + 1] >> 31))

    def replace_chars(self, type_id: int, table: bytes, count: int | None = None) -> None:
        """Translate the bytes of a type's name in place, for every type that shares the string.

        Args:
            type_id: The type.
            table: 256 bytes, as :func:`bytes.maketrans` makes them; it must map nothing but NUL to
                NUL.
            count: Only that many bytes at the start of the name.

        Raises:
            FormatError: The name lies outside the strings, or in the base.
        """
        if b"\0" in table[1:]:
            raise ValueError("the table maps a character to NUL")
        offset = self.name_offset(type_id)
        start = offset - self._start_str
        if not 0 <= start < len(self._strings):
            raise FormatError(
                f"type {type_id}: name offset {offset} is outside the strings, "
                f"{self._start_str} to {self._start_str + len(self._strings)}",
                file=self._source.name,
                section=".BTF",
            )
        end = self._strings.index(0, start)
        if count is not None:
            end = min(end, start + count)
        self._strings[start:end] = self._strings[start:end].translate(table)
        self._added.clear()
        self._searched = len(self._strings)

    def drop_layout(self) -> None:
        """Leave out the layout part (Linux 7.1), so that the header has 24 bytes."""
        self._layout = b""

    def finish(self, name: str | None = None) -> Btf:
        """Return the changed table, called as its source unless ``name`` is given."""
        pointer_size = self._source.pointer_size if self.base is None else None
        return Btf.from_bytes(
            self.build(), base=self.base, name=name or self._source.name, pointer_size=pointer_size
        )


def to_byteorder(btf: Btf, byteorder: str, *, base: Btf | None = None) -> Btf:
    """Return a table in the other byte order, with the same ids and strings.

    As libbpf's ``btf__set_endianness``. Twice is the same table again, byte for byte if its parts
    follow each other without gaps, as all tools write them.

    Args:
        btf: The table; itself returned when it already has that order.
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.
        base: Base of the new table, in the wanted order, for a split table.

    Raises:
        FormatError: A type is of a kind that this package does not know. Not all of its fields
            need to be 32 bits wide.
        ValueError: Not a byte order; or the base is missing, superfluous or of the wrong order.
    """
    if byteorder not in ("<", ">"):
        raise ValueError(f"byteorder is {byteorder!r}, expected '<' or '>'")
    if byteorder == btf.byteorder:
        return btf
    if (base is None) != (btf.base is None) or (base is not None and base.byteorder != byteorder):
        raise ValueError(f"{btf.name} needs base= in the wanted byte order if, and only if, split")
    require_known_kinds(btf, "swapped")
    editor = BtfEditor(btf)
    editor.base, editor.byteorder = base, byteorder
    old, new = (packed("btf", order).layout_entry for order in (btf.byteorder, byteorder))
    editor._layout = b"".join(new.pack(*entry) for entry in old.iter_unpack(editor._layout))
    return editor.finish()
