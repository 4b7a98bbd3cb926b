"""What programs learn from outside: the time, the current task, random numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

__all__ = ["Environment"]


@dataclass
class Environment:
    """The world around a program, the same in every run unless it is changed.

    Attributes:
        time_ns: What the clocks say (``bpf_ktime_get_ns`` and its like), ns.
        tick_ns: By how much each reading moves them on, ns.
        pid: Thread, as the kernel calls it (user space: TID).
        tgid: Process (user space: PID).
        uid, gid: Of the current task.
        comm: Name of the current task, at most 15 bytes.
        task: Address of the current ``struct task_struct``; see :meth:`Memory.place`.
        cgroup_id: Of the current task.
        cpu: The CPU that the program runs on.
        cpus: Number of CPUs, for per-CPU maps.
        cookie: What ``bpf_get_attach_cookie`` gives.
        func_ip: What ``bpf_get_func_ip`` gives.
        random: Where random numbers come from, seeded with 0.
    """

    time_ns: int = 1_000_000_000
    tick_ns: int = 0
    pid: int = 1000
    tgid: int = 1000
    uid: int = 0
    gid: int = 0
    comm: str = "pybpfload"
    task: int = 0
    cgroup_id: int = 1
    cpu: int = 0
    cpus: int = 2
    cookie: int = 0
    func_ip: int = 0
    random: Random = field(default_factory=lambda: Random(0))

    def now(self) -> int:
        """Read the clock, ns."""
        now = self.time_ns
        self.time_ns += self.tick_ns
        return now
