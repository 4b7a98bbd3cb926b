"""``pybpfload btf min``."""

from __future__ import annotations

import json
from pathlib import Path

import pybpfload
from pybpfload.cli import main

FIXTURES = Path(__file__).parents[2] / "fixtures" / "bpfel"
TARGET = str(FIXTURES / "core_target.bpf.o")
OBJECTS = [str(FIXTURES / f"{name}.bpf.o") for name in ("core_anon", "core_bits")]


def test_min(capsys, tmp_path):
    out = tmp_path / "least.btf"
    assert main(["btf", "min", *OBJECTS, "--btf", TARGET, "-o", str(out)]) == 0
    small = pybpfload.read_btf(out)
    assert f"{len(small) - 1} types of 449\n{out.stat().st_size} bytes" in capsys.readouterr().out
    for path in OBJECTS:
        spec = pybpfload.open(path)
        whole = spec.relocate(pybpfload.read_btf(TARGET))
        least = spec.relocate(small)
        for name, program in whole.programs.items():
            assert least.programs[name].insns == program.insns


def test_json_and_refusals(capsys, tmp_path):
    out = tmp_path / "least.btf"
    assert main(["btf", "min", "--json", OBJECTS[0], "--btf", TARGET, "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["source"], told["size"]) == (TARGET, out.stat().st_size)
    assert main(["btf", "min", OBJECTS[0], "--btf", TARGET]) == 2
    assert "--output" in capsys.readouterr().err
    refused = str(FIXTURES / "core_refused.bpf.o")
    assert main(["btf", "min", refused, "--btf", TARGET, "-o", str(out)]) == 1
    assert "array" in capsys.readouterr().err
