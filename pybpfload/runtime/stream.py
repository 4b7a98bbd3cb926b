"""``async for`` over events, in any event loop.

Of a loop nothing is needed but a coroutine function that waits until a descriptor is readable. trio
and anyio have one; that of asyncio is here, and asyncio is not imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pybpfload.runtime.buffer import PORTION
from pybpfload.runtime.fence import full_fence
from pybpfload.runtime.poller import EDGE, READABLE, Poller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Self

    from pybpfload.runtime.buffer import EventBuffer

__all__ = ["EventStream", "asyncio_readable"]


class EventStream:
    """An asynchronous iterator over the events of a buffer; see :meth:`EventBuffer.stream`.

    It waits at a poller of its own, in which only what happens from now on makes readable. So a
    record that is still being written does not wake it again and again, and its descriptor stays
    open until its loop has forgotten it, even if another thread closes the buffer.
    """

    def __init__(
        self, buffer: EventBuffer, wait_readable: Callable[[int], Awaitable[object]]
    ) -> None:
        self._buffer = buffer
        self._wait = wait_readable
        self._poller = Poller()
        self._poller.add(buffer.fileno(), READABLE | EDGE)
        buffer._watchers.add(self._poller)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        buffer, poller = self._buffer, self._poller
        pending = buffer._pending
        while True:
            try:
                return pending.popleft()
            except IndexError:
                pass
            if buffer.closed:
                self._close()
                raise StopAsyncIteration
            poller.clear()
            full_fence()  # as EventBuffer does before it waits
            try:
                pending.extend(buffer.consume(PORTION))
            except ValueError:
                if not buffer.closed:  # by another thread, just now
                    raise
            else:
                if not pending:
                    await self._wait(poller.fileno())

    def _close(self) -> None:
        self._buffer._watchers.discard(self._poller)
        self._poller.close()

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
