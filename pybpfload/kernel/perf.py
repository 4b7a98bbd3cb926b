"""Perf events: opening and controlling them.

Layout of ``struct perf_event_attr`` and numbers: ``linux/perf_event.h``.
"""

from __future__ import annotations

import errno
import struct
import sys

from pybpfload.errors import KernelError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error
from pybpfload.kernel.fd import at_least_3
from pybpfload.uapi import (
    PERF_ATTR_SIZE_VER5,
    PERF_FLAG_FD_CLOEXEC,
    PerfSample,
    PerfSoftware,
    PerfType,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "disable",
    "enable",
    "event_attr",
    "event_fields",
    "open_bpf_output",
    "open_event",
    "open_probe",
    "open_tracepoint",
    "output_state",
    "pause_output",
    "pmu_number",
    "set_bpf",
]

_FORMAT_TIME_ENABLED, _FORMAT_LOST = 1, 16  # read_format; the latter since Linux 6.0
_CLOCK_MONOTONIC = 1

# The first 112 bytes, which all kernels since 4.1 know; name, struct code, offset.
_FIELDS: dict[str, tuple[str, int]] = {
    "type": ("I", 0),
    "size": ("I", 4),
    "config": ("Q", 8),
    "sample_period": ("Q", 16),
    "sample_freq": ("Q", 16),
    "sample_type": ("Q", 24),
    "read_format": ("Q", 32),
    "wakeup_events": ("I", 48),
    "wakeup_watermark": ("I", 48),
    "bp_type": ("I", 52),
    "config1": ("Q", 56),
    "config2": ("Q", 64),
    "branch_sample_type": ("Q", 72),
    "sample_regs_user": ("Q", 80),
    "sample_stack_user": ("I", 88),
    "clockid": ("i", 92),
    "sample_regs_intr": ("Q", 96),
    "aux_watermark": ("I", 104),
    "sample_max_stack": ("H", 108),
}

# Bit fields of the 64-bit word at 40, counted from the end where the machine keeps its low bits.
_BITS = {
    "disabled": 0,
    "inherit": 1,
    "pinned": 2,
    "exclusive": 3,
    "exclude_user": 4,
    "exclude_kernel": 5,
    "exclude_hv": 6,
    "exclude_idle": 7,
    "mmap": 8,
    "comm": 9,
    "freq": 10,
    "enable_on_exec": 12,
    "watermark": 14,
    "sample_id_all": 18,
    "exclude_callchain_kernel": 21,
    "exclude_callchain_user": 22,
    "use_clockid": 25,
    "write_backward": 27,
}


def event_attr(byteorder: str = sys.byteorder, **values: int) -> bytearray:
    """``struct perf_event_attr``, 112 bytes.

    Args:
        byteorder: Of the machine, ``"little"`` or ``"big"``.
        **values: Fields and flags by their kernel names.

    Raises:
        ValueError: A number does not fit its field.
        TypeError: There is no such field or flag.
    """
    mark = "<" if byteorder == "little" else ">"
    data = bytearray(PERF_ATTR_SIZE_VER5)
    struct.pack_into(mark + "I", data, 4, PERF_ATTR_SIZE_VER5)
    flags = 0
    for name, value in values.items():
        if name in _BITS:
            bit = _BITS[name]
            flags |= bool(value) << (bit if byteorder == "little" else 63 - bit)
            continue
        if name not in _FIELDS:
            raise TypeError(f"perf_event_attr has no field {name}")
        code, offset = _FIELDS[name]
        try:
            struct.pack_into(mark + code, data, offset, value)
        except struct.error:
            raise ValueError(f"perf_event_attr: {name} {value!r} does not fit") from None
    struct.pack_into(mark + "Q", data, 40, flags)
    return data


def event_fields(attr: bytes | bytearray, byteorder: str = sys.byteorder) -> dict[str, int]:
    """What is set in a ``struct perf_event_attr``: fields and flags by name, without its size.

    Of fields that share their place the first is named, or that which a flag asks for.

    Args:
        attr: 112 bytes or more.
        byteorder: Of the machine, ``"little"`` or ``"big"``.
    """
    mark = "<" if byteorder == "little" else ">"
    (word,) = struct.unpack_from(mark + "Q", attr, 40)
    flags = {
        name: 1
        for name, bit in _BITS.items()
        if word >> (bit if byteorder == "little" else 63 - bit) & 1
    }
    other = {"sample_period": "freq" in flags, "sample_freq": "freq" not in flags,
             "wakeup_events": "watermark" in flags,
             "wakeup_watermark": "watermark" not in flags}  # fmt: skip
    found = {
        name: struct.unpack_from(mark + code, attr, offset)[0]
        for name, (code, offset) in _FIELDS.items()
        if name != "size" and not other.get(name)
    }
    return {name: value for name, value in found.items() if value or name == "type"} | flags


