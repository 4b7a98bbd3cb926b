"""An interpreter of relocated eBPF code, for tests.

* :mod:`.interpreter`: :class:`Interpreter`, which runs programs of an object.
* :mod:`.memory`: the address space, and objects in it laid out by BTF.
* :mod:`.maps`: maps by type; :mod:`.mapmodel`: what they share; :mod:`.keyed`: those with keys.
* :mod:`.helper`: what a helper is; :mod:`.helpers` and ``helpers_*``: those of the kernel;
  :mod:`.environment`: what they tell of the world; :mod:`.printf`: format strings.
* :mod:`.contexts`: what programs get in r1.
* :mod:`.linker`: references and calls of a program; :mod:`.steps`: what each instruction does;
  :mod:`.alu`: arithmetic; :mod:`.machine`: registers, frames and the loop.
"""

from __future__ import annotations

from pybpfload.testing.interpreter.environment import Environment
from pybpfload.testing.interpreter.errors import FaultError, InterpreterError
from pybpfload.testing.interpreter.interpreter import Interpreter, Result, Variable
from pybpfload.testing.interpreter.machine import Machine
from pybpfload.testing.interpreter.mapmodel import MapModel
from pybpfload.testing.interpreter.memory import Memory, Region

__all__ = [
    "Environment",
    "FaultError",
    "Interpreter",
    "InterpreterError",
    "Machine",
    "MapModel",
    "Memory",
    "Region",
    "Result",
    "Variable",
]
