"""Externs: symbols of ``.kconfig`` and ``.ksyms`` (libbpf ``bpf_object__collect_externs``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.edit import BtfEditor
from pybpfload.errors import FormatError
from pybpfload.object.spec import ExternKind, ExternSpec

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.elf.reader import ElfFile, Symbol
    from pybpfload.object.spec import ObjectSpec

__all__ = ["collect"]

_EXTERN = 2  # linkage
_EXTERN_HINT = "declare it __ksym or __kconfig, and use it"
_KCONFIG_HINT = "use bool, char, an integer, a char array or enum libbpf_tristate"
_DUMMY = "dummy_ksym"  # the name libbpf gives, kept because it shows up in loaded BTF


def collect(elf: ElfFile, spec: ObjectSpec) -> list[ExternSpec]:
    """Return the externs, kconfig first, in the order that gives them their index.

    The BTF of the object is edited to what the kernel accepts: externs become ordinary variables,
    the virtual sections get offsets and sizes.

    Raises:
        FormatError: An extern has no BTF, is in an unknown section, or is of a type that kconfig
            cannot give.
    """
    symbols = [s for s in elf.symbols[1:] if s.is_extern and s.name]
    btf = spec.btf
    if btf is None:
        if symbols:
            raise FormatError(
                "the extern has no BTF", symbol=symbols[0].name, hint="compile with -g"
            )
        return []
    sections = _section_of_each(btf)
    declared = _declared(btf)
    externs = [_extern(symbol, btf, declared, sections) for symbol in symbols]
    externs.sort(key=_order)
    editor = BtfEditor(btf)
    _edit_ksyms(btf, externs, editor)
    _edit_kconfig(btf, externs, editor)
    spec.btf = editor.finish()
    return externs


def _order(extern: ExternSpec) -> tuple[object, ...]:
    if extern.kind == ExternKind.KCONFIG:
        return (0, -extern.align, extern.size, extern.name)
    return (1, 0, 0, extern.name)


def _section_of_each(btf: Btf) -> dict[int, str]:
    found: dict[int, str] = {}
    for type_id in btf:
        if btf.kind(type_id) == t.Kind.DATASEC:
            section = btf[type_id]
            assert isinstance(section, t.Datasec)
            for entry in section.entries:
                found.setdefault(entry.type, section.name)
    return found


def _declared(btf: Btf) -> dict[str, int]:
    found: dict[str, int] = {}
    for type_id in btf:
        if btf.kind(type_id) in (t.Kind.VAR, t.Kind.FUNC):
            found.setdefault(btf.type_name(type_id), type_id)
    return found


def _extern(
    symbol: Symbol, btf: Btf, declared: dict[str, int], sections: dict[int, str]
) -> ExternSpec:
    name = symbol.name
    btf_id = declared.get(name)
    if btf_id is None:
        raise FormatError("the extern has no BTF", symbol=name, hint=_EXTERN_HINT)
    described = btf[btf_id]
    assert isinstance(described, (t.Var, t.Func))
    if described.linkage != _EXTERN:
        raise FormatError(
            f"BTF gives the extern linkage {described.linkage}, expected extern", symbol=name
        )
    section = sections.get(btf_id)
    if section is None:
        raise FormatError(
            "the extern is in no section of BTF and defined nowhere",
            symbol=name,
            hint=f"{_EXTERN_HINT}, or link the file that defines it (bpftool gen object)",
        )
    weak = symbol.binding == 2
    is_function = isinstance(described, t.Func)
    if section == ".ksyms":
        kind = ExternKind.KFUNC if is_function else ExternKind.KSYM
        type_id = btf.strip(described.type)
        return ExternSpec(name, kind, weak, btf_id, type_id, symbol=symbol.index)
    if section != ".kconfig" or is_function:
        what = "a function" if is_function else "a variable"
        hint = "declare it __ksym, or as a variable" if is_function else _EXTERN_HINT
        raise FormatError(
            f"{what} cannot be an extern there", section=section, symbol=name, hint=hint
        )
    size = btf.size(described.type)
    align = alignment(btf, described.type)
    if not size or not align:
        raise FormatError(
            "a kconfig value needs a size",
            section=section,
            symbol=name,
            hint=_KCONFIG_HINT,
        )
    kind_name, signed = kconfig_type(btf, described.type)
    if not kind_name:
        raise FormatError(
            f"{btf.describe(btf.strip(described.type))} is not a type of kconfig values",
            section=section,
            symbol=name,
            hint=_KCONFIG_HINT,
        )
    return ExternSpec(
        name,
        ExternKind.KCONFIG,
        weak,
        btf_id,
        described.type,
        size,
        align,
        kind_name,
        signed,
        symbol=symbol.index,
    )


def kconfig_type(btf: Btf, type_id: int) -> tuple[str, bool]:
    """Return ``(class of kconfig value, signed)``; the class is ``""`` for an unfit type."""
    stripped = btf[btf.strip(type_id)]
    if isinstance(stripped, t.Int):
        if stripped.is_bool:
            return ("bool", False) if stripped.size == 1 else ("", False)
        if stripped.size == 1:
            return "char", stripped.signed
        return ("int", stripped.signed) if stripped.size in (2, 4, 8) else ("", False)
    if isinstance(stripped, (t.Enum, t.Enum64)):
        fits = stripped.size == 4 or isinstance(stripped, t.Enum64)
        return ("tristate", False) if fits and stripped.name == "libbpf_tristate" else ("", False)
    if isinstance(stripped, t.Array) and stripped.nelems:
        element = btf[btf.strip(stripped.type)]
        if isinstance(element, t.Int) and element.size == 1 and not element.is_bool:
            return "string", False
    return "", False


def alignment(btf: Btf, type_id: int) -> int:
    """Alignment in bytes of the type of a kconfig value (libbpf ``btf__align_of``), or 0."""
    for _ in range(32):
        type_id = btf.strip(type_id)
        described = btf[type_id]
        if isinstance(described, t.Array):
            type_id = described.type
        elif isinstance(described, (t.Int, t.Enum, t.Enum64, t.Float)):
            return min(btf.pointer_size, described.size)
        elif isinstance(described, t.Ptr):
            return btf.pointer_size
        else:
            # Structs cannot hold kconfig values; what is returned only has to be non-zero for those
            # with a size.
            return 1
    return 0


def _edit_ksyms(btf: Btf, externs: list[ExternSpec], editor: BtfEditor) -> None:
    section = next(
        (s for i in btf.find_all(".ksyms", t.Kind.DATASEC) if isinstance(s := btf[i], t.Datasec)),
        None,
    )
    if section is None:
        return
    known = {e.btf_id for e in externs}
    int32 = next(
        (i for i in btf if isinstance(n := _int_or_none(btf, i), t.Int) and n.bits == 32), 0
    )
    has_function = any(btf.kind(entry.type) == t.Kind.FUNC for entry in section.entries)
    dummy = editor.add_var(_DUMMY, int32, 1) if has_function else 0
    if not any(e.kind != ExternKind.KCONFIG for e in externs):
        return
    entries = []
    named: set[int] = set()  # prototypes: many functions may have the same
    for index, entry in enumerate(section.entries):
        if entry.type not in known:
            raise FormatError(
                f"BTF declares {btf.type_name(entry.type)!r}, which no symbol uses",
                section=".ksyms",
            )
        described = btf[entry.type]
        type_id = entry.type
        if isinstance(described, t.Func):
            type_id = dummy
            editor.set_func_linkage(described.id, 1)
            proto = btf[described.type]
            assert isinstance(proto, t.FuncProto)
            params = () if proto.id in named else proto.params
            named.add(proto.id)
            for position, param in enumerate(params):
                if param.type and not param.name:
                    editor.set_extra(proto.id, 2 * position, editor.add_string(_DUMMY))
        else:
            editor.set_var(described.id, type=int32, linkage=1)
        entries.append(t.SecVar(type_id, 4 * index, 4))
    editor.set_datasec(section.id, 4 * len(entries), entries)


def _int_or_none(btf: Btf, type_id: int) -> t.Type | None:
    return btf[type_id] if btf.kind(type_id) == t.Kind.INT else None


def _edit_kconfig(btf: Btf, externs: list[ExternSpec], editor: BtfEditor) -> None:
    end = 0
    offsets = {}
    for extern in externs:
        if extern.kind == ExternKind.KCONFIG:
            end += -end % extern.align
            extern.offset = end
            offsets[extern.btf_id] = end
            end += extern.size
            if end > 0xFFFFFFFF:
                raise FormatError(
                    "the settings up to this one are larger than 4 GiB",
                    section=".kconfig",
                    symbol=extern.name,
                )
    if not offsets:
        return
    for section_id in btf.find_all(".kconfig", t.Kind.DATASEC)[:1]:
        section = btf[section_id]
        assert isinstance(section, t.Datasec)
        entries = []
        for entry in section.entries:
            if entry.type not in offsets:
                raise FormatError(
                    f"BTF declares {btf.type_name(entry.type)!r}, which no symbol uses",
                    section=".kconfig",
                )
            editor.set_var(entry.type, linkage=1)
            entries.append(t.SecVar(entry.type, offsets[entry.type], entry.size))
        editor.set_datasec(section.id, end, entries)
