"""numpy dtypes of C types, and arrays over buffers that hold many of them, without copying.

============================================  =====================================================
C type                                        field of the dtype
============================================  =====================================================
integers of 1 to 8 bytes, enums, pointers     integer of that size, sign and byte order
``_Bool`` of 1 byte                           ``bool``; of more an unsigned integer
``_Float16``, ``float``, ``double``           float of 2, 4 or 8 bytes
``char[N]``                                   ``S<N>``: bytes without the NULs behind them
``unsigned char[N]``                          subarray of N ``uint8``
wider integers and floats                     ``V16``; subarray of ``uint8``
other arrays                                  subarray, of several dimensions for arrays of arrays
structs                                       dtype inside of the dtype
unions, and what else shares bytes            fields that share bytes
bit fields                                    no field: :func:`bit_field` reads a column of them
arrays without length                         no field
============================================  =====================================================

Offsets, and the size of the whole with what pads it, are those of BTF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.codecs import BoolCodec, Codec, FloatCodec, IntCodec, RawCodec
from pybpfload.btf.records import BitsCodec, RecordCodec
from pybpfload.errors import FormatError
from pybpfload.interop import as_codec

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["array", "bit_field", "dtype"]

_MAX_DIMENSIONS = 32  # those of numpy 1; nothing that people write has more

_DTYPES: WeakKeyDictionary[Codec, Any] = WeakKeyDictionary()


def dtype(c_type: Any) -> Any:
    """Return the ``numpy.dtype`` of a C type.

    Args:
        c_type: Codec or record class.

    Raises:
        FormatError: It claims more than 1 GiB, or its arrays nest more than 32 deep.
        ImportError: There is no numpy.
    """
    codec = as_codec(c_type)
    codec.check_size()
    found = _DTYPES.get(codec)
    if found is None:
        import numpy

        found = _DTYPES.setdefault(codec, numpy.dtype(_format(codec)))
    return found


def array(c_type: Any, buffer: Any, offsets: Sequence[int] | None = None) -> Any:
    """Return a ``numpy.ndarray`` of many values.

    Args:
        c_type: Codec or record class.
        buffer: Bytes, or any buffer of single bytes.
        offsets: Where each value starts, not negative: a ``range``, or any sequence. By default
            the values fill the buffer, one behind the other.

    Returns:
        A view of the buffer, writable if the buffer is; of ``offsets`` that are no ascending range,
        a copy.

    Raises:
        ValueMismatchError: There are fewer bytes than the type has, or, without ``offsets``, the
            buffer does not hold a whole number of values.
        FormatError, ImportError: As :func:`dtype`.
    """
    import numpy

    codec, kind = as_codec(c_type), dtype(c_type)
    view = memoryview(buffer)
    places = codec.places(view, offsets)
    if not places:
        return numpy.empty(0, kind)
    # numpy.ndarray does not hold on to a buffer: its array would outlive a mapping that is closed.
    held = numpy.frombuffer(view, numpy.uint8)
    if isinstance(places, range) and places.step > 0:
        return numpy.ndarray((len(places),), kind, held, places[0], (places.step,))
    anywhere = numpy.ndarray((len(view) - codec.size + 1,), kind, held, 0, (1,))
    return anywhere[numpy.asarray(places)]


def bit_field(c_type: Any, values: Any, name: str) -> Any:
    """Return a bit field of all values, as an array of integers; one of ``_Bool`` as booleans.

    Args:
        c_type: Codec or record class of a struct.
        values: Array of its dtype.
        name: The bit field.

    Raises:
        KeyError: The struct has no such bit field.
    """
    import numpy

    codec = as_codec(c_type)
    index = codec.index(name) if isinstance(codec, RecordCodec) else None
    member = codec.members[index] if isinstance(codec, RecordCodec) and index is not None else None
    if member is None or not isinstance(member.codec, BitsCodec):
        raise KeyError(f"{codec.name} has no bit field {name!r}")
    bits = member.codec
    window = numpy.dtype(
        {
            "names": ["raw"],
            "formats": [("u1", (bits.size,))],
            "offsets": [member.offset],
            "itemsize": codec.size,
        }
    )
    columns = values.view(window)["raw"]
    number = numpy.zeros(values.shape, "u8")
    for place in range(bits.size):
        # 64 bits that begin inside of a byte touch nine.
        column = columns[..., place if bits.order == "<" else bits.size - 1 - place].astype("u8")
        up = 8 * place - bits.shift
        number |= column << numpy.uint64(up) if up >= 0 else column >> numpy.uint64(-up)
    number &= numpy.uint64((1 << bits.width) - 1)
    if isinstance(bits.inner, BoolCodec):
        return number != 0
    if not bits.signed:
        return number
    spare = numpy.int64(64 - bits.width)
    return number.view("i8") << spare >> spare


def _format(codec: Codec) -> Any:
    """What ``numpy.dtype`` makes the dtype of."""
    order, size = codec.order, codec.size
    if isinstance(codec, RecordCodec):
        fields = [
            (member.name, _format(member.codec), member.offset)
            for member in codec.members
            if member.codec.size and not isinstance(member.codec, BitsCodec)
        ]
        return {
            "names": [name for name, _, _ in fields],
            "formats": [kind for _, kind, _ in fields],
            "offsets": [offset for _, _, offset in fields],
            "itemsize": size,
        }
    if isinstance(codec, ArrayCodec):
        return _subarray(codec)
    if isinstance(codec, BoolCodec):
        return "?" if size == 1 else f"{order}u{size}"
    if isinstance(codec, FloatCodec):
        return f"{order}f{size}"
    if isinstance(codec, IntCodec):
        return f"{order}{'i' if codec.signed else 'u'}{size}"
    if isinstance(codec, TextCodec):
        return f"S{size}"
    if isinstance(codec, RawCodec) and not codec.code.endswith("s"):
        return f"{order}u{size}"
    return ("u1", (size,)) if isinstance(codec, BytesCodec) else f"V{size}"


def _subarray(codec: ArrayCodec) -> Any:
    shape = []
    element: Codec = codec
    while isinstance(element, ArrayCodec):
        shape.append(element.count)
        element = element.element
    if len(shape) > _MAX_DIMENSIONS:
        raise FormatError(f"{codec.name} has more than {_MAX_DIMENSIONS} dimensions")
    return (_format(element), tuple(shape))
