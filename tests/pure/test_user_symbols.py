"""Functions of executables and libraries: where in the file they are; libraries in archives."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from user_binary import CODE_AT, ET_EXEC, GLOBAL, IFUNC, OBJECT, WEAK, UserBinaryBuilder

from pybpfload.elf.archive import stored_member
from pybpfload.elf.binary import Function, UserBinary
from pybpfload.errors import BpfError, FormatError

KINDS = [(order, bits) for order in "<>" for bits in (32, 64)]


def opened(builder: UserBinaryBuilder, **how: bool) -> UserBinary:
    return UserBinary(builder.build(**how), "lib.so")


def places(found: list[Function]) -> list[int]:
    return [function.offset - CODE_AT for function in found]


@pytest.mark.parametrize(("order", "bits"), KINDS)
@pytest.mark.parametrize("base", [0, 0x400000])
def test_all_kinds_of_files(order, bits, base):
    builder = UserBinaryBuilder(order=order, bits=bits, base=base, kind=ET_EXEC if base else 3)
    builder.symbol("here", 0x10)
    builder.symbol("there", 0x20, table=".dynsym")
    builder.symbol("variable", 0x8, section=2, kind=OBJECT)
    binary = opened(builder)
    assert (binary.bits, binary.byteorder, binary.machine) == (bits, order, builder.machine)
    assert binary.is_position_independent == (not base)
    assert binary.find("here") == [Function("here", CODE_AT + 0x10)]
    assert binary.find("there") == [Function("there", CODE_AT + 0x20)]
    assert binary.find("variable") == []
    assert binary.address_of("variable") == builder.data_address + 8
    assert binary.address_of("here") == builder.code_address + 0x10
    assert binary.address_of("nosuch") is None
    assert [s.executable for s in binary.segments] == [True, False]
    code = binary.segment_at(builder.code_address + 0xFFF)
    assert code is not None
    assert code.offset == CODE_AT
    assert binary.segment_at(builder.code_address + 0x1000) is None
    assert binary.function_names() == {"here", "there"}


class TestChoice:
    """Which of several symbols of one name is meant (libbpf, elf_find_func_offset())."""

    def find(self, *symbols, name="f") -> list[int]:
        builder = UserBinaryBuilder()
        for at, options in symbols:
            builder.symbol("f", at, **options)
        return places(opened(builder).find(name))

    def test_one_place_named_twice(self):
        assert self.find((8, {}), (8, {})) == [8]

    def test_strong_goes_before_weak_in_any_order(self):
        assert self.find((8, {"binding": WEAK}), (16, {})) == [16]
        assert self.find((16, {}), (8, {"binding": WEAK})) == [16]

    def test_first_of_weak_ones(self):
        assert self.find((8, {"binding": WEAK}), (16, {"binding": WEAK})) == [8]

    def test_two_strong_ones_are_ambiguous(self):
        assert self.find((8, {"binding": GLOBAL}), (16, {})) == [8, 16]

    def test_dynamic_table_decides(self):
        assert self.find((8, {"table": ".symtab"}), (16, {"table": ".dynsym"})) == [16]

    def test_imports_do_not_count(self):
        assert self.find((0, {"section": 0, "table": ".dynsym"}), (8, {})) == [8]
        assert self.find((0, {"section": 0, "table": ".dynsym"})) == []
        assert self.find((0x1234, {"section": 0, "table": ".dynsym"})) == []

    def test_ifuncs_do_not_count(self):
        builder = UserBinaryBuilder()
        builder.symbol("f", 8, kind=IFUNC, table=".dynsym")
        binary = opened(builder)
        assert binary.find("f") == []
        assert binary.is_ifunc("f")
        assert not binary.is_ifunc("g")

    def test_no_old_version_stands_in_for_an_ifunc(self):
        """As memcpy() of glibc: what programs are linked with is not memcpy@GLIBC_2.2.5."""
        builder = UserBinaryBuilder()
        builder.symbol("f", 8, table=".dynsym", version="LIB_1", hidden=True)
        builder.symbol("f", 16, kind=IFUNC, table=".dynsym", version="LIB_2")
        binary = opened(builder)
        assert binary.find("f") == []
        assert binary.is_ifunc("f")
        assert places(binary.find("f@LIB_1")) == [8]
        assert binary.find("f@LIB_2") == []

    @pytest.mark.parametrize("name", ["", "g", "ff", "f.cold", "F"])
    def test_other_names(self, name):
        assert self.find((8, {}), name=name) == []


@pytest.mark.parametrize("table", [".symtab", ".dynsym"])
@pytest.mark.parametrize("order", "<>")
class TestVersions:
    @pytest.fixture
    def binary(self, table, order):
        builder = UserBinaryBuilder(order=order)
        builder.symbol("f", 8, table=table, version="LIB_1", hidden=True)
        builder.symbol("f", 16, table=table, version="LIB_2")
        builder.symbol("g", 24, table=table)
        builder.symbol("f_other", 32, table=table, version="LIB_1")
        return opened(builder)

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("f", [16]),  # the default one; libbpf finds this ambiguous
            ("f@LIB_1", [8]),
            ("f@@LIB_1", [8]),
            ("f@LIB_2", [16]),
            ("f@@LIB_2", [16]),
            ("f@LIB_3", []),
            ("g", [24]),
            ("g@LIB_1", []),
            ("f_other@LIB_1", [32]),
        ],
    )
    def test_single(self, binary, name, found):
        assert places(binary.find(name)) == found

    def test_names_tell_the_version(self, binary):
        assert [f.name for f in binary.matching("f*")] == ["f@LIB_1", "f@@LIB_2", "f_other@@LIB_1"]

    def test_patterns(self, binary):
        assert places(binary.matching("?")) == [8, 16, 24]
        assert places(binary.matching("?@LIB_1")) == [8]
        assert places(binary.matching("f@*")) == [8, 16]
        assert places(binary.matching("*@LIB_1")) == [8, 32]


class TestPatterns:
    @pytest.fixture
    def builder(self):
        builder = UserBinaryBuilder()
        for at, name in enumerate(["malloc", "calloc", "free", "alias_of_free", "[x]"]):
            builder.symbol(name, 8 * at if name != "alias_of_free" else 16)
        builder.symbol("imported", 0, section=0)
        builder.symbol("exported_only", 64, table=".dynsym")
        return builder

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("*alloc", [0, 8]),
            ("?alloc", [0, 8]),
            ("??alloc", []),
            ("*", [0, 8, 16, 32]),  # each place once, no imports
            ("*free", [16]),
            ("[x]", [32]),  # there are no classes
            ("exported*", [64]),  # not in the first table
            ("import*", []),
            ("", []),
        ],
    )
    def test_pattern(self, builder, pattern, found):
        assert places(opened(builder).matching(pattern)) == found

    def test_stripped(self, builder):
        assert places(opened(builder, symtab=False).matching("*")) == [64]
        nothing = opened(builder, sections=False)
        assert nothing.matching("*") == nothing.find("free") == []
        assert nothing.function_names() == set()


class TestDamage:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"", "it is empty"),
            (b"#!/bin/sh\n", "a script: probe its interpreter"),
            (b"\x7fELF" + bytes(10), "damaged ELF header"),
            (UserBinaryBuilder(kind=1).build(), "type 1, no executable or library"),
            (UserBinaryBuilder().build()[:-100], "cut short"),
        ],
    )
    def test_no_binary(self, data, text):
        with pytest.raises(FormatError, match=text) as caught:
            UserBinary(data, "lib.so")
        assert caught.value.file == "lib.so"

    @given(st.data())
    def test_any_damage_is_a_format_error_or_none(self, data):
        builder = UserBinaryBuilder(order=data.draw(st.sampled_from("<>")))
        builder.symbol("f", 8, table=".dynsym", version="V")
        builder.symbol("f", 16)
        builder.probe("p", "n", "8@%rax", semaphore=2)
        whole = builder.build()
        file = bytearray(whole)
        tail = range(0x21000, len(whole))
        head = range(180)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.sampled_from(head) | st.sampled_from(tail))
            file[at] = data.draw(st.integers(0, 255))
        told: BpfError = FormatError("", file="x")
        try:
            binary = UserBinary(bytes(file), "x")
            binary.find("f@V")
            binary.matching("*")
            binary.function_names()
        except BpfError as error:
            told = error
        assert isinstance(told, FormatError)
        assert told.file == "x"

    def test_endless_versions(self):
        builder = UserBinaryBuilder()
        builder.symbol("f", 8, table=".dynsym", version="V")
        data = bytearray(builder.build())
        section = opened(builder).section(".gnu.version_d")
        assert section is not None
        struct.pack_into("<I", data, section.offset + 16, 0)  # the first is the last
        binary = UserBinary(bytes(data), "x")
        assert places(binary.find("f")) == [8]
        assert binary.find("f@V") == []


class TestArchives:
    def archive(self, **options) -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", **options) as archive:
            archive.writestr("first", b"1" * 77)
            archive.writestr("lib/x.so", b"content of the library")
        return made.getvalue()

    def test_member(self):
        data = self.archive()
        found = stored_member(data, "lib/x.so", "app.apk")
        assert found == (data.index(b"content of"), b"content of the library")
        assert stored_member(data, "lib/y.so", "app.apk") is None

    def test_extra_field_of_the_member_counts(self):
        """Tools that align members put padding there, which the central directory does not have."""
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            info = zipfile.ZipInfo("lib/x.so")
            info.extra = struct.pack("<HH", 0xD935, 9) + bytes(9)
            archive.writestr(info, b"content")
        data = made.getvalue()
        assert stored_member(data, "lib/x.so", "a") == (data.index(b"content"), b"content")

    def test_compressed(self):
        data = self.archive(compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(FormatError, match="it is compressed") as caught:
            stored_member(data, "lib/x.so", "app.apk")
        assert (caught.value.file, caught.value.section) == ("app.apk", "lib/x.so")

    @given(st.data())
    def test_any_damage_is_a_format_error_or_none(self, data):
        file = bytearray(self.archive())
        for _ in range(data.draw(st.integers(1, 3))):
            file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
        size = data.draw(st.sampled_from([len(file), len(file) // 2, len(file) - 5]))
        found, told = None, FormatError("", file="app.apk")
        try:
            found = stored_member(bytes(file[:size]), "lib/x.so", "app.apk")
        except FormatError as error:
            told = error
        assert told.file == "app.apk"
        assert found is None or bytes(file).find(found[1]) >= 0
