"""Times of the kernel's clocks as dates."""

from __future__ import annotations

import errno
import time
from datetime import datetime, timedelta, timezone

import pytest

from pybpfload import ktime
from pybpfload.errors import NotSupportedError
from pybpfload.kernel import door

SECOND = 1_000_000_000
REFERENCE = ktime.Reference(
    monotonic=1_700_000_000 * SECOND,
    boottime=1_600_000_000 * SECOND,
    tai=-37 * SECOND,
    error_ns=100,
)


def test_each_clock_has_its_offset():
    assert ktime.to_unix_ns(5, reference=REFERENCE) == 1_700_000_000 * SECOND + 5
    assert ktime.to_unix_ns(5, "boottime", reference=REFERENCE) == 1_600_000_000 * SECOND + 5
    assert ktime.to_unix_ns(40 * SECOND, "tai", reference=REFERENCE) == 3 * SECOND
    with pytest.raises(
        ValueError, match="no clock 'realtime'; there are: monotonic, boottime, tai"
    ):
        ktime.to_unix_ns(5, "realtime", reference=REFERENCE)
    with pytest.raises(ValueError, match="no clock 'error_ns'"):
        REFERENCE.unix_ns(5, "error_ns")


def test_dates():
    found = ktime.to_datetime(1_999, reference=REFERENCE)
    assert found == datetime(2023, 11, 14, 22, 13, 20, 1, timezone.utc)
    east = timezone(timedelta(hours=2))
    assert ktime.to_datetime(0, reference=REFERENCE, tz=east).hour == 0
    assert ktime.to_datetime(0, "tai", reference=REFERENCE).year == 1969
    with pytest.raises(OverflowError):
        ktime.to_datetime((1 << 64) * 1000, reference=REFERENCE)


def clocks(monkeypatch, wall, monotonic=1000):
    """Clocks that show given times, one after the other."""
    times = iter(wall)
    monkeypatch.setattr(
        time,
        "clock_gettime_ns",
        lambda clock: next(times) if clock == time.CLOCK_REALTIME else monotonic,
    )


def test_the_quickest_of_several_measurements_counts(monkeypatch):
    # Interrupted, set back in between, good, and five more that are worse.
    slow = [9_000, 19_000]
    clocks(monkeypatch, [*slow, 9_000, 8_000, 9_000, 9_010, *slow * 5])
    assert ktime._measure(time.CLOCK_MONOTONIC) == (8_005, 5)
    clocks(monkeypatch, [9_000, 8_000] * 8)
    with pytest.raises(ValueError, match="goes backwards"):
        ktime._measure(time.CLOCK_MONOTONIC)


class Files:
    """A kernel that has one file."""

    def __init__(self, content):
        self.content = content

    def read_file(self, path, limit):
        assert path == "/proc/self/timens_offsets"
        if isinstance(self.content, OSError):
            raise self.content
        return self.content


def test_time_namespaces(monkeypatch):
    # In the namespace the clock shows 1000, programs see 1000 less what it is moved by.
    clocks(monkeypatch, [9_000] * 100)
    with door.replaced(Files(b"monotonic          -1      5\nboottime            2         0\n")):
        found = ktime.Reference.now()
    assert found == (8_000 - SECOND + 5, 8_000 + 2 * SECOND, 8_000, 0)
    clocks(monkeypatch, [9_000] * 100)
    with door.replaced(Files(FileNotFoundError(errno.ENOENT, "not there"))):
        assert ktime.Reference.now() == (8_000, 8_000, 8_000, 0)


def test_other_systems(monkeypatch):
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    with pytest.raises(NotSupportedError, match="on Linux only"):
        ktime.to_datetime(0)


@pytest.mark.skipif(not hasattr(time, "CLOCK_TAI"), reason="needs Linux's clocks")
def test_this_machine():
    reference = ktime.Reference.now()
    assert 0 <= reference.error_ns < SECOND
    for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        before = time.time_ns()
        found = reference.unix_ns(time.clock_gettime_ns(clock), name)
        assert abs(found - before) < SECOND
    found = ktime.to_datetime(time.monotonic_ns(), reference=reference)
    assert abs((found - datetime.now(timezone.utc)).total_seconds()) < 1
