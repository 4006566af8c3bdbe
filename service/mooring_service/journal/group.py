"""What one commit adds, decided before it is written: what is new, at which positions, in which batches. No I/O.

Additions that are committed together become one batch as long as it is small: one row, one look of each subscriber, and one
acknowledgement, however many workers they came from. Both journals decide by this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mooring_service.journal.batch import Append, Batch, BatchBuilder
from mooring_service.journal.changes import Changes
from mooring_service.journal.journal import Committed

GROUP_BYTES = 64 * 1024  # a batch grows to this by further additions; a larger addition is one of its own

NO_BATCH, REPEATED = -1, -2  # instead of the index of a batch

log = logging.getLogger("mooring.journal")


class Group:
    """The additions of one commit: `add` each, then `close`.

    Args:
        next_position: Of the first event that is added.
        stored: Incarnation → number of its last `Append` that is committed.

    Attributes:
        batches: Complete once it is closed.
        changes: What is changed beside the events.
        answers: Those of Idempotency-Keys: (key, answer).
        asks: What code in workers asks for: number, and the addition it is in.
        asks_done: Numbers of asks that need not be kept any more.
    """

    def __init__(self, next_position: int, next_ask: int, time_ms: int, stored: Mapping[str, int]) -> None:
        self.next_position = next_position
        self.next_ask = next_ask
        self.time_ms = time_ms
        self.batches: list[Batch] = []
        self.changes = Changes()
        self.answers: list[tuple[str, bytes]] = []
        self.asks: list[tuple[int, Append, bytes]] = []
        self.asks_done: list[int] = []
        self._stored = stored
        self._builder = BatchBuilder(GROUP_BYTES)
        self._begins = next_position  # of the batch that is being built
        self._added: list[tuple[Append, int, int, int]] = []  # with its batch, its first position, its first ask

    def add(self, append: Append) -> None:
        """Take one addition.

        Raises:
            ValueError: If its columns do not fit each other.
        """
        if append.number and not self._is_next(append):
            self._added.append((append, REPEATED, 0, 0))
            return
        if len(append.connections) != 8 * len(append.kinds):
            raise ValueError(f"{len(append.connections)} bytes of connections for {len(append.kinds)} events")
        at, first, first_ask = NO_BATCH, 0, 0
        if append.at:  # a hole: a batch has none inside
            if self._builder.count:
                self._build()
            self.next_position = self._begins = append.at
        if append.kinds:
            if not self._builder.takes(len(append.bodies), len(append.kinds)):
                self._build()
            first = self.next_position
            self._builder.add(append.worker, append.connections, append.kinds, append.bodies)
            self.next_position += len(append.kinds)
            at = len(self.batches)
        self.changes.add(append, first)
        self.answers += append.answers
        if append.asks:
            first_ask = self.next_ask
            self.asks += [(number, append, ask) for number, ask in enumerate(append.asks, first_ask)]
            self.next_ask += len(append.asks)
        self.asks_done += append.asks_done
        self._added.append((append, at, first, first_ask))

    def _is_next(self, append: Append) -> bool:
        """Say whether a numbered addition is new."""
        incarnation = append.incarnation
        before = self.changes.numbers.get(incarnation)
        if before is None:
            before = self._stored.get(incarnation, 0)
        if append.number <= before:
            return False
        if append.number != before + 1:
            tags = {"worker": append.worker, "incarnation": incarnation}
            log.error("worker %s skipped from frame %d to %d", append.worker, before, append.number, extra=tags)
        return True

    def _build(self) -> None:
        self.batches.append(self._builder.build(self._begins, self.time_ms))
        self._begins = self.next_position

    def close(self) -> list[Committed]:
        """Return what becomes of each addition, in their order."""
        if self._builder.count:
            self._build()
        batches = self.batches
        return [
            Committed(append, batches[at] if at >= 0 else None, at == REPEATED, first_ask, first)
            for append, at, first, first_ask in self._added
        ]
