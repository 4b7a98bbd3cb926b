"""Stacks and symbols of this machine's kernel and of this process; histograms from maps."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest
from snippets import ROOT
from user_binary import UserBinaryBuilder

import pybpfload
from pybpfload.charts import Histogram, by_key, flame_graph, read_folded, write_folded
from pybpfload.elf.binary import UserBinary
from pybpfload.formats.elf import layouts
from pybpfload.kernel import kallsyms
from pybpfload.symbols import KernelSymbols, Stacks, UserSymbols
from pybpfload.symbols.files import CodeFiles, RegularFile
from pybpfload.symbols.table import elf_symbols
from pybpfload.testing.fakekernel import FakeKernel

pytestmark = pytest.mark.live

OBJECTS = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
GETPGID = {"x86_64": 121, "aarch64": 155, "s390x": 132}.get(os.uname().machine, 155)


@pytest.fixture
def profiler():
    spec = pybpfload.open(OBJECTS / "profile.bpf.o")
    spec.variables["target_tgid"].value = os.getpid()
    spec.variables["wanted_syscall"].value = GETPGID
    spec.programs["on_enter"].autoload = True
    with spec.load() as obj:
        yield obj


def address_of(name: str) -> int:
    """Where a function is in this process, as the dynamic loader says."""
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value


def interpreter_functions() -> set[str]:
    """Names of all functions of this interpreter."""
    file = UserSymbols().frame(os.getpid(), address_of("PyObject_Call")).module
    return UserBinary(Path(file).read_bytes(), file).function_names()


def profiled(obj, seconds: float) -> Counter:
    """Work, and the folded stacks of it."""
    stacks = Stacks(obj.maps["stacks"])
    with obj.programs["on_sample"].attach("cpu-clock", frequency=999, pid=os.getpid()):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            sorted(range(1000, 0, -1))
            os.stat("/proc/self/status")
    folded = Counter()
    for key, count in obj.maps["counts"].items():
        assert key.tgid == os.getpid()
        user, kernel = key.user_stack, key.kernel_stack
        folded[stacks.folded(key.comm, user=user, kernel=kernel, pid=key.tgid)] += count
    return folded


def test_profile_of_this_process(profiler, tmp_path):
    folded = profiled(profiler, 0.3)
    assert sum(folded.values()) > 50
    names = {name for stack in folded for name in stack}
    interpreter = names & interpreter_functions()
    assert len(interpreter) > 3, names
    assert any(name.endswith("_[k]") for name in names), "nothing of the kernel in 0.3 s of stat()"
    assert names & {"do_syscall_64_[k]", "el0_svc_[k]", "__do_syscall_[k]"}
    assert read_folded(write_folded(folded)) == dict(folded)
    file = tmp_path / "profile.svg"
    file.write_text(flame_graph(folded), encoding="utf-8")
    titles = [
        each.text for each in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}title")
    ]
    assert any(title.startswith(next(iter(interpreter))) for title in titles)


def test_one_stack_in_all_forms(profiler):
    with profiler.programs["on_enter"].attach():
        os.getpgid(0)
    values = {name: each.value for name, each in profiler.variables.items()}
    stacks = Stacks(profiler.maps["build_id_stacks"])
    plain = stacks.resolve(values["user_stack"][: values["user_bytes"] // 8], os.getpid())
    with_ids = stacks.frames(values["build_id_stack"], os.getpid())
    assert plain[0].name in ("getpgid", "__getpgid")
    assert "libc" in plain[0].module
    assert with_ids[0][1:] == plain[0][1:]
    # Without frame pointers further levels are what lay on the stack: data, or 0, which ends it.
    for one, other in zip(with_ids, plain, strict=False):
        assert one.symbol == other.symbol
    kernel = stacks.resolve(values["kernel_stack"])
    assert kernel[0].module == "bpf"
    assert kernel[0].name.endswith("_on_enter")
    assert any("sys_enter" in frame.name for frame in kernel)


def test_functions_of_this_process_are_found():
    user = UserSymbols()
    for name in ("PyObject_Call", "PyList_Sort", "Py_IncRef", "PyDict_GetItem"):
        frame = user.frame(os.getpid(), address_of(name) + 1)
        assert (frame.symbol.lstrip("_"), frame.offset) == (name, 1)
    with open("/proc/self/maps", encoding="utf-8") as lines:
        start = next((int(x.split("-")[0], 16) for x in lines if x.endswith("[vdso]\n")), None)
    if start is None:
        pytest.skip("this kernel gives processes no vDSO")
    user.frame(os.getpid(), start)
    tables = [each.table for each in user.files if each.name == "[vdso]"]
    assert len(tables) == 1
    first = tables[0]._starts[0]
    assert user.frame(os.getpid(), start + first).symbol == tables[0].at(first).name


def test_kernel_symbols_are_those_of_kallsyms():
    text = kallsyms.read()  # once: programs come and go
    with FakeKernel(files={"/proc/kallsyms": text}):
        kernel = KernelSymbols()
    if kernel.problem:
        pytest.skip(kernel.problem)
    told = [line.split() for line in text.decode().splitlines()]
    assert len(kernel) == len(told)
    for address, _, name, *module in told[:: len(told) // 30]:
        frame = kernel.frame(int(address, 16))
        assert (frame.address, frame.offset) == (int(address, 16), 0)
        assert frame.module == (module[0].strip("[]") if module else "kernel")
        assert int(address, 16) in kernel.addresses(name)


def test_files_that_are_traps(tmp_path):
    """A pipe that nobody writes to, and a library of a terabyte whose table is as large."""
    files, trap = CodeFiles([], 1 << 20), tmp_path / "trap"
    os.mkfifo(trap)
    assert files.open(str(trap), "trap") is None
    assert files.open(str(tmp_path), "folder") is None
    builder = UserBinaryBuilder()
    builder.symbol("f")
    content = bytearray(builder.build())
    header = layouts("<").header.parse(bytes(content))
    at = header.e_shoff + 3 * header.e_shentsize  # of .symtab, the third
    layout = layouts("<").section
    section = layout.parse(bytes(content[at:]))
    section.sh_offset, section.sh_size = 0, 1 << 39
    content[at : at + header.e_shentsize] = layout.build(section)
    sparse = tmp_path / "sparse"
    sparse.write_bytes(content)
    assert len(files.open(str(sparse), "cut short").table) == 0
    os.truncate(sparse, 1 << 40)
    started = time.process_time()
    assert len(files.open(str(sparse), "sparse").table) == 0
    assert time.process_time() - started < 1
    assert len(files) == 2


def test_speed():
    """Bars of the project: 0.5 s to read an interpreter's symbols, 1 s for 10,000 addresses."""
    pid, user = os.getpid(), UserSymbols()
    module = user.frame(pid, address_of("PyObject_Call")).module
    started = time.process_time()
    with RegularFile(module) as file:
        table = elf_symbols(UserBinary(file, module))
    assert time.process_time() - started < 0.5
    assert len(table) > 1000
    start = address_of("PyObject_Call") & ~0xFFF
    started = time.process_time()
    frames = [user.frame(pid, address) for address in range(start, start + 80_000, 8)]
    assert time.process_time() - started < 1
    assert len({frame.address for frame in frames}) == 10_000
    assert sum(frame.symbol is not None for frame in frames) > 9000


