"""BPF maps as Python mappings.

One class, because a map is one thing to its users; half of this module is the docstrings of its
methods. How elements are called for, coded and shown is in the modules ``map*`` beside it.
"""

from __future__ import annotations

import copy
import errno
from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

from pybpfload.errors import BpfError, KernelError, NotSupportedError
from pybpfload.kernel import bpf, cpus
from pybpfload.kernel.fd import FileDescriptor
from pybpfload.runtime import maparrays, mapcodecs, mapkinds, maptable
from pybpfload.runtime.mapcodecs import decode_all
from pybpfload.runtime.maphandle import MapHandle
from pybpfload.runtime.mapio import UNSUPPORTED, Elements
from pybpfload.runtime.mapkinds import EVENTS, FULL_ARRAYS, INDEXED, PER_CPU, QUEUES
from pybpfload.uapi import Cmd, ElemFlag, MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybpfload.btf import Btf
    from pybpfload.runtime.events import EventTypes
    from pybpfload.runtime.mapcodecs import Codec
    from pybpfload.runtime.program import Program

__all__ = ["Map"]

K = TypeVar("K")
V = TypeVar("V")

_MISSING: Any = object()


class Map(MapHandle, MutableMapping[K, V]):
    """A map in the kernel, read and written as a Python mapping.

    Keys and values are Python values by their BTF types (:mod:`pybpfload.btf.values`), or, without
    BTF, integers for 1, 2, 4 and 8 bytes and ``bytes`` for other sizes. Every access is a system
    call of its own; ``items()``, ``update()`` and ``clear()`` take many elements at a time where
    the kernel can (Linux 5.6). Programs and other processes change a map at any time: an element
    that is there during the whole of an iteration comes once, one that comes or goes once or not at
    all. A map equals nothing but itself; compare ``to_dict()``.

    What is special by type:

    * arrays have all their keys from the start (``len(m) == m.max_entries``) and lose none;
    * per-CPU maps: a value is a list by possible CPU with a method ``sum()``; assigning a list sets
      each CPU's, assigning anything else sets it on all;
    * queues and stacks: :meth:`push`, :meth:`pop`, :meth:`peek`;
    * Bloom filters: :meth:`push` and ``in``;
    * maps of programs, sockets, control groups and maps: values are given as anything with
      ``fileno()``; maps come back as :class:`Map` and programs as
      :class:`~pybpfload.runtime.program.Program`, opened at each lookup, sockets as cookies;
    * maps of network devices: a value is an index or a name, or ``(device, program)``;
    * socket, file, task and control group storage: keys are anything with ``fileno()`` (for tasks a
      pidfd), or the descriptor's number;
    * LPM tries: keys may be networks and addresses of :mod:`ipaddress`;
    * stack traces: values are lists of addresses, innermost first, or of
      :class:`~pybpfload.symbols.stacks.BuildIdFrame` with ``BPF_F_STACK_BUILD_ID``;
    * ring buffers and perf event arrays: ``for event in m`` iterates over events.

    What a type cannot do raises ``TypeError`` and says what it can.

    Args:
        fd: The descriptor, owned by the map from now on.
        name: What to call it.
        type: Its type.
        key_size: Bytes of a key, as the kernel has it: too small a number corrupts memory.
        value_size: Bytes of a value, on one CPU for per-CPU types; as ``key_size``.
        max_entries: Number of elements; for ring buffers bytes.
        flags: :class:`~pybpfload.uapi.MapFlag`.
        btf: BTF that describes keys and values.
        key_type_id: Type of the keys in ``btf``, 0 when unknown.
        value_type_id: Type of the values in ``btf``, 0 when unknown.
        pin_path: Where it is pinned, or would be.
        event_types: How events are typed; by default by ``btf`` and ``name``.
        address: Of an arena: where it must be mapped, 0 for anywhere.

    Attributes:
        name, type, key_size, value_size, max_entries, flags: As above.
        btf, key_type_id, value_type_id, pin_path: As above.
    """

    def __init__(
        self,
        fd: FileDescriptor,
        *,
        name: str,
        type: MapType,  # noqa: A002
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        btf: Btf | None = None,
        key_type_id: int = 0,
        value_type_id: int = 0,
        pin_path: str | None = None,
        event_types: EventTypes | None = None,
        address: int = 0,
    ) -> None:
        super().__init__(
            fd,
            name=name,
            type=type,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            flags=flags,
            btf=btf,
            key_type_id=key_type_id,
            value_type_id=value_type_id,
            pin_path=pin_path,
            event_types=event_types,
            address=address,
        )
        possible = cpus.possible_cpus() if type in PER_CPU else 1
        self._can = mapkinds.can(type)
        self._elements = Elements(
            fd,
            name=name,
            map_type=type,
            key_size=key_size,
            value_size=(value_size + 7 & -8) * possible if type in PER_CPU else value_size,
            max_entries=max_entries,
            flags=flags,
        )
        self._use(
            mapcodecs.key_codec(type, key_size, btf, key_type_id),
            mapcodecs.value_codec(
                type,
                value_size,
                flags,
                btf,
                value_type_id,
                possible,
                _open_program if type == MapType.PROG_ARRAY else _open_map,
            ),
        )

    def _use(self, keys: Codec | None, values: Codec) -> None:
        """Read and write with these codecs from now on."""
        self._keys = keys
        self._values = values
        self._encode = mapcodecs.encoder(values, f"map {self.name}: value")
        self._decode = mapcodecs.decoder(values)
        self._encode_key: Callable[[Any], bytes] | None = None
        self._get: Callable[[Any], Any] | None = None
        if keys is not None:
            self._encode_key = mapcodecs.encoder(keys, f"map {self.name}: key")
            if "l" in self._can:
                self._get = self._elements.getter(self._encode_key, self._decode, _MISSING)

    def typed(self, *, key: Any = None, value: Any = None) -> Map[Any, Any]:
        """The same map with other types of keys and values.

        Args:
            key: What keys are: the name of a type of the map's BTF, a class of ``obj.types``, a
                type of the user's that fits its layout, or a codec; for LPM tries also
                ``ipaddress.IPv4Network`` or ``IPv6Network``. ``None`` leaves them as they are.
            value: What values are, likewise; of per-CPU maps, on each CPU.

        Returns:
            A map on the same descriptor: closing one closes both.

        Raises:
            BpfError: There is no such type, it has another size, or the map has no keys.
            TypeError: It is none of these.
        """
        keys, values = self._keys, self._values
        if key is not None:
            if keys is None:
                raise BpfError(f"map {self.name}: maps of type {self.type.name} have no keys")
            keys = self._fitting(mapcodecs.chosen_codec(key, keys, self.btf), self.key_size, "keys")
        if value is not None:
            found = mapcodecs.chosen_codec(value, self._one_value, self.btf)
            values = self._fitting(found, self.value_size, "values")
            if self.type in PER_CPU:
                values = mapcodecs.per_cpu(values, cpus.possible_cpus())
        other = copy.copy(self)
        other._use(keys, values)
        return other

    @property
    def key_codec(self) -> Codec | None:
        """What reads and writes its keys; ``None`` for maps without keys."""
        return self._keys

    @property
    def value_codec(self) -> Codec:
        """What reads and writes its values; of per-CPU maps, on one CPU."""
        return self._one_value

    @property
    def _one_value(self) -> Codec:
        """The codec of a value; of per-CPU maps, on one CPU."""
        inner: Codec = getattr(self._values, "inner", self._values)
        return inner if self.type in PER_CPU else self._values

    def _fitting(self, codec: Codec, size: int, what: str) -> Codec:
        if codec.size != size:
            raise BpfError(
                f"map {self.name}: {what} have {size} bytes, {codec.name} has {codec.size}"
            )
        return codec

    def close(self) -> None:
        """Close the descriptor and what was opened to read the map; again does nothing.

        The map itself lives as long as a program, a pin or another descriptor holds it.
        """
        self._elements.close()
        super().close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd {self.fileno()}"
        types = self._values.name
        if self._keys is not None:
            types = f"{self._keys.name} -> {types}"
        if self.type in EVENTS or not self.value_size:
            types = ""
        unit = "bytes" if self.type in (MapType.RINGBUF, MapType.USER_RINGBUF) else "entries"
        parts = [self.type.name, types, f"{self.max_entries} {unit}", state]
        return f"<Map {self.name}: {', '.join(part for part in parts if part)}>"

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    # One element

    def lookup(
        self, key: K, default: Any = _MISSING, *, lock: bool = False, cpu: int | None = None
    ) -> Any:
        """The value of a key.

        Args:
            key: The key.
            default: What to return when there is no such key.
            lock: Copy the value under its ``bpf_spin_lock`` (Linux 5.1).
            cpu: Of a per-CPU map, only the value of this CPU.

        Raises:
            KeyError: There is no such key and no default.
            TypeError: This type of map has no lookup, or ``cpu`` and it is no per-CPU map.
            ValueError: There is no such CPU.
            ValueMismatchError: The key does not fit its C type.
            KernelError: The kernel refused.
        """
        if cpu is not None:
            self._need_cpu(cpu)
        raw = self._elements.lookup(self._key(key, "l"), ElemFlag.LOCK if lock else 0)
        if raw is None:
            if default is _MISSING:
                raise self._no_key(key)
            return default
        value = self._decode(raw)
        return value if cpu is None else value[cpu]

    def put(
        self,
        key: K,
        value: Any,
        *,
        noexist: bool = False,
        exist: bool = False,
        lock: bool = False,
        cpu: int | None = None,
    ) -> None:
        """Set the value of a key, as ``m[key] = value`` does.

        Args:
            key: The key.
            value: The value.
            noexist: Only if the key is not there yet.
            exist: Only if the key is there already.
            lock: Copy the value under its ``bpf_spin_lock`` (Linux 5.1).
            cpu: Of a per-CPU map, set only the value of this CPU (Linux 7.0).

        Raises:
            KeyError: ``exist``, and there is no such key.
            TypeError: This type of map has no update, or ``cpu`` and it is no per-CPU map.
            ValueError: There is no such CPU.
            NotSupportedError: ``cpu``, and the kernel is older than 7.0.
            ValueMismatchError: Key or value do not fit their C types.
            KernelError: EEXIST: ``noexist``, and the key is there; E2BIG: the map is full; EPERM:
                it is frozen; and others.
        """
        flags = _flags(noexist, exist, lock)
        raw_key = self._key(key, "u")
        if cpu is None:
            done = self._elements.update(raw_key, self._encode(value), flags)
        else:
            self._need_cpu(cpu)
            # The kernel reads the value from the beginning, whatever the CPU.
            done = self._put_on_cpu(
                raw_key, self._encode([value] * cpus.possible_cpus()), flags, cpu
            )
        if not done:
            if exist:
                raise self._no_key(key)
            raise self._elements.failed(errno.EEXIST, Cmd.MAP_UPDATE_ELEM)

    def _put_on_cpu(self, key: bytes | None, value: bytes, flags: int, cpu: int) -> bool:
        try:
            return self._elements.update(key, value, flags | ElemFlag.CPU | cpu << 32)
        except KernelError as error:
            if error.errno != errno.EINVAL:
                raise
            raise NotSupportedError(
                f"map {self.name}: setting the value of one CPU",
                feature="BPF_F_CPU",
                since="7.0",
            ) from error

    def _need_cpu(self, cpu: int) -> None:
        if self.type not in PER_CPU:
            raise TypeError(f"map {self.name} is no per-CPU map")
        if not 0 <= cpu < cpus.possible_cpus():
            raise ValueError(f"there are {cpus.possible_cpus()} possible CPUs, not CPU {cpu}")

    def lookup_bytes(self, key: bytes) -> bytes | None:
        """The bytes of a value by the bytes of its key, ``None`` if there is no such key.

        Raises:
            ValueError: The key has not the map's size.
            KernelError: The kernel refused.
        """
        self._check_size("key", key, self.key_size)
        return self._elements.lookup(key)

    def put_bytes(self, key: bytes, value: bytes) -> None:
        """Set the bytes of a value by the bytes of its key.

        Raises:
            ValueError: One has not the map's size.
            KernelError: The kernel refused.
        """
        self._check_size("key", key, self.key_size)
        self._check_size("value", value, self._values.size)
        self._elements.update(key, value)

    def _check_size(self, what: str, given: bytes, size: int) -> None:
        if len(given) != size:
            raise ValueError(f"map {self.name}: {what} has {size} bytes, not {len(given)}")

    def __getitem__(self, key: K) -> V:
        get = self._get
        if get is None:
            raise self._cannot("lookup")
        value = get(key)
        if value is _MISSING:
            raise self._no_key(key)
        found: V = value
        return found

    def __setitem__(self, key: K, value: Any) -> None:
        self._elements.update(self._key(key, "u"), self._encode(value))

    def __delitem__(self, key: K) -> None:
        if not self._elements.delete(self._key(key, "d")):
            raise self._no_key(key)

    def get(self, key: K, default: Any = None) -> Any:
        """The value of a key, or ``default``.

        As of a dict, also if no key can be so; :meth:`lookup` tells what does not fit.
        """
        raw = self._find(key)
        return default if raw is None else self._decode(raw)

    def __contains__(self, key: object) -> bool:
        if self.type == MapType.BLOOM_FILTER:
            return self._elements.contains(self._encode(key))
        return self._find(key) is not None

    def _find(self, key: Any) -> bytes | None:
        """The bytes of a value; ``None`` if there is no such key, or no key can be so."""
        from pybpfload.btf.codecs import ValueMismatchError

        try:
            raw_key = self._key(key, "l")
        except ValueMismatchError:
            return None
        return self._elements.lookup(raw_key)

    def pop(self, key: Any = _MISSING, default: Any = _MISSING) -> Any:
        """Take an element out: of a queue or stack the next one, of others that of a key.

        In one step where the kernel can (queues and stacks 4.20, hashes 5.14); otherwise a program
        may change the value between the lookup and the deletion.

        Args:
            key: The key; none for queues and stacks.
            default: What to return when there is none.

        Raises:
            KeyError: There is no such key and no default.
            IndexError: The queue or stack is empty and there is no default.
            TypeError: This type of map cannot.
        """
        if self.type in QUEUES:
            if key is not _MISSING:
                raise TypeError(f"map {self.name} is a {self.type.name.lower()}: it has no keys")
            return self._front(default, take=True)
        if key is _MISSING:
            raise TypeError(f"map {self.name}: pop() of a {self.type.name} map needs a key")
        raw_key = self._key(key, "d")
        try:
            raw = self._elements.lookup(raw_key, take=True)
        except KernelError as error:
            if error.errno not in UNSUPPORTED:
                raise
            raw = self._elements.lookup(raw_key)
            if raw is not None and not self._elements.delete(raw_key):
                raw = None
        if raw is not None:
            return self._decode(raw)
        if default is _MISSING:
            raise self._no_key(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Take any element out.

        Raises:
            KeyError: The map is empty.
            TypeError: Elements of this type of map cannot be deleted.
        """
        self._need("d", "popitem()")
        self._need("i", "popitem()")
        assert self._keys is not None
        for raw_key in self._elements.walk():
            key: K = self._keys.decode(raw_key)
            with suppress(KeyError):  # gone already
                return key, self.pop(key)
        raise KeyError(f"map {self.name} is empty")

    def setdefault(self, key: K, default: Any = None) -> Any:
        """The value of a key, which is first set to ``default`` if it is not there."""
        raw_key, raw_value = self._key(key, "u"), self._encode(default)
        while True:
            raw = self._elements.lookup(raw_key)
            if raw is not None:
                return self._decode(raw)
            if self._elements.update(raw_key, raw_value, ElemFlag.NOEXIST):
                return self._decode(raw_value)

    # Queues, stacks, Bloom filters

    def push(self, value: Any, *, force: bool = False) -> None:
        """Put a value into a queue, stack or Bloom filter (Linux 4.20, 5.16).

        Args:
            value: The value.
            force: Drop the oldest one if it is full.

        Raises:
            TypeError: It is of another type.
            KernelError: E2BIG: it is full.
        """
        if self.type not in QUEUES and self.type != MapType.BLOOM_FILTER:
            raise self._cannot("push()")
        flags = ElemFlag.EXIST if force else 0
        self._elements.update(None, self._encode(value), flags)

    def peek(self, default: Any = _MISSING) -> Any:
        """The value that :meth:`pop` would take out of a queue or stack.

        Raises:
            TypeError: It is of another type.
            IndexError: It is empty and there is no default.
        """
        return self._front(default, take=False)

    def _front(self, default: Any, *, take: bool) -> Any:
        if self.type not in QUEUES:
            raise self._cannot("peek()")
        raw = self._elements.lookup(None, take=take)
        if raw is not None:
            return self._decode(raw)
        if default is _MISSING:
            raise IndexError(f"map {self.name}: the {self.type.name.lower()} is empty")
        return default

    # All elements

    def __iter__(self) -> Iterator[Any]:
        if self.type in EVENTS:
            return iter(self.reader())
        self._need("i", "iteration over keys")
        return self._iterate_keys()

    def _iterate_keys(self) -> Iterator[K]:
        assert self._keys is not None
        if self.type in FULL_ARRAYS:
            return map(self._keys.decode, map(self._keys.encode, range(self.max_entries)))
        portions, keys = self._elements.portions(), self._keys
        return chain.from_iterable(decode_all(keys, raw) for raw, _values, _count in portions)

    def _iterate_items(self) -> Iterator[tuple[K, V]]:
        self._need("i", "iteration over keys")
        assert self._keys is not None
        keys, values = self._keys, self._values
        return chain.from_iterable(
            zip(decode_all(keys, raw_keys), decode_all(values, raw_values), strict=True)
            for raw_keys, raw_values, _count in self._elements.portions()
        )

    def _iterate_values(self) -> Iterator[V]:
        self._need("i", "iteration over keys")
        portions, values = self._elements.portions(), self._values
        return chain.from_iterable(decode_all(values, raw) for _keys, raw, _count in portions)

    def __len__(self) -> int:
        self._need("i", "counting")
        if self.type in FULL_ARRAYS:
            return self.max_entries
        return sum(count for _, _, count in self._elements.portions())

    def __bool__(self) -> bool:
        """Whether it has elements; always true for types whose elements cannot be counted."""
        if "i" not in self._can:
            return True
        if self.type in INDEXED:  # the next key of an empty slot is a key all the same
            return next(self._elements.portions(), None) is not None
        return self._elements.next_key(None) is not None

    def items(self) -> ItemsView[K, V]:
        """Keys and values, read in batches where the kernel can."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Values, read in batches where the kernel can."""
        return _Values(self)

    def to_dict(self) -> dict[K, V]:
        """All elements as they are now."""
        return dict(self._iterate_items())

    def to_records(self) -> list[dict[str, Any]]:
        """All elements as flat rows: ``pandas.DataFrame(m.to_records())``.

        Members of structs are columns, those of structs inside ``outer.inner``; whatever is no
        struct is in the column ``key`` or ``value``. What keys and values both have is called
        ``key.x`` and ``value.x``. Per-CPU maps have a row for each CPU, with the column ``cpu``.
        """
        return maptable.records(self.type in PER_CPU, self._iterate_items())

    def to_buffers(self) -> tuple[memoryview, memoryview]:
        """All elements as bytes: keys one behind the other, and values likewise.

        The fastest way into numpy, without a Python object for any element::

            keys, values = m.to_buffers()
            numpy.frombuffer(values, dtype)

        Values of per-CPU maps have one for each possible CPU, each padded to 8 bytes.
        """
        self._need("i", "iteration over keys")
        portions = list(self._elements.portions())
        if len(portions) == 1:
            keys, values, _count = portions[0]
            return keys, values
        return (
            memoryview(b"".join([keys for keys, _, _ in portions])),
            memoryview(b"".join([values for _, values, _ in portions])),
        )

    def array(self) -> memoryview:
        """The values of an array with ``BPF_F_MMAPABLE``, live: a typed view of :meth:`view`.

        Numbers in one dimension, arrays of numbers in two: ``numpy.asarray(m.array())`` shares
        their memory, and so does ``numpy.asarray(m)``, also for structs. From Python 3.12 on,
        ``memoryview(m)`` is the same.

        Raises:
            TypeError: The map cannot be mapped.
            BufferError: The values are neither, or not where a memoryview can have them.
            KernelError: The kernel refused.
        """
        return maparrays.typed_view(self._memory(), self._values, self._stride)

    def __buffer__(self, flags: int, /) -> memoryview:
        return self.array()

    @property
    def _stride(self) -> int:
        return self.value_size + 7 & -8

    def _memory(self) -> memoryview:
        """All values in shared memory."""
        return self.window(0, self._stride * self.max_entries)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """What ``numpy.asarray(m)`` gives: all values, of per-CPU maps a row for each key.

        Arrays with ``BPF_F_MMAPABLE`` are shared memory, others are copied as they are now.
        """
        live = bool(self.flags & MapFlag.MMAPABLE) and self.type == MapType.ARRAY
        if copy is False and not live:
            raise ValueError(f"map {self.name} is no shared memory: its values must be copied")
        memory = self._memory() if live else self.to_buffers()[1]
        packed = not live and self.type not in PER_CPU
        stride = self.value_size if packed else self._stride
        found = maparrays.numpy_array(memory, self._one_value, stride)
        if self.type in PER_CPU:
            found = found.reshape(-1, cpus.possible_cpus())
        if dtype is not None:
            found = found.astype(dtype, copy=False)
        return found.copy() if copy else found

    def _repr_html_(self) -> str:
        """The first elements as a table, for notebooks."""
        readable = not self.closed and "l" in self._can and "i" in self._can
        by_cpu = self.type in PER_CPU
        try:
            return maptable.html(repr(self), by_cpu, self.items() if readable else ())
        except BpfError as error:
            return maptable.html(f"{self!r}: {error}", by_cpu, ())

    def update(  # type: ignore[override]
        self,
        other: Mapping[K, Any] | Iterable[tuple[K, Any]] = (),
        /,
        *,
        noexist: bool = False,
        exist: bool = False,
        lock: bool = False,
    ) -> None:
        """Set many elements, in batches where the kernel can (Linux 5.6).

        Args:
            other: Keys and values.
            noexist: As for :meth:`put`.
            exist: As for :meth:`put`.
            lock: As for :meth:`put`.

        Raises:
            ValueMismatchError: One does not fit its C type; then nothing is changed.
            KernelError: The kernel refused one; those before it are set.
        """
        pairs = list(other.items() if isinstance(other, Mapping) else other)
        keys = [self._key(key, "u") or b"" for key, _ in pairs]
        values = [self._encode(value) for _, value in pairs]
        self._elements.update_many(keys, values, _flags(noexist, exist, lock))

    def clear(self) -> None:
        """Delete all elements, in batches where the kernel can (Linux 5.6).

        Raises:
            TypeError: Elements of this type of map cannot be deleted.
        """
        if self.type in QUEUES:
            while self._elements.lookup(None, take=True) is not None:
                pass
            return
        self._need("d", "clear()")
        self._need("i", "clear()")
        for keys, _, count in self._elements.portions():
            self._elements.delete_all(keys, count)

    # Helpers

    def _key(self, key: Any, ability: str) -> bytes | None:
        if ability not in self._can:
            raise self._cannot({"l": "lookup", "u": "update", "d": "deletion"}[ability])
        return None if self._encode_key is None else self._encode_key(key)

    def _need(self, ability: str, what: str) -> None:
        if ability not in self._can:
            raise self._cannot(what)

    def _no_key(self, key: Any) -> KeyError:
        return KeyError(f"{key!r} is not in map {self.name}")


class _Items(ItemsView[K, V]):
    _mapping: Map[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._iterate_items()


class _Values(ValuesView[V]):
    _mapping: Map[Any, V]

    def __iter__(self) -> Iterator[V]:
        return self._mapping._iterate_values()


# Dropping a map or program that was a value of a map loses nothing.


def _open_map(number: int) -> Map[Any, Any]:
    return Map._of(FileDescriptor(bpf.map_get_fd_by_id(number), f"map id {number}").linger())


def _open_program(number: int) -> Program:
    from pybpfload.runtime.program import Program

    fd = FileDescriptor(bpf.prog_get_fd_by_id(number), f"program id {number}")
    return Program._of(fd.linger())


def _flags(noexist: bool, exist: bool, lock: bool) -> int:
    if noexist and exist:
        raise ValueError("noexist and exist exclude each other")
    return (
        (ElemFlag.NOEXIST if noexist else 0)
        | (ElemFlag.EXIST if exist else 0)
        | (ElemFlag.LOCK if lock else 0)
    )
