"""Helpers that programs call (``kernel/bpf/helpers.c``, ``kernel/trace/bpf_trace.c``).

A helper is a Python function. Its first parameter is the :class:`~.machine.Machine`, the others are
as many of r1 to r5 as it takes, unsigned 64-bit numbers. What it returns goes to r0, negative error
numbers included; ``None`` leaves r0 without a value. Helpers that users write are the same.
"""

from __future__ import annotations

import errno
import inspect
from typing import TYPE_CHECKING, Any, Final

from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.maps import EventMap, QueueMap
from pybpfload.testing.interpreter.printf import format_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from pybpfload.testing.interpreter.machine import Machine
    from pybpfload.testing.interpreter.maps import MapModel

    Helper: TypeAlias = Callable[..., int | None]

__all__ = ["HELPERS", "arity"]

_MASK32: Final = 0xFFFFFFFF
_MAX_LOOPS: Final = 8 << 20
_CURRENT_CPU: Final = _MASK32

HELPERS: Final[dict[str, Helper]] = {}
"""Name with ``bpf_`` -> the helper or kfunc."""


def arity(helper: Helper) -> int:
    """Number of registers that a helper takes: its parameters after the first, 5 at most."""
    parameters = list(inspect.signature(helper).parameters.values())[1:]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return 5
    return min(len(parameters), 5)


def _helper(*names: str) -> Callable[[Helper], Helper]:
    def register(function: Helper) -> Helper:
        for name in names or (function.__name__.strip("_"),):
            HELPERS[f"bpf_{name}"] = function
        return function

    return register


# Maps


def _key(machine: Machine, found: MapModel, address: int) -> bytes:
    return machine.memory.read(address, found.spec.key_size)


@_helper()
def _map_lookup_elem(machine: Machine, map_: int, key: int) -> int:
    found = machine.map(map_)
    return found.lookup_elem(_key(machine, found, key))


@_helper()
def _map_lookup_percpu_elem(machine: Machine, map_: int, key: int, cpu: int) -> int:
    found = machine.map(map_)
    lookup = getattr(found, "lookup_percpu_elem", None)
    if lookup is None or not getattr(found, "per_cpu", False):
        raise FaultError(f"map {found.name} has no values by CPU")
    address: int = lookup(_key(machine, found, key), cpu & _MASK32)
    return address


@_helper()
def _map_update_elem(machine: Machine, map_: int, key: int, value: int, flags: int) -> int:
    found = machine.map(map_)
    raw = machine.memory.read(value, found.spec.value_size)
    return found.update_elem(_key(machine, found, key), raw, flags)


@_helper()
def _map_delete_elem(machine: Machine, map_: int, key: int) -> int:
    found = machine.map(map_)
    return found.delete_elem(_key(machine, found, key))


def _queue(machine: Machine, address: int) -> QueueMap:
    found = machine.map(address)
    if not isinstance(found, QueueMap):
        raise FaultError(f"map {found.name} is no queue and no stack")
    return found


@_helper()
def _map_push_elem(machine: Machine, map_: int, value: int, flags: int) -> int:
    found = _queue(machine, map_)
    return found.push_bytes(machine.memory.read(value, found.spec.value_size), flags)


def _give(machine: Machine, map_: int, value: int, remove: bool) -> int:
    found = _queue(machine, map_)
    raw = found.next_bytes(remove)
    machine.memory.write(value, raw or bytes(found.spec.value_size))
    return -errno.ENOENT if raw is None else 0


@_helper()
def _map_pop_elem(machine: Machine, map_: int, value: int) -> int:
    return _give(machine, map_, value, remove=True)


@_helper()
def _map_peek_elem(machine: Machine, map_: int, value: int) -> int:
    return _give(machine, map_, value, remove=False)


@_helper()
def _for_each_map_elem(machine: Machine, map_: int, callback: int, context: int, flags: int) -> int:
    if flags:
        return -errno.EINVAL
    found = machine.map(map_)
    visited = 0
    for key, value in found.elements():
        region = machine.memory.allocate(key, f"key of map {found.name}", writable=False)
        stop = machine.call(callback, map_, region.base, value, context)
        machine.memory.release(region)
        visited += 1
        if stop:
            break
    return visited


