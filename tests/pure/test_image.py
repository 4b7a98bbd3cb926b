"""BTF out of kernel images: every container and compression, synthetic, and hostile ones."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import lzma
import random
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.elf import image
from pybpfload.elf.image import btf_from_image, decompress, elf_section
from pybpfload.errors import FormatError


def blob(order: str = "<", types: int = 40) -> bytes:
    """BTF of some INT types."""
    strings = b"\0int\0task_struct\0"
    body = b"".join(struct.pack(order + "IIII", 1, 1 << 24, 4, 32) for _ in range(types))
    magic = struct.pack(order + "HBBI", 0xEB9F, 1, 0, 24)
    return magic + struct.pack(order + "4I", 0, len(body), len(body), len(strings)) + body + strings


def elf(
    sections: dict[str, bytes], order: str = "<", bits: int = 64, *, many: bool = False
) -> bytes:
    """An ELF file of sections only; with `many`, numbers as in a file of 65,280 of them."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".shstrtab"])
    contents = [*sections.values(), names]
    size = 64 if bits == 64 else 52
    layout = struct.Struct(order + ("IIQQQQIIQQ" if bits == 64 else "IIIIIIIIII"))
    headers = []
    offset = size
    for name, content in zip([*sections, ".shstrtab"], contents, strict=True):
        place = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(layout.pack(place, 1, 0, 0, offset, len(content), 0, 0, 1, 0))
        offset += len(content)
    count, index = len(headers) + 1, len(headers)
    first = layout.pack(0, 0, 0, 0, 0, count, index, 0, 0, 0) if many else bytes(layout.size)
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    numbers = (
        (size, 0, 0, layout.size, 0, 0xFFFF) if many else (size, 0, 0, layout.size, count, index)
    )
    word = "Q" if bits == 64 else "I"
    header = ident + struct.pack(
        order + "HHI" + 3 * word + "IHHHHHH", 2, 62, 1, 0, 0, offset, 0, *numbers
    )
    return header + b"".join(contents) + first + b"".join(headers)


def lz4_literals(data: bytes) -> bytes:
    """An LZ4 block with one sequence, all literals."""
    if len(data) < 15:
        return bytes([len(data) << 4]) + data
    left, lengths = len(data) - 15, b""
    while left >= 255:
        lengths, left = lengths + b"\xff", left - 255
    return b"\xf0" + lengths + bytes([left]) + data


def lz4_legacy(data: bytes, block: int = 8 << 20) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), block):
        packed = lz4_literals(data[start : start + block])
        out += struct.pack("<I", len(packed)) + packed
    return out


def lz4_frame(data: bytes, *, stored: bool = False) -> bytes:
    """Blocks of up to 64 KiB, independent, with checksums that nobody looks at."""
    out = b"\x04\x22\x4d\x18" + bytes([0x70, 0x40, 0])
    for start in range(0, len(data), 65536):
        part = data[start : start + 65536]
        packed = part if stored else lz4_literals(part)
        out += struct.pack("<I", len(packed) | stored << 31) + packed + bytes(4)
    return out + bytes(4)


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


PACKERS = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "lz4 -l": lz4_legacy,
    "lz4": lz4_frame,
    "lz4 stored": lambda data: lz4_frame(data, stored=True),
    "zstd": zstd,
}
packers = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)


def bzimage(payload: bytes, *, version: int = 0x20F) -> bytes:
    setup = bytearray(512 * 3)
    setup[0x1F1] = 2
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 100, len(payload) + 4)
    return bytes(setup) + bytes(100) + payload + struct.pack("<I", 12345) + bytes(50)


def zboot(payload: bytes) -> bytes:
    header = b"MZ\0\0zimg" + struct.pack("<IIII", 64, len(payload), 0, 0) + b"gzip".ljust(40, b"\0")
    return header + payload + bytes(100)


class TestContainers:
    @pytest.mark.parametrize("order", "<>")
    def test_raw(self, order):
        assert btf_from_image(blob(order)) == blob(order)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer(self, kind):
        assert btf_from_image(kind(blob())) == blob()

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("bits", [32, 64])
    @pytest.mark.parametrize("many", [False, True])
    def test_elf(self, order, bits, many):
        sections = {".text": b"\x90" * 100, ".BTF.ext": b"x", ".BTF": blob(order), ".data": b"y"}
        assert btf_from_image(elf(sections, order, bits, many=many)) == blob(order)

    @packers
    def test_bzimage(self, pack):
        assert btf_from_image(bzimage(pack(elf({".BTF": blob()})))) == blob()

    @packers
    def test_zboot(self, pack):
        flat = b"\0" * 5000 + blob() + b"\1" * 5000
        assert btf_from_image(zboot(pack(flat))) == blob()

    @packers
    def test_compressed_as_a_whole(self, pack):
        assert btf_from_image(pack(elf({".BTF": blob()}))) == blob()

    @pytest.mark.parametrize("order", "<>")
    def test_flat_image_takes_the_largest(self, order):
        flat = b"MZ" + bytes(998) + blob(order, 5) + bytes(7) + blob(order, 50) + bytes(100)
        assert btf_from_image(flat) == blob(order, 50)

    @pytest.mark.parametrize("kind", ["gzip", "xz", "lzma", "bzip2", "lz4 -l", "zstd"])
    def test_an_image_that_unpacks_itself(self, kind):
        pack = PACKERS[kind]
        head = random.Random(1).randbytes(3000)
        image_ = head + b"\x1f\x8b\x08 not gzip" + pack(elf({".BTF": blob(">")}, ">")) + bytes(300)
        assert btf_from_image(image_) == blob(">")

    def test_two_layers(self):
        assert btf_from_image(gzip.compress(zboot(gzip.compress(bytes(100) + blob())))) == blob()

    def test_module(self):
        module = elf({".modinfo": b"depends=\0", ".BTF": blob()})
        assert btf_from_image(lzma.compress(module), "veth.ko.xz") == blob()


