"""The layouts of ``union bpf_attr``, one per command, as a table.

Attribute memory is always as long as the newest layout known here, because the kernel writes some
results wherever they belong whatever size it was told. The size it is told is the smallest one that
covers the last field that is not zero: older kernels then accept attributes that use nothing new.
A size is never below that of the command's first kernel version.

Source: ``linux/bpf.h``; a test compares every offset with the header and with the reference.
"""

from __future__ import annotations

import struct
from bisect import bisect_left

from pybpfload.uapi import Cmd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Attr", "Layout", "address", "layout", "names"]

# Command: its first size, then the fields as "name type offset", with the kernel that brought the
# field if it is younger than the command. A name with a slash has a kind behind it: several
# commands share one union. Types: u32, s32, u64, fd (u32 that may be given as -1), ptr (u64
# address; a buffer is accepted), c16 (char[16]).
_TABLE = """
MAP_CREATE 16: map_type u32 0, key_size u32 4, value_size u32 8, max_entries u32 12,
    map_flags u32 16 4.6, inner_map_fd fd 20 4.12, numa_node u32 24 4.14, map_name c16 28 4.15,
    map_ifindex u32 44 4.16, btf_fd fd 48 4.18, btf_key_type_id u32 52 4.18,
    btf_value_type_id u32 56 4.18, btf_vmlinux_value_type_id u32 60 5.6, map_extra u64 64 5.16,
    value_type_btf_obj_fd fd 72 6.9, map_token_fd fd 76 6.9, excl_prog_hash ptr 80 6.18,
    excl_prog_hash_size u32 88 6.18;
MAP_LOOKUP_ELEM 24: map_fd fd 0, key ptr 8, value ptr 16, flags u64 24;
MAP_UPDATE_ELEM 32: map_fd fd 0, key ptr 8, value ptr 16, flags u64 24;
MAP_DELETE_ELEM 16: map_fd fd 0, key ptr 8, value ptr 16, flags u64 24;
MAP_LOOKUP_AND_DELETE_ELEM 24: map_fd fd 0, key ptr 8, value ptr 16, flags u64 24;
MAP_GET_NEXT_KEY 24: map_fd fd 0, key ptr 8, next_key ptr 16;
MAP_FREEZE 4: map_fd fd 0;
MAP_LOOKUP_BATCH 56: in_batch ptr 0, out_batch ptr 8, keys ptr 16, values ptr 24, count u32 32,
    map_fd fd 36, elem_flags u64 40, flags u64 48;
MAP_LOOKUP_AND_DELETE_BATCH 56: in_batch ptr 0, out_batch ptr 8, keys ptr 16, values ptr 24,
    count u32 32, map_fd fd 36, elem_flags u64 40, flags u64 48;
MAP_UPDATE_BATCH 56: in_batch ptr 0, out_batch ptr 8, keys ptr 16, values ptr 24, count u32 32,
    map_fd fd 36, elem_flags u64 40, flags u64 48;
MAP_DELETE_BATCH 56: in_batch ptr 0, out_batch ptr 8, keys ptr 16, values ptr 24, count u32 32,
    map_fd fd 36, elem_flags u64 40, flags u64 48;
PROG_LOAD 48: prog_type u32 0, insn_cnt u32 4, insns ptr 8, license ptr 16, log_level u32 24,
    log_size u32 28, log_buf ptr 32, kern_version u32 40 4.1, prog_flags u32 44 4.12,
    prog_name c16 48 4.15, prog_ifindex u32 64 4.15, expected_attach_type u32 68 4.17,
    prog_btf_fd fd 72 5.0, func_info_rec_size u32 76 5.0, func_info ptr 80 5.0,
    func_info_cnt u32 88 5.0, line_info_rec_size u32 92 5.0, line_info ptr 96 5.0,
    line_info_cnt u32 104 5.0, attach_btf_id u32 108 5.5, attach_prog_fd fd 112 5.5,
    core_relo_cnt u32 116 5.17, fd_array ptr 120 5.14, core_relos ptr 128 5.17,
    core_relo_rec_size u32 136 5.17, log_true_size u32 140 6.4, prog_token_fd fd 144 6.9,
    fd_array_cnt u32 148 6.14, signature ptr 152 6.18, signature_size u32 160 6.18,
    keyring_id s32 164 6.18;
OBJ_PIN 12: pathname ptr 0, bpf_fd fd 8, file_flags u32 12 4.15, path_fd fd 16 6.5;
OBJ_GET 12: pathname ptr 0, bpf_fd fd 8, file_flags u32 12 4.15, path_fd fd 16 6.5;
PROG_ATTACH 16: target_fd fd 0, attach_bpf_fd fd 4, attach_type u32 8, attach_flags u32 12 4.11,
    replace_bpf_fd fd 16 5.6, relative_fd fd 20 6.6, expected_revision u64 24 6.6;
PROG_DETACH 16: target_fd fd 0, attach_bpf_fd fd 4, attach_type u32 8, attach_flags u32 12 4.11,
    replace_bpf_fd fd 16 5.6, relative_fd fd 20 6.6, expected_revision u64 24 6.6;
PROG_TEST_RUN 40: prog_fd fd 0, retval u32 4, data_size_in u32 8, data_size_out u32 12,
    data_in ptr 16, data_out ptr 24, repeat u32 32, duration u32 36, ctx_size_in u32 40 5.2,
    ctx_size_out u32 44 5.2, ctx_in ptr 48 5.2, ctx_out ptr 56 5.2, flags u32 64 5.10,
    cpu u32 68 5.10, batch_size u32 72 5.18;
PROG_GET_NEXT_ID 8: start_id u32 0, next_id u32 4, open_flags u32 8 4.15;
MAP_GET_NEXT_ID 8: start_id u32 0, next_id u32 4, open_flags u32 8 4.15;
BTF_GET_NEXT_ID 8: start_id u32 0, next_id u32 4, open_flags u32 8;
LINK_GET_NEXT_ID 8: start_id u32 0, next_id u32 4, open_flags u32 8;
PROG_GET_FD_BY_ID 4: id u32 0, next_id u32 4, open_flags u32 8 4.15;
MAP_GET_FD_BY_ID 4: id u32 0, next_id u32 4, open_flags u32 8 4.15;
BTF_GET_FD_BY_ID 4: id u32 0, next_id u32 4, open_flags u32 8, token_fd fd 12 6.16;
LINK_GET_FD_BY_ID 4: id u32 0, next_id u32 4, open_flags u32 8;
OBJ_GET_INFO_BY_FD 16: bpf_fd fd 0, info_len u32 4, info ptr 8;
PROG_QUERY 28: target_fd fd 0, attach_type u32 4, query_flags u32 8, attach_flags u32 12,
    prog_ids ptr 16, count u32 24, prog_attach_flags ptr 32 6.1, link_ids ptr 40 6.6,
    link_attach_flags ptr 48 6.6, revision u64 56 6.6;
RAW_TRACEPOINT_OPEN 12: name ptr 0, prog_fd fd 8, cookie u64 16 6.10;
BTF_LOAD 28: btf ptr 0, log_buf ptr 8, btf_size u32 16, log_size u32 20, log_level u32 24,
    log_true_size u32 28 6.4, btf_flags u32 32 6.9, btf_token_fd fd 36 6.9;
TASK_FD_QUERY 48: pid u32 0, fd fd 4, flags u32 8, buf_len u32 12, buf ptr 16, prog_id u32 24,
    fd_type u32 28, probe_offset u64 32, probe_addr u64 40;
LINK_CREATE 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12;
LINK_CREATE/target_btf 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    target_btf_id u32 16 5.10;
LINK_CREATE/iter 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    iter_info ptr 16 5.9, iter_info_len u32 24 5.9;
LINK_CREATE/perf_event 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    bpf_cookie u64 16 5.15;
LINK_CREATE/kprobe_multi 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    kprobe_flags u32 16, cnt u32 20, syms ptr 24, addrs ptr 32, cookies ptr 40;
LINK_CREATE/uprobe_multi 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    path ptr 16, offsets ptr 24, ref_ctr_offsets ptr 32, cookies ptr 40, cnt u32 48,
    uprobe_flags u32 52, pid s32 56, path_fd fd 60 7.2;
LINK_CREATE/tracing 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    target_btf_id u32 16 5.10, cookie u64 24 5.19;
LINK_CREATE/tracing_multi 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    ids ptr 16, cookies ptr 24, cnt u32 32;
LINK_CREATE/netfilter 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12, pf u32 16,
    hooknum u32 20, priority s32 24, netfilter_flags u32 28;
LINK_CREATE/mprog 16: prog_fd fd 0, target_fd fd 4, attach_type u32 8, flags u32 12,
    relative_fd fd 16 6.6, expected_revision u64 24 6.6;
LINK_UPDATE 16: link_fd fd 0, new_prog_fd fd 4, flags u32 8, old_prog_fd fd 12;
ENABLE_STATS 4: type u32 0;
ITER_CREATE 8: link_fd fd 0, flags u32 4;
LINK_DETACH 4: link_fd fd 0;
PROG_BIND_MAP 12: prog_fd fd 0, map_fd fd 4, flags u32 8;
TOKEN_CREATE 8: flags u32 0, bpffs_fd fd 4;
PROG_STREAM_READ_BY_FD 20: stream_buf ptr 0, stream_buf_len u32 8, stream_id u32 12, prog_fd fd 16;
PROG_ASSOC_STRUCT_OPS 12: map_fd fd 0, prog_fd fd 4, flags u32 8;
"""

