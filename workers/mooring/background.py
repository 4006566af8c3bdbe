"""Tasks with an owner: whoever starts them keeps them here, and what fails is logged. Leaf."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class Background:
    """The background tasks of one owner."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Result], *, name: str | None = None) -> asyncio.Task[Result]:
        """Run `work` as a task; an exception that nobody waits for is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    @property
    def busy(self) -> bool:
        """True while one of them runs."""
        return bool(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._log.error("a background task has failed", exc_info=exc)

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def outcome_of(work: Callable[[], Awaitable[Result]]) -> tuple[asyncio.Future[Result], asyncio.Task[None]]:
    """Run `work`; return what ends as it does, for the one who waits and may give that up, and the task, which has to be owned.

    Who waits for the task itself is woken a pass of the loop later, and would cancel it.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()
    outcome.add_done_callback(_seen)
    task = loop.create_task(_tell(outcome, work))
    task.add_done_callback(
        lambda _: outcome.cancel()
    )  # nothing, but where it was cancelled, which may be before it began
    return outcome, task


async def _tell(outcome: asyncio.Future[Result], work: Callable[[], Awaitable[Result]]) -> None:
    try:
        result = await work()
    except Exception as exc:  # noqa: BLE001 - it is for whoever waits
        if not outcome.done():
            outcome.set_exception(exc)
    else:
        if not outcome.done():
            outcome.set_result(result)


def _seen(outcome: asyncio.Future[Any]) -> None:
    if not outcome.cancelled():
        outcome.exception()  # nobody need wait
