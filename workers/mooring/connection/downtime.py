"""The time without a socket, as it is told: in ``onDisconnect``, in ``onReconnect``, and in the record meanwhile. Pure.

Times are microseconds since 1970, but what is measured is monotonic seconds: the time of day may jump.
"""

from __future__ import annotations

import msgspec

from mooring.connection.keep import Ended
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import rfc3339
from mooring.kept_events import Cause, DisconnectEvent, QueuedRecord, ReconnectEvent
from mooring.link.record import Down, KeptUpdate

MAX_ERRORS_BYTES = 4096  # of the errors in a record: a server may say what it likes

_CAUSES: dict[int, Cause] = {
    ErrCode.PING_TIMEOUT: "ping",
    ErrCode.KEEPALIVE_TIMEOUT: "keepAlive",
    ErrCode.SILENT: "silence",
    ErrCode.CONNECTION_LOST: "lost",
    ErrCode.PROTOCOL_ERROR: "data",
    ErrCode.INVALID_DATA: "data",
    ErrCode.MESSAGE_TOO_BIG: "data",
}


_OUTCOMES: dict[int, str] = {
    ErrCode.REFUSED: "refused",
    ErrCode.HANDSHAKE_STATUS: "refused",
    ErrCode.REDIRECT_REFUSED: "refused",
    ErrCode.CONNECT_TIMEOUT: "timeout",
    ErrCode.POLICY_REFUSED: "policy",
    ErrCode.OPENING_FAILED: "opening",
    ErrCode.RENEW_FAILED: "renew",
}


def outcome_of(err_code: int | None) -> str:
    """Return what became of an attempt that has failed, for the metrics."""
    return "lost" if err_code is None else _OUTCOMES.get(err_code, "lost")


_WHYS: dict[int, str] = {
    ErrCode.TERMINATED_WHILE_CONNECTING: "asked",
    ErrCode.GAVE_UP: "gaveUp",
    ErrCode.HANDSHAKE_STATUS: "refused",
    ErrCode.REDIRECT_REFUSED: "refused",
    ErrCode.OPENING_FAILED: "refused",
    ErrCode.PROTOCOL_ERROR: "stopCode",
    ErrCode.INVALID_DATA: "stopCode",
    ErrCode.MESSAGE_TOO_BIG: "stopCode",
    ErrCode.STOPPED_BY_RECIPE: "recipe",
    ErrCode.POLICY_REFUSED: "policy",
    ErrCode.HANDLER_FAILED: "handler",
    ErrCode.WORKER_STOPPING: "worker",
    ErrCode.SERVICE_STOPPED: "service",
}


def why_ended(ordered: str, err_code: int | None, *, refused: bool) -> str:
    """Return why a kept connection has ended for good, for the metrics.

    Args:
        ordered: ``asked`` or ``worker``, where somebody has ordered its end; else empty.
        err_code: Of its ``onError``; None: there is none.
        refused: The close code that ended it is one of ``refusedCodes``.
    """
    if ordered:
        return ordered
    if err_code is None:
        return "refused" if refused else "stopCode"
    return _WHYS.get(err_code, "dial")  # the one dial of first "fail"


class Loss(msgspec.Struct, frozen=True):
    """How a socket, or an attempt to get one, has ended: for the policy (`ended`), and for whoever is told."""

    ended: Ended
    code: int
    reason: str
    was_clean: bool
    cause: Cause | None = None
    errors: list[ErrorEntry] = []

    @property
    def told_cause(self) -> Cause:
        """Whose doing it was."""
        if self.cause is not None:
            return self.cause
        return "peer" if self.ended.err_code is None else _CAUSES.get(self.ended.err_code, "lost")


