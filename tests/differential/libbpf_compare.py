"""What libbpf and pybpfload made of the same object, value by value.

The functions here are given what both have and count what they compare in a :class:`Result`. Of
what was loaded they mask nothing but the header of BTF; for descriptors :mod:`libbpf_kernel` has
put what these stood for. Code that was only relocated is compared without what a kernel fills in.
"""

from __future__ import annotations

import re
import struct
import sys
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from libbpf_kernel import NATIVE

from pybpfload.btf import Btf
from pybpfload.errors import BpfError
from pybpfload.isa import insn as isa
from pybpfload.relocate import CoreKind, ReferenceKind
from pybpfload.runtime.maps import data_offset
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from libbpf_kernel import Recorder
    from libbpf_library import LibbpfObject

    from pybpfload.object import MapSpec, ObjectSpec
    from pybpfload.object.spec import ProgramSpec
    from pybpfload.relocate import CoreDecision, Reference, RelocatedProgram
    from pybpfload.testing.fakeobjects import FakeObject

# Differences that docs/differences.md explains.
_KNOWN = (
    r"BTF: libbpf does not read a header of 32 bytes in the other byte order",
    r"program .*: section .* is not in the table of libbpf v.*",
    # Before Linux 5.2: libbpf leaves references to maps that are not there.
    r"no global variables: libbpf refuses to load .*, pybpfload does not refuse",
    # Before Linux 5.2, whose names have no dots, as libbpf's names of inner maps have.
    r".*libbpf refuses to prepare .*failed to create inner map: -EINVAL.*does not refuse",
    # What libbpf reads as numbers of the machine's own byte order.
    r"other byte order: libbpf refuses .*can't create jump table.*",
)
_KFUNC_POISON = 2002000000
# Bytes of a descriptor in values that consist of, or may have, such.
_DESCRIPTORS = {
    MapType.ARRAY_OF_MAPS: 4,
    MapType.HASH_OF_MAPS: 4,
    MapType.PROG_ARRAY: 4,
    MapType.STRUCT_OPS: 8,
}


@dataclass
class Result:
    """What comparing one object in one setting gave.

    Attributes:
        object, setting: What was compared.
        differences: One line each; empty when both agree.
        known: Differences that docs/differences.md explains.
        refusals: Runs that both refused, by stage and reason (libbpf's words).
        crashed: How libbpf ended, if it did.
        counts: How much was compared: runs, loaded, programs, instructions, relocations, maps,
            attributes.
        seconds: CPU time by who spent it.
    """

    object: str
    setting: str
    differences: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)
    crashed: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def say(self, difference: str) -> None:
        """Note a difference."""
        known = any(re.fullmatch(pattern, difference) for pattern in _KNOWN)
        found = self.known if known else self.differences
        if difference not in found:
            found.append(difference)

    def same(self, what: str, theirs: Any, mine: Any) -> None:
        """Compare two values."""
        self.counts["attributes"] += 1
        if theirs != mine:
            self.say(f"{what}: {_show(theirs)}, pybpfload {_show(mine)}")

    def refuse(self, stage: str, reason: str) -> None:
        """Note that both refused a run."""
        plain = re.sub(r"'[^']*'|<[^>]*>", "X", re.sub(r"\b-?(0x[0-9a-f]+|\d+)\b", "N", reason))
        key = f"{stage}: {plain}"
        self.refusals[key] = self.refusals.get(key, 0) + 1


# As opened


_SINCE_1_8 = re.compile(
    r"((raw_)?tracepoint|(raw_)?tp|tp_btf)\.s|f(session|entry|exit)\.multi(\.s)?"
)


def unknown_to(version: str, section: str) -> bool:
    """Whether a section name means something to newer versions of libbpf only.

    Args:
        version: libbpf's, for example ``"v1.7"``.
        section: Name of a program's section.
    """
    is_older = tuple(map(int, version.removeprefix("v").split("."))) < (1, 8)
    return is_older and bool(_SINCE_1_8.fullmatch(section.removeprefix("?").split("/")[0]))


def compare_opened(result: Result, theirs: LibbpfObject, spec: ObjectSpec, version: str) -> None:
    """Compare what both read from the file."""
    same = result.same
    same("object name", theirs.name, spec.name)
    programs = [theirs.program(each) for each in theirs.programs]
    mine = list(spec.programs.values())
    same("programs", [each["name"] for each in programs], [each.name for each in mine])
    for told, program in zip(programs, mine, strict=False):
        _compare_program(result, told, program, version)
    maps = [theirs.map(each) for each in theirs.maps]
    same("maps", [m["name"] for m in maps], [m.name for m in spec.maps.values()])
    for told, each in zip(maps, spec.maps.values(), strict=False):
        _compare_map(result, told, each)
    if (raw := theirs.btf()) and spec.btf is not None:
        _compare_btf(result, raw, spec.btf)


