"""BTF out of kernel images: any file that a kernel or a kernel module comes in.

:func:`image_btf`, and :func:`btf_from_image` where only the types matter, take the bytes of

* raw BTF, as in ``/sys/kernel/btf/vmlinux``;
* an ELF file with a ``.BTF`` section: ``vmlinux``, or a module ``.ko``, whose BTF is split BTF on
  top of vmlinux's, or of the distilled base in its section ``.BTF.base`` (Linux 6.11);
* an x86 ``bzImage`` (``Documentation/arch/x86/boot.rst``);
* an EFI zboot image, the ``vmlinuz.efi`` of arm64, RISC-V and LoongArch
  (``drivers/firmware/efi/libstub/zboot-header.S``);
* a flat image without section headers (``arch/arm64``'s and ``arch/riscv``'s ``Image``), in which
  BTF is found by its magic;
* an image that unpacks itself (s390x, 32-bit Arm), in which the compressed kernel is found by its
  magic;
* any of these compressed as a whole: ``Image.gz``, ``veth.ko.xz``, ...

Compression is gzip, xz, LZMA, bzip2, LZ4 or zstd. All but zstd need nothing beyond CPython's
standard library; zstd is in it from Python 3.14 on, and comes from the ``zstandard`` package before
(the extra ``pybpfload[images]``).

Images may come from strangers: the output of decompression is limited by the size of what is
decompressed (:func:`output_limit`), the memory of a decompressor to :data:`WINDOW_LIMIT`, and the
number of places that are tried is limited too.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Buffer = bytes | bytearray | memoryview

__all__ = [
    "OUTPUT_LIMIT",
    "WINDOW_LIMIT",
    "ImageBtf",
    "btf_from_image",
    "decompress",
    "decompressed",
    "elf_section",
    "image_btf",
    "output_limit",
]

OUTPUT_LIMIT = 1 << 30
"""Most bytes that any file may decompress to. A vmlinux without DWARF has 30 to 100 MB."""

_OUTPUT_BASE, _OUTPUT_RATIO = 32 << 20, 32

WINDOW_LIMIT = 1 << 28
"""Most bytes of memory that a decompressor may take for its window or dictionary."""

_CHUNK = 1 << 22
_TRIES = 1000  # places at which a compressed kernel is looked for inside other data
_NESTING = 4  # Image.gz around zboot around ... : no real file has more than two layers
_LZ4_LEGACY_BLOCK = 8 << 20  # uncompressed size of all blocks but the last

_ELF = b"\x7fELF"
_GZIP = b"\x1f\x8b\x08"
_XZ = b"\xfd7zXZ\0"
_ZSTD = b"\x28\xb5\x2f\xfd"
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_FRAME = b"\x04\x22\x4d\x18"
_BZIP2 = b"BZh"
_LZMA = b"\x5d\0\0"
_LZO = b"\x89LZO\0\r\n\x1a\n"


class _DamagedError(Exception):
    """What is wrong with the data; becomes a FormatError where the file's name is known."""


_BTF_MAGIC = (b"\x9f\xeb", b"\xeb\x9f")


class ImageBtf(NamedTuple):
    """What a file says about its types, each part in the byte order of the architecture.

    Attributes:
        types: Raw BTF, header included.
        base: Raw BTF of the distilled base that a module brings along (Linux 6.11), or ``None``.
        pointer_size: Size of a pointer in bytes, if the file is ELF, whose class tells it.
    """

    types: bytes | memoryview
    base: bytes | memoryview | None = None
    pointer_size: int | None = None


class _Budget:
    """What may still be spent on one file, in all its layers and at all places tried.

    Attributes:
        output: Bytes of decompressed data.
        tries: Places at which something compressed is looked for.
    """

    def __init__(self, output: int) -> None:
        self.output = self._limit = output
        self.tries = _TRIES

    def take(self, size: int) -> None:
        """Spend output."""
        self.output -= size
        if self.output < 0:
            raise _DamagedError(f"it decompresses to more than {self._limit} bytes")


def output_limit(size: int) -> int:
    """Most bytes that a file of ``size`` bytes may decompress to, in all its layers.

    32 times its size and 32 MiB: kernels and modules grow to 3 to 8 times their packed size. At
    most :data:`OUTPUT_LIMIT`.
    """
    return min(OUTPUT_LIMIT, _OUTPUT_BASE + _OUTPUT_RATIO * size)


