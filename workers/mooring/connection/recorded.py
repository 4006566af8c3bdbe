"""What a connection is to whoever does not steer it: who it is, how it stands, what it has counted. No I/O.

The outbox makes its record of it, the context its events; what moves it is in `connection.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

from mooring.connection.state import ConnectionState
from mooring.errors import ErrorEntry
from mooring.events import Kind, body_prefix, connection_body, now_us
from mooring.link.outbox import Outbox
from mooring.link.record import ConnectionCreated, ConnectionUpdate, Terminated
from mooring.options import ConnectionOptions


class MessageWatcher(Protocol):
    """Who waits for a message to be an event."""

    def recorded(self, place: int, seq: int) -> None:
        """The message at `place` of those that were posted is in the outbox, as event `seq`. In the context."""


class RecordedConnection:
    """A connection as the outbox reports it (`outbox.Recorded`).

    Attributes:
        seq: Number of its last event; written by whoever records: the context with a handler, else the I/O loop.
        recorded_seq: `seq` as far as the outbox has made frames of it.
        ended: Set by the outbox once no event will follow.
        message_prefix: The part that the bodies of all its messages have in common.
        websocket: The face that callbacks are handed; set by whoever made the connection when there is a handler.
        posted, taken: Messages handed to the context, and taken by it; each is written by one thread. Likewise in bytes.
        reserved: Bytes of messages that code in this worker has handed over; changed under the lock of the reservations.
        acks: Answers that wait for messages to be stored; None: there are none of that kind.
        recorded_to: The `seq` and the time of the last message that the context has recorded, together.
    """

    __slots__ = (
        "__weakref__", "_created_reported", "acks", "bytes_in", "bytes_out", "closed_at_us", "created", "ended", "errors",
        "handler", "id", "id_bytes", "last_message_at_us", "message_prefix", "messages_in", "messages_out",
        "opened_at_us", "options", "posted", "posted_bytes", "protocol", "recorded_seq", "recorded_to", "reserved",
        "round_trip_us", "seq", "state", "taken", "taken_bytes", "terminated", "websocket",
    )  # fmt: skip

    def __init__(self, created: ConnectionCreated, options: ConnectionOptions, handler: object | None) -> None:
        self.id = created.id
        self.id_bytes = created.id.to_bytes(8, "little", signed=True)
        self.created = created
        self.options = options
        self.handler = handler
        self.websocket: Any = None
        self.state = ConnectionState.CONNECTING
        self.seq = 0
        self.recorded_seq = 0
        self.ended = False
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0
        self.posted = self.taken = self.posted_bytes = self.taken_bytes = self.reserved = 0
        self.last_message_at_us: int | None = None
        self.round_trip_us: int | None = None
        self.opened_at_us: int | None = None
        self.closed_at_us: int | None = None
        self.protocol: str | None = None
        self.terminated: Terminated | None = None
        self.errors: list[ErrorEntry] = []
        self.message_prefix = body_prefix(Kind.onMessage, created.id, created.worker)
        self.recorded_to: tuple[int, int] | None = None
        self.acks: MessageWatcher | None = None
        self._created_reported = False

    @property
    def refusing(self) -> ConnectionState:
        """The state that a send is told of which comes too late: the present one, or the next."""
        return ConnectionState.CLOSING if self.state is ConnectionState.CONNECTED else self.state

    def record(self, outbox: Outbox, kind: Kind, event: bytes) -> None:
        """Add one event other than a message to the outbox; called by the one thread that records for this connection."""
        self.seq += 1
        prefix = body_prefix(kind, self.id, self.created.worker)
        # With a handler a `callbackError` may still follow.
        ended = kind is Kind.onTerminate and self.handler is None
        outbox.add(self, bytes((kind,)), connection_body(prefix, self.seq, now_us(), event), self.seq, ended=ended)

    def created_is_stored(self) -> None:
        """The service has stored the unchanging part of the record before it asked for the connection: it need not be told."""
        self._created_reported = True

    def take_created(self) -> ConnectionCreated | None:
        """Return the unchanging part of the record, the first time."""
        if self._created_reported:
            return None
        self._created_reported = True
        return self.created

    def change(self, options: ConnectionOptions, created: ConnectionCreated) -> None:
        """Run with `options` from now on, of which `created` is the record; whoever calls has it reported (`touch`)."""
        self.options = options
        self.created = created
        self._created_reported = False

    def update(self) -> ConnectionUpdate:
        """Return the changing part of the record."""
        return ConnectionUpdate(
            id=self.id,
            status=self.state.status,
            seq=self.recorded_seq,
            messages_in=self.messages_in,
            messages_out=self.messages_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            last_message_at_us=self.last_message_at_us,
            round_trip_us=self.round_trip_us,
            opened_at_us=self.opened_at_us,
            closed_at_us=self.closed_at_us,
            protocol=self.protocol,
            terminate=self.terminated,
            errors=self.errors,
            ended=self.ended,
        )

    def mark_ended(self) -> None:
        """The outbox has made a frame of the last event."""
        self.ended = True
