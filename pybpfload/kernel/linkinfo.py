"""What the kernel tells about a link (``struct bpf_link_info``): a class for each arm of its union.

A class states its fields with their places in the structure; :func:`link_info` finds the class and
reads them. What a kernel is too old to tell, or does not tell this process, is 0 or empty.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.kernel import door
from pybpfload.kernel.attrs import address
from pybpfload.kernel.call import Record
from pybpfload.kernel.cmd_info import obj_get_info
from pybpfload.uapi import (
    AttachType,
    CgroupIterOrder,
    KernelEnum,
    KprobeMultiFlag,
    LinkType,
    NetfilterFlag,
    PerfEventType,
    PerfType,
    UprobeMultiFlag,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "CgroupIterLinkInfo",
    "CgroupLinkInfo",
    "EventLinkInfo",
    "IterLinkInfo",
    "KprobeLinkInfo",
    "KprobeMultiLinkInfo",
    "LinkInfo",
    "MapIterLinkInfo",
    "NetfilterFamily",
    "NetfilterHook",
    "NetfilterLinkInfo",
    "NetkitLinkInfo",
    "NetnsLinkInfo",
    "PerfEventLinkInfo",
    "RawTracepointLinkInfo",
    "SockmapLinkInfo",
    "StructOpsLinkInfo",
    "TaskIterLinkInfo",
    "TcxLinkInfo",
    "TracepointLinkInfo",
    "TracingLinkInfo",
    "UprobeLinkInfo",
    "UprobeMultiLinkInfo",
    "XdpLinkInfo",
    "link_info",
]

_SIZE = 64  # bytes of the structure in Linux 7.2
_TEXT = 4096  # room for paths and names whose length the kernel does not tell beforehand
_UNTOLD = b"not told"  # what stands in a list of u64 that the kernel has not written


class NetfilterFamily(KernelEnum):
    """Protocol families that have netfilter hooks for programs (``NFPROTO_*``)."""

    IPV4 = 2
    IPV6 = 10


class NetfilterHook(KernelEnum):
    """Netfilter hooks, by nft(8)'s names (``NF_INET_*``)."""

    PREROUTING = 0
    INPUT = 1
    FORWARD = 2
    OUTPUT = 3
    POSTROUTING = 4


class _Field(NamedTuple):
    """Where a value is, and what it is.

    Attributes:
        offset: In the structure, bytes; of a text or list, its pointer's.
        code: Of the module ``struct``; ``"text"``, ``"list"``.
        make: Makes the value of what was read.
        size_at: Where the length of the text, or the count of the list, is.
    """

    offset: int
    code: str = "I"
    make: Callable[[Any], Any] = int
    size_at: int = 0

    @property
    def end(self) -> int:
        """Bytes of the structure that a kernel must have to tell it."""
        pointed = self.code in ("text", "list")
        own = 8 if pointed else struct.calcsize(self.code)
        return max(self.offset + own, self.size_at + 4 if pointed else 0)


# These give `Any`, so that the annotations of the classes say what the values are.
def _u32(offset: int, make: Callable[[Any], Any] = int) -> Any:
    return _Field(offset, "I", make)


def _s32(offset: int) -> Any:
    return _Field(offset, "i")


def _u64(offset: int) -> Any:
    return _Field(offset, "Q")


def _text(offset: int, size_at: int) -> Any:
    return _Field(offset, "text", size_at=size_at)


def _u64s(offset: int, count_at: int) -> Any:
    return _Field(offset, "list", size_at=count_at)


def _interface(offset: int) -> Any:
    return _Field(offset, "I", lambda index: door.interface_name(index) or "")


class LinkInfo(Record):
    """A link of a kind of which the kernel tells no more, or none that is known here.

    The values cannot be changed. :attr:`details` has those of one kind by name, :attr:`place` says
    in words what it is attached to.

    Attributes:
        type: Its kind.
        id: Its id.
        prog_id: Id of its program; 0 for struct_ops and where the link lost it.
    """

    _place = ""

    type: LinkType = _u32(0, LinkType)
    id: int = _u32(4)
    prog_id: int = _u32(8)

    def __init__(self, **fields: Any) -> None:
        if set(fields) != set(self.field_names()):
            raise TypeError(f"{type(self).__name__} is made of {', '.join(self.field_names())}")
        self.__dict__.update(fields)

    @classmethod
    def _fields(cls) -> dict[str, _Field]:
        return {
            name: value
            for each in reversed(cls.__mro__)
            for name, value in vars(each).items()
            if isinstance(value, _Field)
        }

    @classmethod
    def field_names(cls) -> list[str]:
        """Names of the fields, those that all links have first."""
        return list(cls._fields())

    @property
    def details(self) -> dict[str, Any]:
        """What there is for this kind beyond what all links have, by name."""
        common = LinkInfo.field_names()
        return {name: value for name, value in self.as_dict().items() if name not in common}

    @property
    def place(self) -> str:
        """What it is attached to, for people; ``""`` where the kernel does not tell."""
        return self._place.format(**self.as_dict()).rstrip()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} tells what the kernel said: it is not changed")

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((type(self), *self.as_dict().values()))