def btf_from_image(data: Buffer, name: str = "") -> bytes:
    """The ``types`` of :func:`image_btf`."""
    return bytes(image_btf(data, name).types)


def image_btf(data: Buffer, name: str = "") -> ImageBtf:
    """The BTF in a kernel image or a kernel module.

    Args:
        data: The whole file.
        name: Its name, for errors only.

    Raises:
        FormatError: There is no BTF in it, it is damaged, or it is compressed in a way for which a
            package is missing.
    """
    file = name or None
    view = memoryview(data).cast("B")
    if bytes(view[:2]) in _BTF_MAGIC:
        return ImageBtf(bytes(view))  # raw; whoever reads it says what is wrong with it
    try:
        found = _btf(view, _NESTING, _Budget(output_limit(len(view))))
    except _DamagedError as error:
        raise FormatError(str(error), file=file) from None
    if found is None:
        raise FormatError(
            "no BTF in it",
            file=file,
            hint="kernels have it with CONFIG_DEBUG_INFO_BTF (as vmlinux, vmlinuz or "
            "/sys/kernel/btf/vmlinux), objects if compiled with -g",
        )
    base = None if found.base is None else bytes(found.base)
    return ImageBtf(bytes(found.types), base, found.pointer_size)


def decompress(data: Buffer, name: str = "", *, limit: int | None = None) -> bytes:
    """Decompress a file by the magic that it begins with; one without is returned as it is.

    Args:
        data: The whole file. What follows the compressed data in it is ignored.
        name: Its name, for errors only.
        limit: Most bytes to yield, :func:`output_limit` if ``None``.

    Returns:
        What was compressed.

    Raises:
        FormatError: The data is damaged, yields more than ``limit`` bytes, or needs a package that
            is missing.
    """
    return b"".join(decompressed(data, name, limit=limit))


def decompressed(data: Buffer, name: str = "", *, limit: int | None = None) -> Iterator[bytes]:
    """As :func:`decompress`, in pieces, for those who need only what comes first."""
    view = memoryview(data).cast("B")
    method = _method(view)
    if method is None:
        yield bytes(view)
        return
    budget = _Budget(output_limit(len(view)) if limit is None else limit)
    try:
        for piece in method(view):
            budget.take(len(piece))
            yield piece
    except _DamagedError as error:
        raise FormatError(str(error), file=name or None) from None


def elf_section(data: Buffer, wanted: str, name: str = "") -> bytes | None:
    """The contents of a section of an ELF file of any class, machine and byte order.

    Args:
        data: The whole file.
        wanted: The section's name.
        name: The file's name, for errors only.

    Returns:
        The first section of that name that has contents in the file; ``None`` if there is none.

    Raises:
        FormatError: It is not ELF, or its section headers point outside it.
    """
    try:
        found = _section(memoryview(data).cast("B"), wanted.encode())
    except _DamagedError as error:
        raise FormatError(str(error), file=name or None) from None
    return None if found is None else bytes(found)


def _btf(data: memoryview, nesting: int, budget: _Budget) -> ImageBtf | None:
    """The BTF in an image, going through at most `nesting` layers of packing."""
    if len(blob := _blob(data, 0)) == len(data) > 0:
        return ImageBtf(blob)
    if data[:4] == _ELF:
        types = _section(data, b".BTF")
        if types is None:
            return None
        return ImageBtf(types, _section(data, b".BTF.base"), 4 * data[4])
    if nesting == 0:
        return None
    if method := _method(data):
        return _btf(memoryview(_decompressed(data, method, budget)), nesting - 1, budget)
    if (payload := _bzimage_payload(data)) is not None or (
        payload := _zboot_payload(data)
    ) is not None:
        method = _method(payload)
        if method is None:
            return _btf(payload, nesting - 1, budget)
        return _btf(memoryview(_decompressed(payload, method, budget)), nesting - 1, budget)
    if found := max(_blobs(data), key=len, default=None):
        return ImageBtf(found)
    return _embedded(data, nesting, budget)


# --- BTF by its magic -----------------------------------------------------------------------------


