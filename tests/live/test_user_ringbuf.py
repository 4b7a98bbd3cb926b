"""Sending to programs through a user ring buffer, on the machine's own kernel."""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from producers import make_map

import pybpfload
from pybpfload.errors import BpfError
from pybpfload.kernel import door
from pybpfload.runtime.fence import Position
from pybpfload.runtime.user_ringbuf import RingFullError, UserRingBuffer
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.runtime.object import Object

pytestmark = [
    pytest.mark.live,
    pytest.mark.vm,
    pytest.mark.kernel("6.1"),
    pytest.mark.needs_feature("jit"),  # samples are given to a callback
]


NATIVE = "bpfel" if sys.byteorder == "little" else "bpfeb"
OBJECT = Path(__file__).parents[2] / "fixtures" / NATIVE / "user_ringbuf.bpf.o"


@pytest.fixture
def loaded() -> Iterator[Object]:
    with pybpfload.load(OBJECT) as made:
        yield made


@pytest.fixture
def ring(loaded: Object) -> Iterator[UserRingBuffer]:
    with UserRingBuffer(loaded.maps["orders"]) as made:
        yield made


def drain(loaded: Object) -> int:
    return loaded.programs["drain"].test_run().retval


def seen(loaded: Object) -> tuple[Any, ...]:
    names = ("records", "total", "too_short", "last_name")
    return tuple(loaded.variables[name].value for name in names)


def test_records_reach_the_program(loaded: Object, ring: UserRingBuffer) -> None:
    assert drain(loaded) == 0
    ring.send({"number": 7, "name": "seven"})
    ring.send((8, "eight"))
    ring.send(b"short")
    assert ring.available == 24 + 24 + 16
    assert drain(loaded) == 3
    assert seen(loaded) == (2, 15, 1, "eight")
    assert ring.available == 0
    assert ring.size == loaded.maps["orders"].max_entries


def test_samples_are_taken_in_the_order_of_their_reservation(
    loaded: Object, ring: UserRingBuffer
) -> None:
    first, second = ring.reserve(16), ring.reserve(16)
    second.data[:] = (2).to_bytes(16, sys.byteorder)
    second.submit()
    assert drain(loaded) == 0  # the first one holds it up
    first.data[:] = (1).to_bytes(16, sys.byteorder)
    first.submit()
    assert drain(loaded) == 2
    with pytest.raises(ValueError, match="already"):
        first.submit()
    with pytest.raises(ValueError, match="released"):
        first.data[0] = 1


def test_what_is_discarded_is_not_seen(loaded: Object, ring: UserRingBuffer) -> None:
    ring.reserve(16).discard()
    with pytest.raises(RuntimeError):
        with ring.reserve(16) as data:
            data[0] = 1
            raise RuntimeError
    ring.send({"number": 3})
    assert drain(loaded) == 1
    assert seen(loaded)[:2] == (1, 3)
    assert ring.available == 0


def test_a_forgotten_sample_is_discarded(loaded: Object, ring: UserRingBuffer) -> None:
    ring.reserve(16)
    with pytest.warns(ResourceWarning, match="forgotten"):
        ring.send({"number": 3})
    assert drain(loaded) == 1


class Alarm(BaseException):
    pass


