"""Resolving externs against the running kernel: kconfig values, kernel variables, kernel functions.

The rules are those of libbpf's ``bpf_object__resolve_externs``. Everything is resolved before
anything is created, so a missing extern leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pybpfload.errors import FormatError, RelocationError
from pybpfload.object.spec import ExternKind, ExternSpec, ObjectSpec
from pybpfload.relocate.externs import WEAK_HINT, Symbol, resolve_typed

if TYPE_CHECKING:
    from pybpfload.relocate import Target

__all__ = ["ResolvedExterns", "resolve"]


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
                hint=WEAK_HINT,
            )
        found.symbols[key] = None if address is None else Symbol(address=address)
