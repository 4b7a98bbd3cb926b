"""System calls on one element of a map, as bytes, and what their errors mean.

The kernel is told addresses, not sizes: a buffer that is too small is memory corruption. So buffers
are made here only, from the sizes that the map has, and a key of another length never gets as far.

A lookup is fast because key, value and ``bpf_attr`` are made once and used again. Each use takes a
set of them from a pool and gives it back, both in one step of ``list``, so threads, signal handlers
and whoever else reads the same map meanwhile have sets of their own.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, TypeVar

from pybpfload.kernel import door
from pybpfload.kernel.attrs import address
from pybpfload.kernel.errors import kernel_error
from pybpfload.runtime.mapkinds import INDEXED, STORAGE
from pybpfload.uapi import Cmd, ElemFlag, MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pybpfload.errors import KernelError
    from pybpfload.kernel.fd import FileDescriptor

__all__ = ["Calls"]

R = TypeVar("R")

_ELEM = struct.Struct("=i4xQQQ")  # map_fd, key, value, flags: as kernel.attrs says
_ADDRESS = _FLAGS = struct.Struct("=Q")
_SIZE = 32
_LOOKUP = int(Cmd.MAP_LOOKUP_ELEM)
_UPDATE = int(Cmd.MAP_UPDATE_ELEM)
_DELETE = int(Cmd.MAP_DELETE_ELEM)
_TAKE = int(Cmd.MAP_LOOKUP_AND_DELETE_ELEM)
_NEXT = int(Cmd.MAP_GET_NEXT_KEY)

_COOKIES = "sockets can be looked up in maps with values of 8 bytes only, as cookies"
_UNLIKE = "inner maps are like the one that this map was made with"
_NO_DEVICE = "there is no network device of that index here, or its program is of another kind"
_NO_SOCKET = "sockets of this kind, or in this state, cannot be in such a map"
# What error numbers mean: by command and number, and by type of map where that matters.
_HINTS: dict[tuple[int, int, MapType | None], str] = {
    (_LOOKUP, errno.ENOSPC, MapType.SOCKMAP): _COOKIES,
    (_LOOKUP, errno.ENOSPC, MapType.SOCKHASH): _COOKIES,
    (_LOOKUP, errno.ENOSPC, MapType.REUSEPORT_SOCKARRAY): _COOKIES,
    (_LOOKUP, errno.EINVAL, None): "lock needs a struct bpf_spin_lock in the value",
    (_UPDATE, errno.EEXIST, None): "the key is there already, and NOEXIST was asked for",
    (_UPDATE, errno.ENOENT, None): "the key is not there, and EXIST was asked for",
    (_UPDATE, errno.EINVAL, None): "the kernel does not take this value, or these flags, for this "
    "type of map",
    (_UPDATE, errno.EINVAL, MapType.PROG_ARRAY): "all programs of an array are of one type, and "
    "the programs that call them too",
    (_UPDATE, errno.EINVAL, MapType.ARRAY_OF_MAPS): _UNLIKE,
    (_UPDATE, errno.EINVAL, MapType.HASH_OF_MAPS): _UNLIKE,
    (_UPDATE, errno.EINVAL, MapType.LPM_TRIE): "a prefix is no longer than the key has bits",
    (_UPDATE, errno.EINVAL, MapType.DEVMAP): _NO_DEVICE,
    (_UPDATE, errno.EINVAL, MapType.DEVMAP_HASH): _NO_DEVICE,
    (_UPDATE, errno.EINVAL, MapType.REUSEPORT_SOCKARRAY): "sockets for this map are bound, with "
    "SO_REUSEPORT",
    (_UPDATE, errno.EOPNOTSUPP, MapType.XSKMAP): "the descriptor is none of an XDP socket",
    (_UPDATE, errno.EOPNOTSUPP, MapType.SOCKMAP): _NO_SOCKET,
    (_UPDATE, errno.EOPNOTSUPP, MapType.SOCKHASH): _NO_SOCKET,
    (_UPDATE, errno.EBADF, None): "the value is not a descriptor of the kind that this map holds",
}


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


class Calls:
    """Calls on the elements of one map.

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

    def _held_call(self, call: Callable[..., R], *arguments: Any, **options: Any) -> R:
        """Make a call whose first argument is the descriptor's number."""
        held = self._hold()
        try:
            return call(held.number, *arguments, **options)
        finally:
            del held  # whoever keeps an error shall not keep the descriptor open

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
        self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any], missing: Any
    ) -> Callable[[Any], Any]:
        """:meth:`lookup` between codecs as one function: what a lookup costs besides the call.

        Args:
            encode: Makes the bytes of a key.
            decode: Makes a value of its bytes.
            missing: What to give for a key that is not there.

        Returns:
            Gives the value of a key; raises as ``lookup`` does.
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
                return missing
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
        if number == errno.E2BIG and command in (_UPDATE, Cmd.MAP_UPDATE_BATCH):
            if self._type in INDEXED:
                return f"the index is beyond the end: it has {self._max_entries} elements"
            return f"the map is full: it has room for {self._max_entries} elements"
        if number == errno.ENOSPC and command == _UPDATE:
            return f"the map is full: it has room for {self._max_entries} elements"
        if number == errno.EAGAIN:
            return "elements come and go faster than they can be read; try again"
        if number == errno.EBADF and self._type in STORAGE:
            return "the key is not a descriptor of the kind of thing that this map stores for"
        if command in (_LOOKUP, _UPDATE):
            return _HINTS.get((command, number, self._type)) or _HINTS.get((command, number, None))
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
