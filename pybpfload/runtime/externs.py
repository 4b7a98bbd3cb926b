"""Resolving externs against the running kernel: kconfig values, kernel variables, kernel functions.

The rules are those of libbpf's ``bpf_object__resolve_externs``. Everything is resolved before
anything is created, so a missing extern leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pybpfload.btf import Kind
from pybpfload.btf import types as t
from pybpfload.btf.table import essential_name
from pybpfload.errors import FormatError, NotSupportedError, RelocationError
from pybpfload.object.spec import ExternKind, ExternSpec, ObjectSpec
from pybpfload.relocate.core.decision import Budget, Failure
from pybpfload.relocate.core.match import types_compatible

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.relocate import Target

__all__ = ["ResolvedExterns", "resolve", "resolve_typed"]

_WEAK = "declare it __weak if the program can do without"


@dataclass(slots=True)
class Symbol:
    """A kernel variable or function.

    Attributes:
        btf: The BTF that describes it, ``None`` for a typeless one.
        type_id: Its VAR or FUNC there.
        address: Address of a typeless symbol.
    """

    btf: Btf | None = None
    type_id: int = 0
    address: int = 0


@dataclass(slots=True)
class ResolvedExterns:
    """What :func:`resolve` found.

    Attributes:
        kconfig: Content of the ``.kconfig`` map.
        symbols: ksyms and kfuncs by their name in the spec; a weak one that is missing is ``None``.
        notes: Weak externs that are missing.
    """

    kconfig: bytes = b""
    symbols: dict[str, Symbol | None] = field(default_factory=dict)
    notes: list[RelocationError] = field(default_factory=list)


def resolve(spec: ObjectSpec, target: Target, *, kconfig: str | None = None) -> ResolvedExterns:
    """Resolve all externs of an object.

    Args:
        spec: The object.
        target: BTF of the running kernel and its modules.
        kconfig: Text in the form of a kernel configuration; it wins over the kernel's own.

    Raises:
        BpfError: A strong extern is missing, or one has the wrong type.
    """
    found = ResolvedExterns()
    values = [e for e in spec.externs.values() if e.kind == ExternKind.KCONFIG]
    if values:
        from pybpfload.kernel import kconfig as kernel_kconfig

        try:
            found.kconfig = kernel_kconfig.resolve(values, kconfig)
        except (FormatError, RelocationError) as error:
            raise error.located(file=spec.path) from error.__cause__
    symbols = {k: e for k, e in spec.externs.items() if e.kind != ExternKind.KCONFIG}
    typeless = {key: extern for key, extern in symbols.items() if not extern.is_typed}
    if typeless:
        _resolve_typeless(spec, typeless, found)
    for key, extern in symbols.items():
        if extern.is_typed:
            found.symbols[key] = resolve_typed(spec, extern, target)
        if found.symbols[key] is None:
            missing = f"weak {extern.kind} {extern.name} is not in this kernel, or of another type"
            found.notes.append(RelocationError(missing, file=spec.path))
    return found


def _resolve_typeless(
    spec: ObjectSpec, externs: dict[str, ExternSpec], found: ResolvedExterns
) -> None:
    from pybpfload.kernel import kallsyms

    addresses = kallsyms.lookup([extern.name for extern in externs.values()])
    for key, extern in externs.items():
        address = addresses.get(extern.name)
        if address is None and not extern.weak:
            raise RelocationError(
                f"kernel symbol {extern.name!r} does not exist in this kernel (/proc/kallsyms)",
                file=spec.path,
                section=".ksyms",
                symbol=extern.name,
                hint=_WEAK,
            )
        found.symbols[key] = None if address is None else Symbol(address=address)


def resolve_typed(spec: ObjectSpec, extern: ExternSpec, target: Target) -> Symbol | None:
    """Find a kernel variable or function in BTF, asking nothing else.

    Returns:
        ``None`` for a weak one that is not there, or a weak function of another type.

    Raises:
        RelocationError: It is missing, or of another type.
        NotSupportedError: The target has no BTF.
    """
    is_function = extern.kind == ExternKind.KFUNC
    kind = Kind.FUNC if is_function else Kind.VAR
    # Functions may come in flavors, of which the one that fits this kernel is taken; variables may
    # not.
    name = essential_name(extern.name) if is_function else extern.name
    if target.btf is None:
        raise NotSupportedError(
            f"{extern.kind} {name} needs BTF of the kernel, which this one lacks"
        )
    owner = target.btf
    type_id = owner.find(name, kind)
    if not type_id:
        for module in target.modules:
            type_id = module.find_own(name, kind)
            if type_id:
                owner = module
                break
    if not type_id:
        if extern.weak:
            return None
        raise RelocationError(
            f"{extern.kind} {name!r} is not in this kernel, nor in its modules' BTF",
            file=spec.path,
            section=".ksyms",
            symbol=extern.name,
            hint=f"load the module that has it, or {_WEAK}",
        )
    described = owner[type_id]
    assert isinstance(described, (t.Func, t.Var))
    local = spec.require_btf("externs")
    wanted = extern.type_id
    theirs = described.type if is_function else owner.strip(described.type)
    try:
        fits = types_compatible(local, wanted, owner, theirs, Budget())
    except Failure as error:
        raise RelocationError(
            f"{extern.kind} {name!r}: {error}",
            file=spec.path,
            section=".ksyms",
            symbol=extern.name,
            hint=_declaration(owner, type_id),
        ) from None
    if not fits:
        if extern.weak and is_function:
            return None
        raise RelocationError(
            f"{extern.kind} {name!r} is declared with a type that is not the kernel's",
            file=spec.path,
            section=".ksyms",
            symbol=extern.name,
            hint=_declaration(owner, type_id),
        )
    return Symbol(owner, type_id)


def _declaration(owner: Btf, type_id: int) -> str:
    from pybpfload.btf.cdecl import declare

    return f"declare it as the kernel does: {declare(owner, type_id)}"
