"""Variables, and parts of them, named and set by words: ``--set NAME.MEMBER[2]=VALUE``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from pybpfload.btf.arrays import ArrayCodec, BytesCodec, TextCodec
from pybpfload.btf.codecs import BoolCodec, EnumCodec, FloatCodec, IntCodec, ValueMismatchError
from pybpfload.btf.records import RecordCodec
from pybpfload.btf.values import codec as codec_of
from pybpfload.cli.failure import UsageError, did_you_mean
from pybpfload.object.spec import MapKind

if TYPE_CHECKING:
    from pybpfload.btf.codecs import Codec
    from pybpfload.object.spec import ObjectSpec

__all__ = ["Steps", "assign", "find_part", "parse", "part", "set_variable"]

_TRUTH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def set_variable(spec: ObjectSpec, setting: str) -> None:
    """Set the initial value of a variable.

    Args:
        spec: The object.
        setting: ``NAME=VALUE``; ``NAME.MEMBER=VALUE`` for a member of a struct, ``NAME[2]=VALUE``
            for an element of an array. Values are integers in decimal, or hexadecimal with ``0x``;
            ``true`` or ``false``; names of enumerators; text for arrays of ``char``; elements with
            commas between them for other arrays, where missing ones at the end are zero;
            ``aa:bb:cc`` for arrays of bytes.

    Raises:
        UsageError: There is no such variable, or the value does not fit its type.
    """
    left, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting}: expected NAME=VALUE")
    known = {n: v for n, v in spec.variables.items() if v.map.kind != MapKind.KCONFIG}
    found = find_part(left, known)
    if found is None:
        there = f"; there are: {', '.join(known) or 'none'}"
        close = did_you_mean(left, known) or there
        raise UsageError(f"--set {setting}: {spec.path} has no variable {left!r}{close}")
    name, steps = found
    variable = known[name]
    codec = codec_of(variable.btf, variable.type_id)
    try:
        variable.value = assign(codec, variable.value, steps, text)
    except (UsageError, ValueMismatchError) as error:
        raise UsageError(f"--set {setting}: {error}") from None


Steps = Sequence["str | int"]
"""The way to a part of a value: names of members and indexes of elements."""

_STEP = re.compile(r"\.(?P<member>[^.\[\]]+)|\[(?P<index>[0-9]{1,9})\]")


def find_part(text: str, known: Collection[str]) -> tuple[str, list[str | int]] | None:
    """Read what names a variable or a part of it: ``name``, ``name.member``, ``name[2].member``.

    Args:
        text: What was written.
        known: Names of the variables; static ones of functions have a dot in theirs.

    Returns:
        The longest name that fits, and the way from there; ``None`` if there is no such variable.
    """
    for end in sorted({len(text), *(at.start() for at in re.finditer(r"[.\[]", text))})[::-1]:
        found = list(_STEP.finditer(text, end))
        if text[:end] in known and "".join(each[0] for each in found) == text[end:]:
            return text[:end], [each["member"] or int(each["index"]) for each in found]
    return None


def part(codec: Codec, value: Any, steps: Steps) -> Any:
    """The part of a value that ``steps`` lead to.

    Raises:
        UsageError: There is none.
    """
    for step in steps:
        codec, value = _inside(codec, value, step)
    return value


def assign(codec: Codec, old: Any, steps: Steps, text: str) -> Any:
    """Return a value with the part changed that ``steps`` lead to.

    Args:
        codec: Its type.
        old: What it was.
        steps: The way to the part; none for the whole value.
        text: What the part becomes, as for :func:`parse`.

    Raises:
        UsageError: There is no such part, or the text cannot be its value.
    """
    if not steps:
        return parse(codec, text)
    step, *rest = steps
    inner, value = _inside(codec, old, step)
    new = assign(inner, value, rest, text)
    if isinstance(step, str):
        return old._replace(**{step: new})
    return [*old[:step], new, *old[step + 1 :]]


def _inside(codec: Codec, value: Any, step: str | int) -> tuple[Codec, Any]:
    """Type and value of a member or element."""
    if isinstance(step, int):
        if not isinstance(codec, (ArrayCodec, BytesCodec)):
            raise UsageError(f"{codec.name} has no elements, so no [{step}]")
        if step >= len(value):
            raise UsageError(f"{codec.name} has {len(value)} elements, so no [{step}]")
        return codec.element if isinstance(codec, ArrayCodec) else _BYTE, value[step]
    if not isinstance(codec, RecordCodec):
        raise UsageError(f"{codec.name} has no members, so no {step!r}")
    for field, item in zip(codec.members, tuple(value), strict=True):
        if field.name == step:
            return field.codec, item
    close = did_you_mean(step, [field.name for field in codec.members])
    raise UsageError(f"{codec.name} has no member {step!r}{close}")


_BYTE = IntCodec("unsigned char", 1, False, "=")


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
