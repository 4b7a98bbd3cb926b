"""Properties of relocation: on what Hypothesis makes up, on the fixtures, and on broken relocators.

``pytest --hypothesis-profile thorough tests/pure/test_properties.py`` looks a hundred times harder.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from pybpfload.errors import BpfError, RelocationError
from pybpfload.isa import insn as isa
from pybpfload.isa.insn import exit_, ldx
from pybpfload.object import open_object
from pybpfload.relocate import CoreKind, relocate
from pybpfload.relocate.core import compute, patch
from pybpfload.testing import (
    assert_deterministic,
    assert_idempotent,
    assert_only_bpf_errors,
    assert_own_btf_changes_nothing,
    assert_round_trip,
    assert_same_in_both_orders,
    check_case,
    check_reads,
    strategies,
)
from pybpfload.testing.access import Access
from pybpfload.testing.cases import SHIFTS, Case, Evolution, Form, Probe, Verdict
from pybpfload.testing.cmodel import INT, UINT, ULONG, Array, Field, Float, Record
from pybpfload.testing.objects import ObjectBuilder, Site
from pybpfload.testing.properties import outcome

FIXTURES = Path(__file__).parents[2] / "fixtures"
LITTLE, BIG = FIXTURES / "bpfel", FIXTURES / "bpfeb"


def scaled(examples: int) -> settings:
    """So many examples; more by the same factor under ``--hypothesis-profile thorough``."""
    return settings(max_examples=max(examples * settings.default.max_examples // 100, 1))


# Made-up problems


@given(strategies.cases())
@scaled(80)
def test_relocated_programs_do_what_the_model_says(case):
    check_case(case)


@given(strategies.cases(kinds=(CoreKind.BYTE_OFF,), max_probes=1))
@scaled(60)
def test_fields_are_read_and_written_where_the_model_put_them(case):
    check_case(case)


@given(strategies.cases())
@scaled(15)
def test_both_byte_orders_behave_the_same(case):
    other = case.swapped()
    try:
        relocation = relocate(open_object(case.data), case.target)
    except RelocationError:
        with pytest.raises(RelocationError):
            relocate(open_object(other.data), other.target)
        return
    assert_same_in_both_orders(case.data, other.data, case.target, other.target)
    there = relocate(open_object(other.data), other.target)
    for name, probe in case.probes.items():
        if probe.kind not in SHIFTS and case.answer(probe) is not Verdict.UNKNOWN:
            assert outcome(case, relocation, name) == outcome(other, there, name)


@given(strategies.cases())
@scaled(10)
def test_relocation_is_deterministic(case):
    assert_deterministic(case.data, case.target)


@given(strategies.cases())
@scaled(15)
def test_relocation_is_idempotent(case):
    if Verdict.REFUSED not in map(case.answer, case.probes.values()):
        assert_idempotent(case.data, case.target)


@given(strategies.cases())
@scaled(15)
def test_own_types_change_nothing(case):
    if Verdict.REFUSED not in map(case.answer, case.probes.values()):
        kinds = [probe.kind for probe in case.probes.values()]
        reflexive = [kind for kind in kinds if kind != CoreKind.TYPE_MATCHES]
        assert assert_own_btf_changes_nothing(case.data) >= len(reflexive)


def test_types_with_floats_do_not_match_themselves():
    """libbpf's rule, found by these properties: neither is an error."""
    with_float = Record("s", (Field("f", Float("float", 4)), Field("a", INT, origin=1)))
    without = Record("s", (Field("a", INT, origin=1),))
    for before, matches in ((without, True), (with_float, False)):
        evolution = Evolution(before, with_float, matches=matches)
        case = Case([Probe(CoreKind.TYPE_MATCHES, Form.MOV, Access(before, (0,)), evolution)])
        check_case(case)
        assert assert_own_btf_changes_nothing(case.data) == 0
        assert assert_idempotent(case.data, case.target) == 0


@given(strategies.btfs())
@scaled(15)
def test_types_survive_a_round_trip(btf):
    assert_round_trip(btf)


@given(strategies.objects())
@scaled(10)
def test_objects_survive_a_round_trip(data):
    assert_round_trip(data)


@given(strategies.corrupted(strategies.objects()), strategies.btfs())
@scaled(25)
def test_damaged_objects_end_in_a_bpf_error(damaged, btf):
    assert_only_bpf_errors(damaged.data, btf)


