"""What each type of map can do, and how special keys and values become Python values.

Sources: ``linux/bpf_types.h`` (the types) and the ``struct bpf_map_ops`` of each type in
``kernel/bpf`` and ``net`` of Linux 6.18.
"""

from __future__ import annotations

import struct
import sys

from pybpfload.uapi import MapFlag, MapType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    from pybpfload.btf import Btf

    class Codec(Protocol):
        """How bytes become a value and back; :func:`pybpfload.btf.values.codec` makes most."""

        @property
        def size(self) -> int:
            """Size in bytes."""
            ...

        @property
        def name(self) -> str:
            """What the type is called."""
            ...

        def decode(self, buffer: Any, offset: int = 0) -> Any:
            """Read a value."""
            ...

        def encode(self, value: Any) -> bytes:
            """Return the bytes of a value."""
            ...


__all__ = [
    "EVENTS",
    "FULL_ARRAYS",
    "INDEXED",
    "PER_CPU",
    "QUEUES",
    "STORAGE",
    "Codec",
    "PerCpu",
    "abilities",
    "can",
    "decode_all",
    "fast",
    "key_codec",
    "value_codec",
]

T = MapType
_NATIVE = "<" if sys.byteorder == "little" else ">"

PER_CPU = frozenset({T.PERCPU_HASH, T.PERCPU_ARRAY, T.LRU_PERCPU_HASH, T.PERCPU_CGROUP_STORAGE})
"""Types with one value for each possible CPU."""

FULL_ARRAYS = frozenset({T.ARRAY, T.PERCPU_ARRAY, T.INSN_ARRAY})
"""Arrays in which every element exists from the start."""

INDEXED = FULL_ARRAYS | {
    T.PROG_ARRAY,
    T.PERF_EVENT_ARRAY,
    T.CGROUP_ARRAY,
    T.ARRAY_OF_MAPS,
    T.DEVMAP,
    T.SOCKMAP,
    T.CPUMAP,
    T.XSKMAP,
    T.REUSEPORT_SOCKARRAY,
    T.STACK_TRACE,
    T.STRUCT_OPS,
}
"""Types whose keys are 32-bit numbers."""

EVENTS = frozenset({T.RINGBUF, T.PERF_EVENT_ARRAY})
"""Types that are read as a stream of events."""

QUEUES = frozenset({T.QUEUE, T.STACK})
"""Types without keys that give out what was put in."""

STORAGE = frozenset({T.SK_STORAGE, T.INODE_STORAGE, T.TASK_STORAGE, T.CGRP_STORAGE})
"""Types whose key is a descriptor: of a socket, file, process (pidfd) or control group."""

_FD_VALUES = frozenset(
    {
        T.PROG_ARRAY,
        T.PERF_EVENT_ARRAY,
        T.CGROUP_ARRAY,
        T.SOCKMAP,
        T.SOCKHASH,
        T.XSKMAP,
        T.REUSEPORT_SOCKARRAY,
    }
)
_MAPS_OF_MAPS = frozenset({T.ARRAY_OF_MAPS, T.HASH_OF_MAPS})

# l lookup, u update, d delete, i iterate. What is not here may do everything: the kernel will say.
_ABILITIES: dict[int, str] = {
    T.ARRAY: "lui",
    T.PERCPU_ARRAY: "lui",
    T.INSN_ARRAY: "lui",
    T.PERF_EVENT_ARRAY: "ud",
    T.CGROUP_ARRAY: "ud",
    T.XSKMAP: "ud",
    T.STACK_TRACE: "ldi",
    T.CGROUP_STORAGE: "lui",
    T.PERCPU_CGROUP_STORAGE: "lui",
    T.QUEUE: "",
    T.STACK: "",
    T.BLOOM_FILTER: "",
    T.RINGBUF: "",
    T.USER_RINGBUF: "",
    T.ARENA: "",
    **dict.fromkeys(STORAGE, "lud"),
}
_WORDS = {
    "l": "be looked up (m[key])",
    "u": "be updated (m[key] = value)",
    "d": "have keys deleted (del m[key])",
    "i": "be iterated",
}
_SPECIAL = {
    T.QUEUE: "push(), pop() and peek()",
    T.STACK: "push(), pop() and peek()",
    T.BLOOM_FILTER: "push() and be asked with 'in'",
    T.RINGBUF: "be iterated for its events",
    T.PERF_EVENT_ARRAY: "be iterated for its events",
    T.USER_RINGBUF: "only carry records to programs",
    T.ARENA: "be viewed (view())",
}


