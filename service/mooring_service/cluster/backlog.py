"""What this node has committed and the log has not acknowledged: how much, and for how long; and that too much of it holds the journal up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from mooring.errors import JournalUnavailable
from mooring.told import Told
from mooring_service.cluster.chain import now_s
from mooring_service.journal.replica import Replica

FULL_SHARE = 2  # of `journal.max_bytes`, one part in so many may wait to be replicated
LOOK_S = 0.25
SAVE_S = 1.0

log = logging.getLogger("mooring.cluster")


class Backlog:
    """The additions that wait.

    Attributes:
        bytes_total: What they take, as it was looked last; `events`: how many events they bring.
        since: Since when there have been some; None: there are none.
    """

    def __init__(self, replica: Replica, max_bytes: int) -> None:
        self._replica = replica
        self._full_at_bytes = max_bytes // FULL_SHARE
        self.bytes_total = self.events = 0
        self.since: float | None = None
        self._lifted = 0  # how many want it

    async def watch(self, replicated: Callable[[], int], save: Callable[[int], Awaitable[None]]) -> None:
        """Look again and again, and have it saved how much is replicated. Ends by cancellation.

        It waits for the disk, so nothing that concerns lives may wait for it.
        """
        saved_at, saved, told = 0.0, -1, Told()
        while True:
            await asyncio.sleep(LOOK_S)
            upto, now = replicated(), now_s()
            try:
                full = await self.look(now, upto)
            except JournalUnavailable as exc:
                if told.is_new(exc):
                    log.error("how much waits for the engine cannot be read: %s", exc)
                continue
            told.over()
            if upto != saved and now - saved_at > SAVE_S and not full:
                saved_at, saved = now, upto
                await save(saved)

    async def look(self, now: float, replicated: int) -> bool:
        """Look how much there is; return whether it is too much: then nothing more is committed, unless that is `lifted`.

        Raises:
            JournalUnavailable: If the file cannot be read.
        """
        if replicated >= self._replica.last:
            self.since, self.bytes_total, self.events = None, 0, 0
        else:
            self.since = self.since or now
            self.bytes_total, self.events = await self._replica.unreplicated(replicated)
        full = self.bytes_total > self._full_at_bytes
        self._replica.full = full and not self._lifted
        return full

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Have committed, however much waits, what ends a life, or says how this one goes on: without it nothing would ever be published."""
        self._lifted += 1
        self._replica.full = False
        try:
            yield
        finally:
            self._lifted -= 1  # the next look says how it is

    def tell(self, now: float, replicated: int) -> tuple[int, int, float]:
        """Return additions and bytes that wait, and for how many seconds some have."""
        oldest_s = 0.0 if self.since is None else now - self.since
        return max(0, self._replica.last - replicated), self.bytes_total, oldest_s
