"""Every fixture through libbpf and pybpfload, on one scripted kernel: the same comes out.

``tools/differential`` shows the same comparison for any object and any BTF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import libbpf_pool as pool
import pytest

from pybpfload.testing.vm import kernels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.differential

FIXTURES = pool.objects_below([pool.ROOT / "fixtures" / each for each in ("bpfel", "bpfeb")])
TARGETS = ("core_target", *kernels.KERNELS)
# Kernels as old as the last ones without names, BTF, data sections, mapped arrays, ...
AGES = ("4.14", "4.19", "5.1", "5.4", "5.10", "5.15", "6.1")
MODULES = ("nf_tables", "nfnetlink", "bridge")


@pytest.fixture(scope="session", autouse=True)
def libbpf():
    if reason := pool.why_not():
        pytest.skip(reason)


def btf_of(name: str, module: str = "") -> Path:
    path = pool.module_btf(name, module) if module else pool.kernel_btf(name)
    if path is None:
        pytest.skip(f"kernel {name} is not in the cache; tools/kernels fetch gets it")
    return path


@pytest.fixture(scope="module")
def worker(request, libbpf):
    """A worker in the setting that the test asks for by an indirect parameter."""
    name, age, modules = request.param
    if name == "core_target":  # made-up types that the core_* fixtures are about
        setting = pool.Setting(name, pool.ROOT / "fixtures" / "bpfel" / "core_target.bpf.o")
    elif age is not None:
        setting = pool.Setting.old(name, btf_of(name), age)
    else:
        files = tuple((each, btf_of(name, each)) for each in modules)
        setting = pool.Setting(name, btf_of(name), files)
    with pool.Worker(setting) as running:
        yield running


def agree(worker: pool.Worker, path: Path) -> None:
    result = worker.compare(path)
    assert not result.crashed
    assert not result.differences
    assert result.counts["runs"]


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.name.partition('.')[0]}"


def settings(*found: tuple[str, str | None, tuple[str, ...]]) -> pytest.MarkDecorator:
    ids = [" ".join(filter(None, (name, age, *modules))) for name, age, modules in found]
    return pytest.mark.parametrize("worker", found, ids=ids, indirect=True)


@settings(*((name, None, ()) for name in TARGETS))
@pytest.mark.parametrize("path", FIXTURES, ids=name_of)
def test_fixture(worker, path):
    agree(worker, path)


@settings(*(("6.12", age, ()) for age in AGES))
@pytest.mark.parametrize("path", [p for p in FIXTURES if p.parent.name == "bpfel"], ids=name_of)
def test_old_kernel(worker, path):
    agree(worker, path)


@settings(("6.12", None, MODULES))
@pytest.mark.parametrize("path", [p for p in FIXTURES if p.parent.name == "bpfel"], ids=name_of)
def test_modules(worker, path):
    agree(worker, path)
