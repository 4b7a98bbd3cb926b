"""One scripted kernel for both loaders: it takes everything, and remembers what it was given.

pybpfload meets it behind :mod:`pybpfload.kernel.door`. libbpf meets it through the C functions that
it calls: :class:`LibbpfDoor` puts functions in their place that ask the same kernel. So no
privilege is needed, nothing is ever created, and both are given the same answers.
"""

from __future__ import annotations

import copy
import ctypes
import errno
import os
import platform
import struct
import time
from ctypes import CFUNCTYPE, c_char_p, c_int, c_long, c_size_t, c_void_p
from typing import Any

from libbpf_slots import Slots

from pybpfload.isa import insn as isa
from pybpfload.kernel.attrs import layout, names
from pybpfload.kernel.door import syscall_numbers
from pybpfload.testing.fakekernel import Call, FakeKernel, memory
from pybpfload.testing.fakeobjects import FakeObject
from pybpfload.testing.fakerules import refuse
from pybpfload.uapi import Cmd, Helper, MapType

NATIVE = "<" if struct.pack("=H", 1)[0] else ">"
_HELPERS = max(Helper)
_KPROBE_PMU = "/sys/bus/event_source/devices/kprobe/type"


class Recorder(FakeKernel):
    """A scripted kernel that keeps, with each map and program, what its creation was given.

    Descriptors mean something only while they are open, so they are looked up at once.
    ``object.get("given")`` has the fields of the system call, with descriptors replaced by what
    they stood for and addresses by what was there:

    ==========  ==============================================================================
    program     ``code`` (instructions with 0 for descriptors), ``refers`` (what these were,
                by index), ``func_info``, ``line_info``, ``core_relos`` (records as bytes)
    map         ``inner`` (what the inner map's creation was given)
    either      ``btf`` (the blob), ``attach`` and ``btf_object`` (a program or a module's BTF)
    ==========  ==============================================================================

    Attributes:
        seconds: CPU time spent in :meth:`bpf`.
        taken: BTF that was found to be acceptable; kernels that are alike may share it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(machine=platform.machine(), **options)
        self.seconds = 0.0
        self.taken: set[bytes] = set()
        self.on("BTF_LOAD", self._load_btf)
        self.on("MAP_CREATE", self._create_map)
        self.on("PROG_LOAD", self._load_program)
        self.files.setdefault(_KPROBE_PMU, b"8\n")
        # struct bpf_token is newer than what the script knows.
        self.refuses.setdefault("TOKEN_CREATE", errno.EOPNOTSUPP)

    def add_module(self, name: str, data: bytes) -> None:
        """Let a kernel module be loaded; its BTF goes with that of the kernel."""
        self.pins[f"module {name}"] = self.make("btf", data=data, name=name, kernel=1)

    def add_vmlinux(self, data: bytes) -> None:
        """Let the kernel have BTF of its own, both as a file and as an object."""
        self.files["/sys/kernel/btf/vmlinux"] = data
        self.pins["vmlinux"] = self.make("btf", data=data, name="vmlinux", kernel=1)

    def bpf(self, cmd: int, attr: bytearray, size: int) -> int:
        """As the kernel's."""
        before = time.process_time()
        try:
            return self._bpf(cmd, attr, size)
        finally:
            self.seconds += time.process_time() - before

    def _bpf(self, cmd: int, attr: bytearray, size: int) -> int:
        result = super().bpf(cmd, attr, size)
        call = self.calls[-1] if self.calls else None
        if result >= 0 and call is not None and call.command in ("MAP_CREATE", "PROG_LOAD"):
            keep = self._map if call.command == "MAP_CREATE" else self._program
            self.fds[result]._fields["given"] = keep(call)
        elif result >= 0 and call is not None and call.command == "PROG_BIND_MAP":
            bound = self.fds[call.fields["prog_fd"]]["given"]["bound"]
            bound.append(self.fds[call.fields["map_fd"]])
        return result

    def _load_btf(self, call: Call) -> int:
        """Look at the same types only once: objects are loaded many times, program by program."""
        blob = memory(call.fields["btf"], call.fields["btf_size"])
        if blob not in self.taken and (number := refuse(self, call)):
            return -number
        self.taken.add(blob)
        return self.open_object(self.make("btf", **call.fields, data=blob))

    def _create_map(self, call: Call) -> int | None:
        """Take maps without entries too: the rules of all map types are not the question here."""
        if call.fields["max_entries"]:
            return None
        number = refuse(self, call)
        return -number if number else self.open_object(self.make("map", **call.fields))

    def _load_program(self, call: Call) -> int | None:
        """Take poisoned calls too, unless the probe of a feature that is missing makes them."""
        code = [
            insn._replace(imm=1) if insn.is_helper_call and insn.imm > _HELPERS else insn
            for insn in isa.decode(call.insns, NATIVE)
        ]
        harmless = copy.copy(call)
        harmless.insns = isa.encode(code, NATIVE)
        if number := refuse(self, harmless):
            return -number
        return self.open_object(self.make("prog", **call.fields, insns_=call.insns))

    def _map(self, call: Call) -> dict[str, Any]:
        call.fields.pop("charge", None)  # which the script added
        given = {**call.fields, "map_name": _text(call.fields["map_name"])}
        inner = self.fds.get(given.pop("inner_map_fd"))
        given["inner"] = inner["given"] if inner is not None else None
        given["btf"] = self._btf(given.pop("btf_fd"))
        given["btf_object"] = self.fds.get(given.pop("value_type_btf_obj_fd"))
        at, size = given.pop("excl_prog_hash"), given["excl_prog_hash_size"]
        given["excl_prog_hash"] = memory(at, size)
        return given

    def _program(self, call: Call) -> dict[str, Any]:
        call.fields.pop("charge", None)
        given = {**call.fields, "prog_name": _text(call.fields["prog_name"])}
        given["license"] = call.text
        given["btf"] = self._btf(given.pop("prog_btf_fd"))
        given["attach"] = self.fds.get(given.pop("attach_prog_fd"))
        for name in ("func_info", "line_info"):
            size = given[f"{name}_cnt"] * given[f"{name}_rec_size"]
            given[name] = memory(given[name], size)
        size = given["core_relo_cnt"] * given["core_relo_rec_size"]
        given["core_relos"] = memory(given["core_relos"], size)
        del given["insns"], given["log_buf"], given["log_true_size"]
        array = given.pop("fd_array")
        given["code"], given["refers"] = self.read_code(call.insns, array)
        given["bound"] = []
        return given

    def _btf(self, fd: int) -> bytes:
        found = self.fds.get(fd)
        return found["data"] if found is not None else b""

    def read_code(
        self, raw: bytes, fd_array: int = 0
    ) -> tuple[list[isa.Insn], dict[int, FakeObject | None]]:
        """Instructions without descriptors, and the objects that these stood for, by index."""
        code = isa.decode(raw, NATIVE)
        refers: dict[int, FakeObject | None] = {}
        at = 0
        while at < len(code):
            insn = code[at]
            if insn.code == isa.LDIMM64 and at + 1 < len(code):
                if insn.src in (isa.PSEUDO_MAP_FD, isa.PSEUDO_MAP_VALUE) and insn.imm in self.fds:
                    refers[at] = self.fds[insn.imm]
                    code[at] = insn._replace(imm=0)
                elif insn.src == isa.PSEUDO_BTF_ID and code[at + 1].imm in self.fds:
                    refers[at + 1] = self.fds[code[at + 1].imm]
                    code[at + 1] = code[at + 1]._replace(imm=0)
                at += 1
            elif insn.code == isa.CALL and insn.src == isa.PSEUDO_KFUNC_CALL and insn.off:
                fd = memory(fd_array + 4 * insn.off, 4) if fd_array else b""
                refers[at] = self.fds.get(int.from_bytes(fd, "little" if NATIVE == "<" else "big"))
                code[at] = insn._replace(off=0)
            at += 1
        return code, refers


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")


