"""Events for one hook: what follows its place, rendered, and cut into batches. It holds a batch's worth, and no more.

It stands on the feed as any subscriber does, so what was pruned is a `gap`, and what is live shares the ring.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mooring.events import GapEvent, gap_body, now_us
from mooring_service.feed import Feed, Gap, Selection
from mooring_service.hook_options import HOOK_KINDS, HookRequest
from mooring_service.hooks.page import Cut, thinned
from mooring_service.hooks.place import Place
from mooring_service.journal.batch import EventFilter
from mooring_service.render import objects

READ_BYTES = 256 * 1024  # looked at in one go


class Reader:
    """What is to be posted next.

    Args:
        events: What is wanted, as it is known now: a name may have come to mean another connection.
        place: Where it begins. Of another epoch: the record was restored from a copy, so one `gap`, and then on behind its position;
            without an epoch the record it belonged to was set aside: one `gap`, and then everything.

    Attributes:
        after: The id behind which the next batch begins.
    """

    def __init__(self, feed: Feed, hook: HookRequest, events: Callable[[], EventFilter], place: Place) -> None:
        self._feed = feed
        self._hook = hook
        self._without_hooks = not hook.kinds
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._times: deque[tuple[int, int]] = deque()  # position of a batch's first event, and when it was committed
        self._bytes = 0
        self.after = place.after
        epoch = feed.journal.epoch
        restored = place.epoch not in ("", epoch)
        start = f"{epoch}-{place.position}" if place.epoch else place.after
        self._events = events
        self._subscription = feed.subscribe(events(), start, "start", brief=True)
        if restored:
            gap = GapEvent(from_=place.after, to=start, lost=None)
            self._take(Gap(place.position, gap_body(now_us(), gap)))

    @property
    def lag(self) -> int:
        """Events between what was read and the newest."""
        return self._subscription.lag

    @property
    def waiting(self) -> int:
        """How many events wait to be cut."""
        return len(self._waiting)

    async def fill(self) -> bool:
        """Read until there is a batch's worth, or nothing more; say whether there is one.

        Raises:
            JournalUnavailable: If the journal cannot be read.
        """
        hook = self._hook
        while len(self._waiting) < hook.page_events and self._bytes < hook.max_bytes:
            before = self._subscription.cursor
            if hook.follows_names:
                self._subscription.want(self._events())
            items = await self._subscription.take(READ_BYTES)
            for item in items:
                self._take(item)
            if not items:
                if self._subscription.cursor == before:
                    return False
                await asyncio.sleep(0)  # all of it was left out by the filter, and there may be a lot
        return True

    def _take(self, item: Selection | Gap) -> None:
        epoch = self._feed.journal.epoch
        if self._without_hooks and isinstance(item, Selection):
            item = _without_hooks(item)
        limit = self._hook.max_event_bytes
        if isinstance(item, Selection):
            self._times.append((item.batch.first, item.batch.time_ms))
        for position, event in objects(item, epoch.encode()):
            if 0 < limit < len(event):
                event = thinned(position, event, limit, epoch)
            self._waiting.append((position, event))
            self._bytes += len(event)

    def suspects(self, suspect: int | None) -> int:
        """Return how many waiting events stand at `suspect` or before it."""
        if suspect is None:
            return 0
        return sum(1 for position, _ in self._waiting if position <= suspect)

    def cut(self, most: int, generation: int) -> Cut:
        """Take up to `most` events, in order, as one batch."""
        events: list[tuple[int, bytes]] = []
        size = 0
        for position, event in self._waiting:
            if len(events) == most or (events and size + len(event) > self._hook.max_bytes):
                break
            events.append((position, event))
            size += len(event)
        for _ in events:
            self._waiting.popleft()
        self._bytes -= size
        # Where all is cut, what the filter left out behind it is passed, too.
        position = events[-1][0] if self._waiting else max(events[-1][0], self._subscription.cursor)
        after, self.after = self.after, f"{self._feed.journal.epoch}-{position}"
        return Cut(generation, after, self.after, position, events, self._time_ms(events[0][0]))

    def _time_ms(self, position: int) -> int:
        times = self._times
        while len(times) > 1 and times[1][0] <= position:
            times.popleft()
        return times[0][1] if times else 0

    @property
    def behind_ms(self) -> int:
        """When the oldest event that waits was committed; 0: none waits."""
        return self._time_ms(self._waiting[0][0]) if self._waiting else 0

    def give_back(self, cut: Cut) -> None:
        """Put a batch back, to be cut anew."""
        self._waiting.extendleft(reversed(cut.events))
        self._bytes += sum(len(event) for _, event in cut.events)
        self.after = cut.after

    def trim(self, cut: Cut) -> None:
        """Hold nothing but `cut`: nobody wants what follows it before long, and it can be read again."""
        if self._waiting:
            self._waiting.clear()
            self._bytes = 0
            self._subscription.cursor = cut.last

    @property
    def passed(self) -> int | None:
        """Position up to which all is left out by the filter, while nothing waits; None while something does."""
        return None if self._waiting else self._subscription.cursor


def _without_hooks(item: Selection) -> Selection:
    """Leave out what hooks say about themselves."""
    batch = item.batch
    kinds = batch.kinds
    if len(kinds.translate(None, HOOK_KINDS)) == len(kinds):
        return item
    indices = range(len(kinds)) if item.indices is None else item.indices
    return Selection(batch, [at for at in indices if kinds[at] not in HOOK_KINDS])
