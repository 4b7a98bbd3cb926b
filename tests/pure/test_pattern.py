"""Patterns of names, and that every family of the SEC() table is attached by a module."""

from importlib import import_module

import pytest

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


def test_every_family_has_a_module():
    families = {row.auto for row in section_table()} - {""}
    assert families == set(_FAMILIES)
    for home in _FAMILIES.values():
        assert callable(import_module(f"pybpfload.runtime.attach.{home}").attach)
