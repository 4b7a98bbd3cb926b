"""What is special about each type of map, against the machine's own kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from mounts import in_own_mounts
from producers import KERNEL, make_map
from producers import load as load_program

import pybpfload
from pybpfload.errors import KernelError, NotSupportedError
from pybpfload.isa import insn as i
from pybpfload.kernel import bpf, cpus
from pybpfload.uapi import Helper, MapFlag, MapType, ProgType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.runtime.map import Map

pytestmark = pytest.mark.live

# What kernels may do differently is asked of each of them.
every_kernel = pytest.mark.vm

FIXTURES = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)
CPUS = cpus.possible_cpus()
USER_STACK = 1 << 8  # BPF_F_USER_STACK


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("flags", [0, MapFlag.NO_COMMON_LRU])
def test_old_elements_make_room(flags: int) -> None:
    with make_map(MapType.LRU_HASH, 4, 8, 64, flags=flags) as m:
        for number in range(1000):
            m[number] = number
        assert 0 < len(m) <= 64
        assert m[999] == 999
        assert all(key == value for key, value in m.items())


@every_kernel
def test_a_value_is_copied_under_its_lock() -> None:
    spec = pybpfload.open(FIXTURES / "maps_special.bpf.o")
    for program in spec.programs.values():
        program.autoload = program.name == "with_lock"
    for name in ("timers", "tasks"):
        spec.maps[name].autocreate = False
    with spec.load() as obj:
        locks = obj.maps["locks"]
        locks.put(0, {"count": 5}, lock=True)
        assert obj.programs["with_lock"].test_run(bytes(14)).retval == 6
        assert locks.lookup(0, lock=True).count == 6
        locks.update({0: {"count": 9}}, lock=True)
        assert locks[0].count == 9
    with make_map(MapType.ARRAY, 4, 8, 1) as m:
        with pytest.raises(KernelError, match="lock needs a struct bpf_spin_lock"):
            m.lookup(0, lock=True)


@every_kernel
def test_one_cpu_of_a_value() -> None:
    with make_map(MapType.PERCPU_ARRAY, 4, 4, 1) as m:
        m[0] = list(range(CPUS))
        if KERNEL >= (7, 0):
            m.put(0, 77, cpu=CPUS - 1)
            assert m[0] == [*range(CPUS - 1), 77]
        else:
            with pytest.raises(NotSupportedError, match=r"needs Linux 7\.0"):
                m.put(0, 77, cpu=CPUS - 1)
            assert m[0] == list(range(CPUS))
        with pytest.raises(ValueError, match="possible CPUs"):
            m.put(0, 1, cpu=CPUS)
    with make_map(MapType.ARRAY, 4, 4, 1) as m:
        for refused in (lambda: m.put(0, 1, cpu=0), lambda: m.lookup(0, cpu=0)):
            with pytest.raises(TypeError, match="no per-CPU map"):
                refused()


@every_kernel
@pytest.mark.parametrize("build_ids", [False, True])
def test_stack_traces(build_ids: bool) -> None:
    size, flags = (32, MapFlag.STACK_BUILD_ID) if build_ids else (8, 0)
    with make_map(MapType.STACK_TRACE, 4, 16 * size, 8, flags=flags) as m:
        code = [
            i.ld_imm64(2, m.fileno(), i.PSEUDO_MAP_FD),
            i.mov64_imm(3, USER_STACK),
            i.call(Helper.GET_STACKID),
            i.exit_(),
        ]
        with load_program(code, ProgType.RAW_TRACEPOINT) as program:
            number = bpf.prog_test_run(program.fileno()).retval
        assert list(m) == [number]
        (frames,) = m.values()
        assert frames == m[number]
        assert 0 < len(frames) <= 16
        if build_ids:
            assert all(len(frame.build_id) in (0, 20) and frame.offset for frame in frames)
            assert any(frame.build_id for frame in frames)
        else:
            assert all(frames)
        with pytest.raises(TypeError, match="no update; it can be looked up"):
            m[0] = [1]
        assert m.pop(number) == frames
        assert not m


def test_control_groups(tmp_path: Path) -> None:
    """As values of arrays, and as keys of both kinds of storage."""
    out = in_own_mounts(f"""
group = {str(tmp_path)!r}
mount(b"cgroup2", group.encode())
import contextlib
import pybpfload
from pybpfload.runtime.mapcodecs import CgroupStorageKey
from pybpfload.uapi import AttachType
def refuses(error, action):
    try:
        action()
    except error as refused:
        return str(refused)
    raise SystemExit("not refused")
spec = pybpfload.open({str(FIXTURES / "maps_types.bpf.o")!r})
for each in spec.maps.values():
    each.autocreate = each.name in ("cgrp_storage", "cgroup_storage", "percpu_cgroup_storage")
