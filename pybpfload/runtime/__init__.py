"""Loaded things: objects, programs, maps, variables, links, events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pybpfload.lazy import lazily

if TYPE_CHECKING:
    from pybpfload.runtime.link import Link
    from pybpfload.runtime.map import Map
    from pybpfload.runtime.object import Object, load_object
    from pybpfload.runtime.perfbuf import PerfBuffer
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.ringbuf import RingBuffer
    from pybpfload.runtime.user_ringbuf import UserRingBuffer
    from pybpfload.runtime.variable import Variable

__all__ = [
    "Link",
    "Map",
    "Object",
    "PerfBuffer",
    "Program",
    "RingBuffer",
    "UserRingBuffer",
    "Variable",
    "load_object",
]

_HOMES = {
    "Link": "link",
    "Map": "map",
    "Object": "object",
    "PerfBuffer": "perfbuf",
    "Program": "program",
    "RingBuffer": "ringbuf",
    "UserRingBuffer": "user_ringbuf",
    "Variable": "variable",
    "load_object": "object",
}

__getattr__ = lazily(__name__, _HOMES)
