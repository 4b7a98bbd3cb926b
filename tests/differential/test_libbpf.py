"""Every fixture through libbpf and pybpfload: same verdict, same programs, same instructions.

``tools/differential`` shows the same comparison for any object and any BTF.
"""

from __future__ import annotations

from pathlib import Path

import libbpf_compare as compare
import pytest

pytestmark = pytest.mark.differential

ROOT = Path(__file__).parents[2]
FIXTURES = sorted((ROOT / "fixtures").glob("bpfe?/*.bpf.o"))
KERNELS = ("5.10", "6.1", "6.12", "sid", "6.12-arm64", "6.12-s390x")


@pytest.fixture(scope="module")
def libbpf():
    if reason := compare.why_not():
        pytest.skip(reason)
    with compare.Libbpf() as running:
        yield running


@pytest.fixture(scope="module", params=["this kernel", "core_target", *KERNELS])
def target(request, libbpf):
    if request.param == "core_target":  # made-up types that the core_* fixtures are about
        return compare.Target("core_target", ROOT / "fixtures" / "bpfel" / "core_target.bpf.o")
    if request.param == "this kernel":
        if not Path("/sys/kernel/btf/vmlinux").exists():
            pytest.skip("this kernel has no BTF")
        return compare.Target()
    path = compare.kernel_btf(request.param)
    if path is None:
        pytest.skip(f"kernel {request.param} is not in the cache; tools/kernels fetch gets it")
    return compare.Target(request.param, path)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_fixture(path, target, libbpf):
    """Maps are created once: with another target only CO-RE can make a difference."""
    elsewhere = target.path is not None
    result = compare.compare(libbpf, path, target, without_maps=elsewhere, core_only=elsewhere)
    assert not result.differences
    # Where only this kernel refused a map, instructions were compared all the same.
    if missing := [told for told in result.not_compared if not told.startswith("map references")]:
        pytest.skip("; ".join(missing))
