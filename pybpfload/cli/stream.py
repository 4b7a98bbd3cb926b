"""What running programs send, printed as it comes."""

from __future__ import annotations

import json
import select
import signal
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from pybpfload.cli.failure import complain, visible
from pybpfload.cli.values import plain, pretty
from pybpfload.errors import KernelError
from pybpfload.uapi import Helper, MapType

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from pybpfload.object.spec import ObjectSpec
    from pybpfload.runtime.object import Object
    from pybpfload.runtime.perfbuf import PerfBuffer
    from pybpfload.runtime.program import Program
    from pybpfload.runtime.ringbuf import RingBuffer
    from pybpfload.runtime.trace import TraceLines

__all__ = ["Output", "Stop", "Stream"]

# Programs may ask not to wake the reader, so it looks by itself too; a signal is seen as soon.
_LOOK = 0.1  # seconds
_AT_ONCE = 1024  # events between two looks at whether to stop

_PRINTK = {int(Helper.TRACE_PRINTK), int(Helper.TRACE_VPRINTK)}
_PERF_OUTPUT = {int(Helper.PERF_EVENT_OUTPUT), int(Helper.SKB_OUTPUT), int(Helper.XDP_OUTPUT)}


class Stop:
    """When to stop: at the first SIGINT or SIGTERM, or after a time.

    The first signal only asks, so that everything is detached in order; the next SIGINT raises
    ``KeyboardInterrupt`` wherever the program is.

    Args:
        duration: Seconds after :meth:`start`, ``None`` for no end.
    """

    def __init__(self, duration: float | None) -> None:
        self._duration = duration
        self._end: float | None = None
        self._signalled = False
        self._old: dict[int, Any] = {}

    def start(self) -> None:
        """Count the time from now on."""
        if self._duration is not None:
            self._end = time.monotonic() + self._duration

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self._signalled or (self._end is not None and time.monotonic() >= self._end)

    @property
    def wait(self) -> float:
        """Seconds to wait before looking again."""
        if self._end is None:
            return _LOOK
        return max(0.0, min(_LOOK, self._end - time.monotonic()))

    def sleep(self, seconds: float) -> bool:
        """Wait so long, or until it is time to stop; return whether it is not."""
        end = time.monotonic() + seconds
        while not self.requested and (left := end - time.monotonic()) > 0:
            time.sleep(min(self.wait, left))
        return not self.requested

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


class Output:
    """Standard output: text for people, or one JSON document a line.

    Args:
        json_lines: Whether it is JSON.
    """

    def __init__(self, *, json_lines: bool) -> None:
        self._json = json_lines
        self.name_maps = False  # in text

    def event(self, source: str, event: Any) -> None:
        """Print an event of a map."""
        if self._json:
            name = type(event).__name__ if hasattr(type(event), "_fields") else None
            self.document({"map": source, "type": name, "event": plain(event)})
        else:
            self._text((f"{source}: " if self.name_maps else "") + pretty(event, top=True))

    def iterator_line(self, program: str, line: str) -> None:
        """Print a line of an iterator program."""
        if self._json:
            self.document({"program": program, "line": line})
        else:
            self._text(line)

    def printk(self, line: str) -> None:
        """Print a line of ``bpf_printk()``."""
        if self._json:
            self.document({"printk": line})
        else:
            self._text(line)

    def stream_line(self, program: str, stream: str, line: str) -> None:
        """Print a line that a program wrote into one of its streams."""
        if self._json:
            self.document({"program": program, "stream": stream, "line": line})
        else:
            self._text(line)

    def document(self, document: dict[str, Any]) -> None:
        """Print a JSON document in a line."""
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")

    def _text(self, text: str) -> None:
        sys.stdout.write(visible(text) + "\n")


