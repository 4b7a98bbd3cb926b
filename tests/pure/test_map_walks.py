"""Reading whole maps while elements come and go: what stays comes exactly once, whatever the rest.

The kernels here read maps as the kernel does: hashes bucket by bucket, tries from key to key, and
from the beginning again if the key is gone.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime import mapio
from pybpfload.runtime.map import Map
from pybpfload.testing.fakekernel import FakeKernel, memory, store
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUCKETS = 4
# Up to 12 keys are there all the time; others come and go by a script, one step a system call.
STABLE = st.integers(0, 12).map(lambda n: {2 * i: i for i in range(n)})
SCRIPT = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40)


class Changing:
    """A fake kernel's map whose elements come and go with each call that reads keys."""

    def __init__(self, kernel: FakeKernel, script: list[tuple[bool, int]]) -> None:
        self.kernel = kernel
        self.script = iter(script)
        kernel.on("MAP_GET_NEXT_KEY", self.before)

    @property
    def target(self) -> Any:
        (found,) = self.kernel.of_kind("map")
        return found

    def before(self, _call: Any) -> None:
        add, number = next(self.script, (False, -1))
        key = struct.pack("=I", 2 * number + 1 & 0xFFFFFFFF)
        if add:
            self.target.update(key, bytes(4), 0)
        else:
            self.target.delete(key)

    def hash_batch(self, call: Any) -> int:
        """Whole buckets, from the one whose number is the token."""
        self.before(call)
        elements = self.target.elements
        fields = call.fields
        start = struct.unpack("=I", memory(fields["in_batch"], 4))[0] if fields["in_batch"] else 0
        call.answer("count", 0)
        done = 0
        for bucket in range(start, BUCKETS):
            keys = [key for key in elements if key[0] % BUCKETS == bucket]
            if done + len(keys) > fields["count"]:
                if not done:
                    return -errno.ENOSPC
                call.answer("count", done)
                store(fields["out_batch"], struct.pack("=I", bucket))
                return 0
            for key in keys:
                store(fields["keys"] + 4 * done, key)
                store(fields["values"] + 4 * done, elements[key])
                done += 1
        call.answer("count", done)
        return -errno.ENOENT

    def trie_batch(self, call: Any) -> int:
        """From key to key, the token being the last one."""
        fields = call.fields
        key = memory(fields["in_batch"], 4) if fields["in_batch"] else None
        done, result = 0, 0
        while done < fields["count"]:
            self.before(call)
            key = self.target.next_key(key)
            if key is None:
                result = -errno.ENOENT
                break
            store(fields["keys"] + 4 * done, key)
            store(fields["values"] + 4 * done, self.target.elements[key])
            done += 1
        call.answer("count", done)
        if key is not None:
            store(fields["out_batch"], key)
        return result


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapio, "_PORTION", 8 * 3)


def make(kind: MapType, entries: int = 100) -> Map[Any, Any]:
    fd = FileDescriptor(bpf.map_create(kind, 4, 4, entries), "map m")
    return Map(fd, name="m", type=kind, key_size=4, value_size=4, max_entries=entries)


def check(
    kind: MapType,
    stable: dict[int, int],
    script: list[tuple[bool, int]],
    batches: Callable[[Changing], Callable[[Any], int]] | None,
) -> None:
    for whole in (False, True):  # all at once, and interrupted by the reader's own changes
        kernel = FakeKernel() if batches else FakeKernel(lacks={"BATCH"})
        with kernel, make(kind) as m:
            m.update(stable)
            changing = Changing(kernel, script)
            if batches:
                kernel.on("MAP_LOOKUP_BATCH", batches(changing))
            seen = []
            for key, value in m.items():
                seen.append((key, value))
                if not whole and key % 2:
                    m.pop(key, None)
            keys = [key for key, _ in seen]
            assert len(keys) == len(set(keys))
            assert {key: value for key, value in seen if not key % 2} == stable
        assert not kernel.leaked()


@settings(max_examples=25)
@given(STABLE, SCRIPT)
def test_key_by_key(stable: dict[int, int], script: list[tuple[bool, int]]) -> None:
    check(MapType.HASH, stable, script, None)


@settings(max_examples=25)
@given(STABLE, SCRIPT)
def test_batches_of_hashes(stable: dict[int, int], script: list[tuple[bool, int]]) -> None:
    check(MapType.HASH, stable, script, lambda changing: changing.hash_batch)


@settings(max_examples=25)
@given(STABLE, SCRIPT)
def test_batches_of_tries(stable: dict[int, int], script: list[tuple[bool, int]]) -> None:
    check(MapType.LPM_TRIE, stable, script, lambda changing: changing.trie_batch)


@pytest.fixture
def kernel() -> Iterator[FakeKernel]:
    with FakeKernel(lacks={"BATCH"}) as fake:
        yield fake
    assert not fake.leaked()


def test_a_walk_goes_on_where_it_was(kernel: FakeKernel) -> None:
    """Every second key vanishes in the hand of the reader, who has not to begin again each time."""
    count = 200
    with make(MapType.HASH, count) as m:
        m.update({n: n for n in range(count)})
        (target,) = kernel.of_kind("map")
        asked = 0

        def vanish(call: Any) -> None:
            nonlocal asked
            asked += 1
            key = memory(call.fields["key"], 4) if call.fields["key"] else b""
            if key and struct.unpack("=I", key)[0] % 2:
                target.elements.pop(key, None)

        kernel.on("MAP_GET_NEXT_KEY", vanish)
        keys = list(m)
        assert set(range(0, count, 2)) <= set(keys)
        assert len(keys) == len(set(keys))
        assert asked < 5 * count


def test_a_walk_does_not_go_on_for_ever(kernel: FakeKernel) -> None:
    with make(MapType.HASH, 10) as m:
        m.update({n: n for n in range(10)})
        numbers = iter(range(1 << 30))

        def another(call: Any) -> int:
            store(call.fields["next_key"], struct.pack("=I", next(numbers) % 3))
            return 0

        kernel.on("MAP_GET_NEXT_KEY", another)
        with pytest.raises(KernelError, match="faster than they can be read") as caught:
            list(m)
        assert caught.value.errno == errno.EAGAIN


def test_errors_in_the_middle_are_told(kernel: FakeKernel) -> None:
    kernel.lacks = frozenset()
    with make(MapType.HASH, 10) as m:
        m.update({n: n for n in range(10)})
        answers = iter([None, -errno.EFAULT])
        kernel.on("MAP_LOOKUP_BATCH", lambda _call: next(answers))
        got = []
        with pytest.raises(KernelError) as caught:
            got.extend(m)
        assert caught.value.errno == errno.EFAULT
