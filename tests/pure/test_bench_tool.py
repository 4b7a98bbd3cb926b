"""tools/bench: what it makes of its measurements."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "lib"))

import bench_peer
from bench_result import Result, median_and_spread, missed


def result(median: float | None, **options: object) -> Result:
    return Result("name", "what", "x", median, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("median", "at_least", "verdict"),
    [
        (1.4, True, "MISSED"),
        (1.5, True, "ok"),
        (1.5, False, "ok"),
        (1.6, False, "MISSED"),
        (None, True, "not measured"),
    ],
)
def test_bars(median: float | None, at_least: bool, verdict: str) -> None:
    measured = result(median, bar=1.5, at_least=at_least)
    assert measured.verdict == verdict
    assert missed([result(3.0), measured]) is (verdict != "ok")
    assert verdict in measured.line()


def test_what_has_no_bar_misses_none() -> None:
    assert result(7.0).verdict == ""
    assert not missed([result(7.0), result(None, note="not installed")])
    assert "not installed" in result(None, note="not installed").line()


def test_spread_is_between_the_quartiles() -> None:
    assert median_and_spread([5.0]) == (5.0, 0.0)
    assert median_and_spread([4.0, 1.0, 3.0, 2.0, 100.0]) == (3.0, 50.5)


def test_what_peers_have_to_find() -> None:
    assert bench_peer.expected(3) == 0 + 1 + 2 + 0 + 1 + 2 - 3 * 2
    assert bench_peer.expected(0x10001) == sum(range(0x10001)) + sum(range(0x10000)) - 0x20002


def test_memory_of_this_process_shows() -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("no /proc/self/smaps_rollup: not Linux, or older than 4.14")
    before = bench_peer.memory()
    kept = bytearray(b"\x01" * 8_000_000)
    assert bench_peer.memory() - before > 7_000_000
    del kept
