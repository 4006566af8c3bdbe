"""What is sent over connections: messages, and what waits of them."""

from __future__ import annotations

import math

from mooring.checks import check_waiting
from mooring.errors import ConnectionClosed, InvalidRequest, NotKept, SendError, Unavailable, WrongState
from mooring.events import now_us, rfc3339
from mooring.kept_events import QueuedRecord
from mooring.link.messages_sent import DropQueue, QueueDropped, Send, SendFailed, SendQueued, Sent
from mooring.link.record import (
    STATUS_CLOSED,
    STATUS_CLOSING,
    STATUS_CONNECTED,
    STATUS_CONNECTING,
    STATUS_RECONNECTING,
)
from mooring.send_errors import QueueFull, SendTimeout, SendUncertain
from mooring_service.admission import Admission
from mooring_service.directory import Directory, Entry
from mooring_service.holders import Holders
from mooring_service.records import QueuedSendRecord, SentRecord, Waiting

COMMAND_S = 5.0  # a worker takes an order at once
ANSWER_MARGIN_S = 1.0  # the worker's own deadline comes first; this is for a worker that does not answer at all
QUEUES_SINCE = 6  # version of the link
AS_OPENED = Waiting()


class Sending:
    """What can be sent over connections. The worker that holds one writes it, or has it wait."""

    def __init__(self, admission: Admission, directory: Directory, holders: Holders) -> None:
        self._admission = admission
        self._directory = directory
        self._holders = holders

    def check(self, connection: int, waiting: Waiting = AS_OPENED) -> Entry:
        """Return what is known of a connection that messages can be sent to, or may wait for.

        Raises:
            InvalidRequest: If what is said of waiting is not valid.
            UnknownConnection, WrongState, ConnectionClosed: By the connection's state.
            NotKept: If the message is to wait, and there will be no other socket.
            JournalUnavailable: If nothing new is taken because the journal cannot be written.
        """
        wrong = check_waiting(waiting.when_down, waiting.ttl_s)
        if wrong:
            raise InvalidRequest(wrong)
        entry = self._directory.entry(connection)
        kept, status = entry.created.kept, entry.update.status
        if status == STATUS_CLOSED:
            raise ConnectionClosed(connection)
        if kept is None and waiting.when_down == "queue":
            raise NotKept(connection)
        if status != STATUS_CONNECTED:
            queues = kept is not None and (waiting.when_down or kept.when_down) == "queue"
            if not queues or status == STATUS_CLOSING:
                raise self._wrong_state(entry, status)
            if self._holders.nobody(entry):
                raise Unavailable(f"worker {entry.created.worker!r}, which would hold the message, is not running")
        self._admission.check_writable()
        return entry

    def _wrong_state(self, entry: Entry, status: str) -> WrongState:
        kept = entry.update.kept
        if kept is None or kept.down is None or status not in (STATUS_CONNECTING, STATUS_RECONNECTING):
            return WrongState(entry.created.id, status)
        at_us = kept.down.next_attempt_at_us
        return WrongState(entry.created.id, status, max(1, math.ceil(((at_us or 0) - now_us()) / 1e6)))

    async def send(
        self,
        connection: int,
        *,
        binary: bool,
        payloads: list[bytes],
        key: str | None = None,
        waiting: Waiting = AS_OPENED,
    ) -> SentRecord | QueuedSendRecord:
        """Write messages to a connection's socket, in order; or have them wait for one, as `waiting` or the connection says.

        Raises:
            InvalidRequest, UnknownConnection, WrongState, ConnectionClosed, NotKept, JournalUnavailable: As `check`.
            SendError: If the peer is not reading; SendTimeout: if what waits before it was not written in time.
            SendUncertain: If the socket has ended while it was written.
            QueueFull: If there is no room for them to wait.
            WorkerSilent, WorkerDied, Unavailable: If its worker does not answer, or does not even read.
        """
        entry = self.check(connection, waiting)
        slot = self._holders.of(entry)
        slot.check_room()
        number, future = slot.request(entry.created.send_timeout_s + ANSWER_MARGIN_S)
        when_down, ttl_s, kept = waiting.when_down, waiting.ttl_s, entry.created.kept
        if kept is not None and entry.update.status != STATUS_CONNECTED:
            # Its handler may still be to be made again, and only that one knows what it has asked for.
            when_down, ttl_s = when_down or kept.when_down, kept.queue_ttl_s if ttl_s is None else ttl_s
        slot.command(Send(number, connection, binary, payloads, key, when_down, ttl_s))
        answer = await future
        if isinstance(answer, Sent):
            self._directory.sent(connection, answer.messages_out, answer.bytes_out)
            return SentRecord(answer.sent, answer.bytes)
        if isinstance(answer, SendQueued):
            return QueuedSendRecord(answer.queued, answer.bytes, answer.queue_id, rfc3339(answer.expires_at_us))
        assert isinstance(answer, SendFailed), "a worker answers Send with Sent, SendQueued or SendFailed"
        if answer.why == "full":
            raise QueueFull(connection)
        if answer.why == "uncertain":
            raise SendUncertain(connection, answer.sent, len(payloads) - answer.sent)
        if answer.why == "late":
            raise SendTimeout(connection, answer.sent)
        if answer.stalled:
            raise SendError(connection, answer.sent)
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        raise self._wrong_state(entry, answer.status)

    async def drop_queue(self, connection: int) -> QueuedRecord:
        """Give up what waits to be sent on a kept connection, and return how much it was; an event tells which.

        Raises:
            UnknownConnection, ConnectionClosed: By the connection's state.
            NotKept: If it was opened without ``reconnect``.
            WorkerSilent, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        entry = self._directory.entry(connection)
        if entry.created.kept is None:
            raise NotKept(connection)
        if entry.update.status == STATUS_CLOSED:
            raise ConnectionClosed(connection)
        self._admission.check_writable()
        if self._holders.nobody(entry):
            return QueuedRecord()  # it died with its worker, and was told of
        slot = self._holders.of(entry)
        if slot.version < QUEUES_SINCE:
            return QueuedRecord()
        number, future = slot.request(COMMAND_S)
        slot.command(DropQueue(number, connection))
        answer = await future
        assert isinstance(answer, QueueDropped), "a worker answers DropQueue with QueueDropped"
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        return QueuedRecord(answer.messages, answer.bytes)
