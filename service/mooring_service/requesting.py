"""Requests over connections: one message out, and the one that is its reply."""

from __future__ import annotations

import re

import msgspec

from mooring.checks import check_timeout
from mooring.errors import ConnectionClosed, Invalid, InvalidRequest, LimitReached, MooringError, SendError, WrongState
from mooring.events import Kind
from mooring.link.messages_sent import Replied, RequestFailed, RequestTaken, SendRequest
from mooring.link.record import STATUS_CLOSED
from mooring.send_errors import IdInUse, NoRequests, PeerError, ReplyLost, ReplyTimeout
from mooring_service.admission import Admission
from mooring_service.directory import Directory
from mooring_service.holders import Holders
from mooring_service.journal.batch import Batch, EventFilter
from mooring_service.journal.journal import Journal
from mooring_service.records import ReplyRecord, RequestRecord, Waiting
from mooring_service.sending import ANSWER_MARGIN_S, Sending

READ_BYTES = 1024 * 1024
MAX_READS = 64  # a reply that is so far behind what came with it is shown without its event
AT_ONCE = Waiting("fail")
_SEQ = re.compile(rb'"seq":(\d+),')


class Requesting:
    """What can be asked over connections. The worker that holds one knows which message is the reply."""

    def __init__(
        self, admission: Admission, directory: Directory, holders: Holders, journal: Journal, sending: Sending
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._holders = holders
        self._journal = journal
        self._sending = sending

    async def request(
        self, connection: int, body: bytes, *, timeout_s: float = 10.0, key: str | None = None, later: bool = False
    ) -> ReplyRecord | RequestRecord:
        """Send the JSON text `body` with an id, and return its reply; `later`: only the id, the reply is an ordinary message.

        Raises:
            InvalidRequest: If `timeout_s` is not valid, or the body has no place for an id.
            UnknownConnection, WrongState, ConnectionClosed: By the connection's state; nothing was sent.
            NoRequests, IdInUse, LimitReached, SendError: Nothing was sent, and why.
            ReplyTimeout, ReplyLost: No reply has come; it may have been done.
            PeerError: The reply is an error of the peer.
            WorkerSilent, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        wrong = check_timeout(timeout_s)
        if wrong:
            raise InvalidRequest(wrong)
        entry = self._directory.entry(connection)
        if entry.created.asked is None or entry.created.asked.requests is None:
            raise NoRequests(connection)
        self._sending.check(connection, AT_ONCE)
        slot = self._holders.of(entry)
        slot.check_room()
        before = self._journal.last
        number, future = slot.request(timeout_s + ANSWER_MARGIN_S)
        slot.command(SendRequest(number, connection, body, timeout_s, key, later))
        answer = await future
        match answer:
            case Replied():
                if answer.failed:
                    raise PeerError(connection, answer.payload)
                event = None if not answer.seq else await self._event_of(connection, answer.seq, before)
                return ReplyRecord(msgspec.Raw(answer.payload), event, answer.ms)
            case RequestTaken():
                return RequestRecord(answer.id)
            case RequestFailed():
                raise self._failure(connection, answer)
            case _:
                raise AssertionError("a worker answers SendRequest with Replied, RequestTaken or RequestFailed")

    def _failure(self, connection: int, answer: RequestFailed) -> MooringError:
        match answer.why:
            case "timeout":
                return ReplyTimeout(connection)
            case "lost":
                return ReplyLost(connection)
            case "limit":
                limit = self._admission.config.limits.max_pending_requests
                return LimitReached("limits.max_pending_requests", limit)
            case "id":
                return IdInUse(connection)
            case "place":
                return InvalidRequest([Invalid("", "there is no place for an id where requests.id says")])
            case "none":
                return NoRequests(connection)
            case "stalled":
                return SendError(connection)
            case "state":
                if answer.status in ("", STATUS_CLOSED):
                    return ConnectionClosed(connection)
                return WrongState(connection, answer.status)

    async def _event_of(self, connection: int, seq: int, after: int) -> str | None:
        """Return the id of event `seq` of `connection`, which is committed; None: it is not kept any more, or far off."""
        entry = self._directory.entry(connection)
        if entry.update.seq == seq:
            return f"{self._journal.epoch}-{entry.last_position}"
        events = EventFilter(connections=frozenset((connection,)), kinds=frozenset((Kind.onMessage,)))
        for _ in range(MAX_READS):
            batches, after = await self._journal.read(after, events, READ_BYTES)
            for batch in batches:
                found = _position(batch, events, seq)
                if found:
                    return f"{self._journal.epoch}-{found}"
            if after >= self._journal.last:
                break
        return None


def _position(batch: Batch, events: EventFilter, seq: int) -> int:
    wanted = events.select(batch, 0)
    for index in range(len(batch.kinds)) if wanted is None else wanted:
        found = _SEQ.search(batch.bodies[index])
        if found is not None and int(found[1]) == seq:
            return batch.first + index
    return 0
