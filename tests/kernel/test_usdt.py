"""USDT: each argument that a probe has arrives, from all sites, by way of libbpf's contract."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
from user_binary import MACHINES, UserBinaryBuilder, mapped

import pybpfload
from pybpfload import AttachError, NotSupportedError
from pybpfload.elf.binary import UserBinary
from pybpfload.elf.usdt import probes
from pybpfload.kernel.probe import Feature, has

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        os.uname().machine not in MACHINES, reason="no machine code for this machine"
    ),
]
EACH = 64  # bytes from one function of the library to the next
COOKIE = 0xFEDCBA9876543210


class Library:
    """Functions that add two numbers, with a probe each at their beginning."""

    def __init__(self, folder) -> None:
        self.machine = MACHINES[os.uname().machine]
        order = "<" if sys.byteorder == "little" else ">"
        self.builder = UserBinaryBuilder(self.machine.elf, order)
        self.path = folder / "libprobes.so"
        self.sites = 0

    def probe(self, name: str, arguments: str = "", **more) -> None:
        """Add a function and a probe in it; `{0}` and `{1}` are its registers."""
        at = self.sites * EACH
        self.builder.probe("our", name, arguments.format(*self.machine.registers), at, **more)
        code = self.machine.nop + self.machine.add
        self.builder.code += code.ljust(EACH, b"\0")
        self.sites += 1
        self.path.write_bytes(self.builder.build())

    def call(self, place: int = 0, first: int = 20, second: int = 22) -> None:
        with mapped(self.path) as memory:
            memory.call(place * EACH, first, second)

    def deref(self, register: int, offset: int) -> str:
        return self.machine.deref.format(r=self.machine.registers[register], n=offset)

    def constant(self, number: int) -> str:
        return self.machine.constant.format(n=number)


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path)


@pytest.fixture
def loaded(opened):
    """Load the fixture, or another one, with some of its programs."""
    with contextlib.ExitStack() as stack:

        def load(*names: str, name_of_object="usdt", tgid: int = os.getpid(), **entries: int):
            spec = opened(name_of_object)
            for name in names or ["on_probe"]:
                spec.programs[name].autoload = True
            for name, count in entries.items():
                spec.maps[name].max_entries = count
            spec.variables["target_tgid"].value = tgid
            spec.variables["ip_offset"].value = MACHINES[os.uname().machine].ip_offset
            return stack.enter_context(spec.load())

        yield load


def where() -> dict[str, int]:
    """What must be said about the process: kernels without cookies know probes by address only."""
    return {} if has(Feature.BPF_COOKIE) else {"pid": 0}


@contextlib.contextmanager
def attached(obj, library, name="probe", program="on_probe", **options):
    """The program on a probe, with the library mapped."""
    with mapped(library.path) as memory:
        options = {**where(), **options}
        with obj.programs[program].attach(f"{library.path}:our:{name}", **options) as link:
            yield memory, link


def values(obj) -> list[int]:
    return list(obj.variables["values"].value[: obj.variables["count"].value])


class TestArguments:
    @pytest.mark.parametrize("size", [1, 2, 4, 8])
    def test_registers_of_all_sizes(self, loaded, library, size):
        library.probe("probe", f"{size}@{{0}} -{size}@{{1}}")
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, 0x7766554433221100 - 2, -3)
            bits = 8 * size
            assert values(obj) == [(0x7766554433221100 - 2) % (1 << min(bits, 63)), -3]
        assert obj.variables["hits"].value == 1

    def test_memory(self, loaded, library):
        """The page of data is what the first argument points to."""
        library.builder.data[8:24] = (-7).to_bytes(8, sys.byteorder, signed=True) * 2
        far, near = library.deref(0, 16), library.deref(0, 0)
        library.probe("probe", f"-8@{far} -4@{near} 1@{far}")
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, memory.data, 0)
            first = 0  # what is at the beginning of the page
            last = 0xF9 if sys.byteorder == "little" else 0xFF
            assert values(obj) == [-7, first, last]

    def test_constants(self, loaded, library):
        numbers = [0, 1, -5, 1 << 40, 255]
        sizes = [4, -4, -8, 8, 1]
        text = " ".join(
            f"{size}@{library.constant(number)}"
            for size, number in zip(sizes, numbers, strict=True)
        )
        library.probe("probe", text)
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, 20, 22)
        assert values(obj) == numbers

    def test_index_register(self, loaded, library):
        if os.uname().machine not in ("x86_64", "aarch64"):
            pytest.skip("tested on x86-64 and arm64")
        library.builder.data[32:40] = (1234567).to_bytes(8, sys.byteorder)
        scaled = {"x86_64": "8(%rdi,%rsi,8)", "aarch64": "[x0, x1, lsl 3]"}[os.uname().machine]
        library.probe("probe", f"8@{scaled}")
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, memory.data, 3 if "rdi" in scaled else 4)
        assert values(obj) == [1234567]

    def test_variable(self, loaded, library):
        if os.uname().machine != "x86_64":
            pytest.skip("x86-64 only: variables by the instruction pointer")
        library.builder.data[16:20] = (-9).to_bytes(4, sys.byteorder, signed=True)
        library.builder.symbol("state", 8, section=2, kind=1)
        library.probe("probe", "-4@8+state(%rip)")
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, 1, 2)
        assert values(obj) == [-9]

    def test_twelve(self, loaded, library):
        text = " ".join(f"8@{library.constant(number)}" for number in range(12))
        library.probe("probe", text)
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, 20, 22)
        assert values(obj) == list(range(12))

    def test_none(self, loaded, library):
        library.probe("probe")
        obj = loaded()
        with attached(obj, library) as (memory, _):
            memory.call(0, 20, 22)
        assert (obj.variables["hits"].value, obj.variables["count"].value) == (1, 0)

    def test_cookie(self, loaded, library):
        library.probe("probe")
        obj = loaded()
        with attached(obj, library, cookie=COOKIE) as (memory, _):
            memory.call(0, 20, 22)
        assert obj.variables["cookie"].value == COOKIE

    @pytest.mark.kernel("6.0")
    def test_sleepable(self, loaded, library):
        library.probe("probe", "8@{0}")
        obj = loaded("on_probe_sleepable")
        with attached(obj, library, program="on_probe_sleepable") as (memory, _):
            memory.call(0, 77, 0)
        assert values(obj) == [77]

    def test_layout_of_old_headers(self, loaded, library):
        library.probe("probe", "-4@{1}")
        obj = loaded(name_of_object="usdt_old")
        with attached(obj, library) as (memory, _):
            memory.call(0, 1, -12)
        assert obj.variables["value"].value == -12
        if os.uname().machine == "x86_64":
            library.probe("scaled", "8@(%rdi,%rsi)")
            with pytest.raises(NotSupportedError, match=r"usdt\.bpf\.h of libbpf 1\.7"):
                obj.programs["on_probe"].attach(f"{library.path}:our:scaled", pid=0)


class TestSites:
    def test_all_sites_of_one_probe(self, loaded, library):
        library.probe("probe", "8@{0}")
        library.probe("other", "8@{0}")
        library.probe("probe", "8@{1}")
        library.probe("probe", "8@{0}")
        obj = loaded()
        with attached(obj, library) as (memory, link):
            if has(Feature.UPROBE_MULTI_LINK):
                assert len(link.info().details["offsets"]) == 3
            else:
                assert len(link.links) == 3
            seen = []
            for place in range(4):
                memory.call(place * EACH, 100 + place, 200 + place)
                seen.append((obj.variables["hits"].value, values(obj)))
        assert seen == [(1, [100]), (1, [100]), (2, [202]), (3, [103])]
        library.call()
        assert obj.variables["hits"].value == 3

    @pytest.mark.kernel("4.20")
    def test_semaphores(self, loaded, library):
        library.probe("probe", semaphore=2)
        library.probe("probe", semaphore=6)
        obj = loaded()
        with mapped(library.path) as memory:
            with obj.programs["on_probe"].attach(f"{library.path}:our:probe", **where()):
                assert [memory.counter(at) for at in (2, 4, 6)] == [1, 0, 1]
            assert [memory.counter(at) for at in (2, 4, 6)] == [0, 0, 0]

    def test_one_link_after_another_reuses_the_map(self, loaded, library):
        for number in range(3):
            library.probe("probe", f"8@{library.constant(number)}")
        library.probe("last", "8@{0} 8@{1}")
        obj = loaded(__bpf_usdt_specs=4)
        for _ in range(5):
            with attached(obj, library) as (memory, _):
                memory.call(0, 20, 22)
        with attached(obj, library) as (memory, _):
            with obj.programs["on_probe"].attach(f"{library.path}:our:last", **where()):
                memory.call(3 * EACH, 8, 9)
                assert values(obj) == [8, 9]

    def test_two_programs_on_one_probe(self, loaded, library):
        library.probe("probe", "8@{0}")
        obj = loaded("on_probe", "on_another")
        target = f"{library.path}:our:probe"
        with attached(obj, library) as (memory, _):
            if not has(Feature.BPF_COOKIE):
                with pytest.raises(AttachError, match="cannot tell them apart"):
                    obj.programs["on_another"].attach(target, **where())
                return
            with obj.programs["on_another"].attach(target):
                memory.call(0, 20, 22)
            assert obj.variables["hits"].value == 2

    def test_map_that_is_full(self, loaded, library):
        for number in range(3):
            library.probe("probe", f"8@{library.constant(number)}")
        obj = loaded(__bpf_usdt_specs=2)
        with pytest.raises(AttachError, match="full with 2 entries: raise its max_entries"):
            with attached(obj, library):
                pass
        library.probe("small", "8@{0}")
        with attached(obj, library, "small"):  # nothing of the failed attempt stays
            pass

    def test_another_process(self, loaded, library):
        library.probe("probe")
        obj = loaded()
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                if not has(Feature.BPF_COOKIE):
                    with pytest.raises(AttachError, match="has not loaded"):
                        obj.programs["on_probe"].attach(f"{library.path}:our:probe", pid=child.pid)
                    return
                with obj.programs["on_probe"].attach(f"{library.path}:our:probe", pid=child.pid):
                    library.call()
                assert obj.variables["hits"].value == 0
            finally:
                child.kill()

    @pytest.mark.kernel(below="5.15")
    def test_old_kernels_need_the_pid(self, loaded, library):
        library.probe("probe")
        obj = loaded()
        with pytest.raises(NotSupportedError, match=r"give the pid of one.*5\.15"):
            obj.programs["on_probe"].attach(f"{library.path}:our:probe")


def test_python_itself(loaded):
    """A real program with probes and semaphores: Debian's Python, which tells of audit events."""
    python = _python_with_probes()
    obj = loaded("on_python_audit", tgid=0)
    code = "import sys; input(); sys.audit('pybpfload.test')"
    command = [python, "-S", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        obj.variables["target_tgid"].value = child.pid
        options = where() and {"pid": child.pid}
        with obj.programs["on_python_audit"].attach(f"{python}:python:audit", **options):
            child.communicate(b"\n")
    assert child.returncode == 0
    assert obj.variables["hits"].value >= 1
    assert obj.variables["count"].value == 2


def _python_with_probes() -> str:
    for path in (sys.executable, "/usr/bin/python3", "/usr/bin/python3.13", "/usr/bin/python3.11"):
        with contextlib.suppress(OSError, pybpfload.FormatError):
            with open(path, "rb") as file:
                binary = UserBinary(file.read(), path)
            if any(probe.name == "audit" for probe in probes(binary)):
                return os.path.realpath(path)
    return pytest.skip("no Python here has USDT probes")


class TestRefusals:
    def refused(self, loaded, target, text, error=AttachError, **options) -> None:
        obj = loaded()
        with pytest.raises(error, match=text):
            obj.programs["on_probe"].attach(target, **options)
        assert not obj.programs["on_probe"].links

    def test_no_such_probe(self, loaded, library):
        library.probe("one")
        library.probe("two")
        self.refused(
            loaded, f"{library.path}:our:prob", "no USDT probe our:prob; it has our:one, our:two"
        )

    def test_no_probes(self, loaded, library):
        library.builder.code += library.machine.nop
        library.path.write_bytes(library.builder.build())
        self.refused(loaded, f"{library.path}:our:probe", "no USDT probes")

    @pytest.mark.parametrize("target", ["libc.so.6", "libc.so.6:one", "libc.so.6:one:two:three"])
    def test_name(self, loaded, target):
        self.refused(loaded, target, "named as path:provider:name")

    def test_no_target(self, loaded):
        self.refused(loaded, None, "names no file")

    def test_argument_that_is_not_understood(self, loaded, library):
        library.probe("probe", "8@{0} 4@nonsense(%%)")
        self.refused(
            loaded,
            f"{library.path}:our:probe",
            r"symbol our:probe: argument 1, '4@nonsense\(%%\)', is of no known form",
            pybpfload.FormatError,
        )

    def test_object_without_the_maps(self, opened, library):
        library.probe("probe")
        spec = opened("uprobe")
        spec.programs["on_usdt"].autoload = True
        with spec.load() as obj:
            with pytest.raises(AttachError, match=r"no map __bpf_usdt_specs.*usdt\.bpf\.h"):
                obj.programs["on_usdt"].attach(f"{library.path}:our:probe")

    def test_another_machine(self, loaded, library):
        library.builder.machine = 8
        library.probe("probe")
        self.refused(
            loaded, f"{library.path}:our:probe", "64-bit file for ELF machine 8", NotSupportedError
        )
