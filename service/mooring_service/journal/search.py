"""Which rows of `batches` may hold what a subscriber wants: by the index of the segments, and by looking behind the last of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import apsw

from mooring_service.journal.batch import Batch, EventFilter

LOOKED_AT = 16  # connections and kinds for which SQLite itself looks through the rows behind the index

_ROW = "SELECT first, worker, worker_of, connections, kinds, bodies, time_ms FROM batches"


def find(reader: apsw.Connection, events: EventFilter, low: int, last: int) -> Generator[Batch, None, None]:
    """Yield the batches from `low` to `last` that may hold wanted events, in order. Inside one transaction of `reader`."""
    where = ""
    parameters: list[str] = []
    if events.workers:
        where = f" AND (worker IN ({_marks(events.workers)}) OR instr(worker, char(10)))"
        parameters = sorted(events.workers)

    def rows(condition: str, *bounds: Any) -> Iterator[Batch]:
        for values in reader.execute(f"{_ROW} WHERE {condition}{where} ORDER BY first", (*bounds, *parameters)):
            yield _batch(*values).until(last)

    if not events.connections and not events.kinds:
        yield from rows("first BETWEEN ? AND ?", low, last)
        return
    if not events.connections:
        # Rows from before there was an index of kinds.
        unknown = reader.execute("SELECT max(last) FROM segments WHERE NOT kinds AND last >= ?", (low,)).get
        if unknown is not None:
            yield from rows("first BETWEEN ? AND ?", low, min(unknown, last))
            low = unknown + 1
    for first in _indexed(reader, events, low):
        if first > last:
            return
        yield from rows("first = ?", first)
    indexed = reader.execute("SELECT coalesce(max(last), 0) FROM segments").get
    low = max(low, indexed + 1)
    yield from rows(f"first BETWEEN ? AND ?{_looking(events)}", low, last)


def _indexed(reader: apsw.Connection, events: EventFilter, low: int) -> Iterator[int]:
    """Yield the `first` of rows that hold a wanted connection, and a wanted kind, by the index."""
    if events.connections:
        found = (
            "segment_connections AS f ON f.segment = s.last AND f.connection IN"
            f" ({_marks(events.connections)}) WHERE s.last >= ? AND f.first >= ?"
        )
        parameters: list[int] = [*sorted(events.connections), low, low]
        if events.kinds:
            found += (
                " AND (NOT s.kinds OR EXISTS (SELECT 1 FROM segment_kinds AS k WHERE k.segment = s.last"
                f" AND k.kind IN ({_marks(events.kinds)}) AND k.first = f.first))"
            )
            parameters += sorted(events.kinds)
    else:
        found = f"segment_kinds AS f ON f.segment = s.last AND f.kind IN ({_marks(events.kinds)}) WHERE s.last >= ? AND f.first >= ?"
        parameters = [*sorted(events.kinds), low, low]
    rows = reader.execute(f"SELECT s.last, f.first FROM segments AS s CROSS JOIN {found} ORDER BY s.last", parameters)
    # A segment at a time: what is in it is sorted by key, and only a few of them are looked at before enough is found.
    for _, of_segment in groupby(rows, itemgetter(0)):
        yield from sorted({first for _, first in of_segment})


def _looking(events: EventFilter) -> str:
    """Return conditions that leave out most rows without a wanted event; too few of them left out is harmless."""
    conditions = ""
    for column, wanted in (
        ("connections", [one.to_bytes(8, "little", signed=True) for one in events.connections]),
        ("kinds", [bytes((kind,)) for kind in events.kinds]),
    ):
        if 0 < len(wanted) <= LOOKED_AT:
            conditions += f" AND ({' OR '.join(f'''instr({column}, x'{one.hex()}')''' for one in wanted)})"
    return conditions


def _marks(values: Any) -> str:
    return ", ".join("?" * len(values))


def _batch(
    first: int, worker: str, worker_of: bytes | None, connections: bytes, kinds: bytes, bodies: bytes, time_ms: int
) -> Batch:
    workers = tuple(worker.split("\n")) if worker_of is not None else ()
    return Batch(
        first=first,
        worker="" if workers else worker,
        workers=workers,
        worker_of=worker_of or b"",
        connections=connections,
        kinds=kinds,
        bodies=bodies,
        time_ms=time_ms,
    )
