"""Will an object load on a kernel? Asked of BTF, offline, on any system."""

from __future__ import annotations

from pybpfload.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
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

_HOMES = {
    "Kernel": "kernel",
    "check": "judge",
    "check_files": "matrix",
    "find_kernels": "sources",
    **dict.fromkeys(("DEGRADED", "FAILS", "LOADS", "Finding", "Verdict"), "verdict"),
}

# Lazily: `inspect` asks what an object wants of any kernel (check.asks), and of no kernel.
__getattr__ = lazily(__name__, _HOMES)
