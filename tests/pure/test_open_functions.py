"""Functions cut out of sections, what their instructions refer to, and externs."""

from __future__ import annotations

import pytest
from insns import EXIT, mov, sole, wide

from pybpfload.errors import FormatError
from pybpfload.isa.insn import Insn
from pybpfload.object import open_object
from pybpfload.object.functions import Finder
from pybpfload.object.spec import RelocKind
from pybpfload.testing.objects import (
    FUNC,
    GLOBAL,
    HIDDEN,
    INTERNAL,
    LOCAL,
    NOTYPE,
    OBJECT,
    SECTION,
    WEAK,
    ObjectBuilder,
)

CALL = Insn(0x85, src=1, imm=-1)


def refused(made: ObjectBuilder) -> str:
    with pytest.raises(FormatError) as caught:
        open_object(made.build())
    return str(caught.value)


# Cutting


def test_several_functions_in_a_section():
    made = ObjectBuilder()
    code = made.code("tc", [mov(0), EXIT, mov(1), mov(2), EXIT, mov(3), EXIT])
    made.symbol("last", code, 40, 16, kind=FUNC)
    made.symbol("first", code, 0, 16, kind=FUNC, binding=WEAK)
    made.symbol("not_a_function", code, 0, 16, kind=NOTYPE)
    text = made.code(".text", [mov(4), EXIT])
    made.symbol("helper", text, 0, 16, kind=FUNC, binding=LOCAL)
    spec = open_object(made.build())
    # Nothing covers the three instructions in between: they belong to no program.
    assert [(f.name, f.start, len(f.insns)) for f in spec.functions] == [
        ("first", 0, 2), ("last", 5, 2), ("helper", 0, 2),
    ]  # fmt: skip
    assert list(spec.programs) == ["first", "last"]
    assert [f.name for f in spec.subprograms] == ["helper"]
    assert [p.name for p in spec] == ["first", "last"]


def test_order_is_that_of_sections_and_offsets():
    made = ObjectBuilder()
    one, two = made.code("xdp", [mov(0), EXIT] * 2), made.code("tc", [mov(0), EXIT])
    made.symbol("c", two, 0, 16, kind=FUNC)
    made.symbol("b", one, 16, 16, kind=FUNC)
    made.symbol("a", one, 0, 16, kind=FUNC)
    assert list(open_object(made.build()).programs) == ["a", "b", "c"]


def test_linkage():
    made = ObjectBuilder()
    text = made.code(".text", [mov(0), EXIT] * 5)
    kinds = [
        (LOCAL, 0), (LOCAL, HIDDEN), (GLOBAL, 0), (GLOBAL, HIDDEN), (WEAK, INTERNAL),
    ]  # fmt: skip
    for at, (binding, visibility) in enumerate(kinds):
        made.symbol(f"f{at}", text, 16 * at, 16, kind=FUNC, binding=binding, visibility=visibility)
    told = [(f.is_global, f.is_hidden) for f in open_object(made.build()).functions]
    assert told == [(False, False), (False, False), (True, False), (True, True), (True, True)]


@pytest.mark.parametrize(
    ("section", "symbol", "message"),
    [
        ("tc", {"value": 8, "size": 16}, "offset 0x8, symbol f: function of 16 bytes goes beyond"),
        ("tc", {"value": (1 << 64) - 8, "size": 16}, "goes beyond its section of 16"),
        ("tc", {"size": 16, "binding": LOCAL}, "section tc, offset 0x0, symbol f: static function"),
        ("tc", {"size": 0}, "function at 0 of 0 bytes is not made of 8-byte instructions"),
        (".text", {"size": 12}, "function at 0 of 12 bytes is not made of 8-byte instructions"),
        (".text", {"value": 4, "size": 8}, "function at 4 of 8 bytes is not made of"),
    ],
)
def test_functions_that_are_refused(section, symbol, message):
    made = ObjectBuilder()
    made.symbol("f", made.code(section, [mov(0), EXIT]), kind=FUNC, **symbol)
    assert message in refused(made)


def test_equal_names():
    made = ObjectBuilder()
    made.program("tc", [EXIT], "same")
    made.program("xdp", [EXIT], "same")
    made.program("xdp", [EXIT], "same")
    spec = open_object(made.build())
    assert list(spec.programs) == ["same", "same@xdp", "same@xdp#2"]


def test_overlapping_functions_are_bounded():
    made = ObjectBuilder()
    code = made.code("tc", [EXIT] * 1000)
    for at in range(100):
        made.symbol(f"f{at}", code, 0, 8000, kind=FUNC)
    assert "functions overlap" in refused(made)


