"""Files from strangers: damage ends in one BpfError and nothing else, in bounded time and memory.

``PYBPFLOAD_HOSTILE=10000 pytest tests/pure/test_hostile.py`` looks harder.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from describe import describe
from elf_fields import Field, fields, parts
from hypothesis import given, settings
from hypothesis import strategies as st
from insns import CALL_SELF, EXIT, mov, sole

from pybpfload.errors import BpfError, FormatError, RelocationError
from pybpfload.object import open_object
from pybpfload.relocate import relocate
from pybpfload.testing.objects import FUNC, GLOBAL, NOBITS, OBJECT, ObjectBuilder

FIXTURES = Path(__file__).parents[2] / "fixtures"
EXAMPLES = int(os.environ.get("PYBPFLOAD_HOSTILE", "50"))
SECONDS = 10  # of processor time for one small file, on any machine

# Small, and between them every section, relocation and kind of type that an object can have.
NAMES = (
    "arena", "callbacks", "exceptions", "execsnoop", "extack", "globals", "kconfig", "kfuncs",
    "ksyms", "ksyms_typed", "linked", "maps", "maps_attrs", "maps_inner", "minimal", "struct_ops",
    "subprogs", "tailcall",
)  # fmt: skip
OBJECTS = [f"{order}/{name}" for name in NAMES for order in ("bpfel", "bpfeb")]
VALUES = [
    0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 17, 20, 24, 32, 63, 64, 127, 255, 256, 4095, 65535,
    0xFF00, 0xFFF1, 0xFFFFFF, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 63,
    (1 << 63) - 1, (1 << 64) - 1,
]  # fmt: skip


@cache
def read(name: str) -> bytes:
    return (FIXTURES / f"{name}.bpf.o").read_bytes()


@cache
def fields_of(name: str) -> list[Field]:
    return fields(read(name))


@cache
def target(order: str):
    return open_object(FIXTURES / order / "core_target.bpf.o").btf


def survives(data: bytes, order: str = "bpfel") -> bool:
    """Open, describe and relocate; return whether the file was good after all."""
    started = time.process_time()
    try:
        spec = open_object(data)
        describe(spec)
        relocate(spec, target(order), everything=True)
        relocate(spec, spec.btf, everything=True)
    except BpfError as error:
        words = str(error)
    else:
        words = None
    assert time.process_time() - started < SECONDS
    assert words is None or 0 < len(words) < 20000
    return words is None


def test_all_are_good_to_begin_with():
    for name in OBJECTS:
        open_object(read(name))


# Truncation


@pytest.mark.parametrize("name", OBJECTS)
def test_truncation_at_every_boundary(name):
    """Around the start and end of every part: the section headers come last, so all are noticed."""
    data = read(name)
    edges = {at for part in parts(data) for at in (part.offset, part.offset + part.size)}
    for edge in sorted(edges):
        for cut in range(max(edge - 2, 0), min(edge + 3, len(data))):
            assert not survives(data[:cut], name[:5])


@given(st.sampled_from(OBJECTS), st.floats(0, 1, exclude_max=True))
@settings(max_examples=EXAMPLES // 3)
def test_truncation_anywhere(name, where):
    data = read(name)
    assert not survives(data[: int(len(data) * where)], name[:5])


@pytest.mark.parametrize("name", OBJECTS)
def test_sections_cut_short(name):
    """Each section by its header: to nothing, to a half, by one byte, one word, ..."""
    data = read(name)
    for at, field in enumerate(fields_of(name)):
        if field.name.endswith("sh_size") and (size := field.get(data)):
            less = (size, size // 2, 1, 4, 8, 16, 24)[at // 10 % 7]
            survives(field.set(data, size - min(less, size)), name[:5])


# Corruption


@st.composite
def corrupted(draw) -> tuple[str, bytes, list[tuple[str, int]]]:
    """An object with some of its numbers changed; tells which."""
    name = draw(st.sampled_from(OBJECTS))
    data, changes = read(name), []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3, 5]))):
        field = draw(st.sampled_from(fields_of(name)))
        old = field.get(data)
        value = draw(
            st.one_of(
                st.sampled_from(VALUES),
                st.sampled_from([-8, -4, -2, -1, 1, 2, 4, 8]).map(lambda by, old=old: old + by),
                st.integers(0, 8 * field.size - 1).map(lambda bit, old=old: old ^ 1 << bit),
                st.sampled_from(fields_of(name)).map(lambda other, data=data: other.get(data)),
                st.integers(0, (1 << 8 * field.size) - 1),
            )
        )
        data = field.set(data, value)
        changes.append((field.name, value))
    return name, data, changes


@given(corrupted())
@settings(max_examples=4 * EXAMPLES)
def test_corrupted_fields(case):
    name, data, _ = case
    survives(data, name[:5])


@given(st.sampled_from(OBJECTS), st.data())
@settings(max_examples=2 * EXAMPLES)
def test_corrupted_bytes(name, draw):
    data = bytearray(read(name))
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    survives(bytes(data), name[:5])


@given(st.sampled_from(OBJECTS), st.data())
@settings(max_examples=EXAMPLES)
def test_corrupted_runs(name, draw):
    """A part of the file overwritten by another part."""
    data = bytearray(read(name))
    length = draw.draw(st.sampled_from([8, 16, 64, 256]))
    source, at = (draw.draw(st.integers(0, len(data) - length)) for _ in range(2))
    data[at : at + length] = data[source : source + length]
    survives(bytes(data), name[:5])


@given(st.binary(max_size=200))
@settings(max_examples=EXAMPLES)
def test_garbage(data):
    assert not survives(data)
    assert not survives(read("bpfel/minimal")[:64] + data)


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_corrupted_header_fields_one_by_one(order):
    """Every field of the ELF header and of the section headers, with suspicious values."""
    name = f"{order}/minimal"
    data = read(name)
    often = 24 if EXAMPLES < 1000 else 1
    for at, field in enumerate(fields_of(name)):
        if field.name.startswith(("header", "section")):
            for value in VALUES[at % often :: often]:
                survives(field.set(data, value), order)


@pytest.mark.parametrize("name", ["bpfel/maps_inner", "bpfeb/kconfig", "bpfel/core_ambiguous"])
def test_corrupted_types_one_by_one(name):
    """Every word of BTF, with the ids, kinds and sizes that are most likely to mislead."""
    data = read(name)
    often = 3 if EXAMPLES < 1000 else 1
    for at, field in enumerate(fields_of(name)[::often]):
        if field.name.startswith("BTF"):
            old = field.get(data)
            value = (0, 1, old + 1, old ^ 1 << 24, 0xFFFFFFFF, old ^ 1 << 31)[at % 6]
            survives(field.set(data, value), name[:5])


# Small files that ask for much


def program() -> ObjectBuilder:
    made = ObjectBuilder()
    made.program("tc", [mov(0), EXIT])
    return made


def modest(data: bytes) -> None:
    """Opening and relocating takes no more than a multiple of the file's size, and little time."""
    tracemalloc.start()
    try:
        survives(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * len(data) + (8 << 20)


def raw_types(made: ObjectBuilder, records: list[list[int]]) -> None:
    for record in records:
        made.btf._offsets.append(len(made.btf._words))
        made.btf._words.extend(record)


def test_sections_without_contents_cost_nothing():
    made = program()
    made.section(".bss", kind=NOBITS, size=(1 << 32) - 1)
    modest(made.build())
    spec = open_object(made.build())
    assert spec.maps["object.bss"].value_size == (1 << 32) - 1


def test_long_kconfig_values_cost_nothing():
    made = program()
    char, index = made.btf.add_int("char", 1), made.btf.add_int("int", 4)
    variable = made.btf.add_var("CONFIG_X", made.btf.add_array(char, 0xF0000000, index), 2)
    made.btf.add_datasec(".kconfig", 0, [(variable, 0, 0)])
    made.symbol("CONFIG_X")
    modest(made.build())


def test_large_sections_do_not_fit_btf():
    """Found by corrupting fields: the size became a ValueError of the BTF editor."""
    made = program()
    made.section(".bss", kind=NOBITS, size=1 << 62)
    made.symbol("x", 2, 0, 4, kind=OBJECT)
    made.btf.add_datasec(".bss", 0, [(made.btf.add_var("x", made.btf.add_int("int", 4)), 0, 4)])
    with pytest.raises(FormatError, match=r"section \.bss: its \d+ bytes are too many for BTF"):
        open_object(made.build())


def test_sections_on_top_of_each_other():
    made = program()
    for at in range(1000):
        made.section(f".data.{at}", offset=64, size=30000)
    data = made.build()
    modest(data)
    with pytest.raises(FormatError, match="sections overlap"):
        open_object(data)


def test_section_headers_on_top_of_each_other():
    data = read("bpfel/minimal")
    by_name = {field.name: field for field in fields_of("bpfel/minimal")}
    for count in (0xFFFF, 0):
        changed = by_name["header e_shnum"].set(data, count)
        changed = by_name["section 0 sh_size"].set(changed, 1 << 40)
        modest(by_name["header e_shentsize"].set(changed, 0))
        modest(changed)


def test_symbol_names_on_top_of_each_other():
    made = program()
    for _ in range(5000):
        made.symbol("", 1)
    made.symbol("y" * 5000, 1)
    data = made.build()
    names = [field for field in fields(data) if field.name.endswith("st_name")]
    start = names[-1].get(data)
    changed = bytearray(data)
    for at, field in enumerate(names[2:-1]):
        changed[field.offset : field.offset + 4] = (start + at % 5000).to_bytes(4, "little")
    modest(bytes(changed))
    with pytest.raises(FormatError, match="overlaps too many others"):
        open_object(bytes(changed))


def test_type_names_on_top_of_each_other():
    for kind in ("types", "members"):
        made = program()
        made.btf.add_int("int", 4)
        long = made.btf.add_string("x" * 60000)
        if kind == "types":
            raw_types(made, [[long + at, 7 << 24, 0] for at in range(5000)])
        else:
            members = [word for at in range(5000) for word in (long + at, 1, 0)]
            raw_types(made, [[0, 4 << 24 | 5000, 4, *members]])
        modest(made.build())
        made.section(".maps", bytes(8))  # wants BTF, so damage is not passed over
        with pytest.raises(FormatError, match="names of types overlap"):
            open_object(made.build())


def test_long_chains_of_modifiers():
    """Walked once, not once for every variable."""
    made = program()
    of = made.btf.add_int("int", 4)
    for _ in range(1000):
        of = made.btf.add_const(of)
    entries = []
    for at in range(500):
        entries.append((made.btf.add_var(f"v{at}", of, 2), 0, 0))
        made.symbol(f"v{at}")
    made.btf.add_datasec(".ksyms", 0, entries)
    assert len(open_object(made.build()).externs) == 500
    modest(made.build())


def test_chains_without_an_end():
    for first, second in ((10, 9), (8, 8), (2, 10)):
        made = program()
        raw_types(made, [[made.btf.add_string("t"), first << 24, 2], [0, second << 24, 1]])
        variable = made.btf.add_var("v", 1)
        made.btf.add_datasec(".maps", 4, [(variable, 0, 4)])
        made.symbol("v", made.section(".maps", bytes(4)), 0, 4, kind=OBJECT)
        with pytest.raises(FormatError):
            open_object(made.build())


def test_arrays_of_themselves():
    made = program()
    made.btf.add_int("int", 4)
    raw_types(made, [[0, 3 << 24, 0, 2, 1, 1]])
    struct = made.btf.add_struct("s", 4, [("a", 2, 0)])
    made.core = {"tc": [(0, struct, ":".join(["0"] * 60), 0)]}
    assert not survives(made.build())


def test_many_sections_and_types():
    made = program()
    for at in range(500):
        made.section(f".data.{at}", b"1234")
    for at in range(1000):
        made.btf.add_fwd(f"n{at}")
    modest(made.build())


def test_many_things_of_one_name():
    made = program()
    of = made.btf.add_int("int", 4)
    entries = [(made.btf.add_var("same", of, 0), 4 * at, 4) for at in range(500)]
    made.section(".data", bytes(2000))
    made.btf.add_datasec(".data", 2000, entries)
    assert len(open_object(made.build()).variables) == 500
    modest(made.build())


def test_many_functions_with_information():
    made = ObjectBuilder()
    count = 300
    text = made.code(".text", [mov(0), EXIT] * count)
    functions = [
        made.symbol(f"f{at}", text, 16 * at, 16, kind=FUNC, binding=GLOBAL) for at in range(count)
    ]
    main = sole(made, "tc", [CALL_SELF] * count + [EXIT])
    for at, function in enumerate(functions):
        made.rel(main, 8 * at, function)
    made.line_info = {
        "tc": [(0, 0, 0, 0)],
        ".text": [(8 * at, 0, 0, at) for at in range(2 * count)],
    }
    made.btf.add_int("int", 4)
    found = relocate(open_object(made.build())).programs["program"]
    assert len(found.line_info) == 4 * (2 * count + 1)
    modest(made.build())


def test_slots_of_declared_values_far_out():
    made = program()
    index = made.btf.add_int("int", 4)
    kind = made.btf.add_ptr(made.btf.add_array(index, 12, index))
    inner = made.btf.add_struct("", 8, [("type", kind, 0)])
    values = made.btf.add_array(made.btf.add_ptr(inner), 0, index)
    outer = made.btf.add_struct("", 8, [("type", kind, 0), ("values", values, 64)])
    size = (1 << 32) - 8
    maps = made.section(".maps", kind=NOBITS, flags=3, size=size)
    made.btf.add_datasec(".maps", size, [(made.btf.add_var("outer", outer), 0, size)])
    symbol = made.symbol("outer", maps, 0, size, kind=OBJECT)
    made.rel(maps, size - 16, symbol)
    modest(made.build())
    with pytest.raises(FormatError, match="slot 536870908 is too high"):
        open_object(made.build())


def test_long_access_strings():
    made = program()
    struct = made.btf.add_struct("s", 4, [])
    long = made.btf.add_string("0:" * 30000)
    made.core = {"tc": [(0, struct, "0", 2)] * 1000}
    data = made.build()
    records = [field for field in fields(data) if field.name.startswith(".BTF.ext")]
    changed = bytearray(data)
    for at, field in enumerate(records[1:], 1):
        if field.get(data) == 2 and records[at - 2].get(data) == struct:
            place = records[at - 1].offset
            changed[place : place + 4] = (long + 2 * at % 50000).to_bytes(4, "little")
    modest(bytes(changed))
    with pytest.raises(RelocationError, match="access string has more than 64 indices"):
        relocate(open_object(bytes(changed)), target("bpfel"))


def test_damaged_core_records_are_no_reason_to_refuse_the_object():
    made = program()
    struct = made.btf.add_struct("s", 4, [])
    for record, message in (
        ((4, struct, "0", 8), "CO-RE relocation at 4 of tc is not at an instruction"),
        ((0, 99, "0", 8), "type id 99 is out of range"),
        ((0, struct, "0", 99), "CO-RE relocation of unknown kind 99"),
    ):
        made.core = {"tc": [record]}
        spec = open_object(made.build())
        with pytest.raises(RelocationError, match=message):
            relocate(spec, target("bpfel"))
    made.core = {"tc": [(800, struct, "0", 8)], "no such section": [(0, struct, "0", 8)]}
    relocate(open_object(made.build()), target("bpfel"))
    made.core = {"": [(0, struct, "0", 8)]}
    with pytest.raises(RelocationError, match="for a section without a name"):
        relocate(open_object(made.build()), target("bpfel"))
