"""What the fake kernel refuses: what it lacks by name, and what is younger than it.

The numbers are those of the kernel. When something came is not said here: features have their
versions in :class:`pybpfload.kernel.probe.Feature`, fields of attributes in
:mod:`pybpfload.kernel.attrs`, instructions in :mod:`pybpfload.isa.table`, all else in
:mod:`pybpfload.kernel.since`.
"""

from __future__ import annotations

import errno
import struct
import sys
from typing import TYPE_CHECKING, Any

from pybpfload.btf import Btf, Kind
from pybpfload.errors import FormatError
from pybpfload.isa.insn import decode
from pybpfload.isa.table import find
from pybpfload.kernel.attrs import Layout, layout, names
from pybpfload.kernel.since import first_version, used, version_pair
from pybpfload.kernel.version import parse_version
from pybpfload.testing.fakeobjects import memory, store
from pybpfload.uapi import Helper, MapFlag, MapType, ProgType

if TYPE_CHECKING:
    from pybpfload.isa.insn import Insn
    from pybpfload.testing.fakekernel import Call, FakeKernel
    from pybpfload.testing.fakeobjects import FakeObject

__all__ = ["refuse"]

_ORDER: Any = "<" if sys.byteorder == "little" else ">"

# Features that are helpers, and kinds of types in BTF.
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

# Bytes of the records that every kernel with BTF of functions knows.
_RECORDS = {"func_info": 8, "line_info": 16}
_PAGE = 4096


def refuse(kernel: FakeKernel, call: Call) -> int:
    """Error number with which the kernel answers a call; 0 if it can do it."""
    if kernel.version is not None and (number := _too_young(kernel.version, call)):
        return number
    lacks, fields = kernel.lacks, call.fields
    if "MEMCG_ACCOUNT" in lacks and _charge(call) and kernel.memlock >= 0:
        charged = sum(made.get("charge", 0) for made in kernel.fds.values())
        if charged + _charge(call) > kernel.memlock:
            return errno.EPERM
        fields["charge"] = _charge(call)
    if call.command == "MAP_CREATE":
        return _refuse_map(kernel, call)
    if call.command == "PROG_LOAD":
        return _refuse_prog(kernel, call)
    if call.command == "BTF_LOAD":
        return _refuse_btf(lacks, call)
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
        named = any(memory(fields["info"], fields["info_len"])[16:])
        return errno.E2BIG if target and target.kind == "btf" and named else 0
    if call.command == "TOKEN_CREATE":
        if "TOKEN" in lacks:
            return errno.EINVAL
        return errno.EOPNOTSUPP if fields["bpffs_fd"] in kernel.fds else errno.EBADF
    if call.command == "PROG_BIND_MAP" and "PROG_BIND_MAP" in lacks:
        return errno.EINVAL
    if call.command.endswith("_BATCH") and "BATCH" in lacks:
        return errno.EINVAL
    return 0


# By age


def _known(version: str | None, age: tuple[int, int]) -> bool:
    return version is not None and version_pair(version) <= age


def _too_young(age: tuple[int, int], call: Call) -> int:
    """Error number for what came after a version of the kernel."""
    fields, ours = call.fields, call.layout
    for what in used(ours, fields):
        if not _known(what.since, age):
            beyond = what.field and ours.fields[what.field][1] >= _attribute_size(age)
            return errno.E2BIG if beyond else errno.EINVAL
    if fields.get("log_size", 0) > (0xFFFFFFFF >> (2 if age >= (5, 2) else 8)):
        return errno.EINVAL
    return _program_too_young(age, call) if call.command == "PROG_LOAD" else 0


def _attribute_size(age: tuple[int, int]) -> int:
    """Size of ``union bpf_attr`` then: unknown bytes beyond it are E2BIG, within it EINVAL."""
    return max(_end(layout(name), age) for name in names())


def _end(ours: Layout, age: tuple[int, int]) -> int:
    command = first_version("Cmd", ours.command)
    if not _known(command, age):
        return 0
    known = [name for name in ours.fields if _known(ours.since.get(name, command), age)]
    _code, offset = ours.fields[known[-1]]
    return max(ours.first_size, (offset + 8) & -8)


def _program_too_young(age: tuple[int, int], call: Call) -> int:
    fields = call.fields
    if fields["insn_cnt"] > (1_000_000 if age >= (5, 2) else 4096):
        return errno.E2BIG
    wanted = parse_version("{}.{}.0".format(*age))
    if fields["prog_type"] == ProgType.KPROBE and age < (5, 0) and fields["kern_version"] != wanted:
        return errno.EINVAL
    insns = decode(call.insns, _ORDER)
    for index, insn in enumerate(insns):
        form = find(insn)
        if insn.code and (form is None or not _known(form.since, age)):
            return _write_log(call, f"unknown opcode {insn.code:02x}\n", errno.EINVAL)
        if insn.is_helper_call and not _known(first_version("Helper", insn.imm), age):
            return _unknown_function(call, index, insn)
    return 0


