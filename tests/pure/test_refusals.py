"""Messages of refused objects: a person reads what is wrong, where, and what to do about it.

One row for each class of refused object: the section, offset and symbol that the message names, and
what it says to do. The rules themselves are tested elsewhere; here the words are.
"""

from __future__ import annotations

import ast
import gzip
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import pybpfload
from pybpfload import FormatError, RelocationError
from pybpfload.isa.insn import Insn
from pybpfload.relocate import relocate
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.testing.objects import FUNC, HIDDEN, LOCAL, NOBITS, OBJECT, ElfBuilder, ObjectBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

FIXTURES = Path(__file__).parents[2] / "fixtures"
PACKAGE = Path(pybpfload.__file__).parent
OBJECTS = FIXTURES / ("bpfel" if sys.byteorder == "little" else "bpfeb")
EXIT = Insn(0x95)
MAKE = "make it with clang -target bpf -O2 -g -c"


class Told(NamedTuple):
    """What a message names; ``None`` where the class of errors has no such place."""

    message: str
    hint: str
    section: str | None = None
    offset: int | None = None
    symbol: str | None = None


def check(error: FormatError | RelocationError, file: str, told: Told) -> None:
    """Each part is an attribute and in the text, in one or two lines."""
    assert told.message in error.message
    assert told.hint in (error.hint or "")
    assert (error.file, error.section, error.symbol) == (file, told.section, told.symbol)
    assert error.offset == told.offset
    text = str(error)
    assert text.startswith(file)
    assert text.endswith(f"{error.message}; {error.hint}")
    for part in (
        told.section and f"section {told.section}",
        told.symbol and f"symbol {told.symbol}",
        None if told.offset is None else f"offset {told.offset:#x}",
    ):
        assert part is None or part in text
    assert text.count("\n") <= 1


# What clang makes of mistakes

CODE = ".relraw_tp/sys_enter"
OPENING = {
    "bad_arena_none": Told("no arena map", "BPF_MAP_TYPE_ARENA", CODE, 0, "counter"),
    "bad_arena_small": Told("2 pages", "to 2 or more", ".addr_space.1", None, "arena"),
    "bad_call_entry": Told("not in .text", "a program cannot be called", CODE, 0, "callee"),
    "bad_common": Told("does not exist", "-fno-common", CODE, 0, "common"),
    "bad_extern": Told("in no section of BTF", "__ksym or __kconfig", symbol="somewhere"),
    "bad_extern_section": Told(
        "a variable cannot be an extern", "__ksym or __kconfig", ".elsewhere", symbol="somewhere"
    ),
    "bad_kconfig_function": Told(
        "a function cannot be", "as a variable", ".kconfig", symbol="CONFIG_HZ"
    ),
    "bad_kconfig_type": Told(
        "struct pair", "use bool, char, an integer", ".kconfig", symbol="CONFIG_HZ"
    ),
    "bad_legacy_maps": Told("of the old kind", 'SEC(".maps")', "maps"),
    "bad_map_attr": Told("'pybpfload_unknown'", "relaxed_maps=True", ".maps", 0, "map"),
    "bad_map_hash_key": Told("a key of 4 bytes", "__type(key, __u32)", ".rel.maps", 0x38, "map"),
    "bad_map_inner_values": Told("inner maps", "remove it", ".maps", 0, "map.inner"),
    "bad_map_inner_pinning": Told("'pinning'", "remove it", ".maps", 0, "map.inner"),
    "bad_map_key_conflict": Told("8 bytes", "keep one of them", ".maps", 0, "map"),
    "bad_map_member": Told("'max_entries'", "__uint(max_entries, NUMBER)", ".maps", 0, "map"),
    "bad_map_no_type": Told("'type' is missing", "add __uint(type, ", ".maps", 0, "map"),
    "bad_map_not_struct": Told("expected a struct", "move other variables", ".maps", 0, "map"),
    "bad_map_of_function": Told("'program' is none", "name maps", ".rel.maps", 0x18, "map"),
    "bad_map_opaque": Told("fwd opaque", "a type that is complete", ".maps", 0, "map"),
    "bad_map_pinning": Told("is 2", "LIBBPF_PIN_BY_NAME", ".maps", 0, "map"),
    "bad_map_slot": Told("no program 'function'", "with SEC()", ".rel.maps", 0x18, "map"),
    "bad_map_typedef": Told("'max_entries'", "__uint(max_entries, NUMBER)", ".maps", 0, "map"),
    "bad_map_values_first": Told("not the last", "move it to the end", ".maps", 0, "map"),
    "bad_map_values_numbers": Told("functions", "__array(values, int (void *))", ".maps", 0, "map"),
    "bad_map_values_type": Told("needs a map of maps", "remove it", ".maps", 0, "map"),
    "bad_map_zero_size": Told("says 0 bytes", "keep one of them", ".maps", 0, "map"),
    "bad_static_entry": Told(
        "static functions", "remove static", "raw_tp/sys_enter", 0, "hidden_program"
    ),
    "bad_static_map": Told("cannot be static", "remove static", ".maps", 0, "map"),
    "bad_struct_ops_member": Told(
        "not set to a struct_ops program", 'SEC("struct_ops/', ".rel.struct_ops", 0, "plain"
    ),
    "bad_two_arenas": Told("a second arena", "into one", ".maps", 0x18, "two"),
    "nobtf_maps": Told("no .BTF section, which .maps needs", "compile with -g"),
}


