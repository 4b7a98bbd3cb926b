"""Values of ``__kconfig`` externs on a kernel that is not running here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.check.verdict import Finding
from pybpfload.errors import BpfError, FormatError
from pybpfload.kernel.kconfig import VIRTUAL, encode_number, parse_kconfig
from pybpfload.object.spec import ExternKind
from pybpfload.relocate.externs import WEAK_HINT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.check.kernel import Kernel
    from pybpfload.object.spec import ExternSpec, ObjectSpec

__all__ = ["Settings"]

_VERSION, _COOKIE, _WRAPPER = VIRTUAL
_HAS_WRAPPER = "CONFIG_ARCH_HAS_SYSCALL_WRAPPER"


class Settings:
    """What an object finds in ``.kconfig``.

    Args:
        spec: The object.
        kernel: The kernel.

    Attributes:
        values: What is known: values by the names of externs, in this machine's byte order.
        problems: Why the object cannot be loaded.
        unknown: What is not known.
    """

    def __init__(self, spec: ObjectSpec, kernel: Kernel) -> None:
        self.kernel = kernel
        self.values: dict[str, bytes] = {}
        self.problems: list[Finding] = []
        self.unknown: list[Finding] = []
        externs = {
            name: each for name, each in spec.externs.items() if each.kind == ExternKind.KCONFIG
        }
        self._virtual({n: e for n, e in externs.items() if not n.startswith("CONFIG_")})
        self._built_with({n: e for n, e in externs.items() if n.startswith("CONFIG_")})

    def _built_with(self, externs: dict[str, ExternSpec]) -> None:
        strong = [name for name, extern in externs.items() if not extern.weak]
        if self.kernel.kconfig is None:
            if strong:
                names = ", ".join(strong)
                what = f"whether {names} is set: the configuration is not known"
                remedy = "put it beside the kernel, as config-RELEASE or in a directory as config"
                self.unknown.append(Finding(what, "kconfig", remedy=remedy))
            return
        if not externs:
            return
        text = self.kernel.kconfig.encode()
        try:
            found = parse_kconfig(text, externs, {}, f"configuration of {self.kernel.name}")
        except BpfError as error:
            self.problems.append(Finding(str(error), "kconfig"))
            return
        for name, extern in externs.items():
            if name in found:
                self.values[name] = found[name]
            elif extern.weak:
                self.values[name] = bytes(extern.size)
            else:
                what = f"{name} is not set in the configuration"
                self.problems.append(Finding(what, "kconfig", remedy=WEAK_HINT))

    def _virtual(self, externs: dict[str, ExternSpec]) -> None:
        """Those that loaders work out."""
        known = dict(self._numbers())
        for name, extern in externs.items():
            weak = extern.weak and name.startswith("LINUX_")
            if name not in VIRTUAL and not weak:
                remedy = f"there are CONFIG_ ones, {', '.join(VIRTUAL)}"
                what = f"{name} is no kernel setting"
                self.problems.append(Finding(what, "kconfig", remedy=remedy))
                continue
            number = known.get(name) if name in VIRTUAL else 0
            if number is not None:
                try:
                    self.values[name] = encode_number(extern, number)
                except FormatError as error:
                    self.problems.append(Finding(str(error), "kconfig"))

    def _numbers(self) -> Iterator[tuple[str, int | None]]:
        if version := self.kernel.version:
            major, minor, patch = version
            yield _VERSION, major << 16 | minor << 8 | min(patch, 255)
        cookie = self.kernel.has_come("5.15")
        yield _COOKIE, None if cookie is None else int(cookie)
        if self.kernel.kconfig is not None:
            yield _WRAPPER, int(self.kernel.setting(_HAS_WRAPPER) == "y")
