"""Maps on a scripted kernel: fallbacks, errors, and how special keys and values are written."""

from __future__ import annotations

import errno
import ipaddress
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.values import ValueMismatchError
from pybpfload.errors import KernelError
from pybpfload.kernel import bpf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime import mapcodecs, mapkinds
from pybpfload.runtime.map import Map
from pybpfload.runtime.mapcodecs import PerCpu
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

ENOTSUPP = 524


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    with FakeKernel() as fake:
        yield fake
    assert not fake.leaked()


def make(
    kind: MapType, key_size: int = 4, value_size: int = 8, entries: int = 100, **options: Any
) -> Map[Any, Any]:
    fd = bpf.map_create(kind, key_size, value_size, entries)
    return Map(
        FileDescriptor(fd, "map m"),
        name="m",
        type=kind,
        key_size=key_size,
        value_size=value_size,
        max_entries=entries,
        **options,
    )


@pytest.mark.parametrize("refusal", [ENOTSUPP, errno.EINVAL])
def test_without_batches_everything_goes_one_by_one(kernel: FakeKernel, refusal: int) -> None:
    for name in ("LOOKUP", "UPDATE", "DELETE"):
        kernel.refuses[f"MAP_{name}_BATCH"] = refusal
    wanted = {n: n * n for n in range(10)}
    with make(MapType.HASH) as m:
        m.update(wanted)
        assert m.to_dict() == wanted
        assert dict(m.items()) == wanted
        assert set(m) == set(wanted)
        assert sorted(m.values()) == sorted(wanted.values())
        assert len(m) == 10
        asked = kernel.commands().count("MAP_LOOKUP_BATCH")
        assert asked == 1  # once refused, never asked again
        m.clear()
        assert not m


def test_batches_are_used(kernel: FakeKernel) -> None:
    with make(MapType.HASH) as m:
        m.update({n: n for n in range(50)})
        before = len(kernel.calls)
        assert len(m.to_dict()) == 50
        m.clear()
        assert len(kernel.calls) - before <= 4
        assert len(m) == 0


def test_a_bucket_that_does_not_fit_is_asked_for_again(kernel: FakeKernel) -> None:
    sizes = []

    def answer(call: Any) -> int | None:
        sizes.append(call.fields["count"])
        return -errno.ENOSPC if len(sizes) < 3 else None

    with make(MapType.HASH, value_size=1 << 16, entries=1000) as m:
        m[1] = bytes(1 << 16)
        kernel.on("MAP_LOOKUP_BATCH", answer)
        assert list(m) == [1]
        assert sizes[1] == 2 * sizes[0]
        assert sizes[2] == 4 * sizes[0]


def test_a_batch_that_is_interrupted_goes_on_by_keys(kernel: FakeKernel) -> None:
    with make(MapType.LPM_TRIE, key_size=8) as m:
        m[bytes(8)] = 1
        kernel.on("MAP_LOOKUP_BATCH", lambda _: -errno.EINTR)
        assert dict(m.items()) == {0: 1}


def test_keys_that_vanish_while_they_are_walked(kernel: FakeKernel) -> None:
    kernel.refuses["MAP_LOOKUP_BATCH"] = ENOTSUPP
    with make(MapType.HASH) as m:
        m.update({n: n for n in range(20)})
        seen = []
        for key in m:
            seen.append(key)
            m.pop(key, None)
            m.pop((key + 1) % 20, None)  # the next one, which the walk has in its hand already
        assert len(seen) == len(set(seen))
        assert set(range(0, 20, 2)) <= set(seen)
        assert not m


def test_pop_without_the_command(kernel: FakeKernel) -> None:
    kernel.refuses["MAP_LOOKUP_AND_DELETE_ELEM"] = ENOTSUPP
    with make(MapType.HASH) as m:
        m[1] = 2
        assert m.pop(1) == 2
        assert m.pop(1, None) is None
        with pytest.raises(KeyError, match="1 is not in map m"):
            m.pop(1)


def test_per_cpu_values(kernel: FakeKernel) -> None:
    with make(MapType.PERCPU_HASH, value_size=4) as m:
        m[1] = [1, 2, 3, 4]
        assert m[1] == [1, 2, 3, 4]
        assert m[1].sum() == 10
        m[2] = 7
        assert m[2] == [7] * 4
        assert m.lookup(1, cpu=2) == 3
        with pytest.raises(ValueError, match="4 possible CPUs, not 2"):
            m[1] = [1, 2]
        assert dict(m.items()) == {1: [1, 2, 3, 4], 2: [7] * 4}


def test_values_that_do_not_fit_change_nothing(kernel: FakeKernel) -> None:
    with make(MapType.HASH) as m:
        with pytest.raises(ValueError, match="fits"):
            m.update({1: 1, 2: 1 << 64})
        with pytest.raises(ValueError, match="bytes"):
            m[b"12345"] = 1
        assert len(m) == 0


def test_a_refused_update_says_what_is_wrong(kernel: FakeKernel) -> None:
    with make(MapType.HASH, entries=2) as m:
        m.update({1: 1, 2: 2})
        kernel.refuses["MAP_UPDATE_ELEM"] = errno.E2BIG
        with pytest.raises(KernelError, match=r"map m: .*the map is full: it has room for 2"):
            m[3] = 3
    with make(MapType.ARRAY, entries=2) as m:
        with pytest.raises(KernelError, match="index is beyond the end: it has 2 elements"):
            m[3] = 3


