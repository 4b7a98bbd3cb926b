"""Tests that ask the machine's own kernel: nothing they make outlives them or is seen by others."""

from __future__ import annotations

import bpftool
import pytest

from pybpfload.errors import BpfError
from pybpfload.kernel import bpf


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: asks the machine's own kernel, as root")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") and (reason := _refusal()):
        pytest.skip(reason)


def _refusal() -> str:
    """Why this process may not use bpf(2), or nothing."""
    try:
        bpf.map_get_next_id(0)
    except BpfError as error:
        return f"no BPF here: {error}"
    return ""


@pytest.fixture(scope="session")
def bpftool_there() -> None:
    """Skips tests that compare with bpftool where there is none."""
    if reason := bpftool.why_not():
        pytest.skip(reason)
