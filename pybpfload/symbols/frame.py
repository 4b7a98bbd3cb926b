"""One level of a stack trace."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Frame"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Frame(NamedTuple):
    """An address and what is there.

    Attributes:
        address: In the memory of the kernel or process; with a build id, in the file.
        symbol: Name of the function, demangled; ``None`` if it is not known.
        offset: Bytes from the start of the function; without one, ``address`` as it is in the file
            (its ELF address), or 0.
        module: Path of the file, name of the kernel module, ``"kernel"``, ``"bpf"`` for programs,
            ``"[vdso]"``, ...; empty if that is not known either.
        is_kernel: Whether it is kernel code.
    """

    address: int
    symbol: str | None = None
    offset: int = 0
    module: str = ""
    is_kernel: bool = False

    @property
    def name(self) -> str:
        """What a flame graph shows: the function, or the file in brackets, or ``[unknown]``."""
        if self.symbol is not None:
            return _readable(self.symbol)
        name = self.module.rpartition("/")[2].strip("[]")
        return _readable(f"[{name or 'unknown'}]")

    def __str__(self) -> str:
        where = _readable(self.module.rpartition("/")[2])
        if self.symbol is None:
            place = f"{where}+{self.offset:#x}" if where and self.offset else where
            return f"{self.address:#x} {place or '[unknown]'}"
        text = f"{self.address:#x} {self.name}+{self.offset:#x}"
        return f"{text} ({where})" if where and where != "kernel" else text


def _readable(name: str) -> str:
    """Names come from whoever is traced: none of their characters shall command a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", name)
