"""Perf buffers without any kernel: the parser against its description, rings in plain memory."""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybpfload.errors import BpfError, KernelError
from pybpfload.formats import perf as fmt
from pybpfload.formats.flat import flat
from pybpfload.kernel import cpus, door
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime import perfring, perfscan
from pybpfload.runtime.map import Map
from pybpfload.runtime.perfbuf import Lost, PerfBuffer, Sample
from pybpfload.runtime.perfscan import Run, scan, scan_backward
from pybpfload.testing.fakekernel import FakeKernel
from pybpfload.uapi import MapType, PerfSample

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER = "<" if sys.byteorder == "little" else ">"
LAYOUT = fmt.layouts(ORDER)


def record(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 8)
    header = LAYOUT.header.build({"type": kind, "misc": 0, "size": fmt.HEADER_SIZE + len(body)})
    return header + body


def sample(data: bytes, before: bytes = b"") -> bytes:
    size = (len(data) + 4 + 7 & -8) - 4
    body = LAYOUT.sample.build({"size": size, "data": data.ljust(size, b"\0")})
    return record(fmt.SAMPLE, before + body)


def lost(count: int) -> bytes:
    return record(fmt.LOST, LAYOUT.lost.build({"id": 7, "lost": count}))


def other(_: object = None) -> bytes:
    return record(99, bytes(16))


MAKE: dict[str, Any] = {"sample": sample, "lost": lost, "other": other}


def ring_of(size: int, start: int, content: bytes) -> memoryview:
    assert len(content) <= size
    ring = bytearray(b"\xff" * size)
    for offset, byte in enumerate(content):
        ring[(start + offset) % size] = byte
    return memoryview(bytes(ring))


def datas(runs: list[Run]) -> list[bytes]:
    """What the samples of some runs hold, behind the word with their size."""
    return [bytes(run.data[at + 4 : at + run.size]) for run in runs for at in run.offsets]


def test_constants_are_those_of_the_description() -> None:
    assert (perfring._DATA_HEAD, perfring._DATA_TAIL) == (fmt.DATA_HEAD, fmt.DATA_TAIL)
    assert (perfscan._LOST, perfscan._SAMPLE) == (fmt.LOST, fmt.SAMPLE)
    assert perfscan._HEADER.size == fmt.HEADER_SIZE == LAYOUT.header.sizeof()
    assert flat(LAYOUT.header).unpack(bytes(range(8))) == perfscan._HEADER.unpack(bytes(range(8)))
    raw = LAYOUT.lost.build({"id": 1, "lost": 1234})
    assert perfscan._LOST_COUNT.unpack(raw) == (1234,)
    control = LAYOUT.control.build(
        {
            "version": 0,
            "compat_version": 0,
            "data_head": 11,
            "data_tail": 22,
            "data_offset": 0,
            "data_size": 0,
        }
    )
    assert int.from_bytes(control[fmt.DATA_HEAD :][:8], sys.byteorder) == 11
    assert int.from_bytes(control[fmt.DATA_TAIL :][:8], sys.byteorder) == 22


parts = st.lists(
    st.one_of(
        st.tuples(st.binary(max_size=40), st.integers(1, 30)).map(
            lambda each: [("sample", each[0])] * each[1]
        ),
        st.integers(1, 1000).map(lambda count: [("lost", count)]),
        st.just([("other", 0)]),
    ),
    max_size=12,
).map(lambda every: [each for some in every for each in some])


def check(runs: list[Run], wanted: list[tuple[str, Any]]) -> None:
    """The records that were wanted are there, in order, and samples have only padding added."""
    found: list[tuple[str, Any]] = []
    for run in runs:
        found += [("sample", each) for each in datas([run])]
        if run.lost:
            found.append(("lost", run.lost))
    expected = [each for each in wanted if each[0] != "other"]
    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    for (kind, got), (_, value) in zip(found, expected, strict=True):
        if kind == "lost":
            assert got == value
        else:
            assert got[: len(value)] == value
            assert len(got) % 8 == 4
            assert not any(got[len(value) :])


