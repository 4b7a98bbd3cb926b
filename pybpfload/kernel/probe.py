"""Which features the kernel has, found out by trying, once per process and only when asked.

While a BPF token is shown (:mod:`pybpfload.kernel.token`), the probes show it too, and answers are
remembered with it.

Distributions backport, so versions prove nothing; the version a feature is labelled with is only
for messages. What the kernel does not let this process try (EPERM and the like) is *inconclusive*:
:func:`has` then says no, as libbpf does, :func:`why` says so, and the answer is not remembered.

Source of the probes: libbpf, ``features.c``; that of ``BTF_EMPTY_DATASEC`` is ours.
"""

from __future__ import annotations

import errno
import struct
import sys
from enum import Enum

from pybpfload.errors import NotSupportedError
from pybpfload.isa.insn import Insn, encode
from pybpfload.kernel import door, token
from pybpfload.kernel.attrs import address, layout
from pybpfload.kernel.call import invoke
from pybpfload.kernel.cmd_misc import btf_load_attempt
from pybpfload.kernel.cmd_prog import prog_load_attempt
from pybpfload.kernel.errors import locked_down
from pybpfload.kernel.fd import at_least_3
from pybpfload.kernel.since import version_pair
from pybpfload.uapi import AttachType, MapFlag, MapType, ProgType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

__all__ = ["SYSCALL_WRAPPERS", "Feature", "clear_cache", "has", "probe", "require", "why"]

_BYTEORDER = "<" if sys.byteorder == "little" else ">"


class Feature(Enum):
    """Something that not all kernels have.

    Attributes:
        since: First kernel version that has it.
        what: What it is, in a few words.
    """

    PROG_NAME = "4.15", "names of programs and maps"
    GLOBAL_DATA = "5.2", "global variables"
    BTF = "4.18", "BTF"
    BTF_FUNC = "5.0", "functions in BTF"
    BTF_GLOBAL_FUNC = "5.6", "linkage of functions in BTF"
    BTF_DATASEC = "5.2", "variables and data sections in BTF"
    BTF_EMPTY_DATASEC = "5.12", "data sections without variables in BTF"
    BTF_QMARK_DATASEC = "6.9", "BTF data sections whose names begin with a question mark"
    BTF_FLOAT = "5.13", "floating-point types in BTF"
    BTF_DECL_TAG = "5.16", "declaration tags in BTF"
    BTF_TYPE_TAG = "5.17", "type tags in BTF"
    BTF_ENUM64 = "6.0", "64-bit enumerations in BTF"
    BTF_LAYOUT = "7.1", "the layout section of BTF"
    ARRAY_MMAP = "5.5", "memory-mapped arrays"
    EXP_ATTACH_TYPE = "4.17", "the expected attach type of a program"
    PROBE_READ_KERN = "5.5", "the helpers bpf_probe_read_{kernel,user}"
    PROG_BIND_MAP = "5.10", "binding maps to programs"
    MODULE_BTF = "5.11", "BTF of kernel modules"
    PERF_LINK = "5.15", "links of perf events"
    BPF_COOKIE = "5.15", "attach cookies"
    MEMCG_ACCOUNT = "5.11", "BPF memory accounted to control groups instead of RLIMIT_MEMLOCK"
    SYSCALL_WRAPPER = "4.17", "wrappers around system calls (__x64_sys_...)"
    UPROBE_MULTI_LINK = "6.6", "multi-uprobe links"
    ARG_CTX_TAG = "6.8", "the arg:ctx tag of global functions"
    TOKEN = "6.9", "BPF tokens"
    LDIMM64_FULL_RANGE_OFF = "7.0", "offsets into map values beyond 512 MiB"

    @property
    def since(self) -> str:  # noqa: D102
        return str(self.value[0])

    @property
    def what(self) -> str:  # noqa: D102
        return str(self.value[1])


# Helpers by number: making the whole enumeration would take longer than all probes.
_PROBE_READ_KERNEL = 113
_KTIME_GET_COARSE_NS = 160
_GET_FUNC_IP = 173
_GET_ATTACH_COOKIE = 174

# Answers that say nothing about the feature.
_INCONCLUSIVE = (
    errno.EPERM,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.EINTR,
    errno.ENOSYS,
)


