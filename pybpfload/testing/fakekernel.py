"""A scripted kernel behind the syscall door, for tests without privileges or Linux kernels.

It keeps maps, programs, BTF objects and links as plain Python objects, accepts every program, and
can be told to lack features, to be of a certain age, to answer anything else, and to fail at a
certain call::

    fake = FakeKernel.like("5.4", lacks={"BTF_DATASEC"})
    with fake:
        with pybpfload.load("tracer.bpf.o") as obj:
            ...
    assert not fake.leaked()

What it refuses is in :mod:`pybpfload.testing.fakerules`.

It needs a CPython on a POSIX system, as the code under test passes addresses of real memory.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any

from pybpfload.kernel import door
from pybpfload.kernel.attrs import Layout, layout, names
from pybpfload.kernel.cmd_link import link_kind
from pybpfload.kernel.probe import Feature
from pybpfload.kernel.since import version_pair
from pybpfload.testing.fakeobjects import FakeEpoll, FakeObject, memory, per_cpu, store, string
from pybpfload.testing.fakerules import refuse
from pybpfload.uapi import Cmd, MapType

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

__all__ = ["Call", "FakeKernel", "memory", "store", "string"]

_FIRST_FD = 1_000_000
_STATUS = b"CapEff:\t000001ffffffffff\nSeccomp:\t0\n"
_FILES = {
    "/proc/self/status": _STATUS,
    "/proc/self/uid_map": b"         0          0 4294967295\n",
    "/sys/devices/system/cpu/possible": b"0-3\n",
    "/sys/devices/system/cpu/online": b"0-3\n",
}
_OF_DESCRIPTORS = (MapType.PROG_ARRAY, MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_NEW = {"BTF_LOAD": "btf", "LINK_CREATE": "link", "RAW_TRACEPOINT_OPEN": "link"}


class Call:
    """One bpf(2) call.

    Attributes:
        command: Its name, for example ``"MAP_CREATE"``.
        fields: The attribute's fields by their kernel names, as they were before the call.
        size: Bytes that the kernel was told to read.
        insns: Instructions of a ``PROG_LOAD``.
        text: Name, path or licence that the attribute points to.
        layout: The meaning of the attribute's bytes.
        attr: The attribute itself, where the kernel leaves results.
        result: What the kernel answered.
    """

    def __init__(
        self, command: str, fields: dict[str, Any], size: int, layout: Layout, attr: bytearray
    ) -> None:
        self.command = command
        self.fields = fields
        self.size = size
        self.layout = layout
        self.attr = attr
        self.result = 0
        self.insns = b""
        self.text = ""
        if command == "PROG_LOAD":
            self.insns = memory(fields["insns"], fields["insn_cnt"] * 8)
            self.text = string(fields["license"])
        else:
            for name in ("pathname", "name", "path"):
                if name in fields:
                    self.text = string(fields[name])

    def answer(self, name: str, value: int) -> None:
        """Write a number into a field of the attribute, as the kernel writes results."""
        code, offset = self.layout.fields[name]
        struct.pack_into("=Q" if code in ("u64", "ptr") else "=I", self.attr, offset, value)

    def __repr__(self) -> str:
        given = {name: value for name, value in self.fields.items() if value}
        return f"<{self.command} {given} = {self.result}>"


class FakeKernel:
    """A kernel that is only a script.

    Args:
        lacks: Names of features (:class:`pybpfload.kernel.probe.Feature`) it is too old for.
        refuses: Error number by command name, for example ``{"PROG_LOAD": errno.EPERM}``.
        files: Content of files by path, or the ``OSError`` that reading one gives.
        release: The kernel's release.
        machine: Name of the machine.
        cpus: Number of possible CPUs.
        memlock: RLIMIT_MEMLOCK in bytes, -1 for no limit, which a kernel without ``MEMCG_ACCOUNT``
            charges BPF memory to.

    Attributes:
        version: Its age, ``(5, 4)``: it refuses what came later; ``None`` if it has everything.
        calls: All bpf(2) calls, oldest first.
        fds: What is open.
        objects: All objects ever made, by kind and id.
        pins: Pinned objects by path.
        ready: Descriptors that are ready for a waiting epoll.
    """

    def __init__(
        self,
        *,
        lacks: Iterable[str] = (),
        refuses: Mapping[str, int] | None = None,
        files: Mapping[str, bytes | OSError] | None = None,
        release: str = "6.18.0",
        machine: str = "x86_64",
        cpus: int = 4,
        memlock: int = -1,
    ) -> None:
        self.version: tuple[int, int] | None = None
        self.memlock = memlock
        self.cache: dict[Any, Any] = {}
        self.lacks = frozenset(lacks)
        self.refuses = dict(refuses or {})
        self.files: dict[str, bytes | OSError] = {**_FILES, **(files or {})}
        if "SYSCALL_WRAPPER" not in self.lacks:
            self.files.setdefault("/proc/kallsyms", b"0000000000000000 T __x64_sys_bpf\n")
        self.release = release
        self.machine = machine
        self.cpus = cpus
        self.calls: list[Call] = []
        self.fds: dict[int, FakeObject] = {}
        self.closed: list[int] = []
        self.objects: dict[tuple[str, int], FakeObject] = {}
        self.pins: dict[str, FakeObject] = {}
        self.dirs: set[str] = {"/", "/sys/fs/bpf", "/tmp"}
        self.ready: list[int] = []
        self._next = _FIRST_FD
        self._answers: dict[str, Callable[[Call], int | None]] = {}
        self._fail: tuple[int, int] | None = None
        self._before: AbstractContextManager[Any] | None = None

    @classmethod
    def like(cls, version: str, **options: Any) -> FakeKernel:
        """A kernel as old as a certain version of Linux, as far as loading goes.

        It refuses with the kernel's error numbers what came later: commands, fields of attributes,
        program, map and attach types, flags, helpers, instructions, kinds of BTF types, all
        features of the probes. It has the limits of its age: programs of 4,096 instructions and
        logs of 16 MiB before 5.2, RLIMIT_MEMLOCK (of 64 KiB) before 5.11, ``kern_version`` of
        kprobe programs before 5.0.

        Args:
            version: For example ``"4.14"``.
            **options: As for the class. ``lacks`` adds to what it is too old for.
        """
        age = version_pair(version)
        options = {"release": f"{version}.0", "memlock": 64 << 10, **options}
        young = {feature.name for feature in Feature if version_pair(feature.since) > age}
        options["lacks"] = young.union(options.get("lacks", ()))
        made = cls(**options)
        made.version = age
        return made

    # What a test says and asks

    def on(self, command: str, answer: Callable[[Call], int | None]) -> None:
        """Answer a command: with the result or a negative error number, or ``None`` as usual."""
        self._answers[command] = answer

    def fail(self, after: int, number: int = errno.ENOMEM) -> None:
        """Let the bpf(2) call that comes after so many others fail."""
        self._fail = (len(self.calls) + after, number)

    def leaked(self) -> list[FakeObject]:
        """Objects with open descriptors."""
        return list(self.fds.values())

    def of_kind(self, kind: str) -> list[FakeObject]:
        """All objects of a kind that are still alive, oldest first."""
        return [o for (k, _), o in self.objects.items() if k == kind and self.alive(o)]

    def alive(self, wanted: FakeObject) -> bool:
        """Whether an object is open or pinned."""
        return any(o is wanted for o in (*self.fds.values(), *self.pins.values()))

    def commands(self) -> list[str]:
        """Names of the commands called, oldest first."""
        return [call.command for call in self.calls]

    def __enter__(self) -> FakeKernel:
        self._before = door.replaced(self)
        self._before.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._before is not None
        self._before.__exit__(*error)

    def open_object(self, made: FakeObject) -> int:
        """A descriptor of an object."""
        self._next += 1
        self.fds[self._next] = made
        return self._next

    def make(self, kind: str, **attributes: Any) -> FakeObject:
        """A new object."""
        number = 1 + max((n for k, n in self.objects if k == kind), default=0)
        made = self.objects[kind, number] = FakeObject(kind, number, attributes)
        return made

    # The system calls

    def bpf(self, cmd: int, attr: bytearray, size: int) -> int:
        """As the kernel's; see :mod:`pybpfload.kernel.door` for this and the others."""
        command = Cmd(cmd).name
        if command not in names():
            return -errno.EINVAL
        ours = layout(command)
        fields = ours.unpack(attr, size)
        if command == "LINK_CREATE" and (kind := link_kind(fields["attach_type"])):
            ours = layout(f"LINK_CREATE/{kind}")
            fields = ours.unpack(attr, size)
        call = Call(command, fields, size, ours, attr)
        self.calls.append(call)
        call.result = self._answer(call, attr)
        return call.result

    def _answer(self, call: Call, attr: bytearray) -> int:
        if self._fail is not None and len(self.calls) > self._fail[0]:
            number, self._fail = self._fail[1], None
            return -number
        if call.command in self.refuses:
            return -self.refuses[call.command]
        if (script := self._answers.get(call.command)) is not None:
            answer = script(call)
            if answer is not None:
                return answer
        if number := refuse(self, call):
            return -number
        try:
            return self._do(call, attr)
        except KeyError:
            return -errno.EBADF

    def _do(self, call: Call, attr: bytearray) -> int:
        command, fields = call.command, call.fields
        if command == "MAP_CREATE":
            if not fields["max_entries"] and fields["map_type"] != MapType.STRUCT_OPS:
                return -errno.EINVAL
            return self.open_object(self.make("map", **fields))
        if command == "PROG_LOAD":
            return self.open_object(self.make("prog", **fields, insns_=call.insns))
        if command in _NEW:
            extra: dict[str, Any] = {
                "data": memory(fields.get("btf", 0), fields.get("btf_size", 0))
            }
            if command != "BTF_LOAD":
                extra = {"prog": self.fds[fields["prog_fd"]], "name": call.text}
                if fields.get("attach_type") == 41 and fields["target_fd"] not in self.fds:
                    return -errno.EBADF
            return self.open_object(self.make(_NEW[command], **{**fields, **extra}))
        if command == "ENABLE_STATS":
            return self.open_object(FakeObject("stats", 0, fields))
        if command == "ITER_CREATE":
            link = self.fds[fields["link_fd"]]
            return self.open_object(FakeObject("iter", 0, {"output": link.output}))
        if command.endswith("_ELEM") or command == "MAP_GET_NEXT_KEY":
            return self._elem(command, fields)
        if command.endswith("_BATCH"):
            return self._batch(command, fields, attr)
        if command.endswith("_GET_NEXT_ID"):
            kind = command.partition("_")[0].lower()
            following = [o.id for o in self.of_kind(kind) if o.id > fields["start_id"]]
            if not following:
                return -errno.ENOENT
            struct.pack_into("=I", attr, 4, min(following))
            return 0
        if command.endswith("_GET_FD_BY_ID"):
            found = self.objects.get((command.partition("_")[0].lower(), fields["id"]))
            alive = found is not None and self.alive(found)
            return self.open_object(found) if found is not None and alive else -errno.ENOENT
        if command == "OBJ_PIN":
            if call.text in self.pins:
                return -errno.EEXIST
            self.pins[call.text] = self.fds[fields["bpf_fd"]]
            return 0
        if command == "OBJ_GET":
            pinned = self.pins.get(call.text)
            return self.open_object(pinned) if pinned is not None else -errno.ENOENT
        if command == "OBJ_GET_INFO_BY_FD":
            return self._info(self.fds[fields["bpf_fd"]], fields, attr)
        for name in ("map_fd", "prog_fd", "link_fd"):
            if name in fields:
                self.fds[fields[name]]  # a KeyError is EBADF
        if command == "MAP_FREEZE":
            self.fds[fields["map_fd"]].frozen = True
        return 0

    def _elem(self, command: str, fields: dict[str, Any]) -> int:
        target = self.fds[fields["map_fd"]]
        key_size, value_size = target["key_size"], per_cpu(target, self.cpus)
        key = memory(fields["key"], key_size)
        if command == "MAP_GET_NEXT_KEY":
            following = target.next_key(key if fields["key"] else None)
            if following is None:
                return -errno.ENOENT
            store(fields["next_key"], following)
            return 0
        if command == "MAP_UPDATE_ELEM":
            if target.frozen:
                return -errno.EPERM
            given = memory(fields["value"], value_size)
            if target["map_type"] in _OF_DESCRIPTORS:
                self.fds[struct.unpack_from("=i", given)[0]]  # a KeyError is EBADF
            return target.update(key, given, fields["flags"])
        value = target.lookup(key, value_size)
        if value is None:
            return -errno.ENOENT
        if command != "MAP_DELETE_ELEM":
            store(fields["value"], value)
        return 0 if command == "MAP_LOOKUP_ELEM" else target.delete(key)

    def _batch(self, command: str, fields: dict[str, Any], attr: bytearray) -> int:
        target = self.fds[fields["map_fd"]]
        key_size, value_size = target["key_size"], per_cpu(target, self.cpus)
        count, done, result = fields["count"], 0, 0
        struct.pack_into("=I", attr, 32, 0)
        if command in ("MAP_UPDATE_BATCH", "MAP_DELETE_BATCH"):
            while done < count:
                key = memory(fields["keys"] + done * key_size, key_size)
                if command == "MAP_DELETE_BATCH":
                    result = target.delete(key)
                else:
                    value = memory(fields["values"] + done * value_size, value_size)
                    result = target.update(key, value, fields["elem_flags"])
                if result < 0:
                    break
                done += 1
            struct.pack_into("=I", attr, 32, done)
            return result
        start = struct.unpack("=I", memory(fields["in_batch"], 4))[0] if fields["in_batch"] else 0
        keys = target.keys()[start : start + count]
        for done, key in enumerate(keys):
            store(fields["keys"] + done * key_size, key)
            value = target.lookup(key, value_size) or b""
            store(fields["values"] + done * value_size, value)
        struct.pack_into("=I", attr, 32, len(keys))
        store(fields["out_batch"], struct.pack("=I", start + len(keys)))
        finished = start + count >= len(target.keys())
        if command == "MAP_LOOKUP_AND_DELETE_BATCH":
            store(fields["out_batch"], bytes(4))
            for key in keys:
                target.delete(key)
        return -errno.ENOENT if finished else 0

    def _info(self, target: FakeObject, fields: dict[str, Any], attr: bytearray) -> int:
        given = memory(fields["info"], fields["info_len"])
        if target.kind == "btf":
            data, room = target["data"], struct.unpack_from("=I", given, 8)[0]
            pointer, name, name_len = struct.unpack_from("=Q8xQI", given)
            if name and not name_len:
                return -errno.EINVAL
            store(pointer, data[:room])
            text = target.get("name", "").encode() + b"\0"
            store(name, text[:name_len])
            info = struct.pack(
                "=QIIQII", pointer, len(data), target.id, name, len(text), target.get("kernel", 0)
            )
        else:
            info = target.info()
        info = info[: fields["info_len"]]
        store(fields["info"], info)
        struct.pack_into("=I", attr, 4, len(info))
        return 0

    def perf_event_open(  # noqa: D102
        self, attr: bytearray, pid: int, cpu: int, group_fd: int, flags: int
    ) -> int:
        if "perf_event_open" in self.refuses:
            return -self.refuses["perf_event_open"]
        event = FakeObject("perf_event", 0, {"attr": bytes(attr), "pid": pid, "cpu": cpu})
        return self.open_object(event)

    def ioctl(self, fd: int, request: int, argument: int | bytearray) -> int:  # noqa: D102
        if fd not in self.fds:
            return -errno.EBADF
        if "ioctl" in self.refuses:
            return -self.refuses["ioctl"]
        self.fds[fd].ioctls.append((request, argument))
        return 0

    def close(self, fd: int) -> int:  # noqa: D102
        if self.fds.pop(fd, None) is None:
            return -errno.EBADF
        self.closed.append(fd)
        return 0

    def dup(self, fd: int, minimum: int) -> int:  # noqa: D102
        return self.open_object(self.fds[fd]) if fd in self.fds else -errno.EBADF

    def mmap(self, fd: int, length: int, offset: int, write: bool) -> mmap.mmap:  # noqa: D102
        return self.fds[fd].mapping(length, offset)

    def mmap_at(self, fd: int, length: int, address: int) -> memoryview:  # noqa: D102
        return memoryview(self.fds[fd].mapping(length, 0))

    def epoll(self) -> Any:  # noqa: D102
        return FakeEpoll(self)

    # Network

    def netlink(self, protocol: int) -> Any:  # noqa: D102
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))

    def interface_index(self, name: str) -> int:  # noqa: D102
        return 1 if name == "lo" else -errno.ENODEV

    def interface_name(self, index: int) -> str | None:  # noqa: D102
        return "lo" if index == 1 else None

    def interfaces(self) -> list[tuple[int, str]]:  # noqa: D102
        return [(1, "lo")]

    def setns(self, fd: int, kind: int) -> int:  # noqa: D102
        return 0 if fd in self.fds else -errno.EBADF

    def set_socket_option(self, fd: int, option: int, value: int) -> int:  # noqa: D102
        return 0 if fd in self.fds else -errno.EBADF

    # Files

    def open(self, path: str, flags: int) -> int:  # noqa: D102
        content = b"" if path in self.dirs else self.read_file(path, -1)
        return self.open_object(FakeObject("file", 0, {"path": path, "output": content}))

    def read(self, fd: int, size: int) -> bytes:  # noqa: D102
        if fd not in self.fds:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        source = self.fds[fd]
        data, source.output = source.output[:size], source.output[size:]
        return data

    def pread(self, fd: int, size: int, offset: int) -> bytes:  # noqa: D102
        return bytes(self.fds[fd].output[offset : offset + size])

    def fstat(self, fd: int) -> os.stat_result:
        """A regular file, whose number (``st_ino``) is the CRC-32 of its content."""
        content = bytes(self.fds[fd].output)
        return os.stat_result((0o100644, zlib.crc32(content), 0, 1, 0, 0, len(content), 0, 0, 0))

    def read_file(self, path: str, limit: int) -> bytes:  # noqa: D102
        content = self.files.get(path, FileNotFoundError(errno.ENOENT, "not there", path))
        if isinstance(content, OSError):
            raise content
        return content if limit < 0 else content[:limit]

    def write_file(self, path: str, data: bytes, append: bool) -> None:  # noqa: D102
        before = self.read_file(path, -1)
        self.files[path] = before + data if append else data

    def map_file(self, path: str) -> bytes:  # noqa: D102
        return self.read_file(path, -1)

    def list_dir(self, path: str) -> list[str]:  # noqa: D102
        start = path.rstrip("/") + "/"
        paths = [*self.files, *self.dirs, *self.pins]
        found = {p[len(start) :].partition("/")[0] for p in paths if p.startswith(start)}
        if not found and path not in self.dirs:
            raise FileNotFoundError(errno.ENOENT, "not there", path)
        return sorted(found - {""})

    def exists(self, path: str) -> bool:  # noqa: D102
        paths = (*self.files, *self.dirs, *self.pins)
        return any(p == path or p.startswith(path.rstrip("/") + "/") for p in paths)

    def is_executable(self, path: str) -> bool:  # noqa: D102
        return path in self.files

    def real_path(self, path: str) -> str:  # noqa: D102
        return path

    def filesystem_type(self, path: str) -> int:  # noqa: D102
        if not self.exists(path):
            raise FileNotFoundError(errno.ENOENT, "not there", path)
        return 0xCAFE4A11 if path == "/sys/fs/bpf" or path.startswith("/sys/fs/bpf/") else 0xEF53

    def make_dir(self, path: str, mode: int) -> None:  # noqa: D102
        if not self.exists(os.path.dirname(path)):  # noqa: PTH120
            raise FileNotFoundError(errno.ENOENT, "not there", path)
        self.dirs.add(path)

    def unlink(self, path: str) -> None:  # noqa: D102
        if self.pins.pop(path, None) is None and self.files.pop(path, None) is None:
            raise FileNotFoundError(errno.ENOENT, "not there", path)

    def uname(self) -> os.uname_result:  # noqa: D102
        return os.uname_result(("Linux", "fake", self.release, "#1 SMP", self.machine))

    def pid(self) -> int:  # noqa: D102
        return os.getpid()

    def memlock_limit(self) -> int:  # noqa: D102
        return self.memlock

    def lift_memlock_limit(self) -> None:  # noqa: D102
        if "setrlimit" in self.refuses:
            raise PermissionError(self.refuses["setrlimit"], "setrlimit")
        self.memlock = -1
