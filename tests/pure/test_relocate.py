"""Putting programs together: subprograms, function and line info, references."""

from __future__ import annotations

from pathlib import Path

import pytest
from describe import describe
from insns import EXIT, mov, sole, wide

from pybpfload.errors import RelocationError
from pybpfload.isa.insn import Insn
from pybpfload.object import open_object
from pybpfload.relocate import Reference, ReferenceKind, relocate
from pybpfload.testing.objects import FUNC, LOCAL, NOBITS, OBJECT, SECTION, WEAK, ObjectBuilder

FIXTURES = Path(__file__).parents[2] / "fixtures" / "bpfel"
POISONED_MAP, POISONED_CORE = 2001000000, 195896080


def call(imm: int = -1) -> Insn:
    return Insn(0x85, src=1, imm=imm)


def address(imm: int) -> list[Insn]:
    """LDIMM64 of a function, as compilers write it: offset in bytes in the section."""
    return [Insn(0x18, dst=1, imm=imm), Insn(0)]


class Calls(ObjectBuilder):
    """The example of the libbpf notes: A and B call C, all in ``.text``.

    A has 4 instructions at 0, C 3 at 4, B 4 at 7.
    """

    def __init__(self, order: str = "<") -> None:
        super().__init__(order)
        a = [mov(10), call(2), mov(11), EXIT]
        c = [mov(20), mov(21), EXIT]
        b = [mov(30), call(-5), mov(31), EXIT]
        self.text = self.code(".text", [*a, *c, *b])
        self.a = self.symbol("A", self.text, 0, 32, kind=FUNC)
        self.c = self.symbol("C", self.text, 32, 24, kind=FUNC, binding=LOCAL)
        self.b = self.symbol("B", self.text, 56, 32, kind=FUNC, binding=WEAK)
        self.text_section = self.symbol("", self.text, kind=SECTION, binding=LOCAL)

    def main(self, name: str, insns: list[Insn], relocations: dict[int, int]) -> int:
        section = sole(self, "tc", insns, name)
        for at, symbol in relocations.items():
            self.rel(section, 8 * at, symbol)
        return section


def code(made: ObjectBuilder, name: str = "main", **options) -> list[Insn]:
    return relocate(open_object(made.build()), **options).programs[name].insns


def refused(made: ObjectBuilder, **options) -> RelocationError:
    with pytest.raises(RelocationError) as caught:
        relocate(open_object(made.build()), **options)
    return caught.value


# Subprograms


@pytest.mark.parametrize("order", "<>")
def test_worked_example(order):
    made = Calls(order)
    main = [mov(1), call(), mov(2), mov(3), call(), mov(4), EXIT]
    made.main("main", main, {1: made.b, 4: made.a})
    made.main("other", main, {1: made.a, 4: made.b})
    found = relocate(open_object(made.build())).programs
    program = found["main"]
    assert [(f.name, at) for f, at in program.functions] == [
        ("main", 0), ("B", 7), ("C", 11), ("A", 14),
    ]  # fmt: skip
    assert [insn.imm for insn in program.insns if insn.code == 0xB7] == [
        1, 2, 3, 4, 30, 31, 20, 21, 10, 11,
    ]  # fmt: skip
    calls = {at: insn.imm for at, insn in enumerate(program.insns) if insn.code == 0x85}
    assert calls == {1: 5, 4: 9, 8: 2, 15: -5}
    # Another program gets copies of its own, in the order in which it uses them.
    assert [(f.name, at) for f, at in found["other"].functions] == [
        ("other", 0), ("A", 7), ("C", 11), ("B", 14),
    ]  # fmt: skip
    calls = {at: insn.imm for at, insn in enumerate(found["other"].insns) if insn.code == 0x85}
    assert calls == {1: 5, 4: 9, 8: 2, 15: -5}


def test_static_functions_are_called_through_their_section():
    made = Calls()
    made.main("main", [call(3), EXIT], {0: made.text_section})
    assert code(made) == [call(1), EXIT, mov(20), mov(21), EXIT]


def test_call_into_the_middle_goes_to_the_start():
    made = Calls()
    made.main("main", [call(4), EXIT], {0: made.text_section})
    assert code(made) == [call(1), EXIT, mov(20), mov(21), EXIT]


def test_calls_that_are_left_alone():
    made = Calls()
    odd = [call()._replace(dst=1), call()._replace(off=1), Insn(0x85, imm=5), EXIT]
    made.main("main", odd, {})
    assert code(made) == odd


