"""Maps on a scripted kernel: fallbacks, errors, and how special keys and values are written."""

from __future__ import annotations

import errno
import html
import ipaddress
import re
import struct
import sys
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pybpfload
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.values import ValueMismatchError
from pybpfload.errors import BpfError, KernelError, NotSupportedError
from pybpfload.kernel import bpf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.kernel.since import first_version
from pybpfload.runtime import mapcodecs, mapkinds, maptable
from pybpfload.runtime.map import Map
from pybpfload.runtime.mapcodecs import PerCpu
from pybpfload.runtime.maps import _unlike
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
        for cpu in (-1, 4):
            with pytest.raises(ValueError, match=f"4 possible CPUs, not CPU {cpu}"):
                m.lookup(1, cpu=cpu)
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


def test_wrong_sizes_name_the_map(kernel: FakeKernel) -> None:
    with make(MapType.HASH, key_size=3, value_size=5) as m:
        for action, sentence in (
            (lambda: m[b"ab"], "map m: key 3 bytes: expected 3 bytes, got 2"),
            (lambda: m.put(b"abc", b"1"), "map m: value 5 bytes: expected 5 bytes, got 1"),
            (lambda: m.lookup_bytes(b"a"), "map m: key has 3 bytes, not 1"),
            (lambda: m.put_bytes(b"a", b"12345"), "map m: key has 3 bytes, not 1"),
            (lambda: m.put_bytes(b"abc", b"1"), "map m: value has 5 bytes, not 1"),
        ):
            with pytest.raises(ValueError) as caught:
                action()
            assert str(caught.value) == sentence
    with opened_on_fake().load() as obj:
        with pytest.raises(ValueError, match=r"map flows: key flow\.port: expected int from 0 to"):
            obj.maps["flows"][{"port": 1 << 20}]


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


def test_networks_as_keys(kernel: FakeKernel) -> None:
    four, six = ipaddress.IPv4Network, ipaddress.IPv6Network
    with make(MapType.LPM_TRIE, key_size=20) as m:
        networks = m.typed(key=six)
        networks[six("2001:db8::/32")] = 1
        networks[ipaddress.ip_address("::1")] = 2
        assert list(networks) == [six("2001:db8::/32"), six("::1/128")]
        assert networks.to_dict() == {six("2001:db8::/32"): 1, six("::1/128"): 2}
    with make(MapType.LPM_TRIE, key_size=8) as m:
        m.typed(key=four)[four("10.0.0.0/8")] = 3
        assert list(m.typed(key=four)) == [four("10.0.0.0/8")]
        with pytest.raises(BpfError, match="8 bytes holds no IPv6Network"):
            m.typed(key=six)


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


# The map as a whole


FIXTURES = Path(__file__).parents[2] / "fixtures" / "bpfel"


def opened_on_fake() -> Any:
    spec = pybpfload.open(FIXTURES / "maps.bpf.o")
    for program in spec.programs.values():
        program.autoload = False
    return spec


def test_a_pinned_map_of_other_types_is_told(kernel: FakeKernel) -> None:
    """Types of one size are taken, as by libbpf, but not silently."""

    def its_btf(_call: Any) -> int:  # maps keep their BTF in the kernel, fake ones do not
        known = [made for (kind, _), made in kernel.objects.items() if kind == "btf"]
        return kernel.open_object(max(known, key=lambda made: len(made["data"])))

    kernel.on("BTF_GET_FD_BY_ID", its_btf)
    spec = opened_on_fake()
    spec.maps["hash"].pin_path = "/sys/fs/bpf/m"
    with spec.load() as obj:
        assert not obj.notes
        again = opened_on_fake()
        again.maps["hash"].pin_path = "/sys/fs/bpf/m"
        again.maps["hash"].value_type_id = again.btf.find("flow")
        with again.load() as other:
            (note,) = other.notes
            assert "made for other types: value type is u64 of 8 bytes, the object says" in str(
                note
            )
        again.maps["hash"].max_entries += 1
        again.maps["hash"].flags = 1
        with pytest.raises(BpfError) as refused:
            again.load()
        for part in ("max_entries is", "flags is 0, the object says 1", "value type is u64"):
            assert part in str(refused.value)


