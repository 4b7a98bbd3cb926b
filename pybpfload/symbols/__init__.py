"""Addresses as names: of the kernel, of its modules and BPF programs, of processes; stack traces.

::

    stacks = symbols.Stacks(obj.maps["stacks"])
    for frame in stacks.frames(event.user_stack, pid=event.pid):
        print(frame)  # 0x7f1e4a4f3717 __getpgid+0x7 (libc.so.6)

Needs Linux; what draws and counts is in :mod:`pybpfload.charts` and does not.
"""

from __future__ import annotations

from pybpfload.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybpfload.symbols.demangling import demangle
    from pybpfload.symbols.frame import Frame
    from pybpfload.symbols.kernel import KernelSymbols
    from pybpfload.symbols.process import UserSymbols
    from pybpfload.symbols.stacks import Stacks

__all__ = ["Frame", "KernelSymbols", "Stacks", "UserSymbols", "demangle"]

_HOMES = {
    "Frame": "frame",
    "KernelSymbols": "kernel",
    "Stacks": "stacks",
    "UserSymbols": "process",
    "demangle": "demangling",
}

__getattr__ = lazily(__name__, _HOMES)
