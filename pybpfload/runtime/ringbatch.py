"""Records of a ring buffer as one array, of numpy or of ctypes: one copy of the ring's memory.

Both are imported only when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pybpfload.runtime.ringscan import stride

if TYPE_CHECKING:
    import numpy

    from pybpfload.runtime.mapcodecs import Codec
    from pybpfload.runtime.ringscan import Run

__all__ = ["array_of", "structs_of"]

_CLASSES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def array_of(data: memoryview, runs: list[Run], codec: Codec | None) -> numpy.ndarray[Any, Any]:
    """Copy records of one length into a new array.

    Args:
        data: What they lie in.
        runs: They, at least one.
        codec: Their type, or ``None``.

    Returns:
        An array of structures, or of rows of bytes without a type. A record that ends inside its
        type's last array has zeros there; what a flexible array holds is left out.

    Raises:
        TypeError: The type is not BTF's, but a codec of the user's own.
        ImportError: There is no numpy.
    """
    import numpy

    from pybpfload.interop.numpy_types import dtype

    length = runs[0][1]
    size = length if codec is None else codec.size
    known = min(size, length)
    if not known:
        return numpy.zeros((sum(run[2] for run in runs), 0), "u1")
    # As plain memory, which numpy copies faster than structures and rows.
    parts = [
        numpy.ndarray(count, f"V{known}", data, at, (stride(length),)) for at, _, count, _ in runs
    ]
    whole: Any = numpy.concatenate(parts)
    if known < size or codec is None:
        rows = whole.view("u1").reshape(len(whole), known)
        if codec is None:
            return rows  # type: ignore[no-any-return]
        whole = numpy.zeros((len(rows), size), "u1")
        whole[:, :known] = rows
        whole = whole.reshape(-1)
    return whole.view(dtype(codec))  # type: ignore[no-any-return]


def structs_of(data: memoryview, runs: list[Run], codec: Codec) -> Any:
    """Copy records of one length into a new ctypes array of structures.

    Args:
        data: What they lie in.
        runs: They, at least one.
        codec: Their type.

    Raises:
        TypeError: Their type is no struct or union of BTF.
    """
    kind = _spaced(codec)
    length, size = runs[0][1], codec.size
    step = stride(size)
    if len(runs) == 1 and length == size and runs[0][0] + runs[0][2] * step <= len(data):
        at, _, count, _ = runs[0]
        return (kind * count).from_buffer_copy(data, at)
    known = min(length, size)
    fill = bytes(step - known)
    parts = [
        b"".join([data[each : each + known], fill])
        for at, _, count, _ in runs
        for each in range(at, at + count * stride(length), stride(length))
    ]
    return (kind * len(parts)).from_buffer_copy(b"".join(parts))


def _spaced(codec: Any) -> Any:
    """The ctypes class of a type, with room for the header of the next record behind it."""
    found = _CLASSES.get(codec)
    if found is None:
        import ctypes

        from pybpfload.interop.ctypes_types import ctypes_class

        kind = ctypes_class(codec)
        space = [("_next", ctypes.c_ubyte * (stride(codec.size) - codec.size))]
        namespace = {"_pack_": 1, "_layout_": "ms", "_fields_": space, "__slots__": ()}
        found = _CLASSES.setdefault(codec, type(kind.__name__, (kind,), namespace))
    return found
