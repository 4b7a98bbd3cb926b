"""What Python users would otherwise have: libbpf through ctypes, with callbacks.

Run by tools/bench on the C library that came with libbpf; :mod:`bench_peer` has the jobs.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    cast,
)
from typing import Any

import bench_peer

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "libbpf_version_string": (c_char_p, []),
    "bpf_object__open_file": (c_void_p, [c_char_p, c_void_p]),
    "bpf_object__load": (c_int, [c_void_p]),
    "bpf_object__find_program_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_object__find_map_by_name": (c_void_p, [c_void_p, c_char_p]),
    "bpf_program__fd": (c_int, [c_void_p]),
    "bpf_program__attach": (c_void_p, [c_void_p]),
    "bpf_link__destroy": (c_int, [c_void_p]),
    "bpf_map__fd": (c_int, [c_void_p]),
    "bpf_map__initial_value": (c_void_p, [c_void_p, POINTER(c_size_t)]),
    "bpf_map_update_elem": (c_int, [c_int, c_void_p, c_void_p, c_uint64]),
    "bpf_map_lookup_elem": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_map_get_next_key": (c_int, [c_int, c_void_p, c_void_p]),
    "bpf_prog_test_run_opts": (c_int, [c_int, c_void_p]),
    "ring_buffer__new": (c_void_p, [c_int, c_void_p, c_void_p, c_void_p]),
    "ring_buffer__consume": (c_int, [c_void_p]),
    "ring_buffer__poll": (c_int, [c_void_p, c_int]),
    "perf_buffer__new": (c_void_p, [c_int, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p]),
    "perf_buffer__consume": (c_int, [c_void_p]),
}


class Record(Structure):
    """``struct record`` of the object, written down a second time as ctypes needs it."""

    _fields_ = [
        ("sequence", c_uint64),
        ("time_ns", c_uint64),
        ("pid", c_uint32),
        ("cpu", c_uint32),
        ("result", c_int64),
        ("address", c_uint64),
        ("kind", c_uint32),
        ("flags", c_uint32),
        ("comm", c_char * 16),
    ]


_RECORD_POINTER = POINTER(Record)


class TestRunOptions(Structure):
    """``struct bpf_test_run_opts``."""

    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class Libbpf:
    """The object, loaded by libbpf."""

    def __init__(self, path: str, sequence: int, target: int) -> None:
        self.library = library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.object = self._checked("open", library.bpf_object__open_file(path.encode(), None))
        if library.bpf_object__load(self.object):
            raise OSError(ctypes.get_errno(), "libbpf cannot load the object")
        size = c_size_t()
        bss = library.bpf_map__initial_value(self._map(".bss"), byref(size))
        self.sequence = c_uint64.from_address(bss + sequence)
        self.target = c_uint32.from_address(bss + target)
        self.events = self.total = 0
        record_type = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
        sample_type = CFUNCTYPE(None, c_void_p, c_int, c_void_p, c_uint32)
        self._callbacks = {
            "records": record_type(self._on_record),
            "fastest": record_type(self._on_record_fast),
            "samples": sample_type(self._on_sample),
        }
        self.rings = {name: self._new_ring(name) for name in ("records", "fastest")}
        self.perf: int | None = None

    def _new_ring(self, name: str) -> int:
        """A reader of the ring; there may be several, which read in turn."""
        made = self.library.ring_buffer__new(self._fd("events"), self._callbacks[name], None, None)
        return self._checked("ring_buffer__new", made)

    def _checked(self, what: str, pointer: int | None) -> int:
        if not pointer:
            raise OSError(ctypes.get_errno(), what)
        return pointer

    def _map(self, name: str) -> int:
        found = self.library.bpf_object__find_map_by_name(self.object, name.encode())
        return self._checked(name, found)

    def _fd(self, name: str) -> int:
        return int(self.library.bpf_map__fd(self._map(name)))

    def _program(self, name: str) -> int:
        found = self.library.bpf_object__find_program_by_name(self.object, name.encode())
        return self._checked(name, found)

    def _on_record(self, context: int, data: int, size: int) -> int:
        record = cast(data, _RECORD_POINTER).contents
        self.total += record.sequence + record.pid + record.result
        self.events += 1
        return 0

    def _on_record_fast(self, context: int, data: int, size: int) -> int:
        record = Record.from_address(data)
        self.total += record.sequence + record.pid + record.result
        self.events += 1
        return 0

    def _on_sample(self, context: int, cpu: int, data: int, size: int) -> None:
        record = cast(data, _RECORD_POINTER).contents
        self.total += record.sequence + record.pid + record.result
        self.events += 1

    def _fill(self, name: str, count: int) -> None:
        packet = ctypes.create_string_buffer(14)
        options = TestRunOptions(
            sz=ctypes.sizeof(TestRunOptions),
            data_in=ctypes.addressof(packet),
            data_size_in=14,
            repeat=count,
        )
        self.sequence.value = self.events = self.total = 0
        fd = self.library.bpf_program__fd(self._program(name))
        if self.library.bpf_prog_test_run_opts(fd, byref(options)):
            raise OSError(ctypes.get_errno(), name)

    def _told(self, seconds: float) -> dict[str, Any]:
        return {"seconds": seconds, "events": self.events, "total": self.total}

    # Jobs

    def records(self, count: int, ring: str = "records") -> dict[str, Any]:
        self._fill("fill", count)
        start = time.process_time()
        self.library.ring_buffer__consume(self.rings[ring])
        return self._told(time.process_time() - start)

    def fastest(self, count: int) -> dict[str, Any]:
        return self.records(count, "fastest")

    def samples(self, count: int) -> dict[str, Any]:
        if self.perf is None:
            callback = self._callbacks["samples"]
            made = self.library.perf_buffer__new(
                self._fd("samples"), bench_peer.PERF_PAGES, callback, None, None, None
            )
            self.perf = self._checked("perf_buffer__new", made)
        self._fill("fill_perf", count)
        start = time.process_time()
        self.library.perf_buffer__consume(self.perf)
        return self._told(time.process_time() - start)

    def first(self, count: int) -> dict[str, Any]:
        program = self._program("first")
        self.events = 0
        self.target.value = os.getpid()
        start = time.perf_counter()
        link = self._checked("attach", self.library.bpf_program__attach(program))
        while not self.events:
            self.library.ring_buffer__poll(self.rings["records"], 1000)
        seconds = time.perf_counter() - start
        self.library.bpf_link__destroy(link)
        self.target.value = 0
        self.library.ring_buffer__consume(self.rings["records"])
        return self._told(seconds)

    def keys(self, count: int) -> dict[str, Any]:
        fd = self._fd("numbers")
        key, value = c_uint64(), c_uint64()
        pointers = byref(key), byref(value)
        lookup, following = self.library.bpf_map_lookup_elem, self.library.bpf_map_get_next_key
        update = self.library.bpf_map_update_elem
        for number in range(count):
            key.value, value.value = number, 2 * number
            update(fd, *pointers, 0)
        found = {}
        start = time.process_time()
        more = following(fd, None, pointers[0]) == 0
        while more:
            if lookup(fd, *pointers) == 0:
                found[key.value] = value.value
            more = following(fd, pointers[0], pointers[0]) == 0
        seconds = time.process_time() - start
        return {"seconds": seconds, "events": len(found), "total": sum(found.values())}


def main() -> None:
    path, sequence, target = sys.argv[1:]
    libbpf = Libbpf(path, int(sequence), int(target))
    version = libbpf.library.libbpf_version_string().decode()
    jobs = ("records", "fastest", "samples", "first", "keys")
    bench_peer.serve(
        f"libbpf {version} through ctypes", {each: getattr(libbpf, each) for each in jobs}
    )


if __name__ == "__main__":
    main()
