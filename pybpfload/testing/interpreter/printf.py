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
    rb"%(?P<flags>[-+ 0#]*)(?P<width>\d*)(?:\.(?P<precision>\d+))?"
    rb"(?P<size>ll|l|hh|h|z)?(?P<kind>[diuxXcspo%])(?P<pointer>ks|us|[A-Za-z]?)"
)
_BITS: Final = {b"ll": 64, b"l": 64, b"z": 64, b"h": 16, b"hh": 8, None: 32}


def format_text(memory: Memory, template: bytes, values: Sequence[int]) -> bytes:
    """Fill numbers into a format string.

    Args:
        memory: Where ``%s`` and ``%pks`` find their text.
        template: The format.
        values: 64-bit numbers, more than are needed do not matter.

    Raises:
        FaultError: The kernel refuses the format, or there are too few values.
    """
    out = bytearray()
    rest = list(values)
    at = 0
    while (percent := template.find(b"%", at)) >= 0:
        out += template[at:percent]
        match = _CONVERSION.match(template, percent)
        if match is None:
            raise FaultError(f"format {template!r}: the kernel does not take what is at {percent}")
        kind, pointer = match["kind"], match["pointer"]
        at = match.end("kind")
        if kind == b"%":
            out += b"%"
            continue
        if not rest:
            raise FaultError(f"format {template!r}: wants more values than there are")
        value = rest.pop(0)
        if kind == b"p":
            if pointer in (b"ks", b"us"):
                at = match.end()
                kind = b"s"
            elif pointer in (b"s", b"S", b"B", b"K", b"x"):
                at = match.end()
        out += _one(memory, match, kind, value)
    return bytes(out + template[at:])


def _one(memory: Memory, match: re.Match[bytes], kind: bytes, value: int) -> bytes:
    flags, width, precision = match["flags"], int(match["width"] or 0), match["precision"]
    if kind == b"s":
        try:
            text = memory.text(value)
        except FaultError:
            text = b""  # as the kernel does
        if precision is not None:
            text = text[: int(precision)]
    elif kind == b"c":
        text = bytes([value & 255])
    elif kind == b"p":
        text = b"%016x" % value
    else:
        bits = _BITS[match["size"]]
        number = value & (1 << bits) - 1
        if kind in b"di" and number >> bits - 1:
            number -= 1 << bits
        spec = (b"%" + flags + match["width"] + kind.replace(b"u", b"d")).decode()
        return (spec % number).encode()
    return text.ljust(width) if b"-" in flags else text.rjust(width)
