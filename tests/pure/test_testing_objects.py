"""The object builder: what it makes is what compilers make."""

from __future__ import annotations

import pytest

from pybpfload.isa import insn as isa
from pybpfload.isa.insn import call, exit_, ld_imm64, ldx
from pybpfload.object import open_object
from pybpfload.relocate import CoreKind, ReferenceKind, relocate
from pybpfload.testing.objects import ObjectBuilder, Site
from pybpfload.uapi import MapType


def whole(order: str) -> ObjectBuilder:
    """One of everything."""
    made = ObjectBuilder(order)
    number = made.btf.add_int("int", 4, 1)
    task = made.btf.add_struct("task", 8, [("pid", number, 32)])
    proto = made.btf.add_func_proto(number, [("ctx", made.btf.add_ptr(0))])
    counts = made.map("counts", MapType.HASH, key=number, value=task, max_entries=10, map_flags=1)
    total = made.variable("total", number, b"\1\2\3\4")
    made.variable("more", number, bytes(4), static=True)
    limit = made.variable("limit", number, bytes(4), section=".rodata")
    made.variable("hits", number, bytes(4), section=".bss")
    hertz = made.extern("CONFIG_HZ", number, section=".kconfig")
    jiffies = made.extern("jiffies", weak=True)
    kfunc = made.kfunc("bpf_kfunc", proto)
    read = Site(
        ldx(isa.SIZE_W, 0, 1, 4),
        core=(task, "0:0", CoreKind.BYTE_OFF),
        line=("a.c", "return task->pid;", 3, 15),
    )
    helper = made.subprogram(
        [read, exit_()],
        "helper",
        func=made.btf.add_func("helper", proto),
    )
    symbols = (counts, total, limit, hertz, jiffies)
    made.program("tc", [exit_()], "first", func=made.btf.add_func("first", proto))
    made.program(
        "tc",
        [
            *(Site(ld_imm64(1, 0), symbol=symbol) for symbol in symbols),
            Site(call(-1, isa.PSEUDO_CALL), symbol=helper, line=("a.c", "helper(ctx);", 7, 2)),
            Site(call(-1, isa.PSEUDO_CALL), symbol=kfunc),
            exit_(),
        ],
        "second",
        func=made.btf.add_func("second", proto),
    )
    made.license("Dual BSD/GPL")
    return made


@pytest.mark.parametrize("order", "<>")
def test_whole_object(order):
    made = whole(order)
    data = made.build()
    assert made.build() == data
    spec = open_object(data, name="made")
    assert (spec.byteorder, spec.license) == (order, "Dual BSD/GPL")
    assert list(spec.programs) == ["first", "second"]
    assert [(name, m.type, m.key_size, m.value_size) for name, m in spec.maps.items()] == [
        ("counts", MapType.HASH, 4, 8),
        ("made.data", MapType.ARRAY, 4, 12),
        ("made.rodata", MapType.ARRAY, 4, 4),
        ("made.bss", MapType.ARRAY, 4, 4),
        ("made.kconfig", MapType.ARRAY, 4, 4),
    ]
    assert (spec.maps["counts"].max_entries, spec.maps["counts"].flags) == (10, 1)
    assert [(name, v.section, v.offset) for name, v in spec.variables.items()] == [
        ("total", ".data", 0), ("more", ".data", 8), ("limit", ".rodata", 0), ("hits", ".bss", 0),
        ("CONFIG_HZ", ".kconfig", 0),
    ]  # fmt: skip
    assert spec.variables["total"].value == int.from_bytes(
        b"\1\2\3\4", {"<": "little", ">": "big"}[order]
    )
    assert [(name, e.kind, e.weak) for name, e in spec.externs.items()] == [
        ("CONFIG_HZ", "kconfig", False), ("bpf_kfunc", "kfunc", False), ("jiffies", "ksym", True),
    ]  # fmt: skip
    done = relocate(spec, spec.btf).programs
    second = done["second"]
    assert [(r.insn, r.kind, r.name) for r in second.references] == [
        (0, ReferenceKind.MAP, "counts"),
        (2, ReferenceKind.MAP_VALUE, "made.data"),
        (4, ReferenceKind.MAP_VALUE, "made.rodata"),
        (6, ReferenceKind.KCONFIG, "CONFIG_HZ"),
        (8, ReferenceKind.KSYM, "jiffies"),
        (11, ReferenceKind.KFUNC, "bpf_kfunc"),
    ]
    assert [(f.name, at) for f, at in second.functions] == [("second", 0), ("helper", 13)]
    [(at, decision)] = second.core
    assert (at, decision.value, decision.outcome) == (13, 4, "unchanged")
    assert list(second.func_info[0::2]) == [0, 13]
    assert [(at, word >> 10, word & 1023) for at, word in zip(
        second.line_info[0::4], second.line_info[3::4], strict=True
    )] == [(10, 7, 2), (13, 3, 15)]  # fmt: skip
    assert "func_info" in made.rec_sizes
    assert len(done["first"].insns) == 1


def test_more_can_be_added_after_building():
    made = whole("<")
    before = open_object(made.build())
    made.variable("another", 1, b"abcd", section=".data.mine")
    made.map("another_map", MapType.ARRAY, key=1, value=1, max_entries=1)
    after = open_object(made.build())
    assert {*after.maps} - {*before.maps} == {".data.mine", "another_map"}
    assert after.variables["another"].value == int.from_bytes(b"abcd", "little")
