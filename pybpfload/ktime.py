"""The kernel's clocks, whose times programs put into events and maps, as dates.

    from pybpfload import ktime

    for event in obj.maps["events"]:
        print(ktime.to_datetime(event.time_ns), event.comm)

Which clock a time is of, BTF does not say, and a name like ``time_ns`` neither; the program's
source does, by the helper that it calls:

===================================================  ============  ====================
helper                                               clock         since Linux
===================================================  ============  ====================
``bpf_ktime_get_ns``, ``bpf_ktime_get_coarse_ns``    "monotonic"   4.1, 5.11
``bpf_ktime_get_boot_ns``                            "boottime"    5.8
``bpf_ktime_get_tai_ns``                             "tai"         6.1
===================================================  ============  ====================

None of them is the wall clock, which the kernel does not offer to programs, because it can be set.
What lies between it and each of them is measured when it is needed (:meth:`Reference.now`), and the
date of a time in the past is what the wall clock *as it goes now* would have shown. So a date is
wrong by

* the error of the measurement, :attr:`Reference.error_ns`, mostly below a microsecond, and
  ``bpf_ktime_get_coarse_ns`` by the time since the last tick, up to 10 ms with ``CONFIG_HZ=100``;
* the steps by which someone has set the wall clock since, and leap seconds. When NTP makes it go
  faster or slower, the other clocks do so, too;
* for "monotonic", the time that the machine has been suspended since: the clock stands still
  then, so older times come out too late. "boottime" and "tai" go on.

Take one :class:`Reference` for times that are to be compared, and keep it with a recording: it
turns times into dates on any machine, any time later.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["CLOCKS", "Reference", "to_datetime", "to_unix_ns"]

CLOCKS = ("monotonic", "boottime", "tai")
"""Names of the clocks."""

_TRIES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Reference(NamedTuple):
    """What lies between the kernel's clocks and the wall clock, at one moment; in nanoseconds.

    Attributes:
        monotonic, boottime, tai: What to add to a time of that clock to get the time since
            1970-01-01 UTC, leap seconds not counted.
        error_ns: By how much each may be wrong.
    """

    monotonic: int
    boottime: int
    tai: int
    error_ns: int

    @classmethod
    def now(cls) -> Reference:
        """Measure.

        A process in a time namespace (Linux 5.6) sees "monotonic" and "boottime" moved, programs do
        not: that is taken into account.

        Raises:
            NotSupportedError: This system does not have these clocks.
        """
        try:
            clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_TAI)
        except AttributeError:
            from pybpfload.errors import NotSupportedError

            raise NotSupportedError("the kernel's clocks can be read on Linux only") from None
        measured = [_measure(clock) for clock in clocks]
        monotonic, boottime, tai = (offset for offset, _ in measured)
        moved = _moved()
        return cls(
            monotonic + moved.get("monotonic", 0),
            boottime + moved.get("boottime", 0),
            tai,
            max(error for _, error in measured),
        )

    def unix_ns(self, ns: int, clock: str = "monotonic") -> int:
        """Return the nanoseconds since 1970-01-01 UTC for a time of one of the clocks.

        Raises:
            ValueError: There is no such clock.
        """
        if clock not in CLOCKS:
            raise ValueError(f"no clock {clock!r}; there are: {', '.join(CLOCKS)}")
        offset: int = getattr(self, clock)
        return ns + offset


def to_unix_ns(ns: int, clock: str = "monotonic", *, reference: Reference | None = None) -> int:
    """Return the nanoseconds since 1970-01-01 UTC for a time of the kernel's.

    Args:
        ns: The time in nanoseconds.
        clock: Which clock it is of, see above.
        reference: How the clocks stand; measured anew by default.

    Raises:
        ValueError: There is no such clock.
        NotSupportedError: It cannot be measured here; give a reference.
    """
    return (reference or Reference.now()).unix_ns(ns, clock)


def to_datetime(
    ns: int,
    clock: str = "monotonic",
    *,
    reference: Reference | None = None,
    tz: tzinfo = timezone.utc,
) -> datetime:
    """Return the date of a time of the kernel's, rounded down to microseconds.

    Args:
        ns: The time in nanoseconds.
        clock: Which clock it is of, see above.
        reference: How the clocks stand; measured anew by default.
        tz: Time zone of the date.

    Raises:
        ValueError: There is no such clock.
        OverflowError: The date is beyond the year 9999; then it was no time.
        NotSupportedError: It cannot be measured here; give a reference.
    """
    unix = to_unix_ns(ns, clock, reference=reference)
    return (_EPOCH + timedelta(microseconds=unix // 1000)).astimezone(tz)


def _measure(clock: int) -> tuple[int, int]:
    """The wall clock's lead over another clock, and how wrong that may be.

    The wall clock is read before and after the other; of several tries the one that took least
    time counts, so that being interrupted in between does not.
    """
    best: tuple[int, int] | None = None
    for _ in range(_TRIES):
        before = time.clock_gettime_ns(time.CLOCK_REALTIME)
        other = time.clock_gettime_ns(clock)
        after = time.clock_gettime_ns(time.CLOCK_REALTIME)
        error = (after - before + 1) // 2
        if after >= before and (best is None or error < best[1]):
            best = (before + error - other, error)
    if best is None:  # the wall clock is being set back all the time
        raise ValueError("the wall clock cannot be read: it goes backwards")
    return best


def _moved() -> dict[str, int]:
    """By how many nanoseconds the clocks of this process's time namespace are ahead."""
    from pybpfload.kernel import door

    try:
        text = door.read_file("/proc/self/timens_offsets").decode()
    except OSError:  # no time namespaces
        return {}
    found = {}
    for line in text.splitlines():
        name, seconds, nanoseconds = line.split()
        found[name] = int(seconds) * 1_000_000_000 + int(nanoseconds)
    return found
