"""Commands of bpf(2) on programs."""

from __future__ import annotations

import errno

from pybpfload.kernel.attrs import Attr, layout
from pybpfload.kernel.call import EAGAIN, EINTR, Record, call, invoke, refused, retried
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import at_least_3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from typing_extensions import Buffer

__all__ = [
    "LOAD_ATTEMPTS",
    "ProgQuery",
    "TestRun",
    "prog_assoc_struct_ops",
    "prog_attach",
    "prog_bind_map",
    "prog_detach",
    "prog_load",
    "prog_load_attempt",
    "prog_query",
    "prog_stream_read",
    "prog_test_run",
]

LOAD_ATTEMPTS = 5
"""How often a load is tried while it fails with EAGAIN, which a pending signal causes (libbpf)."""

_RUN_ATTEMPTS = 30
"""How often a test run is tried while signals interrupt it."""


def prog_load_attempt(
    prog_type: int,
    insns: Buffer,
    license: str = "GPL",  # noqa: A002
    *,
    prog_name: str | bytes = "",
    expected_attach_type: int = 0,
    prog_flags: int = 0,
    kern_version: int = 0,
    prog_ifindex: int = 0,
    prog_btf_fd: int = 0,
    func_info: Buffer = b"",
    func_info_rec_size: int = 8,
    line_info: Buffer = b"",
    line_info_rec_size: int = 16,
    core_relos: Buffer = b"",
    core_relo_rec_size: int = 16,
    attach_btf_id: int = 0,
    attach_prog_fd: int = 0,
    attach_btf_obj_fd: int = 0,
    fd_array: Sequence[int] = (),
    fd_array_cnt: int = 0,
    signature: Buffer = b"",
    keyring_id: int = 0,
    token_fd: int = 0,
    log_level: int = 0,
    log_buf: bytearray | None = None,
    attempts: int = LOAD_ATTEMPTS,
) -> tuple[int, Attr]:
    """``BPF_PROG_LOAD`` without raising: arguments as :func:`prog_load`.

    Returns:
        The descriptor or the negative error number, and the attribute, where the kernel has left
        ``log_true_size`` (since 6.4) and the record sizes that it knows.
    """
    if attach_prog_fd and attach_btf_obj_fd:
        raise ValueError("attach_prog_fd and attach_btf_obj_fd exclude each other")
    values: dict[str, Any] = {}
    for name, records, size in (
        ("func_info", func_info, func_info_rec_size),
        ("line_info", line_info, line_info_rec_size),
        ("core_relo", core_relos, core_relo_rec_size),
    ):
        if length := memoryview(records).nbytes:
            values["core_relos" if name == "core_relo" else name] = records
            values[f"{name}_rec_size"] = size
            values[f"{name}_cnt"] = length // size
    if log_level and log_buf is not None:
        values.update(log_level=log_level, log_buf=log_buf, log_size=len(log_buf))
    if length := memoryview(signature).nbytes:
        values.update(signature=signature, signature_size=length, keyring_id=keyring_id)
    if fd_array:
        from array import array

        values.update(fd_array=array("i", fd_array), fd_array_cnt=fd_array_cnt)
    attr = layout("PROG_LOAD").build(
        "log_true_size" if "log_level" in values else None,
        prog_type=prog_type,
        insn_cnt=memoryview(insns).nbytes // 8,
        insns=insns,
        license=license,
        kern_version=kern_version,
        prog_flags=prog_flags,
        prog_name=prog_name,
        prog_ifindex=prog_ifindex,
        expected_attach_type=expected_attach_type,
        prog_btf_fd=prog_btf_fd,
        attach_btf_id=attach_btf_id,
        attach_prog_fd=attach_prog_fd or attach_btf_obj_fd,
        prog_token_fd=token_fd,
        **values,
    )
    return at_least_3(retried(attr, EAGAIN, attempts)), attr


