"""Opening objects: every fixture, and files that are not objects."""

from __future__ import annotations

import copy
import io
import os
import pickle
import sys
from pathlib import Path

import pytest
from describe import describe
from insns import EXIT, mov

from pybpfload.errors import BpfError, FormatError
from pybpfload.object import open_object
from pybpfload.testing.objects import REL, ObjectBuilder

FIXTURES = Path(__file__).parents[2] / "fixtures"
OPENED = Path(__file__).with_name("fixtures-opened.txt")
NAMES = sorted(path.name.removesuffix(".bpf.o") for path in FIXTURES.glob("bpfel/*.bpf.o"))

REFUSED = {
    "bad_arena_none": "symbol counter: arena variable, but the object has no arena map",
    "bad_arena_small": "section .addr_space.1, symbol arena: needs 2 pages, the arena has 1",
    "bad_call_entry": (
        "section .relraw_tp/sys_enter, offset 0x0, symbol callee: called function is not in .text"
    ),
    "bad_common": "symbol common: symbol is in section 0xfff2, which does not exist",
    "bad_extern": "symbol somewhere: the extern is in no section of BTF",
    "bad_extern_section": "section .elsewhere, symbol somewhere: a variable cannot be an extern",
    "bad_kconfig_function": "section .kconfig, symbol CONFIG_HZ: a function cannot be an extern",
    "bad_kconfig_type": "section .kconfig, symbol CONFIG_HZ: struct pair [11] is not a type of",
    "bad_legacy_maps": "section maps: map definitions of the old kind are not supported",
    "bad_map_attr": "offset 0x0, symbol map: attribute 'pybpfload_unknown' is not known",
    "bad_map_hash_key": "declared values need a key of 4 bytes, map has 8",
    "bad_map_inner_pinning": "symbol map.inner: attribute 'pinning' is given, but an inner map",
    "bad_map_inner_values": "attribute 'values' is given, but an inner map cannot have inner maps",
    "bad_map_key_conflict": "attribute 'key_size' says 8 bytes, an earlier attribute says 4",
    "bad_map_member": "attribute 'max_entries' is not a pointer to an array",
    "bad_map_no_type": "symbol map: attribute 'type' is missing",
    "bad_map_not_struct": "symbol map: the map is int unsigned long long [1], expected a struct",
    "bad_map_of_function": "map wants maps, 'program' is none",
    "bad_map_opaque": "attribute 'value' has an unfit type: fwd opaque",
    "bad_map_pinning": "attribute 'pinning' is 2, expected 0 (none) or 1 (by name)",
    "bad_map_slot": "section .rel.maps, offset 0x18, symbol map: there is no program 'function'",
    "bad_map_typedef": "attribute 'max_entries' is not a pointer to an array",
    "bad_map_values_first": "attribute 'values' is not the last attribute",
    "bad_map_values_numbers": "attribute 'values' does not hold pointers to functions",
    "bad_map_values_type": "attribute 'values' needs a map of maps or of programs",
    "bad_map_zero_size": "attribute 'key_size' says 0 bytes, an earlier attribute says 4",
    "bad_static_entry": "symbol hidden_program: static functions are only allowed in .text",
    "bad_static_map": "section .maps, offset 0x0, symbol map: maps cannot be static",
    "bad_struct_ops_member": "member 'init' is not set to a struct_ops program",
    "bad_two_arenas": "section .maps, offset 0x18, symbol two: is a second arena",
    "nobtf_maps": "it has no .BTF section, which .maps needs; compile with -g",
}


def known() -> dict[str, list[str]]:
    blocks: dict[str, list[str]] = {}
    for line in OPENED.read_text().splitlines():
        if line.startswith("# "):
            lines = blocks[line[2:]] = []
        else:
            lines.append(line)
    return blocks


