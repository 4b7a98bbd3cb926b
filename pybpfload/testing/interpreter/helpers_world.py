"""Helpers that tell of the world around a program, locks, and kfuncs.

Sources: ``kernel/bpf/helpers.c``, ``kernel/bpf/bpf_iter.c``, ``kernel/trace/bpf_trace.c``.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from pybpfload.testing.interpreter.errors import FaultError
from pybpfload.testing.interpreter.helper import MASK32, Table
from pybpfload.testing.interpreter.machine import MAX_LOOPS, ThrownError

if TYPE_CHECKING:
    from pybpfload.testing.interpreter.machine import Machine

__all__ = ["TABLE"]

TABLE: Final = Table()

_HZ: Final = 250
_COMM_LEN: Final = 16


@TABLE.add("ktime_get_ns", "ktime_get_boot_ns", "ktime_get_coarse_ns", "ktime_get_tai_ns")
def _ktime(machine: Machine) -> int:
    return machine.environment.now()


@TABLE.add("jiffies64")
def _jiffies(machine: Machine) -> int:
    return machine.environment.now() * _HZ // 1_000_000_000


@TABLE.add("get_current_pid_tgid")
def _pid_tgid(machine: Machine) -> int:
    return machine.environment.tgid << 32 | machine.environment.pid


@TABLE.add("get_current_uid_gid")
def _uid_gid(machine: Machine) -> int:
    return machine.environment.gid << 32 | machine.environment.uid


@TABLE.add("get_current_comm")
def _comm(machine: Machine, to: int, size: int) -> int:
    size &= MASK32
    if not size:
        raise FaultError("bpf_get_current_comm gets no room")
    machine.memory.clear(to, size)
    machine.memory.write(to, machine.environment.comm.encode()[: min(size, _COMM_LEN) - 1])
    return 0


@TABLE.add("get_current_task", "get_current_task_btf")
def _task(machine: Machine) -> int:
    if not machine.environment.task:
        raise FaultError("there is no task: place a task_struct and set Environment.task")
    return machine.environment.task


@TABLE.add("get_current_cgroup_id")
def _cgroup_id(machine: Machine) -> int:
    return machine.environment.cgroup_id


@TABLE.add("get_smp_processor_id")
def _cpu(machine: Machine) -> int:
    return machine.environment.cpu


@TABLE.add("get_numa_node_id")
def _numa_node(machine: Machine) -> int:
    return 0


@TABLE.add("get_prandom_u32")
def _random(machine: Machine) -> int:
    return machine.environment.random.getrandbits(32)


@TABLE.add("get_func_ip")
def _func_ip(machine: Machine, context: int) -> int:
    return machine.environment.func_ip


@TABLE.add("get_attach_cookie")
def _cookie(machine: Machine, context: int) -> int:
    return machine.environment.cookie


@TABLE.add("get_ns_current_pid_tgid")
def _ns_pid_tgid(machine: Machine, device: int, inode: int, to: int, size: int) -> int:
    if size & MASK32 != 8:
        return -errno.EINVAL
    store = machine.memory.writer(4)
    store(to, machine.environment.pid)
    store(to + 4, machine.environment.tgid)
    return 0


@TABLE.add("this_cpu_ptr")
def _this_cpu_ptr(machine: Machine, variable: int) -> int:
    return variable  # there is one copy of each variable of the kernel


@TABLE.add("per_cpu_ptr")
def _per_cpu_ptr(machine: Machine, variable: int, cpu: int) -> int:
    return variable if cpu & MASK32 < machine.environment.cpus else 0


# Locks: nobody else is there


@TABLE.add("spin_lock", "spin_unlock")
def _lock(machine: Machine, lock: int) -> None:
    machine.memory.read(lock, 4)


@TABLE.add("rcu_read_lock", "rcu_read_unlock", "preempt_disable", "preempt_enable")
def _enter_or_leave(machine: Machine) -> None:
    return None


# Kernel objects


@TABLE.add("kptr_xchg")
def _kptr_xchg(machine: Machine, where: int, pointer: int) -> int:
    old = machine.memory.reader(8)(where)
    machine.memory.writer(8)(where, pointer)
    return old


@TABLE.add("task_acquire", "cgroup_acquire", "cpumask_acquire", "rdonly_cast", "cast_to_kern_ctx")
def _same(machine: Machine, kernel_object: int) -> int:
    return kernel_object  # references are not counted


@TABLE.add("task_release", "cgroup_release", "cpumask_release")
def _release(machine: Machine, kernel_object: int) -> None:
    return None


@TABLE.add("throw")
def _throw(machine: Machine, cookie: int) -> None:
    raise ThrownError(cookie)


# Iterator of numbers: two ints, where it is and where it ends (kernel/bpf/bpf_iter.c)


@TABLE.add("iter_num_new")
def _iter_num_new(machine: Machine, iterator: int, start: int, end: int) -> int:
    first, last = _signed32(start), _signed32(end)
    result = -errno.EINVAL if first > last else -errno.E2BIG if last - first > MAX_LOOPS else 0
    store = machine.memory.writer(4)
    store(iterator, first - 1 if not result else 0)
    store(iterator + 4, last if not result else 0)
    return result


@TABLE.add("iter_num_next")
def _iter_num_next(machine: Machine, iterator: int) -> int:
    load, store = machine.memory.reader(4), machine.memory.writer(4)
    current = _signed32(load(iterator) + 1)
    if current >= _signed32(load(iterator + 4)):
        store(iterator, 0)
        store(iterator + 4, 0)
        return 0
    store(iterator, current)
    return iterator


@TABLE.add("iter_num_destroy")
def _iter_num_destroy(machine: Machine, iterator: int) -> None:
    machine.memory.write(iterator, bytes(8))


def _signed32(number: int) -> int:
    return ((number & MASK32) ^ 0x80000000) - 0x80000000