def test_a_closed_map_says_so(kernel: FakeKernel) -> None:
    m = make(MapType.HASH)
    m[1] = 1
    m.close()
    m.close()
    assert m.closed
    with pytest.raises(ValueError, match="closed"):
        m[1]
    assert "closed" in repr(m)


def test_what_types_cannot_do() -> None:
    assert mapkinds.abilities(MapType.QUEUE) == "push(), pop() and peek()"
    assert mapkinds.abilities(MapType.ARRAY).endswith("be updated (m[key] = value) and be iterated")
    assert "be iterated for its events" in mapkinds.abilities(MapType.PERF_EVENT_ARRAY)
    assert mapkinds.abilities(MapType(999)).startswith("be looked up")


class File:
    def fileno(self) -> int:
        return 42


def value_codec(kind: MapType, size: int, flags: int = 0, **options: Any) -> Any:
    arguments = {"btf": None, "type_id": 0, "cpus": 1, "open_value": lambda n: f"map {n}"} | options
    return mapcodecs.value_codec(kind, size, flags, **arguments)


@pytest.mark.parametrize(
    "kind", [MapType.CGROUP_ARRAY, MapType.SOCKMAP, MapType.XSKMAP, MapType.PERF_EVENT_ARRAY]
)
def test_values_that_are_descriptors(kind: MapType) -> None:
    codec = value_codec(kind, 4)
    assert codec.encode(File()) == codec.encode(42) == struct.pack("=I", 42)
    assert codec.decode(struct.pack("=I", 7)) == 7
    with pytest.raises(TypeError, match="fileno"):
        codec.encode("no")


def test_sockets_with_cookies() -> None:
    codec = value_codec(MapType.SOCKHASH, 8)
    assert codec.encode(File()) == struct.pack("=Q", 42)


@pytest.mark.parametrize("kind", [MapType.HASH_OF_MAPS, MapType.PROG_ARRAY])
def test_maps_and_programs_as_values(kind: MapType) -> None:
    codec = value_codec(kind, 4)
    assert codec.encode(File()) == struct.pack("=I", 42)
    assert codec.decode(struct.pack("=I", 7)) == "map 7"


def test_targets_of_redirection() -> None:
    codec = value_codec(MapType.DEVMAP, 8)
    assert codec.encode(3) == struct.pack("=II", 3, 0)
    assert codec.encode((3, File())) == struct.pack("=II", 3, 42)
    assert codec.decode(struct.pack("=II", 3, 9)) == (3, 9)
    assert value_codec(MapType.CPUMAP, 4).decode(struct.pack("=I", 3)) == 3


def test_stack_traces() -> None:
    codec = value_codec(MapType.STACK_TRACE, 32)
    assert codec.decode(struct.pack("=4Q", 9, 8, 0, 0)) == [9, 8]
    assert codec.decode(struct.pack("=4Q", 9, 8, 7, 6)) == [9, 8, 7, 6]
    by_build_id = value_codec(MapType.STACK_TRACE, 64, MapFlag.STACK_BUILD_ID)
    frame = struct.Struct("=i20sQ")
    assert by_build_id.decode(bytes(64)) == []
    valid, address = frame.pack(1, b"x" * 20, 0x40), frame.pack(2, bytes(20), 0x7000)
    assert by_build_id.decode(valid + address) == [(b"x" * 20, 0x40), (b"", 0x7000)]
    assert by_build_id.decode(address + bytes(32)) == [(b"", 0x7000)]
    with pytest.raises(TypeError, match="by programs only"):
        codec.encode([1])


def test_prefixes() -> None:
    codec = mapcodecs.key_codec(MapType.LPM_TRIE, 8, None, 0)
    assert codec is not None
    ten = struct.pack("=I4B", 8, 10, 0, 0, 0)
    assert codec.encode(ipaddress.ip_network("10.0.0.0/8")) == ten
    assert codec.encode(ipaddress.ip_address("10.0.0.1")) == struct.pack("=I4B", 32, 10, 0, 0, 1)
    assert codec.encode(ten) == ten
    with pytest.raises(ValueError, match="4 bytes of address"):
        codec.encode(ipaddress.ip_address("::1"))
    wide = mapcodecs.key_codec(MapType.LPM_TRIE, 20, None, 0)
    assert wide is not None
    assert len(wide.encode(ipaddress.ip_network("10.0.0.0/8"))) == 20


def test_sums_over_cpus() -> None:
    builder = BtfBuilder()
    u32 = builder.add_int("u32", 4)
    stats = builder.add_struct("stats", 8, [("a", u32, 0), ("b", u32, 32)])
    from pybpfload.btf.values import codec

    stats_codec = codec(builder.btf(), stats)
    record = stats_codec.decode(struct.pack("=II", 0xFFFFFFFF, 2))
    total = PerCpu([record, record]).sum()
    assert (type(total), total.a, total.b) == (type(record), 2 * 0xFFFFFFFF, 4)
    assert PerCpu([(1, 2), (3, 4)]).sum() == (4, 6)
    assert PerCpu([1.5, 2]).sum() == 3.5
    with pytest.raises(TypeError, match="cannot be added"):
        PerCpu(["a", "b"]).sum()


def test_mismatches_are_the_codecs_own(kernel: FakeKernel) -> None:
    with make(MapType.HASH) as m:
        with pytest.raises(ValueMismatchError):
            m[-1 << 40] = 1