@given(parts, st.integers(0, 10_000), st.integers(1, 20))
def test_finds_the_records_that_were_built(
    wanted: list[tuple[str, Any]], start: int, limit: int
) -> None:
    start *= 8
    content = b"".join(MAKE[kind](value) for kind, value in wanted)
    data = ring_of(1 << 15, start, content)
    runs: list[Run] = []
    position = start
    while found := scan(data, position, start + len(content), limit):
        assert sum(len(run.offsets) for run in found) <= limit
        position = found[-1].end
        runs += found
    assert position == start + len(content)
    check(runs, wanted)


@given(parts, st.integers(0, 10_000), st.integers(0, 200))
def test_finds_what_is_left_of_records_written_backward(
    wanted: list[tuple[str, Any]], start: int, cut: int
) -> None:
    """``cut`` bytes of the oldest records are overwritten."""
    built = [MAKE[kind](value) for kind, value in wanted]
    content = b"".join(reversed(built))
    left = max(len(content) - 8 * cut, 0)
    whole, size = 0, 0
    while whole < len(built) and size + len(built[-1 - whole]) <= left:
        size += len(built[-1 - whole])
        whole += 1
    runs, taken = scan_backward(memoryview(content)[:left])
    assert taken == size
    check(runs, wanted[len(wanted) - whole :])
    assert not runs or runs[-1].end == size


def test_positions_behind_samples() -> None:
    content = sample(b"a") + sample(b"b") + lost(3) + sample(b"c" * 20)
    runs = scan(ring_of(1024, 8, content), 8, 8 + len(content), 10)
    assert [len(run.offsets) for run in runs] == [2, 0, 1]
    assert [run.end - 8 for run in runs] == [32, 56, len(content)]
    assert [run.step for run in runs] == [16, 24, 32]


@pytest.mark.parametrize("size", [0, 4, 8, 12, 20, 64])
def test_a_bad_size_is_an_error_and_no_endless_loop(size: int) -> None:
    content = LAYOUT.header.build({"type": fmt.SAMPLE, "misc": 0, "size": size}) + bytes(24)
    with pytest.raises(BpfError, match="another reader"):
        scan(ring_of(64, 0, content), 0, 32, 10)


@pytest.mark.parametrize("size", [0, 4, 8, 12, 20])
def test_backward_too(size: int) -> None:
    content = LAYOUT.header.build({"type": fmt.SAMPLE, "misc": 0, "size": size}) + bytes(24)
    with pytest.raises(BpfError, match="no record"):
        scan_backward(memoryview(content))


# Rings in the memory of a scripted kernel

PAGE = os.sysconf("SC_PAGESIZE")
ENABLE, PAUSE = 0x2400, 0x40042409


class PerfKernel(FakeKernel):
    """Has CPUs that come and go, and rings that tests write into."""

    def __init__(self) -> None:
        super().__init__()
        self.online = [0, 1]
        self.clocks: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.stopped: set[int] = set()
        self.counts_lost = True

    def read_file(self, path: str, limit: int) -> bytes:
        if path.startswith("/sys/devices/system/cpu/"):
            return ",".join(map(str, self.online)).encode()
        return super().read_file(path, limit)

    def perf_event_open(
        self, attr: bytearray, pid: int, cpu: int, group_fd: int, flags: int
    ) -> int:
        if cpu not in self.online:
            return -errno.ENODEV
        if not self.counts_lost and int.from_bytes(attr[32:40], sys.byteorder) & 16:  # read_format
            return -errno.EINVAL
        return super().perf_event_open(attr, pid, cpu, group_fd, flags)

    def read(self, fd: int, size: int) -> bytes:
        if self.fds[fd]["cpu"] not in self.online:
            self.stopped.add(fd)
        if fd not in self.stopped:
            self.clocks[fd] = self.clocks.get(fd, 0) + 5
        state = {"value": 0, "time_enabled": self.clocks.get(fd, 0), "lost": self.lost.get(fd, 0)}
        return bytes(LAYOUT.state.build(state))[: 24 if self.counts_lost else 16]

    def ring(self, cpu: int) -> Any:
        """The memory of a CPU's newest ring."""
        events = [each for each in self.fds.values() if each.kind == "perf_event"]
        return [each for each in events if each["cpu"] == cpu][-1].mappings[0]

    def write(self, cpu: int, content: bytes) -> None:
        """Write records as the kernel does, forward."""
        memory = self.ring(cpu)
        (head,) = struct.unpack_from("=Q", memory, fmt.DATA_HEAD)
        size = len(memory) - PAGE
        for offset, byte in enumerate(content):
            memory[PAGE + (head + offset) % size] = byte
        struct.pack_into("=Q", memory, fmt.DATA_HEAD, head + len(content))

    def write_backward(self, cpu: int, content: bytes) -> None:
        """Write one record before the one before."""
        memory = self.ring(cpu)
        (head,) = struct.unpack_from("=Q", memory, fmt.DATA_HEAD)
        size = len(memory) - PAGE
        head = (head - len(content)) % (1 << 64)
        for offset, byte in enumerate(content):
            memory[PAGE + (head + offset) % size] = byte
        struct.pack_into("=Q", memory, fmt.DATA_HEAD, head)


