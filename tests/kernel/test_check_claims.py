"""What ``check`` says of the running kernel is what loading finds.

Both directions, for every fixture: an object that "loads" or is "degraded" is loaded, unless the
verifier or a policy refuses it; one that "fails" is refused, or a program of it cannot be attached.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import OBJECTS

import pybpfload
from pybpfload.check import FAILS, Kernel, check

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        "PYBPFLOAD_VM_EVENTS" in os.environ and os.uname().machine != "x86_64",
        reason="the same on other architectures, whose emulation is slow",
    ),
]

NAMES = sorted(path.name.removesuffix(".bpf.o") for path in OBJECTS.glob("*.bpf.o"))
if "PYBPFLOAD_VM_EVENTS" in os.environ:
    # What depends on the kernel's age; the others say the same everywhere, and machines are slow.
    NAMES = [name for name in NAMES if not name.startswith(("core_", "bad_", "maps_", "linked"))]
# What check does not look at, and why.
NOT_ASKED = {
    "pinned": "needs a bpffs",
    "pinned_other": "needs a bpffs",
    "bad_exception_cb": "two programs share a wrong callback",
    "core_target": "not a program: types for others",
    "jump_tables": "needs a privilege of its own where the kernel has it",
}
ATTACHING = re.compile(r"no tracepoint|no function|without CONFIG_(KPROBE|UPROBE|FPROBE)")


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("this kernel has no BTF")
    return Kernel.read()


@pytest.mark.parametrize("name", NAMES)
def test_fixture(name, kernel):
    if name in NOT_ASKED:
        pytest.skip(NOT_ASKED[name])
    try:
        spec = pybpfload.open(OBJECTS / f"{name}.bpf.o")
    except pybpfload.FormatError:
        return  # nothing to check, and loading would not get so far
    except pybpfload.RelocationError:
        return
    verdict = check(spec, kernel)
    outcome = loading(spec)
    if isinstance(outcome, pybpfload.VerifierError):
        # The verifier looks at more than is asked here. But what relocation left invalid is known.
        if outcome.relocation is not None or "was not created" in str(outcome):
            assert verdict.result == FAILS, outcome
    elif isinstance(outcome, pybpfload.NotPermittedError):
        pytest.skip(f"policy: {outcome}")
    elif outcome is not None:
        assert verdict.result == FAILS or verdict.unknown, outcome
    else:
        if verdict.problems:  # modules come and go: once more, with what is there now
            verdict = check(spec, Kernel.read())
        # Where kprobes and raw tracepoints go is found when attaching only.
        problems = [each for each in verdict.problems if not ATTACHING.search(each.what)]
        assert not problems, [str(each) for each in problems]


def loading(spec: pybpfload.ObjectSpec) -> pybpfload.BpfError | None:
    """What loading finds wrong."""
    try:
        with spec.load():
            return None
    except pybpfload.BpfError as error:
        return error
