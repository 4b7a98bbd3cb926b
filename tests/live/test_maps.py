"""Maps and variables against the machine's own kernel.

One module: every type of map is asked the same questions by the same helpers.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mounts import in_own_mounts
from producers import make_map

import pybpfload
from pybpfload.btf.values import ValueMismatchError
from pybpfload.errors import BpfError, KernelError, NotPermittedError
from pybpfload.kernel import bpf, cpus, door
from pybpfload.runtime.map import Map
from pybpfload.runtime.variable import ReadOnlyError
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

# What kernels may do differently is asked of each of them.
every_kernel = pytest.mark.vm

FIXTURES = (
    Path(__file__).parents[2] / "fixtures" / ("bpfel" if sys.byteorder == "little" else "bpfeb")
)
CPUS = cpus.possible_cpus()


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


def load(name: str) -> Any:
    return pybpfload.open(FIXTURES / f"{name}.bpf.o").load()


# What not every kernel has: by its version, or without a security module or a JIT for it.
OPTIONAL = {
    "inode_storage",
    "task_storage",
    "cgrp_storage",
    "bloom_filter",
    "user_ringbuf",
    "arena",
}


class Types:
    """Maps by the name of their type; one that the kernel does not have skips the test."""

    def __init__(self, maps: Any) -> None:
        self.maps = maps

    def __getitem__(self, name: str) -> Any:
        if name not in self.maps:
            pytest.skip(f"this kernel has no {name} maps")
        return self.maps[name]


@pytest.fixture(scope="module")
def types() -> Iterator[Any]:
    """One map of every type."""
    spec = pybpfload.open(FIXTURES / "maps_types.bpf.o")
    while True:
        try:
            obj = spec.load()
            break
        except KernelError as error:
            name = (error.target or "").removeprefix("map ")
            if name not in OPTIONAL or not spec.maps[name].autocreate:
                raise
            spec.maps[name].autocreate = False
    with obj:
        yield Types(obj.maps)


# Mappings


@pytest.mark.parametrize("count", [0, 1, 1000, 100_000])
def test_a_hash_is_a_mapping(count: int) -> None:
    wanted = {n: n * n for n in range(count)}
    with make_map(MapType.HASH, 4, 8, 100_000) as m:
        m.update(wanted)
        assert len(m) == count
        assert bool(m) == bool(count)
        assert m.to_dict() == dict(m.items()) == wanted
        assert set(m) == set(m.keys()) == set(wanted)
        assert sorted(m.values()) == sorted(wanted.values())
        m.clear()
        assert len(m) == 0


@every_kernel
def test_single_elements() -> None:
    with make_map(MapType.HASH, 4, 8, 10) as m:
        m[1] = 10
        assert m[1] == 10
        assert 1 in m
        assert 2 not in m
        assert m.get(2) is None
        for no_key in ("a", None, 1 << 32, b"123"):
            assert no_key not in m
            assert m.get(no_key, 7) == 7
            for refused in (lambda key=no_key: m[key], lambda key=no_key: m.lookup(key, 7)):
                with pytest.raises(ValueMismatchError):
                    refused()
        assert m.lookup(2, "default") == "default"
        with pytest.raises(KeyError, match="2 is not in map t"):
            m[2]
        with pytest.raises(KeyError, match="2 is not in map t"):
            del m[2]
        assert m.setdefault(1, 5) == 10
        assert m.setdefault(3, 5) == 5
        assert m.pop(3) == 5
        assert m.pop(3, None) is None
        assert m.popitem() == (1, 10)
        with pytest.raises(KeyError):
            m.popitem()
        m[4] = 4
        del m[4]
        assert not m


@every_kernel
def test_update_flags() -> None:
    with make_map(MapType.HASH, 4, 8, 10) as m:
        with pytest.raises(KeyError):
            m.put(1, 1, exist=True)
        m.put(1, 1, noexist=True)
        m.put(1, 2, exist=True)
        with pytest.raises(KernelError, match="already, and NOEXIST") as caught:
            m.put(1, 3, noexist=True)
        assert caught.value.errno == errno.EEXIST
        assert m[1] == 2
        with pytest.raises(KernelError, match="after 1 elements"):
            m.update({2: 2, 1: 1, 3: 3}, noexist=True)
        assert m.to_dict() == {1: 2, 2: 2}
        m.update({1: 5, 2: 6}, exist=True)
        assert m.to_dict() == {1: 5, 2: 6}
        with pytest.raises(ValueError, match="exclude"):
            m.put(1, 1, exist=True, noexist=True)


def test_a_full_map_has_its_sentence() -> None:
    with make_map(MapType.HASH, 4, 8, 2) as m:
        with pytest.raises(KernelError, match="map is full: it has room for 2") as caught:
            m.update({n: n for n in range(5)})
        assert caught.value.errno == errno.E2BIG
        assert len(m) == 2


@every_kernel
def test_elements_may_go_while_they_are_iterated() -> None:
    with make_map(MapType.HASH, 4, 8, 1000) as m:
        m.update({n: n for n in range(1000)})
        seen = []
        for key in m:
            seen.append(key)
            del m[key]
        assert sorted(seen) == list(range(1000))
        assert not m


def test_iterating_while_another_thread_changes_the_map() -> None:
    """What is there all the time comes exactly once, whatever else comes and goes."""
    with make_map(MapType.HASH, 4, 8, 4000) as m:
        stable = {n: n for n in range(1000)}
        m.update(stable)
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                for key in range(2000, 2100):
                    m[key] = 0
                for key in range(2000, 2100):
                    m.pop(key, None)

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for walk in (m, m._elements.walk()):
                for _ in range(10):
                    keys = [k if isinstance(k, int) else struct.unpack("=I", k)[0] for k in walk]
                    assert len(keys) == len(set(keys))
                    if walk is m:
                        assert set(stable) <= set(keys)
        finally:
            stop.set()
            thread.join()


def test_threads_do_not_disturb_each_other() -> None:
    with make_map(MapType.HASH, 4, 8, 100) as m:
        m.update({n: n * n for n in range(100)})
        wrong: list[int] = []

        def look() -> None:
            wrong.extend(n for _ in range(50) for n in range(100) if m[n] != n * n)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@every_kernel
@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH])
def test_walking_by_keys_gives_the_same_as_batches(kind: MapType) -> None:
    with make_map(kind, 4, 8, 500) as m:
        m.update({n: n for n in range(300)})
        by_batch = m.to_dict()
        m._elements._batches = False
        assert m.to_dict() == by_batch
        assert len(m) == len(by_batch) == 300
        m.clear()
        assert not m


def test_a_map_equals_itself_only() -> None:
    with make_map(MapType.HASH, 4, 8, 5) as m, make_map(MapType.HASH, 4, 8, 5) as other:
        assert m == m
        assert m != other
        assert len({m, other}) == 2


# Types


@every_kernel
def test_arrays(types: Any) -> None:
    m = types["array"]
    assert len(m) == 4
    m[2] = 7
    assert m.to_dict() == {0: 0, 1: 0, 2: 7, 3: 0}
    assert list(m) == [0, 1, 2, 3]
    assert 4 not in m
    with pytest.raises(KeyError):
        m[4]
    with pytest.raises(KernelError, match="beyond the end: it has 4 elements"):
        m[4] = 1
    for refused in (lambda: m.pop(0), m.clear, lambda: m.__delitem__(0)):
        with pytest.raises(
            TypeError, match=r"map array is of type ARRAY: no .* it can be looked up"
        ):
            refused()


@every_kernel
@pytest.mark.parametrize("name", ["percpu_hash", "percpu_array", "lru_percpu_hash"])
def test_per_cpu_maps(types: Any, name: str) -> None:
    m = types[name]
    m[1] = list(range(CPUS))
    assert m[1] == list(range(CPUS))
    assert m[1].sum() == sum(range(CPUS))
    assert m.lookup(1, cpu=CPUS - 1) == CPUS - 1
    assert dict(m.items())[1] == list(range(CPUS))
    m[1] = 9
    assert m[1] == [9] * CPUS
    m.update({2: 3})
    assert m[2] == [3] * CPUS


@every_kernel
def test_queue_and_stack(types: Any) -> None:
    for name, order in (("queue", [1, 2, 3]), ("stack", [3, 2, 1])):
        m = types[name]
        for value in (1, 2, 3):
            m.push(value)
        assert m.peek() == order[0]
        assert [m.pop() for _ in range(3)] == order
        with pytest.raises(IndexError, match="is empty"):
            m.pop()
        with pytest.raises(IndexError, match="is empty"):
            m.peek()
        assert m.pop(default=None) is None
        for value in range(4):
            m.push(value)
        with pytest.raises(KernelError, match="full"):
            m.push(4)
        m.push(4, force=True)
        m.clear()
        assert m.peek(None) is None
        for refused in (m.__getitem__, m.pop, m.__delitem__, m.__contains__):
            with pytest.raises(TypeError):
                refused(0)
        for refused in (list, len):
            with pytest.raises(TypeError):
                refused(m)


@every_kernel
def test_bloom_filter(types: Any) -> None:
    m = types["bloom_filter"]
    m.push(4)
    assert 4 in m
    assert 5 not in m
    with pytest.raises(TypeError, match=r"it can push\(\) and be asked with 'in'"):
        m[4]


@every_kernel
def test_lpm_trie(types: Any) -> None:
    m = types["lpm_trie"]
    m[ipaddress.ip_network("10.0.0.0/8")] = 1
    m[ipaddress.ip_network("fe80::/10")] = 2
    assert m[ipaddress.ip_address("10.1.2.3")] == 1
    assert ipaddress.ip_address("11.1.2.3") not in m
    assert {(key.length, value) for key, value in m.items()} == {(8, 1), (10, 2)}
    del m[ipaddress.ip_network("10.0.0.0/8")]
    m.clear()
    assert len(m) == 0


@every_kernel
def test_storage_by_descriptor(types: Any) -> None:
    with socket.socket() as sock:
        m = types["sk_storage"]
        assert m.get(sock) is None
        m[sock] = 77
        assert m[sock] == m[sock.fileno()] == 77
        assert m.pop(sock) == 77
        assert sock not in m
        with pytest.raises(KernelError, match="not a descriptor of the kind"):
            types["task_storage"][sock]
        with pytest.raises(TypeError, match="no iteration over keys"):
            list(m)


@every_kernel
def test_task_storage(types: Any) -> None:
    m = types["task_storage"]
    fd = os.pidfd_open(os.getpid())
    try:
        m[fd] = 5
        assert m[fd] == 5
        del m[fd]
        assert fd not in m
    finally:
        os.close(fd)


@every_kernel
def test_redirection_maps(types: Any) -> None:
    types["devmap"][1] = 1  # the loopback device
    assert types["devmap"].to_dict() == {1: 1}
    types["devmap_hash"][9] = 1
    assert types["devmap_hash"].to_dict() == {9: 1}
    del types["devmap"][1]
    assert not types["devmap"]


@every_kernel
def test_sockets_as_values() -> None:
    with socket.create_server(("", 0)) as one:
        with make_map(MapType.SOCKHASH, 4, 8, 4) as m:
            m[1] = one
            assert m[1] > 0  # the socket's cookie
            del m[1]
        with make_map(MapType.SOCKMAP, 4, 4, 4) as m:
            m[1] = one
            with pytest.raises(KernelError, match="values of 8 bytes"):
                m[1]


@every_kernel
def test_maps_in_maps() -> None:
    with load("maps_inner") as obj:
        outer, second = obj.maps["outer_array"], obj.maps["second"]
        assert list(outer) == [0, 3]
        assert len(outer) == 2
        outer[1] = second
        second[0] = 42
        assert outer[1][0] == 42
        with outer[1] as inner:
            assert inner.info().id == second.info().id
            inner[0] = 43
        assert second[0] == 43
        assert {key: value.name for key, value in obj.maps["outer_hash"].items()} == {
            1: "third",
            2: "fourth",
        }
        with pytest.raises(KernelError, match="inner maps are like the one"):
            outer[1] = obj.maps["third"]
        with pytest.raises(TypeError, match="fileno"):
            outer[1] = "second"


def test_programs_as_values() -> None:
    with load("tailcall") as obj:
        m = next(each for each in obj.maps.values() if each.type == MapType.PROG_ARRAY)
        ids = {bpf.prog_info(each.fileno()).id for each in obj.programs.values()}
        assert m
        assert {each.info().id for each in m.values()} <= ids
        program = next(iter(obj.programs.values()))
        key = next(iter(m))
        del m[key]
        assert key not in m
        m[key] = program
        with m[key] as same:
            assert isinstance(same, pybpfload.Program)
            assert same.info().id == program.info().id
            assert program.name.startswith(same.name)


@pytest.mark.parametrize("name", ["ringbuf", "user_ringbuf", "arena", "xskmap", "cgroup_array"])
def test_what_a_type_cannot_do_is_said(types: Any, name: str) -> None:
    m = types[name]
    for refused in (lambda: m[0], m.to_dict, m.pop, m.peek, lambda: 0 in m):
        with pytest.raises(TypeError):
            refused()
    assert bool(m)
    assert name in repr(m)


@every_kernel
def test_typed_keys_and_values() -> None:
    with load("maps") as obj:
        obj.variables["target_tgid"].value = os.getpid()
        obj.programs["store"].test_run()
        flows = obj.maps["flows"]
        ((key, value),) = flows.items()
        assert (key.address, key.port, value.name) == (b"\xc0\x00\x02\x01", 53, "flow")
        assert value.state.name == "STATE_ACTIVE"
        assert flows[key] == value
        assert flows[{"address": bytes(key.address), "port": 53, "protocol": 17}] == value
        flows[key] = value._replace(packets=5, state="STATE_GONE")
        assert flows[key].packets == 5
        assert flows[key].state.name == "STATE_GONE"
        assert sum(obj.maps["percpu_hash"][7]) == 70
        assert obj.maps["percpu_array"][1].sum() == (1, 2, 3)
        assert obj.maps["untyped"].to_dict() == {b"five\0": b"\1\2\3"}
        assert obj.maps["queue"].pop() == 77


def test_prepared_calls_are_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    with make_map(MapType.HASH, 4, 8, 10) as m:
        m[1] = 2
        assert m[1] == 2
        with caplog.at_level(logging.DEBUG, "pybpfload.syscalls"):
            door.log_calls()
            try:
                assert m.get(7) is None
                m[1] = 3
            finally:
                door.log_calls(None)
        assert m[1] == 3
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(",")[0] for line in lines] == [
        "bpf(MAP_LOOKUP_ELEM",
        "bpf(MAP_UPDATE_ELEM",
    ]
    assert lines[0].endswith("= -ENOENT")


# The map as a whole


@every_kernel
def test_by_id_and_descriptor_with_types_from_the_kernel() -> None:
    with load("maps") as obj:
        flows = obj.maps["flows"]
        if not flows.info().btf_id:
            pytest.skip(f"this kernel did not take the object's BTF: {obj.notes}")
        flows[{"port": 1}] = {"packets": 9}
        with Map.from_id(flows.info().id) as same, Map.from_fd(flows) as copy:
            for each in (same, copy):
                assert each.fileno() != flows.fileno()
                assert each.name == "flows"
                (value,) = each.values()
                assert value.packets == 9


def test_by_name() -> None:
    name = f"by{os.getpid()}_name_too_long"  # the kernel knows 15 characters
    with pytest.raises(BpfError, match="there is no map called by"):
        Map.from_name(name)
    with make_map(MapType.HASH, 4, 8, 5, name=name[:15]) as m:
        m[1] = 2
        with Map.from_name(name) as found:
            assert found.to_dict() == {1: 2}
        with make_map(MapType.HASH, 4, 8, 5, name=name[:15]) as other:
            ids = sorted([m.info().id, other.info().id])
            with pytest.raises(
                BpfError, match=f"2 maps called .*, with the ids {ids[0]}, {ids[1]}"
            ):
                Map.from_name(name)


def test_only_maps_are_maps() -> None:
    with load("maps") as obj:
        with pytest.raises(BpfError, match="is not a BPF map"):
            Map.from_fd(obj.programs["store"].fileno())
    with pytest.raises(KernelError, match="map id 4294967295"):
        Map.from_id(0xFFFFFFFF)
    with pytest.raises(KernelError, match="fd 100000"):
        Map.from_fd(100_000)


@every_kernel
def test_freezing() -> None:
    with make_map(MapType.ARRAY, 4, 8, 1) as m:
        m[0] = 1
        m.freeze()
        assert m[0] == 1
        with pytest.raises(NotPermittedError, match="frozen"):
            m[0] = 2
        with pytest.raises(KernelError, match="frozen already, or mapped for writing"):
            m.freeze()


def test_maps_for_one_direction() -> None:
    with make_map(MapType.HASH, 4, 8, 1, flags=MapFlag.RDONLY) as m:
        assert len(m) == 0
        with pytest.raises(NotPermittedError, match="for reading only by system calls"):
            m[0] = 1
    with make_map(MapType.HASH, 4, 8, 1, flags=MapFlag.WRONLY) as m:
        m[0] = 1
        with pytest.raises(NotPermittedError, match="for writing only by system calls"):
            m[0]


@every_kernel
def test_windows_are_not_kept() -> None:
    """``numpy.asarray(m)`` in a loop has one each time."""
    with make_map(MapType.ARRAY, 4, 8, 2, flags=MapFlag.MMAPABLE) as m:
        kept = m.window(0, 8)
        for _ in range(100):
            m.window(8, 8)
        assert list(m._opened.windows.values()) == [kept]


def test_a_view_is_shared_memory() -> None:
    with make_map(MapType.ARRAY, 4, 12, 3, flags=MapFlag.MMAPABLE) as m:
        view = m.view()
        assert m.view() is view
        m[1] = b"hello, world"
        assert view[16:28] == b"hello, world"
        view[32:34] = b"xy"
        assert m[2][:2] == b"xy"
        window = m.window(16, 4)
        assert bytes(window) == b"hell"
        with pytest.raises(ValueError, match="no 4 bytes"):
            m.window(1 << 20, 4)
    with pytest.raises(ValueError, match="released"):
        bytes(window)
    with make_map(MapType.ARRAY, 4, 12, 3) as m:
        with pytest.raises(TypeError, match="BPF_F_MMAPABLE"):
            m.view()
    with make_map(MapType.ARRAY, 4, 8, 1, flags=MapFlag.MMAPABLE) as m:
        m.freeze()
        with pytest.raises(TypeError):
            m.view()[0] = 1


@every_kernel
def test_pins() -> None:
    in_own_mounts("""