def test_recursion():
    made = ObjectBuilder()
    text = made.code(".text", [call(1), EXIT, call(-3), call(-2), EXIT])
    made.symbol("even", text, 0, 16, kind=FUNC)
    made.symbol("odd", text, 16, 24, kind=FUNC)
    main = sole(made, "tc", [call(), EXIT], "main")
    made.rel(main, 0, 1)
    assert code(made) == [call(1), EXIT, call(1), EXIT, call(-3), call(-2), EXIT]


def test_long_chain_of_calls():
    """As deep as the file has functions: nothing here recurses."""
    made = ObjectBuilder()
    depth = 3000
    text = made.code(".text", [call(1), EXIT] * (depth - 1) + [mov(0), EXIT])
    for at in range(depth):
        made.symbol(f"f{at}", text, 16 * at, 16, kind=FUNC)
    made.rel(sole(made, "tc", [call(), EXIT], "main"), 0, 1)
    program = relocate(open_object(made.build())).programs["main"]
    assert len(program.insns) == 2 + 2 * depth
    assert [insn.imm for insn in program.insns[::2]] == [1] * depth + [0]


def test_copies_are_bounded(monkeypatch):
    """By a number, or by 64 times the object's own code if that is more."""
    monkeypatch.setattr("pybpfload.relocate.link.LINKED_LIMIT", 1000)
    made = ObjectBuilder()
    text = made.code(".text", [mov(0)] * 3999 + [EXIT])
    function = made.symbol("large", text, 0, 32000, kind=FUNC)
    for at in range(64):
        made.rel(sole(made, "tc", [call(), EXIT], f"p{at}"), 0, function)
    assert len(relocate(open_object(made.build())).programs) == 64
    for at in range(64, 70):
        made.rel(sole(made, "tc", [call(), EXIT], f"p{at}"), 0, function)
    assert "instructions in all" in str(refused(made))


def test_addresses_of_functions():
    made = Calls()
    insns = [*address(56), *address(32), *address(0), EXIT]
    made.main("main", insns, {0: made.text_section, 2: made.text_section, 4: made.b})
    program = relocate(open_object(made.build())).programs["main"]
    assert [f.name for f, _ in program.functions] == ["main", "B", "C"]
    assert [(insn.src, insn.imm) for insn in program.insns[:6:2]] == [(4, 6), (4, 8), (4, 2)]
    assert all(insn == Insn(0) for insn in program.insns[1:6:2])


def test_functions_of_programs_that_are_off_are_marked_too():
    made = Calls()
    made.rel(sole(made, "?tc", [*address(56), EXIT], "off"), 0, made.text_section)
    spec = open_object(made.build())
    assert not relocate(spec).programs
    assert relocate(spec, everything=True).programs["off"].insns[0].src == 4
    assert spec.programs["off"].insns[0].src == 0


@pytest.mark.parametrize(
    ("insns", "symbol", "message"),
    [
        ([call(100), EXIT], "text_section", "no function of .text holds instruction 101"),
        ([call(-9), EXIT], "text_section", "no function of .text holds instruction -8"),
        ([*wide(0, src=4), EXIT], None, "address of a function without a relocation"),
        ([call(50), EXIT], None, "no function of .text holds instruction 51"),
        ([*address(800), EXIT], "text_section", "no function of .text holds instruction 100"),
    ],
)
def test_calls_that_are_refused(insns, symbol, message):
    made = Calls()
    made.main("main", insns, {0: getattr(made, symbol)} if symbol else {})
    error = refused(made)
    assert (error.message, error.program, error.insn) == (message, "main", 0)
    assert (error.section, error.offset, error.file) == ("tc", 0, "object")
    place = "object, section tc, offset 0x0, program main, instruction 0"
    assert str(error) == f"{place}: {message}; {error.hint}"


def test_call_without_relocation_means_text():
    """Outside of .text, libbpf looks up the same index in .text."""
    made = Calls()
    made.main("main", [call(3), EXIT], {})
    assert code(made)[2:] == [mov(20), mov(21), EXIT]


def test_object_without_functions():
    made = ObjectBuilder()
    made.program("tc", [call(0), EXIT], "main")
    assert "no function of .text" in str(refused(made))


# Function and line info