def test_how_types_differ() -> None:
    builder = BtfBuilder()
    u16, u32, u64 = (builder.add_int(f"u{8 * size}", size) for size in (2, 4, 8))
    inner = [builder.add_struct("in", 8, [("x", u32, 0), ("y", u16, at)]) for at in (32, 48)]
    one = builder.add_struct("s", 24, [("a", u64, 0), ("b", u32, 64), ("i", inner[0], 128)])
    two = builder.add_struct("s", 24, [("a", u32, 0), ("c", u32, 64), ("i", inner[1], 128)])
    from pybpfload.btf.values import codec

    btf = builder.btf()
    assert list(_unlike(codec(btf, one), codec(btf, one))) == []
    assert list(_unlike(codec(btf, one), codec(btf, two))) == [
        "a is u64 of 8 bytes, the object says u32 of 4",
        "has no member c",
        "i.y is at byte 4, the object says 6",
        "has a member b, which the object has not",
    ]


def test_by_name(kernel: FakeKernel) -> None:
    with opened_on_fake().load() as obj:
        with Map.from_name("flows") as found:
            assert found.info().id == obj.maps["flows"].info().id
        with pytest.raises(BpfError, match="there is no map called nothing"):
            Map.from_name("nothing")
        with opened_on_fake().load(), pytest.raises(BpfError, match=r"2 maps called flows, .* \d"):
            Map.from_name("flows")


@pytest.mark.parametrize(
    ("command", "action"),
    [
        ("MAP_LOOKUP_ELEM", lambda m: m.get(1)),
        ("MAP_UPDATE_ELEM", lambda m: m.put(1, 2)),
        ("MAP_DELETE_ELEM", lambda m: m.__delitem__(1)),
        ("MAP_LOOKUP_BATCH", lambda m: m.to_dict()),
    ],
)
def test_closing_waits_for_calls_under_way(kernel: FakeKernel, command: str, action: Any) -> None:
    """The descriptor's number must not be given to another file while somebody uses it."""
    m = make(MapType.HASH)
    m[1] = 1
    open_then = []

    def close(_call: Any) -> None:
        m.close()
        open_then.append(len(kernel.leaked()))

    kernel.on(command, close)
    action(m)
    assert m.closed
    assert open_then == [1]
    assert kernel.leaked() == []
    with pytest.raises(ValueError, match="map m is closed"):
        m.get(1)


def test_an_error_that_is_kept_holds_no_descriptor(kernel: FakeKernel) -> None:
    m = make(MapType.HASH)
    kept = []
    for command in ("LOOKUP_ELEM", "UPDATE_ELEM", "DELETE_ELEM", "LOOKUP_BATCH", "UPDATE_BATCH"):
        kernel.refuses[f"MAP_{command}"] = errno.EFAULT
    for action in (lambda: m[1], lambda: m.put(1, 1), lambda: m.__delitem__(1), m.to_dict, m.clear):
        with pytest.raises(KernelError) as caught:
            action()
        kept.append(caught.value)
    m.close()
    assert kernel.leaked() == []
    assert len(kept) == 5


# Views of the same map


