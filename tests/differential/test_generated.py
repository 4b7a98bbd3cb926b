"""Objects that Hypothesis makes up, through libbpf and pybpfload: the same comes out.

``PYBPFLOAD_GENERATED=20000 pytest tests/differential/test_generated.py`` looks harder.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import libbpf_pool as pool
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pybpfload.testing import strategies
from pybpfload.testing.cases import flavored
from pybpfload.testing.cmodel import Types
from pybpfload.testing.strategies.types import Names

if TYPE_CHECKING:
    from pybpfload.testing.cases import Case

pytestmark = pytest.mark.differential

OBJECTS = int(os.environ.get("PYBPFLOAD_GENERATED", "600"))
PER_KERNEL = 100  # a worker knows one kernel, and takes a second to start


@pytest.fixture(scope="module", autouse=True)
def libbpf():
    if reason := pool.why_not():
        pytest.skip(reason)


def generated(number: int, rivals: bool) -> list[Case]:
    """Cases of which no two share a name, so that one kernel can have the types of all.

    Rivals are second flavors of the kernel's types that changed in another way: which one is taken
    depends on the program, on the order of its questions, or is ambiguous. The model does not say.
    """
    found: list[Case] = []
    names = Names()

    @settings(
        max_examples=PER_KERNEL,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(number)
    @given(st.data())
    def collect(data):
        case = data.draw(strategies.cases(names, order="<", max_probes=5))
        for evolution in case.evolutions if rivals else ():
            other = data.draw(strategies.evolutions(evolution.before, names=names))
            if other.after is not None:
                case.extra += (flavored(other.after, "rival"),)
        found.append(case)

    collect()
    return found


@pytest.mark.parametrize("rivals", [False, True])
@pytest.mark.parametrize("number", range(-(-OBJECTS // 2 // PER_KERNEL)))
def test_generated(number, rivals, tmp_path):
    cases = generated(number, rivals)
    kernel = Types([each for case in cases for each in case.kernel_types])
    target = tmp_path / "kernel.btf"
    target.write_bytes(kernel.builder().build())
    different, counts = [], Counter()
    with pool.Worker(pool.Setting("generated", None, custom=target)) as worker:
        for at, case in enumerate(cases):
            path = tmp_path / f"case_{at}.bpf.o"
            path.write_bytes(case.data)
            result = worker.compare(path)
            counts += result.counts
            if result.differences or result.crashed:
                different.append("\n".join([repr(case), *result.differences, result.crashed]))
    assert not different, "\n\n".join([f"{len(different)} of {len(cases)} differ", *different[:5]])
    assert counts["relocations"] > len(cases)
    print(dict(counts))