class TestWithoutBtf:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x7fELF",
            b"hello",
            bytes(10000),
            elf({".text": b"x"}),
            gzip.compress(b"x" * 999, mtime=0),
        ],
    )
    def test_says_so(self, data):
        with pytest.raises(FormatError):
            btf_from_image(data)

    def test_the_file_is_named(self):
        with pytest.raises(FormatError, match="CONFIG_DEBUG_INFO_BTF") as caught:
            btf_from_image(elf({".text": b"x"}), "vmlinux-6.1")
        assert caught.value.file == "vmlinux-6.1"

    def test_a_payload_past_the_end(self):
        with pytest.raises(FormatError, match="bzImage header"):
            btf_from_image(bzimage(gzip.compress(blob(), mtime=0))[:-60])
        with pytest.raises(FormatError, match="zboot header"):
            btf_from_image(zboot(gzip.compress(blob(), mtime=0))[:70])

    def test_an_old_bzimage_is_searched(self):
        assert (
            btf_from_image(bzimage(gzip.compress(elf({".BTF": blob()})), version=0x204)) == blob()
        )

    def test_lzo(self):
        with pytest.raises(FormatError, match="LZO"):
            btf_from_image(bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(100)))

    def test_zstd_without_a_package(self, monkeypatch):
        packed = zstd(elf({".BTF": blob()}))
        for name in ("compression", "compression.zstd", "backports", "backports.zstd", "zstandard"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(FormatError, match="install the package zstandard"):
            btf_from_image(packed)

    def test_zstd_by_the_interface_of_python_3_14(self, monkeypatch):
        try:
            module = importlib.import_module("compression.zstd")
        except ImportError:
            module = pytest.importorskip("backports.zstd")
        monkeypatch.setitem(sys.modules, "zstandard", None)
        assert decompress(module.compress(b"abc" * 1000) + b"trailing") == b"abc" * 1000


class TestDecompress:
    @packers
    @given(data=st.binary(max_size=70000))
    def test_returns_what_was_packed(self, pack, data):
        assert decompress(pack(data)) == data

    @packers
    def test_ignores_what_follows(self, pack):
        packed = pack(b"abc" * 1000) + struct.pack("<I", 0x7FFFFFFF) + b"rubbish"
        assert decompress(packed) == b"abc" * 1000

    @packers
    def test_truncated(self, pack):
        packed = pack(random.Random(2).randbytes(100_000))
        for size in (20, len(packed) // 2, len(packed) - 20):
            if pack is lz4_legacy:  # has no end of its own
                assert len(decompress(packed[:size])) < 100_000
                continue
            with pytest.raises(FormatError) as caught:
                decompress(packed[:size], "x.gz")
            assert caught.value.file == "x.gz"

    @packers
    def test_limit(self, pack):
        packed = pack(bytes(1_000_000))
        assert len(decompress(packed, limit=1_000_000)) == 1_000_000
        with pytest.raises(FormatError, match="more than 999999 bytes"):
            decompress(packed, limit=999_999)

    def test_a_bomb(self):
        packed = zstd(bytes(64 << 20))
        with pytest.raises(FormatError, match="more than"):
            decompress(packed, limit=1 << 20)

    def test_no_magic(self):
        assert decompress(b"plain") == b"plain"


class TestLz4:
    def test_matches(self):
        # "abc", then 3 back for 9; then a run: 1 back for 300; then literals.
        block = bytes([0x35]) + b"abc" + b"\3\0" + bytes([0x1F]) + b"x" + b"\1\0" + b"\xff\x1a"
        block += bytes([0x20]) + b"ok"
        data = b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block
        assert decompress(data) == b"abc" * 4 + b"x" * (1 + 15 + 255 + 26 + 4) + b"ok"

    def test_linked_blocks_refer_to_earlier_ones(self):
        first = lz4_literals(b"0123456789")
        second = bytes([0x06]) + b"\x0a\0" + lz4_literals(b"end")
        blocks = b"".join(struct.pack("<I", len(b)) + b for b in (first, second))
        frame = b"\x04\x22\x4d\x18" + bytes([0x40, 0x40, 0]) + blocks + bytes(4)
        assert decompress(frame) == b"0123456789" * 2 + b"end"

    @pytest.mark.parametrize(
        "block",
        [
            b"\x10",  # a literal that is not there
            b"\xf0\xff\xff",  # a length without end
            b"\x10a\2\0",  # a match before the beginning
            b"\x10a\0\0",  # a match of distance 0
            b"\x1fa\1\0" + b"\xff" * 40000,  # 10 MB in a block of at most 8
            b"\x10a\1",
        ],
    )
    def test_damaged(self, block):
        with pytest.raises(FormatError, match="LZ4"):
            decompress(b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block)

    @pytest.mark.parametrize("flags", [0x00, 0x41, 0x80])
    def test_frames_of_another_kind(self, flags):
        with pytest.raises(FormatError, match="LZ4 frame"):
            decompress(b"\x04\x22\x4d\x18" + bytes([flags, 0x40, 0]) + bytes(8))


class TestHostile:
    """Whatever the input, a result or a FormatError."""

    @given(data=st.binary(max_size=500), at=st.integers(0, 20))
    def test_bytes_after_any_magic(self, data, at):
        magics = [
            image._ELF,
            image._GZIP,
            image._XZ,
            image._ZSTD,
            image._LZ4_LEGACY,
            image._LZ4_FRAME,
            image._BZIP2 + b"91AY&SY",
            image._LZMA,
            b"\x9f\xeb\x01\0",
            b"\xeb\x9f\x01\0",
            b"MZ\0\0zimg",
        ]
        with contextlib.suppress(FormatError):
            btf_from_image(magics[at % len(magics)] + data)

    @given(
        base=st.sampled_from(
            [
                elf({".BTF": blob(types=3), ".text": b"x"}),
                elf({".BTF": blob(types=3)}, ">", 32, many=True),
                bzimage(lz4_legacy(elf({".BTF": blob(types=3)}))),
                zboot(gzip.compress(blob(types=3), mtime=0)),
                blob(types=3),
                lz4_frame(blob(types=3)),
                lzma.compress(blob(types=3)),
            ]
        ),
        changes=st.lists(
            st.tuples(st.integers(0, 5000), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])), max_size=6
        ),
        size=st.integers(0, 5000),
    )
    def test_changed_bytes(self, base, changes, size):
        data = bytearray(base)
        for place, value in changes:
            data[place % len(data)] = value
        for variant in (data, data[: size % len(data)]):
            with contextlib.suppress(FormatError):
                btf_from_image(variant)

    def test_many_false_magics(self):
        """Tries are counted: a file full of beginnings does not take for ever."""
        with pytest.raises(FormatError):
            btf_from_image(b"\x1f\x8b\x08" * 100_000)

    def test_many_bombs(self, monkeypatch):
        """What all places tried yield together is limited, not each."""
        monkeypatch.setattr(image, "OUTPUT_LIMIT", 3 << 20)
        bomb = gzip.compress(bytes(1 << 20), mtime=0)
        with pytest.raises(FormatError, match="more than 3145728 bytes"):
            btf_from_image(b"?" + bomb * 100)

    @pytest.mark.parametrize("name", ["gzip", "xz", "lzma", "bzip2", "zstd"])
    def test_bombs(self, name, monkeypatch):
        """The larger a file, the more it may decompress to."""
        assert image.output_limit(0) < image.output_limit(1000) < image.output_limit(1 << 40)
        assert image.output_limit(1 << 40) == image.OUTPUT_LIMIT
        monkeypatch.setattr(image, "_OUTPUT_BASE", 1 << 20)
        bomb = PACKERS[name](bytes(4 << 20))
        limit = image.output_limit(len(bomb))
        for step in (btf_from_image, decompress):
            with pytest.raises(FormatError, match=f"decompresses to more than {limit} bytes"):
                step(bomb)

    def test_magics_of_btf_everywhere(self):
        with pytest.raises(FormatError):
            btf_from_image(b"\0" + b"\x9f\xeb\x01\0" * 50_000)


class TestElfSection:
    def test_contents(self):
        data = elf({".modinfo": b"license=GPL\0", ".empty": b""})
        assert elf_section(data, ".modinfo") == b"license=GPL\0"
        assert elf_section(data, ".empty") == b""
        assert elf_section(data, ".mod") is None

    def test_not_elf(self):
        with pytest.raises(FormatError, match="not an ELF file") as caught:
            elf_section(b"MZ" * 100, ".BTF", "a.exe")
        assert caught.value.file == "a.exe"

    def test_no_section_headers(self):
        data = bytearray(elf({".BTF": blob()}))
        struct.pack_into("<Q", data, 0x28, 0)
        assert elf_section(data, ".BTF") is None

    @pytest.mark.parametrize(("offset", "value"), [(0x28, 1 << 60), (0x3C, 5000), (0x3A, 3)])
    def test_headers_outside_the_file(self, offset, value):
        data = bytearray(elf({".BTF": blob()}))
        struct.pack_into("<Q" if offset == 0x28 else "<H", data, offset, value)
        with pytest.raises(FormatError):
            elf_section(data, ".BTF")