class RawTracepointLinkInfo(LinkInfo):
    """A program on a raw tracepoint: raw_tp, tp_btf.

    Attributes:
        tp_name: Name of the tracepoint.
        cookie: What the program gets as its cookie (told since Linux 6.17).
    """

    _place = "{tp_name}"

    tp_name: str = _text(16, 24)
    cookie: int = _u64(32)


class TracingLinkInfo(LinkInfo):
    """fentry, fexit, fmod_ret, fsession, freplace, LSM.

    Attributes:
        attach_type: Which of them; 0 for freplace.
        target_obj_id: Id of the BTF object of the target; of the program for freplace (5.13).
        target_btf_id: Type id of the function in that BTF.
        cookie: What the program gets as its cookie (told since Linux 6.17).
    """

    _place = "type {target_btf_id} of BTF {target_obj_id}"

    attach_type: AttachType = _u32(16, AttachType)
    target_obj_id: int = _u32(20)
    target_btf_id: int = _u32(24)
    cookie: int = _u64(32)


class CgroupLinkInfo(LinkInfo):
    """A program of a control group.

    Attributes:
        cgroup_id: Of the group: the inode number of its directory; 0 once the group is gone.
        attach_type: What it is called for.
    """

    _place = "control group {cgroup_id}"

    cgroup_id: int = _u64(16)
    attach_type: AttachType = _u32(24, AttachType)


class IterLinkInfo(LinkInfo):
    """An iterator without parameters.

    Attributes:
        target_name: What it goes over: ``"task"``, ``"bpf_map"``, ...
    """

    _place = "{target_name}"

    target_name: str = _text(16, 24)


class MapIterLinkInfo(IterLinkInfo):
    """An iterator over the elements of a map.

    Attributes:
        map_id: Id of the map.
    """

    _place = "{target_name} of map {map_id}"

    map_id: int = _u32(28)


class CgroupIterLinkInfo(IterLinkInfo):
    """An iterator over control groups (Linux 6.1).

    Attributes:
        cgroup_id: Of the group where it begins; the root for 0.
        order: How it goes on from there.
    """

    cgroup_id: int = _u64(32)
    order: CgroupIterOrder = _u32(40, CgroupIterOrder)


class TaskIterLinkInfo(IterLinkInfo):
    """An iterator over tasks, their files or their memory.

    Attributes:
        tid: The one thread that it looks at; 0 for all (6.1).
        pid: The one process that it looks at; 0 for all.
    """

    tid: int = _u32(32)
    pid: int = _u32(36)


class NetnsLinkInfo(LinkInfo):
    """sk_lookup or flow dissector.

    Attributes:
        netns_ino: Inode number of the network namespace; 0 once it is gone.
        attach_type: Which of both.
    """

    _place = "network namespace {netns_ino}"

    netns_ino: int = _u32(16)
    attach_type: AttachType = _u32(20, AttachType)


class XdpLinkInfo(LinkInfo):
    """XDP.

    Attributes:
        ifindex: Index of the network device; 0 once it is gone or the link detached.
        interface: Name that a device of this index has in this thread's network namespace, which
            need not be the link's; ``""`` if there is none.
    """

    _place = "device {ifindex} {interface}"

    ifindex: int = _u32(16)
    interface: str = _interface(16)


class PerfEventLinkInfo(LinkInfo):
    """A program on a perf event of which the kernel tells no more (before Linux 6.6).

    Attributes:
        perf_type: What kind of event it is.
    """

    perf_type: PerfEventType = _u32(16, PerfEventType)


class UprobeLinkInfo(PerfEventLinkInfo):
    """A probe in an executable or library, or on the return from a function there.

    Attributes:
        file_name: Path of the file.
        offset: Of the instruction in the file, bytes.
        cookie: What the program gets as its cookie (told since Linux 6.9).
        ref_ctr_offset: Of its reference counter in the file; 0 for none (told since Linux 6.16).
    """

    _place = "{file_name}+{offset:#x}"

    file_name: str = _text(24, 32)
    offset: int = _u32(36)
    cookie: int = _u64(40)
    ref_ctr_offset: int = _u64(48)


