"""The other commands of bpf(2): BTF, raw tracepoints, iterators, statistics, tokens."""

from __future__ import annotations

from pybpfload.kernel.attrs import Attr, layout
from pybpfload.kernel.call import Record, call_fd, invoke, refused, run
from pybpfload.kernel.fd import at_least_3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

__all__ = [
    "TaskFd",
    "btf_load",
    "btf_load_attempt",
    "enable_stats",
    "iter_create",
    "raw_tracepoint_open",
    "task_fd_query",
    "token_create",
]


def raw_tracepoint_open(name: str | None, prog_fd: int, *, cookie: int = 0) -> int:
    """``BPF_RAW_TRACEPOINT_OPEN`` (4.17): attach to a raw tracepoint.

    Args:
        name: The tracepoint; ``None`` for programs that know where they belong (5.5).
        prog_fd: The program.
        cookie: Value that the program can ask for (6.10).

    Returns:
        Descriptor of the link, which the caller owns.

    Raises:
        KernelError: ENOENT when there is no such tracepoint, and others.
    """
    return call_fd(
        "RAW_TRACEPOINT_OPEN",
        f"raw tracepoint {name}" if name else f"program fd {prog_fd}",
        name=name,
        prog_fd=prog_fd,
        cookie=cookie,
    )


def btf_load_attempt(
    data: Buffer,
    *,
    log_level: int = 0,
    log_buf: bytearray | None = None,
    btf_flags: int = 0,
    token_fd: int = 0,
) -> tuple[int, Attr]:
    """``BPF_BTF_LOAD`` without raising: arguments as :func:`btf_load`.

    Returns:
        The descriptor or the negative error number, and the attribute, where the kernel has left
        ``log_true_size`` (since 6.4).
    """
    log: dict[str, Any] = {}
    if log_level and log_buf is not None:
        log = {"log_level": log_level, "log_buf": log_buf, "log_size": len(log_buf)}
    attr = layout("BTF_LOAD").build(
        "log_true_size" if log else None,
        btf=data,
        btf_size=memoryview(data).nbytes,
        btf_flags=btf_flags,
        btf_token_fd=token_fd,
        **log,
    )
    return at_least_3(invoke(attr)), attr


def btf_load(
    data: Buffer,
    *,
    log_level: int = 0,
    log_buf: bytearray | None = None,
    btf_flags: int = 0,
    token_fd: int = 0,
) -> int:
    """``BPF_BTF_LOAD`` (4.18): give type information to the kernel.

    Args:
        data: Raw BTF in the machine's byte order.
        log_level: 0 or 1.
        log_buf: Gets the log.
        btf_flags: ``MapFlag.TOKEN_FD`` (6.9).
        token_fd: BPF token.

    Returns:
        The descriptor, which the caller owns.

    Raises:
        KernelError: The kernel refused.
    """
    fd, attr = btf_load_attempt(
        data, log_level=log_level, log_buf=log_buf, btf_flags=btf_flags, token_fd=token_fd
    )
    if fd < 0:
        raise refused(fd, attr)
    return fd


class TaskFd(Record):
    """What a descriptor of another process stands for.

    Attributes:
        prog_id: The program attached there.
        fd_type: :class:`~pybpfload.uapi.TaskFdType`.
        name: Tracepoint, function, or path of the file.
        probe_offset: Offset of the probe in bytes.
        probe_addr: Address of the probe.
    """

    __slots__ = ("fd_type", "name", "probe_addr", "probe_offset", "prog_id")
    prog_id: int
    fd_type: int
    name: str
    probe_offset: int
    probe_addr: int


def task_fd_query(pid: int, fd: int, *, flags: int = 0) -> TaskFd:
    """``BPF_TASK_FD_QUERY`` (4.18): what a perf event or raw tracepoint descriptor is attached to.

    Args:
        pid: The process.
        fd: Number of the descriptor in that process.
        flags: None are defined.

    Raises:
        KernelError: The kernel refused.
    """
    buffer = bytearray(4096)
    attr = layout("TASK_FD_QUERY").build(pid=pid, fd=fd, flags=flags, buf_len=4096, buf=buffer)
    run(attr, f"fd {fd} of process {pid}")
    return TaskFd(
        prog_id=attr["prog_id"],
        fd_type=attr["fd_type"],
        name=bytes(buffer).partition(b"\0")[0].decode(errors="surrogateescape"),
        probe_offset=attr["probe_offset"],
        probe_addr=attr["probe_addr"],
    )


def enable_stats(stats_type: int = 0) -> int:
    """``BPF_ENABLE_STATS`` (5.8): count runs and run time of all programs.

    Returns:
        A descriptor; counting goes on while it is open.

    Raises:
        KernelError: The kernel refused.
    """
    return call_fd("ENABLE_STATS", type=stats_type)


def iter_create(link_fd: int, *, flags: int = 0) -> int:
    """``BPF_ITER_CREATE`` (5.8): start one run of an iterator.

    Returns:
        A descriptor whose content is what the program writes.

    Raises:
        KernelError: The kernel refused.
    """
    return call_fd("ITER_CREATE", f"link fd {link_fd}", link_fd=link_fd, flags=flags)


def token_create(bpffs_fd: int, *, flags: int = 0) -> int:
    """``BPF_TOKEN_CREATE`` (6.9): a token from a BPF filesystem that delegates rights.

    Args:
        bpffs_fd: Its root directory, open.
        flags: None are defined.

    Raises:
        KernelError: The kernel refused.
    """
    return call_fd("TOKEN_CREATE", flags=flags, bpffs_fd=bpffs_fd)
