"""bpftool to compare with: that of the machine, or Debian's newest, which is fetched once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pybpfload.testing.vm.cache import VirtualMachineError

TOOLS = str(Path(__file__).parents[2] / "tools" / "lib")

needs_bpftool = pytest.mark.usefixtures("bpftool_there")  # of conftest.py
"""Marks tests that call :func:`bpftool`; they are skipped where it is not to be had."""


@cache
def program() -> str:
    """Path of bpftool.

    Raises:
        VirtualMachineError: It is not installed, and cannot be fetched.
    """
    if found := shutil.which("bpftool"):
        return found
    sys.path.insert(0, TOOLS)
    try:
        from corpus import find_bpftool

        return str(find_bpftool())
    finally:
        sys.path.remove(TOOLS)


def bpftool(*words: object) -> Any:
    """What it prints with ``-j``."""
    command = [program(), "-j", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)


def why_not() -> str:
    """Why there is no bpftool, or nothing."""
    try:
        program()
    except VirtualMachineError as error:
        return f"bpftool is not installed and cannot be fetched: {error}"
    return ""