class Info(Calls):
    def __init__(self) -> None:
        super().__init__()
        self.main("main", [mov(1), call(), mov(2), mov(3), call(), mov(4), EXIT], {1: 3, 4: 1})
        # Offsets are in bytes from the start of the section.
        self.func_info = {"tc": [(0, 1)], ".text": [(0, 2), (32, 3), (56, 4)]}
        self.line_info = {
            "tc": [(0, 1, 1, 1), (16, 1, 1, 2)],
            ".text": [(0, 2, 2, 2), (8, 2, 2, 3), (32, 3, 3, 3), (56, 4, 4, 4), (64, 4, 4, 5)],
        }


def infos(made: ObjectBuilder, name: str = "main"):
    program = relocate(open_object(made.build())).programs[name]
    step = program.line_info_rec_size // 4
    return (
        list(program.func_info) if program.func_info else None,
        [tuple(program.line_info[at : at + 4]) for at in range(0, len(program.line_info), step)]
        if program.line_info
        else None,
    )


def test_info_moves_with_functions():
    """Order: main 0, B 7, C 11, A 14. B's record at byte 64 goes to 8, A's at 8 to 15."""
    func_info, line_info = infos(Info())
    assert func_info == [0, 1, 7, 4, 11, 3, 14, 2]
    assert line_info == [
        (0, 1, 1, 1), (2, 1, 1, 2), (7, 4, 4, 4), (8, 4, 4, 5), (11, 3, 3, 3), (14, 2, 2, 2),
        (15, 2, 2, 3),
    ]  # fmt: skip


def test_records_of_newer_compilers_keep_their_size():
    made = Info()
    made.rec_sizes.update(line_info=24, func_info=12)
    program = relocate(open_object(made.build())).programs["main"]
    assert (program.func_info_rec_size, program.line_info_rec_size) == (12, 24)
    assert program.func_info[:3].tolist() == [0, 1, 0xEEEEEEEE]
    assert program.line_info[6:12].tolist() == [2, 1, 1, 2, 0xEEEEEEEE, 0xEEEEEEEE]


def test_program_without_info_needs_none_for_its_functions():
    made = Info()
    del made.line_info["tc"]
    func_info, line_info = infos(made)
    assert func_info is not None
    assert line_info is None


@pytest.mark.parametrize("label", ["func_info", "line_info"])
def test_function_without_info_in_a_program_that_has_it(label):
    made = Info()
    records = getattr(made, label)
    records[".text"] = [record for record in records[".text"] if not 32 <= record[0] < 56]
    error = refused(made)
    assert error.message == f"{label} is missing for subprogram C; the program has it"
    assert error.program == "main"


def test_only_the_first_section_of_a_name_counts():
    made = Info()
    made.main("twin", [mov(1), EXIT], {})
    assert infos(made, "twin") == (None, None)
    assert infos(made)[0] is not None


def test_records_out_of_order():
    """What lies between the first and the last match is copied; a record beyond ends the search."""
    made = ObjectBuilder()
    made.program("tc", [mov(0), EXIT] * 4, "all")
    code = made.code("xdp", [mov(0), EXIT] * 4)
    made.symbol("part", code, 16, 24, kind=FUNC)
    i = made.btf.add_int("int", 4)
    made.line_info = {
        "xdp": [(16, 0, 0, 1), (8, 0, 0, 2), (32, 0, 0, 3), (40, 0, 0, 4), (24, 0, 0, 5)]
    }
    assert i
    assert infos(made, "part")[1] == [(0, 0, 0, 1), (0xFFFFFFFF, 0, 0, 2), (2, 0, 0, 3)]
    made.line_info = {"xdp": [(40, 0, 0, 1), (16, 0, 0, 2)]}
    assert infos(made, "part")[1] is None


# Exception callbacks


class Exceptions(Calls):
    def __init__(self, *tags: tuple[str, str], linkage: int = 1, visibility: int = 0) -> None:
        super().__init__()
        self.main("main", [mov(1), EXIT], {})
        self.main("other", [mov(2), EXIT], {})
        self._symbols[self.b] = ("B", self.text, 56, 32, FUNC, 1, visibility)
        proto = self.btf.add_func_proto(self.btf.add_int("int", 4, 1))
        functions = {
            name: self.btf.add_func(name, proto, linkage) for name in ("main", "other", "A")
        }
        for target, text in tags:
            self.btf.add_decl_tag(f"exception_callback:{text}", functions[target])


def test_exception_callback_comes_last():
    found = relocate(open_object(Exceptions(("main", "B")).build())).programs
    assert [f.name for f, _ in found["main"].functions] == ["main", "B", "C"]
    assert [f.name for f, _ in found["other"].functions] == ["other"]


