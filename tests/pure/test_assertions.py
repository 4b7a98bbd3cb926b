"""Assertions about objects, and what they say when they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.check.reach import reachable
from pybpfload.isa.insn import Insn
from pybpfload.relocate import Target, relocate
from pybpfload.relocate.source import SourceLines
from pybpfload.testing.assertions import assert_loads, assert_same_relocation
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.testing.objects import OBJECT, ObjectBuilder

OBJECTS = Path(__file__).parents[2] / "fixtures" / "bpfel"
ORDER = "<" if sys.byteorder == "little" else ">"
TARGET = OBJECTS / "core_target.bpf.o"


def fixture(name: str, *programs: str) -> pybpfload.ObjectSpec:
    """A fixture with just some of its programs on."""
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for each in spec.programs.values():
        each.autoload = each.name in programs if programs else each.autoload
    return spec


def refusal(obj, btf=TARGET, **options) -> list[str]:
    """The lines of the message; without what the lines of the message begin with."""
    with pytest.raises(AssertionError) as caught:
        assert_loads(obj, btf, **options)
    return [line.strip() for line in str(caught.value).splitlines()]


def types(*functions: str) -> pybpfload.Btf:
    made = BtfBuilder("<")
    proto = made.add_func_proto(made.add_int("int", 4, 1))
    for name in ("sched_switch", "sys_enter"):  # as all kernels have
        made.add_typedef(f"btf_trace_{name}", made.add_ptr(proto))
    for name in ("schedule", *functions):
        made.add_func(name, proto, 1)
    return pybpfload.Btf.from_bytes(made.build(), name="some kernel")


class TestLoads:
    @pytest.mark.parametrize("name", ["core_sizes", "core_match", "core_poison", "core_local"])
    def test_an_object_that_loads(self, name):
        relocation = assert_loads(OBJECTS / f"{name}.bpf.o", TARGET)
        assert relocation.programs

    def test_kinds_of_arguments(self):
        path = OBJECTS / "core_sizes.bpf.o"
        btf = pybpfload.read_btf(TARGET)
        for obj in (path, str(path), path.read_bytes(), pybpfload.open(path)):
            for target in (TARGET, str(TARGET), btf, Target(btf)):
                assert assert_loads(obj, target).programs

    def test_the_running_kernel_is_the_default(self):
        data = pybpfload.read_btf(
            OBJECTS.parent / f"bpf{'el' if ORDER == '<' else 'eb'}" / TARGET.name
        )
        with FakeKernel(files={"/sys/kernel/btf/vmlinux": data.to_bytes()}):
            assert assert_loads(OBJECTS / "core_sizes.bpf.o").target.btf.name == "vmlinux"

    def test_an_object_that_cannot_be_opened(self):
        [line] = refusal(OBJECTS / "bad_map_no_type.bpf.o")
        assert line.startswith("cannot be opened: ")
        assert "add __uint(type" in line

    def test_an_object_of_the_other_byte_order(self):
        with pytest.raises(AssertionError, match="build it with -target bpfeb"):
            assert_loads(OBJECTS / "core_sizes.bpf.o", OBJECTS.parent / "bpfeb" / TARGET.name)

    def test_every_program_that_cannot_be_relocated_has_a_line(self):
        spec = fixture("core_refused")
        for program in spec.programs.values():
            program.autoload = True
        head, *lines = refusal(spec)
        assert head == f"{spec.path} would not load against {TARGET}:"
        told = [next(n for n in spec.programs if f"program {n}," in line) for line in lines]
        assert told == [
            "zero_length_element", "signed_element", "unsigned_value", "far_load", "far_store",
            "straddling_size", "size_of_hidden",
        ]  # fmt: skip
        assert all(program.autoload for program in spec.programs.values())

    def test_live_poison_is_told_with_its_source_line(self):
        _, *lines = refusal(fixture("core_poison", "live_number", "live_called", "dead_load"))
        assert [line.split(",")[0] for line in lines] == [
            "program live_number",
            "program live_called",
        ]
        assert "core_poison.bpf.c:141: return field_size(((struct ct_poor *)" in lines[0]
        assert "struct ct_poor.missing" in lines[0]
        assert "core_poison.bpf.c:44: return field_offset(p->missing);" in lines[1]

    def test_functions_of_the_kernel(self):
        head, *lines = refusal(OBJECTS / "bad_kfunc.bpf.o", types())
        assert head.endswith("would not load against some kernel:")
        assert any("'pybpfload_missing' is not in this kernel" in line for line in lines)
        assert len(lines) == 1

    def test_a_weak_function_that_is_called_all_the_same(self):
        spec = fixture("bad_kfunc")
        spec.externs["pybpfload_missing"].weak = True
        _, *lines = refusal(spec, types())
        assert any("bad_kfunc.bpf.c" in line and "pybpfload_missing()" in line for line in lines)

    def test_weak_functions_that_are_guarded(self):
        spec = fixture("kfuncs", "call_missing")
        spec.programs["call_missing"].section = "raw_tp"
        spec.programs["call_missing"].sec = None
        assert assert_loads(spec, types())

    def test_functions_to_attach_to(self):
        spec = fixture("fmodret", "deny_unlink")
        [name] = [p.attach_to for p in spec.programs.values()]
        _, *lines = refusal(spec, types("something_else"))
        assert f"the kernel has no function {name!r} to attach to" in lines[0]
        found = [line for line in refusal(spec, types(name)) if "to attach to" in line]
        assert found == []

    def test_functions_of_modules(self):
        spec = fixture("module_fentry")
        base = types()
        made = BtfBuilder("<", base=base)
        for program in spec.programs.values():
            name = program.attach_to.rpartition(":")[2]
            made.add_func(name, made.add_func_proto(0), 1)
        module = made.btf("nf_tables")
        assert assert_loads(spec, base, modules=[module])
        _, *lines = refusal(spec, base)
        assert len(lines) == len(spec.programs)
        assert "no BTF of module nf_tables, whose function 'nf_tables_newtable'" in lines[0]
        other = BtfBuilder("<", base=base).btf("nf_tables")
        _, line, *_ = refusal(spec, base, modules=[other])
        assert "module nf_tables has no function 'nf_tables_newtable' to attach to" in line

    def test_settings(self):
        spec = fixture("bad_kconfig_missing")
        assert assert_loads(spec, types()), "without a configuration nothing is known"
        assert assert_loads(spec, types(), kconfig="CONFIG_PYBPFLOAD_MISSING=5\n")
        _, line = refusal(spec, types(), kconfig="CONFIG_HZ=250\n")
        assert line.startswith("CONFIG_PYBPFLOAD_MISSING is not set")
        _, line = refusal(spec, types(), kconfig='CONFIG_PYBPFLOAD_MISSING="text"\n')
        assert "does not fit" in line


class TestSameRelocation:
    def test_the_same(self):
        assert_same_relocation(OBJECTS / "core_sizes.bpf.o", TARGET, TARGET)
        assert_same_relocation(OBJECTS / "maps.bpf.o", types(), TARGET)

    def test_a_difference_is_told_below_its_source_line(self):
        own = pybpfload.open(OBJECTS / "core_sizes.bpf.o").btf
        with pytest.raises(AssertionError) as caught:
            assert_same_relocation(
                OBJECTS / "core_sizes.bpf.o", own, TARGET, programs=["loads", "signs"]
            )
        text = str(caught.value)
        assert "program loads, " in text
        assert "program signs, " in text
        assert "program stores" not in text
        lines = [line.strip() for line in text.splitlines()]
        at = next(i for i, line in enumerate(lines) if line.endswith("load_s_4 = s->s_4_4;"))
        assert lines[at + 1].startswith("- ")
        assert lines[at + 2].startswith("+ ")
        assert "struct ct_signed_widths.s_4_4" in lines[at + 1]

    def test_long_lists_are_cut(self):
        spec = fixture("core_local", "bits")
        with pytest.raises(AssertionError, match=r"\.\.\. and \d+ more"):
            assert_same_relocation(spec, spec.btf, TARGET)

    def test_programs_that_are_off_may_differ(self):
        spec = fixture("core_sizes", "refused_store")
        spec.programs["refused_store"].autoload = False
        assert_same_relocation(spec, spec.btf, TARGET)

    def test_errors_of_relocation_are_not_differences(self):
        with pytest.raises(pybpfload.RelocationError):
            assert_same_relocation(
                OBJECTS / "core_refused.bpf.o", TARGET, TARGET, programs=["far_load"]
            )


def live(*insns: Insn) -> set[int]:
    made = ObjectBuilder()
    made.program("tc", list(insns), "main")
    spec = pybpfload.open(made.build())
    return reachable(relocate(spec).programs["main"], spec)


MOV, EXIT = 0xB7, Insn(0x95)


class TestLiveness:
    def test_conditions_on_constants(self):
        for code, imm, taken in (
            (0x15, 5, True),
            (0x55, 5, False),
            (0x25, 4, True),
            (0xA5, 5, False),
        ):
            found = live(Insn(MOV, dst=1, imm=5), Insn(code, dst=1, off=1, imm=imm), EXIT, EXIT)
            assert found == {0, 1, 3 if taken else 2}

    def test_conditions_on_what_is_not_known(self):
        assert live(Insn(0x15, dst=1, off=1), EXIT, EXIT) == {0, 1, 2}

    def test_values_that_differ_by_path_are_not_known(self):
        code = [
            Insn(MOV, dst=2, imm=1),
            Insn(0x15, dst=1, off=1),
            Insn(MOV, dst=2, imm=0),
            Insn(0x15, dst=2, off=1, imm=0),
            EXIT,
            EXIT,
        ]
        assert live(*code) == set(range(6))

    def test_loops_end(self):
        code = [Insn(MOV, dst=1), Insn(0x07, dst=1, imm=1), Insn(0xA5, dst=1, off=-2, imm=99), EXIT]
        assert live(*code) == {0, 1, 2, 3}

    def test_calls_leave_five_registers_unknown(self):
        code = [Insn(MOV, dst=1), Insn(MOV, dst=6), Insn(0x85, imm=5), Insn(0x15, dst=1, off=1)]
        assert live(*code, EXIT, EXIT) == set(range(6))
        code[3] = Insn(0x15, dst=6, off=1)
        assert live(*code, EXIT, EXIT) == {0, 1, 2, 3, 5}

    def test_arithmetic(self):
        code = [Insn(MOV, dst=1, imm=-1), Insn(0x77, dst=1, imm=63), Insn(0x67, dst=1, imm=3)]
        assert live(*code, Insn(0x15, dst=1, off=1, imm=8), EXIT, EXIT) == {0, 1, 2, 3, 5}

    def test_constants_in_rodata(self):
        """What programs cannot change, the verifier knows; and so may the test, before loading."""
        made = ObjectBuilder()
        code = [Insn(0x18, dst=1), Insn(0), Insn(0x61, dst=2, src=1, off=4)]
        made.program("tc", [*code, Insn(0x15, dst=2, off=1), EXIT, EXIT], "main")
        section = next(i for i, each in enumerate(made._sections) if each["name"] == "tc")
        rodata = made.section(".rodata", bytes(8))
        made.rel(section, 0, made.symbol("settings", rodata, 0, 8, kind=OBJECT))
        spec = pybpfload.open(made.build())
        program = relocate(spec).programs["main"]
        assert reachable(program, spec) == {0, 2, 3, 5}
        spec.maps["object.rodata"].contents[4] = 1
        assert reachable(program, spec) == {0, 2, 3, 4}

    @pytest.mark.parametrize("name", ["core_local", "core_sizes", "core_sizes_v4", "core_poison"])
    def test_dead_and_live_code_of_fixtures(self, name):
        """What the names of the programs say is what is found."""
        spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
        for program in relocate(
            spec, pybpfload.read_btf(TARGET), everything=True
        ).programs.values():
            alive = reachable(program, spec) & program.poisons.keys()
            assert bool(alive) == program.name.startswith(("live_", "refused_")) or (
                program.name == "live_zero" and not alive
            )


def test_source_lines():
    spec = pybpfload.open(OBJECTS / "core_poison.bpf.o")
    program = relocate(spec, pybpfload.read_btf(TARGET)).programs["dead_in_function"]
    lines = SourceLines(program, spec)
    assert str(lines[0]).endswith("core_poison.bpf.c:122: return in_function((void *)memory) + 1;")
    _, start = program.functions[1]
    assert str(lines[start]).endswith("core_poison.bpf.c:35: keep(p);")
    bare = pybpfload.open(OBJECTS / "nobtf.bpf.o")
    [program] = relocate(bare).programs.values()
    assert SourceLines(program, bare)[0] is None
