"""Maps of the interpreter: what programs see of them, and typed values for whoever runs programs.

Every value is a region of its own, made when it is first needed, so that a program cannot run over
the end of one into the next unnoticed. Error numbers are those of ``kernel/bpf/arraymap.c``,
``hashtab.c``, ``queue_stack_maps.c`` and ``ringbuf.c``.
"""

from __future__ import annotations

import errno
from collections import OrderedDict, deque
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pybpfload.btf.types import Kind
from pybpfload.btf.values import codec, raw_codec
from pybpfload.errors import BpfError
from pybpfload.uapi import ElemFlag, MapType

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.btf.codecs import Codec
    from pybpfload.object.spec import MapSpec
    from pybpfload.testing.interpreter.environment import Environment
    from pybpfload.testing.interpreter.memory import Memory, Region

__all__ = ["MapModel", "make_map"]

T = MapType
_LAST_MODE: Final = 2  # BPF_ANY, BPF_NOEXIST, BPF_EXIST
_RECORD_HEADER: Final = 8  # bytes before each record of a ring buffer


class MapModel:
    """A map.

    Args:
        spec: Its definition.
        memory: Where its values are.
        environment: Tells the CPU, for per-CPU maps.
        btf: BTF of its object, or ``None``.

    Attributes:
        spec, name: Of the definition.
        address: What programs know it by.
    """

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.memory = memory
        self.environment = environment
        self.btf = btf
        self.address = memory.allocate(0, f"map {spec.name}", owner=self, writable=False).base

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {MapType(self.spec.type).name}>"

    def _codec(self, size: int, type_id: int) -> Codec:
        btf = self.btf
        if btf is not None and type_id and btf.kind(type_id) != Kind.DATASEC:
            return codec(btf, type_id)
        return raw_codec(size, self.memory.byteorder)

    def value_region(self, offset: int) -> Region:
        """Return the memory of the only value, for instructions that refer to it directly.

        Raises:
            BpfError: It is not a map of one value.
        """
        raise BpfError(f"map {self.name} has no value that instructions can refer to")

    # What helpers do. Keys and values are bytes; the result is an address or an error number.

    def lookup_elem(self, key: bytes) -> int:
        """Address of a value, 0 if there is none."""
        raise self._cannot("be looked up")

    def update_elem(self, key: bytes, value: bytes, flags: int) -> int:
        """Set a value; 0 or a negative error number."""
        raise self._cannot("be updated")

    def delete_elem(self, key: bytes) -> int:
        """Remove a value; 0 or a negative error number."""
        raise self._cannot("have elements deleted")

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Keys, and addresses of the values."""
        raise self._cannot("be walked over")

    def _cannot(self, what: str) -> BpfError:
        from pybpfload.testing.interpreter.errors import FaultError

        return FaultError(f"map {self.name} of type {MapType(self.spec.type).name} cannot {what}")


class _Keyed(MapModel, MutableMapping[Any, Any]):
    """Maps of keys and values; as a mapping it has typed ones."""

    per_cpu = False

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._keys = self._codec(spec.key_size, spec.key_type_id)
        self._values = self._codec(spec.value_size, spec.value_type_id)
        self._regions: OrderedDict[bytes, list[Region]] = OrderedDict()

    def _new(self, key: bytes) -> list[Region]:
        cpus = self.environment.cpus if self.per_cpu else 1
        name = f"value of map {self.name}"
        return [self.memory.allocate(self.spec.value_size, name) for _ in range(cpus)]

    def _mine(self, regions: list[Region]) -> Region:
        return regions[self.environment.cpu] if self.per_cpu else regions[0]

    # As a mapping

    def __getitem__(self, key: Any) -> Any:
        regions = self._find(self._keys.encode(key))
        if regions is None:
            raise KeyError(key)
        values = [self._values.decode(region.data) for region in regions]
        return values if self.per_cpu else values[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        raw_key = self._keys.encode(key)
        values = value if self.per_cpu and isinstance(value, list) else [value]
        raw = [self._values.encode(one) for one in values]
        result = self.update_elem(raw_key, raw[0], 0)
        if result:
            raise BpfError(f"map {self.name} refuses key {key!r}: {errno.errorcode[-result]}")
        regions = self._find(raw_key)
        assert regions is not None
        for region, one in zip(regions, raw * (len(regions) // len(raw)), strict=False):
            region.data[:] = one

    def __delitem__(self, key: Any) -> None:
        if self.delete_elem(self._keys.encode(key)):
            raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._keys.decode(key) for key, _ in self.elements()])

    def __len__(self) -> int:
        return sum(1 for _ in self.elements())

    def _find(self, key: bytes) -> list[Region] | None:
        return self._regions.get(key)

    def lookup_elem(self, key: bytes) -> int:
        """Address of a value, 0 if there is none."""
        regions = self._find(key)
        return self._mine(regions).base if regions is not None else 0

    def lookup_percpu_elem(self, key: bytes, cpu: int) -> int:
        """Address of a value on a CPU, 0 if there is none."""
        regions = self._find(key)
        return regions[cpu].base if regions is not None and cpu < len(regions) else 0


class ArrayMap(_Keyed):
    """Arrays: all elements exist from the start."""

    def _index(self, key: bytes) -> int:
        order = "little" if self.memory.byteorder == "<" else "big"
        return int.from_bytes(key[:4], order)  # type: ignore[arg-type]

    def _key(self, index: int) -> bytes:
        order = "little" if self.memory.byteorder == "<" else "big"
        return index.to_bytes(4, order)  # type: ignore[arg-type]

    def _find(self, key: bytes) -> list[Region] | None:
        if self._index(key) >= self.spec.max_entries:
            return None
        found = self._regions.get(key)
        if found is None:
            found = self._regions[key] = self._new(key)
        return found

    def _new(self, key: bytes) -> list[Region]:
        contents = self.spec.contents
        if not self.spec.is_internal:
            return super()._new(key)
        content = contents if contents is not None else self.spec.value_size
        name = f"section {self.spec.section}"
        return [self.memory.allocate(content, name, writable=not self.spec.is_read_only)]

    def value_region(self, offset: int) -> Region:
        """Return the memory of the only value."""
        if self.spec.max_entries != 1 or self.per_cpu:
            return super().value_region(offset)
        found = self._find(self._key(0))
        assert found is not None
        return found[0]

    def update_elem(self, key: bytes, value: bytes, flags: int) -> int:
        """Set a value; 0 or a negative error number."""
        mode = flags & ~ElemFlag.LOCK
        if mode > _LAST_MODE:
            return -errno.EINVAL
        regions = self._find(key)
        if regions is None:
            return -errno.E2BIG
        if mode == ElemFlag.NOEXIST:
            return -errno.EEXIST
        self._mine(regions).data[:] = value
        return 0

    def delete_elem(self, key: bytes) -> int:
        """Elements of arrays stay."""
        return -errno.EINVAL

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Keys, and addresses of the values."""
        for index in range(self.spec.max_entries):
            key = self._key(index)
            yield key, self.lookup_elem(key)

    def __len__(self) -> int:
        return self.spec.max_entries

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.spec.max_entries))


