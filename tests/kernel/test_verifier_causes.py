"""What the verifier of the running kernel says is understood.

Each program of the fixture makes one mistake. Kernels word it differently, and newer ones take some
of the programs; what is refused has to be explained by its cause, instruction and C line.
"""

from __future__ import annotations

import os

import pytest

import pybpfload
from pybpfload.kernel.version import kernel_version
from pybpfload.verifier import explain

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        "PYBPFLOAD_VM_EVENTS" in os.environ and os.uname().machine != "x86_64",
        reason="the same on other architectures, whose emulation is slow",
    ),
]

# program -> (cause, a word of the C line, kernel that takes it, if any)
CAUSES = {
    "null_check": ("null-check", "*value", None),
    "null_arithmetic": ("null-check", "value += 1", None),
    "uninitialized": ("uninitialized", "asm", None),
    "clobbered": ("uninitialized", "asm", None),
    "scalar_as_pointer": ("scalar-pointer", "regs[1]", None),
    "map_bounds": ("map-bounds", "value[4]", None),
    "map_unbounded": ("unbounded negative", "value[offset]", None),
    "negative_index": ("negative", "value + index", None),
    "packet_bounds": ("packet-bounds", "data[14]", None),
    "packet_write": ("packet-write", "data[0] = 1", None),
    "stack_bounds": ("stack-bounds", "asm", None),
    "stack_depth": ("stack-depth", "", (6, 13)),  # functions may have stacks of their own there
    "endless": ("infinite-loop", "", None),
    "too_complex": ("too-complex", "", None),
    "unknown_helper": ("unknown-helper", "helper()", None),
    "helper_of_other_type": ("helper-type", "bpf_skb_load_bytes", None),
    "argument_type": ("argument-type", "bpf_map_lookup_elem", None),
    "argument_size": ("negative unbounded", "bpf_get_current_comm", None),
    "context_bounds": ("context-bounds", "ctx[1000]", None),
    "context_moved": ("context-moved", "asm", None),
    "kernel_write": ("kernel-write", "tgid = 1", None),
    "map_read_only": ("map-write", "*value = 1", None),
    "reference_kept": ("reference-leak", "", None),
    "reference_gone": ("scalar-pointer", "event->a", None),
    "return_value": ("return-value", "77", None),
    "pointer_arithmetic": ("pointer-arithmetic", "asm", None),
    "pointer_partial": ("stack-spill scalar-pointer", "asm", None),
    "unreachable": ("unreachable", "", None),
    "misaligned": ("misaligned", "asm", None),
    "struct_bounds": ("struct-bounds", "1000000", None),
    "stack_unwritten": ("stack-uninitialized stack-bounds", "asm", (6, 3)),
}


def test_the_table_names_every_program(opened):
    assert set(opened("verifier_causes").programs) == set(CAUSES)


@pytest.mark.parametrize("name", CAUSES)
def test_cause(opened, name):
    causes, line, taken_since = CAUSES[name]
    spec = opened("verifier_causes")
    spec.programs[name].autoload = True
    version = (kernel_version() >> 16, kernel_version() >> 8 & 255)
    if taken_since and version >= taken_since:
        with spec.load():
            return
    with pytest.raises(pybpfload.VerifierError) as caught:
        spec.load()
    error = caught.value
    found = explain(error.log, program=name)
    assert found.cause is not None, error.log[-2000:]
    assert found.cause.name in causes.split(), found.reason
    assert found.log.insn == error.insn or name == "endless"
    assert not found.log.truncated
    assert found.log.statistics.processed is not None
    if found.step is not None:
        assert line in found.step.source
        assert found.path[-1] is found.step
        assert found.path[0].insn == 0
    else:
        assert name in ("unreachable", "stack_depth")
    assert str(found).startswith(f"program {name}: refused: ")
