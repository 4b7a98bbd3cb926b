"""Tests of a BPF program, fixtures/my_program.bpf.c: on paper, without a kernel, on real ones.

pytest examples/test_my_program.py                        # everything
pytest examples/test_my_program.py -m "not boots"         # without virtual machines
pytest examples/test_my_program.py --bpf-run=both         # programs in this kernel too, as root
"""

import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.testing import assert_loads, assert_same_relocation

FIXTURES = Path(__file__).parents[1] / "fixtures"
OBJECTS = {  # by byte order
    "<": FIXTURES / "bpfel" / "my_program.bpf.o",
    ">": FIXTURES / "bpfeb" / "my_program.bpf.o",
}
ORDER = "<" if sys.byteorder == "little" else ">"
OBJECT = OBJECTS[ORDER]

XDP_DROP, XDP_PASS = 1, 2


def packet(protocol: int, length: int) -> bytes:
    """An IPv4 packet of some length in bytes, Ethernet header included."""
    ethernet = bytes(12) + b"\x08\x00"
    ip = bytes([0x45]) + bytes(8) + bytes([protocol]) + bytes(10)
    return (ethernet + ip).ljust(length, b"\0")


# Will it load? Kernels are their BTF here: none is booted.


def test_it_loads_on_every_kernel(kernel_btf):
    assert_loads(OBJECTS[kernel_btf.byteorder], kernel_btf)


@pytest.mark.kernel_btfs("running")
@pytest.mark.needs_feature("btf")
def test_it_loads_on_this_kernel(kernel_btf):
    assert_loads(OBJECT, kernel_btf)


def test_filtering_packets_does_not_depend_on_the_kernel(kernel_btf):
    spec = pybpfload.open(OBJECTS[kernel_btf.byteorder])
    assert_same_relocation(spec, spec.btf, kernel_btf, programs=["account"])


# What does it do? On the interpreter, or in this kernel with --bpf-run=kernel, or both.


@pytest.fixture
def my_program(bpf_load):
    """The part that watches packets, which needs no types of the kernel."""
    spec = pybpfload.open(OBJECT)
    spec.programs["on_exec"].autoload = False
    spec.rodata.longest = 1000
    return bpf_load(spec, btf=spec.btf)


def test_bytes_are_counted_by_protocol(my_program, bpf_run):
    account = my_program["account"]
    for protocol, length in ((6, 100), (17, 200), (6, 300)):
        assert bpf_run(account, packet(protocol, length)).retval == XDP_PASS
    assert dict(my_program.maps["bytes_by_protocol"]) == {6: 400, 17: 200}


@pytest.mark.parametrize(("length", "verdict"), [(1000, XDP_PASS), (1001, XDP_DROP)])
def test_long_packets_are_dropped(my_program, bpf_run, length, verdict):
    assert bpf_run(my_program["account"], packet(6, length)).retval == verdict
    assert my_program.variables["dropped"].value == (verdict == XDP_DROP)


def test_it_finds_the_parent_whatever_the_layout_of_tasks(bpf_load, bpf_run, kernel_btf):
    """Tasks are laid out in memory as each kernel has them; only the interpreter can do that."""
    loaded = bpf_load(OBJECTS[kernel_btf.byteorder], btf=kernel_btf, on="interpreter")
    memory = loaded.interpreter.memory
    parent = memory.place(kernel_btf, "task_struct", {"tgid": 4711})
    child = memory.place(kernel_btf, "task_struct", {"tgid": 4712, "real_parent": parent})
    assert bpf_run(loaded["on_exec"], ctx=[child]).retval == 0
    assert loaded.variables["last_parent"].value == 4711


# Real kernels, in virtual machines: see docs/testing-kernels.md.


@pytest.mark.on_kernel("6.1", "6.12")
def test_the_verifier_agrees(bpf_load, bpf_run):
    """Runs there: the kernel takes the programs and computes what the interpreter computes."""
    loaded = bpf_load(OBJECT, on="both")
    for length in (60, 1500, 1501):
        bpf_run(loaded["account"], packet(6, length))
    assert loaded.maps["bytes_by_protocol"][6] == 1560
    assert loaded.variables["dropped"].value == 1


@pytest.mark.on_kernel("6.12")
@pytest.mark.kernel("6.6")
@pytest.mark.needs_feature("btf", "jit")
def test_new_programs_are_noticed():
    import subprocess

    with pybpfload.load(OBJECT) as obj:
        obj.programs["on_exec"].attach()
        subprocess.run(["/bin/true"], check=True)
        assert obj.variables["started"].value >= 1
        assert obj.variables["last_parent"].value > 0


def test_the_command_line_says_so_too(kernel_vm):
    """Runs here, and a command there."""
    result = kernel_vm("6.1").run(["python3", "-m", "pybpfload", "inspect", str(OBJECT)])
    assert result.exit_status == 0, result.explain()
    assert b"bytes_by_protocol" in result.stdout
