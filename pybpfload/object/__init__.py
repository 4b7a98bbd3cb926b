"""Objects as files say they are: programs, maps, variables, externs; no kernel is involved."""

from __future__ import annotations

from pybpfload.object.opener import open_object
from pybpfload.object.spec import (
    ExternSpec,
    MapSpec,
    ObjectSpec,
    ProgramSpec,
    VariableSpec,
)

__all__ = ["ExternSpec", "MapSpec", "ObjectSpec", "ProgramSpec", "VariableSpec", "open_object"]