# By name


def _refuse_map(kernel: FakeKernel, call: Call) -> int:
    lacks, fields = kernel.lacks, call.fields
    if "PROG_NAME" in lacks and any(fields["map_name"]):
        return errno.EINVAL
    if kernel.version and kernel.version < (5, 2) and b"." in fields["map_name"]:
        return errno.EINVAL
    return errno.EINVAL if "ARRAY_MMAP" in lacks and fields["map_flags"] & MapFlag.MMAPABLE else 0


def _charge(call: Call) -> int:
    """Bytes that a new object costs, counted in whole pages."""
    fields, size = call.fields, 0
    if call.command == "MAP_CREATE":
        size = fields["max_entries"] * (fields["key_size"] + fields["value_size"])
    elif call.command == "PROG_LOAD":
        size = 8 * fields["insn_cnt"]
    return (size + 4095) & -4096


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
    for name, known in _RECORDS.items():
        if _has_unknown_tail(fields, name, known):
            call.answer(f"{name}_rec_size", known)
            return errno.E2BIG
    insns = decode(call.insns, _ORDER)
    for index, insn in enumerate(insns):
        if insn.is_helper_call:
            if any(insn.imm in numbers for name, numbers in _HELPERS.items() if name in lacks):
                return _unknown_function(call, index, insn)
            if insn.imm > max(Helper):
                return _unknown_function(call, index, insn)
        if insn.code == 0x18 and insn.src == 2:
            if "GLOBAL_DATA" in lacks:
                return errno.EINVAL
            value = kernel.fds.get(insn.imm)
            beyond = insns[index + 1].imm & 0xFFFFFFFF
            far = beyond >= 1 << 29 and "LDIMM64_FULL_RANGE_OFF" in lacks
            if value is not None and (far or beyond >= _memory_size(value)):
                text = "direct value offset of" if far else "invalid access to map value pointer"
                return _write_log(call, f"{text} {beyond}\n", errno.EINVAL)
    return 0


def _memory_size(target: FakeObject) -> int:
    """Bytes of a map that instructions may have the address of."""
    if target["map_type"] == MapType.ARENA:
        return int(target["max_entries"]) * _PAGE
    if target["map_type"] == MapType.INSN_ARRAY:
        return int(target["max_entries"]) * 8
    return int(target["value_size"])


def _has_unknown_tail(fields: dict[str, Any], name: str, known: int) -> bool:
    """Whether records are longer than the kernel knows and say something there."""
    size = fields[f"{name}_rec_size"]
    records = memory(fields[name], size * fields[f"{name}_cnt"])
    return any(any(records[at + known : at + size]) for at in range(0, len(records), size or 1))


def _unknown_function(call: Call, index: int, insn: Insn) -> int:
    text = f"{index}: (85) call unknown#{insn.imm}\ninvalid func unknown#{insn.imm}\n"
    return _write_log(call, text, errno.EINVAL)


def _write_log(call: Call, text: str, number: int) -> int:
    """Write what the verifier says; ENOSPC if there is not enough room for it."""
    fields, log = call.fields, text.encode() + b"\0"
    if not fields["log_level"]:
        return number
    store(fields["log_buf"], log[: fields["log_size"] - 1] + b"\0")
    return number if len(log) <= fields["log_size"] else errno.ENOSPC


def _refuse_btf(lacks: frozenset[str], call: Call) -> int:
    if "BTF" in lacks:
        return errno.EINVAL
    data = memory(call.fields["btf"], call.fields["btf_size"])
    (header,) = struct.unpack_from("=I", data, 4)
    if "BTF_LAYOUT" in lacks and any(data[24:header]):  # zeros may follow what a kernel knows
        return errno.E2BIG
    try:
        btf = Btf.from_bytes(data)
        for number in btf:
            if reason := _refuse_type(lacks, btf, number):
                return _write_log(call, f"[{number}] {reason}\n", errno.EINVAL)
    except FormatError as error:
        return _write_log(call, f"{error.message}\n", errno.EINVAL)
    return 0


def _refuse_type(lacks: frozenset[str], btf: Btf, number: int) -> str:
    """Why the kernel does not take a type; empty if it does."""
    kind = btf.kind(number)
    if any(kind in kinds for name, kinds in _KINDS.items() if name in lacks):
        return "Unknown kind"
    decoded: Any = btf[number]
    if kind == Kind.FUNC and "BTF_GLOBAL_FUNC" in lacks and decoded.linkage:
        return "Invalid func linkage"
    if kind == Kind.DATASEC:
        if "BTF_QMARK_DATASEC" in lacks and decoded.name.startswith("?"):
            return "Invalid name"
        if "BTF_EMPTY_DATASEC" in lacks and not decoded.entries:
            return "vlen == 0"
    return ""
