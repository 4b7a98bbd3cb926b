"""CO-RE: adjusting instructions to the types of the kernel they will run on.

One relocation goes through five steps, each a module of its own: ``access`` reads what the program
wanted in terms of its own types, ``candidates`` finds types of the target that may correspond,
``match`` follows the access there, ``compute`` turns both sides into numbers, ``patch`` writes the
new number into the instruction. ``driver`` runs them in libbpf's order and keeps every decision as
data (:class:`CoreDecision`).

The rules are those of libbpf's ``relo_core.c``, which the kernel itself uses too.
"""

from __future__ import annotations

from pybpfload.relocate.core.decision import CoreDecision, CoreKind, Outcome

__all__ = ["CoreDecision", "CoreKind", "Outcome"]