def _blob(data: memoryview, start: int) -> memoryview:
    """The BTF blob that starts there, or an empty view if what is there cannot be one."""
    magic = bytes(data[start : start + 4])
    order = {b"\x9f\xeb\x01\0": "<", b"\xeb\x9f\x01\0": ">"}.get(magic)
    if order is None or len(data) - start < 24:
        return data[:0]
    size, types, types_size, strings, strings_size = struct.unpack_from(
        order + "5I", data, start + 4
    )
    end = start + size + max(types + types_size, strings + strings_size)
    first_string = start + size + strings
    plausible = (
        24 <= size <= 256
        and types_size % 4 == 0
        and strings >= types + types_size
        and strings_size >= 1
        and end <= len(data)
        and data[first_string] == data[first_string + strings_size - 1] == 0
    )
    return data[start:end] if plausible else data[:0]


def _blobs(data: memoryview) -> Iterator[memoryview]:
    """All BTF with types in a flat image: the kernel's, and that of BPF programs inside it."""
    for magic in (b"\x9f\xeb\x01\0", b"\xeb\x9f\x01\0"):
        end = 0
        for start in _places(data, magic):
            if start >= end and len(blob := _blob(data, start)) > 64:
                yield blob
                end = start + len(blob)


def _places(data: memoryview, magic: bytes) -> Iterator[int]:
    """Where some bytes are, found without a copy of the data, which may be large."""
    return (found.start() for found in re.finditer(re.escape(magic), data))


# --- containers -----------------------------------------------------------------------------------


def _bzimage_payload(data: memoryview) -> memoryview | None:
    """The compressed vmlinux in an x86 bzImage; None if it is not one.

    Before boot protocol 2.08 (Linux 2.6.26) the header did not tell where it is.
    """
    if bytes(data[0x202:0x206]) != b"HdrS" or len(data) < 0x250:
        return None
    (version,) = struct.unpack_from("<H", data, 0x206)
    if version < 0x208:
        return None
    setup_sectors = data[0x1F1] or 4
    offset, size = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    if size == 0 or start + size > len(data):
        raise _DamagedError(
            f"bzImage header: the kernel is at {start:#x}..{start + size:#x}, past the end"
        )
    return data[start : start + size]


def _zboot_payload(data: memoryview) -> memoryview | None:
    """The compressed Image in an EFI zboot image; None if it is not one."""
    if bytes(data[:2]) != b"MZ" or bytes(data[4:8]) != b"zimg" or len(data) < 0x40:
        return None
    offset, size = struct.unpack_from("<II", data, 8)
    if size == 0 or offset + size > len(data):
        raise _DamagedError(
            f"zboot header: the kernel is at {offset:#x}..{offset + size:#x}, past the end"
        )
    return data[offset : offset + size]


def _embedded(data: memoryview, nesting: int, budget: _Budget) -> ImageBtf | None:
    """BTF of the first compressed kernel that is anywhere in a file."""
    for magic in (_ZSTD, _XZ, _LZ4_LEGACY, _GZIP, _LZMA, _BZIP2):
        for start in _places(data, magic):
            if budget.tries and (method := _method(data[start:])):
                budget.tries -= 1
                try:
                    inner = memoryview(_decompressed(data[start:], method, budget))
                    found = _btf(inner, nesting - 1, budget)
                    if found is not None and found.types:
                        return found
                except _DamagedError:
                    if budget.output < 0:
                        raise
                    # Else it were bytes that looked like a beginning.
    return None


