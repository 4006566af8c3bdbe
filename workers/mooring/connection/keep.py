"""When a kept connection dials again, and when not any more. Pure: time comes in as monotonic seconds, chance from 0 to 1.

The checked policy of one connection is `staying.Reconnect`; `fate` puts any end of a socket or of an attempt into one of three classes;
`Keeper` counts, and answers each end with `Redial` or `Stop`. It must not know sockets, timers or events.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from mooring.errors import ErrCode
from mooring.staying import Reconnect

MAX_RETRY_AFTER_S = 3_600.0  # a server that says "in two days" may be wrong, or back before
NOT_AT_ONCE_N = 3  # 1013 and a bare 429 ask for time without saying how much (Pusher's "not at once")
_NEVER = float("-inf")  # one object for all
_MAX_EXPONENT = 40  # beyond the largest maxDelay for the smallest minDelay; 2.0**1024 would overflow

_ENDS = frozenset(
    {
        ErrCode.POLICY_REFUSED,  # the answer would not change before the policy does
        ErrCode.REDIRECT_REFUSED,
        ErrCode.TERMINATED_WHILE_CONNECTING,
        ErrCode.HANDLER_FAILED,  # trying again would be a loop at the import
        ErrCode.GAVE_UP,
        ErrCode.STOPPED_BY_RECIPE,
        ErrCode.WORKER_STOPPING,
        ErrCode.SERVICE_STOPPED,
    }
)
_OURS = frozenset(
    {ErrCode.WORKER_DIED, ErrCode.WORKER_DRAINED, ErrCode.NODE_LOST}
)  # the worker or its node went: no code of a socket is meant


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a socket, or an attempt to get one, ended.

    `err_code`: of the outermost error; None where the peer closed. `close_code`: the peer's or ours, 1005 and 1006 included;
    None where no socket was open. `status`: of a handshake that was answered with another than 101. `refused_step`: the
    ``fail`` of an opening step matched. `retry_after_s`: what the server asked for.
    """

    err_code: int | None = None
    close_code: int | None = None
    status: int | None = None
    refused_step: bool = False
    retry_after_s: float | None = None


class Fate(Enum):
    """The three classes."""

    RETRY = "again, after the delay"
    REFUSED = "again with a renewed credential, once"
    STOP = "never again: it would recur"


def fate(policy: Reconnect, end: Ended) -> Fate:
    """Return the class of `end`. Total: whatever the numbers are, it has one."""
    code = end.err_code
    if code in _ENDS:
        return Fate.STOP
    if code in _OURS:
        return Fate.RETRY
    if code == ErrCode.HANDSHAKE_STATUS:
        return _status_fate(policy, end.status)
    if end.close_code in policy.stop_codes:  # where both lists name a code: to stop is the rarer wish, so it was meant
        return Fate.STOP
    if code == ErrCode.OPENING_FAILED and end.refused_step:
        return Fate.REFUSED
    if (
        code in (None, ErrCode.OPENING_FAILED) and end.close_code in policy.refused_codes
    ):  # graphql-ws: 4401 in the opening
        return Fate.REFUSED
    return Fate.RETRY


def _status_fate(policy: Reconnect, status: int | None) -> Fate:
    if status in policy.retry_statuses or (
        status is not None and 500 <= status <= 599 and "5xx" in policy.retry_statuses
    ):
        return Fate.RETRY
    return Fate.REFUSED if status in (401, 403) else Fate.STOP


class Redial(msgspec.Struct, frozen=True):
    """Ask the limiter at `at`. `renew`: with fresh values, none from a cache. `n`: of the delay that was drawn."""

    at: float
    n: int
    renew: bool = False


class Stop(msgspec.Struct, frozen=True):
    """The end. `err_code`: of the ``onError`` that comes first, None: there is none (a close by the peer is no error)."""

    err_code: int | None


