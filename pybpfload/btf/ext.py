"""``.BTF.ext``: function info, line info and CO-RE relocation records of an object's code.

The section is described in :mod:`pybpfload.formats.btf`; its checks are those of libbpf's
``btf_ext_parse`` (``btf_ext__new``). Records are kept as raw words, grouped by the ELF section
whose code they describe.
"""

from __future__ import annotations

import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.errors import FormatError
from pybpfload.formats import btf as fmt
from pybpfload.formats.packed import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf.table import Btf

__all__ = ["BtfExt", "CoreRelo", "InfoBlock", "InfoPart"]

_NATIVE = "<" if sys.byteorder == "little" else ">"
_MIN_HEADER = 24
_MAX_ACCESS = 2048  # characters of an access string: 64 indices, with room for blanks and zeros


class CoreRelo(NamedTuple):
    """One CO-RE relocation record (``struct bpf_core_relo``).

    ``insn_off`` is in bytes from the start of the ELF section.
    """

    insn_off: int
    type_id: int
    access_str: str
    kind: int


@dataclass(slots=True)
class InfoBlock:
    """The records for the code of one ELF section, as 32-bit words in native order."""

    section: str
    count: int
    words: array[int]


@dataclass(slots=True)
class InfoPart:
    """One of the three parts of ``.BTF.ext``.

    Attributes:
        rec_size: Size of a record in bytes; a newer compiler may write more than is known here.
        blocks: One for each ELF section, in file order.
    """

    rec_size: int
    blocks: list[InfoBlock]

    def __bool__(self) -> bool:
        return bool(self.blocks)

    @property
    def count(self) -> int:
        """Number of records in all blocks."""
        return sum(block.count for block in self.blocks)


class BtfExt:
    """Parsed ``.BTF.ext``.

    Attributes:
        func_info: Start of each function and the id of its FUNC type.
        line_info: Source lines.
        core_relo: CO-RE relocations, raw; :meth:`core_relos` decodes them.
    """

    def __init__(self, data: bytes, btf: Btf, *, name: str = "object") -> None:
        self._btf = btf
        self._file = name
        try:
            self._parse(data)
        except FormatError as error:
            raise error.located(file=name, section=".BTF.ext") from None

    def __deepcopy__(self, memo: dict[int, Any]) -> BtfExt:
        return self  # it never changes

    def _parse(self, data: bytes) -> None:
        size = len(data)
        if size < _MIN_HEADER:
            raise FormatError(f"{size} bytes are shorter than the header of {_MIN_HEADER}")
        magic = data[0] | data[1] << 8
        if magic not in (fmt.MAGIC, 0x9FEB):
            raise FormatError(f"magic is {magic:#06x}, expected {fmt.MAGIC:#06x}", offset=0)
        order = "<" if magic == fmt.MAGIC else ">"
        self.byteorder = order
        records = packed("btf", order)
        _, version, flags, hdr_len, func_off, func_len, line_off, line_len = (
            records.ext_header.unpack_from(data)
        )
        if version != 1:
            raise FormatError(f"version {version} is not supported, expected 1", offset=2)
        if flags:
            raise FormatError(f"flags {flags:#x} are not supported, expected 0", offset=3)
        if hdr_len < _MIN_HEADER or hdr_len > size:
            raise FormatError(f"header length {hdr_len} is not between 24 and {size}", offset=4)
        if hdr_len == size:
            raise FormatError("nothing follows the header", offset=4)
        core_off = core_len = 0
        if hdr_len >= _MIN_HEADER + records.ext_header_core.size:
            core_off, core_len = records.ext_header_core.unpack_from(data, _MIN_HEADER)
        body = data[hdr_len:]
        self.func_info = self._part(body, "func_info", func_off, func_len, records.func_info.size)
        self.line_info = self._part(body, "line_info", line_off, line_len, records.line_info.size)
        self.core_relo = self._part(body, "core_relo", core_off, core_len, records.core_relo.size)

    def _part(self, body: bytes, label: str, offset: int, length: int, min_rec: int) -> InfoPart:
        if not length:
            return InfoPart(min_rec, [])
        if offset % 4:
            raise FormatError(f"{label} starts at {offset}, which is not a multiple of 4")
        if length < 4 or offset + length > len(body):
            raise FormatError(
                f"{label} ({offset}+{length}) does not fit the data of {len(body)} bytes"
            )
        records = packed("btf", self.byteorder)
        block_header = records.info_block
        end = offset + length
        rec_size = records.info_header.unpack_from(body, offset)[0]
        # A record of another byte order can only be swapped if all its fields are known.
        if (
            rec_size < min_rec
            or rec_size % 4
            or (self.byteorder != _NATIVE and rec_size != min_rec)
        ):
            raise FormatError(
                f"{label} has records of {rec_size} bytes, expected {min_rec}", offset=offset
            )
        position = offset + 4
        blocks: list[InfoBlock] = []
        while position < end:
            if position + block_header.size > end:
                raise FormatError(f"{label} ends inside a block header", offset=position)
            name_off, count = block_header.unpack_from(body, position)
            start = position + block_header.size
            if not count:
                raise FormatError(f"{label} has an empty block", offset=position)
            if count * rec_size > end - start:
                raise FormatError(
                    f"{label} has a block of {count} records, which goes beyond its end",
                    offset=position,
                )
            words = array("I", body[start : start + count * rec_size])
            if self.byteorder != _NATIVE:
                words.byteswap()
            blocks.append(InfoBlock(self._section(name_off), count, words))
            position = start + count * rec_size
        if not blocks:
            raise FormatError(f"{label} has no block", offset=offset)
        return InfoPart(rec_size, blocks)

    def _section(self, name_off: int) -> str:
        try:
            return self._btf.string(name_off)
        except FormatError:
            return ""  # no section's name: nothing will look for these records

    def core_relos(self) -> Iterator[tuple[str, CoreRelo]]:
        """Yield ``(ELF section name, record)`` for every CO-RE relocation in file order."""
        step = self.core_relo.rec_size // 4
        strings: dict[int, str] = {}
        for block in self.core_relo.blocks:
            words: Any = block.words
            for at in range(0, block.count * step, step):
                offset = words[at + 2]
                access = strings.get(offset)
                if access is None:
                    # One that is longer is refused for its length, wherever it is cut.
                    access = strings[offset] = self._btf.string(offset)[:_MAX_ACCESS]
                yield block.section, CoreRelo(words[at], words[at + 1], access, words[at + 3])
