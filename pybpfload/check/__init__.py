"""Will an object load on a kernel? Asked of BTF, offline, on any system."""

from __future__ import annotations

from pybpfload.check.judge import check
from pybpfload.check.kernel import Kernel
from pybpfload.check.matrix import check_files
from pybpfload.check.sources import find_kernels
from pybpfload.check.verdict import DEGRADED, FAILS, LOADS, Finding, Verdict

__all__ = [
    "DEGRADED",
    "FAILS",
    "LOADS",
    "Finding",
    "Kernel",
    "Verdict",
    "check",
    "check_files",
    "find_kernels",
]
