"""What `assert_loads` says of an object, this kernel says too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.testing import assert_loads

pytestmark = pytest.mark.live

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)
TARGET = pybpfload.read_btf(OBJECTS / "core_target.bpf.o")
# Raw tracepoint programs on made-up types: nothing but relocation decides whether they load.
PROGRAMS = [
    (path.name.removesuffix(".bpf.o"), program)
    for path in sorted(OBJECTS.glob("core_*.bpf.o"))
    if not path.name.startswith(("core_kinds", "core_fields", "core_types", "core_module"))
    for program in pybpfload.open(path).programs
    if program != "walk"  # a tracepoint of the kernel, whose types are not the made-up ones
]


def problem(action) -> str:
    try:
        action()
    except (AssertionError, pybpfload.BpfError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "program"), PROGRAMS, ids="-".join)
def test_each_program_against_made_up_types(name, program):
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for each in spec.programs.values():
        each.autoload = each.name == program
    expected = problem(lambda: assert_loads(spec, TARGET))
    found = problem(lambda: spec.load(btf=TARGET).close())
    assert bool(found) == bool(expected), f"assert_loads: {expected!r}, the kernel: {found!r}"


@pytest.mark.parametrize("path", sorted(OBJECTS.glob("*.bpf.o")), ids=lambda path: path.stem[:-4])
def test_what_is_refused_on_paper_does_not_load(path):
    """The reverse need not be true: the verifier and privileges are not asked on paper."""
    expected = problem(lambda: assert_loads(path))
    if expected:
        assert problem(lambda: pybpfload.load(path).close()), expected
    else:
        assert pybpfload.open(path)
