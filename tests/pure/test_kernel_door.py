"""The door to the kernel: replacing it, logging, descriptors."""

from __future__ import annotations

import errno
import gc
import logging
import subprocess
import sys
import warnings

import pytest

from pybpfload.errors import KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.fd import FileDescriptor, at_least_3
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapType


@pytest.mark.parametrize(
    ("machine", "numbers"),
    [
        ("x86_64", (321, 298)),
        ("aarch64", (280, 241)),
        ("riscv64", (280, 241)),
        ("loongarch64", (280, 241)),
        ("s390x", (351, 331)),
        ("ppc64le", (361, 319)),
    ],
)
def test_syscall_numbers(
    machine: str, numbers: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert door.syscall_numbers(machine) == numbers


@pytest.mark.parametrize(
    ("machine", "platform", "maxsize"),
    [
        ("i686", "linux", 2**63 - 1),
        ("x86_64", "linux", 2**31 - 1),
        ("x86_64", "darwin", 2**63 - 1),
    ],
)
def test_unknown_machines(
    machine: str, platform: str, maxsize: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "maxsize", maxsize)
    with pytest.raises(NotSupportedError, match="system call is unknown"):
        door.syscall_numbers(machine)


def test_importing_the_layer_needs_no_ctypes() -> None:
    code = (
        "import sys; import pybpfload.kernel.bpf, pybpfload.kernel.progload;"
        "print([m for m in ('ctypes', 'logging', 'dataclasses', 'typing_extensions', 'inspect') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_replaced_is_put_back() -> None:
    with FakeKernel() as outer:
        with FakeKernel() as inner:
            bpf.map_create(MapType.HASH, 4, 4, 1)
        assert door.current() is outer
        assert (len(outer.calls), len(inner.calls)) == (0, 1)
        assert outer.cache is door.cache()


def test_logging(caplog: pytest.LogCaptureFixture) -> None:
    with FakeKernel(), caplog.at_level(logging.DEBUG, "pybpfload.syscalls"):
        door.log_calls()
        try:
            bpf.map_create(MapType.HASH, 4, 4, 1)
            with pytest.raises(KernelError):
                bpf.map_create(MapType.HASH, 4, 4, 0)
            door.ioctl(5, 0x2400)
        finally:
            door.log_calls(False)
        bpf.map_create(MapType.HASH, 4, 4, 1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("bpf(MAP_CREATE, 0100000004000000 0400000001000000, 16) = 1000001")
    assert lines[1].endswith("= -EINVAL")
    assert lines[2] == "ioctl(5, 0x2400, 0) = -EBADF"


def test_descriptors_close_once() -> None:
    with FakeKernel() as fake:
        owner = FileDescriptor(bpf.map_create(MapType.HASH, 4, 4, 1), "map x")
        number = owner.fileno()
        assert repr(owner) == f"<FileDescriptor map x: fd {number}>"
        with owner as same:
            assert same is owner
        owner.close()
        assert fake.closed == [number]
        assert owner.closed
        assert repr(owner) == "<FileDescriptor map x: closed>"
        with pytest.raises(ValueError, match="map x is closed"):
            owner.fileno()


def test_detach_gives_ownership_away() -> None:
    with FakeKernel() as fake:
        owner = FileDescriptor(bpf.map_create(MapType.HASH, 4, 4, 1))
        number = owner.detach()
        owner.close()
        assert list(fake.fds) == [number]
        with pytest.raises(ValueError, match="closed"):
            owner.detach()
        with pytest.raises(ValueError, match="not a file descriptor"):
            FileDescriptor(-1)


def test_dropping_an_open_one_warns() -> None:
    with FakeKernel() as fake:
        fd = bpf.map_create(MapType.HASH, 4, 4, 1)
        with pytest.warns(ResourceWarning, match="unclosed <FileDescriptor map y"):
            FileDescriptor(fd, "map y")
        assert not fake.leaked()


def test_an_open_one_is_no_error_when_python_ends() -> None:
    """Not even if it lives so long that nothing can be imported any more."""
    program = (
        "import builtins, os\n"
        "from pybpfload.kernel.fd import FileDescriptor\n"
        "builtins.late = FileDescriptor(os.open('/dev/null', os.O_RDONLY), 'late')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_a_descriptor_is_closed_where_it_came_from() -> None:
    """A fake descriptor that lives longer than its kernel must not close a real one."""
    with FakeKernel() as fake:
        owner = FileDescriptor(bpf.map_create(MapType.HASH, 4, 4, 1))
    with FakeKernel() as other:
        owner.close()
        assert not other.closed
    assert len(fake.closed) == 1


def test_low_numbers_are_moved() -> None:
    class LowFds(FakeKernel):
        def open_object(self, made: object) -> int:
            number = 1 if 1 not in self.fds else super().open_object(made)
            self.fds[number] = made
            return number

    with LowFds() as fake:
        fd = bpf.map_create(MapType.HASH, 4, 4, 1)
        assert fd >= 3
        assert fake.closed == [1]
        assert at_least_3(-errno.EPERM) == -errno.EPERM
        assert at_least_3(7) == 7


def test_no_warning_when_all_is_closed() -> None:
    with warnings.catch_warnings(), FakeKernel():
        warnings.simplefilter("error")
        FileDescriptor(bpf.map_create(MapType.HASH, 4, 4, 1)).close()
        gc.collect()
