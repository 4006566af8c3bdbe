"""What callbacks are handed about a connection that stays: lost, back, silent, and what was not sent. Leaf, pure.

Times are text, RFC 3339 UTC with microseconds, as in the JSON of the events. The kinds are in `events.KINDS`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mooring.errors import ErrorEntry

Cause = Literal[
    "peer", "lost", "ping", "keepAlive", "silence", "asked", "order", "data",
    "workerDied", "drained", "nodeLost", "cutOff", "serviceRestarted", "serviceStopped",
]  # fmt: skip
UnsentReason = Literal["expired", "terminated", "workerDied", "dropped"]


class QueuedRecord(msgspec.Struct, frozen=True):
    """What waits to be sent."""

    messages: int = 0
    bytes: int = 0


class DisconnectEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``on_disconnect`` gets: the socket that was ready has ended, and another one will follow.

    `code`, `reason`, `was_clean` as in `TerminateEvent`, of this socket. `cause`: whose doing it was. `errors`: of the loss,
    outermost first. `last_heard_at`: the last byte. `next_attempt_at` is None where no attempt is planned yet.
    """

    type: str = "disconnect"
    socket: int
    code: int
    reason: str
    was_clean: bool
    cause: Cause
    errors: list[ErrorEntry]
    last_message_at: str | None
    last_heard_at: str | None
    next_attempt_at: str | None
    queued: QueuedRecord = QueuedRecord()


class ReconnectEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``on_reconnect`` gets (``on_open`` of a handler without it): a new socket is ready.

    Messages may be missing in (`gap_from`, the time of this event]. `lost`: how many, None if unknowable. `attempts`: dials
    since the loss, this one included. `restarted`: another process of the worker holds it now, with a new handler object.
    """

    type: str = "reconnect"
    socket: int
    protocol: str | None
    down_since: str
    down_ms: float
    attempts: int
    gap_from: str | None
    lost: int | None = None
    resumed: bool | None = None
    restarted: bool = False


class SilenceEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``on_silence`` gets: no message has come since `since`."""

    type: str = "silence"
    since: str
    last_message_at: str | None


class UnsentMessage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A message that was not sent. `data` is text, or bytes: in JSON base64, as `encoding` then says."""

    queue_id: int
    data: Any
    encoding: Literal["base64"] | UnsetType = UNSET


class UnsentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What ``on_unsent`` gets: `count` and `bytes` of all that was given up; `messages`, the first of them."""

    type: str = "unsent"
    reason: UnsentReason
    count: int
    bytes: int
    messages: list[UnsentMessage] = []