def test_a_signal_handler_that_raises_leaves_nothing_unfinished(
    loaded: Object, ring: UserRingBuffer
) -> None:
    """As if a signal came at each place in turn where CPython runs handlers: in any call."""
    left = 0  # places until the alarm

    def interrupt(frame: Any, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and "runtime" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                raise Alarm

    for place in range(1, 1000):
        left, caught = place, None
        sys.setprofile(interrupt)
        try:
            ring.send({"number": 1})
        except Alarm as error:
            caught = error  # with its traceback and all that is in there
        finally:
            sys.setprofile(None)
        before = loaded.variables["total"].value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            ring.send({"number": 2})
        drain(loaded)
        assert ring.available == 0, place
        assert loaded.variables["total"].value - before in (2, 3)
        if caught is None:
            break
    assert 20 < place < 200


def test_a_signal_handler_may_close(loaded: Object) -> None:
    def close(*arguments: object) -> None:
        ring.close()

    before = signal.signal(signal.SIGALRM, close)
    try:
        for _ in range(20):
            ring = UserRingBuffer(loaded.maps["orders"])
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            with pytest.raises(ValueError, match="closed"):
                while True:
                    assert ring.available == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_does_not_send_into_a_reservation(ring: UserRingBuffer) -> None:
    def handler(frame: Any, event: str, argument: object) -> None:
        if frame.f_code.co_name == "_used" and event == "return":
            sys.setprofile(None)
            ring.send({"number": 1})

    sys.setprofile(handler)
    try:
        with pytest.raises(RuntimeError, match="interrupted"):
            ring.send({"number": 2})
    finally:
        sys.setprofile(None)
    ring.send({"number": 3})
    assert ring.available == 24


def test_a_ring_is_filled_again_and_again(loaded: Object, ring: UserRingBuffer) -> None:
    expected = sent = 0
    for _ in range(5):
        with pytest.raises(RingFullError, match="map orders: no room for 16 bytes"):
            while True:
                ring.send({"number": sent})
                expected += sent
                sent += 1
        assert ring.available == ring.size // 24 * 24
        assert drain(loaded) == ring.size // 24
    assert seen(loaded)[:2] == (sent, expected)


@pytest.mark.parametrize("size", [0, 1, 8, 9, 16 * 1024 - 8])
def test_records_of_any_size(loaded: Object, ring: UserRingBuffer, size: int) -> None:
    for _ in range(3):
        with ring.reserve(size) as data:
            assert len(data) == size
            data[:] = bytes(size)
        assert drain(loaded) == 1


@pytest.mark.parametrize("size", [-1, 16 * 1024 - 7, 1 << 30])
def test_sizes_that_never_fit(ring: UserRingBuffer, size: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ring.reserve(size)


def test_waiting_for_room(loaded: Object, ring: UserRingBuffer) -> None:
    ring.reserve(ring.size - 8 - 16).submit()  # room for 8 bytes is left
    start, before = time.monotonic(), time.process_time()
    with pytest.raises(RingFullError):
        ring.reserve(16, timeout=0.1)
    assert 0.09 < time.monotonic() - start < 5
    assert time.process_time() - before < 0.05
    timer = threading.Timer(0.05, drain, (loaded,))
    timer.start()
    ring.send({"number": 1}, timeout=10)
    assert time.monotonic() - start < 5
    timer.join()
    assert drain(loaded) == 1


def test_threads_send_and_wait(loaded: Object, ring: UserRingBuffer) -> None:
    each = 3000
    threads = [
        threading.Thread(
            target=lambda base: [ring.send({"number": base + n}, timeout=20) for n in range(each)],
            args=(each * number,),
        )
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += drain(loaded)
        time.sleep(0.001)
    taken += drain(loaded)
    assert taken == 3 * each
    assert seen(loaded)[:3] == (3 * each, sum(range(3 * each)), 0)


def test_closing_ends_waiting(loaded: Object, ring: UserRingBuffer) -> None:
    kept = ring.reserve(ring.size - 8)
    timer = threading.Timer(0.05, ring.close)
    timer.start()
    start = time.monotonic()
    with pytest.raises(ValueError, match="closed"):
        ring.reserve(1, timeout=None)
    assert time.monotonic() - start < 5
    timer.join()
    ring.close()
    assert ring.closed
    for call in (lambda: ring.send(b""), lambda: ring.available):
        with pytest.raises(ValueError, match="closed"):
            call()
    kept.submit()  # it is still there
    assert drain(loaded) == 1


def test_a_type_must_be_settled(ring: UserRingBuffer) -> None:
    with pytest.raises(BpfError, match="number"):
        ring.send({"nothing": 1})
    ring.map.event_type = lambda record: None
    with pytest.raises(TypeError, match="candidates are struct order"):
        ring.send({"number": 1})


def test_positions_that_cannot_be(ring: UserRingBuffer) -> None:
    import mmap

    body = door.mmap(ring.map.fileno(), mmap.PAGESIZE, mmap.PAGESIZE, write=True)
    position = Position(body, 0)
    position.store(1 << 40)
    try:
        with pytest.raises(BpfError, match=r"map orders: .* another sender"):
            ring.reserve(1)
    finally:
        position.store(0)
        position.close()
        body.close()


def test_only_user_ring_buffers() -> None:
    with make_map(MapType.RINGBUF, 0, 0, 4096) as other:
        with pytest.raises(TypeError, match="type RINGBUF, not a user ring buffer"):
            UserRingBuffer(other)
