"""What each type of map can do.

Sources: ``linux/bpf_types.h`` (the types) and the ``struct bpf_map_ops`` of each type in
``kernel/bpf`` and ``net`` of Linux 6.18. ``docs/maps-and-variables.md`` has the same as a table;
tests compare both, and what is said here with what kernels do.
"""

from __future__ import annotations

from pybpfload.uapi import MapType

__all__ = [
    "DESCRIPTORS",
    "EVENTS",
    "FULL_ARRAYS",
    "INDEXED",
    "MAPS_OF_MAPS",
    "PER_CPU",
    "QUEUES",
    "STORAGE",
    "STORAGE_OF_CGROUPS",
    "TARGETS",
    "abilities",
    "can",
    "special",
]

T = MapType

PER_CPU = frozenset({T.PERCPU_HASH, T.PERCPU_ARRAY, T.LRU_PERCPU_HASH, T.PERCPU_CGROUP_STORAGE})
"""Types with one value for each possible CPU."""

FULL_ARRAYS = frozenset({T.ARRAY, T.PERCPU_ARRAY, T.INSN_ARRAY})
"""Arrays in which every element exists from the start."""

INDEXED = FULL_ARRAYS | {
    T.PROG_ARRAY,
    T.PERF_EVENT_ARRAY,
    T.CGROUP_ARRAY,
    T.ARRAY_OF_MAPS,
    T.DEVMAP,
    T.SOCKMAP,
    T.CPUMAP,
    T.XSKMAP,
    T.REUSEPORT_SOCKARRAY,
    T.STACK_TRACE,
    T.STRUCT_OPS,
}
"""Types whose keys are 32-bit numbers."""

EVENTS = frozenset({T.RINGBUF, T.PERF_EVENT_ARRAY})
"""Types that are read as a stream of events."""

QUEUES = frozenset({T.QUEUE, T.STACK})
"""Types without keys that give out what was put in."""

STORAGE = frozenset({T.SK_STORAGE, T.INODE_STORAGE, T.TASK_STORAGE, T.CGRP_STORAGE})
"""Types whose key is a descriptor: of a socket, file, process (pidfd) or control group."""

STORAGE_OF_CGROUPS = frozenset({T.CGROUP_STORAGE, T.PERCPU_CGROUP_STORAGE})
"""Types that have an element for each control group that the program is attached to."""

MAPS_OF_MAPS = frozenset({T.ARRAY_OF_MAPS, T.HASH_OF_MAPS})
"""Types whose values are maps."""

TARGETS = frozenset({T.DEVMAP, T.DEVMAP_HASH, T.CPUMAP})
"""Types whose values say where packets are sent, and perhaps through which program."""

DESCRIPTORS = frozenset(
    {
        T.PERF_EVENT_ARRAY,
        T.CGROUP_ARRAY,
        T.SOCKMAP,
        T.SOCKHASH,
        T.XSKMAP,
        T.REUSEPORT_SOCKARRAY,
    }
)
"""Types whose values are given as descriptors and come back, if at all, as numbers."""

# What is not here may do everything: the kernel will say.
_ABILITIES: dict[int, str] = {
    T.ARRAY: "lui",
    T.PERCPU_ARRAY: "lui",
    T.INSN_ARRAY: "lui",
    T.PERF_EVENT_ARRAY: "ud",
    T.CGROUP_ARRAY: "ud",
    T.XSKMAP: "ud",
    T.STACK_TRACE: "ldi",
    T.CGROUP_STORAGE: "lui",
    T.PERCPU_CGROUP_STORAGE: "lui",
    T.QUEUE: "",
    T.STACK: "",
    T.BLOOM_FILTER: "",
    T.RINGBUF: "",
    T.USER_RINGBUF: "",
    T.ARENA: "",
    **dict.fromkeys(STORAGE, "lud"),
}
_WORDS = {
    "l": "be looked up (m[key])",
    "u": "be updated (m[key] = value)",
    "d": "have keys deleted (del m[key])",
    "i": "be iterated",
}
_SPECIAL = {
    T.QUEUE: "push(), pop() and peek()",
    T.STACK: "push(), pop() and peek()",
    T.BLOOM_FILTER: "push() and be asked with 'in'",
    T.RINGBUF: "be iterated for its events",
    T.PERF_EVENT_ARRAY: "be iterated for its events",
    T.USER_RINGBUF: "only carry records to programs",
    T.ARENA: "be viewed (view())",
}


def can(map_type: int) -> str:
    """What maps of a type can do: ``l`` lookup, ``u`` update, ``d`` delete, ``i`` iterate."""
    return _ABILITIES.get(map_type, "ludi")


def special(map_type: int) -> str:
    """What maps of a type can do that others cannot, in words that follow "it can"."""
    return _SPECIAL.get(MapType(map_type), "")


def abilities(map_type: int) -> str:
    """What maps of a type can do, in words that follow "it can"."""
    words = [special(map_type)] if special(map_type) else []
    words += [text for letter, text in _WORDS.items() if letter in can(map_type)]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
