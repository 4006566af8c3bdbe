"""The public records of connections and workers: exactly the JSON that users see (contract, section 4). Leaf."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from mooring.dial_options import Family
from mooring.errors import ErrorEntry
from mooring.link.messages import STATUS_CLOSED, STATUS_CLOSING, STATUS_CONNECTED, STATUS_CONNECTING, Terminated

STATUS_TONES = {
    STATUS_CONNECTING: "warn",
    STATUS_CONNECTED: "good",
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
    """Counters of one connection; sizes in bytes, `round_trip_ms` of the last ping."""

    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    last_message_at: str | None
    round_trip_ms: float | None


class ConnectionRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One connection. Times are RFC 3339 UTC with microseconds; header values are always ``***``.

    `proxy` (a name of the configuration, a URL, or null: none) and what follows it stand here only where they were asked for.
    """

    id: int
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


class RunningItem(msgspec.Struct, frozen=True, rename="camel"):
    """The callback or call that the context is running, and for how many seconds."""

    name: str
    seconds: float


class WorkerRecord(msgspec.Struct, frozen=True, rename="camel"):
    """One worker. `mailbox` and `outbox` are lengths in items; `cpu` in seconds, `rss` in bytes."""

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


class Killed(msgspec.Struct, frozen=True):
    """What ending a worker cost: pending items discarded, connections closed."""

    discarded: int
    closed: int


class SentRecord(msgspec.Struct, frozen=True):
    """What a send did: messages and payload bytes written to the socket."""

    sent: int
    bytes: int