def test_finder():
    made = ObjectBuilder()
    code = made.code("tc", [EXIT] * 10)
    for name, start, count in (("a", 0, 2), ("b", 4, 4), ("inside_b", 5, 1)):
        made.symbol(name, code, 8 * start, 8 * count, kind=FUNC)
    finder = Finder(open_object(made.build()).functions)

    def at(index: int, section: int = code):
        found = finder.by_index(section, index)
        return (found[0].name, found[1]) if found else None

    assert [at(i) for i in range(10)] == [
        ("a", 0), ("a", 1), None, None, ("b", 0), ("inside_b", 0), None, None, None, None,
    ]  # fmt: skip
    assert at(0, 0) is None
    assert at(0, 99) is None


# References


class References(ObjectBuilder):
    """A program in section ``tc`` whose first instruction has a relocation."""

    def __init__(self, first: list[Insn]) -> None:
        super().__init__()
        self.first = first
        self.tc = sole(self, "tc", [*first, EXIT])
        self.text = self.code(".text", [mov(0), EXIT])
        self.helper = self.symbol("helper", self.text, 0, 16, kind=FUNC)
        self.text_section = self.symbol("", self.text, kind=SECTION, binding=LOCAL)
        self.data = self.section(".data", bytes(16), flags=3)

    def reloc(self, symbol: int, kind: int = 1):
        self.rel(self.tc, 0, symbol, kind)
        (found,) = open_object(self.build()).programs["program"].relocs
        return found

    def error(self, symbol: int, offset: int = 0) -> str:
        self.rel(self.tc, offset, symbol)
        return refused(self)


@pytest.mark.parametrize("kind", [1, 10, 99])
def test_call(kind):
    """The type of a relocation is never looked at."""
    made = References([CALL])
    assert made.reloc(made.helper, kind) == (0, RelocKind.CALL, -1, 0, 0)


def test_address_of_function():
    for symbol in ("helper", "text_section"):
        made = References(wide(8))
        assert made.reloc(getattr(made, symbol)) == (0, RelocKind.FUNCTION, -1, 0, 0)


def test_data():
    made = References(wide(4))
    variable = made.symbol("variable", made.data, 8, 4, kind=OBJECT)
    assert made.reloc(variable) == (0, RelocKind.MAP_VALUE, 0, 8, 0)


def test_jump_table():
    made = References(wide(0))
    table = made.section(".jumptables", bytes(32))
    assert made.reloc(made.symbol("table", table, 8, 16)) == (0, RelocKind.JUMP_TABLE, -1, 8, 16)


def test_relocations_outside_of_functions_are_skipped():
    made = ObjectBuilder()
    code = made.code("tc", [EXIT, CALL, EXIT])
    made.symbol("program", code, 0, 8, kind=FUNC)
    made.rel(code, 8, made.symbol("nowhere", kind=OBJECT))
    assert open_object(made.build()).programs["program"].relocs == []


def test_references_are_sorted():
    made = References([*wide(0), CALL, *wide(0)])
    variable = made.symbol("variable", made.data, 8, 4, kind=OBJECT)
    made.rel(made.tc, 24, variable)
    made.rel(made.tc, 16, made.helper)
    made.rel(made.tc, 0, variable)
    relocs = open_object(made.build()).programs["program"].relocs
    assert [(r.insn, r.kind) for r in relocs] == [
        (0, RelocKind.MAP_VALUE), (2, RelocKind.CALL), (3, RelocKind.MAP_VALUE),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "symbol", "message"),
    [
        ([mov(0)], "helper", "instruction with opcode 0xb7 cannot refer to anything"),
        ([CALL._replace(src=0)], "helper", "call of something that is not a BPF function"),
        ([CALL._replace(src=2)], "helper", "call of something that is not a BPF function"),
        ([CALL], "program", "called function is not in .text; a program cannot be called"),
        ([CALL], "nowhere", "called function is not in .text"),
        ([CALL], "odd", "called function starts at 4, inside an instruction"),
        (wide(0), "odd", "address inside an instruction"),
        (wide(4), "helper", "address inside an instruction"),
        (wide(0), "local", "symbol is in section '.text', which programs cannot refer to"),
        (wide(0), "program", "symbol is in section 'tc', which programs cannot refer to"),
        (wide(0), "nowhere", "symbol is defined nowhere"),
        (wide(0), "absolute", "symbol is in section 0xfff1, which does not exist"),
        (wide(0), "undeclared", "extern is not declared in BTF"),
    ],
)
def test_references_that_are_refused(first, symbol, message):
    made = References(first)
    symbols = {
        "helper": made.helper,
        "program": 1,
        "nowhere": made.symbol("nowhere", 0, kind=OBJECT),
        "odd": made.symbol("", made.text, 4, kind=SECTION, binding=LOCAL),
        "local": made.symbol("local", made.text, 0, 16, kind=FUNC, binding=LOCAL),
        "absolute": made.symbol("absolute", 0xFFF1),
        "undeclared": made.symbol("", 0),
    }
    told = made.error(symbols[symbol])
    assert message in told
    assert "section .reltc, offset 0x0" in told


