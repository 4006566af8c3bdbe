"""The file of the SQLite journal: opening, checking, migrating, setting aside; what it held; copying it, and restoring a copy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import threading
import time
from pathlib import Path

import apsw
import msgspec

from mooring import private_files
from mooring.errors import JournalUnavailable
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.checkpoints import PAGE_BYTES, check_sqlite
from mooring_service.journal.derived import Derived
from mooring_service.journal.journal import Incarnation, JournalUnusable, Recovered, StoredAsk, StoredConnection
from mooring_service.journal.places import HOOKS, stored_hooks
from mooring_service.journal.retention import ANSWER_BYTES, Marks, look_at_first, look_at_last

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
INSERT INTO meta VALUES ('epoch', lower(hex(randomblob(4)))), ('next_position', 1), ('total_bytes', 0);
"""
"""The first version. A new file goes through all versions, as an old one does."""

MIGRATIONS = (
    # 2: what code in workers asks for is kept until it is done; a worker that has no process just now keeps its name (`stands`);
    # the answers of Idempotency-Keys are counted.
    f"""
CREATE TABLE asks (
    id INTEGER PRIMARY KEY, worker TEXT NOT NULL, incarnation TEXT NOT NULL, number INTEGER NOT NULL, ask BLOB NOT NULL) STRICT;
ALTER TABLE incarnations ADD COLUMN stands INTEGER NOT NULL DEFAULT 0;
INSERT INTO meta SELECT 'next_ask', 1 UNION ALL
    SELECT 'answer_bytes', coalesce(sum({ANSWER_BYTES} + coalesce(length(answer), 0)), 0) FROM answers;
CREATE TRIGGER answer_claimed AFTER INSERT ON answers BEGIN
    UPDATE meta SET value = value + {ANSWER_BYTES} + coalesce(length(new.answer), 0) WHERE name = 'answer_bytes'; END;
CREATE TRIGGER answer_stored AFTER UPDATE OF answer ON answers BEGIN
    UPDATE meta SET value = value + coalesce(length(new.answer), 0) - coalesce(length(old.answer), 0)
    WHERE name = 'answer_bytes'; END;
CREATE TRIGGER answer_gone AFTER DELETE ON answers BEGIN
    UPDATE meta SET value = value - {ANSWER_BYTES} - coalesce(length(old.answer), 0) WHERE name = 'answer_bytes'; END;
""",
    # 3: the row is the commit (`transaction`): events of several workers may share it, and what changes beside them rides in it, or
    # in `changes` where there is no event; the other tables follow (`derived`). Rows are found by segments (`compaction`): all that
    # there is is one, of which the kinds are not known.
    """
ALTER TABLE batches ADD COLUMN worker_of BLOB;
ALTER TABLE batches ADD COLUMN changes BLOB;
CREATE TABLE changes (id INTEGER PRIMARY KEY, after INTEGER NOT NULL, changes BLOB NOT NULL) STRICT;
CREATE TABLE segments (last INTEGER PRIMARY KEY, kinds INTEGER NOT NULL) STRICT;
CREATE TABLE segment_connections (
    segment INTEGER NOT NULL, connection INTEGER NOT NULL, first INTEGER NOT NULL,
    PRIMARY KEY (segment, connection, first)) STRICT, WITHOUT ROWID;
CREATE TABLE segment_kinds (
    segment INTEGER NOT NULL, kind INTEGER NOT NULL, first INTEGER NOT NULL,
    PRIMARY KEY (segment, kind, first)) STRICT, WITHOUT ROWID;
INSERT INTO segments SELECT last, 0 FROM batches ORDER BY first DESC LIMIT 1;
INSERT INTO segment_connections SELECT (SELECT last FROM segments), connection, first FROM batch_connections;
DROP TABLE batch_connections;
INSERT INTO meta SELECT 'derived', value - 1 FROM meta WHERE name = 'next_position' UNION ALL SELECT 'checkpoint_ms', 0;
""",
    # 4: hooks have places.
    HOOKS,
)
"""SQL that brings a file from each version to the next one."""

SCHEMA_VERSION = 1 + len(MIGRATIONS)
LAST_TIME = "SELECT time_ms FROM batches ORDER BY first DESC LIMIT 1"
CHECK_S = 1.0  # `quick_check` may take so long before the start; a larger file is checked on behind it