def open_event(
    attr: bytearray,
    *,
    pid: int = -1,
    cpu: int | None = None,
    group_fd: int = -1,
    flags: int = 0,
    target: str | None = None,
) -> int:
    """Open a perf event, close-on-exec.

    Args:
        attr: From :func:`event_attr`.
        pid: Process to watch; negative for all.
        cpu: CPU to watch, -1 for all; by default 0 if all processes are watched (probes and
            tracepoints then fire on every CPU), otherwise all.
        group_fd: Leader of a group.
        flags: ``PERF_FLAG_...``.
        target: What it is, for errors.

    Returns:
        The descriptor, which the caller owns.

    Raises:
        KernelError: The kernel refused.
    """
    pid = max(pid, -1)
    if cpu is None:
        cpu = 0 if pid == -1 else -1
    fd = -errno.EINTR
    attempts = 5
    while fd == -errno.EINTR and attempts:
        fd = door.perf_event_open(attr, pid, cpu, group_fd, flags | PERF_FLAG_FD_CLOEXEC)
        attempts -= 1
    fd = at_least_3(fd)
    if fd < 0:
        raise kernel_error(fd, "perf_event_open", target)
    return fd


def open_tracepoint(number: int, *, pid: int = -1, target: str | None = None) -> int:
    """Open the perf event of a tracepoint, disabled until :func:`enable`.

    Args:
        number: From :func:`pybpfload.kernel.tracefs.tracepoint_id`.
        pid: Process to watch; negative for all.
        target: What it is, for errors.

    Raises:
        KernelError: The kernel refused.
    """
    attr = event_attr(type=PerfType.TRACEPOINT, config=number, disabled=1)
    return open_event(attr, pid=pid, target=target or f"tracepoint {number}")


def open_probe(
    device: str,
    name: str | None,
    where: int,
    *,
    on_return: bool = False,
    ref_ctr_offset: int = 0,
    pid: int = -1,
    target: str | None = None,
) -> int:
    """Open the perf event of a probe (Linux 4.17), disabled until :func:`enable`.

    Args:
        device: Performance unit: ``"kprobe"`` or ``"uprobe"``.
        name: Name of a kernel function, ``None`` for an address; path of a file.
        where: Offset in the function or file in bytes, or the address.
        on_return: Fire when the function returns.
        ref_ctr_offset: Of a uprobe: file offset of its semaphore (Linux 4.20), below 4 GiB.
        pid: Process to watch; negative for all.
        target: What it is, for errors.

    Raises:
        KernelError: ENOENT: the kernel has no such unit or function; and others.
    """
    import ctypes

    config = 1 << pmu_number(device, "format/retprobe") if on_return else 0
    kept = ctypes.create_string_buffer(name.encode("utf-8", "surrogateescape")) if name else None
    attr = event_attr(
        type=pmu_number(device),
        config=config | ref_ctr_offset << 32,
        config1=ctypes.addressof(kept) if kept is not None else 0,
        config2=where,
        disabled=1,
    )
    return open_event(attr, pid=pid, target=target or f"{device} {name or hex(where)}")


