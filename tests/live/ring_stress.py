"""A program on every CPU writes into one ring buffer as fast as it is read, or faster.

Each record says which CPU wrote it and which number it has there; its other words follow from
these. So every record that is torn, lost, repeated or out of order is seen, and what programs
counted as dropped must be exactly what is missing. ``fixtures/ring_stress.bpf.c`` is the program,
``tools/stress`` runs it for long, ``test_ring_stress.py`` shortly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pybpfload
from pybpfload.runtime.ringbuf import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybpfload.runtime.program import Program

NATIVE = "bpfel" if sys.byteorder == "little" else "bpfeb"
OBJECT = Path(__file__).parents[2] / "fixtures" / NATIVE / "ring_stress.bpf.o"
FORMS = ("records", "array", "views")

_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_PACKET = bytes(14)
_PORTION = 500  # records that a program sends in one go
_GROWTH = 4 << 20  # bytes: what the allocator may keep at one time and not at another
_BURST = 200  # turns of a producer between two bursts
_BATCH = 8192
_HEAD = struct.Struct("=QII")


class Wrong(AssertionError):
    """A record is not what was written, or not where it was written."""


@dataclass
class Report:
    """What a run was like.

    Attributes:
        received: Records that were read.
        dropped: Records that did not fit.
        seconds: How long it took.
        growth: Bytes by which the process grew after the first tenth.
        by_cpu: Records that were read, by CPU.
    """

    received: int = 0
    dropped: int = 0
    seconds: float = 0.0
    growth: int = 0
    by_cpu: dict[int, int] = field(default_factory=dict)


class Checker:
    """Looks at every record; counts what is missing between them."""

    def __init__(self) -> None:
        self.next: dict[int, int] = {}
        self.received: dict[int, int] = {}

    def sequence(self, cpu: int, number: int) -> None:
        """One more record of a CPU."""
        if number < self.next.get(cpu, 0):
            raise Wrong(f"CPU {cpu}: {number} again, or too late, after {self.next[cpu] - 1}")
        self.next[cpu] = number + 1
        self.received[cpu] = self.received.get(cpu, 0) + 1

    def one(self, number: int, cpu: int, count: int, words: Iterable[int]) -> None:
        """A record by its fields; only the first ``count`` words were sent."""
        self.sequence(cpu, number)
        word = (number << 8 | cpu) & _MASK
        for index, found in zip(range(count), words, strict=False):
            word = (word * _FACTOR + index) & _MASK
            if found != word:
                raise Wrong(f"CPU {cpu}, record {number}: word {index} is {found:#x}")

    def records(self, batch: list[Any]) -> None:
        for each in batch:
            self.one(each.number, each.cpu, each.words, each.word)

    def views(self, batch: list[memoryview]) -> None:
        for view in batch:
            number, cpu, count = _HEAD.unpack_from(view)
            if len(view) != 16 + 8 * count:
                raise Wrong(f"CPU {cpu}, record {number}: {len(view)} bytes for {count} words")
            self.one(number, cpu, count, struct.unpack_from(f"={count}Q", view, 16))

    def array(self, batch: Any) -> None:
        import numpy

        word = batch["number"] << numpy.uint64(8) | batch["cpu"].astype("u8")
        for index in range(int(batch["words"][0])):
            word = word * numpy.uint64(_FACTOR) + numpy.uint64(index)
            if (batch["word"][:, index] != word).any():
                raise Wrong(f"word {index} of a record is wrong")
        for cpu in numpy.unique(batch["cpu"]).tolist():
            numbers = batch["number"][batch["cpu"] == cpu]
            if (numbers[1:] <= numbers[:-1]).any():
                raise Wrong(f"CPU {cpu}: a record comes twice, or too late")
            self.sequence(cpu, int(numbers[0]))
            self.next[cpu] = int(numbers[-1]) + 1
            self.received[cpu] += len(numbers) - 1


def run(
    wanted: int,
    *,
    program: str = "fixed",
    form: str = "records",
) -> Report:
    """Read that many records while all CPUs write.

    Args:
        wanted: Records to receive, at least.
        program: ``"fixed"`` or ``"variable"``.
        form: How they are read, see :meth:`RingBuffer.read_batch`.

    Raises:
        Wrong: A record was torn, lost, repeated or out of order.
    """
    report = Report()
    checker = Checker()
    look = getattr(checker, form)
    # Processes, because threads would wait for each other's turn in the interpreter.
    fork = multiprocessing.get_context("fork")
    stop = fork.Event()
    with pybpfload.load(OBJECT) as loaded, RingBuffer(loaded.maps["records"]) as buffer:
        producers = [
            fork.Process(target=_produce, args=(loaded.programs[program], cpu, buffer, stop))
            for cpu in sorted(os.sched_getaffinity(0))
        ]
        start = time.monotonic()
        for producer in producers:
            producer.start()
        resident = 0
        try:
            while True:
                running = any(producer.is_alive() for producer in producers)
                batch = buffer.read_batch(form, limit=_BATCH, timeout=0.05)
                if batch is not None and len(batch):
                    look(batch)
                    report.received += len(batch)
                    if report.received >= wanted:
                        stop.set()
                    if not resident and report.received >= wanted // 10:
                        resident = _resident()
                elif not running:
                    break
            report.growth = _resident() - resident
            report.seconds = time.monotonic() - start
        finally:
            stop.set()
            for producer in producers:
                producer.join()
        if any(producer.exitcode for producer in producers):
            raise RuntimeError("a process that runs the program failed")
        if buffer.available:
            raise Wrong(f"{buffer.available} bytes are left in the ring")
        report.by_cpu = checker.received
        for cpu, count in enumerate(loaded.maps["counts"][0]):
            received = checker.received.get(cpu, 0)
            if received + count.dropped != count.sent:
                raise Wrong(
                    f"CPU {cpu}: of {count.sent} records {count.dropped} were dropped, and "
                    f"{received} came"
                )
            report.dropped += count.dropped
    return report


def _produce(program: Program, cpu: int, buffer: RingBuffer, stop: Any) -> None:
    """Keep the ring half full, and now and then fuller than it can be."""
    os.sched_setaffinity(0, {cpu})
    turn = 0
    while not stop.is_set():
        turn += 1
        if turn % _BURST == 0:
            program.test_run(_PACKET, repeat=buffer.size // 24)
        elif buffer.available < buffer.size // 2:
            program.test_run(_PACKET, repeat=_PORTION)
        else:
            time.sleep(0.0002)


def _resident() -> int:
    """Bytes of memory that the process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main(description: str) -> int:
    """Run ``tools/stress``; returns its exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    parser.add_argument("-n", type=int, default=10_000_000, help="records (%(default)s)")
    parser.add_argument("--form", choices=FORMS, default="records")
    parser.add_argument("--program", choices=("fixed", "variable"), default="fixed")
    options = parser.parse_args()
    try:
        report = run(options.n, program=options.program, form=options.form)
    except Wrong as wrong:
        print(f"WRONG: {wrong}")
        return 1
    print(
        f"{report.received:,} records in {report.seconds:.1f} s "
        f"({report.received / report.seconds / 1e6:.2f} million/s), {report.dropped:,} dropped and "
        f"accounted for, by CPU {report.by_cpu}; grown by {report.growth:,} bytes"
    )
    return report.growth > _GROWTH
