"""Whole tables: appended and deduplicated as libbpf does it; kernels' rebuilt and swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libbpf_pool as pool
import pytest

import pybpfload
from pybpfload.btf import Btf, BtfBuilder, BtfEditor, dedup, to_byteorder
from pybpfload.relocate import CoreKind, minimize, relocate
from pybpfload.testing.vm import kernels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.differential

FOLDERS = ("bpfel", "bpfeb")


def fixtures(folder: str) -> list[Btf]:
    """BTF of all fixtures that have some and can be opened."""
    found = []
    for path in sorted((pool.ROOT / "fixtures" / folder).glob("*.o")):
        try:
            btf = pybpfload.open(path).btf
        except pybpfload.BpfError:
            continue
        if btf is not None:
            found.append(btf)
    return found


def kernel(name: str) -> Btf:
    path = pool.kernel_btf(name)
    if path is None:
        pytest.skip(f"kernel {name} is not in the cache; tools/kernels fetch gets it")
    return Btf.from_bytes(path.read_bytes(), name=name)


def together(tables: list[Btf]) -> Btf:
    b = BtfBuilder(tables[0].byteorder)
    for table in tables:
        b.add_btf(table)
    return b.btf("sum")


def agree(ask, tmp_path: Path, tables: list[Btf]) -> Btf:
    """Deduplicate tables put together, here and by libbpf: the same types are left."""
    paths = []
    for at, table in enumerate(tables):
        paths.append(tmp_path / f"{at}.btf")
        paths[-1].write_bytes(table.to_bytes())
    told = ask("dedup", paths=list(map(str, paths)), out=tmp_path / "out.btf")
    whole = together(tables)
    assert told.get("before") == len(whole) - 1, told
    ours = dedup(whole).btf
    data = (tmp_path / "out.btf").read_bytes()
    assert len(ours) - 1 == told["after"]
    if ours.to_bytes() != data:  # strings may come in another order
        theirs = Btf.from_bytes(data, name="libbpf")
        assert [ours[each] for each in ours] == [theirs[each] for each in theirs]
    return ours


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_fixture_alone_and_twice(libbpf_tables, tmp_path, folder):
    tables = fixtures(folder)
    assert len(tables) > 50
    for table in tables:
        agree(libbpf_tables, tmp_path, [table])
        agree(libbpf_tables, tmp_path, [table, table])


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_fixtures(libbpf_tables, tmp_path, folder):
    tables = fixtures(folder)
    assert len(agree(libbpf_tables, tmp_path, tables)) < sum(map(len, tables)) * 2 / 3


@pytest.mark.parametrize("name", ["5.10", "sid"])
def test_kernel_twice(libbpf_tables, tmp_path, name):
    table = kernel(name)
    agree(libbpf_tables, tmp_path, [table, table])


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_kernel_is_read_and_written(name):
    """Every type of the rebuilt table is equal; strings come in the order of their first use."""
    table = kernel(name)
    assert BtfEditor(table).finish().to_bytes() == table.to_bytes()
    b = BtfBuilder(table.byteorder)
    for type_id in table:
        b.add_type(table[type_id])
    rebuilt = b.btf(name)
    assert len(rebuilt) == len(table)
    assert all(rebuilt[type_id] == table[type_id] for type_id in table)
    again = BtfBuilder(table.byteorder)
    for type_id in rebuilt:
        again.add_type(rebuilt[type_id])
    assert again.build() == rebuilt.to_bytes()
    other = to_byteorder(table, "<>"[table.byteorder == "<"])
    assert all(other[type_id] == table[type_id] for type_id in range(1, len(table), 100))
    assert to_byteorder(other, table.byteorder).to_bytes() == table.to_bytes()


@pytest.mark.parametrize(("name", "folder"), [("5.10", "bpfel"), ("6.12-s390x", "bpfeb")])
def test_relocation_against_the_least_btf(name, folder):
    """Every fixture that relocates against a kernel does so against what is left of its BTF."""
    table = kernel(name)
    done = 0
    for path in sorted((pool.ROOT / "fixtures" / folder).glob("*.o")):
        try:
            spec = pybpfload.open(path)
            whole = relocate(spec, table, everything=True)
        except pybpfload.BpfError:
            continue
        small, ids = minimize(table, [spec])
        least = relocate(spec, Btf.from_bytes(small.to_bytes(), name=name), everything=True)
        for one, other in zip(whole.decisions, least.decisions, strict=True):
            if one.kind == CoreKind.TARGET_TYPE_ID and one.value:
                assert other.value == ids[one.value], (path, one)
                continue
            assert (one.value, one.outcome) == (other.value, other.outcome), (path, one)
            assert one.after == other.after, (path, one)
            done += 1
    assert done > 1000
