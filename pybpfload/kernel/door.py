"""The single door to the kernel.

Every system call, every file under ``/proc`` and ``/sys`` and every descriptor of this package goes
through the functions here, so a test can put a scripted kernel behind them::

    with door.replaced(FakeKernel()):
        ...

System calls return the result, or the negative error number as the kernel itself does: a missing
key is an everyday answer and must not cost an exception. File functions raise ``OSError``.

Calls are logged by those loggers of :mod:`pybpfload.logs` that are enabled at level DEBUG when the
door is first used or an object is loaded, or after :func:`log_calls`: then a
:class:`~pybpfload.kernel.calllog.LoggedKernel` stands behind the door, before the real one.
Otherwise ``logging`` is not even imported.

The module is long because there is but one door; each function in it is a few lines.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress

from pybpfload import logs
from pybpfload.errors import NotSupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap as _mmap
    import select
    import socket
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class Kernel(Protocol):
        """What stands behind the door: the real one or a test's stand-in."""

        cache: dict[Any, Any]

        def bpf(self, cmd: int, attr: bytearray, size: int) -> int: ...
        def perf_event_open(
            self, attr: bytearray, pid: int, cpu: int, group_fd: int, flags: int
        ) -> int: ...
        def ioctl(self, fd: int, request: int, argument: int | bytearray) -> int: ...
        def close(self, fd: int) -> int: ...
        def dup(self, fd: int, minimum: int) -> int: ...
        def mmap(self, fd: int, length: int, offset: int, write: bool) -> _mmap.mmap: ...
        def mmap_at(self, fd: int, length: int, address: int) -> memoryview: ...
        def epoll(self) -> select.epoll: ...
        def netlink(self, protocol: int) -> socket.socket: ...
        def interface_index(self, name: str) -> int: ...
        def interface_name(self, index: int) -> str | None: ...
        def interfaces(self) -> list[tuple[int, str]]: ...
        def setns(self, fd: int, kind: int) -> int: ...
        def set_socket_option(self, fd: int, option: int, value: int) -> int: ...
        def open(self, path: str, flags: int) -> int: ...
        def read(self, fd: int, size: int) -> bytes: ...
        def pread(self, fd: int, size: int, offset: int) -> bytes: ...
        def fstat(self, fd: int) -> os.stat_result: ...
        def read_file(self, path: str, limit: int) -> bytes: ...
        def write_file(self, path: str, data: bytes, append: bool) -> None: ...
        def map_file(self, path: str) -> _mmap.mmap | memoryview | bytes: ...
        def list_dir(self, path: str) -> list[str]: ...
        def exists(self, path: str) -> bool: ...
        def is_executable(self, path: str) -> bool: ...
        def real_path(self, path: str) -> str: ...
        def filesystem_type(self, path: str) -> int: ...
        def make_dir(self, path: str, mode: int) -> None: ...
        def unlink(self, path: str) -> None: ...
        def uname(self) -> os.uname_result: ...
        def pid(self) -> int: ...
        def memlock_limit(self) -> int: ...
        def lift_memlock_limit(self) -> None: ...


__all__ = [
    "bpf",
    "cache",
    "close",
    "current",
    "dup",
    "epoll",
    "exists",
    "filesystem_type",
    "follow_logger",
    "fstat",
    "interface_index",
    "interface_name",
    "interfaces",
    "ioctl",
    "is_executable",
    "lift_memlock_limit",
    "list_dir",
    "log_calls",
    "make_dir",
    "map_file",
    "memlock_limit",
    "mmap",
    "mmap_at",
    "netlink",
    "open_fd",
    "own_memory",
    "perf_event_open",
    "pid",
    "pread",
    "prepared",
    "read",
    "read_file",
    "real_path",
    "replaced",
    "set_socket_option",
    "setns",
    "syscall_numbers",
    "uname",
    "unlink",
    "write_file",
]

# (bpf, perf_event_open) by the kernel's name of the machine; 64-bit processes only.
_SYSCALLS = {
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "loongarch64": (280, 241),
    "s390x": (351, 331),
    "ppc64le": (361, 319),
    "ppc64": (361, 319),
}


