"""Which words of type records refer to strings and to other types.

What works on whole tables (appending, deduplication) does so on the words of the blob, as decoding
a kernel's types into objects would take ten times as long. :data:`pybpfload.formats.btf.WORDS` says
what each word is; here that is turned into positions inside records.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.btf.table import Btf

__all__ = ["Places", "Renumbered", "Texts", "require_known_kinds", "string_offsets"]

_STRING = re.compile(rb"[^\0]+")
_TEXTS_LIMIT = 64  # bytes of all strings, in multiples of the string part
_MOST_PLACES = 1 << 12  # info words that are remembered; a kernel has a few hundred


class Renumbered(NamedTuple):
    """A table made of another one's types.

    Attributes:
        btf: The table.
        ids: New id of each old one: of the type itself, or of that which took its place. 0 stays 0,
            and stands for what is gone.
    """

    btf: Btf
    ids: Sequence[int]


class Places(dict[int, tuple[int, ...]]):
    """Info word of a record -> positions in it of the words that play a role.

    Args:
        role: ``"s"`` for offsets of strings, ``"t"`` for type ids.
    """

    def __init__(self, role: str) -> None:
        self._per_kind = {
            kind: tuple(
                [at for at, what in enumerate(words) if what == role]
                for words in (f"s.{third}{once}", each)
            )
            for kind, (third, once, each) in fmt.WORDS.items()
        }

    def __missing__(self, info: int) -> tuple[int, ...]:
        kind, vlen = info >> 24 & 0x7F, info & 0xFFFFFF
        once, each = self._per_kind[kind]
        found = list(once)
        if each:
            step = len(fmt.WORDS[kind][2])
            start = fmt.TYPE_WORDS + fmt.EXTRA_WORDS[kind][0]
            found += [
                at + place for at in range(start, start + step * vlen, step) for place in each
            ]
        places = tuple(found)
        if len(self) < _MOST_PLACES and vlen < _MOST_PLACES:
            self[info] = places
        return places


class Texts(dict[int, bytes]):
    """Offset of a string -> its bytes, read from a table or its base.

    Raises:
        FormatError: An offset lies outside the strings, or strings overlap so that together they
            exceed the string part many times.
    """

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._left = _TEXTS_LIMIT * btf._end_str

    def __missing__(self, offset: int) -> bytes:
        owner = self._btf
        while offset < owner._start_str and owner.base is not None:
            owner = owner.base
        start = offset - owner._start_str
        if start >= len(owner._strings):
            owner.string(offset)  # raises
        text = self[offset] = owner._strings[start : owner._strings.index(0, start)]
        self._left -= len(text)
        if self._left < 0:
            raise FormatError(
                "strings overlap so that they exceed the string part many times",
                file=self._btf.name,
                section=".BTF",
            )
        return text


def string_offsets(btf: Btf) -> dict[bytes, int]:
    """The strings of a table and of its bases, and where each is first."""
    found: dict[bytes, int] = {}
    for layer in btf.layers():
        for match in _STRING.finditer(layer._strings):
            found.setdefault(match[0], layer._start_str + match.start())
    return found


def require_known_kinds(btf: Btf, purpose: str) -> None:
    """Refuse a table with types that are only known from its layout part.

    Args:
        btf: The table; its base is not looked at.
        purpose: What cannot be done with such types, for the message.

    Raises:
        FormatError: It has one. Nobody can tell what the words of such a type refer to.
    """
    words = btf._words
    for type_id, at in enumerate(btf._offsets, btf.start_id):
        kind = words[at + 1] >> 24 & 0x7F
        if kind not in fmt.WORDS:
            raise FormatError(
                f"type {type_id} is of unknown kind {kind}, which cannot be {purpose}",
                file=btf.name,
                section=".BTF",
                offset=btf._type_base + 4 * at,
            )