def _compare_program(
    result: Result, told: dict[str, Any], program: ProgramSpec, version: str
) -> None:
    where = f"program {program.name}"
    result.same(f"{where}: section", told["section"], program.section)
    result.same(f"{where}: autoload", told["autoload"], program.autoload)
    if unknown_to(version, program.section):
        result.say(f"{where}: section {program.section} is not in the table of libbpf {version}")
        return
    # libbpf keeps the flags of the section name to itself until it loads.
    result.same(f"{where}: type", told["type"], int(program.prog_type))
    attach_type = int(program.expected_attach_type)
    result.same(f"{where}: expected_attach_type", told["expected_attach_type"], attach_type)


def _compare_map(result: Result, told: dict[str, Any], mine: MapSpec) -> None:
    where = f"map {mine.name}"
    pairs = {
        "type": int(mine.type), "key_size": mine.key_size, "value_size": mine.value_size,
        "max_entries": mine.max_entries, "map_flags": int(mine.flags),
        "numa_node": mine.numa_node, "map_extra": mine.map_extra, "ifindex": mine.ifindex,
        "btf_key_type_id": mine.key_type_id, "btf_value_type_id": mine.value_type_id,
        "is_internal": mine.is_internal,
    }  # fmt: skip
    if not mine.name.endswith(".inner"):  # in which libbpf leaves it unset
        pairs["autocreate"] = mine.autocreate
    for label, value in pairs.items():
        result.same(f"{where}: {label}", told[label], value)
    result.same(f"{where}: pinned", told["pin_path"] is not None, mine.pinning == 1)
    if mine.is_internal and mine.kind != "kconfig":
        # libbpf's image is rounded up; what counts is the part that becomes the value.
        contents = bytes(mine.contents or b"")
        result.same(f"{where}: contents", told["initial_value"][: len(contents)], contents)
    result.same(f"{where}: inner map", told["inner"] is not None, mine.inner is not None)
    if told["inner"] is not None and mine.inner is not None:
        _compare_map(result, told["inner"], mine.inner)


def _compare_btf(result: Result, raw: bytes, mine: Btf) -> None:
    try:
        theirs = Btf.from_bytes(raw, pointer_size=8)
    except BpfError as error:
        result.say(f"BTF: what libbpf made of it is damaged: {error}")
        return
    result.same("BTF: number of types", len(theirs), len(mine))
    for type_id in range(1, min(len(theirs), len(mine))):
        if theirs[type_id] != mine[type_id]:
            result.say(f"BTF: {theirs[type_id]}, pybpfload {mine[type_id]}")


# As relocated


def compare_decisions(result: Result, log: list[str], decisions: list[CoreDecision]) -> None:
    """Compare the text of every CO-RE decision with libbpf's log."""
    theirs = _logged_decisions(log)
    mine = [
        (d.function, str(d), f"<{d.kind_name}> {d.target}" if d.target is not None else None)
        for d in decisions
    ]
    result.counts["relocations"] += len(mine)
    for left, right in zip(theirs, mine, strict=False):
        result.same(f"CO-RE of {right[0]}", left, right)
    result.same("number of CO-RE relocations", len(theirs), len(mine))


_LOCAL = re.compile(r"libbpf: prog '(.*)': relo #(\d+): (<.*)")
_MATCH = re.compile(r"libbpf: prog '.*': relo #\d+: matching candidate #\d+ (<.*)")


def _logged_decisions(log: list[str]) -> list[tuple[str, str, str | None]]:
    """``(function, local access, access in the first candidate that matched)`` of each record."""
    found: list[tuple[str, str, str | None]] = []
    for line in log:
        if local := _LOCAL.match(line):
            found.append((local[1], local[3], None))
        elif (match := _MATCH.match(line)) and found and found[-1][2] is None:
            found[-1] = (*found[-1][:2], match[1])
    return found


