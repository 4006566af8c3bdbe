"""The file of the SQLite journal: opening, checking, migrating, setting aside; and reading from it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import msgspec

from mooring.errors import JournalUnavailable
from mooring_service.journal.batch import Batch, EventFilter

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE batches (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, time_ms INTEGER NOT NULL, total INTEGER NOT NULL,
    worker TEXT NOT NULL, connections BLOB NOT NULL, kinds BLOB NOT NULL, bodies BLOB NOT NULL) STRICT;
CREATE TABLE batch_connections (
    connection INTEGER NOT NULL, first INTEGER NOT NULL, PRIMARY KEY (connection, first)) STRICT, WITHOUT ROWID;
CREATE TABLE connections (
    id INTEGER PRIMARY KEY, created BLOB NOT NULL, changing BLOB NOT NULL, incarnation TEXT NOT NULL,
    last_position INTEGER NOT NULL) STRICT;
CREATE TABLE incarnations (
    incarnation TEXT PRIMARY KEY, worker TEXT NOT NULL, stored INTEGER NOT NULL, record BLOB NOT NULL,
    ended INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE answers (
    key TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, created_at_ms INTEGER NOT NULL, answer BLOB) STRICT, WITHOUT ROWID;
CREATE INDEX answers_by_age ON answers (created_at_ms);
"""
MIGRATIONS: dict[int, str] = {}
"""Version → SQL that brings a file of that version to the next one."""


CHECK_S = 1.0  # `quick_check` may take so long before the start; a larger file is checked on behind it
WAL_PAGES = 4_000  # 16 MiB between checkpoints

log = logging.getLogger("mooring.journal")


class Opened(msgspec.Struct, frozen=True):
    """An open file: `set_aside` is where a corrupt one went, `checked` says whether all of it was looked at."""

    connection: apsw.Connection
    set_aside: str | None
    checked: bool


def open_file(path: Path, level: str) -> Opened:
    """Open the journal's file for writing; check it, migrate it, set a corrupt one aside.

    Raises:
        JournalUnavailable: If it cannot be opened, or is of a later version.
    """
    set_aside = None
    connection = None
    try:
        connection = _connect(path, level)
        checked = _check(connection)
    except (apsw.CorruptError, apsw.NotADBError) as exc:
        if connection is not None:
            connection.close()
        set_aside = _set_aside(path, str(exc))
        connection, checked = _connect(path, level), True
    try:
        _migrate(path, connection)
    except apsw.Error as exc:
        raise JournalUnavailable(f"{path}: {exc}") from exc
    return Opened(connection, set_aside, checked)


def _connect(path: Path, level: str) -> apsw.Connection:
    try:
        connection = apsw.Connection(str(path), statementcachesize=64)
        connection.set_busy_timeout(1_000)
        _pragma(connection, page_size=4096, journal_mode="WAL")
    except (apsw.CorruptError, apsw.NotADBError):
        raise
    except apsw.Error as exc:
        raise JournalUnavailable(f"{path}: {exc}") from exc
    path.chmod(0o600)
    synchronous = "FULL" if level == "power" else "NORMAL"
    _pragma(connection, synchronous=synchronous, wal_autocheckpoint=WAL_PAGES, mmap_size=0, cache_size=-8000)
    return connection


def _check(connection: apsw.Connection) -> bool:
    """Run `quick_check`; False when there was not time for all of it."""
    deadline = time.monotonic() + CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        answer = connection.execute("PRAGMA quick_check(1)").get
    except apsw.InterruptError:
        return False
    finally:
        connection.set_progress_handler(None)
    if answer != "ok":
        raise apsw.CorruptError(str(answer))
    return True


