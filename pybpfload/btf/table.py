"""A lazy table of the types in one BTF blob.

A kernel's BTF holds well over 100,000 types and a loader needs a few dozen of them, so nothing is
decoded until it is asked for. What is kept is the blob itself, an ``array`` with the word offset of
each type, and, once a name was searched, an ``array`` with the name offset of each type. A name is
found by a byte search in the raw string table followed by a byte search in the array of name
offsets: both run at the speed of C.

The format is described in :mod:`pybpfload.formats.btf`; the checks at opening are those of libbpf's
``btf__new``. All that reads the blob's words is in this one class, which makes the module long: who
sees offsets has to see the checks that make them safe.
"""

from __future__ import annotations

import re
import sys
from array import array
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt
from pybpfload.formats.packed import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Btf", "essential_name"]

_NATIVE = "<" if sys.byteorder == "little" else ">"

_FLAVORED = re.compile("(.*[^_])___[^_]", re.DOTALL)
_UNKNOWN_KIND = 1 << 40  # more words than any blob has: the walk over the types stops there
_MAX_STRING = 1 << 16  # a lying blob could make every type carry the whole string part as its name
_NAMES_LIMIT = 64  # names of all types, in multiples of the string part
_PLACES_KNOWN = 1024  # names whose places in a kernel's strings are remembered
_MANY_COPIES = 64  # of one name: compilers and deduplication leave one
_LONG_CHAIN = 16  # modifiers and typedefs in a row
_MAX_RESOLVE_STEPS = 32  # as in libbpf's btf__resolve_size
_KINDS_WITH_SIZE = frozenset(
    {
        t.Kind.INT,
        t.Kind.STRUCT,
        t.Kind.UNION,
        t.Kind.ENUM,
        t.Kind.ENUM64,
        t.Kind.FLOAT,
        t.Kind.DATASEC,
    }
)
_KINDS_WITH_TYPE = frozenset(
    {
        t.Kind.PTR,
        t.Kind.TYPEDEF,
        t.Kind.VOLATILE,
        t.Kind.CONST,
        t.Kind.RESTRICT,
        t.Kind.TYPE_TAG,
        t.Kind.DECL_TAG,
        t.Kind.FUNC,
        t.Kind.VAR,
    }
)


def essential_name(name: str) -> str:
    """Return ``name`` without its ``___flavor`` suffix.

    The suffix starts at the rightmost run of exactly three underscores that has another character
    on either side (libbpf ``bpf_core_essential_name_len``): ``task___v1`` is ``task``, but
    ``a____b`` and ``___x`` are whole names.
    """
    if "___" not in name:
        return name
    found = _FLAVORED.match(name)
    return found[1] if found else name


class _RecordSizes(dict[int, int]):
    """Words of a type record by its info word; a kernel has a few hundred different ones."""

    _MOST = 1 << 12  # a hostile blob could have as many as types

    def __init__(self, per_kind: list[int], per_elem: list[int]) -> None:
        self._per_kind, self._per_elem = per_kind, per_elem

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 0x7F
        size = self._per_kind[kind] + self._per_elem[kind] * (info & 0xFFFFFF)
        if len(self) < self._MOST:
            self[info] = size
        return size


