"""bcc, reading maps that pybpfload has made and filled: bcc itself could only read its own.

Its classes are used as they are, without the ``bcc.BPF`` object that would compile a program.
:mod:`bench_peer` has the jobs.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

import bcc
import bench_peer
from bcc.libbcc import lib
from bcc.table import HashTable, RingBuf
from bench_peer_libbpf import Record
from bench_peer_pybpfload import Pybpfload


class Host:
    """Stands for ``bcc.BPF``."""

    def _open_ring_buffer(self, fd: int, callback: Any, context: Any) -> None:
        self.ring = lib.bpf_new_ringbuf(fd, callback, context)


def table(kind: Any, host: Host, fd: int, **attributes: Any) -> Any:
    """One of bcc's tables, of a map that it has not made."""
    made = kind.__new__(kind)
    vars(made).update(bpf=host, map_fd=fd, _cbs={}, **attributes)
    return made


class Bcc:
    """The object, loaded by pybpfload, and read by bcc."""

    def __init__(self, path: str) -> None:
        self.own = Pybpfload(path)
        self.own.ring.close()
        self.host = Host()
        self.total = self.events = 0
        maps = self.own.object.maps
        ring = table(RingBuf, self.host, maps["events"].fileno(), _event_class=Record)
        self.numbers = table(
            HashTable,
            self.host,
            maps["numbers"].fileno(),
            Key=ctypes.c_uint64,
            Leaf=ctypes.c_uint64,
        )

        def callback(context: int, data: int, size: int) -> None:
            event = ring.event(data)
            self.total += event.sequence + event.pid + event.result
            self.events += 1

        ring.open_ring_buffer(callback)

    def records(self, count: int) -> dict[str, Any]:
        self.own.fill("fill", count)
        self.total = self.events = 0
        start = time.process_time()
        lib.bpf_consume_ringbuf(self.host.ring)
        seconds = time.process_time() - start
        return {"seconds": seconds, "events": self.events, "total": self.total}

    def items(self, count: int) -> dict[str, Any]:
        self.own.filled(count)
        start = time.process_time()
        for _ in self.numbers.items():
            pass
        seconds = time.process_time() - start
        found = {key.value: leaf.value for key, leaf in self.numbers.items()}
        return {"seconds": seconds, "events": len(found), "total": sum(found.values())}


def main() -> None:
    peer = Bcc(sys.argv[1])
    bench_peer.serve(f"bcc {bcc.__version__}", {"records": peer.records, "items": peer.items})


if __name__ == "__main__":
    main()