@_helper()
def _loop(machine: Machine, count: int, callback: int, context: int, flags: int) -> int:
    count &= _MASK32
    if flags:
        return -errno.EINVAL
    if count > _MAX_LOOPS:
        return -errno.E2BIG
    for index in range(count):
        if machine.call(callback, index, context):
            return index + 1
    return count


# Events


def _ring(machine: Machine, address: int) -> EventMap:
    found = machine.map(address)
    if not isinstance(found, EventMap):
        raise FaultError(f"map {found.name} is no ring buffer and no perf event array")
    return found


@_helper()
def _ringbuf_reserve(machine: Machine, map_: int, size: int, flags: int) -> int:
    return 0 if flags else _ring(machine, map_).reserve(size)


def _commit(machine: Machine, address: int, keep: bool) -> None:
    ring = machine.memory.owner(address)
    if not isinstance(ring, EventMap) or not ring.commit(address, keep):
        raise FaultError(f"{address:#x} is no record that was reserved")


@_helper()
def _ringbuf_submit(machine: Machine, record: int, flags: int) -> None:
    _commit(machine, record, keep=True)


@_helper()
def _ringbuf_discard(machine: Machine, record: int, flags: int) -> None:
    _commit(machine, record, keep=False)


@_helper()
def _ringbuf_output(machine: Machine, map_: int, data: int, size: int, flags: int) -> int:
    return _ring(machine, map_).output(machine.memory.read(data, size))


@_helper("perf_event_output")
def _perf_event_output(
    machine: Machine, context: int, map_: int, flags: int, data: int, size: int
) -> int:
    cpu = flags & _CURRENT_CPU
    if cpu not in (_CURRENT_CPU, machine.environment.cpu):
        return -errno.EOPNOTSUPP if cpu < machine.environment.cpus else -errno.E2BIG
    return _ring(machine, map_).output(machine.memory.read(data, size))


# Reading memory that may not be there


def _probe_read(machine: Machine, to: int, size: int, source: int, user: bool | None) -> int:
    size &= _MASK32
    region = machine.memory.find(source)
    data = None
    if region is not None and user in (None, region.space == "user"):
        start = source - region.base
        if start + size <= len(region.data):
            data = bytes(region.data[start : start + size])
    machine.memory.write(to, bytes(size) if data is None else data)
    return -errno.EFAULT if data is None and size else 0


def _probe_read_str(machine: Machine, to: int, size: int, source: int, user: bool | None) -> int:
    size &= _MASK32
    if not size:
        return 0
    region = machine.memory.find(source)
    if region is not None and user in (None, region.space == "user"):
        start = source - region.base
        text, nul, _ = bytes(region.data[start : start + size]).partition(b"\0")
        if nul or len(text) == size:
            text = text[: size - 1] + b"\0"
            machine.memory.write(to, text)
            return len(text)
    machine.memory.write(to, bytes(size))
    return -errno.EFAULT


@_helper("probe_read")
def _probe_read_any(machine: Machine, to: int, size: int, source: int) -> int:
    return _probe_read(machine, to, size, source, None)


@_helper("probe_read_kernel")
def _probe_read_kernel(machine: Machine, to: int, size: int, source: int) -> int:
    return _probe_read(machine, to, size, source, user=False)


@_helper("probe_read_user", "copy_from_user")
def _probe_read_user(machine: Machine, to: int, size: int, source: int) -> int:
    return _probe_read(machine, to, size, source, user=True)


@_helper("probe_read_str")
def _probe_read_any_str(machine: Machine, to: int, size: int, source: int) -> int:
    return _probe_read_str(machine, to, size, source, None)


@_helper("probe_read_kernel_str")
def _probe_read_kernel_str(machine: Machine, to: int, size: int, source: int) -> int:
    return _probe_read_str(machine, to, size, source, user=False)


@_helper("probe_read_user_str")
def _probe_read_user_str(machine: Machine, to: int, size: int, source: int) -> int:
    return _probe_read_str(machine, to, size, source, user=True)


# The world around the program


@_helper("ktime_get_ns", "ktime_get_boot_ns", "ktime_get_coarse_ns", "ktime_get_tai_ns")
def _ktime(machine: Machine) -> int:
    return machine.environment.now()