def _section(data: memoryview, wanted: bytes) -> memoryview | None:
    """The first section of that name with contents, by nothing but the section headers (elf(5))."""
    if data[:4] != _ELF or len(data) < 52 or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise _DamagedError("not an ELF file")
    order = "<" if data[5] == 1 else ">"
    try:
        if data[4] == 2:
            headers = struct.unpack_from(order + "Q", data, 0x28)[0]
            entry, count, names_index = struct.unpack_from(order + "HHH", data, 0x3A)
            layout = struct.Struct(order + "IIQQQQI")
        else:
            headers = struct.unpack_from(order + "I", data, 0x20)[0]
            entry, count, names_index = struct.unpack_from(order + "HHH", data, 0x2E)
            layout = struct.Struct(order + "IIIIIII")
        if headers == 0:
            return None
        if entry < layout.size:
            raise _DamagedError(f"ELF section headers of {entry} bytes")
        first = layout.unpack_from(data, headers)
        # Numbers that do not fit in 16 bits stand in the first section header.
        count = count or first[5]
        names_index = first[6] if names_index == 0xFFFF else names_index
        if count * entry > len(data) or names_index >= count:
            raise _DamagedError("ELF section headers go past the end of the file")
        names = layout.unpack_from(data, headers + names_index * entry)[4]
        for index in range(count):
            name, kind, _, _, offset, size, _ = layout.unpack_from(data, headers + index * entry)
            start = names + name
            if data[start : start + len(wanted) + 1] == wanted + b"\0" and kind != 8:  # SHT_NOBITS
                if offset + size > len(data):
                    raise _DamagedError(
                        f"ELF section {wanted.decode()} goes past the end of the file"
                    )
                return data[offset : offset + size]
    except (struct.error, OverflowError):
        raise _DamagedError("ELF headers go past the end of the file") from None
    return None


# --- compression ----------------------------------------------------------------------------------


def _method(data: memoryview) -> Callable[[memoryview], Iterator[bytes]] | None:
    """The decompressor for what `data` begins with: it yields the output in pieces."""
    start = bytes(data[:14])
    if start.startswith(_GZIP):
        return _gunzip
    if start.startswith(_XZ):
        return _unxz
    if start.startswith(_ZSTD):
        return _unzstd
    if start.startswith(_LZ4_LEGACY):
        return _unlz4_legacy
    if start.startswith(_LZ4_FRAME):
        return _unlz4_frame
    if start.startswith(_BZIP2) and start[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return _unbzip2
    if start.startswith(_LZO):
        return _unlzo
    # LZMA has no magic: these are the usual properties, a dictionary of a whole number of 64 KiB,
    # and an uncompressed size that is either unknown or below 1 TiB.
    if start.startswith(_LZMA) and (start[5:13] == b"\xff" * 8 or start[10:13] == b"\0\0\0"):
        return _unlzma
    return None


def _decompressed(
    data: memoryview, method: Callable[[memoryview], Iterator[bytes]], budget: _Budget
) -> bytearray:
    """All output of a decompressor."""
    output = bytearray()
    for piece in method(data):
        budget.take(len(piece))
        output += piece
    return output


def _gunzip(data: memoryview) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    rest: Buffer = data
    try:
        while not stream.eof:
            piece = stream.decompress(rest, _CHUNK)
            rest = stream.unconsumed_tail
            if not piece and not rest and not stream.eof:
                raise _DamagedError("gzip data ends early")
            yield piece
    except zlib.error as error:
        raise _DamagedError(f"damaged gzip data: {error}") from None


def _unxz(data: memoryview) -> Iterator[bytes]:
    return _drain(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW_LIMIT), data, "xz")


def _unlzma(data: memoryview) -> Iterator[bytes]:
    return _drain(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=WINDOW_LIMIT), data, "LZMA")


def _unbzip2(data: memoryview) -> Iterator[bytes]:
    return _drain(bz2.BZ2Decompressor(), data, "bzip2")


def _drain(stream: Any, data: memoryview, kind: str) -> Iterator[bytes]:
    """The output of a decompressor with the interface that bz2, lzma and compression.zstd share."""
    rest: Buffer = data
    try:
        while not stream.eof:
            piece = stream.decompress(rest, max_length=_CHUNK)
            if not piece and stream.needs_input and not stream.eof:
                raise _DamagedError(f"{kind} data ends early")
            rest = b""
            yield piece
    except _DAMAGED as error:
        raise _DamagedError(f"damaged {kind} data: {error}") from None


_DAMAGED: tuple[type[Exception], ...] = (lzma.LZMAError, OSError, EOFError, ValueError, MemoryError)


