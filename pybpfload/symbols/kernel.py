"""Symbols of the running kernel, its modules and of loaded BPF programs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pybpfload.kernel import door, kallsyms
from pybpfload.kernel.errors import kernel_error
from pybpfload.symbols.demangling import demangle
from pybpfload.symbols.frame import Frame
from pybpfload.symbols.table import kernel_symbols

if TYPE_CHECKING:
    from pybpfload.symbols.table import SymbolTable

__all__ = ["KernelSymbols"]

_EACH = 1.0  # seconds between looks for new modules and programs,
_SHARE = 20  # and so many times as long as reading the list took
_EPERM = 1
_HIDDEN = (
    "all addresses in /proc/kallsyms are 0, because kernel.kptr_restrict is {setting}: 2 hides "
    "them from everybody, 1 from processes without CAP_SYSLOG, 0 from those unless "
    "kernel.perf_event_paranoid is 1 or less"
)


class KernelSymbols:
    """What is at an address of the kernel, from ``/proc/kallsyms``.

    Modules that come and go are noticed: the list is read anew, every few seconds at most, if an
    address has no symbol, or ``/proc/modules`` has changed. BPF programs are not listed there:
    call :meth:`refresh` after loading some that lie close to others. Takes 9 MB for 122,000
    symbols.

    A symbol reaches up to the next one, but no further than 1 MiB: the kernel does not tell sizes.

    Attributes:
        problem: Why addresses cannot be resolved, one sentence, or ``None``.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self._text = b""
        self._table: SymbolTable
        self._modules = b""
        self._looked, self._pause = 0.0, _EACH
        self.refresh()

    def __len__(self) -> int:
        return len(self._table)

    def refresh(self) -> None:
        """Read the list anew.

        Raises:
            KernelError: It cannot be read.
        """
        started = time.monotonic()
        self._modules = _file("/proc/modules")
        self._text = kallsyms.read()
        self._table = kernel_symbols(self._text)
        self.problem = None
        if not self._table.highest:
            setting = _file("/proc/sys/kernel/kptr_restrict").decode(errors="replace").strip()
            self.problem = _HIDDEN.format(setting=setting or "unknown")
        self._looked = time.monotonic()
        self._pause = max(_EACH, _SHARE * (self._looked - started))

    def frame(self, address: int, *, is_return: bool = False) -> Frame:
        """What is at an address; without a symbol if there is none.

        Args:
            address: In kernel memory.
            is_return: It is a return address, so that the call before it is meant: behind a call
                that does not return another function may start.
        """
        if self.problem is not None:
            return Frame(address, module="kernel", is_kernel=True)
        wanted = address - 1 if is_return else address
        found = self._table.at(wanted)
        if (found is None or "\t" in found.name) and self._is_outdated(found is None):
            self.refresh()
            found = self._table.at(wanted)
        if found is None:
            return Frame(address, module="kernel", is_kernel=True)
        name, _, module = found.name.partition("\t")
        place = module.strip("[]\t ") or "kernel"
        return Frame(address, demangle(name), address - found.start, place, is_kernel=True)

    def addresses(self, name: str) -> list[int]:
        """All addresses of the symbols of a name, lowest first.

        Raises:
            NotPermittedError: The kernel hides addresses.
        """
        if self.problem is not None:
            raise kernel_error(_EPERM, "read", "/proc/kallsyms").with_hint(self.problem)
        return kallsyms.addresses(self._text, name)

    def _is_outdated(self, is_missing: bool) -> bool:
        """Whether to look again for what modules brought, or where there is no symbol."""
        now = time.monotonic()
        if now - self._looked < self._pause:
            return False
        self._looked = now
        return is_missing or _file("/proc/modules") != self._modules


def _file(path: str) -> bytes:
    try:
        return door.read_file(path)
    except OSError:
        return b""
