"""Damaged files: nothing but BpfError, no case over 2 s or 200 MB; and that it would show."""

from __future__ import annotations

import contextlib
import re
import time

import hostile
import pytest
from fuzz_targets import PARSERS, TARGETS

SEED = 0


@pytest.mark.parametrize("target", TARGETS)
def test_damage_ends_in_an_error_of_ours(target):
    cases = TARGETS[target].cases
    summary = hostile.run(target, SEED, cases)
    print(summary)
    assert summary.cases == cases
    assert not summary.findings, "\n".join(summary.findings)


def test_there_are_5000_cases_without_those_of_commands():
    assert sum(target.cases for target in PARSERS.values()) == 5000


@pytest.mark.parametrize("target", PARSERS)
def test_good_files_are_read(target):
    """A target that refuses everything would never find anything."""
    for data in TARGETS[target].seeds():
        assert hostile.problem(hostile.measured(TARGETS[target].run, data)) == ""


def test_a_case_is_the_same_each_time():
    assert hostile.made("elf", 3, 14) == hostile.made("elf", 3, 14)
    assert hostile.made("elf", 3, 14) != hostile.made("elf", 4, 14)


def unguarded(data: bytes) -> None:
    raise IndexError("what a parser must not raise")


def slow(data: bytes) -> None:
    while True:
        with contextlib.suppress(Exception):  # as code under test may
            time.sleep(0)


def greedy(data: bytes) -> None:
    assert len(b"x" * (300 << 20)) > 0


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (unguarded, r"IndexError at test_damaged_files.py:\d+: what a parser must not raise"),
        (slow, "TooSlow at "),
        (greedy, r"it took 3\d\d MB, more than 200"),
    ],
)
def test_what_is_wrong_is_noticed(monkeypatch, run, found):
    if run is slow:
        monkeypatch.setattr(hostile, "SECONDS", 0.1)
    answer = hostile.measured(run, b"")
    if run is greedy:
        answer["seconds"] = 0.0  # only the memory is of interest
    assert re.match(found, hostile.problem(answer))


def test_a_finding_says_how_to_see_it_again(monkeypatch):
    monkeypatch.setattr(hostile, "SECONDS", -1.0)
    found = hostile.run("kallsyms", 5, 2).findings
    assert len(found) == 2
    assert found[1].endswith("tools/fuzz kallsyms --seed 5 --case 1")


def test_a_worker_that_dies_is_a_finding(capfd):
    summary = hostile.run("no such target", 0, 2)
    assert summary.cases == len(summary.findings) == 2
    assert "the process died" in summary.findings[0]
    assert "KeyError: 'no such target'" in capfd.readouterr().err
