"""A kernel to check objects against: its types, and what else is known of it."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from pybpfload import uapi
from pybpfload.btf import types as t
from pybpfload.btf.table import Btf
from pybpfload.kernel.kallsyms import addresses
from pybpfload.kernel.since import first_version, version_pair
from pybpfload.relocate import Target

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CONFIG_HEAD", "Kernel", "kernel_of", "module_name"]

CONFIG_HEAD = re.compile(r"^# Linux/\S+ (\S+) Kernel Configuration$", re.MULTILINE)
"""The line of a kernel's configuration that tells its version."""
_NEAR = 4  # characters that a name that may be meant is longer or shorter
_BEGINNING = 2  # characters that it begins with, too
_CLONE = re.compile(rb" [tTwW] ((\w+)\.[\w.]+)(?=\s|$)", re.MULTILINE)
_THREE = re.compile(r"(\d+)\.(\d+)\.(\d+)")

# Class of pybpfload.uapi -> the kernel's enum.
_ENUMS = {
    "ProgType": "bpf_prog_type",
    "MapType": "bpf_map_type",
    "AttachType": "bpf_attach_type",
    "LinkType": "bpf_link_type",
    "Helper": "bpf_func_id",
    "Cmd": "bpf_cmd",
}


class Kernel:
    """A kernel, as far as its BTF, configuration and symbols tell.

    Can be sent to other processes by pickle: one that was read is read again there, of one that was
    made of parts the parts are sent.

    Args:
        name: What to call it.
        target: Its BTF and that of its modules.
        kconfig: Text of its configuration, ``None`` if it is not known.
        symbols: Text of its ``System.map`` or ``/proc/kallsyms``, ``None`` if it is not known.
        all_symbols: Whether those of its modules are among them.
        release: As ``uname -r`` has it, ``""`` if it is not known.

    Attributes:
        name, target, kconfig, symbols, all_symbols, release: As above.
    """

    def __init__(
        self,
        name: str,
        target: Target,
        *,
        kconfig: str | None = None,
        symbols: bytes | None = None,
        all_symbols: bool = False,
        release: str = "",
    ) -> None:
        self.name = name
        self.target = target
        self.kconfig = kconfig
        self.symbols = symbols
        self.all_symbols = all_symbols
        self.release = release
        self._source: tuple[str, str] | None = None
        self._alike: dict[str, list[str]] = {}
        self._kfuncs: dict[int, frozenset[int]] = {}

    @classmethod
    def read(cls, source: str | Path = "", *, base: str | Path = "") -> Kernel:
        """Read a kernel; its name is the source as it was given.

        Args:
            source: A file with BTF (raw, ELF, ``vmlinux``, ``vmlinuz``, a module), a Debian kernel
                package, or a directory of one kernel: with a ``vmlinux`` or ``vmlinuz`` and the BTF
                of modules beside it, or ``/lib/modules/RELEASE``. On Linux also ``id:N``, BTF that
                is loaded, the name of a loaded module, and by default the running kernel.

                What lies beside an image is read, too: ``config-RELEASE``, ``System.map-RELEASE``
                and ``../lib/modules/RELEASE``; in a directory ``config`` and ``System.map``.
            base: The same, for a module: the kernel that it extends. Not needed for modules of
                the running kernel, nor for those in a ``lib/modules/RELEASE`` beside the kernel.

        Raises:
            FormatError: There is no BTF in it.
            OSError: It cannot be read.
            NotSupportedError: The running kernel is asked for and has no BTF, or this is no Linux.
        """
        from pybpfload.check.sources import read_kernel

        kernel = read_kernel(source, base=base)
        kernel.name = str(source) or kernel.name
        kernel._source = (str(source), str(base))
        return kernel

    def __reduce__(self) -> Any:
        if self._source is not None:
            return kernel_of, self._source
        btf = self.target.btf
        blob = None if btf is None else (btf.name, btf.to_bytes())
        modules = [(each.name, each.to_bytes()) for each in self.target.modules]
        parts = (self.name, self.kconfig, self.symbols, self.all_symbols, self.release)
        return _made_again, (blob, modules, *parts)

    def __repr__(self) -> str:
        return f"<Kernel {self.name}{self.release and f': {self.release}'}>"

    @cached_property
    def version(self) -> tuple[int, int, int] | None:
        """Its version, by its configuration; distributions have other numbers in releases."""
        head = CONFIG_HEAD.search(self.kconfig or "")
        found = _THREE.match(head[1]) if head else None
        return (int(found[1]), int(found[2]), int(found[3])) if found else None

    def setting(self, name: str) -> str | None:
        """What its configuration has for a setting, ``""`` if it is off; ``None`` if not known.

        Only a whole configuration, by its first lines, tells that something is off.
        """
        found = self._settings.get(name)
        whole = self.kconfig is not None and CONFIG_HEAD.search(self.kconfig) is not None
        return "" if found is None and whole else found

    @cached_property
    def _settings(self) -> dict[str, str]:
        return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", self.kconfig or "", re.MULTILINE))

    def has_symbol(self, name: str) -> bool | None:
        """Whether there is an address of a symbol; ``None`` if that is not known."""
        if self.symbols is None:
            return None
        if addresses(self.symbols, name):
            return True
        return False if self.all_symbols else None  # a module may have it

    def module(self, prefix: str) -> Btf | None:
        """BTF of the first module whose name begins so, as libbpf looks for it."""
        found = (m for m in self.target.modules if module_name(m).startswith(prefix))
        return next(found, None)

    def functions_like(self, name: str) -> list[str]:
        """Names that may be meant by that of a function that is not there, best first.

        What the compiler made of it (``NAME.isra.0``, ``NAME.constprop.0``, ``NAME.part.0``: only
        in symbols), then names that are alike.
        """
        if name not in self._alike:
            clones = self._clones.get(name.partition(".")[0], ())
            near = [
                each
                for each in self._by_beginning.get(name[:_BEGINNING], ())
                if abs(len(each) - len(name)) <= _NEAR
            ]
            self._alike[name] = [
                *sorted(each for each in clones if each.startswith(f"{name}.")),
                *get_close_matches(name, near, n=2, cutoff=0.8),
            ]
        return self._alike[name]

    @cached_property
    def _clones(self) -> dict[str, set[str]]:
        """What the compiler made of functions, by their names."""
        found: dict[str, set[str]] = {}
        for clone, name in _CLONE.findall(self.symbols or b""):
            found.setdefault(name.decode(), set()).add(clone.decode())
        return found

    @cached_property
    def _by_beginning(self) -> dict[str, list[str]]:
        """Functions by their first letters: comparing with all of sixty thousand takes a second."""
        found: dict[str, list[str]] = {}
        for name in self.functions:
            found.setdefault(name[:_BEGINNING], []).append(name)
        return found

    @cached_property
    def functions(self) -> list[str]:
        """Names of the functions in its BTF."""
        btf = self.target.btf
        if btf is None:
            return []
        kinds = zip(btf.own_ids(), btf.own_kinds(), strict=True)
        return [btf.type_name(type_id) for type_id, kind in kinds if kind == t.Kind.FUNC]

    def kfuncs(self, btf: Btf) -> frozenset[int]:
        """Functions in one of its BTFs that are marked as callable by programs."""
        if id(btf) not in self._kfuncs:
            tags = (btf[each] for each in btf.find_all("bpf_kfunc", t.Kind.DECL_TAG))
            self._kfuncs[id(btf)] = frozenset(e.type for e in tags if isinstance(e, t.DeclTag))
        return self._kfuncs[id(btf)]

    @cached_property
    def tells_kfuncs(self) -> bool:
        """Whether its BTF marks the functions that programs may call (pahole 1.26, Linux 6.10)."""
        btf = self.target.btf
        return btf is not None and bool(btf.find("bpf_kfunc", t.Kind.DECL_TAG))

    @cached_property
    def tells_functions(self) -> bool:
        """Whether its BTF has functions at all; one that was cut down to some structs has none."""
        btf = self.target.btf
        return btf is not None and t.Kind.FUNC in btf.own_kinds()

    @cached_property
    def tells_tracepoints(self) -> bool:
        """Whether its BTF has tracepoints, by one that all kernels have."""
        btf = self.target.btf
        return btf is not None and bool(btf.find("btf_trace_sched_switch", t.Kind.TYPEDEF))

    @cached_property
    def _numbers(self) -> dict[str, frozenset[int] | None]:
        btf = self.target.btf
        return {} if btf is None else {enum: _values(btf, name) for enum, name in _ENUMS.items()}

    def knows(self, enum: str, number: int) -> bool | None:
        """Whether an enumeration of the kernel has a number; ``None`` if it cannot be told.

        Args:
            enum: Class of :mod:`pybpfload.uapi`.
            number: A member's number.
        """
        found = self._numbers.get(enum)
        return None if found is None else number in found

    @cached_property
    def age(self) -> tuple[str | None, str | None]:
        """Version that it has at least, and one that it has not yet, by what its BTF names.

        Distributions backport, so this is what the kernel is like, not what it is called.
        """
        there: set[str] = set()
        absent: set[str] = set()
        for enum, found in self._numbers.items():
            if found is None:
                continue
            last = 211 if enum == "Helper" else max(map(int, getattr(uapi, enum)))
            for number in range(last + 1):
                if since := first_version(enum, number):
                    (there if number in found else absent).add(since)
        # What a stable kernel took over from a later one does not make it that kernel.
        above = min(absent, key=version_pair, default=None)
        below = [v for v in there if above is None or version_pair(v) < version_pair(above)]
        return max(below, key=version_pair, default=None), above

    def has_come(self, since: str) -> bool | None:
        """Whether a kernel like this has what a version brought; ``None`` if that is not clear."""
        least, above = self.age
        if least is not None and version_pair(since) <= version_pair(least):
            return True
        if above is not None and version_pair(since) >= version_pair(above):
            return False
        return None


