"""``pybpfload disasm``."""

import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

import pybpfload
from pybpfload.cli import main
from pybpfload.cli.disasm_text import render
from pybpfload.isa.insn import encode
from pybpfload.relocate.listing import listings
from pybpfload.relocate.source import SourceLine

FIXTURES = Path(__file__).parents[2] / "fixtures"
EXECSNOOP = str(FIXTURES / "bpfel" / "execsnoop.bpf.o")
TABLES = str(FIXTURES / "bpfel" / "jump_tables.bpf.o")
TYPES = str(FIXTURES / "bpfel" / "core_target.bpf.o")


def run(capsys, *arguments):
    status = main(["disasm", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(FIXTURES.glob("bpfeb/[f-kn]*.bpf.o")), ids=lambda path: path.name
)
def test_fixtures_are_shown_whole_or_refused_in_one_line(path, capsys):
    status, out, err = run(capsys, "--json", str(path))
    if status:
        assert (status, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert path.name.startswith("nobtf_maps")
        return
    spec = pybpfload.open(path)
    documents = json.loads(out)
    assert [each["name"] for each in documents] == [f.name for f in spec.functions]
    for each, function in zip(documents, spec.functions, strict=True):
        code = "".join(insn["bytes"] for insn in each["instructions"])
        assert code == encode(function.insns, ">").hex()
        assert each["blocks"][-1]["end"] == len(function.insns)


def test_json(capsys):
    [document] = json.loads(run(capsys, "--json", EXECSNOOP, "on_exit")[1])
    assert (document["section"], document["subprogram"]) == ("tp_btf/sched_process_exit", False)
    insn = document["instructions"][3]
    assert insn["source"]["text"] == "if (task->pid != task->tgid)"
    assert insn["source"]["number"] == 124
    insn.pop("source")
    assert insn == {
        "index": 3,
        "text": "if w2 != w1 goto +0x33 <L2>",
        "bytes": "5e12330000000000",
        "label": None,
        "comment": None,
        "target": 55,
        "since": "5.1",
        "problems": [],
    }
    assert document["edges"][0] == {"source": 0, "target": 6, "kind": "taken"}


def test_text(capsys):
    lines = run(capsys, "--ascii", EXECSNOOP, "on_exit")[1].splitlines()
    head = 'program on_exit SEC("tp_btf/sched_process_exit"), tracing, 57 instructions'
    assert lines[0] == head
    assert ".----      3: if w2 != w1 goto +0x33 <L2>" in lines
    assert "| '-> L0:" in lines
    assert any(line.endswith("; map events") for line in lines)
    sources = [line for line in lines if "; execsnoop.bpf.c:" in line]
    assert sources[0].endswith(
        "c:121: struct task_struct *task = arg(ctx, 0, struct task_struct *);"
    )
    # Each line once, as long as no other comes between.
    assert all(a != b for a, b in pairwise(sources))
    bare = run(capsys, "--no-source", "--no-arrows", EXECSNOOP, "on_exit")[1].splitlines()
    assert len(bare) == 1 + 54 + 3  # heading, instructions, labels
    assert bare[1] == "     0: r7 = *(u64 *)(r1 + 0x0)"
    assert "    12: b708000000000000" in run(capsys, "--bytes", EXECSNOOP)[1]


def test_unicode_where_the_encoding_has_it(capsys):
    assert "╰─▶ L0:" in run(capsys, EXECSNOOP)[1]
    assert run(capsys, "--ascii", EXECSNOOP)[1].isascii()


def test_core_on_a_chosen_kernel(capsys):
    path = str(FIXTURES / "bpfel" / "core_fields.bpf.o")
    plain, there = run(capsys, path)[1], run(capsys, "--btf", TYPES, path)[1]
    assert re.search(r"; CO-RE byte_off struct [\w.]+\n", plain)
    assert re.search(r"; CO-RE \w+ .* = \d+, was \d+\n", there)


def test_words_may_follow_options(capsys):
    status, out, _ = run(capsys, EXECSNOOP, "--btf", TYPES, "--no-source", "on_exit")
    assert status in (0, 1)  # whatever that BTF has
    status, out, _ = run(capsys, EXECSNOOP, "--no-source", "on_exit")
    assert (status, out.count("program ")) == (0, 1)


@pytest.mark.parametrize("form", ["ascii", "dot", "mermaid", "svg"])
def test_control_flow(form, capsys):
    status, out, err = run(capsys, "--cfg", form, TABLES, "table")
    assert (status, err) == (0, "")
    beginning = {"ascii": "table\n", "dot": "digraph ", "mermaid": "---\n", "svg": "<?xml"}[form]
    assert out.startswith(beginning)
    assert out.count("gotox r1") == 1
    if form == "svg":
        ElementTree.fromstring(out)


def test_pictures_are_of_one_function(capsys):
    status, out, err = run(capsys, "--cfg", "svg", EXECSNOOP)
    assert (status, out) == (2, "")
    assert "--cfg svg shows one function; choose one of on_exec, on_exit" in err
    status, out, _ = run(capsys, "--cfg", "dot", EXECSNOOP)
    assert (status, out.count("digraph")) == (0, 2)


def test_names_that_are_not_there(capsys):
    status, _, err = run(capsys, EXECSNOOP, "on_exitt")
    assert (status, err) == (2, "pybpfload: no program 'on_exitt', did you mean 'on_exit'?\n")


def test_hostile_names_cannot_command_the_terminal():
    spec = pybpfload.open(EXECSNOOP)
    function = spec.functions[0]
    function.name = "\x1b[2J"
    [listing] = listings(spec, functions=[function])
    line = SourceLine("C:\\a\\\x1bb.c", 3, "\x9b1m")
    listing.rows[0] = type(listing.rows[0])(listing.rows[0].line, b"", line, "")
    text = "\n".join(render(listing))
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "; \\x1bb.c:3: \\x9b1m" in text
    assert "\x1b" not in listing.diagram().text() + listing.diagram().svg()
