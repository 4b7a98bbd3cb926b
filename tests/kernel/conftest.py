"""What the kernel tests share: fixtures of BPF objects, and what a kernel must have for a test."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from network import Counted, own_cgroup, own_namespace

import pybpfload
from pybpfload.kernel import tracefs as kernel_tracefs

OBJECTS = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if os.sys.byteorder == "little" else "bpfeb")
)

# These tests run on the machine's own kernel and in virtual machines; each says what it needs.
pytestmark = pytest.mark.vm


@pytest.fixture
def opened():
    """Open a fixture object by name."""

    def open_fixture(name: str) -> pybpfload.ObjectSpec:
        return pybpfload.open(OBJECTS / f"{name}.bpf.o")

    return open_fixture


@pytest.fixture(scope="session")
def jit() -> None:
    """Skip unless the kernel compiles programs: trampolines, callbacks and kfuncs need that."""
    setting = Path("/proc/sys/net/core/bpf_jit_enable")
    if not setting.exists() or setting.read_text().strip() == "0":
        pytest.skip("this kernel has no BPF JIT, or it is switched off")


@pytest.fixture(scope="session")
def sound_kernel() -> None:
    """Skip on a kernel that has oopsed: whoever died there may hold a lock for ever.

    Waiting for such a lock cannot be interrupted, so a test that only might need it hangs the run.
    """
    died = int(Path("/proc/sys/kernel/tainted").read_text()) & 128
    if died:
        pytest.skip("this kernel has oopsed (taint D): what registers struct_ops could hang here")


@pytest.fixture(scope="session")
def trampolines(jit) -> None:
    """Skip unless the kernel runs fentry programs."""
    spec = pybpfload.open(OBJECTS / "fmodret.bpf.o")
    try:
        with spec.load() as obj:
            obj.attach()
    except pybpfload.NotPermittedError as error:
        pytest.skip(f"this kernel refuses trampolines by policy: {error}")
    except pybpfload.KernelError as error:
        if error.errno == 524:
            pytest.skip("this kernel's JIT has no trampolines")
        raise


@pytest.fixture(scope="session")
def tracefs() -> str:
    """Skip unless tracefs is mounted."""
    try:
        return kernel_tracefs.root()
    except pybpfload.KernelError as error:
        pytest.skip(f"tracefs: {error}")


@pytest.fixture(scope="session")
def bpffs() -> str:
    """Skip unless a bpffs is mounted."""
    from pybpfload.kernel import bpffs as kernel_bpffs

    if not kernel_bpffs.is_bpffs("/sys/fs/bpf"):
        pytest.skip("no bpffs at /sys/fs/bpf")
    return "/sys/fs/bpf"


@pytest.fixture
def netns():
    """The test's own network namespace, with its loopback device up."""
    with own_namespace():
        yield


@pytest.fixture
def cgroup(tmp_path):
    """A control group that this process is in."""
    with own_cgroup(tmp_path) as group:
        yield group


@pytest.fixture
def network(opened):
    """The programs of the fixture `network`."""
    return Counted(opened("network"))


@pytest.fixture
def unlink_a_file(tmp_path):
    """Return a function that makes a file and removes it again."""

    def act(name: str = "some-file") -> None:
        path = tmp_path / name
        path.write_bytes(b"")
        path.unlink()

    return act


@pytest.fixture(autouse=True)
def nothing_left():
    """Every test closes all descriptors it opened."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    leaked = []
    for fd in sorted(set(os.listdir("/proc/self/fd")) - before, key=int):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{fd}")
            if "bpf" in target or "perf_event" in target or "eventpoll" in target:
                leaked.append(f"{fd} -> {target}")
    assert not leaked


def run_true() -> None:
    """Run a child process that does nothing."""
    subprocess.run(["/bin/true"], check=True)
