"""A kept connection whose handler is still to be made, as far as messages wait for it. On the I/O loop only.

What may wait for a socket may wait for a handler: nobody who sends need know which of the two is missing. Once there is a
connection it takes over what waits, and tells what was given up: before that there is none whose event it could be.
"""

from __future__ import annotations

import msgspec

from mooring.connection.host import Host
from mooring.connection.queue import SendQueue
from mooring.events import now_us
from mooring.kept_events import UnsentEvent
from mooring.link.messages import Open
from mooring.link.messages_sent import QueueDropped, Send, SendFailed, SendQueued
from mooring.link.record import STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate, KeptUpdate
from mooring.options import effective


class Unmade:
    """What waits to be sent over a connection to be. It is `Recorded`: its record counts what was accepted.

    Attributes:
        queue: What waits.
        dropped: What was given up since.
    """

    __slots__ = ("_host", "_update", "dropped", "id_bytes", "queue", "recorded_seq")

    def __init__(self, host: Host, command: Open) -> None:
        self._host = host
        self._update = command.resumed or ConnectionUpdate(command.connection, STATUS_CONNECTING)
        self.id_bytes = command.connection.to_bytes(8, "little", signed=True)
        self.recorded_seq = self._update.seq
        self.queue = SendQueue(self._kept.queue_id + 1)
        self.dropped: list[UnsentEvent] = []

    @property
    def _kept(self) -> KeptUpdate:
        return self._update.kept or KeptUpdate()

    @property
    def used(self) -> bool:
        """A message has waited."""
        return self.queue.last_id > self._kept.queue_id

    def send(self, command: Send, asked: Open) -> SendQueued | SendFailed:
        """Have messages wait, if they may."""
        options, host = effective(asked.connection_request), self._host
        kept = options.reconnect is not None or asked.resumed is not None
        if not kept or (command.when_down or options.when_down) != "queue":
            return SendFailed(command.request, 0, self._update.status)
        now = host.loop.time()
        made = self.queue.add(
            command.payloads,
            binary=command.binary,
            now=now,
            ttl_s=options.queue_ttl_s if command.ttl_s is None else command.ttl_s,
            room_bytes=host.settings.outbound_bytes,
        )
        if made is None:
            return SendFailed(command.request, 0, self._update.status, why="full")
        host.touch(self)
        expires_at_us = now_us() + round((made.expires_at - now) * 1e6)
        return SendQueued(command.request, host.flush(), made.queued, made.bytes, made.queue_id, expires_at_us)

    def drop(self, request: int) -> QueueDropped:
        """Give up what waits."""
        event = self.queue.give_up("dropped")
        if event is not None:
            self.dropped.append(event)
            self._host.touch(self)
        messages, size = (0, 0) if event is None else (event.count, event.bytes)
        return QueueDropped(request, self._host.flush(), self._update.status, messages, size)

    # What the outbox asks.

    def take_created(self) -> ConnectionCreated | None:
        """The service has made that part."""
        return None

    def update(self) -> ConnectionUpdate:
        """Return the changing part of the record."""
        if not self.used:
            return self._update
        kept = msgspec.structs.replace(
            self._kept,
            queued_messages=self.queue.messages,
            queued_bytes=self.queue.bytes,
            queue_id=self.queue.last_id,
        )
        return msgspec.structs.replace(self._update, kept=kept)

    def mark_ended(self) -> None:
        """It has no events."""