def probe(feature: Feature) -> tuple[bool | None, int]:
    """Try a feature out, or remember.

    Returns:
        Whether the kernel has it, ``None`` if that could not be found out; and the error number
        (positive) that the kernel answered with, 0 if it has the feature.

    Raises:
        NotSupportedError: This is not Linux on a known machine.
    """
    shown = token.current()
    known: dict[Feature, tuple[bool | None, int]]
    known = door.cache().setdefault("features", {}) if shown is None else shown.features
    if feature in known:
        return known[feature]
    number = -min(_PROBES[feature](), 0)
    if number == 0:
        answer: tuple[bool | None, int] = True, 0
    elif number == errno.EPERM and shown is not None and _is_older_than_tokens(feature):
        answer = True, 0  # the token need not delegate what the probe tries
    elif number in _INCONCLUSIVE:
        return None, number
    else:
        answer = False, number
    known[feature] = answer
    return answer


def _is_older_than_tokens(feature: Feature) -> bool:
    return version_pair(feature.since) <= version_pair(Feature.TOKEN.since)


def has(feature: Feature) -> bool:
    """Whether the kernel has a feature; ``False`` too if that could not be found out."""
    return probe(feature)[0] is True


def why(feature: Feature) -> str:
    """One sentence about how it stands with a feature."""
    answer, number = probe(feature)
    name = f"{feature.what} (Linux {feature.since})"
    word = errno.errorcode.get(number, str(number))
    if answer is None:
        return f"whether this kernel has {name} could not be found out: {word}"
    return f"this kernel has {name}" if answer else f"this kernel lacks {name}: {word}"


def require(feature: Feature, what: str | None = None) -> None:
    """Insist on a feature.

    Args:
        feature: The feature.
        what: What needs it, for the message, for example ``"attach cookies of kprobes"``.

    Raises:
        NotSupportedError: The kernel lacks it, or that could not be found out.
    """
    answer, number = probe(feature)
    if answer:
        return
    text = f"this kernel has no {feature.what}"
    if answer is None:
        word = errno.errorcode.get(number, str(number))
        text = f"whether this kernel has {feature.what} could not be found out ({word})"
    raise NotSupportedError(
        f"{what}: {text}" if what else text, feature=feature.name, since=feature.since
    )


def clear_cache() -> None:
    """Forget all answers, for tests and after a change of privileges."""
    door.cache().pop("features", None)


# Each probe returns 0 (or more) if the kernel has the feature, otherwise the negative error number.


def _closed(fd: int) -> int:
    """Close a descriptor that proves something by its existence."""
    if fd >= 0:
        door.close(fd)
        return 0
    return fd


def _expect(number: int, result: int) -> int:
    """0 if the kernel answered with this error."""
    if result == -number:
        return 0
    return -errno.EOPNOTSUPP if _closed(result) == 0 else result


_EXIT = Insn(0x95, 0, 0, 0, 0)
_RETURN_0 = (Insn(0xB7, 0, 0, 0, 0), _EXIT)


def _call(helper: int) -> Insn:
    return Insn(0x85, 0, 0, 0, helper)


def _prog(prog_type: ProgType, insns: Sequence[Insn] = _RETURN_0, **options: Any) -> int:
    code = encode(insns, _BYTEORDER)  # type: ignore[arg-type]
    return prog_load_attempt(prog_type, code, "GPL", **options)[0]


def _map(value_size: int, flags: int = 0) -> int:
    attr = layout("MAP_CREATE").build(
        map_type=MapType.ARRAY, key_size=4, value_size=value_size, max_entries=1, map_flags=flags
    )
    return at_least_3(invoke(attr))


def _map_value(fd: int, offset: int) -> tuple[Insn, Insn]:
    """Load the address of a map's value plus an offset into r1."""
    return Insn(0x18, 1, 2, 0, fd), Insn(0, 0, 0, 0, offset)


def _with_map(value_size: int, use: Callable[[int], int]) -> int:
    fd = _map(value_size)
    if fd < 0:
        return fd
    try:
        return use(fd)
    finally:
        door.close(fd)


def _raw_btf(words: Sequence[int], strings: bytes = b"\0", layout_section: bytes = b"") -> bytes:
    types = struct.pack(f"={len(words)}I", *words)
    size = 32 if layout_section else 24
    text = len(types) + len(layout_section)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, size, 0, len(types), text, len(strings))
    if layout_section:
        header += struct.pack("=II", len(types), len(layout_section))
    return header + types + layout_section + strings


def _load_raw_btf(*arguments: Any) -> int:
    return btf_load_attempt(_raw_btf(*arguments))[0]


# Kinds of BTF types, and the type that all of these begin with: a signed int of 32 bits, id 1.
_PTR, _FUNC, _FUNC_PROTO, _VAR, _DATASEC = 2 << 24, 12 << 24, 13 << 24, 14 << 24, 15 << 24
_FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = 16 << 24, 17 << 24, 18 << 24, 19 << 24
_INT = (0, 1 << 24, 4, 1 << 24 | 32)


def _btf(*words: int, strings: bytes = b"\0") -> Callable[[], int]:
    return lambda: _closed(_load_raw_btf(words, strings))