class Btf:
    """The types of one BTF blob, or of a split BTF together with its base.

    ``btf[id]`` decodes a type, ``len(btf)`` is the highest id plus one, iterating yields all ids
    from 1.

    Attributes:
        name: What the blob is called in messages, for example ``"vmlinux"``.
        base: The BTF that a split one (a kernel module's) extends, or ``None``.
        byteorder: ``"<"`` or ``">"``: of the blob.
        start_id: First id of this blob's own types; 1 without a base.
    """

    def __init__(self, data: Any, *, base: Btf | None = None, name: str = "BTF") -> None:
        self.name = name
        self.base = base
        self._data = data
        self._cache: dict[int, t.Type] = {}
        self._stripped: dict[tuple[int, bool], int] = {}
        self._names_left = 0
        self._validating = False
        self._names: array[int] | None = None
        self._names_raw = b""
        self._ids_by_name: dict[int, list[int]] | None = None
        self._suffixes = False
        self._places_known: dict[bytes, list[int]] = {}
        self._pointer_size: int | None = None
        self.start_id = len(base) if base is not None else 1
        self._start_str = base._end_str if base is not None else 0
        try:
            self._read_header(memoryview(data).cast("B"))
            self._index_types()
        except FormatError as error:
            raise error.located(file=name, section=".BTF") from None

    @classmethod
    def from_bytes(
        cls,
        data: Any,
        *,
        base: Btf | None = None,
        name: str = "BTF",
        pointer_size: int | None = None,
    ) -> Btf:
        """Index a raw BTF blob.

        Args:
            data: Bytes, or any buffer such as an mmap; it is kept, not copied.
            base: BTF that this one extends: vmlinux for that of a kernel module.
            name: What to call it in messages.
            pointer_size: Size of a pointer in bytes when it is known; found out from ``long``
                otherwise.

        Raises:
            FormatError: The blob is damaged.
        """
        btf = cls(data, base=base, name=name)
        btf._pointer_size = pointer_size
        return btf

    @classmethod
    def from_image(cls, data: Any, *, base: Btf | None = None, name: str = "BTF") -> Btf:
        """Read the BTF in the contents of a file, see :mod:`pybpfload.elf.image` for which.

        That of a module with a section ``.BTF.base`` (Linux 6.11) extends the distilled base in it;
        it is relocated onto ``base`` if that is given. As libbpf's ``btf__parse_split``.

        Args:
            data: Bytes, or any buffer.
            base: BTF that it extends: vmlinux for that of a module.
            name: What to call it in messages.

        Raises:
            FormatError: There is no BTF in it, it is damaged, or ``base`` lacks types it needs.
        """
        from pybpfload.elf.image import image_btf

        found = image_btf(data, name)
        if found.base is None:
            return cls.from_bytes(
                found.types, base=base, name=name, pointer_size=found.pointer_size
            )
        from pybpfload.btf.distill import base_name, relocate_base

        try:
            distilled = cls.from_bytes(
                found.base, name=base_name(name), pointer_size=found.pointer_size
            )
        except FormatError as error:
            error.file, error.section = name, ".BTF.base"
            raise
        split = cls.from_bytes(found.types, base=distilled, name=name)
        return split if base is None else relocate_base(split, base).btf

    def __deepcopy__(self, memo: dict[int, Any]) -> Btf:
        return self  # it never changes

    # Reading the blob

    def _read_header(self, view: memoryview) -> None:
        size = len(view)
        if size < fmt.HEADER_SIZE:
            raise FormatError(
                f"BTF of {size} bytes is shorter than its header of {fmt.HEADER_SIZE}"
            )
        magic = view[0] | view[1] << 8
        if magic == fmt.MAGIC:
            self.byteorder = "<"
        elif magic == 0x9FEB:
            self.byteorder = ">"
        else:
            raise FormatError(
                f"not BTF: magic is {magic:#06x}, expected {fmt.MAGIC:#06x}", offset=0
            )
        header = packed("btf", self.byteorder).header.unpack_from(view)
        _, self.version, _, hdr_len, type_off, type_len, str_off, str_len = header
        if hdr_len < fmt.HEADER_SIZE or hdr_len > size:
            raise FormatError(f"header length {hdr_len} is not between 24 and {size}", offset=4)
        for label, offset, length, field in (
            ("type", type_off, type_len, 8),
            ("string", str_off, str_len, 16),
        ):
            if offset + length > size - hdr_len:
                raise FormatError(
                    f"{label} part ({offset}+{length}) ends beyond the data "
                    f"of {size - hdr_len} bytes",
                    offset=field,
                )
        if type_off % 4:
            raise FormatError(
                f"type part starts at {type_off}, which is not a multiple of 4", offset=8
            )
        if type_off + type_len > str_off:
            raise FormatError("type part overlaps the string part", offset=16)
        self._per_kind = [_UNKNOWN_KIND] * 128
        self._per_elem = [0] * 128
        for kind, (once, each) in fmt.EXTRA_WORDS.items():
            self._per_kind[kind] = fmt.TYPE_WORDS + once
            self._per_elem[kind] = each
        self._layout: tuple[int, int] | None = None
        if hdr_len >= fmt.HEADER_SIZE + 8:
            self._read_layout(view, hdr_len, type_off + type_len, str_off)
        if self._layout is None and self.base is not None:
            self._per_kind, self._per_elem = self.base._per_kind, self.base._per_elem
        self._hdr_len = hdr_len
        types = view[hdr_len + type_off : hdr_len + type_off + type_len]
        # The words of the type part in this machine's byte order, whatever the blob's is.
        self._words: Any
        if len(types) % 4:
            raise FormatError(f"type part of {type_len} bytes is not a multiple of 4", offset=12)
        if self.byteorder == _NATIVE:
            self._words = types.cast("I") if types.c_contiguous else array("I", bytes(types))
        else:
            words = array("I", bytes(types))
            words.byteswap()
            self._words = words
        self._type_base = hdr_len + type_off
        self._strings = bytes(view[hdr_len + str_off : hdr_len + str_off + str_len])
        if self.base is None and not self._strings:
            raise FormatError("the string part is empty", offset=20)
        if self._strings and self._strings[-1]:
            raise FormatError("the string part does not end with a NUL byte", offset=20)
        if self.base is None and self._strings[0]:
            raise FormatError(
                "the string part does not start with the empty string", offset=hdr_len + str_off
            )
        self._end_str: int = self._start_str + len(self._strings)

    def _read_layout(self, view: memoryview, hdr_len: int, types_end: int, str_off: int) -> None:
        """Learn the sizes of unknown kinds from the layout section (Linux 7.1)."""
        records = packed("btf", self.byteorder)
        offset, length = records.header_layout.unpack_from(view, fmt.HEADER_SIZE)
        if not length:
            return
        if offset % 4 or length % 4 or offset < types_end or offset + length > str_off:
            raise FormatError(
                f"layout part ({offset}+{length}) is misplaced: it lies between types and strings",
                offset=24,
            )
        self._layout = (offset, length)
        entry = records.layout_entry
        for kind in range(min(length // entry.size, 128)):
            once, each, _ = entry.unpack_from(view, hdr_len + offset + kind * entry.size)
            if kind in fmt.EXTRA_WORDS or not kind:
                continue
            if once % 4 or each % 4:
                continue  # not in whole words: as good as unknown
            self._per_kind[kind] = fmt.TYPE_WORDS + once // 4
            self._per_elem[kind] = each // 4

    def _index_types(self) -> None:
        # Most of the time of opening a kernel's BTF is spent in this loop.
        words = self._words
        sizes = _RecordSizes(self._per_kind, self._per_elem)
        offsets = array("I")
        append = offsets.append
        position, end = 0, len(words)
        try:
            while position < end:
                append(position)
                position += sizes[words[position + 1]]
        except IndexError:
            position = end + 1
        if position != end:
            last = offsets[-1]
            kind = words[last + 1] >> 24 & 0x7F if last + 1 < end else 0
            place = self._type_base + 4 * last
            if last + 1 < end and self._per_kind[kind] == _UNKNOWN_KIND:
                raise FormatError(
                    f"type {self.start_id + len(offsets) - 1} has unknown kind {kind}", offset=place
                )
            raise FormatError(
                f"type {self.start_id + len(offsets) - 1} is cut short by the end of the types",
                offset=place,
            )
        self._offsets = offsets

    # Size and content

    def __len__(self) -> int:
        return self.start_id + len(self._offsets)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self)))

    def __repr__(self) -> str:
        return f"<Btf {self.name}: {len(self) - 1} types>"

    @property
    def pointer_size(self) -> int:
        """Size of a pointer in bytes: that of ``long``, 8 when there is none (as libbpf)."""
        if self._pointer_size is None:
            if self.base is not None:
                self._pointer_size = self.base.pointer_size
            else:
                self._pointer_size = 8
                for name in _LONG_NAMES:
                    if found := self.find(name, t.Kind.INT):
                        size = self._words[self._offsets[found - 1] + 2]
                        if size in (4, 8):
                            self._pointer_size = size
                            break
        return self._pointer_size

    @property
    def has_layout(self) -> bool:
        """Whether it has a layout part (Linux 7.1), which tells the sizes of all kinds of types."""
        return self._layout is not None

    def to_bytes(self) -> bytes:
        """Return the raw blob of this BTF, its base not included."""
        return bytes(self._data)

    def layers(self) -> list[Btf]:
        """Return the tables that this one is made of: the base of all first, itself last."""
        found: list[Btf] = [self]
        while found[-1].base is not None:
            found.append(found[-1].base)
        return found[::-1]

    def own_ids(self) -> range:
        """Ids of the types that this blob adds to its base (all of them without a base)."""
        return range(self.start_id, len(self))

    # Strings

    def string(self, offset: int) -> str:
        """Return the string at an offset; in split BTF the strings of the base come first."""
        if offset < self._start_str and self.base is not None:
            return self.base.string(offset)
        start = offset - self._start_str
        if start >= len(self._strings):
            raise FormatError(
                f"string offset {offset} is beyond the string part of {self._end_str} bytes",
                file=self.name,
                section=".BTF",
            )
        end = self._strings.index(0, start)
        if end - start > _MAX_STRING:
            raise FormatError(
                f"string of {end - start} bytes at {offset}; at most {_MAX_STRING} are read",
                file=self.name,
                section=".BTF",
            )
        return self._strings[start:end].decode("utf-8", "backslashreplace")

    def _name(self, offset: int) -> str:
        """As :meth:`string`, for decoding types: all names of one may not exceed a bound."""
        text = self.string(offset)
        self._names_left -= len(text)
        if self._names_left < 0:
            raise FormatError(
                "names of types overlap so that they exceed the string part many times",
                file=self.name,
                section=".BTF",
            )
        return text

    def _limit_names(self) -> None:
        # Honest tables use each string some three times at most, summed up over all types.
        self._names_left = _NAMES_LIMIT * self._end_str + _MAX_STRING

    # Single fields, without decoding the type

    def _locate(self, type_id: int) -> tuple[Btf, int]:
        if type_id < self.start_id:
            if type_id < 1:
                raise FormatError(
                    f"type id {type_id} has no record", file=self.name, section=".BTF"
                )
            assert self.base is not None
            return self.base._locate(type_id)
        try:
            return self, self._offsets[type_id - self.start_id]
        except IndexError:
            raise FormatError(
                f"type id {type_id} is out of range (highest is {len(self) - 1})",
                file=self.name,
                section=".BTF",
            ) from None

    def kind(self, type_id: int) -> int:
        """Kind of a type: a number, :class:`Kind` if it is known here; 0 for ``void``."""
        if type_id == 0:
            return t.Kind.VOID
        owner, at = self._locate(type_id)
        return int(owner._words[at + 1] >> 24 & 0x7F)

    def own_kinds(self) -> bytes:
        """The kinds of the own types in the order of :meth:`own_ids`, as numbers."""
        words = self._words
        return bytes([words[at + 1] >> 24 & 0x7F for at in self._offsets])

    def type_name(self, type_id: int) -> str:
        """Name of a type, ``""`` when it is anonymous, ``"void"`` for id 0."""
        if type_id == 0:
            return "void"
        owner, at = self._locate(type_id)
        return owner.string(owner._words[at])

    # Decoding

    def __getitem__(self, type_id: int) -> t.Type:
        cached = self._cache.get(type_id)
        if cached is not None:
            return cached
        if type_id == 0:
            decoded: t.Type = t.Void(0, "void")
        elif 0 < type_id < self.start_id and self.base is not None:
            return self.base[type_id]
        else:
            decoded = self._decode(type_id)
        self._cache[type_id] = decoded
        return decoded

    def _decode(self, type_id: int) -> t.Type:
        owner, at = self._locate(type_id)
        if not owner._validating:
            owner._limit_names()
        words, string = owner._words, owner._name
        name = string(words[at])
        info, third = words[at + 1], words[at + 2]
        kind, vlen, kflag = info >> 24 & 0x7F, info & 0xFFFFFF, bool(info >> 31)
        at += fmt.TYPE_WORDS
        if kind in _REFERENCES:
            return _REFERENCES[kind](type_id, name, third)
        if kind == t.Kind.INT:
            word = words[at]
            return t.Int(type_id, name, third, word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF)
        if kind in (t.Kind.STRUCT, t.Kind.UNION):
            composite = t.Struct if kind == t.Kind.STRUCT else t.Union
            run = words[at : at + 3 * vlen].tolist()
            if kflag:
                members = tuple(
                    t.Member(string(n), m, o & 0xFFFFFF, o >> 24)
                    for n, m, o in zip(run[::3], run[1::3], run[2::3], strict=True)
                )
            else:
                members = tuple(
                    t.Member(string(n), m, o)
                    for n, m, o in zip(run[::3], run[1::3], run[2::3], strict=True)
                )
            return composite(type_id, name, third, members, kflag)
        if kind == t.Kind.ENUM:
            run = words[at : at + 2 * vlen].tolist()
            return t.Enum(
                type_id,
                name,
                third,
                tuple(
                    t.Enumerator(string(n), v - (1 << 32) if kflag and v >> 31 else v)
                    for n, v in zip(run[::2], run[1::2], strict=True)
                ),
                kflag,
            )
        if kind == t.Kind.ENUM64:
            run = words[at : at + 3 * vlen].tolist()
            return t.Enum64(
                type_id,
                name,
                third,
                tuple(
                    t.Enumerator(
                        string(n), (hi << 32 | lo) - (1 << 64 if kflag and hi >> 31 else 0)
                    )
                    for n, lo, hi in zip(run[::3], run[1::3], run[2::3], strict=True)
                ),
                kflag,
            )
        if kind == t.Kind.ARRAY:
            return t.Array(type_id, name, words[at], words[at + 1], words[at + 2])
        if kind == t.Kind.FWD:
            return t.Fwd(type_id, name, kflag)
        if kind == t.Kind.FUNC:
            return t.Func(type_id, name, third, vlen)
        if kind == t.Kind.FUNC_PROTO:
            run = words[at : at + 2 * vlen].tolist()
            return t.FuncProto(
                type_id,
                name,
                third,
                tuple(t.Param(string(n), p) for n, p in zip(run[::2], run[1::2], strict=True)),
            )
        if kind == t.Kind.VAR:
            return t.Var(type_id, name, third, words[at])
        if kind == t.Kind.DATASEC:
            run = words[at : at + 3 * vlen].tolist()
            return t.Datasec(
                type_id,
                name,
                third,
                tuple(t.SecVar(*e) for e in zip(run[::3], run[1::3], run[2::3], strict=True)),
            )
        if kind == t.Kind.FLOAT:
            return t.Float(type_id, name, third)
        if kind == t.Kind.DECL_TAG:
            component = words[at]
            return t.DeclTag(
                type_id, name, third, component - (1 << 32) if component >> 31 else component
            )
        return t.Opaque(type_id, name, kind)

    # Lookup by name

    def _name_table(self) -> array[int]:
        if self._names is None:
            words = self._words
            names = array("I", map(words.__getitem__, self._offsets))
            self._names_raw = names.tobytes()
            self._names = names
            # Names start behind a NUL in every kernel's table, so that is where they are looked
            # for. A table that shares suffixes gets a complete index instead.
            self._suffixes = self._shares_suffixes(set(names))
            if self._suffixes:
                self._index_names(names)
        return self._names

    def _index_names(self, names: array[int]) -> None:
        index: dict[int, list[int]] = {}
        for type_id, offset in enumerate(names, self.start_id):
            index.setdefault(offset, []).append(type_id)
        self._ids_by_name = index

    def _shares_suffixes(self, offsets: set[int]) -> bool:
        """Whether a name starts anywhere but behind a NUL, or outside the strings."""
        if max(offsets, default=0) >= self._end_str > 0:
            return True
        for layer in self.layers():
            before = b"\0" + layer._strings  # at each string's offset the byte before it
            start, end = layer._start_str, layer._end_str
            if self.base is not None:
                offsets_here = {o - start for o in offsets if start <= o < end}
            else:
                offsets_here = offsets  # a kernel has 60,000
            if any(map(before.__getitem__, offsets_here)):
                return True
        return False

    def _ids_at(self, name_offset: int) -> Iterator[int]:
        """Own type ids whose name is the string at ``name_offset``, ascending."""
        if self._ids_by_name is not None:
            yield from self._ids_by_name.get(name_offset, ())
            return
        needle = name_offset.to_bytes(4, sys.byteorder)
        raw = self._names_raw
        position = raw.find(needle)
        while position >= 0:
            if position % 4 == 0:
                yield self.start_id + position // 4
            position = raw.find(needle, position + 4 - position % 4)

    def _own_named(self, name: bytes, flavors: bool) -> list[int]:
        """Own type ids called ``name``, or ``name___anything`` too, ascending."""
        names = self._name_table()
        before = b"" if self._suffixes else b"\0"
        offsets: list[int] = []
        for after in (b"\0", b"___") if flavors else (b"\0",):
            for layer in self.layers():  # split BTF takes names from the strings of its base, too
                offsets += layer._places(before + name + after)
                if before and layer.base is not None and layer._strings.startswith(name + after):
                    offsets.append(layer._start_str)  # a split string part has no leading NUL
        if len(offsets) > _MANY_COPIES and self._ids_by_name is None:
            self._index_names(names)
        return sorted(type_id for offset in offsets for type_id in self._ids_at(offset))

    def _places(self, pattern: bytes) -> list[int]:
        """Where a run of bytes is in the own strings; a leading NUL is not part of the string."""
        # A thousand modules over one kernel ask it the same.
        if (known := self._places_known.get(pattern)) is not None:
            return known
        found: list[int] = []
        shift = self._start_str + pattern.startswith(b"\0")
        position = self._strings.find(pattern)
        while position >= 0:
            found.append(position + shift)
            position = self._strings.find(pattern, position + 1)
        if self.base is None and len(found) <= _MANY_COPIES:
            if len(self._places_known) >= _PLACES_KNOWN:
                self._places_known.clear()
            self._places_known[pattern] = found
        return found

    def find_all(self, name: str, kind: int | None = None) -> list[int]:
        """Return the ids of all types of that exact name, ascending, those of the base first.

        Args:
            name: Exact name; an empty one finds nothing.
            kind: Only types of this kind.
        """
        if not name or "\0" in name:
            return []
        ids = self.base.find_all(name) if self.base is not None else []
        ids += self._own_named(_encoded(name), False)
        return ids if kind is None else [i for i in ids if self.kind(i) == kind]

    def find(self, name: str, kind: int | None = None) -> int:
        """Return the lowest id of a type of that name, 0 when there is none.

        As libbpf's ``btf__find_by_name_kind``.
        """
        ids = self.find_all(name, kind)
        return ids[0] if ids else 0

    def find_own(self, name: str, kind: int | None = None) -> int:
        """As :meth:`find`, but without the types of the base."""
        for type_id in self._own_named(_encoded(name), False) if name else ():
            if kind is None or self.kind(type_id) == kind:
                return type_id
        return 0

    def find_essential(self, name: str) -> list[int]:
        """Return own ids of types whose name without flavor is ``name``, ascending."""
        return [
            type_id
            for type_id in self._own_named(_encoded(name), True)
            if essential_name(self.type_name(type_id)) == name
        ]

    # Walking

    def strip(self, type_id: int, *, typedefs: bool = True) -> int:
        """Follow modifiers, and typedefs unless told not to, to the type behind them.

        Raises:
            FormatError: The chain never ends.
        """
        first = type_id
        for steps in range(len(self)):
            if type_id == 0:
                return 0
            owner, at = self._locate(type_id)
            kind = owner._words[at + 1] >> 24 & 0x7F
            if kind not in t.MODIFIERS and not (typedefs and kind == t.Kind.TYPEDEF):
                return type_id
            if steps == _LONG_CHAIN:
                return self._strip_long(type_id, typedefs)
            type_id = owner._words[at + 2]
        raise FormatError(f"type {first} refers to itself", file=self.name, section=".BTF")

    def _strip_long(self, type_id: int, typedefs: bool) -> int:
        """As :meth:`strip`, for chains that no compiler makes: each is walked once."""
        passed = []
        end = type_id
        for _ in range(len(self)):
            known = self._stripped.get((end, typedefs))
            kind = self.kind(end)
            if known is not None:
                end = known
            elif end and (kind in t.MODIFIERS or (typedefs and kind == t.Kind.TYPEDEF)):
                passed.append(end)
                owner, at = self._locate(end)
                end = owner._words[at + 2]
                continue
            self._stripped.update(((each, typedefs), end) for each in passed)
            return end
        raise FormatError(f"type {type_id} refers to itself", file=self.name, section=".BTF")

    def size(self, type_id: int) -> int:
        """Size of a type in bytes (libbpf ``btf__resolve_size``).

        Raises:
            FormatError: The type has no size (``void``, a forward declaration, a function), lies
                behind more than 32 steps, or is larger than 4 GiB.
        """
        total = 1
        first = type_id
        for _ in range(_MAX_RESOLVE_STEPS):
            kind = self.kind(type_id)
            if kind == t.Kind.PTR:
                total *= self.pointer_size
                break
            if kind == t.Kind.ARRAY:
                array_type = self[type_id]
                assert isinstance(array_type, t.Array)
                total *= array_type.nelems  # after 0, libbpf goes on to find whether it has a size
                if total > 0xFFFFFFFF:
                    raise self._too_large(first)
                type_id = array_type.type
                continue
            if kind in _KINDS_WITH_SIZE:
                owner, at = self._locate(type_id)
                total *= owner._words[at + 2]
                break
            if kind not in _KINDS_WITH_TYPE or kind == t.Kind.FUNC:
                raise FormatError(
                    f"{self.describe(first)} has no size", file=self.name, section=".BTF"
                )
            owner, at = self._locate(type_id)
            type_id = owner._words[at + 2]
        else:
            raise FormatError(
                f"{self.describe(first)} lies behind more than {_MAX_RESOLVE_STEPS} types",
                file=self.name,
                section=".BTF",
            )
        if total > 0xFFFFFFFF:
            raise self._too_large(first)
        return int(total)

    def _too_large(self, type_id: int) -> FormatError:
        return FormatError(
            f"{self.describe(type_id)} is larger than 4 GiB", file=self.name, section=".BTF"
        )

    def describe(self, type_id: int) -> str:
        """Short text for messages: ``struct task_struct [123]``."""
        kind = self.kind(type_id)
        label = t.Kind(kind).name.lower() if kind in t.Kind._value2member_map_ else f"kind {kind}"
        name = self.type_name(type_id) if type_id else ""
        return f"{label} {name or '<anon>'} [{type_id}]" if type_id else "void"

    def validate(self) -> None:
        """Decode every own type once and check names, references and prototypes of functions.

        Meant for the BTF of objects, which is small. A kernel's BTF is checked type by type as it
        is used.

        Raises:
            FormatError: Something refers outside the table.
        """
        self._limit_names()
        self._validating = True
        try:
            self._validate()
        finally:
            self._validating = False

    def _validate(self) -> None:
        count = len(self)
        for type_id in self.own_ids():
            decoded = self._decode(type_id)
            for referenced in _references_of(decoded):
                if referenced >= count:
                    raise FormatError(
                        f"{self.describe(type_id)} refers to type {referenced}, "
                        f"highest is {count - 1}",
                        file=self.name,
                        section=".BTF",
                        offset=self._type_base + 4 * self._offsets[type_id - self.start_id],
                    )
            if isinstance(decoded, t.Func) and self.kind(decoded.type) != t.Kind.FUNC_PROTO:
                raise FormatError(
                    f"{self.describe(type_id)} has no prototype but {self.describe(decoded.type)}",
                    file=self.name,
                    section=".BTF",
                    offset=self._type_base + 4 * self._offsets[type_id - self.start_id],
                )


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # whatever is asked for


def _references_of(decoded: t.Type) -> tuple[int, ...]:
    if isinstance(decoded, (t.Reference, t.Func, t.Var, t.DeclTag)):
        return (decoded.type,)
    if isinstance(decoded, t.Array):
        return (decoded.type, decoded.index_type)
    if isinstance(decoded, t.Composite):
        return tuple(member.type for member in decoded.members)
    if isinstance(decoded, t.FuncProto):
        return (decoded.return_type, *(param.type for param in decoded.params))
    if isinstance(decoded, t.Datasec):
        return tuple(entry.type for entry in decoded.entries)
    return ()


_REFERENCES: dict[int, type[t.Reference]] = {
    t.Kind.PTR: t.Ptr,
    t.Kind.TYPEDEF: t.Typedef,
    t.Kind.VOLATILE: t.Volatile,
    t.Kind.CONST: t.Const,
    t.Kind.RESTRICT: t.Restrict,
    t.Kind.TYPE_TAG: t.TypeTag,
}

_LONG_NAMES = (
    "long",
    "long int",
    "int long",
    "unsigned long",
    "long unsigned",
    "unsigned long int",
    "unsigned int long",
    "long unsigned int",
    "long int unsigned",
    "int unsigned long",
    "int long unsigned",
)