_CODES = {"u32": "I", "s32": "i", "u64": "Q", "fd": "i", "ptr": "Q", "c16": "16s"}
_SIZES = {"u32": 4, "s32": 4, "u64": 8, "fd": 4, "ptr": 8, "c16": 16}


class Attr:
    """A filled attribute.

    Attributes:
        command: Number of the command.
        data: The memory, as long as the newest known layout; the kernel writes results here.
        size: Bytes that the kernel is told to read.
        layout: What the memory means.
        keep: Objects whose addresses are in ``data``.
    """

    __slots__ = ("command", "data", "keep", "layout", "size")

    def __init__(self, layout: Layout, data: bytearray, size: int, keep: list[object]) -> None:
        self.command = layout.command
        self.layout = layout
        self.data = data
        self.size = size
        self.keep = keep

    def __getitem__(self, name: str) -> int:
        """A number as it is now, after the kernel may have written it."""
        code, offset = self.layout.fields[name]
        value: int = struct.unpack_from("=" + _CODES[code], self.data, offset)[0]
        return value


class Layout:
    """Layout of the attribute of one command, or of one kind of link.

    Attributes:
        command: Number of the command.
        kind: Kind of link, for the arms of ``LINK_CREATE``, or ``""``.
        first_size: Bytes of the attribute in the command's first kernel version.
        total_size: Bytes of memory to provide.
        fields: ``name: (type, offset)``, by offset.
        since: First kernel version of the fields that are younger than the command.
        packer: The fields as one ``struct``.
    """

    __slots__ = (
        "_ends",
        "command",
        "fields",
        "first_size",
        "kind",
        "packer",
        "since",
        "total_size",
    )

    def __init__(
        self,
        command: Cmd,
        kind: str,
        first_size: int,
        fields: dict[str, tuple[str, int]],
        since: dict[str, str],
    ) -> None:
        self.command = command
        self.kind = kind
        self.first_size = first_size
        self.fields = fields
        self.since = since
        form = "="
        position = 0
        ends = []
        for code, offset in fields.values():
            form += f"{offset - position}x{_CODES[code]}" if offset > position else _CODES[code]
            position = offset + _SIZES[code]
            ends.append(position)
        self.total_size = (position + 7) & -8
        self.packer = struct.Struct(form)
        self._ends = ends

    def build(self, upto: str | None = None, /, **values: Any) -> Attr:
        """Fill an attribute.

        Args:
            upto: Name of a result that the kernel only writes if the size covers it.
            **values: Fields by name; what is left out is zero. Pointers may be given as buffers
                or strings.

        Raises:
            ValueError: A number does not fit its field, or a name is longer than 15 bytes.
        """
        keep: list[object] = []
        filled: list[object] = []
        for name, (code, _offset) in self.fields.items():
            value = values.pop(name, 0)
            if code == "ptr" and not isinstance(value, int):
                value = address(value, keep)
            elif code == "c16":
                text = value.encode() if isinstance(value, str) else bytes(value or b"")
                if len(text) > 15 or b"\0" in text:
                    raise ValueError(f"{name} {value!r} is not a name of at most 15 bytes")
                value = text
            filled.append(value)
        if values:
            raise TypeError(f"{self.command.name} has no field {', '.join(values)}")
        try:
            packed = self.packer.pack(*filled)
        except struct.error:
            raise ValueError(self._misfit(filled)) from None
        used = len(packed.rstrip(b"\0"))
        size = self._ends[bisect_left(self._ends, used)] if used else 0
        if upto is not None:
            code, offset = self.fields[upto]
            size = max(size, offset + _SIZES[code])
        data = bytearray(self.total_size)
        data[: len(packed)] = packed
        return Attr(self, data, max(size, self.first_size), keep)

    def _misfit(self, filled: list[object]) -> str:
        for (name, (code, _offset)), value in zip(self.fields.items(), filled, strict=True):
            try:
                struct.pack("=" + _CODES[code], value)
            except struct.error:
                return f"{self.command.name}: {name} {value!r} does not fit {code}"
        raise AssertionError(filled)

    def unpack(self, data: bytes | bytearray, size: int) -> dict[str, Any]:
        """The fields of an attribute of which ``size`` bytes count; the rest is zero."""
        whole = bytes(data[:size]).ljust(self.packer.size, b"\0")
        return dict(zip(self.fields, self.packer.unpack_from(whole), strict=True))


