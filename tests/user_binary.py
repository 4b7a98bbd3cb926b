"""Executables and libraries made of bytes, so that no compiler is needed: for parsing, and to run.

What is made has a page of code and a page of data, symbols, versions of them, and USDT probes. Its
code is not started by anybody: `Mapped` maps it as the dynamic loader would and calls it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.formats.elf import layouts
from pybpfload.formats.usdt import layouts as usdt_layouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EM_386, EM_S390, EM_ARM, EM_X86_64, EM_AARCH64, EM_RISCV = 3, 22, 40, 62, 183, 243
ET_EXEC, ET_DYN = 2, 3
FUNC, OBJECT, IFUNC = 2, 1, 10
GLOBAL, WEAK = 1, 2

# File offsets are multiples of every page size; addresses are something else.
CODE_AT, DATA_AT = 0x10000, 0x20000
CODE_ADDRESS, DATA_ADDRESS = 0x30000, 0x50000


class Sym(NamedTuple):
    name: str
    address: int
    section: int
    kind: int
    binding: int
    version: str
    hidden: bool
    size: int


class UserBinaryBuilder:
    """An ELF file under construction.

    Args:
        machine, order, bits, kind: Of the ELF header.
        base: What is added to all addresses: executables are not at 0.
    """

    def __init__(
        self, machine: int = EM_X86_64, order: str = "<", bits: int = 64, kind: int = ET_DYN,
        base: int = 0,
    ) -> None:  # fmt: skip
        self.machine, self.order, self.bits, self.kind, self.base = machine, order, bits, kind, base
        self.code, self.data = bytearray(), bytearray(64)
        self.tables: dict[str, list[Sym]] = {".symtab": [], ".dynsym": []}
        self.notes = b""
        self.build_id = b""
        self.debug_link: tuple[str, int] | None = None
        self.stapsdt_base: int | None = None

    @property
    def code_address(self) -> int:
        return self.base + CODE_ADDRESS

    @property
    def data_address(self) -> int:
        return self.base + DATA_ADDRESS

    def symbol(
        self, name: str, at: int = 0, *, table: str = ".symtab", section: int = 1, kind: int = FUNC,
        binding: int = GLOBAL, version: str = "", hidden: bool = False, size: int = 8,
    ) -> None:  # fmt: skip
        """Add a symbol `at` so many bytes into the code (section 1) or data (2); 0: an import."""
        start = {0: 0, 1: self.code_address, 2: self.data_address}[section]
        self.tables[table].append(
            Sym(name, start + at, section, kind, binding, version, hidden, size)
        )

    def note(self, content: bytes, *, owner: bytes = b"stapsdt\0", kind: int = 3) -> None:
        pad = bytes(-len(owner) % 4)
        self.notes += struct.pack(self.order + "III", len(owner), len(content), kind) + owner + pad
        self.notes += content + bytes(-len(content) % 4)

    def probe(
        self, provider: str, name: str, arguments: str = "", at: int = 0, *,
        semaphore: int | None = None, base: int = 0, **place: int,
    ) -> None:  # fmt: skip
        """Add a USDT probe at so many bytes into the code, its semaphore into the data."""
        layout = usdt_layouts(self.order)
        self.note(
            (layout.note if self.bits == 64 else layout.note32).build(
                {
                    "location": self.code_address + at,
                    "base": base,
                    "semaphore": 0 if semaphore is None else self.data_address + semaphore,
                    "provider": provider,
                    "name": name,
                    "arguments": arguments,
                    **place,
                }
            )
        )

    def build(self, *, symtab: bool = True, sections: bool = True) -> bytes:
        """The file; stripped of all symbols but the dynamic ones, or of all section headers."""
        made: list[dict[str, Any]] = [
            {"name": ""},
            {
                "name": ".text",
                "type": 1,
                "addr": self.code_address,
                "at": CODE_AT,
                "data": self.code,
            },
            {
                "name": ".data",
                "type": 1,
                "addr": self.data_address,
                "at": DATA_AT,
                "data": self.data,
            },
        ]
        if symtab and self.tables[".symtab"]:
            self._add_table(made, ".symtab", 2, ".strtab")
        if self.tables[".dynsym"]:
            self._add_table(made, ".dynsym", 11, ".dynstr")
        if self.notes:
            made.append({"name": ".note.stapsdt", "type": 7, "data": self.notes})
        if self.stapsdt_base is not None:
            made.append(
                {"name": ".stapsdt.base", "type": 1, "addr": self.stapsdt_base, "data": b"\0"}
            )
        if self.build_id:
            head = struct.pack(self.order + "III", 4, len(self.build_id), 3) + b"GNU\0"
            made.append({"name": ".note.gnu.build-id", "type": 7, "data": head + self.build_id})
        if self.debug_link is not None:
            name, crc = self.debug_link[0].encode() + b"\0", self.debug_link[1]
            data = name + bytes(-len(name) % 4) + struct.pack(self.order + "I", crc)
            made.append({"name": ".gnu_debuglink", "type": 1, "data": data})
        made.append({"name": ".shstrtab", "type": 3})
        return self._file(made, sections)

    def _add_table(self, made: list[dict[str, Any]], name: str, kind: int, strings: str) -> None:
        symbols = self.tables[name]
        is_dynamic = name == ".dynsym"
        names = bytearray(b"\0")

        def name_at(text: str) -> int:
            names.extend(text.encode() + b"\0")
            return len(names) - len(text.encode()) - 1

        layout = layouts(self.order)
        record = layout.symbol if self.bits == 64 else layout.symbol32
        content, numbers = bytes(record.sizeof()), [0]
        versions = sorted({s.version for s in symbols if s.version})
        for each in symbols:
            text = each.name
            if each.version and not is_dynamic:
                text += ("@" if each.hidden else "@@") + each.version
            numbers.append(
                (2 + versions.index(each.version) if each.version else 1) | each.hidden << 15
            )
            content += record.build(
                {
                    "st_name": name_at(text),
                    "st_info": each.binding << 4 | each.kind,
                    "st_other": 0,
                    "st_shndx": each.section,
                    "st_value": each.address,
                    "st_size": each.size,
                }
            )
        place = len(made)
        made.append(
            {
                "name": name,
                "type": kind,
                "data": content,
                "link": place + 1,
                "entsize": record.sizeof(),
            }
        )
        made.append({"name": strings, "type": 3, "data": names})
        if is_dynamic and versions:
            defined = b""
            for number, version in enumerate(["the file itself", *versions], 1):
                defined += layout.verdef.build(
                    {
                        "vd_version": 1,
                        "vd_flags": int(number == 1),
                        "vd_ndx": number,
                        "vd_cnt": 1,
                        "vd_hash": 0,
                        "vd_aux": layout.verdef.sizeof(),
                        "vd_next": 0 if number > len(versions) else 28,
                    }
                )
                defined += layout.verdaux.build({"vda_name": name_at(version), "vda_next": 0})
            indices = struct.pack(f"{self.order}{len(numbers)}H", *numbers)
            made.append(
                {"name": ".gnu.version", "type": 0x6FFFFFFF, "data": indices, "link": place}
            )
            made.append(
                {"name": ".gnu.version_d", "type": 0x6FFFFFFD, "data": defined, "link": place + 1}
            )

    def _file(self, made: list[dict[str, Any]], with_sections: bool) -> bytes:
        wide = self.bits == 64
        header_size, segment_size, section_size = (64, 56, 64) if wide else (52, 32, 40)
        names = bytearray(b"\0")
        for section in made[1:]:
            section["name_at"] = len(names)
            names.extend(section["name"].encode() + b"\0")
        made[-1]["data"] = names
        file = bytearray(header_size)
        for offset, address, flags in (
            (CODE_AT, self.code_address, 5),
            (DATA_AT, self.data_address, 6),
        ):
            sizes = (0x1000, 0x1000)
            if wide:
                file += struct.pack(
                    self.order + "IIQQQQQQ", 1, flags, offset, address, address, *sizes, 0x1000
                )
            else:
                file += struct.pack(
                    self.order + "IIIIIIII", 1, offset, address, address, *sizes, flags, 0x1000
                )
        file += bytes(DATA_AT + 0x1000 - len(file))
        headers = b""
        for section in made:
            data = bytes(section.get("data", b""))
            if "at" in section:
                start = section["at"]
                file[start : start + len(data)] = data
            else:
                start = len(file)
                file += data + bytes(-len(data) % 8)
            headers += struct.pack(
                self.order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"),
                section.get("name_at", 0), section.get("type", 0), 0, section.get("addr", 0), start,
                len(data), section.get("link", 0), 0, 1, section.get("entsize", 0),
            )  # fmt: skip
        at, count = (len(file), len(made)) if with_sections else (0, 0)
        ident = b"\x7fELF" + bytes([self.bits // 32, 1 if self.order == "<" else 2, 1]) + bytes(9)
        file[:header_size] = ident + struct.pack(
            self.order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
            self.kind, self.machine, 1, 0, header_size, at, 0, header_size, segment_size, 2,
            section_size, count, max(count - 1, 0),
        )  # fmt: skip
        return bytes(file + headers) if with_sections else bytes(file)


class Machine(NamedTuple):
    """How to run code of this machine.

    `nop` is an instruction that does nothing; `add` the rest of a function that adds its two
    arguments, which are in the first two of `registers`; the stack pointer is the third.
    """

    elf: int
    nop: bytes
    add: bytes
    registers: tuple[str, str, str]
    deref: str
    constant: str
    ip_offset: int


MACHINES = {
    "x86_64": Machine(
        EM_X86_64, b"\x90", bytes.fromhex("488d0437c3"), ("%rdi", "%rsi", "%rsp"), "{n}({r})",
        "${n}", 128,
    ),
    "aarch64": Machine(
        EM_AARCH64, bytes.fromhex("1f2003d5"), bytes.fromhex("0000018bc0035fd6"),
        ("x0", "x1", "sp"), "[{r}, {n}]", "{n}", 256,
    ),
    "s390x": Machine(
        EM_S390, bytes.fromhex("0700"), bytes.fromhex("b908002307fe"), ("%r2", "%r3", "%r15"),
        "{n}({r})", "{n}", 16,
    ),
}  # fmt: skip


class Mapped:
    """Code and data of a file, mapped into this process."""

    def __init__(self, code: int, data: int) -> None:
        self.code, self.data = code, data

    def call(self, at: int, first: int, second: int) -> int:
        """Call the function at so many bytes into the code."""
        function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        return function(self.code + at)(first, second)

    def counter(self, at: int) -> int:
        """The 16-bit number at so many bytes into the data."""
        return ctypes.c_uint16.from_address(self.data + at).value


@contextmanager
def mapped(path: Path, start: int = 0) -> Iterator[Mapped]:
    """Map a file as the dynamic loader would, or one that begins inside another.

    The data is read once: BPF programs do not see memory that is not there yet.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    read, write, execute = 1, 2, 4
    private, fixed, anonymous = 2, 16, 32
    size = DATA_ADDRESS + 0x1000
    base = libc.mmap(None, size, 0, private | anonymous, -1, 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        code, data = base + CODE_ADDRESS, base + DATA_ADDRESS
        for at, rights, place in ((code, execute, CODE_AT), (data, write, DATA_AT)):
            made = libc.mmap(at, 0x1000, read | rights, private | fixed, fd, start + place)
            assert made == at, os.strerror(ctypes.get_errno())
        memory = Mapped(code, data)
        memory.counter(0)
        yield memory
    finally:
        os.close(fd)
        libc.munmap(base, size)
