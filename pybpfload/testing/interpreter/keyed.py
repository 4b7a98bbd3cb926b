"""Maps of keys and values: arrays, hash tables, LPM tries, local storage.

Every value is a region of its own, made when it is first needed, so that a program cannot run over
the end of one into the next unnoticed. Error numbers are those of ``kernel/bpf/arraymap.c``,
``hashtab.c`` and ``lpm_trie.c``.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from pybpfload.btf import types as t
from pybpfload.errors import BpfError
from pybpfload.testing.interpreter.mapmodel import MapModel
from pybpfload.uapi import ElemFlag, MapFlag

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.object.spec import MapSpec
    from pybpfload.testing.interpreter.environment import Environment
    from pybpfload.testing.interpreter.memory import Memory, Region

__all__ = [
    "ArrayMap",
    "HashMap",
    "LpmTrie",
    "LruHashMap",
    "LruPerCpuHashMap",
    "PerCpuArrayMap",
    "PerCpuHashMap",
    "StorageMap",
]

_LAST_MODE: Final = 2  # BPF_ANY, BPF_NOEXIST, BPF_EXIST


class _KeyedMap(MapModel, MutableMapping[Any, Any]):
    """A mapping of typed keys to typed values; in per-CPU maps to lists of values, by CPU.

    What the kernel refuses raises ``BpfError``, a key that is not there ``KeyError``.
    """

    per_cpu = False

    def __init__(
        self, spec: MapSpec, memory: Memory, environment: Environment, btf: Btf | None = None
    ) -> None:
        super().__init__(spec, memory, environment, btf)
        self._keys = self.key_codec()
        self._values = self.value_codec()
        self._regions: OrderedDict[bytes, list[Region]] = OrderedDict()
        self._has_lock = _has_lock(btf, spec)

    def __getitem__(self, key: Any) -> Any:
        regions = self._find(self._encode(key))
        if regions is None:
            raise KeyError(key)
        values = [self._values.decode(region.data) for region in regions]
        return values if self.per_cpu else values[0]

    def __setitem__(self, key: Any, value: Any) -> None:
        values = value if self.per_cpu and isinstance(value, list) else [value]
        raw = [self._values.encode(one) for one in values]
        raw_key = self._encode(key)
        result = self.update_elem(raw_key, raw[0], 0)
        if result:
            raise BpfError(f"map {self.name} refuses key {key!r}: {errno.errorcode[-result]}")
        regions = self._find(raw_key) or []
        if len(raw) not in (1, len(regions)):
            raise BpfError(f"map {self.name}: {len(raw)} values for {len(regions)} CPUs")
        for region, one in zip(regions, raw * (len(regions) // len(raw)), strict=True):
            region.data[:] = one

    def __delitem__(self, key: Any) -> None:
        if self.delete_elem(self._encode(key)):
            raise KeyError(key)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._keys.decode(key) for key, _ in self.elements()])

    def __len__(self) -> int:
        return sum(1 for _ in self.elements())

    def address_of(self, key: Any) -> int:
        """Address of a value, that of the current CPU; 0 if there is none."""
        return self.lookup_elem(self._encode(key))

    def lookup_elem(self, key: bytes) -> int:
        """Address of a value, 0 if there is none."""
        regions = self._find(key)
        return self._mine(regions).base if regions is not None else 0

    def lookup_percpu_elem(self, key: bytes, cpu: int) -> int:
        """Address of a value on a CPU, 0 if there is none."""
        if not self.per_cpu:
            return super().lookup_percpu_elem(key, cpu)
        regions = self._find(key)
        return regions[cpu].base if regions is not None and cpu < len(regions) else 0

    def _encode(self, key: Any) -> bytes:
        return self._keys.encode(key)

    def _find(self, key: bytes) -> list[Region] | None:
        return self._regions.get(key)

    def _mine(self, regions: list[Region]) -> Region:
        return regions[self.environment.cpu if self.per_cpu else 0]

    def _new(self) -> list[Region]:
        writable = not self.spec.flags & MapFlag.RDONLY_PROG
        return [
            self.memory.allocate(
                self.spec.value_size, f"value of map {self.name}", writable=writable
            )
            for _ in range(self.environment.cpus if self.per_cpu else 1)
        ]


def _has_lock(btf: Btf | None, spec: MapSpec) -> bool:
    """Whether values of a map have a member of type ``struct bpf_spin_lock``."""
    value = btf[btf.strip(spec.value_type_id)] if btf is not None else None
    members = value.members if btf is not None and isinstance(value, t.Composite) else ()
    return any(
        btf is not None and btf.type_name(btf.strip(member.type)) == "bpf_spin_lock"
        for member in members
    )


class ArrayMap(_KeyedMap):
    """Arrays: all elements exist from the start. Those of data sections have initial content."""

    def _encode(self, key: Any) -> bytes:
        if isinstance(key, int) and not 0 <= key < 1 << 32:
            raise KeyError(key)
        return super()._encode(key)

    def _find(self, key: bytes) -> list[Region] | None:
        if self.number(key) >= self.spec.max_entries:
            return None
        found = self._regions.get(key)
        if found is None:
            found = self._regions[key] = self._new()
        return found

    def _new(self) -> list[Region]:
        spec = self.spec
        if not spec.is_internal:
            return super()._new()
        content = spec.contents if spec.contents is not None else spec.value_size
        name = f"section {spec.section}"
        return [self.memory.allocate(content, name, writable=not spec.is_read_only)]

    def value_region(self) -> Region:
        """Memory of the only value, for instructions that refer to it directly."""
        found = self._find(self.number_key(0)) if self.spec.max_entries == 1 else None
        if found is None or self.per_cpu:
            return super().value_region()
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
        if mode != flags and not self._has_lock:
            return -errno.EINVAL
        self._mine(regions).data[:] = value
        return 0

    def delete_elem(self, key: bytes) -> int:
        """Elements of arrays stay."""
        return -errno.EINVAL

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Keys, and addresses of the values."""
        for number in range(self.spec.max_entries):
            key = self.number_key(number)
            yield key, self.lookup_elem(key)

    def __len__(self) -> int:
        return self.spec.max_entries

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.spec.max_entries))


