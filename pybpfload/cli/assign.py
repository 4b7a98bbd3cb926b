"""Variables set from the command line: ``--set NAME=VALUE``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.codecs import BoolCodec, EnumCodec, FloatCodec, ValueMismatchError
from pybpfload.btf.records import RecordCodec
from pybpfload.btf.values import codec as codec_of
from pybpfload.cli.failure import UsageError, did_you_mean
from pybpfload.object.spec import MapKind

if TYPE_CHECKING:
    from pybpfload.btf.codecs import Codec
    from pybpfload.object.spec import ObjectSpec

__all__ = ["parse", "set_variable"]

_TRUTH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def set_variable(spec: ObjectSpec, setting: str) -> None:
    """Set the initial value of a variable.

    Args:
        spec: The object.
        setting: ``NAME=VALUE``, or ``NAME.MEMBER=VALUE`` for a member of a struct. Values are
            integers in decimal, or hexadecimal with ``0x``; ``true`` or ``false``; names of
            enumerators; text for arrays of ``char``; elements with commas between them for other
            arrays, where missing ones at the end are zero; ``aa:bb:cc`` for arrays of bytes.

    Raises:
        UsageError: There is no such variable, or the value does not fit its type.
    """
    left, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting}: expected NAME=VALUE")
    known = {n: v for n, v in spec.variables.items() if v.map.kind != MapKind.KCONFIG}
    name = left
    path: list[str] = []
    while name not in known and "." in name:
        # Static variables of functions have a dot in their names, members are behind one too.
        name, _, member = name.rpartition(".")
        path.insert(0, member)
    if name not in known:
        there = f"; there are: {', '.join(known) or 'none'}"
        close = did_you_mean(left, known) or there
        raise UsageError(f"--set {setting}: {spec.path} has no variable {left!r}{close}")
    variable = known[name]
    codec = codec_of(variable.btf, variable.type_id)
    try:
        variable.value = _assign(codec, variable.value, path, text)
    except (UsageError, ValueMismatchError) as error:
        raise UsageError(f"--set {setting}: {error}") from None


def _assign(codec: Codec, old: Any, path: list[str], text: str) -> Any:
    """Return the value of a variable with the part changed that ``path`` leads to."""
    if path:
        if not isinstance(codec, RecordCodec):
            raise UsageError(f"{codec.name} has no members, so no {path[0]!r}")
        for field, value in zip(codec.members, tuple(old), strict=True):
            if field.name == path[0]:
                return old._replace(**{path[0]: _assign(field.codec, value, path[1:], text)})
        close = did_you_mean(path[0], [field.name for field in codec.members])
        raise UsageError(f"{codec.name} has no member {path[0]!r}{close}")
    return parse(codec, text)


def parse(codec: Codec, text: str) -> Any:
    """Read a text as well as the type allows; what does not fit is left for the codec to refuse.

    Raises:
        UsageError: A text cannot be a value of this type.
    """
    if isinstance(codec, BytesCodec):
        return _bytes(codec, text)
    if isinstance(codec, ArrayCodec):
        return _elements(codec, text)
    if isinstance(codec, RecordCodec):
        members = ", ".join(field.name for field in codec.members)
        raise UsageError(f"set the members of {codec.name} one by one, as .MEMBER: {members}")
    if isinstance(codec, TextCodec):
        return text
    if isinstance(codec, BoolCodec):
        return _TRUTH.get(text.lower(), text)
    try:
        return float(text) if isinstance(codec, FloatCodec) else int(text, 0)
    except ValueError:
        return _enumerator(codec, text) if isinstance(codec, EnumCodec) else text


def _enumerator(codec: EnumCodec, text: str) -> Any:
    try:
        return codec.number(text)
    except ValueMismatchError:
        names = list(codec.enum.__members__) if codec.enum is not None else []
        close = did_you_mean(text, names) or f"; it has {', '.join(names)}"
        raise UsageError(f"{codec.name} has no {text!r}{close}") from None


def _bytes(codec: BytesCodec, text: str) -> Any:
    colons = ":" in text
    try:
        numbers = [int(item, 16 if colons else 0) for item in text.split(":" if colons else ",")]
        return bytes(numbers).ljust(codec.size, b"\0")
    except ValueError:
        return text


def _elements(codec: ArrayCodec, text: str) -> list[Any]:
    """Elements in the order in which they lie in memory, as in C also for arrays of arrays."""
    rows = []  # length of a row in each dimension but the first
    element = codec.element
    while isinstance(element, ArrayCodec):
        rows.append(element.count)
        element = element.element
    values = [parse(element, item.strip()) for item in text.split(",")]
    zero = element.decode(bytes(element.size))
    values += [zero] * (codec.count * math.prod(rows) - len(values))
    for length in reversed(rows):
        values = [values[i : i + length] for i in range(0, len(values), length or 1)]
    return values
