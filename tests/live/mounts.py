"""Code that mounts something, in a process whose mounts nobody else sees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

IN_OWN_MOUNTS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x00020000) == 0, ctypes.get_errno()
assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
def mount(kind, where):
    if libc.mount(kind, where, kind, 0, None) != 0 and ctypes.get_errno() != 16:  # there already
        print("skip:", os.strerror(ctypes.get_errno()))
        sys.exit()
sys.path.insert(0, sys.argv[1])
from producers import *
"""


def in_own_mounts(code: str) -> str:
    """Run code in a process that has its own mounts, which are gone when it ends."""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", IN_OWN_MOUNTS + code, here], capture_output=True, text=True
    )
    if done.stdout.startswith("skip:"):
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr
    return done.stdout
