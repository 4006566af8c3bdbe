"""Where hooks are, as the SQLite journal keeps it: the table, what it held, and the jobs of the writer that change it."""

from __future__ import annotations

from collections.abc import Callable

import apsw

from mooring_service.journal.journal import StoredHook

HOOKS = """
CREATE TABLE hooks (
    name TEXT PRIMARY KEY, generation INTEGER NOT NULL, epoch TEXT NOT NULL, position INTEGER NOT NULL,
    state BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""
"""One row for each hook. It cannot be derived from events; `file.restore` leaves it as it is, so that it names its old epoch."""

_Job = Callable[[apsw.Connection], None]


def stored_hooks(connection: apsw.Connection) -> list[StoredHook]:
    """Return every place."""
    return [
        StoredHook(*row) for row in connection.execute("SELECT name, generation, epoch, position, state FROM hooks")
    ]


def save_hook(hook: StoredHook) -> _Job:
    """Keep a place."""

    def save(connection: apsw.Connection) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO hooks VALUES (?, ?, ?, ?, ?)",
            (hook.name, hook.generation, hook.epoch, hook.position, hook.state),
        )

    return save


def forget_hook(name: str) -> _Job:
    """Drop a place."""

    def forget(connection: apsw.Connection) -> None:
        connection.execute("DELETE FROM hooks WHERE name = ?", (name,))

    return forget