@pytest.mark.parametrize("name", NAMES)
def test_fixture(name):
    """Programs, maps, variables and externs are those that were checked by hand and by libbpf.

    After a change of fixtures, ``PYBPFLOAD_UPDATE=1 pytest tests/pure/test_open.py`` writes the
    file anew; read its diff.
    """
    if name in REFUSED:
        for order in ("bpfel", "bpfeb"):
            path = FIXTURES / order / f"{name}.bpf.o"
            with pytest.raises(FormatError) as caught:
                open_object(path)
            assert str(caught.value).startswith(f"{path}")
            assert REFUSED[name] in str(caught.value)
        return
    told = describe(open_object(FIXTURES / "bpfel" / f"{name}.bpf.o"))
    if os.environ.get("PYBPFLOAD_UPDATE"):
        blocks = {**known(), name: told} if OPENED.exists() else {name: told}
        OPENED.write_text(
            "".join(f"# {n}\n" + "".join(f"{x}\n" for x in blocks[n]) for n in sorted(blocks))
        )
    assert told == known()[name]
    assert describe(open_object(FIXTURES / "bpfeb" / f"{name}.bpf.o")) == told


def test_only_fixtures_are_known():
    assert sorted({*known(), *REFUSED}) == NAMES


def test_unknown_map_attributes_can_be_ignored():
    spec = open_object(FIXTURES / "bpfel" / "bad_map_attr.bpf.o", relaxed_maps=True)
    assert list(spec.maps) == ["map"]


def test_instructions_are_the_same_in_both_byte_orders():
    little, big = (open_object(FIXTURES / order / "minimal.bpf.o") for order in ("bpfel", "bpfeb"))
    assert (little.byteorder, big.byteorder) == ("<", ">")
    for name, program in little.programs.items():
        assert program.insns == big.programs[name].insns
        assert program.relocs == big.programs[name].relocs


# Sources


@pytest.mark.parametrize("kind", ["str", "Path", "bytes", "bytearray", "memoryview", "file", "io"])
def test_sources(kind):
    path = FIXTURES / "bpfel" / "minimal.bpf.o"
    data = path.read_bytes()
    sources = {
        "str": str(path),
        "Path": path,
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "io": io.BytesIO(data),
    }
    if kind == "file":
        with path.open("rb") as file:
            spec = open_object(file)
    else:
        spec = open_object(sources[kind])
    assert describe(spec) == describe(open_object(path, name=spec.name))
    from_file = kind in ("str", "Path", "file")
    assert spec.path == (str(path) if from_file else "object")
    assert spec.name == ("minimal" if from_file else "object")


def test_text_file_is_a_mistake_of_the_caller(tmp_path):
    (tmp_path / "x").write_text("x")
    with (tmp_path / "x").open() as file, pytest.raises(TypeError, match="binary mode"):
        open_object(file)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/a/b/execsnoop.bpf.o", "execsnoop"),
        ("my_object_name.bpf.o", "my_object_name"),
        ("my_object_name_too_long.o", "my_object_name_"),
        ("a.very.dotted.name.o", "a"),
        ("0123456789abcd.o", "0123456789abcd"),
        (".o", ""),
    ],
)
def test_object_name(tmp_path, file, name):
    """15 characters, then up to the first dot."""
    path = tmp_path / Path(file).name
    path.write_bytes((FIXTURES / "bpfel" / "minimal.bpf.o").read_bytes())
    assert open_object(path).name == name


def test_explicit_object_name_keeps_dots():
    data = (FIXTURES / "bpfel" / "globals.bpf.o").read_bytes()
    spec = open_object(data, name="my.object.name.that.is.long")
    assert spec.name == "my.object.name."
    assert spec.maps["my.objec.rodata"].section == ".rodata"


