"""``BPF_OBJ_GET_INFO_BY_FD``: what the kernel tells about maps, programs, BTF and links.

What a kernel is too old to tell, or does not tell this process, is 0 or empty.
"""

from __future__ import annotations

import errno
import struct

from pybpfload.errors import KernelError
from pybpfload.kernel.attrs import address, layout
from pybpfload.kernel.call import Record, invoke
from pybpfload.kernel.errors import kernel_error
from pybpfload.uapi import AttachType, LinkType, MapType, PerfEventType, ProgType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BtfInfo",
    "LinkInfo",
    "MapInfo",
    "ProgInfo",
    "btf_info",
    "link_info",
    "map_info",
    "obj_get_info",
    "prog_info",
]

_TEXT = 4096  # room for paths and names whose length the kernel does not tell beforehand


_MAP_FIELDS = (
    "type",
    "id",
    "key_size",
    "value_size",
    "max_entries",
    "map_flags",
    "name",
    "ifindex",
    "btf_vmlinux_value_type_id",
    "netns_dev",
    "netns_ino",
    "btf_id",
    "btf_key_type_id",
    "btf_value_type_id",
    "btf_vmlinux_id",
    "map_extra",
)


class MapInfo(Record):
    """What the kernel tells about a map; fields as in ``struct bpf_map_info``, sizes in bytes."""

    __slots__ = _MAP_FIELDS
    type: MapType
    id: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int
    name: str
    ifindex: int
    btf_vmlinux_value_type_id: int
    netns_dev: int
    netns_ino: int
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int
    btf_vmlinux_id: int
    map_extra: int


class BtfInfo(Record):
    """What the kernel tells about a BTF object.

    Attributes:
        id: Its id.
        name: ``"vmlinux"``, the module's name, or empty.
        kernel_btf: Whether it is of the kernel or a module.
        data: The raw BTF; empty if not asked for.
        btf_size: Bytes of the raw BTF.
    """

    __slots__ = ("btf_size", "data", "id", "kernel_btf", "name")
    id: int
    name: str
    kernel_btf: bool
    data: bytes
    btf_size: int


_PROG_SLOTS = (
    "type",
    "id",
    "tag",
    "jited_prog_len",
    "xlated_prog_len",
    "jited_insns",
    "xlated_insns",
    "load_time",
    "created_by_uid",
    "map_ids",
    "name",
    "ifindex",
    "gpl_compatible",
    "netns_dev",
    "netns_ino",
    "jited_ksyms",
    "jited_func_lens",
    "btf_id",
    "func_info_rec_size",
    "func_info",
    "line_info_rec_size",
    "line_info",
    "jited_line_info",
    "prog_tags",
    "run_time_ns",
    "run_cnt",
    "recursion_misses",
    "verified_insns",
    "attach_btf_obj_id",
    "attach_btf_id",
)


class ProgInfo(Record):
    """What the kernel tells about a program; fields as in ``struct bpf_prog_info``.

    Attributes:
        tag: Hash of the instructions, hexadecimal.
        load_time: Nanoseconds since boot.
        jited_insns: Machine code; empty without CAP_SYS_ADMIN or with hardened JIT.
        xlated_insns: Instructions as the verifier has left them; empty without privileges.
        xlated_prog_len: Bytes of them, also if they were not asked for.
        jited_prog_len: Bytes of machine code, also if it was not asked for.
        func_info: Records of ``func_info_rec_size`` bytes each.
        line_info: Records of ``line_info_rec_size`` bytes each.
        prog_tags: Hashes of the program and its subprograms.
        run_time_ns: Time spent in it, while statistics were enabled.
        run_cnt: Number of runs, while statistics were enabled.
        recursion_misses: Runs skipped because the program was running already on that CPU.
        verified_insns: Instructions that the verifier walked.
    """

    __slots__ = _PROG_SLOTS
    type: ProgType
    id: int
    tag: str
    jited_prog_len: int
    xlated_prog_len: int
    jited_insns: bytes
    xlated_insns: bytes
    load_time: int
    created_by_uid: int
    map_ids: list[int]
    name: str
    ifindex: int
    gpl_compatible: bool
    netns_dev: int
    netns_ino: int
    jited_ksyms: list[int]
    jited_func_lens: list[int]
    btf_id: int
    func_info_rec_size: int
    func_info: bytes
    line_info_rec_size: int
    line_info: bytes
    jited_line_info: list[int]
    prog_tags: list[str]
    run_time_ns: int
    run_cnt: int
    recursion_misses: int
    verified_insns: int
    attach_btf_obj_id: int
    attach_btf_id: int


