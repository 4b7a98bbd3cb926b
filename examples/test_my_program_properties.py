"""Tests of fixtures/my_program.bpf.c on kernels, packets and damage that Hypothesis makes up."""

import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import pybpfload
from pybpfload.testing import (
    assert_deterministic,
    assert_loads,
    assert_only_bpf_errors,
    assert_own_btf_changes_nothing,
    assert_round_trip,
    check_case,
    check_reads,
    strategies,
)
from pybpfload.testing.cmodel import INT, Field, Pointer, Record, Tag, Types
from pybpfload.testing.running import load

FIXTURES = Path(__file__).parents[1] / "fixtures"
OBJECTS = {  # by byte order
    "<": FIXTURES / "bpfel" / "my_program.bpf.o",
    ">": FIXTURES / "bpfeb" / "my_program.bpf.o",
}
ORDER = "<" if sys.byteorder == "little" else ">"
OBJECT = OBJECTS[ORDER]

XDP_PASS = 2

# A busy machine is no defect.
settings.register_profile("my_program", deadline=None, max_examples=25)
settings.load_profile("my_program")


@given(st.lists(st.binary(min_size=14, max_size=200), max_size=5))
def test_no_packet_confuses_it(packets):
    with load(OBJECT, btf=pybpfload.open(OBJECT).btf) as loaded:
        for packet in packets:
            result = loaded["account"].run(packet)
            assert (result.retval, result.data_out) == (XDP_PASS, packet)
        counted = sum(loaded.maps["bytes_by_protocol"].values())
        assert counted <= sum(map(len, packets))


# What becomes of struct task_struct in kernels that nobody has built: fields are moved, renamed,
# retyped, dropped, wrapped in anonymous structs. The program guards what it reads, so it loads; and
# whatever it reads is what it asked for.

TASK = Record(
    "task_struct",
    (Field("tgid", INT), Field("real_parent", Pointer(Tag("struct", "task_struct")))),
)


@given(strategies.evolutions(TASK))
def test_it_loads_whatever_becomes_of_tasks(evolution):
    kept = [] if evolution.after is None else [evolution.after]
    kernel = Types([*kept, *evolution.decoys], ORDER).btf("a future kernel")
    assert_loads(OBJECT, kernel)
    check_reads(OBJECT, kernel)


@given(strategies.cases(order=ORDER))
def test_relocation_itself(case):
    """Any C types, any accesses, any kernel: pybpfload against a model."""
    check_case(case)


def test_relocation_of_my_program(kernel_btf):
    obj = OBJECTS[kernel_btf.byteorder]
    assert_deterministic(obj, kernel_btf)
    assert_own_btf_changes_nothing(obj)
    assert_round_trip(obj)
    assert check_reads(obj, kernel_btf) == 2


@given(strategies.corrupted(st.just(OBJECT.read_bytes())))
def test_damage_is_noticed(mutation):
    """What reads the object gets a `BpfError` or an object, never anything else."""
    assert_only_bpf_errors(mutation.data)
