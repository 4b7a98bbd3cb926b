"""The least BTF that objects need to be relocated: :func:`minimize` (``bpftool gen min_core_btf``).

A kernel without BTF of its own can run CO-RE programs when they bring its BTF along. Of the 5 MB
some kilobytes matter: the members that relocations read, the types of which they are made, and
whatever decides which of several candidates fits.

Every decision stays as it was because each step of relocation sees the same. What matched keeps the
path to what was asked for, in each candidate. What did not match has even less to match with, but
for two cases that are taken care of: an array without length becomes a flexible one when it gets to
be the last member, and questions about whole types look at everything in them.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.build import BtfBuilder
from pybpfload.btf.table import _LONG_NAMES
from pybpfload.btf.words import Renumbered
from pybpfload.relocate.core.candidates import Target
from pybpfload.relocate.core.decision import (
    ENUMVAL_KINDS,
    FIELD_KINDS,
    Budget,
    CoreDecision,
    CoreKind,
    Spec,
)
from pybpfload.relocate.core.driver import relocate_core
from pybpfload.relocate.core.match import match_spec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.btf import Btf
    from pybpfload.object.spec import ObjectSpec

__all__ = ["minimize"]


def minimize(btf: Btf, objects: Iterable[ObjectSpec], *, everything: bool = True) -> Renumbered:
    """Return the part of a kernel's BTF that relocating these objects against it needs.

    Structs keep their sizes and the offsets of those members that are left; pointers to what is not
    needed become ``void *``. A type id that a program asks for (``bpf_core_type_id_kernel``) is
    that of the small table, as with any BTF that is not the running kernel's.

    Args:
        btf: BTF of a kernel, not split.
        objects: What will be relocated against it.
        everything: Consider all programs, not only those that are loaded.

    Returns:
        The table, and the new id of each old type.

    Raises:
        RelocationError: An object cannot be relocated against ``btf``.
        ValueError: ``btf`` is split.
    """
    if btf.base is not None:
        raise ValueError(f"{btf.name} is split; give the BTF of a kernel")
    kept = _Kept(btf)
    for spec in objects:
        code = {id(function): list(function.insns) for function in spec.functions}
        for decision in relocate_core(spec, code, Target(btf), everything=everything):
            kept.decision(decision)
    return kept.build()


class _Kept:
    """Which types, members and enumerators of a table are kept."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self.types: set[int] = set()
        self.parts: dict[int, set[int]] = {}  # of composites and enums: indices
        self._seen: set[tuple[int, bool, bool]] = set()
        if btf.pointer_size != 8:  # what is assumed when no type tells it
            self.outline(next(filter(None, (btf.find(n, t.Kind.INT) for n in _LONG_NAMES)), 0))

    def decision(self, decision: CoreDecision) -> None:
        """Keep what one relocation looked at, in every candidate that could have been taken."""
        local, kind = decision.local, decision.kind
        if local is None or kind == CoreKind.LOCAL_TYPE_ID:
            return
        for _, type_id in decision.candidates:
            if kind in FIELD_KINDS or kind in ENUMVAL_KINDS:
                found = match_spec(local, self.btf, type_id, Budget())
                if found is not None:
                    self.access(found)
            else:
                self.whole(type_id, members=kind == CoreKind.TYPE_MATCHES)

    def outline(self, type_id: int) -> None:
        """Keep a type and what it is made of, but nothing behind pointers or inside structs."""
        btf, waiting = self.btf, [type_id]
        while waiting:
            type_id = waiting.pop()
            if not type_id or type_id in self.types:
                continue
            self.types.add(type_id)
            found = btf[type_id]
            if isinstance(found, t.Array):
                waiting += (found.type, found.index_type)
            elif isinstance(found, t.Reference) and not isinstance(found, t.Ptr):
                waiting.append(found.type)

    def part(self, type_id: int, index: int) -> None:
        """Keep a member or enumerator."""
        self.outline(type_id)
        self.parts.setdefault(type_id, set()).add(index)
        parent = self.btf[type_id]
        if isinstance(parent, t.Composite):
            member = parent.members[index]
            self.outline(member.type)
            last = len(parent.members) - 1
            inner = self.btf[self.btf.strip(member.type)]
            if index != last and isinstance(inner, t.Array) and not inner.nelems:
                self.part(type_id, last)

    def access(self, spec: Spec) -> None:
        """Keep the path of an access."""
        btf, current = self.btf, spec.root
        self.outline(current)
        if spec.kind in ENUMVAL_KINDS:
            self.part(spec.last.type_id, spec.last.index)
            return
        for index in spec.raw[1:]:
            current = btf.strip(current)
            parent = btf[current]
            if isinstance(parent, t.Composite):
                self.part(current, index)
                current = parent.members[index].type
            else:
                assert isinstance(parent, t.Array)
                current = parent.type

    def whole(self, type_id: int, *, members: bool) -> None:
        """Keep all that comparing a type with another looks at.

        Args:
            type_id: The type.
            members: Compare members too, unless the struct is behind a pointer.
        """
        waiting = [(type_id, members)]
        while waiting:
            type_id, inside = waiting.pop()
            if (type_id, members, inside) in self._seen:
                continue
            self._seen.add((type_id, members, inside))
            self.outline(type_id)
            found = self.btf[type_id]
            if isinstance(found, t.Reference):
                waiting.append((found.type, inside and not isinstance(found, t.Ptr)))
            elif isinstance(found, t.Array):
                waiting.append((found.type, inside))
            elif isinstance(found, t.FuncProto):
                waiting.append((found.return_type, inside))
                waiting += [(param.type, inside) for param in found.params]
            elif isinstance(found, (t.Enum, t.Enum64)) and members:
                self.parts.setdefault(type_id, set()).update(range(len(found.values)))
            elif isinstance(found, t.Composite) and inside:
                self.parts.setdefault(type_id, set()).update(range(len(found.members)))
                waiting += [(member.type, True) for member in found.members]

    def build(self) -> Renumbered:
        """Put the kept types into a table, in the order they had."""
        btf = self.btf
        ids = array("I", bytes(4 * len(btf)))
        for new, old in enumerate(sorted(self.types), 1):
            ids[old] = new
        builder = BtfBuilder(btf.byteorder)
        for old in sorted(self.types):
            builder.add_type(self._reduced(old, ids))
        return Renumbered(builder.btf(btf.name), ids)

    def _reduced(self, type_id: int, ids: array[int]) -> t.Type:
        found, parts = self.btf[type_id], sorted(self.parts.get(type_id, ()))
        if isinstance(found, t.Reference):
            return replace(found, type=ids[found.type])
        if isinstance(found, t.Array):
            return replace(found, type=ids[found.type], index_type=ids[found.index_type])
        if isinstance(found, t.Composite):
            kept = [found.members[index] for index in parts]
            return replace(found, members=tuple(replace(m, type=ids[m.type]) for m in kept))
        if isinstance(found, (t.Enum, t.Enum64)):
            return replace(found, values=tuple(found.values[index] for index in parts))
        if isinstance(found, t.FuncProto):
            return replace(
                found,
                return_type=ids[found.return_type],
                params=tuple(replace(p, type=ids[p.type]) for p in found.params),
            )
        return found
