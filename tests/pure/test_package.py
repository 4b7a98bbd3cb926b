"""The names of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pybpfload


def test_every_public_name_can_be_had():
    for name in pybpfload.__all__:
        assert getattr(pybpfload, name) is not None


def test_names_stay_what_they_are_once_everything_is_imported():
    code = """
import pybpfload, pybpfload.relocate, pybpfload.object, pybpfload.runtime.object
assert callable(pybpfload.open) and callable(pybpfload.load)
for name in pybpfload.__all__:
    value = getattr(pybpfload, name)
    assert type(value).__name__ != "module", name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_btf_from_a_device_ends_at_once():
    with pytest.raises(pybpfload.FormatError, match="device"):
        pybpfload.read_btf("/dev/zero")