log = logging.getLogger("mooring.journal")
_unpack_created = msgspec.msgpack.Decoder(ConnectionCreated).decode
_unpack_update = msgspec.msgpack.Decoder(ConnectionUpdate).decode


class OpenFile(msgspec.Struct, frozen=True):
    """An open file and what it held.

    `checked` says whether all of it was looked at, `marks` where its record begins and ends, `last_ms` when it was last written to,
    `derived` what is not yet in its tables.
    """

    connection: apsw.Connection
    checked: bool
    last_ms: int
    epoch: str
    marks: Marks
    derived: Derived
    recovered: Recovered


def open_file(path: Path, level: str) -> OpenFile:
    """Open the journal's file for writing; check it, migrate it, set a corrupt one aside; return what it held.

    Raises:
        JournalUnusable: If it is of a later version, or the SQLite in use is too old.
        JournalUnavailable: If it cannot be opened just now.
    """
    check_sqlite()
    try:
        finding = read_finding(path)
        if finding is None:
            try:
                return _open(path, level, None)
            except (apsw.CorruptError, apsw.NotADBError) as exc:
                finding = str(exc)
        return _open(path, level, _set_aside(path, finding))
    except (apsw.Error, OSError) as exc:
        raise JournalUnavailable(f"{path}: {exc}") from exc


def _open(path: Path, level: str, set_aside: str | None) -> OpenFile:
    private_files.make(path)
    with contextlib.ExitStack() as undo:
        connection = apsw.Connection(str(path), statementcachesize=64)
        undo.callback(connection.close)
        connection.set_busy_timeout(1_000)
        pragma(connection, page_size=PAGE_BYTES, journal_mode="WAL")
        synchronous = "FULL" if level == "power" else "NORMAL"
        # In memory: what undoes a statement of many rows would else be a file in the folder for temporary ones, which may be full.
        pragma(
            connection,
            synchronous=synchronous,
            wal_autocheckpoint=0,
            mmap_size=0,
            cache_size=-8000,
            temp_store="MEMORY",
        )
        checked = _check(connection)
        _migrate(path, connection)
        last_ms = connection.execute(LAST_TIME).get or 0
        opened = OpenFile(connection, checked, last_ms, *_recover(connection, set_aside))
        undo.pop_all()
    return opened


def _finding_of(path: Path) -> Path:
    return Path(f"{path}.damaged")


def read_finding(path: Path) -> str | None:
    """Return what is known to be wrong with the file; None when nothing is."""
    try:
        return _finding_of(path).read_text(errors="replace").strip() or "it is damaged"
    except OSError:
        return None


def write_finding(path: Path, finding: str) -> None:
    """Write down that the file is damaged, once: it is set aside at the next start, which need not find it again."""
    if read_finding(path) is not None:
        return
    log.error("the journal %s is damaged: %s; it will be set aside at the next start", path, finding)
    try:
        private_files.write_text(_finding_of(path), f"{finding}\n")
    except OSError as exc:
        log.error("that cannot be written down: %s", exc)


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
    for suffix in ("", "-wal", "-shm", ".damaged"):
        old = Path(f"{path}{suffix}")
        if old.exists():
            old.rename(f"{name}{suffix}")
    log.error("the journal %s is corrupt (%s): set aside as %s; a new epoch begins", path, reason, name)
    return name


def check_version(path: Path) -> None:
    """Check that SQLite is new enough, and that this program knows the version of a file, which is not opened as a database.

    What is no journal has no version. (One that stands in the log beside it alone is not seen: SQLite brings it into the file at each orderly end.)

    Raises:
        JournalUnusable: If a later mooring has written it, or the SQLite in use is too old.
    """
    check_sqlite()
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError:
        return
    if head.startswith(b"SQLite format 3\0"):
        _check_version(path, int.from_bytes(head[60:64], "big"))  # sqlite.org/fileformat2.html, 1.3: the user version


