"""What pybpfload.open() and read_btf() promise of memory, on files that cost much for their size.

Each file is read by a process of its own, because memory that an earlier one gave back would hide
what a later one takes.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from environment import ROOT

from pybpfload.btf.build import BtfBuilder
from pybpfload.isa.insn import CALL, EXIT, LDIMM64, Insn
from pybpfload.testing.fields import records
from pybpfload.testing.objects import FUNC, OBJECT, ObjectBuilder

TIMES, MORE = 64, 32 << 20  # as in the docstrings
COUNT = 30000

_READ = """
import sys
sys.path.insert(0, sys.argv[1])
import hostile, pybpfload
read = pybpfload.open if sys.argv[2] == "open" else pybpfload.read_btf
hostile.measured(lambda data: read(data), open(sys.argv[3], "rb").read())  # imports
answer = hostile.measured(lambda data: read(data), open(sys.argv[4], "rb").read())
print(int(answer["megabytes"] * (1 << 20)), answer["problem"])
"""
_SMALL = {
    "open": ROOT / "fixtures" / "bpfel" / "execsnoop.bpf.o",
    "read_btf": ROOT / "fixtures" / "bpfel" / "minimal.bpf.o",
}


def read(path: Path, how: str) -> tuple[int, str]:
    """Bytes that reading a file takes at its peak, and what was raised."""
    command = [sys.executable, "-c", _READ, str(Path(hostile.__file__).parent), how]
    command += [str(_SMALL[how]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken, problem = done.stdout.split(" ", 1)
    return int(taken), problem.strip()


def peak(path: Path, how: str = "open") -> int:
    """Bytes that reading a good file takes at its peak."""
    taken, problem = read(path, how)
    assert not problem
    return taken


def program() -> ObjectBuilder:
    made = ObjectBuilder()
    made.program("tc", [Insn(EXIT)])
    made.btf.add_int("int", 4)
    return made


def of_one_name(data: bytes) -> bytes:
    """All symbols have the name of the first: the file is smaller, what it describes is not."""
    changed = bytearray(data)
    first, *rest = [r.field("st_name") for r in records(data) if r.kind == "symbol"][1:]
    for field in rest:
        field.put(changed, first.get(data))
    return bytes(changed)


def programs() -> bytes:
    made = program()
    code = made.code("xdp", [Insn(EXIT)] * COUNT)
    for at in range(COUNT):
        made.symbol("p" if at == 0 else "", code, 8 * at, 8, kind=FUNC)
    return of_one_name(made.build())


def maps_of_maps() -> bytes:
    made = program()
    kinds = [made.btf.add_ptr(made.btf.add_array(1, kind, 1)) for kind in (2, 12)]
    inner = made.btf.add_struct("", 8, [("type", kinds[0], 0)])
    values = made.btf.add_array(made.btf.add_ptr(inner), 0, 1)
    outer = made.btf.add_struct("", 8, [("type", kinds[1], 0), ("values", values, 64)])
    variables = [made.btf.add_var("m", outer) for _ in range(COUNT)]
    made.symbol("m", made.section(".maps", bytes(8), flags=3), 0, 8, kind=OBJECT)
    made.btf.add_datasec(".maps", 8, [(variable, 0, 8) for variable in variables])
    return made.build()


def variables() -> bytes:
    made = program()
    variable = made.btf.add_var("v", 1)
    made.symbol("v", made.section(".data", bytes(4), flags=3), 0, 4, kind=OBJECT)
    made.btf.add_datasec(".data", 4, [(variable, 0, 4)] * COUNT)
    return made.build()


def sections() -> bytes:
    made = program()
    for at in range(COUNT // 3):
        made.section(f".data.{at}", b"1234", flags=3)
    return made.build()


def externs() -> bytes:
    made = program()
    entries = []
    for at in range(COUNT // 3):
        entries.append((made.btf.add_var(f"k{at}", 1, 2), 0, 0))
        made.symbol(f"k{at}")
    made.btf.add_datasec(".ksyms", 0, entries)
    return made.build()


def instructions() -> bytes:
    made = ObjectBuilder()
    made.program("tc", [Insn(EXIT)] * 200000)
    return made.build()


def relocations() -> bytes:
    made = program()
    symbol = made.symbol("v", made.section(".data", bytes(4), flags=3), 0, 4, kind=OBJECT)
    variable = made.btf.add_var("v", 1)
    made.btf.add_datasec(".data", 4, [(variable, 0, 4)])
    code = made.code("xdp", [Insn(LDIMM64), Insn(0), Insn(EXIT)])
    made.symbol("p", code, 0, 24, kind=FUNC)
    for _ in range(COUNT):
        made.rel(code, 0, symbol)
    return made.build()


def core_relocations() -> bytes:
    made = program()
    struct = made.btf.add_struct("s", 4, [("a", 1, 0)])
    made.core = {"tc": [(0, struct, "0:0", 0)] * COUNT}
    return made.build()


def subprograms() -> bytes:
    made = ObjectBuilder()
    text = made.code(".text", [Insn(EXIT)] * COUNT)
    code = made.code("tc", [Insn(CALL, src=1, imm=-1)] * COUNT + [Insn(EXIT)])
    made.symbol("main", code, 0, 8 * COUNT + 8, kind=FUNC)
    for at in range(COUNT):
        made.rel(code, 8 * at, made.symbol(f"f{at}", text, 8 * at, 8, kind=FUNC), 10)
    return made.build()


def types() -> bytes:
    made = program()
    name = made.btf.add_string("x" * COUNT)
    for at in range(COUNT):
        made.btf.add_fwd("")
        made.btf._words[-3] = name + at  # all inside one string
    return made.build()


def far_slot() -> bytes:
    """A map whose declared values begin far out."""
    made = program()
    kinds = [made.btf.add_ptr(made.btf.add_array(1, kind, 1)) for kind in (2, 12)]
    inner = made.btf.add_struct("", 8, [("type", kinds[0], 0)])
    values = made.btf.add_array(made.btf.add_ptr(inner), 0, 1)
    outer = made.btf.add_struct("", 8, [("type", kinds[1], 0), ("values", values, 64)])
    size = 8 << 20
    maps = made.section(".maps", kind=8, flags=3, size=size)
    made.btf.add_datasec(".maps", size, [(made.btf.add_var("m", outer), 0, size)])
    made.rel(maps, size - 16, made.symbol("m", maps, 0, size, kind=OBJECT))
    return made.build()


GREEDY = (
    core_relocations, externs, far_slot, instructions, maps_of_maps, programs, relocations,
    sections, subprograms, types, variables,
)  # fmt: skip


@pytest.mark.parametrize("make", GREEDY, ids=lambda make: make.__name__)
def test_objects_of_many_parts(make, tmp_path):
    path = tmp_path / "object.o"
    path.write_bytes(make())
    size, taken = path.stat().st_size, peak(path)
    print(f"{make.__name__}: {size >> 10} KiB, {taken >> 10} KiB, {taken / size:.1f} times")
    assert taken <= TIMES * size + MORE


def test_largest_fixtures():
    paths = sorted((ROOT / "fixtures").glob("bpf??/*.o"), key=lambda path: path.stat().st_size)
    for path in paths[-3:]:
        assert peak(path) <= TIMES * path.stat().st_size


def test_types_of_a_kernel(tmp_path):
    """They are indexed where they lie."""
    vmlinux = Path("/sys/kernel/btf/vmlinux")
    if not vmlinux.exists():
        pytest.skip("this kernel has no /sys/kernel/btf/vmlinux")
    path = tmp_path / "vmlinux"
    path.write_bytes(vmlinux.read_bytes())
    assert peak(path, "read_btf") <= 4 * path.stat().st_size


def test_types_of_another_byte_order(tmp_path):
    builder = BtfBuilder(">" if sys.byteorder == "little" else "<")
    for at in range(3 * COUNT):
        builder.add_fwd(f"type_{at}")
    path = tmp_path / "vmlinux"
    path.write_bytes(builder.build())
    assert peak(path, "read_btf") <= 4 * path.stat().st_size + (8 << 20)


def test_bombs(tmp_path):
    """A small file that decompresses to much: 32 MiB and 32 times its size are looked at."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(gzip.compress(bytes(256 << 20), 1))
    taken, problem = read(path, "read_btf")
    assert "FormatError" in problem
    assert "decompresses to more than" in problem
    assert taken <= TIMES * path.stat().st_size + 3 * MORE
