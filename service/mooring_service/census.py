"""How many connections there are, of whom, in which state, and in which order: kept as they change, so that nobody counts or sorts
thousands. Pure.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterator

from mooring.link.record import ConnectionCreated, ConnectionUpdate

REBUILD = 64  # with so many gone at once it is cheaper to write the order anew than to take each out


class Census:
    """Counts of all connections that are known.

    Attributes:
        live_count: How many have not ended.
        counts: How many have not ended, by (worker, status).
    """

    def __init__(self) -> None:
        self.live_count = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self._ids: list[int] = []  # in order
        self._live: dict[str, dict[int, None]] = {}  # worker → ids of connections that have not ended
        self._down: dict[int, str] = {}  # kept ones without a ready socket → worker

    def add(self, created: ConnectionCreated, update: ConnectionUpdate) -> None:
        """There is one more."""
        connection, worker = created.id, created.worker
        if not self._ids or connection > self._ids[-1]:
            self._ids.append(connection)
        else:
            insort(self._ids, connection)  # of a worker whose block of ids is an older one
        if not update.ended:
            self._come(worker, update)

    def changed(self, created: ConnectionCreated, before: ConnectionUpdate, now: ConnectionUpdate) -> bool:
        """The record of one that had not ended is another one; True if it has ended by that."""
        worker = created.worker
        if before.status != now.status or now.ended:
            self._less(worker, before.status)
            if not now.ended:
                self.counts[worker, now.status] += 1
        if now.kept is not None:
            self._note_down(worker, now)
        if now.ended:
            self._go(worker, now.id)
        return now.ended

    def moved(self, before: str, now: str, update: ConnectionUpdate) -> None:
        """A connection is said to belong to another worker than before."""
        if not update.ended:
            self._less(before, update.status)
            self._go(before, update.id)
            self._come(now, update)

    def _come(self, worker: str, update: ConnectionUpdate) -> None:
        self._live.setdefault(worker, {})[update.id] = None
        self.live_count += 1
        self.counts[worker, update.status] += 1
        self._note_down(worker, update)

    def _go(self, worker: str, connection: int) -> None:
        self._down.pop(connection, None)
        live = self._live[worker]
        del live[connection]
        self.live_count -= 1
        if not live:
            del self._live[worker]

    def _less(self, worker: str, status: str) -> None:
        self.counts[worker, status] -= 1
        if not self.counts[worker, status]:
            del self.counts[worker, status]

    def _note_down(self, worker: str, update: ConnectionUpdate) -> None:
        if update.kept is not None and update.kept.down is not None:
            self._down[update.id] = worker
        else:
            self._down.pop(update.id, None)

    def forget(self, gone: list[int]) -> None:
        """These have ended, and are known no longer."""
        if len(gone) > REBUILD:
            without = set(gone)
            self._ids = [connection for connection in self._ids if connection not in without]
        else:
            for connection in gone:
                del self._ids[bisect_left(self._ids, connection)]

    def next_ids(self, after: int, count: int) -> list[int]:
        """Return so many ids past `after`, in order."""
        begin = bisect_right(self._ids, after)
        return self._ids[begin : begin + count]

    def live_ids(self, worker: str) -> list[int]:
        """Return the ids of those of `worker` that have not ended."""
        return list(self._live.get(worker, ()))

    def all_live_ids(self) -> Iterator[int]:
        """Yield the ids of those that have not ended."""
        return itertools.chain.from_iterable(self._live.values())

    def live_count_of(self, worker: str) -> int:
        """How many of `worker` have not ended."""
        return len(self._live.get(worker, ()))

    def downs(self) -> Iterator[tuple[int, str]]:
        """Yield each kept connection that has no ready socket, and its worker."""
        yield from self._down.items()
