"""Reading BPF ring buffers in which programs overwrite the oldest records (Linux 6.19).

With ``BPF_F_RB_OVERWRITE`` a full ring loses its oldest records instead of the newest: a flight
recorder. Beside the producer's position there is that of the oldest record left. A program that
needs room moves it on first, over whole records, then writes its header and the producer's
position (``__bpf_ringbuf_reserve()`` in ``kernel/bpf/ringbuf.c``). So a reader cannot stop programs
from overwriting what it looks at, but it can find out:

1. The producer's position is read, then that of the oldest record; in between lie records.
2. They are copied, twice: headers are taken from the first copy, data from the second, so what a
   header says to be complete is complete in the data.
3. The position of the oldest record is read again: what lies below it may be torn, and is left out.

This needs the store of that position to come before those of new data, also to the reader's eyes.
x86-64 and s390x keep stores in order. Elsewhere the kernel has no barrier between the two (the
position's store is followed by a release store, which later stores may pass): there, the newest
records are read reliably after the programs have stopped, or when they are less than a round ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.runtime.fence import Position, fence
from pybpfload.runtime.ringbuf import Ring, Taken
from pybpfload.runtime.ringscan import scan

if TYPE_CHECKING:
    from pybpfload.runtime.map import Map

__all__ = ["OverwritableRing"]

_OVERWRITTEN = 16  # offset in the producer's page; at 8 is the first record still being written
_ATTEMPTS = 3


class OverwritableRing(Ring):
    """A ring that programs never find full.

    Records are copied before they are given out, so batches of views are of a copy too.

    Attributes:
        overwritten: Bytes of records that were overwritten before they were read, so far.
    """

    portion = 1 << 62  # a copy is made of all records, so all of them are given out

    def __init__(self, map: Map[Any, Any], raw: bool, sources: bool) -> None:  # noqa: A002
        super().__init__(map, raw, sources)
        self._oldest = Position(self._memory[1], _OVERWRITTEN)
        self.overwritten = 0

    def oldest(self) -> int:
        """Position of the oldest record that was neither read nor overwritten."""
        return max(self._consumer.load(), self._oldest.load())

    def take(self, producer: int, limit: int, *, uniform: bool = False) -> Taken | None:
        """Copy what is there, and find the oldest finished records in that; see :meth:`Ring.take`.

        All records count: copying takes longer than looking at ``producer`` again.

        ``None`` too if programs went once round while the copy was made, several times in a row.
        """
        mask = self.size - 1
        for _ in range(_ATTEMPTS):
            producer = self._producer.load()
            fence()
            consumer, start = self._consumer.load(), self.oldest()
            self.check(consumer, producer, most=producer)
            if start < producer:
                memory = self._data[start & mask : (start & mask) + producer - start]
                heads = bytes(memory)
                fence()
                data = bytes(memory)
                fence()
                first = self.oldest()
                if first < producer:
                    words = memoryview(heads).cast("I")
                    runs, end = scan(
                        words, first - start, producer - start, 1 << 62, limit, uniform=uniform
                    )
                    self.overwritten += first - consumer
                    if end == first - start:
                        self.free(first)
                        return None
                    return Taken(memoryview(data), runs, start, start + end)
            elif start == producer:
                return None
        return None

    def close(self) -> None:
        """Let go of the memory; again does nothing."""
        if self._memory:
            self._oldest.close()
        super().close()
