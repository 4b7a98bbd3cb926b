"""Step 2: types of the target that may correspond to a local one (``bpf_core_add_cands``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pybpfload.btf import types as t
from pybpfload.btf.table import essential_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pybpfload.btf import Btf

__all__ = ["Candidate", "Candidates", "Target"]


class Candidate(NamedTuple):
    """A type of the target."""

    btf: Btf
    type_id: int


class Target:
    """The BTFs that an object is relocated against.

    Args:
        btf: The kernel's, or any other; ``None`` for an object that needs none.
        modules: BTFs of modules, split over ``btf``; or a function that returns them, called only
            when ``btf`` has no candidate for some type.
    """

    def __init__(
        self, btf: Btf | None, modules: Iterable[Btf] | Callable[[], Iterable[Btf]] = ()
    ) -> None:
        self.btf = btf
        self._modules = modules
        self._loaded: list[Btf] | None = None
        self._in_modules: dict[tuple[str, int], list[Candidate]] = {}

    @property
    def modules(self) -> list[Btf]:
        """BTFs of modules, in order."""
        if self._loaded is None:
            self._loaded = list(self._modules() if callable(self._modules) else self._modules)
        return self._loaded

    def in_modules(self, name: str, kind: int) -> list[Candidate]:
        """Types of the modules, of which there may be thousands: each is looked for once."""
        found = self._in_modules.get((name, kind))
        if found is None:
            found = [each for module in self.modules for each in _named(module, name, kind)]
            self._in_modules[name, kind] = found
        return found


class Candidates:
    """Candidates by local type, for the time of relocating one object.

    A list is cut down to the candidates that matched each time a relocation finds some, so later
    relocations on the same local type see fewer: results depend on the order of the records, as in
    libbpf.
    """

    def __init__(self, local: Btf, target: Target) -> None:
        self.local = local
        self._target = target
        self._lists: dict[int, list[Candidate]] = {}

    def __getitem__(self, type_id: int) -> list[Candidate]:
        found = self._lists.get(type_id)
        if found is None:
            found = self._lists[type_id] = self._search(type_id)
        return found

    def keep(self, type_id: int, matched: list[Candidate]) -> None:
        """Cut the list of a local type down to what matched; nothing happens when nothing did."""
        if matched:
            self._lists[type_id] = matched

    def _search(self, type_id: int) -> list[Candidate]:
        name = essential_name(self.local.type_name(type_id))
        kind = self.local.kind(type_id)
        if self._target.btf is None:
            return []
        return _named(self._target.btf, name, kind) or list(self._target.in_modules(name, kind))


def _named(btf: Btf, name: str, kind: int) -> list[Candidate]:
    return [
        Candidate(btf, type_id)
        for type_id in btf.find_essential(name)
        if btf.kind(type_id) == kind or (btf.kind(type_id) in t.ENUM_KINDS and kind in t.ENUM_KINDS)
    ]
