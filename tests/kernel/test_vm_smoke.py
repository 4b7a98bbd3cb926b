"""What every virtual machine promises to the tests in it (pybpfload/testing/vm/init.sh)."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from pybpfload.elf.image import btf_from_image
from pybpfload.testing.vm.modules import LOADED

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif("PYBPFLOAD_VM_EVENTS" not in os.environ, reason="not in a virtual machine"),
]


def test_the_kernel_is_linux_and_the_user_root():
    assert platform.system() == "Linux"
    assert os.geteuid() == 0


def test_file_systems():
    mounts = dict(line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    expected = {
        "/proc": "proc",
        "/sys": "sysfs",
        "/dev": "devtmpfs",
        "/dev/shm": "tmpfs",
        "/run": "tmpfs",
        "/sys/fs/bpf": "bpf",
        "/sys/fs/cgroup": "cgroup2",
        "/sys/kernel/debug": "debugfs",
        "/sys/kernel/security": "securityfs",
        "/sys/kernel/tracing": "tracefs",
    }
    assert {place: mounts.get(place) for place in expected} == expected


def test_this_checkout_is_the_working_directory():
    checkout = Path(__file__).parents[2]
    assert Path.cwd() == checkout
    assert (checkout / "tools" / "vm").stat().st_mode & 0o111


def test_loopback_is_up():
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()):
        pass


@pytest.mark.parametrize("module", LOADED)
def test_modules_are_loaded(module):
    assert Path("/sys/module", module).exists()


def test_a_module_is_loaded_on_demand():
    assert not Path("/sys/module/ifb").exists()
    subprocess.run(["ip", "link", "add", "pybpfload0", "type", "ifb"], check=True)
    try:
        assert Path("/sys/module/ifb").exists()
    finally:
        subprocess.run(["ip", "link", "del", "pybpfload0"], check=True)
        subprocess.run(["modprobe", "-r", "ifb"], check=True)


def test_vmlinux_btf():
    data = Path("/sys/kernel/btf/vmlinux").read_bytes()
    assert btf_from_image(data) == data
    assert len(data) > 3_000_000


@pytest.mark.kernel("5.11")
def test_module_btf():
    header = Path("/sys/kernel/btf/veth").read_bytes()[:4]
    assert struct.unpack("=HBB", header) == (0xEB9F, 1, 0)


def test_the_bpf_security_module_is_active_where_it_is_built():
    if "CONFIG_BPF_LSM=y" in Path(f"/boot/config-{platform.release()}").read_text():
        assert "bpf" in Path("/sys/kernel/security/lsm").read_text().split(",")


@pytest.mark.parametrize("program", ["ip", "tc", "bpftool", "strace", "busybox", "python3"])
def test_programs(program):
    path = shutil.which(program)
    assert path is not None
    option = {"ip": "-V", "tc": "-V", "busybox": "true"}.get(program, "--version")
    done = subprocess.run([path, option], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_bpf_is_reachable():
    done = subprocess.run(["bpftool", "prog", "list"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_has_its_library_compiled():
    import argparse

    assert argparse.__cached__ is not None
    assert Path(argparse.__cached__).exists()
