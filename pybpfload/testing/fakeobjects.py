"""What the fake kernel keeps: objects, and how it looks into the caller's memory."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from typing import TYPE_CHECKING, Any

from pybpfload.uapi import LinkType, MapType

if TYPE_CHECKING:
    from pybpfload.testing.fakekernel import FakeKernel

__all__ = ["FakeEpoll", "FakeObject", "memory", "per_cpu", "store", "string"]

_PER_CPU = (
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_PERCPU_HASH,
    MapType.PERCPU_CGROUP_STORAGE,
)
_ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)


def memory(address: int, size: int) -> bytes:
    """What is in the caller's memory."""
    return ctypes.string_at(address, size) if address and size > 0 else b""


def string(address: int) -> str:
    """A string in the caller's memory."""
    return ctypes.string_at(address).decode(errors="surrogateescape") if address else ""


def store(address: int, data: bytes) -> None:
    """Write to the caller's memory."""
    if address and data:
        ctypes.memmove(address, data, len(data))


class FakeObject:
    """A map, program, BTF object, link, perf event, iterator or file.

    ``object["name"]`` is a field of the call that made it.

    Attributes:
        kind: ``"map"``, ``"prog"``, ``"btf"``, ``"link"``, ``"perf_event"``, ``"iter"``,
            ``"stats"`` or ``"file"``.
        id: Its id, 0 for kinds without ids.
        elements: Values of a map by key.
        frozen: Whether a map is frozen.
        output: What reading gives (of a link: what each of its iterators gives).
        ioctls: Requests and arguments of all ioctl(2) calls.
        mappings: What was mapped, by offset.
        runs: Of a program: time of its runs in ns, their count, misses.
    """

    def __init__(self, kind: str, number: int, fields: dict[str, Any]) -> None:
        self.kind = kind
        self.id = number
        self._fields = fields
        self.elements: dict[bytes, bytes] = {}
        self.frozen = False
        self.output: bytes = fields.get("output", b"")
        self.ioctls: list[tuple[int, int | bytearray]] = []
        self.mappings: dict[int, mmap.mmap] = {}
        self.runs = (0, 0, 0)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A field of the call that made it, or a default."""
        return self._fields.get(name, default)

    @property
    def name(self) -> str:
        """The name it was given."""
        raw = self.get(f"{self.kind}_name", b"")
        return bytes(raw).rstrip(b"\0").decode(errors="replace")

    def __repr__(self) -> str:
        return f"<fake {self.kind} {self.id} {self.name}>"

    # Maps

    def keys(self) -> list[bytes]:
        """All keys, in order."""
        if self["map_type"] in _ARRAYS:
            return [struct.pack("=I", i) for i in range(self["max_entries"])]
        return list(self.elements)

    def lookup(self, key: bytes, size: int) -> bytes | None:
        """The value of a key."""
        mapped = self.mappings.get(0)
        if mapped is not None and self["map_type"] == MapType.ARRAY:
            at = struct.unpack("=I", key)[0] * ((self["value_size"] + 7) & -8)
            return bytes(mapped[at : at + size])
        if self["map_type"] in _ARRAYS and struct.unpack("=I", key)[0] < self["max_entries"]:
            return self.elements.get(key, bytes(size))
        return self.elements.get(key)

    def update(self, key: bytes, value: bytes, flags: int) -> int:
        """Set the value of a key; 0 or a negative error number."""
        exists = key in self.elements or (self["map_type"] in _ARRAYS and key in self.keys())
        if flags & 3 == 1 and exists:
            return -errno.EEXIST
        if (flags & 3 == 2 and not exists) or (self["map_type"] in _ARRAYS and not exists):
            return -errno.ENOENT if flags & 3 == 2 else -errno.E2BIG
        if not exists and len(self.elements) >= self["max_entries"]:
            return -errno.E2BIG
        self.elements[key] = value
        mapped = self.mappings.get(0)
        if mapped is not None and self["map_type"] == MapType.ARRAY:
            at = struct.unpack("=I", key)[0] * ((self["value_size"] + 7) & -8)
            mapped[at : at + len(value)] = value
        return 0

    def delete(self, key: bytes) -> int:
        """Remove a key; 0 or a negative error number."""
        if self["map_type"] in _ARRAYS:
            return -errno.EINVAL
        return -errno.ENOENT if self.elements.pop(key, None) is None else 0

    def next_key(self, key: bytes | None) -> bytes | None:
        """The key after one, or the first."""
        keys = self.keys()
        at = keys.index(key) + 1 if key in keys else 0
        return keys[at] if at < len(keys) else None

    def mapping(self, length: int, offset: int) -> mmap.mmap:
        """Memory that stands for the object's."""
        if offset not in self.mappings:
            memory = self.mappings[offset] = mmap.mmap(-1, length)
            if self.kind == "map" and self["map_type"] == MapType.ARRAY:
                stride = (self["value_size"] + 7) & -8
                for key, value in self.elements.items():
                    at = struct.unpack("=I", key)[0] * stride
                    memory[at : at + len(value)] = value
        return self.mappings[offset]

    # Info

    def info(self) -> bytes:
        """Its info structure."""
        if self.kind == "map":
            return struct.pack(
                "=6I16sIIQQIIIIQ",
                self["map_type"],
                self.id,
                self["key_size"],
                self["value_size"],
                self["max_entries"],
                self["map_flags"],
                self["map_name"],
                self["map_ifindex"],
                self["btf_vmlinux_value_type_id"],
                0,
                0,
                1 if self["btf_fd"] else 0,
                self["btf_key_type_id"],
                self["btf_value_type_id"],
                0,
                self["map_extra"],
            )
        if self.kind == "prog":
            raw = bytearray(232)
            struct.pack_into("=II8s", raw, 0, self["prog_type"], self.id, b"fakeprog")
            struct.pack_into("=16s", raw, 64, self["prog_name"])
            struct.pack_into("=I", raw, 128, 1 if self["prog_btf_fd"] else 0)
            struct.pack_into("=3Q", raw, 192, *self.runs)
            struct.pack_into("=II", raw, 220, 0, self["attach_btf_id"])
            return bytes(raw)
        raw = bytearray(64)
        kind = LinkType.TRACING if self.get("attach_type") else LinkType.RAW_TRACEPOINT
        struct.pack_into("=III", raw, 0, kind, self.id, self["prog"].id)
        return bytes(raw)


def per_cpu(target: FakeObject, cpus: int) -> int:
    """Bytes of a value as system calls give and take it."""
    size: int = target["value_size"]
    return cpus * ((size + 7) & -8) if target["map_type"] in _PER_CPU else size


class FakeEpoll:
    """Stands for an epoll object: what is in ``FakeKernel.ready`` is ready."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self.registered: dict[int, int] = {}
        self.closed = False

    def register(self, fd: Any, eventmask: int = 1) -> None:
        """Watch a descriptor."""
        self.registered[fd if isinstance(fd, int) else fd.fileno()] = eventmask

    def unregister(self, fd: Any) -> None:
        """Do not watch it any more."""
        del self.registered[fd if isinstance(fd, int) else fd.fileno()]

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """What is ready; never waits."""
        return [(fd, 1) for fd in self._kernel.ready if fd in self.registered]

    def fileno(self) -> int:
        """A number that no file has: poll(2) says so and does not wait."""
        return 999_999

    def close(self) -> None:
        """Close it."""
        self.closed = True
