"""Relocation offline: against BTF in files, the result as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload import read_btf
from pybpfload.cli.common import check_names
from pybpfload.cli.failure import UsageError, complain
from pybpfload.errors import FormatError
from pybpfload.isa.insn import encode
from pybpfload.relocate import CoreKind, Relocation, Target, relocate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.btf import Btf
    from pybpfload.object.spec import MapSpec, ObjectSpec
    from pybpfload.relocate import CoreDecision, RelocatedProgram

__all__ = ["document", "read_target", "relocate_files"]

_KERNEL = "/sys/kernel/btf/vmlinux"


def relocate_files(
    spec: ObjectSpec, btf: list[str], programs: Sequence[str] = ()
) -> tuple[Relocation, list[str]]:
    """Relocate all programs of an object, those with ``autoload`` off too.

    Args:
        spec: The object; ``autoload`` of its programs is changed.
        btf: Files with BTF, the kernel's first; without any the running kernel's is used, if the
            object needs types.
        programs: Only these. What other programs need is not looked for, so that it cannot stand
            in the way.

    Returns:
        The result, and the files with BTF that it was done against.

    Raises:
        UsageError: There is no such program, or no BTF though the object needs types.
        RelocationError: Something cannot be relocated.
        FormatError: There is no BTF in a file.
    """
    check_names(programs, spec.programs)
    files, target = read_target(spec, btf)
    for name, program in spec.programs.items():
        program.autoload = not programs or name in programs
    return relocate(spec, target), files


def read_target(spec: ObjectSpec, paths: list[str]) -> tuple[list[str], Target]:
    """Read the BTF to relocate against; :func:`relocate_files` says which it is and what raises."""
    if not paths:
        if not _needs_types(spec):
            return [], Target(None)
        if not Path(_KERNEL).exists():
            raise UsageError(
                f"{spec.path} has CO-RE relocations and there is no {_KERNEL}; "
                "give the BTF of a kernel with --btf FILE"
            )
        paths = [_KERNEL]
    try:
        base = read_btf(paths[0])
    except FormatError as error:
        error.hint = error.hint or "the first BTF is the kernel's; that of a module comes after it"
        raise
    if base.byteorder != spec.byteorder:
        complain(f"{spec.path} has the other byte order than {base.name}: it will not load there")
    return paths, Target(base, [_read_module(path, base) for path in paths[1:]])


def _needs_types(spec: ObjectSpec) -> bool:
    return any(
        record.kind != CoreKind.LOCAL_TYPE_ID
        for function in spec.functions
        for _, _, record in function.core_relos
    )


def _read_module(path: str, base: Btf) -> Btf:
    """Read BTF that extends ``base``, or that stands alone."""
    try:
        # The strings of a split BTF go on where those of its base end, so they do not start with
        # the empty string, as they must where there is no base.
        found = read_btf(path)
    except FormatError as alone:
        try:
            return read_btf(path, base=base)
        except FormatError:
            raise alone from None
    # Without a base a module is read over the distilled one that it brings along.
    return found if found.base is None else read_btf(path, base=base)


def document(result: Relocation, files: list[str]) -> dict[str, Any]:
    """Describe a relocation in plain values, as ``relocate --json`` prints them.

    The keys and their types are a contract; ``docs/command-line.md`` has it.

    Args:
        result: The relocation.
        files: Names of the files with BTF that it was done against.
    """
    spec = result.object
    return {
        "object": spec.path,
        "btf": files,
        "programs": [_program(p, spec.byteorder) for p in result.programs.values()],
        "maps": [_map(m) for m in spec.maps.values()],
    }


def _program(program: RelocatedProgram, byteorder: Any) -> dict[str, Any]:
    spec = program.spec
    return {
        "name": spec.name,
        "section": spec.section,
        "prog_type": int(spec.prog_type),
        "expected_attach_type": int(spec.expected_attach_type),
        "insn_count": len(program.insns),
        "insns": encode(program.insns, byteorder).hex(),
        "references": [
            {"insn": r.insn, "kind": r.kind, "name": r.name, "addend": r.addend}
            for r in program.references
        ],
        "core_relocations": [_decision(insn, decision) for insn, decision in program.core],
    }


def _decision(insn: int, decision: CoreDecision) -> dict[str, Any]:
    return {
        "insn": insn,
        "kind": decision.kind_name,
        "local": str(decision.local),
        "target": None if decision.target is None else str(decision.target),
        "value": decision.value,
        "outcome": decision.outcome,
    }


def _map(found: MapSpec) -> dict[str, Any]:
    return {
        "name": found.name,
        "type": int(found.type),
        "key_size": found.key_size,
        "value_size": found.value_size,
        "max_entries": found.max_entries,
        "flags": found.flags,
        "pinning": found.pinning,
    }
