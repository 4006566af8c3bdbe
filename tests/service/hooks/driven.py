"""Hours of hooks in seconds: real senders, sockets and receivers on a loop whose clock leaps while all hooks only wait.

It leaps to the next timer, and never while a POST is under way, so no deadline of one is reached by a leap. The wall clock stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import selectors
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mooring.background import Background
from mooring.events import Kind, now_us, rfc3339
from mooring_service.admission import Admission
from mooring_service.config import Config
from mooring_service.directory import Directory
from mooring_service.feed import Feed
from mooring_service.hook_options import HookRequest
from mooring_service.hook_records import HookRecord
from mooring_service.hooks.hook import Hook
from mooring_service.hooks.hooks import Hooks
from mooring_service.hooks.senders import Senders
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.memory import MemoryJournal

_monotonic = time.monotonic
_HOOKS = EventFilter(kinds=frozenset(kind for kind in Kind if kind.name.startswith("hook")))


class _Selector(selectors.DefaultSelector):
    leap: Callable[[float], bool]

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout and not (ready := super().select(0)) and self.leap(timeout):
            return ready
        return super().select(timeout)


class DrivenLoop(asyncio.SelectorEventLoop):
    """A loop that does not wait while `only_waits` says that nothing but time is awaited."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.leap = self._leap
        self._ahead_s = 0.0
        self.only_waits: Callable[[], bool] = lambda: False
        super().__init__(selector)

    def time(self) -> float:
        return _monotonic() + self._ahead_s

    def pass_by(self, seconds: float) -> None:
        """Have so much time pass at once."""
        self._ahead_s += seconds

    def _leap(self, seconds: float) -> bool:
        if not self.only_waits():
            return False
        self._ahead_s += seconds
        return True


class Driven:
    """The hooks of a service, its journal in memory."""

    def __init__(self, hooks: Hooks, journal: MemoryJournal, directory: Directory, loop: DrivenLoop) -> None:
        self.hooks = hooks
        self.directory = directory
        self.journal = journal
        self.loop = loop
        loop.only_waits = lambda: all(_waits(hook) for hook in hooks.senders.hooks())

    async def make(self, name: str, url: str, **options: Any) -> HookRecord:
        """Make a hook."""
        body = {"url": url, "after": "start", **options}
        return await self.hooks.put(name, msgspec.convert(body, HookRequest))

    async def events(self, count: int, kind: Kind = Kind.onMessage, connection: int = 1) -> None:
        """Have `count` events more in the journal."""
        first = self.journal.last + 1
        bodies = [
            b'"kind":"%b","connection":%d,"worker":"w","seq":%d,"time":"%b","event":{"type":"message","data":"%d"}}'
            % (kind.name.encode(), connection, number, rfc3339(now_us()).encode(), number)
            for number in range(first, first + count)
        ]
        kinds = bytes([kind]) * count
        connections = connection.to_bytes(8, "little")
        for at in range(0, count):
            one = Append(worker="w", connections=connections, kinds=kinds[:1], bodies=bodies[at])
            await self.journal.append_waiting(one)

    async def told(self) -> list[str]:
        """Return what hooks have said of themselves: kinds, in order."""
        with self.hooks.senders.feed.subscribe(_HOOKS, "start", "start", brief=True) as subscription:
            found: list[str] = []
            while items := await subscription.take_more():
                for item in items:
                    kinds = item.batch.kinds
                    found += [Kind(kinds[at]).name for at in (item.indices or range(len(kinds)))]
            return found

    async def until(self, done: Callable[[], object], within_s: float) -> None:
        """Wait until `done`, for so long by the loop's clock."""
        end = self.loop.time() + within_s
        while not done():
            assert self.loop.time() < end, f"not within {within_s} s"
            await asyncio.sleep(0.5)


def _waits(hook: Hook) -> bool:
    return hook.paused is not None or hook.next_attempt_s is not None


def run(scenario: Callable[[Driven], Awaitable[None]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `scenario` with the hooks of a service that there is not, by a clock that leaps."""
    loops: list[DrivenLoop] = []

    def made() -> DrivenLoop:
        loops.append(DrivenLoop())
        monkeypatch.setattr(time, "monotonic", loops[0].time)
        return loops[0]

    async def whole() -> None:
        async with _driven(folder, loops[0]) as driven:
            await asyncio.wait_for(scenario(driven), 10 * 86_400)

    try:
        with asyncio.Runner(loop_factory=made) as runner:
            runner.run(whole())
    finally:
        monkeypatch.undo()


@contextlib.asynccontextmanager
async def _driven(folder: Path, loop: DrivenLoop) -> AsyncIterator[Driven]:
    config = Config()
    journal = MemoryJournal(config.journal)
    feed = Feed(journal)
    directory = Directory(1_000, 3_600.0, journal.now_ms)
    admission = Admission(config, journal)
    background = Background(logging.getLogger("mooring.hooks"))
    await journal.start(feed.publish, lambda failure: None)
    hooks = Hooks(admission, Senders(admission, journal, feed, directory, folder, background))
    await hooks.start([])
    try:
        yield Driven(hooks, journal, directory, loop)
    finally:
        loop.only_waits = lambda: False
        hooks.senders.begin_stop()
        await hooks.senders.close()
        await background.close()
        await journal.stop()
