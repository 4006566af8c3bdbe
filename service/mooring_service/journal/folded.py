"""`cluster.db` beside its events: how far the log was read, and what was folded of it. Opaque pairs of bytes, saved with the events.

It makes a journal's file one whose positions have holes: `first` in `meta` says where it begins, one behind the newest row that was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from mooring_service.journal.journal import StoredAnswer

_TABLE = """
CREATE TABLE IF NOT EXISTS folded (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB, PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('first', 1), ('applied', 0);
"""

HOLE = "hole"  # the pair of one: the last position before it → the last one in it

Pair = tuple[str, str]
Hole = tuple[int, int]


class Folded(NamedTuple):
    """What was there at the start: the last message of the log that was read, and pairs (kind, key) → value."""

    applied: int
    values: dict[Pair, bytes]


class KeyChange(NamedTuple):
    """What becomes of an Idempotency-Key: claimed (`fingerprint`, by the claimer's clock), answered, or, with neither, gone."""

    key: str
    fingerprint: bytes | None = None
    time_ms: int = 0
    answer: bytes | None = None


class FoldedCopy(msgspec.Struct, frozen=True, array_like=True):
    """The same for another node, with what Idempotency-Keys stand for: (kind, key, value). By place, new fields go last."""

    applied: int
    rows: list[tuple[str, str, bytes]]
    answers: list[StoredAnswer]

    @property
    def folded(self) -> Folded:
        """What was folded."""
        return Folded(self.applied, {(kind, key): value for kind, key, value in self.rows})


def open_folded(connection: apsw.Connection) -> Folded:
    """Make the table, or return what is in it."""
    with connection:
        connection.execute(_TABLE)
    values = {(kind, key): value for kind, key, value in connection.execute("SELECT kind, key, value FROM folded")}
    return Folded(connection.execute("SELECT value FROM meta WHERE name = 'applied'").get, values)


def save_keys(connection: apsw.Connection, keys: Sequence[KeyChange]) -> None:
    """Keep what has become of keys, in the table of the answers."""
    for key, fingerprint, time_ms, answer in keys:
        if answer is not None:
            connection.execute("UPDATE answers SET answer = ? WHERE key = ?", (answer, key))
            continue
        connection.execute("DELETE FROM answers WHERE key = ?", (key,))
        if fingerprint is not None:
            connection.execute("INSERT INTO answers VALUES (?, ?, ?, NULL)", (key, fingerprint, time_ms))


def save_folded(connection: apsw.Connection, applied: int, changes: Mapping[Pair, bytes | None]) -> None:
    """Keep how far the log was read, and what has changed with it (None: it is gone)."""
    connection.execute("UPDATE meta SET value = ? WHERE name = 'applied'", (applied,))
    for (kind, key), value in changes.items():
        if value is None:
            connection.execute("DELETE FROM folded WHERE kind = ? AND key = ?", (kind, key))
        else:
            connection.execute("INSERT OR REPLACE INTO folded VALUES (?, ?, ?)", (kind, key, value))


def holes_of(values: Mapping[Pair, bytes]) -> list[Hole]:
    """Return what this file was never told of the log, in its order."""
    return sorted((int(key), int(value)) for (kind, key), value in values.items() if kind == HOLE)


def copy_folded(connection: apsw.Connection) -> FoldedCopy:
    """Return all that was folded; the file's own holes are nobody else's."""
    rows: list[Any] = connection.execute("SELECT kind, key, value FROM folded WHERE kind <> ?", (HOLE,)).fetchall()
    answers: list[Any] = connection.execute("SELECT key, fingerprint, created_at_ms, answer FROM answers").fetchall()
    applied = connection.execute("SELECT value FROM meta WHERE name = 'applied'").get
    return FoldedCopy(applied, rows, [StoredAnswer(*row) for row in answers])


def take_over(connection: apsw.Connection, copy: FoldedCopy) -> None:
    """Have all of a copy, and nothing else, but for the file's own holes."""
    connection.execute("DELETE FROM folded WHERE kind <> ?", (HOLE,))
    connection.execute("DELETE FROM answers")
    save_folded(connection, copy.applied, copy.folded.values)
    connection.executemany(
        "INSERT INTO answers VALUES (?, ?, ?, ?)",
        [(one.key, one.fingerprint, one.created_at_ms, one.answer) for one in copy.answers],
    )
