"""What one transaction of the SQLite journal writes: a row of `batches` for each batch of the group, and what cannot wait.

The row is the commit: what changes beside the events rides in it (`changes`), and reaches the tables made from it later
(`derived`). Answers and asks are few, and written at once. It knows what is written; `writer` knows when.
"""

from __future__ import annotations

from collections.abc import Mapping

import apsw

from mooring_service.journal.batch import Append
from mooring_service.journal.changes import Changes, encode_changes
from mooring_service.journal.group import Group
from mooring_service.journal.journal import Committed
from mooring_service.journal.retention import Marks


class Transaction:
    """One transaction: `add` each, `close`, `write`; whoever made it commits it.

    Args:
        marks: A copy, which counts once the transaction is committed.
        stored: Incarnation → number of its last `Append` that is committed.
        now_ms: By the clock that tells ages.

    Attributes:
        batches: How many batches it adds.
    """

    def __init__(self, connection: apsw.Connection, marks: Marks, stored: Mapping[str, int], now_ms: int) -> None:
        self._connection = connection
        self._marks = marks
        self._group = Group(marks.next_position, marks.next_ask, now_ms, stored)
        self.batches = 0

    @property
    def changes(self) -> Changes:
        """What it changes beside the events."""
        return self._group.changes

    def add(self, append: Append) -> None:
        """Take one addition."""
        self._group.add(append)

    def close(self) -> list[Committed]:
        """Decide what is written; return what becomes of each addition, in their order, once that is committed."""
        committed = self._group.close()
        self.batches = len(self._group.batches)
        return committed

    @property
    def is_one_row(self) -> bool:
        """True when a single statement writes all of it, which is a transaction by itself: the common case under scattered load."""
        group = self._group
        return self.batches <= 1 and not (group.answers or group.asks or group.asks_done)

    def write(self) -> None:
        """Write all that was added."""
        group = self._group
        self._write_batches()
        many = self._connection.executemany
        if group.answers:
            many("UPDATE answers SET answer = ? WHERE key = ?", [(answer, key) for key, answer in group.answers])
        if group.asks:
            many(
                "INSERT INTO asks VALUES (?, ?, ?, ?, ?)",
                [(number, who.worker, who.incarnation, who.number, ask) for number, who, ask in group.asks],
            )
            # Numbers only grow, also over a start that finds no ask: a worker knows by them what it has taken.
            self._marks.next_ask = group.next_ask
            self._connection.execute("UPDATE meta SET value = ? WHERE name = 'next_ask'", (group.next_ask,))
        if group.asks_done:
            many("DELETE FROM asks WHERE id = ?", [(number,) for number in group.asks_done])

    def _write_batches(self) -> None:
        group, marks, execute = self._group, self._marks, self._connection.execute
        changes = encode_changes(group.changes) if group.changes else None
        if not group.batches:
            if changes is not None:
                execute("INSERT INTO changes (after, changes) VALUES (?, ?)", (marks.next_position - 1, changes))
            return
        for batch in group.batches:
            marks.total_bytes += batch.size
            execute(
                "INSERT INTO batches (first, last, time_ms, total, worker, connections, kinds, bodies, worker_of, changes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch.first, batch.last, batch.time_ms, marks.total_bytes, batch.worker or "\n".join(batch.workers),
                    batch.connections, batch.kinds, batch.joined, batch.worker_of or None,
                    changes if batch is group.batches[-1] else None,
                ),
            )  # fmt: skip
        marks.next_position = group.next_position
        if marks.oldest_ms is None:
            marks.oldest_ms = group.time_ms
