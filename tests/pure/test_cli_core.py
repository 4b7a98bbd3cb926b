"""``pybpfload core``."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pybpfload
from pybpfload.cli import main
from pybpfload.relocate import relocate

LITTLE = Path(__file__).parents[2] / "fixtures" / "bpfel"
TYPES = str(LITTLE / "core_target.bpf.o")


def run(capsys, *arguments):
    status = main(["core", "--btf", TYPES, *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_json_has_every_decision(capsys):
    path = LITTLE / "core_bits.bpf.o"
    status, out, err = run(capsys, "--json", str(path))
    assert (status, err) == (0, "")
    entries = json.loads(out)
    wanted = relocate(pybpfload.open(path), pybpfload.read_btf(TYPES), everything=True)
    assert [(e["value"], e["outcome"], e["local"]["access"]) for e in entries] == [
        (d.value, d.outcome, str(d.local)) for d in wanted.decisions
    ]
    assert list(entries[0]) == [
        "program", "insn", "kind", "source", "local", "candidates", "target", "original",
        "value", "before", "after", "outcome", "reason",
    ]  # fmt: skip
    bits = {e["local"]["access"].split()[2]: e["local"]["declaration"] for e in entries}
    assert bits["cb_bits.in_u32"] == "u32 in_u32:17"
    assert bits["cb_bits.from_plain"] == "u32 from_plain"


def test_types_and_enumerators_are_declared_too(capsys):
    found = {}
    for name in ("core_enums", "core_types"):
        for entry in json.loads(run(capsys, "--json", str(LITTLE / f"{name}.bpf.o"))[1]):
            found[entry["kind"], entry["local"]["declaration"]] = entry
    assert ("enumval_value", "enum ct_e32_to_64 { CT_E32_TO_64_A }") in found
    assert ("type_exists", "enum ct_e32_to_64") in found


def test_text(capsys):
    path = str(LITTLE / "core_fields.bpf.o")
    status, out, _ = run(capsys, "--program", "numbers", path)
    assert status == 0
    head, first, *_ = out.split("\n\n")
    assert head == f"{path}, relocated against {TYPES}"
    assert first.splitlines() == [
        "numbers, instruction 12: byte_off",
        "  source      core_fields.bpf.c:198: add(&runs, 1);",
        "  local       [7] struct qstr.len (0:0 @ offset 0)",
        "              u32 len",
        "  candidates  none",
        "  target      none",
        "  value       0 in the object, none there",
        "  before      r1 = 0x0",
        "  after       call 0xbad2310",
        "  outcome     poisoned",
        "  because     the target has no 'qstr'",
    ]


def test_what_is_refused_is_one_line(capsys):
    status, out, err = run(capsys, str(LITTLE / "core_refused.bpf.o"))
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    status, _, err = run(capsys, "--program", "nope", str(LITTLE / "core_bits.bpf.o"))
    assert (status, err[:26]) == (2, "pybpfload: no program 'nop")


def test_nothing_to_explain_is_said(capsys):
    status, out, _ = run(capsys, str(LITTLE / "minimal.bpf.o"))
    assert (status, out.splitlines()[1]) == (0, "no CO-RE relocations")
    status, _, err = run(capsys, "--insn", "1", str(LITTLE / "core_bits.bpf.o"))
    assert (status, "no relocation at instruction 1;" in err) == (2, True)


def test_a_picture_has_both_sides_and_arrows(capsys):
    path = LITTLE / "core_local.bpf.o"
    chosen = ("--program", "fields", "--insn", "24", str(path))
    status, out, err = run(capsys, "--svg", *chosen)
    assert (status, err) == (0, "")
    (decision,) = (
        d
        for d in relocate(pybpfload.open(path), pybpfload.read_btf(TYPES)).decisions
        if (d.function, d.insn) == ("fields", 24)
    )
    assert decision.picture().svg() == decision._repr_svg_() == out
    pair = decision.picture()
    assert [(pair.left.lines[a].text.strip(), pair.left.lines[a].place, pair.right.lines[b].place)
            for a, b in pair.arrows] == [
        ("struct {...} named;", "16", "8"), ("u32 inside;", "0", "0"),
    ]  # fmt: skip
    assert pair.title == "fields, instruction 24: byte_off struct ct_members.named.inside"
    assert pair.notes[0] == "16 in the object, 8 there: patched"
    root = ElementTree.fromstring(out)
    assert len(root.findall(".//{*}path[@class='arrow']")) == 2
    assert len(root.findall(".//{*}rect[@class='to']")) == 2


def test_one_picture_at_a_time(capsys):
    path = str(LITTLE / "core_local.bpf.o")
    status, out, err = run(capsys, "--svg", "--program", "fields", path)
    assert (status, out) == (2, "")
    assert "--svg draws one relocation, these are 28; choose it with" in err


def test_every_decision_can_be_drawn():
    spec = pybpfload.open(LITTLE / "core_local.bpf.o")
    for decision in relocate(spec, pybpfload.read_btf(TYPES)).decisions:
        pair = decision.picture()
        steps = max(1, sum(step.name is not None for step in decision.local.accessors))
        assert len(pair.arrows) == (steps if decision.target is not None else 0), decision
        if decision.target is None:
            none = "is not asked" if decision.kind_name == "local_type_id" else "there is none"
            assert [line.text for line in pair.right.lines] == [none]
        ElementTree.fromstring(pair.svg())
