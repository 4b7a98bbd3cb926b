"""C++ and Rust names as their programmers wrote them.

Done by pycxxfilt, which is LLVM's demangler as a wheel (``pip install pybpfload[demangle]``, Python
3.11 and later); without it, names stay as they are in the symbol table.
"""

from __future__ import annotations

import re
from functools import lru_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["demangle"]

# The demangler is recursive, and a name may refer to parts of itself: each reference can double
# what comes out, so 400 characters of a hostile file would fill the memory.
_LONGEST = 2048
_LARGEST_RESULT = 1 << 26
_REFERENCE = {"_Z": re.compile(r"[ST][0-9A-Z]*_"), "_R": re.compile(r"B[0-9A-Za-z]*_")}
_SHOWN = 4096
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")  # of the older scheme


@lru_cache(maxsize=1)
def _library() -> Callable[[str], str | None] | None:
    try:
        from pycxxfilt import demangle as library
    except ImportError:
        return None
    found: Callable[[str], str | None] = library
    return found


@lru_cache(maxsize=16384)
def demangle(name: str) -> str:
    """The name of a function as in its source.

    Args:
        name: As in a symbol table. What compilers append stays (``.constprop.0``, ``.llvm.123``)
            or, for the hash of Rust's older scheme, goes.

    Returns:
        The readable name; or ``name`` itself if it is not mangled, damaged, longer than 2,048
        characters, could become longer than 64 MiB, or if pycxxfilt is not installed.
    """
    reference = _REFERENCE.get(name[:2])
    if reference is None or len(name) > _LONGEST:
        return name
    library = _library()
    if library is None or len(name) << len(reference.findall(name)) > _LARGEST_RESULT:
        return name
    mangled, dot, suffix = name.partition(".")
    try:
        found = library(mangled)
    except ValueError:
        return name
    return (_RUST_HASH.sub("", found) + dot + suffix)[:_SHOWN] if found else name