@pytest.mark.parametrize("name", OPENING)
@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_object_that_cannot_be_opened(name, order):
    path = FIXTURES / order / f"{name}.bpf.o"
    with pytest.raises(FormatError) as caught:
        pybpfload.open(path)
    check(caught.value, str(path), OPENING[name])


LOADING = {
    "bad_kconfig_missing": Told(
        "is not set", "declare it __weak", ".kconfig", symbol="CONFIG_PYBPFLOAD_MISSING"
    ),
    "bad_kconfig_prefix": Told(
        "no kernel setting", "LINUX_KERNEL_VERSION", ".kconfig", symbol="PYBPFLOAD_MISSING"
    ),
    "bad_kfunc": Told(
        "not in this kernel", "declare it __weak", ".ksyms", None, "pybpfload_missing"
    ),
    "bad_ksym_typed": Told(
        "not in this kernel", "declare it __weak", ".ksyms", None, "pybpfload_missing"
    ),
    "bad_ksym_typeless": Told(
        "/proc/kallsyms", "declare it __weak", ".ksyms", None, "pybpfload_missing"
    ),
    "bad_kfunc_type": Told(
        "with a type that is not the kernel's",
        "as the kernel does: int bpf_task_acquire(void)",
        ".ksyms",
        None,
        "bpf_task_acquire",
    ),
    "bad_ksym_type": Told(
        "with a type that is not the kernel's",
        "as the kernel does: int runqueues",
        ".ksyms",
        None,
        "runqueues",
    ),
}


def kernel_types() -> bytes:
    """A kernel's BTF with the two names whose types the fixtures get wrong."""
    from pybpfload.btf.build import BtfBuilder

    made = BtfBuilder("<" if sys.byteorder == "little" else ">")
    number = made.add_int("int", 4, 1)
    made.add_var("runqueues", number, 1)
    made.add_func("bpf_task_acquire", made.add_func_proto(number), 1)
    return made.build()


@pytest.mark.parametrize("name", LOADING)
def test_object_that_a_kernel_cannot_satisfy(name):
    path = OBJECTS / f"{name}.bpf.o"
    files = {
        "/sys/kernel/btf/vmlinux": kernel_types(),
        "/proc/kallsyms": b"ffffffff81000000 T _text\n",
        "/proc/config.gz": gzip.compress(b"CONFIG_BPF=y\n"),
    }
    with FakeKernel(files=files) as kernel, pytest.raises(RelocationError) as caught:
        pybpfload.load(path)
    check(caught.value, str(path), LOADING[name])
    assert kernel.leaked() == []


ONE = "only the right one"
RELOCATING = {
    ("core_ambiguous", "offset_twin"): Told("bit 32", ONE, "?raw_tp/sys_enter", 0, "ct_twin"),
    ("core_ambiguous", "size_of_twin"): Told("8 for", ONE, "?raw_tp/sys_enter", 16, "ct_twin"),
    ("core_ambiguous", "id_of_same"): Told("ambig", ONE, "?raw_tp/sys_enter", 0x68, "ct_same"),
    ("core_ambiguous", "hidden_member"): Told(
        "fwd ct_hidden", "only declares the type", "?raw_tp/sys_enter", 0xD0, "ct_hidden_t"
    ),
    ("core_refused", "zero_length_element"): Told(
        "beyond the 0 elements", "its length", "?raw_tp/sys_enter", 0, "ct_zero_first"
    ),
    ("core_refused", "signed_element"): Told(
        "not a member", "ask it of a member", "?raw_tp/sys_enter", 0x10, "ct_arrays"
    ),
    ("core_refused", "unsigned_value"): Told(
        "0xffffffff80000001", "64 bits wide", "?raw_tp/sys_enter", 0x20, "ct_unsigned"
    ),
    ("core_refused", "far_load"): Told(
        "offset 40000", "bpf_probe_read_kernel()", "?raw_tp/sys_enter", 0x80, "ct_far"
    ),
    ("core_refused", "straddling_size"): Told(
        "does not fit 64 bits", "whether it exists", "?raw_tp/sys_enter", 0x148, "ct_straddling"
    ),
    ("bad_exception_cb", "caller"): Told(
        "not a global function", "__exception_cb()", "tc", None, "not_a_program"
    ),
}


