"""Access to memory that is shared with the kernel."""

from __future__ import annotations

import ctypes
import mmap
import sys
import tempfile
from types import SimpleNamespace

import pytest

from pybpfload.errors import NotSupportedError
from pybpfload.runtime import fence
from pybpfload.runtime.fence import Position


def test_a_position_is_eight_bytes_of_memory() -> None:
    memory = bytearray(24)
    position = Position(memory, 8)
    assert position.load() == 0
    position.store((1 << 63) + 5)
    assert position.load() == (1 << 63) + 5
    assert int.from_bytes(memory[8:16], sys.byteorder) == (1 << 63) + 5
    assert memory[:8] == memory[16:] == bytes(8)
    position.close()
    memory.append(0)  # nobody holds it any more


@pytest.mark.parametrize("offset", [4, 24, 20])
def test_only_aligned_memory(offset: int) -> None:
    with pytest.raises(ValueError, match="no aligned 8 bytes"):
        Position(bytearray(24), offset)


def test_read_only_memory() -> None:
    with tempfile.TemporaryFile() as file:
        file.write((1234).to_bytes(8, sys.byteorder).ljust(mmap.PAGESIZE, b"\0"))
        file.flush()
        memory = mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        position = Position(memory, 0)
        assert position.load() == 1234
        with pytest.raises(BufferError):
            memory.close()
        position.close()
        memory.close()


def test_only_cpython(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(name="pypy")
    monkeypatch.setattr(fence, "sys", SimpleNamespace(implementation=other))
    with pytest.raises(NotSupportedError, match="need CPython: pypy"):
        Position(bytearray(8), 0)


def test_only_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence.ctypes, "c_void_p", ctypes.c_uint32)
    with pytest.raises(NotSupportedError, match="64 bits"):
        Position(bytearray(8), 0)


@pytest.mark.parametrize("machine", ["x86_64", "s390x"])
def test_strongly_ordered_machines_need_no_fence(machine: str) -> None:
    assert fence._choose(machine)[0] is fence._nothing


@pytest.mark.parametrize("machine", ["aarch64", "riscv64", "ppc64le", "loongarch64", "new"])
def test_others_get_a_full_one(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def by_membarrier(number: int) -> object:
        made.append(number)
        return "membarrier"

    monkeypatch.setattr(fence, "_by_membarrier", by_membarrier)
    expected = fence._by_lock if machine == "new" else "membarrier"
    assert fence._choose(machine) == (expected, expected)
    assert made == ([] if machine == "new" else [fence._MEMBARRIER[machine]])


def test_fences_can_be_called() -> None:
    fence.fence()
    fence.full_fence()
    fence._by_lock()
