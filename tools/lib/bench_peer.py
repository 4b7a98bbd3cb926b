"""How tools/bench talks with the processes that do what it measures, one for each library.

A peer is started with the path of the object ``bench`` and the offsets of two variables in its
``.bss``. It loads the object, says ``{"ready": NAME}``, and then does one job for each line
``JOB COUNT`` of its input. An answer is a line of JSON: ``seconds`` that it took, and what shows
that the work was done: ``events``, how many records or entries, and ``total``, what
:func:`expected` has for them.

===========  =====================================================================================
``records``  fill the ring buffer with COUNT records, then read all, three members of each
``fastest``  the same, by ctypes' quickest way from an address to a structure
``structs``  the same in batches of ctypes structures
``numpy``    the same into numpy arrays, and add up three columns
``samples``  as ``records``, with the perf buffer
``first``    attach a program to the process's own system calls, and wait for an event (wall time)
``items``    read all entries of ``numbers``, which has COUNT
``entries``  the same with ``entries``, whose values are structures
``batch``    the same as ``items``, by bare system calls for batches, into memory that is there
``keys``     the same as ``items``, each key and each value by a function call of its own
``lookup``   look up COUNT keys in ``numbers``
``bare``     the same by bare system calls through ctypes, always the same key
``growth``   send and read COUNT records in portions; ``bytes`` tells by how much memory grew
===========  =====================================================================================

``seconds`` is processor time unless said otherwise; filling is not counted.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[[int], dict[str, Any]]

PERF_PAGES = 4096
"""Pages of each perf ring: room for 200,000 records of 64 bytes."""


def expected(count: int) -> int:
    """Sum of ``sequence``, ``pid`` and ``result`` of the first COUNT records."""
    return sum(each + (each & 0xFFFF) - 2 for each in range(count))


def serve(name: str, jobs: dict[str, Job]) -> None:
    """Do what is asked for until the input ends."""
    _answer({"ready": name})
    for line in sys.stdin:
        job, count = line.split()
        _answer(jobs[job](int(count)))


def memory() -> int:
    """Bytes of memory that this process has, without what is shared with others."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(each) for each in re.findall(r"Private_\w+:\s+(\d+)", text)) * 1024


def _answer(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + os.linesep)
    sys.stdout.flush()