def compare_relocated(
    result: Result,
    spec: ObjectSpec,
    mine: RelocatedProgram,
    raw: bytes,
    info: Mapping[str, bytes],
    maps: Mapping[int, int],
    old_helpers: Mapping[int, int],
) -> None:
    """Compare a program that was relocated but not loaded.

    Args:
        result: Where differences go.
        spec: The object.
        mine: The program.
        raw: Instructions as libbpf has them.
        info: Its ``func_info`` and ``line_info`` records, if it got so far.
        maps: Index of the map that a descriptor in the instructions is of.
        old_helpers: What stands for helpers that the kernel lacks.
    """
    where = f"program {mine.name}"
    theirs = isa.decode(raw, NATIVE)
    result.same(f"{where}: number of instructions", len(theirs), len(mine.insns))
    expected = [
        insn._replace(imm=old_helpers.get(insn.imm, insn.imm)) if insn.is_helper_call else insn
        for insn in mine.insns
    ]
    map_names = [each.name for each in spec.maps.values()]
    for reference in mine.references:
        at = reference.insn
        if at + 1 >= min(len(theirs), len(expected)):
            break
        given = theirs[at]
        if reference.kind in (ReferenceKind.KSYM, ReferenceKind.KSYM_BTF, ReferenceKind.KFUNC):
            _fill_extern(spec, expected, reference, theirs)
            continue
        expected[at] = expected[at]._replace(imm=given.imm)
        if reference.kind == ReferenceKind.MAP_VALUE:
            # Loading adds where in an arena the variables are.
            offset = reference.addend + data_offset(spec.maps[reference.name])
            expected[at + 1] = expected[at + 1]._replace(imm=isa.to_s32(offset))
        if given.imm in maps and reference.kind in (ReferenceKind.MAP, ReferenceKind.MAP_VALUE):
            result.same(f"{where}: map of {at}", map_names[maps[given.imm]], reference.name)
    # libbpf shifts bit fields as the machine has them that it runs on itself.
    skipped = {
        at
        for at, decision in mine.core
        if decision.kind == CoreKind.LSHIFT_U64 and spec.byteorder != NATIVE
    }
    _compare_code(result, where, theirs, expected, skipped)
    for label, records in info.items():
        words = list(getattr(mine, label) or ())
        result.same(f"{where}: {label}", array("I", records).tolist(), words)


def _fill_extern(
    spec: ObjectSpec, expected: list[isa.Insn], reference: Reference, theirs: list[isa.Insn]
) -> None:
    """Put in what only the kernel knew: addresses, type ids, descriptors of modules."""
    at, given = reference.insn, theirs[reference.insn]
    weak = spec.externs[reference.name].weak
    if given.code == isa.CALL:
        poison = _KFUNC_POISON + list(spec.externs).index(reference.name)
        if weak and given == isa.Insn(isa.CALL, imm=poison):
            expected[at] = given
        else:
            expected[at] = expected[at]._replace(imm=given.imm, off=given.off)
        return
    unresolved = weak and given.src == 0 and given.imm == theirs[at + 1].imm == 0
    expected[at] = expected[at]._replace(imm=given.imm, src=0 if unresolved else expected[at].src)
    expected[at + 1] = expected[at + 1]._replace(imm=theirs[at + 1].imm)


def _compare_code(
    result: Result,
    where: str,
    theirs: list[isa.Insn],
    mine: list[isa.Insn],
    skipped: set[int] = frozenset(),  # type: ignore[assignment]
) -> None:
    result.counts["programs"] += 1
    result.counts["instructions"] += len(mine)
    if theirs == mine:
        return
    for at, (left, right) in enumerate(zip(theirs, mine, strict=False)):
        if left != right and at not in skipped:
            result.say(f"{where}: instruction {at}: {left}, pybpfload {right}")


# As loaded


@dataclass
class Loaded:
    """What a scripted kernel has of an object while it is loaded.

    Attributes:
        maps, programs: What stands behind each descriptor, by name.
        names: What to call an object, by its identity.
        pins: Paths of pinned maps, by name.
    """

    maps: dict[str, FakeObject]
    programs: dict[str, FakeObject]
    names: dict[int, str]
    pins: dict[str, str]

    @classmethod
    def of(cls, kernel: Recorder, maps: dict[str, int], programs: dict[str, int]) -> Loaded:
        """Look up descriptors by name; those that are negative stand for nothing."""
        found_maps = {name: kernel.fds[fd] for name, fd in maps.items() if fd in kernel.fds}
        found = {name: kernel.fds[fd] for name, fd in programs.items() if fd in kernel.fds}
        # A placeholder of libbpf's, in which no map was put, is none.
        found_maps = {name: each for name, each in found_maps.items() if each.kind == "map"}
        names = {id(each): f"map {name}" for name, each in found_maps.items()}
        names |= {id(each): f"program {name}" for name, each in found.items()}
        pins = {names[id(o)]: path for path, o in kernel.pins.items() if id(o) in names}
        return cls(found_maps, found, names, pins)

    def name(self, found: FakeObject | None) -> str:
        """What to call an object; the same for both loaders."""
        if found is None:
            return "nothing"
        return self.names.get(id(found), f"{found.kind} {found.get('name', '')}")


