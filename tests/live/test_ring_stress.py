"""Short stress runs of ring buffers: see :mod:`ring_stress`; ``tools/stress`` has long ones."""

from __future__ import annotations

import os

import pytest
import ring_stress

pytestmark = [pytest.mark.live, pytest.mark.vm, pytest.mark.kernel("5.12")]

RECORDS = 10_000 if "PYBPFLOAD_VM_EVENTS" in os.environ else 200_000  # emulated, all is slow


@pytest.mark.parametrize(
    ("program", "form"),
    [("fixed", "records"), ("fixed", "array"), ("fixed", "views"), ("variable", "records")],
)
def test_nothing_is_torn_lost_or_repeated(program: str, form: str) -> None:
    if form == "array":
        pytest.importorskip("numpy")
    report = ring_stress.run(RECORDS, program=program, form=form)
    assert report.received >= RECORDS
    assert report.dropped > 0
    assert set(report.by_cpu) == os.sched_getaffinity(0)


def test_the_checker_sees_what_is_wrong() -> None:
    checker = ring_stress.Checker()
    words = []
    word = 5 << 8 | 1
    for index in range(6):
        word = (word * 0x9E3779B97F4A7C15 + index) & (1 << 64) - 1
        words.append(word)
    checker.one(5, 1, 6, words)
    with pytest.raises(ring_stress.Wrong, match="5 again"):
        checker.one(5, 1, 6, words)
    with pytest.raises(ring_stress.Wrong, match="again, or too late"):
        checker.one(4, 1, 6, words)
    with pytest.raises(ring_stress.Wrong, match="record 6: word 0"):
        checker.one(6, 1, 6, words)