class Keeper:
    """What is counted between the sockets of one id.

    Args:
        policy: As `staying.resolve` gave it; may be replaced at any time (``PATCH``).
        now: When the connection was created, or lost where another process had it.
        was_ready: A socket of this id was ready before, in a process that is gone.
    """

    __slots__ = (
        "_at_once_at",
        "_began_at",
        "_ready_at",
        "_was_ready",
        "_was_refused",
        "attempts",
        "down_since",
        "n",
        "policy",
    )

    def __init__(self, policy: Reconnect, now: float, *, was_ready: bool = False) -> None:
        self.policy = policy
        self.n = 0  # delays drawn since the last reset
        self.attempts = 0  # dials since the loss, or since the create
        self.down_since: float | None = now  # None: a socket is ready
        self._was_ready = was_ready
        self._was_refused = False  # a credential was renewed, and has not yet proved itself
        self._began_at = now
        self._ready_at = now
        self._at_once_at = _NEVER

    @property
    def gives_up_at(self) -> float:
        """When `gave_up` is due; infinity while a socket is ready, or where it never is."""
        after = self.policy.give_up_after_s
        return self.down_since + after if after and self.down_since is not None else float("inf")

    def began(self, now: float) -> None:
        """An attempt begins: renewal, dial and opening."""
        self.attempts += 1
        self._began_at = now

    def ready(self, now: float) -> None:
        """The attempt has brought a socket that is ready."""
        self._was_ready = True
        self._ready_at = now
        self.down_since = None

    def ended(self, end: Ended, now: float, chance: float, *, renewable: bool, proven: bool = True) -> Redial | Stop:
        """Answer the end of the ready socket, or of the attempt.

        Args:
            chance: From 0 to 1.
            renewable: Something may give another credential: a ``renew``, or a secret in use.
            proven: A message has come over this socket, or there is no ``dataTimeout``: a feed that is silent from birth
                is not back, however long its socket stands.
        """
        self._lost(now, proven)
        judged = fate(self.policy, end)
        if judged is Fate.STOP or (not self._was_ready and self.policy.first == "fail"):
            return Stop(end.err_code)
        if judged is Fate.REFUSED:
            if self._was_refused or not renewable:
                return Stop(end.err_code)
            self._was_refused = True
        if now >= self.gives_up_at:
            return Stop(ErrCode.GAVE_UP)
        waits = end.close_code == 1013 or (end.status == 429 and end.retry_after_s is None)
        return self._draw(now, chance, end.retry_after_s, NOT_AT_ONCE_N if waits else 0, renew=judged is Fate.REFUSED)

    def ordered(self, now: float, delay_s: float = 0.0, *, proven: bool = True) -> Redial:
        """A new socket was ordered (REST, ``ws.reconnect``): no delay is drawn, and n is kept."""
        self._lost(now, proven)
        return Redial(now + delay_s, self.n)

    def asked(self, now: float, chance: float, *, at_once: bool, proven: bool = True) -> Redial:
        """The peer asked for a new socket (``reconnectWhen``); `at_once` is obeyed once in ``minUptime``: a peer may loop."""
        self._lost(now, proven)
        if at_once and now - self._at_once_at >= self.policy.min_uptime_s:
            self._at_once_at = now
            return Redial(now, self.n)
        return self._draw(now, chance, None, 0, renew=False)

    def _lost(self, now: float, proven: bool) -> None:
        """Where a socket was ready: it is down from now on, and n begins anew if it has lasted."""
        if self.down_since is not None:
            return
        if now - self._ready_at >= self.policy.min_uptime_s:
            self._was_refused = False
            if proven:
                self.n = 0
        self.down_since = self._began_at = now
        self.attempts = 0

    def _draw(self, now: float, chance: float, retry_after_s: float | None, least_n: int, *, renew: bool) -> Redial:
        # Full jitter, the cap before the draw: nobody waits the cap itself, so nobody meets there. Counted from the start of
        # the attempt, since a timeout was waiting, too.
        policy, n = self.policy, self.n
        bound = min(policy.max_delay_s, policy.min_delay_s * 2.0 ** min(max(n, least_n), _MAX_EXPONENT))
        at = max(now, self._began_at + chance * bound)
        if retry_after_s is not None:
            at = max(at, now + min(retry_after_s, MAX_RETRY_AFTER_S) + chance * policy.min_delay_s)
        self.n += 1
        return Redial(at, n, renew)