@pytest.mark.parametrize(("name", "program"), RELOCATING, ids="-".join)
def test_object_that_cannot_be_relocated(name, program):
    path = FIXTURES / "bpfel" / f"{name}.bpf.o"
    spec = pybpfload.open(path)
    for each in spec.programs.values():
        each.autoload = each.name == program
    with pytest.raises(RelocationError) as caught:
        relocate(spec, pybpfload.open(path.parent / "core_target.bpf.o").btf)
    error = caught.value
    check(error, str(path), RELOCATING[name, program])
    assert error.program == program
    assert f"program {program}" in str(error)
    if error.offset is not None:
        assert f"instruction {error.insn}" in str(error)
        assert error.decision is not None


def test_every_fixture_that_is_refused_is_here():
    """A new fixture in bad/ says its words here."""
    allowed = {"nobtf", "nolicense", "verifier_causes", "verifier_fail", "bad_exception_cb"}
    made = {path.name.removesuffix(".bpf.c") for path in (FIXTURES / "bad").glob("*.bpf.c")}
    assert made - allowed == OPENING.keys() | LOADING.keys()


# What no compiler makes: linkers, strippers, editors and transport do


def program(made: ObjectBuilder, insns: list[Insn] | None = None) -> int:
    made.program("tc", insns or [Insn(0xB7), EXIT], "main")
    return next(i for i, s in enumerate(made._sections) if s["name"] == "tc")


def not_elf(_: ObjectBuilder) -> bytes:
    return b"#!/bin/sh\necho hello\n" + bytes(64)


def other_machine(made: ObjectBuilder) -> bytes:
    made.machine = 62
    return made.build()


def executable(made: ObjectBuilder) -> bytes:
    made.type = 2
    return made.build()


def stripped(made: ObjectBuilder) -> bytes:
    program(made)
    return made.build(symtab=False)


def cut_short(made: ObjectBuilder) -> bytes:
    program(made)
    return made.build()[:-100]


def narrow_elf(made: ObjectBuilder) -> bytes:
    data = bytearray(made.build())
    data[4] = 1
    return bytes(data)


def long_function(made: ObjectBuilder) -> bytes:
    section = program(made)
    made.symbol("too_long", section, 8, 800, kind=FUNC)
    return made.build()


def odd_function(made: ObjectBuilder) -> bytes:
    section = program(made)
    made.symbol("odd", section, 4, 8, kind=FUNC)
    return made.build()


def static_program(made: ObjectBuilder) -> bytes:
    section = program(made)
    made.symbol("inside", section, 8, 8, kind=FUNC, binding=LOCAL)
    return made.build()


def no_such_symbol(made: ObjectBuilder) -> bytes:
    made.rel(program(made, [Insn(0x18), Insn(0), EXIT]), 0, 77)
    return made.build()


def refer_to_arithmetic(made: ObjectBuilder) -> bytes:
    section = program(made)
    data = made.section(".data", bytes(8))
    made.rel(section, 0, made.symbol("variable", data, 0, 8, kind=OBJECT))
    return made.build()


def refer_to_nothing(made: ObjectBuilder) -> bytes:
    section = program(made, [Insn(0x18), Insn(0), EXIT])
    made.rel(section, 0, made.symbol("nowhere", 0xFFF1, 0, 8, kind=OBJECT, visibility=HIDDEN))
    return made.build()


def refer_to_notes(made: ObjectBuilder) -> bytes:
    section = program(made, [Insn(0x18), Insn(0), EXIT])
    notes = made.section(".note", bytes(8))
    made.rel(section, 0, made.symbol("variable", notes, 0, 8, kind=OBJECT))
    return made.build()


def helper_by_symbol(made: ObjectBuilder) -> bytes:
    section = program(made, [Insn(0x85, src=0, imm=1), EXIT])
    made.rel(section, 0, made.symbol("helper", section, 0, 8, kind=FUNC))
    return made.build()


def version_of_two_bytes(made: ObjectBuilder) -> bytes:
    made.section("version", b"\1\2")
    return made.build()


