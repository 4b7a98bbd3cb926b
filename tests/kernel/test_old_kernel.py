"""What an old kernel lacks and a new one has, shown on kernels of several ages.

The rules, and the test of each on scripted kernels, are in ``tests/pure/test_old_kernels.py``.
"""

from __future__ import annotations

import errno
import os
import platform
import resource
import struct
from pathlib import Path

import pytest
from conftest import run_true

import pybpfload
from pybpfload import lowlevel
from pybpfload.btf import Kind
from pybpfload.btf.edit import BtfEditor
from pybpfload.isa.insn import Insn, encode
from pybpfload.kernel import btf as kernel_btf
from pybpfload.kernel import door, probe
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.since import first_version, version_pair
from pybpfload.kernel.version import kernel_version
from pybpfload.uapi import Helper, LinkType, MapType, ProgType

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif("PYBPFLOAD_VM_EVENTS" not in os.environ, reason="not in a virtual machine"),
]


def age() -> tuple[int, int]:
    """Version of the running kernel."""
    version = kernel_version()
    return version >> 16, version >> 8 & 255


@pytest.mark.parametrize("feature", list(Feature), ids=lambda feature: feature.name)
def test_features_are_there_since_their_version(feature):
    probe.clear_cache()
    answer, number = probe.probe(feature)
    assert answer is (version_pair(feature.since) <= age()), errno.errorcode.get(number)


def test_the_newest_helper():
    """The verifier tells apart what it does not know and what it does not allow."""

    def known(number: int) -> bool:
        log = bytearray(4096)
        order = "<" if os.sys.byteorder == "little" else ">"
        code = encode([Insn(0x85, imm=number), Insn(0x95)], order)
        with pytest.raises(pybpfload.KernelError):
            lowlevel.prog_load(ProgType.SOCKET_FILTER, code, log_level=1, log_buf=log)
        return b"invalid func" not in log

    there = [
        n for n in range(1, max(Helper) + 1) if version_pair(first_version("Helper", n)) <= age()
    ]
    # A helper may be known but not built in; then it is "unknown func", which is not "invalid".
    assert known(max(there))
    assert not known(max(there) + 1)


@pytest.mark.kernel(below="6.9")
def test_a_map_type_that_is_too_young_is_named():
    with pytest.raises(
        pybpfload.KernelError, match=r"the map type ARENA came with Linux 6\.9, this"
    ):
        lowlevel.map_create(MapType.ARENA, 0, 0, 100)


def with_all_kinds(spec: pybpfload.ObjectSpec) -> None:
    """Add one of each kind of BTF type that some kernel does not know."""
    editor = BtfEditor(spec.btf)
    number = editor.add_int("all_int", 4)
    variable = editor.add_var("all_variable", number)
    editor.add_func("all_global", editor.add_func_proto(number, [("x", number)]), 1)
    editor.add_datasec("?.all", 4, [(variable, 0, 4)])
    editor.add_datasec(".all.empty", 40, [])
    editor.add_float("all_float", 8)
    editor.add_decl_tag("all_decl_tag", variable)
    editor.add_ptr(editor.add_type_tag("all_type_tag", number))
    editor.add_enum("all_enum", 4, [("ALL_MINUS", -1)])
    editor.add_enum64("all_enum64", 8, [("ALL_BIG", 1 << 40)])
    spec.btf = editor.finish()


def test_every_kind_of_btf_is_taken(opened):
    spec = opened("minimal")
    with_all_kinds(spec)
    with spec.load() as obj:
        assert obj.notes == []
        info = obj.programs["count_syscalls"].info()
        assert info.btf_id
        fd = lowlevel.btf_get_fd_by_id(info.btf_id)
        try:
            taken = pybpfload.Btf.from_bytes(lowlevel.btf_info(fd).data)
        finally:
            os.close(fd)
    assert taken.kind(spec.btf.find("all_float")) == (
        Kind.FLOAT if age() >= (5, 13) else Kind.STRUCT
    )
    wide = Kind.ENUM64 if age() >= (6, 0) else Kind.UNION
    assert taken.kind(spec.btf.find("all_enum64")) == wide
    assert taken.type_name(spec.btf.find("?.all")) == ("?.all" if age() >= (6, 9) else "_.all")


@pytest.mark.parametrize("name", ["maps", "ringbuf"])
def test_constants_without_names(opened, name):
    """Their section is empty in BTF, which libbpf loses as a whole before 5.12."""
    spec = opened(name)
    empty = [i for i in spec.btf if spec.btf.kind(i) == Kind.DATASEC and not spec.btf[i].entries]
    assert empty
    with spec.load() as obj:
        assert all(program.info().btf_id for program in obj.programs.values())
        # The map itself is described by BTF only where the kernel takes such a section.
        notes = [str(note) for note in obj.notes]
        assert len(notes) == (0 if age() >= (5, 12) else 1)
        assert all("BPF_MAP_CREATE" in note and ".rodata" in note for note in notes)


def test_locked_memory(opened):
    """Charged to RLIMIT_MEMLOCK before 5.11, which is then lifted."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    door.cache().clear()
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (16384, resource.RLIM_INFINITY))
    try:
        with opened("maps").load() as obj:
            assert obj.maps
        soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        assert soft == (16384 if age() >= (5, 11) else resource.RLIM_INFINITY)
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


def test_modules(opened):
    """They have BTF since 5.11."""
    names = [module.name for module in kernel_btf.modules()]
    assert ("nf_tables" in names) == (age() >= (5, 11))
    assert kernel_btf.problems() == []
    assert "veth" in names or age() < (5, 11)


def test_btf_of_the_kernel_with_and_without_layout():
    """The header is longer since 7.1, if the kernel was built with the pahole for that."""
    vmlinux = kernel_btf.vmlinux()
    header = struct.unpack_from("=I", Path("/sys/kernel/btf/vmlinux").read_bytes(), 4)[0]
    assert vmlinux.has_layout == (header >= 32)
    assert not vmlinux.has_layout or age() >= (7, 1)
    assert vmlinux.find("task_struct", Kind.STRUCT)


@pytest.mark.kernel("7.1")
def test_a_layout_part_is_taken(opened):
    spec = opened("minimal")
    editor = BtfEditor(spec.btf)
    editor.add_layout()
    spec.btf = editor.finish()
    assert spec.btf.has_layout
    with spec.load() as obj:
        assert obj.notes == []
        fd = lowlevel.btf_get_fd_by_id(obj.programs["count_syscalls"].info().btf_id)
        try:
            assert lowlevel.btf_info(fd).btf_size == len(spec.btf.to_bytes())
        finally:
            os.close(fd)


def test_tracepoints_by_link_or_ioctl(opened, tracefs):
    spec = opened("tracepoint")
    for program in spec:
        program.autoload = program.name == "on_exec"
    spec.variables["target_ppid"].value = os.getpid()
    with spec.load() as obj, obj.programs["on_exec"].attach() as link:
        run_true()
        assert obj.variables["execs"].value == 1
        if age() >= (5, 15):
            assert link.info().type == LinkType.PERF_EVENT
        else:
            with pytest.raises(pybpfload.NotSupportedError, match=r"5\.15"):
                link.info()
            with pytest.raises(pybpfload.NotSupportedError, match=r"5\.15"):
                obj.programs["on_exec"].attach(cookie=1)


def test_a_kernel_is_the_version_it_says():
    major, minor = platform.release().split(".")[:2]
    assert age() == (int(major), int(minor))