def compare_loaded(result: Result, kernels: tuple[Recorder, Recorder], *sides: Loaded) -> None:
    """Compare what two kernels were given, field by field."""
    left, right = sides
    same = result.same
    same("maps that were created", list(left.maps), list(right.maps))
    same("programs that were loaded", list(left.programs), list(right.programs))
    same("pins", left.pins, right.pins)
    for name in left.maps.keys() & right.maps.keys():
        result.counts["maps"] += 1
        theirs, mine = left.maps[name], right.maps[name]
        _compare_given(result, f"map {name}", left, right, theirs["given"], mine["given"])
        _compare_contents(result, f"map {name}", kernels, sides, (theirs, mine))
    for name in left.programs.keys() & right.programs.keys():
        where = f"program {name}"
        theirs, mine = left.programs[name]["given"], right.programs[name]["given"]
        _compare_given(result, where, left, right, theirs, mine)
        _compare_code(result, where, theirs["code"], mine["code"])
        for at in theirs["refers"].keys() & mine["refers"].keys():
            pair = theirs["refers"][at], mine["refers"][at]
            # A map that is no map of the object: its jump table.
            if all(each is not None and each.kind == "map" for each in pair) and (
                id(pair[0]) not in left.names and id(pair[1]) not in right.names
            ):
                what = f"{where}: jump table of {at}"
                _compare_given(result, what, left, right, pair[0]["given"], pair[1]["given"])
                _compare_contents(result, what, kernels, sides, pair)


def _compare_given(
    result: Result,
    where: str,
    left: Loaded,
    right: Loaded,
    theirs: dict[str, Any],
    mine: dict[str, Any],
) -> None:
    for label, value in theirs.items():
        what = f"{where}: {label}"
        if label == "code":
            result.same(f"{what}: number of instructions", len(value), len(mine[label]))
        elif label == "inner":
            result.same(what, value is None, mine[label] is None)
            if value is not None and mine[label] is not None:
                _compare_given(result, what, left, right, value, mine[label])
        elif label == "refers":
            names = [
                {at: side.name(each) for at, each in given[label].items()}
                for side, given in ((left, theirs), (right, mine))
            ]
            result.same(what, *names)
        elif label in ("attach", "btf_object"):
            result.same(what, left.name(value), right.name(mine[label]))
        elif label == "bound":
            names_ = [left.name(each) for each in value], [right.name(e) for e in mine[label]]
            result.same(what, *names_)
        elif label == "btf":
            result.same(what, _without_header(value), _without_header(mine[label]))
        else:
            result.same(what, value, mine[label])


def _without_header(blob: bytes) -> bytes:
    """Types and strings of BTF: a header may be longer than it has to be (docs/differences.md)."""
    (length,) = struct.unpack_from("=4xI", blob) if blob else (0,)
    return blob[length:] if not any(blob[24:length]) else blob


def _compare_contents(
    result: Result,
    where: str,
    kernels: tuple[Recorder, Recorder],
    sides: tuple[Loaded, ...],
    maps: tuple[Any, Any],
) -> None:
    result.same(f"{where}: frozen", maps[0].frozen, maps[1].frozen)
    elements = [
        {key: _value(side, kernel, found, value) for key, value in found.elements.items()}
        for side, kernel, found in zip(sides, kernels, maps, strict=True)
    ]
    result.same(f"{where}: elements", *elements)


def _value(side: Loaded, kernel: Recorder, found: FakeObject, value: bytes) -> Any:
    """A value, with names for descriptors where the map's type says that there are some."""
    size = _DESCRIPTORS.get(found["map_type"])
    if size is None:
        return value
    numbers = [
        int.from_bytes(value[at : at + size], sys.byteorder) for at in range(0, len(value), size)
    ]
    return [side.name(kernel.fds[each]) if each in kernel.fds else each for each in numbers]


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:32].hex(' ', 4)}{'...' if len(value) > 32 else ''}"
    shown = repr(value)
    return shown if len(shown) < 400 else f"{shown[:400]}..."
