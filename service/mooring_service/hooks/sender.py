"""The sender of one hook: reads, posts, decides, and commits the place before it posts again. One POST is in flight at most.

Its task never ends with an exception and may be cancelled at any time: what was under way then goes out again. Verbs change
the `Hook` and `wake` it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from mooring.background import Background
from mooring.deadline import first_of
from mooring.errors import JournalUnavailable
from mooring.events import Kind, now_us
from mooring.told import Told
from mooring_service.feed import Feed
from mooring_service.hooks import telling
from mooring_service.hooks.alarm import Alarm
from mooring_service.hooks.attempt import attempt
from mooring_service.hooks.hook import Hook
from mooring_service.hooks.page import Cut
from mooring_service.hooks.place import stored
from mooring_service.hooks.post import IDLE_S, Poster
from mooring_service.hooks.reader import Reader
from mooring_service.hooks.state import Answer, Decision, Do, after_skip, begin, decide, failing_at_s, outcome, room
from mooring_service.journal.batch import EventFilter
from mooring_service.journal.journal import Journal

BEGIN_ANEW_S = 5.0  # after a mistake of ours
READ_AGAIN_S = 1.0  # after the journal could not be read
LEARN_S = 30.0  # which connections a name means, while nothing is read
SETTLE_S = 30.0  # a place moves on at least so often past what the filter leaves out

log = logging.getLogger("mooring.hooks")


class House(Protocol):
    """What a sender needs of the service round it."""

    feed: Feed
    journal: Journal

    def events_of(self, hook: Hook) -> EventFilter:
        """Return what of the journal a hook wants; learn which connections the names mean that it follows."""

    def tell(self, kind: Kind, event: msgspec.Struct) -> None:
        """Record an event of the service itself."""

    async def save(self) -> None:
        """Write the file of definitions."""


class Sender:
    """Runs one hook. Between `start` and the end of `halt` (or `close`) it has one task."""

    def __init__(self, hook: Hook, house: House, poster: Poster, background: Background) -> None:
        self.hook = hook
        self._house = house
        self._poster = poster
        self._background = background
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._alarm = Alarm()
        self._reader: Reader | None = None
        self._recut = False
        self._last_cut: tuple[str, str, int] | None = None
        self._linger_until: float | None = None
        self._settled_s = 0.0
        self._unread, self._wrong = Told(), Told()

    def start(self) -> None:
        """Begin, from the hook's place; nothing, if it has begun."""
        if self._task is not None and not self._task.done():
            return
        self._task = self._background.spawn(self._run(), name=f"hook {self.hook.name}")

    async def halt(self) -> None:
        """Cut what is under way, and forget what was read. `start` begins anew."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        self._poster.close()
        self._reader = None
        self.hook.cut = None
        self.hook.attempt = 0
        self.hook.next_attempt_s = None

    def stop(self) -> None:
        """Begin no other attempt."""
        self._alarm.stop()

    async def close(self, within_s: float) -> None:
        """End: what is in flight has so long, then it is cut."""
        if self._task is not None:
            await first_of((self._task,), within_s)
        await self.halt()

    def wake(self, *, changed: bool = False) -> None:
        """End what is waited for: something has changed; `changed`: what is to be read has, too."""
        if changed:
            self._reader = None
        self._alarm.ring()

    def redial(self) -> None:
        """Use another socket from the next attempt on."""
        self._poster.expire()

    def forget_failures(self) -> bool:
        """Begin anew with a receiver that may be another one; say whether the place has changed and is to be stored."""
        self.hook.progress = begin(self.hook.rules)
        return telling.recovered(self.hook, self._house.tell)

    async def _run(self) -> None:
        # Ends when the service stops, or by cancellation.
        while not self._alarm.stopped:
            try:
                await self._step()
                self._unread.over()
            except JournalUnavailable as exc:
                if self._unread.is_new(exc):
                    log.error("hook %s waits for the journal: %s", self.hook.name, exc, extra={"hook": self.hook.name})
                await self._alarm.sleep(READ_AGAIN_S)
            # The top of a hook's task: a mistake of ours must not end it unseen; it begins anew from its place.
            except Exception as exc:
                if self._wrong.is_new(repr(exc)):
                    log.exception("hook %s begins anew", self.hook.name, extra={"hook": self.hook.name})
                self._reader = None
                await self._alarm.sleep(BEGIN_ANEW_S)

    async def _step(self) -> None:
        hook = self.hook
        reader = self._reader
        if reader is None:
            hook.cut = None
            hook.attempt = hook.passed = 0
            reader = self._reader = Reader(
                self._house.feed, hook.definition, lambda: self._house.events_of(hook), hook.place
            )
        cut = hook.cut
        if cut is None:
            cut = await self._next(reader)
        if cut is None or reader is not self._reader:
            return
        if hook.paused is not None:
            self._poster.close()
            self._house.events_of(hook)
            await self._alarm.sleep(LEARN_S if hook.definition.follows_names else None)
            return
        if hook.cut is not None and self._recut:
            reader.give_back(cut)
            hook.cut = cut = None
            self._recut = False
            return
        answer = await attempt(hook, self._poster, cut)
        await self._follow(reader, cut, answer)
        self._wrong.over()  # not before: it may wait a while between two mistakes

    async def _next(self, reader: Reader) -> Cut | None:
        """Return the next batch; None after a while without one."""
        hook = self.hook
        full = await reader.fill()
        hook.behind_ms, hook.passed = reader.behind_ms, reader.passed or 0
        if not reader.waiting:
            if await self._settle(reader):
                return None  # what came meanwhile has woken nobody
            if not await self._alarm.events(self._house.feed, self._loop.time() + IDLE_S):
                self._poster.close()
            return None
        now = self._loop.time()
        if hook.definition.linger and not full:
            if self._linger_until is None:
                self._linger_until = now + hook.definition.linger
            if now < self._linger_until:
                await self._alarm.events(self._house.feed, self._linger_until)
                return None
        self._linger_until = None
        cut = reader.cut(
            room(hook.progress, reader.waiting, reader.suspects(hook.progress.suspect)), hook.place.generation
        )
        if self._last_cut != (cut.after, cut.next, cut.generation):
            hook.attempt = 0
        self._last_cut = (cut.after, cut.next, cut.generation)
        hook.cut = cut
        return cut

    async def _follow(self, reader: Reader, cut: Cut, answer: Answer) -> None:
        hook = self.hook
        now_s = time.monotonic()
        decision = decide(
            hook.progress,
            cut.count,
            cut.last,
            answer,
            hook.rules,
            now_s=now_s,
            random=random.random(),  # jitter
        )
        if self._reader is not reader and outcome(answer) != "ok":
            return  # it was defined anew meanwhile: what went wrong was another's
        match decision.do:
            case Do.ADVANCE:
                await self._taken(cut, decision)
            case Do.SKIP:
                hook.progress = decision.progress
                await self.skip(cut.events, cut.position, cut.next, answer.status)
            case Do.AGAIN:
                hook.progress = decision.progress
                reader.give_back(cut)
                hook.cut = None
            case Do.WAIT:
                hook.progress = decision.progress
                self._recut = not decision.same
                reader.trim(cut)
                await self._wait(now_s + decision.delay_s)
            case Do.PAUSE:
                if outcome(answer) == "ok":
                    await self._taken(cut, decision)
                else:
                    hook.progress = decision.progress
                    self._recut = True
                await self.pause(decision.pause)

    async def _taken(self, cut: Cut, decision: Decision) -> None:
        hook = self.hook
        telling.recovered(hook, self._house.tell)
        await self._commit(
            position=cut.position, after=cut.next, delivered=hook.place.delivered + cut.count, last_success_us=now_us()
        )
        hook.progress = decision.progress
        hook.cut = None

    async def _commit(self, **changes: Any) -> None:
        """Store a place of this record. While the journal takes nothing this waits: the hook may not advance what it cannot store."""
        hook, journal = self.hook, self._house.journal
        await journal.save_hook(stored(hook.name, replace(hook.place, epoch=journal.epoch, **changes)))
        hook.place = replace(hook.place, epoch=journal.epoch, **changes)  # what was learnt or told meanwhile stays
        self._settled_s = time.monotonic()

    async def _note(self) -> None:
        """Store what was told. While the journal takes nothing that is left to the next place that is stored."""
        with contextlib.suppress(JournalUnavailable):
            await self._house.journal.save_hook(stored(self.hook.name, self.hook.place), fails_fast=True)

    async def _settle(self, reader: Reader) -> bool:
        """Move the place past what the filter leaves out, now and then: it must not be pruned from under a quiet hook."""
        position, place = reader.passed, self.hook.place
        due = position is not None and position > place.position and time.monotonic() > self._settled_s + SETTLE_S
        if due:
            await self._commit(position=position)
        return due

    async def skip(self, events: list[tuple[int, bytes]], position: int, after: str, status: int | None) -> None:
        """Give `events` up, and say so; go on behind `position`."""
        hook, epoch = self.hook, self._house.journal.epoch
        telling.skipped(hook, self._house.tell, [f"{epoch}-{position}" for position, _ in events], status)
        hook.figures.skipped += len(events)
        telling.recovered(hook, self._house.tell)
        await self._commit(position=position, after=after, skipped=hook.place.skipped + len(events))
        hook.progress = after_skip(hook.progress)
        hook.cut = None

    async def pause(self, reason: str) -> None:
        """Post nothing more until it is resumed."""
        hook = self.hook
        hook.paused = reason
        hook.paused_us = now_us()
        hook.next_attempt_s = None
        telling.paused(hook, self._house.tell, reason)
        if hook.place.failing is not None:
            hook.place = replace(hook.place, failing=None)  # its pause has been told instead
            await self._note()
        await self._house.save()

    async def _wait(self, until_s: float) -> None:
        """Wait for the retry clock; a verb may end it."""
        hook, rings = self.hook, self._alarm.rings
        hook.next_attempt_s = until_s
        while (now_s := time.monotonic()) < until_s:
            self._house.events_of(hook)
            if telling.failing(hook, self._house.tell):
                await self._note()
            if self._alarm.rings != rings:  # meanwhile
                break
            told_s = failing_at_s(hook.progress)
            due_s = until_s if hook.place.failing is not None or told_s is None else min(until_s, told_s)
            if hook.definition.follows_names:
                due_s = min(due_s, now_s + LEARN_S)
            if await self._alarm.sleep(max(0.0, due_s - now_s)):
                break
        hook.next_attempt_s = None