def can(map_type: int) -> str:
    """What maps of a type can do: ``l`` lookup, ``u`` update, ``d`` delete, ``i`` iterate."""
    return _ABILITIES.get(map_type, "ludi")


def abilities(map_type: int) -> str:
    """What maps of a type can do, in words that follow "it can"."""
    special = _SPECIAL.get(MapType(map_type))
    words = [special] if special else []
    words += [text for letter, text in _WORDS.items() if letter in can(map_type)]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def key_codec(map_type: int, size: int, btf: Btf | None, type_id: int) -> Codec | None:
    """How keys of a map become Python values; ``None`` for maps without keys.

    Args:
        map_type: Type of the map.
        size: Bytes of a key.
        btf: BTF of the map's object.
        type_id: Type of the key in it, 0 when unknown.
    """
    if not size:
        return None
    if map_type in STORAGE and size == 4:
        return _Descriptor(4)
    typed = _typed(size, btf, type_id)
    if map_type == T.LPM_TRIE and size > 4:
        return _Prefix(size, typed)
    return typed or _raw(size)


def value_codec(
    map_type: int,
    size: int,
    flags: int,
    btf: Btf | None,
    type_id: int,
    cpus: int,
    open_map: Callable[[int], Any],
) -> Codec:
    """How values of a map become Python values.

    Args:
        map_type: Type of the map.
        size: Bytes of a value, on one CPU for the per-CPU types.
        flags: :class:`~pybpfload.uapi.MapFlag` of the map.
        btf: BTF of the map's object.
        type_id: Type of the value in it, 0 when unknown.
        cpus: Number of possible CPUs; only used for the per-CPU types.
        open_map: Opens a map by its id, for values that are maps.
    """
    if map_type in _FD_VALUES:
        return _Descriptor(size)
    if map_type in _MAPS_OF_MAPS:
        return _InnerMap(size, open_map)
    if map_type == T.STACK_TRACE and not flags & MapFlag.STACK_BUILD_ID and size % 8 == 0:
        return _Stack(size)
    found = _typed(size, btf, type_id)
    if found is None and map_type in (T.DEVMAP, T.DEVMAP_HASH, T.CPUMAP) and size == 8:
        return _Target()
    found = found or _raw(size)
    return _PerCpu(found, cpus) if map_type in PER_CPU else found


def _typed(size: int, btf: Btf | None, type_id: int) -> Codec | None:
    if btf is None or not type_id:
        return None
    from pybpfload.btf.types import Kind
    from pybpfload.btf.values import codec

    if btf.kind(btf.strip(type_id)) == Kind.DATASEC:
        return None  # a section of variables, which have their own types
    found: Codec = codec(btf, type_id)
    return found if found.size == size else None


def _raw(size: int) -> Codec:
    from pybpfload.btf.values import raw_codec

    found: Codec = raw_codec(size)
    return found


def decode_all(codec: Codec, buffer: memoryview, count: int) -> list[Any]:
    """Decode ``count`` values that lie one behind the other.

    Codecs made from BTF say how :mod:`struct` reads them, so that most of the work is done in C.
    """
    code = getattr(codec, "code", None)
    if code is None:
        decode, size = codec.decode, codec.size
        return [decode(buffer, at) for at in range(0, count * size, size)]
    convert: Callable[[Any], Any] | None = codec.convert  # type: ignore[attr-defined]
    order: str = codec.order  # type: ignore[attr-defined]
    if len(code) == 1 and (order == _NATIVE or codec.size == 1):
        raw: list[Any] = buffer.cast(code).tolist()
        return raw if convert is None else [convert(each) for each in raw]
    rows = struct.iter_unpack(order + code, buffer)
    if convert is None:
        return [row[0] for row in rows]
    return [convert(row[0]) for row in rows]


def fast(codec: Codec) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Encoder and decoder of whole values, without detours for integers."""
    code = getattr(codec, "code", "")
    if len(code) != 1 or code not in "bBhHiIqQ":
        return codec.encode, codec.decode
    order: str = codec.order  # type: ignore[attr-defined]
    packer = struct.Struct(order + code)
    pack, unpack, encode_any = packer.pack, packer.unpack, codec.encode

    def encode(value: Any) -> bytes:
        if type(value) is int:
            try:
                return pack(value)
            except struct.error:
                pass  # negative, or the codec says what does not fit
        return encode_any(value)

    def decode(raw: bytes) -> Any:
        return unpack(raw)[0]

    return encode, codec.decode if codec.convert else decode  # type: ignore[attr-defined]


class _Descriptor:
    """Goes in as anything with ``fileno()`` or as a descriptor's number, comes out as an id."""

    name = "fd"

    def __init__(self, size: int) -> None:
        self.size = size
        self._raw = _raw(size)

    def decode(self, buffer: Any, offset: int = 0) -> Any:
        return self._raw.decode(buffer, offset)

    def encode(self, value: Any) -> bytes:
        return self._raw.encode(value if isinstance(value, int) else _fileno(value))


