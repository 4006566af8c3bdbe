"""Where the kept record of the SQLite journal begins, and what of it has to go."""

from __future__ import annotations

from array import array
from typing import Any

import apsw
import msgspec

from mooring_service.config import JournalConfig
from mooring_service.journal.batch import batch_size

PRUNE_EVERY_S = 1.0
PRUNE_IDLE_S = 60.0  # where nothing is written: what has aged is dropped no later
ANSWER_BYTES = 200  # what a key and its claim count for, besides the answer
ANSWERS_SHARE = 4  # answers take no more than one part in so many of `max_bytes`
PRUNE_ANSWERS = 1_000  # at most so many in one transaction
PRUNE_BATCHES = 2_000  # at most so many in one transaction


class Marks(msgspec.Struct):
    """Where the record begins and ends. A transaction works on a copy, which counts once it is committed."""

    next_position: int = 1
    total_bytes: int = 0
    first: int = 1
    gone_bytes: int = 0
    answer_bytes: int = 0
    next_ask: int = 1
    oldest_ms: int | None = None


def look_at_first(connection: apsw.Connection, marks: Marks) -> None:
    """Have `marks` say where the kept record begins, and what the bytes before it were."""
    row = connection.execute(
        "SELECT first, total, length(bodies), length(kinds), time_ms FROM batches ORDER BY first LIMIT 1"
    ).fetchone()
    if row is None:
        marks.first, marks.gone_bytes, marks.oldest_ms = marks.next_position, marks.total_bytes, None
    else:
        marks.first, marks.gone_bytes, marks.oldest_ms = row[0], row[1] - batch_size(row[2], row[3]), row[4]


def prune(connection: apsw.Connection, marks: Marks, config: JournalConfig, now_ms: int) -> bool:
    """Drop the oldest batches above the bounds; what is gone shows as a `gap`. True: there is more to drop.

    The answers that Idempotency-Keys stand for count as well, and the oldest of them go above a share of `max_bytes` of their own.
    """
    _prune_answers(connection, marks, config.max_bytes // ANSWERS_SHARE)
    oldest_ms = now_ms - int(config.max_age * 1000)

    def too_much(first: int, gone_bytes: int, time_ms: int | None) -> bool:
        return (
            marks.next_position - first > config.max_events
            or marks.total_bytes - gone_bytes + marks.answer_bytes > config.max_bytes
            or (time_ms is not None and time_ms < oldest_ms)
        )

    if not too_much(marks.first, marks.gone_bytes, marks.oldest_ms):
        return False
    first, gone_bytes = marks.first, marks.gone_bytes
    gone: list[tuple[int, int]] = []
    count = 0
    oldest: list[Any] = connection.execute(
        "SELECT first, last, time_ms, total, connections FROM batches ORDER BY first LIMIT ?", (PRUNE_BATCHES,)
    ).fetchall()
    for at, last, time_ms, total, connections in oldest:
        if not too_much(first, gone_bytes, time_ms):
            break
        first, gone_bytes, count = last + 1, total, count + 1
        gone += [(who, at) for who in set(array("q", connections)) if who]
    connection.execute("DELETE FROM batches WHERE first < ?", (first,))
    connection.executemany("DELETE FROM batch_connections WHERE connection = ? AND first = ?", gone)
    look_at_first(connection, marks)
    return count == PRUNE_BATCHES


def _prune_answers(connection: apsw.Connection, marks: Marks, max_bytes: int) -> None:
    before = -1
    for _ in range(PRUNE_ANSWERS):
        marks.answer_bytes = connection.execute("SELECT value FROM meta WHERE name = 'answer_bytes'").get
        if marks.answer_bytes <= max_bytes or marks.answer_bytes == before:
            return
        before = marks.answer_bytes
        # One that has no answer is of a request that runs.
        connection.execute(
            "DELETE FROM answers WHERE key ="
            " (SELECT key FROM answers WHERE answer IS NOT NULL ORDER BY created_at_ms LIMIT 1)"
        )
