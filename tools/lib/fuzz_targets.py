"""tools/fuzz: what is done to a file from a stranger, and the files to begin with.

A target is a function that takes bytes and returns; a :class:`pybpfload.BpfError` on the way is
what damage has to end in, so it is caught, and read as a person would. Anything else that is
raised is a finding.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import dataclasses
import gzip
import io
import json
import lzma
import struct
import zlib
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

import fuzz_commands
import fuzz_seeds
from environment import ROOT

from pybpfload.btf import Btf, BtfExt, distill_base, relocate_base
from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.cdecl import declare, define
from pybpfload.btf.classes import TypeClasses
from pybpfload.btf.ext import CoreRelo
from pybpfload.btf.sanitize import FEATURES, sanitize
from pybpfload.btf.values import codec
from pybpfload.cli import describe, describe_text, failure, relocation, relocation_text
from pybpfload.elf.image import btf_from_image, decompress, elf_section
from pybpfload.errors import BpfError
from pybpfload.isa.disasm import disassemble
from pybpfload.kernel.kallsyms import find_symbols
from pybpfload.kernel.kconfig import parse_kconfig
from pybpfload.kernel.log import explain_poison, read_log
from pybpfload.object import open_object
from pybpfload.object.named import Named
from pybpfload.relocate import Target, relocate
from pybpfload.testing.fields import Part, parts, records
from pybpfload.testing.mutate import mutate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pybpfload.object.spec import ObjectSpec, ProgramSpec

__all__ = ["COMMAND_TARGETS", "PARSERS", "TARGETS", "FuzzTarget"]

FIXTURES = ROOT / "fixtures"
_ORDERS = ("bpfel", "bpfeb")
_LONGEST_MESSAGE = 20000
_MOST_TYPES = 2000  # of one table that are looked at one by one

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class FuzzTarget:
    """Something that reads files from strangers.

    Attributes:
        what: What is read, in words.
        run: Reads it in every way there is.
        cases: How many damaged files a measured run reads: 5,000 are those of all targets.
        seeds: Good files to begin with.
    """

    what: str
    cases: int
    run: Callable[[bytes], None]
    seeds: Callable[[], tuple[bytes, ...]]


def attempt(step: Callable[[], Result]) -> Result | None:
    """What a step gives; None if it ends in an error of ours, which has to read well."""
    try:
        return step()
    except BpfError as error:
        words = str(error)
        assert 0 < len(words) < _LONGEST_MESSAGE, f"a message of {len(words)} characters"
        repr(error)
        with contextlib.redirect_stderr(io.StringIO()) as said:
            failure.report(error, verbose=True)
        assert said.getvalue().startswith("pybpfload: ")
        return None


# Objects


def _elf(data: bytes) -> None:
    spec = attempt(lambda: open_object(data))
    attempt(lambda: open_object(data, name="other", relaxed_maps=True))
    if spec is None:
        return
    _inspect(spec)
    _relocate(spec, _target(spec.byteorder))
    if spec.btf is not None:
        _relocate(spec, Target(spec.btf))
        attempt(lambda: sanitize(spec.btf, FEATURES))
    damaged = mutate(_target_bytes(spec.byteorder), zlib.crc32(data)).data
    if (other := attempt(lambda: Btf.from_bytes(damaged))) is not None:
        _relocate(spec, Target(other))


def _inspect(spec: ObjectSpec) -> None:
    """Everything that an object says, as values, as JSON, as text and as code."""
    copied = copy.deepcopy(spec)
    assert repr(copied) == repr(spec)
    described = attempt(lambda: describe.describe(spec))
    if described is not None:
        json.dumps(described)
        for line in describe_text.render(described, verbose=True):
            assert line.isprintable() or "\t" in line
    for function in spec.functions:
        for line in disassemble(function.insns):
            str(line)
    for each in [*spec.programs.values(), *spec.maps.values(), *spec.externs.values()]:
        repr(each)
    for variable in spec.variables.values():
        if variable.size < 1 << 20:
            attempt(lambda variable=variable: variable.value)
    for section in (spec.rodata, spec.data, spec.bss):
        dir(section)
    for name in list(spec.types)[:_MOST_TYPES]:
        with contextlib.suppress(KeyError):
            attempt(lambda name=name: spec.types[name])


def _relocate(spec: ObjectSpec, target: Target) -> None:
    result = attempt(lambda: relocate(spec, target, everything=True))
    if result is not None:
        json.dumps(relocation.document(result, ["vmlinux"]))
        list(relocation_text.render(result, ["vmlinux"], verbose=True))


@cache
def _target_bytes(byteorder: str) -> bytes:
    folder = "bpfel" if byteorder == "<" else "bpfeb"
    found = elf_section((FIXTURES / folder / "core_target.bpf.o").read_bytes(), ".BTF")
    assert found is not None
    return found


@cache
def _target(byteorder: str) -> Target:
    return Target(Btf.from_bytes(_target_bytes(byteorder), name="vmlinux"))


# Types


def _btf(data: bytes) -> None:
    btf = attempt(lambda: Btf.from_bytes(data))
    if btf is not None:
        _types(btf)


def _split_btf(data: bytes) -> None:
    btf = attempt(lambda: Btf.from_bytes(data, base=_base(data[:1] == b"\x9f"), name="module"))
    if btf is not None:
        _types(btf)
        attempt(lambda: Target(_base(data[:1] == b"\x9f"), [btf]))
        made = attempt(lambda: distill_base(btf).btf)
        if made is not None and btf.base is not None:
            attempt(lambda: relocate_base(made, btf.base))


def _types(btf: Btf) -> None:
    attempt(btf.validate)
    repr(btf)
    assert btf.pointer_size in (4, 8)
    names = set()
    for type_id in [*btf.own_ids()[:_MOST_TYPES], 0, len(btf)]:
        for look in (
            btf.__getitem__, btf.describe, btf.size, btf.strip, btf.kind,
            lambda i: declare(btf, i, "x"), lambda i: define(btf, i), lambda i: codec(btf, i),
        ):  # fmt: skip
            attempt(lambda look=look, type_id=type_id: look(type_id))
        if name := attempt(lambda type_id=type_id: btf.type_name(type_id)):
            names.add(name)
    for name in [*sorted(names)[:50], "", "no such type", "int"]:
        for find in (btf.find_all, btf.find, btf.find_own, btf.find_essential):
            attempt(lambda find=find, name=name: find(name))
        with contextlib.suppress(KeyError):
            attempt(lambda name=name: TypeClasses(btf)[name])
    attempt(lambda: sanitize(btf, FEATURES))
    attempt(lambda: _rebuilt(btf))


def _rebuilt(btf: Btf) -> None:
    """Parse, build and parse again: the same types."""
    if btf.base is not None:
        return
    builder = BtfBuilder(btf.byteorder)
    kept = [btf[type_id] for type_id in btf.own_ids()[:_MOST_TYPES]]
    if any(isinstance(each, t.Opaque) for each in kept):
        return
    for each in kept:
        builder.add_type(each)
    again = builder.btf()
    assert [again[type_id] for type_id in again.own_ids()] == kept


@cache
def _base(little: bool) -> Btf:
    return Btf.from_bytes(_target_bytes("<" if little else ">"), name="vmlinux")


# BTF.ext: against the types of one object


def _btf_ext(data: bytes) -> None:
    btf = _ext_types(data[:1] == b"\x9f")
    ext = attempt(lambda: BtfExt(data, btf))
    if ext is None:
        return
    attempt(lambda: list(ext.core_relos()))
    for part in (ext.func_info, ext.line_info, ext.core_relo):
        assert part.count == sum(block.count for block in part.blocks)
    # The same inside the object that the types are from.
    original = (FIXTURES / ("bpfel" if ext.byteorder == "<" else "bpfeb") / _EXT).read_bytes()
    changed = _with_part(original, ".BTF.ext", data)
    spec = attempt(lambda: open_object(changed))
    if spec is not None:
        _relocate(spec, _target(spec.byteorder))


_EXT = "execsnoop.bpf.o"


@cache
def _ext_types(little: bool) -> Btf:
    data = (FIXTURES / ("bpfel" if little else "bpfeb") / _EXT).read_bytes()
    return Btf.from_bytes(elf_section(data, ".BTF"))


def _with_part(data: bytes, name: str, contents: bytes) -> bytes:
    """An object with the contents of one section replaced: they are appended to the file."""
    index = next(i for i, part in enumerate(_section_names(data)) if part == name)
    section = [record for record in records(data) if record.kind == "section"][index]
    changed = section.field("sh_offset").set(data, len(data))
    return section.field("sh_size").set(changed, len(contents)) + contents


@cache
def _section_names(data: bytes) -> list[str]:
    from pybpfload.elf.reader import read_elf

    return [section.name for section in read_elf(data, "").sections]


# CO-RE: records as lines of text, "FUNCTION INSTRUCTION TYPE KIND ACCESS", against several kernels


def _core(data: bytes) -> None:
    whole = _core_object()
    found: dict[int, list[tuple[int, int, CoreRelo]]] = {}
    for serial, line in enumerate(data.splitlines()[:100]):
        words = line.split(b" ", 4)
        try:
            where, at, type_id, kind = (int(word) & 0xFFFFFFFF for word in words[:4])
        except ValueError:
            continue
        where %= len(whole.functions)
        access = (words[4:] or [b""])[0].decode(errors="replace")
        record = CoreRelo(8 * at & 0xFFFFFFFF, type_id, access, kind)
        place = (serial, at % len(whole.functions[where].insns), record)
        found.setdefault(where, []).append(place)
    functions = [
        dataclasses.replace(whole.functions[where], core_relos=places)
        for where, places in found.items()
    ]
    spec = dataclasses.replace(
        whole,
        functions=functions,
        programs=Named("program", [(f.name, f) for f in functions]),
    )
    _relocate(spec, _target(spec.byteorder))
    _relocate(spec, Target(spec.btf))
    damaged = mutate(_target_bytes("<"), zlib.crc32(data)).data
    if (other := attempt(lambda: Btf.from_bytes(damaged))) is not None:
        _relocate(spec, Target(other))


@cache
def _core_object() -> ObjectSpec:
    return open_object(FIXTURES / "bpfel" / "core_local.bpf.o")


@cache
def _core_seeds() -> tuple[bytes, ...]:
    lines = [
        f"{number} {index} {record.type_id} {record.kind} {record.access_str}"
        for number, function in enumerate(_core_object().functions)
        for _, index, record in function.core_relos
    ]
    step = 12
    return tuple("\n".join(lines[i : i + step]).encode() for i in range(0, len(lines), step))


def _core_kernel(data: bytes) -> None:
    """The kernel's types are what is damaged."""
    target = attempt(lambda: Btf.from_bytes(data, name="vmlinux"))
    if target is None:
        return
    for spec in _core_objects(target.byteorder):
        _relocate(spec, Target(target))


