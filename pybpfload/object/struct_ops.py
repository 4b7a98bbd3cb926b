"""struct_ops: tables of functions for the kernel, as variables in ``.struct_ops*`` sections.

Only what the file says is read here. Matching the struct against the running kernel's happens at
load.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.elf import reader as elf_reader
from pybpfload.errors import FormatError
from pybpfload.object.functions import Finder
from pybpfload.object.spec import MapKind, MapSpec
from pybpfload.uapi import MapFlag, MapType, ProgType

if TYPE_CHECKING:
    from pybpfload.elf.reader import Section
    from pybpfload.object.opener import Layout
    from pybpfload.object.spec import ObjectSpec, ProgramSpec

__all__ = ["StructOpsSpec", "collect"]


@dataclass(slots=True)
class StructOpsSpec:
    """One struct_ops variable.

    Attributes:
        map: The map that carries it.
        type_id: Its struct in the object's BTF.
        programs: Member name -> program that implements it; editable before loading.
    """

    map: MapSpec
    type_id: int
    programs: dict[str, ProgramSpec | None] = field(default_factory=dict)


def collect(layout: Layout, spec: ObjectSpec) -> None:
    """Add a map for each struct_ops variable and tie its function pointers to programs.

    Raises:
        FormatError: BTF does not describe the section or the variable, or a pointer is not to a
            struct_ops program.
    """
    for section in layout.struct_ops:
        _collect_section(section, spec)
    if layout.struct_ops:
        _tie_programs(layout, spec)


def _collect_section(section: Section, spec: ObjectSpec) -> None:
    btf = spec.require_btf(section.name)
    described = next(
        (
            s
            for i in btf.find_all(section.name, t.Kind.DATASEC)
            if isinstance(s := btf[i], t.Datasec)
        ),
        None,
    )
    if described is None:
        raise FormatError("BTF does not describe this section", section=section.name)
    autocreate = not section.name.startswith("?")
    for entry in described.entries:
        variable = btf[entry.type]
        name = variable.name
        struct = btf[btf.strip(variable.type)] if isinstance(variable, t.Var) else None
        if not isinstance(struct, t.Struct) or not struct.name:
            raise FormatError("is not a struct with a name", section=section.name, symbol=name)
        if entry.offset + struct.size > section.size:
            raise FormatError("lies beyond its section", section=section.name, symbol=name)
        made = MapSpec(
            name,
            type=MapType.STRUCT_OPS,
            key_size=4,
            value_size=struct.size,
            max_entries=1,
            flags=int(MapFlag.LINK) if section.name.endswith(".link") else 0,
            kind=MapKind.STRUCT_OPS,
            section=section.name,
            offset=entry.offset,
            contents=bytearray(section.data[entry.offset : entry.offset + struct.size]),
            autocreate=autocreate,
        )
        spec.maps[name if name not in spec.maps else f"{name}@{section.name}"] = made
        spec.struct_ops.append(StructOpsSpec(made, struct.id))
        # libbpf drops the "?" from its working name after the first variable, so only that one is
        # off by default.
        autocreate = True


def _tie_programs(layout: Layout, spec: ObjectSpec) -> None:
    finder = Finder(spec.functions)
    names = {section.index: section.name for section in layout.struct_ops}
    for section, target in layout.relocations:
        if target.index not in names:
            continue
        for entry in layout.elf.relocations(section):
            place: dict[str, Any] = {"section": section.name, "offset": entry.offset}
            if entry.symbol >= len(layout.elf.symbols):
                raise FormatError(f"names symbol {entry.symbol}, which does not exist", **place)
            symbol = layout.elf.symbols[entry.symbol]
            place["symbol"] = symbol.name
            owner = _owner(spec, names[target.index], entry.offset)
            member = _member(spec, owner, entry.offset) if owner else None
            if owner is None or member is None:
                raise FormatError("is not at a member of a struct_ops variable", **place)
            if symbol.shndx >= elf_reader.SHN_LORESERVE or symbol.value % 8:
                raise FormatError("does not name the start of a function", **place)
            found = finder.by_index(symbol.shndx, symbol.value // 8)
            if found is None or found[0].prog_type != ProgType.STRUCT_OPS:
                raise FormatError(f"member {member!r} is not set to a struct_ops program", **place)
            owner.programs[member] = found[0]


def _owner(spec: ObjectSpec, section: str, offset: int) -> StructOpsSpec | None:
    return next(
        (
            s
            for s in spec.struct_ops
            if s.map.section == section and 0 <= offset - s.map.offset < s.map.value_size
        ),
        None,
    )


def _member(spec: ObjectSpec, owner: StructOpsSpec, offset: int) -> str | None:
    btf = spec.require_btf("struct_ops")
    struct = btf[owner.type_id]
    assert isinstance(struct, t.Struct)
    for member in struct.members:
        if member.bit_offset == 8 * (offset - owner.map.offset):
            pointer = btf[btf.strip(member.type)]
            is_function = isinstance(pointer, t.Ptr) and isinstance(
                btf[btf.strip(pointer.type)], t.FuncProto
            )
            return member.name if is_function else None
    return None
