"""The newest batches, in memory, bounded by bytes: who keeps up is served from here, and shares the bytes with all others. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from mooring_service.journal.batch import Batch
from mooring_service.journal.journal import Committed

HOT_BYTES = 8 * 1024 * 1024  # of the newest batches, for which rendered events are kept to be shared


class Ring:
    """Batches in the order of their positions.

    Args:
        max_bytes: Of all batches; the newest is held in any case.

    Attributes:
        last: Position of the newest event; 0: there is none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batches: deque[Batch] = deque()
        self._held_bytes = 0
        self._hot: deque[Batch] = deque()
        self._hot_bytes = 0
        self.last = 0

    def add(self, committed: list[Committed]) -> None:
        """Take what one commit has added."""
        batches, hot = self._batches, self._hot
        for item in committed:
            batch = item.batch
            if batch is not None and not (batches and batches[-1] is batch):  # additions share their batch
                batches.append(batch)
                hot.append(batch)
                size = batch.size
                self._held_bytes += size
                self._hot_bytes += size
                self.last = batch.last
        while self._hot_bytes > HOT_BYTES and len(hot) > 1:
            old = hot.popleft()
            self._hot_bytes -= old.size
            old.cool()
        while self._held_bytes > self._max_bytes and len(batches) > 1:
            self._held_bytes -= batches.popleft().size

    def after(self, position: int, limit_bytes: int) -> list[Batch] | None:
        """Return the batches behind `position`, about `limit_bytes` of them, at least one if there is one; None if the first is not here."""
        batches = self._batches
        if not batches or batches[0].first > position + 1:
            return None
        newest = batches[-1]
        if newest.first <= position + 1 <= newest.last:  # who keeps up: the search is as dear as all the rest
            return [newest]
        found: list[Batch] = []
        size = 0
        for at in range(bisect_left(batches, position + 1, key=lambda batch: batch.last), len(batches)):
            batch = batches[at]
            if found and size + batch.size > limit_bytes:
                break
            found.append(batch)
            size += batch.size
        return found
