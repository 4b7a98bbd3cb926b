"""Relocation: a pure function from an object and the target's BTF to final instructions.

References that only a running kernel can fill in stay symbolic, see :class:`Reference`.
"""

from __future__ import annotations

from pybpfload.relocate.core import CoreDecision, CoreKind, Outcome
from pybpfload.relocate.core.candidates import Target
from pybpfload.relocate.minimal import minimize
from pybpfload.relocate.program import (
    Reference,
    ReferenceKind,
    RelocatedProgram,
    Relocation,
    relocate,
)
from pybpfload.relocate.struct_ops import StructOpsMember, StructOpsValue, match_struct_ops

__all__ = [
    "CoreDecision",
    "CoreKind",
    "Outcome",
    "Reference",
    "ReferenceKind",
    "RelocatedProgram",
    "Relocation",
    "StructOpsMember",
    "StructOpsValue",
    "Target",
    "match_struct_ops",
    "minimize",
    "relocate",
]
