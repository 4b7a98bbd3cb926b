"""Addresses as names: tables, the kernel's symbols, those of processes, stack traces."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from types import SimpleNamespace

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st
from user_binary import (
    CODE_ADDRESS,
    CODE_AT,
    EM_ARM,
    ET_EXEC,
    GLOBAL,
    IFUNC,
    OBJECT,
    WEAK,
    UserBinaryBuilder,
)

from pybpfload.elf.binary import UserBinary
from pybpfload.errors import FormatError, NotPermittedError
from pybpfload.formats.stack import layouts
from pybpfload.symbols import Frame, KernelSymbols, Stacks, UserSymbols, demangle
from pybpfload.symbols import demangling as demangling_module
from pybpfload.symbols import kernel as kernel_module
from pybpfload.symbols import process as process_module
from pybpfload.symbols.files import CodeFiles
from pybpfload.symbols.process import Mapping, read_maps
from pybpfload.symbols.stacks import BuildIdFrame, read_build_ids
from pybpfload.symbols.table import elf_symbols, kernel_symbols, perf_map_symbols
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapFlag, MapType

LOCAL = 0
NATIVE = "<" if sys.byteorder == "little" else ">"

# Tables


def listed(table) -> list[tuple[int, int, str]]:
    """Start, end and name of everything in a table."""
    return [
        (start, end, table._name(place))
        for start, end, place in zip(table._starts, table._ends, table._places, strict=True)
    ]


symbols_of_a_file = st.lists(
    st.tuples(
        st.text("ab_", min_size=1, max_size=3),
        st.integers(0, 40),  # place
        st.sampled_from([0, 1, 2]),  # section: an import, code, data
        st.sampled_from([2, IFUNC, OBJECT, 0]),
        st.sampled_from([LOCAL, GLOBAL, WEAK]),
        st.integers(0, 12),  # size
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(symbols_of_a_file, st.sampled_from("<>"), st.sampled_from([32, 64]))
def test_functions_are_those_that_pyelftools_reads(symbols, order, bits):
    builder = UserBinaryBuilder(order=order, bits=bits)
    builder.code = bytearray(64)
    for name, at, section, kind, binding, size in symbols:
        builder.symbol(name, at, section=section, kind=kind, binding=binding, size=size)
    content = builder.build()
    found = elf_symbols(UserBinary(content, "lib.so"))
    section = ELFFile(io.BytesIO(content)).get_section_by_name(".symtab")
    told = [
        (each["st_value"], each["st_size"], each.name)
        for each in (section.iter_symbols() if section else ())
        if each["st_info"]["type"] in ("STT_FUNC", "STT_GNU_IFUNC", "STT_LOOS")
        and each["st_shndx"] != "SHN_UNDEF"
    ]
    ours = listed(found)
    assert sorted((start, name) for start, _, name in ours) == sorted((a, n) for a, _, n in told)
    starts = sorted({start for start, _, _ in told})
    for start, end, name in ours:
        if (start, end - start, name) not in told:  # one that has no size
            assert (start, 0, name) in told
            is_data = start >= builder.data_address
            section = (builder.data_address if is_data else builder.code_address) + 64
            assert end == min([each for each in starts if each > start] + [section])


def test_which_of_several_symbols_is_shown():
    builder = UserBinaryBuilder()
    builder.code = bytearray(0x100)
    builder.symbol("weak", 0x10, binding=WEAK, size=16)
    builder.symbol("strong", 0x10, size=16)
    builder.symbol("local", 0x10, binding=LOCAL, size=16)
    builder.symbol("label", 0x10, size=0)
    builder.symbol("outer", 0x40, size=0x40)
    builder.symbol("inner", 0x50, size=4)
    builder.symbol("unsized", 0x80, size=0)
    found = elf_symbols(UserBinary(builder.build(), "lib.so"))

    def at(offset: int) -> str | None:
        there = found.at(CODE_ADDRESS + offset)
        return there and f"{there.name}+{CODE_ADDRESS + offset - there.start:#x}"

    assert [at(x) for x in (0xF, 0x10, 0x1F, 0x40, 0x52, 0x54, 0x7F, 0x80, 0xFF, 0x100)] == [
        None, "strong+0x0", "strong+0xf", "outer+0x0", "inner+0x2", "outer+0x14", "outer+0x3f",
        "unsized+0x0", "unsized+0x7f", None,
    ]  # fmt: skip
    assert at(0x20) == "label+0x10"  # it has no size, so it may go on up to the next symbol


def test_thumb_functions_are_at_even_addresses():
    builder = UserBinaryBuilder(machine=EM_ARM, bits=32)
    builder.code = bytearray(16)
    builder.symbol("thumb", 1, size=8)
    found = elf_symbols(UserBinary(builder.build(), "lib.so"))
    assert found.at(CODE_ADDRESS) == ("thumb", CODE_ADDRESS)


def test_tables_are_chosen_and_damage_is_told():
    builder = UserBinaryBuilder()
    builder.code = bytearray(16)
    builder.symbol("all", 0)
    builder.symbol("dynamic", 0, table=".dynsym")
    assert listed(elf_symbols(UserBinary(builder.build(), "x")))[0][2] == "all"
    assert listed(elf_symbols(UserBinary(builder.build(symtab=False), "x")))[0][2] == "dynamic"
    assert not len(elf_symbols(UserBinary(builder.build(sections=False), "x")))
    cut = UserBinary(builder.build(), "x")
    cut.data = cut.data[:CODE_AT]
    with pytest.raises(FormatError, match="cut short"):
        elf_symbols(cut)


def test_perf_maps():
    text = b"7f00 10 jit one\n0x7f20 0x8 LazyCompile:~f a.js:1\nrubbish\n7f00 10 jit two\n9 8\n"
    found = perf_map_symbols(text)
    assert found.at(0x7F0F) == ("jit two", 0x7F00)
    assert found.at(0x7F10) is None
    assert found.at(0x7F21) == ("LazyCompile:~f a.js:1", 0x7F20)
    assert len(found) == 3


@given(st.binary())
def test_any_text_is_a_table(text):
    for table in (kernel_symbols(text), perf_map_symbols(text)):
        table.at(0x10)
        assert table.nbytes >= len(text)


# The kernel

KALLSYMS = (
    b"ffffffff81000000 T _stext\nffffffff81000000 T _text\nffffffff81001000 t helper\n"
    b"ffffffff81002000 t helper\nffffffffc0100000 t ext4_read\t[ext4]\n"
    b"ffffffffc0000000 t bpf_prog_8e0c_on_enter\t[bpf]\n"
)


def test_kernel_symbols():
    with FakeKernel(files={"/proc/kallsyms": KALLSYMS}):
        kernel = KernelSymbols()
        assert kernel.problem is None
        assert [str(kernel.frame(address)) for address in (
            0xFFFFFFFF81000010, 0xFFFFFFFF81001FFF, 0xFFFFFFFFC0100004, 0xFFFFFFFFC0000004, 16
        )] == [
            "0xffffffff81000010 _stext+0x10",
            "0xffffffff81001fff helper+0xfff",
            "0xffffffffc0100004 ext4_read+0x4 (ext4)",
            "0xffffffffc0000004 bpf_prog_8e0c_on_enter+0x4 (bpf)",
            "0x10 kernel",
        ]  # fmt: skip
        returned = kernel.frame(0xFFFFFFFF81001000, is_return=True)
        assert (returned.name, returned.offset) == ("_stext", 0x1000)
        assert kernel.frame(0xFFFFFFFF81000010).name == "_stext"
        assert kernel.frame(0xFFFFFFFF82100000).symbol is None  # a MiB behind the last one
        assert kernel.addresses("helper") == [0xFFFFFFFF81001000, 0xFFFFFFFF81002000]
        assert kernel.addresses("nosuch") == []


def test_hidden_kernel_symbols_are_explained():
    files = {
        "/proc/kallsyms": b"0000000000000000 T _stext\n0000000000000000 t f\t[m]\n",
        "/proc/sys/kernel/kptr_restrict": b"1\n",
    }
    with FakeKernel(files=files):
        kernel = KernelSymbols()
        assert "kptr_restrict" in kernel.problem
        assert "CAP_SYSLOG" in kernel.problem
        assert kernel.frame(0) == Frame(0, None, 0, "kernel", True)
        with pytest.raises(NotPermittedError, match="kptr_restrict"):
            kernel.addresses("_stext")


def test_modules_that_come_later_are_noticed(monkeypatch):
    now = 100.0
    monkeypatch.setattr(kernel_module.time, "monotonic", lambda: now)
    with FakeKernel(files={"/proc/kallsyms": KALLSYMS, "/proc/modules": b"ext4\n"}) as fake:
        kernel = KernelSymbols()
        late = 0xFFFFFFFFC0110000
        assert kernel.frame(late).name == "ext4_read"  # all that is known of that place
        fake.files["/proc/kallsyms"] = KALLSYMS + b"ffffffffc0110000 t xfs_read\t[xfs]\n"
        fake.files["/proc/modules"] = b"xfs\next4\n"
        assert kernel.frame(late).name == "ext4_read"
        now += 1
        assert kernel.frame(late).name == "xfs_read"
        fake.files["/proc/kallsyms"] += b"ffffffffc0900000 t bpf_prog_1_f\t[bpf]\n"
        assert kernel.frame(0xFFFFFFFFC0900004).symbol is None
        now += 1
        assert kernel.frame(0xFFFFFFFFC0900004).symbol == "bpf_prog_1_f"


# Processes

BASE = 0x7F0000000000
LINE = "{:x}-{:x} r-xp {:08x} fe:00 {} {}\n"


def library(*names: str, build_id: bytes = b"", table: str = ".symtab", **how) -> bytes:
    """A library with functions of 16 bytes."""
    builder = UserBinaryBuilder(**how)
    builder.code = bytearray(0x100)
    builder.build_id = build_id
    for index, name in enumerate(names):
        builder.symbol(name, 16 * index, table=table, size=16)
    return builder.build()


def mapped(content: bytes, path: str, start: int = BASE) -> str:
    """The line of the code of a library in /proc/PID/maps."""
    return LINE.format(start, start + 0x1000, CODE_AT, zlib.crc32(content), path)


class Traced(FakeKernel):
    """A kernel with process 7, which has libraries mapped."""

    def __init__(self, maps: str, **files: bytes) -> None:
        super().__init__(files={"/proc/7/maps": maps.encode(), **files})

    def shown(self, address: int = BASE + 4, **options) -> str:
        frame = UserSymbols(**options).frame(7, address)
        return f"{frame.name}+{frame.offset:#x} {frame.module}"


MAPPED = f"/proc/7/map_files/{BASE:x}-{BASE + 0x1000:x}"


def test_maps():
    text = (
        "400000-401000 r--p 00000000 fe:00 12   /bin/x\n"
        "401000-402000 r-xp 00001000 fe:00 12                 /bin/x\n"
        "7f00-7f10 rwxp 00000000 00:00 0 \n"
        "7e00-7e10 --xp 00002000 08:01 99 /tmp/a\\012b c (deleted)\n"
        "7fff-8000 r-xp 00000000 00:00 0 [vdso]\nrubbish\n"
    )
    assert read_maps(text.encode()) == [
        Mapping(0x7E00, 0x7E10, 0x2000, 99, "/tmp/a\nb c"),
        Mapping(0x7F00, 0x7F10, 0, 0, ""),
        Mapping(0x7FFF, 0x8000, 0, 0, "[vdso]"),
        Mapping(0x401000, 0x402000, 0x1000, 12, "/bin/x"),
    ]


@pytest.mark.parametrize("how", [{}, {"base": 0x400000, "kind": ET_EXEC}, {"bits": 32}])
def test_a_file_is_found_in_three_ways(how):
    content = library("first", "second", **how)
    line = mapped(content, "/lib/l.so")
    for path in (MAPPED, "/proc/7/root/lib/l.so", "/lib/l.so"):
        with Traced(line, **{path: content}) as fake:
            assert fake.shown(BASE + 0x14) == "second+0x4 /lib/l.so"
            assert not fake.leaked()
    with Traced(line) as fake:
        assert fake.shown() == "[l.so]+0x0 /lib/l.so"
    with Traced(line, **{"/lib/l.so": content + b"another"}) as fake:  # put in its place
        assert fake.shown() == "[l.so]+0x0 /lib/l.so"
    with Traced(line.replace("l.so", "l.so (deleted)"), **{MAPPED: content}) as fake:
        assert fake.shown() == "first+0x4 /lib/l.so"


def test_addresses_outside_of_functions_are_given_as_the_file_has_them():
    content = library("first")
    with Traced(mapped(content, "/lib/l.so"), **{MAPPED: content}):
        user = UserSymbols()
        frame = user.frame(7, BASE + 0x20)
        assert (frame.symbol, frame.offset) == (None, CODE_ADDRESS + 0x20)
        assert str(frame) == f"{BASE + 0x20:#x} l.so+{CODE_ADDRESS + 0x20:#x}"
        assert user.frame(7, BASE + 0x10, is_return=True)[1:3] == ("first", 16)
        assert user.frame(7, 0x1234) == Frame(0x1234)
        assert Frame(0x1234).name == "[unknown]"


def test_debug_symbols_by_build_id_and_by_link():
    build_id = bytes(range(20))
    plain = library("exported", table=".dynsym", build_id=build_id)
    debug = library("static", "exported", build_id=build_id)
    other = library("wrong", build_id=bytes(20))
    by_id = f"/usr/lib/debug/.build-id/00/{build_id[1:].hex()}.debug"
    line = mapped(plain, "/lib/l.so")
    for files, wanted in (
        ({by_id: debug}, "static"),
        ({"/proc/7/root" + by_id: debug}, "static"),
        ({by_id: other}, "exported"),
        ({by_id: b"\x7fELF damaged"}, "exported"),
        ({}, "exported"),
    ):
        with Traced(line, **{MAPPED: plain, **files}) as fake:
            assert fake.shown() == f"{wanted}+0x4 /lib/l.so"
    builder = UserBinaryBuilder()
    builder.code = bytearray(16)
    builder.symbol("exported", 0, table=".dynsym", size=16)
    debug = library("static")
    builder.debug_link = ("l.debug", zlib.crc32(debug))
    linked = builder.build()
    line = mapped(linked, "/lib/l.so")
    for folder in ("/lib/", "/lib/.debug/", "/usr/lib/debug/lib/"):
        with Traced(line, **{MAPPED: linked, folder + "l.debug": debug}) as fake:
            assert fake.shown() == "static+0x4 /lib/l.so"
        with Traced(line, **{MAPPED: linked, folder + "l.debug": debug + b"x"}) as fake:
            assert fake.shown() == "exported+0x4 /lib/l.so"


@pytest.mark.parametrize("damage", [b"", b"#!/bin/sh\n", b"\x7fELF", library("f")[:0x10100]])
def test_damaged_files_have_no_symbols(damage):
    with Traced(mapped(damage, "/lib/l.so"), **{MAPPED: damage}) as fake:
        assert fake.shown() == "[l.so]+0x0 /lib/l.so"
        assert not fake.leaked()


def test_the_vdso_is_read_from_memory():
    content = library("__vdso_gettimeofday")
    line = LINE.format(0, 0x40000, 0, 0, "[vdso]")  # its file begins at its address
    with Traced(line, **{"/proc/7/mem": content}) as fake:
        assert fake.shown(CODE_AT + 4) == "__vdso_gettimeofday+0x4 [vdso]"
    with Traced(line) as fake:
        assert fake.shown(CODE_AT + 4) == "[vdso]+0x0 [vdso]"


def test_jitted_code_in_a_container(monkeypatch):
    now = 100.0
    monkeypatch.setattr(process_module.time, "monotonic", lambda: now)
    line = LINE.format(BASE, BASE + 0x1000, 0, 0, "")
    status = b"Name:\tnode\nNSpid:\t7\t3\t1\n"
    path = "/proc/7/root/tmp/perf-1.map"
    content = f"{BASE:x} 20 LazyCompile:f\n".encode()
    with Traced(line, **{"/proc/7/status": status, path: content}) as fake:
        user = UserSymbols()
        assert user.frame(7, BASE + 4)[1:4] == ("LazyCompile:f", 4, "[anon]")
        fake.files[path] = content + f"{BASE + 0x20:x} 20 g\n".encode()
        assert user.frame(7, BASE + 0x24).name == "[anon]"
        now += 1
        assert user.frame(7, BASE + 0x24).name == "g"
    with Traced("", **{"/tmp/perf-7.map": content}) as fake:  # it has ended
        assert fake.shown() == "LazyCompile:f+0x4 "


def test_what_is_mapped_later_and_what_has_ended(monkeypatch):
    now = 100.0
    monkeypatch.setattr(process_module.time, "monotonic", lambda: now)
    content = library("first")
    with Traced(mapped(content, "/lib/l.so"), **{"/lib/l.so": content}) as fake:
        user = UserSymbols()
        assert user.frame(7, BASE + 4).name == "first"
        late = mapped(content, "/lib/late.so", BASE + 0x10000)
        fake.files["/proc/7/maps"] += late.encode()
        fake.files["/lib/late.so"] = content
        assert user.frame(7, BASE + 0x10004).name == "[unknown]"
        now += 1
        assert user.frame(7, BASE + 0x10004).name == "first"
        del fake.files["/proc/7/maps"], fake.files["/lib/l.so"]
        now += 1
        assert user.frame(7, BASE + 4).name == "first"
        assert user.frame(7, 16).name == "[unknown]"
        assert "process 7" in user.problem(7)
        assert "process 8 cannot be looked at" in user.problem(8)
        assert len(user.files) == 1  # the same file under two names
        user.forget(7)
        assert user.frame(7, BASE + 4).name == "[unknown]"


def test_memory_is_bounded():
    contents = [library(f"f{index}") for index in range(5)]
    lines = [mapped(each, f"/l{i}", BASE + i * 0x1000) for i, each in enumerate(contents)]
    files = {f"/l{index}": each for index, each in enumerate(contents)}
    with Traced("".join(lines), **files):
        user = UserSymbols(limit=5000, processes=2)
        names = [user.frame(7, BASE + index * 0x1000).name for index in range(5)]
        assert names == ["f0", "f1", "f2", "f3", "f4"]
        assert len(user.files) == 2
        assert user.files.nbytes <= 5000
        assert user.frame(7, BASE).name == "f0"  # read again
        assert len(user.files) == 2
        for pid in range(10, 20):
            user.frame(pid, 0)
        assert len(user._processes) == 2


def test_a_number_that_is_another_process_now(monkeypatch):
    now = 100.0
    monkeypatch.setattr(process_module.time, "monotonic", lambda: now)
    old, new = library("old"), library("new")
    with Traced(mapped(old, "/old"), **{"/old": old, "/new": new}) as fake:
        user = UserSymbols()
        assert user.frame(7, BASE).name == "old"
        fake.files["/proc/7/maps"] = mapped(new, "/new").encode()
        assert user.frame(7, BASE).name == "old"
        now += 1.01
        assert user.frame(7, BASE).name == "new"


def test_names_cannot_command_a_terminal():
    frame = Frame(16, "a\x1b[2Jb\n\ud800", 1, "/tmp/\x07\x9b")
    assert str(frame) == r"0x10 a\x1b[2Jb\x0a\xd800+0x1 (\x07\x9b)"
    assert Frame(16, None, 0, "/tmp/\x07").name == r"[\x07]"


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 180) | st.integers(0x21000, 0x21280), st.binary())))
def test_any_damage_is_survived(damage):
    content = bytearray(library("f", "g", build_id=bytes(20)))
    for at, piece in damage:
        content[at : at + len(piece)] = piece
    file = CodeFiles([], 1 << 20).from_bytes(bytes(content), "x")
    address, found = file.at(CODE_AT + 4)
    assert address >= 0
    assert found is None or found.start <= address


# Demangling


def test_demangling():
    pytest.importorskip("pycxxfilt", reason="pycxxfilt is not installed (Python 3.11 and later)")
    assert demangle("_ZN3fooIiE3barEv.constprop.0") == "foo<int>::bar().constprop.0"
    assert demangle("_RNvC6_123foo3bar") == "123foo::bar"
    assert demangle("_ZN4core3fmt3pad17h1234567890abcdefE") == "core::fmt::pad"
    doubling = "_Z1f1aIiiE" + "".join(f"S_IS{n}_S{n}_E" for n in range(10)) * 4
    damaged = ["main", "_ZQQ", "_R", "_Z1f" + "P" * 3000 + "i", "_Z1f" + "N" * 2000, doubling]
    assert [demangle(name) for name in damaged] == damaged


def test_without_the_library_names_stay_mangled(monkeypatch):
    monkeypatch.setattr(demangling_module, "_library", lambda: None)
    demangle.cache_clear()
    assert demangle("_ZN3foo3barEv") == "_ZN3foo3barEv"
    demangle.cache_clear()


# Stacks


class StackMap:
    """What `Stacks` needs of a map."""

    name, type, max_entries = "stacks", MapType.STACK_TRACE, 64

    def __init__(self, stacks: dict, flags: int = 0) -> None:
        self.stacks, self.flags = stacks, flags

    def __getitem__(self, key):
        return self.stacks[key]

    def lookup_bytes(self, key):
        return self.stacks.get(struct.unpack("=I", key)[0])


@given(st.lists(st.tuples(st.integers(-3, 3), st.binary(min_size=20, max_size=20))))
def test_levels_with_build_ids_are_read_as_described(levels):
    records = [
        {"status": status, "build_id": build_id, "offset": index}
        for index, (status, build_id) in enumerate(levels)
    ]
    data = b"".join(map(layouts(NATIVE).build_id.build, records))
    wanted = []
    for record in records:
        if record["status"] not in (1, 2):
            break
        known = record["build_id"] if record["status"] == 1 else b""
        wanted.append(BuildIdFrame(known, record["offset"]))
    assert read_build_ids(data) == wanted


def test_stacks_of_a_map():
    content = library("inner", "outer", build_id=bytes(range(20)))
    maps = mapped(content, "/lib/l.so")
    kernel_stack = [0xFFFFFFFF81001004, 0xFFFFFFFF81001000]
    with Traced(maps, **{"/lib/l.so": content, "/proc/kallsyms": KALLSYMS}):
        stacks = Stacks(StackMap({1: [BASE + 4, BASE + 0x20], 2: kernel_stack}))
        assert [frame.name for frame in stacks.frames(1, 7)] == ["inner", "outer"]
        assert [frame.name for frame in stacks.frames(2)] == ["helper", "_stext"]
        assert stacks.folded("sh", user=1, kernel=2, pid=7) == (
            "sh", "outer", "inner", "_stext_[k]", "helper_[k]",
        )  # fmt: skip
        assert stacks.folded("sh", user=-14, kernel=-17) == ("sh", "[lost stack: EEXIST]_[k]")
        assert stacks.frames(-14, 7) == []
        assert stacks.frames(-17, 7) == [Frame(0, "[lost stack: EEXIST]")]
        assert "hash of 64 places" in stacks.explain(-17)
        assert "kernel thread" in stacks.explain(-14)
        assert stacks.explain(-999) == "no stack was kept (-999): the kernel did not take it"
        assert stacks.explain(1) is None
        with pytest.raises(KeyError):
            stacks.frames(5)
        with pytest.raises(KeyError, match="EEXIST"):
            stacks.addresses(-17)
        # In a record: zeros behind the end.
        assert [frame.name for frame in stacks.resolve((BASE + 4, 0, BASE), 7)] == ["inner"]
        data = struct.pack("=3Q", BASE + 4, 0, BASE)
        assert [each.name for each in stacks.resolve(data, 7, build_ids=False)] == ["inner"]
        with pytest.raises(ValueError, match="build_ids=False if these are addresses"):
            stacks.resolve(data, 7)
        data = b"".join(
            layouts(NATIVE).build_id.build({"status": status, "build_id": known, "offset": offset})
            for status, known, offset in (
                (1, bytes(range(20)), CODE_AT + 4), (2, bytes(20), BASE + 0x20),
                (1, bytes(20), 16), (0, bytes(20), 0),
            )
        )  # fmt: skip
        with_ids = Stacks(StackMap({3: data}, MapFlag.STACK_BUILD_ID), user=stacks.user)
        names = ["inner", "outer", "[build id " + "00" * 20]
        assert [frame.name for frame in with_ids.frames(3, 7)] == [*names[:2], f"{names[2]}]"]
        assert with_ids.resolve(data)[0].name == "inner"  # its file is known by now
        with pytest.raises(KeyError, match="4 is not in map stacks"):
            with_ids.frames(4, 7)


def test_stacks_need_a_map_of_stacks():
    with pytest.raises(TypeError, match="of type HASH, not STACK_TRACE"):
        Stacks(SimpleNamespace(name="counts", type=MapType.HASH))
    with pytest.raises(TypeError, match="no map of stacks"):
        Stacks().addresses(1)
