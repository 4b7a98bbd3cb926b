"""For testing BPF programs: kernels in virtual machines, generators, a pytest plugin.

Names are imported when they are first used.
"""

from __future__ import annotations

from pybpfload.lazy import lazily

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybpfload.testing import properties, strategies
    from pybpfload.testing.assertions import assert_loads, assert_same_relocation
    from pybpfload.testing.interpreter import (
        Environment,
        FaultError,
        Interpreter,
        InterpreterError,
        Memory,
    )
    from pybpfload.testing.objects import ObjectBuilder, Site
    from pybpfload.testing.properties import (
        assert_deterministic,
        assert_idempotent,
        assert_only_bpf_errors,
        assert_own_btf_changes_nothing,
        assert_round_trip,
        assert_same_in_both_orders,
        check_case,
        check_reads,
    )

__all__ = [
    "Environment",
    "FaultError",
    "Interpreter",
    "InterpreterError",
    "Memory",
    "ObjectBuilder",
    "Site",
    "assert_deterministic",
    "assert_idempotent",
    "assert_loads",
    "assert_only_bpf_errors",
    "assert_own_btf_changes_nothing",
    "assert_round_trip",
    "assert_same_in_both_orders",
    "assert_same_relocation",
    "check_case",
    "check_reads",
    "properties",
    "strategies",
]

_HOMES = {
    "Environment": "interpreter",
    "FaultError": "interpreter",
    "Interpreter": "interpreter",
    "InterpreterError": "interpreter",
    "Memory": "interpreter",
    "ObjectBuilder": "objects",
    "Site": "objects",
    "assert_deterministic": "properties",
    "assert_idempotent": "properties",
    "assert_loads": "assertions",
    "assert_only_bpf_errors": "properties",
    "assert_own_btf_changes_nothing": "properties",
    "assert_round_trip": "properties",
    "assert_same_in_both_orders": "properties",
    "assert_same_relocation": "assertions",
    "check_case": "properties",
    "check_reads": "properties",
}
_MODULES = ("properties", "strategies")
__getattr__ = lazily(__name__, _HOMES, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
