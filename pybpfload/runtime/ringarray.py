"""Records of a ring buffer as one numpy array; numpy is imported only when that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.runtime.ringscan import stride

if TYPE_CHECKING:
    import numpy

    from pybpfload.runtime.mapcodecs import Codec
    from pybpfload.runtime.ringscan import Run

__all__ = ["array_of"]


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
