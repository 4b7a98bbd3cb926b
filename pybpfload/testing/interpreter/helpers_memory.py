"""Helpers that read memory which may not be there, that make text, and that read packets.

Sources: ``kernel/trace/bpf_trace.c``, ``kernel/bpf/helpers.c``, ``net/core/filter.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.helper import MASK32, Table
from pybpfload.testing.interpreter.printf import format_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.testing.interpreter.machine import Machine
    from pybpfload.testing.interpreter.memory import Region

__all__ = ["TABLE"]

TABLE: Final = Table()

_ANY: Final = ("kernel", "user", "packet")
_KERNEL: Final = ("kernel", "packet")
_USER: Final = ("user",)
_MAX_VALUES: Final = 12  # MAX_BPRINTF_VARARGS


# Reading what may not be there: -EFAULT, and zeros, if it is not


def _there(machine: Machine, address: int, size: int, spaces: Sequence[str]) -> bytes:
    """Up to ``size`` bytes that are at an address."""
    region = machine.memory.find(address)
    if region is None or region.space not in spaces:
        return b""
    start = address - region.base
    return bytes(region.data[start : start + size])


def _probe_read(machine: Machine, to: int, size: int, address: int, spaces: Sequence[str]) -> int:
    size &= MASK32
    data = _there(machine, address, size, spaces)
    if len(data) < size:
        machine.memory.clear(to, size)
        return -errno.EFAULT
    machine.memory.write(to, data)
    return 0


def _probe_read_str(
    machine: Machine, to: int, size: int, address: int, spaces: Sequence[str]
) -> int:
    size &= MASK32
    if not size:
        return 0
    data = _there(machine, address, size, spaces)
    text, nul, _ = data.partition(b"\0")
    if not nul and len(data) < size:
        machine.memory.clear(to, size)
        return -errno.EFAULT
    text = text[: size - 1] + b"\0"
    machine.memory.write(to, text)
    return len(text)


@TABLE.add("probe_read")
def _read_any(machine: Machine, to: int, size: int, address: int) -> int:
    return _probe_read(machine, to, size, address, _ANY)


@TABLE.add("probe_read_kernel")
def _read_kernel(machine: Machine, to: int, size: int, address: int) -> int:
    return _probe_read(machine, to, size, address, _KERNEL)


@TABLE.add("probe_read_user", "copy_from_user")
def _read_user(machine: Machine, to: int, size: int, address: int) -> int:
    return _probe_read(machine, to, size, address, _USER)


@TABLE.add("probe_read_str")
def _read_any_str(machine: Machine, to: int, size: int, address: int) -> int:
    return _probe_read_str(machine, to, size, address, _ANY)


@TABLE.add("probe_read_kernel_str")
def _read_kernel_str(machine: Machine, to: int, size: int, address: int) -> int:
    return _probe_read_str(machine, to, size, address, _KERNEL)


@TABLE.add("probe_read_user_str")
def _read_user_str(machine: Machine, to: int, size: int, address: int) -> int:
    return _probe_read_str(machine, to, size, address, _USER)


# Text


def _values(machine: Machine, data: int, length: int) -> list[int] | None:
    """The 64-bit numbers of an array of ``length`` bytes, ``None`` if the kernel refuses it."""
    length &= MASK32
    if length % 8 or length > 8 * _MAX_VALUES or (length and not data):
        return None
    load = machine.memory.reader(8)
    return [load(data + offset) for offset in range(0, length, 8)]


def _template(machine: Machine, text: int, size: int) -> bytes:
    found = machine.memory.read(text, size & MASK32)
    if found[-1:] != b"\0":
        raise FaultError(f"format {found!r} does not end in a NUL")
    return found.partition(b"\0")[0]


@TABLE.add("trace_printk")
def _trace_printk(
    machine: Machine, text: int, size: int, first: int = 0, second: int = 0, third: int = 0
) -> int:
    made = format_text(machine.memory, _template(machine, text, size), (first, second, third))
    return _print(machine, made)


@TABLE.add("trace_vprintk")
def _trace_vprintk(machine: Machine, text: int, size: int, data: int, length: int) -> int:
    values = _values(machine, data, length)
    if values is None:
        return -errno.EINVAL
    return _print(machine, format_text(machine.memory, _template(machine, text, size), values))


def _print(machine: Machine, text: bytes) -> int:
    machine.keep(len(text))
    machine.printk.append(text.decode(errors="backslashreplace").removesuffix("\n"))
    return len(text)


@TABLE.add("snprintf")
def _snprintf(machine: Machine, to: int, size: int, text: int, data: int, length: int) -> int:
    size &= MASK32
    values = _values(machine, data, length)
    if values is None:
        return -errno.EINVAL
    made = format_text(machine.memory, machine.memory.text(text), values)
    if size:
        machine.memory.write(to, made[: size - 1] + b"\0")
    return len(made) + 1


@TABLE.add("seq_printf")
def _seq_printf(machine: Machine, seq: int, text: int, size: int, data: int, length: int) -> int:
    values = _values(machine, data, length)
    if values is None:
        return -errno.EINVAL
    return _write_output(
        machine, format_text(machine.memory, _template(machine, text, size), values)
    )


@TABLE.add("seq_write")
def _seq_write(machine: Machine, seq: int, data: int, size: int) -> int:
    return _write_output(machine, machine.memory.read(data, size & MASK32))


def _write_output(machine: Machine, data: bytes) -> int:
    machine.keep(len(data))
    machine.output += data
    return 0


@TABLE.add("strncmp")
def _strncmp(machine: Machine, left: int, size: int, right: int) -> int:
    size &= MASK32
    mine = machine.memory.read(left, size).partition(b"\0")[0]
    other = machine.memory.text(right)[:size]
    return (mine > other) - (mine < other)


# Packets


def _packet(machine: Machine, skb: int) -> Region:
    packet = machine.context.packet
    if packet is None or skb != machine.context.address:
        raise FaultError(f"{skb:#x} is not the context of a packet")
    return packet


@TABLE.add("skb_load_bytes", "xdp_load_bytes")
def _load_bytes(machine: Machine, skb: int, offset: int, to: int, size: int) -> int:
    offset, size = offset & MASK32, size & MASK32
    data = bytes(_packet(machine, skb).data[offset : offset + size])
    if len(data) < size:
        machine.memory.clear(to, size)
        return -errno.EFAULT
    machine.memory.write(to, data)
    return 0


@TABLE.add("skb_store_bytes", "xdp_store_bytes")
def _store_bytes(
    machine: Machine, skb: int, offset: int, address: int, size: int, flags: int = 0
) -> int:
    offset, size = offset & MASK32, size & MASK32
    packet = _packet(machine, skb)
    if offset + size > len(packet.data):
        return -errno.EFAULT
    packet.data[offset : offset + size] = machine.memory.read(address, size)
    return 0
