"""The writer of the SQLite journal: one thread, the only writing connection, and when a transaction is written.

It takes whatever is queued into one transaction, a little behind the last one under load (`pace`); between two of them there is a
step of `upkeep`. What the disk does not take is tried again, but for what fails fast. What can never be written is a mistake of
ours about one addition: it is found, told, and left out, so that it keeps no other waiting. `transaction` knows what is written;
the event loop is `sqlite`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import apsw
import msgspec

from mooring.told import Told
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import Append
from mooring_service.journal.checkpoints import Checkpoints
from mooring_service.journal.clock import AgeClock
from mooring_service.journal.compaction import Compaction
from mooring_service.journal.file import OpenFile, write_finding
from mooring_service.journal.pace import LARGE_BYTES, Following, Pace
from mooring_service.journal.replica import Replica
from mooring_service.journal.retention import PRUNE_EVERY_S, PRUNE_IDLE_S, Marks
from mooring_service.journal.transaction import Transaction
from mooring_service.journal.upkeep import Upkeep

RETRY_S = 0.5
TURN_S = 1.0  # so long a checkpoint may keep everybody waiting before it is a failure
UPKEEP_RETRY_S = 60.0  # after a mistake of ours in it
END_S = 5.0  # what is queued at the end may take so long

UNWRITABLE = (
    apsw.FullError, apsw.IOError, apsw.BusyError, apsw.LockedError, apsw.CantOpenError, apsw.ReadOnlyError,
    apsw.PermissionsError, apsw.AuthError, apsw.ProtocolError, apsw.NoMemError, apsw.InterruptError, apsw.AbortError,
    apsw.CorruptError, apsw.NotADBError, OSError, MemoryError,
)  # fmt: skip
"""What is wrong with disk or file, and may be mended there. Anything else that is raised is about what was to be written."""

Job = Callable[[apsw.Connection], Any]

log = logging.getLogger("mooring.journal")


class Item(msgspec.Struct, frozen=True):
    """What waits for the writer: an `Append`, or a job; `fails_fast`: it is dropped while the journal cannot be written.

    `size` is what it counts for, in bytes. The `future` is carried along for whoever waits; the writer's thread never touches it.
    """

    append: Append | None
    job: Job | None
    future: asyncio.Future[Any] | None
    fails_fast: bool
    size: int


class Outcomes(Protocol):
    """Who is told what became of items. All of it is called on the writer's thread."""

    def written(self, items: list[Item], results: list[Any], first: int, last: int) -> None:
        """One transaction is committed: a result for each item, and where the kept record now begins and ends."""

    def refused(self, items: list[Item], reason: str) -> None:
        """These will not be written."""

    def left_out(self, item: Item, reason: str) -> None:
        """This one can never be written; all others are."""

    def failed(self, failure: str | None) -> None:
        """Nothing can be written now (None: it can again)."""

    def died(self, reason: str) -> None:
        """Nothing will ever be written again by this process."""


