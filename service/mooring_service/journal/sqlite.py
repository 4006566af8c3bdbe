"""The journal in SQLite, as the event loop sees it: it queues, and is told; it never touches the database itself.

`writer` and `transaction` write, `jobs` are what else is kept, `reader` reads, `file` opens. Readers have connections of their own,
are read-only, and fetch everything before they return.

A row of `batches` holds the events of a commit as columns; its `total` counts all bytes ever appended, so that what is kept is
a difference and nobody adds up rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw

from mooring.errors import JournalUnavailable
from mooring_service.config import JournalConfig
from mooring_service.journal import jobs, places
from mooring_service.journal.batch import Append, Batch, EventFilter
from mooring_service.journal.checkpoints import Checkpoints
from mooring_service.journal.clock import AgeClock
from mooring_service.journal.file import copy_into, open_file, read_finding
from mooring_service.journal.gathering import Gathering
from mooring_service.journal.journal import Committed, JournalStats, Recovered, StoredAnswer, StoredHook
from mooring_service.journal.reader import JournalReader
from mooring_service.journal.replica import Replica
from mooring_service.journal.writer import Item, Writer

JOB_BYTES = 100  # what a job counts for among the bytes that are queued

Result = TypeVar("Result")


class SqliteJournal:
    """See `mooring_service.journal.journal.Journal`.

    Args:
        path: The database; beside it lie SQLite's own files and `<name>.ids`, which outlives a corrupt database, so
            that connection ids are never given out twice.
        replica: Takes what a cluster is to have of it.
    """

    def __init__(
        self, path: Path, config: JournalConfig, *, answer_age_s: float = 86_400.0, replica: Replica | None = None
    ) -> None:
        self.epoch = ""
        self.holes: list[tuple[int, int]] = []
        self._path = path
        self._ids_path = path.with_suffix(".ids")
        self._config = config
        self._answer_age_ms = int(answer_age_s * 1000)
        self._queued_bytes = 0
        self._checkpoints = Checkpoints(path)
        self.replica = replica
        self._writer = Writer(config, self, self._checkpoints, replica)
        self._reader = JournalReader(path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_committed: Callable[[list[Committed]], None] | None = None
        self._on_failure: Callable[[str | None], None] | None = None
        self._on_death: Callable[[str], None] | None = None
        self._gathering = Gathering(self._writer.wake)
        self._unopened: str | None = None  # why
        self._first, self._last = 1, 0
        self._clock = AgeClock(0)

    async def start(
        self,
        on_committed: Callable[[list[Committed]], None],
        on_failure: Callable[[str | None], None],
        on_death: Callable[[str], None] | None = None,
    ) -> Recovered:
        """Open, check and migrate; return what was held."""
        self._loop = asyncio.get_running_loop()
        self._on_committed = on_committed
        self._on_failure = on_failure
        self._on_death = on_death
        try:
            recovered = await asyncio.to_thread(self._open)
        except JournalUnavailable as exc:
            self._unopened = str(exc)
            raise
        self._unopened = None
        return recovered

    def _open(self) -> Recovered:
        opened = open_file(self._path, self._config.level)
        marks, recovered = opened.marks, opened.recovered
        self.epoch = opened.epoch
        self._clock = AgeClock(opened.last_ms)
        self._first, self._last = marks.first, marks.next_position - 1
        self.look_beside(opened.connection)
        if not opened.checked:
            self._reader.check()
        self._checkpoints.start(opened.connection)
        self._writer.start(opened, self._clock)
        return recovered

    def look_beside(self, connection: apsw.Connection) -> None:
        """Look at what is in the file for a cluster; called once, before anything is written."""
        if self.replica is not None:
            self.replica.open(connection)

    async def stop(self) -> None:
        """Commit what is queued, if it can be, and close."""
        await asyncio.to_thread(self._writer.end)
        self._reader.close()
        await asyncio.to_thread(self._checkpoints.end)
        await asyncio.sleep(0)  # what the writer has posted last

    def append(self, item: Append, *, others_follow: bool = False) -> None:
        """Queue `item`."""
        self.put(Item(item, None, None, False, item.size), others_follow=others_follow)

    def append_waiting(self, item: Append, *, fails_fast: bool = False) -> asyncio.Future[Committed]:
        """Queue `item`; the future ends when it is committed."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self.put(Item(item, None, future, fails_fast, item.size))
        return future

    def put(self, *items: Item, others_follow: bool = False) -> None:
        """Queue what is written in one transaction; for those who add more than the protocol has."""
        self._queued_bytes += sum([item.size for item in items])
        self._gathering.queued(more=others_follow)
        self._writer.put(*items, others_follow=others_follow)

    def hurry(self) -> None:
        """Commit what is queued at once."""
        self._writer.wake(awaited=True)

    async def _do(self, job: Callable[[apsw.Connection], Result], *, fails_fast: bool = True) -> Result:
        """Have `job` run inside the writer's next transaction, in the order of the queue."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.put(Item(None, job, future, fails_fast, JOB_BYTES))
        return await future

    # Outcomes: called on the writer's thread, and carried on to the event loop

    def written(self, items: list[Item], results: list[Any], first: int, last: int) -> None:
        """One transaction is committed."""
        self._post(self._written, items, results, first, last)

    def refused(self, items: list[Item], reason: str) -> None:
        """These will not be written."""
        self._post(self._refused, items, reason)

    def left_out(self, item: Item, reason: str) -> None:
        """This one can never be written."""
        self._post(self._left_out, item, reason)

    def failed(self, failure: str | None) -> None:
        """Nothing can be written now (None: it can again)."""
        assert self._on_failure is not None, "start comes first"
        self._post(self._on_failure, failure)

    def died(self, reason: str) -> None:
        """Nothing will ever be written again by this process."""
        if self._on_death is not None:
            self._post(self._on_death, reason)

    def _post(self, callback: Callable[..., None], *arguments: Any) -> None:
        assert self._loop is not None, "start comes first"
        self._loop.call_soon_threadsafe(callback, *arguments)

    def _written(self, items: list[Item], results: list[Any], first: int, last: int) -> None:
        self._first, self._last = first, last
        self._queued_bytes -= sum([item.size for item in items])
        committed = [result for item, result in zip(items, results, strict=True) if item.append is not None]
        assert self._on_committed is not None, "start comes first"
        try:
            if committed:
                self._on_committed(committed)
        finally:  # it is committed, whatever a listener makes of it: who waits for that is told
            if committed and self.replica is not None:
                self.replica.committed.set()
            for item, result in zip(items, results, strict=True):
                if item.future is not None and not item.future.done():
                    item.future.set_result(result)

    def _refused(self, items: list[Item], reason: str) -> None:
        self._queued_bytes -= sum([item.size for item in items])
        for item in items:
            if item.future is not None and not item.future.done():
                item.future.set_exception(JournalUnavailable(reason))

    def _left_out(self, item: Item, reason: str) -> None:
        self._refused([item], reason)
        if item.append is not None and self._on_committed is not None:
            # Whoever numbered it need not send it again.
            self._on_committed([Committed(item.append, None, repeated=True)])

    @property
    def failure(self) -> str | None:
        """Why the journal cannot be written just now, or None."""
        return self._unopened or self._writer.failure

    @property
    def damaged(self) -> bool:
        """Whether it was found damaged since it was opened."""
        return read_finding(self._path) is not None

    @property
    def queued_bytes(self) -> int:
        """Bytes queued and not yet committed."""
        return self._queued_bytes

    @property
    def first(self) -> int:
        """Position of the oldest event kept."""
        return self._first

    @property
    def last(self) -> int:
        """Position of the newest committed event."""
        return self._last

    async def read(self, after: int, events: EventFilter, limit_bytes: int) -> tuple[list[Batch], int]:
        """Return batches past `after` and the position read up to."""
        return await self._reader.read(after, events, limit_bytes, self._last)

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids for ever and return the first of them."""
        base = -1
        while base != self.first_id:  # a place that changes meanwhile voids it
            base = self.first_id
            first = await self._do(jobs.allot_ids(count, self._ids_path, synced=self._config.level == "power"))
        return base + first

    @property
    def first_id(self) -> int:
        """Below all ids that may be given out now."""
        return 0 if self.replica is None else self.replica.first_id

    async def save_incarnation(
        self, incarnation: str, worker: str, record: bytes, *, ended: bool = False, stands: bool = False
    ) -> None:
        """Keep what identifies a worker process, or that it has ended."""
        job = jobs.save_incarnation(incarnation, worker, record, ended=ended, stands=stands)
        # A process that has ended must be written down, however long that takes; a new one is not started without.
        await self._do(job, fails_fast=not ended)

    async def forget_connections(self, ids: list[int]) -> None:
        """Drop records of closed connections that are no longer retained."""
        await self._do(lambda connection: self._writer.forget(ids), fails_fast=False)

    async def claim_key(self, key: str, fingerprint: bytes) -> StoredAnswer | None:
        """Claim an Idempotency-Key: None when it is new and now ours, else what it stands for."""
        return await self._do(jobs.claim_key(key, fingerprint, self._clock, self._answer_age_ms))

    async def find_key(self, key: str) -> StoredAnswer | None:
        """Return what an Idempotency-Key stands for, however old; None if it is not known."""
        return await self._do(lambda connection: jobs.find_key(connection, key))

    async def answer_key(self, key: str, answer: bytes | None) -> None:
        """Store the answer of a claimed key; None gives the key up."""
        await self._do(jobs.answer_key(key, answer))

    async def save_cluster(self, state: bytes, acknowledged: int) -> bool:
        """Keep what the cluster keeps beside the additions, drop the oldest up to number `acknowledged`; True: there may be more of them."""
        assert self.replica is not None, "only a node of a cluster keeps it"
        return await self._do(self.replica.save(state, acknowledged, self.now_ms()))

    async def save_hook(self, hook: StoredHook, *, fails_fast: bool = False) -> None:
        """Keep a hook's place."""
        await self._do(places.save_hook(hook), fails_fast=fails_fast)

    async def forget_hook(self, name: str) -> None:
        """Drop a hook's place."""
        await self._do(places.forget_hook(name), fails_fast=False)

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to the new file `path`."""
        await copy_into(self._path, Path(path))

    def now_ms(self) -> int:
        """Return the time by which ages are told."""
        return self._clock.now_ms()

    def stats(self) -> JournalStats:
        """Return figures."""
        return _stats(self._writer, self._first, self._last, self._queued_bytes, self.failure, self.now_ms())


def _stats(writer: Writer, first: int, last: int, queued_bytes: int, failure: str | None, now_ms: int) -> JournalStats:
    marks = writer.marks
    return JournalStats(
        events=last - first + 1,
        bytes=marks.total_bytes - marks.gone_bytes,
        oldest_age_s=None if marks.oldest_ms is None else (now_ms - marks.oldest_ms) / 1000,
        first=first,
        last=last,
        queued_bytes=queued_bytes,
        commits=writer.commits,
        commit_seconds=writer.commit_seconds,
        last_commit_s=writer.last_commit_s,
        batches=writer.batches,
        failure=failure,
    )
