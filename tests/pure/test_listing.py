"""Listings: code with all that the object says of it."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import pybpfload
from pybpfload.errors import RelocationError
from pybpfload.isa.cfg import EdgeKind
from pybpfload.isa.insn import decode, encode
from pybpfload.relocate.listing import listings

FIXTURES = Path(__file__).parents[2] / "fixtures"
LITTLE = FIXTURES / "bpfel"


def opened(name, folder="bpfel"):
    return pybpfload.open(FIXTURES / folder / f"{name}.bpf.o")


def of(name, function, target=None):
    spec = opened(name)
    [found] = listings(spec, target, functions=[f for f in spec.functions if f.name == function])
    return found


def comments(listing):
    return {row.line.index: row.line.comment for row in listing.rows if row.line.comment}


@pytest.mark.parametrize(
    ("folder", "name"),
    [("bpfel", "execsnoop"), ("bpfel", "subprogs"), ("bpfel", "exceptions"), ("bpfeb", "globals")],
)
def test_texts_and_labels_are_those_of_llvm_objdump(folder, name):
    if shutil.which("llvm-objdump-22") is None:
        pytest.skip("needs llvm-objdump-22 (package llvm-22)")
    path = FIXTURES / folder / f"{name}.bpf.o"
    done = subprocess.run(
        ["llvm-objdump-22", "-d", "--symbolize-operands", "--no-show-raw-insn", path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # A label is a line before its instruction.
    theirs = [
        (label, int(index), text)
        for label, index, text in re.findall(
            r"^(?:<(L\d+)>:\n)? +(\d+):\t(.*)$", done.stdout, re.MULTILINE
        )
    ]
    ours = [
        (row.label, listing.function.start + row.line.index, row.line.text)
        for listing in listings(opened(name, folder))
        for row in listing.rows
    ]
    assert sorted(ours) == sorted(theirs)


@pytest.mark.parametrize("folder", ["bpfel", "bpfeb"])
def test_bytes_are_those_of_the_file(folder):
    spec = opened("subprogs", folder)
    for listing in listings(spec):
        code = b"".join(row.code for row in listing.rows)
        assert decode(code, spec.byteorder) == listing.function.insns


def test_what_instructions_refer_to():
    found = comments(of("execsnoop", "on_exec"))
    assert found[1] == "CO-RE byte_off struct task_struct.real_parent"
    assert found[4] == "&target_ppid"
    assert found[10] == "map events"
    assert found[14] == "bpf_ringbuf_reserve"
    assert found[18] == "&dropped"
    names = {
        words
        for name in ("ksyms", "ksyms_typed", "kfuncs", "kconfig", "jump_tables")
        for listing in listings(opened(name))
        for words in comments(listing).values()
    }
    assert {words.split()[0] for words in names} >= {
        "ksym", "ksym_btf", "kfunc", "kconfig", "jump_table",
    }  # fmt: skip


def test_calls_name_the_subprogram():
    spec = opened("subprogs")
    known = {function.name for function in spec.functions}
    called = {
        row.line.comment
        for listing in listings(spec)
        for row in listing.rows
        if listing.insns[row.line.index].is_subprog_call
    }
    assert called
    assert called <= known


def test_source_lines():
    sources = [row.source for row in of("execsnoop", "on_exec").rows]
    assert sources[0].text == "struct task_struct *task = arg(ctx, 0, struct task_struct *);"
    assert sources[0].file.endswith("execsnoop.bpf.c")
    assert sources[0].number > 0
    assert {row.source for listing in listings(opened("nobtf")) for row in listing.rows} == {None}


def test_a_target_changes_the_code_and_tells_what_it_was():
    target = pybpfload.read_btf(LITTLE / "core_target.bpf.o")
    spec = opened("core_fields")
    before = {f.name: list(f.insns) for f in spec.functions}
    plain, patched = listings(spec), listings(spec, target)
    assert {f.name: f.insns for f in spec.functions} == before
    assert any(a.insns != b.insns for a, b in zip(plain, patched, strict=True))
    changed = 0
    for listing in patched:
        assert listing.core
        for index, decision in listing.core:
            words = comments(listing)[index]
            assert words.startswith(f"CO-RE {decision.kind_name} ")
            if decision.value is None:
                assert words.endswith(": poisoned")
            elif decision.value != decision.original:
                assert words.endswith(f"= {decision.value}, was {decision.original}")
                changed += 1
            [row] = [row for row in listing.rows if row.line.index == index]
            assert row.code == encode(decision.after, "<")
    assert changed
    assert not any(listing.core for listing in plain)


def test_only_the_chosen_functions_are_relocated():
    target = pybpfload.read_btf(LITTLE / "core_target.bpf.o")
    spec = opened("core_refused")
    with pytest.raises(RelocationError):
        listings(spec, target)
    assert len(listings(spec)) == len(spec.functions)
    assert listings(spec, target, functions=[]) == []


def test_poisoned_instructions():
    target = pybpfload.read_btf(LITTLE / "core_target.bpf.o")
    words = [w for each in listings(opened("core_poison"), target) for w in comments(each).values()]
    assert [text for text in words if text.endswith(": poisoned")]


def test_damaged_core_records_are_told_without_a_target():
    spec = opened("core_fields")
    function = next(f for f in spec.functions if len(f.core_relos) > 1)
    (a, at, record), (b, there, other), *rest = function.core_relos
    function.core_relos[:] = [
        (a, at, record._replace(kind=99)),
        (b, there, other._replace(access_str="0:x")),
        *rest,
    ]
    [listing] = listings(spec, functions=[function])
    found = comments(listing)
    assert "CO-RE of unknown kind 99" in found[at]
    assert "is not made of numbers and colons" in found[there]


def test_jump_tables_lead_the_flow():
    listing = of("jump_tables", "table")
    labels = [row.label for row in listing.rows if row.label]
    assert labels == [*(f"T{n}" for n in range(8)), "L0"]
    kinds = [edge.kind for edge in listing.control_flow.edges]
    assert kinds.count(EdgeKind.TABLE) == 8
    assert listing.control_flow.reachable() == set(range(len(listing.control_flow.blocks)))


def test_a_damaged_jump_table_is_refused():
    spec = replace(opened("jump_tables"), jump_tables=b"")
    with pytest.raises(RelocationError, match="beyond the end"):
        listings(spec)


def test_diagram():
    listing = of("execsnoop", "on_exit")
    diagram = listing.diagram()
    titles = [box.title for box in diagram.boxes]
    assert titles == ["on_exit", "at 4", "at 10", "L0", "at 19", "L1", "L2"]
    assert len(diagram.ways) == len(listing.control_flow.edges)
    lines = [line for box in diagram.boxes for line in box.lines]
    assert "  17: call 0x83  ; bpf_ringbuf_reserve" in lines
    assert "; if (!event) {" in lines
    bare = [line for box in listing.diagram(source=False).boxes for line in box.lines]
    assert bare == [line for line in lines if not line.startswith(";")]
    assert len(bare) == len(listing.rows)