class Writer:
    """The writer's thread, and the queue before it.

    Attributes:
        failure: Why the journal cannot be written just now, or None.
        marks: Of the last transaction that was committed.
    """

    def __init__(
        self, config: JournalConfig, outcomes: Outcomes, checkpoints: Checkpoints, replica: Replica | None = None
    ) -> None:
        self._replica = replica
        self._config = config
        self._outcomes = outcomes
        self._checkpoints = checkpoints
        self._queue: deque[Item] = deque()
        self._queued_bytes = 0
        self._arrived_s = -math.inf  # when the last of it was queued
        self._following = Following()
        self._wanted = threading.Condition()
        self._idle = False  # the thread sleeps until something is queued
        self._ending = False
        self._dead = False
        self._thread: threading.Thread | None = None
        self._clock = AgeClock(0)
        # Of the writer's thread; others only read them, for figures.
        # What was taken last came together, and so will what follows it: later than a pause lasts.
        self._in_rhythm = False
        self._taken: list[Item] = []
        self._last_arrival_s = -math.inf  # of what was taken last
        self._stored: dict[str, int] = {}
        self._pace = Pace()
        self._upkeep: Upkeep
        self._retry_at = -math.inf
        self._upkeep_s = -math.inf  # when its next step is due
        self._upkeep_held_s = -math.inf  # after a mistake of ours it rests until then
        self._mistakes = Told()
        self.failure: str | None = None
        self.marks = Marks()
        self.batches = self.commits = 0
        self.commit_seconds = self.last_commit_s = 0.0

    def start(self, opened: OpenFile, clock: AgeClock) -> None:
        """Begin; the file's connection is the writer's from now on."""
        self.marks = opened.marks
        self._clock = clock
        self._stored = {known.incarnation: known.stored for known in opened.recovered.incarnations}
        compaction = Compaction(self._config, opened.derived)
        compaction.recover(opened.connection, opened.marks.gone_bytes)
        self._upkeep = Upkeep(self._config, opened.derived, compaction, clock, PRUNE_EVERY_S)
        self._thread = threading.Thread(target=self._run, args=(opened.connection,), name="journal-writer", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Write what is queued, if it can be, and end; blocks."""
        with self._wanted:
            self._ending = True
            self._wanted.notify()
        if self._thread is not None:
            self._thread.join(END_S)

    def put(self, *items: Item, others_follow: bool = False) -> None:
        """Queue `items`; they are written in one transaction. `others_follow`: see `Journal.append`."""
        with self._wanted:
            if not self._dead:
                self._queue.extend(items)
                self._queued_bytes += sum([item.size for item in items])
                self._arrived_s = time.monotonic()
                first = len(self._queue) == len(items)
                last = self._following.queued(self._arrived_s, more=others_follow, first=first)
                # Who is woken for the first of several would have to sleep again until the last of them is there.
                if last or (self._idle and not others_follow) or self._queued_bytes >= LARGE_BYTES:
                    self._wanted.notify()
                return
        self._refuse(list(items))

    def wake(self, *, awaited: bool = False) -> None:
        """What was said to follow has not come; or a request waits for what is queued (`awaited`)."""
        # Seen without the lock: that is over only once all that is queued is taken.
        if not (awaited and self._following.awaited):
            with self._wanted:
                self._following.awaited |= awaited and bool(self._queue)
                self._wanted.notify()

    def forget(self, connections: list[int]) -> None:
        """Drop the records of these connections; called by a job."""
        self._upkeep.forget(connections)

    def _run(self, connection: apsw.Connection) -> None:
        try:
            self._write_all(connection)
        # A mistake of ours that is about no addition: this process cannot keep its promise, and has to end.
        except BaseException as exc:
            log.critical("the journal's writer has failed", exc_info=True)
            with self._wanted:
                self._dead = True
                left = [*self._taken, *self._queue]
                self._queue.clear()
            self._fail(f"internal error: {exc!r}")
            self._refuse(left)
            self._outcomes.died(f"the journal's writer has failed: {exc!r}")
        finally:
            try:
                connection.close()
            except apsw.Error as exc:
                log.warning("the journal was not closed cleanly: %s", exc)

    def _write_all(self, connection: apsw.Connection) -> None:
        while True:
            with self._wanted:
                while not self._ending and (wait_s := self._next_s() - time.monotonic()) > 0:
                    self._wanted.wait(min(wait_s, PRUNE_IDLE_S))
                self._idle = False
                ending = self._ending
                due = ending or self._commit_s() <= time.monotonic()
                if due:
                    self._taken += self._queue
                    self._queue.clear()
                    self._queued_bytes = 0
                    self._last_arrival_s = self._arrived_s
                    self._in_rhythm = self._following.taken()
            if self._taken or (due and self.failure is not None and not ending):
                self._taken = self._transact(connection, self._taken)
            if self._taken and ending:
                if lost := sum(item.append is not None for item in self._taken):
                    log.error("the journal stops with %d additions not written: %s", lost, self.failure)
                self._refuse(self._taken)
                return
            self._keep_up(connection, ending=ending)
            if ending:
                return

    def _next_s(self) -> float:
        """Return when there is something to do, as monotonic seconds."""
        commit_s = self._commit_s()
        # Whoever sleeps for long is woken by what is queued; the end of a short sleep brings all that has come meanwhile.
        self._idle = commit_s == math.inf
        return commit_s if self.failure is not None else min(commit_s, self._upkeep_s)

    def _commit_s(self) -> float:
        """Return when the next commit is due."""
        if self._taken or self.failure is not None:
            return self._retry_at
        due_s = self._pace.due_s(self._queued_bytes, self._following.since_s, awaited=self._following.awaited)
        return due_s if self._queue or (due_s > time.monotonic() and not self._in_rhythm) else math.inf

    def _keep_up(self, connection: apsw.Connection, *, ending: bool) -> None:
        """Do a step of what is due between the commits."""
        if not ending and (self.failure is not None or self._upkeep_s > time.monotonic()):
            return
        try:
            with self._checkpoints.turn(TURN_S):
                if ending:
                    self._upkeep.finish(connection)
                    return
                marks = self._upkeep.step(connection, self.marks)
        except UNWRITABLE as exc:
            self._cannot(connection, exc)
            return
        # What was committed is not touched by it, and is shown all the same; only the file grows.
        except Exception as exc:
            if self._mistakes.is_new(repr(exc)):
                log.exception("the journal's upkeep has failed; it is tried again each minute")
            self._upkeep_s = self._upkeep_held_s = time.monotonic() + UPKEEP_RETRY_S
            return
        self._mistakes.over()
        self._upkeep_s = self._upkeep.due_s(marks)
        if marks is not self.marks:
            self.marks = marks
            self._outcomes.written([], [], marks.first, marks.next_position - 1)

    def _transact(self, connection: apsw.Connection, items: list[Item]) -> list[Item]:
        """Write `items`, in one transaction if that can be; return what must be tried again."""
        try:
            self._commit(connection, items)
        except UNWRITABLE as exc:
            self._cannot(connection, exc)
            self._refuse([item for item in items if item.fails_fast])
            return [item for item in items if not item.fails_fast]
        # One of them would raise for ever: it is sought by halves, in order, and all others are written.
        except Exception as exc:
            if not items:
                raise
            if len(items) == 1:
                log.exception("the journal cannot hold what it was given; it is left out")
                self._outcomes.left_out(items[0], f"it cannot be stored: {exc!r}")
                return []
            half = len(items) // 2
            left = self._transact(connection, items[:half])
            return left + items[half:] if left else self._transact(connection, items[half:])
        return []

    def _commit(self, connection: apsw.Connection, items: list[Item]) -> None:
        begun = time.monotonic()
        if self._replica is not None and self._replica.full:
            raise apsw.FullError("too much waits for the engine of the cluster")
        marks = msgspec.structs.replace(self.marks)
        transaction = Transaction(connection, marks, self._stored, self._clock.now_ms())
        jobs: list[Job] = []
        for item in items:
            if item.append is not None:
                transaction.add(item.append)
            else:
                assert item.job is not None, "an item is an append or a job"
                jobs.append(item.job)
        written = transaction.close()
        by_itself = not jobs and self.failure is None and self._replica is None and transaction.is_one_row
        with self._checkpoints.turn(TURN_S), contextlib.nullcontext() if by_itself else connection:
            if self.failure is not None:
                # Also when nothing waits: while it fails nobody may add anything, and it would fail for ever.
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('tried_at_ms', ?)", (time.time_ns() // 10**6,))
            done = iter([job(connection) for job in jobs])
            transaction.write()
            if self._replica is not None:
                written = self._replica.write(connection, written, self._clock.now_ms())
        if self._replica is not None:
            self._replica.confirm()
        committed = iter(written)
        results: list[Any] = [next(done if item.append is None else committed) for item in items]
        self.marks = marks
        self._stored.update(transaction.changes.numbers)
        self._upkeep.committed(transaction.changes, marks)
        self._upkeep_s = max(self._upkeep_held_s, self._upkeep.due_s(marks))
        self._pace.committed(begun, len(items), self._last_arrival_s)
        self.batches += transaction.batches
        self.last_commit_s = time.monotonic() - begun
        self.commits += 1
        self.commit_seconds += self.last_commit_s
        if self.failure is not None:
            self._fail(None)
        self._outcomes.written(items, results, marks.first, marks.next_position - 1)

    def _cannot(self, connection: apsw.Connection, exc: BaseException) -> None:
        if isinstance(exc, apsw.CorruptError):
            write_finding(Path(connection.filename), str(exc))
        self._retry_at = self._upkeep_s = time.monotonic() + RETRY_S
        self._fail(f"{type(exc).__name__.removesuffix('Error')}: {exc}")

    def _fail(self, failure: str | None) -> None:
        if failure != self.failure:
            self.failure = failure
            self._outcomes.failed(failure)

    def _refuse(self, items: list[Item]) -> None:
        self._outcomes.refused(items, self.failure or "it is closed")
