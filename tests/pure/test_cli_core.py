"""``pybpfload core``."""

import json
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
