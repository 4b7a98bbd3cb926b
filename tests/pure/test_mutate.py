"""Damage on purpose: fields where the format says, changes that a seed decides, nothing refused."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.btf import Btf
from pybpfload.elf.image import elf_section
from pybpfload.elf.reader import read_elf
from pybpfload.formats import btf as btf_formats
from pybpfload.formats import elf as elf_formats
from pybpfload.formats import insn as insn_formats
from pybpfload.object import open_object
from pybpfload.testing.fields import Record, fields, parts, records
from pybpfload.testing.mutate import mutate

FIXTURES = Path(__file__).parents[2] / "fixtures"
OBJECTS = [
    f"{order}/{name}" for order in ("bpfel", "bpfeb") for name in ("execsnoop", "maps", "kfuncs")
]


@cache
def read(name: str) -> bytes:
    return (FIXTURES / f"{name}.bpf.o").read_bytes()


def described(record: Record, data: bytes) -> dict[str, int]:
    """A record as its construct description reads it, parts of words as ``word.part``."""
    order = "<" if record.order == "little" else ">"
    elf, btf = elf_formats.layouts(order), btf_formats.layouts(order)
    layout = {"slot": insn_formats.slot(order), "btf_header": btf.header}.get(record.kind)
    layout = layout or getattr(elf, record.kind, None) or getattr(btf, record.kind)
    content = data[record.offset : record.offset + record.size]
    bits = {("type", "info"): btf.info, ("rel", "r_info"): elf.r_info}
    bits["symbol", "st_info"] = elf.st_info
    found = {}
    at = 0
    for part in getattr(layout, "subcons", [layout]):
        name, size = part.name, part.sizeof()
        parsed = bits.get((record.kind, name), part).parse(content[at : at + size])
        if isinstance(parsed, dict):
            prefix = f"{name}." if name else ""
            found.update({prefix + k: int(v) for k, v in parsed.items() if not k.startswith("_")})
        elif isinstance(parsed, bytes):
            found[name] = int.from_bytes(parsed, record.order)
        else:
            found[name] = parsed % (1 << 8 * size)  # fields have no sign
        at += size
    return found


@pytest.mark.parametrize("name", OBJECTS)
def test_fields_are_where_the_descriptions_say(name):
    data = read(name)
    for record in records(data):
        got = {field.name: field.get(data) for field in record.fields}
        assert got == described(record, data), record


@pytest.mark.parametrize("name", OBJECTS)
def test_records_are_those_that_the_readers_find(name):
    data = read(name)
    count = Counter(record.kind for record in records(data))
    elf, spec = read_elf(data, name), open_object(data)
    btf = Btf.from_bytes(elf.section(".BTF").data)  # opening adds a type for kfuncs
    assert count["section"] == len(elf.sections)
    assert count["symbol"] == len(elf.symbols)
    assert count["slot"] == sum(len(function.insns) for function in spec.functions)
    assert count["type"] == len(btf) - 1
    members = [len(found.members) for i in btf if hasattr(found := btf[i], "members")]
    assert count["member"] == sum(members)
    assert count["core_relo"] == sum(len(function.core_relos) for function in spec.functions)
    rel = [s for s in elf.sections if s.type == 9 and "BTF" not in s.name]
    assert count["rel"] == sum(len(elf.relocations(section)) for section in rel)


def test_records_of_raw_btf_are_those_in_the_object():
    data = read("bpfeb/execsnoop")
    part = next(part for part in parts(data) if part.name == ".BTF")
    raw = data[part.offset : part.offset + part.size]
    inside = [r for r in records(data) if r.kind in ("btf_header", "type", "member", "param")]
    alone = [r for r in records(raw) if r.kind in ("btf_header", "type", "member", "param")]
    assert [r._replace(offset=r.offset + part.offset) for r in alone] == inside


def test_a_field_is_changed_and_nothing_else():
    data = read("bpfel/execsnoop")
    for field in fields(data):
        flipped = field.get(data) ^ (1 << field.bits) - 1
        changed = field.set(data, flipped)
        assert field.get(changed) == flipped
        assert field.set(changed, field.get(data)) == data


def test_parts_lie_in_the_file_and_have_names():
    data = read("bpfel/execsnoop")
    found = {part.name: part for part in parts(data)}
    for name in (".symtab", "license", ".BTF", "BTF types", "BTF strings", "section headers"):
        assert 0 < found[name].size <= len(data) - found[name].offset
    assert data[found["license"].offset :].startswith(b"GPL\0")


def test_the_same_seed_does_the_same():
    data = read("bpfel/maps")
    again = [mutate(data, seed, others=[read("bpfeb/maps")]) for seed in range(200)]
    assert again == [mutate(data, seed, others=[read("bpfeb/maps")]) for seed in range(200)]
    assert len({damaged.data for damaged in again}) > 190
    assert all(damaged.changes for damaged in again)


def test_seeds_mean_the_same_on_every_python():
    text = b"CONFIG_HZ=250\nCONFIG_X=y\n"
    assert mutate(text, 2) == (b"CONFIG_X=y\n", ("line 0 left out",))
    assert str(mutate(text, "7", most=1)) == "16 bytes removed at 0x3"
    assert str(mutate(read("bpfeb/execsnoop"), 2)) == "slot 46 regs.dst 0x1 -> 0x5"


def test_changes_are_of_every_sort():
    data = read("bpfel/execsnoop")
    kinds = {record.kind for record in records(data)}
    said = " ".join(str(mutate(data, seed)) for seed in range(1500))
    assert {kind for kind in kinds if kind in said} == kinds
    for words in ("cut at", "flipped", "copied", "put in", "removed", "BTF strings", " <-> "):
        assert words in said


def test_damage_stays_small():
    data = read("bpfel/minimal")
    for seed in range(300):
        damaged = mutate(data, seed)
        assert len(damaged.changes) <= 4
        assert len(damaged.data) <= len(data) + (len(damaged.changes) << 16)


@given(
    st.one_of(
        st.binary(max_size=100),
        st.binary(max_size=200).map(lambda tail: read("bpfel/minimal")[:64] + tail),
        st.binary(max_size=200).map(lambda tail: b"\x9f\xeb\1\0" + tail),
        st.integers(0, 2000).map(lambda end: read("bpfel/execsnoop")[:end]),
    ),
    st.integers(),
)
@settings(max_examples=100)
def test_nothing_is_refused(data, seed):
    damaged = mutate(data, seed)
    assert all(field.offset >= 0 for field in fields(damaged.data))
    assert all(part.offset + part.size <= len(damaged.data) for part in parts(damaged.data))
    assert mutate(damaged.data, seed) == mutate(damaged.data, seed)


def test_what_is_not_bytes_is_not_damaged():
    with pytest.raises(TypeError, match="bytes-like"):
        mutate(Btf.from_bytes(elf_section(read("bpfel/maps"), ".BTF")), 1)  # numbers, if iterated