def _values(btf: Btf, name: str) -> frozenset[int] | None:
    for type_id in btf.find_all(name):
        found = btf[type_id]
        if isinstance(found, (t.Enum, t.Enum64)) and found.values:
            # The last ones count the others: __MAX_BPF_MAP_TYPE.
            return frozenset(e.value for e in found.values if not e.name.startswith(("__", "MAX_")))
    return None


def module_name(btf: Btf) -> str:
    """Name of the module that BTF is of: by its file's name, in which ``-`` stands for ``_``."""
    return btf.name.rpartition("/")[2].partition(".")[0].replace("-", "_")


@lru_cache(maxsize=4)
def kernel_of(source: str, base: str) -> Kernel:
    """:meth:`Kernel.read`, once for a process that checks many objects, or unpickles it."""
    return Kernel.read(source, base=base)


def _made_again(
    blob: tuple[str, bytes] | None,
    modules: list[tuple[str, bytes]],
    name: str,
    kconfig: str | None,
    symbols: bytes | None,
    all_symbols: bool,
    release: str,
) -> Kernel:
    base = None if blob is None else Btf.from_bytes(blob[1], name=blob[0])
    split = [Btf.from_bytes(data, base=base, name=each) for each, data in modules]
    return Kernel(
        name,
        Target(base, split),
        kconfig=kconfig,
        symbols=symbols,
        all_symbols=all_symbols,
        release=release,
    )
