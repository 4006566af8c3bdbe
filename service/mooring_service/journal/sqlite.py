"""The journal in SQLite. Nothing outside this file and `journal_file.py` knows SQL.

One writer thread owns the only writing connection and its checkpoints. It takes whatever is queued into one
transaction, so commits group by themselves under load and nothing waits for a timer. Readers have connections of
their own, are read-only, and fetch everything before they return.

A row of `batches` is one `Append` with its events as columns; its `total` counts all bytes ever appended, so that what is
kept is a difference and nobody adds up rows. `batch_connections` finds the batches of a connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from mooring.errors import JournalUnavailable
from mooring.link.messages import STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import Append, Batch, EventFilter
from mooring_service.journal.file import JournalReader, open_file
from mooring_service.journal.journal import (
    Committed,
    Incarnation,
    JournalStats,
    Recovered,
    StoredAnswer,
    StoredConnection,
)
from mooring_service.journal.retention import Marks, look_at_first, prune

RETRY_S = 0.5
PRUNE_EVERY_S = 1.0
ENDED_INCARNATIONS = 1_000  # kept, so that a late frame of a dead process is known as repeated

log = logging.getLogger("mooring.journal")

Result = TypeVar("Result")
Job = Callable[[apsw.Connection], Any]
_pack = msgspec.msgpack.Encoder().encode
_unpack_created = msgspec.msgpack.Decoder(ConnectionCreated).decode
_unpack_update = msgspec.msgpack.Decoder(ConnectionUpdate).decode


class _Item(msgspec.Struct, frozen=True):
    """What waits for the writer: an `Append`, or a job; `fails_fast`: it is dropped while the journal cannot be written."""

    append: Append | None
    job: Job | None
    future: asyncio.Future[Any] | None
    fails_fast: bool


class SqliteJournal:
    """See `mooring_service.journal.Journal`.

    Args:
        path: The database; beside it lie SQLite's own files and `<name>.ids`, which outlives a corrupt database, so
            that connection ids are never given out twice.
    """

    def __init__(self, path: Path, config: JournalConfig, *, answer_age_s: float = 86_400.0) -> None:
        self.epoch = ""
        self._path = path
        self._ids_path = path.with_suffix(".ids")
        self._config = config
        self._answer_age_ms = int(answer_age_s * 1000)
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._wanted = threading.Condition()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._reader = JournalReader(path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_committed: Callable[[list[Committed]], None] | None = None
        self._on_failure: Callable[[str | None], None] | None = None
        self._failure: str | None = None
        # Of the writer thread; the event loop sees `_first` and `_last` through what it is told.
        self._stored: dict[str, int] = {}
        self._marks = Marks()
        self._pruned_at = 0.0
        self._retry_at = 0.0
        self._first = 1
        self._last = 0
        self._batches = 0
        self._commits = 0
        self._commit_seconds = 0.0
        self._last_commit_s = 0.0

    # ------------------------------------------------------------ opening

    async def start(
        self, on_committed: Callable[[list[Committed]], None], on_failure: Callable[[str | None], None]
    ) -> Recovered:
        """Open, check and migrate; return what was held."""
        self._loop = asyncio.get_running_loop()
        self._on_committed = on_committed
        self._on_failure = on_failure
        connection, recovered = await asyncio.to_thread(self._open)
        self._thread = threading.Thread(target=self._write, args=(connection,), name="journal-writer", daemon=True)
        self._thread.start()
        return recovered

    def _open(self) -> tuple[apsw.Connection, Recovered]:
        opened = open_file(self._path, self._config.level)
        try:
            recovered = self._recover(opened.connection, opened.set_aside)
        except apsw.Error as exc:
            raise JournalUnavailable(f"{self._path}: {exc}") from exc
        if not opened.checked:
            self._reader.check_rest()
        return opened.connection, recovered

    def _recover(self, connection: apsw.Connection, set_aside: str | None) -> Recovered:
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        self.epoch = meta["epoch"]
        self._marks = marks = Marks(next_position=meta["next_position"], total_bytes=meta["total_bytes"])
        look_at_first(connection, marks)
        self._first, self._last = marks.first, marks.next_position - 1
        incarnations = [
            Incarnation(incarnation, worker, stored, record, bool(ended))
            for incarnation, worker, stored, record, ended in connection.execute(
                "SELECT incarnation, worker, stored, record, ended FROM incarnations"
            )
        ]
        self._stored = {known.incarnation: known.stored for known in incarnations}
        return Recovered(
            connections=[
                StoredConnection(_unpack_created(created), _unpack_update(changing), incarnation, position)
                for created, changing, incarnation, position in connection.execute(
                    "SELECT created, changing, incarnation, last_position FROM connections"
                )
            ],
            incarnations=incarnations,
            answers=[
                StoredAnswer(*row)
                for row in connection.execute("SELECT key, fingerprint, created_at_ms, answer FROM answers")
            ],
            set_aside=set_aside,
        )

    async def stop(self) -> None:
        """Commit what is queued, if it can be, and close."""
        with self._wanted:
            self._ending = True
            self._wanted.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5.0)
        self._reader.close()
        await asyncio.sleep(0)  # what the writer has posted last

    # ------------------------------------------------------------ queueing

    def append(self, item: Append) -> None:
        """Queue `item`."""
        self._put(_Item(item, None, None, fails_fast=False), item.size)

    def append_waiting(self, item: Append, *, fails_fast: bool = False) -> asyncio.Future[Committed]:
        """Queue `item`; the future ends when it is committed."""
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._put(_Item(item, None, future, fails_fast), item.size)
        return future

    def _put(self, item: _Item, size: int) -> None:
        with self._wanted:
            self._queue.append(item)
            self._queued_bytes += size
            self._wanted.notify()

    async def _do(self, job: Callable[[apsw.Connection], Result], *, fails_fast: bool = True) -> Result:
        """Have `job` run inside the writer's next transaction, in the order of the queue."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._put(_Item(None, job, future, fails_fast), 100)
        return await future

    # ------------------------------------------------------------ the writer thread

    def _write(self, connection: apsw.Connection) -> None:
        try:
            self._write_all(connection)
        except BaseException as exc:
            # A mistake of ours: shown as a failure of the journal, because nothing is written from here on.
            log.exception("the journal's writer has failed")
            self._fail(f"internal error: {exc}")
            raise
        finally:
            try:
                connection.close()
            except apsw.Error as exc:
                log.warning("the journal was not closed cleanly: %s", exc)

    def _write_all(self, connection: apsw.Connection) -> None:
        left: list[_Item] = []  # of a transaction that failed
        while True:
            with self._wanted:
                while not self._ending:
                    wait_s = self._retry_at - time.monotonic()
                    if wait_s <= 0 and (self._queue or left or self._failure is not None):
                        break
                    self._wanted.wait(wait_s if wait_s > 0 else None)
                items = left + list(self._queue)
                self._queue.clear()
                ending = self._ending
            if ending and not items:
                return
            left = self._transact(connection, items)
            if self._failure is not None:
                self._retry_at = time.monotonic() + RETRY_S
            if left and ending:
                log.error("the journal stops with %d additions not written: %s", len(left), self._failure)
                self._refuse(left)
                return

    def _transact(self, connection: apsw.Connection, items: list[_Item]) -> list[_Item]:
        """Write `items` in one transaction; return what must be tried again."""
        begun = time.monotonic()
        marks = msgspec.structs.replace(self._marks)
        stored: dict[str, int] = {}
        try:
            with connection:
                if self._failure is not None:
                    # Also when nothing waits: while it fails nobody may add anything, and it would fail for ever.
                    connection.execute(
                        "INSERT OR REPLACE INTO meta VALUES ('tried_at_ms', ?)", (time.time_ns() // 10**6,)
                    )
                results = self._apply(connection, items, marks, stored)
                if begun >= self._pruned_at + PRUNE_EVERY_S and not prune(connection, marks, self._config):
                    self._pruned_at = begun
        except (apsw.Error, OSError) as exc:
            self._fail(f"{type(exc).__name__.removesuffix('Error')}: {exc}")
            self._refuse([item for item in items if item.fails_fast])
            return [item for item in items if not item.fails_fast]
        self._marks = marks
        self._stored.update(stored)
        self._last_commit_s = time.monotonic() - begun
        self._commits += 1
        self._commit_seconds += self._last_commit_s
        if self._failure is not None:
            self._fail(None)
        assert self._loop is not None, "start comes first"
        self._loop.call_soon_threadsafe(self._committed, items, results, marks.first, marks.next_position - 1)
        return []

    def _apply(
        self, connection: apsw.Connection, items: list[_Item], marks: Marks, stored: dict[str, int]
    ) -> list[Any]:
        """Write all of `items`; return their results. Rows of the whole transaction go in together."""
        results: list[Any] = []
        time_ms = time.time_ns() // 1_000_000
        rows: list[tuple[Any, ...]] = []
        index: list[tuple[int, int]] = []
        created: dict[int, tuple[ConnectionCreated, str]] = {}
        updates: dict[int, tuple[ConnectionUpdate, int]] = {}
        answers: list[tuple[bytes, str]] = []
        ended: list[tuple[str]] = []
        for item in items:
            append = item.append
            if append is None:
                assert item.job is not None, "an item is an append or a job"
                results.append(item.job(connection))
                continue
            if append.number:
                before = stored.get(append.incarnation, self._stored.get(append.incarnation, 0))
                if append.number <= before:
                    results.append(Committed(append, None, repeated=True))
                    continue
                if append.number != before + 1:
                    tags = {"worker": append.worker, "incarnation": append.incarnation}
                    log.error("worker %s skipped from frame %d to %d", append.worker, before, append.number, extra=tags)
                stored[append.incarnation] = append.number
            batch = None
            if append.kinds:
                batch = Batch(
                    first=marks.next_position,
                    worker=append.worker,
                    connections=append.connections,
                    kinds=append.kinds,
                    bodies=append.bodies,
                    time_ms=time_ms,
                )
                marks.next_position = batch.last + 1
                marks.total_bytes += batch.size
                rows.append(
                    (
                        batch.first, batch.last, time_ms, marks.total_bytes,
                        append.worker, append.connections, append.kinds, append.bodies,
                    )
                )  # fmt: skip
                index += [(who, batch.first) for who in set(batch.connections) if who]
            for one in append.created:
                created[one.id] = (one, append.incarnation)
            for update in append.updates:
                last = 0 if batch is None else batch.last_of(update.id)
                if not last and update.id in updates:
                    last = updates[update.id][1]
                updates[update.id] = (update, last)
            answers += [(answer, key) for key, answer in append.answers]
            if append.ended:
                ended.append((append.ended,))
            results.append(Committed(append, batch))
        many = connection.executemany
        if rows:
            many("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            many("INSERT INTO batch_connections VALUES (?, ?)", index)
            many(
                "UPDATE meta SET value = ? WHERE name = ?",
                [(marks.next_position, "next_position"), (marks.total_bytes, "total_bytes")],
            )
            self._batches += len(rows)
            if marks.oldest_ms is None:
                marks.oldest_ms = time_ms
        if created:
            many(
                "INSERT INTO connections VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET created = excluded.created,"
                " incarnation = iif(excluded.incarnation = '', incarnation, excluded.incarnation)",
                [
                    (number, _pack(one), _pack(ConnectionUpdate(number, STATUS_CONNECTING)), incarnation)
                    for number, (one, incarnation) in created.items()
                ],
            )
        if updates:
            many(
                "UPDATE connections SET changing = ?1, last_position = iif(?2 = 0, last_position, ?2) WHERE id = ?3",
                [(_pack(update), last, number) for number, (update, last) in updates.items()],
            )
        if stored:
            many(
                "UPDATE incarnations SET stored = ? WHERE incarnation = ?",
                [(number, incarnation) for incarnation, number in stored.items()],
            )
        if answers:
            many("UPDATE answers SET answer = ? WHERE key = ?", answers)
        if ended:
            many("UPDATE incarnations SET ended = 1 WHERE incarnation = ?", ended)
            connection.execute(
                "DELETE FROM incarnations WHERE ended AND incarnation NOT IN (SELECT incarnation FROM connections)"
                " AND (SELECT count(*) FROM incarnations) > ?",
                (ENDED_INCARNATIONS,),
            )
        return results

    def _fail(self, failure: str | None) -> None:
        if failure != self._failure:
            self._failure = failure
            assert self._loop is not None and self._on_failure is not None, "start comes first"
            self._loop.call_soon_threadsafe(self._on_failure, failure)

    def _refuse(self, items: list[_Item]) -> None:
        assert self._loop is not None, "start comes first"
        self._loop.call_soon_threadsafe(self._refused, items, self._failure or "it is closed")

    # ------------------------------------------------------------ back on the event loop

    def _committed(self, items: list[_Item], results: list[Any], first: int, last: int) -> None:
        self._first, self._last = first, last
        assert self._on_committed is not None, "start comes first"
        committed = [result for item, result in zip(items, results, strict=True) if item.append is not None]
        size = sum(100 if item.append is None else item.append.size for item in items)
        with self._wanted:
            self._queued_bytes -= size
        if committed:
            self._on_committed(committed)
        for item, result in zip(items, results, strict=True):
            if item.future is not None and not item.future.done():
                item.future.set_result(result)

    def _refused(self, items: list[_Item], reason: str) -> None:
        with self._wanted:
            self._queued_bytes -= sum(100 if item.append is None else item.append.size for item in items)
        for item in items:
            if item.future is not None and not item.future.done():
                item.future.set_exception(JournalUnavailable(reason))

    @property
    def failure(self) -> str | None:
        """Why the journal cannot be written just now, or None."""
        return self._failure

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

    # ------------------------------------------------------------ what survives with the events

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids for ever and return the first of them."""

        def allot(connection: apsw.Connection) -> int:
            row = connection.execute("SELECT value FROM meta WHERE name = 'next_id'").fetchone()
            try:
                beside = int(self._ids_path.read_text())
            except (OSError, ValueError):
                beside = 1
            first = max(int(row[0]) if row else 1, beside)
            temporary = self._ids_path.with_suffix(".ids.new")
            with temporary.open("w") as file:
                file.write(f"{first + count}\n")
                if self._config.level == "power":
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(self._ids_path)
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('next_id', ?)", (first + count,))
            return first

        return await self._do(allot)

    async def save_incarnation(self, incarnation: str, worker: str, record: bytes, *, ended: bool = False) -> None:
        """Keep what identifies a worker process, or that it has ended."""

        def save(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO incarnations VALUES (?, ?, 0, ?, ?)"
                " ON CONFLICT (incarnation) DO UPDATE SET record = excluded.record, ended = max(ended, excluded.ended)",
                (incarnation, worker, record, int(ended)),
            )

        # A process that has ended must be written down, however long that takes; a new one is not started without.
        await self._do(save, fails_fast=not ended)

    async def forget_connections(self, ids: list[int]) -> None:
        """Drop records of closed connections that are no longer retained."""
        await self._do(
            lambda connection: connection.executemany("DELETE FROM connections WHERE id = ?", [(one,) for one in ids])
        )

    async def claim_key(self, key: str, fingerprint: bytes, time_ms: int) -> StoredAnswer | None:
        """Claim an Idempotency-Key: None when it is new and now ours, else what it stands for."""

        def claim(connection: apsw.Connection) -> StoredAnswer | None:
            connection.execute("DELETE FROM answers WHERE created_at_ms < ?", (time_ms - self._answer_age_ms,))
            row = connection.execute(
                "SELECT key, fingerprint, created_at_ms, answer FROM answers WHERE key = ?", (key,)
            ).fetchone()
            if row is not None:
                return StoredAnswer(*row)
            connection.execute("INSERT INTO answers VALUES (?, ?, ?, NULL)", (key, fingerprint, time_ms))
            return None

        return await self._do(claim)

    async def answer_key(self, key: str, answer: bytes | None) -> None:
        """Store the answer of a claimed key; None gives the key up."""
        if answer is None:
            await self._do(lambda connection: connection.execute("DELETE FROM answers WHERE key = ?", (key,)))
        else:
            await self._do(
                lambda connection: connection.execute("UPDATE answers SET answer = ? WHERE key = ?", (answer, key))
            )

    async def backup(self, path: str) -> None:
        """Write a consistent copy of everything to the new file `path`."""

        def copy() -> None:
            connection = apsw.Connection(str(self._path))
            try:
                connection.set_busy_timeout(5_000)
                connection.execute("VACUUM INTO ?", (path,)).fetchall()
            finally:
                connection.close()

        try:
            await asyncio.to_thread(copy)
        except apsw.Error as exc:
            raise JournalUnavailable(f"the copy failed: {exc}") from exc

    def stats(self) -> JournalStats:
        """Return figures."""
        return JournalStats(
            events=self._last - self._first + 1,
            bytes=self._marks.total_bytes - self._marks.gone_bytes,
            oldest_time_ms=self._marks.oldest_ms,
            first=self._first,
            last=self._last,
            queued_bytes=self._queued_bytes,
            commits=self._commits,
            commit_seconds=self._commit_seconds,
            last_commit_s=self._last_commit_s,
            batches=self._batches,
            failure=self._failure,
        )
