"""All that BTF says, type by type: as ``bpftool btf dump`` has it, in its text and in its JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.cdecl import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pybpfload.btf.table import Btf

__all__ = ["dump_lines", "record"]

_ANONYMOUS = "(anon)"
_ENCODINGS = {0: "(none)", t.INT_SIGNED: "SIGNED", t.INT_CHAR: "CHAR", t.INT_BOOL: "BOOL"}
_LINKAGE = dict(enumerate(t.VAR_LINKAGE))
_PARTS = ("members", "values", "params", "vars")  # keys with lists, which get lines of their own


def record(found: t.Type) -> dict[str, Any]:
    """A type as an element of ``types`` in ``bpftool -j btf dump``.

    Args:
        found: The type.

    Returns:
        Keys in bpftool's order: ``id``, ``kind``, ``name``, and what the kind has.
    """
    kind = "UNKN" if isinstance(found, t.Opaque) else found.kind.name
    start = {"id": found.id, "kind": kind, "name": found.name or _ANONYMOUS}
    fields = _FIELDS.get(type(found))
    return {**start, **fields(found)} if fields else start


def dump_lines(btf: Btf, ids: Iterable[int] | None = None) -> Iterator[str]:
    """Lines of text as ``bpftool btf dump`` prints them.

    Args:
        btf: The types.
        ids: Those wanted, all its own by default.

    Raises:
        FormatError: The BTF is damaged.
    """
    for type_id in btf.own_ids() if ids is None else ids:
        found = btf[type_id]
        made = record(found)
        head = f"[{made.pop('id')}] {made.pop('kind')} '{printable(made.pop('name'))}'"
        parts = next((made.pop(key) for key in _PARTS if key in made), ())
        rest = " ".join(f"{key}={value}" for key, value in made.items())
        if isinstance(found, t.Var):
            rest = rest.replace(" ", ", ")
        yield f"{head} {rest}".rstrip()
        suffix = ("LL" if found.signed else "ULL") if isinstance(found, t.Enum64) else ""
        for part in parts:
            name = f"'{printable(part.pop('name'))}' " if "name" in part else ""
            of = f" ({_variable(btf, part['type_id'])})" if isinstance(found, t.Datasec) else ""
            text = " ".join(f"{key}={value}" for key, value in part.items())
            yield f"\t{name}{text}{suffix}{of}"


def _variable(btf: Btf, type_id: int) -> str:
    kind = btf.kind(type_id)
    label = t.Kind(kind).name if kind in t.Kind._value2member_map_ else "UNKN"
    return f"{label} '{printable(btf.type_name(type_id))}'"


def _int(found: t.Int) -> dict[str, Any]:
    return {
        "size": found.size,
        "bits_offset": found.offset,
        "nr_bits": found.bits,
        "encoding": _ENCODINGS.get(found.encoding, "UNKN"),
    }


def _reference(found: t.Reference) -> dict[str, Any]:
    return {"type_id": found.type}


def _array(found: t.Array) -> dict[str, Any]:
    return {
        "type_id": found.type,
        "index_type_id": found.index_type,
        "nr_elems": found.nelems,
    }


def _composite(found: t.Composite) -> dict[str, Any]:
    members = []
    for member in found.members:
        made = {
            "name": member.name or _ANONYMOUS,
            "type_id": member.type,
            "bits_offset": member.bit_offset,
        }
        if member.bitfield_size:
            made["bitfield_size"] = member.bitfield_size
        members.append(made)
    return {"size": found.size, "vlen": len(members), "members": members}


def _enum(found: t.Enum | t.Enum64) -> dict[str, Any]:
    return {
        "encoding": "SIGNED" if found.signed else "UNSIGNED",
        "size": found.size,
        "vlen": len(found.values),
        "values": [{"name": each.name or _ANONYMOUS, "val": each.value} for each in found.values],
    }


def _func_proto(found: t.FuncProto) -> dict[str, Any]:
    params = [{"name": each.name or _ANONYMOUS, "type_id": each.type} for each in found.params]
    return {"ret_type_id": found.return_type, "vlen": len(params), "params": params}


def _datasec(found: t.Datasec) -> dict[str, Any]:
    entries = [
        {"type_id": each.type, "offset": each.offset, "size": each.size} for each in found.entries
    ]
    return {"size": found.size, "vlen": len(entries), "vars": entries}


def _linked(found: t.Func | t.Var) -> dict[str, Any]:
    return {"type_id": found.type, "linkage": _LINKAGE.get(found.linkage, "(unknown)")}


_FIELDS: dict[type[t.Type], Callable[[Any], dict[str, Any]]] = {
    t.Int: _int,
    t.Ptr: _reference,
    t.Typedef: _reference,
    t.Volatile: _reference,
    t.Const: _reference,
    t.Restrict: _reference,
    t.TypeTag: _reference,
    t.Array: _array,
    t.Struct: _composite,
    t.Union: _composite,
    t.Enum: _enum,
    t.Enum64: _enum,
    t.Fwd: lambda found: {"fwd_kind": "union" if found.is_union else "struct"},
    t.Func: _linked,
    t.Var: _linked,
    t.FuncProto: _func_proto,
    t.Datasec: _datasec,
    t.Float: lambda found: {"size": found.size},
    t.DeclTag: lambda found: {"type_id": found.type, "component_idx": found.component},
}