class PerCpuArrayMap(ArrayMap):
    """Arrays with a value for each CPU."""

    per_cpu = True


class HashMap(_KeyedMap):
    """Hash tables; walked over in the order in which the keys came.

    An update puts a new value in the place of the old one, which pointers from before still see, to
    the end of the run.
    """

    evicts = False

    def update_elem(self, key: bytes, value: bytes, flags: int) -> int:
        """Set a value; 0 or a negative error number."""
        mode = flags & ~ElemFlag.LOCK
        if mode > _LAST_MODE or (mode != flags and not self._has_lock):
            return -errno.EINVAL
        known = self._regions.get(key)
        if known is not None and mode == ElemFlag.NOEXIST:
            return -errno.EEXIST
        if known is None and mode == ElemFlag.EXIST:
            return -errno.ENOENT
        if known is None and len(self._regions) >= self.spec.max_entries:
            if not self.evicts:
                return -errno.E2BIG
            self._retire(self._regions.popitem(last=False)[1])
        if known is None or not self.per_cpu:
            self._retire(known or [])
            known = self._regions[key] = self._new()
        self._mine(known).data[:] = value
        if self.evicts:
            self._regions.move_to_end(key)
        return 0

    def delete_elem(self, key: bytes) -> int:
        """Remove a value; 0 or a negative error number."""
        known = self._regions.pop(key, None)
        self._retire(known or [])
        return -errno.ENOENT if known is None else 0

    def elements(self) -> Iterator[tuple[bytes, int]]:
        """Keys, and addresses of the values."""
        for key, regions in list(self._regions.items()):
            if key in self._regions:  # a callback may have removed it
                yield key, self._mine(regions).base

    def _retire(self, regions: list[Region]) -> None:
        for region in regions:
            self.memory.retire(region)

    def _find(self, key: bytes) -> list[Region] | None:
        found = self._regions.get(key)
        if found is not None and self.evicts:
            self._regions.move_to_end(key)
        return found


class LruHashMap(HashMap):
    """Hash tables that make room by dropping what was used longest ago; the kernel guesses it."""

    evicts = True


class PerCpuHashMap(HashMap):
    """Hash tables with a value for each CPU."""

    per_cpu = True


class LruPerCpuHashMap(PerCpuHashMap):
    """Hash tables with a value for each CPU that make room."""

    evicts = True


class LpmTrie(HashMap):
    """Longest prefix match; a key is its length in bits, 32 bits wide, and the bits."""

    def _normal(self, key: bytes) -> bytes:
        """The key with the bits behind the prefix cleared."""
        bits = self.number(key)
        width = 8 * (len(key) - 4)
        kept = int.from_bytes(key[4:], "big") >> width - bits << width - bits
        return key[:4] + kept.to_bytes(len(key) - 4, "big")

    def update_elem(self, key: bytes, value: bytes, flags: int) -> int:
        """Set a value; 0 or a negative error number."""
        if self.number(key) > 8 * (len(key) - 4):
            return -errno.EINVAL
        result = super().update_elem(self._normal(key), value, flags)
        return -errno.ENOSPC if result == -errno.E2BIG else result

    def delete_elem(self, key: bytes) -> int:
        """Remove a value; 0 or a negative error number."""
        if self.number(key) > 8 * (len(key) - 4):
            return -errno.EINVAL
        return super().delete_elem(self._normal(key))

    def _find(self, key: bytes) -> list[Region] | None:
        longest = self.number(key)
        if longest > 8 * (len(key) - 4):
            return None
        for bits in range(longest, -1, -1):
            found = self._regions.get(self._normal(self.number_key(bits) + key[4:]))
            if found is not None:
                return found
        return None


class StorageMap(HashMap):
    """Values that belong to tasks, sockets, inodes or control groups; keys are their addresses."""

    def _encode(self, key: Any) -> bytes:
        return int(key).to_bytes(8, self._order)

    def __iter__(self) -> Iterator[int]:
        return iter([int.from_bytes(key, self._order) for key, _ in self.elements()])

    def of(self, owner: int, value: bytes | None, create: bool) -> int:
        """Address of the value of an object, 0 if it has none and should not get one."""
        key = self._encode(owner)
        if key not in self._regions and create:
            self._regions[key] = self._new()
            self._regions[key][0].data[:] = value or bytes(self.spec.value_size)
        return super().lookup_elem(key)

    def forget(self, owner: int) -> int:
        """Remove the value of an object; 0 or a negative error number."""
        return super().delete_elem(self._encode(owner))
