"""What is in an object, as plain values."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import Declarer, define, room_for
from pybpfload.btf.values import codec
from pybpfload.check.asks import least, object_asks
from pybpfload.cli.values import plain
from pybpfload.errors import BpfError, FormatError
from pybpfload.kernel.since import version_pair
from pybpfload.object.spec import MapKind
from pybpfload.relocate.core.access import parse_spec
from pybpfload.relocate.core.decision import CoreKind, Failure
from pybpfload.uapi import MapFlag, MapType, ProgFlag, name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybpfload.btf import Btf
    from pybpfload.check.asks import Asks
    from pybpfload.check.needs import Need
    from pybpfload.object.spec import ExternSpec, MapSpec, ObjectSpec, ProgramSpec, VariableSpec

__all__ = ["describe"]

_BYTE_ORDERS = {"<": "little", ">": "big"}

_MAX_VALUES = 1 << 20  # bytes of variables, and
_MAX_TEXT = 1 << 20  # characters of definitions that are shown: files may claim anything


def describe(spec: ObjectSpec) -> dict[str, Any]:
    """Describe an object in plain values, as ``inspect --json`` prints them."""
    asks, map_needs, problem = object_asks(spec)
    definitions = _Definitions(spec.btf)
    notes = list(spec.notes)
    if problem:
        notes.append(f"the programs cannot be put together: {problem}")
    kinds = Counter(record.kind for f in spec.functions for _, _, record in f.core_relos)
    maps = [_map(m, definitions) for m in spec.maps.values()]
    variables = list(_variables(spec, definitions, notes))
    accesses = _Accesses(spec.btf)
    return {
        "object": spec.path,
        "name": spec.name,
        "byteorder": _BYTE_ORDERS[spec.byteorder],
        "license": spec.license,
        "kernel_version": spec.kernel_version,
        "needs": _needs(spec, asks, map_needs),
        "programs": [_program(p, asks.get(key), accesses) for key, p in spec.programs.items()],
        "subprograms": [_subprogram(f, accesses) for f in spec.subprograms],
        "maps": maps,
        "variables": variables,
        "externs": [_extern(e, definitions) for e in spec.externs.values()],
        "core_relocations": {
            "count": sum(kinds.values()),
            "kinds": {_core_kind(kind): count for kind, count in sorted(kinds.items())},
        },
        "btf": _btf(spec.btf),
        "definitions": definitions.texts,
        "notes": notes,
    }


class _Definitions:
    """C definitions of the structs, unions and enums that something is made of."""

    def __init__(self, btf: Btf | None) -> None:
        self.btf = btf
        self._declarer = Declarer(btf, room_for(btf)) if btf is not None else None
        self._size = 0
        self._seen: set[int] = set()
        self.texts: dict[str, str] = {}

    def name(self, type_id: int) -> str | None:
        """C text of a type, which is defined too."""
        btf = self.btf
        if btf is None or not type_id:
            return None
        self._add(btf, type_id)
        return self.text(type_id)

    def declare(self, type_id: int, name: str) -> str | None:
        """C declaration of a variable, whose type is defined too.

        A pointer is followed: ``struct event *unused;`` is how C authors put a type into BTF.
        """
        btf = self.btf
        if btf is None or not type_id:
            return None
        found = btf[btf.strip(type_id)]
        self._add(btf, found.type if isinstance(found, t.Ptr) else type_id)
        return self.text(type_id, name)

    def text(self, type_id: int, name: str = "") -> str | None:
        """C declaration of something of a type, which is not defined."""
        return self._declarer.text(type_id, name) if self._declarer else None

    def define(self, name: str) -> None:
        """Define a type by its name in C: ``struct event``."""
        keyword, _, bare = name.rpartition(" ")
        kinds = {"struct": t.Kind.STRUCT, "union": t.Kind.UNION}
        if self.btf is not None and (found := self.btf.find(bare, kinds.get(keyword))):
            self._add(self.btf, found)

    def _add(self, btf: Btf, type_id: int) -> None:
        waiting = [type_id]
        while waiting and self._size < _MAX_TEXT:
            core = btf.strip(waiting.pop())
            found = btf[core]
            if core in self._seen or not core:
                continue
            self._seen.add(core)
            if isinstance(found, t.Array):
                waiting.append(found.type)
            elif isinstance(found, (t.Composite, t.Enum, t.Enum64)):
                if isinstance(found, t.Composite):
                    waiting += [member.type for member in reversed(found.members)]
                name = self.text(core)
                if found.name and name and name not in self.texts:
                    self.texts[name] = define(btf, core, declarer=self._declarer)
                    self._size += len(self.texts[name])


class _Accesses:
    """What CO-RE relocations ask of the kernel's types, in words."""

    def __init__(self, btf: Btf | None) -> None:
        self.btf = btf
        self._left = _MAX_TEXT

    def of(self, function: ProgramSpec) -> list[dict[str, Any]]:
        """Those of a function, each once with how often, in the order of the code."""
        records = sorted(function.core_relos, key=lambda entry: entry[1])
        counts = Counter((r.kind, r.type_id, r.access_str) for _, _, r in records)
        return [
            {"kind": _core_kind(kind), **self._words(kind, type_id, access), "count": count}
            for (kind, type_id, access), count in counts.items()
        ]

    def _words(self, kind: int, type_id: int, access: str) -> dict[str, str | None]:
        unknown: dict[str, str | None] = {"type": None, "path": None}
        if self.btf is None or kind not in CoreKind._value2member_map_ or self._left < 0:
            return unknown
        try:
            local = parse_spec(self.btf, type_id, access, CoreKind(kind))
            words: dict[str, str | None] = {"type": local.type_name, "path": local.path}
        except (Failure, FormatError):  # what is wrong is told by whoever relocates it
            return unknown
        self._left -= sum(len(word or "") for word in words.values())
        return words