@pytest.fixture
def kernel() -> Iterator[PerfKernel]:
    made = PerfKernel()
    with door.replaced(made):
        yield made


@pytest.fixture
def array(kernel: PerfKernel) -> Iterator[Map[Any, Any]]:
    from pybpfload.kernel import bpf

    fd = bpf.map_create(MapType.PERF_EVENT_ARRAY, 4, 4, 8, map_name="array")
    made = Map(
        FileDescriptor(fd, "map array"),
        name="array",
        type=MapType.PERF_EVENT_ARRAY,
        key_size=4,
        value_size=4,
        max_entries=8,
        flags=0,
    )
    with made:
        yield made


def numbers(events: list[bytes]) -> list[int]:
    return [each[0] for each in events]


def one(number: int, before: bytes = b"") -> bytes:
    return sample(bytes([number]) * 12, before)


def test_lost_events_in_the_stream(kernel: PerfKernel, array: Map[Any, Any]) -> None:
    told: list[tuple[int, int]] = []
    with PerfBuffer(array, lost_events=True, on_lost=lambda *what: told.append(what)) as buffer:
        kernel.write(1, one(1) + lost(5) + one(2))
        events = buffer.consume()
        assert events[1] == Lost(cpu=1, events=5)
        assert numbers(events[::2]) == [1, 2]
        assert told == [(1, 5)]
        assert buffer.lost == 5
        kernel.lost[buffer.rings[1].fileno()] = 9
        assert buffer.lost_by_cpu == {0: 0, 1: 9}  # before a record tells of the other four
    assert buffer.lost == 9


def test_the_attributes_that_are_asked_for(kernel: PerfKernel, array: Map[Any, Any]) -> None:
    def attributes(**options: Any) -> bytes:
        with PerfBuffer(array, cpu_numbers=[0], **options) as buffer:
            found: bytes = kernel.fds[buffer.rings[0].fileno()]["attr"]
            return found

    def word(attr: bytes, at: int, size: int = 4) -> int:
        return int.from_bytes(attr[at : at + size], sys.byteorder)

    plain = attributes()
    assert (word(plain, 0), word(plain, 8, 8)) == (1, 10)  # software, BPF_OUTPUT
    assert word(plain, 24, 8) == PerfSample.RAW
    assert word(plain, 48) == 1
    assert word(attributes(wakeup_events=7), 48) == 7
    changed = {
        "watermark": attributes(watermark=4096),
        "write_backward": attributes(overwritable=True),
        "use_clockid": attributes(sample_type=PerfSample.TIME),
    }
    assert word(changed["watermark"], 48) == 4096
    assert word(changed["use_clockid"], 24, 8) == PerfSample.RAW | PerfSample.TIME
    assert word(changed["use_clockid"], 92) == 1
    bits = {name: word(attr, 40, 8) ^ word(plain, 40, 8) for name, attr in changed.items()}
    places = {"watermark": 14, "use_clockid": 25, "write_backward": 27}
    assert bits == {name: 1 << (bit if ORDER == "<" else 63 - bit) for name, bit in places.items()}


def test_a_kernel_that_does_not_count_what_is_lost(
    kernel: PerfKernel, array: Map[Any, Any]
) -> None:
    kernel.counts_lost = False
    with PerfBuffer(array) as buffer:
        kernel.write(0, one(1) + lost(4))
        assert buffer.lost == 0
        assert len(buffer.consume()) == 1
        assert buffer.lost == 4


