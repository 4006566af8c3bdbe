"""Small rows of `batches` become large ones behind the commits, and are found by connection and by kind.

A commit of scattered events is a small row, and a row costs the same to read whatever it holds. So rows that follow each other are
joined up to 64 KiB: the same positions, bodies and order. What is joined and will not change any more is indexed, a few
megabytes at a time, as a *segment*: which connections and kinds are in which row. A segment is written in the order of its keys,
behind the one before it: an index by connection alone would touch a page for nearly every event.

What is behind the last segment is looked through (`search`); a reader of an open snapshot sees a row as it was, or joined.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec

from mooring_service.config import JournalConfig
from mooring_service.journal.batch import BatchBuilder, batch_size, ids_of, kinds_of
from mooring_service.journal.derived import Derived
from mooring_service.journal.statements import ROWS, Sliced, Statement

SEGMENT_BYTES = 4 * 1024 * 1024
JOINED_BYTES = 16 * 1024
JOINED_SPAN_MS = 60_000  # from the oldest event of a row to its newest: all of a row is dropped at once
SHARE = 64  # a joined row, and its span, are no more than one part in so many of what is kept at all
STEP_S = 0.001  # where nothing is to be joined: how long to look before others have a turn
INDEX_ROWS = 1_000  # of the index, in one transaction

_ROWS = (
    "SELECT first, last, time_ms, total, length(bodies), worker, connections, kinds,"
    " iif(length(bodies) < ?1, worker_of, NULL)"  # it stands behind the bodies: a large row would be read as a whole
    " FROM batches WHERE first > ?2 AND last <= ?3 ORDER BY first"
)
_INDEX_CONNECTION = f"INSERT INTO segment_connections VALUES {ROWS}"
_INDEX_KIND = f"INSERT INTO segment_kinds VALUES {ROWS}"


class _Row(msgspec.Struct, frozen=True):
    """What is looked at first: all but the bodies."""

    first: int
    last: int
    time_ms: int
    total: int
    body_bytes: int
    worker: str
    connections: bytes
    kinds: bytes
    worker_of: bytes | None

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(self.worker.split("\n")) if self.worker_of is not None else ()


class Compaction:
    """Joins and indexes, a step at a time. Of the writer's thread."""

    def __init__(self, config: JournalConfig, derived: Derived) -> None:
        self._derived = derived
        self._joined_bytes = min(JOINED_BYTES, config.max_bytes // SHARE)
        self._joined_events = config.max_events // SHARE
        self._span_ms = min(JOINED_SPAN_MS, config.max_age * 1000 / SHARE)
        self._indexed = 0  # the last segment ends here
        self._indexed_bytes = 0  # what `total` says there
        self._upto = 0  # up to here rows may be joined now; 0: nothing is being done
        self._upto_bytes = 0
        self._after = 0  # up to here they are as they will stay, and noted for the index
        self._after_bytes = 0
        self._connections: dict[int, array[int]] = {}
        self._kinds: dict[int, array[int]] = {}
        self._writing: Sliced | None = None

    def recover(self, connection: apsw.Connection, gone_bytes: int) -> None:
        """Look where the last segment ends; `gone_bytes` is what `total` says before the first row."""
        self._indexed = connection.execute("SELECT coalesce(max(last), 0) FROM segments").get
        before = "SELECT total FROM batches WHERE first <= ? ORDER BY first DESC LIMIT 1"
        self._indexed_bytes = connection.execute(before, (self._indexed,)).get or gone_bytes

    @property
    def due(self) -> bool:
        """True when there is something to do now."""
        return bool(self._upto) or self._derived.total_bytes - self._indexed_bytes >= SEGMENT_BYTES

    def step(self, connection: apsw.Connection) -> None:
        """Do about a millisecond of it, in a transaction of its own."""
        if self._writing is not None:
            if self._writing.step(connection):
                self._end()
        elif not self._upto:
            self._begin(connection)
        elif not self._join_some(connection):
            if self._after > self._indexed:
                self._writing = Sliced(self._index(), INDEX_ROWS)
            else:  # all of it was dropped meanwhile
                self._after, self._after_bytes = self._upto, self._upto_bytes
                self._end()

    def _begin(self, connection: apsw.Connection) -> None:
        with connection:  # what was written of a segment that was never complete
            connection.execute("DELETE FROM segment_connections WHERE segment > ?", (self._indexed,))
            connection.execute("DELETE FROM segment_kinds WHERE segment > ?", (self._indexed,))
        self._upto, self._upto_bytes = self._derived.upto, self._derived.total_bytes
        self._after, self._after_bytes = self._indexed, self._indexed_bytes

    def _end(self) -> None:
        self._indexed, self._indexed_bytes, self._upto = self._after, self._after_bytes, 0
        self._connections, self._kinds, self._writing = {}, {}, None

    def _join_some(self, connection: apsw.Connection) -> bool:
        """Go on behind `_after`; False when there is nothing more to do up to `_upto`."""
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline:
            run, complete = self._next_run(connection)
            # What still fits into the last row comes with the next segment, unless there is nothing else in this one.
            if not run or not (complete or self._after == self._indexed):
                return False
            if len(run) > 1:
                with connection:
                    _join(connection, run)
            self._note(run)
            if len(run) > 1:
                break
        return True

    def _next_run(self, connection: apsw.Connection) -> tuple[list[_Row], bool]:
        """Return the next rows that are to be one, and whether nothing more would fit."""
        run: list[_Row] = []
        size = events = 0
        workers: set[str] = set()
        rows = connection.execute(_ROWS, (self._joined_bytes, self._after, self._upto))
        try:
            for values in rows:
                row = _Row(*values)
                size += batch_size(row.body_bytes, len(row.kinds))
                events += len(row.kinds)
                workers.update(row.workers or (row.worker,))
                if run and (
                    row.first != run[-1].last + 1
                    or size > self._joined_bytes
                    or events > self._joined_events
                    or row.time_ms - run[0].time_ms > self._span_ms
                    or len(workers) > BatchBuilder.MAX_WORKERS
                ):
                    return run, True
                run.append(row)
        finally:
            rows.close()
        return run, size > self._joined_bytes

    def _note(self, run: list[_Row]) -> None:
        first = run[0].first
        connections, kinds = (b"".join([getattr(row, column) for row in run]) for column in ("connections", "kinds"))
        for who in ids_of(connections):
            self._connections.setdefault(who, array("q")).append(first)
        for kind in kinds_of(kinds):
            self._kinds.setdefault(kind, array("q")).append(first)
        self._after, self._after_bytes = run[-1].last, run[-1].total

    def _index(self) -> Iterator[Statement]:
        """Return what writes the segment; it is there with the last statement."""
        segment = self._after
        for who in sorted(self._connections):
            for first in self._connections[who]:
                yield _INDEX_CONNECTION, (segment, who, first)
        for kind in sorted(self._kinds):
            for first in self._kinds[kind]:
                yield _INDEX_KIND, (segment, kind, first)
        yield "INSERT INTO segments VALUES (?, 1)", (segment,)


def _join(connection: apsw.Connection, run: list[_Row]) -> None:
    """Replace the rows of `run` by one; what they change has reached the tables (`derived`), and goes."""
    first, newest = run[0].first, run[-1]
    builder = BatchBuilder(JOINED_BYTES)
    bodies: list[Any] = connection.execute(
        "SELECT bodies FROM batches WHERE first BETWEEN ? AND ? ORDER BY first", (first, newest.first)
    ).fetchall()
    for row, (body,) in zip(run, bodies, strict=True):
        builder.add(row.worker, row.connections, row.kinds, body, row.workers, row.worker_of or b"")
    batch = builder.build(first, newest.time_ms)
    connection.execute("DELETE FROM batches WHERE first BETWEEN ? AND ?", (first, newest.first))
    connection.execute(
        "INSERT INTO batches (first, last, time_ms, total, worker, connections, kinds, bodies, worker_of)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            first, batch.last, batch.time_ms, newest.total, batch.worker or "\n".join(batch.workers),
            batch.connections, batch.kinds, batch.joined, batch.worker_of or None,
        ),
    )  # fmt: skip
