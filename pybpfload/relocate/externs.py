"""Kernel variables and functions that an object names, found in BTF: offline, of any kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pybpfload.btf import Kind
from pybpfload.btf import types as t
from pybpfload.btf.table import essential_name
from pybpfload.errors import NotSupportedError, RelocationError
from pybpfload.object.spec import ExternKind
from pybpfload.relocate.core.decision import Budget, Failure
from pybpfload.relocate.core.match import types_compatible

if TYPE_CHECKING:
    from pybpfload.btf import Btf
    from pybpfload.object.spec import ExternSpec, ObjectSpec
    from pybpfload.relocate.core.candidates import Target

__all__ = ["WEAK_HINT", "Symbol", "resolve_typed"]

WEAK_HINT = "declare it __weak if the program can do without"
"""What helps where a symbol is missing."""


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
            hint=f"load the module that has it, or {WEAK_HINT}",
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
