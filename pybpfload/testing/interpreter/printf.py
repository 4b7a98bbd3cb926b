"""Format strings of ``bpf_trace_printk`` and its like (``bpf_bprintf_prepare`` of the kernel)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pybpfload.testing.interpreter.errors import FaultError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pybpfload.testing.interpreter.memory import Memory

__all__ = ["format_text"]

_CONVERSION: Final = re.compile(
    rb"%(?:(?P<percent>%)"
    rb"|(?P<flags>[-+ 0]*)(?P<width>[1-9]\d{0,5})?"
    rb"(?:(?P<text>s|p[ku]s)|p(?P<address>[iI][46])|p(?P<pointer>[KxsSB]|(?=\W|$))|(?P<char>c)"
    rb"|(?P<size>ll?)?(?P<number>[diuxX])))"
)


def format_text(memory: Memory, template: bytes, values: Sequence[int]) -> bytes:
    """Fill numbers into a format string.

    Pointers (``%p``, ``%pK``, ``%ps``, ...) are written as ``%px`` writes them, 16 hexadecimal
    digits; the kernel may write a hash or a name.

    A width has six digits at most.

    Args:
        memory: Where ``%s``, ``%pks`` and ``%pI4`` find what they write.
        template: The format.
        values: 64-bit numbers; more than are needed do not matter.

    Raises:
        FaultError: The kernel refuses the format, or there are too few values.
    """
    out = bytearray()
    rest = iter(values)
    at = 0
    while (percent := template.find(b"%", at)) >= 0:
        match = _CONVERSION.match(template, percent)
        if match is None:
            problem = template[percent : percent + 8].decode(errors="backslashreplace")
            raise FaultError(f"format {template!r}: the kernel does not take {problem!r}")
        out += template[at:percent]
        at = match.end()
        if match["percent"]:
            out += b"%"
            continue
        value = next(rest, None)
        if value is None:
            raise FaultError(f"format {template!r}: wants more values than there are")
        out += _padded(match, _number(match, value) or _text(memory, match, value))
    return bytes(out + template[at:])


def _number(match: re.Match[bytes], value: int) -> bytes:
    """Text of a number with its sign and its zeros; nothing for other conversions."""
    kind = match["number"]
    if not kind:
        return b""
    bits = 64 if match["size"] else 32
    value &= (1 << bits) - 1
    if kind in b"di" and value >> bits - 1:
        value -= 1 << bits
    flags = match["flags"] if kind in b"di" else re.sub(b"[+ ]", b"", match["flags"])
    spec = b"%" + flags + (match["width"] or b"") + kind.replace(b"u", b"d")
    return (spec.decode() % value).encode()


def _text(memory: Memory, match: re.Match[bytes], value: int) -> bytes:
    try:
        if match["text"]:
            return memory.text(value)
        if match["address"]:
            return _address(memory, match["address"], value)
    except FaultError:
        return b""  # as the kernel does
    if match["char"]:
        return bytes([value & 255])
    return b"%x" % value if match["width"] else b"%016x" % value


def _address(memory: Memory, kind: bytes, place: int) -> bytes:
    """IP address in memory; ``i`` is the variant with zeros in front, or without colons."""
    if kind[1:] == b"4":
        number = b"%03d" if kind[:1] == b"i" else b"%d"
        return b".".join(number % byte for byte in memory.read(place, 4))
    digits = memory.read(place, 16).hex()
    colon = "" if kind[:1] == b"i" else ":"
    return colon.join(digits[i : i + 4] for i in range(0, 32, 4)).encode()


def _padded(match: re.Match[bytes], text: bytes) -> bytes:
    width = int(match["width"] or 0)
    return text.ljust(width) if b"-" in match["flags"] else text.rjust(width)
