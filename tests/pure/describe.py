"""What an object says, as lines of text that can be read, compared and kept in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.errors import BpfError
from pybpfload.uapi import MapFlag

if TYPE_CHECKING:
    from pybpfload.object import MapSpec, ObjectSpec


LINKAGES = {0: "static", 1: "global", 2: "extern"}


def describe(spec: ObjectSpec) -> list[str]:
    """Everything about an object that does not depend on its byte order."""
    lines = [f"license {spec.license!r}"]
    for name, program in spec.programs.items():
        off = "" if program.autoload else " off"
        flags = f" flags {int(program.flags):#x}" if program.flags else ""
        lines.append(
            f"program {name} SEC({program.section!r}) {program.prog_type.name}"
            f"/{int(program.expected_attach_type)}{flags}{off}"
        )
    for function in spec.subprograms:
        linkage = "hidden" if function.is_hidden else "global" if function.is_global else "static"
        lines.append(f"subprogram {function.name} {linkage}")
    for name, each in spec.maps.items():
        lines.append(f"map {name} {_map(spec, each)}")
        if each.inner is not None:
            lines.append(f"    inner {_map(spec, each.inner)}")
        if each.values:
            lines.append(f"    values {' '.join(value or '-' for value in each.values)}")
    for name, variable in spec.variables.items():
        try:
            value = repr(variable.value)
        except BpfError:
            value = "?"
        linkage = LINKAGES.get(variable.linkage, "damaged")
        value = value if len(value) < 60 else value[:57] + "..."
        place = f"{variable.section}+{variable.offset} {variable.size} bytes {linkage}"
        lines.append(f"variable {name} {place} = {value}")
    for name, extern in spec.externs.items():
        weak = " weak" if extern.weak else ""
        detail = " typed" if extern.is_typed else ""
        if extern.kind == "kconfig":
            detail = f" {extern.kconfig_type} .kconfig+{extern.offset} {extern.size} bytes"
        lines.append(f"extern {name} {extern.kind}{weak}{detail}")
    for each in spec.struct_ops:
        tied = " ".join(f"{m}={p.name}" for m, p in each.programs.items() if p is not None)
        lines.append(f"struct_ops {each.map.name} {tied}")
    return lines


def _map(spec: ObjectSpec, each: MapSpec) -> str:
    words = [f"{each.type.name} key {each.key_size} value {each.value_size} x{each.max_entries}"]
    if each.flags:
        words.append(f"flags {' '.join(f.name or '?' for f in MapFlag if f & each.flags)}")
    numbers = {label: getattr(each, label) for label in ("numa_node", "map_extra", "pinning")}
    words += [f"{label} {value:#x}" for label, value in numbers.items() if value]
    btf = spec.btf
    for label, type_id in (("key", each.key_type_id), ("value", each.value_type_id)):
        if type_id and btf is not None:
            words.append(f"{label} type {btf.describe(type_id).rpartition(' ')[0]}")
    return " ".join(words + ([] if each.autocreate else ["off"]))
