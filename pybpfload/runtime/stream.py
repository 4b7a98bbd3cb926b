"""``async for`` over events, in any event loop.

Of a loop nothing is needed but a coroutine function that waits until a descriptor is readable. trio
and anyio have one; that of asyncio is here, and asyncio is not imported before it is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pybpfload.runtime.poller import EDGE, READABLE, Poller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from typing_extensions import Self

    from pybpfload.runtime.buffer import EventBuffer

__all__ = ["EventStream", "asyncio_readable"]


class EventStream:
    """An asynchronous iterator over the events of a buffer; see :meth:`EventBuffer.stream`.

    It is for one task: open another stream for each other task. However fast events come, it gives
    control to the loop between one portion of them and the next.

    It waits at a poller of its own, in which only what happens from now on makes readable. So a
    record that is still being written does not wake it again and again, and its descriptor stays
    open until its loop has forgotten it, even if another thread closes the buffer.
    """

    def __init__(
        self, buffer: EventBuffer, wait_readable: Callable[[int], Awaitable[object]]
    ) -> None:
        self._buffer = buffer
        self._wait = wait_readable
        self._always = -1
        self._waiting = False
        self._ready: Iterator[Any] = iter(())  # events that were read
        self._poller = Poller()
        self._always = os.eventfd(1, os.EFD_CLOEXEC)  # readable: waiting lets others run
        self._poller.add(buffer.fileno(), READABLE | EDGE)
        buffer._watchers.add(self._poller)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        buffer = self._buffer
        waited = False
        while True:
            for event in self._ready:
                return event
            if buffer.closed:
                self._close()
                raise StopAsyncIteration
            if self._waiting:
                raise RuntimeError(
                    "another task waits for this stream: open one for each by stream()"
                )
            self._poller.clear()
            try:
                if buffer._read_ahead():
                    self._ready = buffer._take()
                    if waited:
                        continue
                    fd = self._always
                else:
                    fd = self._poller.fileno() if buffer._idle() else self._always
            except ValueError:
                if not buffer.closed:  # by another thread, just now
                    raise
                continue
            waited = True
            await self._pause(fd)

    async def _pause(self, fd: int) -> None:
        self._waiting = True
        try:
            await self._wait(fd)
        finally:
            self._waiting = False

    def _close(self) -> None:
        self._buffer._watchers.discard(self._poller)
        self._poller.close()
        always, self._always = self._always, -1
        if always >= 0:
            os.close(always)

    async def aclose(self) -> None:
        """Close the descriptor that it waits for; ``__anext__`` may not follow."""
        self._close()

    def __del__(self) -> None:
        if hasattr(self, "_poller"):
            self._close()


async def asyncio_readable(fd: int) -> None:
    """Wait in asyncio until a descriptor is readable."""
    import asyncio

    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def tell() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await readable
    finally:
        loop.remove_reader(fd)