def test_times_and_threads(kernel: PerfKernel, array: Map[Any, Any]) -> None:
    both = LAYOUT.tid.build({"pid": 12, "tid": 13}) + LAYOUT.time.build({"time": 99})
    with PerfBuffer(array, sample_type=PerfSample.TIME | PerfSample.TID) as buffer:
        kernel.write(1, one(1, both) * 3)
        assert buffer.consume() == [Sample(bytes([1]) * 12, 1, 12, 13, 99)] * 3
    with PerfBuffer(array, sample_type=PerfSample.TIME) as buffer:
        kernel.write(0, one(1, both[8:]))
        (event,) = buffer.consume()
        assert (event.time, event.cpu, event.pid, event.tid) == (99, 0, None, None)
    with pytest.raises(ValueError, match="only TIME and TID"):
        PerfBuffer(array, sample_type=PerfSample.CALLCHAIN)
    with pytest.raises(ValueError, match="not by both"):
        PerfBuffer(array, wakeup_events=2, watermark=100)


def test_overwritten_rings_are_paused_while_they_are_copied(
    kernel: PerfKernel, array: Map[Any, Any]
) -> None:
    with PerfBuffer(array, page_count=1, overwritable=True, cpu_numbers=[1]) as buffer:
        event = kernel.fds[buffer.rings[1].fileno()]
        assert buffer.consume() == []
        for number in range(3):
            kernel.write_backward(1, one(number))
        before = len(event.ioctls)
        assert numbers(buffer.consume()) == [0, 1, 2]
        assert event.ioctls[before:] == [(PAUSE, 1), (PAUSE, 0)]
        assert buffer.overwritten == 0
        count = PAGE // len(one(0)) + 10
        for number in range(count):
            kernel.write_backward(1, one(number % 256))
        kept = [each % 256 for each in range(count)][-(PAGE // len(one(0))) :]
        assert numbers(buffer.consume(5)) == kept[:5]
        kernel.write_backward(1, one(77))  # a copy is given out before another is made
        assert numbers(buffer.consume()) == kept[5:]
        assert numbers(buffer.consume()) == [77]
        assert buffer.overwritten == count * len(one(0)) - len(kept) * len(one(0))
        buffer.pause()
        before = len(event.ioctls)
        assert buffer.consume() == []
        assert event.ioctls[before:] == []  # it stays paused
        buffer.resume()
        assert event.ioctls[before:] == [(PAUSE, 0)]


def test_what_is_overwritten_while_it_is_copied_is_left_out(
    kernel: PerfKernel, array: Map[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with PerfBuffer(array, page_count=1, overwritable=True, cpu_numbers=[0]) as buffer:
        for number in range(PAGE // len(one(0))):
            kernel.write_backward(0, one(number % 256))
        fences = []

        def late() -> None:
            """A program that had begun before the pause ends between copy and second look."""
            fences.append(None)
            if len(fences) == 2:
                kernel.write_backward(0, one(200))

        monkeypatch.setattr(perfring, "fence", late)
        events = numbers(buffer.consume())
        assert events[:3] == [1, 2, 3]  # number 0 may be torn
        assert 200 not in events
        assert numbers(buffer.consume()) == [200]


def test_an_error_of_a_decoder_in_an_overwritten_ring(
    kernel: PerfKernel, array: Map[Any, Any]
) -> None:
    def choose(event: memoryview) -> None:
        if event[0] == 2:
            raise RuntimeError("two")

    array.event_type = choose
    with PerfBuffer(array, overwritable=True, cpu_numbers=[0]) as buffer:
        for number in range(5):
            kernel.write_backward(0, one(number))
        assert numbers(buffer.consume()) == [0, 1]
        with pytest.raises(RuntimeError, match="two"):
            buffer.consume()
        assert numbers(buffer.consume()) == [3, 4]


def test_an_error_of_a_decoder_between_lost_events(
    kernel: PerfKernel, array: Map[Any, Any]
) -> None:
    def choose(event: memoryview) -> None:
        if event[0] == 2:
            raise RuntimeError("two")

    array.event_type = choose
    with PerfBuffer(array, lost_events=True, with_cpu=True) as buffer:
        kernel.write(0, lost(1) + one(1) + lost(2) + one(2) + lost(4) + one(3))
        first, (cpu, event), second = buffer.consume()
        assert (first, cpu, event[0], second) == (Lost(0, 1), 0, 1, Lost(0, 2))
        assert buffer.lost == 3
        with pytest.raises(RuntimeError, match="two"):
            buffer.consume()
        assert [buffer.consume()[0], buffer.lost] == [Lost(0, 4), 7]


def element(kernel: PerfKernel, array: Map[Any, Any], cpu: int) -> int | None:
    """Descriptor of the event that programs on a CPU would write to."""
    found = kernel.fds[array.fileno()].elements.get(struct.pack("=I", cpu))
    return None if found is None else int.from_bytes(found[:4], sys.byteorder)


def test_cpus_that_come_and_go(kernel: PerfKernel, array: Map[Any, Any]) -> None:
    with PerfBuffer(array, page_count=1) as buffer:
        assert sorted(buffer.rings) == [0, 1]
        assert buffer.refresh() == []
        kernel.online = [0, 2]
        kernel.write(1, lost(3) + one(1))
        assert buffer.refresh() == [2]
        assert numbers(buffer.consume()) == [1]  # what is in the ring of the CPU that went
        assert element(kernel, array, 2) == buffer.rings[2].fileno()
        kernel.write(1, one(9))
        old = buffer.rings[1].fileno()
        buffer.rings[1].alive()  # the scripted kernel notices that the CPU went
        kernel.online = [0, 1, 2]
        assert buffer.refresh() == [1]
        assert old in kernel.closed
        assert element(kernel, array, 1) == buffer.rings[1].fileno()
        assert buffer.rings[1].fileno() in buffer._poller._epoll.registered  # type: ignore[attr-defined]
        kernel.write(1, one(4))
        assert numbers(buffer.consume()) == [9, 4]
        assert buffer.lost_by_cpu[1] == 3
        buffer.pause()
        kernel.online = [0, 1, 2, 3]
        assert buffer.refresh() == [3]
        assert kernel.fds[buffer.rings[3].fileno()].ioctls == [(ENABLE, 0), (PAUSE, 1)]
    with pytest.raises(ValueError, match="closed"):
        buffer.refresh()


def test_cpus_that_are_asked_for_have_to_be_there(kernel: PerfKernel, array: Map[Any, Any]) -> None:
    with pytest.raises(KernelError, match="CPU 5"):
        PerfBuffer(array, cpu_numbers=[0, 5])
    assert not [each for each in kernel.fds.values() if each.kind == "perf_event"]


class FakeSocket:
    """A netlink socket with announcements."""

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages
        self.bound: Any = None
        self.closed = False

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def bind(self, address: Any) -> None:
        self.bound = address

    def fileno(self) -> int:
        return 999

    def recv(self, size: int) -> bytes:
        if not self.messages:
            raise BlockingIOError
        message = self.messages.pop(0)
        if isinstance(message, int):
            raise OSError(message, os.strerror(message))
        assert isinstance(message, bytes)
        return message

    def close(self) -> None:
        self.closed = True


def test_announced_cpus_are_picked_up(kernel: PerfKernel, array: Map[Any, Any]) -> None:
    socket = FakeSocket([])
    kernel.netlink = lambda protocol: socket  # type: ignore[method-assign, assignment, return-value]
    with PerfBuffer(array) as buffer:
        assert socket.bound == (0, 1)
        kernel.online = [0, 1, 4]
        assert buffer.consume() == []
        assert 4 not in buffer.rings
        socket.messages.append(b"online@/devices/system/cpu/cpu4\0ACTION=online\0")
        assert buffer.consume() == []
        assert 4 in buffer.rings
    assert socket.closed


@pytest.mark.parametrize(
    ("messages", "changed"),
    [
        ([], False),
        ([b"add@/devices/virtual/net/x\0"], False),
        ([b"offline@/devices/system/cpu/cpu1\0"], True),
        ([b"change@/devices/x\0", b"online@/devices/system/cpu/cpu1\0", b"add@/y\0"], True),
        ([errno.ENOBUFS], True),
    ],
)
def test_announcements(kernel: PerfKernel, messages: list[Any], changed: bool) -> None:
    socket = FakeSocket(messages)
    kernel.netlink = lambda protocol: socket  # type: ignore[method-assign, assignment, return-value]
    watch = cpus.CpuWatch()
    assert watch.changed() is changed
    assert watch.changed() is False
