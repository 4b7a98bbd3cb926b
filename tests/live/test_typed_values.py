"""Events as classes of the user's, and the kernel's times as dates, on the machine's own kernel."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest

import pybpfload
from pybpfload import ktime

pytestmark = pytest.mark.live

FIXTURES = Path(__file__).parents[2] / "fixtures" / "bpfel"


class Sample(NamedTuple):
    tgid: int
    time_ns: int
    comm: str


@pytest.mark.vm
def test_events_of_a_class_of_ones_own_and_their_dates():
    before = datetime.now(timezone.utc)
    spec = pybpfload.open(FIXTURES / "perfbuf.bpf.o")
    spec.variables["target_tgid"].value = os.getpid()
    with spec.load() as obj:
        obj.maps["events"].event_type = Sample
        with obj.maps["events"].reader() as reader, obj.programs["send_sample"].attach():
            os.getppid()
            event = reader.poll(5)[0]
    after = datetime.now(timezone.utc)
    assert type(event) is Sample
    assert event.tgid == os.getpid()
    # Dates are rounded down to microseconds, and the clocks cannot be read at the same moment.
    little = timedelta(milliseconds=1)
    assert before - little <= ktime.to_datetime(event.time_ns) <= after + little
