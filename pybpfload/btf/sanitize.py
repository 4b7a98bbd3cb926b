"""Rewriting an object's BTF so that an older kernel takes it.

A kernel refuses BTF with a kind that it does not know, and with it the names and source lines of
all programs. libbpf therefore replaces what the running kernel lacks by something older of the same
record size, so that ids stay (``bpf_object__sanitize_btf``); this module does the same, rule by
rule, and has one rule more. The result is only for uploading: everything else goes on using the
original.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.btf import types as t
from pybpfload.btf.edit import BtfEditor

if TYPE_CHECKING:
    from collections.abc import Set

    from pybpfload.btf.table import Btf

__all__ = ["FEATURES", "is_empty", "sanitize"]

FEATURES = frozenset(
    {
        "BTF_FUNC",
        "BTF_DATASEC",
        "BTF_GLOBAL_FUNC",
        "BTF_EMPTY_DATASEC",
        "BTF_FLOAT",
        "BTF_DECL_TAG",
        "BTF_TYPE_TAG",
        "BTF_ENUM64",
        "BTF_QMARK_DATASEC",
        "BTF_LAYOUT",
    }
)
"""What a kernel may lack, by the names of libbpf's ``FEAT_*``.

Which kernel brought each says :class:`pybpfload.kernel.probe.Feature`, which has the same names.
"""

_UNDERSCORES = bytes.maketrans(b".?", b"__")
_QMARK = bytes.maketrans(b"?", b"_")
_PLACEHOLDER = "enum64_placeholder"


def sanitize(btf: Btf, lacks: Set[str]) -> Btf:
    """Return BTF without what a kernel lacks; ``btf`` itself when nothing has to change.

    Types keep their ids. Each type is changed by the first of these rules that applies:

    ====================  ============  ========================================================
    lacking               kind          becomes
    ====================  ============  ========================================================
    DATASEC               VAR           INT of 1 byte
    DECL_TAG              DECL_TAG      INT of 1 byte
    DATASEC               DATASEC       STRUCT; ``.`` and ``?`` of its name become ``_``, in the
                                        string table, so for every type that shares the string;
                                        entries become members named and typed by their VARs
    EMPTY_DATASEC         DATASEC       likewise, if it has no entries; libbpf has no such rule, so
                                        kernels before 5.12 refuse the whole BTF
    QMARK_DATASEC         DATASEC       a ``?`` at the start of its name becomes ``_``
    FUNC                  FUNC_PROTO    ENUM of 4 bytes
    FUNC                  FUNC          TYPEDEF
    GLOBAL_FUNC           FUNC          static FUNC
    FLOAT                 FLOAT         anonymous STRUCT without members
    TYPE_TAG              TYPE_TAG      CONST without name
    ENUM64                ENUM          ENUM without kflag
    ENUM64                ENUM64        UNION; enumerators become members of a 1-byte INT that
                                        is added, ``enum64_placeholder``
    LAYOUT                (header)      no layout part
    ====================  ============  ========================================================

    Args:
        btf: BTF of an object.
        lacks: Names from :data:`FEATURES`, without the prefix ``FEAT_``.

    Raises:
        FormatError: The BTF refers outside itself.
        ValueError: A name in ``lacks`` is not known.
    """
    unknown = lacks - FEATURES
    if unknown:
        raise ValueError(f"unknown features {', '.join(sorted(unknown))}")
    if not lacks:
        return btf
    editor = BtfEditor(btf)
    placeholder = 0
    for type_id in btf.own_ids():
        kind = btf.kind(type_id)
        if (kind == t.Kind.VAR and "BTF_DATASEC" in lacks) or (
            kind == t.Kind.DECL_TAG and "BTF_DECL_TAG" in lacks
        ):
            # A larger integer could reach beyond the variable's place in its section.
            editor.set_info(type_id, kind=t.Kind.INT, vlen=0, kflag=False)
            editor.set_third(type_id, 1)
            editor.set_extra(type_id, 0, 8)
        elif kind == t.Kind.DATASEC and (
            "BTF_DATASEC" in lacks or ("BTF_EMPTY_DATASEC" in lacks and is_empty(btf, type_id))
        ):
            _datasec_to_struct(btf, editor, type_id)
        elif kind == t.Kind.DATASEC and "BTF_QMARK_DATASEC" in lacks:
            editor.replace_chars(type_id, _QMARK, count=1)
        elif kind == t.Kind.FUNC_PROTO and "BTF_FUNC" in lacks:
            editor.set_info(type_id, kind=t.Kind.ENUM, kflag=False)
            editor.set_third(type_id, 4)
        elif kind == t.Kind.FUNC and "BTF_FUNC" in lacks:
            editor.set_info(type_id, kind=t.Kind.TYPEDEF, vlen=0, kflag=False)
        elif kind == t.Kind.FUNC and "BTF_GLOBAL_FUNC" in lacks:
            editor.set_info(type_id, vlen=0, kflag=False)
        elif kind == t.Kind.FLOAT and "BTF_FLOAT" in lacks:
            editor.set_info(type_id, kind=t.Kind.STRUCT, vlen=0, kflag=False)
            editor.set_name(type_id, None)
        elif kind == t.Kind.TYPE_TAG and "BTF_TYPE_TAG" in lacks:
            editor.set_info(type_id, kind=t.Kind.CONST, vlen=0, kflag=False)
            editor.set_name(type_id, None)
        elif kind == t.Kind.ENUM and "BTF_ENUM64" in lacks:
            editor.set_info(type_id, kflag=False)
        elif kind == t.Kind.ENUM64 and "BTF_ENUM64" in lacks:
            placeholder = placeholder or editor.add_int(_PLACEHOLDER, 1)
            _enum64_to_union(btf, editor, type_id, placeholder)
    if "BTF_LAYOUT" in lacks:
        editor.drop_layout()
    sanitized = editor.finish()
    return btf if sanitized.to_bytes() == btf.to_bytes() else sanitized


def is_empty(btf: Btf, type_id: int) -> bool:
    """Whether a type is a data section without variables: one of constants without names.

    clang makes such a ``.rodata`` for the strings and tables that it puts there itself.
    """
    section = btf[type_id]
    return isinstance(section, t.Datasec) and not section.entries


def _datasec_to_struct(btf: Btf, editor: BtfEditor, type_id: int) -> None:
    section = btf[type_id]
    assert isinstance(section, t.Datasec)
    editor.replace_chars(type_id, _UNDERSCORES)
    editor.set_info(type_id, kind=t.Kind.STRUCT, kflag=False)
    for index, entry in enumerate(section.entries):
        editor.set_extra(type_id, 3 * index, editor.name_offset(entry.type) if entry.type else 0)
        editor.set_extra(type_id, 3 * index + 1, entry.type)
        editor.set_extra(type_id, 3 * index + 2, entry.offset * 8 & 0xFFFFFFFF)


def _enum64_to_union(btf: Btf, editor: BtfEditor, type_id: int, placeholder: int) -> None:
    enum = btf[type_id]
    assert isinstance(enum, t.Enum64)
    editor.set_info(type_id, kind=t.Kind.UNION, kflag=False)
    for index in range(len(enum.values)):
        editor.set_extra(type_id, 3 * index + 1, placeholder)
        editor.set_extra(type_id, 3 * index + 2, 0)
