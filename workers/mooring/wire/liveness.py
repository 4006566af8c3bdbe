"""Is the peer alive? The clocks of one connection, as arithmetic on monotonic time. Pure.

Any inbound byte is life. While we have paused reading, the peer cannot prove anything, so its deadline stands still
(a library heartbeat that ignores this kills healthy connections: pitfalls, section 1.1).
"""

from __future__ import annotations

import msgspec


class Ping(msgspec.Struct, frozen=True):
    """Send a ping now."""


class Dead(msgspec.Struct, frozen=True):
    """The peer has not sent a byte for `silent_s` seconds after a ping."""

    silent_s: float


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `at` (monotonic seconds)."""

    at: float


class Liveness:
    """When to ping, and when to give up.

    Args:
        interval_s: A ping goes out this long after the last inbound byte, unless one is unanswered; 0: never.
        timeout_s: The peer is dead this long after a ping without an inbound byte.
        now: Monotonic seconds.
    """

    __slots__ = ("_interval_s", "_paused_at", "_pinged_at", "_probed_s", "_timeout_s", "last_byte_at")

    def __init__(self, interval_s: float, timeout_s: float, now: float) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._probed_s: float | None = None  # the peer's time for the ping that a probe asks for; None: there is none
        self._pinged_at: float | None = None
        self._paused_at: float | None = None
        self.last_byte_at = now  # written by the owner on every read: this is the hot path's only cost

    def probe(self, timeout_s: float) -> None:
        """The machine has slept: whether the peer is still there is asked at once, and it has less time to answer."""
        self._probed_s = min(timeout_s, self._timeout_s)
        self._pinged_at = None

    def paused(self, now: float) -> None:
        """Reading was paused by us."""
        self._paused_at = now

    def resumed(self, now: float) -> None:
        """Reading goes on: the peer's deadline is moved by the whole pause."""
        if self._paused_at is not None:
            if self._pinged_at is not None:
                self._pinged_at += now - self._paused_at
            self.last_byte_at = max(self.last_byte_at, now)
            self._paused_at = None

    def check(self, now: float) -> Ping | Dead | Wait:
        """Say what is due at `now`; call again at `Wait.at` at the latest, and at once after each `Ping`.

        It may be called at any other time too: what is due does not depend on when it was asked before.
        """
        if not self._interval_s:
            return Wait(float("inf"))
        if self._paused_at is not None:
            return Wait(now + self._interval_s)
        if self._pinged_at is not None:
            # The loop's clock ticks in milliseconds: a pong of a near peer has the ping's own time.
            timeout_s = self._timeout_s if self._probed_s is None else self._probed_s
            if self.last_byte_at >= self._pinged_at:
                self._pinged_at = self._probed_s = None
            elif now >= self._pinged_at + timeout_s:
                return Dead(now - self._pinged_at)
            else:
                # Looked at once an interval: the answer, whenever it comes, sets the time of the next ping.
                return Wait(min(self._pinged_at + timeout_s, now + self._interval_s))
        due = self.last_byte_at + self._interval_s
        if now < due and self._probed_s is None:
            return Wait(due)
        self._pinged_at = now
        return Ping()
