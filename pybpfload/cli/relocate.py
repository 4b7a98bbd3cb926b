"""``pybpfload relocate``: final instructions and every CO-RE decision. Offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.btf import Btf
from pybpfload.cli.common import Parser, check_names, open_object, print_json
from pybpfload.cli.failure import UsageError
from pybpfload.errors import FormatError
from pybpfload.isa.insn import encode
from pybpfload.relocate import CoreKind, Relocation, Target, relocate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.object.spec import MapSpec, ObjectSpec
    from pybpfload.relocate import CoreDecision, RelocatedProgram

__all__ = ["document", "run"]

_KERNEL = "/sys/kernel/btf/vmlinux"
_MAGIC = (b"\x9f\xeb", b"\xeb\x9f")

_EXAMPLES = """\
examples:
  pybpfload relocate tracer.bpf.o                            for the running kernel
  pybpfload relocate --btf /boot/vmlinuz-6.1.0 tracer.bpf.o  for another one
  pybpfload relocate --btf vmlinux --btf nf_tables.ko --program on_newtable tracer.bpf.o
  pybpfload relocate --json tracer.bpf.o | jq '.programs[].core_relocations[]'

A BTF file is raw BTF, an ELF file with BTF (vmlinux, a module), or a kernel image.
The first is the kernel's, the others are those of modules. Without --btf it is the
running kernel's, if the object needs any. Nothing is loaded.
"""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit status."""
    parser = Parser(
        "relocate", "Show the final instructions of an object and every CO-RE decision.", _EXAMPLES
    )
    parser.add_argument("object", metavar="OBJ", help="a BPF object file")
    parser.add_argument(
        "--btf", metavar="FILE", action="append", default=[], help="BTF to relocate against"
    )
    parser.add_argument(
        "--program", metavar="NAME", action="append", default=[], help="only this program"
    )
    options = parser.read(arguments)
    spec = open_object(options.object)
    check_names(options.program, spec.programs)
    files, target = _target(spec, options.btf)
    if options.program:
        # What other programs need is not looked for, so that it cannot stand in the way.
        for name, program in spec.programs.items():
            program.autoload = name in options.program
    result = relocate(spec, target, everything=not options.program)
    if options.json:
        print_json(document(result, files))
        return 0
    from pybpfload.cli.relocate_text import render

    for line in render(result, files, verbose=options.verbose):
        print(line)
    return 0


def _target(spec: ObjectSpec, paths: list[str]) -> tuple[list[str], Target]:
    if not paths:
        if not _needs_types(spec):
            return [], Target(None)
        if not Path(_KERNEL).exists():
            raise UsageError(
                f"{spec.path} has CO-RE relocations and there is no {_KERNEL}; "
                "give the BTF of a kernel with --btf FILE"
            )
        paths = [_KERNEL]
    base = _read(paths[0])
    return paths, Target(base, [_read_module(path, base) for path in paths[1:]])


def _needs_types(spec: ObjectSpec) -> bool:
    return any(
        record.kind != CoreKind.LOCAL_TYPE_ID
        for function in spec.functions
        for _, _, record in function.core_relos
    )


def _read(path: str, base: Btf | None = None) -> Btf:
    data = Path(path).read_bytes()
    if data[:2] not in _MAGIC:
        from pybpfload.elf.image import btf_from_image

        data = btf_from_image(data, path)
    return Btf.from_bytes(data, base=base, name=path)


def _read_module(path: str, base: Btf) -> Btf:
    """Read BTF that extends ``base``, or that stands alone."""
    try:
        # The strings of a split BTF go on where those of its base end, so they do not start with
        # the empty string, as they must where there is no base.
        return _read(path)
    except FormatError as alone:
        try:
            return _read(path, base)
        except FormatError:
            raise alone from None


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
