"""Helpers on maps, ring buffers and local storage; those that call back.

Sources: ``kernel/bpf/helpers.c``, ``ringbuf.c``, ``bpf_iter.c``, ``bpf_local_storage.c``,
``kernel/trace/bpf_trace.c`` (perf events).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.helper import MASK32, Table
from pybpfload.testing.interpreter.keyed import StorageMap
from pybpfload.testing.interpreter.machine import MAX_LOOPS
from pybpfload.testing.interpreter.maps import BloomFilter, EventMap
from pybpfload.uapi import MapFlag

if TYPE_CHECKING:
    from pybpfload.testing.interpreter.machine import Machine
    from pybpfload.testing.interpreter.mapmodel import MapModel

__all__ = ["TABLE"]

TABLE: Final = Table()

_CURRENT_CPU: Final = MASK32
_STORAGE_CREATE: Final = 1  # BPF_LOCAL_STORAGE_GET_F_CREATE
_WAKEUP_FLAGS: Final = 3  # BPF_RB_NO_WAKEUP, BPF_RB_FORCE_WAKEUP


def _key(machine: Machine, found: MapModel, address: int) -> bytes:
    return machine.memory.read(address, found.spec.key_size)


def _readable(machine: Machine, map_: int) -> MapModel:
    found = machine.map(map_)
    if found.spec.flags & MapFlag.WRONLY_PROG:
        raise found.cannot("be read by programs (BPF_F_WRONLY_PROG)")
    return found


def _writable(machine: Machine, map_: int) -> MapModel:
    found = machine.map(map_)
    if found.spec.flags & MapFlag.RDONLY_PROG:
        raise found.cannot("be written by programs (BPF_F_RDONLY_PROG)")
    return found


@TABLE.add("map_lookup_elem")
def _lookup(machine: Machine, map_: int, key: int) -> int:
    found = _readable(machine, map_)
    return found.lookup_elem(_key(machine, found, key))


@TABLE.add("map_lookup_percpu_elem")
def _lookup_percpu(machine: Machine, map_: int, key: int, cpu: int) -> int:
    found = _readable(machine, map_)
    return found.lookup_percpu_elem(_key(machine, found, key), cpu & MASK32)


@TABLE.add("map_update_elem")
def _update(machine: Machine, map_: int, key: int, value: int, flags: int) -> int:
    found = _writable(machine, map_)
    raw = machine.memory.read(value, found.spec.value_size)
    return found.update_elem(_key(machine, found, key), raw, flags)


@TABLE.add("map_delete_elem")
def _delete(machine: Machine, map_: int, key: int) -> int:
    found = _writable(machine, map_)
    return found.delete_elem(_key(machine, found, key))


@TABLE.add("map_push_elem")
def _push(machine: Machine, map_: int, value: int, flags: int) -> int:
    found = _writable(machine, map_)
    return found.push_elem(machine.memory.read(value, found.spec.value_size), flags)


def _next(machine: Machine, found: MapModel, value: int, remove: bool) -> int:
    raw = found.next_elem(remove)
    if raw is None:
        machine.memory.clear(value, found.spec.value_size)
        return -errno.ENOENT
    machine.memory.write(value, raw)
    return 0


@TABLE.add("map_pop_elem")
def _pop(machine: Machine, map_: int, value: int) -> int:
    return _next(machine, _writable(machine, map_), value, remove=True)


@TABLE.add("map_peek_elem")
def _peek(machine: Machine, map_: int, value: int) -> int:
    found = _readable(machine, map_)
    if isinstance(found, BloomFilter):
        known = found.has_elem(machine.memory.read(value, found.spec.value_size))
        return 0 if known else -errno.ENOENT
    return _next(machine, found, value, remove=False)


# Calling back


@TABLE.add("for_each_map_elem")
def _for_each(machine: Machine, map_: int, callback: int, context: int, flags: int) -> int:
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


@TABLE.add("loop")
def _loop(machine: Machine, count: int, callback: int, context: int, flags: int) -> int:
    count &= MASK32
    if flags:
        return -errno.EINVAL
    if count > MAX_LOOPS:
        return -errno.E2BIG
    for index in range(count):
        if machine.call(callback, index, context):
            return index + 1
    return count


# Events


def _events(machine: Machine, address: int) -> EventMap:
    found = machine.map(address)
    if not isinstance(found, EventMap):
        raise found.cannot("take records")
    return found


@TABLE.add("ringbuf_reserve")
def _reserve(machine: Machine, map_: int, size: int, flags: int) -> int:
    return 0 if flags else _events(machine, map_).reserve(size)


def _commit(machine: Machine, address: int, keep: bool) -> None:
    found = machine.memory.owner(address)
    if not isinstance(found, EventMap) or not found.commit(address, keep):
        raise FaultError(f"{address:#x} is no record that was reserved")


@TABLE.add("ringbuf_submit")
def _submit(machine: Machine, record: int, flags: int) -> None:
    _commit(machine, record, keep=True)


@TABLE.add("ringbuf_discard")
def _discard(machine: Machine, record: int, flags: int) -> None:
    _commit(machine, record, keep=False)


@TABLE.add("ringbuf_output")
def _ringbuf_output(machine: Machine, map_: int, data: int, size: int, flags: int) -> int:
    if flags & ~_WAKEUP_FLAGS:
        return -errno.EINVAL
    return _events(machine, map_).output(machine.memory.read(data, size))


@TABLE.add("perf_event_output")
def _perf_output(
    machine: Machine, context: int, map_: int, flags: int, data: int, size: int
) -> int:
    found, cpu = _events(machine, map_), flags & MASK32
    if cpu not in (_CURRENT_CPU, machine.environment.cpu):
        return -errno.EOPNOTSUPP if cpu < machine.environment.cpus else -errno.E2BIG
    return found.output(machine.memory.read(data, size))


# Local storage


def _storage(machine: Machine, address: int) -> StorageMap:
    found = machine.map(address)
    if not isinstance(found, StorageMap):
        raise found.cannot("hold values of objects")
    return found


@TABLE.add("task_storage_get", "sk_storage_get", "inode_storage_get", "cgrp_storage_get")
def _storage_get(machine: Machine, map_: int, owner: int, value: int, flags: int) -> int:
    found = _storage(machine, map_)
    if not owner or flags & ~_STORAGE_CREATE:
        return 0
    first = machine.memory.read(value, found.spec.value_size) if value else None
    return found.of(owner, first, create=bool(flags))


@TABLE.add(
    "task_storage_delete", "sk_storage_delete", "inode_storage_delete", "cgrp_storage_delete"
)
def _storage_delete(machine: Machine, map_: int, owner: int) -> int:
    return _storage(machine, map_).forget(owner) if owner else -errno.EINVAL
