"""C types of an object as Python classes: ``obj.types["event"]``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.codecs import EnumCodec
from pybpfload.btf.records import RecordCodec
from pybpfload.btf.values import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf import Btf

__all__ = ["TypeClasses"]

_NAMED = frozenset({t.Kind.STRUCT, t.Kind.UNION, t.Kind.ENUM, t.Kind.ENUM64, t.Kind.TYPEDEF})


class TypeClasses(Mapping[str, Any]):
    """Record classes of structs and unions, and ``IntEnum`` classes of enums, by their C names.

    A record class makes values (``Event(pid=1)``), reads them (``Event.from_buffer(data)``) and is
    what maps, variables and events give. Typedefs of such types are found too.

    Args:
        btf: The BTF; an object without BTF has no types.
    """

    def __init__(self, btf: Btf | None) -> None:
        self._btf = btf

    def __getitem__(self, name: str) -> Any:
        btf = self._btf
        for type_id in btf.find_all(name) if btf is not None else ():
            if btf is not None and btf.kind(type_id) in _NAMED:
                found = codec(btf, type_id)
                if isinstance(found, RecordCodec):
                    return found.record
                if isinstance(found, EnumCodec):
                    return found.enum
        close = get_close_matches(name, self, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"no struct, union or enum {name!r} in the object's BTF{hint}")

    def __iter__(self) -> Iterator[str]:
        btf = self._btf
        seen = set()
        for type_id in btf.own_ids() if btf is not None else ():
            if btf is not None and btf.kind(type_id) in _NAMED - {t.Kind.TYPEDEF}:
                name = btf.type_name(type_id)
                if name and name not in seen:
                    seen.add(name)
                    yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<types: {', '.join(self)}>"