class LinkInfo(Record):
    """What the kernel tells about a link.

    Attributes:
        type: Its kind.
        id: Its id.
        prog_id: Id of its program, 0 for struct_ops.
        details: What else there is for this kind, by the kernel's field names; lists for
            addresses, offsets and cookies, strings for names, enumerations where there are some.
    """

    __slots__ = ("details", "id", "prog_id", "type")
    type: LinkType
    id: int
    prog_id: int
    details: dict[str, Any]


def obj_get_info(fd: int, info: bytearray) -> int:
    """``BPF_OBJ_GET_INFO_BY_FD`` (Linux 4.13), raw.

    Args:
        fd: A map, program, BTF object or link.
        info: Memory of the info structure, with pointers and lengths preset.

    Returns:
        Number of bytes that the kernel has filled in.

    Raises:
        KernelError: The kernel refused.
    """
    attr = layout("OBJ_GET_INFO_BY_FD").build(bpf_fd=fd, info_len=len(info), info=info)
    result = invoke(attr)
    if result < 0:
        raise kernel_error(result, "BPF_OBJ_GET_INFO_BY_FD", f"fd {fd}")
    return attr["info_len"]


def _text(raw: bytes | bytearray) -> str:
    return bytes(raw).partition(b"\0")[0].decode(errors="surrogateescape")


_MAP = struct.Struct("=6I16sIIQQIIIIQ")


def map_info(fd: int) -> MapInfo:
    """Ask about a map (Linux 4.13; names 4.15, BTF 4.18, ``map_extra`` 5.16).

    Raises:
        KernelError: The kernel refused.
    """
    data = bytearray(_MAP.size)
    obj_get_info(fd, data)
    values = _MAP.unpack(data)
    return MapInfo(
        type=MapType(values[0]),
        name=_text(values[6]),
        **{
            name: value
            for name, value in zip(_MAP_FIELDS, values, strict=True)
            if name not in ("type", "name")
        },
    )


def btf_info(fd: int, *, data: bool = True) -> BtfInfo:
    """Ask about a BTF object (4.18; name and ``kernel_btf`` 5.11).

    Args:
        fd: The BTF object.
        data: Whether to fetch the raw BTF.

    Raises:
        KernelError: The kernel refused.
    """
    form = struct.Struct("=QIIQII")
    keep: list[object] = []
    name = bytearray(64)
    blob = bytearray()
    while True:
        given = form.pack(address(blob, keep), len(blob), 0, address(name, keep), len(name), 0)
        raw = bytearray(given)
        try:
            obj_get_info(fd, raw)
        except KernelError as error:
            if error.errno != errno.E2BIG or not name:
                raise
            name = bytearray()  # before 5.11
            continue
        _, size, number, _, _, kernel = form.unpack(raw)
        if not data or size <= len(blob):
            break
        blob = bytearray(size)
    return BtfInfo(
        id=number,
        name=_text(name),
        kernel_btf=bool(kernel),
        data=bytes(blob[:size]) if data else b"",
        btf_size=size,
    )


# Fields of bpf_prog_info in order; pointers and counts are dealt with by _ARRAYS.
_PROG = struct.Struct("=II8sIIQQQIIQ16sIIQQIIQQIIQIIQQIIIIQQQQIII")
_PROG_FIELDS: tuple[str, ...] = tuple(
    """
    type id tag jited_prog_len xlated_prog_len jited_prog_insns xlated_prog_insns load_time
    created_by_uid nr_map_ids map_ids name ifindex gpl_compatible netns_dev netns_ino
    nr_jited_ksyms nr_jited_func_lens jited_ksyms jited_func_lens btf_id func_info_rec_size
    func_info nr_func_info nr_line_info line_info jited_line_info nr_jited_line_info
    line_info_rec_size jited_line_info_rec_size nr_prog_tags prog_tags run_time_ns run_cnt
    recursion_misses verified_insns attach_btf_obj_id attach_btf_id
""".split()  # noqa: SIM905
)