def prog_load(
    prog_type: int,
    insns: Buffer,
    license: str = "GPL",  # noqa: A002
    **options: Any,
) -> int:
    """``BPF_PROG_LOAD`` (Linux 3.18): verify a program and load it.

    This makes no second try with a log; :func:`pybpfload.kernel.progload.load_program` does.

    Args:
        prog_type: :class:`~pybpfload.uapi.ProgType`.
        insns: Instructions, 8 bytes each, in the machine's byte order.
        license: Programs with a GPL-compatible one may call more helpers.
        **options: By keyword: ``prog_name`` (at most 15 bytes, 4.15), ``expected_attach_type``
            (4.17), ``prog_flags`` (:class:`~pybpfload.uapi.ProgFlag`), ``kern_version`` (kprobe
            programs before 5.0), ``prog_ifindex``, ``prog_btf_fd`` with ``func_info`` and
            ``line_info`` (5.0; records as bytes, their sizes in ``func_info_rec_size`` and
            ``line_info_rec_size``), ``core_relos``, ``attach_btf_id`` (5.5) and with it
            ``attach_prog_fd`` (5.6) or ``attach_btf_obj_fd`` (5.11), ``fd_array`` (5.14) and
            ``fd_array_cnt`` (6.14), ``signature`` and ``keyring_id`` (6.18), ``token_fd`` (needs
            ``ProgFlag.TOKEN_FD``, 6.9), ``log_level`` with ``log_buf`` (a ``bytearray``),
            ``attempts`` while a signal interrupts the verifier.

    Returns:
        The descriptor, which the caller owns.

    Raises:
        KernelError: The kernel refused; the log, if any, is in ``log_buf``.
        ValueError: A number does not fit its field, or the name is too long.
    """
    fd, attr = prog_load_attempt(prog_type, insns, license, **options)
    if fd < 0:
        name = options.get("prog_name")
        raise refused(fd, attr, f"program {name}" if name else "a program")
    return fd


def prog_attach(
    prog_fd: int,
    target_fd: int,
    attach_type: int,
    *,
    attach_flags: int = 0,
    replace_bpf_fd: int = 0,
    relative_fd: int = 0,
    relative_id: int = 0,
    expected_revision: int = 0,
) -> None:
    """``BPF_PROG_ATTACH`` (4.10): attach without a link, until detached.

    Args:
        prog_fd: The program.
        target_fd: Control group, map, network namespace, LIRC device; interface index for tcx and
            netkit.
        attach_type: :class:`~pybpfload.uapi.AttachType`.
        attach_flags: :class:`~pybpfload.uapi.AttachFlag`.
        replace_bpf_fd: Program to replace; needs ``AttachFlag.REPLACE`` (5.6).
        relative_fd: Program to go before or after (tcx and netkit 6.6, control groups 6.17).
        relative_id: The same by id; sets ``AttachFlag.ID``.
        expected_revision: Fail with ESTALE if the list has changed since.

    Raises:
        KernelError: The kernel refused.
    """
    if relative_fd and relative_id:
        raise ValueError("relative_fd and relative_id exclude each other")
    call(
        "PROG_ATTACH",
        f"program fd {prog_fd}",
        target_fd=target_fd,
        attach_bpf_fd=prog_fd,
        attach_type=attach_type,
        attach_flags=attach_flags | (0x20 if relative_id else 0),
        replace_bpf_fd=replace_bpf_fd,
        relative_fd=relative_id or relative_fd,
        expected_revision=expected_revision,
    )


