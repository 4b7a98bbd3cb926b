"""BTF of kernels and compilers to come: longer headers, and kinds that only the layout tells of.

Since Linux 7.1 BTF may carry the record size of each kind, so that a reader steps over what it does
not know. Nothing that does not use such a type may notice it.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.btf import Btf, Kind
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.cdecl import declare, define
from pybpfload.btf.edit import BtfEditor
from pybpfload.btf.values import codec
from pybpfload.errors import FormatError
from pybpfload.kernel import btf as kernel_btf
from pybpfload.testing.fakekernel import FakeKernel

NATIVE = "<" if sys.byteorder == "little" else ">"
OBJECTS = Path(__file__).parents[2] / "fixtures"
FOLDER = {"<": OBJECTS / "bpfel", ">": OBJECTS / "bpfeb"}
VMLINUX = "/sys/kernel/btf/vmlinux"

# Kind -> words added once, words added for each element.
UNKNOWN = {20: (0, 0), 40: (1, 2), 127: (3, 1)}


def add_unknown(b: BtfBuilder) -> list[int]:
    """Add one type of each unknown kind."""
    b.add_layout(UNKNOWN)
    return [
        b.add(kind, f"odd{kind}", 7, vlen=3, extra=[0xFFFFFFFF] * (once + 3 * each))
        for kind, (once, each) in UNKNOWN.items()
    ]


def kernel_types(order: str = NATIVE, base: Btf | None = None) -> BtfBuilder:
    """Types of a kernel with unknown kinds between them."""
    b = BtfBuilder(order, base=base)
    prefix = "" if base is None else "mod_"
    number = b.add_int(f"{prefix}int", 4)
    odd = add_unknown(b)
    fields = [("before", number, 0), ("odd", odd[1], 32), ("after", b.add_ptr(odd[0]), 64)]
    b.add_struct(f"{prefix}task", 16, fields)
    b.add_func(f"{prefix}run", b.add_func_proto(number, [("task", b.add_ptr(odd[2]))]))
    return b


@pytest.mark.parametrize("order", "<>")
def test_unknown_kinds_are_stepped_over(order: str) -> None:
    btf = kernel_types(order).btf()
    assert btf.has_layout
    btf.validate()
    opaque = [btf[i] for i in btf if isinstance(btf[i], t.Opaque)]
    assert [(o.name, o.raw_kind) for o in opaque] == [(f"odd{kind}", kind) for kind in UNKNOWN]
    assert btf.find("odd40") == 3
    assert btf.find("odd40", Kind.STRUCT) == 0
    task = btf[btf.find("task")]
    assert isinstance(task, t.Struct)
    assert [(m.name, m.bit_offset) for m in task.members] == [
        ("before", 0),
        ("odd", 32),
        ("after", 64),
    ]
    assert btf.find("run", Kind.FUNC) == len(btf) - 1
    assert BtfEditor(btf).build() == btf.to_bytes()


def test_what_needs_an_unknown_kind_says_so() -> None:
    btf = kernel_types().btf()
    odd, task = btf.find("odd40"), btf.find("task")
    with pytest.raises(FormatError, match=r"kind 40 odd40 \[3\] has no size"):
        btf.size(odd)
    with pytest.raises(FormatError, match=r"kind 40 odd40 \[3\] has no values"):
        codec(btf, task)
    assert declare(btf, odd, "x") == "kind 40 odd40 x"
    assert "kind 40 odd40 odd;" in define(btf, task)
    assert btf.size(task) == 16


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("base_has_layout", [True, False])
@pytest.mark.parametrize("own", ["layout", "long header", "short header"])
def test_modules(order: str, base_has_layout: bool, own: str) -> None:
    """A module without a layout part of its own goes by that of vmlinux."""
    vmlinux = kernel_types(order) if base_has_layout else BtfBuilder(order)
    base = vmlinux.btf("vmlinux")
    b = kernel_types(order, base)
    if own != "layout":
        b._layout = b""
    data = b.build()
    if own == "long header":
        data = data[:4] + struct.pack(order + "I", 32) + data[8:24] + bytes(8) + data[24:]
    if own == "layout" or base_has_layout:
        module = Btf.from_bytes(data, base=base, name="mod")
        assert module.has_layout == (own == "layout")
        assert [module.kind(i) for i in module.own_ids()][1:4] == list(UNKNOWN)
        assert module.find_own("mod_task", Kind.STRUCT)
        module.validate()
    else:
        with pytest.raises(FormatError, match=r"mod, section .BTF.* has unknown kind 20"):
            Btf.from_bytes(data, base=base, name="mod")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("length", [24, 28, 32, 36, 64])
def test_headers_of_other_lengths(order: str, length: int) -> None:
    """What a longer header says beyond the layout is not for us."""
    b = BtfBuilder(order)
    b.add_typedef("number_t", b.add_int("int", 4))
    plain = b.build()
    tail = bytes(min(8, length - 24)) + b"\x01" * max(0, length - 32)
    data = plain[:4] + struct.pack(order + "I", length) + plain[8:24] + tail + plain[24:]
    btf = Btf.from_bytes(data)
    assert [btf[i].name for i in btf] == ["int", "number_t"]
    assert not btf.has_layout


def test_a_layout_that_makes_no_sense() -> None:
    b = BtfBuilder()
    b.add_layout(UNKNOWN)
    b.add_int("int", 4)
    good = b.build()
    at = good.index(b._layout)
    broken = bytearray(good)
    broken[at + 4 * 40] = 3  # bytes, not words: nobody needs kind 40 here
    assert len(Btf.from_bytes(bytes(broken))) == 2
    b.add(40, "odd", extra=[1])
    good = b.build()
    broken = bytearray(good)
    broken[good.index(b._layout) + 4 * 40] = 3
    with pytest.raises(FormatError, match="type 2 has unknown kind 40"):
        Btf.from_bytes(bytes(broken))
    for offset, length in ((1, 4), (0, 512), (0xFFFFFFFC, 4), (16, 0x40000000)):
        moved = bytearray(good)
        struct.pack_into("=II", moved, 24, offset, length)
        with pytest.raises(FormatError, match="misplaced"):
            Btf.from_bytes(bytes(moved))


def test_without_layout_an_unknown_kind_is_an_error() -> None:
    b = kernel_types()
    b._layout = b""
    with pytest.raises(FormatError, match="type 2 has unknown kind 20"):
        b.btf()


# Where BTF is read


def test_btf_of_the_kernel_and_its_modules() -> None:
    vmlinux = kernel_types().btf("vmlinux")
    module = kernel_types(base=vmlinux)
    with FakeKernel(files={VMLINUX: vmlinux.to_bytes()}) as fake:
        fake.pins["mod"] = fake.make("btf", data=module.build(), name="mod", kernel=1)
        assert kernel_btf.vmlinux().find("run", Kind.FUNC)
        (found,) = kernel_btf.modules()
        assert found.btf.find_own("mod_run", Kind.FUNC)
        assert kernel_btf.problems() == []


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["core_fields", "core_kinds", "core_types"])
def test_relocation_does_not_notice(order: str, name: str) -> None:
    spec = pybpfload.open(FOLDER[order] / f"{name}.bpf.o")
    target = pybpfload.open(FOLDER[order] / "core_target.bpf.o").require_btf("the test")
    editor = BtfEditor(target)
    odd = add_unknown(editor)
    editor.add_struct("holder", 8, [("odd", odd[0], 0)])
    plain, strange = spec.relocate(target), spec.relocate(editor.finish())
    assert plain.programs.keys() == strange.programs.keys()
    for key, program in plain.programs.items():
        assert program.insns == strange.programs[key].insns


def with_unknown_kinds(name: str, order: str = NATIVE) -> bytes:
    """A fixture object whose .BTF has unknown kinds at its end."""
    path = FOLDER[order] / f"{name}.bpf.o"
    data = bytearray(path.read_bytes())
    editor = BtfEditor(pybpfload.read_btf(path))
    add_unknown(editor)
    blob = editor.build()
    start, size, number, names = struct.unpack_from(order + "Q10xHHH", data, 0x28)
    sections = [start + i * size for i in range(number)]
    strings = struct.unpack_from(order + "Q", data, sections[names] + 24)[0]
    for at in sections:
        where = strings + struct.unpack_from(order + "I", data, at)[0]
        if data[where : data.index(0, where)] == b".BTF":
            struct.pack_into(order + "QQ", data, at + 24, len(data), len(blob))
            return bytes(data) + blob
    raise AssertionError(f"{path} has no .BTF")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["minimal", "maps", "core_fields"])
def test_objects(order: str, name: str) -> None:
    plain = pybpfload.open(FOLDER[order] / f"{name}.bpf.o", name="x")
    strange = pybpfload.open(with_unknown_kinds(name, order), name="x")
    assert strange.require_btf("the test").has_layout
    assert strange.notes == plain.notes
    assert list(strange.maps) == list(plain.maps)
    for key, program in plain.programs.items():
        assert strange.programs[key].insns == program.insns


@pytest.mark.parametrize(("version", "described"), [("7.0", False), ("7.1", True)])
def test_objects_are_loaded(version: str, described: bool) -> None:
    """A kernel without layout parts cannot be told of the types; the program runs all the same."""
    spec = pybpfload.open(with_unknown_kinds("minimal"), name="minimal")
    own = spec.require_btf("the test").to_bytes()
    with FakeKernel.like(version, files={VMLINUX: own}) as fake, spec.load() as obj:
        program = fake.fds[obj.programs["count_syscalls"].fileno()]
        assert bool(program["prog_btf_fd"]) is described
        assert ["unknown kind 20" in str(note) for note in obj.notes] == [True] * (not described)
    assert fake.leaked() == []
