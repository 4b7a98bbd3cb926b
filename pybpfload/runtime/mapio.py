"""The elements of one map as bytes.

The kernel is told addresses, not sizes: a buffer that is too small is memory corruption. So buffers
are made here only, from the sizes that the map has, and a key of another length never gets as far.

A lookup is fast because key, value and ``bpf_attr`` are made once and used again. Each use takes a
set of them from a pool and gives it back, both in one step of ``list``, so threads, signal handlers
and whoever else reads the same map meanwhile have sets of their own.
"""

from __future__ import annotations

import errno
import struct

from pybpfload.errors import KernelError
from pybpfload.kernel import bpf, door
from pybpfload.kernel.attrs import address
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.mapkinds import INDEXED, STORAGE
from pybpfload.uapi import Cmd, ElemFlag, MapFlag, MapType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from pybpfload.kernel.fd import FileDescriptor

__all__ = ["UNSUPPORTED", "Elements"]

_ELEM = struct.Struct("=i4xQQQ")  # map_fd, key, value, flags: as kernel.attrs says
_ADDRESS = _FLAGS = struct.Struct("=Q")
_SIZE = 32
_LOOKUP = int(Cmd.MAP_LOOKUP_ELEM)
_UPDATE = int(Cmd.MAP_UPDATE_ELEM)
_DELETE = int(Cmd.MAP_DELETE_ELEM)
_TAKE = int(Cmd.MAP_LOOKUP_AND_DELETE_ELEM)
_NEXT = int(Cmd.MAP_GET_NEXT_KEY)

