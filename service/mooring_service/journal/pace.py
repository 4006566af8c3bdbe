"""When the next commit is due: at once after quiet, a little behind the last one under load. Pure.

A commit costs the same whatever it holds, and so does all that follows it, up to the wake-up of each subscriber. Waiting is
of use only where something else comes meanwhile: who waits for an answer before the next message is sent is not kept waiting.
Nor is whoever has asked for something that is answered once it is stored: an open waits for two commits, and all opens for the same two.
"""

from __future__ import annotations

import math

GROUP_S = 0.002  # under load, commits begin so far apart
GATHER_S = 0.001  # so long is waited for what is known to follow
LARGE_BYTES = 128 * 1024  # with so much at hand, waiting for more saves nothing
PATIENCE = 4  # so many waits in a row that brought nothing: there is no load
SELDOM = 256  # at the least, one commit in so many finds out whether there is load again


class Pace:
    """The distance between commits. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._begun_s = -math.inf
        self._patience = 0  # waits that may still bring nothing; 0: there is no waiting
        self._pause = 1  # so many commits of several additions, until it is tried again
        self._pauses = 1

    def due_s(self, queued_bytes: int, follows_s: float = -math.inf, *, awaited: bool = False) -> float:
        """Return when the next commit is due, now that so much is queued.

        Args:
            follows_s: Since when more is known to follow.
            awaited: A request is answered once it is committed.
        """
        if awaited or queued_bytes >= LARGE_BYTES:
            return -math.inf
        return max(self._begun_s + GROUP_S if self._patience else -math.inf, follows_s + GATHER_S)

    def committed(self, begun_s: float, additions: int, arrived_s: float) -> None:
        """Take that a commit has begun; the last of its additions had arrived at `arrived_s`."""
        before_s, self._begun_s = self._begun_s, begun_s
        if not self._patience:
            if additions > 1:
                self._pauses -= 1
                if self._pauses <= 0:
                    self._patience = 1
        # Not in the first part of the wait: what comes at once was an answer to the commit, and brings nothing more.
        elif before_s + GROUP_S / 4 < arrived_s <= before_s + 2 * GROUP_S:
            self._patience, self._pause = PATIENCE, 1
        else:
            self._patience -= 1
            if not self._patience:
                self._pauses = self._pause
                self._pause = min(SELDOM, 2 * self._pause)


class Following:
    """Of what is queued, whether more is known to follow. Times are monotonic seconds.

    Attributes:
        since_s: Since when it is known; -infinity: it is not.
        awaited: A request is answered once all of it is committed, until it is taken.
    """

    def __init__(self) -> None:
        self.since_s = -math.inf
        self.awaited = False
        self._together = False

    def queued(self, now_s: float, *, more: bool, first: bool) -> bool:
        """Take that something was queued, the `first` of all; `more` follows. True: it is the last of what was known to follow."""
        known = self.since_s != -math.inf
        if not more:
            self.since_s = -math.inf
        elif first and not known:
            self.since_s = now_s
        last = known and not more
        self._together = self._together or last
        return last

    def taken(self) -> bool:
        """Take that the writer has all of it; say whether it came together, as was known."""
        together, self._together = self._together, False
        self.since_s, self.awaited = -math.inf, False
        return together
