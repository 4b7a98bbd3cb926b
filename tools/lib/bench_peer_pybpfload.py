"""pybpfload as tools/bench measures it, the way its users write it.

:mod:`bench_peer` has the jobs.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import time
from typing import Any

import bench_peer

import pybpfload
from pybpfload.runtime.perfbuf import PerfBuffer
from pybpfload.uapi import Cmd

_PACKET = bytes(14)
_PORTION = 100_000
_BATCH = 1024
_SYSCALL = {"x86_64": 321, "s390x": 351, "ppc64le": 361}.get(os.uname().machine, 280)


class Pybpfload:
    """The object, loaded by pybpfload."""

    def __init__(self, path: str) -> None:
        self.object = pybpfload.load(path)
        self.sequence = self.object.variables["sequence"]
        self.target = self.object.variables["target_tgid"]
        self.ring = self.object.maps["events"].reader()
        self.perf: PerfBuffer | None = None
        self.syscall = ctypes.CDLL(None)["syscall"]
        self.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]
        self._entries = 0

    def fill(self, name: str, count: int) -> None:
        self.sequence.value = 0
        self.object.programs[name].test_run(_PACKET, repeat=count)

    def _read(self, reader: Any, count: int) -> dict[str, Any]:
        total = events = 0
        start = time.process_time()
        for event in itertools.islice(reader, count):
            total += event.sequence + event.pid + event.result
            events += 1
        return {"seconds": time.process_time() - start, "events": events, "total": total}

    # Events

    def records(self, count: int) -> dict[str, Any]:
        self.fill("fill", count)
        return self._read(self.ring, count)

    def samples(self, count: int) -> dict[str, Any]:
        if self.perf is None:
            self.perf = PerfBuffer(self.object.maps["samples"], page_count=bench_peer.PERF_PAGES)
        self.fill("fill_perf", count)
        return self._read(self.perf, count)

    def numpy(self, count: int) -> dict[str, Any]:
        self.fill("fill", count)
        events = total = 0
        start = time.process_time()
        while (batch := self.ring.read_batch("array", timeout=0)) is not None:
            events += len(batch)
            total += int(batch["sequence"].sum() + batch["pid"].sum() + batch["result"].sum())
        return {"seconds": time.process_time() - start, "events": events, "total": total}

    def structs(self, count: int) -> dict[str, Any]:
        self.fill("fill", count)
        events = total = 0
        start = time.process_time()
        while (batch := self.ring.read_batch("structs", limit=_BATCH, timeout=0)) is not None:
            for event in batch:
                total += event.sequence + event.pid + event.result
                events += 1
        return {"seconds": time.process_time() - start, "events": events, "total": total}

    def first(self, count: int) -> dict[str, Any]:
        program = self.object.programs["first"]
        self.target.value = os.getpid()
        start = time.perf_counter()
        link = program.attach()
        (event,) = self.ring.poll(1, limit=1)
        seconds = time.perf_counter() - start
        link.close()
        self.target.value = 0
        self.ring.consume()
        return {"seconds": seconds, "events": int(event.kind == 3), "total": 0}

    def growth(self, count: int) -> dict[str, Any]:
        total = events = 0
        before = 0
        start = time.process_time()
        for done in range(-_PORTION, count, _PORTION):  # the first portion warms up
            if not done:
                before = bench_peer.memory()
                total = events = 0
            self.fill("fill", _PORTION)
            told = self._read(self.ring, _PORTION)
            total, events = total + told["total"], events + told["events"]
        return {
            "seconds": time.process_time() - start,
            "events": events,
            "total": total,
            "bytes": bench_peer.memory() - before,
        }

    # Maps

    def filled(self, count: int) -> Any:
        numbers, entries = self.object.maps["numbers"], self.object.maps["entries"]
        if self._entries != count:
            numbers.clear()
            numbers.update({key: 2 * key for key in range(count)})
            entries.clear()
            entries.update(
                {
                    key: {"packets": 2 * key, "bytes": key, "first": key, "last": 7}
                    for key in range(count)
                }
            )
            self._entries = count
        return numbers, entries

    def items(self, count: int) -> dict[str, Any]:
        numbers, _ = self.filled(count)
        start = time.process_time()
        for _ in numbers.items():
            pass
        seconds = time.process_time() - start
        found = dict(numbers.items())
        return {"seconds": seconds, "events": len(found), "total": sum(found.values())}

    def entries(self, count: int) -> dict[str, Any]:
        _, entries = self.filled(count)
        start = time.process_time()
        for _ in entries.items():
            pass
        seconds = time.process_time() - start
        found = dict(entries.items())
        total = sum(each.packets for each in found.values())
        return {"seconds": seconds, "events": len(found), "total": total}

    def batch(self, count: int) -> dict[str, Any]:
        numbers, _ = self.filled(count)
        keys, values = (ctypes.c_uint64 * count)(), (ctypes.c_uint64 * count)()
        position = ctypes.c_uint64()

        class Attributes(ctypes.Structure):  # of BPF_MAP_LOOKUP_BATCH
            _fields_ = [
                ("in_batch", ctypes.c_void_p),
                ("out_batch", ctypes.c_void_p),
                ("keys", ctypes.c_void_p),
                ("values", ctypes.c_void_p),
                ("count", ctypes.c_uint32),
                ("map_fd", ctypes.c_uint32),
                ("elem_flags", ctypes.c_uint64),
                ("flags", ctypes.c_uint64),
            ]

        attributes = Attributes(
            out_batch=ctypes.addressof(position),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            count=count,
            map_fd=numbers.fileno(),
        )
        place, size = ctypes.addressof(attributes), ctypes.sizeof(attributes)
        start = time.process_time()
        self.syscall(_SYSCALL, Cmd.MAP_LOOKUP_BATCH, place, size)
        seconds = time.process_time() - start
        return {"seconds": seconds, "events": attributes.count, "total": sum(values)}

    def lookup(self, count: int) -> dict[str, Any]:
        numbers, _ = self.filled(100_000)
        wanted = range(0, 100_000, 100_000 // count)[:count]
        total = 0
        start = time.process_time()
        for key in wanted:
            total += numbers[key]
        seconds = time.process_time() - start
        return {"seconds": seconds, "events": len(wanted), "total": total - 2 * sum(wanted)}

    def bare(self, count: int) -> dict[str, Any]:
        numbers, _ = self.filled(100_000)
        key, value = ctypes.c_uint64(1234), ctypes.c_uint64()

        class Attributes(ctypes.Structure):  # of BPF_MAP_LOOKUP_ELEM
            _fields_ = [
                ("map_fd", ctypes.c_uint64),
                ("key", ctypes.c_void_p),
                ("value", ctypes.c_void_p),
                ("flags", ctypes.c_uint64),
            ]

        attributes = Attributes(
            map_fd=numbers.fileno(), key=ctypes.addressof(key), value=ctypes.addressof(value)
        )
        place, size = ctypes.addressof(attributes), ctypes.sizeof(attributes)
        syscall, command = self.syscall, int(Cmd.MAP_LOOKUP_ELEM)
        start = time.process_time()
        for _ in range(count):
            syscall(_SYSCALL, command, place, size)
        seconds = time.process_time() - start
        return {"seconds": seconds, "events": count, "total": value.value - 2468}


def main() -> None:
    own = Pybpfload(sys.argv[1])
    jobs = (
        "records", "structs", "samples", "numpy", "first", "growth",
        "items", "entries", "batch", "lookup", "bare",
    )  # fmt: skip
    bench_peer.serve(
        f"pybpfload {pybpfload.__version__}", {each: getattr(own, each) for each in jobs}
    )


if __name__ == "__main__":
    main()