_SYS_MEMFD_CREATE = {"x86_64": 319, "aarch64": 279, "riscv64": 279, "s390x": 350, "ppc64le": 360}
_SYS_DUP3 = {"x86_64": 292, "aarch64": 24, "riscv64": 24, "s390x": 326, "ppc64le": 316}
_F_DUPFD_CLOEXEC = 1030
_MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE, _PROT_WRITE = 0x10, 0x20, 0x4000, 2
_O_DIRECTORY = os.O_DIRECTORY
_UTSNAME = 65  # bytes of each field of struct utsname


class LibbpfDoor:
    """Stands between libbpf and the C library: whatever asks the kernel asks a scripted one.

    Args:
        library: The loaded libbpf.

    Attributes:
        kernel: The kernel to ask.
        real_paths: The real files that libbpf may open.
        seconds: CPU time spent here rather than in libbpf.
        errors: Exceptions in these functions, which C code cannot be given.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.kernel = Recorder()
        self.real_paths: set[str] = set()
        self.seconds = 0.0
        self.errors: list[BaseException] = []
        machine = platform.machine()
        self._calls = {
            syscall_numbers(machine)[0]: self._bpf,
            syscall_numbers(machine)[1]: self._perf_event_open,
            _SYS_MEMFD_CREATE[machine]: self._memfd_create,
            _SYS_DUP3[machine]: self._dup3,
        }
        self._copies: dict[bytes, tuple[bytes, int]] = {}
        self._slots = slots = Slots(library, "libbpf.so.1")  # owns the functions
        self._real: dict[str, Any] = {}
        for names_, prototype, function in self._functions():
            for name in names_.split():
                if name in slots.addresses:
                    guarded = self._guarded(function, prototype._restype_)
                    self._real[names_.split()[0]] = slots.replace(name, prototype, guarded)

    def _functions(self) -> Any:
        """C functions by the names that they may have, their prototypes, what stands for them."""
        i, p, s, z, n = c_int, c_void_p, c_char_p, c_size_t, c_long

        def prototype(*kinds: Any) -> Any:
            return CFUNCTYPE(*kinds, use_errno=True)

        return [
            # The variable arguments of all these are in registers.
            ("syscall", prototype(n, n, n, n, n, n, n), self._syscall),
            ("open open64", prototype(i, s, i, i), self._open),
            ("fopen fopen64", prototype(p, s, s), self._fopen),
            ("gzopen gzopen64", prototype(p, s, s), self._gzopen),
            ("close", prototype(i, i), self._close),
            ("fcntl fcntl64", prototype(i, i, i, n), self._fcntl),
            ("mmap mmap64", prototype(p, p, z, i, i, i, n), self._mmap),
            ("ioctl", prototype(i, i, n, n), self._ioctl),
            ("access", prototype(i, s, i), lambda path, _mode: self._access(path)),
            ("faccessat", prototype(i, i, s, i, i), lambda _at, path, *_: self._access(path)),
            ("statfs statfs64", prototype(i, s, p), self._statfs),
            ("mkdir", prototype(i, s, i), self._mkdir),
            ("unlink", prototype(i, s), self._unlink),
            ("uname", prototype(i, p), self._uname),
            ("setrlimit setrlimit64", prototype(i, i, p), lambda _resource, _limit: 0),
        ]

    def _guarded(self, function: Any, result: Any) -> Any:
        """What C code can call: errors become error numbers, and the usual failure."""
        failure = None if result is c_void_p and "open" in function.__name__ else -1

        def call(*arguments: Any) -> Any:
            before = time.process_time()
            try:
                return function(*arguments)
            except OSError as error:
                ctypes.set_errno(error.errno or errno.EIO)
            except Exception as error:  # it would be lost
                self.errors.append(error)
                ctypes.set_errno(errno.EIO)
            finally:
                self.seconds += time.process_time() - before
            return failure

        return call

    # System calls

    def _syscall(self, number: int, *arguments: int) -> int:
        call = self._calls.get(number)
        return _result(call(*arguments) if call is not None else -errno.ENOSYS)

    def _bpf(self, cmd: int, pointer: int, size: int, *_: int) -> int:
        command = Cmd(cmd).name
        if command not in names():
            return -errno.EINVAL
        attr = bytearray(max(layout(command).total_size, size, 256))
        attr[:size] = ctypes.string_at(pointer, size)
        result = self.kernel.bpf(cmd, attr, size)
        ctypes.memmove(pointer, bytes(attr[:size]), size)
        return result

    def _perf_event_open(self, attr: int, pid: int, cpu: int, group_fd: int, flags: int) -> int:
        if "SYSCALL_WRAPPER" in self.kernel.lacks:  # what else libbpf would look for while loading
            return -errno.ENOENT
        (size,) = struct.unpack("=I", ctypes.string_at(attr + 4, 4))
        content = bytearray(ctypes.string_at(attr, size))
        return self.kernel.perf_event_open(content, pid, cpu, group_fd, flags)

    def _memfd_create(self, *_: int) -> int:
        return self.kernel.open_object(FakeObject("file", 0, {}))

    def _dup3(self, old: int, new: int, *_: int) -> int:
        self.kernel.fds[new] = self.kernel.fds[old]
        return new

    # Descriptors

    def _close(self, fd: int) -> int:
        return _result(self.kernel.close(fd)) if fd in self.kernel.fds else self._real["close"](fd)

    def _fcntl(self, fd: int, command: int, argument: int) -> int:
        if fd in self.kernel.fds and command == _F_DUPFD_CLOEXEC:
            return _result(self.kernel.dup(fd, argument))
        return self._real["fcntl"](fd, command, argument)

    def _ioctl(self, fd: int, request: int, argument: int) -> int:
        return _result(self.kernel.ioctl(fd, request, argument))

    def _mmap(
        self, address: int, length: int, protection: int, flags: int, fd: int, offset: int
    ) -> int:
        if fd < 0:
            return self._real["mmap"](address, length, protection, flags, fd, offset)
        found = self.kernel.fds.get(fd)
        if found is None:  # a file below /sys, which only newer kernels map
            return _result(-errno.ENODEV)
        flags |= _MAP_ANONYMOUS | _MAP_NORESERVE
        # Nothing may be where the script has a map be; addresses are as they come.
        place = self._real["mmap"](address, length, protection | _PROT_WRITE, flags, -1, 0)
        if found.kind == "map" and found["map_type"] == MapType.ARRAY:
            for key, value in found.elements.items():
                at = int.from_bytes(key, "little" if NATIVE == "<" else "big")
                ctypes.memmove(place + at * ((found["value_size"] + 7) & -8), value, len(value))
        found._fields["mapped_at"] = place
        return place

    # Files

    def _open(self, path: bytes, flags: int, mode: int) -> int:
        if os.fsdecode(path) in self.real_paths:
            return self._real["open"](path, flags, mode)
        if flags & _O_DIRECTORY:
            return self.kernel.open(os.fsdecode(path), flags)
        return self._real["open"](self._copy(path), flags, mode)

    def _fopen(self, path: bytes, mode: bytes) -> int:
        if os.fsdecode(path) in self.real_paths:
            return self._real["fopen"](path, mode)
        return self._real["fopen"](self._copy(path), mode)

    def _gzopen(self, path: bytes, mode: bytes) -> int:
        return self._real["gzopen"](self._copy(path), mode)

    def _copy(self, path: bytes) -> bytes:
        """Path of a real file with the content that a file has for the scripted kernel."""
        content = self.kernel.read_file(os.fsdecode(path), -1)
        before, fd = self._copies.get(path, (None, -1))
        if fd < 0:
            fd = os.memfd_create("copy")
        if content is not before:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            with open(fd, "wb", closefd=False) as file:
                file.write(content)
            self._copies[path] = content, fd
        return f"/proc/self/fd/{fd}".encode()

    def _access(self, path: bytes) -> int:
        return 0 if self.kernel.exists(os.fsdecode(path)) else _result(-errno.ENOENT)

    def _statfs(self, path: bytes, buffer: int) -> int:
        kind = self.kernel.filesystem_type(os.fsdecode(path))
        ctypes.memmove(buffer, struct.pack("=Q", kind), 8)
        return 0

    def _mkdir(self, path: bytes, mode: int) -> int:
        if self.kernel.exists(os.fsdecode(path)):
            return _result(-errno.EEXIST)
        self.kernel.make_dir(os.fsdecode(path), mode)
        return 0

    def _unlink(self, path: bytes) -> int:
        self.kernel.unlink(os.fsdecode(path))
        return 0

    def _uname(self, buffer: int) -> int:
        fields = self.kernel.uname()
        text = b"".join(os.fsencode(field).ljust(_UTSNAME, b"\0") for field in fields)
        ctypes.memmove(buffer, text, len(text))
        return 0


def _result(answer: int) -> int:
    """As C functions say it: -1, and ``errno``."""
    if answer < 0:
        ctypes.set_errno(-answer)
        return -1
    return answer
