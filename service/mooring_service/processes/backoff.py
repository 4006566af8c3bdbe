"""When to start a dead worker again. Pure: time comes in as monotonic seconds, chance as a number from 0 to 1."""

from __future__ import annotations

from collections import deque


class RestartBudget:
    """So many restarts in so many seconds, each after a longer delay; a quiet window starts over.

    Args:
        restarts: How many restarts the window allows.
        window_s: Length of the window, in seconds.
        delay_s: Delay before the first restart of a window.
        delay_max_s: No delay is longer.

    Attributes:
        deaths: When it has died within the window, oldest first.
    """

    def __init__(self, restarts: int, window_s: float, delay_s: float, delay_max_s: float) -> None:
        self._restarts = restarts
        self._window_s = window_s
        self._delay_s = delay_s
        self._delay_max_s = delay_max_s
        self.deaths: deque[float] = deque()

    def died(self, now: float, chance: float) -> float | None:
        """Count a death at `now`; return the delay before the restart, or None when the budget is used up."""
        while self.deaths and self.deaths[0] <= now - self._window_s:
            self.deaths.popleft()
        if len(self.deaths) >= self._restarts:
            return None
        self.deaths.append(now)
        delay = min(self._delay_max_s, self._delay_s * 2.0 ** (len(self.deaths) - 1))
        return delay * (0.5 + chance / 2)  # jitter: workers that died together do not start together

    def reset(self) -> None:
        """A person has restarted the worker: the budget is whole again."""
        self.deaths.clear()