def syscall_numbers(machine: str) -> tuple[int, int]:
    """Numbers of bpf(2) and perf_event_open(2).

    Args:
        machine: As ``uname -m`` prints it.

    Raises:
        NotSupportedError: No numbers are known for this machine, or this is a 32-bit process.
    """
    numbers = _SYSCALLS.get(machine)
    if numbers is None or sys.maxsize < 2**32 or sys.platform != "linux":
        what = f"{machine} {sys.platform}" if sys.maxsize > 2**32 else f"a 32-bit {machine} process"
        raise NotSupportedError(
            f"loading BPF is not supported on {what}: the number of the bpf system call is unknown "
            f"(known: 64-bit Linux on {', '.join(_SYSCALLS)})",
            feature="bpf(2)",
        )
    return numbers


class _RealKernel:
    """The kernel this process runs on."""

    def __init__(self) -> None:
        import ctypes

        self.cache: dict[Any, Any] = {}
        nr_bpf, nr_perf = syscall_numbers(os.uname().machine)
        self._libc = ctypes.CDLL(None, use_errno=True)
        long = self._long = ctypes.c_long
        # Asking by index gives a function object of its own, so each call has its own prototype.
        # bpf(2) has none: converting arguments by one costs as much as the system call.
        self._bpf = self._libc["syscall"]
        self._bpf.restype = long
        self._nr_bpf = long(nr_bpf)
        self._perf = self._libc["syscall"]
        self._perf.restype = long
        self._perf.argtypes = [long, ctypes.c_void_p, long, long, long, long]
        self._nr_perf = nr_perf
        self._errno = ctypes.get_errno
        self._address = ctypes.c_char.from_buffer
        self._byref = ctypes.byref

    def bpf(self, cmd: int, attr: bytearray, size: int) -> int:
        long = self._long
        memory = self._byref(self._address(attr))
        result: int = self._bpf(self._nr_bpf, long(cmd), memory, long(size))
        return result if result >= 0 else -self._errno()

    def prepared(self, cmd: int, attr: bytearray, size: int) -> Callable[[], int]:
        from functools import partial

        long, errno = self._long, self._errno
        memory = self._byref(self._address(attr))  # no longer resizable, as long as the call lives
        call = partial(self._bpf, self._nr_bpf, long(cmd), memory, long(size))

        def run() -> int:
            if _log is not None:
                return bpf(cmd, attr, size)
            result: int = call()
            return result if result >= 0 else -errno()

        return run

    def perf_event_open(
        self, attr: bytearray, pid: int, cpu: int, group_fd: int, flags: int
    ) -> int:
        result: int = self._perf(
            self._nr_perf, self._byref(self._address(attr)), pid, cpu, group_fd, flags
        )
        return result if result >= 0 else -self._errno()

    def ioctl(self, fd: int, request: int, argument: int | bytearray) -> int:
        import fcntl

        try:
            return fcntl.ioctl(fd, request, argument)
        except OSError as error:
            return -(error.errno or 5)

    def close(self, fd: int) -> int:
        try:
            os.close(fd)
        except OSError as error:
            return -(error.errno or 5)
        return 0

    def dup(self, fd: int, minimum: int) -> int:
        import fcntl

        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, minimum)
        except OSError as error:
            return -(error.errno or 5)

    def mmap(self, fd: int, length: int, offset: int, write: bool) -> _mmap.mmap:
        import mmap

        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        return mmap.mmap(fd, length, mmap.MAP_SHARED, protection, offset=offset)

    def mmap_at(self, fd: int, length: int, address: int) -> memoryview:
        # Python's own mmap objects cannot be told where to be.
        import ctypes
        import mmap
        import weakref

        call, unmap = self._libc["mmap"], self._libc["munmap"]
        call.restype, unmap.restype = ctypes.c_void_p, ctypes.c_int
        size, number = ctypes.c_size_t, ctypes.c_int
        call.argtypes = [ctypes.c_void_p, size, number, number, number, ctypes.c_long]
        unmap.argtypes = [ctypes.c_void_p, size]
        flags = mmap.MAP_SHARED | 0x100000  # MAP_FIXED_NOREPLACE, Linux 4.17
        got = call(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
        if got in (None, ctypes.c_void_p(-1).value):
            number_ = self._errno()
            raise OSError(number_, os.strerror(number_))
        # A class of its own, because objects of ctypes' arrays cannot be referred to weakly.
        kind: Any = type("Mapping", (ctypes.c_char * length,), {})
        memory = kind.from_address(got)
        weakref.finalize(memory, unmap, got, length)
        return memoryview(memory).cast("B")

    def epoll(self) -> select.epoll:
        import select

        return select.epoll(flags=select.EPOLL_CLOEXEC)

    def netlink(self, protocol: int) -> socket.socket:
        import socket

        made = socket.socket(
            socket.AF_NETLINK,  # type: ignore[attr-defined, unused-ignore]
            socket.SOCK_RAW | socket.SOCK_CLOEXEC,
            protocol,
        )
        with suppress(OSError):  # without it errors have only their number
            made.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK, Linux 4.12
        return made

    def set_socket_option(self, fd: int, option: int, value: int) -> int:
        import socket

        try:
            number = os.dup(fd)
            try:
                copy = socket.socket(fileno=number)
            except BaseException:
                os.close(number)  # it is none
                raise
            with copy:
                copy.setsockopt(socket.SOL_SOCKET, option, value)
        except OSError as error:
            return -(error.errno or 5)
        return 0

    def interface_index(self, name: str) -> int:
        import socket

        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            return -(error.errno or 19)  # ENODEV

    def interface_name(self, index: int) -> str | None:
        import socket

        try:
            return socket.if_indextoname(index)
        except (OSError, OverflowError):
            return None

    def interfaces(self) -> list[tuple[int, str]]:
        import socket

        return socket.if_nameindex()

    def setns(self, fd: int, kind: int) -> int:
        return 0 if self._libc.setns(fd, kind) == 0 else -self._errno()

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC)

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def read_file(self, path: str, limit: int) -> bytes:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            if limit < 0:
                return file.readall()
            return file.read(limit) or b""

    def write_file(self, path: str, data: bytes, append: bool) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (os.O_APPEND if append else 0))
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def map_file(self, path: str) -> _mmap.mmap | memoryview | bytes:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            size = os.fstat(file.fileno()).st_size
            mapped = self._map(file.fileno(), size) if size else None
            return file.readall() if mapped is None else mapped

    def _map(self, fd: int, size: int) -> _mmap.mmap | memoryview | None:
        """A read-only mapping, or ``None`` where the file has none."""
        import mmap

        if sys.version_info >= (3, 13):
            try:
                return mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ, trackfd=False)
            except (OSError, ValueError):
                return None
        # Older mmap objects keep a duplicate of the descriptor, which looks like a leak. This
        # mapping stays until the process ends.
        import ctypes

        call = self._libc.mmap
        call.restype = ctypes.c_void_p
        long = ctypes.c_long
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, long]
        address = call(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
        if address in (None, ctypes.c_void_p(-1).value):
            return None
        view = ctypes.pythonapi.PyMemoryView_FromMemory
        view.restype = ctypes.py_object
        view.argtypes = [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int]
        made: memoryview = view(address, size, 0x100)  # PyBUF_READ
        return made

    def list_dir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))  # noqa: PTH208

    def exists(self, path: str) -> bool:
        return os.path.exists(path)  # noqa: PTH110

    def is_executable(self, path: str) -> bool:
        return os.path.isfile(path) and os.access(path, os.R_OK | os.X_OK)  # noqa: PTH113

    def real_path(self, path: str) -> str:
        return os.path.realpath(path)

    def filesystem_type(self, path: str) -> int:
        import ctypes

        # struct statfs begins with the magic number, a long on all machines but s390x (int).
        buffer = ctypes.create_string_buffer(512)
        if self._libc.statfs(os.fsencode(path), buffer) != 0:
            number = self._errno()
            raise OSError(number, os.strerror(number), path)
        width = 4 if os.uname().machine == "s390x" else 8
        return int.from_bytes(buffer.raw[:width], sys.byteorder) & 0xFFFFFFFF

    def make_dir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)  # noqa: PTH102

    def unlink(self, path: str) -> None:
        os.unlink(path)  # noqa: PTH108

    def uname(self) -> os.uname_result:
        return os.uname()

    def pid(self) -> int:
        return os.getpid()

    def memlock_limit(self) -> int:
        import resource

        return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]  # RLIM_INFINITY is -1

    def lift_memlock_limit(self) -> None:
        import resource

        try:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
        except ValueError as error:  # that is how Python puts EPERM
            raise PermissionError(1, str(error)) from None


