"""What is done between the commits, in small transactions of its own: tables are derived, rows joined, and the oldest dropped.

None of it happens inside a commit, so none of it makes one late by more than a step, of about a millisecond. Of the writer's thread.
"""

from __future__ import annotations

import math
import time

import apsw
import msgspec

from mooring_service.config import JournalConfig
from mooring_service.journal.changes import Changes
from mooring_service.journal.clock import AgeClock
from mooring_service.journal.compaction import Compaction
from mooring_service.journal.derived import Derived
from mooring_service.journal.retention import Marks, above_bounds, prune


class Upkeep:
    """Knows what of it is due, and does a step of each.

    Args:
        every_s: How often is looked whether something has to go, while something is written.
    """

    def __init__(
        self, config: JournalConfig, derived: Derived, compaction: Compaction, clock: AgeClock, every_s: float
    ) -> None:
        self._config = config
        self._derived = derived
        self._compaction = compaction
        self._clock = clock
        self._every_s = every_s
        self._looked_s = -math.inf  # when it was looked whether something has to go
        self._more = True  # there is, or may be, something that has to go

    def committed(self, changes: Changes, marks: Marks) -> None:
        """Take what a commit has changed, and where the record ends with it."""
        self._derived.take(changes, marks)
        self._more = True

    def forget(self, connections: list[int]) -> None:
        """Drop the records of these connections."""
        self._derived.forget(connections)

    def due_s(self, marks: Marks) -> float:
        """Return when the next step is due, as monotonic seconds."""
        if self._derived.due or self._compaction.due:
            return -math.inf
        return self._prune_s(marks)

    def _prune_s(self, marks: Marks) -> float:
        if self._more:
            return self._looked_s + self._every_s
        if marks.oldest_ms is None:
            return math.inf
        aged_s = time.monotonic() + (marks.oldest_ms - self._clock.now_ms()) / 1000 + self._config.max_age
        return max(aged_s, self._looked_s + self._every_s)

    def step(self, connection: apsw.Connection, marks: Marks) -> Marks:
        """Do a step of all that is due; return the marks as they are then."""
        if self._derived.due:
            self._derived.write_some(connection)
        if self._compaction.due:
            self._compaction.step(connection)
        now_s = time.monotonic()
        if self._prune_s(marks) <= now_s:
            marks = self._prune(connection, marks)
            if not self._more:
                self._looked_s = now_s
        return marks

    def _prune(self, connection: apsw.Connection, marks: Marks) -> Marks:
        now_ms = self._clock.now_ms()
        if marks.first > self._derived.upto and above_bounds(marks, self._config, now_ms):
            self._derived.write_all(connection)
        marks = msgspec.structs.replace(marks)
        with connection:
            self._more = prune(connection, marks, self._config, now_ms, self._derived.upto)
        return marks

    def finish(self, connection: apsw.Connection) -> None:
        """Leave as little as can be to the next start."""
        self._derived.write_all(connection)
