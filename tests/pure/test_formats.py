"""The records that are read without construct are those that the descriptions describe."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.formats import btf, elf, insn
from pybpfload.formats.packed import RECORDS, packed

DESCRIPTIONS = {
    "btf": btf.layouts,
    "elf": elf.layouts,
    "insn": lambda order: type("Layouts", (), {"slot": insn.slot(order)}),
}


def values(parsed, description) -> list:
    """The fields in order; of a field that is split in bits, the bytes."""
    return [parsed[field.name] for field in description.subcons]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("module", "record"), [(name, each) for name, records in RECORDS.items() for each in records]
)
@settings(max_examples=20)
@given(data=st.data())
def test_packed_records_equal_their_descriptions(module, record, order, data):
    description = getattr(DESCRIPTIONS[module](order), record)
    decoder = getattr(packed(module, order), record)
    assert decoder.size == description.sizeof()
    raw = data.draw(st.binary(min_size=decoder.size, max_size=decoder.size))
    told = values(description.parse(raw), description)
    if module == "insn":  # the registers share a byte; struct has no halves
        low, high = ("dst", "src") if order == "<" else ("src", "dst")
        told[1] = told[1][low] | told[1][high] << 4
    assert list(decoder.unpack(raw)) == told


def test_relocating_does_not_import_construct():
    """Its import takes longer than the work (tools/bench)."""
    code = "import pybpfload.cli.relocation, pybpfload.btf, pybpfload.object, sys;"
    code += "print('construct' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
