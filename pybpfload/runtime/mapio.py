"""All elements of a map at once, as bytes: in batches where the kernel has them, or key by key."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Any

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf
from pybpfload.runtime.mapcalls import Calls
from pybpfload.runtime.mapkinds import INDEXED
from pybpfload.uapi import Cmd, ElemFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from pybpfload.kernel.bpf import BatchResult
    from pybpfload.kernel.fd import FileDescriptor

__all__ = ["UNSUPPORTED", "Elements"]

UNSUPPORTED = frozenset({524, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""Error numbers for commands that a type of map does not have; 524 is ENOTSUPP."""

_PORTION = 1 << 20  # bytes of keys and values in one batch
_PATIENCE = 16  # times that a batch is repeated whose elements vanish under it
_TRAIL = 16  # keys that a walk remembers to go on behind
_END = b""  # no key is empty

# Hashes give batches from bucket to bucket. Tries go from key to key, and start again if one
# vanishes under a batch; hashes that grow may move what was given already.
_RESTARTING = frozenset({MapType.LPM_TRIE, MapType.RHASH})
# Where the token of a batch is a key, or all keys that were given are known.
_BY_KEY = INDEXED | _RESTARTING


class Elements(Calls):
    """Elements of one map; the arguments are those of :class:`Calls`."""

    def __init__(self, fd: FileDescriptor, **described: Any) -> None:
        super().__init__(fd, **described)
        self._batches: bool | None = None  # whether the kernel has batches for it

    def portions(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """All elements, in portions: keys one behind the other, values likewise, their number.

        By batches where the kernel has them (5.6 for hashes and arrays, later for others), else
        key by key. An element that is there all the time comes exactly once; one that comes or goes
        meanwhile comes once or not at all. Key by key, one that is overwritten meanwhile may be
        left out, because hashes put the new value at the head of its bucket.

        Raises:
            KernelError: The kernel refused; EAGAIN: elements go faster than they can be read.
        """
        seen: set[bytes] = set()
        if self._batches is not False:
            rest = yield from self._batched(seen)
        else:
            rest = None
        if rest is _END:
            return
        for key in self.walk(rest, seen):
            value = self.lookup(key)
            if value is not None:
                yield memoryview(key), memoryview(value), 1

    def _batched(
        self, seen: set[bytes]
    ) -> Generator[tuple[memoryview, memoryview, int], None, bytes | None]:
        """Batches until the end, or until the kernel has no more: then the key to walk on from.

        Args:
            seen: Where keys are kept if the kernel may give one again.
        """
        token: bytes | None = None
        limit = 2 * self._max_entries + 1024
        count = min(limit, max(1, _PORTION // (self._key_size + self._value_size)))
        patience = _PATIENCE
        while patience:
            try:
                got = self._lookup_batch(token, count)
            except KernelError as error:
                if error.errno == errno.ENOSPC and count < limit:
                    count = min(2 * count, limit)  # a bucket of a hash did not fit
                elif error.errno in (errno.EINTR, errno.EAGAIN):
                    patience -= 1
                elif token is None and error.errno in UNSUPPORTED:
                    self._batches = False
                    return None
                else:
                    raise self.failed(error.errno or 0, Cmd.MAP_LOOKUP_BATCH) from None
                continue
            self._batches = True
            portion = got.keys, got.values, got.count
            if self._type in _RESTARTING:
                portion = self._unseen(*portion, seen)
                patience = patience - 1 if not portion[2] else _PATIENCE
            if portion[2]:
                yield portion
            if got.done:
                return _END
            token = got.token
        if token is None:
            return None
        if self._type not in _BY_KEY:
            raise self.failed(errno.EAGAIN, Cmd.MAP_LOOKUP_BATCH)
        return token[: self._key_size]

    def _lookup_batch(self, token: bytes | None, count: int) -> BatchResult:
        return self._held_call(bpf.map_lookup_batch, token, count, self._key_size, self._value_size)

    def _unseen(
        self, keys: memoryview, values: memoryview, count: int, seen: set[bytes]
    ) -> tuple[memoryview, memoryview, int]:
        """Of a portion, the elements whose keys were not seen before; now they were."""
        key_size, value_size = self._key_size, self._value_size
        fresh = []
        for index in range(count):
            key = bytes(keys[index * key_size : (index + 1) * key_size])
            if key not in seen:
                seen.add(key)
                fresh.append(index)
        if len(fresh) == count:
            return keys, values, count
        parts = [(keys, key_size), (values, value_size)]
        kept = [b"".join([part[i * size : (i + 1) * size] for i in fresh]) for part, size in parts]
        return memoryview(kept[0]), memoryview(kept[1]), len(fresh)

    def walk(self, start: bytes | None = None, seen: set[bytes] | None = None) -> Iterator[bytes]:
        """All keys behind ``start``, one system call each.

        The next key is asked for before one is given out, so whoever gets it may delete it. If the
        next one is deleted meanwhile by others, the kernel starts again: then the walk goes on
        behind a key it came by before, and what was given out already is left out.

        Args:
            start: The key to begin behind; ``None`` for the beginning.
            seen: Keys that were given out before.

        Raises:
            KernelError: The kernel refused; EAGAIN: keys are deleted faster than they can be read.
        """
        seen = set() if seen is None else seen
        trail: deque[bytes] = deque(maxlen=_TRAIL)
        steps = 16 * self._max_entries + 4096  # else a walk could go on for ever
        key = self.next_key(start)
        while key is not None:
            steps -= 1
            if not steps:
                raise self.failed(errno.EAGAIN, Cmd.MAP_GET_NEXT_KEY)
            following = self.next_key(key)
            if following in seen:  # it starts again: the key is gone
                following = self._behind(trail, seen, following)
            if key not in seen:
                seen.add(key)
                trail.append(key)
                yield key
            key = following

    def _behind(self, trail: Iterable[bytes], seen: set[bytes], first: bytes) -> bytes | None:
        """A key that was not seen, behind one of those that were; ``first`` if there is none."""
        for before in reversed(list(trail)):
            following = self.next_key(before)
            if following not in seen:
                return following
        return first

    def update_many(self, keys: Sequence[bytes], values: Sequence[bytes], flags: int) -> None:
        """Set many elements, by batches where the kernel has them (5.6).

        Raises:
            KernelError: The kernel refused one; those before it are set.
        """
        portion = max(1, _PORTION // (self._key_size + self._value_size))
        first = 0
        while self._batches is not False and first < len(keys):
            last = min(first + portion, len(keys))
            try:
                self._held_call(
                    bpf.map_update_batch,
                    b"".join(keys[first:last]),
                    b"".join(values[first:last]),
                    last - first,
                    elem_flags=flags,
                )
            except bpf.BatchError as error:
                first += error.count
                break  # one by one: says which, or finds that only batches are refused
            first = last
        for index in range(first, len(keys)):
            try:
                done = self.update(keys[index], values[index], flags)
            except KernelError as error:
                error.target = f"{error.target} after {index} elements"
                raise
            if not done:
                number = errno.ENOENT if flags & ElemFlag.EXIST else errno.EEXIST
                raise self.failed(number, Cmd.MAP_UPDATE_ELEM, f"after {index} elements")

    def delete_all(self, portion: memoryview, count: int) -> None:
        """Delete ``count`` keys that lie one behind the other; missing ones do not matter.

        Raises:
            KernelError: The kernel refused.
        """
        size = self._key_size
        first = 0
        while self._batches is not False and first < count:
            try:
                self._held_call(bpf.map_delete_batch, portion[first * size :], count - first)
            except bpf.BatchError as error:
                first += error.count
                if error.errno != errno.ENOENT:
                    break
                first += 1
                continue
            return
        for index in range(first, count):
            self.delete(bytes(portion[index * size : (index + 1) * size]))
