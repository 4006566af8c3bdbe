"""The verbs of connections: open, look, send, terminate, follow. A command goes down to the worker that holds the connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mooring.checks import check_close, check_delay
from mooring.errors import (
    ConnectionClosed,
    ErrCode,
    InvalidRequest,
    NotKept,
    SendError,
    Unavailable,
    WorkerDied,
    WorkerSilent,
    WrongState,
)
from mooring.link.messages import Reconnect, ReconnectDone, Send, SendFailed, Sent, Terminate
from mooring.link.record import STATUS_CLOSED, STATUS_CLOSING, STATUS_CONNECTED
from mooring.options import ConnectionRequest, check_request
from mooring_service.admission import Admission
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.feed import Feed, Subscription
from mooring_service.journal.batch import EventFilter
from mooring_service.opening import Opening, Openings
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.records import ConnectionRecord, SentRecord
from mooring_service.reopening import Reopenings

COMMAND_S = 5.0  # a worker takes an order at once
READY_POLL_S = 0.02
ANSWER_MARGIN_S = 1.0  # the worker's own deadline comes first; this is for a worker that does not answer at all


class Connections:
    """What can be done with connections. What is asked about them is answered from the directory."""

    def __init__(
        self,
        admission: Admission,
        directory: Directory,
        feed: Feed,
        endings: Endings,
        reopenings: Reopenings,
        openings: Openings,
        roster: Roster,
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._feed = feed
        self._endings = endings
        self._reopenings = reopenings
        self._openings = openings
        self._roster = roster

    async def open(
        self, request: ConnectionRequest, *, begun: Callable[[int], tuple[str, bytes]] | None = None
    ) -> Opening:
        """Begin a connection: check, store the intent, dispatch.

        Args:
            begun: Given the connection's id, the Idempotency-Key and the answer that are stored with the intent.

        Raises:
            InvalidRequest: If anything of the request is not valid; nothing was started.
            UnknownFunction: If the handler is not in the configuration.
            PolicyRefused, SecretNotAllowed, LimitReached, WorkerBusy, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        wrong = check_request(request)
        if wrong:
            raise InvalidRequest(wrong)
        self._admission.check()
        reference = None if request.handler is None else self._admission.handler(request.handler.name)
        return await self._openings.open(request, reference, begun)

    def id_of(self, name: str) -> int:
        """Return which connection a name means: the living one, else the last of that name.

        Raises:
            UnknownConnection: If none had it, or is retained.
        """
        return self._directory.id_of(name)

    @property
    def next_connection(self) -> int:
        """The id that the next connection of a request gets; for the demo's greeting."""
        return self._openings.next_connection

    def record(self, connection: int) -> ConnectionRecord:
        """Return the record of a connection.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        return self._directory.record(connection)

    async def until(
        self, connection: int, true: Callable[[ConnectionRecord], bool], timeout_s: float
    ) -> ConnectionRecord:
        """Wait until `true` is so of a connection's record, or the connection has ended, or the time is over; return the record.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        entry = self._directory.entry(connection)
        wanted = self._directory.until(connection, lambda _: true(self._directory.to_record(entry)))
        await asyncio.wait({wanted}, timeout=timeout_s)
        return self._directory.to_record(entry)

    def page(
        self,
        *,
        worker: str | None,
        status: str | None,
        after: int,
        limit: int,
        name: str | None = None,
        ready: bool | None = None,
    ) -> tuple[list[ConnectionRecord], int | None]:
        """Return a page of records by id, and where the next page begins (None: there is none)."""
        found: list[ConnectionRecord] = []
        for entry in self._directory.select(worker, status, after, name=name, ready=ready):
            if len(found) == limit:
                return found, found[-1].id
            found.append(self._directory.to_record(entry))
        return found, None

    def _nobody_holds(self, entry: Entry) -> bool:
        """Say whether a kept connection waits for a process of its worker, and none was told of it yet."""
        told = self._reopenings.told(entry.created.id)
        return self._reopenings.waits(entry) and self._roster.by_incarnation(told) is None

    def _holder(self, entry: Entry) -> Slot:
        """Return the worker that holds a connection, and takes commands."""
        slot = self._roster.by_incarnation(entry.incarnation)
        if slot is None:
            raise WorkerDied(entry.created.worker, "it has ended")
        if not slot.linked:
            raise Unavailable(f"worker {slot.name!r} is not linked just now")
        return slot

    def check_connected(self, connection: int) -> Entry:
        """Return what is known of a connection that messages can be sent to.

        Raises:
            UnknownConnection, WrongState, ConnectionClosed: By the connection's state.
            JournalUnavailable: If nothing new is taken because the journal cannot be written.
        """
        entry = self._directory.entry(connection)
        status = entry.update.status
        if status != STATUS_CONNECTED:
            if status == STATUS_CLOSED:
                raise ConnectionClosed(connection)
            raise WrongState(connection, status)
        self._admission.check_writable()
        return entry

    async def send(self, connection: int, *, binary: bool, payloads: list[bytes], key: str | None = None) -> SentRecord:
        """Write messages to a connection's socket, in order.

        Raises:
            UnknownConnection, WrongState, ConnectionClosed, JournalUnavailable: As `check_connected`.
            SendError: If the peer is not reading.
            WorkerSilent, WorkerDied, Unavailable: If its worker does not answer, or does not even read.
        """
        entry = self.check_connected(connection)
        slot = self._holder(entry)
        slot.check_room()
        number, future = slot.request(entry.created.send_timeout_s + ANSWER_MARGIN_S)
        slot.command(Send(number, connection, binary, payloads, key))
        answer = await future
        if isinstance(answer, Sent):
            self._directory.sent(connection, answer.messages_out, answer.bytes_out)
            return SentRecord(answer.sent, answer.bytes)
        assert isinstance(answer, SendFailed), "a worker answers Send with Sent or SendFailed"
        if answer.stalled:
            raise SendError(connection, answer.sent)
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        raise WrongState(connection, answer.status)

    async def reconnect(
        self, connection: int, *, delay_s: float = 0.0, code: int = 1000, reason: str = "", wait_s: float | None = None
    ) -> ConnectionRecord:
        """Have a kept connection get a new socket, and return its record; who asks while one is on its way gets that one.

        Args:
            wait_s: Return once that socket is ready.

        Raises:
            InvalidRequest: If delay, code or reason are not valid.
            UnknownConnection, WrongState, ConnectionClosed: By the connection's state.
            NotKept: If it was opened without ``reconnect``.
            WorkerSilent: If it is not ready within `wait_s`, or its worker does not answer.
            WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        wrong = check_close(code, reason, "/") + check_delay(delay_s, "/")
        if wrong:
            raise InvalidRequest(wrong)
        entry = self._directory.entry(connection)
        if entry.created.kept is None:
            raise NotKept(connection)
        if entry.update.status == STATUS_CLOSED:
            raise ConnectionClosed(connection)
        self._admission.check_writable()
        if self._nobody_holds(entry):
            return await self._when_ready(entry, wait_s)  # it is opened as soon as there is a process
        slot = self._holder(entry)
        number, future = slot.request(COMMAND_S if wait_s is None else wait_s)
        slot.command(Reconnect(number, connection, delay_s, code, reason, wait=wait_s is not None))
        answer = await future
        assert isinstance(answer, ReconnectDone), "a worker answers Reconnect with ReconnectDone"
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        if answer.status == STATUS_CLOSING:
            raise WrongState(connection, answer.status)
        return self._directory.record(connection)

    async def _when_ready(self, entry: Entry, wait_s: float | None) -> ConnectionRecord:
        deadline = time.monotonic() + (wait_s or 0)
        while entry.update.status not in (STATUS_CONNECTED, STATUS_CLOSED) and wait_s is not None:
            if time.monotonic() >= deadline:
                raise WorkerSilent(entry.created.worker, "no process of it is running")
            await asyncio.sleep(READY_POLL_S)
        if entry.update.status == STATUS_CLOSED:
            raise ConnectionClosed(entry.created.id)
        return self._directory.to_record(entry)

    async def terminate(self, connection: int, code: int | None, reason: str | None) -> ConnectionRecord:
        """Close a connection and return its final record. Idempotent.

        Raises:
            InvalidRequest: If code or reason may not be sent.
            Declared: If the configuration has it.
            UnknownConnection: If it never existed or is no longer retained.
            JournalUnavailable: If its end cannot be recorded now; it is not begun then.
            WorkerSilent, Unavailable: If its worker does not answer.
        """
        wrong = check_close(code, reason)
        if wrong:
            raise InvalidRequest(wrong)
        entry = self._directory.entry(connection)
        if entry.update.status == STATUS_CLOSED:
            return self._directory.record(connection)
        self._admission.refuse_declared(entry.created)
        self._admission.check_writable()
        if self._nobody_holds(entry):
            # No process holds it, and none will be told to.
            self._reopenings.forget(connection)
            text = reason or "terminated while reconnecting"
            await self._endings.write([entry], text, ErrCode.WORKER_DIED, why="asked")
            return self._directory.record(connection)
        try:
            slot = self._holder(entry)
            number, future = slot.request(entry.created.close_timeout_s + ANSWER_MARGIN_S)
            slot.command(Terminate(number, connection, code, reason))
            await future
        except WorkerDied:
            await self._openings.wait_ended(connection)
        return self._directory.record(connection)

    def follow(
        self, connection: int, cursor: str | None, kinds: frozenset[int], *, brief: bool = False
    ) -> Subscription:
        """Return the stream of one connection; it ends after its last event.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        entry = self._directory.entry(
            connection
        )  # held: the stream goes to its end, also once it is no longer retained
        events = EventFilter(connections=frozenset((connection,)), kinds=kinds)
        return self._feed.subscribe(events, cursor, "start", brief=brief, end_of=lambda: entry.end)