@given(
    strategies.cases(max_probes=1),
    strategies.corrupted(strategies.btfs().map(lambda btf: btf.to_bytes())),
)
@scaled(10)
def test_damaged_types_end_in_a_bpf_error(case, damaged):
    assert_only_bpf_errors(damaged.data)
    assert_only_bpf_errors(case.data, damaged.data)


# Objects that clang built


CORE = ("core_anon", "core_arrays", "core_bits", "core_enums", "core_kinds", "linked_core")


def target(folder: Path):
    return open_object(folder / "core_target.bpf.o").btf


@pytest.mark.slow
@pytest.mark.parametrize("name", CORE)
def test_fixtures(name):
    little, big = LITTLE / f"{name}.bpf.o", BIG / f"{name}.bpf.o"
    assert_deterministic(little, target(LITTLE))
    found = any(d.target for d in relocate(open_object(little), target(LITTLE)).decisions)
    assert (assert_idempotent(little, target(LITTLE)) > 0) == found
    assert_round_trip(little)
    assert_round_trip(big)
    assert assert_same_in_both_orders(little, big, target(LITTLE), target(BIG)) > 0
    assert (assert_own_btf_changes_nothing(little) > 0) == (name != "linked_core")  # flavors


@pytest.mark.parametrize("folder", [LITTLE, BIG])
@pytest.mark.parametrize(("name", "reads"), [("core_anon", 20), ("core_arrays", 14)])
def test_reads_of_fixtures(folder, name, reads):
    assert check_reads(folder / f"{name}.bpf.o", target(folder)) == reads


# Answers worked out by hand


BEFORE = Record("s", (Field("a", INT, origin=1), Field("b", Array(UINT, 2), origin=2)))
AFTER = Record(
    "s",
    (
        Field("b", Array(ULONG, 1), origin=2),
        Field("c", INT),
        Field("", Record("", (Field("a", INT, 7, origin=1),))),
    ),
)
CHANGED = Evolution(BEFORE, AFTER, ("all of it",))
GONE = Evolution(BEFORE, None, ("s is gone",))