def _needs(
    spec: ObjectSpec, asks: dict[str, Asks], map_needs: list[tuple[str, Need]]
) -> dict[str, Any]:
    """The least kernel for what is loaded, what asks for it, and what is optional."""
    whose: dict[Need, list[str]] = {}
    for name, need in map_needs:
        if spec.maps[name].autocreate:
            whose.setdefault(need, []).append(f"map {name}")
    wanted = [(key, found) for key, found in asks.items() if spec.programs[key].autoload]
    for key, found in wanted:
        for need in found.needed:
            whose.setdefault(need._replace(insn=-1), []).append(f"program {key}")
    version = least(whose)
    optional = {
        str(need): need.since
        for _, found in wanted
        for need in found.optional
        if need.since is None or version is None or version_pair(need.since) > version_pair(version)
    }
    return {
        "kernel": version,
        "because": [
            {"what": str(need), "whose": users}
            for need, users in whose.items()
            if need.since == version
        ],
        "optional": [{"what": what, "since": since} for what, since in optional.items()],
    }


def _program(program: ProgramSpec, asks: Asks | None, accesses: _Accesses) -> dict[str, Any]:
    linked = asks.program if asks else None
    attach_type = int(program.expected_attach_type)
    says = attach_type or program.section.startswith("cgroup_skb/ingress")
    maps = (r.name for r in linked.references if r.kind.startswith("map")) if linked else ()
    return {
        "name": program.name,
        "section": program.section,
        "type": name_of(program.prog_type),
        "expected_attach_type": name_of(program.expected_attach_type) if says else None,
        "attach_to": program.attach_to,
        "attached_by": program.sec.auto if program.sec and program.sec.auto else None,
        "flags": _flags(ProgFlag, program.flags),
        "autoload": program.autoload,
        "insn_count": len(program.insns),
        "linked_insn_count": len(linked.insns) if linked else None,
        "subprograms": [f.name for f, _ in linked.functions[1:]] if linked else None,
        "maps": list(dict.fromkeys(maps)),
        "helpers": asks.helpers if asks else None,
        "kfuncs": asks.kfuncs if asks else None,
        "stack": asks.stack if asks else None,
        "core_relocations": len(program.core_relos),
        "core_accesses": accesses.of(program),
    }


