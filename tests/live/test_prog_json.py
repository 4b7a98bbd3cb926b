"""JSON of ``prog list`` and ``prog show`` against bpftool's: every key, with the same value."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from bpftool import bpftool, needs_bpftool
from mounts import in_own_mounts

import pybpfload
from pybpfload.cli import main

pytestmark = [pytest.mark.live, needs_bpftool]

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
OBJECTS = ["minimal", "subprogs", "network", "cgroups", "iters", "tracepoint", "rawtp", "execsnoop"]

OURS = {"verified_insns", "orphaned", "pids"}
"""What bpftool lacks: ``orphaned`` older ones, ``pids`` those built without a program for that."""
PASSING = {"run_time_ns", "run_cnt", "recursion_misses"}
"""What may change between two looks."""


def ours(capsys, *words):
    assert main(["--json", *map(str, words)]) == 0
    return json.loads(capsys.readouterr().out)


def agree(theirs, mine):
    assert {*theirs} <= {*mine}
    assert {*mine} - {*theirs} <= OURS | PASSING
    for key in {*theirs} - PASSING:
        assert mine[key] == theirs[key], (key, mine["name"])


@pytest.mark.parametrize("name", OBJECTS)
def test_each_program(name, capsys):
    spec = pybpfload.open(FIXTURES / f"{name}.bpf.o")
    for each in spec.programs.values():
        each.autoload = not each.name.startswith("unknown")
    with spec.load() as obj:
        programs = obj.programs.values()
        ids = [each.info(code=False).id for each in programs]
        listed = {each["id"]: each for each in ours(capsys, "prog", "list")}
        theirs = {each["id"]: each for each in bpftool("prog", "list")}
        assert {*ids} <= {*listed} & {*theirs}
        for number in ids:
            agree(theirs[number], listed[number])
            assert os.getpid() in [process["pid"] for process in listed[number]["pids"]]
        first = next(iter(programs)).info(code=False)
        agree(bpftool("prog", "show", "id", first.id), ours(capsys, "prog", "show", "id", first.id))


def test_while_runs_are_counted(capsys):
    spec = pybpfload.open(FIXTURES / "minimal.bpf.o")
    with spec.load() as obj, pybpfload.ProgramStats():
        obj.attach()
        number = obj.programs["count_syscalls"].info(code=False).id
        before = ours(capsys, "prog", "show", number)
        theirs = bpftool("prog", "show", "id", number)
        after = ours(capsys, "prog", "show", number)
    agree(theirs, after)
    for key in ("run_time_ns", "run_cnt"):
        assert before[key] <= theirs[key] <= after[key]


PINNED = """
import json, os
import pybpfload
from bpftool import bpftool
from pybpfload.cli import main
mount(b"bpf", b"/sys/fs/bpf")
def pin(name):
    return f"/sys/fs/bpf/pybpfload-{os.getpid()}-{name}"
with pybpfload.open(OBJECT).load() as obj:
    number = obj.programs["count_syscalls"].info(code=False).id
    for name in ("one", "two"):
        assert main(["prog", "pin", "id", str(number), pin(name)]) == 0
    theirs = bpftool("-f", "prog", "show", "pinned", pin("one"))
    print(json.dumps(theirs["pinned"]), flush=True)
    assert main(["prog", "show", "--json", "pinned", pin("two")]) == 0
    for name in ("one", "two"):
        assert main(["prog", "unpin", pin(name)]) == 0
        assert not os.path.exists(pin(name))
"""


def test_pins():
    said = in_own_mounts(PINNED.replace("OBJECT", repr(str(FIXTURES / "minimal.bpf.o"))))
    theirs, _, mine = said.partition("\n")
    # bpftool looks into every mounted bpffs, one below the other at the same place included.
    pins = set(json.loads(theirs))
    assert json.loads(mine)["pinned"] == sorted(pins)
    assert len(pins) == 2
