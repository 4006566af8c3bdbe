"""Calls that may block for long, in threads of their own: looking up names, reading certificates.

asyncio's pool has a handful of threads, libuv's has four: names that nobody answers for would keep all other dials, and
everybody else's files, waiting. Here a thread that is stuck costs only itself: there may be many, the same question is
asked once for all who want the answer, and none of them is waited for at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
_Outcome = tuple[Any, Exception | None]  # not an exception of the future: who is cancelled just then never asks for it

MOST_THREADS = 256  # stuck, each holds some ten kilobytes of stack
JOIN_S = 5.0  # who asks later than this asks anew: the first question may have been lost (resolv.conf's own timeout)
IDLE_S = 10.0  # a thread without work ends


class _Job(Generic[T]):
    __slots__ = ("begun_at", "function", "is_dropped", "is_started", "waiters")

    def __init__(self, function: Callable[[], T], begun_at: float) -> None:
        self.function = function
        self.begun_at = begun_at
        self.waiters: set[asyncio.Future[_Outcome]] = set()
        self.is_started = False  # at most one of these two becomes true
        self.is_dropped = False


class Threads:
    """Daemon threads that run functions for coroutines of one loop. `run` and `close` are for that loop only."""

    def __init__(self, most: int = MOST_THREADS) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._latest: dict[Hashable, _Job[Any]] = {}
        self._changed = threading.Condition()  # guards the four below, and a job's two flags
        self._queue: deque[tuple[Hashable, _Job[Any]]] = deque()
        self._count = 0
        self._idle = 0
        self._closed = False

    async def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """Return what `function` returns or raise what it raises; calls with one `key` at one time are one call.

        Raises:
            RuntimeError: If there is no thread, and none can be made.
        """
        now = self._loop.time()
        job: _Job[T] | None = self._latest.get(key)
        if job is None or now - job.begun_at >= JOIN_S:
            job = _Job(function, now)
            self._put(key, job)
            self._latest[key] = job
        waiter: asyncio.Future[_Outcome] = self._loop.create_future()
        job.waiters.add(waiter)
        try:
            result, error = await waiter
        finally:
            job.waiters.discard(waiter)
            if not job.waiters:
                self._drop(key, job)
        if error is not None:
            raise error
        return cast("T", result)

    def close(self) -> None:
        """Let every thread end that can."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _put(self, key: Hashable, job: _Job[Any]) -> None:
        with self._changed:
            if self._idle > len(self._queue):
                self._changed.notify()
            elif self._count < self._most:
                try:
                    threading.Thread(target=self._work, name="mooring dial", daemon=True).start()
                    self._count += 1
                except RuntimeError:  # the system gives us no more
                    if not self._count:
                        raise
            self._queue.append((key, job))

    def _drop(self, key: Hashable, job: _Job[Any]) -> None:
        """Nobody waits for it any more: it is not begun, if it has not been."""
        with self._changed:
            job.is_dropped = not job.is_started
        if job.is_dropped and self._latest.get(key) is job:
            del self._latest[key]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._queue or self._closed, IDLE_S)
                self._idle -= 1
                if not self._queue:
                    self._count -= 1
                    return
                key, job = self._queue.popleft()
                if job.is_dropped:
                    continue
                job.is_started = True
            outcome: _Outcome
            try:
                outcome = (job.function(), None)
            except Exception as exc:  # noqa: BLE001 - raised again where the result is waited for
                outcome = (None, exc)
            try:
                self._loop.call_soon_threadsafe(self._settle, key, job, outcome)
            except RuntimeError:  # the loop is closed: nobody waits
                return

    def _settle(self, key: Hashable, job: _Job[Any], outcome: _Outcome) -> None:
        if self._latest.get(key) is job:
            del self._latest[key]
        for waiter in job.waiters:
            if not waiter.done():
                waiter.set_result(outcome)