@cache
def _core_objects(byteorder: str) -> list[ObjectSpec]:
    folder = "bpfel" if byteorder == "<" else "bpfeb"
    names = ("core_ambiguous", "core_types", "execsnoop")
    return [open_object(FIXTURES / folder / f"{name}.bpf.o") for name in names]


# Text


def _kconfig(data: bytes) -> None:
    found = attempt(lambda: parse_kconfig(data, _externs(), file="config"))
    for name, value in (found or {}).items():
        assert len(value) == _externs()[name].size


@cache
def _externs() -> dict[str, SimpleNamespace]:
    """One extern for every type that a setting can have."""
    made = {}
    for number, (kind, size, signed) in enumerate(
        [
            ("bool", 1, False), ("char", 1, True), ("char", 1, False), ("tristate", 4, False),
            ("string", 0, False), ("string", 1, False), ("string", 16, False),
            *(("int", size, signed) for size in (1, 2, 4, 8) for signed in (True, False)),
        ]
    ):  # fmt: skip
        name = f"CONFIG_{chr(65 + number)}"
        made[name] = SimpleNamespace(
            name=name, weak=False, size=size, offset=0, kconfig_type=kind, signed=signed
        )
    return made


@cache
def _kconfig_seeds() -> tuple[bytes, ...]:
    values = ("y", "n", "m", '"text"', "250", "-1", "0x7f", "0xffffffffffffffff", "017", '""')
    lines = [f"{name}={value}" for name in _externs() for value in values]
    good = {"bool": "y", "char": "m", "tristate": "m", "string": '"abc"', "int": "100"}
    whole = [f"{each.name}={good[each.kconfig_type]}" for each in _externs().values()]
    text = "# Automatically generated file\n# CONFIG_X is not set\n" + "\n".join(whole) + "\n"
    return (text.encode(), *(line.encode() + b"\n" for line in lines))