@pytest.mark.parametrize("offset", [4, 7, 16, 1 << 40])
def test_references_beside_instructions(offset):
    made = References([CALL])
    assert "is not at an instruction" in made.error(made.helper, offset)


def test_symbol_that_does_not_exist():
    made = References([CALL])
    assert "names symbol 99, which does not exist" in made.error(99)


def test_arena_variable_without_arena():
    made = References(wide(0))
    arena = made.section(".addr_space.1", bytes(8), flags=3)
    assert "arena variable, but the object has no arena map" in made.error(made.symbol("x", arena))


# Externs


class Externs(ObjectBuilder):
    def __init__(self, order: str = "<") -> None:
        super().__init__(order)
        self.char = self.btf.add_int("char", 1, 1)
        self.short = self.btf.add_int("short", 2, 1)
        self.int = self.btf.add_int("int", 4, 1)
        self.u64 = self.btf.add_int("unsigned long long", 8)
        self.bool = self.btf.add_int("_Bool", 1, 4)
        self.sections: dict[str, list[tuple[int, int, int]]] = {}
        self.program("tc", [EXIT])

    def variable(
        self, name: str, of: int, size: int, *, section: str = ".kconfig", weak: bool = False,
        linkage: int = 2,
    ) -> int:  # fmt: skip
        variable = self.btf.add_var(name, of, linkage)
        self.sections.setdefault(section, []).append((variable, 0, size))
        self.symbol(name, binding=WEAK if weak else GLOBAL)
        return variable

    def function(self, name: str, proto: int, *, weak: bool = False, linkage: int = 2) -> int:
        function = self.btf.add_func(name, proto, linkage)
        self.sections.setdefault(".ksyms", []).append((function, 0, 0))
        self.symbol(name, binding=WEAK if weak else GLOBAL)
        return function

    def build(self, **options: bool) -> bytes:
        for name, entries in self.sections.items():
            self.btf.add_datasec(name, 0, entries)
        self.sections = {}
        return super().build(**options)


@pytest.mark.parametrize("order", "<>")
def test_kconfig_layout(order):
    """Sorted by alignment, size, name; no padding at the end."""
    made = Externs(order)
    text = made.btf.add_array(made.char, 5, made.int)
    for name, of, size in (
        ("CONFIG_STR", text, 5), ("CONFIG_ZZ", made.char, 1), ("CONFIG_HZ", made.int, 4),
        ("CONFIG_S", made.short, 2), ("CONFIG_BPF", made.bool, 1), ("CONFIG_L", made.u64, 8),
    ):  # fmt: skip
        made.variable(name, of, size, weak=name == "CONFIG_S")
    spec = open_object(made.build(), name="object")
    told = [(e.name, e.offset, e.kconfig_type, e.signed, e.weak) for e in spec.externs.values()]
    assert told == [
        ("CONFIG_L", 0, "int", False, False),
        ("CONFIG_HZ", 8, "int", True, False),
        ("CONFIG_S", 12, "int", True, True),
        ("CONFIG_BPF", 14, "bool", False, False),
        ("CONFIG_ZZ", 15, "char", True, False),
        ("CONFIG_STR", 16, "string", False, False),
    ]
    kconfig = spec.maps["object.kconfig"]
    assert (kconfig.value_size, kconfig.flags) == (21, 0x480)
    assert kconfig.contents is None
    assert spec.btf[kconfig.value_type_id].size == 21
    assert {spec.btf[e.type].linkage for e in spec.btf[kconfig.value_type_id].entries} == {1}


def kconfig_type(build) -> str:
    made = Externs()
    made.variable("CONFIG_X", build(made), 4)
    try:
        return open_object(made.build()).externs["CONFIG_X"].kconfig_type
    except FormatError as error:
        return "" if "is not a type of kconfig values" in str(error) else str(error)


