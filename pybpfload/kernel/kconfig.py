"""Values of ``.kconfig`` externs: the kernel's configuration and a few virtual variables.

Source of the rules: libbpf, ``bpf_object__resolve_externs()`` and the functions it calls.
"""

from __future__ import annotations

import re
import sys

from pybpfload.errors import FormatError, NotSupportedError, RelocationError
from pybpfload.kernel import door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Protocol

    class KconfigExtern(Protocol):
        """What is needed to know of an extern (:class:`pybpfload.object.spec.ExternSpec`)."""

        name: str
        weak: bool
        size: int
        offset: int
        kconfig_type: str
        signed: bool


__all__ = ["VIRTUAL", "encode_number", "parse_kconfig", "read_kernel_config", "resolve"]

VIRTUAL = ("LINUX_KERNEL_VERSION", "LINUX_HAS_BPF_COOKIE", "LINUX_HAS_SYSCALL_WRAPPER")
"""Settings that no configuration has and that loaders work out."""

_LINE = 4095  # longer lines are read in pieces
_NUMBER = re.compile(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII)


def resolve(externs: Sequence[KconfigExtern], text: str | None = None) -> bytes:
    """Content of the ``.kconfig`` map.

    Args:
        externs: All kconfig externs of the object.
        text: Settings that win over the kernel's own, in the form of a kernel configuration.

    Raises:
        FormatError: A setting is damaged or does not fit the variable's type.
        RelocationError: A variable that is not weak is not set.
        NotSupportedError: The kernel's configuration is needed and cannot be read.
    """
    by_name = {extern.name: extern for extern in externs}
    values: dict[str, bytes] = {}
    for extern in externs:
        if not extern.name.startswith("CONFIG_"):
            values[extern.name] = _virtual(extern)
    if any(name.startswith("CONFIG_") for name in by_name):
        if text is not None:
            values.update(parse_kconfig(text.encode(), by_name, values, "kconfig text"))
        if any(name not in values for name in by_name):
            data, path = read_kernel_config()
            values.update(parse_kconfig(data, by_name, values, path))
    content = bytearray(max((e.offset + e.size for e in externs), default=0))
    for extern in externs:
        value = values.get(extern.name)
        if value is not None:
            content[extern.offset : extern.offset + extern.size] = value
        elif not extern.weak:
            raise RelocationError(
                f"{extern.name} is not set in this kernel's configuration",
                section=".kconfig",
                symbol=extern.name,
                hint="declare it __weak if the program can do without, or give kconfig= a value",
            )
    return bytes(content)


def _virtual(extern: KconfigExtern) -> bytes:
    name = extern.name
    if name == VIRTUAL[0]:
        from pybpfload.kernel.version import kernel_version

        value = kernel_version()
        if not value:
            raise NotSupportedError("the running kernel's version cannot be told")
    elif name in VIRTUAL:
        from pybpfload.kernel.probe import Feature, has

        value = int(has(Feature[name.removeprefix("LINUX_HAS_")]))
    elif name.startswith("LINUX_") and extern.weak:
        value = 0
    else:
        raise RelocationError(
            f"{name} is no kernel setting",
            section=".kconfig",
            symbol=name,
            hint=f"there are CONFIG_ ones, {', '.join(VIRTUAL)}",
        )
    if extern.kconfig_type not in ("int", "char", "bool"):
        raise FormatError(f"a number does not fit type {extern.kconfig_type}", symbol=name)
    if extern.kconfig_type == "bool" and value > 1:
        raise FormatError(f"{value} does not fit type bool", symbol=name)
    return encode_number(extern, value)


