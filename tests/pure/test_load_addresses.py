"""What loading fills in besides descriptors of maps, and which programs it loads."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.isa import insn as isa
from pybpfload.testing.fakekernel import Call, FakeKernel
from pybpfload.testing.fakeobjects import FakeObject
from pybpfload.uapi import AttachType, MapType

ORDER = "<" if sys.byteorder == "little" else ">"
OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)
PAGE = 4096


def loaded(fake: FakeKernel, name: str) -> Call:
    """The call that loaded a program."""
    wanted = name.encode().ljust(16, b"\0")
    calls = (call for call in fake.calls if call.command == "PROG_LOAD")
    return next(call for call in calls if call.fields["prog_name"] == wanted)


def test_jump_tables_become_maps_that_are_closed_after_loading():
    spec = pybpfload.open(OBJECTS / "jump_tables.bpf.o")
    for program in spec:
        program.autoload = True
    relocated = spec.relocate().programs["choose"]
    fake = FakeKernel()
    tables = {}

    def look(call: Call) -> None:
        for insn in isa.decode(call.insns, ORDER):
            target = fake.fds.get(insn.imm)
            if insn.is_ldimm64 and target is not None and target["map_type"] == MapType.INSN_ARRAY:
                tables.setdefault(call.fields["prog_name"].rstrip(b"\0"), []).append(target)

    fake.on("PROG_LOAD", look)
    with fake, spec.load():
        assert not [each for each in fake.of_kind("map") if each.name == ".jumptables"]
    made = tables[b"choose"]
    assert [(m.name, m["key_size"], m["value_size"], m.frozen) for m in made] == [
        (".jumptables", 4, 16, True)
    ] * len(relocated.jump_tables)
    contents = [
        [struct.unpack("=4I", each.elements[key]) for key in FakeObject.keys(each)] for each in made
    ]
    assert contents == [[(at, 0, 0, 0) for at in table] for table in relocated.jump_tables.values()]
    assert not set(map(id, made)) & set(map(id, tables[b"choose_again"]))


@pytest.mark.parametrize(("version", "start"), [("6.12", 0), ("7.0", 15 * PAGE)])
def test_variables_are_on_the_last_pages_of_an_arena(version, start):
    spec = pybpfload.open(OBJECTS / "arena.bpf.o")
    spec.maps["arena"].map_extra = 0
    references = spec.relocate().programs["push"].references
    reference = next(each for each in references if each.name == "arena")
    with FakeKernel.like(version) as fake, spec.load():
        (made,) = [m for m in fake.of_kind("map") if m["map_type"] == MapType.ARENA]
        memory = made.mappings[0]
        assert len(memory) == 16 * PAGE
        assert memory[start : start + 8] == (100).to_bytes(8, sys.byteorder)
        insns = isa.decode(loaded(fake, "push").insns, ORDER)
        assert insns[reference.insn + 1].imm == reference.addend + start
    assert fake.leaked() == []


@pytest.mark.parametrize(
    ("version", "expected"), [("6.5", 0), ("6.6", AttachType.TRACE_UPROBE_MULTI)]
)
def test_usdt_programs_are_for_multi_uprobes_where_there_are_any(version, expected):
    spec = pybpfload.open(OBJECTS / "uprobe.bpf.o")
    for program in spec:
        program.autoload = program.section == "usdt"
    with FakeKernel.like(version) as fake, spec.load():
        pass
    assert loaded(fake, "on_usdt").fields["expected_attach_type"] == expected


def test_maps_decide_which_struct_ops_programs_are_loaded():
    spec = pybpfload.open(OBJECTS / "struct_ops.bpf.o")
    assert spec.maps["plain"].autocreate
    used = set(spec.loaded_programs)
    assert used == {"cc_ssthresh", "cc_cong_avoid", "cc_undo_cwnd", "cc_init"}
    spec.programs["cc_init"].autoload = False  # overruled by the map
    assert set(spec.loaded_programs) == used
    spec.programs["cc_unused"].autoload = True  # in no map
    assert set(spec.loaded_programs) == {*used, "cc_unused"}
    for each in spec.struct_ops:
        each.map.autocreate = each.map.name == "off"
    assert set(spec.loaded_programs) == used - {"cc_init"} | {"cc_unused"}
    assert set(spec.relocate().programs) == set(spec.loaded_programs)
    assert set(spec.relocate(everything=True).programs) == set(spec.programs)


@pytest.mark.parametrize(
    ("target", "refused"), [("", ""), ("/vfs_*", ""), ("/no_module:vfs_*", "no_module")]
)
def test_programs_for_many_functions_need_to_know_their_module_only(target, refused):
    spec = pybpfload.open(OBJECTS / "sections.bpf.o")
    program = next(each for each in spec if each.section == "fentry.multi")
    for each in spec:
        each.autoload = each is program
    program.section += target
    with FakeKernel() as fake:
        if refused:
            with pytest.raises(pybpfload.AttachError, match=f"module '{refused}' is not loaded"):
                spec.load()
        else:
            with spec.load():
                call = loaded(fake, program.name[:15])
            assert call.fields["expected_attach_type"] == AttachType.TRACE_FENTRY_MULTI
            assert (call.fields["attach_btf_id"], call.fields["attach_prog_fd"]) == (0, 0)
    assert fake.leaked() == []
