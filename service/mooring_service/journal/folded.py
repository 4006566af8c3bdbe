"""`cluster.db` beside its events: how far the log was read, and what was folded of it. Opaque pairs of bytes, saved with the events.

It makes a journal's file one whose positions have holes: `first` in `meta` says where it begins, one behind the newest row that was dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import apsw

_TABLE = """
CREATE TABLE IF NOT EXISTS folded (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB, PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('first', 1), ('applied', 0);
"""

Pair = tuple[str, str]


class Folded(NamedTuple):
    """What was there at the start: the last message of the log that was read, and pairs (kind, key) → value."""

    applied: int
    values: dict[Pair, bytes]


def open_folded(connection: apsw.Connection) -> Folded:
    """Make the table, or return what is in it."""
    with connection:
        connection.execute(_TABLE)
    values = {(kind, key): value for kind, key, value in connection.execute("SELECT kind, key, value FROM folded")}
    return Folded(connection.execute("SELECT value FROM meta WHERE name = 'applied'").get, values)


def save_folded(connection: apsw.Connection, applied: int, changes: Mapping[Pair, bytes | None]) -> None:
    """Keep how far the log was read, and what has changed with it (None: it is gone)."""
    connection.execute("UPDATE meta SET value = ? WHERE name = 'applied'", (applied,))
    for (kind, key), value in changes.items():
        if value is None:
            connection.execute("DELETE FROM folded WHERE kind = ? AND key = ?", (kind, key))
        else:
            connection.execute("INSERT OR REPLACE INTO folded VALUES (?, ?, ?)", (kind, key, value))
