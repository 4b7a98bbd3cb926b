"""From the bytes of an object file to an :class:`ObjectSpec`: the steps in libbpf's order.

Header checks, walk over the sections, functions, BTF, externs, data sections in BTF, maps,
references of instructions. ``docs/architecture.md`` has the picture; each step has a module of its
own in this package.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pybpfload.elf import reader as elf_reader
from pybpfload.elf.reader import ElfFile, Section, read_elf
from pybpfload.errors import BpfError, FormatError
from pybpfload.object import datasec, externs, functions, maps, references, struct_ops
from pybpfload.object.spec import MapKind, ObjectSpec, VariableSpec
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from os import PathLike
    from typing import BinaryIO

    from pybpfload.btf import Btf

__all__ = ["Layout", "open_object"]

_NAME_LENGTH = 15  # BPF_OBJ_NAME_LEN without the NUL
_LICENSE_LENGTH = 63
_DAMAGED = "the file is damaged or no BPF object; make it with clang -target bpf -O2 -g -c"
_ARENA = ".addr_space.1"
_STRUCT_OPS = (".struct_ops", ".struct_ops.link", "?.struct_ops", "?.struct_ops.link")


class Layout:
    """Which ELF section plays which part (libbpf ``bpf_object__elf_collect``): the first rule wins.

    Attributes:
        code: Executable sections.
        text: Index of ``.text``, -1 when there is none.
        maps: The ``.maps`` section, or ``None``.
        data: ``(section, kind)`` of the sections that become maps, in file order.
        struct_ops: struct_ops sections.
        arena, jump_tables: Sections of those contents, or ``None``.
        relocations: ``(relocation section, target section)``.
    """

    def __init__(self, elf: ElfFile, spec: ObjectSpec) -> None:
        self.elf = elf
        self.code: list[Section] = []
        self.text = -1
        self.maps: Section | None = None
        self.data: list[tuple[Section, str]] = []
        self.struct_ops: list[Section] = []
        self.arena: Section | None = None
        self.jump_tables: Section | None = None
        self.relocations: list[tuple[Section, Section]] = []
        self.btf: Section | None = None
        self.btf_ext: Section | None = None
        for section in elf.sections[1:]:
            if not _is_ignored(section):
                self._place(section, spec)

    def _place(self, section: Section, spec: ObjectSpec) -> None:
        name, kind = section.name, section.type
        bits = kind == elf_reader.SHT_PROGBITS and section.size > 0
        if name == "license":
            spec.license = _license(section)
        elif name == "version":
            if section.size != 4:
                raise FormatError(
                    f"has {section.size} bytes, expected 4",
                    section=name,
                    hint='write: u32 version SEC("version") = ..., or remove it',
                )
            spec.kernel_version = int.from_bytes(section.data, _endian(spec))
        elif name == "maps":
            raise FormatError(
                "map definitions of the old kind are not supported",
                section=name,
                hint='define maps by BTF, in SEC(".maps")',
            )
        elif name == ".maps":
            self.maps = section
        elif name in (".BTF", ".BTF.ext"):
            if kind != elf_reader.SHT_PROGBITS:
                raise FormatError(f"is of type {kind}, expected PROGBITS", section=name)
            if name == ".BTF":
                self.btf = section
            else:
                self.btf_ext = section
        elif kind == elf_reader.SHT_SYMTAB:
            pass
        elif bits and section.flags & elf_reader.SHF_EXECINSTR:
            self.code.append(section)
            if name == ".text":
                self.text = section.index
        elif bits and _belongs(name, ".data"):
            self.data.append((section, MapKind.DATA))
        elif bits and _belongs(name, ".rodata"):
            self.data.append((section, MapKind.RODATA))
        elif bits and name in _STRUCT_OPS:
            self.struct_ops.append(section)
        elif bits and name == _ARENA:
            self.arena = section
        elif bits and name == ".jumptables":
            self.jump_tables = section
            spec.jump_tables = bytes(section.data)
        elif kind == elf_reader.SHT_REL:
            self._place_relocations(section, spec)
        elif kind == elf_reader.SHT_NOBITS and _belongs(name, ".bss") and section.size:
            self.data.append((section, MapKind.BSS))
        elif section.size:
            spec.notes.append(f"section {name!r} is not used")

    def _place_relocations(self, section: Section, spec: ObjectSpec) -> None:
        if section.entsize != 16:
            raise FormatError(
                f"has entries of {section.entsize} bytes, expected 16", section=section.name
            )
        if section.info >= len(self.elf.sections):
            raise FormatError(
                f"relocates section {section.info}, which does not exist", section=section.name
            )
        target = self.elf.sections[section.info]
        if target.flags & elf_reader.SHF_EXECINSTR or section.name in (
            ".rel.maps",
            *(f".rel{name}" for name in _STRUCT_OPS),
        ):
            self.relocations.append((section, target))
        else:
            spec.notes.append(f"relocations of section {target.name!r} are not used")


def _belongs(name: str, family: str) -> bool:
    return name == family or name.startswith(family + ".")


def _is_ignored(section: Section) -> bool:
    name = section.name
    return (
        section.type in (elf_reader.SHT_STRTAB, elf_reader.SHT_LLVM_ADDRSIG)
        or (name == ".text" and section.type == elf_reader.SHT_PROGBITS and not section.size)
        or name.startswith((".debug_", ".rel.debug_"))
        or name in (".rel.BTF", ".rel.BTF.ext")
    )


def _endian(spec: ObjectSpec) -> Any:
    return "little" if spec.byteorder == "<" else "big"


def _license(section: Section) -> str:
    if section.type == elf_reader.SHT_NOBITS or not section.size:
        raise FormatError(
            "has no data",
            section=section.name,
            hint='write: char license[] SEC("license") = "GPL"',
        )
    text = bytes(section.data[:_LICENSE_LENGTH])
    return text.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def object_name(path: str) -> str:
    """Name that libbpf gives to an object file: 15 characters, then up to the first dot."""
    return re.split(r"[/\\]", path)[-1][:_NAME_LENGTH].split(".", 1)[0]


def open_object(
    source: str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    *,
    name: str | None = None,
    relaxed_maps: bool = False,
) -> ObjectSpec:
    """Parse a BPF object without asking any kernel.

    Args:
        source: Path, content, or a file opened in binary mode.
        name: Object name instead of the file's; it becomes part of the names of data maps. 15
            characters are kept.
        relaxed_maps: Ignore attributes of map definitions that are not known instead of refusing
            them.

    Returns:
        The spec: plain values that can be edited before loading.

    Raises:
        FormatError: The file is not a BPF object, or is damaged.
        OSError: The file cannot be read.
    """
    path, data = _read(source)
    spec_name = name[:_NAME_LENGTH] if name is not None else object_name(path)
    try:
        return _open(data, path, spec_name, relaxed_maps)
    except FormatError as error:
        error.hint = error.hint or _DAMAGED
        raise error.located(file=path) from error.__cause__
    except BpfError:
        raise
    except (
        RecursionError
    ) as error:  # no walk here recurses on input; this is the last line of defence
        raise FormatError("nested too deeply", file=path, hint=_DAMAGED) from error


def _read(source: Any) -> tuple[str, bytes]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return "object", data
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise TypeError("open the file in binary mode")
        name = getattr(source, "name", "object")
        return (name if isinstance(name, str) else "object"), data
    path = Path(source)
    with path.open("rb") as file:
        data = file.read(4)
        if data == b"\x7fELF":  # of what is no ELF file, a device perhaps, no more is read
            data += file.read()
    return str(path), data


def _open(data: bytes, path: str, name: str, relaxed_maps: bool) -> ObjectSpec:
    elf = read_elf(data, path)
    if elf.type != elf_reader.ET_REL:
        raise FormatError(
            f"not an object file but an ELF file of type {elf.type}",
            offset=16,
            hint="clang -target bpf -c makes objects",
        )
    if elf.machine not in (elf_reader.EM_NONE, elf_reader.EM_BPF):
        raise FormatError(
            f"not a BPF object: it is for ELF machine {elf.machine}, BPF is {elf_reader.EM_BPF}",
            offset=18,
            hint="compile with clang -target bpf",
        )
    if not any(section.type == elf_reader.SHT_SYMTAB for section in elf.sections):
        raise FormatError(
            "it has no symbol table", hint="do not strip BPF objects (llvm-strip -g is fine)"
        )
    spec = ObjectSpec(name, path, elf.byteorder)
    layout = Layout(elf, spec)
    for section in reversed(elf.sections):
        spec.section_indexes[section.name] = section.index
    spec.functions = functions.cut(elf, layout, spec)
    _read_btf(layout, spec)
    for extern in externs.collect(elf, spec):
        spec.externs.add(extern.name, extern, extern.kind)
    datasec.fix_up(elf, spec)
    for map_spec in maps.collect(layout, spec, relaxed_maps):
        spec.maps.add(map_spec.name, map_spec, map_spec.section)
    struct_ops.collect(layout, spec)
    functions.find_types(spec)
    references.collect(layout, spec)
    struct_ops.tie_programs(layout, spec)
    _attach_core_relos(spec)
    for variable in _variables(spec):
        spec.variables.add(variable.name, variable, variable.section)
    return spec


def _read_btf(layout: Layout, spec: ObjectSpec) -> None:
    from pybpfload.btf import Btf, BtfExt

    required = layout.maps is not None or bool(layout.struct_ops)
    section = layout.btf
    if section is None:
        if required:
            what = ".maps" if layout.maps is not None else layout.struct_ops[0].name
            raise FormatError(f"it has no .BTF section, which {what} needs", hint="compile with -g")
        return
    try:
        btf: Btf = Btf.from_bytes(bytes(section.data), name=spec.path, pointer_size=8)
        btf.validate()
        spec.btf = btf
        if layout.btf_ext is not None:
            spec.btf_ext = BtfExt(bytes(layout.btf_ext.data), btf, name=spec.path)
    except FormatError as error:
        # libbpf goes on without them unless maps or struct_ops need BTF.
        if required:
            raise
        spec.notes.append(f"ignored: {error}")


def _attach_core_relos(spec: ObjectSpec) -> None:
    """Hand each CO-RE record to the function that holds its instruction.

    Damaged records are no reason to refuse the object: only relocating it needs them.
    """
    if spec.btf_ext is None:
        return
    finder = functions.Finder(spec.functions)
    try:
        for serial, (section, record) in enumerate(spec.btf_ext.core_relos()):
            found = finder.by_index(spec.section_indexes.get(section, 0), record.insn_off // 8)
            if found is not None:
                function, index = found
                function.core_relos.append((serial, index, record))
    except FormatError as error:
        spec.notes.append(f"CO-RE relocations: {error}")


def _variables(spec: ObjectSpec) -> list[VariableSpec]:
    from pybpfload.btf import types as t

    found: list[VariableSpec] = []
    if spec.btf is None:
        return found
    for map_spec in spec.maps.values():
        if map_spec.is_internal and map_spec.value_type_id:
            section_id, name, size = map_spec.value_type_id, map_spec.section, map_spec.value_size
        elif map_spec.type == MapType.ARENA and map_spec.contents:
            section_id, name = spec.btf.find(_ARENA, t.Kind.DATASEC), _ARENA
            size = len(map_spec.contents)
        else:
            continue
        section = spec.btf[section_id]
        if not isinstance(section, t.Datasec):
            continue
        for entry in section.entries:
            variable = spec.btf[entry.type]
            if isinstance(variable, t.Var) and entry.offset + entry.size <= size:
                found.append(
                    VariableSpec(
                        variable.name,
                        name,
                        map_spec,
                        entry.offset,
                        entry.size,
                        variable.type,
                        variable.linkage,
                        spec.btf,
                    )
                )
    return found
