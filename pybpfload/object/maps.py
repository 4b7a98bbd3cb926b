"""Map definitions: those of ``.maps``, told in BTF, and those made of data sections.

An integer attribute is written in C as ``int (*max_entries)[256]``: a pointer to an array whose
length is the value. A type attribute is a pointer to the type. The macros of libbpf's
``bpf_helpers.h`` hide this (libbpf ``parse_btf_map_def``).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.errors import FormatError
from pybpfload.object.spec import MapKind, MapSpec
from pybpfload.uapi import MapFlag, MapType

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.elf import reader as elf_reader
    from pybpfload.object.opener import Layout
    from pybpfload.object.spec import ObjectSpec

__all__ = ["PAGE_SIZE", "apply_declared_values", "collect", "ring_buffer_size"]

PAGE_SIZE = 4096
"""Page size assumed offline; loading corrects ring buffer sizes for the machine's own."""

_MAP_IN_MAP = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
_NAME_LENGTH = 15
_MAX_SLOTS = 1 << 20  # of declared values in all; slot numbers come from the file
_MAX_ATTRIBUTES = 64  # of one definition; there are 13, and many maps may share a definition
_MAX_VALUE = 0xFFFFFFFF


def collect(layout: Layout, spec: ObjectSpec, relaxed: bool) -> list[MapSpec]:
    """Return all maps in libbpf's order: ``.maps``, data sections, ``.kconfig``.

    Raises:
        FormatError: A definition breaks a rule; it names the map and the attribute.
    """
    found = []
    if layout.maps is not None:
        found += _user_maps(layout, spec, relaxed)
    if layout.arena is not None and layout.maps is not None:
        _place_arena_data(layout, found)
    described = _first_named(spec)
    for section, kind in layout.data:
        made = _data_map(spec, section.name, kind, section.size, described)
        if kind != MapKind.BSS:
            made.contents = bytearray(section.data)
        found.append(made)
    kconfig = [e for e in spec.externs.values() if e.kind == "kconfig"]
    if kconfig:
        size = kconfig[-1].offset + kconfig[-1].size
        found.append(_data_map(spec, ".kconfig", MapKind.KCONFIG, size, described))
    return found


# Maps defined in .maps


def _user_maps(layout: Layout, spec: ObjectSpec, relaxed: bool) -> list[MapSpec]:
    btf = spec.require_btf(".maps")
    section = _maps_section(btf)
    if section is None:
        raise FormatError(
            "BTF does not describe this section", section=".maps", hint="compile with -g"
        )
    assert layout.maps is not None
    maps = []
    seen: set[int] = set()
    for entry in section.entries:
        variable = btf[entry.type]
        name = variable.name
        if not isinstance(variable, t.Var):
            raise FormatError(f"holds {btf.describe(entry.type)}, expected a VAR", section=".maps")
        if not name:
            raise FormatError("holds a map without a name", section=".maps", offset=entry.offset)
        place: dict[str, Any] = {"section": ".maps", "offset": entry.offset, "symbol": name}
        if entry.type in seen:
            raise FormatError("the map is declared twice", **place)
        seen.add(entry.type)
        if entry.offset + entry.size > layout.maps.size:
            raise FormatError("the map lies beyond its section", **place)
        if variable.linkage != 1:
            raise FormatError("maps cannot be static", hint="remove static", **place)
        definition = btf[btf.strip(variable.type)]
        if not isinstance(definition, t.Struct):
            raise FormatError(
                f"the map is {btf.describe(definition.id)}, expected a struct",
                hint='SEC(".maps") is for map definitions; move other variables to .data',
                **place,
            )
        if definition.size > entry.size:
            raise FormatError("the map is cut short", **place)
        map_spec = MapSpec(name, offset=entry.offset)
        _Definition(btf, map_spec, name, relaxed).parse(definition)
        maps.append(map_spec)
    for second in [m for m in maps if m.type == MapType.ARENA][1:]:
        raise FormatError(
            "is a second arena, an object can have one",
            section=".maps",
            offset=second.offset,
            symbol=second.name,
            hint="put both arenas' variables into one",
        )
    return maps


def _maps_section(btf: Btf) -> t.Datasec | None:
    found = btf.find(".maps", t.Kind.DATASEC)
    section = btf[found] if found else None
    return section if isinstance(section, t.Datasec) else None


