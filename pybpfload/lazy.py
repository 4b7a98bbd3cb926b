"""Packages whose names are imported from their modules when somebody first asks for them (PEP 562).

The start of each command would otherwise pay for all that its packages have.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

__all__ = ["lazily"]


def lazily(
    package: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package.

    Args:
        package: Its name.
        homes: For each name that it offers, the module of the package that has it.
        modules: Modules of the package that are offered as such.
    """

    def find(name: str) -> Any:
        from importlib import import_module

        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find