def empty_license(made: ObjectBuilder) -> bytes:
    made.section("license", b"", kind=NOBITS, size=4)
    return made.build()


def extern_without_btf(made: ObjectBuilder) -> bytes:
    section = program(made, [Insn(0x18), Insn(0), EXIT])
    made.rel(section, 0, made.symbol("outside"))
    return made.build()


def struct_ops_without_btf(made: ObjectBuilder) -> bytes:
    program(made)
    made.section(".struct_ops", bytes(16))
    return made.build()


def damaged_btf(made: ObjectBuilder) -> bytes:
    program(made)
    made.section(".maps", bytes(8))
    made.section(".BTF", struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 400, 400, 1) + b"\0")
    return made.build()


DAMAGED = [
    (not_elf, Told("not an ELF file", MAKE)),
    (other_machine, Told("for ELF machine 62", "clang -target bpf", offset=18)),
    (executable, Told("ELF file of type 2", "clang -target bpf -c", offset=16)),
    (narrow_elf, Told("not a 64-bit ELF file", MAKE, offset=4)),
    (cut_short, Told("cut short", MAKE, offset=40)),
    (stripped, Told("no symbol table", "do not strip")),
    (long_function, Told("goes beyond its section", MAKE, "tc", 8, "too_long")),
    (odd_function, Told("8-byte instructions", MAKE, "tc", 4, "odd")),
    (static_program, Told("only allowed in .text", "remove static", "tc", 8, "inside")),
    (no_such_symbol, Told("symbol 77, which does not exist", MAKE, ".reltc", 0)),
    (refer_to_arithmetic, Told("opcode 0xb7", MAKE, ".reltc", 0, "variable")),
    (refer_to_nothing, Told("section 0xfff1", "-fno-common", ".reltc", 0, "nowhere")),
    (refer_to_notes, Told("'.note'", "they can to .data", ".reltc", 0, "variable")),
    (helper_by_symbol, Told("not a BPF function", MAKE, ".reltc", 0, "helper")),
    (version_of_two_bytes, Told("has 2 bytes", 'SEC("version")', "version")),
    (empty_license, Told("has no data", 'SEC("license")', "license")),
    (extern_without_btf, Told("extern has no BTF", "compile with -g", symbol="outside")),
    (struct_ops_without_btf, Told("which .struct_ops needs", "compile with -g")),
    (damaged_btf, Told("", MAKE, ".BTF", 8)),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGED, ids=[make.__name__ for make, _ in DAMAGED])
def test_object_that_no_compiler_makes(
    damage: Callable[[ElfBuilder], bytes], told: Told, tmp_path: Path
) -> None:
    path = tmp_path / "made.bpf.o"
    path.write_bytes(damage(ObjectBuilder()))
    with pytest.raises(FormatError) as caught:
        pybpfload.open(path)
    check(caught.value, str(path), told)


@pytest.mark.parametrize("name", ["execsnoop", "maps_inner", "linked_core"])
def test_every_cut_says_what_to_do(name):
    """Wherever a download ends, the message names the file and a remedy."""
    data = (FIXTURES / "bpfel" / f"{name}.bpf.o").read_bytes()
    for end in range(0, len(data), max(len(data) // 60, 1)):
        with pytest.raises(FormatError) as caught:
            pybpfload.open(data[:end])
        assert caught.value.file == "object"
        assert caught.value.hint
        assert str(caught.value).endswith(caught.value.hint)


# Every other error of relocation


def test_a_reference_that_is_cut_short():
    made = ObjectBuilder()
    section = program(made, [EXIT, Insn(0x18)])
    bss = made.section(".bss", kind=NOBITS, size=8)
    made.rel(section, 8, made.symbol("variable", bss, 0, 8, kind=OBJECT))
    with pytest.raises(RelocationError) as caught:
        relocate(pybpfload.open(made.build()))
    check(caught.value, "object", Told("is cut short", "build it again", "tc", 8))


def calls_of_relocation_errors() -> list[ast.Call]:
    sources = [p for p in PACKAGE.rglob("*.py") if "testing" not in p.parts]
    return [
        node
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(), str(path)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("RelocationError", "at_function")
    ]


@pytest.mark.slow
def test_every_error_of_relocation_says_what_to_do():
    """Where it is made; only the note of a weak extern that is missing asks for nothing."""
    calls = calls_of_relocation_errors()
    without = [
        ast.unparse(call)
        for call in calls
        if not any(keyword.arg in ("hint", None) for keyword in call.keywords)
    ]
    assert len(calls) > 15
    assert without == ["RelocationError(missing, file=spec.path)"]