def open_bpf_output(
    cpu: int,
    *,
    wakeup_events: int = 1,
    watermark: int = 0,
    backward: bool = False,
    sample_type: int = 0,
) -> int:
    """Open the event that ``bpf_perf_event_output()`` writes to on one CPU.

    Args:
        cpu: The CPU.
        wakeup_events: Wake the reader after so many samples.
        watermark: Wake it after so many bytes instead.
        backward: Write from the end of the ring to its start (Linux 4.7).
        sample_type: What samples carry beside the data of programs, of :class:`PerfSample`. Times
            are of ``CLOCK_MONOTONIC``, as ``bpf_ktime_get_ns()`` has them.

    Raises:
        KernelError: The kernel refused; ENODEV for a CPU that is offline.
    """
    values: dict[str, Any] = {
        "type": PerfType.SOFTWARE,
        "config": PerfSoftware.BPF_OUTPUT,
        "sample_type": PerfSample.RAW | sample_type,
        "wakeup_watermark" if watermark else "wakeup_events": watermark or wakeup_events,
        "watermark": bool(watermark),
        "write_backward": backward,
        "use_clockid": bool(sample_type & PerfSample.TIME),
        "clockid": _CLOCK_MONOTONIC if sample_type & PerfSample.TIME else 0,
    }
    what = f"output events of CPU {cpu}"
    try:
        attr = event_attr(read_format=_FORMAT_TIME_ENABLED | _FORMAT_LOST, **values)
        return open_event(attr, pid=-1, cpu=cpu, target=what)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
    attr = event_attr(read_format=_FORMAT_TIME_ENABLED, **values)
    return open_event(attr, pid=-1, cpu=cpu, target=what)


def output_state(fd: int) -> tuple[int, int | None]:
    """What the kernel tells about an event of :func:`open_bpf_output`.

    Returns:
        How long it has been on, in ns: a clock that stands still once its CPU has gone offline,
        for good; and how many samples did not fit so far, ``None`` before Linux 6.0.

    Raises:
        OSError: As read(2).
    """
    data = door.read(fd, 24)
    if len(data) < 16:
        return 0, None
    _, time, *lost = struct.unpack(f"={len(data) // 8}Q", data)
    return time, lost[0] if lost else None


def pmu_number(device: str, file: str = "type") -> int:
    """A number that a performance unit tells in ``/sys/bus/event_source/devices``.

    Args:
        device: Name of the unit, for example ``"kprobe"``.
        file: ``"type"``, or ``"format/retprobe"`` for the bit of return probes.

    Raises:
        KernelError: ENOENT when the kernel has no such unit, EIO when the file has no number.
    """
    path = f"/sys/bus/event_source/devices/{device}/{file}"
    try:
        text = door.read_file(path).decode(errors="replace").strip()
    except OSError as error:
        raise kernel_error(error.errno or errno.EIO, "open", path) from None
    number = text.removeprefix("config:")
    if not number.isdecimal():
        raise kernel_error(errno.EIO, "read", path)
    return int(number)


def _request(direction: int, number: int, size: int) -> int:
    """An ioctl number; powerpc, mips and sparc have other direction bits."""
    machine = door.uname().machine
    if machine.startswith(("ppc", "mips", "sparc")):
        return (1 if direction == 0 else 4) << 29 | size << 16 | ord("$") << 8 | number
    return direction << 30 | size << 16 | ord("$") << 8 | number


def _control(fd: int, request: int, argument: int, name: str, hints: dict[int, str]) -> None:
    result = door.ioctl(fd, request, argument)
    if result < 0:
        hint = hints.get(-result)
        raise kernel_error(result, name, f"perf event fd {fd}", hint=hint)


def enable(fd: int) -> None:
    """Let a perf event count and fire.

    Raises:
        KernelError: The kernel refused.
    """
    _control(fd, _request(0, 0, 0), 0, "PERF_EVENT_IOC_ENABLE", {})


def disable(fd: int) -> None:
    """Stop a perf event.

    Raises:
        KernelError: The kernel refused.
    """
    _control(fd, _request(0, 1, 0), 0, "PERF_EVENT_IOC_DISABLE", {})


def pause_output(fd: int, pause: bool) -> None:
    """Keep an event from writing into its ring, or let it again (Linux 4.7).

    What would have been written meanwhile counts as lost.

    Raises:
        KernelError: EINVAL: the event has no ring.
    """
    _control(fd, _request(1, 9, 4), int(pause), "PERF_EVENT_IOC_PAUSE_OUTPUT", {})


def set_bpf(fd: int, prog_fd: int) -> None:
    """Attach a program to a perf event without a link (Linux 4.1).

    Raises:
        KernelError: EEXIST when there is one already (before 4.15), and others.
    """
    hints: dict[int, Any] = {
        errno.EPROTO: "the kernel's event needs a call chain that programs must be able to read; "
        "the event's precise_ip and sample_type do not allow that",
        errno.EINVAL: "the program's type does not fit the event",
    }
    _control(fd, _request(1, 8, 4), prog_fd, "PERF_EVENT_IOC_SET_BPF", hints)