class Stream:
    """The event maps of a loaded object, and bpf_printk() lines if it prints any.

    A context manager: it closes the buffers.

    Args:
        spec: What the object was loaded from.
        obj: The object.
        output: Where everything goes.
    """

    def __init__(self, spec: ObjectSpec, obj: Object, output: Output) -> None:
        self._output = output
        self._counts: dict[str, int] = {}  # events by map
        self._lines: dict[str, int] = {}  # lines by program, and those of bpf_printk()
        self._rings: RingBuffer | None = None
        self._perf: dict[str, PerfBuffer] = {}
        self._trace: TraceLines | None = None
        self._started = time.monotonic()
        self._poll = select.poll()
        self._closing = ExitStack()
        try:
            self._open(obj, _helpers(spec))
        except BaseException:
            self._closing.close()
            raise

    def _open(self, obj: Object, helpers: set[int]) -> None:
        from pybpfload.runtime.perfbuf import PerfBuffer
        from pybpfload.runtime.ringbuf import RingBuffer

        rings = [m for m in obj.maps.values() if m.type == MapType.RINGBUF]
        arrays = [m for m in obj.maps.values() if m.type == MapType.PERF_EVENT_ARRAY]
        if rings:
            self._rings = self._closing.enter_context(RingBuffer(rings, sources=True))
            self._poll.register(self._rings.fileno(), select.POLLIN)
        if helpers & _PERF_OUTPUT:  # they are for reading counters too
            for each in arrays:
                buffer = self._closing.enter_context(PerfBuffer(each))
                self._poll.register(buffer.fileno(), select.POLLIN)
                self._perf[each.name] = buffer
        self._counts = dict.fromkeys([*(m.name for m in rings), *self._perf], 0)
        self._output.name_maps = len(self._counts) > 1
        if helpers & _PRINTK:
            self._open_trace()
        with suppress(OSError, ValueError):  # it is no file
            # To notice that whoever reads is gone, even while there are no events.
            self._poll.register(sys.stdout.fileno(), 0)

    def _open_trace(self) -> None:
        from pybpfload.runtime.trace import trace_pipe

        try:
            self._trace = self._closing.enter_context(trace_pipe())
        except KernelError as error:
            complain(f"bpf_printk lines cannot be shown: {error}")
            return
        self._poll.register(self._trace.fileno(), select.POLLIN)
        self._lines["bpf_printk"] = 0

    def run_iterator(self, program: Program, stop: Stop) -> None:
        """Print the output of an iterator program."""
        count = 0
        for line in program.iter():
            self._output.iterator_line(program.name, line)
            count += 1
            if not count % _AT_ONCE:
                sys.stdout.flush()
            if stop.requested:
                break
        sys.stdout.flush()
        self._lines[program.name] = count

    def run(self, stop: Stop) -> None:
        """Print what comes until it is time to stop.

        Raises:
            BrokenPipeError: Nobody reads standard output any more.
        """
        busy = False
        while not stop.requested:
            for fd, event in self._poll.poll(0 if busy else stop.wait * 1000):
                if event & select.POLLERR and fd == sys.stdout.fileno():
                    raise BrokenPipeError
            busy = self._pump()

    def finish(self) -> None:
        """Print what is still in the buffers, once nothing is attached any more."""
        while self._pump():
            pass

    def _pump(self) -> bool:
        """Print what is there now; return whether there may be more."""
        full = False
        if self._rings is not None:
            events = self._rings.consume(_AT_ONCE)
            for source, event in events:
                self._event(source.name, event)
            full = len(events) == _AT_ONCE
        for name, buffer in self._perf.items():
            events = buffer.consume(_AT_ONCE)
            for event in events:
                self._event(name, event)
            full = full or len(events) == _AT_ONCE
        if self._trace is not None:
            for line in self._trace.read_lines():
                self._output.printk(line)
                self._lines["bpf_printk"] += 1
        sys.stdout.flush()
        return full

    def _event(self, source: str, event: Any) -> None:
        self._output.event(source, event)
        self._counts[source] += 1

    def summary(self) -> str:
        """What was printed and what was lost, in words."""
        parts = [f"detached after {time.monotonic() - self._started:.1f} s"]
        for name, count in self._counts.items():
            line = f"{name}: {count} event{'s' * (count != 1)}"
            if name in self._perf:
                line += f", {self._perf[name].lost} lost"
            parts.append(line)
        for name, count in self._lines.items():
            parts.append(f"{name}: {count} line{'s' * (count != 1)}")
        return "; ".join(parts)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()


def _helpers(spec: ObjectSpec) -> set[int]:
    """Numbers of the helpers that the programs to be loaded may call."""
    return {
        insn.imm
        for function in spec.functions
        if function.autoload
        for insn in function.insns
        if insn.is_helper_call
    }
