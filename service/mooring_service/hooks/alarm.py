"""What a sender waits on: a time, or events; a verb may end either. It knows nothing of hooks."""

from __future__ import annotations

import asyncio

from mooring_service.feed import Feed


class Alarm:
    """The one wait of one task; `ring` ends it. Once stopped, nothing is waited for any more.

    Attributes:
        rings: How often it has rung: who does something else for a moment can see that it has.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bool] | None = None
        self.stopped = False
        self.rings = 0

    def ring(self) -> None:
        """End what is waited for, if something is."""
        self.rings += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def stop(self) -> None:
        """End what is waited for, and all waits to come."""
        self.stopped = True
        self.ring()

    async def sleep(self, seconds: float | None) -> bool:
        """Wait, without end where `seconds` is None; say whether `ring` has ended it."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        self._waiter = waiter
        if self.stopped:
            return True
        timer = None if seconds is None else self._loop.call_later(seconds, _end, waiter)
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()

    async def events(self, feed: Feed, until: float) -> bool:
        """Wait for events until a time of the loop; say whether there may be some."""
        waiter = self._waiter = feed.wait(until, yields=True)
        if self.stopped:
            waiter.set_result(True)
        try:
            return await waiter
        finally:
            feed.forget(waiter)


def _end(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