def _kallsyms(data: bytes) -> None:
    names = {"bpf_prog_active", "_text", "x", "", "tcp", "\udcff"}
    names |= {word.decode(errors="surrogateescape") for word in data.split()[2:9:3]}
    found = attempt(lambda: find_symbols(data, sorted(names)))
    assert found is None or set(found) <= names


@cache
def _kallsyms_seeds() -> tuple[bytes, ...]:
    return (
        _lines("ffffffff81000000 T _text", "ffffffff82000000 d bpf_prog_active",
               "ffffffff82000100 d tcp.llvm.123456", "ffffffffc0000000 t x\t[module]"),
        _lines("0000000000000000 A fixed_percpu_data", "0000000000000000 T _text"),
        _lines("ffffffff81000000 T x", "ffffffff81000010 t x"),
    )  # fmt: skip


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _log(data: bytes) -> None:
    text = data.decode(errors="replace")
    reading = read_log(text)
    assert reading.insn is None or reading.insn >= 0
    explain_poison(text, {0: "zero", 3: "three"})


@cache
def _log_seeds() -> tuple[bytes, ...]:
    return (
        _lines("0: R1=ctx(off=0,imm=0) R10=fp0", "; int f(void *ctx) @ prog.bpf.c:10",
               "0: (b7) r0 = 1", "1: (79) r1 = *(u64 *)(r0 +8)",
               "R0 invalid mem access 'scalar'", "processed 2 insns (limit 1000000)"),
        _lines("0: (85) call unknown#195896080", "invalid func unknown#195896080"),
        _lines("3: (85) call unknown#2001000001", "invalid func unknown#2001000001"),
        _lines("last insn is not an exit or jmp", "processed 3 insns"),
    )  # fmt: skip


