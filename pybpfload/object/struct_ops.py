"""struct_ops: tables of functions for the kernel, as variables in ``.struct_ops*`` sections.

Only what the file says is read here. Matching the struct against the running kernel's happens at
load.
"""

from __future__ import annotations

from bisect import bisect_right
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

__all__ = ["StructOpsSpec", "collect", "tie_programs"]


@dataclass(slots=True)
class StructOpsSpec:
    """One struct_ops variable.

    Attributes:
        map: The map that carries it.
        type_id: Its struct in the object's BTF.
        programs: Member name -> program that implements it. Editable before loading: another
            program in its place, or ``None`` to leave the member zero.
        declared: The programs that the file names, whatever becomes of :attr:`programs`.
    """

    map: MapSpec
    type_id: int
    programs: dict[str, ProgramSpec | None] = field(default_factory=dict)
    declared: list[ProgramSpec] = field(default_factory=list)


def collect(layout: Layout, spec: ObjectSpec) -> None:
    """Add a map for each struct_ops variable.

    Raises:
        FormatError: BTF does not describe the section or the variable.
    """
    for section in layout.struct_ops:
        _collect_section(section, spec)


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
        raise FormatError(
            "BTF does not describe this section", section=section.name, hint="compile with -g"
        )
    autocreate = not section.name.startswith("?")
    # Honest variables neither repeat nor overlap; copies of all others would be large.
    seen: set[int] = set()
    left = section.size
    for entry in described.entries:
        variable = btf[entry.type]
        name = variable.name
        struct = btf[btf.strip(variable.type)] if isinstance(variable, t.Var) else None
        if not isinstance(struct, t.Struct) or not struct.name:
            raise FormatError(
                "is not a struct with a name",
                section=section.name,
                offset=entry.offset,
                symbol=name,
                hint="declare it as the kernel's struct, such as struct tcp_congestion_ops",
            )
        if entry.offset + struct.size > section.size:
            raise FormatError("lies beyond its section", section=section.name, symbol=name)
        left -= struct.size
        if left < 0 or entry.type in seen:
            raise FormatError("overlaps another variable", section=section.name, symbol=name)
        seen.add(entry.type)
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
            value_type_id=struct.id,
            autocreate=autocreate,
        )
        made.contents = bytearray(section.data[entry.offset : entry.offset + struct.size])
        spec.maps.add(name, made, section.name)
        spec.struct_ops.append(StructOpsSpec(made, struct.id))
        # libbpf drops the "?" from its working name after the first variable, so only that one is
        # off by default.
        autocreate = True


def tie_programs(layout: Layout, spec: ObjectSpec) -> None:
    """Tie the function pointers of struct_ops variables to programs, whose types are known by now.

    Raises:
        FormatError: A relocation is not at a pointer to a function, or not to a struct_ops program.
    """
    finder = Finder(spec.functions)
    names = {section.index: section.name for section in layout.struct_ops}
    members: dict[int, dict[int, t.Member]] = {}
    variables: dict[str, list[StructOpsSpec]] = {}
    for each in spec.struct_ops:
        variables.setdefault(each.map.section, []).append(each)
    for section, target in layout.relocations:
        if target.index not in names:
            continue
        for entry in layout.elf.relocations(section):
            place: dict[str, Any] = {"section": section.name, "offset": entry.offset}
            if entry.symbol >= len(layout.elf.symbols):
                raise FormatError(f"names symbol {entry.symbol}, which does not exist", **place)
            symbol = layout.elf.symbols[entry.symbol]
            place["symbol"] = symbol.name
            owner = _owner(variables.get(names[target.index], []), entry.offset)
            member = _member(spec, owner, entry.offset, members) if owner else None
            if owner is None or member is None:
                raise FormatError("is not at a member of a struct_ops variable", **place)
            if symbol.shndx >= elf_reader.SHN_LORESERVE or symbol.value % 8:
                raise FormatError("does not name the start of a function", **place)
            found = finder.by_index(symbol.shndx, symbol.value // 8)
            if found is None or found[0].prog_type != ProgType.STRUCT_OPS:
                raise FormatError(
                    f"member {member!r} is not set to a struct_ops program",
                    hint='give that function a section: SEC("struct_ops/...")',
                    **place,
                )
            owner.programs[member] = found[0]
            owner.declared.append(found[0])


def _owner(variables: list[StructOpsSpec], offset: int) -> StructOpsSpec | None:
    """Return the variable that holds an offset; they are in the order of their offsets."""
    at = bisect_right(variables, offset, key=lambda each: each.map.offset) - 1
    if at >= 0 and offset - variables[at].map.offset < variables[at].map.value_size:
        return variables[at]
    return None


def _member(
    spec: ObjectSpec, owner: StructOpsSpec, offset: int, known: dict[int, dict[int, t.Member]]
) -> str | None:
    """Name of the pointer to a function at an offset; ``known`` keeps members by bit offset."""
    btf = spec.require_btf("struct_ops")
    members = known.get(owner.type_id)
    if members is None:
        struct = btf[owner.type_id]
        assert isinstance(struct, t.Struct)
        members = known[owner.type_id] = {m.bit_offset: m for m in reversed(struct.members)}
    member = members.get(8 * (offset - owner.map.offset))
    pointer = btf[btf.strip(member.type)] if member is not None else None
    if not isinstance(pointer, t.Ptr) or not isinstance(btf[btf.strip(pointer.type)], t.FuncProto):
        return None
    return member.name if member is not None else None
