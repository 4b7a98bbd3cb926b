"""Maps that others change meanwhile, and reading that is interrupted."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from producers import make_map

from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

STABLE = 1000  # keys below it stay
CHURN = """
import struct, sys
from pybpfload import Map
fd, key_size, stable = map(int, sys.argv[1:])
def key(n):
    return struct.pack("=I", n) if key_size == 4 else struct.pack("=I4s", 32, n.to_bytes(4, "big"))
with Map.from_fd(fd) as m:
    print("ready", flush=True)
    while True:
        for n in range(stable, stable + 300):
            m.put_bytes(key(n), bytes(8))
        for n in range(stable, stable + 300):
            m._elements.delete(key(n))
"""


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


@contextmanager
def churning(m: Any) -> Iterator[None]:
    """Another process puts elements into a map and deletes them, all the time."""
    arguments = [sys.executable, "-c", CHURN, str(m.fileno()), str(m.key_size), str(STABLE)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, pass_fds=[m.fileno()]) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            yield
            assert writer.poll() is None
        finally:
            writer.kill()


def trie_key(number: int) -> bytes:
    return struct.pack("=I4s", 32, number.to_bytes(4, "big"))


@pytest.mark.vm
@pytest.mark.parametrize("batches", [True, False])
@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LPM_TRIE])
def test_what_stays_comes_exactly_once(kind: MapType, batches: bool) -> None:
    size, flags = (4, 0) if kind == MapType.HASH else (8, MapFlag.NO_PREALLOC)
    with make_map(kind, size, 8, 2000, flags=flags) as m:
        keys = [trie_key(n) if size == 8 else struct.pack("=I", n) for n in range(STABLE)]
        m.update((key, n) for n, key in enumerate(keys))
        stable = {m._keys.decode(key): n for n, key in enumerate(keys)}
        if not batches:
            m._elements._batches = False
        with churning(m):
            changed, end = 0, time.monotonic() + 1
            while time.monotonic() < end or not changed:
                found = list(m.items())
                assert len(found) == len(dict(found))
                assert {key: value for key, value in found if key in stable} == stable
                changed += len(found) > STABLE
                assert time.monotonic() < end + 20, "nobody changed it"
            m.clear()
            assert not any(key in m for key in list(stable)[:10])


def test_a_map_is_cleared_while_it_is_filled() -> None:
    with make_map(MapType.HASH, 4, 8, 2000) as m:
        m.update({n: n for n in range(STABLE)})
        with churning(m):
            for _ in range(20):
                m.clear()
            assert all(key >= STABLE for key in m)


class Interrupted(KeyboardInterrupt):
    """What Ctrl-C raises, as nobody else does."""


def test_interrupted_at_any_moment() -> None:
    """Ctrl-C in the middle of reading and writing leaves a map that works, and nothing open."""

    def interrupt(*_arguments: Any) -> None:
        raise Interrupted

    wanted = {n: n * n for n in range(2000)}
    actions = [
        lambda m: m.to_dict(),
        lambda m: m.update(wanted),
        lambda m: [m[n] for n in range(200)],
        lambda m: [m.put(n, n * n) for n in range(200)],
        lambda m: list(m._elements.walk()),
    ]
    before = signal.signal(signal.SIGALRM, interrupt)
    chance = random.Random(1)
    count = 0
    try:
        with make_map(MapType.HASH, 4, 8, 2000) as m:
            m.update(wanted)
            for turn in range(200):
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 2e-3))
                    actions[turn % len(actions)](m)
                    time.sleep(0.01)
                except Interrupted:
                    count += 1
                finally:
                    with suppress(Interrupted):
                        signal.setitimer(signal.ITIMER_REAL, 0)
                assert m[turn] == turn * turn
            assert m.to_dict() == wanted
            assert len(m._elements._pool) <= 4
    finally:
        signal.signal(signal.SIGALRM, before)
    assert count > 100


def test_closed_by_another_thread() -> None:
    """Calls under way end as they would, later ones say that the map is closed."""
    for _ in range(20):
        wrong: list[BaseException | int] = []
        with make_map(MapType.HASH, 4, 8, 100) as m:
            m.update({n: n for n in range(100)})

            def look(m: Any = m, wrong: Any = wrong) -> None:
                try:
                    while True:
                        wrong.extend(n for n in range(100) if m[n] != n)
                except ValueError as error:
                    if "is closed" not in str(error):
                        wrong.append(error)
                except BaseException as error:
                    wrong.append(error)

            threads = [threading.Thread(target=look) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.005)
            m.close()
            # Whatever is opened now gets the number of the descriptor.
            with make_map(MapType.HASH, 4, 512, 4) as other:
                other[0] = bytes(512)
                for thread in threads:
                    thread.join()
        assert wrong == []
