"""Where the kept record of the SQLite journal begins, and what of it has to go: a little at a time, between the commits."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from mooring_service.config import JournalConfig
from mooring_service.journal.batch import batch_size

PRUNE_EVERY_S = 1.0
PRUNE_IDLE_S = 60.0  # where nothing is written: what has aged is dropped no later
ANSWER_BYTES = 200  # what a key and its claim count for, besides the answer
ANSWERS_SHARE = 4  # answers take no more than one part in so many of `max_bytes`
# At most so much in one transaction: about two milliseconds.
PRUNE_ANSWERS = 100
PRUNE_BATCHES = 500
PRUNE_BYTES = 512 * 1024
PRUNE_INDEX = 1_000


class Marks(msgspec.Struct):
    """Where the record begins and ends. A transaction works on a copy, which counts once it is committed."""

    next_position: int = 1
    total_bytes: int = 0
    first: int = 1
    gone_bytes: int = 0
    answer_bytes: int = 0
    next_ask: int = 1
    oldest_ms: int | None = None


def look_at_last(connection: apsw.Connection, marks: Marks) -> None:
    """Have `marks` say where the record ends. In `meta` it stands as it was when something was last dropped."""
    row = connection.execute("SELECT last, total FROM batches ORDER BY first DESC LIMIT 1").fetchone()
    if row is not None:
        marks.next_position, marks.total_bytes = row[0] + 1, row[1]


def look_at_first(connection: apsw.Connection, marks: Marks) -> None:
    """Have `marks` say where the kept record begins, and what the bytes before it were."""
    row = connection.execute(
        "SELECT first, total, length(bodies), length(kinds), time_ms FROM batches ORDER BY first LIMIT 1"
    ).fetchone()
    if row is None:
        marks.first, marks.gone_bytes, marks.oldest_ms = marks.next_position, marks.total_bytes, None
    else:
        marks.first, marks.gone_bytes, marks.oldest_ms = row[0], row[1] - batch_size(row[2], row[3]), row[4]
    # Where positions have holes: what lies before the oldest row was dropped up to there, and the rest never was.
    marks.first = connection.execute(
        "SELECT coalesce((SELECT value FROM meta WHERE name = 'first'), ?)", (marks.first,)
    ).get


def prune(connection: apsw.Connection, marks: Marks, config: JournalConfig, now_ms: int, upto: int) -> bool:
    """Drop some of the oldest batches above the bounds; what is gone shows as a `gap`. True: there is more to drop.

    The answers that Idempotency-Keys stand for count as well, and the oldest of them go above a share of `max_bytes` of their own.

    Args:
        upto: What is behind this position still has to reach the tables that are made from it, and stays for now.
    """
    more = _prune_answers(connection, marks, config.max_bytes // ANSWERS_SHARE)
    return _prune_batches(connection, marks, config, now_ms, upto) or _prune_index(connection, marks.first) or more


def above_bounds(marks: Marks, config: JournalConfig, now_ms: int) -> bool:
    """Say whether the oldest batch has to go; the newest of all only goes when it is too old."""
    return (
        marks.next_position - marks.first > config.max_events
        or marks.total_bytes - marks.gone_bytes + marks.answer_bytes > config.max_bytes
        or (marks.oldest_ms is not None and is_too_old(marks.oldest_ms, config, now_ms))
    )


def is_too_old(time_ms: int, config: JournalConfig, now_ms: int) -> bool:
    """Say whether what was written at `time_ms` has to go for its age."""
    return time_ms < now_ms - int(config.max_age * 1000)


def _prune_batches(connection: apsw.Connection, marks: Marks, config: JournalConfig, now_ms: int, upto: int) -> bool:
    if not above_bounds(marks, config, now_ms):
        return False
    left = msgspec.structs.replace(marks)
    oldest: list[Any] = connection.execute(
        "SELECT last, time_ms, total FROM batches ORDER BY first LIMIT ?", (PRUNE_BATCHES + 1,)
    ).fetchall()
    more = False
    for count, (last, time_ms, total) in enumerate(oldest):
        left.oldest_ms = time_ms
        if not above_bounds(left, config, now_ms):
            break
        if last + 1 == marks.next_position and not is_too_old(time_ms, config, now_ms):
            break  # a batch that is by itself above a bound: without it nothing would be kept
        if last > upto or count == PRUNE_BATCHES or left.gone_bytes - marks.gone_bytes >= PRUNE_BYTES:
            more = True
            break
        left.first, left.gone_bytes = last + 1, total
    if left.first > marks.first:
        connection.execute("DELETE FROM batches WHERE first < ?", (left.first,))
        connection.executemany(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(marks.next_position, "next_position"), (marks.total_bytes, "total_bytes"), (left.first, "first")],
        )
    look_at_first(connection, marks)
    return more


def _prune_index(connection: apsw.Connection, first: int) -> bool:
    """Drop some of the index of what is before `first`; True: there is more."""
    segment = connection.execute("SELECT last FROM segments WHERE last < ? ORDER BY last LIMIT 1", (first,)).get
    if segment is None:
        return False
    border = connection.execute(
        "SELECT connection, first FROM segment_connections WHERE segment = ? ORDER BY connection, first LIMIT 1 OFFSET ?",
        (segment, PRUNE_INDEX),
    ).fetchone()
    if border is not None:
        connection.execute(
            "DELETE FROM segment_connections WHERE segment = ? AND (connection, first) < (?, ?)", (segment, *border)
        )
    else:
        connection.execute("DELETE FROM segment_connections WHERE segment = ?", (segment,))
        connection.execute("DELETE FROM segment_kinds WHERE segment = ?", (segment,))
        connection.execute("DELETE FROM segments WHERE last = ?", (segment,))
    return True


def _prune_answers(connection: apsw.Connection, marks: Marks, max_bytes: int) -> bool:
    before = -1
    for _ in range(PRUNE_ANSWERS):
        marks.answer_bytes = connection.execute("SELECT value FROM meta WHERE name = 'answer_bytes'").get
        if marks.answer_bytes <= max_bytes or marks.answer_bytes == before:
            return False
        before = marks.answer_bytes
        # One that has no answer is of a request that runs.
        connection.execute(
            "DELETE FROM answers WHERE key ="
            " (SELECT key FROM answers WHERE answer IS NOT NULL ORDER BY created_at_ms LIMIT 1)"
        )
    return True
