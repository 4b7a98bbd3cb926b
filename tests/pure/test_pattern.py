"""Patterns of names, and that every family of the SEC() table is attached by a module."""

import time
from importlib import import_module

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybpfload.object.sections import section_table
from pybpfload.pattern import glob_pattern
from pybpfload.runtime.attach import _FAMILIES


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("vfs_*", ["vfs_", "vfs_read"], ["xvfs_read", "vfs"]),
        ("vfs_rea?", ["vfs_read"], ["vfs_rea", "vfs_reads"]),
        ("[a-z]", ["[a-z]"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("*", ["", "a\nb"], []),
    ],
)
def test_pattern(pattern, matching, others):
    wanted = glob_pattern(pattern)
    assert all(wanted.fullmatch(name) for name in matching)
    assert not any(wanted.fullmatch(name) for name in others)


def matches(pattern: str, name: str) -> bool:
    """The rule itself, character by character."""
    ends = {0}  # how much of the pattern may be used up
    for character in ["", *name]:
        ends = {at + 1 for at in ends if character and pattern[at : at + 1] in ("?", character)} | {
            at for at in ends if not character or pattern[at : at + 1] == "*"
        }
        for at, each in enumerate(pattern):
            if each == "*" and at in ends:
                ends.add(at + 1)
    return len(pattern) in ends


@given(st.text("ab?*", max_size=9), st.text("ab", max_size=9))
@example("*a*b*", "ba")
@example("*?b*b", "abab")
def test_any_pattern(pattern, name):
    assert bool(glob_pattern(pattern).fullmatch(name)) == matches(pattern, name)


def test_many_stars_take_no_longer():
    started = time.process_time()
    assert not glob_pattern("*_" * 120 + "*x").fullmatch("_" * 500)
    assert glob_pattern("*_" * 120 + "*x").fullmatch("_" * 500 + "x")
    assert time.process_time() - started < 1  # each way to place them: more than anyone can wait


def test_every_family_has_a_module():
    families = {row.auto for row in section_table()} - {""}
    assert families == set(_FAMILIES)
    for home in _FAMILIES.values():
        assert callable(import_module(f"pybpfload.runtime.attach.{home}").attach)