ENOTSUPP = 524
UNSUPPORTED = frozenset({ENOTSUPP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
_PORTION = 1 << 20  # bytes of keys and values in one batch
_PATIENCE = 16  # times that a batch is repeated whose elements vanish under it


class _Held:
    """The descriptor's number. It stays the map's as long as any call that uses it refers to this.

    Otherwise closing the map in one thread could give the number to another file while a second
    thread is on its way into the kernel with it, whose buffers are too small for that file.
    """

    __slots__ = ("number", "owner")

    def __init__(self, number: int) -> None:
        self.number = number
        self.owner: object = None  # closes the descriptor together with this


class _Slot:
    """Key, value and attribute of one call.

    ``lookup`` and ``update`` make these calls, without flags.
    """

    __slots__ = ("attr", "hold", "key", "lookup", "no_value", "other", "update", "value")

    def __init__(self, held: _Held, key_size: int, value_size: int) -> None:
        # Exports are kept, so that nobody can resize the memory.
        self.hold: list[object] = [held]
        key = bytearray(key_size)
        value = bytearray(max(value_size, key_size))  # the next key goes where values go
        at = address(key, self.hold), address(value, self.hold)
        self.key = memoryview(key)
        self.value = memoryview(value)[:value_size]
        self.other = memoryview(value)[:key_size]
        self.attr = bytearray(_ELEM.pack(held.number, *at, 0))
        # Deleting refuses an address of a value.
        self.no_value = bytearray(_ELEM.pack(held.number, at[0], 0, 0))
        self.lookup = door.prepared(_LOOKUP, self.attr, _SIZE)
        self.update = door.prepared(_UPDATE, self.attr, _SIZE)


class Elements:
    """Elements of one map.

    Args:
        fd: The map's descriptor.
        name: The map's name, for errors.
        map_type: Its type.
        key_size: Bytes of a key, 0 without keys.
        value_size: Bytes that the kernel writes for a value: of all CPUs for the per-CPU types.
        max_entries: As many elements fit.
        flags: :class:`~pybpfload.uapi.MapFlag` of the map.
    """

    def __init__(
        self,
        fd: FileDescriptor,
        *,
        name: str,
        map_type: int,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int,
    ) -> None:
        self._fd = fd
        self._name = name
        self._type = MapType(map_type)
        self._key_size = key_size
        self._value_size = value_size
        self._max_entries = max_entries
        self._flags = flags
        self._pool: list[_Slot] = []
        self._held: _Held | None = _Held(fd.fileno())
        self._batches: bool | None = None  # whether the kernel has batches for it

    def close(self) -> None:
        """Close the descriptor, at once or when the calls that other threads are making end."""
        held, self._held = self._held, None
        self._pool = []
        if held is not None and not self._fd.closed:
            held.owner = self._fd.linger()

    def _hold(self) -> _Held:
        """What a call has to refer to until it returns.

        Raises:
            ValueError: The map is closed.
        """
        if self._held is None:
            raise ValueError(f"map {self._name} is closed")
        return self._held

    def _slot(self) -> _Slot:
        return _Slot(self._hold(), self._key_size, self._value_size)

    def _take(self) -> tuple[list[_Slot], _Slot]:
        """A slot, and the pool to put it back into: that of a closed map is thrown away."""
        pool = self._pool
        try:
            return pool, pool.pop()
        except IndexError:
            return pool, self._slot()

    def _call(self, command: int, slot: _Slot, key: bytes | None, flags: int) -> int:
        if key is not None:
            slot.key[:] = key  # ValueError if the length is another
        if not flags:
            return door.bpf(command, slot.attr, _SIZE)
        _FLAGS.pack_into(slot.attr, 24, flags)
        try:
            return door.bpf(command, slot.attr, _SIZE)
        finally:
            _FLAGS.pack_into(slot.attr, 24, 0)

    def lookup(self, key: bytes | None, flags: int = 0, *, take: bool = False) -> bytes | None:
        """The value of a key, or ``None``.

        Args:
            key: The key; ``None`` for maps without keys.
            flags: :class:`~pybpfload.uapi.ElemFlag`.
            take: Whether to delete the element in the same step.

        Raises:
            KernelError: The kernel refused.
        """
        pool = self._pool
        try:
            slot = pool.pop()
        except IndexError:
            slot = self._slot()
        if key is None or flags or take:
            result = self._call(_TAKE if take else _LOOKUP, slot, key, flags)
        else:
            slot.key[:] = key
            result = slot.lookup()
        if result >= 0:
            value = bytes(slot.value)
            pool.append(slot)
            return value
        pool.append(slot)
        if result == -errno.ENOENT:
            return None
        del pool, slot  # whoever keeps the error shall not keep the descriptor open
        raise self.failed(result, _TAKE if take else _LOOKUP)

    def getter(
        self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
    ) -> Callable[[Any], Any]:
        """:meth:`lookup` between codecs as one function: what a lookup costs besides the call.

        Args:
            encode: Makes the bytes of a key.
            decode: Makes a value of its bytes.

        Returns:
            Gives the value of a key, or ``None``; raises as ``lookup`` does.
        """

        def get(key: Any) -> Any:
            raw = encode(key)
            pool = self._pool
            try:
                slot = pool.pop()
            except IndexError:
                slot = self._slot()
            slot.key[:] = raw
            result = slot.lookup()
            if result >= 0:
                value = bytes(slot.value)
                pool.append(slot)
                return decode(value)
            pool.append(slot)
            if result == -errno.ENOENT:
                return None
            del pool, slot
            raise self.failed(result, _LOOKUP)

        return get

    def contains(self, value: bytes) -> bool:
        """Whether a Bloom filter may have seen a value.

        Raises:
            KernelError: The kernel refused.
        """
        slot = self._slot()
        slot.value[:] = value
        result = slot.lookup()
        if result < 0 and result != -errno.ENOENT:
            raise self.failed(result, _LOOKUP)
        return result >= 0

    def update(self, key: bytes | None, value: bytes, flags: int = 0) -> bool:
        """Set the value of a key.

        Returns:
            ``False`` if ``flags`` has EXIST and there is no such key, or NOEXIST and there is one.

        Raises:
            KernelError: The kernel refused for another reason.
        """
        pool = self._pool
        try:
            slot = pool.pop()
        except IndexError:
            slot = self._slot()
        slot.value[:] = value
        if key is None or flags:
            result = self._call(_UPDATE, slot, key, flags)
        else:
            slot.key[:] = key
            result = slot.update()
        pool.append(slot)
        if result >= 0:
            return True
        if (result == -errno.ENOENT and flags & ElemFlag.EXIST) or (
            result == -errno.EEXIST and flags & ElemFlag.NOEXIST
        ):
            return False
        del pool, slot  # whoever keeps the error shall not keep the descriptor open
        raise self.failed(result, _UPDATE)

    def delete(self, key: bytes | None) -> bool:
        """Delete a key; whether it was there.

        Raises:
            KernelError: The kernel refused.
        """
        pool, slot = self._take()
        if key is not None:
            slot.key[:] = key
        result = door.bpf(_DELETE, slot.no_value, _SIZE)
        pool.append(slot)
        if result >= 0:
            return True
        if result in (-errno.ENOENT, -errno.ESRCH):
            return False
        del pool, slot  # whoever keeps the error shall not keep the descriptor open
        raise self.failed(result, _DELETE)

    def next_key(self, key: bytes | None) -> bytes | None:
        """The key behind ``key``; of ``None`` the first (Linux 4.12); ``None`` at the end.

        Raises:
            KernelError: The kernel refused.
        """
        pool: list[_Slot] = []
        if key is None:
            slot = self._slot()
            _ADDRESS.pack_into(slot.attr, 8, 0)
        else:
            pool, slot = self._take()
        result = self._call(_NEXT, slot, key, 0)
        following = bytes(slot.other)
        pool.append(slot)
        if result >= 0:
            return following
        if result == -errno.ENOENT:
            return None
        del pool, slot  # whoever keeps the error shall not keep the descriptor open
        raise self.failed(result, _NEXT)

    # Many elements

    def portions(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """All elements, in portions: keys one behind the other, values likewise, their number.

        By batches where the kernel has them (5.6 for hashes and arrays, later for others), else
        key by key. An element that is there all the time comes exactly once; one that comes or goes
        meanwhile comes once or not at all.

        Raises:
            KernelError: The kernel refused.
        """
        token: bytes | None = None
        if self._batches is not False:
            limit = 2 * self._max_entries + 1024
            count = min(limit, max(1, _PORTION // (self._key_size + self._value_size)))
            patience = _PATIENCE
            while True:
                try:
                    got = bpf.map_lookup_batch(
                        self._fd.fileno(), token, count, self._key_size, self._value_size
                    )
                except KernelError as error:
                    if error.errno == errno.ENOSPC and count < limit:
                        count = min(2 * count, limit)  # a bucket of a hash did not fit
                        continue
                    if error.errno in (errno.EINTR, errno.EAGAIN):
                        patience -= 1
                        if patience:
                            continue
                        break
                    if token is None and error.errno in UNSUPPORTED:
                        self._batches = False
                        break
                    raise self.failed(error.errno or 0, Cmd.MAP_LOOKUP_BATCH) from None
                self._batches = True
                if got.count:
                    yield got.keys, got.values, got.count
                if got.done:
                    return
                token = got.token
        # Where elements can vanish under a batch, its token is the last key.
        start = None if token is None else token[: self._key_size]
        for key in self.walk(start):
            value = self.lookup(key)
            if value is not None:
                yield memoryview(key), memoryview(value), 1

    def walk(self, start: bytes | None = None) -> Iterator[bytes]:
        """All keys behind ``start``, one system call each.

        The next key is asked for before one is given out, so whoever gets it may delete it. If the
        next one is deleted meanwhile by others, the kernel starts again: what was given out already
        is left out then.

        Raises:
            KernelError: The kernel refused.
        """
        seen: set[bytes] = set()
        # A map whose elements are deleted faster than they are read could be walked for ever.
        steps = 16 * self._max_entries + 4096
        key = self.next_key(start)
        while key is not None and steps:
            steps -= 1
            following = self.next_key(key)
            if key not in seen:
                seen.add(key)
                yield key
            key = following

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
                bpf.map_update_batch(
                    self._fd.fileno(),
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
                raise self.failed(number, _UPDATE, f"after {index} elements")

    def delete_all(self, portion: memoryview, count: int) -> None:
        """Delete ``count`` keys that lie one behind the other; missing ones do not matter.

        Raises:
            KernelError: The kernel refused.
        """
        size = self._key_size
        first = 0
        while self._batches is not False and first < count:
            try:
                bpf.map_delete_batch(self._fd.fileno(), portion[first * size :], count - first)
            except bpf.BatchError as error:
                first += error.count
                if error.errno != errno.ENOENT:
                    break
                first += 1
                continue
            return
        for index in range(first, count):
            self.delete(bytes(portion[index * size : (index + 1) * size]))

    # Errors

    def failed(self, result: int, command: int, where: str = "") -> KernelError:
        """The error for a refused command.

        Args:
            result: Error number, positive or negative.
            command: :class:`~pybpfload.uapi.Cmd`.
            where: What to add to the map's name.
        """
        number = abs(result)
        target = f"map {self._name} {where}".rstrip()
        hint = self._hint(number, command)
        return kernel_error(number, f"BPF_{Cmd(command).name}", target, hint=hint)

    def _hint(self, number: int, command: int) -> str | None:
        if number in (errno.EPERM, errno.EACCES):
            return self._why_refused(command)
        if number == errno.E2BIG and command == _UPDATE:
            if self._type in INDEXED:
                return f"the index is beyond the end: it has {self._max_entries} elements"
            return f"the map is full: it has room for {self._max_entries} elements"
        if number == errno.ENOSPC and command == _LOOKUP:
            return "sockets can be looked up in maps with values of 8 bytes only, as cookies"
        if number == errno.EEXIST:
            return "the key is there already, and NOEXIST was asked for"
        if number == errno.ENOENT and command == _UPDATE:
            return "the key is not there, and EXIST was asked for"
        if number == errno.EINVAL and command == _UPDATE:
            return "the kernel does not take this value, or these flags, for this type of map"
        if number == errno.EINVAL and command == _LOOKUP:
            return "lock needs a struct bpf_spin_lock in the value"
        if number == errno.EBADF and self._type in STORAGE:
            return "the key is not a descriptor of the kind of thing that this map stores for"
        return None

    def _why_refused(self, command: int) -> str | None:
        """Reason of EPERM, if it is one of the map's own."""
        if self._flags & MapFlag.WRONLY and command in (_LOOKUP, _NEXT):
            return "the map was made for writing only by system calls (BPF_F_WRONLY)"
        if command in (_LOOKUP, _NEXT):
            return "this descriptor is for writing only"
        if self._flags & MapFlag.RDONLY:
            return "the map was made for reading only by system calls (BPF_F_RDONLY)"
        try:
            text = door.read_file(f"/proc/self/fdinfo/{self._fd.fileno()}")
        except OSError:
            return None
        if b"frozen:\t1" in text:
            return "the map is frozen: nobody but its programs may change it"
        return "this descriptor is for reading only"
