"""BTF: types, the lazy table over a blob, lookup, split BTF, building, editing, BTF.ext.

What makes tables is imported when it is first used; most runs only read them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf.ext import BtfExt
from pybpfload.btf.table import Btf
from pybpfload.btf.types import Kind
from pybpfload.lazy import lazily

if TYPE_CHECKING:
    from pybpfload.btf.build import BtfBuilder
    from pybpfload.btf.deduplicate import dedup
    from pybpfload.btf.distill import distill_base, relocate_base
    from pybpfload.btf.edit import BtfEditor, to_byteorder
    from pybpfload.btf.words import Renumbered

__all__ = [
    "Btf",
    "BtfBuilder",
    "BtfEditor",
    "BtfExt",
    "Kind",
    "Renumbered",
    "dedup",
    "distill_base",
    "relocate_base",
    "to_byteorder",
]

_HOMES = {
    "BtfBuilder": "build",
    "BtfEditor": "edit",
    "Renumbered": "words",
    "dedup": "deduplicate",
    "distill_base": "distill",
    "relocate_base": "distill",
    "to_byteorder": "edit",
}

__getattr__ = lazily(__name__, _HOMES)
