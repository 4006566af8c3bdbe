"""Reading from the SQLite journal: short looks on threads of their own, which never hold a transaction while anybody waits."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from mooring.errors import JournalUnavailable
from mooring_service.journal.batch import Batch, EventFilter
from mooring_service.journal.file import pragma, write_finding
from mooring_service.journal.search import find

log = logging.getLogger("mooring.journal")


def _begin(reader: apsw.Connection, otherwise: int) -> int:
    """Return where the record begins, if its positions have holes."""
    begin: int = reader.execute("SELECT coalesce((SELECT value FROM meta WHERE name = 'first'), ?)", (otherwise,)).get
    return begin


class JournalReader:
    """Short, read-only looks into the file, on two threads; no transaction outlives a call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="journal-reader")
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self._checking: apsw.Connection | None = None

    def close(self) -> None:
        """Wait for what is being read, but not for a check, and close."""
        if self._checking is not None:
            self._checking.interrupt()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for connection in self._connections:
            connection.close()

    def check(self) -> None:
        """Check all of a large file behind the start: what is found is for the next one."""
        self._threads.submit(self._check)

    def _check(self) -> None:
        self._checking = self._connection()
        try:
            answer = self._checking.execute("PRAGMA quick_check(1)").get
        except apsw.InterruptError:
            return  # the service is stopping
        except apsw.Error as exc:
            answer = str(exc)
        finally:
            self._checking = None
        if answer != "ok":
            write_finding(self._path, str(answer))

    def _connection(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            connection.set_busy_timeout(5_000)
            pragma(connection, query_only="ON", cache_size=-2000)
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    async def read(self, after: int, events: EventFilter, limit_bytes: int, last: int) -> tuple[list[Batch], int]:
        """Return batches past `after` up to `last`; see `Journal.read`.

        Raises:
            JournalUnavailable: If the file cannot be read.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._read, after, events, limit_bytes, last
            )
        except (apsw.Error, RuntimeError) as exc:
            raise JournalUnavailable(f"it cannot be read: {exc}") from exc

    def _read(self, after: int, events: EventFilter, limit_bytes: int, last: int) -> tuple[list[Batch], int]:
        reader = self._connection()
        try:
            with reader:  # one snapshot: what is pruned meanwhile is missing from all of it, or from nothing
                found = self._read_snapshot(reader, after, events, limit_bytes, last)
        except apsw.CorruptError as exc:
            write_finding(self._path, str(exc))
            raise
        return found

    def _read_snapshot(
        self, reader: apsw.Connection, after: int, events: EventFilter, limit_bytes: int, last: int
    ) -> tuple[list[Batch], int]:
        low = reader.execute("SELECT coalesce(max(first), 0) FROM batches WHERE first <= ?", (after + 1,)).get
        if not low and after < last and after + 1 < _begin(reader, after + 2):
            return [], after  # pruned just now: whoever asks will see where the record begins, and tell of the gap
        found: list[Batch] = []
        held = looked_at = 0
        upto = after
        batches = find(reader, events, low, last)
        try:
            for batch in batches:
                if (found and held + batch.size > limit_bytes) or looked_at > 8 * limit_bytes:
                    return found, upto
                looked_at += batch.size
                indices = events.select(batch, after)
                upto = max(upto, batch.last)
                if indices is None:
                    found.append(batch)
                    held += batch.size
                elif indices:
                    # Few of many: the others are not handed on, so that as many are found at a time.
                    pieces = [batch] if 2 * len(indices) > len(batch.kinds) else batch.pieces(indices)
                    found += pieces
                    held += sum([piece.size for piece in pieces])
        finally:
            batches.close()
        return found, last
