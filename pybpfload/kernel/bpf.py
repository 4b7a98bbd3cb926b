"""One function per command of bpf(2).

Keyword arguments have the kernel's names, values come and go as Python values, descriptors are
numbers that the caller owns. Nothing here falls back, probes or raises limits: that is the work of
:mod:`~pybpfload.kernel.progload` and of the ``runtime`` package. Public as
:mod:`pybpfload.lowlevel`.
"""

from __future__ import annotations

from pybpfload.kernel.cmd_link import link_create, link_detach, link_update
from pybpfload.kernel.cmd_map import (
    BatchResult,
    map_create,
    map_delete_batch,
    map_delete_elem,
    map_freeze,
    map_get_next_key,
    map_lookup_and_delete_batch,
    map_lookup_and_delete_elem,
    map_lookup_batch,
    map_lookup_elem,
    map_update_batch,
    map_update_elem,
)
from pybpfload.kernel.cmd_misc import (
    TaskFd,
    btf_load,
    enable_stats,
    iter_create,
    raw_tracepoint_open,
    task_fd_query,
    token_create,
)
from pybpfload.kernel.cmd_obj import (
    btf_get_fd_by_id,
    btf_get_next_id,
    iter_ids,
    link_get_fd_by_id,
    link_get_next_id,
    map_get_fd_by_id,
    map_get_next_id,
    obj_get,
    obj_pin,
    prog_get_fd_by_id,
    prog_get_next_id,
)
from pybpfload.kernel.cmd_prog import (
    ProgQuery,
    TestRun,
    prog_assoc_struct_ops,
    prog_attach,
    prog_bind_map,
    prog_detach,
    prog_load,
    prog_query,
    prog_stream_read,
    prog_test_run,
)
from pybpfload.kernel.errors import BatchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pybpfload.kernel.cmd_info import (
        BtfInfo,
        MapInfo,
        ProgInfo,
        btf_info,
        map_info,
        obj_get_info,
        prog_info,
    )
    from pybpfload.kernel.linkinfo import (
        CgroupIterLinkInfo,
        CgroupLinkInfo,
        EventLinkInfo,
        IterLinkInfo,
        KprobeLinkInfo,
        KprobeMultiLinkInfo,
        LinkInfo,
        MapIterLinkInfo,
        NetfilterFamily,
        NetfilterHook,
        NetfilterLinkInfo,
        NetkitLinkInfo,
        NetnsLinkInfo,
        PerfEventLinkInfo,
        RawTracepointLinkInfo,
        SockmapLinkInfo,
        StructOpsLinkInfo,
        TaskIterLinkInfo,
        TcxLinkInfo,
        TracepointLinkInfo,
        TracingLinkInfo,
        UprobeLinkInfo,
        UprobeMultiLinkInfo,
        XdpLinkInfo,
        link_info,
    )

__all__ = [
    "BatchError",
    "BatchResult",
    "BtfInfo",
    "CgroupIterLinkInfo",
    "CgroupLinkInfo",
    "EventLinkInfo",
    "IterLinkInfo",
    "KprobeLinkInfo",
    "KprobeMultiLinkInfo",
    "LinkInfo",
    "MapInfo",
    "MapIterLinkInfo",
    "NetfilterFamily",
    "NetfilterHook",
    "NetfilterLinkInfo",
    "NetkitLinkInfo",
    "NetnsLinkInfo",
    "PerfEventLinkInfo",
    "ProgInfo",
    "ProgQuery",
    "RawTracepointLinkInfo",
    "SockmapLinkInfo",
    "StructOpsLinkInfo",
    "TaskFd",
    "TaskIterLinkInfo",
    "TcxLinkInfo",
    "TestRun",
    "TracepointLinkInfo",
    "TracingLinkInfo",
    "UprobeLinkInfo",
    "UprobeMultiLinkInfo",
    "XdpLinkInfo",
    "btf_get_fd_by_id",
    "btf_get_next_id",
    "btf_info",
    "btf_load",
    "enable_stats",
    "iter_create",
    "iter_ids",
    "link_create",
    "link_detach",
    "link_get_fd_by_id",
    "link_get_next_id",
    "link_info",
    "link_update",
    "map_create",
    "map_delete_batch",
    "map_delete_elem",
    "map_freeze",
    "map_get_fd_by_id",
    "map_get_next_id",
    "map_get_next_key",
    "map_info",
    "map_lookup_and_delete_batch",
    "map_lookup_and_delete_elem",
    "map_lookup_batch",
    "map_lookup_elem",
    "map_update_batch",
    "map_update_elem",
    "obj_get",
    "obj_get_info",
    "obj_pin",
    "prog_assoc_struct_ops",
    "prog_attach",
    "prog_bind_map",
    "prog_detach",
    "prog_get_fd_by_id",
    "prog_get_next_id",
    "prog_info",
    "prog_load",
    "prog_query",
    "prog_stream_read",
    "prog_test_run",
    "raw_tracepoint_open",
    "task_fd_query",
    "token_create",
]


_OBJECTS = ("BtfInfo", "MapInfo", "ProgInfo", "btf_info", "map_info", "obj_get_info", "prog_info")
_LINKS = ("LinkInfo", "link_info", "NetfilterFamily", "NetfilterHook")


def __getattr__(name: str) -> Any:
    """Load what tells about objects when it is first asked for."""
    if name in _OBJECTS:
        home = "cmd_info"
    elif name in _LINKS or name.endswith("LinkInfo"):
        home = "linkinfo"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"pybpfload.kernel.{home}"), name)
