"""What the SQLite journal keeps beside its record: connection ids, worker processes, Idempotency-Keys. Each is a job of the writer.

A job runs inside the writer's next transaction, in the order of the queue, on the writer's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import apsw

from mooring import private_files
from mooring_service.journal.clock import AgeClock
from mooring_service.journal.journal import StoredAnswer

Result = TypeVar("Result")
Job = Callable[[apsw.Connection], Result]


def allot_ids(count: int, beside: Path, *, synced: bool) -> Job[int]:
    """Reserve `count` connection ids for ever; the first of them.

    Args:
        beside: A file that outlives a corrupt database, so that no id is given out twice.
        synced: It must survive the machine's death, too.
    """

    def allot(connection: apsw.Connection) -> int:
        row = connection.execute("SELECT value FROM meta WHERE name = 'next_id'").fetchone()
        try:
            least = int(beside.read_text())
        except (OSError, ValueError):
            least = 1
        first = max(int(row[0]) if row else 1, least)
        private_files.replace(beside, f"{first + count}\n".encode(), synced=synced)
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('next_id', ?)", (first + count,))
        return first

    return allot


def save_incarnation(incarnation: str, worker: str, record: bytes, *, ended: bool, stands: bool) -> Job[None]:
    """Keep what identifies a worker process, or that it has ended; of one worker at most one process `stands`."""

    def save(connection: apsw.Connection) -> None:
        connection.execute("UPDATE incarnations SET stands = 0 WHERE worker = ? AND stands", (worker,))
        connection.execute(
            "INSERT INTO incarnations VALUES (?, ?, 0, ?, ?, ?) ON CONFLICT (incarnation) DO UPDATE"
            " SET record = excluded.record, ended = max(ended, excluded.ended), stands = excluded.stands",
            (incarnation, worker, record, int(ended), int(stands)),
        )

    return save


def find_key(connection: apsw.Connection, key: str) -> StoredAnswer | None:
    """Return what an Idempotency-Key stands for; None if it is not known."""
    row = connection.execute(
        "SELECT key, fingerprint, created_at_ms, answer FROM answers WHERE key = ?", (key,)
    ).fetchone()
    return None if row is None else StoredAnswer(*row)


def claim_key(key: str, fingerprint: bytes, clock: AgeClock, age_ms: int) -> Job[StoredAnswer | None]:
    """Claim an Idempotency-Key: None when it is new and now ours, else what it stands for. Older ones than `age_ms` go."""

    def claim(connection: apsw.Connection) -> StoredAnswer | None:
        time_ms = clock.now_ms()
        connection.execute("DELETE FROM answers WHERE created_at_ms < ?", (time_ms - age_ms,))
        known = find_key(connection, key)
        if known is not None:
            return known
        connection.execute("INSERT INTO answers VALUES (?, ?, ?, NULL)", (key, fingerprint, time_ms))
        return None

    return claim


def answer_key(key: str, answer: bytes | None) -> Job[None]:
    """Store the answer of a claimed key; None gives the key up."""

    def store(connection: apsw.Connection) -> None:
        if answer is None:
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))
        else:
            connection.execute("UPDATE answers SET answer = ? WHERE key = ?", (answer, key))

    return store
