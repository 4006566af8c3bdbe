"""What worker and service say to each other about what is sent over connections; a part of the unions of `messages`. No I/O."""

from __future__ import annotations

from typing import Literal

import msgspec

from mooring.kept_options import WhenDown


class Send(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Write messages, in order: text frames, or binary ones. `key` makes a repeat harmless (Idempotency-Key).

    `when_down`, `ttl_s`: instead of what the connection was opened with.
    """

    request: int
    connection: int
    binary: bool
    payloads: list[bytes]
    key: str | None = None
    when_down: WhenDown | None = None
    ttl_s: float | None = None


class DropQueue(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Give up what waits to be sent on a connection."""

    request: int
    connection: int


class Sent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Messages were written to the socket; the totals are those of the connection's record."""

    request: int
    sent: int
    bytes: int
    messages_out: int
    bytes_out: int


class SendFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Not all was written. `status`: the connection's, ``""`` if it is not held; `stalled`: the peer did not read for ``sendTimeout``.

    `why`: ``full``: there is no room for it to wait. ``late``: it has waited behind the queue for ``sendTimeout``.
    ``uncertain``: it was begun, and the socket has ended before all of it was in the kernel's hands; the first `sent` were.
    """

    request: int
    sent: int
    status: str
    stalled: bool = False
    why: Literal["", "full", "late", "uncertain"] = ""


class SendQueued(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Messages wait until the connection is ready; show it once `after` is stored, which counts them. `queue_id`: of the first."""

    request: int
    after: int
    queued: int
    bytes: int
    queue_id: int
    expires_at_us: int


class QueueDropped(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What waited was given up; show it once `after` is stored. `status`: as in `ReconnectDone`."""

    request: int
    after: int
    status: str
    messages: int = 0
    bytes: int = 0


class SendRequest(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Send the JSON text `body`, with an id of ours unless it has one, and answer with the reply.

    `key` makes a repeat harmless (Idempotency-Key). `later`: answer once it is on its way.
    """

    request: int
    connection: int
    body: bytes
    timeout_s: float
    key: str | None = None
    later: bool = False


class Replied(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The reply to a request has come; show it once `after` is stored.

    `seq`: of the ``onMessage`` that it is; 0: it is none, or will be one when a handler has had its turn. `failed`: it is an
    error of the peer. `ms`: from the request to it.
    """

    request: int
    after: int
    seq: int
    payload: bytes
    failed: bool
    ms: float


WhyNoReply = Literal["state", "limit", "id", "place", "stalled", "timeout", "lost", "none"]


class RequestFailed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """There is no reply. `status`: the connection's, ``""`` if it is not held.

    `why`: ``state``: it is not ready, and nothing was sent. ``limit``: too many are pending. ``id``: one of this id is. ``place``:
    the body has no place for an id. ``stalled``: the peer does not read. ``timeout``, ``lost``: it was sent, and may have been
    done. ``none``: the connection has no ``requests``.
    """

    request: int
    why: WhyNoReply
    status: str


class RequestTaken(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A request is on its way; its reply will be an ordinary message."""

    request: int
    id: int | float | str
