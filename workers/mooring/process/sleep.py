"""Whether the machine has slept. CLOCK_MONOTONIC stands still meanwhile, so no deadline of ours is over; but a peer may be gone."""

from __future__ import annotations

import time
from collections.abc import Callable

MIN_SLEEP_S = 5.0  # below it a peer would not have noticed, and the two clocks are read one after the other


def _slept_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


class Sleep:
    """Compares the clock that stands still with the one that does not; asked now and then.

    Args:
        slept_s: Returns how long the machine has slept since it was started, in seconds.
    """

    def __init__(self, slept_s: Callable[[], float] = _slept_s) -> None:
        self._read = slept_s
        self._known_s = slept_s()

    def over(self) -> bool:
        """Say, once, that the machine has slept since it was asked last."""
        slept_s = self._read()
        jumped = slept_s - self._known_s >= MIN_SLEEP_S
        self._known_s = slept_s
        return jumped