def _btf_func(linkage: int) -> Callable[[], int]:
    proto = (0, _FUNC_PROTO | 1, 0, 3, 1)  # void (int x)
    return _btf(*_INT, *proto, 1, _FUNC | linkage, 2, strings=b"\0f\0x\0")


def _btf_datasec(name: bytes) -> Callable[[], int]:
    var = (1, _VAR, 1, 0)
    section = (3, _DATASEC | 1, 4, 2, 0, 4)
    return _btf(*_INT, *var, *section, strings=b"\0x\0" + name + b"\0")


def _btf_layout() -> int:
    entries = struct.pack("=BBHBBH", 0, 0, 0, 4, 0, 0)  # of kinds 0 and 1
    return _closed(_load_raw_btf(_INT, b"\0", entries))


def _global_data() -> int:
    store = Insn(0x7A, 1, 0, 0, 42)
    return _with_map(
        32,
        lambda fd: _closed(_prog(ProgType.SOCKET_FILTER, (*_map_value(fd, 16), store, *_RETURN_0))),
    )


def _probe_read_kernel() -> int:
    code = (
        Insn(0xBF, 1, 10, 0, 0),
        Insn(0x07, 1, 0, 0, -8),
        Insn(0xB7, 2, 0, 0, 8),
        Insn(0xB7, 3, 0, 0, 0),
        _call(_PROBE_READ_KERNEL),
        _EXIT,
    )
    result = _closed(_prog(ProgType.TRACEPOINT, code))
    if result == -errno.EINVAL and locked_down():
        return -errno.EPERM  # the kernel has them, and gives them to nobody
    return result


def _prog_bind_map() -> int:
    def bind(fd: int) -> int:
        prog = _prog(ProgType.SOCKET_FILTER)
        if prog < 0:
            return prog
        result = invoke(layout("PROG_BIND_MAP").build(prog_fd=prog, map_fd=fd))
        door.close(prog)
        return result

    return _with_map(32, bind)


def _module_btf() -> int:
    fd = _load_raw_btf(_INT)
    if fd < 0:
        return fd
    keep: list[object] = []
    # struct bpf_btf_info with a buffer for the name, which kernels before this feature refuse.
    info = bytearray(struct.pack("=QIIQII", 0, 0, 0, address(bytearray(16), keep), 16, 0))
    attr = layout("OBJ_GET_INFO_BY_FD").build(bpf_fd=fd, info_len=len(info), info=info)
    result = invoke(attr)
    door.close(fd)
    return result


def _perf_link() -> int:
    prog = _prog(ProgType.TRACEPOINT)
    if prog < 0:
        return prog
    attr = layout("LINK_CREATE").build(
        prog_fd=prog, target_fd=-1, attach_type=AttachType.PERF_EVENT
    )
    result = _expect(errno.EBADF, invoke(attr))
    door.close(prog)
    return result


def _uprobe_multi_link() -> int:
    prog = _prog(ProgType.KPROBE, expected_attach_type=AttachType.TRACE_UPROBE_MULTI)
    if prog < 0:
        return prog

    def link(pid: int) -> int:
        return invoke(
            layout("LINK_CREATE/uprobe_multi").build(
                prog_fd=prog,
                target_fd=-1,
                attach_type=AttachType.TRACE_UPROBE_MULTI,
                path="/",
                offsets=bytes(8),
                cnt=1,
                pid=pid,
            )
        )

    # "/" is no file that can be probed. The first kernels with these links filtered by process
    # wrongly; only correct ones look at the number at all.
    result = _expect(errno.EBADF, link(0)) or _expect(errno.EINVAL, link(-1))
    door.close(prog)
    return result


def _arg_ctx_tag() -> int:
    strings = b"\0x\0a\0b\0arg:ctx\0"  # x 1, a 3, b 5, arg:ctx 7
    words = (
        *_INT,  # 1
        *(0, _PTR, 0),  # 2: void *
        *(0, _FUNC_PROTO | 1, 1, 1, 2),  # 3: int (void *x)
        *(3, _FUNC | 1, 3),  # 4: a
        *(0, _FUNC_PROTO | 1, 1, 1, 2),  # 5: int (void *x)
        *(5, _FUNC | 1, 5),  # 6: b
        *(7, _DECL_TAG, 6, 0),  # 7: arg:ctx on the first argument of b
    )
    btf = _load_raw_btf(words, strings)
    if btf < 0:
        return btf
    code = (Insn(0x85, 0, 1, 0, 1), _EXIT, _call(_GET_FUNC_IP), _EXIT)
    prog = _prog(
        ProgType.KPROBE,
        code,
        prog_name="det_arg_ctx",
        prog_btf_fd=btf,
        func_info=struct.pack("=IIII", 0, 4, 2, 6),
    )
    door.close(btf)
    return _closed(prog)


