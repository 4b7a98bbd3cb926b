"""For testing BPF programs: kernels in virtual machines, generators, a pytest plugin.

Names are imported when they are first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pybpfload.testing.interpreter import (
        Environment,
        FaultError,
        Interpreter,
        InterpreterError,
        Memory,
    )

__all__ = ["Environment", "FaultError", "Interpreter", "InterpreterError", "Memory"]

_HOMES = {
    "Environment": "interpreter",
    "FaultError": "interpreter",
    "Interpreter": "interpreter",
    "InterpreterError": "interpreter",
    "Memory": "interpreter",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