@_helper()
def _jiffies64(machine: Machine) -> int:
    return machine.environment.now() // 4_000_000


@_helper()
def _get_current_pid_tgid(machine: Machine) -> int:
    return machine.environment.tgid << 32 | machine.environment.pid


@_helper()
def _get_current_uid_gid(machine: Machine) -> int:
    return machine.environment.gid << 32 | machine.environment.uid


@_helper()
def _get_current_comm(machine: Machine, to: int, size: int) -> int:
    size &= _MASK32
    if not size:
        raise FaultError("bpf_get_current_comm gets no room")
    comm = machine.environment.comm.encode()[: min(size, 16) - 1]
    machine.memory.write(to, comm.ljust(size, b"\0"))
    return 0


@_helper("get_current_task", "get_current_task_btf")
def _get_current_task(machine: Machine) -> int:
    if not machine.environment.task:
        raise FaultError("there is no task: place a task_struct and set Environment.task")
    return machine.environment.task


@_helper()
def _get_current_cgroup_id(machine: Machine) -> int:
    return machine.environment.cgroup_id


@_helper("get_smp_processor_id")
def _get_smp_processor_id(machine: Machine) -> int:
    return machine.environment.cpu


@_helper()
def _get_numa_node_id(machine: Machine) -> int:
    return 0


@_helper()
def _get_prandom_u32(machine: Machine) -> int:
    return machine.environment.random.getrandbits(32)


@_helper()
def _get_func_ip(machine: Machine, context: int) -> int:
    return machine.environment.func_ip


@_helper()
def _get_attach_cookie(machine: Machine, context: int) -> int:
    return machine.environment.cookie


# Text


@_helper()
def _trace_printk(
    machine: Machine, text: int, size: int, first: int = 0, second: int = 0, third: int = 0
) -> int:
    return _print(machine, text, size, (first, second, third))


@_helper()
def _trace_vprintk(machine: Machine, text: int, size: int, data: int, length: int) -> int:
    return _print(machine, text, size, _numbers(machine, data, length))


@_helper()
def _snprintf(machine: Machine, to: int, size: int, text: int, data: int, length: int) -> int:
    size &= _MASK32
    template = machine.memory.text(text)
    made = format_text(machine.memory, template, _numbers(machine, data, length))
    if size:
        machine.memory.write(to, made[: size - 1] + b"\0")
    return len(made) + 1


def _print(machine: Machine, text: int, size: int, values: Sequence[Any]) -> int:
    template = machine.memory.read(text, size & _MASK32).partition(b"\0")[0]
    made = format_text(machine.memory, template, values)
    machine.printk.append(made.decode(errors="backslashreplace").removesuffix("\n"))
    return len(made)


def _numbers(machine: Machine, data: int, length: int) -> list[int]:
    load = machine.memory.reader(8)
    return [load(data + 8 * index) for index in range((length & _MASK32) // 8)]


@_helper()
def _strncmp(machine: Machine, left: int, size: int, right: int) -> int:
    size &= _MASK32
    mine = machine.memory.read(left, size).partition(b"\0")[0]
    other = machine.memory.text(right)[:size]
    return (mine > other) - (mine < other)


# Packets


@_helper()
def _skb_load_bytes(machine: Machine, skb: int, offset: int, to: int, size: int) -> int:
    offset, size = offset & _MASK32, size & _MASK32
    packet = machine.packet
    if packet is None or skb != machine.context:
        raise FaultError("there is no packet")
    data = bytes(packet.data[offset : offset + size])
    if offset > 0x7FFFFFFF or len(data) < size:
        machine.memory.write(to, bytes(size))
        return -errno.EFAULT
    machine.memory.write(to, data)
    return 0


@_helper()
def _skb_store_bytes(
    machine: Machine, skb: int, offset: int, source: int, size: int, flags: int
) -> int:
    offset, size = offset & _MASK32, size & _MASK32
    packet = machine.packet
    if packet is None or skb != machine.context:
        raise FaultError("there is no packet")
    if offset + size > len(packet.data):
        return -errno.EFAULT
    packet.data[offset : offset + size] = machine.memory.read(source, size)
    return 0
