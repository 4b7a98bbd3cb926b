"""What the network tests share: a network namespace, traffic in it, and programs that count it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import netlink
import pytest

if TYPE_CHECKING:
    import pybpfload

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
ETH_P_ALL = 3
PATIENCE = 1  # second, for what is not lost
LOST = (TimeoutError, ConnectionRefusedError, PermissionError)
"""What becomes of traffic when a program drops it: nothing arrives, or the sender is told."""


@contextlib.contextmanager
def own_namespace():
    """A network namespace for this thread, with its loopback device up."""
    with open("/proc/thread-self/ns/net", "rb") as before:
        if LIBC.unshare(CLONE_NEWNET) != 0:
            pytest.skip(f"no network namespaces: {os.strerror(ctypes.get_errno())}")
        try:
            netlink.set_up("lo")
            yield
        finally:
            assert LIBC.setns(before.fileno(), CLONE_NEWNET) == 0


@contextlib.contextmanager
def own_cgroup(scratch: Path):
    """A control group that this process is in."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    root = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    mounted = root is None
    if root is None:
        root = scratch / "cgroup"
        root.mkdir()
        done = subprocess.run(["mount", "-t", "cgroup2", "none", str(root)], check=False)
        if done.returncode:
            pytest.skip("cgroup2 is not mounted and cannot be")
    group = root / f"pybpfload-test-{os.getpid()}"
    before = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield group
    finally:
        (root / before / "cgroup.procs").write_text(str(os.getpid()))
        left = [inner for inner in group.iterdir() if inner.is_dir()]  # by a test that failed
        for each in (*left, group):
            each.rmdir()
        if mounted:
            subprocess.run(["umount", str(root)], check=True)


class Counted:
    """Programs of a fixture that count in `hits`, loaded a few at a time; how often each ran."""

    def __init__(self, spec: pybpfload.ObjectSpec) -> None:
        self.spec = spec
        self._places = {program.name: place for place, program in enumerate(spec)}

    @contextlib.contextmanager
    def loaded(self, *names: str):
        for program in self.spec:
            program.autoload = program.name in names
        with self.spec.load() as obj:
            self._hits = obj.variables["hits"]
            yield obj

    def runs(self, name: str, act) -> int:
        """How often a program runs while something is done."""
        before = self._hits.value[self._places[name]]
        act()
        return self._hits.value[self._places[name]] - before

    def sees(self, name: str, act, *target, **options) -> pybpfload.Link:
        """Attach a program, see it run, then drop, close the link, see neither; the closed link."""
        with self.loaded(name) as obj:
            assert self.runs(name, act) == 0
            link = obj.programs[name].attach(*target, **options)
            assert self.runs(name, act) > 0
            obj.variables["drop"].value = 1
            with pytest.raises(LOST):
                act()
            link.close()
            assert self.runs(name, act) == 0
            return link


def datagram() -> None:
    """Send a datagram to ourselves and receive it."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        to.bind(("127.0.0.1", 0))
        to.settimeout(PATIENCE)
        sender.connect(to.getsockname())
        sender.send(b"hello")
        assert to.recv(10) == b"hello"


def stream() -> None:
    """Connect to ourselves and send something."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), PATIENCE) as client,
    ):
        accepted, _ = server.accept()
        accepted.settimeout(PATIENCE)
        with accepted:
            client.send(b"hello")
            assert accepted.recv(10) == b"hello"


class Wire:
    """Two devices that are the ends of one cable, and frames sent from one to the other."""

    def __init__(self, near: str, far: str) -> None:
        self.near, self.far = near, far

    def arrives(self, frame: bytes, *, at: str = "", timeout: float = 0.5) -> bool:
        """Whether a frame sent at the near end comes out of a device: the far end, else another."""
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as there,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as here,
        ):
            there.bind((at or self.far, ETH_P_ALL))
            here.bind((self.near, 0))
            there.settimeout(timeout)
            try:
                here.send(frame)
                while there.recv(1 << 16)[-8:] != frame[-8:]:
                    pass
            except TimeoutError:
                return False
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # so the sender is told that it was dropped
                    raise
                return False
            return True


def frame(length: int = 60) -> bytes:
    """An Ethernet frame to everybody, of a protocol for experiments, unlike any other one."""
    return b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5" + bytes(length - 22) + os.urandom(8)