class _Definition:
    """Parser of one definition; ``where`` is the name in messages."""

    def __init__(
        self, btf: Btf, map_spec: MapSpec, where: str, relaxed: bool, inner: bool = False
    ) -> None:
        self.btf, self.map, self.where, self.relaxed, self.inner = (
            btf,
            map_spec,
            where,
            relaxed,
            inner,
        )

    def fail(self, attribute: str, message: str, hint: str | None = None) -> FormatError:
        return FormatError(
            f"attribute {attribute!r} {message}",
            section=".maps",
            offset=self.map.offset,
            symbol=self.where,
            hint=hint,
        )

    def parse(self, definition: t.Struct) -> None:
        spec = self.map
        if len(definition.members) > _MAX_ATTRIBUTES:
            raise self.fail(
                definition.members[_MAX_ATTRIBUTES].name or "<anonymous>",
                f"is one of {len(definition.members)}, at most {_MAX_ATTRIBUTES} are read",
            )
        for index, member in enumerate(definition.members):
            name = member.name
            if name == "type":
                spec.type = MapType(self.uint(member))
            elif name == "max_entries":
                spec.max_entries = self.uint(member)
            elif name == "map_flags":
                spec.flags = self.uint(member)
            elif name == "numa_node":
                spec.numa_node = self.uint(member)
            elif name == "key_size":
                spec.key_size = self.agree(name, spec.key_size, self.uint(member))
            elif name == "value_size":
                spec.value_size = self.agree(name, spec.value_size, self.uint(member))
            elif name == "key":
                type_id, size = self.type(member)
                spec.key_size, spec.key_type_id = self.agree(name, spec.key_size, size), type_id
            elif name == "value":
                type_id, size = self.type(member)
                spec.value_size, spec.value_type_id = (
                    self.agree(name, spec.value_size, size),
                    type_id,
                )
            elif name == "values":
                self.values(member, is_last=index == len(definition.members) - 1)
            elif name == "pinning":
                spec.pinning = self.uint(member)
                if self.inner:
                    raise self.fail(
                        name, "is given, but an inner map cannot be pinned", "remove it"
                    )
                if spec.pinning not in (0, 1):
                    raise self.fail(
                        name,
                        f"is {spec.pinning}, expected 0 (none) or 1 (by name)",
                        "write __uint(pinning, LIBBPF_PIN_BY_NAME), or remove it",
                    )
            elif name == "map_extra":
                spec.map_extra = self.long(member)
            elif not self.relaxed:
                raise self.fail(
                    name or "<anonymous>",
                    "is not known",
                    "correct its name, or open with relaxed_maps=True to ignore it",
                )
        if spec.type == MapType.UNSPEC:
            raise self.fail("type", "is missing", "add __uint(type, BPF_MAP_TYPE_...)")
        spec.max_entries = ring_buffer_size(spec.type, spec.max_entries, PAGE_SIZE)

    def uint(self, member: t.Member) -> int:
        pointer = self.btf[self.btf.strip(member.type)]
        array = self.btf[pointer.type] if isinstance(pointer, t.Ptr) else None
        if not isinstance(array, t.Array):
            raise self.fail(
                member.name,
                "is not a pointer to an array, as __uint() makes it",
                f"write __uint({member.name}, NUMBER)",
            )
        return array.nelems

    def long(self, member: t.Member) -> int:
        enum = self.btf[self.btf.strip(member.type)]
        if not isinstance(enum, (t.Enum, t.Enum64)):
            return self.uint(member)
        if len(enum.values) != 1:
            raise self.fail(
                member.name,
                f"is an enum of {len(enum.values)} values, expected one",
                f"write __ulong({member.name}, NUMBER)",
            )
        value = enum.values[0].value
        if isinstance(enum, t.Enum):  # always read as signed, whatever its flag says
            value = (value & 0xFFFFFFFF) - (1 << 32 if value >> 31 & 1 else 0)
        return value & 0xFFFFFFFFFFFFFFFF

    def type(self, member: t.Member) -> tuple[int, int]:
        pointer = self.btf[member.type]
        if not isinstance(pointer, t.Ptr):
            raise self.fail(
                member.name,
                "is not a pointer to a type, as __type() makes it",
                f"write __type({member.name}, TYPE)",
            )
        try:
            return pointer.type, self.btf.size(pointer.type)
        except FormatError as error:
            raise self.fail(
                member.name,
                f"has an unfit type: {error.message}",
                "give it a type that is complete where the map is defined",
            ) from None

    def agree(self, attribute: str, known: int, size: int) -> int:
        if known and known != size:
            raise self.fail(
                attribute,
                f"says {size} bytes, an earlier attribute says {known}",
                "keep one of them: the type alone gives the size too",
            )
        return size

    def values(self, member: t.Member, is_last: bool) -> None:
        spec, btf = self.map, self.btf
        if self.inner:
            raise self.fail(
                "values", "is given, but an inner map cannot have inner maps", "remove it"
            )
        if not is_last:
            raise self.fail("values", "is not the last attribute", "move it to the end")
        is_programs = spec.type == MapType.PROG_ARRAY
        if not is_programs and spec.type not in _MAP_IN_MAP:
            raise self.fail(
                "values",
                "needs a map of maps or of programs, and its 'type' before",
                "remove it, or write it after __uint(type, BPF_MAP_TYPE_PROG_ARRAY)",
            )
        if spec.value_size not in (0, 4):
            raise self.fail(
                "values",
                f"needs a value size of 4 bytes, not {spec.value_size}",
                "remove 'value' or 'value_size'",
            )
        spec.value_size = 4
        array = btf[member.type]
        if not isinstance(array, t.Array) or array.nelems:
            raise self.fail(
                "values", "is not an array of unknown length", "write __array(values, TYPE)"
            )
        pointer = btf[btf.strip(array.type)]
        pointee = btf[btf.strip(pointer.type)] if isinstance(pointer, t.Ptr) else None
        if is_programs:
            if not isinstance(pointee, t.FuncProto):
                raise self.fail(
                    "values",
                    "does not hold pointers to functions",
                    "write __array(values, int (void *))",
                )
            return
        if not isinstance(pointee, t.Struct):
            raise self.fail(
                "values",
                "does not hold pointers to map definitions",
                "write __array(values, struct { ... }) with the inner map's attributes",
            )
        spec.inner = MapSpec(f"{spec.name}.inner", offset=spec.offset)
        _Definition(btf, spec.inner, f"{self.where}.inner", self.relaxed, inner=True).parse(pointee)


