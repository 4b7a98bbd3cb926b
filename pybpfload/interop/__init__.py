"""C types as other libraries and users write them: ctypes, numpy, classes of one's own.

Everything here starts from a codec of :mod:`pybpfload.btf.values`, so offsets and sizes are those
of BTF. ctypes and numpy are imported only by who asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.btf.codecs import Codec
from pybpfload.btf.records import Record

if TYPE_CHECKING:
    from typing import TypeAlias

    CType: TypeAlias = Codec | type[Record]

__all__ = ["as_codec"]


def as_codec(c_type: Any) -> Codec:
    """Return the codec of a C type that is given as such or as its record class.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(c_type, Codec):
        return c_type
    if isinstance(c_type, type) and issubclass(c_type, Record):
        return c_type._codec
    raise TypeError(f"{c_type!r} is neither a codec nor a record class")