@pytest.mark.parametrize(
    ("expected", "build"),
    [
        ("bool", lambda m: m.bool),
        ("", lambda m: m.btf.add_int("b", 4, 4)),
        ("char", lambda m: m.btf.add_int("u8", 1)),
        ("int", lambda m: m.btf.add_typedef("t", m.btf.add_const(m.short))),
        ("", lambda m: m.btf.add_int("i", 16)),
        ("tristate", lambda m: m.btf.add_enum("libbpf_tristate", 4, [("N", 0)])),
        ("", lambda m: m.btf.add_enum("libbpf_tristate", 8, [("N", 0)])),
        ("tristate", lambda m: m.btf.add_enum64("libbpf_tristate", 8, [("N", 0)])),
        ("", lambda m: m.btf.add_enum("other", 4, [("N", 0)])),
        ("string", lambda m: m.btf.add_array(m.btf.add_typedef("c", m.char), 1, m.int)),
        ("", lambda m: m.btf.add_array(m.bool, 4, m.int)),
        ("", lambda m: m.btf.add_array(m.short, 4, m.int)),
        ("", lambda m: m.btf.add_struct("s", 4, [("x", m.int, 0)])),
        ("", lambda m: m.btf.add_ptr(m.int)),
    ],
)
def test_kconfig_types(expected, build):
    assert kconfig_type(build) == expected


def test_ksyms():
    made = Externs()
    typed = made.btf.add_const(made.btf.add_struct("rq", 8, [("x", made.u64, 0)]))
    made.variable("typed", typed, 0, section=".ksyms")
    made.variable("address", made.btf.add_const(0), 0, section=".ksyms", weak=True)
    proto = made.btf.add_func_proto(made.int, [("", made.int), ("named", made.u64), ("", 0)])
    function = made.function("kfunc___v2", proto, weak=True)
    spec = open_object(made.build())
    told = [(e.name, e.kind, e.is_typed, e.weak) for e in spec.externs.values()]
    assert told == [
        ("address", "ksym", False, True),
        ("kfunc___v2", "kfunc", True, True),
        ("typed", "ksym", True, False),
    ]
    assert spec.externs["typed"].type_id == typed - 1
    assert spec.externs["kfunc___v2"].type_id == proto
    btf = spec.btf
    section = btf[btf.find(".ksyms")]
    dummy = btf.find("dummy_ksym")
    assert [(e.type, e.offset, e.size) for e in section.entries] == [
        (spec.externs["typed"].btf_id, 0, 4),
        (spec.externs["address"].btf_id, 4, 4),
        (dummy, 8, 4),
    ]
    assert section.size == 12
    for type_id in (dummy, spec.externs["typed"].btf_id):
        assert (btf[type_id].type, btf[type_id].linkage) == (made.int, 1)
    assert btf[function].linkage == 1
    assert [p.name for p in btf[proto].params] == ["dummy_ksym", "named", ""]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.symbol("x"), "symbol x: the extern has no BTF; declare it __ksym"),
        (
            lambda m: m.variable("x", m.int, 4, linkage=1),
            "symbol x: BTF gives the extern linkage 1, expected extern",
        ),
        (
            lambda m: (m.symbol("x"), m.btf.add_var("x", m.int, 2)),
            "symbol x: the extern is in no section of BTF",
        ),
        (
            lambda m: m.variable("x", m.int, 4, section=".other"),
            "section .other, symbol x: a variable cannot be an extern there",
        ),
        (
            lambda m: m.variable("CONFIG_X", m.btf.add_array(m.char, 0, m.int), 0),
            "section .kconfig, symbol CONFIG_X: a kconfig value needs a size",
        ),
        (
            lambda m: (
                m.variable("used", m.int, 4, section=".ksyms"),
                m.sections[".ksyms"].append((m.btf.add_var("unused", m.int, 2), 0, 4)),
            ),
            "section .ksyms: BTF declares 'unused', which no symbol uses",
        ),
        (
            lambda m: (
                m.variable("CONFIG_A", m.int, 4),
                m.sections[".kconfig"].append((m.btf.add_var("CONFIG_B", m.int, 2), 0, 4)),
            ),
            "section .kconfig: BTF declares 'CONFIG_B', which no symbol uses",
        ),
        (
            lambda m: (
                m.symbol("f"),
                m.sections.setdefault(".kconfig", []).append(
                    (m.btf.add_func("f", m.btf.add_func_proto(m.int), 2), 0, 0)
                ),
            ),
            "section .kconfig, symbol f: a function cannot be an extern there",
        ),
    ],
)
def test_externs_that_are_refused(build, message):
    made = Externs()
    build(made)
    assert message in refused(made)


def test_extern_without_btf():
    made = ObjectBuilder()
    made.program("tc", [EXIT])
    made.symbol("x")
    assert "symbol x: the extern has no BTF; compile with -g" in refused(made)


def test_symbols_that_are_no_externs():
    made = ObjectBuilder()
    made.program("tc", [EXIT])
    made.symbol("x", kind=OBJECT)
    made.symbol("y", kind=FUNC)
    made.symbol("z", binding=LOCAL)
    assert not open_object(made.build()).externs
