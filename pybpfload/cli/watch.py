"""``pybpfload map watch``: what happens in a map, as it happens."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Any

from pybpfload.cli.elements import Elements
from pybpfload.cli.failure import UsageError, visible
from pybpfload.cli.stream import Output, Stop
from pybpfload.errors import KernelError
from pybpfload.kernel import door
from pybpfload.runtime.holders import holders
from pybpfload.runtime.maphandle import kernel_btf
from pybpfload.runtime.program import Program
from pybpfload.uapi import MapType

if TYPE_CHECKING:
    from pybpfload.runtime.map import Map

__all__ = ["BUFFERS", "watch_changes", "watch_events"]

BUFFERS = (MapType.RINGBUF, MapType.PERF_EVENT_ARRAY)
"""Types of maps that have events."""

_AT_ONCE = 1024  # events between two looks at whether to stop


def watch_events(
    opened: Map[Any, Any], stop: Stop, *, consume: bool, event_type: str | None, json: bool
) -> None:
    """Print the events of a ring or perf buffer until it is time to stop.

    Args:
        opened: The map.
        stop: Tells when to stop.
        consume: Whether the user knows that nobody else gets the events.
        event_type: Name of their type, in the BTF of a program that uses the map.
        json: Whether to print a JSON document a line.

    Raises:
        UsageError: ``consume`` was not said.
    """
    number = opened.info().id
    if not consume:
        own = door.pid()
        known = [each for each in holders().get(("map", number), ()) if each.pid != own]
        others = ", ".join(f"{each.comm} ({each.pid})" for each in known)
        raise UsageError(
            f"map {opened.name}: reading events takes them away from whoever reads them"
            f"{f', which may be {others}' if others else ''}; say --consume if that is meant"
        )
    # Buffers have no BTF of their own; the programs that write into them do.
    opened.btf = _btf_of_users(number)
    opened.event_type = event_type
    output = Output(json_lines=json)
    reader = opened.reader()
    poll = select.poll()
    poll.register(reader.fileno(), select.POLLIN)
    stop.start()
    while not stop.requested:
        poll.poll(stop.wait * 1000)
        for event in reader.consume(_AT_ONCE):
            output.event(opened.name, event)
        sys.stdout.flush()


def watch_changes(opened: Map[Any, Any], stop: Stop, *, interval: float, json: bool) -> None:
    """Print what was added, changed and removed, until it is time to stop.

    What changes back in between is not seen.

    Args:
        opened: The map.
        stop: Tells when to stop.
        interval: Seconds between two looks.
        json: Whether to print a JSON document a line.

    Raises:
        TypeError: This type of map cannot be iterated.
    """
    elements = Elements(opened)
    before = dict(elements)
    stop.start()
    while not stop.requested:
        stop.sleep(interval)
        now = dict(elements)
        for key in [*before, *(key for key in now if key not in before)]:
            if before.get(key) == now.get(key):
                continue
            change = "removed" if key not in now else "changed" if key in before else "added"
            value = now.get(key, before.get(key))
            if json:
                shown = elements.document(key, value)["formatted"]
                Output(json_lines=True).document({"change": change, **shown})
            else:
                sys.stdout.write(f"{_MARKS[change]} {visible(elements.line(key, value))}\n")
        sys.stdout.flush()
        before = now


_MARKS = {"added": "+", "changed": "~", "removed": "-"}


def _btf_of_users(number: int) -> Any:
    """BTF of a program that uses a map; ``None`` if none has any."""
    for program in Program.all():
        try:
            info = program.info(code=False)
        except KernelError:
            continue
        if number in info.map_ids and info.btf_id:
            return kernel_btf(info.btf_id)
    return None
