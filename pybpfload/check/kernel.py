"""A kernel to check objects against: its types, and what else is known of it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pybpfload import uapi
from pybpfload.btf import types as t
from pybpfload.errors import FormatError
from pybpfload.kernel.since import first_version, version_pair
from pybpfload.relocate import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybpfload.btf import Btf

__all__ = ["Kernel"]

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
    """A kernel, as far as its BTF and configuration tell.

    Args:
        name: What to call it.
        target: Its BTF and that of its modules.
        kconfig: Text of its configuration, ``None`` if it is not known.

    Attributes:
        name, target, kconfig: As above.
    """

    def __init__(self, name: str, target: Target, *, kconfig: str | None = None) -> None:
        self.name = name
        self.target = target
        self.kconfig = kconfig

    @classmethod
    def read(cls, source: str | Path) -> Kernel:
        """Read a kernel from files.

        Args:
            source: A file with BTF (raw, ``vmlinux``, a kernel image), or a directory with one
                called ``vmlinux``; the files beside that are its modules' BTF, as in
                ``/sys/kernel/btf``. A configuration ``config`` in the directory, or ``config-X``
                beside ``vmlinuz-X``, is read, too.

        Raises:
            FormatError: There is no BTF in it.
            OSError: It cannot be read.
        """
        from pybpfload import read_btf

        path = Path(source)
        if not path.is_dir():
            beside = path.parent / f"config-{path.name.partition('-')[2]}"
            return cls(str(source), Target(read_btf(path)), kconfig=_text(beside))
        images = [p for p in (path / "vmlinux", *sorted(path.glob("vmlinu[xz]*"))) if p.is_file()]
        if not images:
            raise FormatError("there is no vmlinux and no vmlinuz in it", file=str(source))
        base = read_btf(images[0])

        def modules() -> Iterator[Btf]:
            for each in sorted(path.iterdir()):
                if each not in images and each.is_file() and each.suffix in ("", ".btf", ".ko"):
                    try:
                        yield read_btf(each, base=base)
                    except FormatError:
                        continue  # something else, or a module without BTF

        return cls(str(source), Target(base, modules), kconfig=_text(path / "config"))

    @cached_property
    def tells_functions(self) -> bool:
        """Whether its BTF has functions at all; one that was cut down to some structs has none."""
        btf = self.target.btf
        return btf is not None and any(btf.kind(i) == t.Kind.FUNC for i in btf.own_ids())

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


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
