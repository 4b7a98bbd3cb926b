"""Hypothesis strategies of C types, of what kernels make of them, and of BPF objects.

    from hypothesis import given
    from pybpfload.testing import strategies
    from pybpfload.testing.properties import check_case

    @given(strategies.cases())
    def test_relocation(case):
        check_case(case)

Examples shrink, and their ``repr`` is C: what the program has, what the kernel has, and what
changed. Hypothesis is needed: ``pip install pybpfload[testing]``.
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
except ImportError as error:
    raise ImportError(
        "pybpfload.testing.strategies needs Hypothesis: pip install 'pybpfload[testing]'"
    ) from error

from pybpfload.testing.strategies.cases import accesses, btfs, cases, corrupted, objects
from pybpfload.testing.strategies.evolution import evolutions
from pybpfload.testing.strategies.types import byte_orders, enums, records, types

__all__ = [
    "accesses",
    "btfs",
    "byte_orders",
    "cases",
    "corrupted",
    "enums",
    "evolutions",
    "objects",
    "records",
    "types",
]
