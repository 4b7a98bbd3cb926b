"""Show processes that fail."""

from __future__ import annotations

import os
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple, cast

import pybpfload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from failsnoop.failsnoop_bpf import Object, ObjectSpec, failure

OBJECT = files("failsnoop") / "failsnoop.bpf.o"


class Failure(NamedTuple):
    """A process that did not end well."""

    pid: int
    command: str
    why: str
    seconds: float


def open_object() -> ObjectSpec:
    """The BPF object, not loaded yet."""
    return cast("ObjectSpec", pybpfload.open(OBJECT.read_bytes()))


def describe(event: failure) -> Failure:
    """An event of the kernel in words."""
    code = os.waitstatus_to_exitcode(event.status)
    why = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    return Failure(event.pid, event.comm, why, event.lived_ns / 1e9)


def failures(obj: Object, timeout: float | None = None) -> Iterator[Failure]:
    """Failures as they happen; with a timeout those of that many seconds."""
    events = obj.maps["failures"].reader()
    for event in events if timeout is None else events.poll(timeout):
        yield describe(event)
