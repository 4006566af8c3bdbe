"""The clock by which the journal tells ages: it never goes back, and no jump of the wall clock moves it."""

from __future__ import annotations

import time
from collections.abc import Callable

CONFIRM_MS = 600_000
"""For how long the wall clock has to say that the service was away before it is believed. A device without a battery starts
anywhere, and is set right within minutes; so is a clock that somebody has set wrong."""


def read_clocks() -> tuple[int, int]:
    """Return the wall clock, and one that counts what has passed since the boot, also while the machine slept."""
    return time.time_ns() // 1_000_000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class AgeClock:
    """Milliseconds since 1970, as long as the wall clock of each start was right. Any thread may ask.

    While a service runs it counts what passes. How long nothing ran only the wall clock can say; that counts once it has been
    confirmed, and never more than what was said at the start: a step of the clock under a running service ages nothing.

    Args:
        last_ms: What it said last, before this start; 0: nothing is kept.
        read: `read_clocks`.
    """

    def __init__(self, last_ms: int, read: Callable[[], tuple[int, int]] = read_clocks) -> None:
        self._read = read
        wall_ms, self._began_ms = read()
        self._base_ms = last_ms or wall_ms
        self._away_ms = max(0, wall_ms - self._base_ms)
        self._confirmed_ms: int | None = None

    def now_ms(self) -> int:
        """Return the time."""
        wall_ms, passed_ms = self._read()
        passed_ms -= self._began_ms
        if self._confirmed_ms is None and passed_ms >= CONFIRM_MS:
            # Two threads that come here at once find the same.
            self._confirmed_ms = max(0, min(self._away_ms, wall_ms - self._base_ms - passed_ms))
        return self._base_ms + passed_ms + (self._confirmed_ms or 0)