def test_kernels_without_declaration_tags_get_no_callback():
    spec = open_object(Exceptions(("main", "B")).build())
    found = relocate(spec, exception_callbacks=False).programs
    assert [f.name for f, _ in found["main"].functions] == ["main"]


def test_callback_that_is_called_too_is_there_once():
    made = Exceptions(("main", "B"))
    made.main("third", [call(), EXIT], {0: made.b})
    found = relocate(open_object(made.build())).programs
    assert [f.name for f, _ in found["third"].functions] == ["third", "B", "C"]


def test_two_callbacks_are_left_to_the_verifier():
    found = relocate(open_object(Exceptions(("main", "B"), ("main", "A")).build())).programs
    assert [f.name for f, _ in found["main"].functions] == ["main"]


@pytest.mark.parametrize("text", ["", "C", "missing", "main"])
def test_callbacks_that_are_refused(text):
    error = refused(Exceptions(("main", text)))
    assert error.message == f"exception callback {text!r} is not a global function of .text"
    assert error.program == "main"


def test_hidden_callback_is_refused():
    assert "is not a global function" in str(refused(Exceptions(("main", "B"), visibility=2)))


def test_tag_on_a_static_function_breaks_every_program():
    made = Exceptions(("A", "B"), linkage=0)
    assert "tag on something that is not a global function" in str(refused(made))
    error = refused(made)
    assert error.program == "main"


def test_fixture_with_a_tag_on_a_static_function():
    spec = open_object(FIXTURES / "bad_exception_cb.bpf.o")
    with pytest.raises(RelocationError, match="exception callback tag on something"):
        relocate(spec)


# References


def test_maps_and_their_values():
    made = ObjectBuilder()
    made.section(".rodata", bytes(64))
    bss = made.section(".bss", kind=NOBITS, size=64)
    insns = [*wide(0), *wide(12), *wide(-4), EXIT]
    code = sole(made, "tc", insns, "main")
    variable = made.symbol("variable", bss, 40, 8, kind=OBJECT)
    section = made.symbol("", bss, kind=SECTION, binding=LOCAL)
    made.rel(code, 0, variable)
    made.rel(code, 16, section)
    made.rel(code, 32, variable)
    spec = open_object(made.build(), name="object")
    program = relocate(spec).programs["main"]
    assert program.references == [
        Reference(0, ReferenceKind.MAP_VALUE, "object.bss", 40),
        Reference(2, ReferenceKind.MAP_VALUE, "object.bss", 12),
        Reference(4, ReferenceKind.MAP_VALUE, "object.bss", 36),
    ]
    assert [(i.code, i.src, i.imm) for i in program.insns[:6]] == [
        (0x18, 2, 0), (0, 0, 40), (0x18, 2, 0), (0, 0, 12), (0x18, 2, 0), (0, 0, 36),
    ]  # fmt: skip
    spec.maps["object.bss"].autocreate = False
    program = relocate(spec).programs["main"]
    assert program.references == []
    assert program.insns[:6] == [Insn(0x85, imm=POISONED_MAP + 1)] * 6
    assert program.poisons == dict.fromkeys((0, 2, 4), "map object.bss was not created")


def test_references_move_with_functions():
    made = ObjectBuilder()
    bss = made.section(".bss", kind=NOBITS, size=64)
    text = made.code(".text", [*wide(0), EXIT])
    function = made.symbol("function", text, 0, 24, kind=FUNC)
    variable = made.symbol("variable", bss, 40, 8, kind=OBJECT)
    made.rel(text, 0, variable)
    main = sole(made, "tc", [*wide(0), call(), EXIT], "main")
    made.rel(main, 16, function)
    made.rel(main, 0, variable)
    spec = open_object(made.build(), name="object")
    program = relocate(spec).programs["main"]
    assert [r.insn for r in program.references] == [0, 4]
    assert program.insns[4:6] == [Insn(0x18, dst=1, src=2), Insn(0, imm=40)]
    # The function itself stays as it was in the file.
    assert spec.functions[0].insns[0] == Insn(0x18, dst=1)


def test_jump_tables():
    spec = open_object(FIXTURES / "jump_tables.bpf.o")
    program = relocate(spec, everything=True).programs["choose"]
    tables = [r for r in program.references if r.kind == ReferenceKind.JUMP_TABLE]
    assert tables
    for reference in tables:
        insn = program.insns[reference.insn]
        assert (insn.code, insn.src, insn.off, insn.imm) == (0x18, 2, 0, 0)


