"""Blocks of code, and the ways between them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.errors import FormatError
from pybpfload.isa import cfg
from pybpfload.isa import insn as isa
from pybpfload.isa.cfg import Block, Edge, EdgeKind, control_flow
from pybpfload.isa.disasm import disassemble
from pybpfload.isa.insn import Insn

GOTOX = Insn(isa.JMP | isa.JMP_JA | isa.SRC_X, 1)


def test_conditions_loops_and_calls():
    flow = control_flow(
        [
            isa.jmp_imm(isa.JMP_JEQ, 1, 0, 3),  # 0
            isa.call(1),  # 1: ends no block
            isa.call(3, isa.PSEUDO_CALL),  # 2: 6 begins one
            isa.ja(-4),  # 3
            *isa.ld_imm64(0, 7),  # 4
            isa.exit_(),  # 6
        ]
    )
    assert flow.blocks == (Block(0, 1), Block(1, 4), Block(4, 6), Block(6, 7))
    assert flow.edges == (
        Edge(0, 2, EdgeKind.TAKEN),
        Edge(0, 1, EdgeKind.NOT_TAKEN),
        Edge(1, 0, EdgeKind.JUMP),
        Edge(2, 3, EdgeKind.FALL),
    )
    assert flow.reachable() == {0, 1, 2, 3}
    assert flow.reachable(2) == {2, 3}
    assert [flow.block_at(index) for index in range(7)] == [0, 1, 1, 1, 2, 2, 3]
    with pytest.raises(IndexError):
        flow.block_at(7)


def test_computed_jumps_go_where_the_tables_say():
    code = [GOTOX, isa.mov64_imm(0, 1), isa.exit_(), isa.exit_()]
    flow = control_flow(code, tables=[3, 1, 3, 99])
    assert flow.edges == (Edge(0, 1, EdgeKind.TABLE), Edge(0, 2, EdgeKind.TABLE))
    assert control_flow(code).edges == ()


def test_kinds_of_jumps():
    may_goto = Insn(isa.JMP | isa.JMP_JCOND, off=1)
    gotol = Insn(isa.JMP32 | isa.JMP_JA, imm=-2)
    flow = control_flow([may_goto, gotol, Insn(isa.CALL | isa.SRC_X, 1), isa.exit_()])
    assert flow.blocks == (Block(0, 1), Block(1, 2), Block(2, 4))
    assert flow.edges == (
        Edge(0, 2, EdgeKind.TAKEN),
        Edge(0, 1, EdgeKind.NOT_TAKEN),
        Edge(1, 0, EdgeKind.JUMP),
    )


def test_what_leads_nowhere():
    assert control_flow([]).blocks == ()
    assert control_flow([]).reachable() == set()
    out = control_flow([isa.ja(5), isa.jmp_imm(isa.JMP_JEQ, 1, 0, -9)])
    assert out.edges == ()
    into_constant = control_flow([isa.ja(1), *isa.ld_imm64(0, 7)])
    assert into_constant.edges == ()
    assert into_constant.blocks == (Block(0, 1), Block(1, 3))


def test_tables_of_hostile_files(monkeypatch):
    monkeypatch.setattr(cfg, "_MOST_EDGES", 10)
    with pytest.raises(FormatError, match="more than 10 ways"):
        control_flow([GOTOX] * 4, tables=range(4))


slots = st.builds(
    Insn,
    st.sampled_from([0x05, 0x06, 0x0D, 0x15, 0x1D, 0x85, 0x8D, 0x95, 0xE5, 0xB7, 0x18, 0x00, 0x96]),
    off=st.integers(-4, 4),
    imm=st.integers(-4, 4),
)


@settings(max_examples=30)
@given(st.lists(slots, max_size=12), st.sets(st.integers(-2, 14), max_size=4))
def test_blocks_cover_the_code_and_edges_join_their_ends(code, tables):
    flow = control_flow(code, tables=tables)
    assert [slot for block in flow.blocks for slot in range(*block)] == list(range(len(code)))
    lines = {line.index: line for line in disassemble(code)}
    last = {}
    for index in lines:
        last[flow.block_at(index)] = index
    for source, target, kind in flow.edges:
        end, start = last[source], flow.blocks[target].start
        if kind in (EdgeKind.FALL, EdgeKind.NOT_TAKEN):
            assert start == flow.blocks[source].end
        elif kind == EdgeKind.TABLE:
            assert code[end].code == GOTOX.code
            assert start in tables
        else:
            assert start == lines[end].target
    # No jump leads into the middle of a block.
    starts = {block.start for block in flow.blocks}
    for line in lines.values():
        if line.target in lines and code[line.index].op != isa.JMP_CALL:
            assert line.target in starts
