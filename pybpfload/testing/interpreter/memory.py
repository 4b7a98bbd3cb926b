"""Address space of the interpreter: named regions with bounds.

Every thing that a program can point at is a region of its own: a stack frame, a map's value, a
packet, a kernel object. An access that is not wholly inside one region is a :class:`FaultError`
that names the region, so running over the end of a map's value is noticed even where the kernel has
the next one behind it.

Regions start at multiples of 1 MiB, with at least that much of nothing between them. So a lookup in
a dict finds the region of an address, and running over either end of one never reaches another.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pybpfload.btf import types as t
from pybpfload.btf.codecs import ValueMismatchError
from pybpfload.btf.records import BitsCodec
from pybpfload.btf.values import codec
from pybpfload.errors import BpfError
from pybpfload.testing.interpreter.errors import FaultError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pybpfload.btf import Btf
    from pybpfload.isa.insn import ByteOrder

__all__ = ["SHIFT", "Memory", "Region"]

SHIFT: Final = 20
"""Regions start at multiples of ``1 << SHIFT`` bytes."""

_MASK64: Final = 0xFFFFFFFFFFFFFFFF
# Where regions are put, as on x86-64. Packets lie below 4 GiB, so that the 32-bit fields of
# contexts that stand for pointers (xdp_md.data) can hold their addresses as they are.
_FIRST: Final = {"kernel": 0xFFFF888000000000, "user": 0x7F0000000000, "packet": 0x10000000}
_END: Final = {"kernel": 1 << 64, "user": 0x800000000000, "packet": 1 << 32}
_CODES: Final = {1: "Bb", 2: "Hh", 4: "Ii", 8: "Qq"}
_OVERHEAD: Final = 128  # bytes that a region is counted for besides its content
_NO_BYTES: Final = bytearray()


class Region:
    """Some memory.

    Attributes:
        base: Its address.
        data: Its bytes. Empty for things that have an address and no content to be read.
        name: What it is, for messages: ``"map counts"``.
        space: ``"kernel"``, ``"user"`` or ``"packet"``.
        writable: Whether programs may write to it.
        owner: What it stands for, such as a map; ``None`` for plain memory.
    """

    __slots__ = ("base", "data", "name", "owner", "space", "writable")

    def __init__(
        self, base: int, data: bytearray, name: str, space: str, writable: bool, owner: Any
    ) -> None:
        self.base = base
        self.data = data
        self.name = name
        self.space = space
        self.writable = writable
        self.owner = owner

    def __repr__(self) -> str:
        return f"<Region {self.name}: {len(self.data)} bytes at {self.base:#x}>"


class Memory:
    """Regions by address, and typed objects in them.

    Args:
        byteorder: ``"<"`` or ``">"``: of the machine that the programs are for.
        limit: Greatest number of bytes in all regions, 128 more counted for each.
        unmapped_reads: What a load from an address in no region does: ``"error"``, or ``"zero"``
            for 0, as the kernel does for loads through typed kernel pointers (programs of
            tp_btf, fentry, lsm, iter, ...; ``PROBE_MEM`` in ``kernel/bpf/verifier.c``). Stores
            and accesses across the end of a region are errors either way.

    Attributes:
        byteorder, limit, unmapped_reads: As above.
        used: How much of ``limit`` is used.
    """

    def __init__(
        self,
        byteorder: ByteOrder = "<",
        *,
        limit: int = 64 << 20,
        unmapped_reads: str = "error",
    ) -> None:
        if byteorder not in _SWAPPED:
            raise ValueError(f'byteorder is {byteorder!r}, expected "<" or ">"')
        if unmapped_reads not in ("error", "zero"):
            raise ValueError(f'unmapped_reads is {unmapped_reads!r}, expected "error" or "zero"')
        self.byteorder: ByteOrder = byteorder
        self.limit = limit
        self.unmapped_reads = unmapped_reads
        self.used = 0
        self._slots: dict[int, Region] = {}
        self._retired: list[Region] = []
        self._next = dict(_FIRST)
        self._readers: dict[tuple[int, bool], Callable[[int], int]] = {}
        self._writers: dict[int, Callable[[int, int], None]] = {}

    # Regions

    def allocate(
        self,
        data: int | bytes | bytearray | memoryview,
        name: str,
        *,
        space: str = "kernel",
        writable: bool = True,
        owner: Any = None,
    ) -> Region:
        """Make a region.

        Args:
            data: Its content, copied; or a number of zero bytes.
            name: What it is, for messages.
            space: ``"kernel"``, ``"user"`` (what only ``bpf_probe_read_user`` and its like can
                read), or ``"packet"`` (addresses of 32 bits).
            writable: Whether programs may write to it.
            owner: What it stands for.

        Raises:
            FaultError: It would exceed :attr:`limit`.
        """
        size = data if isinstance(data, int) else len(data)
        slots = size >> SHIFT  # the place right behind it counts
        base = self._next[space]
        following = base + (slots + 2 << SHIFT)  # one slot stays empty
        self.charge(size + _OVERHEAD, name)
        if following >= _END[space]:
            raise FaultError(f"there are no addresses left for {name}")
        self._next[space] = following
        region = Region(base, bytearray(data), name, space, writable, owner)
        first = base >> SHIFT
        for slot in range(first, first + slots + 1):
            self._slots[slot] = region
        return region

    def charge(self, size: int, name: str) -> None:
        """Count bytes that are kept somewhere else, or with a negative size no longer are.

        Raises:
            FaultError: They would exceed :attr:`limit`.
        """
        if size > 0 and self.used + size > self.limit:
            raise FaultError(f"{name}: {size} bytes exceed the {self.limit} bytes of memory")
        self.used += size

    def release(self, region: Region) -> None:
        """Take a region away. Its address is not used again, or dangling pointers would go unseen.

        There are too few addresses for packets: there the last one is.
        """
        first = region.base >> SHIFT
        slots = len(region.data) >> SHIFT
        for slot in range(first, first + slots + 1):
            del self._slots[slot]
        self.charge(-len(region.data) - _OVERHEAD, region.name)
        region.data = _NO_BYTES
        if region.space == "packet" and self._next["packet"] == region.base + (slots + 2 << SHIFT):
            self._next["packet"] = region.base

    def retire(self, region: Region) -> None:
        """Take a region away at the end of the run, as RCU does: pointers stay good until then."""
        self._retired.append(region)

    def sweep(self) -> None:
        """Take away what was retired."""
        retired, self._retired = self._retired, []
        for region in retired:
            self.release(region)

    def find(self, address: int) -> Region | None:
        """Return the region that an address points into or right behind, or ``None``."""
        region = self._slots.get(address >> SHIFT)
        if region is None or address - region.base > len(region.data):
            return None
        return region

    def owner(self, address: int) -> Any:
        """Return what stands at an address, such as a map; ``None`` if nothing does."""
        region = self._slots.get(address >> SHIFT)
        return region.owner if region is not None and region.base == address else None

    # Bytes

    def read(self, address: int, size: int) -> bytes:
        """Return bytes.

        Raises:
            FaultError: They are not all in one region.
        """
        region = self._slots.get(address >> SHIFT)
        if region is not None and size >= 0:
            start = address - region.base
            if start + size <= len(region.data):
                return bytes(region.data[start : start + size])
        if not size:
            return b""
        raise FaultError(self._bad(address, size, "read"))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes as a program would.

        Raises:
            FaultError: They are not all in one region, or it is read-only.
        """
        region = self._slots.get(address >> SHIFT)
        if region is not None and region.writable:
            start = address - region.base
            if start + len(data) <= len(region.data):
                region.data[start : start + len(data)] = data
                return
        if data:
            raise FaultError(self._bad(address, len(data), "write"))

    def clear(self, address: int, size: int) -> None:
        """Write zeros as a program would.

        Raises:
            FaultError: They are not all in one region, or it is read-only.
        """
        region = self._slots.get(address >> SHIFT)
        if region is None or size > len(region.data):
            raise FaultError(self._bad(address, size, "write"))
        self.write(address, bytes(size))

    def text(self, address: int, limit: int = 4096) -> bytes:
        """Return the bytes up to the first NUL, ``limit`` at most.

        Raises:
            FaultError: The region ends before.
        """
        region = self.find(address)
        if region is None:
            raise FaultError(self._bad(address, 1, "read"))
        start = address - region.base
        found = bytes(region.data[start : start + limit])
        text, nul, _ = found.partition(b"\0")
        if not nul and len(found) < limit:
            raise FaultError(f"text at {address:#x} has no end in {region.name}")
        return text

    def set_number(self, region: Region, offset: int, size: int, number: int) -> None:
        """Write a number into a region, which need not be writable."""
        order: Any = "little" if self.byteorder == "<" else "big"
        region.data[offset : offset + size] = number.to_bytes(size, order)

    def reader(self, size: int, signed: bool = False) -> Callable[[int], int]:
        """Return a function that loads a number of 1, 2, 4 or 8 bytes, unsigned 64 bits wide.

        Args:
            size: In bytes.
            signed: Whether the number is sign-extended to 64 bits.
        """
        known = self._readers.get((size, signed))
        if known is not None:
            return known
        slots = self._slots
        unpack = struct.Struct(self.byteorder + _CODES[size][signed]).unpack_from

        def load(address: int) -> int:
            region = slots.get(address >> SHIFT)
            if region is None:
                if self.unmapped_reads == "zero":
                    return 0
                raise FaultError(self._bad(address, size, "read"))
            try:
                number: int = unpack(region.data, address - region.base)[0]
            except struct.error:
                raise FaultError(self._bad(address, size, "read")) from None
            return number

        def load_signed(address: int) -> int:
            return load(address) & _MASK64

        made = load_signed if signed else load
        self._readers[size, signed] = made
        return made

    def writer(self, size: int) -> Callable[[int, int], None]:
        """Return a function that stores the low 1, 2, 4 or 8 bytes of a number at an address."""
        known = self._writers.get(size)
        if known is not None:
            return known
        slots = self._slots
        pack = struct.Struct(self.byteorder + _CODES[size][0]).pack_into
        mask = (1 << 8 * size) - 1

        def store(address: int, value: int) -> None:
            region = slots.get(address >> SHIFT)
            if region is None or not region.writable:
                raise FaultError(self._bad(address, size, "write"))
            try:
                pack(region.data, address - region.base, value & mask)
            except struct.error:
                raise FaultError(self._bad(address, size, "write")) from None

        self._writers[size] = store
        return store

    def _bad(self, address: int, size: int, verb: str) -> str:
        """Say why an access is not possible."""
        what = f"{verb}s {size} byte{'s' * (size != 1)} at {address:#x}"
        region = self._slots.get(address >> SHIFT)
        if region is None:
            if address < 4096:
                return f"{what}, a null pointer"
            region = self._slots.get((address >> SHIFT) + 1)
            if region is None or region.base - address > 4096:
                return f"{what}, where nothing is"
            return f"{what}, {region.base - address} bytes before {region.name}"
        start = address - region.base
        where = f"{what}, byte {start} of {region.name}"
        if start + size > len(region.data) or size < 0:
            return f"{where}, which has {len(region.data)}"
        return f"{where}, which is read-only"

    # Typed values

    def place(self, btf: Btf, type: int | str, value: Any = None, **options: Any) -> int:  # noqa: A002
        """Make an object of a C type, laid out by BTF, and the objects that it points to.

        Args:
            btf: The types of the kernel (or of anything) whose memory this is.
            type: Id or name of the type.
            value: As :mod:`pybpfload.btf.values` has it; what is not given is zero. Fields of
                anonymous members are given as if they were the struct's own. A pointer is an
                address, ``None``, or what it points to: an object of that type is placed too
                (``str`` for ``char *``, ``bytes`` for any).
            **options: As for :meth:`allocate`.

        Returns:
            The address.

        Raises:
            ValueMismatchError: The value does not fit the type.
            FormatError: The type has no values.
            BpfError: There is no such type, or its byte order is another.
        """
        type_id = self._type_id(btf, type)
        options.setdefault("name", btf.describe(type_id) if isinstance(type, int) else str(type))
        flexible = len(value) if isinstance(value, (bytes, bytearray)) else 0
        region = self.allocate(max(btf.size(type_id), flexible), **options)
        try:
            self._fill(btf, type_id, value, region, 0)
        except ValueMismatchError as error:
            raise error.below(btf.type_name(type_id)) from None
        return region.base

    def place_bytes(self, data: bytes, name: str = "bytes", **options: Any) -> int:
        """Place plain bytes, as :meth:`allocate` takes them, and return their address."""
        return self.allocate(data, name, **options).base

    def set(self, btf: Btf, type: int | str, address: int, value: Any) -> None:  # noqa: A002
        """Write a value into an object, as :meth:`place` does; what is not given stays.

        Raises:
            FaultError: There is nothing at that address.
        """
        type_id = self._type_id(btf, type)
        region = self.find(address)
        if region is None or address - region.base + btf.size(type_id) > len(region.data):
            raise FaultError(self._bad(address, btf.size(type_id), "write"))
        try:
            self._fill(btf, type_id, value, region, address - region.base)
        except ValueMismatchError as error:
            raise error.below(btf.type_name(type_id)) from None

    def get(self, btf: Btf, type: int | str, address: int) -> Any:  # noqa: A002
        """Read a value of a C type, as :mod:`pybpfload.btf.values` has it.

        Raises:
            FaultError: There is nothing, or too little, at that address.
            FormatError: The type has no values.
        """
        type_id = self._type_id(btf, type)
        found = codec(btf, type_id)
        return found.decode(self.read(address, found.size))

    def _type_id(self, btf: Btf, type: int | str) -> int:  # noqa: A002
        if btf.byteorder != self.byteorder:
            raise BpfError(f"{btf.name} has byte order {btf.byteorder}, memory {self.byteorder}")
        if isinstance(type, int):
            return type
        name = type.removeprefix("struct ").removeprefix("union ").removeprefix("enum ")
        for kind in (t.Kind.STRUCT, t.Kind.UNION, t.Kind.TYPEDEF, t.Kind.INT, None):
            found = btf.find(name, kind)
            if found > 0:
                return found
        raise BpfError(f"{btf.name} has no type {type}")

    def _fill(self, btf: Btf, type_id: int, value: Any, region: Region, offset: int) -> None:
        """Write a value, and place what its pointers point to.

        Raises:
            ValueMismatchError: It does not fit; its path begins below the type.
        """
        core_id = btf.strip(type_id)
        core = btf[core_id]
        if value is None:
            return
        if isinstance(core, t.Composite) and isinstance(value, Mapping):
            for name, inner in value.items():
                self._fill_member(btf, core, str(name), inner, region, offset)
        elif isinstance(core, t.Array) and isinstance(value, (list, tuple)):
            size = btf.size(core.type)
            end = offset + size * len(value)
            if (core.nelems and len(value) > core.nelems) or end > len(region.data):
                self._grow(core, region, end)
            for index, inner in enumerate(value):
                try:
                    self._fill(btf, core.type, inner, region, offset + index * size)
                except ValueMismatchError as error:
                    raise error.below(f"[{index}]") from None
        else:
            if isinstance(core, t.Ptr) and not isinstance(value, int):
                value = self._pointee(btf, core, value, region.space)
            found = codec(btf, type_id)
            try:
                raw = found.encode(value)
            except ValueMismatchError as error:
                error.path = error.path.removeprefix(found.label)
                raise
            region.data[offset : offset + len(raw)] = raw

    def _grow(self, core: t.Array, region: Region, end: int) -> None:
        """Make room for the elements of a flexible array at the end of a region."""
        if core.nelems or end >= 1 << SHIFT:
            raise BpfError(f"too many elements for an array of {core.nelems}")
        self.charge(end - len(region.data), region.name)
        region.data.extend(bytes(end - len(region.data)))

    def _fill_member(
        self, btf: Btf, top: t.Composite, name: str, value: Any, region: Region, offset: int
    ) -> None:
        found = _member(btf, top, name)
        if found is None:
            raise BpfError(f"{btf.describe(top.id)} has no member {name}")
        member, bit = found
        width = member.bitfield_size
        core = btf[btf.strip(member.type)]
        if not width and isinstance(core, t.Int) and core.bits != 8 * core.size:
            width, bit = core.bits, bit + core.offset  # before Linux 4.20
        try:
            if width:
                bits = BitsCodec(codec(btf, member.type), bit % 8, width)
                bits._write(region.data, offset + bit // 8, value)
            else:
                self._fill(btf, member.type, value, region, offset + bit // 8)
        except ValueMismatchError as error:
            raise error.below(f".{name}") from None

    def _pointee(self, btf: Btf, pointer: t.Ptr, value: Any, space: str) -> int:
        """Place what a pointer points to, and return its address."""
        target = btf[btf.strip(pointer.type)] if pointer.type else None
        if isinstance(value, str):
            return self.place_bytes(value.encode() + b"\0", f"text {value!r}", space=space)
        if isinstance(value, (bytes, bytearray)):
            return self.place_bytes(bytes(value), "bytes", space=space)
        if target is None:
            raise BpfError(f"a void pointer takes an address or bytes, not {value!r}")
        if isinstance(value, list):  # several of them, one behind the other
            size = btf.size(pointer.type)
            region = self.allocate(size * len(value), btf.describe(target.id), space=space)
            for index, inner in enumerate(value):
                self._fill(btf, pointer.type, inner, region, index * size)
            return region.base
        try:
            return self.place(btf, pointer.type, value, space=space)
        except ValueMismatchError as error:
            below = error.path.removeprefix(btf.type_name(pointer.type))
            error.path = f"->{below[1:]}" if below.startswith(".") else below
            raise


_SWAPPED: Final = {"<": ">", ">": "<"}


def _member(btf: Btf, top: t.Composite, name: str) -> tuple[t.Member, int] | None:
    """Find a member, also inside anonymous ones, and the bit where it starts."""
    pending = [(top, 0)]
    for composite, start in pending:
        for member in composite.members:
            if member.name == name:
                return member, start + member.bit_offset
            inner = btf[btf.strip(member.type)]
            if not member.name and isinstance(inner, t.Composite):
                pending.append((inner, start + member.bit_offset))
    return None
