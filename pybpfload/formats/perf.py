"""Perf ring buffers as user space maps them (``linux/perf_event.h``).

A perf event is mapped as one *control page*, ``struct perf_event_mmap_page``, and 2**n pages of
data. The kernel writes records up to ``data_head``, user space tells in ``data_tail`` how far it
has read. Both only grow; ``position % data size`` is the place in the data. Records are at
multiples of 8 and may go over the end. Everything is in the machine's byte order.

Of the record types only those that ``bpf_perf_event_output()`` leads to are described: with
``sample_type`` ``PERF_SAMPLE_RAW``, and what fits before it.

With ``write_backward`` the kernel writes from the end to the start: ``data_head`` falls, from 0 to
2**64 - 8 and on, and is where the newest record begins. From there the records follow each other
upwards, the oldest one last.
"""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from construct import (
    Bytes,
    Int16ub,
    Int16ul,
    Int32ub,
    Int32ul,
    Int64ub,
    Int64ul,
    Padding,
    Struct,
    this,
)

__all__ = ["DATA_HEAD", "DATA_TAIL", "HEADER_SIZE", "LOST", "SAMPLE", "layouts"]

DATA_HEAD = 1024
"""Offset of ``data_head`` in the control page, in bytes."""

DATA_TAIL = 1032
"""Offset of ``data_tail`` in the control page, in bytes."""

HEADER_SIZE = 8
"""Bytes of ``struct perf_event_header``; ``size`` in it counts them too."""

LOST = 2
"""``PERF_RECORD_LOST``: records that did not fit."""

SAMPLE = 9
"""``PERF_RECORD_SAMPLE``: a record of a program."""


@lru_cache(maxsize=2)
def layouts(byteorder: str) -> Any:
    """Return the descriptions for one byte order.

    Args:
        byteorder: ``"<"`` or ``">"``, as in :mod:`struct`.

    Returns:
        A namespace of construct descriptions: ``control`` (what matters of the control page),
        ``header``, and after a header ``sample`` (``size`` is a multiple of 8 less 4: padding
        behind what the program sent is counted in) and ``lost``. Before ``sample`` come ``tid``
        and ``time``, in this order, if ``sample_type`` has ``PERF_SAMPLE_TID`` and ``TIME``.
        ``state`` is what read(2) gives with ``PERF_FORMAT_TOTAL_TIME_ENABLED`` and ``LOST``.
    """
    little = byteorder == "<"
    u16, u32, u64 = (Int16ul, Int32ul, Int64ul) if little else (Int16ub, Int32ub, Int64ub)
    return SimpleNamespace(
        control=Struct(
            "version" / u32,
            "compat_version" / u32,
            Padding(DATA_HEAD - 8),
            "data_head" / u64,
            "data_tail" / u64,
            "data_offset" / u64,  # since Linux 4.1
            "data_size" / u64,
        ),
        header=Struct("type" / u32, "misc" / u16, "size" / u16),
        sample=Struct("size" / u32, "data" / Bytes(this.size)),
        lost=Struct("id" / u64, "lost" / u64),
        tid=Struct("pid" / u32, "tid" / u32),
        time=Struct("time" / u64),
        state=Struct("value" / u64, "time_enabled" / u64, "lost" / u64),
    )