_kernel: Kernel | None = None
_log: Callable[..., None] | None = None
_log_files: Callable[..., None] | None = None
_wanted: bool | None = None  # what log_calls() was told


def current() -> Kernel:
    """The kernel behind the door; the real one is made at first use.

    Raises:
        NotSupportedError: This is not 64-bit Linux on a known machine.
    """
    global _kernel
    if _kernel is None:
        _kernel = _RealKernel()
        follow_logger()
    return _kernel


@contextmanager
def replaced(kernel: Kernel) -> Iterator[Kernel]:
    """Put another kernel behind the door for a while. Not for use by several threads at once."""
    global _kernel
    before, _kernel = _kernel, _seen(kernel)
    try:
        yield kernel
    finally:
        _kernel = before and _seen(before)


def cache() -> dict[Any, Any]:
    """What is remembered about the present kernel: features, BTF, version. Clear it to forget."""
    return current().cache


def log_calls(on: bool | None = True) -> None:
    """Log every call to the logger ``pybpfload.syscalls`` at level DEBUG, or stop doing so.

    Args:
        on: ``None``: as the logger's level says; that is how it is without calling this.
    """
    global _wanted
    _wanted = on
    follow_logger()


def follow_logger() -> None:
    """Log calls from now on if somebody wants to see them; loading an object does this."""
    global _kernel, _log, _log_files
    if _wanted:
        import logging

        _log = logging.getLogger(logs.SYSCALLS).debug
    else:
        _log = logs.debug(logs.SYSCALLS) if _wanted is None else None
    _log_files = logs.debug(logs.FILES)
    if _kernel is not None:
        _kernel = _seen(_kernel)