mount(b"bpf", b"/sys/fs/bpf")
from pybpfload import BpfError, KernelError, Map
with make_map(MapType.HASH, 4, 8, 5, name="pinned") as m:
    m[1] = 2
    try:
        m.pin()
    except BpfError as error:
        assert "no path" in str(error)
    m.pin("/sys/fs/bpf/some/map")
    assert m.pin_path == "/sys/fs/bpf/some/map"
    try:
        m.pin()
    except KernelError as error:
        assert error.errno == 17
with Map.from_pin("/sys/fs/bpf/some/map") as m:
    assert (m.name, m[1], m.pin_path) == ("pinned", 2, "/sys/fs/bpf/some/map")
    m[2] = 3
with Map.from_pin("/sys/fs/bpf/some/map", read_only=True) as m:
    assert m.to_dict() == {1: 2, 2: 3}
    try:
        m[1] = 1
        raise SystemExit("written")
    except PermissionError as error:
        assert "for reading only" in str(error), error
    m.unpin()
    assert m.pin_path is None
try:
    Map.from_pin("/sys/fs/bpf/some/map")
    raise SystemExit("there")
except KernelError as error:
    assert error.errno == 2
with make_map(MapType.RINGBUF, 0, 0, 4096) as ring, ringbuf_discard(ring) as p:
    bpf.obj_pin(p.fileno(), "/sys/fs/bpf/program")
