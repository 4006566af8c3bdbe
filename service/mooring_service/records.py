"""The public records of connections and workers: exactly the JSON that users see (contract, section 4). Leaf."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from mooring.dial_options import Family
from mooring.errors import ErrorEntry
from mooring.events import rfc3339
from mooring.kept_events import QueuedRecord
from mooring.link.record import (
    STATUS_CLOSED,
    STATUS_CLOSING,
    STATUS_CONNECTED,
    STATUS_CONNECTING,
    STATUS_RECONNECTING,
    AskedCreated,
    ConnectionCreated,
    ConnectionUpdate,
    Down,
    KeptCreated,
    KeptUpdate,
    Terminated,
)
from mooring.options import OPTIONS
from mooring.staying import Reconnect

STATUS_TONES = {
    STATUS_CONNECTING: "warn",
    STATUS_CONNECTED: "good",
    STATUS_RECONNECTING: "warn",
    STATUS_CLOSING: "warn",
    STATUS_CLOSED: "soft",
}
"""Status of a connection → what it is for whoever watches, on the command line and the console."""

WORKER_TONES = {
    "Starting": "warn",
    "Running": "good",
    "Restarting": "warn",
    "Stopping": "warn",
    "Stopped": "soft",
    "Failed": "bad",
}
"""Status of a worker → the same."""


class ConnectionStats(msgspec.Struct, frozen=True, rename="camel"):
    """Counters of one connection; sizes in bytes, `round_trip_ms` of the last ping. From `last_heard_at` on: only of kept ones."""

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    last_message_at: str | None
    round_trip_ms: float | None
    last_heard_at: str | UnsetType | None = UNSET
    keep_alives: int | UnsetType = UNSET
    messages_filled: int | UnsetType = UNSET
    late_replies: int | UnsetType = UNSET
    down_ms: float | UnsetType = UNSET


class DownRecord(msgspec.Struct, frozen=True, rename="camel"):
    """What a kept connection does to get a socket.

    `phase`: waiting, limited, renewing, dialling, opening, or blocked (its worker is gone). `attempt`: how many dials there
    were since `since`. `code`, `reason`, `errors`: of the loss, or of the last attempt. `retry_after` in seconds.
    """

    since: str
    phase: str
    attempt: int
    next_attempt_at: str | None
    code: int | None
    reason: str
    errors: list[ErrorEntry]
    retry_after: float | None


class OpeningRecord(msgspec.Struct, frozen=True):
    """Which step of a recipe's opening is under way, from 1, and how many there are."""

    step: int
    steps: int


class ReconnectRecord(Reconnect, frozen=True, kw_only=True, omit_defaults=False):
    """The effective ``reconnect``, whole."""


@functools.lru_cache(256)
def _whole(policy: Reconnect, persist: bool) -> ReconnectRecord:
    return ReconnectRecord(**{**msgspec.structs.asdict(policy), "persist": persist})


class ConnectionRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One connection. Times are RFC 3339 UTC with microseconds; header values are always ``***``.

    `proxy` (a name of the configuration, a URL, or null: none) to `local_address`: only where they were asked for.
    From `reconnect` on: only of kept ones, and of those with a recipe, `keepAlive`, `dataTimeout` or `requests`. `ready`: messages can
    be sent. `socket`: number of the present or last one that was
    ready. `opening`: which step of its recipe is under way, or null. `opened_at` is that of the first, `socket_opened_at` of the present or last one.
    """

    id: int
    name: str | None
    url: str
    status: str
    data_type: str
    worker: str
    handler: str | None
    headers: dict[str, str]
    protocol: str | None
    created_at: str
    opened_at: str | None
    closed_at: str | None
    terminate: Terminated | None
    errors: list[ErrorEntry]
    stats: ConnectionStats
    last_event_id: str | None
    verify: bool = True
    proxy: str | UnsetType | None = UNSET
    family: Family | UnsetType = UNSET
    addresses: list[str] | UnsetType = UNSET
    local_address: str | UnsetType = UNSET
    reconnect: ReconnectRecord | UnsetType | None = UNSET
    ready: bool | UnsetType = UNSET
    socket: int | UnsetType = UNSET
    reconnects: int | UnsetType = UNSET
    down: DownRecord | UnsetType | None = UNSET
    opening: OpeningRecord | UnsetType | None = UNSET
    socket_opened_at: str | UnsetType | None = UNSET
    queued: QueuedRecord | UnsetType = UNSET
    recipe: Any | UnsetType = UNSET
    keep_alive: Any | UnsetType = UNSET
    data_timeout: float | UnsetType = UNSET
    when_silent: str | UnsetType = UNSET
    when_down: str | UnsetType = UNSET
    queue_ttl: float | UnsetType = UNSET
    requests: Any | UnsetType = UNSET
    node: str | UnsetType = UNSET
    """Of a cluster: who holds it."""
    stale: bool | UnsetType = UNSET
    """Of a cluster: its node has not answered; this is what the log tells of it."""


def record_of(created: ConnectionCreated, update: ConnectionUpdate, last_event_id: str | None) -> ConnectionRecord:
    """Return the public record of a connection."""
    record = ConnectionRecord(
        id=created.id,
        name=created.name,
        url=created.url,
        status=update.status,
        data_type=created.data_type,
        worker=created.worker,
        handler=created.handler,
        headers=dict.fromkeys(created.header_names, "***"),
        protocol=update.protocol,
        created_at=rfc3339(created.created_at_us),
        opened_at=_time(update.opened_at_us),
        closed_at=_time(update.closed_at_us),
        terminate=update.terminate if update.status == STATUS_CLOSED else None,
        errors=update.errors,
        stats=ConnectionStats(
            messages_in=update.messages_in,
            messages_out=update.messages_out,
            bytes_in=update.bytes_in,
            bytes_out=update.bytes_out,
            last_message_at=_time(update.last_message_at_us),
            round_trip_ms=None if update.round_trip_us is None else update.round_trip_us / 1000,
        ),
        last_event_id=last_event_id,
        verify=created.verify,
        proxy=created.dial.proxy,
        family=created.dial.family,
        addresses=created.dial.addresses,
        local_address=created.dial.local_address,
    )
    if created.kept is None and created.asked is None:
        return record
    shown, kept = created.asked or AskedCreated(), update.kept or KeptUpdate()
    return _kept(record, created.kept, shown, kept, declared=created.declared)


def _kept(
    record: ConnectionRecord, created: KeptCreated | None, asked: AskedCreated, kept: KeptUpdate, *, declared: bool
) -> ConnectionRecord:
    down = None if record.status == STATUS_CLOSED else kept.down
    policy = None if created is None else created.reconnect
    return msgspec.structs.replace(
        record,
        reconnect=None if policy is None else _whole(policy, declared or policy.persist),
        ready=record.status == STATUS_CONNECTED,
        socket=kept.socket,
        reconnects=kept.reconnects,
        down=None if down is None else _down(down),
        opening=OpeningRecord(kept.step, kept.steps) if kept.step and record.status != STATUS_CLOSED else None,
        socket_opened_at=_time(kept.socket_opened_at_us),
        queued=QueuedRecord(kept.queued_messages, kept.queued_bytes),
        recipe=asked.recipe,
        keep_alive=asked.keep_alive,
        data_timeout=asked.data_timeout_s,
        when_silent=asked.when_silent,
        when_down="fail" if created is None else created.when_down,
        queue_ttl=OPTIONS["queue_ttl"].default if created is None else created.queue_ttl_s,
        requests=asked.requests,
        stats=msgspec.structs.replace(
            record.stats,
            last_heard_at=_time(kept.last_heard_at_us),
            keep_alives=kept.keep_alives,
            messages_filled=kept.messages_filled,
            late_replies=kept.late_replies,
            down_ms=kept.down_us / 1000,
        ),
    )


def _down(down: Down) -> DownRecord:
    return DownRecord(
        since=rfc3339(down.since_us),
        phase=down.phase,
        attempt=down.attempt,
        next_attempt_at=_time(down.next_attempt_at_us),
        code=down.code,
        reason=down.reason,
        errors=down.errors,
        retry_after=down.retry_after_s,
    )


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)


class RunningItem(msgspec.Struct, frozen=True, rename="camel"):
    """The callback or call that the context is running, and for how many seconds."""

    name: str
    seconds: float


class WorkerRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One worker. `mailbox` and `outbox` are lengths in items; `cpu` in seconds, `rss` in bytes.

    `node`, `stale`: only in a cluster, and as of connections; of a stale one no more is known than its name, node and connections.
    """

    name: str
    status: str
    pid: int | None
    incarnation: str | None
    started_at: str | None
    restarts: int
    connections: int
    mailbox: int
    mailbox_bytes: int
    running: RunningItem | None
    cpu: float
    rss: int
    outbox: int
    outbox_bytes: int
    paused: int
    draining: bool = False
    reason: str | None = None
    node: str | UnsetType = UNSET
    stale: bool | UnsetType = UNSET


def stale_worker(name: str, node: str, connections: int) -> WorkerRecord:
    """Return what is known of a worker whose node has not answered."""
    return WorkerRecord(
        name=name, status="Unknown", pid=None, incarnation=None, started_at=None, restarts=0, connections=connections,
        mailbox=0, mailbox_bytes=0, running=None, cpu=0.0, rss=0, outbox=0, outbox_bytes=0, paused=0, node=node, stale=True,
    )  # fmt: skip


class Killed(msgspec.Struct, frozen=True):
    """What ending a worker cost: pending items discarded, connections closed."""

    discarded: int
    closed: int


class SentRecord(msgspec.Struct, frozen=True):
    """What a send did: messages and payload bytes written to the socket."""

    sent: int
    bytes: int


class QueuedSendRecord(msgspec.Struct, frozen=True, rename="camel"):
    """Messages that wait until the connection is ready: how many, their bytes, the number and the end of the first.

    `sent`: of ndjson alone, how many lines were written before; `bytes` are those of both then.
    """

    queued: int
    bytes: int
    queue_id: int
    expires_at: str
    sent: int | UnsetType = UNSET


class Waiting(msgspec.Struct, frozen=True):
    """What is said of one send, should no socket be ready; None: as the connection was opened with."""

    when_down: Any = None
    ttl_s: Any = None


class ReplyRecord(msgspec.Struct, frozen=True):
    """The reply to a request over a connection.

    `reply`: the whole message, as it came. `event`: the id of its ``onMessage``; null where it is hidden, or a handler gets it.
    `ms`: from the request to it.
    """

    reply: Any
    event: str | None
    ms: float


class RequestRecord(msgspec.Struct, frozen=True):
    """A request is on its way with this `id`; its reply will be an ordinary message."""

    id: int | float | str
