"""Every fixture through libbpf and pybpfload, on one scripted kernel: the same comes out.

``tools/differential`` shows the same comparison for any object and any BTF.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import libbpf_pool as pool
import pytest

from pybpfload.testing.vm import kernels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.differential

NATIVE_FOLDER = "bpfel" if sys.byteorder == "little" else "bpfeb"
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
    name, custom, age, modules = request.param
    if name == "core_target":  # made-up types that the core_* fixtures are about
        setting = pool.Setting(name, pool.ROOT / "fixtures" / "bpfel" / "core_target.bpf.o")
    elif age is not None:
        setting = pool.Setting.old(name, btf_of(name), age)
    else:
        files = tuple((each, btf_of(name, each)) for each in modules)
        target = btf_of(custom) if custom is not None else None
        setting = pool.Setting(name, btf_of(name), files, custom=target)
    with pool.Worker(setting) as running:
        yield running


def agree(worker: pool.Worker, path: Path) -> None:
    result = worker.compare(path)
    assert not result.crashed
    assert not result.differences
    assert result.counts["runs"]


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.name.partition('.')[0]}"


def settings(*found: Any) -> pytest.MarkDecorator:
    """Run a test in settings: kernel, custom BTF, age of the kernel, modules."""
    ids = [
        " ".join(filter(None, (name, custom and f"with {custom}", age, *modules)))
        for name, custom, age, modules in found
    ]
    return pytest.mark.parametrize("worker", found, ids=ids, indirect=True)


all_fixtures = pytest.mark.parametrize("path", FIXTURES, ids=name_of)
native_fixtures = pytest.mark.parametrize(
    "path", [path for path in FIXTURES if path.parent.name == NATIVE_FOLDER], ids=name_of
)


@settings(*((name, None, None, ()) for name in TARGETS))
@all_fixtures
def test_fixture(worker, path):
    agree(worker, path)


@settings(*(("6.12", None, age, ()) for age in AGES))
@native_fixtures
def test_old_kernel(worker, path):
    agree(worker, path)


@settings(("6.12", None, None, MODULES), ("sid", "6.1", None, ()))
@native_fixtures
def test_modules_and_custom_btf(worker, path):
    agree(worker, path)
