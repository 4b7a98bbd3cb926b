"""How the bytes of a map's keys and values become Python values, for each type of map.

Most are what BTF says (:mod:`pybpfload.btf.values`). Here is what BTF cannot say: descriptors that
come back as ids, values of many CPUs, prefixes, frames of stacks.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from pybpfload.errors import BpfError
from pybpfload.runtime.mapkinds import (
    DESCRIPTORS,
    MAPS_OF_MAPS,
    PER_CPU,
    STORAGE,
    STORAGE_OF_CGROUPS,
    TARGETS,
)
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

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

        def decode_many(self, buffer: Any) -> list[Any]:
            """Read values that lie one behind the other."""
            ...

        def encode(self, value: Any) -> bytes:
            """Return the bytes of a value."""
            ...


__all__ = [
    "CgroupStorageKey",
    "Codec",
    "PerCpu",
    "chosen_codec",
    "decode_all",
    "decoder",
    "encoder",
    "key_codec",
    "per_cpu",
    "typed_codec",
    "value_codec",
]


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
    typed = typed_codec(size, btf, type_id)
    if map_type == MapType.LPM_TRIE and size > 4:
        return _Prefix(size, typed or _raw(size))
    if map_type in STORAGE_OF_CGROUPS and size == _CgroupKey.size:
        return typed or _CgroupKey()
    return typed or _raw(size)


def value_codec(
    map_type: int,
    size: int,
    flags: int,
    btf: Btf | None,
    type_id: int,
    cpus: int,
    open_value: Callable[[int], Any],
) -> Codec:
    """How values of a map become Python values.

    Args:
        map_type: Type of the map.
        size: Bytes of a value, on one CPU for the per-CPU types.
        flags: :class:`~pybpfload.uapi.MapFlag` of the map.
        btf: BTF of the map's object.
        type_id: Type of the value in it, 0 when unknown.
        cpus: Number of possible CPUs; only used for the per-CPU types.
        open_value: Opens a map or program by its id, for values that are such.
    """
    if map_type in MAPS_OF_MAPS:
        return _Opened("map", size, open_value)
    if map_type == MapType.PROG_ARRAY:
        return _Opened("program", size, open_value)
    if map_type in DESCRIPTORS:
        return _Descriptor(size)
    if map_type == MapType.STACK_TRACE:
        if flags & MapFlag.STACK_BUILD_ID:
            return _BuildIdStack(size) if size % 32 == 0 else _raw(size)
        return _Stack(size) if size % 8 == 0 else _raw(size)
    if map_type in TARGETS and size == 8:  # programs go in by fd, so the C type is of no use
        return _Target() if map_type == MapType.CPUMAP else _Device(_Target())
    found = typed_codec(size, btf, type_id) or _raw(size)
    if map_type in TARGETS and size == 4:
        return found if map_type == MapType.CPUMAP else _Device(found)
    return per_cpu(found, cpus) if map_type in PER_CPU else found


def typed_codec(size: int, btf: Btf | None, type_id: int) -> Codec | None:
    """The codec of a C type, or ``None`` if there is none of that size."""
    if btf is None or not type_id:
        return None
    from pybpfload.btf.types import Kind
    from pybpfload.btf.values import codec

    if btf.kind(btf.strip(type_id)) == Kind.DATASEC:
        return None  # a section of variables, which have their own types
    found: Codec = codec(btf, type_id)
    return found if found.size == size else None


def chosen_codec(choice: Any, declared: Codec, btf: Btf | None) -> Codec:
    """The codec of what a user wants keys or values to be.

    Args:
        choice: The name of a type of the BTF, a class made from BTF, a type of the user's
            (:mod:`pybpfload.interop.python_types`), ``IPv4Network`` or ``IPv6Network`` for keys of
            LPM tries, or a codec.
        declared: The codec of what they are by the map's definition.
        btf: BTF of the map's object.

    Raises:
        BpfError: There is no such type, or it does not fit what is declared.
        TypeError: It is none of these.
    """
    if isinstance(choice, str):
        return _named(choice, btf)
    if not isinstance(choice, type) and hasattr(choice, "decode") and hasattr(choice, "encode"):
        found: Codec = choice
        return found
    from pybpfload.btf.records import Record

    if isinstance(choice, type) and issubclass(choice, Record):
        return choice._codec
    if isinstance(choice, type) and hasattr(choice, "subnets"):
        return _Network(choice, declared)
    from pybpfload.interop.python_types import codec_for

    return codec_for(choice, declared)  # type: ignore[arg-type]


def _named(name: str, btf: Btf | None) -> Codec:
    from pybpfload.btf.types import Kind
    from pybpfload.btf.values import codec

    if btf is None:
        raise BpfError(f"there is no BTF that has a type {name}")
    for kind in (Kind.TYPEDEF, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.INT):
        for number in btf.find_all(name, kind):
            return codec(btf, number)
    raise BpfError(f"{btf.name} has no type {name}")


def per_cpu(inner: Codec, cpus: int) -> Codec:
    """The codec of values by CPU.

    Args:
        inner: The codec of a value on one CPU.
        cpus: Number of possible CPUs.
    """
    return _PerCpu(inner, cpus)


def _raw(size: int) -> Codec:
    from pybpfload.btf.values import raw_codec

    found: Codec = raw_codec(size)
    return found


# Functions for whole keys and values


def encoder(codec: Codec, what: str) -> Callable[[Any], bytes]:
    """What makes exactly as many bytes of a value as its codec says.

    Args:
        codec: The codec.
        what: What it is, for errors: ``"map counts: key"``.

    Returns:
        A function that raises what the codec raises, and ``BpfError`` if it is too long.
    """
    from pybpfload.btf.codecs import ValueMismatchError

    size, encode_any = codec.size, codec.encode

    def encode(value: Any) -> bytes:
        try:
            raw = encode_any(value)
        except ValueMismatchError as error:
            raise error.below(f"{what} ") from None
        if len(raw) != size:  # a flexible array at the end of a struct
            raise BpfError(f"{what} has {size} bytes, not {len(raw)}")
        return raw

    packer = _packer(codec)
    if packer is None:
        return encode
    pack = packer.pack

    def encode_number(value: Any) -> bytes:
        if type(value) is int:
            try:
                return pack(value)
            except struct.error:
                pass  # negative, or the codec says what does not fit
        return encode(value)

    return encode_number


def decoder(codec: Codec) -> Callable[[bytes], Any]:
    """What makes the value of its bytes, without detours for integers."""
    packer = _packer(codec)
    if packer is None or codec.convert:  # type: ignore[attr-defined]
        return codec.decode
    unpack = packer.unpack
    return lambda raw: unpack(raw)[0]


def decode_all(codec: Codec, buffer: memoryview) -> list[Any]:
    """Decode all values that lie one behind the other in a buffer."""
    many = getattr(codec, "decode_many", None)
    if many is None:  # a codec of the user's
        decode, size = codec.decode, codec.size
        return [decode(buffer, at) for at in range(0, len(buffer), size)]
    values: list[Any] = many(buffer)
    return values


def _packer(codec: Codec) -> struct.Struct | None:
    """How :mod:`struct` reads and writes it, if it is an integer."""
    code = getattr(codec, "code", "")
    if len(code) != 1 or code not in "bBhHiIqQ":
        return None
    order: str = codec.order  # type: ignore[attr-defined]
    return struct.Struct(order + code)


# Codecs


class _Codec:
    """What the codecs here have in common."""

    name = ""
    size = 0

    def decode(self, buffer: Any, offset: int = 0) -> Any:
        raise NotImplementedError

    def decode_many(self, buffer: Any) -> list[Any]:
        decode = self.decode
        return [decode(buffer, at) for at in range(0, len(buffer), self.size)]

    def encode(self, value: Any) -> bytes:
        raise NotImplementedError


class _Descriptor(_Codec):
    """Goes in as anything with ``fileno()`` or as a descriptor's number, comes out as an id."""

    name = "fd"

    def __init__(self, size: int) -> None:
        self.size = size
        self._raw = _raw(size)

    def decode(self, buffer: Any, offset: int = 0) -> Any:
        return self._raw.decode(buffer, offset)

    def encode(self, value: Any) -> bytes:
        return self._raw.encode(value if isinstance(value, int) else _fileno(value))