def test_other_types_for_the_same_map(kernel: FakeKernel) -> None:
    class Doubled:
        name, size = "doubled", 8

        def decode(self, buffer: Any, offset: int = 0) -> int:
            return 2 * int.from_bytes(buffer[offset : offset + 8], sys.byteorder)

        def encode(self, value: int) -> bytes:
            return (value // 2).to_bytes(8, sys.byteorder)

    with opened_on_fake().load() as obj:
        squares = obj.maps["hash"]
        squares[3] = 9
        other = squares.typed(value=Doubled())
        assert other[3] == 18
        other[4] = 32
        assert squares[4] == 16
        assert dict(other.items()) == {3: 18, 4: 32}
        flow = squares.typed(value="flow")
        assert flow[3].address == struct.pack("=I", 9)
        assert squares.typed(value=obj.types["flow"])[3] == flow[3]
        with pytest.raises(TypeError, match="bytes does not fit u32"):
            squares.typed(key=bytes)
        by_cpu = obj.maps["percpu_hash"].typed(value=Doubled())
        by_cpu[1] = [2, 4, 6, 8]
        assert obj.maps["percpu_hash"][1] == [1, 2, 3, 4]
        with pytest.raises(BpfError, match="keys have 4 bytes, struct flow has 8"):
            squares.typed(key="flow")
        with pytest.raises(BpfError, match="no type nothing"):
            squares.typed(value="nothing")
        with pytest.raises(BpfError, match="maps of type QUEUE have no keys"):
            obj.maps["queue"].typed(key="flow")
        with pytest.raises(TypeError):
            squares.typed(value=5)
        other.close()
        assert squares.closed


def test_rows(kernel: FakeKernel) -> None:
    with opened_on_fake().load() as obj:
        obj.maps["hash"].update({1: 2, 3: 4})
        assert obj.maps["hash"].to_records() == [{"key": 1, "value": 2}, {"key": 3, "value": 4}]
        obj.maps["percpu_hash"][5] = [1, 2, 3, 4]
        rows = obj.maps["percpu_hash"].to_records()
        assert rows[1] == {"key": 5, "cpu": 1, "value": 2}
        assert len(rows) == 4
        obj.maps["flows"][{"port": 53}] = {"packets": 1, "name": "dns"}
        (row,) = obj.maps["flows"].to_records()
        assert (row["port"], row["packets"], row["name"]) == (53, 1, "dns")
        keys, values = obj.maps["hash"].to_buffers()
        assert (keys.cast("I").tolist(), values.cast("Q").tolist()) == ([1, 3], [2, 4])


def test_rows_of_structs_in_structs() -> None:
    inner = namedtuple("inner", "x y")
    outer = namedtuple("outer", "x inner last")
    value = outer(1, inner(2, 3), 4)
    assert maptable.records(False, [(7, value)]) == [
        {"key": 7, "x": 1, "inner.x": 2, "inner.y": 3, "last": 4}
    ]
    assert maptable.records(False, [(inner(8, 9), value)]) == [
        {"key.x": 8, "y": 9, "value.x": 1, "inner.x": 2, "inner.y": 3, "last": 4}
    ]


def test_tables_for_notebooks(kernel: FakeKernel) -> None:
    with make(MapType.HASH) as m:
        assert m._repr_html_() == f"<p><code>{html.escape(repr(m))}</code></p>"
        m.update({n: n * n for n in range(50)})
        text = m._repr_html_()
        assert "<th>key</th><th>value</th>" in text
        assert "<td>19</td><td>361</td>" in text
        assert "<td>400</td>" not in text
        assert "Only the first 20 rows." in text
        kernel.refuses["MAP_LOOKUP_BATCH"] = errno.EFAULT
        assert "Bad address" in m._repr_html_()
        del kernel.refuses["MAP_LOOKUP_BATCH"]
    assert "closed" in m._repr_html_()
    with make(MapType.HASH, value_size=200) as m:
        m[1] = b"<script>".ljust(200, b"&")
        text = m._repr_html_()
        assert "<script>" not in text
        assert "&lt;script&gt;" in text
        assert len(text) < 1000
    with make(MapType.QUEUE, key_size=0) as m:
        assert "table" not in m._repr_html_()


def test_a_value_on_one_cpu(kernel: FakeKernel) -> None:
    with make(MapType.PERCPU_HASH, value_size=4) as m:
        m[1] = [1, 2, 3, 4]
        flags = []
        kernel.on("MAP_UPDATE_ELEM", lambda call: flags.append(call.fields["flags"]) or 0)
        m.put(1, 9, cpu=2)
        assert flags == [8 | 2 << 32]
        kernel.on("MAP_UPDATE_ELEM", lambda _call: -errno.EINVAL)
        with pytest.raises(NotSupportedError, match=r"value of one CPU \(needs Linux 7\.0\)"):
            m.put(1, 9, cpu=2)


DOCS = Path(__file__).parents[2] / "docs" / "maps-and-variables.md"


def documented_types() -> dict[str, list[str]]:
    """Rows of the table of types by the type's name: since, the four abilities, batches, more."""
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.*) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {name: rest.split(" | ") for name, rest in rows}


def test_every_type_is_documented_as_it_is() -> None:
    rows = documented_types()
    assert list(rows) == [kind.name for kind in MapType if kind != MapType.UNSPEC]
    for name, row in rows.items():
        kind = MapType[name]
        assert len(row) == 7
        assert row[0] == first_version("MapType", kind), name
        can = "".join(
            letter for letter, word in zip("ludi", row[1:5], strict=True) if word == "yes"
        )
        assert sorted(can) == sorted(mapkinds.can(kind)), name