@pytest.mark.parametrize(
    ("fixture", "program", "expected"),
    [
        ("kconfig", "report", {"kconfig", "map_value"}),
        ("ksyms", "report", {"ksym", "map_value"}),
        ("ksyms_typed", "report", {"ksym_btf", "map_value"}),
        ("kfuncs", "acquire_flavour", {"kfunc", "map_value"}),
        ("maps", "store", {"map", "map_value"}),
    ],
)
def test_kinds_of_references(fixture, program, expected):
    spec = open_object(FIXTURES / f"{fixture}.bpf.o")
    found = relocate(spec, core_target(), everything=True).programs[program]
    assert {reference.kind for reference in found.references} == expected
    assert [r.insn for r in found.references] == sorted({r.insn for r in found.references})
    wanted = {
        "map": (0x18, 1), "map_value": (0x18, 2), "kconfig": (0x18, 2), "ksym": (0x18, 0),
        "ksym_btf": (0x18, 3),
    }  # fmt: skip
    for reference in found.references:
        insn = found.insns[reference.insn]
        if reference.kind == "kfunc":
            assert (insn.code, insn.src) in ((0x85, 2), (0x18, 3))
        else:
            assert (insn.code, insn.src) == wanted[reference.kind]
            assert found.insns[reference.insn + 1].imm == reference.addend
        assert insn.imm == 0
        if reference.kind == "kconfig":
            assert reference.addend == spec.externs[reference.name].offset
        elif reference.kind.startswith("map"):
            assert reference.name in spec.maps
        else:
            assert reference.name in spec.externs


def core_target():
    return open_object(FIXTURES / "core_target.bpf.o").btf


def test_which_programs():
    spec = open_object(FIXTURES / "extack.bpf.o")
    on = [name for name, program in spec.programs.items() if program.autoload]
    assert 0 < len(on) < len(spec.programs)
    assert list(relocate(spec, core_target()).programs) == on
    assert list(relocate(spec, core_target(), everything=True).programs) == list(spec.programs)


@pytest.mark.parametrize("fixture", ["subprogs", "callbacks", "core_local", "linked", "kconfig"])
def test_relocation_is_a_pure_function(fixture):
    spec = open_object(FIXTURES / f"{fixture}.bpf.o")
    before = describe(spec), [list(f.insns) for f in spec.functions]
    first, second = (relocate(spec, core_target()) for _ in range(2))
    assert (describe(spec), [list(f.insns) for f in spec.functions]) == before
    copy = relocate(spec.copy(), core_target())
    for name, program in first.programs.items():
        for other in (second.programs[name], copy.programs[name]):
            assert program.insns == other.insns
            assert program.references == other.references
            assert list(map(str, program.core)) == list(map(str, other.core))


def test_static_functions_of_one_name_keep_their_own_decisions():
    """Two files were linked; both have a static function of that name."""
    found = relocate(open_object(FIXTURES / "linked.bpf.o"), core_target(), everything=True)
    for program in found.programs.values():
        places = [at for at, _ in program.core]
        assert len(places) == sum(len(f.core_relos) for f, _ in program.functions)
        for at, decision in program.core:
            assert program.insns[at] == decision.after[0]


LINKED = (
    "callbacks", "core_fields", "core_local", "core_types", "ctx_arg", "exceptions", "execsnoop",
    "globals", "jump_tables", "kconfig", "kfuncs", "ksyms_typed", "linked", "maps", "subprogs",
    "tailcall", "bad_exception_cb",
)  # fmt: skip


@pytest.mark.parametrize("fixture", LINKED)
def test_both_byte_orders_give_the_same_layout(fixture):
    """Instructions may differ (clang reads bit fields otherwise), what they refer to does not."""
    found = []
    for order in ("bpfel", "bpfeb"):
        path = FIXTURES.parent / order / f"{fixture}.bpf.o"
        target = open_object(FIXTURES.parent / order / "core_target.bpf.o").btf
        try:
            spec = open_object(path)
            result = relocate(spec, target, everything=True)
        except Exception as error:
            found.append(str(error).replace(str(path), ""))
            continue
        found.append(
            {
                name: (
                    [f.name for f, _ in program.functions],
                    [(r.kind, r.name, r.addend) for r in program.references],
                    len(program.func_info or ()),
                )
                for name, program in result.programs.items()
            }
        )
    if isinstance(found[0], str):
        assert isinstance(found[1], str)
    else:
        assert found[0] == found[1]