def _set_aside(path: Path, reason: str) -> str:
    """Rename a corrupt database and its companions: somebody may want to look, so nothing is deleted."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    name = f"{path}.corrupt-{stamp}-{secrets.token_hex(2)}"
    for suffix in ("", "-wal", "-shm"):
        old = Path(f"{path}{suffix}")
        if old.exists():
            old.rename(f"{name}{suffix}")
    log.error("the journal %s is corrupt (%s): set aside as %s; a new epoch begins", path, reason, name)
    return name


def _migrate(path: Path, connection: apsw.Connection) -> None:
    version = connection.execute("PRAGMA user_version").get
    if version > SCHEMA_VERSION:
        raise JournalUnavailable(
            f"{path} was written by a later mooring (schema {version}, this one knows {SCHEMA_VERSION}); "
            "start that one, or another state directory"
        )
    with connection:
        if version == 0:
            connection.execute(SCHEMA)
            connection.execute("INSERT INTO meta VALUES ('epoch', ?)", (secrets.token_hex(4),))
            connection.execute("INSERT INTO meta VALUES ('next_position', 1), ('total_bytes', 0)")
        else:
            for step in range(version, SCHEMA_VERSION):
                connection.execute(MIGRATIONS[step])
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _pragma(connection: apsw.Connection, **values: str | int) -> None:
    for name, value in values.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()


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

    def check_rest(self) -> None:
        """Check a large file behind the start: what is found is for the next one."""
        self._threads.submit(self._check_rest)

    def _check_rest(self) -> None:
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
            log.error("the journal %s is damaged: %s; it will be set aside at the next start", self._path, answer)

    def _connection(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
            connection.set_busy_timeout(5_000)
            _pragma(connection, query_only="ON", cache_size=-2000)
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
        with reader:  # one snapshot: what is pruned meanwhile is missing from all of it, or from nothing
            found = self._read_snapshot(reader, after, events, limit_bytes, last)
        return found

    def _read_snapshot(
        self, reader: apsw.Connection, after: int, events: EventFilter, limit_bytes: int, last: int
    ) -> tuple[list[Batch], int]:
        low = reader.execute("SELECT coalesce(max(first), 0) FROM batches WHERE first <= ?", (after + 1,)).get
        if not low and after < last:
            return [], after  # pruned just now: whoever asks will see where the record begins, and tell of the gap
        parameters: list[Any] = []
        source = "batches"
        if events.connections:
            marks = ", ".join("?" * len(events.connections))
            distinct = "DISTINCT" if len(events.connections) > 1 else ""
            source = (
                f"(SELECT {distinct} first FROM batch_connections WHERE connection IN ({marks})"
                " AND first BETWEEN ? AND ? ORDER BY first) CROSS JOIN batches USING (first)"
            )
            parameters += [*sorted(events.connections), low, last]
        where = "first BETWEEN ? AND ?"
        parameters += [low, last]
        if events.workers:
            where += f" AND worker IN ({', '.join('?' * len(events.workers))})"
            parameters += sorted(events.workers)
        cursor = reader.execute(
            f"SELECT first, worker, connections, kinds, bodies, time_ms FROM {source} WHERE {where} ORDER BY first",
            parameters,
        )
        found: list[Batch] = []
        held = looked_at = 0
        upto = after
        try:
            for first, worker, connections, kinds, bodies, time_ms in cursor:
                batch = Batch(
                    first=first, worker=worker, connections=connections, kinds=kinds, bodies=bodies, time_ms=time_ms
                )
                if (found and held + batch.size > limit_bytes) or looked_at > 8 * limit_bytes:
                    return found, upto
                looked_at += batch.size
                indices = events.select(batch, after)
                upto = max(upto, batch.last)
                if indices is None or indices:
                    found.append(batch)
                    held += batch.size
        finally:
            cursor.close()
        return found, last


def restore(copy: Path, path: Path) -> None:
    """Make `path` the journal that continues from the backup `copy`, under a new epoch. The caller holds the lock.

    Processes of that time are forgotten; connections that were open then get their ``onTerminate`` at the next start.

    Raises:
        JournalUnavailable: If `copy` is no journal, or `path` (or what SQLite keeps beside it) exists.
    """
    for old in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if old.exists():  # a log of another database would be replayed into this one
            raise JournalUnavailable(f"{old} exists: restore into an empty state directory, or move it away")
    temporary = path.with_suffix(".restoring")
    try:
        shutil.copyfile(copy, temporary)
        temporary.chmod(0o600)
        connection = apsw.Connection(str(temporary))
        try:
            if connection.execute("PRAGMA quick_check(1)").get != "ok":
                raise JournalUnavailable(f"{copy} is damaged")
            _migrate(temporary, connection)
            with connection:
                connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (secrets.token_hex(4),))
                connection.execute("DELETE FROM incarnations")
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            connection.close()
        temporary.replace(path)
    except (apsw.Error, OSError) as exc:
        raise JournalUnavailable(f"{copy} cannot be restored: {exc}") from exc
    finally:
        temporary.unlink(missing_ok=True)