class KprobeLinkInfo(PerfEventLinkInfo):
    """A probe on a kernel function, or on its return.

    Attributes:
        func_name: The function.
        offset: Of the instruction in it, bytes.
        addr: Address of the instruction; 0 if kernel addresses are hidden from this process.
        missed: Hits at which the program was not run, because another probe was running (6.7).
        cookie: What the program gets as its cookie (told since Linux 6.9).
    """

    _place = "{func_name}+{offset:#x}"

    func_name: str = _text(24, 32)
    offset: int = _u32(36)
    addr: int = _u64(40)
    missed: int = _u64(48)
    cookie: int = _u64(56)


class TracepointLinkInfo(PerfEventLinkInfo):
    """A program on a tracepoint.

    Attributes:
        tp_name: Name of the tracepoint, without its category.
        cookie: What the program gets as its cookie (told since Linux 6.9).
    """

    _place = "{tp_name}"

    tp_name: str = _text(24, 32)
    cookie: int = _u64(40)


class EventLinkInfo(PerfEventLinkInfo):
    """A program on another event: a clock, a counter.

    Attributes:
        config: Which event of its type.
        event_type: Type of the event; the number of its unit in ``/sys/bus/event_source/devices``
            for those that have one. New kernels give ``cpu-clock`` and ``task-clock`` numbers of
            their own, which have no name (``UNKNOWN_6``, ``UNKNOWN_7`` on Linux 6.18).
        cookie: What the program gets as its cookie (told since Linux 6.9).
    """

    _place = "event {config} of type {event_type}"

    config: int = _u64(24)
    event_type: PerfType = _u32(32, PerfType)
    cookie: int = _u64(40)


class KprobeMultiLinkInfo(LinkInfo):
    """Probes on many kernel functions.

    Attributes:
        count: Number of functions (told since Linux 6.6).
        flags: Whether on their return.
        missed: Hits at which the program was not run (6.7).
        addrs: Their addresses; 0 for each if kernel addresses are hidden from this process.
        cookies: What the program gets for each address; empty before Linux 6.9.
    """

    _place = "{count} functions"

    count: int = _u32(24)
    flags: KprobeMultiFlag = _u32(28, KprobeMultiFlag)
    missed: int = _u64(32)
    addrs: tuple[int, ...] = _u64s(16, 24)
    cookies: tuple[int, ...] = _u64s(40, 24)


class StructOpsLinkInfo(LinkInfo):
    """A registered table of functions.

    Attributes:
        map_id: Id of the map that has the table.
    """

    _place = "map {map_id}"

    map_id: int = _u32(16)


class NetfilterLinkInfo(LinkInfo):
    """A program on a netfilter hook.

    Attributes:
        pf: Protocol family.
        hooknum: The hook.
        priority: Programs of a hook run by ascending priority.
        flags: Whether fragments are put together before.
    """

    _place = "{pf.name} {hooknum.name}"

    pf: NetfilterFamily = _u32(16, NetfilterFamily)
    hooknum: NetfilterHook = _u32(20, NetfilterHook)
    priority: int = _s32(24)
    flags: NetfilterFlag = _u32(28, NetfilterFlag)


class UprobeMultiLinkInfo(LinkInfo):
    """Probes on many places of an executable or library (told since Linux 6.8).

    Attributes:
        path: The file.
        count: Number of places.
        flags: Whether on return.
        pid: The process that is watched; 0 for all.
        offsets: Of the places in the file, bytes.
        ref_ctr_offsets: Of their reference counters in the file; 0 for none.
        cookies: What the program gets for each place.
    """

    _place = "{count} places of {path}"

    path: str = _text(16, 48)
    count: int = _u32(52)
    flags: UprobeMultiFlag = _u32(56, UprobeMultiFlag)
    pid: int = _u32(60)
    offsets: tuple[int, ...] = _u64s(24, 52)
    ref_ctr_offsets: tuple[int, ...] = _u64s(32, 52)
    cookies: tuple[int, ...] = _u64s(40, 52)


class TcxLinkInfo(LinkInfo):
    """A tc program by tcx.

    Attributes:
        ifindex: As for :class:`XdpLinkInfo`.
        interface: As for :class:`XdpLinkInfo`.
        attach_type: Which direction.
    """

    _place = "device {ifindex} {interface}"

    ifindex: int = _u32(16)
    interface: str = _interface(16)
    attach_type: AttachType = _u32(20, AttachType)


class NetkitLinkInfo(TcxLinkInfo):
    """A program of a netkit device; fields as for tcx."""


class SockmapLinkInfo(LinkInfo):
    """A program of a map of sockets.

    Attributes:
        map_id: Id of the map.
        attach_type: Which of its programs.
    """

    _place = "map {map_id}"

    map_id: int = _u32(16)
    attach_type: AttachType = _u32(20, AttachType)


