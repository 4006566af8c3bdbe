"""The record of a connection as worker and service have it: what never changes, what changes, and the statuses. No I/O.

It travels in `messages`, and is kept in the journal, by place: new fields get defaults and go last; none is ever retyped.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.dial_options import DialShown, dial_shown
from mooring.errors import ErrorEntry
from mooring.kept_options import WhenDown
from mooring.options import OPTIONS, ConnectionOptions, ConnectionRequest
from mooring.staying import Reconnect

_pack = msgspec.msgpack.Encoder().encode

STATUS_CONNECTING = "Connecting"
STATUS_CONNECTED = "Connected"
STATUS_RECONNECTING = "Reconnecting"  # only of kept ones
STATUS_CLOSING = "Closing"
STATUS_CLOSED = "Closed"
STATUSES = (STATUS_CONNECTING, STATUS_CONNECTED, STATUS_RECONNECTING, STATUS_CLOSING, STATUS_CLOSED)
"""Every status of a connection, in the order of its life."""


class Terminated(msgspec.Struct, frozen=True, rename="camel"):
    """How a connection ended: the fields of ``onTerminate``."""

    code: int
    reason: str
    was_clean: bool


_MAX_SHARED = 256
_shown: dict[bytes, dict[str, Any]] = {}


def _same(shown: dict[str, Any]) -> dict[str, Any]:
    """Return the one object that stands for all that read the same: nobody changes one, and ten thousand connections have few."""
    if len(_shown) >= _MAX_SHARED:
        _shown.clear()
    return _shown.setdefault(_pack(shown), shown)


class KeptCreated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a record is as it was asked for, where a connection is kept."""

    reconnect: Reconnect
    when_down: WhenDown = OPTIONS["when_down"].default
    queue_ttl_s: float = OPTIONS["queue_ttl"].default


_MAX_SHARED = 256
_kept_alike: dict[KeptCreated, KeptCreated] = {}


def _one_for_all(kept: KeptCreated) -> KeptCreated:
    """Return the one object that stands for all that are equal to `kept`: ten thousand connections are mostly kept alike."""
    if len(_kept_alike) >= _MAX_SHARED:
        _kept_alike.clear()
    return _kept_alike.setdefault(kept, kept)


class AskedCreated(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a record is as it was asked for, where messages mean something to mooring itself; no secret is in it.

    `recipe`: a name, or an object as the API shows it; `keep_alive` likewise.
    """

    recipe: Any = None
    keep_alive: Any = None
    data_timeout_s: float = 0.0
    when_silent: str = "reconnect"
    requests: Any = None

    def __post_init__(self) -> None:
        for name in ("recipe", "keep_alive", "requests"):
            value = getattr(self, name)
            if isinstance(value, dict):
                msgspec.structs.force_setattr(self, name, _same(value))


class ConnectionCreated(msgspec.Struct, frozen=True, array_like=True):
    """The part of a connection's record that never changes. Header values are not in it: they are secrets."""

    id: int
    url: str
    worker: str
    handler: str | None
    data_type: str
    header_names: list[str]
    created_at_us: int
    verify: bool = True
    send_timeout_s: float = OPTIONS["send_timeout"].default
    close_timeout_s: float = OPTIONS["close_timeout"].default
    kept: KeptCreated | None = None
    dial: DialShown = DialShown()
    name: str | None = None
    declared: bool = False
    """The configuration has it (``[connections.NAME]``)."""
    asked: AskedCreated | None = None
    spec: bytes | None = None
    """The create request of one that is persisted: what it is opened with again where no process holds it. No secret is in it."""
    attempt_s: float = 0.0
    """So long its first attempt may take, where its handler has had a say in it; 0: as long as the request lets it."""

    def __post_init__(self) -> None:
        if self.kept is not None:
            msgspec.structs.force_setattr(self, "kept", _one_for_all(self.kept))

    @classmethod
    def of(
        cls,
        connection: int,
        worker: str,
        handler: str | None,
        created_at_us: int,
        options: ConnectionOptions,
        *,
        name: str | None = None,
        declared: bool = False,
        asked: AskedCreated | None = None,
        spec: ConnectionRequest | None = None,
        attempt_s: float = 0.0,
    ) -> ConnectionCreated:
        """Return the record of a connection that is being made; `handler` is its public name, `name` its own.

        Args:
            asked: What the record shows of the rest.
            spec: What a request has asked for.
            attempt_s: So long its first attempt may take; 0: the request alone tells.
        """
        persist = options.reconnect is not None and options.reconnect.persist and not declared
        return cls(
            id=connection,
            url=options.url,
            worker=worker,
            handler=handler,
            data_type=options.data_type,
            header_names=list(dict.fromkeys(name for name, _ in options.headers)),
            created_at_us=created_at_us,
            verify=options.tls.verify,
            send_timeout_s=options.send_timeout_s,
            close_timeout_s=options.close_timeout_s,
            kept=None
            if options.reconnect is None
            else KeptCreated(options.reconnect, options.when_down, options.queue_ttl_s),
            dial=dial_shown(options.proxy, options.family, options.addresses, options.local_address),
            name=name,
            declared=declared,
            asked=asked,
            spec=_pack(spec) if persist and spec is not None else None,
            attempt_s=attempt_s,
        )

    @property
    def persists(self) -> bool:
        """It outlives service and worker: what it is opened with again is in the journal, or in the configuration."""
        return self.kept is not None and (self.declared or self.kept.reconnect.persist)


class Down(msgspec.Struct, frozen=True, array_like=True):
    """What a kept connection does to get a socket: the ``down`` of its record, but that times are microseconds since 1970.

    `attempt`: of how many dials this is, since the loss or the create. `code`, `reason`: how the socket ended, or the last attempt.
    `errors`: of the last attempt, or the loss. `retry_after_s`: what the server asked for.
    """

    since_us: int
    phase: str
    attempt: int
    next_attempt_at_us: int | None = None
    code: int | None = None
    reason: str = ""
    errors: list[ErrorEntry] = []
    retry_after_s: float | None = None


class KeptUpdate(
    msgspec.Struct, frozen=True, array_like=True, gc=False
):  # one for each, and it refers to nothing that refers back
    """What of a record changes only where a connection is kept.

    `socket`: number of the present or last socket that was ready, 0 before the first. `recorded_at_us`: when the last message
    that is recorded came, as of the `seq` beside it. `down_us`: in all, up to the last return.
    `queue_id`: number of the last message that has waited to be sent. `step`: which of the `steps` of the opening is under way, from
    1; 0: none.
    """

    socket: int = 0
    reconnects: int = 0
    socket_opened_at_us: int | None = None
    recorded_at_us: int | None = None
    last_heard_at_us: int | None = None
    down: Down | None = None
    down_us: int = 0
    messages_filled: int = 0
    keep_alives: int = 0
    late_replies: int = 0
    queued_messages: int = 0
    queued_bytes: int = 0
    queue_id: int = 0
    step: int = 0
    steps: int = 0


class ConnectionUpdate(msgspec.Struct, frozen=True, array_like=True):
    """The part of a connection's record that changes, whole: the latest one replaces all before it.

    `seq` is that of its last event; `ended` is true once its ``on_terminate`` has returned: no event follows.
    """

    id: int
    status: str
    seq: int = 0
    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    last_message_at_us: int | None = None
    round_trip_us: int | None = None
    opened_at_us: int | None = None
    closed_at_us: int | None = None
    protocol: str | None = None
    terminate: Terminated | None = None
    errors: list[ErrorEntry] = []
    ended: bool = False
    kept: KeptUpdate | None = None
