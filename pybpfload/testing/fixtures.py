"""Fixtures for tests of BPF programs; part of the pytest plugin, `pybpfload.testing.plugin`.

def test_it_loads_everywhere(kernel_btf):          # once for each kernel
    assert_loads("tracer.bpf.o", kernel_btf)

def test_it_counts(bpf_load, bpf_run):
    program = bpf_load("tracer.bpf.o")["on_exec"]
    assert bpf_run(program, ctx=[1, 2]).retval == 0

def test_it_runs_on_61(kernel_vm):
    assert kernel_vm("6.1").run(["./tracer", "--once"]).exit_status == 0
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pybpfload.btf import Btf
    from pybpfload.testing.kernel_types import KernelTypes
    from pybpfload.testing.running import Loaded, Run, Runnable
    from pybpfload.testing.vm import VirtualMachine

_PLACES = ("interpreter", "kernel", "both")
_NO_KERNELS = "no kernel's BTF is here: set kernel_btf_folder, or fetch kernels"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the fixtures can be told."""
    group = parser.getgroup("bpf", "BPF programs (pybpfload)")
    group.addoption(
        "--bpf-run",
        choices=_PLACES,
        help="where bpf_load() and bpf_run() run programs: without a kernel, in the running one by "
        "BPF_PROG_TEST_RUN, or on both, which must agree [ini bpf_run, or interpreter]",
    )
    group.addoption(
        "--kernel-btf-folder",
        metavar="DIR",
        help="folder with BTF of kernels, a file each, for kernel_btf and kernel_btfs "
        "[ini kernel_btf_folder, or the kernels in the cache]",
    )
    parser.addini("bpf_run", f"where BPF programs run: {', '.join(_PLACES)}", default="interpreter")
    parser.addini("kernel_btf_folder", "folder with BTF of kernels, a file each", default="")
    parser.addini(
        "kernel_btfs", "kernels that the fixture kernel_btf stands for", type="args", default=[]
    )


_TYPES: pytest.StashKey[KernelTypes] = pytest.StashKey()


def _kernel_types(config: pytest.Config) -> KernelTypes:
    if _TYPES not in config.stash:
        from pybpfload.testing.kernel_types import KernelTypes

        chosen = config.getoption("--kernel-btf-folder")
        if chosen is None and (ini := config.getini("kernel_btf_folder")):
            chosen = config.rootpath / ini
        config.stash[_TYPES] = KernelTypes(Path(chosen) if chosen else None)
    return config.stash[_TYPES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `kernel_btf` once for each kernel."""
    if "kernel_btf" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("kernel_btfs")
    names = list(mark.args) if mark else list(metafunc.config.getini("kernel_btfs"))
    values: list[Any] = names or list(_kernel_types(metafunc.config))
    if not values:
        values = [pytest.param(None, marks=pytest.mark.skip(reason=_NO_KERNELS), id="none")]
    metafunc.parametrize("kernel_btf", values, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kernel_btfs(pytestconfig: pytest.Config) -> KernelTypes:
    """BTF by the name of a kernel: ``kernel_btfs["6.1"]``.

    See :class:`pybpfload.testing.kernel_types.KernelTypes` for what names there are.
    """
    return _kernel_types(pytestconfig)


@pytest.fixture(scope="session")
def kernel_btf(request: pytest.FixtureRequest, kernel_btfs: KernelTypes) -> Btf:
    """BTF of a kernel; the test runs once for each.

    Of the kernels that the mark ``kernel_btfs("5.10", "6.1")`` names, or the ini option
    ``kernel_btfs``; else all in ``kernel_btf_folder``, or in the cache, or the running one.
    """
    return kernel_btfs[request.param]


@pytest.fixture
def bpf_load(pytestconfig: pytest.Config) -> Iterator[Callable[..., Loaded]]:
    """Make an object ready to run programs of: ``bpf_load("tracer.bpf.o")["on_exec"]``.

    A function with the arguments of :func:`pybpfload.testing.running.load`; ``on`` is what
    ``--bpf-run`` or the ini option ``bpf_run`` says, unless it is given. What it loaded is unloaded
    after the test.
    """
    from pybpfload.testing.running import load

    usual = pytestconfig.getoption("--bpf-run") or pytestconfig.getini("bpf_run")
    with contextlib.ExitStack() as loaded:

        def bpf_load(obj: Any, *, on: str | None = None, **options: Any) -> Loaded:
            made = load(obj, on=on or usual, **options)
            loaded.callback(made.close)
            return made

        yield bpf_load


@pytest.fixture
def bpf_run() -> Callable[..., Run]:
    """Run a program of `bpf_load` once: ``bpf_run(program, data, ctx=[1, 2])``."""

    def bpf_run(program: Runnable, data: bytes = b"", *, ctx: bytes | Sequence[int] = b"") -> Run:
        __tracebackhide__ = True
        return program.run(data, ctx=ctx)

    return bpf_run


@pytest.fixture(scope="session")
def kernel_vm() -> Callable[..., VirtualMachine]:
    """A virtual machine with a kernel: ``kernel_vm("6.1").run(["uname", "-r"])``.

    A function with the arguments of :class:`pybpfload.testing.vm.VirtualMachine`. Each ``run``
    boots it anew; nothing is left over. To run a test function there, mark it with ``on_kernel``.
    """
    machines: dict[tuple[Any, ...], VirtualMachine] = {}

    def kernel_vm(kernel: str, **options: Any) -> VirtualMachine:
        key = (kernel, *sorted(options.items()))
        if key not in machines:
            from pybpfload.testing import vm

            machines[key] = vm.VirtualMachine(kernel, **options)
        return machines[key]

    return kernel_vm