_ARMS: dict[LinkType, type[LinkInfo]] = {
    LinkType.RAW_TRACEPOINT: RawTracepointLinkInfo,
    LinkType.TRACING: TracingLinkInfo,
    LinkType.CGROUP: CgroupLinkInfo,
    LinkType.ITER: IterLinkInfo,
    LinkType.NETNS: NetnsLinkInfo,
    LinkType.XDP: XdpLinkInfo,
    LinkType.PERF_EVENT: PerfEventLinkInfo,
    LinkType.KPROBE_MULTI: KprobeMultiLinkInfo,
    LinkType.STRUCT_OPS: StructOpsLinkInfo,
    LinkType.NETFILTER: NetfilterLinkInfo,
    LinkType.TCX: TcxLinkInfo,
    LinkType.UPROBE_MULTI: UprobeMultiLinkInfo,
    LinkType.NETKIT: NetkitLinkInfo,
    LinkType.SOCKMAP: SockmapLinkInfo,
}
_EVENTS: dict[PerfEventType, type[LinkInfo]] = {
    PerfEventType.UPROBE: UprobeLinkInfo,
    PerfEventType.URETPROBE: UprobeLinkInfo,
    PerfEventType.KPROBE: KprobeLinkInfo,
    PerfEventType.KRETPROBE: KprobeLinkInfo,
    PerfEventType.TRACEPOINT: TracepointLinkInfo,
    PerfEventType.EVENT: EventLinkInfo,
}
_ITERATORS: dict[str, type[LinkInfo]] = {
    **dict.fromkeys(("bpf_map_elem", "bpf_sk_storage_map", "sockmap"), MapIterLinkInfo),
    **dict.fromkeys(("task", "task_file", "task_vma"), TaskIterLinkInfo),
    "cgroup": CgroupIterLinkInfo,
}


def link_info(fd: int, *, details: bool = True) -> LinkInfo:
    """Ask about a link (Linux 5.8; kinds and fields as the kernel has them).

    Args:
        fd: The link.
        details: Whether to tell what there is for its kind, which can be long lists.

    Returns:
        The record of its kind; a :class:`LinkInfo` where there is none, and without details.

    Raises:
        KernelError: The kernel refused; EINVAL: it is no link.
    """
    raw = bytearray(_SIZE)
    known = obj_get_info(fd, raw)  # what lies beyond is not in this kernel's structure
    kind = _ARMS.get(LinkType(_number(raw, 0)), LinkInfo) if details else LinkInfo
    if kind is PerfEventLinkInfo:
        kind = _EVENTS.get(PerfEventType(_number(raw, 16)), kind)
    raw, pointed = _fetched(fd, raw, kind, known)
    if kind is IterLinkInfo:
        kind = _ITERATORS.get(_string(pointed.get("target_name", b"")), kind)
    values: dict[str, Any] = {}
    for name, field in kind._fields().items():
        if field.code == "text":
            values[name] = _string(pointed.get(name, b""))
        elif field.code == "list":
            values[name] = _numbers(pointed.get(name, b""))
        else:
            values[name] = field.make(struct.unpack_from("=" + field.code, raw, field.offset)[0])
    return kind(**values)


def _fetched(
    fd: int, raw: bytearray, kind: type[LinkInfo], known: int
) -> tuple[bytearray, dict[str, bytearray]]:
    """Ask again with room for texts and lists, if there are any.

    Args:
        fd: The link.
        raw: The first answer, which has the counts of the lists.
        kind: What it is.
        known: Size of the kernel's structure.

    Returns:
        The structure, and what it points to by the fields' names.
    """
    room: dict[str, bytearray] = {}
    keep: list[object] = []
    ask = bytearray(_SIZE)
    for name, field in kind._fields().items():
        if field.end > known or field.code not in ("text", "list"):
            continue
        if field.code == "text":
            size = _TEXT
            room[name] = bytearray(size)
        else:
            size = _number(raw, field.size_at)
            room[name] = bytearray(_UNTOLD * size)
        if size:
            struct.pack_into("=I", ask, field.size_at, size)
            struct.pack_into("=Q", ask, field.offset, address(room[name], keep))
    if keep:
        raw = ask
        obj_get_info(fd, raw)
    return raw, room


def _number(raw: bytearray, offset: int) -> int:
    number: int = struct.unpack_from("=I", raw, offset)[0]
    return number


def _string(raw: bytes | bytearray) -> str:
    return bytes(raw).partition(b"\0")[0].decode(errors="surrogateescape")


def _numbers(raw: bytes | bytearray) -> tuple[int, ...]:
    data = bytes(raw)
    return () if data.startswith(_UNTOLD) else struct.unpack(f"={len(data) // 8}Q", data)
