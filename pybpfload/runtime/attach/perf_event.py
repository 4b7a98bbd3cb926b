"""Programs that perf events call: clocks, counters, and events that the caller has opened.

Source of the rules: libbpf, ``bpf_program__attach_perf_event_opts()``; ``man 2 perf_event_open``.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING, Any

from pybpfload.errors import AttachError, KernelError
from pybpfload.kernel import cpus, door, perf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.attach.common import LinkGroup, check_pid, explain, is_open
from pybpfload.runtime.attach.tracepoint import attach_perf_event
from pybpfload.runtime.handles import duplicate
from pybpfload.uapi import PerfHardware, PerfSoftware, PerfType

if TYPE_CHECKING:
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.target import AttachTarget

__all__ = ["attach", "event_names"]

_LIMIT = "/proc/sys/kernel/perf_event_max_sample_rate"
_NO_COUNTER = "this machine has no such counter, as most virtual machines"
_HINTS = {
    errno.ENOENT: _NO_COUNTER,
    errno.EOPNOTSUPP: _NO_COUNTER,
    errno.ENODEV: "this CPU is offline",
    errno.ESRCH: "there is no such process",
    errno.EINVAL: "the kernel knows no such event, or the CPU does not exist",
}


# Names that perf(1) has besides those of the kernel's header: perf-list(1).
_ALIASES = {
    "faults": PerfSoftware.PAGE_FAULTS,
    "minor-faults": PerfSoftware.PAGE_FAULTS_MIN,
    "major-faults": PerfSoftware.PAGE_FAULTS_MAJ,
    "cs": PerfSoftware.CONTEXT_SWITCHES,
    "migrations": PerfSoftware.CPU_MIGRATIONS,
    "cycles": PerfHardware.CPU_CYCLES,
    "ref-cycles": PerfHardware.REF_CPU_CYCLES,
    "branches": PerfHardware.BRANCH_INSTRUCTIONS,
    "idle-cycles-frontend": PerfHardware.STALLED_CYCLES_FRONTEND,
    "idle-cycles-backend": PerfHardware.STALLED_CYCLES_BACKEND,
}


def event_names() -> dict[str, tuple[PerfType, int]]:
    """Events by the names that the kernel's header and perf(1) have: type and ``config``."""
    named: dict[str, PerfSoftware | PerfHardware] = {
        member.name.lower().replace("_", "-"): member
        for members in (PerfSoftware, PerfHardware)
        for member in members
        if member.name not in ("DUMMY", "BPF_OUTPUT", "MAX")
    }
    return {
        name: (
            PerfType.SOFTWARE if isinstance(member, PerfSoftware) else PerfType.HARDWARE,
            member.value,
        )
        for name, member in (named | _ALIASES).items()
    }


def attach(
    program: Program,
    loaded_for: AttachTarget,
    target: Any,
    *,
    frequency: int = 0,
    period: int = 0,
    pid: int = -1,
    cpu: int | None = None,
    cookie: int = 0,
    link: bool | None = None,
) -> Link:
    """Attach to a perf event.

    Args:
        program: The program.
        loaded_for: Unused: the event is chosen at attach.
        target: Name of an event (:func:`event_names`), ``(type, config)``, or an event that is
            open: its descriptor or anything with ``fileno()``.
        frequency: Call the program so often a second.
        period: Call it after so many events; one of both must be given for a name.
        pid: Process to watch, 0 for this one; -1 for all processes. An event belongs to a thread:
            each that there is gets one, which threads and processes that it starts inherit, as with
            ``perf record -p``.
        cpu: CPU to watch; ``None`` for all.
        cookie: What ``bpf_get_attach_cookie()`` gives (Linux 5.15).
        link: ``True``: only by links (Linux 5.15); ``False``: by ioctl.

    Returns:
        A link; for all processes on all CPUs a group of one link for each CPU that is online, for a
        process one of a link for each of its threads.

    Raises:
        AttachError: No event is named, or there is none of that name.
        KernelError: The kernel refuses; ENOENT or EOPNOTSUPP: this machine has no such counter.
        ValueError: Neither frequency nor period, or both; a pid below -1.
    """
    options: dict[str, Any] = {"kind": "perf_event", "cookie": cookie, "link": link}
    if is_open(target):
        event = duplicate(target, "perf event")
        return attach_perf_event(program, event, target=event.what, **options)
    known = event_names()
    if isinstance(target, str) and target in known:
        kind, config = known[target]
    elif isinstance(target, tuple) and len(target) == 2:
        kind, config = target
    else:
        close = get_close_matches(target, known, 3) if isinstance(target, str) else []
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        raise AttachError(
            f"it attaches to a perf event: name one of {', '.join(known)}, not {target!r}{meant}",
            program=program.name,
        )
    if bool(frequency) == bool(period):
        raise ValueError("say how often: frequency or period")
    check_pid(pid)
    # Frequency and period are one field of the kernel's, which the flag tells apart.
    attr = perf.event_attr(
        type=kind,
        config=config,
        disabled=1,
        inherit=pid >= 0,
        freq=bool(frequency),
        sample_freq=frequency or period,
    )
    tasks = _threads(pid) if pid >= 0 else [-1]
    places = [cpu] if cpu is not None else [-1] if pid >= 0 else cpus.online_cpus()
    made: list[Link] = []
    try:
        for task, place in product(tasks, places):
            what = f"{target}{f' of CPU {place}' if place >= 0 else ''}"
            what += f" of thread {task}" if len(tasks) > 1 else ""
            try:
                fd = perf.open_event(attr, pid=task, cpu=place)
            except KernelError as error:
                if error.errno == errno.ESRCH and task != tasks[-1]:
                    continue  # the thread has ended meanwhile
                explain(error, program, f"perf event {what}", _hints(frequency))
                raise
            event = FileDescriptor(fd, f"perf event {what}")
            made.append(attach_perf_event(program, event, target=what, **options))
    except BaseException:
        with ExitStack() as undo:  # whatever fails, all the others are closed
            for each in made:
                undo.callback(each.close)
        raise
    return made[0] if len(made) == 1 else LinkGroup(made, target=str(target))


def _threads(pid: int) -> list[int]:
    """The threads that a process has, the first one last: it is there as long as the process."""
    pid = pid or door.pid()
    try:
        others = {int(name) for name in door.list_dir(f"/proc/{pid}/task")} - {pid}
    except (OSError, ValueError):
        others = set()  # there is no such process, as the kernel will say, or no /proc
    return [*sorted(others), pid]


def _hints(frequency: int) -> dict[int, str]:
    """What error numbers mean; the limit of the frequency is the administrator's."""
    hints = dict(_HINTS)
    try:
        limit = int(door.read_file(_LIMIT))
    except (OSError, ValueError):
        return hints
    if frequency > limit:
        hints[errno.EINVAL] = f"the kernel samples at most {limit} times a second ({_LIMIT})"
    return hints
