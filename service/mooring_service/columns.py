"""What the service itself writes about connections whose worker cannot: events and records, put together as one addition. Pure."""

from __future__ import annotations

import msgspec

from mooring.events import Kind, body_prefix, connection_body, encode_event
from mooring.kept_events import UnsentEvent
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.journal.batch import Append


class Columns:
    """Events of connections of one worker, and the records that change with them.

    Args:
        time_us: When all of it happens, microseconds since 1970.
    """

    def __init__(self, worker: str, time_us: int) -> None:
        self._worker = worker
        self._time_us = time_us
        self._ids: list[bytes] = []
        self._kinds: list[int] = []
        self._bodies: list[bytes] = []
        self._updates: list[ConnectionUpdate] = []

    def event(self, created: ConnectionCreated, kind: Kind, seq: int, event: msgspec.Struct) -> None:
        """Add an event."""
        self._ids.append(created.id.to_bytes(8, "little", signed=True))
        self._kinds.append(kind)
        prefix = body_prefix(kind, created.id, created.worker)
        self._bodies.append(connection_body(prefix, seq, self._time_us, encode_event(event)))

    def unsent(self, created: ConnectionCreated, update: ConnectionUpdate) -> ConnectionUpdate:
        """Add what is told of messages that waited in a process that is gone, if any did; return `update` without them."""
        kept = update.kept
        if kept is None or not kept.queued_messages:
            return update
        event = UnsentEvent(reason="workerDied", count=kept.queued_messages, bytes=kept.queued_bytes)
        self.event(created, Kind.onUnsent, update.seq + 1, event)
        return msgspec.structs.replace(
            update, seq=update.seq + 1, kept=msgspec.structs.replace(kept, queued_messages=0, queued_bytes=0)
        )

    def update(self, update: ConnectionUpdate) -> None:
        """Add a record."""
        self._updates.append(update)

    def append(self) -> Append:
        """Return all of it."""
        return Append(
            worker=self._worker,
            connections=b"".join(self._ids),
            kinds=bytes(self._kinds),
            bodies=b"\n".join(self._bodies),
            updates=self._updates,
        )


def joined(first: Append, then: Append) -> Append:
    """Return `then` with the events and updates of `first` before its own."""
    bodies = [bodies for bodies in (first.bodies, then.bodies) if bodies]
    return msgspec.structs.replace(
        then,
        worker=then.worker or first.worker,
        connections=first.connections + then.connections,
        kinds=first.kinds + then.kinds,
        bodies=b"\n".join(bodies),
        updates=[*first.updates, *then.updates],
    )