# pointer field: (count field, bytes of an element or the field that tells)
_ARRAYS: dict[str, tuple[str, int | str]] = {
    "jited_prog_insns": ("jited_prog_len", 1),
    "xlated_prog_insns": ("xlated_prog_len", 1),
    "map_ids": ("nr_map_ids", 4),
    "jited_ksyms": ("nr_jited_ksyms", 8),
    "jited_func_lens": ("nr_jited_func_lens", 4),
    "func_info": ("nr_func_info", "func_info_rec_size"),
    "line_info": ("nr_line_info", "line_info_rec_size"),
    "jited_line_info": ("nr_jited_line_info", "jited_line_info_rec_size"),
    "prog_tags": ("nr_prog_tags", 8),
}


def prog_info(fd: int, *, arrays: bool = True, code: bool = True) -> ProgInfo:
    """Ask about a program (4.13, with fields added up to 6.2).

    Args:
        fd: The program.
        arrays: Whether to fetch map ids, symbols, function and line records and tags.
        code: Whether to fetch the instructions and the machine code too.

    Raises:
        KernelError: The kernel refused.
    """
    wanted = set(_ARRAYS) if arrays else set()
    if not (arrays and code):
        wanted -= {"jited_prog_insns", "xlated_prog_insns"}
    raw = bytearray(_PROG.size)
    obj_get_info(fd, raw)
    values = dict(zip(_PROG_FIELDS, _PROG.unpack(raw), strict=True))
    buffers: dict[str, bytearray] = {}
    while True:
        keep: list[object] = []
        ask: dict[str, Any] = dict.fromkeys(_PROG_FIELDS, 0)
        ask["tag"] = ask["name"] = b""
        # Record sizes have to be given back even without records.
        for name in ("func_info_rec_size", "line_info_rec_size", "jited_line_info_rec_size"):
            ask[name] = values[name]
        asked = {}
        for name in wanted:
            counter, element = _ARRAYS[name]
            size = values[element] if isinstance(element, str) else element
            buffers[name] = bytearray(values[counter] * size)
            ask[name] = address(buffers[name], keep)
            ask[counter] = asked[counter] = values[counter]
        if not any(asked.values()):
            break
        raw = bytearray(_PROG.pack(*ask.values()))
        obj_get_info(fd, raw)
        values = dict(zip(_PROG_FIELDS, _PROG.unpack(raw), strict=True))
        if all(values[counter] <= count for counter, count in asked.items()):
            break  # otherwise the program was still being compiled at the first call
    return _make_prog_info(values, buffers)


def _make_prog_info(values: dict[str, Any], buffers: dict[str, bytearray]) -> ProgInfo:
    from array import array

    def numbers(name: str, code: str) -> list[int]:
        return array(code, bytes(buffers.get(name, b""))).tolist()

    plain = {name: values[name] for name in _PROG_SLOTS if name in values}
    tags = bytes(buffers.get("prog_tags", b""))
    plain.update(
        type=ProgType(values["type"]),
        tag=values["tag"].hex(),
        name=_text(values["name"]),
        gpl_compatible=bool(values["gpl_compatible"]),  # a bit field: which bit depends
        jited_insns=bytes(buffers.get("jited_prog_insns", b"")),
        xlated_insns=bytes(buffers.get("xlated_prog_insns", b"")),
        map_ids=numbers("map_ids", "I"),
        jited_ksyms=numbers("jited_ksyms", "Q"),
        jited_func_lens=numbers("jited_func_lens", "I"),
        func_info=bytes(buffers.get("func_info", b"")),
        line_info=bytes(buffers.get("line_info", b"")),
        jited_line_info=numbers("jited_line_info", "Q"),
        prog_tags=[tags[i : i + 8].hex() for i in range(0, len(tags), 8)],
    )
    return ProgInfo(**plain)