def _seen(kernel: Kernel) -> Kernel:
    """The kernel with what logs its calls before it, or without that."""
    bare: Kernel = getattr(kernel, "unlogged", kernel)
    if _log is None and _log_files is None:
        return bare
    from pybpfload.kernel.calllog import LoggedKernel

    logged: Any = LoggedKernel(bare, _log, _log_files)
    return logged  # type: ignore[no-any-return]


def bpf(cmd: int, attr: bytearray, size: int) -> int:
    """The system call behind everything; the result or the negative error number.

    Args:
        cmd: Command number (:class:`pybpfload.uapi.Cmd`).
        attr: The whole ``bpf_attr`` of the command: the kernel may write results beyond ``size``.
        size: Bytes of ``attr`` that the kernel shall read.
    """
    return (_kernel or current()).bpf(cmd, attr, size)


def prepared(cmd: int, attr: bytearray, size: int) -> Callable[[], int]:
    """:func:`bpf` for a call that is made many times: converting its arguments takes long.

    Args:
        cmd: As for :func:`bpf`.
        attr: As for :func:`bpf`. What is in it is read by each call; its length stays as it is.
        size: As for :func:`bpf`.

    Returns:
        What makes the call and returns its result or the negative error number.
    """
    kernel = _kernel or current()
    if isinstance(kernel, _RealKernel):
        return kernel.prepared(cmd, attr, size)
    return lambda: bpf(cmd, attr, size)


def perf_event_open(attr: bytearray, pid: int, cpu: int, group_fd: int, flags: int) -> int:
    """Open a perf event; the descriptor or the negative error number."""
    return (_kernel or current()).perf_event_open(attr, pid, cpu, group_fd, flags)


def ioctl(fd: int, request: int, argument: int | bytearray = 0) -> int:
    """Control a device or perf event; the result or the negative error number."""
    return (_kernel or current()).ioctl(fd, request, argument)


def close(fd: int) -> int:
    """Close a descriptor; 0 or the negative error number."""
    return (_kernel or current()).close(fd)


def dup(fd: int, minimum: int = 3) -> int:
    """A close-on-exec duplicate numbered ``minimum`` or higher, or the negative error number."""
    return (_kernel or current()).dup(fd, minimum)


def mmap(fd: int, length: int, offset: int = 0, *, write: bool = False) -> _mmap.mmap:
    """Map ``length`` bytes of a map or perf event, shared.

    Raises:
        OSError: As mmap(2).
    """
    return (_kernel or current()).mmap(fd, length, offset, write)


def mmap_at(fd: int, length: int, address: int) -> memoryview:
    """Map ``length`` bytes of a map at an address, shared and writable, as long as it is used.

    Raises:
        OSError: As mmap(2); EEXIST: something is there already.
    """
    return (_kernel or current()).mmap_at(fd, length, address)


def epoll() -> select.epoll:
    """A new epoll object, close-on-exec."""
    return (_kernel or current()).epoll()


def netlink(protocol: int) -> socket.socket:
    """A netlink socket of that protocol, close-on-exec, which asks for reasons in words.

    Raises:
        OSError: As socket(2).
    """
    return (_kernel or current()).netlink(protocol)


def interface_index(name: str) -> int:
    """Index of the network device of that name, or the negative error number."""
    return (_kernel or current()).interface_index(name)


def interface_name(index: int) -> str | None:
    """Name of the network device of that index in this thread's namespace, ``None`` if none is."""
    return (_kernel or current()).interface_name(index)


