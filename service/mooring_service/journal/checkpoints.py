"""Checkpoints of the SQLite journal: on a thread and a connection of their own, so that no commit waits for the disk.

A commit appends to the write-ahead log; a checkpoint brings the log to the disk and copies it into the database. Most of that goes on
beside the commits. Only the last bit, after which the log begins anew, needs a moment in which nothing is written: the writer's
`turn` is taken for it, when all but what was committed in the last milliseconds is on the disk already.

Two connections that checkpoint and write meet a fault of SQLite before 3.51.3 (a log that is reset under a second checkpoint,
sqlite.org/wal.html#walresetbug), so `check_sqlite` refuses older ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from mooring_service.journal.journal import JournalUnusable

PAGE_BYTES = 4096
STEP_PAGES = 4_000  # of the log, from one checkpoint to the next
RESTART_PAGES = 4_000  # from here on the log has to begin anew: 16 MiB
FULL_PAGES = 2 * RESTART_PAGES  # the disk does not keep up: nothing more is written
RETRY_S = 1.0
END_S = 5.0
LEAST_SQLITE = (3, 51, 3)

log = logging.getLogger("mooring.journal")


def check_sqlite() -> None:
    """Raise `JournalUnusable` if the SQLite in use is one that two connections can damage a journal with."""
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split(".")))[:3] < LEAST_SQLITE:
        least = ".".join(map(str, LEAST_SQLITE))
        raise JournalUnusable(f"apsw uses SQLite {version}, which can damage a journal; at least {least} is needed")


class Checkpoints:
    """The thread that checkpoints. `start` and `end` are the journal's, `turn` the writer's.

    Attributes:
        pages: Of the log, as of the last commit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._wanted_pages = 0  # a log of so many pages is checkpointed
        self._held = False  # by a reader that looks at an old state: the log cannot begin anew just now
        self._failure: str | None = None
        self.pages = 0

    def start(self, writer: apsw.Connection) -> None:
        """Begin, for what `writer` commits from now on, and what the log holds."""
        writer.wal_autocheckpoint(0)
        writer.set_wal_hook(self._committed)
        self._thread = threading.Thread(target=self._run, name="journal-checkpoints", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Bring the log into the database, if that can be, and end; blocks. All other connections are closed by now."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(END_S)

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        """Take how long the log is now; called by SQLite, on the writer's thread."""
        self.pages = pages
        if pages >= self._wanted_pages:
            with self._changed:
                self._changed.notify_all()
        return apsw.SQLITE_OK

    @contextlib.contextmanager
    def turn(self, timeout_s: float) -> Iterator[None]:
        """Wait until something may be written, and have the log begin anew behind it, if it is to.

        Raises:
            apsw.BusyError: If the disk does not keep up.
        """
        if self.pages >= FULL_PAGES:
            with self._changed:
                if not self._changed.wait_for(lambda: self.pages < FULL_PAGES or self._held, timeout_s):
                    raise apsw.BusyError(self._failure or "the disk does not keep up")
        if not self._turn.acquire(timeout=timeout_s):
            raise apsw.BusyError(self._failure or "the disk does not keep up")
        try:
            yield
        finally:
            self._turn.release()

    def _run(self) -> None:
        connection, keeper = apsw.Connection(str(self._path)), apsw.Connection(str(self._path))
        # Closed behind the connections only: with it go the locks that SQLite holds on the same file in this process.
        file = os.open(self._path, os.O_RDONLY)
        try:
            connection.set_busy_timeout(0)
            connection.wal_autocheckpoint(0)
            connection.execute("PRAGMA synchronous = NORMAL").fetchall()
            while True:
                try:
                    self._checkpoint(connection, keeper, file)
                    self._failure = None
                except (apsw.Error, OSError) as exc:
                    if self._failure is None:
                        log.error("the journal's log cannot be brought into the database: %s", exc)
                    self._failure = f"checkpoint: {exc}"
                    self._wanted_pages = 0
                with self._changed:
                    self._changed.notify_all()
                    if self._failure is not None:
                        self._changed.wait_for(lambda: self._ending, RETRY_S)
                    self._changed.wait_for(lambda: self._ending or self.pages >= self._wanted_pages)
                    if self._ending:
                        return
        finally:
            try:
                keeper.close()
                connection.close()
            except apsw.Error as exc:
                log.warning("the journal was not closed cleanly: %s", exc)
            os.close(file)

    def _checkpoint(self, connection: apsw.Connection, keeper: apsw.Connection, file: int) -> None:
        _look(keeper)
        try:
            pages, done = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._wanted_pages = pages + STEP_PAGES
            if not pages or done < pages < RESTART_PAGES:
                return
            # SQLite waits for the database's own pages only once the log is done: they are on the disk before the turn is taken.
            os.fdatasync(file)
            with self._turn:
                behind = self.pages > pages
                if behind:
                    _look(keeper)
            if behind:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            with self._turn:
                _look_away(keeper)
                try:
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)
                    connection.execute(
                        "UPDATE meta SET value = ? WHERE name = 'checkpoint_ms'", (time.time_ns() // 1_000_000,)
                    )
                except apsw.BusyError:
                    self._held = True
                    return
                self.pages = 0
                self._held = False
                self._wanted_pages = STEP_PAGES
        finally:
            _look_away(keeper)


def _look(keeper: apsw.Connection) -> None:
    """Hold a look at what is committed now: nobody begins the log anew meanwhile.

    Whoever writes first to a log of which all is in the database begins it anew, and waits until its head is on the disk. That must
    be no commit.
    """
    _look_away(keeper)
    keeper.execute("BEGIN; SELECT count(*) FROM meta").fetchall()


def _look_away(keeper: apsw.Connection) -> None:
    if keeper.in_transaction:
        keeper.execute("COMMIT")
