"""C types of an object as Python classes."""

from __future__ import annotations

from pathlib import Path

import pytest

import pybpfload

OBJECTS = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("order", ["bpfel", "bpfeb"])
def test_records_and_enums_by_name(order):
    types = pybpfload.open(OBJECTS / order / "unlink.bpf.o").types
    event = types["unlink_event"]
    made = event(probe="PROBE_FEXIT", tgid=7, retval=-2, name="file")
    assert event.from_buffer(made.to_bytes()) == made
    assert made.probe is types["probe"].PROBE_FEXIT
    assert made.retval == -2
    assert {"unlink_event", "probe"} <= set(types)


def test_a_wrong_name_gets_a_suggestion():
    types = pybpfload.open(OBJECTS / "bpfel" / "unlink.bpf.o").types
    with pytest.raises(KeyError, match="did you mean 'unlink_event'"):
        types["unlink_evnt"]


def test_an_object_without_btf_has_no_types():
    assert list(pybpfload.open(OBJECTS / "bpfel" / "nobtf.bpf.o").types) == []


def test_a_spec_relocates_itself():
    spec = pybpfload.open(OBJECTS / "bpfel" / "core_local.bpf.o")
    target = pybpfload.open(OBJECTS / "bpfel" / "core_target.bpf.o").btf
    relocation = spec.relocate(target)
    assert relocation.decisions
    assert relocation.programs["sizes"].insns != spec.programs["sizes"].insns