def _subprogram(function: ProgramSpec, accesses: _Accesses) -> dict[str, Any]:
    return {
        "name": function.name,
        "global": function.is_global,
        "insn_count": len(function.insns),
        "core_relocations": len(function.core_relos),
        "core_accesses": accesses.of(function),
    }


def _map(found: MapSpec, definitions: _Definitions) -> dict[str, Any]:
    return {
        "name": found.name,
        "type": name_of(MapType(found.type)),
        "kind": found.kind,
        "section": found.section,
        "key_size": found.key_size,
        "key_type": definitions.name(found.key_type_id),
        "value_size": found.value_size,
        "value_type": None if found.is_internal else definitions.name(found.value_type_id),
        "max_entries": found.max_entries,
        "flags": _flags(MapFlag, found.flags),
        "pinning": "by_name" if found.pinning == 1 else None,
        "numa_node": found.numa_node,
        "map_extra": found.map_extra,
        "ifindex": found.ifindex,
        "records": _records(found, definitions),
        "inner": _map(found.inner, definitions) if found.inner is not None else None,
        "values": found.values,
    }


def _records(found: MapSpec, definitions: _Definitions) -> list[str] | None:
    """Types that records of a ring or perf buffer may have, the likeliest first."""
    if found.type not in (MapType.RINGBUF, MapType.PERF_EVENT_ARRAY):
        return None
    from pybpfload.runtime.events import EventTypes

    names = EventTypes(definitions.btf, found.name).candidates
    for name in names:
        definitions.define(name)
    return names


def _variables(
    spec: ObjectSpec, definitions: _Definitions, notes: list[str]
) -> Iterator[dict[str, Any]]:
    left = _MAX_VALUES
    for variable in spec.variables.values():
        if variable.map.kind == MapKind.KCONFIG:
            continue  # they are externs
        left -= variable.size
        value = None
        try:
            if left >= 0:
                value = _initial(variable)
        except BpfError as error:
            notes.append(f"variable {variable.name} has no value: {error}")
        yield _variable(variable, value, definitions)
    if left < 0:
        notes.append(f"values are shown of the first {_MAX_VALUES} bytes of variables only")


def _initial(variable: VariableSpec) -> Any:
    if variable.map.kind == MapKind.BSS:
        # All zero. The section may claim to be far larger than the file.
        return plain(codec(variable.btf, variable.type_id).decode(bytes(variable.size)))
    return plain(variable.value)


def _variable(variable: VariableSpec, value: Any, definitions: _Definitions) -> dict[str, Any]:
    return {
        "name": variable.name,
        "declaration": definitions.declare(variable.type_id, variable.name),
        "section": variable.section,
        "map": variable.map.name,
        "offset": variable.offset,
        "size": variable.size,
        "static": not variable.linkage,
        "const": variable.is_const,
        "value": value,
    }


def _extern(extern: ExternSpec, definitions: _Definitions) -> dict[str, Any]:
    declaration, btf = None, definitions.btf
    if btf is not None and extern.btf_id:
        found = btf[extern.btf_id]
        if isinstance(found, (t.Var, t.Func)):
            declaration = definitions.text(found.type, extern.name)
    return {
        "name": extern.name,
        "kind": extern.kind,
        "weak": extern.weak,
        "declaration": declaration,
    }


def _btf(btf: Btf | None) -> dict[str, Any] | None:
    if btf is None:
        return None
    kinds = Counter(btf.kind(type_id) for type_id in btf)
    return {
        "size": len(btf.to_bytes()),
        "types": len(btf) - 1,
        "kinds": {_kind(kind): count for kind, count in sorted(kinds.items())},
    }


def _kind(kind: int) -> str:
    return t.Kind(kind).name.lower() if kind in t.Kind._value2member_map_ else f"kind {kind}"


def _core_kind(kind: int) -> str:
    return CoreKind(kind).name.lower() if kind in CoreKind._value2member_map_ else f"kind {kind}"


def _flags(family: Iterable[Any], value: int) -> list[str]:
    """Names of the bits that are set, and what has no name in hexadecimal."""
    names, rest = [], value
    for flag in family:
        if flag.value and rest & flag.value == flag.value:
            names.append(name_of(flag))
            rest &= ~flag.value
    return [*names, hex(rest)] if rest else names
