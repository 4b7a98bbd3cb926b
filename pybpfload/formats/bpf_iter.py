"""``union bpf_iter_link_info``: what an iterator shall go over (``uapi/linux/bpf.h``)."""

# construct names fields with "/", which its missing types do not tell.
# pyright: reportOperatorIssue=false

from __future__ import annotations

import sys

from construct import Int32ub, Int32ul, Int64ub, Int64ul, Padded, Struct

__all__ = ["SIZE", "link_info"]

_u32, _u64 = (Int32ul, Int64ul) if sys.byteorder == "little" else (Int32ub, Int64ub)

SIZE = 16
"""Size of the union in bytes."""

ARMS = {
    "map": Struct("map_fd" / _u32),  # 5.9
    "cgroup": Struct("order" / _u32, "cgroup_fd" / _u32, "cgroup_id" / _u64),  # 6.1
    "task": Struct("tid" / _u32, "pid" / _u32, "pid_fd" / _u32),  # 6.1
}
"""The arms of the union by what they are for."""


def link_info(arm: str, **fields: int) -> bytes:
    """Return the bytes of one arm, padded to the size of the union."""
    return bytes(Padded(SIZE, ARMS[arm]).build(fields))
