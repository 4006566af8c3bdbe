"""The time of somebody else, and when it is over. Leaf.

A judge first reads what has come: a timer that fires late, because this process stood still or was busy, fires before the
sockets are looked at. So whoever is to be judged has one more pass of the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent import futures
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar

Value = TypeVar("Value")

PASS_S = 0.02  # long enough for a pass of the loop, in which everything that waits in the sockets is read and written


class Deadline:
    """A timer: `over` is called once `at` (the loop's seconds) has passed, and what had come by then was taken.

    Who sets it anew with each thing that comes puts it off for ever: keep one whose `at` is right.
    """

    __slots__ = ("_loop", "_over", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, at: float, over: Callable[[], object]) -> None:
        self._loop = loop
        self._over = over
        self.at = at
        self._timer = loop.call_at(at, self._passed)

    def _passed(self) -> None:
        self._timer = self._loop.call_later(PASS_S, self._over)

    def cancel(self) -> None:
        """It does not matter any more."""
        self._timer.cancel()


class _Within:
    """See `within`. A class, since a generator costs each dial some microseconds more."""

    __slots__ = ("_deadline", "_scope", "_timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def __aenter__(self) -> float:
        loop = asyncio.get_running_loop()
        at = loop.time() + self._timeout_s
        self._scope = scope = asyncio.timeout(None)
        await scope.__aenter__()
        self._deadline = Deadline(loop, at, lambda: scope.reschedule(loop.time()))
        return at

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadline.cancel()
        await self._scope.__aexit__(kind, exc, traceback)


def within(timeout_s: float) -> AbstractAsyncContextManager[float, None]:
    """As `asyncio.timeout`, but what had come by then was taken; yields when it is over (the loop's seconds).

    Raises:
        TimeoutError: If what is done inside takes longer.
    """
    return _Within(timeout_s)


async def first_of(wanted: Iterable[asyncio.Future[Any]], timeout_s: float) -> set[asyncio.Future[Any]]:
    """Wait until one of `wanted` is done, as `asyncio.wait` does, but what had come by then was taken; return those that are done."""
    waiting = set(wanted)
    for patience_s in (timeout_s, PASS_S):
        done, _ = await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if done:
            break
    return done


def result_of(future: futures.Future[Value], timeout_s: float) -> Value:
    """Wait in another thread than the loop's; the loop has one more pass, in which it may say what it knows.

    Raises:
        TimeoutError: If it takes longer.
        As the future.
    """
    for patience_s in (timeout_s, PASS_S):
        futures.wait((future,), patience_s)
    return future.result(0)
