"""The flat records that every run reads, as :class:`struct.Struct`.

Importing construct takes longer than opening an object and relocating it, so these records are
stated a second time, here and nowhere else, under the names that they have in the construct
descriptions. ``tests/pure/test_formats.py`` proves each equal to its description; what is read less
often is derived from the description by :func:`pybpfload.formats.flat.flat`.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from types import SimpleNamespace
from typing import Any, Final

__all__ = ["RECORDS", "packed"]

RECORDS: Final[dict[str, dict[str, str]]] = {
    "btf": {
        "header": "HBBIIIII",
        "header_layout": "II",
        "layout_entry": "BBH",
        "ext_header": "HBBIIIII",
        "ext_header_core": "II",
        "info_header": "I",
        "info_block": "II",
        "func_info": "II",
        "line_info": "IIII",
        "core_relo": "IIII",
    },
    "elf": {
        "symbol": "IBBHQQ",
        "symbol32": "IIIBBH",
        "rel": "QQ",
        "verdef": "HHHHIII",
        "verdaux": "II",
    },
    "insn": {"slot": "BBhi"},
}
"""Format module -> record -> codes of :mod:`struct`, without the byte order."""


@lru_cache(maxsize=6)
def packed(module: str, byteorder: str) -> Any:
    """Return a namespace with one ``Struct`` for each record of a format module.

    Args:
        module: A key of :data:`RECORDS`.
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.
    """
    return SimpleNamespace(
        **{name: Struct(byteorder + codes) for name, codes in RECORDS[module].items()}
    )