try:
    Map.from_pin("/sys/fs/bpf/program")
    raise SystemExit("no map")
except BpfError as error:
    assert "is not a BPF map" in str(error)
""")


def test_pinning_elsewhere(tmp_path: Path) -> None:
    with make_map(MapType.HASH, 4, 8, 5) as m:
        with pytest.raises(KernelError, match="not in a BPF filesystem"):
            m.pin(str(tmp_path / "map"))
        (tmp_path / "file").touch()
        with pytest.raises(KernelError, match="not in a BPF filesystem"):
            m.unpin(str(tmp_path / "file"))
        with pytest.raises(BpfError, match="is not pinned"):
            m.unpin()
        assert (tmp_path / "file").exists()


@every_kernel
def test_trace_pipe() -> None:
    out = in_own_mounts("""
mount(b"tracefs", b"/sys/kernel/tracing")
import threading, time
from pybpfload import trace_pipe
text = b"number %d\\0\\0\\0"
program = __import__("producers").load([
    i.ld_imm64(1, int.from_bytes(text[:8], sys.byteorder)),
    i.stx(i.SIZE_DW, 10, 1, -16),
    i.ld_imm64(1, int.from_bytes(text[8:].ljust(8, b"\\0"), sys.byteorder)),
    i.stx(i.SIZE_DW, 10, 1, -8),
    i.mov64_reg(1, 10), i.alu64_imm(i.ALU_ADD, 1, -16),
    i.mov64_imm(2, 10), i.mov64_imm(3, os.getpid()),
    i.call(Helper.TRACE_PRINTK), i.mov64_imm(0, 0), i.exit_()])
