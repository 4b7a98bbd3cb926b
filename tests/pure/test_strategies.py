"""The model of C types and the strategies: right by other means, and cases that people can read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pybpfload.btf.values import codec
from pybpfload.object import open_object
from pybpfload.relocate import CoreKind
from pybpfload.relocate.core import compute
from pybpfload.relocate.core.access import parse_spec
from pybpfload.testing import strategies
from pybpfload.testing.access import Access, Place
from pybpfload.testing.cases import Case, Form, Verdict
from pybpfload.testing.cmodel import (
    BOOL,
    CHAR,
    INT,
    UCHAR,
    UINT,
    ULONG,
    USHORT,
    VOID,
    Array,
    Enum,
    Field,
    Int,
    Pointer,
    Qualified,
    Record,
    Tag,
    Typedef,
    Types,
    align_of,
    layout,
    size_of,
)
from pybpfload.testing.properties import assert_only_bpf_errors, check_case


def scaled(examples: int) -> settings:
    """So many examples; more by the same factor under ``--hypothesis-profile thorough``."""
    return settings(max_examples=examples * settings.default.max_examples // 100)


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


# Hypothesis is optional


@pytest.mark.slow
def test_hypothesis_is_imported_when_a_strategy_is_asked_for():
    told = python(
        "import sys, pybpfload.testing\n"
        "before = 'hypothesis' in sys.modules\n"
        "pybpfload.testing.strategies.records\n"
        "print(before, 'hypothesis' in sys.modules)"
    )
    assert told.stdout == "False True\n", told.stderr


@pytest.mark.slow
def test_without_hypothesis_an_error_says_what_to_do():
    told = python(
        "import sys; sys.modules['hypothesis'] = None\n"
        "import pybpfload.testing.properties\n"
        "from pybpfload.testing import strategies"
    )
    assert told.returncode == 1
    assert "ImportError: pybpfload.testing.strategies needs Hypothesis" in told.stderr
    assert "pip install 'pybpfload[testing]'" in told.stderr


# Layout, by what compilers do


def struct(*fields: Field, **options) -> Record:
    return Record("s", fields, **options)


@pytest.mark.parametrize(
    ("record", "offsets", "size", "align"),
    [
        (struct(Field("a", UCHAR), Field("b", ULONG)), (0, 64), 16, 8),
        (struct(Field("a", UCHAR), Field("b", ULONG), packed=True), (0, 8), 9, 1),
        (struct(Field("a", UCHAR), Field("b", USHORT), align=16), (0, 16), 16, 16),
        (struct(Field("a", UCHAR), Field("b", USHORT), keyword="union"), (0, 0), 2, 2),
        (struct(Field("a", Array(INT, 3)), Field("b", Array(ULONG, 0))), (0, 128), 16, 8),
        # Bit fields start where the last one ended, unless they would cross a border of their type.
        (struct(Field("a", UINT, 5), Field("b", UINT, 27), Field("c", UINT, 1)), (0, 5, 32), 8, 4),
        (struct(Field("a", UINT, 5), Field("b", UINT, 28)), (0, 32), 8, 4),
        (struct(Field("a", UINT, 5), Field("b", UINT, 28), packed=True), (0, 5), 5, 1),
        (struct(Field("a", UCHAR), Field("b", UINT, 24), Field("c", UCHAR)), (0, 8, 32), 8, 4),
        (struct(Field("a", UINT, 3), Field("", UINT, 0), Field("b", UCHAR, 1)), (0, 32), 8, 4),
        (struct(Field("a", UINT, 3), Field("", ULONG, 60), Field("b", UINT, 1)), (0, 63), 8, 4),
        (struct(Field("a", BOOL, 1), Field("b", CHAR), Field("c", USHORT, 9)), (0, 8, 16), 4, 2),
        (struct(Field("", struct(Field("a", INT))), Field("b", CHAR)), (0, 32), 8, 4),
    ],
)  # fmt: skip
def test_layout(record, offsets, size, align):
    """As clang 16 to 22 and GCC 14 lay these out on x86-64 and for BPF."""
    assert layout(record) == (offsets, size, align)


def test_sizes():
    assert (size_of(Typedef("t", Qualified("const", Array(Pointer(VOID), 3)))), size_of(VOID)) == (
        24,
        0,
    )
    assert (align_of(Array(USHORT, 8)), align_of(VOID)) == (2, 1)


def test_types_as_btf_and_as_text():
    task = Record(
        "task",
        (
            Field("next", Pointer(Tag("struct", "task"))),
            Field("other", Pointer(Tag("union", "hidden"))),
            Field("state", Enum("state", (("OFF", -1), ("ON", 1)))),
        ),
    )
    for backwards in (False, True):
        types = Types([task, Typedef("task_t", task)], backwards=backwards)
        btf = types.btf()
        btf.validate()
        assert btf[btf[btf[types.id(task)].members[0].type].type].name == "task"
        assert types.id(Tag("struct", "task")) == types.id(task)
        assert btf.describe(types.id(Tag("union", "hidden"))).startswith("fwd hidden")
        assert "struct task {\n\tstruct task *next; /* 0 */\n" in str(types)
        assert "enum state {\n\tOFF = -1,\n\tON = 1,\n}; /* size 4 */" in str(types)


def test_text():
    anonymous = Record("", (Field("a", INT, 3), Field("p", Pointer(Tag("struct", "s")))))
    assert repr(Typedef("t", anonymous)) == "t"
    assert repr(Qualified("const", Pointer(Qualified("const", CHAR)))) == "const char *const"
    text = "struct s {\n\tint a; /* 0 */\n}; /* size 4 */"
    assert repr(struct(Field("a", INT))) == text
    assert str(Types([Typedef("t", anonymous), Typedef("u", UINT), struct(Field("a", INT))])) == (
        "typedef struct {\n\tint a:3; /* 0:0 */\n\tstruct s *p; /* 8 */\n} t; /* size 16 */\n"
        f"typedef unsigned int u;\n{text}"
    )


def test_failing_examples_are_shown_as_c():
    @settings(database=None, phases=[Phase.generate, Phase.shrink], print_blob=False)
    @given(strategies.objects(), strategies.evolutions(), strategies.records())
    def fails(data, evolution, record):
        raise AssertionError("always")

    with pytest.raises(AssertionError, match="always") as caught:
        fails()
    notes = "\n".join(caught.value.__notes__)
    assert "object of Case(little endian)\nthe program has:\n    struct s0 {\n" in notes
    assert (
        "    evolution=the program has:\n        struct s0 {\n            int a; /* 0 */" in notes
    )
    assert "    record=struct s0 {\n    \tint a; /* 0 */\n    }; /* size 4 */,\n" in notes


@given(strategies.records(), strategies.byte_orders)
@scaled(30)
def test_btf_agrees_with_the_model(record, order):
    types = Types([record], order)
    btf = types.btf()
    btf.validate()
    assert btf.size(types.id(record)) == size_of(record)


# Places, by the codecs of values and by the reader of access strings


@given(st.data())
@scaled(30)
def test_places_are_those_of_the_codecs(data):
    """A number that the codec of the whole struct wrote is read where the model says it is."""
    record, order = data.draw(strategies.records(depth=1)), data.draw(strategies.byte_orders)
    access = data.draw(strategies.accesses(record))
    place = access.place
    if access.indices[0] or not place.is_number or not isinstance(place.type, (Int, Pointer)):
        return
    steps = [s.name if isinstance(s, Field) else s for s in access._steps()[1:]]
    steps = [step for step in steps if step != ""]
    if any(isinstance(step, int) for step in steps):
        return
    number = data.draw(st.integers(0, (1 << place.width - place.signed) - 1))
    number = bool(number) if place.type == BOOL else number
    value = number
    for step in reversed(steps):
        value = {step: value}
    types = Types([record], order)
    found = codec(types.btf(), types.id(record)).encode(value)
    assert place.read(found, order) == number
    image = bytearray(len(found))
    place.write(image, number, order)
    assert image == found


@given(st.data())
@scaled(30)
def test_access_strings_lead_to_the_place(data):
    record, order = data.draw(strategies.records()), data.draw(strategies.byte_orders)
    access = data.draw(strategies.accesses(record))
    types = Types([record], order)
    spec = parse_spec(types.btf(), types.id(record), str(access), CoreKind.BYTE_OFF)
    assert spec.bit_offset == access.place.bit
    assert [a.name for a in spec.accessors if a.name] == [
        step.name for step in access._steps() if isinstance(step, Field) and step.name
    ]


@pytest.mark.parametrize(("order", "image"), [("<", "00 f0 0f 00"), (">", "00 0f f0 00")])
def test_bits_of_a_field_by_byte_order(order, image):
    """Eight bits from bit 12 on: counted from the other end of each byte."""
    place, found = Place(12, UINT, 8), bytearray(4)
    place.write(found, 0xFF, order)
    assert found == bytes.fromhex(image)
    assert place.read(found, order) == 0xFF
    assert Place(12, INT, 8).read(found, order) == -1


def test_fields_are_followed_by_their_origin():
    before = Record("s", (Field("a", INT, origin=1), Field("b", INT, origin=2)))
    inner = Record("", (Field("b", INT), Field("new", ULONG), Field("a", ULONG, origin=1)))
    after = Record("s", (Field("", inner), Field("c", INT, origin=3)))
    assert Access(before, (0, 0)).within(after) == Place(128, ULONG)
    assert Access(before, (0, 1)).within(after) is None
    assert Access(before, (2, 1)).place.bit == 2 * 64 + 32
    assert (Access(before, (0, 1)).text, Access(before, (2, 1)).text) == ("p->b", "p[2].b")


# What the strategies make


def collected(examples: int) -> list[Case]:
    found: list[Case] = []

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @seed(1)
    @given(strategies.cases())
    def collect(case):
        found.append(case)

    collect()
    return found


@pytest.mark.slow
def test_every_kind_form_and_answer_turns_up():
    probes = [(case, probe) for case in collected(300) for probe in case.probes.values()]
    kinds = Counter(probe.kind for _, probe in probes)
    forms = Counter(probe.form for _, probe in probes)
    answers = Counter(a for a in (c.answer(p) for c, p in probes) if isinstance(a, Verdict))
    orders = Counter(case.order for case, _ in probes)
    assert set(kinds) == set(CoreKind)
    assert set(forms) == set(Form)
    assert {Verdict.POISONED, Verdict.UNKNOWN} <= set(answers)
    assert set(orders) == {"<", ">"}
    # Most answers are numbers that the model knows, of types that have changed.
    assert answers.total() < len(probes) / 2
    moved = sum(
        probe.there is not None and probe.there.bit != probe.here.bit for _, probe in probes
    )
    assert moved > len(probes) / 20


@given(strategies.evolutions(max_changes=0))
@scaled(20)
def test_without_a_change_nothing_changes(evolution):
    assert evolution.changes == () or evolution.changes[-1].startswith(("s", "e", "t"))
    if not evolution.changes and "___" not in evolution.before.name:
        assert evolution.after == evolution.before


# Named as the strategies name what they make, and without origins, as people write it.
MINE = Record(
    "s0",
    (
        Field("a", INT),
        Field("b", Enum("e0", (("A", 0),))),
        Field("", Record("", (Field("c", Pointer(Tag("struct", "s1"))), Field("", INT, 0)))),
        Field("empty", Record("s2", ())),
    ),
)


def names_of_fields(record: Record) -> list[str]:
    inner = [each for each in record.fields if not each.name and not each.is_padding]
    named = [each.name for each in record.fields if each.name]
    return named + [name for each in inner for name in names_of_fields(each.type)]


@pytest.mark.slow
def test_changes_of_a_given_type():
    said = Counter()

    @given(strategies.evolutions(MINE))
    @settings(max_examples=300, database=None, phases=[Phase.generate])
    @seed(1)
    def look(evolution):
        assert evolution.before == MINE
        if evolution.after is None:
            return
        names = names_of_fields(evolution.after)
        assert len(set(names)) == len(names)  # what came in has names of its own
        if not {"a", "b", "c"} <= set(names):
            assert evolution.matches is False
        Types([evolution.after]).btf().validate()
        said.update(change.partition(" ")[2] for change in evolution.changes)

    look()
    assert {"comes in", "moves", "is dropped", "becomes something else"} <= set(said)


@pytest.mark.parametrize(
    "before",
    [
        INT,
        Pointer(INT),
        Typedef("number", INT),
        Record("empty", ()),
        Record("", (Field("a", INT),)),
        Qualified("const", MINE),
        Enum("none", ()),
    ],
    ids=repr,
)
def test_what_has_no_evolution(before):
    with pytest.raises(ValueError, match="a name and fields, not with"):
        strategies.evolutions(before)


@given(strategies.objects())
@scaled(20)
def test_objects_are_objects(data):
    spec = open_object(data)
    assert next(iter(spec.programs)) == "probe_0"
    assert spec.license == "GPL"
    assert spec.btf_ext.core_relo.count >= len(spec.programs)


@given(strategies.corrupted(strategies.objects() | strategies.btfs().map(lambda b: b.to_bytes())))
@scaled(30)
def test_damage_ends_in_a_bpf_error(damaged):
    assert_only_bpf_errors(damaged.data)


# Failing cases are small and can be read


def smallest_failure(monkeypatch, wrong, order=None) -> str:
    """The case that is left when a relocator computes other values; ``wrong`` changes them."""
    right, local = compute.compute, [0]

    def instead(spec, order):
        value = right(spec, order)
        if spec.btf.name == "kernel":
            return value._replace(value=wrong(spec.kind, order, local[0], value.value))
        local[0] = value.value
        return value

    monkeypatch.setattr(compute, "compute", instead)
    failed: list[Case] = []

    @settings(
        max_examples=500,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @seed(0)
    @given(strategies.cases(max_probes=1, order=order, kinds=(CoreKind.BYTE_OFF,)))
    def check(case):
        told = ""
        try:
            check_case(case)
        except AssertionError as error:
            failed.append(case)
            told = str(error)
        assert not told, told  # in one place, so that it counts as one failure

    with pytest.raises(AssertionError, match=r"probe_0 (found|wrote)"):
        check()
    return repr(failed[-1])


def fields_in(text: str, side: str) -> list[str]:
    """Lines of fields under ``the program has:`` or ``the kernel has:`` of a case."""
    block = re.search(rf"the {side} has:\n((?:    .*\n)+)", text)[1]
    return re.findall(r"^ +(.*;) /\* \d+(?::\d)? \*/$", block, re.MULTILINE)


@pytest.mark.slow
def test_a_wrong_offset_of_moved_fields_is_found(monkeypatch):
    def wrong(kind, order, local, value):
        return value + (kind == CoreKind.BYTE_OFF and value != local)

    text = smallest_failure(monkeypatch, wrong)
    print(text)
    assert text.startswith("Case(little endian)\nthe program has:\n    struct s0 {\n        int a;")
    assert len(fields_in(text, "program")) <= 2
    assert len(fields_in(text, "kernel")) <= 2
    [change] = re.search(r"changes:\n((?:    .*\n)+)", text)[1].splitlines()
    assert re.fullmatch(r"    \w+ (comes in|moves)", change)
    assert re.search(r"\nprobe_0: byte_off of p->\w \(0:\d\) by .*; expected: \d+$", text)


@pytest.mark.slow
def test_a_wrong_shift_on_big_endian_is_found(monkeypatch):
    def wrong(kind, order, local, value):
        return value ^ 1 if kind == CoreKind.LSHIFT_U64 else value

    text = smallest_failure(monkeypatch, wrong, ">")
    print(text)
    assert text.startswith("Case(big endian)\n")
    assert len(fields_in(text, "program")) <= 2
    assert len(fields_in(text, "kernel")) <= 2
    assert "probe_0: read_bitfield of p->" in text
