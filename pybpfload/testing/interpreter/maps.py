"""Maps by type: queues, ring buffers and maps of maps, and the choice between all of them."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pybpfload.btf.values import codec
from pybpfload.errors import BpfError
from pybpfload.testing.interpreter import keyed
from pybpfload.testing.interpreter.mapmodel import MapModel
from pybpfload.uapi import ElemFlag, MapType

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.object.spec import MapSpec
    from pybpfload.testing.interpreter.environment import Environment
    from pybpfload.testing.interpreter.memory import Memory, Region

__all__ = ["BloomFilter", "EventMap", "MapModel", "MapOfMaps", "ProgArray", "QueueMap", "make_map"]

T = MapType
_RECORD_HEADER: Final = 8  # bytes before each record of a ring buffer


class QueueMap(MapModel):
    """Queues (``kernel/bpf/queue_stack_maps.c``)."""

    last_first: ClassVar[bool] = False

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._values = self.value_codec()
        self._items: deque[bytes] = deque()

    def push_elem(self, value: bytes, flags: int) -> int:
        """Put a value in; with ``BPF_EXIST`` the oldest makes room. 0 or a negative error."""
        if flags not in (0, ElemFlag.EXIST):
            return -errno.EINVAL
        if len(self._items) >= self.spec.max_entries:
            if not flags:
                return -errno.E2BIG
            self.memory.charge(-len(self._items.popleft()), self.name)
        self.memory.charge(len(value), f"map {self.name}")
        self._items.append(value)
        return 0

    def next_elem(self, remove: bool) -> bytes | None:
        """Value that comes out next, ``None`` if there is none."""
        if not self._items:
            return None
        value = self._items[-1 if self.last_first else 0]
        if remove:
            self._items.pop() if self.last_first else self._items.popleft()
            self.memory.charge(-len(value), self.name)
        return value

    def push(self, value: Any) -> None:
        """Put a typed value in.

        Raises:
            BpfError: It is full.
        """
        if self.push_elem(self._values.encode(value), 0):
            raise BpfError(f"map {self.name} is full")

    def pop(self) -> Any:
        """Take a typed value out.

        Raises:
            BpfError: It is empty.
        """
        raw = self.next_elem(remove=True)
        if raw is None:
            raise BpfError(f"map {self.name} is empty")
        return self._values.decode(raw)

    def __len__(self) -> int:
        return len(self._items)


class StackMap(QueueMap):
    """Stacks: what came last comes out first."""

    last_first = True


class BloomFilter(MapModel):
    """Bloom filters, which here are never wrong."""

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._values = self.value_codec()
        self._items: set[bytes] = set()

    def push_elem(self, value: bytes, flags: int) -> int:
        """Put a value in; 0 or a negative error number."""
        if flags:
            return -errno.EINVAL
        if value not in self._items:
            self.memory.charge(len(value), f"map {self.name}")
        self._items.add(value)
        return 0

    def has_elem(self, value: bytes) -> bool:
        """Whether a value was put in."""
        return value in self._items

    def push(self, value: Any) -> None:
        """Put a typed value in."""
        self.push_elem(self._values.encode(value), 0)

    def __contains__(self, value: Any) -> bool:
        return self._values.encode(value) in self._items


class EventMap(MapModel):
    """Ring buffers and perf event arrays: records in the order of ``kernel/bpf/ringbuf.c``.

    Nobody reads while a program runs, so a ring buffer is full when its bytes are.
    """

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._entries: dict[int, Region | bytes] = {}  # by address; what was submitted as bytes
        self._number = 0
        self._held = 0  # bytes of the ring

    @property
    def records(self) -> list[bytes]:
        """Records, oldest first, that were not taken yet."""
        return [entry for entry in self._entries.values() if isinstance(entry, bytes)]

    @property
    def pending(self) -> int:
        """Number of records that were reserved and neither submitted nor discarded."""
        return len(self._entries) - len(self.records)

    def drop_pending(self) -> None:
        """Discard what was reserved and neither submitted nor discarded."""
        for address, entry in list(self._entries.items()):
            if not isinstance(entry, bytes):
                self.commit(address, keep=False)

    def take(self) -> list[bytes]:
        """Return the records and forget them."""
        records = self.records
        self._entries = {a: e for a, e in self._entries.items() if not isinstance(e, bytes)}
        self.memory.charge(-self._held, self.name)
        self._held = 0
        return records

    def events(self, event_type: str | int | None = None) -> list[Any]:
        """Return the records as values of a C type.

        Args:
            event_type: Name or id of a type in the object's BTF; by default found as
                :class:`pybpfload.runtime.events.EventTypes` says.
        """
        if isinstance(event_type, int) and self.btf is not None:
            fixed = codec(self.btf, event_type)
            return [fixed.decode(record) for record in self.records]
        from pybpfload.runtime.events import EventTypes

        types = EventTypes(self.btf, self.name, event_type)  # type: ignore[arg-type]
        return [types.decoder(len(raw))(memoryview(raw), 0, len(raw)) for raw in self.records]

    def output(self, data: bytes) -> int:
        """Add a record; 0 or a negative error number."""
        if not self._make_room(len(data)):
            return -errno.EAGAIN
        self._number -= 1  # no address
        self._entries[self._number] = data
        return 0

    def reserve(self, size: int) -> int:
        """Address of a record to be filled, 0 if there is no room."""
        if not self._make_room(size):
            return 0
        region = self.memory.allocate(size, f"record of map {self.name}", owner=self)
        self._entries[region.base] = region
        return region.base

    def commit(self, address: int, keep: bool) -> bool:
        """Submit or discard a record; whether one was reserved at that address."""
        region = self._entries.get(address)
        if region is None or isinstance(region, bytes):
            return False
        if keep:
            self._entries[address] = bytes(region.data)
        else:
            del self._entries[address]
        self.memory.release(region)
        return True

    def _make_room(self, size: int) -> bool:
        held = self._held + _ring_size(size)
        if self.spec.type == T.RINGBUF and held >= self.spec.max_entries:
            return False
        self.memory.charge(held - self._held, f"map {self.name}")
        self._held = held
        return True


def _ring_size(size: int) -> int:
    return size + _RECORD_HEADER + 7 & -8


class ProgArray(MapModel, MutableMapping[int, Any]):
    """Arrays of programs for tail calls: names of programs, or relocated programs."""

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._items: dict[int, Any] = {}

    def __getitem__(self, key: int) -> Any:
        return self._items[key]

    def __setitem__(self, key: int, value: Any) -> None:
        if not 0 <= key < self.spec.max_entries:
            raise BpfError(f"map {self.name} has slots 0 to {self.spec.max_entries - 1}, not {key}")
        self._items[key] = value

    def __delitem__(self, key: int) -> None:
        del self._items[key]

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


class MapOfMaps(MapModel, MutableMapping[Any, MapModel]):
    """Arrays and hash tables of maps: values are :class:`MapModel`."""

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._keys = self.key_codec()
        self._items: dict[bytes, MapModel] = {}

    def __getitem__(self, key: Any) -> MapModel:
        return self._items[self._keys.encode(key)]

    def __setitem__(self, key: Any, value: MapModel) -> None:
        raw = self._keys.encode(key)
        entries = self.spec.max_entries
        full = raw not in self._items and len(self._items) >= entries
        if full or (self.spec.type == T.ARRAY_OF_MAPS and self.number(raw) >= entries):
            raise BpfError(f"map {self.name} of {entries} entries has no room for {key!r}")
        self._items[raw] = value

    def __delitem__(self, key: Any) -> None:
        del self._items[self._keys.encode(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter([self._keys.decode(key) for key in self._items])

    def __len__(self) -> int:
        return len(self._items)

    def add(self, key: Any) -> MapModel:
        """Put a new map there, as the definition says inner maps are, and return it.

        Raises:
            BpfError: The definition does not say.
        """
        if self.spec.inner is None:
            raise BpfError(f"map {self.name}: nothing says what its maps are like")
        made = make_map(self.spec.inner, self.memory, self.environment, self.btf)
        self[key] = made
        return made

    def lookup_elem(self, key: bytes) -> int:
        """Address of a map, 0 if there is none."""
        found = self._items.get(key)
        return found.address if found is not None else 0


_MODELS: Final[dict[int, type[MapModel]]] = {
    T.ARRAY: keyed.ArrayMap,
    T.PERCPU_ARRAY: keyed.PerCpuArrayMap,
    T.HASH: keyed.HashMap,
    T.PERCPU_HASH: keyed.PerCpuHashMap,
    T.LRU_HASH: keyed.LruHashMap,
    T.LRU_PERCPU_HASH: keyed.LruPerCpuHashMap,
    T.LPM_TRIE: keyed.LpmTrie,
    T.TASK_STORAGE: keyed.StorageMap,
    T.SK_STORAGE: keyed.StorageMap,
    T.INODE_STORAGE: keyed.StorageMap,
    T.CGRP_STORAGE: keyed.StorageMap,
    T.QUEUE: QueueMap,
    T.STACK: StackMap,
    T.BLOOM_FILTER: BloomFilter,
    T.RINGBUF: EventMap,
    T.PERF_EVENT_ARRAY: EventMap,
    T.PROG_ARRAY: ProgArray,
    T.ARRAY_OF_MAPS: MapOfMaps,
    T.HASH_OF_MAPS: MapOfMaps,
}


def make_map(
    spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
) -> MapModel:
    """Make a map by its definition; of a type that is not modelled, one that can do nothing.

    Args:
        spec: The definition.
        memory: Where its values shall be.
        environment: Tells the CPU.
        btf: BTF of the object, for typed keys and values.
    """
    return _MODELS.get(spec.type, MapModel)(spec, memory, environment, btf)
