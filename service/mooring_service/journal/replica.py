"""What a cluster is to have of this journal: each addition once more, numbered, in the transaction that commits it.

`Replica` owns the table and the newest of it in memory; the numbers (`rn`) are dense over the life of the state directory. Without a
cluster nobody makes one, and the file has no such table. What stands in an addition is `addition`; who publishes it knows no SQL.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import apsw
import msgspec

from mooring.errors import JournalUnavailable
from mooring_service.journal.addition import encode_addition
from mooring_service.journal.journal import Committed

SLOT_STEP = 10**12  # ids of connections of one slot
MEMORY_BYTES = 8 << 20
KEPT_BYTES = (
    256 << 20
)  # what the log has acknowledged is kept for a while: a store that loses its last seconds is told again
KEPT_MS = 600_000
PRUNE_ROWS = 500  # in one transaction

_TABLE = """
CREATE TABLE IF NOT EXISTS replica (
    rn INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, total INTEGER NOT NULL, body BLOB NOT NULL,
    events INTEGER NOT NULL DEFAULT 0) STRICT;
"""
_STATE = "cluster"  # in `meta`: opaque to the journal


class Replica:
    """The additions of one state directory, by number.

    Attributes:
        last: Number of the newest that is committed; 0: there never was one.
        total_bytes: Of all that ever were; `total_events` likewise.
        committed: Set whenever there is a new one.
        slot: Who gives out ids of connections, so that no two nodes give out the same; None: not known yet, and none is given out.
        full: Too much waits to be published: nothing is committed, as with a full disk, until less does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.last = 0
        self.total_bytes = self.total_events = 0
        self.committed = asyncio.Event()
        self.slot: int | None = None
        self.full = False
        self._state: bytes | None = None
        self._lock = threading.Lock()
        self._memory: deque[tuple[int, bytes]] = deque()
        self._memory_bytes = 0
        self._pending: list[tuple[int, int, int, bytes, int]] = []

    def open(self, connection: apsw.Connection) -> None:
        """Make the table, or find where it ends."""
        connection.execute(_TABLE)
        if not any(row[1] == "events" for row in connection.execute("PRAGMA table_info(replica)")):
            connection.execute(
                "ALTER TABLE replica ADD COLUMN events INTEGER NOT NULL DEFAULT 0"
            )  # made before it was counted
        row = connection.execute("SELECT rn, total, events FROM replica ORDER BY rn DESC LIMIT 1").fetchone()
        self.last, self.total_bytes, self.total_events = row or (0, 0, 0)
        self._state = connection.execute("SELECT value FROM meta WHERE name = ?", (_STATE,)).get

    @property
    def state(self) -> bytes | None:
        """What the cluster keeps beside the additions, as it was at the start (`save`)."""
        return self._state

    @property
    def first_id(self) -> int:
        """Below all ids of connections that this state directory may give out.

        Raises:
            JournalUnavailable: If it may give out none yet.
        """
        if self.slot is None:
            raise JournalUnavailable("this node has no place in its cluster yet, which says what ids it may give out")
        return self.slot * SLOT_STEP

    # Of the writer's thread

    def write(self, connection: apsw.Connection, committed: Iterable[Committed], time_ms: int) -> list[Committed]:
        """Write, inside the transaction, what it has of additions; return all with their numbers."""
        rn, total, events = self.last, self.total_bytes, self.total_events
        self._pending = []
        numbered: list[Committed] = []
        for one in committed:
            if one.repeated or (body := encode_addition(one.append, one.first_ask)) is None:
                numbered.append(one)
                continue
            rn, total, events = rn + 1, total + len(body), events + len(one.append.kinds)
            self._pending.append((rn, time_ms, total, body, events))
            numbered.append(msgspec.structs.replace(one, addition=rn))
        connection.executemany("INSERT INTO replica VALUES (?, ?, ?, ?, ?)", self._pending)
        return numbered

    def confirm(self) -> None:
        """The transaction is committed."""
        if not self._pending:
            return
        with self._lock:
            for rn, _, _, body, _ in self._pending:
                self._memory.append((rn, body))
                self._memory_bytes += len(body)
            while self._memory_bytes > MEMORY_BYTES and len(self._memory) > 1:
                self._memory_bytes -= len(self._memory.popleft()[1])
            self.last, _, self.total_bytes, _, self.total_events = self._pending[-1]
        self._pending = []

    # Of the event loop

    async def read(self, after: int, limit_bytes: int) -> list[bytes]:
        """Return the additions behind number `after`, about so many bytes of them; at least one if there is one.

        Raises:
            JournalUnavailable: If the file cannot be read.
        """
        with self._lock:
            memory = self._memory
            if after >= self.last:
                return []
            if memory and memory[0][0] <= after + 1:
                found: list[bytes] = []
                size = 0
                for at in range(after + 1 - memory[0][0], len(memory)):
                    body = memory[at][1]
                    size += len(body)
                    if found and size > limit_bytes:
                        break
                    found.append(body)
                return found
        return await asyncio.to_thread(self._read, after, limit_bytes)

    def _read(self, after: int, limit_bytes: int) -> list[bytes]:
        try:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                connection.set_busy_timeout(5_000)
                found: list[bytes] = []
                size = 0
                for rn, body in connection.execute("SELECT rn, body FROM replica WHERE rn > ? ORDER BY rn", (after,)):
                    size += len(body)
                    if found and size > limit_bytes:
                        break
                    if rn != after + 1 + len(found):
                        raise JournalUnavailable(f"addition {after + 1 + len(found)} is missing: the next one is {rn}")
                    found.append(body)
                return found
            finally:
                connection.close()
        except apsw.Error as exc:
            raise JournalUnavailable(f"it cannot be read: {exc}") from exc

    async def unreplicated(self, replicated: int) -> tuple[int, int]:
        """Return how much is behind addition `replicated`: bytes, and events.

        Raises:
            JournalUnavailable: If the file cannot be read.
        """
        if replicated >= self.last:
            return 0, 0
        return await asyncio.to_thread(self._behind, replicated)

    def _behind(self, replicated: int) -> tuple[int, int]:
        try:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                # Only what is kept: where the log went back, what it had acknowledged may be gone (and with it how many events the first one has).
                found = connection.execute(
                    "SELECT total - length(body), coalesce((SELECT events FROM replica WHERE rn = ?1), iif(rn = 1, 0, events))"
                    " FROM replica WHERE rn > ?1 ORDER BY rn LIMIT 1",
                    (replicated,),
                ).fetchone()
            finally:
                connection.close()
        except apsw.Error as exc:
            raise JournalUnavailable(f"it cannot be read: {exc}") from exc
        size, events = found or (0, 0)
        return self.total_bytes - size, self.total_events - events

    def save(self, state: bytes, acknowledged: int, now_ms: int) -> Callable[[apsw.Connection], bool]:
        """Return the job that keeps what the cluster keeps beside the additions, and drops some of what was acknowledged long ago.

        It says whether there may be more of that. The last one that was acknowledged stays: from it what is behind is counted, and
        the numbers go on behind it where it is the last of all.
        """
        acknowledged = min(acknowledged, self.last)
        kept_bytes = self.total_bytes - KEPT_BYTES

        def job(connection: apsw.Connection) -> bool:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_STATE, state))
            # The oldest stand first: only they are looked at, not all that are kept.
            connection.execute(
                "DELETE FROM replica WHERE rn IN (SELECT rn FROM (SELECT rn, time_ms, total FROM replica WHERE rn < ? ORDER BY rn LIMIT ?)"
                " WHERE time_ms < ? AND total < ?)",
                (acknowledged, PRUNE_ROWS, now_ms - KEPT_MS, kept_bytes),
            )
            return connection.changes() == PRUNE_ROWS

        return job