def _token() -> int:
    """Kernels without tokens do not get as far as looking at the descriptor."""
    return _expect(errno.EBADF, invoke(layout("TOKEN_CREATE").build(bpffs_fd=-1)))


def _ldimm64_full_range() -> int:
    def load(fd: int) -> int:
        log = bytearray(1024)
        code = (*_map_value(fd, 1 << 30), _EXIT)
        result = _prog(ProgType.SOCKET_FILTER, code, log_level=1, log_buf=log)
        if result >= 0:
            return _expect(0, result)  # the offset is beyond the value; no kernel may accept it
        # The value has one byte: what counts is the reason that the verifier gives.
        if b"direct value offset of" in log or b"invalid access to map value pointer" not in log:
            return result
        return 0

    return _with_map(1, load)


SYSCALL_WRAPPERS = {
    "x86_64": "x64",
    "aarch64": "arm64",
    "s390x": "s390x",
    "riscv64": "riscv",
    "ppc64le": "powerpc",
    "ppc64": "powerpc",
}
"""Machine -> what it puts before ``_sys_NAME`` where system calls have wrappers."""


def _syscall_wrapper() -> int:
    """By the kernel's symbols: libbpf opens a kprobe, which not every root may."""
    prefix = SYSCALL_WRAPPERS.get(door.uname().machine)
    if prefix is None:
        return -errno.EOPNOTSUPP
    try:
        symbols = door.read_file("/proc/kallsyms")
    except OSError as error:
        return -errno.EPERM if error.errno == errno.EACCES else -(error.errno or errno.EIO)
    import re

    found = re.search(rb"[ \t]__" + prefix.encode() + rb"_sys_bpf[\t\n]", symbols)
    return 0 if found else -errno.ENOENT


_PROBES: dict[Feature, Callable[[], int]] = {
    Feature.PROG_NAME: lambda: _closed(_prog(ProgType.SOCKET_FILTER, prog_name="nametest")),
    Feature.GLOBAL_DATA: _global_data,
    Feature.BTF: _btf(*_INT),
    Feature.BTF_FUNC: _btf_func(0),
    Feature.BTF_GLOBAL_FUNC: _btf_func(1),
    Feature.BTF_DATASEC: _btf_datasec(b".data"),
    Feature.BTF_EMPTY_DATASEC: _btf(1, _DATASEC, 4, strings=b"\0.rodata\0"),
    Feature.BTF_QMARK_DATASEC: _btf_datasec(b"?.data"),
    Feature.BTF_FLOAT: _btf(1, _FLOAT, 4, strings=b"\0float\0"),
    Feature.BTF_DECL_TAG: _btf(
        *_INT, 1, _VAR, 1, 0, 3, _DECL_TAG, 2, 0xFFFFFFFF, strings=b"\0x\0tag\0"
    ),
    Feature.BTF_TYPE_TAG: _btf(*_INT, 1, _TYPE_TAG, 1, 0, _PTR, 2, strings=b"\0tag\0"),
    Feature.BTF_ENUM64: _btf(1, _ENUM64, 8, strings=b"\0e\0"),
    Feature.BTF_LAYOUT: _btf_layout,
    Feature.ARRAY_MMAP: lambda: _closed(_map(4, MapFlag.MMAPABLE)),
    Feature.EXP_ATTACH_TYPE: lambda: _closed(
        _prog(ProgType.CGROUP_SOCK, expected_attach_type=AttachType.CGROUP_INET_SOCK_CREATE)
    ),
    Feature.PROBE_READ_KERN: _probe_read_kernel,
    Feature.PROG_BIND_MAP: _prog_bind_map,
    Feature.MODULE_BTF: _module_btf,
    Feature.PERF_LINK: _perf_link,
    Feature.BPF_COOKIE: lambda: _closed(
        _prog(ProgType.TRACEPOINT, (_call(_GET_ATTACH_COOKIE), _EXIT))
    ),
    Feature.MEMCG_ACCOUNT: lambda: _closed(
        _prog(ProgType.SOCKET_FILTER, (_call(_KTIME_GET_COARSE_NS), _EXIT))
    ),
    Feature.SYSCALL_WRAPPER: _syscall_wrapper,
    Feature.UPROBE_MULTI_LINK: _uprobe_multi_link,
    Feature.ARG_CTX_TAG: _arg_ctx_tag,
    Feature.TOKEN: _token,
    Feature.LDIMM64_FULL_RANGE_OFF: _ldimm64_full_range,
}