# Fields behind the common 16 bytes, by kind of link: "name code offset". `text` is a pointer whose
# length field follows it by name, `u64s` and `u32s` pointers to `count` numbers.
_LINKS = {
    LinkType.RAW_TRACEPOINT: "tp_name text/24 16, cookie Q 32",
    LinkType.TRACING: "attach_type A 16, target_obj_id I 20, target_btf_id I 24, cookie Q 32",
    LinkType.CGROUP: "cgroup_id Q 16, attach_type A 24",
    LinkType.ITER: "target_name text/24 16",
    LinkType.NETNS: "netns_ino I 16, attach_type A 20",
    LinkType.XDP: "ifindex I 16",
    LinkType.PERF_EVENT: "perf_type P 16",
    LinkType.KPROBE_MULTI: "addrs u64s 16, count I 24, flags I 28, missed Q 32, cookies u64s 40",
    LinkType.STRUCT_OPS: "map_id I 16",
    LinkType.NETFILTER: "pf I 16, hooknum I 20, priority i 24, flags I 28",
    LinkType.TCX: "ifindex I 16, attach_type A 20",
    LinkType.UPROBE_MULTI: "path text/48 16, offsets u64s 24, ref_ctr_offsets u64s 32, "
    "cookies u64s 40, count I 52, flags I 56, pid I 60",
    LinkType.NETKIT: "ifindex I 16, attach_type A 20",
    LinkType.SOCKMAP: "map_id I 16, attach_type A 20",
    LinkType.TRACING_MULTI: "attach_type A 16, count I 20, btf_obj_id I 24, ids u32s 32, "
    "addrs u64s 40, cookies u64s 48",
}
_UPROBE = "file_name text/32 24, offset I 36, cookie Q 40, ref_ctr_offset Q 48"
_KPROBE = "func_name text/32 24, offset I 36, addr Q 40, missed Q 48, cookie Q 56"
_PERF = {
    PerfEventType.UPROBE: _UPROBE,
    PerfEventType.URETPROBE: _UPROBE,
    PerfEventType.KPROBE: _KPROBE,
    PerfEventType.KRETPROBE: _KPROBE,
    PerfEventType.TRACEPOINT: "tp_name text/32 24, cookie Q 40",
    PerfEventType.EVENT: "config Q 24, event_type I 32, cookie Q 40",
}
# Iterators tell their parameters by their target's name.
_ITER = {
    "bpf_map_elem": "map_id I 28",
    "bpf_sk_storage_map": "map_id I 28",
    "sockmap": "map_id I 28",
    "cgroup": "cgroup_id Q 32, order I 40",
    "task": "tid I 32, pid I 36",
    "task_file": "tid I 32, pid I 36",
    "task_vma": "tid I 32, pid I 36",
}


def _rows(text: str) -> list[tuple[str, str, int]]:
    items = (item.split() for item in text.split(",") if item.strip())
    return [(name, code, int(offset)) for name, code, offset in items]


def link_info(fd: int) -> LinkInfo:
    """Ask about a link (Linux 5.8; kinds and fields as the kernel has them).

    Raises:
        KernelError: The kernel refused.
    """
    size = 64
    raw = bytearray(size)
    obj_get_info(fd, raw)
    kind, number, prog_id = struct.unpack_from("=III", raw)
    link_type = LinkType(kind)
    rows = _rows(_LINKS.get(link_type, ""))
    if link_type is LinkType.PERF_EVENT:
        rows += _rows(_PERF.get(PerfEventType(struct.unpack_from("=I", raw, 16)[0]), ""))
    counts = {name: struct.unpack_from("=I", raw, at)[0] for name, code, at in rows if code == "I"}
    buffers: dict[str, bytearray] = {}
    keep: list[object] = []
    ask = bytearray(size)
    for name, code, offset in rows:
        if code.startswith("text/"):
            room = buffers[name] = bytearray(_TEXT)
            struct.pack_into("=I", ask, int(code[5:]), _TEXT)
        elif code in ("u64s", "u32s") and counts.get("count"):
            room = buffers[name] = bytearray(counts["count"] * (8 if code == "u64s" else 4))
            at = next(at for field, _, at in rows if field == "count")
            struct.pack_into("=I", ask, at, counts["count"])
        else:
            continue
        struct.pack_into("=Q", ask, offset, address(room, keep))
    if buffers:
        raw = ask
        obj_get_info(fd, raw)
    details: dict[str, Any] = {}
    if link_type is LinkType.ITER:
        rows += _rows(_ITER.get(_text(buffers["target_name"]), ""))
    for name, code, offset in rows:
        details[name] = _detail(name, code, offset, raw, buffers)
    return LinkInfo(type=link_type, id=number, prog_id=prog_id, details=details)


def _detail(
    name: str, code: str, offset: int, raw: bytearray, buffers: dict[str, bytearray]
) -> Any:
    if code.startswith("text/"):
        return _text(buffers[name])
    if code in ("u64s", "u32s"):
        from array import array

        return array("Q" if code == "u64s" else "I", bytes(buffers.get(name, b""))).tolist()
    value = struct.unpack_from("=" + {"A": "I", "P": "I"}.get(code, code), raw, offset)[0]
    if code == "A":
        return AttachType(value)
    return PerfEventType(value) if code == "P" else value
