"""Mappings of what an object has, by name."""

from __future__ import annotations

import copy
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["Named", "Numbered"]

_NAMES_SHOWN = 30  # in a message


class Named(dict[str, T]):
    """Things by name, in their order in the object; a missing name says what there is instead."""

    def __init__(self, what: str, items: Mapping[str, T] | Iterable[tuple[str, T]] = ()) -> None:
        super().__init__(items)
        self.what = what
        self._serials: dict[str, int] = {}

    def add(self, name: str, item: T, place: str) -> None:
        """Add something; if its name is taken, by its name and place: ``name@place``, ``@place#2``.

        Equal names are legal: static variables of two functions, sections whose names are cut to
        the same 15 characters. libbpf finds the first of them by name, as is done here.
        """
        key = name
        while key in self:
            placed = f"{name}@{place}"
            serial = self._serials[placed] = self._serials.get(placed, 0) + 1
            key = placed if serial == 1 else f"{placed}#{serial}"
        self[key] = item

    def __missing__(self, name: str) -> T:
        some = ", ".join(islice(self, _NAMES_SHOWN)) or "none"
        more = ", ..." if len(self) > _NAMES_SHOWN else ""
        raise KeyError(f"no {self.what} {name!r}; there are: {some}{more}")

    def __reduce__(self) -> Any:
        return (type(self), (self.what, list(self.items())))

    def __deepcopy__(self, memo: dict[int, Any]) -> Named[T]:
        return type(self)(self.what, [(k, copy.deepcopy(v, memo)) for k, v in self.items()])


class Numbered(Named[T]):
    """Maps and externs of a spec: instructions refer to them by their number, so none may go."""

    def _refuse(self, *_: object) -> Any:
        instead = "; set its autocreate to False" if self.what == "map" else ""
        raise TypeError(
            f"a {self.what} cannot be taken out of a spec, its programs refer to it{instead}"
        )

    __delitem__ = pop = popitem = clear = _refuse