def _check_version(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise JournalUnusable(
            f"{path} was written by a later mooring (schema {version}, this one knows {SCHEMA_VERSION}); "
            "start that one, or another state directory"
        )


def _migrate(path: Path, connection: apsw.Connection) -> None:
    version = connection.execute("PRAGMA user_version").get
    if version == SCHEMA_VERSION:
        return  # nothing is written: a full disk takes nothing, and need not
    _check_version(path, version)
    with connection:
        for step in (SCHEMA, *MIGRATIONS)[version:]:
            connection.execute(step)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def pragma(connection: apsw.Connection, **values: str | int) -> None:
    """Set pragmas of `connection`."""
    for name, value in values.items():
        connection.execute(f"PRAGMA {name} = {value}").fetchall()


def _recover(connection: apsw.Connection, set_aside: str | None) -> tuple[str, Marks, Derived, Recovered]:
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    marks = Marks(
        next_position=meta["next_position"],
        total_bytes=meta["total_bytes"],
        answer_bytes=meta["answer_bytes"],
        next_ask=meta["next_ask"],
    )
    look_at_last(connection, marks)
    look_at_first(connection, marks)
    derived = Derived()
    derived.recover(connection, marks)
    # What is not in the tables is put there to be read, and taken out again: a start writes nothing, so a full disk may have it.
    pragma(connection, cache_spill="OFF")
    connection.execute("BEGIN")
    try:
        derived.apply(connection)
        recovered = _read_tables(connection, marks, set_aside)
    finally:
        connection.execute("ROLLBACK")
        pragma(connection, cache_spill="ON")
    return meta["epoch"], marks, derived, recovered


def _read_tables(connection: apsw.Connection, marks: Marks, set_aside: str | None) -> Recovered:
    return Recovered(
        connections=[
            StoredConnection(
                _unpack_created(created),
                _unpack_update(changing),
                incarnation,
                position,
                time_ms or marks.oldest_ms or 0,
            )
            for created, changing, incarnation, position, time_ms in connection.execute(
                "SELECT created, changing, incarnation, last_position, (SELECT time_ms FROM batches"
                " WHERE first <= last_position ORDER BY first DESC LIMIT 1) FROM connections"
            )
        ],
        incarnations=[
            Incarnation(incarnation, worker, stored, record, bool(ended), bool(stands))
            for incarnation, worker, stored, record, ended, stands in connection.execute(
                "SELECT incarnation, worker, stored, record, ended, stands FROM incarnations"
            )
        ],
        asks=[StoredAsk(*row) for row in connection.execute("SELECT id, worker, ask FROM asks ORDER BY id")],
        hooks=stored_hooks(connection),
        set_aside=set_aside,
    )


async def copy_into(path: Path, target: Path) -> None:
    """Write a consistent copy of a journal that may be in use to the new file `target`. Cancelled, it gives up.

    Either way nobody writes to `target` any more once this has ended.

    Raises:
        JournalUnavailable: If it cannot be made.
    """
    given_up = threading.Event()

    def copy() -> None:
        private_files.make(target)
        connection = apsw.Connection(str(path))
        try:
            connection.set_busy_timeout(5_000)
            connection.set_progress_handler(given_up.is_set, 100)
            connection.execute("VACUUM INTO ?", (str(target),)).fetchall()
        finally:
            connection.close()

    copying = asyncio.ensure_future(asyncio.to_thread(copy))
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        given_up.set()
        await asyncio.wait({copying})
        copying.exception()  # that it was interrupted
        raise
    except (apsw.Error, OSError) as exc:
        raise JournalUnavailable(f"the copy failed: {exc}") from exc


def restore(copy: Path, path: Path) -> list[str]:
    """Make `path` the journal that continues from the backup `copy`, under a new epoch. The caller holds the lock.

    Processes of that time are forgotten; connections that were open then get their ``onTerminate`` at the next start.
    Return the names of the hooks whose places it holds; their definitions are no part of a journal.

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
                connection.execute("DELETE FROM asks")
            names = [hook.name for hook in stored_hooks(connection)]
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        finally:
            connection.close()
        temporary.replace(path)
        private_files.sync_folder(path.parent)
        return names
    except (apsw.Error, OSError) as exc:
        raise JournalUnavailable(f"{copy} cannot be restored: {exc}") from exc
    finally:
        temporary.unlink(missing_ok=True)
