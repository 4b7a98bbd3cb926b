"""Loading against a scripted kernel: what is asked of it, and that a refusal leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import sys
from pathlib import Path

import pytest

import pybpfload
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapFlag

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / f"bpf{'el' if sys.byteorder == 'little' else 'eb'}"
)
FOREIGN = OBJECTS.parent / ("bpfeb" if OBJECTS.name == "bpfel" else "bpfel")
LOADABLE = ["minimal", "maps", "maps_inner", "pinned", "globals", "tailcall", "rawtp", "subprogs"]


def kernel(name: str, **options) -> FakeKernel:
    """A kernel whose types are those of the object itself."""
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    files = {"/sys/kernel/btf/vmlinux": spec.btf.to_bytes()} if spec.btf else {}
    return FakeKernel(files=files, **options)


def load_and_attach(name: str) -> None:
    spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    for program in spec:
        # Tracepoints and functions of the kernel are not in the object's own BTF.
        if program.sec is not None and program.sec.needs_btf_id:
            program.autoload = False
    with spec.load() as obj:
        obj.attach()


@pytest.mark.parametrize("name", LOADABLE)
def test_everything_is_closed_again(name):
    with kernel(name) as fake:
        load_and_attach(name)
    assert fake.leaked() == []
    assert len(fake.calls) > 3


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("minimal", errno.EPERM),
        ("maps_inner", errno.EINVAL),
        ("pinned", errno.EPERM),
        ("tailcall", errno.ENOMEM),
    ],
)
def test_a_failure_at_any_call_leaves_nothing_behind(name, number):
    with kernel(name) as fake:
        load_and_attach(name)
    pinned = set(fake.pins)
    for after in range(len(fake.calls)):
        with kernel(name) as failing:
            failing.fail(after, number)
            spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
            try:
                obj = spec.load()
            except pybpfload.BpfError:
                assert failing.pins == {}, f"call {after}: a pin is left"
            else:
                assert set(failing.pins) == pinned
                with contextlib.suppress(pybpfload.BpfError), obj:
                    obj.attach()
        assert failing.leaked() == [], f"call {after} of {len(fake.calls)}"


def test_interrupting_leaves_nothing_behind():
    with kernel("maps") as fake:

        def interrupt(call):
            raise KeyboardInterrupt

        fake.on("PROG_LOAD", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_and_attach("maps")
    assert fake.leaked() == []


def test_a_foreign_byte_order_has_its_own_sentence():
    spec = pybpfload.open(FOREIGN / "minimal.bpf.o")
    with FakeKernel() as fake:
        with pytest.raises(pybpfload.NotSupportedError, match=r"endian.*-target bpf"):
            spec.load()
    assert fake.calls == []


def test_a_missing_privilege_has_its_own_sentence():
    status = b"CapEff:\t0000000000000000\nSeccomp:\t0\n"
    with FakeKernel(refuses={"PROG_LOAD": errno.EPERM}, files={"/proc/self/status": status}):
        with pytest.raises(pybpfload.NotPermittedError, match="CAP_BPF"):
            pybpfload.load(OBJECTS / "minimal.bpf.o")


def test_a_kernel_without_btf_has_its_own_sentence():
    with FakeKernel():
        with pytest.raises(pybpfload.NotSupportedError, match="BTF"):
            pybpfload.load(OBJECTS / "execsnoop.bpf.o")


class TestOldKernels:
    def calls(self, name: str, *lacks: str):
        with kernel(name, lacks=lacks) as fake:
            load_and_attach(name)
        assert fake.leaked() == []
        return fake.calls

    def test_without_names(self):
        for call in self.calls("minimal", "PROG_NAME"):
            if call.command == "MAP_CREATE" and call.fields["max_entries"] == 1:
                assert not call.fields.get("map_name", b"").strip(b"\0")

    def test_without_mmap_of_arrays(self):
        for call in self.calls("globals", "ARRAY_MMAP"):
            if call.command == "MAP_CREATE" and call.result > 0:
                assert not call.fields["map_flags"] & MapFlag.MMAPABLE

    def test_without_btf(self):
        calls = self.calls(
            "minimal", "BTF", "BTF_FUNC", "BTF_GLOBAL_FUNC", "BTF_DATASEC", "BTF_FLOAT"
        )
        programs = [c for c in calls if c.command == "PROG_LOAD" and c.fields["insn_cnt"] > 10]
        assert programs
        assert all(not c.fields["prog_btf_fd"] for c in programs)
        assert all(not c.fields["func_info"] for c in programs)

    def test_without_probe_read_kernel(self):
        old = {4, 45}
        new = {112, 113, 114, 115}
        calls = self.calls("rawtp", "PROBE_READ_KERN")
        helpers = set()
        for call in calls:
            if call.command == "PROG_LOAD" and call.fields["insn_cnt"] > 20:
                from pybpfload.isa.insn import decode

                order = "<" if sys.byteorder == "little" else ">"
                helpers |= {i.imm for i in decode(call.insns, order) if i.is_helper_call}
        assert helpers & old
        assert not helpers & new


def test_maps_are_pinned_by_name_and_shared():
    with kernel("pinned") as fake:
        first = pybpfload.load(OBJECTS / "pinned.bpf.o")
        second = pybpfload.load(OBJECTS / "pinned.bpf.o")
        shared = [name for name, m in first.maps.items() if m.pin_path]
        assert shared
        for name in shared:
            mine = fake.fds[first.maps[name].fileno()]
            assert mine is fake.fds[second.maps[name].fileno()]
        first.close()
        second.close()
        assert set(fake.pins) == {f"/sys/fs/bpf/{name}" for name in shared}
    assert fake.leaked() == []


def test_a_pinned_map_of_another_shape_is_refused():
    with kernel("pinned") as fake:
        with pybpfload.load(OBJECTS / "pinned.bpf.o"):
            pass
        pinned = set(fake.pins)
        spec = pybpfload.open(OBJECTS / "pinned.bpf.o")
        changed = next(m for m in spec.maps.values() if m.pinning)
        changed.max_entries += 1
        with pytest.raises(pybpfload.BpfError, match="max_entries is"):
            spec.load()
        assert set(fake.pins) == pinned
    assert fake.leaked() == []


def test_probe_calls_are_made_only_for_what_an_object_needs():
    with kernel("minimal") as fake:
        load_and_attach("minimal")
    # One map of its own, two data maps, one program: the rest is probing, and must stay small.
    assert len(fake.calls) < 60
