"""``BPF_OBJ_GET_INFO_BY_FD``: what the kernel tells about maps, programs and BTF.

What a kernel is too old to tell, or does not tell this process, is 0 or empty. Links have a module
of their own, :mod:`pybpfload.kernel.linkinfo`.
"""

from __future__ import annotations

import errno
import struct

from pybpfload.errors import KernelError
from pybpfload.kernel.attrs import address, layout
from pybpfload.kernel.call import Record, invoke
from pybpfload.kernel.errors import kernel_error
from pybpfload.uapi import MapType, ProgType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BtfInfo",
    "MapInfo",
    "ProgInfo",
    "btf_info",
    "map_info",
    "obj_get_info",
    "prog_info",
]


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
    # Of what the kernel hides from this process it takes away the pointer.
    shown = {name: data for name, data in buffers.items() if values[name]}
    return _make_prog_info(values, shown)


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
