"""bpftool to compare with: that of the machine, or the one that ``tools/corpus`` keeps unpacked."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from pybpfload.testing.vm.cache import cache_folder


def _found() -> str | None:
    unpacked = cache_folder() / "unpacked" / "bpftool-sid" / "bin" / "bpftool"
    return shutil.which("bpftool") or (str(unpacked) if unpacked.exists() else None)


needs_bpftool = pytest.mark.skipif(
    _found() is None,
    reason="bpftool is neither installed nor in the cache (tools/corpus build fetches it)",
)


def bpftool(*words: object) -> Any:
    """What it prints with ``-j``."""
    command = [str(_found()), "-j", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout)
