"""From a cursor: stored events, then live ones, each once, in order, at the subscriber's own pace.

The newest batches are held in a ring; a subscriber is a position. Is it inside the ring, it is served from memory and shares the bytes
with all others; is it behind, from the journal. Only who keeps up is pushed anything (`Sink`): a slow one costs but its own time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import msgspec

from mooring.errors import LimitReached
from mooring.events import GapEvent, gap_body, now_us
from mooring_service.journal.batch import Batch, EventFilter
from mooring_service.journal.cursor import Broken, From, parse_cursor
from mooring_service.journal.journal import Committed, Journal
from mooring_service.passes import FEW, Passes
from mooring_service.ring import Ring

CHUNK_BYTES = 512 * 1024  # what one `next` hands out at most, but for a single larger batch


class Selection(msgspec.Struct, frozen=True):
    """Wanted events of one batch: `indices` into it, None when all of them are wanted."""

    batch: Batch
    indices: list[int] | None


class Gap(msgspec.Struct, frozen=True):
    """A ``gap`` event: resuming after `position` goes on with the oldest event kept."""

    position: int
    body: bytes


class Sink(Protocol):
    """Where a stream goes that keeps up: what is committed is written there at once, and nobody is woken for it."""

    @property
    def ready(self) -> bool:
        """Whether it takes more at once; else its stream is woken, and writes as fast as it is read."""

    def take(self, items: list[Selection | Gap]) -> None:
        """Write these."""


class Stopped(Exception):
    """The service is stopping: the stream ends here and may be resumed later."""


class Feed:
    """The live end of the journal.

    Args:
        ring_bytes: Bound of the batches held in memory.
        max_subscribers: One more is refused.

    Attributes:
        reach: Positions up to this one were given out, be they shown here or not yet: to go on there is no gap.
        passes: When whoever waits is shown the next.
    """

    def __init__(self, journal: Journal, *, ring_bytes: int = 32 * 1024 * 1024, max_subscribers: int = 1_000) -> None:
        self.journal = journal
        self.reach = 0
        self.ring = Ring(ring_bytes)
        self.max_subscribers = max_subscribers
        self._waiting: dict[asyncio.Future[bool], float] = {}  # who waits, and until when (loop time)
        self._yielding: set[asyncio.Future[bool]] = set()  # of these, who is woken behind all others
        self._pushes: dict[asyncio.Future[bool], Callable[[], float | None]] = {}  # of these, who need not be woken
        self._expiry: asyncio.Handle | None = None
        self._expires_at = math.inf  # loop time; a handle of what is due already does not know it
        self.passes = Passes()
        self._wake_later: asyncio.Handle | None = None
        self.subscriptions: set[Subscription] = set()
        self.closed = False

    @property
    def last(self) -> int:
        """Position of the newest event that is shown."""
        return self.ring.last or self.journal.last

    def publish(self, committed: list[Committed]) -> None:
        """Take what was committed, and have a pass over whoever waits: at once, or behind the pause of the last one."""
        self.ring.add(committed)
        if not self._waiting:
            if len(self.subscriptions) <= FEW:  # else they are about to wait again
                self.passes.left()
            return
        if self._wake_later is not None:
            return
        if self.passes.pause_s and (loop := asyncio.get_running_loop()).time() < self.passes.due_s:
            self._wake_later = loop.call_at(self.passes.due_s, self.wake)
        else:
            self.wake()

    def wake(self) -> None:
        """Have all subscribers look again."""
        if self._wake_later is not None:
            self._wake_later.cancel()
            self._wake_later = None
        waiting, self._waiting = self._waiting, {}
        many = len(waiting) > FEW
        now = asyncio.get_running_loop().time() if many else float("-inf")
        # CPU of this thread alone: what the others take meanwhile is no reason to pause.
        cpu_before = time.thread_time() if many else 0.0
        written = woken = 0
        yielding, self._yielding = self._yielding, set()
        for waiter in sorted(waiting, key=yielding.__contains__) if yielding else waiting:
            if waiter.done():
                continue
            push = self._pushes.get(waiter)
            try:
                deadline = 0.0 if push is None else push()
            except Exception as exc:  # noqa: BLE001 - it is about this stream alone: its task meets it, and all others go on
                waiter.set_exception(exc)
                continue
            if deadline is None:
                self._waiting[waiter] = waiting[waiter]
            elif deadline:
                self._waiting[waiter] = deadline
                written += 1
            else:
                waiter.set_result(True)
                woken += waiter not in yielding
        self.passes.passed(now, time.thread_time() - cpu_before if many else 0.0, written=written, woken=woken)

    def wait(
        self, deadline: float, *, yields: bool = False, push: Callable[[], float | None] | None = None
    ) -> asyncio.Future[bool]:
        """Return a future that ends with True at the next `wake`, with False at `deadline` (loop time).

        Who `yields` is woken behind all others: hooks, whose POSTs would keep the streams waiting. `push` is
        asked first: it does what there is to do, and returns the next deadline; None: there was nothing; 0: the future is to end.
        One timer serves all deadlines: they are mostly heartbeats, which are many and far away.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting[waiter] = deadline
        if yields:
            self._yielding.add(waiter)
        if push is not None:
            self._pushes[waiter] = push
        self._expire_by(deadline)
        return waiter

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        self._expiry, self._expires_at = None, math.inf
        for waiter in [waiter for waiter, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(False)
        self._expire_by(min(self._waiting.values(), default=math.inf))

    def _expire_by(self, deadline: float) -> None:
        if deadline < self._expires_at:
            if self._expiry is not None:
                self._expiry.cancel()
            self._expiry, self._expires_at = asyncio.get_running_loop().call_at(deadline, self._expire), deadline

    def forget(self, waiter: asyncio.Future[bool]) -> None:
        """Nobody waits for `waiter` any more."""
        self._waiting.pop(waiter, None)
        self._yielding.discard(waiter)
        self._pushes.pop(waiter, None)

    def close(self) -> None:
        """End all streams: the service is stopping."""
        self.closed = True
        self.wake()

    def subscribe(
        self,
        events: EventFilter,
        cursor: str | None,
        default: Literal["start", "now"],
        *,
        brief: bool = False,
        end_of: Callable[[], int | None] | None = None,
    ) -> Subscription:
        """Return a stream from `cursor` (None: `default`) on.

        Args:
            brief: It takes what is there and does not wait, so it does not count as a subscriber.
            end_of: For a connection's stream: the position of its last event once it has ended, else None.

        Raises:
            LimitReached: If there are too many subscribers.
        """
        if not brief and len(self.subscriptions) >= self.max_subscribers:
            raise LimitReached("limits.max_subscribers", self.max_subscribers)
        journal = self.journal
        found = parse_cursor(
            cursor or default, epoch=journal.epoch, first=journal.first, last=self.last, reach=self.reach
        )
        subscription = Subscription(self, events, found, end_of)
        if not brief:
            self.subscriptions.add(subscription)
        return subscription


class Subscription:
    """One subscriber's place in the journal. Close it when done (`close`, or ``with``).

    Attributes:
        cursor: Position up to which everything wanted has been handed out.
    """

    def __init__(
        self, feed: Feed, events: EventFilter, start: From | Broken, end_of: Callable[[], int | None] | None
    ) -> None:
        self._feed = feed
        self._events = events
        self._end_of = end_of
        self._broken: Broken | None = None
        self._untouched = isinstance(start, From) and start.oldest  # it wants the oldest, and was handed nothing yet
        if isinstance(start, Broken):
            self._broken = start
            self.cursor = feed.journal.first - 1
        else:
            self.cursor = start.position

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the place up."""
        self._feed.subscriptions.discard(self)

    def want(self, events: EventFilter) -> None:
        """Leave out by another filter from here on."""
        self._events = events

    @property
    def lag(self) -> int:
        """Events between this subscriber and the newest."""
        return max(0, self._feed.last - self.cursor)

    @property
    def epoch(self) -> bytes:
        """What the ids of its events begin with."""
        return self._feed.journal.epoch.encode()

    @property
    def cursor_id(self) -> str:
        """The cursor as an event's id: what ``after`` takes."""
        return f"{self._feed.journal.epoch}-{self.cursor}"

    @property
    def ended(self) -> bool:
        """True for a connection's stream when the connection has ended: nothing is added to it any more."""
        return self._end_of is not None and self._end_of() is not None

    @property
    def at_end(self) -> bool:
        """True for a connection's stream whose last event was handed out."""
        if self._end_of is None or self._broken is not None:
            return False
        end = self._end_of()
        return end is not None and self.cursor >= end

    async def next(
        self, timeout_s: float | None, limit_bytes: int = CHUNK_BYTES, sink: Sink | None = None
    ) -> list[Selection | Gap] | None:
        """Return what comes next: at least one event; ``[]`` when there was none for `timeout_s`, be it that there is
        still more to look through; None at the end. While it waits, what comes goes to `sink`, as long as that is ready.

        Raises:
            Stopped: If the service is stopping.
        """
        feed = self._feed
        loop = asyncio.get_running_loop()
        deadline = math.inf if timeout_s is None else loop.time() + timeout_s
        while True:
            if self._broken is not None or self.cursor < feed.last:
                found = await self.take(limit_bytes)
                if found:
                    return found
            if self.at_end:
                return None
            if feed.closed:
                raise Stopped
            if self.cursor < feed.last:
                if loop.time() >= deadline:
                    return []
                continue  # all of that chunk was left out by the filter, and there is more
            waiter = feed.wait(deadline, push=None if sink is None else partial(self._push, sink, timeout_s))
            try:
                if not await waiter:
                    return []
            finally:
                feed.forget(waiter)

    def _push(self, sink: Sink, timeout_s: float | None) -> float | None:
        """Give to `sink` what there is; return until when it waits for more; None: there was nothing; 0: its stream has to look itself."""
        if self._feed.closed or not sink.ready:
            return 0.0
        found = self._take_now(CHUNK_BYTES)
        if found is None:
            return 0.0
        if found:
            sink.take(found)
        if self.cursor < self._feed.last or self.at_end:
            return 0.0
        if not found:
            return None
        return math.inf if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    async def take_more(self) -> list[Selection | Gap]:
        """Return what there is now that is wanted, reading on past what the filter leaves out; ``[]``: nothing more."""
        while True:
            found = await self.take()
            if found or self.cursor >= self._feed.last:
                return found

    async def take(self, limit_bytes: int = CHUNK_BYTES) -> list[Selection | Gap]:
        """Return what is there now, without waiting for more, and move the cursor past what was looked at."""
        found = self._take_now(limit_bytes)
        return await self._read(limit_bytes) if found is None else found

    def _take_now(self, limit_bytes: int) -> list[Selection | Gap] | None:
        """Return what there is in memory; None if it has to be read."""
        journal = self._feed.journal
        if self._broken is not None:
            broken, self._broken = self._broken, None
            lost = None
            if broken.position is not None and broken.position < journal.first:
                lost = journal.first - 1 - broken.position
            return [self._gap(broken.text, lost)]
        if self.cursor + 1 < journal.first and self._untouched:
            self.cursor = journal.first - 1  # the oldest is another one by now, and nothing was begun that is missed
        if self.cursor + 1 < journal.first:
            # Pruned from under a slow subscriber.
            return [self._gap(self.cursor_id, journal.first - 1 - self.cursor)]
        if self.cursor >= self._feed.last:
            return []
        hole = self._hole
        if hole is not None and self.cursor >= hole[0]:
            if self._untouched:
                self.cursor = hole[1]  # nothing was begun that is missed
                return []
            return [self._gap(self.cursor_id, None, hole[1])]
        batches = self._feed.ring.after(self.cursor, limit_bytes)
        if batches is None:
            return None
        return self._select(batches, batches[-1].last if batches else self.cursor)

    async def _read(self, limit_bytes: int) -> list[Selection | Gap]:
        journal = self._feed.journal
        last_shown = self._feed.last
        first_before = journal.first
        batches, upto = await journal.read(self.cursor, self._events, limit_bytes)
        if journal.first > self.cursor + 1 and journal.first != first_before:
            if self._untouched:
                return []  # and from the oldest the next time
            return [self._gap(self.cursor_id, journal.first - 1 - self.cursor)]
        # What is committed but not yet folded is not shown.
        return self._select(batches, min(upto, last_shown))

    @property
    def _hole(self) -> tuple[int, int] | None:
        """The next hole in the record: where it begins, and where it ends."""
        holes = self._feed.journal.holes
        return next((hole for hole in holes if self.cursor < hole[1]), None) if holes else None

    def _select(self, batches: list[Batch], upto: int) -> list[Selection | Gap]:
        """Move the cursor to `upto`, and return what is wanted of `batches` up to there."""
        if (hole := self._hole) is not None:
            upto = min(upto, hole[0])  # the hole is told before what lies behind it
        cursor = self.cursor
        found: list[Selection | Gap] = []
        for batch in batches:
            if batch.first > upto:
                break
            indices = self._events.select(batch, cursor)
            if indices is None or indices:
                found.append(Selection(batch, indices))
        self.cursor = max(self.cursor, upto)
        self._untouched = self._untouched and not found
        return found

    def _gap(self, from_: str, lost: int | None, position: int = -1) -> Gap:
        """Go on behind `position` (-1: with the oldest that is kept)."""
        feed = self._feed
        if position < 0:
            position = feed.journal.first - 1
        to = f"{feed.journal.epoch}-{position}"
        self.cursor = position
        return Gap(position, gap_body(now_us(), GapEvent(from_=from_, to=to, lost=lost)))
