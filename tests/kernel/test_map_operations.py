"""What each type of map can do: what :mod:`pybpfload.runtime.mapkinds` says is what kernels do."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

import pybpfload
from pybpfload.kernel import bpf, memlock
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime import mapkinds
from pybpfload.uapi import MapFlag, MapType

pytestmark = pytest.mark.vm

FIXTURES = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)
# What kernels say to commands that a type does not have; 524 is ENOTSUPP.
REFUSALS = {524, errno.EOPNOTSUPP, errno.EINVAL}
SOCKETS = {MapType.SOCKMAP, MapType.SOCKHASH, MapType.REUSEPORT_SOCKARRAY}


@pytest.fixture(scope="module")
def made():
    """Maps by type, one of each that this kernel has."""
    memlock.ensure()
    spec = pybpfload.open(FIXTURES / "maps_types.bpf.o")
    while True:
        try:
            obj = spec.load()
            break
        except pybpfload.KernelError as error:
            name = (error.target or "").removeprefix("map ")
            if not spec.maps[name].autocreate:
                raise
            spec.maps[name].autocreate = False
    with obj, ExitStack() as stack:
        maps = {each.type: each for each in obj.maps.values()}
        # What C cannot declare, or clang's objects for all kernels do not.
        for kind, value_size, flags in (
            (MapType.RHASH, 8, MapFlag.NO_PREALLOC),
            (MapType.INSN_ARRAY, 16, 0),
        ):
            try:
                number = bpf.map_create(kind, 4, value_size, 4, map_flags=flags)
            except pybpfload.KernelError:
                continue
            with FileDescriptor(number, f"map {kind.name}") as fd:
                maps[kind] = stack.enter_context(pybpfload.Map.from_fd(fd))
        yield maps


@pytest.fixture(scope="module")
def things(made, tmp_path_factory):
    """Keys and values that the kernel can take, by type, as bytes."""
    with ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("", 0)))
        shared = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(("", 0))
        file = stack.enter_context((tmp_path_factory.mktemp("maps") / "file").open("w"))
        pidfd = os.pidfd_open(os.getpid())
        stack.callback(os.close, pidfd)
        keys = {
            MapType.SK_STORAGE: sock.fileno(),
            MapType.INODE_STORAGE: file.fileno(),
            MapType.TASK_STORAGE: pidfd,
        }
        inner = FileDescriptor(bpf.map_create(MapType.ARRAY, 4, 4, 1), "map")
        stack.callback(inner.close)
        program = stack.enter_context(pybpfload.load(FIXTURES / "tailcall.bpf.o"))
        program = next(iter(program.programs.values()))
        values = {
            MapType.PROG_ARRAY: program.fileno(),
            MapType.ARRAY_OF_MAPS: inner.fileno(),
            MapType.HASH_OF_MAPS: inner.fileno(),
            MapType.DEVMAP: 1,
            MapType.DEVMAP_HASH: 1,
            MapType.CPUMAP: 64,
            MapType.SOCKMAP: sock.fileno(),
            MapType.SOCKHASH: sock.fileno(),
            MapType.REUSEPORT_SOCKARRAY: shared.fileno(),
        }
        yield keys, values


@pytest.mark.parametrize("kind", [kind for kind in MapType if kind != MapType.UNSPEC])
def test_what_a_type_can_do(made, things, kind):
    if kind not in made:
        pytest.skip(f"no map of type {kind.name} could be made here")
    m, (keys, values) = made[kind], things
    key = struct.pack("=I", keys.get(kind, 0)).ljust(m.key_size, b"\0") if m.key_size else None
    room = max(m._values.size, 16)
    is_wide = kind in SOCKETS and m._values.size == 8  # else it is, or begins with, 32 bits
    value = struct.pack("=Q" if is_wide else "=I", values.get(kind, 0)).ljust(room, b"\0")
    fd = m.fileno()
    # In this order: what is updated is there to be looked up and deleted.
    attempts = {
        "u": lambda: bpf.map_update_elem(fd, key, value),
        "l": lambda: bpf.map_lookup_elem(fd, key, room),
        "i": lambda: bpf.map_get_next_key(fd, None, room),
        "d": lambda: bpf.map_delete_elem(fd, key or bytes(4)),
    }
    able = set()
    for letter, attempt in attempts.items():
        try:
            attempt()
        except pybpfload.KernelError as error:
            if error.errno in REFUSALS:
                continue
            # Otherwise this key or value is refused (it is no control group), not the command.
        able.add(letter)
    if "l" not in able:
        able.discard("i")  # numbers of places, of which nobody knows whether anything is there
    said = set(mapkinds.can(kind))
    if kind in mapkinds.QUEUES | {MapType.BLOOM_FILTER}:
        said = {"l", "u"}  # without keys: peek(), or "in", and push()
    assert able == said, f"the kernel can {sorted(able)}, the table says {sorted(said)}"
    refused = {
        "l": lambda: m[0],
        "u": lambda: m.put(0, 0),
        "i": lambda: len(m),
        "d": lambda: m.__delitem__(0),
    }
    for letter in set(refused) - set(mapkinds.can(kind)):
        with pytest.raises(TypeError, match=f"is of type {kind.name}: no .*; it can "):
            refused[letter]()
