"""Tests that run in virtual machines: the mark `on_kernel` of the pytest plugin.

    @pytest.mark.on_kernel("6.1", "sid")
    def test_something(): ...

On the host, such a test stands there once for each kernel. The first of a kernel boots it and runs
all tests of the session that want that kernel, so each is booted once; the others only report.

These, and tests that use the fixture `kernel_vm`, get the mark `boots`: `-m "not boots"` leaves out
what takes long and needs Debian's archive.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pybpfload.testing.vm.matrix import KernelRun


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that run in virtual machines in the place of those that want to; mark them."""
    if "PYBPFLOAD_VM_EVENTS" in os.environ:
        return  # in a virtual machine
    items[:] = [each for item in items for each in _on_kernels(item)]
    for item in items:
        if isinstance(item, GuestTest) or "kernel_vm" in getattr(item, "fixturenames", ()):
            item.add_marker("boots")


def _on_kernels(item: pytest.Item) -> list[pytest.Item]:
    mark = item.get_closest_marker("on_kernel")
    if mark is None:
        return [item]
    if not mark.args:
        raise pytest.UsageError(f"{item.nodeid}: on_kernel() names no kernel")
    assert item.parent is not None
    return [
        GuestTest.from_parent(
            item.parent, name=_with_id(item.name, kernel), kernel=kernel, inner=item
        )
        for kernel in mark.args
    ]


def _with_id(name: str, kernel: str) -> str:
    """A test's name with the kernel as if it was a parameter: `test_it[6.1]`."""
    return f"{name[:-1]}-{kernel}]" if name.endswith("]") else f"{name}[{kernel}]"


# What these say of the machine is meant for the one in which the test runs.
_JUDGED_THERE = ("skip", "skipif", "xfail")


class GuestFailure(Exception):  # noqa: N818 - what pytest shows is its text
    """What a test in a virtual machine said when it failed."""


class GuestTest(pytest.Item):
    """A test function that runs in a virtual machine.

    Attributes:
        kernel: Name of the kernel.
        inner: The test as it was collected here.
    """

    def __init__(self, *, kernel: str, inner: pytest.Item, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kernel = kernel
        self.inner = inner
        self.own_markers += [m for m in inner.own_markers if m.name not in _JUDGED_THERE]
        self.extra_keyword_matches |= inner.extra_keyword_matches

    def runtest(self) -> None:
        """Ask what became of it."""
        run = _run_of(self.session, self.kernel)
        test = run.tests.get(self.inner.nodeid)
        if test is None:
            raise GuestFailure(run.problem or f"kernel {self.kernel} did not run it")
        if test.outcome == "skipped":
            pytest.skip(f"on {run.title}: {test.detail}")
        if test.outcome == "xfailed":
            pytest.xfail(test.detail)
        if test.outcome not in ("passed", "xpassed"):
            detail = test.detail or run.problem
            raise GuestFailure(f"{test.outcome} on kernel {run.title}\n{detail}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What happened in the machine, without what happened here."""
        if isinstance(excinfo.value, GuestFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Where the test function is."""
        path, line, _ = self.inner.reportinfo()
        return path, line, self.name


_RUNS: pytest.StashKey[dict[str, KernelRun]] = pytest.StashKey()


def _run_of(session: pytest.Session, kernel: str) -> KernelRun:
    """What all tests of a kernel did there, at the first call by booting it."""
    runs = session.stash.setdefault(_RUNS, {})
    if kernel not in runs:
        from pybpfload.testing.vm import VirtualMachineError, matrix

        wanted = [
            item.inner.nodeid
            for item in session.items
            if isinstance(item, GuestTest) and item.kernel == kernel
        ]
        try:
            [runs[kernel]] = matrix.run_tests(
                [kernel],
                [*wanted, "-m", "on_kernel"],
                timeout=session.config.option.kernel_timeout,
                folder=session.config.rootpath,
            )
        except VirtualMachineError as error:
            runs[kernel] = matrix.KernelRun(kernel, problem=str(error))
    return runs[kernel]