class Downtime:
    """The times without a socket of one connection, of which at most one runs.

    Args:
        since_us: When the connection was created: it is down until its first socket is ready.
        now: The same in monotonic seconds.

    Attributes:
        began_at: When it began, monotonic seconds.
        attempts: Dials since then.
        total_us: Of those that have ended.
        last_s: How long the last one was.
        heard_at_us: When the last socket was heard last.
        recorded_at_us: When the last message that is recorded came; kept here by whoever knows.
        restarted: Another process of the worker had the last socket.
    """

    __slots__ = (
        "_gap_from_us", "_loss", "_message_at_us", "_resumed", "_since_us", "attempts", "began_at", "heard_at_us",
        "last_s", "recorded_at_us", "restarted", "total_us",
    )  # fmt: skip

    def __init__(self, since_us: int, now: float) -> None:
        self._since_us = since_us
        self.began_at = now
        self._loss: Loss | None = None
        self.last_s = 0.0
        self._resumed: bool | None = None
        self._gap_from_us: int | None = None
        self._message_at_us: int | None = None
        self.attempts = 0
        self.total_us = 0
        self.heard_at_us: int | None = None
        self.recorded_at_us: int | None = None
        self.restarted = False

    @property
    def cause(self) -> Cause:
        """Whose doing the loss was."""
        return "lost" if self._loss is None else self._loss.told_cause

    @property
    def errors(self) -> list[ErrorEntry]:
        """Of the loss, or of the last attempt."""
        return [] if self._loss is None else self._loss.errors

    def begin(
        self,
        now: float,
        since_us: int,
        loss: Loss,
        message_at_us: int | None,
        opened_at_us: int | None,
        heard_at_us: int | None,
    ) -> None:
        """The ready socket has ended.

        Args:
            message_at_us: When the last message of any socket came.
            opened_at_us: When the socket had become ready.
            heard_at_us: When its last byte came.
        """
        self.began_at, self._since_us, self._loss = now, since_us, loss
        self._message_at_us, self.heard_at_us = message_at_us, heard_at_us
        self._gap_from_us = max(message_at_us or 0, opened_at_us or 0) or None
        self.attempts = 0
        self.restarted = False

    def resume(self, kept: KeptUpdate, now: float, wall_us: int) -> None:
        """Another process has lost the socket, and has told so: go on with what it has told."""
        self.restarted = kept.socket > 0
        self.total_us, self.heard_at_us, self.recorded_at_us = kept.down_us, kept.last_heard_at_us, kept.recorded_at_us
        if kept.down is not None:
            self._since_us = kept.down.since_us
            self.began_at = now - max(0, wall_us - self._since_us) / 1e6
        # What was received there and not recorded is lost: so not when the last message came, but when the last recorded one did.
        self._gap_from_us = max(kept.recorded_at_us or 0, kept.socket_opened_at_us or 0) or None

    def failed(self, loss: Loss) -> None:
        """An attempt has failed."""
        self._loss = loss

    def ended(self, now: float, resumed: bool | None = None) -> None:
        """A socket is ready; `resumed`: the server goes on where it was, None where nobody can tell."""
        self._resumed = resumed
        self.last_s = now - self.began_at
        if self._gap_from_us is not None:
            self.total_us += round((now - self.began_at) * 1e6)

    def disconnect_event(self, socket: int, next_attempt_at_us: int | None, queued: QueuedRecord) -> DisconnectEvent:
        """Return what ``on_disconnect`` gets."""
        loss = self._loss
        assert loss is not None, "`begin` comes first"
        return DisconnectEvent(
            socket=socket,
            code=loss.code,
            reason=loss.reason,
            was_clean=loss.was_clean,
            cause=loss.told_cause,
            errors=loss.errors,
            last_message_at=_text(self._message_at_us),
            last_heard_at=_text(self.heard_at_us),
            next_attempt_at=_text(next_attempt_at_us),
            queued=queued,
        )

    def reconnect_event(self, socket: int, protocol: str | None) -> ReconnectEvent:
        """Return what ``on_reconnect`` gets."""
        return ReconnectEvent(
            socket=socket,
            protocol=protocol,
            down_since=rfc3339(self._since_us),
            down_ms=round(self.last_s * 1000, 3),
            attempts=self.attempts,
            gap_from=_text(self._gap_from_us),
            lost=0 if self._resumed else None,
            resumed=self._resumed,
            restarted=self.restarted,
        )

    def shown(self, phase: str | None, next_attempt_at_us: int | None) -> Down | None:
        """Return ``down`` of the record; `phase` None: it is not down."""
        if phase is None:
            return None
        loss = self._loss
        return Down(
            since_us=self._since_us,
            phase=phase,
            attempt=self.attempts,
            next_attempt_at_us=next_attempt_at_us if phase == "waiting" else None,
            code=None if loss is None else loss.code,
            reason="" if loss is None else loss.reason,
            errors=_within_bytes(self.errors),
            retry_after_s=None if loss is None else loss.ended.retry_after_s,
        )


def _within_bytes(errors: list[ErrorEntry]) -> list[ErrorEntry]:
    left = MAX_ERRORS_BYTES
    found: list[ErrorEntry] = []
    for error in errors:
        left -= len(error.message.encode())
        if left < 0 and found:
            break
        found.append(
            error if left >= 0 else msgspec.structs.replace(error, message=error.message[: MAX_ERRORS_BYTES // 4])
        )
    return found


def _text(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)
