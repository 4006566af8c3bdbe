"""What the record and the events of a connection are made of: who it is, how it stands, what it has counted. No I/O."""

from __future__ import annotations

from mooring.connection.state import ConnectionState
from mooring.errors import ErrorEntry
from mooring.events import Kind, body_prefix
from mooring.link.messages import ConnectionCreated, ConnectionUpdate, Terminated


class RecordedConnection:
    """A connection as the outbox reports it (`outbox.Recorded`).

    Attributes:
        seq: Number of its last event; written by whoever records: the context with a handler, else the I/O loop.
        recorded_seq: `seq` as far as the outbox has made frames of it.
        ended: Set by the outbox once no event will follow.
        message_prefix: The part that the bodies of all its messages have in common.
    """

    __slots__ = (
        "__weakref__", "_created_reported", "bytes_in", "bytes_out", "closed_at_us", "created", "ended", "errors", "id",
        "id_bytes", "last_message_at_us", "message_prefix", "messages_in", "messages_out", "opened_at_us", "protocol",
        "recorded_seq", "round_trip_us", "seq", "state", "terminated",
    )  # fmt: skip

    def __init__(self, created: ConnectionCreated) -> None:
        self.id = created.id
        self.id_bytes = created.id.to_bytes(8, "little", signed=True)
        self.created = created
        self.state = ConnectionState.CONNECTING
        self.seq = 0
        self.recorded_seq = 0
        self.ended = False
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0
        self.last_message_at_us: int | None = None
        self.round_trip_us: int | None = None
        self.opened_at_us: int | None = None
        self.closed_at_us: int | None = None
        self.protocol: str | None = None
        self.terminated: Terminated | None = None
        self.errors: list[ErrorEntry] = []
        self.message_prefix = body_prefix(Kind.onMessage, created.id, created.worker)
        self._created_reported = False

    def take_created(self) -> ConnectionCreated | None:
        """Return the unchanging part of the record, the first time."""
        if self._created_reported:
            return None
        self._created_reported = True
        return self.created

    def update(self) -> ConnectionUpdate:
        """Return the changing part of the record."""
        return ConnectionUpdate(
            id=self.id,
            status=self.state.value,
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
