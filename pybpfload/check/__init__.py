"""Will an object load on a kernel? Asked of BTF, offline, on any system."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pybpfload.check.kernel import Kernel
    from pybpfload.check.matrix import check_files
    from pybpfload.check.verdict import DEGRADED, FAILS, LOADS, Finding, Verdict, check

__all__ = ["DEGRADED", "FAILS", "LOADS", "Finding", "Kernel", "Verdict", "check", "check_files"]

_HOMES = {
    "Kernel": "kernel",
    "check_files": "matrix",
    **dict.fromkeys(("DEGRADED", "FAILS", "LOADS", "Finding", "Verdict", "check"), "verdict"),
}


def __getattr__(name: str) -> Any:
    # Lazily: what an object asks of any kernel (check.asks) wants none of them.
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
