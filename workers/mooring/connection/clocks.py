"""Is anybody at home behind the socket? The clocks of the application, as arithmetic on monotonic time. Pure.

`wire/liveness` asks whether a byte comes at all. Here it is whether the peer's program answers our heartbeat (``keepAlive``), and
whether messages come (``dataTimeout``), whatever pings say. They are made when a socket is ready and die with it: a clock that
outlives its socket kills the next one. All stand still while we do not read.
"""

from __future__ import annotations

import math

import msgspec

from mooring.connection.keep_alive import KeepAlive

_NONE = KeepAlive()  # one for all: each idle connection has clocks


class Beat(msgspec.Struct, frozen=True):
    """Send ``keepAlive.send`` now."""


class Dead(msgspec.Struct, frozen=True):
    """The peer's program is dead (207): for `silent_s` no answer to a heartbeat came, or nothing of what ``within`` awaits."""

    silent_s: float


class Silent(msgspec.Struct, frozen=True):
    """No message has come since `since`, when the last one came or the socket became ready. Said once a silence."""

    since: float


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do before `at`; infinity: never."""

    at: float


class Clocks:
    """Clocks of one ready socket.

    Args:
        keep_alive: The compiled ``keepAlive``, or None.
        data_timeout_s: So long without a message is a silence; 0: never.
        now: Monotonic seconds: the socket is ready.

    Attributes:
        last_message_at: Written by the owner with each message that is not hidden: the hot path's only cost.
        last_hidden_at: Likewise, with each hidden frame.
        last_sent_at: Likewise, when we send anything; read only under ``whenIdle``.
    """

    __slots__ = (
        "_awaited_since",
        "_beat_at",
        "_data_timeout_s",
        "_interval_s",
        "_keep_alive",
        "_paused_at",
        "_ready_at",
        "_told_of",
        "_unanswered",
        "last_hidden_at",
        "last_message_at",
        "last_sent_at",
    )

    def __init__(self, keep_alive: KeepAlive | None, data_timeout_s: float, now: float) -> None:
        self._keep_alive = keep_alive or _NONE
        self._interval_s = self._keep_alive.interval_s
        self._data_timeout_s = data_timeout_s
        self._ready_at = self._beat_at = now
        self._awaited_since = math.inf  # the oldest heartbeat that is not answered
        self._unanswered = 0
        self._told_of = -math.inf  # of the silence that was told last, when it began
        self._paused_at: float | None = None
        self.last_message_at = self.last_hidden_at = self.last_sent_at = -math.inf

    @property
    def proven(self) -> bool:
        """Whether a message has come over this socket (`keep.Keeper.ended`)."""
        return self.last_message_at >= self._ready_at

    @property
    def awaits(self) -> bool:
        """Whether a heartbeat of ours is unanswered: only then a frame that ``expect`` matches is its answer, and hidden."""
        return self._unanswered > 0

    def answered(self) -> None:
        """``expect`` has matched. The answer to any heartbeat proves life for all before it."""
        self._unanswered = max(0, self._unanswered - 1)
        self._awaited_since = math.inf

    def told(self, value: object) -> None:
        """The server has told its interval (``intervalFrom``)."""
        self._interval_s = self._keep_alive.told_interval_s(value)

    def paused(self, now: float) -> None:
        """Reading was paused by us."""
        if self._paused_at is None:
            self._paused_at = now

    def resumed(self, now: float) -> None:
        """Reading goes on: what the peer has to prove is moved by the whole pause."""
        if self._paused_at is None:
            return
        pause = now - self._paused_at
        self._awaited_since = now if self._paused_at <= self._awaited_since < math.inf else self._awaited_since + pause
        for name in ("_ready_at", "last_message_at", "last_hidden_at", "_told_of"):
            setattr(self, name, min(getattr(self, name) + pause, now))
        self._paused_at = None

    def check(self, now: float) -> Beat | Dead | Silent | Wait:
        """Say what is due at `now`; call again at `Wait.at`, and at once after `Beat` and `Silent`."""
        keep_alive = self._keep_alive
        if self._paused_at is None:
            if now >= self._awaited_since + keep_alive.timeout_s:
                return Dead(now - self._awaited_since)
            if keep_alive.within_s and now >= self._heard_at() + keep_alive.within_s:
                return Dead(now - self._heard_at())
            since = self._message_at()
            if self._data_timeout_s and since != self._told_of and now >= since + self._data_timeout_s:
                self._told_of = since
                return Silent(since)
        if now >= self._next_beat():
            self._beat_at = now
            if keep_alive.expect is not None:
                self._unanswered += 1
                self._awaited_since = min(self._awaited_since, now)
            return Beat()
        return Wait(self.due_at)

    @property
    def due_at(self) -> float:
        """When something is due, as it stands now; infinity: never."""
        keep_alive, beat_at = self._keep_alive, self._next_beat()
        if self._paused_at is not None:
            return beat_at
        wait = min(beat_at, self._awaited_since + keep_alive.timeout_s)
        if keep_alive.within_s:
            wait = min(wait, self._heard_at() + keep_alive.within_s)
        if self._data_timeout_s and self._message_at() != self._told_of:
            wait = min(wait, self._message_at() + self._data_timeout_s)
        return wait

    def _next_beat(self) -> float:
        if self._keep_alive.send is None:
            return math.inf
        if self._keep_alive.when_idle:
            return max(self._beat_at, self.last_sent_at, self.last_message_at) + self._interval_s
        return self._beat_at + self._interval_s

    def _message_at(self) -> float:
        return max(self._ready_at, self.last_message_at)

    def _heard_at(self) -> float:
        return max(self._ready_at, self.last_message_at, self.last_hidden_at)
