"""What the fake kernel keeps, and how it behaves like an older one."""

from __future__ import annotations

import errno
import mmap
import struct
from typing import TYPE_CHECKING, Any

from pybpfload.btf import Btf, Kind
from pybpfload.errors import FormatError
from pybpfload.uapi import Helper, LinkType, MapFlag, MapType

if TYPE_CHECKING:
    from pybpfload.testing.fakekernel import Call, FakeKernel

__all__ = ["FakeEpoll", "FakeObject", "per_cpu", "refuse"]

_PER_CPU = (
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_PERCPU_HASH,
    MapType.PERCPU_CGROUP_STORAGE,
)
_ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)


class FakeObject:
    """A map, program, BTF object, link, perf event, iterator or file.

    ``object["name"]`` is a field of the call that made it.

    Attributes:
        kind: ``"map"``, ``"prog"``, ``"btf"``, ``"link"``, ``"perf_event"``, ``"iter"`` or
            ``"file"``.
        id: Its id, 0 for kinds without ids.
        elements: Values of a map by key.
        frozen: Whether a map is frozen.
        output: What reading gives (of a link: what each of its iterators gives).
        ioctls: Requests and arguments of all ioctl(2) calls.
        mappings: What was mapped, by offset.
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

    def close(self) -> None:
        """Close it."""
        self.closed = True


# What old kernels do not know: helpers, and kinds of types in BTF.
_HELPERS = {
    "PROBE_READ_KERN": range(Helper.PROBE_READ_USER, Helper.PROBE_READ_KERNEL_STR + 1),
    "BPF_COOKIE": range(Helper.GET_ATTACH_COOKIE, Helper.GET_ATTACH_COOKIE + 1),
    "MEMCG_ACCOUNT": range(Helper.KTIME_GET_COARSE_NS, Helper.KTIME_GET_COARSE_NS + 1),
}
_KINDS = {
    "BTF_FUNC": (Kind.FUNC, Kind.FUNC_PROTO),
    "BTF_DATASEC": (Kind.VAR, Kind.DATASEC),
    "BTF_FLOAT": (Kind.FLOAT,),
    "BTF_DECL_TAG": (Kind.DECL_TAG,),
    "BTF_TYPE_TAG": (Kind.TYPE_TAG,),
    "BTF_ENUM64": (Kind.ENUM64,),
}


def refuse(kernel: FakeKernel, call: Call) -> int:
    """Error number with which a kernel that lacks something answers; 0 if it can do the call."""
    lacks, fields = kernel.lacks, call.fields
    if call.command == "MAP_CREATE":
        if "PROG_NAME" in lacks and any(fields["map_name"]):
            return errno.EINVAL
        return (
            errno.EINVAL if "ARRAY_MMAP" in lacks and fields["map_flags"] & MapFlag.MMAPABLE else 0
        )
    if call.command == "PROG_LOAD":
        return _refuse_prog(kernel, call)
    if call.command == "BTF_LOAD":
        from pybpfload.testing.fakekernel import memory

        return _refuse_btf(lacks, memory(fields["btf"], fields["btf_size"]))
    if call.command == "LINK_CREATE":
        if fields["attach_type"] == 41 and "PERF_LINK" in lacks:
            return errno.EINVAL
        if fields["attach_type"] in (48, 57):
            if "UPROBE_MULTI_LINK" in lacks or fields["pid"] < 0:
                return errno.EINVAL
            return errno.EBADF if call.text == "/" else 0
        return 0
    if call.command == "OBJ_GET_INFO_BY_FD" and "MODULE_BTF" in lacks:
        target = kernel.fds.get(fields["bpf_fd"])
        from pybpfload.testing.fakekernel import memory

        named = any(memory(fields["info"], fields["info_len"])[16:])
        return errno.E2BIG if target and target.kind == "btf" and named else 0
    if call.command == "PROG_BIND_MAP" and "PROG_BIND_MAP" in lacks:
        return errno.EINVAL
    if call.command.endswith("_BATCH") and "BATCH" in lacks:
        return errno.EINVAL
    return 0


def _refuse_prog(kernel: FakeKernel, call: Call) -> int:
    lacks, fields = kernel.lacks, call.fields
    if "PROG_NAME" in lacks and any(fields["prog_name"]):
        return errno.EINVAL
    if "EXP_ATTACH_TYPE" in lacks and fields["expected_attach_type"]:
        return errno.EINVAL
    if "ARG_CTX_TAG" in lacks and fields["prog_name"].startswith(b"det_arg_ctx"):
        return errno.EINVAL
    if "BTF_FUNC" in lacks and fields["func_info_cnt"]:
        return errno.EINVAL
    insns = list(struct.iter_unpack("=BBhi", call.insns))
    for index, (code, registers, _offset, imm) in enumerate(insns):
        source = registers >> 4 if struct.pack("=H", 1)[0] else registers & 15
        if code == 0x85 and source == 0:
            if any(imm in numbers for name, numbers in _HELPERS.items() if name in lacks):
                return errno.EINVAL
            if imm > max(Helper):
                text = f"{index}: (85) call unknown#{imm}\ninvalid func unknown#{imm}\n"
                return _write_log(fields, text, errno.EINVAL)
        if code == 0x18 and source == 2:
            if "GLOBAL_DATA" in lacks:
                return errno.EINVAL
            value = kernel.fds.get(imm)
            beyond = insns[index + 1][3]
            if value is not None and beyond >= value["value_size"]:
                far = beyond >= 1 << 29 and "LDIMM64_FULL_RANGE_OFF" in lacks
                text = "direct value offset of" if far else "invalid access to map value pointer"
                return _write_log(fields, f"{text} {beyond}\n", errno.EINVAL)
    return 0


def _write_log(fields: dict[str, Any], text: str, number: int) -> int:
    from pybpfload.testing.fakekernel import store

    if fields["log_level"]:
        store(fields["log_buf"], text.encode()[: fields["log_size"] - 1] + b"\0")
    return number


def _refuse_btf(lacks: frozenset[str], data: bytes) -> int:
    if "BTF" in lacks:
        return errno.EINVAL
    if "BTF_LAYOUT" in lacks and struct.unpack_from("=I", data, 4)[0] > 24:
        return errno.E2BIG
    try:
        btf = Btf.from_bytes(data)
        for number in btf:
            kind = btf.kind(number)
            if any(kind in kinds for name, kinds in _KINDS.items() if name in lacks):
                return errno.EINVAL
            decoded: Any = btf[number]
            if kind == Kind.FUNC and "BTF_GLOBAL_FUNC" in lacks and decoded.linkage:
                return errno.EINVAL
            mark = kind == Kind.DATASEC and btf.type_name(number).startswith("?")
            if mark and "BTF_QMARK_DATASEC" in lacks:
                return errno.EINVAL
    except FormatError:
        return errno.EINVAL
    return 0