def read_kernel_config() -> tuple[bytes, str]:
    """Text of the running kernel's configuration, and where it is from.

    ``/boot/config-RELEASE``, or ``/proc/config.gz`` (CONFIG_IKCONFIG_PROC); either may be
    compressed with gzip.

    Raises:
        NotSupportedError: There is neither.
        FormatError: The compressed data is damaged.
    """
    for path in (f"/boot/config-{door.uname().release}", "/proc/config.gz"):
        try:
            data = door.read_file(path)
        except OSError:
            continue
        if data[:2] == b"\x1f\x8b":
            import gzip
            import zlib

            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise FormatError(f"damaged gzip data: {error}", file=path) from None
        return data, path
    raise NotSupportedError(
        "this kernel's configuration cannot be read: there is no /boot/config-RELEASE and no "
        "/proc/config.gz (CONFIG_IKCONFIG_PROC); give the settings with the kconfig argument",
        feature="kernel configuration",
    )


def parse_kconfig(
    text: bytes,
    wanted: Mapping[str, KconfigExtern],
    known: Iterable[str] = (),
    file: str | None = None,
) -> dict[str, bytes]:
    """Values of wanted settings in the text of a kernel configuration. Pure: makes no system call.

    The first setting of a name counts. Lines that do not begin with ``CONFIG_`` are comments.

    Args:
        text: The configuration.
        wanted: Externs by name.
        known: Names that are set already.
        file: What to call the text in errors.

    Returns:
        Bytes of the values in this machine's byte order, by name.

    Raises:
        FormatError: A line has no value, or a wanted value does not fit its type.
    """
    found: dict[str, bytes] = {}
    done = set(known)
    position = 0
    for line in text.split(b"\n"):
        pieces = (line[i : i + _LINE] for i in range(0, len(line), _LINE))
        for piece in pieces:
            if piece.startswith(b"CONFIG_"):
                key, equals, value = piece.partition(b"=")
                name = key.decode(errors="replace")
                if not equals or not value:
                    raise FormatError("a setting without a value", file=file, offset=position)
                if name in wanted and name not in done:
                    try:
                        found[name] = _encode(wanted[name], value)
                    except FormatError as error:
                        raise error.located(file=file, offset=position, symbol=name) from None
                    done.add(name)
            position += len(piece)
        position += 1
    return found


def _encode(extern: KconfigExtern, value: bytes) -> bytes:
    kind = extern.kconfig_type
    first = value[:1]
    if first in (b"y", b"n", b"m"):
        if kind == "char":
            return first.ljust(extern.size, b"\0")
        number = {b"y": 1, b"n": 0, b"m": 2}[first]
        if kind == "tristate" or (kind == "bool" and number < 2):
            return number.to_bytes(extern.size, sys.byteorder)
        raise FormatError(f"{_show(value)} does not fit type {kind}")
    if first == b'"':
        if kind != "string" or len(value) < 2 or not value.endswith(b'"'):
            raise FormatError(f"{_show(value)} does not fit type {kind}")
        # Longer strings are cut, as libbpf does.
        return value[1:-1][: max(extern.size - 1, 0)].ljust(extern.size, b"\0")
    match = _NUMBER.fullmatch(value.decode("latin-1"))
    if match is None or kind not in ("int", "char"):
        raise FormatError(f"{_show(value)} does not fit type {kind}")
    sign, digits = match.groups()
    octal = digits[0] == "0" and digits[1:2] not in ("x", "X", "")
    number = int(digits, 8 if octal else 0)
    if number >= 1 << 64:
        raise FormatError(f"{_show(value)} does not fit 64 bits")
    return encode_number(extern, -number & (1 << 64) - 1 if sign == "-" else number)


def encode_number(extern: KconfigExtern, value: int) -> bytes:
    """A number, taken modulo 2**64, in the size of a variable.

    Raises:
        FormatError: It is out of the variable's range.
    """
    bits = 8 * extern.size
    if extern.signed and bits < 64:
        fits = (value + (1 << bits - 1)) & ((1 << 64) - 1) < 1 << bits
    else:
        fits = bits >= 64 or value < 1 << bits
    if not fits:
        raise FormatError(f"{value} does not fit {extern.size} bytes", symbol=extern.name)
    return (value & (1 << bits) - 1).to_bytes(extern.size, sys.byteorder)


def _show(value: bytes) -> str:
    text = value.decode(errors="replace")
    return repr(text if len(text) <= 40 else text[:37] + "...")