def interfaces() -> list[tuple[int, str]]:
    """Indexes and names of the network devices of this thread's namespace.

    Raises:
        OSError: They cannot be listed.
    """
    return (_kernel or current()).interfaces()


def setns(fd: int, kind: int) -> int:
    """Move this thread into another namespace (setns(2)); 0 or the negative error number.

    Args:
        fd: The namespace.
        kind: What it must be, ``CLONE_NEW*``.
    """
    return (_kernel or current()).setns(fd, kind)


def set_socket_option(fd: int, option: int, value: int) -> int:
    """Set an integer option of a socket (level ``SOL_SOCKET``); 0 or the negative error number."""
    return (_kernel or current()).set_socket_option(fd, option, value)


def open_fd(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a file, close-on-exec.

    Raises:
        OSError: As open(2).
    """
    return (_kernel or current()).open(path, flags)


def read(fd: int, size: int) -> bytes:
    """Read from a descriptor: at most ``size`` bytes; empty at the end.

    Raises:
        OSError: As read(2).
    """
    return (_kernel or current()).read(fd, size)


def pread(fd: int, size: int, offset: int) -> bytes:
    """Read at an offset: at most ``size`` bytes; empty at the end.

    Raises:
        OSError: As pread(2).
    """
    return (_kernel or current()).pread(fd, size, offset)


def fstat(fd: int) -> os.stat_result:
    """What kind of file a descriptor is of, which file, and how large it is.

    Raises:
        OSError: As fstat(2).
    """
    return (_kernel or current()).fstat(fd)


def own_memory(address: int, size: int) -> bytes:
    """Memory of this process, at most ``size`` bytes; none where nothing is.

    For addresses that may be wrong: the kernel answers those with EFAULT, and nobody else must die
    of them either.
    """
    try:
        fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no Linux, or not for this process
        return b""
    try:
        return os.pread(fd, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)


def read_file(path: str, limit: int = -1) -> bytes:
    """The whole file, or at most ``limit`` bytes in one read.

    Raises:
        OSError: As open(2) and read(2).
    """
    return (_kernel or current()).read_file(path, limit)


def write_file(path: str, data: bytes, *, append: bool = False) -> None:
    """Write ``data`` to an existing file with a single write(2), as tracefs wants it.

    Raises:
        OSError: As open(2) and write(2).
    """
    (_kernel or current()).write_file(path, data, append)


def map_file(path: str) -> _mmap.mmap | memoryview | bytes:
    """The file's content, memory-mapped where that works (sysfs BTF: since Linux 6.16).

    No descriptor stays open.

    Raises:
        OSError: As open(2) and read(2).
    """
    return (_kernel or current()).map_file(path)


def list_dir(path: str) -> list[str]:
    """Names in a directory, sorted.

    Raises:
        OSError: As open(2).
    """
    return (_kernel or current()).list_dir(path)


def exists(path: str) -> bool:
    """Whether there is such a file (and it may be looked at)."""
    return (_kernel or current()).exists(path)


def is_executable(path: str) -> bool:
    """Whether that is a file which this process may read and execute."""
    return (_kernel or current()).is_executable(path)


def real_path(path: str) -> str:
    """The path without symbolic links, as the kernel shows it in ``/proc/PID/maps``."""
    return (_kernel or current()).real_path(path)


def filesystem_type(path: str) -> int:
    """Magic number of the filesystem that holds ``path`` (``f_type`` of statfs(2)).

    Raises:
        OSError: As statfs(2).
    """
    return (_kernel or current()).filesystem_type(path)


def make_dir(path: str, mode: int) -> None:
    """Make a directory.

    Raises:
        OSError: As mkdir(2).
    """
    (_kernel or current()).make_dir(path, mode)


def unlink(path: str) -> None:
    """Remove a file or a pin.

    Raises:
        OSError: As unlink(2).
    """
    (_kernel or current()).unlink(path)


def uname() -> os.uname_result:
    """Name and version of the kernel and of the machine."""
    return (_kernel or current()).uname()


def pid() -> int:
    """Number of this process."""
    return (_kernel or current()).pid()


def memlock_limit() -> int:
    """RLIMIT_MEMLOCK of this process in bytes, -1 for no limit."""
    return (_kernel or current()).memlock_limit()


def lift_memlock_limit() -> None:
    """Set RLIMIT_MEMLOCK, soft and hard, to no limit.

    Raises:
        OSError: As setrlimit(2).
    """
    (_kernel or current()).lift_memlock_limit()
