"""``pybpfload relocate``: final instructions and every CO-RE decision. Offline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.cli.common import Parser, open_object, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run"]

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
    parser.add_btf_files()
    parser.add_programs()
    options = parser.read(arguments)

    from pybpfload.cli.relocation import document, relocate_files

    spec = open_object(options.object)
    result, files = relocate_files(spec, options.btf, options.program)
    if options.json:
        print_json(document(result, files))
        return 0

    from pybpfload.cli.relocation_text import render

    for line in render(result, files, verbose=options.verbose):
        print(line)
    return 0