def ring_buffer_size(map_type: int, size: int, page_size: int) -> int:
    """Round the size of a ring buffer up to what the kernel accepts (libbpf ``adjust_ringbuf_sz``).

    Args:
        map_type: Only RINGBUF and USER_RINGBUF are changed.
        size: In bytes.
        page_size: Of the machine it will be loaded on.

    Returns:
        ``size`` if it is 0 or a power of two times the page size, else the next larger such size
        that fits 32 bits.
    """
    if map_type not in (MapType.RINGBUF, MapType.USER_RINGBUF) or not size:
        return size
    pages, rest = divmod(size, page_size)
    if not rest and pages & (pages - 1) == 0:
        return size
    rounded = page_size
    while rounded <= size:
        rounded *= 2
    return rounded if rounded <= 0xFFFFFFFF else size


# Maps made of data sections


def data_map_name(object_name: str, section: str) -> str:
    """Name of the map of a data section (libbpf ``internal_map_name``): ``my_objec.rodata``."""
    suffix = min(max(7, len(section)), _NAME_LENGTH)
    prefix = 0 if "." in section[1:] else min(_NAME_LENGTH - suffix, len(object_name))
    name = object_name[:prefix] + section[:suffix]
    return re.sub(r"[^A-Za-z0-9_.]", "_", name[:_NAME_LENGTH])


def _first_named(spec: ObjectSpec) -> dict[str, int]:
    """Lowest type id of each name."""
    btf = spec.btf
    if btf is None:
        return {}
    return {btf.type_name(type_id): type_id for type_id in reversed(range(1, len(btf)))}


def _data_map(
    spec: ObjectSpec, section: str, kind: str, size: int, described: dict[str, int]
) -> MapSpec:
    if size > _MAX_VALUE:
        raise FormatError(
            f"its {size} bytes do not fit a map",
            section=section,
            hint="move large variables to sections of their own, such as .bss.large",
        )
    internal_name = data_map_name(spec.name, section)
    custom = (kind == MapKind.DATA and section != ".data") or (
        kind == MapKind.RODATA and section != ".rodata"
    )
    made = MapSpec(
        section if custom else internal_name,
        type=MapType.ARRAY,
        key_size=4,
        value_size=size,
        max_entries=1,
        flags=int(MapFlag.RDONLY_PROG) if kind in (MapKind.RODATA, MapKind.KCONFIG) else 0,
        kind=kind,
        section=section,
    )
    btf = spec.btf
    if btf is not None and (type_id := described.get(section, 0)):
        made.value_type_id = type_id
        datasec = btf[type_id]
        if isinstance(datasec, t.Datasec) and any(
            isinstance(v := btf[entry.type], t.Var) and v.linkage != 0 for entry in datasec.entries
        ):
            made.flags |= MapFlag.MMAPABLE
    return made


