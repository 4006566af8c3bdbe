"""The requests that one worker is to answer: their numbers, their deadlines, and the answers that wait for what they speak of."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

from mooring.errors import WorkerDied, WorkerSilent

SWEEP_S = 0.25


class LinkLost(WorkerSilent):
    """The link has ended under a request whose outcome is to be had otherwise; the process lives."""


class Requests:
    """The requests under way to one worker.

    Args:
        worker: Its name, for errors.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._waiting: dict[int, tuple[asyncio.Future[Any], float]] = {}  # by number, with their deadlines
        self._linked: dict[int, None] = {}  # those that end with the link
        self._sweep_timer: asyncio.Handle | None = None
        self._sweep_at = 0.0
        # Not from 0: an answer that a worker still owes to an earlier service must not be taken for one of ours.
        self._next = secrets.randbits(40) << 20
        self._after: deque[tuple[int, Callable[[], None]]] = deque()

    def begin(self, timeout_s: float, *, with_link: bool = False) -> tuple[int, asyncio.Future[Any]]:
        """Return a new request's number, and the future of its answer.

        The future raises `WorkerSilent` if no answer comes in time (a quarter of a second more or less), and
        `WorkerDied` if the process ends under it.

        Args:
            with_link: It raises `LinkLost` if the link ends: what was on its way is lost, and the caller can do better than wait. (Without it
                the answer may still come over the next link.)
        """
        self._next += 1
        if with_link:
            self._linked[self._next] = None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting[self._next] = (future, loop.time() + timeout_s)
        if self._sweep_timer is None:
            self._sweep_later()
        return self._next, future

    def _sweep(self) -> None:
        # One timer for all requests: they are many and short, and their deadlines are long.
        now = asyncio.get_running_loop().time()
        late_s = now - self._sweep_at
        if late_s > SWEEP_S:
            # We were away, at most since the sweep before: what was answered meanwhile is read before anybody is judged.
            self._waiting = {
                number: (future, deadline + SWEEP_S + late_s) for number, (future, deadline) in self._waiting.items()
            }
        for number in [number for number, (_, deadline) in self._waiting.items() if deadline <= now]:
            future, _ = self._waiting.pop(number)
            self._linked.pop(number, None)
            if not future.done():
                future.set_exception(WorkerSilent(self._worker, "no answer in time"))
        self._sweep_timer = None
        if self._waiting:
            self._sweep_later()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep_at = loop.time() + SWEEP_S
        self._sweep_timer = loop.call_at(self._sweep_at, self._sweep)

    def answer(self, number: int, answer: object) -> None:
        """Give an answer to the request that waits for it."""
        waiting = self._waiting.pop(number, None)
        self._linked.pop(number, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(answer)

    def answer_after(self, number: int, answer: object, after: int) -> None:
        """Give an answer once the frame `after` is stored."""
        self._after.append((after, lambda: self.answer(number, answer)))

    def stored(self, number: int) -> None:
        """The journal holds all frames up to `number`: release the answers that waited for them."""
        while self._after and self._after[0][0] <= number:
            self._after.popleft()[1]()

    def link_lost(self) -> None:
        """The link has ended, and with it what was on its way."""
        linked, self._linked = self._linked, {}
        for number in linked:
            future, _ = self._waiting.pop(number)
            if not future.done():
                future.set_exception(LinkLost(self._worker, "its link was lost"))

    def fail(self, detail: str) -> None:
        """The process is gone: nobody will answer."""
        waiting, self._waiting = self._waiting, {}
        self._linked.clear()
        self._after.clear()
        for future, _ in waiting.values():
            if not future.done():
                future.set_exception(WorkerDied(self._worker, detail))