@pytest.mark.parametrize(
    ("kind", "form", "indices", "evolution", "answer"),
    [
        (CoreKind.BYTE_OFF, Form.MOV, (0, 0), CHANGED, 12),
        (CoreKind.BYTE_OFF, Form.LOAD, (0, 0), CHANGED, Verdict.POISONED),
        (CoreKind.BYTE_OFF, Form.BITS, (0, 0), CHANGED, 2**64 - 1),
        (CoreKind.BYTE_OFF, Form.LOAD, (0, 1, 0), CHANGED, 2**64 - 1),
        (CoreKind.BYTE_OFF, Form.STORE_X, (0, 1, 0), CHANGED, 2**64 - 1),
        (CoreKind.BYTE_OFF, Form.LOAD, (0, 1, 1), CHANGED, Verdict.POISONED),
        (CoreKind.FIELD_EXISTS, Form.LDIMM64, (0, 1, 1), CHANGED, 0),
        (CoreKind.FIELD_EXISTS, Form.ADD, (0, 1, 0), CHANGED, 1),
        (CoreKind.BYTE_SZ, Form.MOV32, (0, 1), CHANGED, 8),
        (CoreKind.SIGNED, Form.MOV, (0, 1, 0), CHANGED, Verdict.REFUSED),
        (CoreKind.RSHIFT_U64, Form.LDIMM64, (0, 0), CHANGED, 57),
        (CoreKind.TYPE_SIZE, Form.MOV, (0,), CHANGED, 16),
        (CoreKind.TYPE_SIZE, Form.MOV, (0,), GONE, 0),
        (CoreKind.BYTE_OFF, Form.LOAD, (0, 0), GONE, Verdict.POISONED),
        (CoreKind.TYPE_EXISTS, Form.MOV, (0,), GONE, 0),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_answers(kind, form, indices, evolution, answer, order):
    case = Case([Probe(kind, form, Access(BEFORE, indices), evolution, 2**64 - 1)], order)
    assert case.answer(case.probes["probe_0"]) == answer
    check_case(case)


def test_two_flavors_have_no_one_id():
    probe = Probe(CoreKind.TARGET_TYPE_ID, Form.MOV, Access(BEFORE, (0,)), CHANGED)
    check_case(Case([probe], twin=True))
    assert Case([probe], twin=True).answer(probe) is Verdict.REFUSED


# Each check fails when it should


def read_of(fields: int = 1, kind: int = CoreKind.BYTE_OFF) -> bytes:
    """An object that reads the last field of a struct."""
    made = ObjectBuilder()
    number = made.btf.add_int("int", 4, 1)
    members = [(f"m{at}", number, 32 * at) for at in range(fields)]
    struct = made.btf.add_struct("s", 4 * fields, members)
    read = Site(ldx(isa.SIZE_W, 0, 1, 4 * fields - 4), core=(struct, f"0:{fields - 1}", kind))
    made.program("raw_tp", [read, exit_()])
    return made.build()


def test_wrong_offsets_are_noticed(monkeypatch):
    data = read_of(2)
    own = open_object(data).btf
    assert check_reads(data, own) == assert_own_btf_changes_nothing(data) == 1
    right = patch.patch

    def wrong(insns, index, original, value, resize):
        return right(insns, index, original, value._replace(value=value.value ^ 4), resize)

    monkeypatch.setattr(patch, "patch", wrong)
    with pytest.raises(AssertionError, match=r"<byte_off> .* reads 0x0 instead of 0x\w+ from"):
        check_reads(data, own)
    with pytest.raises(AssertionError, match=r"<byte_off> .*s\.m1 .* became"):
        assert_own_btf_changes_nothing(data)
    with pytest.raises(AssertionError, match="what was relocated is refused"):
        assert_idempotent(data, own)
    case = Case([Probe(CoreKind.BYTE_OFF, Form.MOV, Access(BEFORE, (0, 0)), CHANGED)])
    with pytest.raises(AssertionError, match="probe_0 found 8, expected 12"):
        check_case(case)


def test_results_that_vary_are_noticed(monkeypatch):
    data = read_of()
    own = open_object(data).btf
    assert_deterministic(data, own)
    right, times = compute.compute, []

    def unsteady(spec, order):
        times.append(spec)
        return right(spec, order)._replace(value=4 * (len(times) // 6), checked=False)

    monkeypatch.setattr(compute, "compute", unsteady)
    with pytest.raises(AssertionError, match="was relocated in two ways"):
        assert_deterministic(data, own)


def test_differences_between_byte_orders_are_noticed():
    case = Case([Probe(CoreKind.BYTE_OFF, Form.MOV, Access(BEFORE, (0, 0)), CHANGED)])
    other = case.swapped()
    assert assert_same_in_both_orders(case.data, other.data, case.target, other.target) == 1
    told = r"\('probe_0', 'byte_off s', '0:0'\) is 12 in one byte order, 0 in the other"
    with pytest.raises(AssertionError, match=told):
        assert_same_in_both_orders(case.data, other.data, case.target, other.local.btf())


def test_objects_that_are_accepted_by_mistake_are_noticed(monkeypatch):
    probe = Probe(CoreKind.TARGET_TYPE_ID, Form.MOV, Access(BEFORE, (0,)), CHANGED)
    case = Case([probe])
    monkeypatch.setattr(case, "answer", lambda probe: Verdict.REFUSED)
    with pytest.raises(AssertionError, match="was relocated, although probe_0 cannot be"):
        check_case(case)


def test_losses_of_a_round_trip_are_noticed(monkeypatch):
    from pybpfload.btf.build import BtfBuilder

    right = BtfBuilder.add_int
    monkeypatch.setattr(BtfBuilder, "add_int", lambda self, name, *rest: right(self, "x", *rest))
    with pytest.raises(AssertionError, match=r"Int\(.* became Int\(.*name='x'"):
        assert_round_trip(LITTLE / "core_anon.bpf.o")


def test_other_errors_are_noticed(monkeypatch):
    data = read_of()
    assert assert_only_bpf_errors(data) is None
    assert isinstance(assert_only_bpf_errors(data[:100]), BpfError)
    assert "not BTF" in str(assert_only_bpf_errors(bytes(100)))
    assert "unknown kind 99" in str(assert_only_bpf_errors(read_of(kind=99)))
    monkeypatch.setattr(patch, "patch", lambda insns, *_: insns[99])
    with pytest.raises(AssertionError, match=r"bytes raise IndexError\(") as caught:
        assert_only_bpf_errors(data)
    assert isinstance(caught.value.__cause__, IndexError)
