"""When the next pass over the subscribers is due: it follows what a pass costs. Pure.

A pass costs the same whatever it brings to each of them, most of it a system call for each write. So where many are served, a
pass is followed by a pause, and what comes meanwhile reaches each of them in one write. One that serves few has none.
"""

from __future__ import annotations

import math

FEW = 8  # one that serves so many has no pause
SHARE = 18  # passes take no more than one part in so many of the time
WOKEN_S = 0.00002  # what it costs to write by a stream's own task, which is not part of the pass
DEAR_S = 0.0005  # one that serves few, but had to look at so many that it took this long, has one, too
LOOK_SHARE = 4  # such passes take no more than one part in so many
PAUSE_MAX_S = 0.05  # from a pass to the next; beyond some 200 subscribers passes take more than their share


class Passes:
    """The distance between passes. Times are monotonic seconds.

    Attributes:
        due_s: The next pass is not before this.
        pause_s: From the last pass to the next; 0: as soon as there is something.
    """

    def __init__(self) -> None:
        self.due_s = -math.inf
        self.pause_s = 0.0

    def left(self) -> None:
        """Nobody waits: there is no pass, and nothing is shown later."""
        self.due_s, self.pause_s = -math.inf, 0.0

    def passed(self, begun_s: float, cpu_s: float, *, written: int, woken: int) -> None:
        """Take that the pass that began at `begun_s` took so much CPU; to so many it has `written`, and others were `woken`."""
        if written + woken > FEW:
            self.pause_s = min(PAUSE_MAX_S, SHARE * (cpu_s + WOKEN_S * woken))
        elif cpu_s > DEAR_S:
            self.pause_s = min(PAUSE_MAX_S, LOOK_SHARE * cpu_s)
        else:
            self.pause_s = 0.0
        self.due_s = begun_s + self.pause_s