def _place_arena_data(layout: Layout, maps: list[MapSpec]) -> None:
    arena = next((m for m in maps if m.type == MapType.ARENA), None)
    assert layout.arena is not None
    if arena is None:
        raise FormatError(
            "holds arena variables but the object has no arena map",
            section=layout.arena.name,
            hint="define a map of type BPF_MAP_TYPE_ARENA, or remove __arena",
        )
    pages = -(-layout.arena.size // PAGE_SIZE)
    if pages > arena.max_entries:
        raise FormatError(
            f"needs {pages} pages, the arena has {arena.max_entries}",
            section=layout.arena.name,
            symbol=arena.name,
            hint=f"raise max_entries of {arena.name} to {pages} or more",
        )
    arena.contents = bytearray(layout.arena.data)


# Declared values


def apply_declared_values(layout: Layout, spec: ObjectSpec) -> None:
    """Read the inner maps and programs that definitions name (``bpf_object__collect_map_relos``).

    Raises:
        FormatError: A relocation hits no slot, or names something of the wrong kind.
    """
    btf = spec.btf
    if layout.maps is None or btf is None:
        return
    definitions = _definitions(spec, btf)
    slots_left = _MAX_SLOTS
    for section, target in layout.relocations:
        if target.index != layout.maps.index:
            continue
        for entry in layout.elf.relocations(section):
            place: dict[str, Any] = {"section": section.name, "offset": entry.offset}
            if entry.symbol >= len(layout.elf.symbols):
                raise FormatError(f"names symbol {entry.symbol}, which does not exist", **place)
            symbol = layout.elf.symbols[entry.symbol]
            owner, values_at = _definition_at(definitions, entry.offset)
            if owner is None:
                raise FormatError("lies in no map definition", symbol=symbol.name, **place)
            place["symbol"] = owner.name
            _check_declared(layout, spec, owner, symbol, place)
            slot, rest = divmod(entry.offset - values_at, 8)
            if values_at < 0 or slot < 0 or rest:
                raise FormatError("is not at a slot of 'values'", **place)
            slots_left -= max(slot + 1 - len(owner.values), 0)
            if slots_left < 0:
                raise FormatError(
                    f"slot {slot} is too high", hint="fill the map after loading", **place
                )
            owner.values.extend([None] * (slot + 1 - len(owner.values)))
            owner.values[slot] = symbol.name


_Definitions = list[tuple[int, int, int, MapSpec]]


def _definitions(spec: ObjectSpec, btf: Btf) -> _Definitions:
    """Return ``(start, end, start of its "values" or -1, map)`` of each definition, in order."""
    found = []
    section = _maps_section(btf)
    maps = (m for m in spec.maps.values() if m.kind == MapKind.USER)
    for entry, map_spec in zip(section.entries if section else (), maps, strict=True):
        variable = btf[entry.type]
        definition = btf[btf.strip(variable.type)] if isinstance(variable, t.Var) else None
        last = definition.members[-1:] if isinstance(definition, t.Struct) else ()
        at = -1
        if last and last[0].name == "values":
            at = entry.offset + last[0].bit_offset // 8
        found.append((entry.offset, entry.offset + entry.size, at, map_spec))
    return found


def _definition_at(definitions: _Definitions, offset: int) -> tuple[MapSpec | None, int]:
    """Return the definition that holds the 8 bytes at ``offset``, and where its values are."""
    at = bisect_right(definitions, offset, key=lambda each: each[0]) - 1
    if at >= 0:
        _, end, values_at, map_spec = definitions[at]
        if offset + 8 <= end:
            return map_spec, values_at
    return None, -1


def _check_declared(
    layout: Layout,
    spec: ObjectSpec,
    owner: MapSpec,
    symbol: elf_reader.Symbol,
    place: dict[str, Any],
) -> None:
    assert layout.maps is not None
    if owner.type in _MAP_IN_MAP:
        if symbol.shndx != layout.maps.index:
            raise FormatError(
                f"{owner.name} wants maps, {symbol.name!r} is none",
                hint=f"name maps in the values of {owner.name}",
                **place,
            )
        if owner.type == MapType.HASH_OF_MAPS and owner.key_size != 4:
            raise FormatError(
                f"declared values need a key of 4 bytes, {owner.name} has {owner.key_size}",
                hint="write __type(key, __u32), or fill the map after loading",
                **place,
            )
        if symbol.name not in spec.maps:
            raise FormatError(
                f"there is no map {symbol.name!r}",
                hint=f"name maps of this object in the values of {owner.name}",
                **place,
            )
    elif owner.type == MapType.PROG_ARRAY:
        program = spec.programs.get(symbol.name)
        if program is None:
            raise FormatError(
                f"there is no program {symbol.name!r}",
                hint="values of a prog array are programs: functions with SEC()",
                **place,
            )
        if program.section_index != symbol.shndx or program.start * 8 != symbol.value:
            raise FormatError(f"{symbol.name!r} is not at the start of that program", **place)
    else:
        raise FormatError(
            f"{owner.name} is a {owner.type.name}, which cannot have declared values",
            hint="fill the map after loading",
            **place,
        )