mine = f"bpf_trace_printk: number {os.getpid()}"
enough = threading.Event()
def send():  # again and again: whoever else reads the pipe may get some
    while not enough.wait(0.02):
        run(program)
def pipe(timeout):
    for _ in range(100):
        try:
            return trace_pipe(timeout)
        except OSError as error:
            assert error.errno == 16 and "one reader at a time" in str(error), error
            time.sleep(0.1)
    print("skip: somebody else reads the trace pipe", flush=True)
    os._exit(0)
with program, pipe(20) as lines:
    sender = threading.Thread(target=send)
    sender.start()
    seen = 0
    for line in lines:
        assert "bpf_trace_printk: " in line, line
        seen += line.endswith(mine)
        if seen == 3:
            break
    enough.set()
    sender.join()
    start = time.monotonic()
    threading.Timer(0.1, lines.close).start()
    rest = list(lines)
    assert time.monotonic() - start < 4
with pipe(0.05) as lines:
    print("lines:", seen, mine in "".join(lines))
""")
    assert out == "lines: 3 False\n"


# Variables


@pytest.fixture
def variables() -> Iterator[Any]:
    with load("globals") as obj:
        obj.variables["target_tgid"].value = os.getpid()
        yield obj


@every_kernel
def test_variables_are_live(variables: Any) -> None:
    v = variables.variables
    v["data_u8"].value = 7
    v["data_s16"].value = -5
    v["data_text"].value = "changed"
    v["data_point"].value = {"x": 1, "y": -1}
    variables.programs["touch"].test_run()
    assert v["runs"].value == 1
    assert v["bss_u8"].value == 7
    assert v["bss_text"].value == "changed"
    assert v["bss_point"].value == (1, -1)
    assert v["bss_u128"].value == v["data_u128"].value == 0x0123456789ABCDEFFEDCBA9876543210
    assert variables.bss.runs == 1
    variables.data.data_u8 = 9
    assert v["data_u8"].value == 9


def test_every_variable_can_be_read_and_written_back(variables: Any) -> None:
    for variable in variables.variables.values():
        value = variable.value
        assert variable.name in repr(variable)
        if not variable.read_only:
            variable.value = value
            assert variable.value == value


def test_neighbours_are_left_alone(variables: Any) -> None:
    v = variables.variables
    before = {n: each.value for n, each in v.items() if n not in ("data_u16", "data_bytes")}
    v["data_u16"].value = 0xFFFF
    v["data_bytes"].value = b"\xff" * 5
    after = {n: each.value for n, each in v.items() if n not in ("data_u16", "data_bytes")}
    assert after == before


@every_kernel
def test_parts_of_variables(variables: Any) -> None:
    v = variables.variables
    point, array = v["data_point"], v["data_array"]
    point["y"].value = 9
    assert point.value == (3, 9)
    assert (point["y"].value, point["y"].name) == (9, "data_point.y")
    array[2].value += 1
    array[-1].value = 7
    assert array.value == (10, 20, 31, 7)
    assert [each.value for each in array] == [10, 20, 31, 7]
    v["data_points"][1]["x"].value = -1
    assert v["data_points"].value == ((1, 2), (-1, 4))
    v["data_matrix"][1][2].value = 60
    assert v["data_matrix"].value == ((1, -2, 3), (-4, 5, 60))
    variables.programs["touch"].test_run()
    assert v["bss_array"].value == array.value
    with pytest.raises(KeyError, match="data_point has no member 'z'"):
        point["z"]
    with pytest.raises(IndexError, match="data_array has 4 elements"):
        array[4]
    with pytest.raises(TypeError, match="has no 0"):
        v["data_u8"][0]
    with pytest.raises(ReadOnlyError, match=r"rodata_point\.x"):
        v["rodata_point"]["x"].value = 1
    assert v["rodata_array"][1].value == 1 << 32


def test_variables_that_cannot_be_mapped(variables: Any) -> None:
    static = variables.variables["static_only"]
    assert static.value == 99
    static.value = 100
    variables.programs["touch"].test_run()
    assert static.value == 101


def test_constants(variables: Any) -> None:
    constant = variables.variables["rodata_u32"]
    assert constant.value == 40
    with pytest.raises(ReadOnlyError, match="set it in the spec before loading"):
        constant.value = 41
    assert isinstance(ReadOnlyError(), ValueError)
    assert isinstance(ReadOnlyError(), BpfError)


def test_values_that_do_not_fit(variables: Any) -> None:
    with pytest.raises(ValueError, match="u8"):
        variables.variables["data_u8"].value = 256
    assert variables.variables["data_u8"].value == 200


def test_variables_of_a_closed_object() -> None:
    obj = load("globals")
    variable = obj.variables["runs"]
    assert variable.value == 0
    obj.close()
    with pytest.raises(ValueError, match="variable runs: its object is closed"):
        variable.value  # noqa: B018
