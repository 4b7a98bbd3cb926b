"""Files from strangers: damage ends in one BpfError and nothing else, in bounded time and memory.

What every change has to survive, and what thorough searches have found. ``tools/fuzz`` does the
searching.
"""

from __future__ import annotations

import time
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from describe import describe
from hypothesis import given, settings
from hypothesis import strategies as st
from insns import CALL_SELF, EXIT, mov, sole

from pybpfload.btf import BtfExt
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.cdecl import Declarer, define
from pybpfload.cli import describe as cli_describe
from pybpfload.cli import relocation_text
from pybpfload.errors import BpfError, FormatError, RelocationError
from pybpfload.isa.insn import Insn
from pybpfload.kernel.kallsyms import find_symbols
from pybpfload.object import open_object
from pybpfload.relocate import Target, relocate
from pybpfload.relocate.compare import core_changes
from pybpfload.testing.fields import Field, fields, parts, records
from pybpfload.testing.mutate import INTERESTING, mutate
from pybpfload.testing.objects import FUNC, GLOBAL, NOBITS, OBJECT, ObjectBuilder, Site

FIXTURES = Path(__file__).parents[2] / "fixtures"
SECONDS = 10  # of processor time for one small file, on any machine

# Small, and between them every section, relocation and kind of type that an object can have.
NAMES = (
    "arena", "callbacks", "exceptions", "execsnoop", "extack", "globals", "kconfig", "kfuncs",
    "ksyms", "ksyms_typed", "linked", "maps", "maps_attrs", "maps_inner", "minimal", "struct_ops",
    "subprogs", "tailcall",
)  # fmt: skip
OBJECTS = [f"{order}/{name}" for name in NAMES for order in ("bpfel", "bpfeb")]


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
@settings(max_examples=20)
def test_truncation_anywhere(name, where):
    data = read(name)
    assert not survives(data[: int(len(data) * where)], name[:5])


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
def test_sections_cut_short(name):
    """Each section by its header: to nothing, to a half, by one byte, one word, ..."""
    data = read(name)
    for at, field in enumerate(fields_of(name)):
        if field.name == "sh_size" and (size := field.get(data)):
            less = (size, size // 2, 1, 4, 8, 16, 24)[at // 10 % 7]
            survives(field.set(data, size - min(less, size)), name[:5])


# Damage


@pytest.mark.slow
@given(st.sampled_from(OBJECTS), st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_damage(name, random):
    damaged = mutate(read(name), random, others=[read("bpfel/maps"), read("bpfeb/kconfig")])
    survives(damaged.data, name[:5])


@given(st.binary(max_size=200))
@settings(max_examples=30)
def test_garbage(data):
    assert not survives(data)
    assert not survives(read("bpfel/minimal")[:64] + data)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_corrupted_headers_one_by_one(order):
    """Every field of the ELF header and of the section headers, with suspicious values."""
    name = f"{order}/minimal"
    data = read(name)
    for at, field in enumerate(fields_of(name)):
        if field.record in ("header", "section"):
            survives(field.set(data, INTERESTING[at % len(INTERESTING)]), order)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpfel/maps_inner", "bpfeb/kconfig", "bpfel/core_ambiguous"])
def test_corrupted_types_one_by_one(name):
    """Fields of BTF, with the ids, kinds and sizes that are most likely to mislead."""
    data = read(name)
    elf = ("header", "section", "symbol", "rel", "slot", "line_info")
    for at, field in enumerate(f for f in fields_of(name) if f.record not in elf):
        if at % 4 == 0:
            old, top = field.get(data), 1 << field.bits - 1
            survives(
                field.set(data, (0, 1, old + 1, old - 1, old ^ top, -1)[at // 4 % 6]), name[:5]
            )


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


def test_reading_a_variable_of_a_large_bss_makes_no_more_of_it():
    """Found by tools/fuzz: a size from a header is no reason to allocate so much."""
    spec = open_object(FIXTURES / "bpfel" / "globals.bpf.o")
    (bss,) = [each for each in spec.maps.values() if each.section == ".bss"]
    bss.value_size = 1 << 40
    inside = [each for each in spec.variables.values() if each.map is bss]
    assert inside
    for variable in inside:
        assert variable.value == variable.value
    assert bss.is_untouched


def test_long_kconfig_values_cost_nothing():
    made = program()
    char, index = made.btf.add_int("char", 1), made.btf.add_int("int", 4)
    variable = made.btf.add_var("CONFIG_X", made.btf.add_array(char, 0xF0000000, index), 2)
    made.btf.add_datasec(".kconfig", 0, [(variable, 0, 0)])
    made.symbol("CONFIG_X")
    modest(made.build())


def test_settings_that_are_large_together():
    """Found by corrupting types: their places went beyond 32 bits."""
    made = program()
    char, index = made.btf.add_int("char", 1), made.btf.add_int("int", 4)
    entries = []
    for name in ("CONFIG_X", "CONFIG_Y"):
        variable = made.btf.add_var(name, made.btf.add_array(char, 0xF0000000, index), 2)
        entries.append((variable, 0, 0))
        made.symbol(name)
    made.btf.add_datasec(".kconfig", 0, entries)
    with pytest.raises(FormatError, match=r"symbol CONFIG_Y: the settings .* larger than 4 GiB"):
        open_object(made.build())


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
    header, first = records(data)[:2]
    for count in (0xFFFF, 0):
        changed = header.field("e_shnum").set(data, count)
        changed = first.field("sh_size").set(changed, 1 << 40)
        modest(header.field("e_shentsize").set(changed, 0))
        modest(changed)


@pytest.mark.slow
def test_symbol_names_on_top_of_each_other():
    made = program()
    for _ in range(5000):
        made.symbol("", 1)
    made.symbol("y" * 5000, 1)
    data = made.build()
    names = [field for field in fields(data) if field.name == "st_name"]
    start = names[-1].get(data)
    changed = bytearray(data)
    for at, field in enumerate(names[2:-1]):
        field.put(changed, start + at % 5000)
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


@pytest.mark.slow
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


def test_many_relocations_on_two_kernels(monkeypatch):
    """All are checked once, not once for each of them."""
    made = ObjectBuilder()
    made.program("tc", [mov(0)] * 50 + [EXIT])
    struct = made.btf.add_struct("s", 4, [("a", made.btf.add_int("int", 4), 0)])
    made.core = {"tc": [(8 * n, struct, "0:0", 0) for n in range(50)]}
    spec = open_object(made.build())
    checked = []
    records = BtfExt.core_relos
    monkeypatch.setattr(BtfExt, "core_relos", lambda self: checked.append(self) or records(self))
    kernel = Target(spec.btf)
    assert list(core_changes(spec, kernel, kernel)) == []
    assert len(checked) == 1
    other = BtfBuilder("<")
    other.add_struct("s", 8, [("a", other.add_int("int", 4), 32)])
    changed = list(core_changes(spec, kernel, Target(other.btf("other"))))
    assert [(each.insn, each.after.value) for each in changed] == [(n, 4) for n in range(50)]


def test_members_of_long_chains(monkeypatch):
    """Their declarations are worked out once, not once for every member."""
    made = program()
    of = made.btf.add_int("int", 4)
    for _ in range(100):
        of = made.btf.add_ptr(of)
    struct = made.btf.add_struct("s", 8, [(f"m{n}", of, 0) for n in range(1000)])
    steps = []
    derive = Declarer._derive
    monkeypatch.setattr(
        Declarer, "_derive", lambda self, *of: steps.append(of) or derive(self, *of)
    )
    text = define(made.btf.btf(), struct)
    assert f"\tint {'*' * 100}m999;" in text
    assert len(steps) == 100


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
    changed = bytearray(data)
    relos = [record for record in records(data) if record.kind == "core_relo"]
    for at, record in enumerate(relos):
        record.field("access_str_off").put(changed, long + 6 * at % 50000)
    modest(bytes(changed))
    with pytest.raises(RelocationError, match="access string has more than 64 indices"):
        relocate(open_object(bytes(changed)), target("bpfel"))


def test_damaged_core_records_are_no_reason_to_refuse_the_object():
    made = program()
    struct = made.btf.add_struct("s", 4, [])
    for record, message in (
        ((4, struct, "0", 8), "section tc, offset 0x4: CO-RE relocation is not at an"),
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


# Many copies


def quick(step, seconds: float = 2.0):
    """What a step gives; it may take no more than some seconds of processor time."""
    started = time.process_time()
    result = step()
    assert time.process_time() - started < seconds
    return result


def test_names_are_looked_for_once():
    """Found by a seeded run: every string was decoded for each name that was looked for."""
    for shared in (False, True):  # names that start inside others
        types = BtfBuilder()
        raw = types.add_string("a" * 60000)
        for at in range(5000):
            types.add(7, "", 0)
            types._words[-3] = raw + 12 * at if shared else raw
        types.add_fwd("wanted")
        types.add_fwd("wanted___flavor")
        btf = types.btf()
        assert quick(lambda btf=btf: [btf.find("wanted") for _ in range(300)]) == [5001] * 300
        assert btf.find_essential("wanted") == [5001, 5002]


def test_many_strings_of_one_name():
    types = BtfBuilder()
    types._strings += b"x\0" * 100000
    for at in range(20000):
        types.add(7, "", 0)
        types._words[-3] = 1 + 2 * at
    btf = types.btf()
    assert len(quick(lambda: btf.find_all("x"))) == 20000


def test_long_lines_of_kallsyms():
    """Found by a seeded run: the line was read again at each place that looks like a name."""
    symbols = b"ffffffff81000000 T x\n" + b"0 T y" + b" x" * 200000
    assert quick(lambda: find_symbols(symbols, ["x"])) == {"x": 0xFFFFFFFF81000000}
    assert find_symbols(b"0" * 16 + b" T x", ["x"]) == {"x": 0}


def test_functions_that_share_a_prototype():
    """Found while measuring: its parameters were gone through for each function."""
    made = program()
    proto = made.btf.add_func_proto(made.btf.add_int("int", 4), [("", 1)] * 10000)
    entries = []
    for at in range(1000):
        entries.append((made.btf.add_func(f"k{at}", proto, 2), 0, 0))
        made.symbol(f"k{at}")
    made.btf.add_datasec(".ksyms", 0, entries)
    data = made.build()
    assert len(quick(lambda: open_object(data)).externs) == 1000


def test_maps_that_share_a_large_definition():
    """Found while measuring: each of its attributes was read for each map."""
    made = program()
    index = made.btf.add_int("int", 4)
    number = made.btf.add_ptr(made.btf.add_array(index, 2, index))
    for count in (64, 65):
        struct = made.btf.add_struct("", 8, [("type", number, 0)] * count)
        made.variable(f"m{count}", struct, bytes(8), section=".maps")
        if count == 64:
            assert open_object(made.build()).maps["m64"].type == 2
    with pytest.raises(FormatError, match="symbol m65: attribute 'type' is one of 65, at most 64"):
        open_object(made.build())


def test_functions_on_top_of_each_other_share_instructions():
    made = ObjectBuilder()
    code = made.code("tc", [mov(0)] * 20000 + [EXIT])
    for at in range(4):
        made.symbol(f"f{at}", code, 0, 8 * 20001, kind=FUNC)
    first, second = list(open_object(made.build()).functions)[:2]
    assert all(one is other for one, other in zip(first.insns, second.insns, strict=True))


def test_copies_of_small_subprograms(monkeypatch):
    """Found while measuring: 60 KB took seconds to relocate."""
    monkeypatch.setattr("pybpfload.relocate.link.LINKED_LIMIT", 1 << 18)
    made = ObjectBuilder()
    count = 500
    text = made.code(".text", [CALL_SELF, EXIT] * (count - 1) + [EXIT, EXIT])
    main = made.code("tc", [CALL_SELF, EXIT] * count)
    functions = [
        made.symbol(f"f{at}", text, 16 * at, 16, kind=FUNC, binding=GLOBAL) for at in range(count)
    ]
    for at in range(count):
        made.symbol(f"p{at}", main, 16 * at, 16, kind=FUNC)
        made.rel(main, 16 * at, functions[0])
    for at in range(count - 1):
        made.rel(text, 16 * at, functions[at + 1])
    spec = open_object(made.build())
    with pytest.raises(RelocationError, match="more than 2048 copies of subprograms"):
        relocate(spec)


def test_one_definition_is_one_map():
    """Found while measuring: a map for each 12 bytes."""
    made = program()
    index = made.btf.add_int("int", 4)
    number = made.btf.add_ptr(made.btf.add_array(index, 2, index))
    variable = made.btf.add_var("m", made.btf.add_struct("", 8, [("type", number, 0)]))
    made.symbol("m", made.section(".maps", bytes(8), flags=3), 0, 8, kind=OBJECT)
    made.btf.add_datasec(".maps", 8, [(variable, 0, 8)] * 2)
    with pytest.raises(FormatError, match="symbol m: the map is declared twice"):
        open_object(made.build())


@pytest.mark.parametrize("same", [True, False])
def test_struct_ops_on_top_of_each_other(same):
    """Found while measuring: each has its own copy of its part of the file."""
    made = program()
    struct = made.btf.add_struct("ops", 5000, [])
    variables = [made.btf.add_var("o" if same else f"o{at}", struct) for at in range(500)]
    variables = variables[:1] * 500 if same else variables
    section = made.section(".struct_ops", bytes(10000), flags=3)
    for at in range(1 if same else 500):
        made.symbol("o" if same else f"o{at}", section, 0, 5000, kind=OBJECT)
    made.btf.add_datasec(".struct_ops", 10000, [(each, 0, 5000) for each in variables])
    modest(made.build())
    with pytest.raises(FormatError, match="overlaps another variable"):
        open_object(made.build())


def test_variables_that_share_a_large_struct():
    """Found while measuring: its members were gone through for each variable."""
    made = program()
    of = made.btf.add_int("int", 4)
    struct = made.btf.add_struct("large", 4, [(f"m{at}", of, 0) for at in range(5000)])
    for at in range(500):
        made.variable(f"v{at}", struct, bytes(4))
    spec = open_object(made.build())
    described = quick(lambda: cli_describe.describe(spec), 4.0)
    assert len(described["variables"]) == 500
    assert list(described["definitions"]) == ["struct large"]


def test_references_to_many_variables():
    """Found while reading: all variables were gone through for each reference."""
    made = ObjectBuilder()
    of = made.btf.add_int("int", 4)
    symbols = [made.variable(f"v{at}", of, bytes(4)) for at in range(1500)]
    insns = [Site((Insn(0x18, dst=1), Insn(0)), symbol=symbol) for symbol in symbols]
    made.program("tc", [*insns, EXIT])
    result = relocate(open_object(made.build()))
    lines = quick(lambda: list(relocation_text.render(result, [], verbose=False)), 4.0)
    assert sum("&v" in line for line in lines) == 1500
    assert any(line.endswith("&v1234") for line in lines)