class _Opened(_Descriptor):
    """Goes in as a map or program, comes out as one that was opened by its id."""

    def __init__(self, name: str, size: int, open_value: Callable[[int], Any]) -> None:
        super().__init__(size)
        self.name = name
        self._open = open_value

    def decode(self, buffer: Any, offset: int = 0) -> Any:
        return self._open(super().decode(buffer, offset))


class _Target(_Codec):
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
        try:
            number, program = value if isinstance(value, tuple) else (value, None)
            return struct.pack("=II", number, 0 if program is None else _fileno(program))
        except (struct.error, TypeError, ValueError):
            from pybpfload.btf.codecs import ValueMismatchError

            raise ValueMismatchError.of("a number, or a number and a program", value) from None


class _Device(_Codec):
    """A network device, as its index or as the codec inside says; goes in by its name too."""

    def __init__(self, inner: Codec) -> None:
        self.name = inner.name
        self.size = inner.size
        self.decode = inner.decode  # type: ignore[method-assign]
        self._encode = inner.encode

    def encode(self, value: Any) -> bytes:
        if isinstance(value, tuple) and value and isinstance(value[0], str):
            return self._encode((_interface(value[0]), *value[1:]))
        return self._encode(_interface(value) if isinstance(value, str) else value)


class _Stack(_Codec):
    """A stack trace: addresses, innermost first, up to the first 0."""

    name = "stack"

    def __init__(self, size: int) -> None:
        self.size = size

    def decode(self, buffer: Any, offset: int = 0) -> list[int]:
        frames = memoryview(buffer)[offset : offset + self.size].cast("Q").tolist()
        return frames[: frames.index(0)] if 0 in frames else frames

    def encode(self, value: Any) -> bytes:
        raise TypeError("stack traces are written by programs only")