# Files of kernels


def _image(data: bytes) -> None:
    blob = attempt(lambda: btf_from_image(data, "vmlinuz"))
    if blob is not None:
        attempt(lambda: Btf.from_bytes(blob))
    attempt(lambda: decompress(data, "vmlinuz", limit=1 << 24))
    attempt(lambda: elf_section(data, ".BTF", "vmlinux"))


@cache
def _image_seeds() -> tuple[bytes, ...]:
    blob = _target_bytes("<")
    setup = bytearray(512 * 3)
    setup[0x1F1] = 2
    setup[0x202:0x206] = b"HdrS"
    packed = gzip.compress(blob, mtime=0)
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<II", setup, 0x248, 0, len(packed))
    zboot = b"MZ\0\0zimg" + struct.pack("<IIII", 64, len(packed), 0, 0) + bytes(40)
    chunk = blob[:200]
    block = b"\xf0" + bytes([200 - 15]) + chunk  # one sequence, all literals
    lz4 = struct.pack("<I", len(block)) + block
    made = [
        blob, packed, bz2.compress(blob), lzma.compress(blob),
        lzma.compress(blob, lzma.FORMAT_ALONE), bytes(setup) + packed, zboot + packed,
        bytes(100) + blob + bytes(100), bytes(100) + packed,
        b"\x02\x21\x4c\x18" + lz4,
        b"\x04\x22\x4d\x18\x60\x40\0" + lz4 + bytes(4),
        (FIXTURES / "bpfel" / "core_target.bpf.o").read_bytes(),
    ]  # fmt: skip
    with contextlib.suppress(ImportError):
        import zstandard

        made.append(zstandard.compress(blob))
    return tuple(made)


# Commands: files of each kind


@cache
def _good_objects() -> tuple[bytes, ...]:
    """Those that are read: what is refused before any damage tells little of a command."""
    return tuple(data for data in _objects() if _opened(data))


def _opened(data: bytes) -> bool:
    try:
        open_object(data)
    except BpfError:
        return False
    return True


