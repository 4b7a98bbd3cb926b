"""Addresses of kernel symbols, from ``/proc/kallsyms``."""

from __future__ import annotations

from contextlib import suppress

from pybpfload.errors import RelocationError
from pybpfload.kernel import door
from pybpfload.kernel.errors import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["addresses", "find_symbols", "lookup", "read"]

_BEFORE_NAME = 64  # bytes of a line before the name: address and type, each followed by a blank


def read() -> bytes:
    """The text of ``/proc/kallsyms``: symbols of the kernel, its modules and of BPF programs.

    Raises:
        KernelError: It cannot be read.
    """
    try:
        return door.read_file("/proc/kallsyms")
    except OSError as error:
        raise kernel_error(error.errno or 5, "open", "/proc/kallsyms") from None


def lookup(names: Iterable[str]) -> dict[str, int]:
    """Addresses of symbols of the running kernel and its modules.

    With ``kernel.kptr_restrict`` set, or without privileges, the kernel shows 0 for all of them;
    that is taken as it is.

    Args:
        names: Names to look up.

    Returns:
        Address by name; names that do not exist are left out.

    Raises:
        KernelError: The list cannot be read.
        RelocationError: A name stands for several addresses.
    """
    return find_symbols(read(), names)


def find_symbols(symbols: bytes, names: Iterable[str]) -> dict[str, int]:
    """Find addresses in the text of ``/proc/kallsyms``.

    Source of the rules: libbpf. Local data (type ``d``) may have a suffix ``.llvm.NUMBER``, which
    link-time optimisation appends; the module behind the name does not count.

    Raises:
        RelocationError: A name stands for several addresses.
    """
    found: dict[str, int] = {}
    for name in names:
        for address in _lines_of(symbols, name):
            if found.setdefault(name, address) != address:
                raise RelocationError(
                    f"kernel symbol {name!r} is ambiguous: it stands for {found[name]:#x} and "
                    f"{address:#x}",
                    section=".ksyms",
                    symbol=name,
                    hint="declare it with its type, so that BTF finds it, or use another symbol",
                )
    return found


def addresses(symbols: bytes, name: str) -> list[int]:
    """All addresses that a name stands for in the text of ``/proc/kallsyms``, lowest first.

    The rules are those of :func:`find_symbols`. Functions that are local to their files often share
    a name.
    """
    return sorted(set(_lines_of(symbols, name)))


def _lines_of(symbols: bytes, name: str) -> Iterator[int]:
    """The address in each line with that name."""
    wanted = b" " + name.encode(errors="surrogateescape")
    position = symbols.find(wanted)
    while position >= 0:
        after = symbols[position + len(wanted) : position + len(wanted) + 6]
        before = symbols[max(position - _BEFORE_NAME, 0) : position]
        start = before.rfind(b"\n") + 1
        line = before[start:].split() if start or position <= _BEFORE_NAME else []
        exact = after[:1] in (b"", b"\n", b"\t", b" ")
        if len(line) == 2 and (exact or (after == b".llvm." and line[1] == b"d")):
            with suppress(ValueError):
                yield int(line[0], 16)
        position = symbols.find(wanted, position + 1)
