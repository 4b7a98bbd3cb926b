"""Values of maps as arrays: typed views of shared memory, and numpy's if it asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.btf.build import NATIVE

if TYPE_CHECKING:
    from pybpfload.runtime.mapcodecs import Codec

__all__ = ["numpy_array", "typed_view"]

_NATIVE = "bBhHiIqQfd?"  # what memoryview can be cast to


def typed_view(memory: memoryview, codec: Codec, stride: int) -> memoryview:
    """Numbers, or arrays of numbers, that lie at equal distances, as a memoryview of such.

    Args:
        memory: Bytes of all values, each with its padding.
        codec: What a value is.
        stride: Bytes from one to the next.

    Returns:
        One dimension for numbers, two for arrays.

    Raises:
        BufferError: A memoryview cannot have such elements.
    """
    codec = _of_c(codec)
    element: Any = getattr(codec, "element", codec)
    code: str = getattr(element, "code", "")
    cast: Any = memory.cast
    found: memoryview
    if len(code) == 1 and code in _NATIVE and element.order == NATIVE:
        if element is codec and stride % codec.size == 0:
            found = cast(code)[:: stride // codec.size]
            return found
        if element is not codec and stride == codec.size:
            found = cast(code, (len(memory) // stride, codec.size // element.size))
            return found
    raise BufferError(
        f"a memoryview cannot have elements of type {codec.name} at every {stride} bytes; "
        "view() has the bytes"
    )


def numpy_array(memory: Any, codec: Codec, stride: int) -> Any:
    """Values at equal distances as a numpy array, which shares their memory.

    Args:
        memory: Bytes of all values, each with its padding.
        codec: What a value is, made from BTF.
        stride: Bytes from one to the next.

    Raises:
        ImportError: There is no numpy.
        TypeError: The values are none of BTF.
    """
    from pybpfload.interop import numpy_types

    return numpy_types.array(_of_c(codec), memory, range(0, len(memory), stride))


def _of_c(codec: Codec) -> Codec:
    """The codec of the C type that a user's type stands for."""
    found: Codec = getattr(codec, "inner", codec)
    return found
