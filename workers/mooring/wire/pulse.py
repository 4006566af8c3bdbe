"""Pings and the peer's deadline: the clocks of `liveness.py`, with timers and frames. On the I/O loop only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from mooring.deadline import PASS_S
from mooring.wire.frames import PING, encode_frame
from mooring.wire.liveness import Dead, Liveness, Ping, Wait
from mooring.wire.ticks import Clock, Handle


class Pulse:
    """The pings of one connection.

    Args:
        clock: The loop, or what shares its timers.
        write: Writes a frame.
        on_dead: Called once, with the seconds of silence.
    """

    __slots__ = ("_clock", "_on_dead", "_payload", "_sent_at_ns", "_suspected", "_timer", "_write", "live")

    def __init__(
        self,
        clock: Clock,
        interval_s: float,
        timeout_s: float,
        write: Callable[[bytes], None],
        on_dead: Callable[[float], None],
    ) -> None:
        self._clock = clock
        self._write = write
        self._on_dead = on_dead
        self._payload = b""
        self._sent_at_ns = 0
        self._suspected = False
        self._timer: Handle | None = None
        self.live = Liveness(interval_s, timeout_s, clock.time())
        if interval_s:
            self._timer = clock.call_at(clock.time() + interval_s, self._tick)

    def stop(self) -> None:
        """No further ping, no deadline."""
        self._payload = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def probe(self, deadline_s: float) -> None:
        """Ping at once; without a byte the peer is dead after `deadline_s`, or its own timeout where that is shorter."""
        if self._timer is not None:
            self._timer.cancel()
            self.live.probe(deadline_s)
            self._tick()

    def pong(self, payload: bytes) -> int | None:
        """Take a pong: the round trip in microseconds if it answers our last ping, else None."""
        if not self._payload or payload != self._payload:
            return None
        self._payload = b""
        # Not loop.time(): uvloop's stands still for a pass of the loop, and counts milliseconds.
        return (time.monotonic_ns() - self._sent_at_ns) // 1000

    def _tick(self) -> None:
        at = self.beat(self._clock.time())
        self._timer = None if at is None else self._clock.call_at(at, self._tick)

    def beat(self, now: float) -> float | None:
        """Do what is due at `now`; return when to call again at the latest, None for never.

        Whose timer calls does not matter, if the loop reads between two calls: a late call makes its ping late, no more.
        """
        due = self.live.check(now)
        if isinstance(due, Ping):
            random = os.urandom(12)
            self._payload = random[:8]
            self._sent_at_ns = time.monotonic_ns()
            self._write(encode_frame(PING, self._payload, random[8:]))
            due = self.live.check(now)
        if isinstance(due, Dead):
            if self._suspected:
                self._on_dead(due.silent_s)
                return None
            self._suspected = True
            return now + PASS_S  # bytes that have waited in the socket while the loop was late are seen first
        self._suspected = False
        return due.at if isinstance(due, Wait) and due.at != float("inf") else None
