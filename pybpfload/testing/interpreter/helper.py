"""What a helper is.

A helper is a Python function. Its first parameter is the :class:`~.machine.Machine`, the others are
as many of r1 to r5 as it takes, unsigned 64-bit numbers; a parameter with a default is one that
programs need not give. What it returns goes to r0, negative error numbers included; ``None`` leaves
r0 without a value. Helpers of users are the same, and so are kfuncs. A program's mistake is a
:class:`~.errors.FaultError`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

from pybpfload.uapi import Helper as HelperNumber

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Helper: TypeAlias = Callable[..., int | None]

__all__ = ["MASK32", "Helper", "Table", "helper_name", "registers_taken"]

MASK32: Final = 0xFFFFFFFF
"""Helpers take sizes and indices of 32 bits, whatever is above them in the register."""

_REGISTERS: Final = 5


class Table(dict[str, "Helper"]):
    """Helpers by name, with ``bpf_``."""

    def add(self, *names: str) -> Callable[[Helper], Helper]:
        """Decorate a helper with its names, without ``bpf_``."""

        def register(function: Helper) -> Helper:
            self.update((f"bpf_{name}", function) for name in names)
            return function

        return register


def helper_name(number: int) -> str | None:
    """Return the name of a helper of the kernel, ``bpf_...``, or ``None``."""
    known = HelperNumber(number)
    unknown = number <= 0 or known.name.startswith("UNKNOWN")
    return None if unknown else f"bpf_{known.name.lower()}"


def registers_taken(helper: Helper) -> tuple[int, int]:
    """Return how many of r1 to r5 a helper needs, and how many it takes."""
    parameters = list(inspect.signature(helper).parameters.values())[1:]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return 0, _REGISTERS
    needed = sum(parameter.default is inspect.Parameter.empty for parameter in parameters)
    return min(needed, _REGISTERS), min(len(parameters), _REGISTERS)