class PerCpuArrayMap(ArrayMap):
    """Arrays with a value for each CPU."""

    per_cpu = True


class HashMap(_Keyed):
    """Hash tables. An update replaces the value: pointers to the old one keep seeing that."""

    evicts = False

    def update_elem(self, key: bytes, value: bytes, flags: int) -> int:
        """Set a value; 0 or a negative error number."""
        mode = flags & ~ElemFlag.LOCK
        if mode > _LAST_MODE:
            return -errno.EINVAL
        known = self._regions.get(key)
        if known is not None and mode == ElemFlag.NOEXIST:
            return -errno.EEXIST
        if known is None and mode == ElemFlag.EXIST:
            return -errno.ENOENT
        if known is None and len(self._regions) >= self.spec.max_entries:
            if not self.evicts:
                return -errno.E2BIG
            self._regions.popitem(last=False)
        if known is None or not self.per_cpu:
            known = self._regions[key] = self._new(key)
        self._mine(known).data[:] = value
        if self.evicts:
            self._regions.move_to_end(key)
        return 0

    def delete_elem(self, key: bytes) -> int:
        """Remove a value; 0 or a negative error number."""
        # The region stays: the program may still have a pointer, which is good until RCU says.
        return -errno.ENOENT if self._regions.pop(key, None) is None else 0

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Keys, and addresses of the values."""
        for key, regions in list(self._regions.items()):
            yield key, self._mine(regions).base

    def _find(self, key: bytes) -> list[Region] | None:
        found = self._regions.get(key)
        if found is not None and self.evicts:
            self._regions.move_to_end(key)
        return found


class LruHashMap(HashMap):
    """Hash tables that make room by dropping what was used longest ago."""

    evicts = True


class PerCpuHashMap(HashMap):
    """Hash tables with a value for each CPU."""

    per_cpu = True


class LruPerCpuHashMap(PerCpuHashMap):
    """Both."""

    evicts = True


class ObjectArrayMap(MapModel, MutableMapping[int, Any]):
    """Arrays of programs or maps: what is put in is what comes out."""

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None
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


class ArrayOfMaps(ObjectArrayMap):
    """Arrays of maps (:class:`MapModel`)."""

    def lookup_elem(self, key: bytes) -> int:
        """Address of a map, 0 if there is none."""
        order = "little" if self.memory.byteorder == "<" else "big"
        found = self._items.get(int.from_bytes(key[:4], order))  # type: ignore[arg-type]
        return found.address if found is not None else 0


class HashOfMaps(MapModel, MutableMapping[Any, Any]):
    """Hash tables of maps (:class:`MapModel`)."""

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._keys = self._codec(spec.key_size, spec.key_type_id)
        self._items: dict[bytes, MapModel] = {}

    def __getitem__(self, key: Any) -> MapModel:
        return self._items[self._keys.encode(key)]

    def __setitem__(self, key: Any, value: MapModel) -> None:
        self._items[self._keys.encode(key)] = value

    def __delitem__(self, key: Any) -> None:
        del self._items[self._keys.encode(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter([self._keys.decode(key) for key in self._items])

    def __len__(self) -> int:
        return len(self._items)

    def lookup_elem(self, key: bytes) -> int:
        """Address of a map, 0 if there is none."""
        found = self._items.get(key)
        return found.address if found is not None else 0


class QueueMap(MapModel):
    """Queues, and with ``last_first`` stacks."""

    last_first: ClassVar[bool] = False

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._values = self._codec(spec.value_size, spec.value_type_id)
        self._items: deque[bytes] = deque()

    def push_bytes(self, value: bytes, flags: int) -> int:
        """Put a value in; 0 or a negative error number."""
        if flags not in (0, ElemFlag.EXIST):
            return -errno.EINVAL
        if len(self._items) >= self.spec.max_entries:
            if not flags:
                return -errno.E2BIG
            self._items.popleft()
        self._items.append(value)
        return 0

    def next_bytes(self, remove: bool) -> bytes | None:
        """Return the next value, ``None`` if there is none."""
        if not self._items:
            return None
        value = self._items[-1 if self.last_first else 0]
        if remove:
            self._items.pop() if self.last_first else self._items.popleft()
        return value

    def push(self, value: Any) -> None:
        """Put a typed value in."""
        if self.push_bytes(self._values.encode(value), 0):
            raise BpfError(f"map {self.name} is full")

    def pop(self) -> Any:
        """Take a typed value out; ``None`` if there is none."""
        raw = self.next_bytes(remove=True)
        return None if raw is None else self._values.decode(raw)

    def __len__(self) -> int:
        return len(self._items)


class StackMap(QueueMap):
    """Stacks."""

    last_first = True


class EventMap(MapModel):
    """Ring buffers and perf event arrays: records, oldest first, until they are taken.

    Attributes:
        records: Their bytes.
    """

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self.records: list[bytes] = []
        self._reserved: dict[int, Region | bytes] = {}  # in order; submitted ones as bytes
        self._held = 0  # bytes of the ring

    def _room(self, size: int) -> bool:
        limit = self.spec.max_entries if self.spec.type == T.RINGBUF else 1 << 32
        return self._held + (size + _RECORD_HEADER + 7 & -8) <= limit

    def output(self, data: bytes) -> int:
        """Add a record; 0 or a negative error number."""
        if not self._room(len(data)):
            return -errno.EAGAIN
        self._held += len(data) + _RECORD_HEADER + 7 & -8
        self.records.append(data)
        return 0

    def reserve(self, size: int) -> int:
        """Address of a record to be filled, 0 if there is no room."""
        if not self._room(size):
            return 0
        self._held += size + _RECORD_HEADER + 7 & -8
        region = self.memory.allocate(size, f"record of map {self.name}", owner=self)
        self._reserved[region.base] = region
        return region.base

    def commit(self, address: int, keep: bool) -> bool:
        """Submit or discard a record; whether there is one at that address."""
        region = self._reserved.pop(address, None)
        if region is None or isinstance(region, bytes):
            return False
        if keep:
            self.records.append(bytes(region.data))
        self.memory.release(region)
        return True

    def take(self) -> list[bytes]:
        """Return all records and forget them."""
        records, self.records = self.records, []
        self._held = 0
        return records

    @property
    def pending(self) -> int:
        """Number of records that were reserved and neither submitted nor discarded."""
        return len(self._reserved)

    def events(self, type: str | int | None = None) -> list[Any]:  # noqa: A002
        """Return all records as values of a C type.

        Args:
            type: Name or id of a type in the object's BTF; by default found as
                :class:`pybpfload.runtime.events.EventTypes` says.
        """
        if type is None:
            from pybpfload.runtime.events import EventTypes

            types = EventTypes(self.btf, self.name)
            return [types.decoder(len(raw))(memoryview(raw), 0, len(raw)) for raw in self.records]
        assert self.btf is not None
        type_id = type if isinstance(type, int) else self.btf.find(type)
        return [codec(self.btf, type_id).decode(record) for record in self.records]


_MODELS: Final[dict[int, type[MapModel]]] = {
    T.ARRAY: ArrayMap,
    T.PERCPU_ARRAY: PerCpuArrayMap,
    T.HASH: HashMap,
    T.PERCPU_HASH: PerCpuHashMap,
    T.LRU_HASH: LruHashMap,
    T.LRU_PERCPU_HASH: LruPerCpuHashMap,
    T.PROG_ARRAY: ObjectArrayMap,
    T.ARRAY_OF_MAPS: ArrayOfMaps,
    T.HASH_OF_MAPS: HashOfMaps,
    T.QUEUE: QueueMap,
    T.STACK: StackMap,
    T.RINGBUF: EventMap,
    T.PERF_EVENT_ARRAY: EventMap,
}


def make_map(spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None) -> MapModel:
    """Make a map by its definition; of a type that is not modelled, one that can do nothing."""
    return _MODELS.get(spec.type, MapModel)(spec, memory, environment, btf)