# What is not an object


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_object(tmp_path / "missing.bpf.o")
    with pytest.raises(OSError, match=str(tmp_path).replace("\\", ".")):
        open_object(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ELF file: it is empty"),
        (b"\x7fEL", "not an ELF file: it starts with b'\\x7fEL'"),
        (b"\x7fELF", "cut short: 4 bytes are less than an ELF header"),
        (b"!<arch>\nx.o/", "not an ELF file: it starts with b'!<ar'"),
        (b"int main(void) { return 0; }", "not an ELF file: it starts with b'int '"),
        (b"\x9f\xeb\x01\0" + bytes(100), "not an ELF file"),
        (b"\x7fELF\x01\x01\x01" + bytes(100), "offset 0x4: not a 64-bit ELF file"),
        (b"\x7fELF\x02\x03\x01" + bytes(100), "offset 0x5: unknown byte order 3"),
        (b"\x7fELF\x02\x01\x02" + bytes(100), "offset 0x6: unknown ELF version 2"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "section name table index 0 is not among the 0"),
    ],
)
def test_not_an_object(data, message):
    with pytest.raises(FormatError) as caught:
        open_object(data)
    assert str(caught.value).startswith("object")
    assert message in str(caught.value)


@pytest.mark.parametrize("folder", ["bpfel", "bpfeb"])
def test_cut_short_says_where(folder):
    data = (FIXTURES / folder / "execsnoop.bpf.o").read_bytes()
    for size in (64, 900, len(data) // 2, len(data) - 200, len(data) - 1):
        with pytest.raises(
            FormatError, match=rf"cut short: its \d+ .* the file of {size}"
        ) as caught:
            open_object(data[:size])
        assert caught.value.offset == 40


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no /dev/zero here")
def test_a_file_without_end_is_not_read():
    with pytest.raises(FormatError, match="/dev/zero: not an ELF file: it starts with"):
        open_object("/dev/zero")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no ELF files")
def test_program_of_this_machine():
    with pytest.raises(FormatError, match=r"not an object file but an ELF file of type [23]"):
        open_object(Path(sys.executable).resolve())


def builder(order: str = "<") -> ObjectBuilder:
    made = ObjectBuilder(order)
    made.program("tc", [mov(0, dst=0), EXIT])
    return made


@pytest.mark.parametrize("order", "<>")
def test_machine_and_type(order):
    made = builder(order)
    made.machine = 0  # what LLVM wrote before the number was assigned
    assert len(open_object(made.build()).programs) == 1
    made.machine = 62
    with pytest.raises(FormatError, match="not a BPF object: it is for ELF machine 62, BPF is 247"):
        open_object(made.build())
    made.machine, made.type = 247, 2
    with pytest.raises(FormatError, match="offset 0x10: not an object file but an ELF file of typ"):
        open_object(made.build())


def test_stripped():
    with pytest.raises(FormatError, match="no symbol table; do not strip"):
        open_object(builder().build(symtab=False))


def test_two_symbol_tables():
    made = builder()
    made.section(".symtab", bytes(24), kind=2, entsize=24, link=1)
    with pytest.raises(FormatError, match=r"section \.symtab: two symbol tables"):
        open_object(made.build())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "license"}, "section license: has no data"),
        ({"name": "version", "data": b"12345"}, "section version: has 5 bytes, expected 4"),
        ({"name": ".BTF", "kind": 8}, "section .BTF: is of type 8, expected PROGBITS"),
        ({"name": ".BTF.ext", "kind": 9}, "section .BTF.ext: is of type 9, expected PROGBITS"),
        ({"name": ".relx", "kind": REL, "entsize": 8}, "entries of 8 bytes, expected 16"),
        (
            {"name": ".relx", "kind": REL, "entsize": 16, "info": 99},
            "section .relx: relocates section 99, which does not exist",
        ),
        ({"name": "x", "data": b"1", "size": 1 << 40}, "section x: cut short"),
        ({"name": ".bss", "kind": 8, "size": 1 << 40}, "section .bss: its 1099511627776 bytes"),
        ({"name": ".maps", "data": bytes(8)}, "it has no .BTF section, which .maps needs"),
        ({"name": ".struct_ops", "data": bytes(8)}, "no .BTF section, which .struct_ops needs"),
    ],
)
def test_sections_that_are_refused(section, message):
    made = builder()
    made.section(**section)
    with pytest.raises(FormatError) as caught:
        open_object(made.build())
    assert message in str(caught.value)


