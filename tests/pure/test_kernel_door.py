"""The door to the kernel: replacing it, logging, descriptors."""

from __future__ import annotations

import errno
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import pybpfload
from pybpfload import logs
from pybpfload.cli.watched import watched
from pybpfload.errors import KernelError, NotSupportedError
from pybpfload.kernel import bpf, door, perf
from pybpfload.kernel.attrs import layout
from pybpfload.kernel.fd import FileDescriptor, at_least_3
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import AttachType, MapType, ProgType

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)


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


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_logging(caplog: pytest.LogCaptureFixture) -> None:
    with FakeKernel(), caplog.at_level(logging.DEBUG, logs.SYSCALLS):
        door.log_calls()
        try:
            bpf.map_create(MapType.HASH, 4, 4, 1)
            with pytest.raises(KernelError):
                bpf.map_create(MapType.HASH, 4, 4, 0)
            door.ioctl(5, 0x40042408, 7)
            door.read_file("/proc/self/status")
        finally:
            door.log_calls(False)
        bpf.map_create(MapType.HASH, 4, 4, 1)
        door.log_calls(None)
    assert lines_of(caplog) == [
        "bpf(MAP_CREATE, map_type=HASH, key_size=4, value_size=4, max_entries=1) = 1000001",
        "bpf(MAP_CREATE, map_type=HASH, key_size=4, value_size=4) = -EINVAL",
        "ioctl(5, PERF_EVENT_IOC_SET_BPF, 7) = -EBADF",
    ]


def test_watching_leaves_the_logger_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    with FakeKernel() as fake:
        with pytest.raises(KernelError), watched():
            assert door.current() is not fake
            bpf.map_create(MapType.HASH, 4, 4, 0)
        assert door.current() is fake
        with caplog.at_level(logging.DEBUG, logs.SYSCALLS):
            door.follow_logger()
            bpf.map_create(MapType.HASH, 4, 4, 1)
        door.follow_logger()
    assert len(lines_of(caplog)) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/mem")
def test_what_an_address_leads_to_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    code = bytes(8) + b"\x95" + bytes(7)
    with FakeKernel() as fake, caplog.at_level(logging.DEBUG, logs.SYSCALLS):
        door.log_calls()
        try:
            program = bpf.prog_load(ProgType.RAW_TRACEPOINT, code, "GPL", prog_name="x")
            bpf.raw_tracepoint_open("sys_enter", program)
            bpf.link_create(program, 0, AttachType.TRACE_FENTRY, cookie=5)
            bpf.obj_pin(program, "/sys/fs/bpf/p")
            attr = perf.event_attr(type=1, config=9, sample_freq=99, freq=1, disabled=1)
            door.perf_event_open(attr, -1, 0, -1, 8)
            assert door.current() is not fake
            door.log_calls(False)
            assert door.current() is fake
        finally:
            door.log_calls(None)
    first, second, third, fourth = fake.fds
    load = "prog_type=RAW_TRACEPOINT, insn_cnt=2, license='GPL', prog_name='x'"
    event = "type=1, config=9, sample_freq=99, disabled=1, freq=1, pid=-1, cpu=0, group_fd=-1"
    assert lines_of(caplog) == [
        f"bpf(PROG_LOAD, {load}) = {first}",
        f"bpf(RAW_TRACEPOINT_OPEN, name='sys_enter', prog_fd={first}) = {second}",
        f"bpf(LINK_CREATE, prog_fd={first}, attach_type=TRACE_FENTRY, cookie=5) = {third}",
        f"bpf(OBJ_PIN, pathname='/sys/fs/bpf/p', bpf_fd={first}) = 0",
        f"perf_event_open({event}, flags=0x8) = {fourth}",
    ]


def test_a_wrong_address_is_only_shown(caplog: pytest.LogCaptureFixture) -> None:
    """The kernel says EFAULT; the process must not die of being watched."""
    fake = FakeKernel()
    fake.bpf = lambda cmd, attr, size: -errno.EFAULT  # type: ignore[method-assign]
    attrs = [layout("OBJ_GET").build(pathname=where) for where in (4096, 2**64 - 8)]
    with fake, caplog.at_level(logging.DEBUG, logs.SYSCALLS):
        door.log_calls()
        try:
            for attr in attrs:
                assert door.bpf(attr.command, attr.data, attr.size) == -errno.EFAULT
        finally:
            door.log_calls(None)
    assert lines_of(caplog) == [
        "bpf(OBJ_GET, pathname=0x1000) = -EFAULT",
        "bpf(OBJ_GET, pathname=0xfffffffffffffff8) = -EFAULT",
    ]


def test_files_have_a_logger_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    with FakeKernel(), caplog.at_level(logging.DEBUG, logs.FILES):
        door.follow_logger()
        door.read_file("/proc/self/status")
        with pytest.raises(FileNotFoundError):
            door.read_file("/proc/missing")
        bpf.map_create(MapType.HASH, 4, 4, 1)
    door.follow_logger()
    assert lines_of(caplog) == [
        "read_file('/proc/self/status', -1) = <36 bytes>",
        "read_file('/proc/missing', -1) = -ENOENT",
    ]


def test_loading_looks_whether_somebody_watches(caplog: pytest.LogCaptureFixture) -> None:
    """Every command that the kernel got is logged, and every relocation."""
    spec = pybpfload.open(OBJECTS / "core_local.bpf.o")
    for program in spec:
        program.autoload = program.name == "fields"
    target = pybpfload.open(OBJECTS / "core_target.bpf.o").btf
    with FakeKernel() as fake:
        with caplog.at_level(logging.DEBUG, "pybpfload"), spec.load(btf=target) as obj:
            obj.attach()
            assert obj.links
        calls = [line for line in lines_of(caplog) if line.startswith("bpf(")]
        told = [record for record in caplog.records if record.name == logs.RELOCATIONS]
        assert [re.split("[(,)]", line)[1] for line in calls] == fake.commands()
        assert len(told) == len(spec.relocate(target).decisions)
        first = told[0].getMessage()
        assert first.startswith("fields, instruction 0: <byte_off> [29] struct ct_nested[2].arr[3]")
        assert "-> [33] struct ct_nested[2].arr[3].q[1] (2:2:1:3:1:1 @ offset 1148) of " in first
        assert first.endswith(", 300 -> 1148: patched")
        with spec.load(btf=target):
            pass
        assert len(fake.commands()) > len(calls)
        assert len([line for line in lines_of(caplog) if line.startswith("bpf(")]) == len(calls)


def test_nobody_watches_by_default() -> None:
    """A load imports neither logging nor what puts calls into words."""
    code = (
        "import sys; import pybpfload; from pybpfload.testing.fakekernel import FakeKernel\n"
        f"with FakeKernel(), pybpfload.load({str(OBJECTS / 'minimal.bpf.o')!r}): pass\n"
        "print([m for m in ('logging', 'pybpfload.kernel.calllog') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shown_loggers_are_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger(logs.SYSCALLS)
    before = (logger.level, logger.propagate, list(logger.handlers))
    with logs.shown(logs.SYSCALLS), FakeKernel():
        door.follow_logger()
        bpf.map_create(MapType.HASH, 4, 4, 1)
    door.follow_logger()
    assert capfd.readouterr().err.startswith("bpf(MAP_CREATE, map_type=HASH")
    assert (logger.level, logger.propagate, logger.handlers) == before


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
    with warnings.catch_warnings(record=True) as warned, FakeKernel():
        warnings.simplefilter("always")
        FileDescriptor(bpf.map_create(MapType.HASH, 4, 4, 1)).close()
    assert not warned