def address(buffer: Any, keep: list[object]) -> int:
    """Address of a buffer's memory, 0 for an empty one or ``None``.

    Args:
        buffer: Bytes-like object, or a string (which gets its terminating NUL).
        keep: Gets what must live as long as the address is used.
    """
    import ctypes

    if isinstance(buffer, str):
        buffer = buffer.encode(errors="surrogateescape")  # c_char_p is terminated by a NUL
    elif buffer is None or not len(buffer):
        return 0
    if not isinstance(buffer, bytes):
        try:
            location = ctypes.c_char.from_buffer(buffer)
            keep.append(location)
            return ctypes.addressof(location)
        except TypeError:
            buffer = bytes(buffer)  # read-only memory
    pointer = ctypes.c_char_p(buffer)
    keep.append(pointer)
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


_rows: dict[str, str] = {}
_layouts: dict[str, Layout] = {}


def names() -> list[str]:
    """All rows: commands (``"MAP_CREATE"``) and kinds of links (``"LINK_CREATE/iter"``)."""
    if not _rows:
        for row in _TABLE.split(";"):
            head, _, _ = row.partition(":")
            if head.strip():
                _rows[head.split()[0]] = row
    return list(_rows)


def layout(name: str) -> Layout:
    """The layout of a command or of one kind of link.

    Args:
        name: One of :func:`names`; of ``"LINK_CREATE"`` only the part common to all kinds.

    Raises:
        KeyError: There is no such row.
    """
    found = _layouts.get(name)
    if found is None:
        names()
        head, _, body = _rows[name].partition(":")
        command, _, kind = name.partition("/")
        fields, since = {}, {}
        for item in body.split(","):
            field, code, offset, *version = item.split()
            fields[field] = (code, int(offset))
            if version:
                since[field] = version[0]
        found = _layouts[name] = Layout(Cmd[command], kind, int(head.split()[1]), fields, since)
    return found