@cache
def _types_seeds() -> tuple[bytes, ...]:
    made = [_target_bytes(order) for order in "<>"]
    return (*made, *_read("core_target.bpf.o"), *(gzip.compress(each, mtime=0) for each in made))


@cache
def _iterators() -> tuple[bytes, ...]:
    return tuple(data for data in _good_objects() if any(map(_iterates, open_object(data))))


def _iterates(program: ProgramSpec) -> bool:
    return program.sec is not None and program.sec.auto == "iter"


@cache
def _kernels() -> tuple[bytes, ...]:
    kernels = _image_seeds()
    return (*kernels, fuzz_seeds.package(kernels[1]))


# Good files


@cache
def _objects() -> tuple[bytes, ...]:
    return tuple(_read("*.bpf.o"))


def _read(pattern: str) -> Iterator[bytes]:
    for order in _ORDERS:
        for path in sorted((FIXTURES / order).glob(pattern)):
            yield path.read_bytes()


@cache
def _sections(name: str) -> tuple[bytes, ...]:
    """The contents of all sections of a name that the fixtures have."""
    found = {_cut(d, part): None for d in _objects() for part in parts(d) if part.name == name}
    return tuple(found)


def _cut(data: bytes, part: Part) -> bytes:
    return data[part.offset : part.offset + part.size]


@cache
def _ext_seeds() -> tuple[bytes, ...]:
    return tuple(_cut(d, part) for d in _read(_EXT) for part in parts(d) if part.name == ".BTF.ext")


@cache
def _split_seeds() -> tuple[bytes, ...]:
    made = []
    for little in (True, False):
        base = _base(little)
        module = BtfBuilder(base.byteorder, base=base)
        number = base.find("int")
        struct = module.add_struct("module_only", 8, [("a", number, 0), ("b", number, 32)])
        pointer = module.add_ptr(struct)
        proto = module.add_func_proto(number, [("p", pointer)])
        module.add_func("module_function", proto)
        module.add_typedef("module_t", module.add_array(struct, 3, number))
        module.add_enum("module_enum", 4, [("ONE", 1), ("TWO", 2)])
        module.add_datasec(".data", 8, [(module.add_var("variable", struct), 0, 8)])
        made.append(module.build())
    return tuple(made)


PARSERS = {
    "elf": FuzzTarget("BPF objects: opened, inspected, relocated", 1900, _elf, _objects),
    "btf": FuzzTarget("raw BTF", 700, _btf, lambda: _sections(".BTF")),
    "split_btf": FuzzTarget("BTF of modules, on top of a kernel's", 350, _split_btf, _split_seeds),
    "btf_ext": FuzzTarget("BTF.ext, alone and in its object", 500, _btf_ext, _ext_seeds),
    "core": FuzzTarget("CO-RE relocation records, as text", 450, _core, _core_seeds),
    "core_kernel": FuzzTarget(
        "BTF of a kernel that objects are relocated against",
        400,
        _core_kernel,
        lambda: tuple(_target_bytes(order) for order in "<>"),
    ),
    "kconfig": FuzzTarget("text of a kernel configuration", 200, _kconfig, _kconfig_seeds),
    "kallsyms": FuzzTarget("text of /proc/kallsyms", 150, _kallsyms, _kallsyms_seeds),
    "log": FuzzTarget("the verifier's log", 100, _log, _log_seeds),
    "image": FuzzTarget("kernel images and modules", 250, _image, _image_seeds),
}
"""What reads files, by name."""

_KINDS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "object": _good_objects,
    "iterator": _iterators,
    "types": _types_seeds,
    "kernel": _kernels,
    "places": fuzz_seeds.places,
    "binary": fuzz_seeds.binaries,
    "log": fuzz_seeds.logs,
    "capture": fuzz_seeds.captures,
}

COMMAND_TARGETS = {
    each.target: FuzzTarget(
        f"pybpfload {each.command}", each.cases, fuzz_commands.attempt(each), _KINDS[each.kind]
    )
    for each in fuzz_commands.COMMANDS
}
"""Commands and the kinds of files that they read."""

TARGETS = {**PARSERS, **COMMAND_TARGETS}
"""All targets by name."""
