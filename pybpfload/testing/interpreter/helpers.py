"""The helpers and kfuncs that the interpreter has; :mod:`.helper` says what one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pybpfload.testing.interpreter import helpers_maps, helpers_memory, helpers_world

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pybpfload.testing.interpreter.helper import Helper

__all__ = ["HELPERS"]

HELPERS: Final[Mapping[str, Helper]] = {
    **helpers_maps.TABLE,
    **helpers_memory.TABLE,
    **helpers_world.TABLE,
}
"""Name with ``bpf_`` -> the helper or kfunc. ``bpf_tail_call`` is not here: it is no call."""