def test_histograms_of_maps():
    spec = pybpfload.open(OBJECTS / "latency.bpf.o")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        links = obj.attach()
        for _ in range(200):
            os.getpgid(0)
        for link in reversed(links):
            link.close()
        calls = obj.variables["calls"].value
        assert calls >= 200
        all_calls = Histogram.log2(obj.maps["log2"], unit="ns")
        linear = Histogram.linear(obj.maps["linear"], step=500, unit="ns")
        assert all_calls.total == linear.total == calls
        each = {name: Histogram.log2(slots) for name, slots in by_key(
            obj.maps["by_syscall"], slot="slot"
        ).items()}  # fmt: skip
        assert sum(made.total for made in each.values()) == calls
        assert each[GETPGID].total >= 200
        nested = Histogram.log2(obj.maps["nested"][GETPGID].slots)
        assert nested.buckets == each[GETPGID].buckets
        assert 10 < all_calls.percentile(50) < 1e6
        assert all_calls.text().count("\n") == len(all_calls.buckets) + 1


def test_example_profiles_another_process(tmp_path):
    file = tmp_path / "out.svg"
    child = subprocess.Popen([sys.executable, "-c", "while True: sorted(range(1000, 0, -1))"])
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples/profile.py"), "-p", str(child.pid), "-s", "1",
             "-o", str(file)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        child.kill()
        child.wait()
    assert (done.returncode, done.stderr) == (0, "")
    folded = read_folded(done.stdout)
    named = {name for stack in folded for name in stack[1:] if not name.startswith("[")}
    assert named & interpreter_functions(), folded
    assert ElementTree.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"
