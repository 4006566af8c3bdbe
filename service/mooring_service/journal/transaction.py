"""What one transaction of the SQLite journal adds: an `Append` is one row of `batches`, and the records that change with it.

Rows of the whole transaction are gathered first and go in together. It knows what is written; `writer` knows when.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import apsw
import msgspec

from mooring.link.record import STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append, Batch
from mooring_service.journal.journal import Committed
from mooring_service.journal.retention import Marks

ENDED_INCARNATIONS = 1_000  # kept, so that a late frame of a dead process is known as repeated

log = logging.getLogger("mooring.journal")
_pack = msgspec.msgpack.Encoder().encode


_FIELDS = {kind: msgspec.structs.fields(kind) for kind in (ConnectionCreated, ConnectionUpdate)}
_FIRST_FIELDS = {ConnectionCreated: 10, ConnectionUpdate: 15}
"""How many the first release had: what says nothing that is newer is written as it was then, to the byte."""


def _record(part: ConnectionCreated | ConnectionUpdate) -> bytes:
    """Return a part of a record as it is kept: the newer fields up to the last that says something."""
    values = msgspec.structs.astuple(part)
    fields, first = _FIELDS[type(part)], _FIRST_FIELDS[type(part)]
    size = len(values)
    while size > first and values[size - 1] == fields[size - 1].default:
        size -= 1
    return _pack(values[:size])


class Transaction:
    """One transaction, from its first `add` to `write`; whoever made it commits it.

    Args:
        marks: A copy, which counts once the transaction is committed.
        stored: Incarnation → number of its last `Append` that is committed.
        now_ms: By the clock that tells ages.

    Attributes:
        numbers: The same, for what this transaction adds.
    """

    def __init__(self, connection: apsw.Connection, marks: Marks, stored: Mapping[str, int], now_ms: int) -> None:
        self._connection = connection
        self._marks = marks
        self._stored = stored
        self._time_ms = now_ms
        self._rows: list[tuple[Any, ...]] = []
        self._index: list[tuple[int, int]] = []
        self._created: dict[int, tuple[ConnectionCreated, str]] = {}
        self._updates: dict[int, tuple[ConnectionUpdate, int]] = {}
        self._answers: list[tuple[bytes, str]] = []
        self._asks: list[tuple[int, str, str, int, bytes]] = []
        self._asks_done: list[tuple[int]] = []
        self._ended: list[tuple[str]] = []
        self.numbers: dict[str, int] = {}

    @property
    def batches(self) -> int:
        """How many batches it adds."""
        return len(self._rows)

    def add(self, append: Append) -> Committed:
        """Take one addition; return what becomes of it."""
        if append.number and not self._is_next(append):
            return Committed(append, None, repeated=True)
        batch = self._add_events(append) if append.kinds else None
        for one in append.created:
            self._created[one.id] = (one, append.incarnation)
        updates = self._updates
        for update in append.updates:
            last = 0 if batch is None else batch.last_of(update.id)
            if not last and update.id in updates:
                last = updates[update.id][1]
            updates[update.id] = (update, last)
        if append.answers:
            self._answers += [(answer, key) for key, answer in append.answers]
        if append.ended:
            self._ended.append((append.ended,))
        first_ask = self._add_asks(append) if append.asks else 0
        if append.asks_done:
            self._asks_done += [(number,) for number in append.asks_done]
        return Committed(append, batch, first_ask=first_ask)

    def _is_next(self, append: Append) -> bool:
        """Say whether a numbered addition is new; it is noted then."""
        incarnation = append.incarnation
        before = self.numbers.get(incarnation)
        if before is None:
            before = self._stored.get(incarnation, 0)
        if append.number <= before:
            return False
        if append.number != before + 1:
            tags = {"worker": append.worker, "incarnation": incarnation}
            log.error("worker %s skipped from frame %d to %d", append.worker, before, append.number, extra=tags)
        self.numbers[incarnation] = append.number
        return True

    def _add_events(self, append: Append) -> Batch:
        marks = self._marks
        batch = Batch(
            first=marks.next_position,
            worker=append.worker,
            connections=append.connections,
            kinds=append.kinds,
            bodies=append.bodies,
            time_ms=self._time_ms,
        )
        last = batch.last
        marks.next_position = last + 1
        marks.total_bytes += batch.size
        self._rows.append(
            (
                batch.first, last, self._time_ms, marks.total_bytes,
                append.worker, append.connections, append.kinds, append.bodies,
            )
        )  # fmt: skip
        self._index += [(who, batch.first) for who in set(batch.connections) if who]
        return batch

    def _add_asks(self, append: Append) -> int:
        first = self._marks.next_ask
        for number, ask in enumerate(append.asks, first):
            self._asks.append((number, append.worker, append.incarnation, append.number, ask))
        self._marks.next_ask += len(append.asks)
        return first

    def write(self) -> None:
        """Write all that was added."""
        self._write_events()
        self._write_connections()
        many = self._connection.executemany
        if self.numbers:
            many(
                "UPDATE incarnations SET stored = ? WHERE incarnation = ?",
                [(number, incarnation) for incarnation, number in self.numbers.items()],
            )
        if self._answers:
            many("UPDATE answers SET answer = ? WHERE key = ?", self._answers)
        if self._asks:
            many("INSERT INTO asks VALUES (?, ?, ?, ?, ?)", self._asks)
            # Numbers only grow, also over a start that finds no ask: a worker knows by them what it has taken.
            self._connection.execute("UPDATE meta SET value = ? WHERE name = 'next_ask'", (self._marks.next_ask,))
        if self._asks_done:
            many("DELETE FROM asks WHERE id = ?", self._asks_done)
        if self._ended:
            many("UPDATE incarnations SET ended = 1 WHERE incarnation = ?", self._ended)
            self._connection.execute(
                "DELETE FROM incarnations WHERE ended AND NOT stands AND incarnation NOT IN (SELECT incarnation FROM connections)"
                " AND (SELECT count(*) FROM incarnations) > ?",
                (ENDED_INCARNATIONS,),
            )

    def _write_events(self) -> None:
        if not self._rows:
            return
        marks, many = self._marks, self._connection.executemany
        many("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
        many("INSERT INTO batch_connections VALUES (?, ?)", self._index)
        many(
            "UPDATE meta SET value = ? WHERE name = ?",
            [(marks.next_position, "next_position"), (marks.total_bytes, "total_bytes")],
        )
        if marks.oldest_ms is None:
            marks.oldest_ms = self._time_ms

    def _write_connections(self) -> None:
        many = self._connection.executemany
        if self._created:
            many(
                "INSERT INTO connections VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET created = excluded.created,"
                " incarnation = iif(excluded.incarnation = '', incarnation, excluded.incarnation)",
                [
                    (number, _record(one), _record(ConnectionUpdate(number, STATUS_CONNECTING)), incarnation)
                    for number, (one, incarnation) in self._created.items()
                ],
            )
        if self._updates:
            many(
                "UPDATE connections SET changing = ?1, last_position = iif(?2 = 0, last_position, ?2) WHERE id = ?3",
                [(_record(update), last, number) for number, (update, last) in self._updates.items()],
            )