inner = group + "/pybpfload-test-" + str(os.getpid())
os.mkdir(inner)
fd = os.open(inner, os.O_RDONLY)
try:
    with make_map(MapType.CGROUP_ARRAY, 4, 4, 2) as m, open(os.devnull) as file:
        m[0] = fd
        assert "not a descriptor of the kind" in refuses(OSError, lambda: m.put(1, file))
        del m[0]
    with spec.load() as obj:
        storage = obj.maps["cgrp_storage"]
        assert storage.get(fd) is None
        storage[fd] = 7
        assert storage[fd] == 7 and fd in storage
        assert storage.pop(fd) == 7
        for name, value in (("cgroup_storage", 5), ("percpu_cgroup_storage", [5, 6, 7, 8])):
            m = obj.maps[name]
            program = load([
                i.ld_imm64(1, m.fileno(), i.PSEUDO_MAP_FD), i.mov64_imm(2, 0),
                i.call(Helper.GET_LOCAL_STORAGE), i.mov64_imm(0, 1), i.exit_()],
                ProgType.CGROUP_SKB)
            assert not m
            key = CgroupStorageKey(os.stat(inner).st_ino, AttachType.CGROUP_INET_INGRESS)
            link = bpf.link_create(program.fileno(), fd, AttachType.CGROUP_INET_INGRESS)
            with program, FileDescriptor(link, "link"):
                assert [tuple(each) for each in m] == [key], list(m)
                value = value if isinstance(value, int) else list(range(len(m[key])))
                m[key] = value
                assert [list(m.items())] == [[(key, value)]]
                assert "No such file" in refuses(OSError, lambda: m.put(key._replace(
                    cgroup_inode_id=1), value))
                for refused in (m.clear, m.popitem, lambda: m.pop(key)):
                    assert "it can be looked up" in refuses(TypeError, refused)
    with make_map(MapType.CGROUP_STORAGE, 16, 8, 0) as m:
        assert m._keys.decode(m._keys.encode(key)) == key  # without BTF
finally:
    os.close(fd)
    os.rmdir(inner)
