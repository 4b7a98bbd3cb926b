"""The processes that tools/bench compares: starting them, asking them, ending them.

:mod:`bench_peer` says how they are talked with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libbpf_pool
from environment import ROOT

import pybpfload
from pybpfload.testing.vm.apt import Apt, foreign_command, host_architecture, library_path
from pybpfload.testing.vm.cache import build, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent
_C_SOURCE = _HERE / "bench_peer_libbpf.c"
OBJECT = ROOT / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb") / "bench.bpf.o"

OWN = "pybpfload"
CTYPES = "libbpf+ctypes"
C = "libbpf in C"
BCC = "bcc"

_SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")  # where Debian has bcc


class MissingPeerError(Exception):
    """There is nothing to compare with, and why."""


class PeerEndedError(Exception):
    """A peer has ended before it was told to; it has said why on standard error."""


class Peer:
    """A process that measures with one library.

    Attributes:
        name: Of the library, with its version.
    """

    def __init__(self, kind: str, command: list[str], environment: dict[str, str]) -> None:
        self._kind = kind
        spec = pybpfload.open(OBJECT)
        offsets = [str(spec.variables[each].offset) for each in ("sequence", "target_tgid")]
        self._process = subprocess.Popen(
            [*command, str(OBJECT), *offsets],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.name: str = self._answer()["ready"]

    def ask(self, job: str, count: int) -> dict[str, Any]:
        """Have a job done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{job} {count}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerEndedError(f"the process for {self._kind} ended: {self._process.wait()}")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        """End it."""
        self._process.communicate()


@contextmanager
def started(*names: str) -> Iterator[dict[str, Peer | str]]:
    """Start peers; instead of another than our own that cannot be had, there is the reason."""
    with ExitStack() as stack:
        peers: dict[str, Peer | str] = {}
        for name in names:
            try:
                peer = Peer(name, *_COMMANDS[name]())
            except (MissingPeerError, PeerEndedError) as error:
                if name == OWN:
                    raise
                peers[name] = str(error)
            else:
                stack.callback(peer.close)
                peers[name] = peer
        yield peers


def _environment(*path: Path) -> dict[str, str]:
    # sys.path is handed over, as a foreign loader leaves no trace of the virtual environment.
    every = [str(each) for each in (_HERE, ROOT, *path)] + sys.path
    return {**os.environ, "PYTHONPATH": os.pathsep.join(every)}


def _own() -> tuple[list[str], dict[str, str]]:
    return [sys.executable, str(_HERE / "bench_peer_pybpfload.py")], _environment()


@lru_cache
def _libbpf() -> Path:
    if reason := libbpf_pool.why_not():
        raise MissingPeerError(reason)
    folder = libbpf_pool.libbpf_folder()
    assert folder is not None
    return folder


def _through_ctypes() -> tuple[list[str], dict[str, str]]:
    script = str(_HERE / "bench_peer_libbpf.py")
    return [*foreign_command(_libbpf(), sys.executable), script], _environment()


def _in_c() -> tuple[list[str], dict[str, str]]:
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingPeerError("this machine has no C compiler")
    folder = _libbpf()

    def compile_it(fresh: Path) -> None:
        libraries = library_path(folder).split(os.pathsep)
        command = [compiler, "-O2", "-Wall", "-o", str(fresh), str(_C_SOURCE)]
        command += [f"-L{each}" for each in libraries]
        command += ["-l:libbpf.so.1", "-Wl,--allow-shlib-undefined"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingPeerError(f"{compiler} fails: {done.stderr.strip().splitlines()[-1]}")

    program = cache_folder() / "bench" / "libbpf_in_c"
    fresh = program.exists() and program.stat().st_mtime > _C_SOURCE.stat().st_mtime
    build(program, compile_it, replace=not fresh)
    return foreign_command(folder, str(program)), dict(os.environ)


def _bcc_folder() -> Path:
    """Where bcc is unpacked when somebody asks for that."""
    return cache_folder() / "bench" / "bcc"


def fetch_bcc() -> None:
    """Get Debian's newest bcc into the cache folder; nothing is installed.

    Raises:
        VirtualMachineError: It cannot be fetched.
    """
    apt = Apt("sid", host_architecture())
    build(_bcc_folder(), lambda fresh: apt.unpack(["python3-bpfcc"], fresh, dependencies=True))


def _bcc() -> tuple[list[str], dict[str, str]]:
    script = str(_HERE / "bench_peer_bcc.py")
    if (_SYSTEM_PACKAGES / "bcc").exists():
        return [sys.executable, script], _environment(_SYSTEM_PACKAGES)
    folder = _bcc_folder()
    if not folder.exists():
        raise MissingPeerError("not installed (tools/bench --fetch-bcc gets it into the cache)")
    packages = folder / _SYSTEM_PACKAGES.relative_to("/")
    return [*foreign_command(folder, sys.executable), script], _environment(packages)


_COMMANDS = {OWN: _own, CTYPES: _through_ctypes, C: _in_c, BCC: _bcc}