class _BuildIdStack(_Stack):
    """A stack trace as :class:`~pybpfload.symbols.stacks.BuildIdFrame`, innermost first."""

    name = "stack of build ids"

    def decode(self, buffer: Any, offset: int = 0) -> list[Any]:
        from pybpfload.symbols.stacks import read_build_ids

        frames: list[Any] = read_build_ids(bytes(buffer[offset : offset + self.size]))
        return frames


class _Prefix(_Codec):
    """Key of an LPM trie: a prefix length and an address.

    Goes in as its BTF type or bytes, or as a network or address of :mod:`ipaddress`.
    """

    def __init__(self, size: int, inner: Codec) -> None:
        self.name = inner.name
        self.size = size
        self.decode = inner.decode  # type: ignore[method-assign]
        self.decode_many = inner.decode_many  # type: ignore[method-assign]
        self._encode = inner.encode

    def encode(self, value: Any) -> bytes:
        address = getattr(value, "network_address", getattr(value, "ip", value))
        packed = getattr(address, "packed", None)
        if packed is None:
            return self._encode(value)
        if len(packed) > self.size - 4:
            raise ValueError(f"{value} does not fit keys of {self.size - 4} bytes of address")
        network = getattr(value, "network", value)  # an interface has an address and a network
        bits = getattr(network, "prefixlen", None)
        return struct.pack(f"=I{self.size - 4}s", 8 * len(packed) if bits is None else bits, packed)


class _Network(_Prefix):
    """Keys of an LPM trie as networks of :mod:`ipaddress`; an address takes what bytes it needs."""

    def __init__(self, network: Any, declared: Codec) -> None:
        super().__init__(declared.size, declared)
        self.name = network.__name__
        self._network = network
        self._packed = len(network((0, 0)).network_address.packed)
        if declared.size < 4 + self._packed:
            raise BpfError(f"{declared.name} of {declared.size} bytes holds no {self.name}")
        self.decode = self._decode  # type: ignore[method-assign]
        self.decode_many = super(_Prefix, self).decode_many  # type: ignore[method-assign]

    def _decode(self, buffer: Any, offset: int = 0) -> Any:
        bits, address = struct.unpack_from(f"=I{self._packed}s", buffer, offset)
        return self._network((address, bits))


class CgroupStorageKey(NamedTuple):
    """Key of old control group storage: ``struct bpf_cgroup_storage_key`` (Linux 4.19).

    Attributes:
        cgroup_inode_id: The group's id: the inode number of its directory.
        attach_type: Where its program is attached (:class:`~pybpfload.uapi.AttachType`).
    """

    cgroup_inode_id: int
    attach_type: int


class _CgroupKey(_Codec):
    name = "struct bpf_cgroup_storage_key"
    size = 16

    def decode(self, buffer: Any, offset: int = 0) -> CgroupStorageKey:
        return CgroupStorageKey(*struct.unpack_from("=QI", buffer, offset))

    def encode(self, value: Any) -> bytes:
        if isinstance(value, tuple):
            return struct.pack("=QI4x", *value)
        return _raw(self.size).encode(value)


class PerCpu(list[Any]):
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


class _PerCpu(_Codec):
    """Values of a per-CPU map: each padded to a multiple of 8 bytes, one for each possible CPU."""

    def __init__(self, inner: Codec, cpus: int) -> None:
        self.name = f"{inner.name} per CPU"
        self.inner = inner
        self._cpus = cpus
        self._stride = (inner.size + 7) & -8
        self.size = self._stride * cpus

    def decode(self, buffer: Any, offset: int = 0) -> PerCpu:
        decode = self.inner.decode
        return PerCpu(
            [decode(buffer, at) for at in range(offset, offset + self.size, self._stride)]
        )

    def decode_many(self, buffer: Any) -> list[PerCpu]:
        size, stride, cpus = self.inner.size, self._stride, self._cpus
        if stride != size:
            buffer = b"".join(
                [buffer[at : at + size] for at in range(0, len(buffer), stride)]  # no padding
            )
        values = decode_all(self.inner, buffer)
        return [PerCpu(values[at : at + cpus]) for at in range(0, len(values), cpus)]

    def encode(self, value: Any) -> bytes:
        if not isinstance(value, list):
            return self.inner.encode(value).ljust(self._stride, b"\0") * self._cpus
        if len(value) != self._cpus:
            raise ValueError(
                f"a list for a per-CPU map has one value for each of the {self._cpus} possible "
                f"CPUs, not {len(value)}; anything but a list is the value on all of them"
            )
        encode = self.inner.encode
        return b"".join(encode(each).ljust(self._stride, b"\0") for each in value)


def _fileno(value: Any) -> int:
    fileno = getattr(value, "fileno", None)
    if fileno is None:
        raise TypeError(f"{value!r} has no fileno()")
    number: int = fileno()
    return number


def _interface(name: str) -> int:
    from pybpfload.kernel import door
    from pybpfload.kernel.errors import kernel_error

    number = door.interface_index(name)
    if number < 0:
        raise kernel_error(number, "if_nametoindex", f"network device {name}")
    return number