def test_sections_that_are_ignored():
    made = builder()
    made.section(".text")  # empty, as clang leaves it
    made.section(".debug_info", b"1234")
    made.section(".rodata1", b"1234")
    made.section(".datafoo", b"1234")
    made.section(".data", kind=4, flags=3)
    made.section(".eh_frame", b"1234")
    made.section(".bss", kind=8)
    spec = open_object(made.build())
    assert not spec.maps
    assert spec.notes == [
        f"section {name!r} is not used" for name in (".rodata1", ".datafoo", ".eh_frame")
    ]


def test_license():
    made = builder()
    made.section("license", b"Dual BSD/GPL\0junk")
    assert open_object(made.build()).license == "Dual BSD/GPL"
    made = builder()
    made.section("license", b"x" * 100)
    assert open_object(made.build()).license == "x" * 63
    assert open_object(builder().build()).license == ""


@pytest.mark.parametrize("order", "<>")
def test_version(order):
    made = builder(order)
    made.section("version", (0x050A00).to_bytes(4, "little" if order == "<" else "big"))
    assert open_object(made.build()).kernel_version == 0x050A00


# Specs are values


def test_spec_can_be_copied():
    spec = open_object(FIXTURES / "bpfel" / "globals.bpf.o")
    before = describe(spec)
    other = spec.copy()
    name = next(name for name, v in other.variables.items() if v.section == ".bss")
    other.maps[next(iter(other.maps))].max_entries = 99
    contents = other.variables[name].map.contents
    assert contents is not None
    contents[:] = b"\xff" * len(contents)
    for program in other:
        program.autoload = not program.autoload
    assert describe(spec) == before != describe(other)
    assert other.btf is spec.btf
    assert describe(copy.deepcopy(spec)) == before


def test_variables_can_be_set():
    spec = open_object(FIXTURES / "bpfel" / "execsnoop.bpf.o")
    assert spec.rodata.target_ppid == 0
    spec.rodata.target_ppid = 1234
    assert spec.variables["target_ppid"].value == 1234
    assert spec.maps["execsnoo.rodata"].contents == (1234).to_bytes(4, "little")
    assert spec.variables["target_ppid"].is_const
    assert dir(spec.rodata) == ["target_ppid"]
    with pytest.raises(AttributeError, match=r"no variable 'nothing' in \.bss; there are: "):
        _ = spec.bss.nothing
    big = open_object(FIXTURES / "bpfeb" / "execsnoop.bpf.o")
    big.rodata.target_ppid = 1234
    assert big.maps["execsnoo.rodata"].contents == (1234).to_bytes(4, "big")


def test_kconfig_values_are_unknown_before_loading():
    spec = open_object(FIXTURES / "bpfel" / "kconfig.bpf.o")
    name = next(iter(spec.externs))
    with pytest.raises(BpfError, match="no initial content"):
        _ = spec.variables[name].value


def test_wrong_names_say_which_there_are():
    spec = open_object(FIXTURES / "bpfel" / "execsnoop.bpf.o")
    with pytest.raises(KeyError, match="no program 'typo'; there are: on_exec, on_exit"):
        _ = spec.programs["typo"]
    with pytest.raises(KeyError, match=r"no map 'typo'; there are: events, execsnoo\.rodata"):
        _ = spec.maps["typo"]
    assert spec.programs.get("typo") is None
    assert pickle.loads(pickle.dumps(spec.externs)) == {}


def test_attach_target():
    spec = open_object(FIXTURES / "bpfel" / "extack_trace.bpf.o")
    program = spec.programs["fentry__netlink_extack"]
    with pytest.raises(BpfError, match="give a program, a function, or both"):
        program.set_attach_target()
    program.set_attach_target(7)
    assert (program.attach_program, program.attach_to) == (7, None)  # SEC("?fentry")
    program.set_attach_target(function="other")
    assert (program.attach_program, program.attach_to) == (None, "other")
