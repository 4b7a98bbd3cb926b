"""C types of an object as Python classes: ``obj.types["event"]``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pybpfload.btf import types as t
from pybpfload.btf.codecs import EnumCodec
from pybpfload.btf.records import RecordCodec
from pybpfload.btf.values import codec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.btf import Btf

__all__ = ["TypeClasses"]

_NAMED = frozenset({t.Kind.STRUCT, t.Kind.UNION, t.Kind.ENUM, t.Kind.ENUM64, t.Kind.TYPEDEF})


class TypeClasses(Mapping[str, Any]):
    """Record classes of structs and unions, and ``IntEnum`` classes of enums, by their C names.

    A record class makes values (``Event(pid=1)``), reads them (``Event.from_buffer(data)``) and is
    what maps, variables and events give. Typedefs of such types are found too. The same types for
    other libraries: :meth:`ctypes`, :meth:`dtype`.

    Args:
        btf: The BTF; an object without BTF has no types.
    """

    def __init__(self, btf: Btf | None) -> None:
        self._btf = btf

    def __getitem__(self, name: str) -> Any:
        found = self.codec(name)
        return found.record if isinstance(found, RecordCodec) else found.enum

    def codec(self, name: str) -> RecordCodec | EnumCodec:
        """The codec of a type: reads and writes its values, also many at a time.

        Raises:
            KeyError: There is no such struct, union or enum.
            FormatError: Its layout makes no sense.
        """
        btf = self._btf
        for type_id in btf.find_all(name) if btf is not None else ():
            if btf is not None and btf.kind(type_id) in _NAMED:
                found = codec(btf, type_id)
                if isinstance(found, (RecordCodec, EnumCodec)):
                    return found
        close = get_close_matches(name, self, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise KeyError(f"no struct, union or enum {name!r} in the object's BTF{hint}")

    def ctypes(self, name: str) -> Any:
        """The ctypes class of a struct or union, see :mod:`pybpfload.interop.ctypes_types`.

        Raises:
            KeyError, TypeError, FormatError: There is none.
        """
        return _above("ctypes_types").ctypes_class(self.codec(name))

    def dtype(self, name: str) -> Any:
        """The ``numpy.dtype`` of a type, see :mod:`pybpfload.interop.numpy_types`.

        Raises:
            KeyError, FormatError: There is none.
            ImportError: There is no numpy.
        """
        return _above("numpy_types").dtype(self.codec(name))

    def array(self, name: str, buffer: Any, offsets: Sequence[int] | None = None) -> Any:
        """A ``numpy.ndarray`` of many values in a buffer, without copying.

        Args:
            name: The type.
            buffer: Bytes, or any buffer of single bytes.
            offsets: Where each value starts, not negative: a ``range``, or any sequence, for which
                values are copied. By default they fill the buffer, one behind the other.

        Raises:
            ValueMismatchError: The buffer is too short, or does not hold a whole number of values.
            KeyError, FormatError, ImportError: As :meth:`dtype`.
        """
        return _above("numpy_types").array(self.codec(name), buffer, offsets)

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


def _above(module: str) -> Any:
    """A module of a room above this one, which may import what this one may not."""
    return import_module(f"pybpfload.interop.{module}")