class _InnerMap(_Descriptor):
    """Goes in as a map, comes out as a :class:`~pybpfload.runtime.map.Map` opened by its id."""

    def __init__(self, size: int, open_map: Callable[[int], Any]) -> None:
        super().__init__(size)
        self.name = "map"
        self._open = open_map

    def decode(self, buffer: Any, offset: int = 0) -> Any:
        return self._open(super().decode(buffer, offset))


class _Target:
    """``struct bpf_devmap_val`` and ``bpf_cpumap_val``: a number and a program.

    Goes in as the number (an interface's index, a queue's size) or as ``(number, program)``, comes
    out as ``(number, program id)``.
    """

    name = "target"
    size = 8

    def decode(self, buffer: Any, offset: int = 0) -> tuple[int, int]:
        number, program = struct.unpack_from("=II", buffer, offset)
        return number, program

    def encode(self, value: Any) -> bytes:
        number, program = value if isinstance(value, tuple) else (value, None)
        return struct.pack("=II", number, 0 if program is None else _fileno(program))


class _Stack:
    """A stack trace: addresses, innermost first, up to the first 0."""

    name = "stack"

    def __init__(self, size: int) -> None:
        self.size = size

    def decode(self, buffer: Any, offset: int = 0) -> list[int]:
        frames = memoryview(buffer)[offset : offset + self.size].cast("Q").tolist()
        return frames[: frames.index(0)] if 0 in frames else frames

    def encode(self, value: Any) -> bytes:
        raise TypeError("stack traces are written by programs only")


class _Prefix:
    """Key of an LPM trie: a prefix length and an address.

    Goes in as its BTF type or bytes, or as a network or address of :mod:`ipaddress`.
    """

    def __init__(self, size: int, typed: Codec | None) -> None:
        inner = typed or _raw(size)
        self.name = inner.name
        self.size = size
        self.decode = inner.decode
        self._encode = inner.encode

    def encode(self, value: Any) -> bytes:
        address = getattr(value, "network_address", value)
        packed = getattr(address, "packed", None)
        if packed is None:
            return self._encode(value)
        if len(packed) > self.size - 4:
            raise ValueError(f"{value} does not fit keys of {self.size - 4} bytes of address")
        bits = getattr(value, "prefixlen", None)
        return struct.pack(f"=I{self.size - 4}s", 8 * len(packed) if bits is None else bits, packed)


class PerCpu(list["Any"]):
    """Values of one key by possible CPU, CPU 0 first."""

    def sum(self) -> Any:
        """Sum over all CPUs: of numbers as such, of records and arrays element by element.

        Raises:
            TypeError: These values cannot be added.
        """
        return _sum(self)


def _sum(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, (int, float)):
        return sum(values)
    if not isinstance(first, tuple):
        raise TypeError(f"values of type {type(first).__name__} cannot be added")
    # A sum may be greater than the C type of the field, so records are not made anew from fields.
    return tuple.__new__(type(first), [_sum(each) for each in zip(*values, strict=True)])


class _PerCpu:
    """Values of a per-CPU map: each padded to a multiple of 8 bytes, one for each possible CPU."""

    def __init__(self, inner: Codec, cpus: int) -> None:
        self.name = f"{inner.name} per CPU"
        self._inner = inner
        self._cpus = cpus
        self._stride = (inner.size + 7) & -8
        self.size = self._stride * cpus

    def decode(self, buffer: Any, offset: int = 0) -> PerCpu:
        decode = self._inner.decode
        return PerCpu(
            [decode(buffer, at) for at in range(offset, offset + self.size, self._stride)]
        )

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, list):
            return self._inner.encode(value).ljust(self._stride, b"\0") * self._cpus
        if len(value) != self._cpus:
            raise ValueError(
                f"a list for a per-CPU map has one value for each of the {self._cpus} possible "
                f"CPUs, not {len(value)}; anything but a list is the value on all of them"
            )
        encode = self._inner.encode
        return b"".join(encode(each).ljust(self._stride, b"\0") for each in value)


def _fileno(value: Any) -> int:
    fileno = getattr(value, "fileno", None)
    if fileno is None:
        raise TypeError(f"{value!r} has no fileno()")
    number: int = fileno()
    return number