def prog_detach(
    target_fd: int,
    attach_type: int,
    *,
    prog_fd: int = 0,
    attach_flags: int = 0,
    relative_fd: int = 0,
    relative_id: int = 0,
    expected_revision: int = 0,
) -> None:
    """``BPF_PROG_DETACH`` (4.10): undo :func:`prog_attach`.

    Args:
        target_fd: As for :func:`prog_attach`.
        attach_type: As for :func:`prog_attach`.
        prog_fd: Which program, where there may be several.
        attach_flags: ``AttachFlag.BEFORE`` or ``AFTER`` for tcx and netkit.
        relative_fd: As for :func:`prog_attach`.
        relative_id: As for :func:`prog_attach`.
        expected_revision: As for :func:`prog_attach`.

    Raises:
        KernelError: ENOENT when it is not attached, and others.
    """
    if relative_fd and relative_id:
        raise ValueError("relative_fd and relative_id exclude each other")
    call(
        "PROG_DETACH",
        f"target {target_fd}",
        target_fd=target_fd,
        attach_bpf_fd=prog_fd,
        attach_type=attach_type,
        attach_flags=attach_flags | (0x20 if relative_id else 0),
        relative_fd=relative_id or relative_fd,
        expected_revision=expected_revision,
    )


class ProgQuery(Record):
    """What is attached somewhere.

    Attributes:
        prog_ids: Ids of the programs, in the order in which they run.
        attach_flags: Flags of the place.
        prog_attach_flags: Flags by program, where asked for.
        link_ids: Ids of the links by program (0: attached without a link), where asked for.
        revision: Changes with each change of the list (6.6), else 0.
    """

    __slots__ = ("attach_flags", "link_ids", "prog_attach_flags", "prog_ids", "revision")
    prog_ids: list[int]
    attach_flags: int
    prog_attach_flags: list[int]
    link_ids: list[int]
    revision: int


def prog_query(
    target_fd: int,
    attach_type: int,
    *,
    query_flags: int = 0,
    prog_attach_flags: bool = False,
    link_ids: bool = False,
) -> ProgQuery:
    """``BPF_PROG_QUERY`` (4.15): what is attached.

    Args:
        target_fd: As for :func:`prog_attach`.
        attach_type: :class:`~pybpfload.uapi.AttachType`.
        query_flags: ``QueryFlag.EFFECTIVE`` includes what is inherited from above.
        prog_attach_flags: Ask for the flags of each program (control groups 6.0, tcx 6.6).
        link_ids: Ask for the links (tcx and netkit, 6.6).

    Raises:
        KernelError: The kernel refused.
    """
    from array import array

    room = 0
    while True:
        lists = {"prog_ids": array("I", bytes(4 * room))}
        if prog_attach_flags:
            lists["prog_attach_flags"] = array("I", bytes(4 * room))
        if link_ids:
            lists["link_ids"] = array("I", bytes(4 * room))
        attr = layout("PROG_QUERY").build(
            "revision",
            target_fd=target_fd,
            attach_type=attach_type,
            query_flags=query_flags,
            count=room,
            **lists,
        )
        result = invoke(attr)
        count = attr["count"]
        if result < 0 and not (result == -errno.ENOSPC and count > room):
            raise refused(result, attr, f"target {target_fd}")
        if count <= room:
            break
        room = count
    return ProgQuery(
        prog_ids=lists["prog_ids"].tolist()[:count],
        attach_flags=attr["attach_flags"],
        prog_attach_flags=lists.get("prog_attach_flags", array("I")).tolist()[:count],
        link_ids=lists.get("link_ids", array("I")).tolist()[:count],
        revision=attr["revision"],
    )


class TestRun(Record):
    """Result of a test run.

    Attributes:
        retval: What the program returned.
        duration: Average time of one run, ns.
        data_out: Packet as the program left it.
        ctx_out: Context as the program left it (of syscall programs: their argument).
    """

    __test__ = False
    __slots__ = ("ctx_out", "data_out", "duration", "retval")
    retval: int
    duration: int
    data_out: bytes
    ctx_out: bytes


