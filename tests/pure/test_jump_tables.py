"""Jump tables: offsets in a section become instructions of whole programs."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from insns import CALL_SELF, EXIT, mov, wide

from pybpfload.errors import RelocationError
from pybpfload.isa.insn import Insn
from pybpfload.object import open_object
from pybpfload.relocate import Reference, ReferenceKind, relocate
from pybpfload.testing.objects import FUNC, LOCAL, OBJECT, ObjectBuilder

FIXTURES = Path(__file__).parents[2] / "fixtures"


class Switch(ObjectBuilder):
    """``main`` (from instruction 2 of its section on) calls ``second`` (from 2 of ``.text`` on).

    Args:
        entries: What ``.jumptables`` holds.
        ours, theirs: Offset and size there of the tables of ``main`` and of ``second``.
    """

    def __init__(
        self,
        *entries: int,
        ours: tuple[int, int] = (0, 16),
        theirs: tuple[int, int] = (0, 16),
        order: str = "<",
    ):
        super().__init__(order)
        tables = self.section(".jumptables", struct.pack(f"{order}{len(entries)}Q", *entries))
        text = self.code(".text", [mov(7), EXIT, *wide(0), mov(8), EXIT])
        second = self.symbol("second", text, 16, 32, kind=FUNC)
        main = self.code("tc", [mov(1), EXIT, *wide(0), CALL_SELF, EXIT])
        self.symbol("other", main, 0, 16, kind=FUNC)
        self.symbol("main", main, 16, 32, kind=FUNC)
        self.rel(main, 32, second)
        for section, (offset, size) in ((main, ours), (text, theirs)):
            table = self.symbol("", tables, offset, size, kind=OBJECT, binding=LOCAL)
            self.rel(section, 16, table)


@pytest.mark.parametrize("order", ["<", ">"])
def test_offsets_are_those_of_the_section_of_the_function_that_jumps(order):
    made = Switch(16, 40, 24, theirs=(8, 16), order=order)
    program = relocate(open_object(made.build())).programs["main"]
    assert [start for _, start in program.functions] == [0, 4]
    assert program.jump_tables == {0: (0, 3), 8: (4 + 3, 4 + 1)}
    assert program.references == [
        Reference(0, ReferenceKind.JUMP_TABLE, ".jumptables", 0),
        Reference(4, ReferenceKind.JUMP_TABLE, ".jumptables", 8),
    ]
    assert program.insns[0] == program.insns[4] == Insn(0x18, dst=1, src=2)


def test_a_table_is_that_of_the_first_function_that_uses_it():
    # libbpf makes one map for a table of a program, right for the function that is met first.
    program = relocate(open_object(Switch(16, 24).build())).programs["main"]
    assert program.jump_tables == {0: (0, 1)}
    assert [reference.insn for reference in program.references] == [0, 4]


def test_programs_that_share_a_function_have_tables_of_their_own():
    spec = open_object(FIXTURES / "bpfel" / "jump_tables.bpf.o")
    programs = relocate(spec, everything=True).programs
    (shared,) = programs["choose_again"].jump_tables
    starts = {
        name: next(at for function, at in program.functions if function.name == "table")
        for name, program in programs.items()
    }
    one, other = (programs[name].jump_tables[shared] for name in ("choose", "choose_again"))
    distance = starts["choose"] - starts["choose_again"]
    assert [index - distance for index in one] == list(other)
    for name, program in programs.items():
        for table in program.jump_tables.values():
            assert all(0 < index < len(program.insns) for index in table), name


def test_both_byte_orders_have_the_same_tables():
    found = [
        relocate(open_object(FIXTURES / order / "jump_tables.bpf.o")).programs["choose"].jump_tables
        for order in ("bpfel", "bpfeb")
    ]
    assert found[0] == found[1] != {}


@pytest.mark.parametrize(
    ("entries", "table", "said"),
    [
        ((16, 24), (0, 12), "jump table has 12 bytes, which are no whole entries"),
        ((16, 24), (4, 8), "has 8 bytes, which are no whole entries"),
        ((16, 24), (0, 0), "is empty"),
        ((16, 24), (8, 16), "has 16 bytes, beyond the end of the section"),
        ((16, 8), (0, 16), "leads to 0x8, which is not in function main"),
        ((16, 1 << 40), (0, 16), "leads to 0x10000000000, which is not in function main"),
    ],
)
def test_damaged_tables(entries, table, said):
    with pytest.raises(RelocationError, match=said) as caught:
        relocate(open_object(Switch(*entries, ours=table).build()))
    place = f"object, section .jumptables, offset {table[0]:#x}, program main, instruction 0: "
    assert str(caught.value).startswith(place)
