"""The journal in memory: nothing survives the process. Small, and product code: it passes the same tests."""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from mooring.errors import JournalUnavailable
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import Append, Batch, EventFilter
from mooring_service.journal.clock import AgeClock
from mooring_service.journal.group import Group
from mooring_service.journal.journal import Committed, JournalStats, Recovered, StoredAnswer, StoredHook
from mooring_service.journal.retention import ANSWER_BYTES, ANSWERS_SHARE, PRUNE_EVERY_S, PRUNE_IDLE_S, is_too_old

log = logging.getLogger("mooring.journal")


class MemoryJournal:
    """See `mooring_service.journal.journal.Journal`."""

    def __init__(self, config: JournalConfig, *, answer_age_s: float = 86_400.0) -> None:
        self.epoch = secrets.token_hex(4)
        self.holes: list[tuple[int, int]] = []
        self._config = config
        self._answer_age_ms = int(answer_age_s * 1000)
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._last = 0
        self._first = 1
        self._next_id = 1
        self._next_ask = 1
        self._stored: dict[str, int] = {}
        self._answers: dict[str, StoredAnswer] = {}  # oldest first
        self._answer_bytes = 0
        self._aging: asyncio.Handle | None = None  # prunes, although nothing is written
        self._queue: list[tuple[Append, asyncio.Future[Committed] | None]] = []
        self._scheduled = False
        self._commits = 0
        self._clock = AgeClock(0)
        self._on_committed: Callable[[list[Committed]], None] | None = None

    async def start(
        self,
        on_committed: Callable[[list[Committed]], None],
        on_failure: Callable[[str | None], None],
        on_death: Callable[[str], None] | None = None,
    ) -> Recovered:
        """Begin, empty."""
        self._on_committed = on_committed
        return Recovered([], [])

    async def stop(self) -> None:
        """Commit what is queued."""
        self._commit()
        if self._aging is not None:
            self._aging.cancel()

    def append(self, item: Append, *, others_follow: bool = False) -> None:
        """Queue `item`."""
        self._queue.append((item, None))
        self._schedule()

    def append_waiting(self, item: Append, *, fails_fast: bool = False) -> asyncio.Future[Committed]:
        """Queue `item`; the future ends when it is committed."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        self._schedule()
        return future

    def hurry(self) -> None:
        """It never waits for more."""

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._commit)

    def _commit(self) -> None:
        self._scheduled = False
        queue, self._queue = self._queue, []
        if not queue:
            return
        time_ms = self.now_ms()
        group = Group(self._last + 1, self._next_ask, time_ms, self._stored)
        for item, _ in queue:
            group.add(item)
        done = group.close()
        self._last, self._next_ask = group.next_position - 1, group.next_ask
        for batch in group.batches:
            self._batches.append(batch)
            self._bytes += batch.size
        for key, answer in group.answers:
            self._answer(key, answer)
        self._stored.update(group.changes.numbers)
        for incarnation in group.changes.ended:
            self._stored.pop(incarnation, None)
        self._commits += 1
        self._prune(time_ms)
        assert self._on_committed is not None, "start comes first"
        try:
            self._on_committed(done)
        finally:  # it is committed, whatever a listener makes of it: who waits for that is told
            for (_, future), committed in zip(queue, done, strict=True):
                if future is not None and not future.done():
                    future.set_result(committed)

    def _prune(self, time_ms: int) -> None:
        config = self._config
        while self._answer_bytes > config.max_bytes // ANSWERS_SHARE:
            oldest = next((known for known in self._answers.values() if known.answer is not None), None)
            if oldest is None:
                break
            self._forget(oldest)
        batches = self._batches
        # The newest may be above a bound by itself: without it nothing would be kept.
        while batches and (
            is_too_old(batches[0].time_ms, config, time_ms)
            or (len(batches) > 1 and self._last - self._first + 1 > config.max_events)
            or (len(batches) > 1 and self._bytes + self._answer_bytes > config.max_bytes)
        ):
            gone = batches.popleft()
            self._bytes -= gone.size
            self._first = gone.last + 1
        if batches and self._aging is None:
            due_s = (batches[0].time_ms - time_ms) / 1000 + config.max_age
            self._aging = asyncio.get_running_loop().call_later(min(max(due_s, PRUNE_EVERY_S), PRUNE_IDLE_S), self._age)

    def _age(self) -> None:
        self._aging = None
        self._prune(self.now_ms())

    @property
    def failure(self) -> str | None:
        """Memory does not fail."""
        return None

    @property
    def damaged(self) -> bool:
        """Nothing is found out about memory."""
        return False

    @property
    def queued_bytes(self) -> int:
        """Bytes queued and not yet committed."""
        return sum(item.size for item, _ in self._queue)

    @property
    def first(self) -> int:
        """Position of the oldest event kept."""
        return self._first

    @property
    def last(self) -> int:
        """Position of the newest event."""
        return self._last

    async def read(self, after: int, events: EventFilter, limit_bytes: int) -> tuple[list[Batch], int]:
        """Return batches past `after` and the position read up to."""
        if after + 1 < self._first:
            return [], after
        index = bisect_left(self._batches, after + 1, key=lambda batch: batch.last)
        found: list[Batch] = []
        size = 0
        upto = after
        for at in range(index, len(self._batches)):
            batch = self._batches[at]
            if found and size + batch.size > limit_bytes:
                return found, upto
            indices = events.select(batch, after)
            upto = batch.last
            if indices is None or indices:
                found.append(batch)
                size += batch.size
        return found, self._last

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids."""
        first = self._next_id
        self._next_id += count
        return first

    @property
    def first_id(self) -> int:
        """Below all ids: there is no cluster beside it."""
        return 0

    async def save_incarnation(
        self, incarnation: str, worker: str, record: bytes, *, ended: bool = False, stands: bool = False
    ) -> None:
        """Nothing survives: only the numbers are forgotten with the process."""
        if ended:
            self._stored.pop(incarnation, None)

    async def forget_connections(self, ids: list[int]) -> None:
        """Records are the directory's alone."""

    async def claim_key(self, key: str, fingerprint: bytes) -> StoredAnswer | None:
        """Claim an Idempotency-Key."""
        time_ms = self.now_ms()
        while self._answers:
            oldest = next(iter(self._answers.values()))
            if oldest.created_at_ms >= time_ms - self._answer_age_ms:
                break
            self._forget(oldest)
        known = self._answers.get(key)
        if known is None:
            self._answers[key] = StoredAnswer(key, fingerprint, time_ms, None)
            self._answer_bytes += ANSWER_BYTES
        return known

    async def answer_key(self, key: str, answer: bytes | None) -> None:
        """Store, or give up, the answer of a claimed key."""
        known = self._answers.get(key)
        if answer is not None:
            self._answer(key, answer)
        elif known is not None:
            self._forget(known)

    def _answer(self, key: str, answer: bytes) -> None:
        known = self._answers.get(key)
        if known is not None:
            self._answers[key] = StoredAnswer(key, known.fingerprint, known.created_at_ms, answer)
            self._answer_bytes += len(answer) - len(known.answer or b"")

    def _forget(self, known: StoredAnswer) -> None:
        del self._answers[known.key]
        self._answer_bytes -= ANSWER_BYTES + len(known.answer or b"")

    async def save_hook(self, hook: StoredHook, *, fails_fast: bool = False) -> None:
        """Nothing survives."""

    async def forget_hook(self, name: str) -> None:
        """Nothing was kept."""

    async def backup(self, path: str) -> None:
        """A journal in memory cannot be backed up."""
        raise JournalUnavailable("the journal is in memory: there is nothing to back up")

    def now_ms(self) -> int:
        """Return the time by which ages are told."""
        return self._clock.now_ms()

    def stats(self) -> JournalStats:
        """Return figures."""
        return JournalStats(
            events=self._last - self._first + 1,
            bytes=self._bytes,
            oldest_age_s=(self.now_ms() - self._batches[0].time_ms) / 1000 if self._batches else None,
            first=self._first,
            last=self._last,
            queued_bytes=self.queued_bytes,
            commits=self._commits,
            commit_seconds=0.0,
            last_commit_s=0.0,
            batches=len(self._batches),
            failure=None,
        )
