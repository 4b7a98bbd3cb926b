"""How often the programs of the running kernel run, and how long that takes.

The kernel counts while somebody holds what ``BPF_ENABLE_STATS`` returns (Linux 5.8), or while the
sysctl ``kernel.bpf_stats_enabled`` is 1 (5.1). Counting costs each run of each program some tens of
nanoseconds. Misses (5.12) are counted always.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, NamedTuple

from pybpfload.errors import KernelError, NotSupportedError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime.program import Program

if TYPE_CHECKING:
    from typing_extensions import Self

    from pybpfload.kernel.bpf import ProgInfo
    from pybpfload.uapi import ProgType

__all__ = ["ProgramActivity", "ProgramStats"]

_SYSCTL = "/proc/sys/kernel/bpf_stats_enabled"


class ProgramActivity(NamedTuple):
    """What a program did between two samples.

    Attributes:
        id: Its id.
        type: Its type.
        name: Its name, whole where its BTF tells.
        tag: Hash of its instructions, 16 hexadecimal digits.
        seconds: Length of the time between the two samples; of a program that was not there at the
            earlier one, since then.
        runs: How often it ran in that time.
        run_ns: How long those runs took together, ns.
        misses: How often it was not run in that time, because it was already running on that CPU
            (5.12).
        total_runs: Runs since it was loaded, as far as they were counted.
        total_run_ns: The time of those, ns.
        total_misses: Misses since it was loaded.
    """

    id: int
    type: ProgType
    name: str
    tag: str
    seconds: float
    runs: int
    run_ns: int
    misses: int
    total_runs: int
    total_run_ns: int
    total_misses: int

    @property
    def runs_per_second(self) -> float:
        """Runs in a second."""
        return self.runs / self.seconds

    @property
    def cpu(self) -> float:
        """Share of the time of one CPU that its runs took: 1.0 is all of it."""
        return self.run_ns / (self.seconds * 1e9)

    @property
    def average_ns(self) -> float:
        """Average time of a run, ns; 0.0 if there was none."""
        return self.run_ns / self.runs if self.runs else 0.0


class _Seen(NamedTuple):
    """A program at a sample."""

    name: str
    when: int  # CLOCK_MONOTONIC, ns
    runs: int
    run_ns: int
    misses: int


class ProgramStats:
    """Runs and run time of all programs of the kernel, from sample to sample.

    ::

        with pybpfload.ProgramStats() as stats:
            while True:
                time.sleep(1)
                for each in stats.sample():
                    print(each.name, each.runs_per_second, f"{each.cpu:.1%}")

    A context manager: while it is open, the kernel counts (``BPF_ENABLE_STATS``, Linux 5.8). The
    first sample tells what was done since it was made. No program is kept alive by being watched.

    Raises:
        NotPermittedError: Without CAP_SYS_ADMIN.
        NotSupportedError: The kernel is older, and does not count anyway.
    """

    def __init__(self) -> None:
        self._counting = _count()
        self._closed = False
        self._sampled = time.monotonic_ns()
        self._seen: dict[tuple[int, int], _Seen] = {}
        try:
            self.sample()
        except BaseException:
            self.close()
            raise

    def sample(self) -> list[ProgramActivity]:
        """What the programs that are there now did since the last sample, by ascending ids.

        Raises:
            ValueError: It is closed.
            NotPermittedError: Without CAP_SYS_ADMIN.
        """
        if self._closed:
            raise ValueError("these program statistics are closed")
        began, self._sampled = self._sampled, time.monotonic_ns()
        before, self._seen = self._seen, {}
        found = []
        for program in Program.all():
            info = bpf.prog_info(program.fileno(), arrays=False)
            when = time.monotonic_ns()
            key = info.id, info.load_time  # ids may be given again
            known = before.get(key)
            name = known.name if known else program.whole_name()
            now = _Seen(name, when, info.run_cnt, info.run_time_ns, info.recursion_misses)
            self._seen[key] = now
            found.append(_activity(info, known or _Seen(name, began, 0, 0, 0), now))
        return found

    def close(self) -> None:
        """Let the kernel stop counting, unless others want it to. Closing again does nothing."""
        self._closed = True
        if self._counting is not None:
            self._counting.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _activity(info: ProgInfo, before: _Seen, now: _Seen) -> ProgramActivity:
    return ProgramActivity(
        info.id,
        info.type,
        now.name,
        info.tag,
        (now.when - before.when) / 1e9,
        now.runs - before.runs,
        now.run_ns - before.run_ns,
        now.misses - before.misses,
        now.runs,
        now.run_ns,
        now.misses,
    )


def _count() -> FileDescriptor | None:
    """Let the kernel count; nothing is needed where it does so anyway."""
    try:
        return FileDescriptor(bpf.enable_stats(), "BPF_ENABLE_STATS")
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        cause = error
    setting = _setting()
    if setting == "1":
        return None
    refusal = NotSupportedError(
        "this kernel cannot count the runs of programs for as long as somebody asks for it",
        feature="BPF_ENABLE_STATS",
        since="5.8",
    )
    if setting:
        refusal.hint = "let it count always: sysctl kernel.bpf_stats_enabled=1"
    raise refusal from cause


def _setting() -> str:
    try:
        return door.read_file(_SYSCTL).decode(errors="replace").strip()
    except OSError:  # before 5.1
        return ""