def _unzstd(data: memoryview) -> Iterator[bytes]:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            zstd = importlib.import_module(module)
        except ImportError:
            continue
        options = {zstd.DecompressionParameter.window_log_max: WINDOW_LIMIT.bit_length() - 1}
        try:
            yield from _drain(zstd.ZstdDecompressor(options=options), data, "zstd")
        except zstd.ZstdError as error:
            raise _DamagedError(f"damaged zstd data: {error}") from None
        return
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        raise _DamagedError(
            "it is compressed with zstd, which Python has from 3.14 on: install the package "
            "zstandard (pip install 'pybpfload[images]')"
        ) from None
    stream = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT).decompressobj()
    try:
        # It has no way to limit what one call yields, but a block of 128 KiB takes 4 bytes of
        # input.
        for start in range(0, len(data), 1024):
            yield stream.decompress(data[start : start + 1024])
            if stream.eof:
                return
    except zstandard.ZstdError as error:
        raise _DamagedError(f"damaged zstd data: {error}") from None
    raise _DamagedError("zstd data ends early")


def _unlzo(data: memoryview) -> Iterator[bytes]:
    raise _DamagedError(
        "it is compressed with LZO, which is not supported; decompress it with the lzop program"
    )


def _unlz4_legacy(data: memoryview) -> Iterator[bytes]:
    """The format of ``lz4 -l``, which the kernel uses.

    It has no mark of its end: whatever cannot be a block ends it.
    """
    position = 4
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        if size == 0x184C2102:  # another archive follows, without a mark of its end
            continue
        if size == 0 or size > len(data) - position:
            return  # in a bzImage: the size of vmlinux, appended after the last block
        block = _lz4_block(data[position : position + size], bytearray(), _LZ4_LEGACY_BLOCK)
        yield bytes(block)
        position += size


def _unlz4_frame(data: memoryview) -> Iterator[bytes]:
    """The LZ4 frame format (doc/lz4_Frame_format.md of LZ4). Checksums are skipped, not checked."""
    if len(data) < 7:
        raise _DamagedError("LZ4 data ends early")
    flags, descriptor = data[4], data[5]
    if flags >> 6 != 1 or flags & 1:
        raise _DamagedError("an LZ4 frame of another version, or one that needs a dictionary")
    block_limit = 1 << (8 + 2 * (descriptor >> 4 & 7))
    independent, checked, sized = flags & 0x20, flags & 0x10, flags & 8
    position = 6 + (8 if sized else 0) + 1
    window = bytearray()
    while True:
        if position + 4 > len(data):
            raise _DamagedError("LZ4 data ends early")
        (size,) = struct.unpack_from("<I", data, position)
        position += 4
        if size == 0:
            return
        stored, size = size >> 31, size & 0x7FFFFFFF
        if size > len(data) - position:
            raise _DamagedError("LZ4 data ends early")
        block = data[position : position + size]
        start = len(window)
        if stored:
            window += block
        else:
            _lz4_block(block, window, block_limit)
        yield bytes(window[start:])
        window = bytearray() if independent else window[-65536:]
        position += size + (4 if checked else 0)


def _lz4_block(source: memoryview, out: bytearray, limit: int) -> bytearray:
    """Decompress one LZ4 block to the end of `out`, at most `limit` bytes.

    What `out` holds already may be referred to.
    """
    block = bytes(source)
    end = len(block)
    limit += len(out)
    position = 0
    try:
        while position < end:
            token = block[position]
            position += 1
            literals = token >> 4
            if literals == 15:
                more = 255
                while more == 255:
                    more = block[position]
                    literals += more
                    position += 1
            if position + literals > end:
                raise _DamagedError("damaged LZ4 data: literals past the end of a block")
            out += block[position : position + literals]
            position += literals
            if position == end:
                break  # the last sequence has no match
            distance = block[position] | block[position + 1] << 8
            position += 2
            length = token & 15
            if length == 15:
                more = 255
                while more == 255:
                    more = block[position]
                    length += more
                    position += 1
            length += 4
            start = len(out) - distance
            if distance == 0 or start < 0:
                raise _DamagedError("damaged LZ4 data: a match before the beginning")
            if len(out) + length > limit:
                raise _DamagedError("damaged LZ4 data: a block larger than it may be")
            if distance >= length:
                out += out[start : start + length]
            else:  # the match runs into what it makes: a repeating pattern
                pattern = bytes(out[start:])
                out += (pattern * (length // distance + 1))[:length]
    except IndexError:
        raise _DamagedError("damaged LZ4 data: a block ends early") from None
    if len(out) > limit:
        raise _DamagedError("damaged LZ4 data: a block larger than it may be")
    return out
