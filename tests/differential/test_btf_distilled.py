"""Split BTF: read, written, deduplicated, distilled and relocated as libbpf does it.

``PYBPFLOAD_MODULES=1000`` takes all modules of the cached kernels instead of some of each,
``PYBPFLOAD_GENERATED=20000`` makes up more tables.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

import libbpf_pool as pool
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pybpfload import read_btf
from pybpfload.btf import (
    Btf,
    BtfBuilder,
    BtfEditor,
    Kind,
    dedup,
    distill_base,
    relocate_base,
    to_byteorder,
)
from pybpfload.elf.image import image_btf
from pybpfload.errors import FormatError
from pybpfload.testing.objects import ElfBuilder
from pybpfload.testing.vm import kernels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.differential

MODULES = int(os.environ.get("PYBPFLOAD_MODULES", "3"))
GENERATED = int(os.environ.get("PYBPFLOAD_GENERATED", "250"))
KERNELS = ["6.1", "6.12-s390x", "sid"]  # the oldest with BTF of modules, big endian, the newest
if MODULES > 3:
    KERNELS = [name for name in kernels.KERNELS if name != "5.10"]
OTHERS = [("6.1", "6.12"), ("6.12", "6.1"), ("6.12", "sid"), ("sid", "6.12")]


@cache
def vmlinux(name: str) -> Btf:
    path = pool.kernel_btf(name)
    if path is None:
        pytest.skip(f"kernel {name} is not in the cache; tools/kernels fetch gets it")
    return Btf.from_bytes(path.read_bytes(), name=name)


def modules(name: str) -> list[Btf]:
    """Split BTF of some of a kernel's modules: the largest, and others evenly spread by size."""
    base = vmlinux(name)
    paths = sorted(kernels.fetch(name).modules.rglob("*.ko*"), key=lambda path: path.stat().st_size)
    assert paths
    chosen = paths[:: -max(len(paths) // MODULES, 1)]
    return [
        Btf.from_bytes(image_btf(path.read_bytes(), path.name).types, base=base, name=path.name)
        for path in chosen
    ]


def own_types(btf: Btf) -> list:
    return [btf[type_id] for type_id in btf.own_ids()]


def written(btf: Btf, path: Path) -> Path:
    path.write_bytes(btf.to_bytes())
    return path


def attempt(step, *arguments) -> Btf | None:
    """The table that a step makes; ``None`` if it refuses."""
    try:
        return step(*arguments).btf
    except FormatError:
        return None


# Reading and writing


@pytest.mark.parametrize("name", KERNELS)
def test_modules_are_read_and_written(name):
    """Of every module the bytes are the same after editing, after copying, after swapping twice."""
    base = vmlinux(name)
    order = "<>"[base.byteorder == "<"]
    swapped_base = to_byteorder(base, order)
    for split in modules(name):
        split.validate()
        assert BtfEditor(split).finish().to_bytes() == split.to_bytes(), split.name
        swapped = to_byteorder(split, order, base=swapped_base)
        assert to_byteorder(swapped, base.byteorder, base=base).to_bytes() == split.to_bytes()
        assert [swapped[i] for i in split.own_ids()] == own_types(split), split.name
        b = BtfBuilder(base.byteorder, base=base)
        for each in own_types(split):
            b.add_type(each)
        assert own_types(b.btf()) == own_types(split), split.name


# Deduplicating


def exploded(split: Btf, *, typedefs: bool) -> Btf:
    """A split table with copies of all types of the base that it can reach, as compilers make.

    Without typedefs these, and what is behind them, stay in the base.
    """
    base = split.base
    reached, waiting = set(), [to for each in own_types(split) for to in references(each)]
    while waiting:
        if (type_id := waiting.pop()) and type_id not in reached and type_id < split.start_id:
            if base.kind(type_id) == Kind.TYPEDEF and not typedefs:
                continue
            reached.add(type_id)
            waiting += references(base[type_id])
    ids = list(range(len(split)))
    for new, old in enumerate([*sorted(reached), *split.own_ids()], len(base)):
        ids[old] = new
    b = BtfBuilder(split.byteorder, base=base)
    b.add_records(base, sorted(reached), ids)
    b.add_records(split, split.own_ids(), ids)
    return b.btf(f"{split.name} exploded")


def references(value) -> list[int]:
    single = [getattr(value, name, 0) for name in ("type", "index_type", "return_type")]
    parts = [getattr(value, name, ()) for name in ("members", "params", "entries")]
    return single + [each.type for part in parts for each in part]


@pytest.mark.parametrize("name", ["6.12-s390x", "sid"])
def test_modules_deduplicated(libbpf_tables, tmp_path, name):
    """Types of the kernel that a module has once more are merged with the kernel's.

    Those are all that it can reach, as compilers leave them, or those that come along with a
    distilled base.
    """
    base = vmlinux(name)
    split = modules(name)[-2]
    # Before 1.8 it does not look for typedefs in the base, and neither did who made the module.
    typedefs = libbpf_tables("version")["version"] >= [1, 8]
    whole = exploded(split, typedefs=typedefs)
    told = libbpf_tables(
        "dedup",
        paths=[str(written(whole, tmp_path / "in"))],
        base=written(base, tmp_path / "base"),
        out=tmp_path / "out",
    )
    assert told.get("before") == len(whole) - 1, told
    found = dedup(whole).btf
    if typedefs or not any(base.find(each.name, Kind.TYPEDEF) for each in own_types(split)):
        assert len(found) - 1 == told["after"]
        assert own_types(found) == own_types(read_btf(tmp_path / "out", base=base))
    else:
        assert len(found) - 1 < told["after"]
    merged = dedup(split).btf.to_bytes()
    assert found.to_bytes() == merged
    assert dedup(relocate_base(distill_base(split).btf, base).btf).btf.to_bytes() == merged
    print(split.name, len(whole.own_ids()), "types,", len(found.own_ids()), "left")


# Distilling and relocating


def distilled(ask, tmp_path: Path, split: Btf) -> Btf | None:
    """Distill here and by libbpf: the same types, or ``None`` if both refuse."""
    out, out_base = tmp_path / "split", tmp_path / "distilled"
    told = ask(
        "distill",
        split=written(split, tmp_path / "in"),
        base=written(split.base, tmp_path / "base"),
        out=out,
        out_base=out_base,
    )
    made = attempt(distill_base, split)
    if made is None:
        assert told == {"error": errno.EINVAL}, split.name
        return None
    assert told == {}, split.name
    theirs = read_btf(out_base)
    assert own_types(made.base) == own_types(theirs), split.name
    # Over an empty base libbpf forgets what has to be moved, and leaves references to it.
    if len(made.base) > 1 or len(own_types(made)) == len(own_types(split)):
        assert own_types(made) == own_types(read_btf(out, base=theirs)), split.name
    return made


def relocated(ask, tmp_path: Path, split: Btf, base: Btf) -> Btf | None:
    """Relocate here and by libbpf: the same types, or ``None`` if both refuse."""
    told = ask(
        "relocate",
        split=written(split, tmp_path / "split"),
        distilled=written(split.base, tmp_path / "distilled"),
        base=written(base, tmp_path / "base"),
        out=tmp_path / "out",
    )
    found = attempt(relocate_base, split, base)
    if found is None:
        assert told == {"error": errno.EINVAL}, split.name
        return None
    assert told == {}, split.name
    assert own_types(found) == own_types(read_btf(tmp_path / "out", base=base)), split.name
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_modules_relocated_onto_their_own_kernel(libbpf_tables, tmp_path, name):
    results = []
    for split in modules(name):
        made = distilled(libbpf_tables, tmp_path, split)
        assert made is not None
        found = relocated(libbpf_tables, tmp_path, made, split.base)
        results.append(found)
        if found is not None:
            found.validate()
            own = len(split.own_ids())
            assert [each.name for each in own_types(found)[:own]] == [
                each.name for each in own_types(split)
            ]
    # Those that do not fit need a type that their kernel has twice.
    assert any(results)
    print(len(results) - results.count(None), "of", len(results), "modules fit")


@pytest.mark.parametrize(("name", "other"), OTHERS)
def test_modules_relocated_onto_another_kernel(libbpf_tables, tmp_path, name, other):
    results = [
        relocated(libbpf_tables, tmp_path, distill_base(split).btf, vmlinux(other))
        for split in modules(name)
    ]
    print(len(results) - results.count(None), "of", len(results), "modules fit")


@pytest.mark.parametrize("name", ["6.12", "6.12-s390x"])
def test_modules_read_from_files(libbpf_tables, tmp_path, name):
    """A ``.BTF.base`` is the base; what is given instead is what the types are relocated onto."""
    base = vmlinux(name)
    path, out = tmp_path / "module.ko", tmp_path / "out"
    for split in modules(name):
        made = distill_base(split).btf
        file = ElfBuilder(split.byteorder)
        file.section(".BTF", made.to_bytes())
        file.section(".BTF.base", made.base.to_bytes())
        path.write_bytes(file.build())
        found = read_btf(path)
        told = libbpf_tables("parse", path=path, out=out)
        assert told == {"types": len(found), "pointer_size": found.pointer_size}
        assert own_types(found) == own_types(read_btf(out, base=found.base))
        told = libbpf_tables("parse", path=path, out=out, base=written(base, tmp_path / "base"))
        try:
            found = read_btf(path, base=base)
        except FormatError:
            assert told == {"error": errno.EINVAL}
            continue
        assert told == {"types": len(found), "pointer_size": found.pointer_size}
        assert own_types(found) == own_types(read_btf(out, base=base))


# Tables that Hypothesis makes up

NAMES = st.sampled_from(["", *"aabbccddeeffgg"])
SIZES = st.sampled_from([4, 4, 8])
DISTILLED = ("int", "float", "fwd", "struct", "union", "enum")
NAMED = (*DISTILLED, "enum64")
ALL = (
    *NAMED, *("ptr", "array", "const", "typedef", "proto", "tag") * 2,
    "func", "var", "datasec", "decl_tag",
)  # fmt: skip


def filled(draw, b: BtfBuilder, kinds: tuple[str, ...], most: int, *, bare: bool = False) -> Btf:
    """Add types that refer to earlier ones; bare ones without members and enumerators."""
    protos = []
    for _ in range(draw(st.integers(1, most))):
        kind, name, size = draw(st.sampled_from(kinds)), draw(NAMES), draw(SIZES)
        some = st.integers(0, len(b) - 1)
        flag = draw(st.booleans())
        members = [("m", draw(some), 0, *[3] * flag)] if not bare and draw(st.booleans()) else []
        values = [("E", -1)] if not bare and flag else []
        if kind == "int":
            b.add_int(name, size, draw(st.sampled_from([0, 1])))
        elif kind == "float":
            b.add_float(name, size)
        elif kind == "fwd":
            b.add_fwd(name, is_union=flag)
        elif kind == "struct":
            b.add_struct(name, size, members)
        elif kind == "union":
            b.add_union(name, size, members)
        elif kind == "enum":
            b.add_enum(name, draw(st.sampled_from([4, 4, 4, 8, 16])), values)
        elif kind == "enum64":
            b.add_enum64(name, size, values)
        elif kind == "ptr":
            b.add_ptr(draw(some))
        elif kind == "array":
            b.add_array(draw(some), 2, draw(some))
        elif kind == "const":
            b.add_const(draw(some))
        elif kind == "typedef":
            b.add_typedef(name or "t", draw(some))
        elif kind == "tag":
            b.add_type_tag("tag", draw(some))
        elif kind == "proto":
            protos.append(b.add_func_proto(draw(some), [("p", draw(some))]))
        elif kind == "func" and protos:
            b.add_func("f", draw(st.sampled_from(protos)))
        elif kind == "var":
            b.add_var("v", draw(some))
        elif kind == "datasec":
            b.add_datasec(".d", 4, [(draw(some), 0, 4)])
        elif kind == "decl_tag":
            b.add_decl_tag("d", draw(some))
    return b.btf("made up")


@st.composite
def splits(draw, base_kinds, *, bare=False):
    order = draw(st.sampled_from("<>"))
    base = filled(draw, BtfBuilder(order), base_kinds, 8, bare=bare)
    return filled(draw, BtfBuilder(order, base=base), ALL, 6)


generated = settings(
    max_examples=GENERATED,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def test_generated_distilled(libbpf_tables, tmp_path):
    done = Counter()

    @generated
    @given(splits(ALL))
    def compare(split):
        done[distilled(libbpf_tables, tmp_path, split) is not None] += 1

    compare()
    assert min(done[True], done[False]) > GENERATED / 20, done
    print(done[True], "distilled,", done[False], "refused")


def test_generated_relocated(libbpf_tables, tmp_path):
    done = Counter()

    @generated
    @given(splits(DISTILLED, bare=True), st.data())
    def compare(split, data):
        b = BtfBuilder(split.byteorder)
        for each in own_types(split.base):
            if data.draw(st.sampled_from([True, True, True, False])):
                b.add_type(each)
        base = filled(data.draw, b, (*NAMED, "typedef", "ptr"), 4)
        done[relocated(libbpf_tables, tmp_path, split, base) is not None] += 1

    compare()
    assert min(done[True], done[False]) > GENERATED / 20, done
    print(done[True], "relocated,", done[False], "refused")
