"""BTF: types, the lazy table over a blob, lookup, split BTF, editing, BTF.ext."""

from __future__ import annotations

from pybpfload.btf.ext import BtfExt
from pybpfload.btf.table import Btf
from pybpfload.btf.types import Kind

__all__ = ["Btf", "BtfExt", "Kind"]