print("done")
""")
    assert out == "done\n"


def test_xdp_sockets() -> None:
    AF_XDP, SOL_XDP, RX_RING, UMEM_REG, UMEM_FILL_RING = 44, 283, 2, 4, 5
    try:
        xdp = socket.socket(AF_XDP, socket.SOCK_RAW)
    except OSError as error:
        pytest.skip(f"no XDP sockets: {error}")
    frames = mmap.mmap(-1, 16 * 4096)
    where = ctypes.addressof(ctypes.c_char.from_buffer(frames))
    with xdp, make_map(MapType.XSKMAP, 4, 4, 4) as m, socket.socket() as other:
        umem = struct.pack("=QQIII4x", where, len(frames), 4096, 0, 0)
        xdp.setsockopt(SOL_XDP, UMEM_REG, umem)
        for ring in (UMEM_FILL_RING, RX_RING):
            xdp.setsockopt(SOL_XDP, ring, 16)
        m[0] = xdp
        with pytest.raises(TypeError, match=r"no lookup; it can be updated .* and have keys"):
            m[0]
        with pytest.raises(KernelError, match="none of an XDP socket"):
            m[1] = other
        del m[0]


def test_groups_of_sockets_on_one_port() -> None:
    with make_map(MapType.REUSEPORT_SOCKARRAY, 4, 8, 4) as m:
        with socket.socket(type=socket.SOCK_DGRAM) as sock, socket.socket() as other:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0))
            m[1] = sock
            cookie = sock.getsockopt(socket.SOL_SOCKET, 57, 8)  # SO_COOKIE
            assert m.to_dict() == {1: int.from_bytes(cookie, sys.byteorder)}
            with pytest.raises(KernelError, match="are bound, with SO_REUSEPORT"):
                m[2] = other
            del m[1]
            assert m.to_dict() == {}


def test_sockets_of_one_map() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
        make_map(MapType.SOCKMAP, 4, 8, 4) as m,
    ):
        cookie = int.from_bytes(server.getsockopt(socket.SOL_SOCKET, 57, 8), sys.byteorder)
        m[1] = server
        assert m.to_dict() == {1: cookie}
        with pytest.raises(KernelError) as refused:
            m[2] = other
        assert refused.value.errno is not None
        del m[1]
        assert not m.to_dict()


@every_kernel
def test_processors_to_send_to() -> None:
    with make_map(MapType.CPUMAP, 4, 8, CPUS) as m:
        m[0] = 192  # a queue of so many packets
        assert m.to_dict() == {0: (192, 0)}
        del m[0]
        assert m.to_dict() == {}
    with make_map(MapType.CPUMAP, 4, 4, CPUS) as m:
        m[0] = 64
        assert m[0] == 64
        del m[0]


def test_devices_by_name() -> None:
    loopback = socket.if_nametoindex("lo")
    for size, wanted in ((4, loopback), (8, (loopback, 0))):
        with make_map(MapType.DEVMAP_HASH, 4, size, 4) as m:
            m[7] = "lo"
            assert m.to_dict() == {7: wanted}
            with pytest.raises(KernelError, match="network device no-such-one"):
                m[8] = "no-such-one"
            with pytest.raises(KernelError, match="no network device of that index"):
                m[8] = 123456


@every_kernel
def test_what_is_mapped_of_arrays() -> None:
    with make_map(MapType.ARRAY, 4, 8, 5, flags=MapFlag.MMAPABLE) as m:
        numbers = m.array()
        assert (numbers.format, numbers.shape, numbers.readonly) == ("Q", (5,), False)
        m[3] = 33
        numbers[4] = 44
        assert numbers.tolist() == list(m.values()) == [0, 0, 0, 33, 44]
        assert m.__buffer__(0).tolist() == numbers.tolist()
    with make_map(MapType.ARRAY, 4, 4, 3, flags=MapFlag.MMAPABLE) as m:
        m.update({0: 1, 1: 2, 2: 3})
        numbers = m.array()  # each padded to 8 bytes
        assert (numbers.tolist(), numbers.strides) == ([1, 2, 3], (8,))
    with pytest.raises(KernelError):
        make_map(MapType.PERCPU_ARRAY, 4, 8, 1, flags=MapFlag.MMAPABLE)
    with make_map(MapType.ARRAY, 4, 12, 3, flags=MapFlag.MMAPABLE) as m:
        with pytest.raises(BufferError, match=r"view\(\) has the bytes"):
            m.array()
    with make_map(MapType.ARRAY, 4, 8, 3) as m:
        with pytest.raises(TypeError, match="without BPF_F_MMAPABLE"):
            m.array()


class Stats(NamedTuple):
    packets: int


def test_structs_as_numpy_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    spec = pybpfload.open(FIXTURES / "maps.bpf.o")
    flows = spec.maps["flows"]
    flows.type, flows.key_size, flows.key_type_id = MapType.ARRAY, 4, 0
    flows.max_entries, flows.flags = 3, MapFlag.MMAPABLE
    for program in spec.programs.values():
        program.autoload = False
    with spec.load() as obj:
        flows = obj.maps["flows"]
        shared = numpy.asarray(flows)
        flows[1] = {"packets": 7, "name": "dns"}
        assert (shared["packets"].tolist(), shared["name"][1]) == ([0, 7, 0], b"dns")
        shared["packets"][2] = 8
        assert numpy.asarray(flows.typed(value=Stats))["packets"].tolist() == [0, 7, 8]
        assert flows[2].packets == 8
        with pytest.raises(BufferError, match="struct stats"):
            flows.array()
        squares = obj.maps["hash"]
        squares.update({n: n * n for n in range(10)})
        assert sorted(numpy.asarray(squares).tolist()) == [n * n for n in range(10)]
        assert numpy.asarray(squares, dtype="f4").dtype == "f4"
        with pytest.raises(ValueError, match="must be copied"):
            squares.__array__(copy=False)
        keys, values = squares.to_buffers()
        assert (numpy.frombuffer(keys, "u4") ** 2 == numpy.frombuffer(values, "u8")).all()
        obj.maps["percpu_hash"].update({1: list(range(CPUS)), 2: 5})
        by_cpu = numpy.asarray(obj.maps["percpu_hash"])
        assert by_cpu.shape == (2, CPUS)
        assert sorted(by_cpu.sum(axis=1).tolist()) == sorted([sum(range(CPUS)), 5 * CPUS])
    assert shared["packets"].tolist() == [0, 7, 8]  # the memory stays as long as it is used


DOCS = Path(__file__).parents[2] / "docs" / "maps-and-variables.md"


def has_batches(m: Map[Any, Any]) -> str:
    """What the kernel says, as the docs put it."""
    try:
        bpf.map_lookup_batch(m.fileno(), None, 64, max(m.key_size, 4), max(m._values.size, 16))
    except KernelError as error:
        if error.errno not in (524, errno.EINVAL):
            raise
        return "–"
    return "yes"


def test_batches_are_where_the_docs_say() -> None:
    row = re.compile(r"^\| `([A-Z_]+)` \|.* \| (yes|–) \| [^|]* \|$", re.MULTILINE)
    documented = dict(row.findall(DOCS.read_text(encoding="utf-8")))
    assert len(documented) == len(MapType) - 1
    with pybpfload.load(FIXTURES / "maps_types.bpf.o") as obj:
        found = {m.type.name: has_batches(m) for m in obj.maps.values()}
    assert found == {name: documented[name] for name in found}
    assert len(found) > 30