def prog_test_run(
    prog_fd: int,
    *,
    data_in: Buffer = b"",
    data_size_out: int | None = None,
    ctx_in: Buffer = b"",
    ctx_size_out: int = 0,
    repeat: int = 0,
    flags: int = 0,
    cpu: int = 0,
    batch_size: int = 0,
) -> TestRun:
    """``BPF_PROG_TEST_RUN`` (4.12): run a program once or more on made-up input.

    Args:
        prog_fd: The program.
        data_in: Packet, for networking types.
        data_size_out: Room for the packet afterwards, bytes; by default that of ``data_in`` and 256
            more, none without ``data_in``.
        ctx_in: Context (5.2), or the argument of a syscall program, which may change it.
        ctx_size_out: Room for the context afterwards, bytes. Most tracing types take none.
        repeat: How often.
        flags: :class:`~pybpfload.uapi.TestRunFlag`.
        cpu: Where, with ``TestRunFlag.RUN_ON_CPU`` (5.10).
        batch_size: For ``TestRunFlag.XDP_LIVE_FRAMES`` (5.18).

    Raises:
        KernelError: ENOSPC when the room is too small, 524 for types that cannot be run so, and
            others.
    """
    size_in = memoryview(data_in).nbytes
    if data_size_out is None:
        data_size_out = size_in + 256 if size_in else 0
    data_out = bytearray(data_size_out)
    context = bytearray(ctx_in)
    context_out = bytearray(ctx_size_out)
    attempts = _RUN_ATTEMPTS
    while True:
        # Made afresh each time: an interrupted run has overwritten some fields.
        attr = layout("PROG_TEST_RUN").build(
            prog_fd=prog_fd,
            data_size_in=size_in,
            data_size_out=data_size_out,
            data_in=data_in,
            data_out=data_out,
            repeat=repeat,
            ctx_size_in=len(context),
            ctx_size_out=ctx_size_out,
            ctx_in=context,
            ctx_out=context_out,
            flags=flags,
            cpu=cpu,
            batch_size=batch_size,
        )
        result = invoke(attr)
        attempts -= 1
        if result != -EINTR or not attempts:
            break
    if result < 0:
        hint = None
        if result == -errno.ENOSPC:
            hint = f"data_size_out must be {attr['data_size_out']}"
        elif result == -EINTR:
            hint = f"signals interrupted each of {_RUN_ATTEMPTS} attempts: repeat it less often"
        raise kernel_error(result, "BPF_PROG_TEST_RUN", f"program fd {prog_fd}", hint=hint)
    return TestRun(
        retval=attr["retval"],
        duration=attr["duration"],
        data_out=bytes(data_out[: attr["data_size_out"]]),
        ctx_out=bytes(context_out[: attr["ctx_size_out"]] if ctx_size_out else context),
    )


def prog_bind_map(prog_fd: int, map_fd: int, *, flags: int = 0) -> None:
    """``BPF_PROG_BIND_MAP`` (5.10): keep a map alive as long as a program, though it isn't used.

    Raises:
        KernelError: The kernel refused.
    """
    call("PROG_BIND_MAP", f"program fd {prog_fd}", prog_fd=prog_fd, map_fd=map_fd, flags=flags)


def prog_assoc_struct_ops(prog_fd: int, map_fd: int, *, flags: int = 0) -> None:
    """``BPF_PROG_ASSOC_STRUCT_OPS`` (7.0): let a program's kfuncs work on a struct_ops map.

    Raises:
        KernelError: The kernel refused.
    """
    call(
        "PROG_ASSOC_STRUCT_OPS",
        f"program fd {prog_fd}",
        prog_fd=prog_fd,
        map_fd=map_fd,
        flags=flags,
    )


def prog_stream_read(prog_fd: int, stream_id: int, size: int = 4096) -> bytes:
    """``BPF_PROG_STREAM_READ_BY_FD`` (6.17): what a program has written to its streams.

    Args:
        prog_fd: The program.
        stream_id: :class:`~pybpfload.uapi.StreamId`.
        size: At most so many bytes.

    Returns:
        What was read; empty when there is nothing.

    Raises:
        KernelError: The kernel refused.
    """
    buffer = bytearray(size)
    got = call(
        "PROG_STREAM_READ_BY_FD",
        f"program fd {prog_fd}",
        stream_buf=buffer,
        stream_buf_len=size,
        stream_id=stream_id,
        prog_fd=prog_fd,
    )
    return bytes(buffer[:got])
