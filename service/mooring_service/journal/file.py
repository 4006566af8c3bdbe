"""The file of the SQLite journal: opening, checking, migrating, setting aside; what it held, and restoring a copy."""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from pathlib import Path

import apsw
import msgspec

from mooring import private_files
from mooring.errors import JournalUnavailable
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.journal import Incarnation, Recovered, StoredConnection
from mooring_service.journal.retention import Marks, look_at_first

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
_unpack_created = msgspec.msgpack.Decoder(ConnectionCreated).decode
_unpack_update = msgspec.msgpack.Decoder(ConnectionUpdate).decode


class OpenFile(msgspec.Struct, frozen=True):
    """An open file: `set_aside` is where a corrupt one went, `checked` says whether all of it was looked at."""

    connection: apsw.Connection
    set_aside: str | None
    checked: bool


def open_file(path: Path, level: str) -> OpenFile:
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
    return OpenFile(connection, set_aside, checked)


def _connect(path: Path, level: str) -> apsw.Connection:
    try:
        private_files.make(path)
        connection = apsw.Connection(str(path), statementcachesize=64)
        connection.set_busy_timeout(1_000)
        pragma(connection, page_size=4096, journal_mode="WAL")
    except (apsw.CorruptError, apsw.NotADBError):
        raise
    except (apsw.Error, OSError) as exc:
        raise JournalUnavailable(f"{path}: {exc}") from exc
    synchronous = "FULL" if level == "power" else "NORMAL"
    pragma(connection, synchronous=synchronous, wal_autocheckpoint=WAL_PAGES, mmap_size=0, cache_size=-8000)
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


def pragma(connection: apsw.Connection, **values: str | int) -> None:
    """Set pragmas of `connection`."""
    for name, value in values.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()


def recover(connection: apsw.Connection, set_aside: str | None) -> tuple[str, Marks, Recovered]:
    """Return the epoch of an open file, where its record begins and ends, and what it held."""
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    marks = Marks(next_position=meta["next_position"], total_bytes=meta["total_bytes"])
    look_at_first(connection, marks)
    recovered = Recovered(
        connections=[
            StoredConnection(_unpack_created(created), _unpack_update(changing), incarnation, position)
            for created, changing, incarnation, position in connection.execute(
                "SELECT created, changing, incarnation, last_position FROM connections"
            )
        ],
        incarnations=[
            Incarnation(incarnation, worker, stored, record, bool(ended))
            for incarnation, worker, stored, record, ended in connection.execute(
                "SELECT incarnation, worker, stored, record, ended FROM incarnations"
            )
        ],
        set_aside=set_aside,
    )
    return meta["epoch"], marks, recovered


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
        private_files.make(temporary)
        shutil.copyfile(copy, temporary)
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
