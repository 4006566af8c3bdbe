"""The verbs of connections: open, look, send, terminate, follow. A command goes down to the worker that holds the connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from mooring.checks import check_close, check_delay
from mooring.connection.asked import check_asked, opening_s
from mooring.deadline import first_of
from mooring.errors import ConnectionClosed, ErrCode, InvalidRequest, NotKept, WorkerDied, WorkerSilent, WrongState
from mooring.link.messages import (
    Reconnect,
    ReconnectDone,
    Terminate,
)
from mooring.link.record import (
    STATUS_CLOSED,
    STATUS_CLOSING,
    STATUS_CONNECTED,
)
from mooring.options import ConnectionRequest, effective
from mooring_service.admission import Admission
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.feed import Feed, Subscription
from mooring_service.holders import Holders
from mooring_service.journal.batch import EventFilter
from mooring_service.opening import ENDED_S, Opening, Openings
from mooring_service.processes.requests import LinkLost
from mooring_service.records import ConnectionRecord
from mooring_service.reopening import Reopenings

COMMAND_S = 5.0  # a worker takes an order at once
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
        holders: Holders,
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._feed = feed
        self._endings = endings
        self._reopenings = reopenings
        self._openings = openings
        self._holders = holders

    def locate(self, request: ConnectionRequest) -> None:
        """Check that this service is where a connection is to be opened; see `Admission.locate`."""
        request = self._admission.placed(request)
        self._admission.locate(request.worker, request.node or None)

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
        request = self._admission.placed(request)
        wrong = check_asked(request, self._admission.known)
        if wrong:
            raise InvalidRequest(wrong)
        self._admission.locate(request.worker, request.node or None, request.name or None)
        if request.node is not msgspec.UNSET:
            request = msgspec.structs.replace(request, node=msgspec.UNSET)
        self._admission.check()
        reference = None if request.handler is None else self._admission.handler(request.handler.name)
        return await self._openings.open(request, reference, begun)

    def open_timeout_s(self, connection: int, request: ConnectionRequest) -> float:
        """Return how long the first attempt of `connection` may take: as `request`, which was checked, or its handler says."""
        return max(self.asked_timeout_s(request), self._directory.entry(connection).created.attempt_s)

    def asked_timeout_s(self, request: ConnectionRequest) -> float:
        """Return how long the first attempt may take by what `request`, which was checked, says itself."""
        return effective(request).connect_timeout_s + opening_s(request, self._admission.known)

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
        await first_of((wanted,), timeout_s)
        return self._directory.to_record(entry)

    async def page(
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
        begin: int | None = after
        while begin is not None:
            entries, begin = self._directory.select(worker, status, begin, name=name, ready=ready)
            for entry in entries:
                if len(found) == limit:
                    return found, found[-1].id
                found.append(self._directory.to_record(entry))
            await asyncio.sleep(0)  # thousands may be looked at in vain
        return found, None

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
        if self._holders.nobody(entry):
            return await self._when_ready(entry, wait_s)  # it is opened as soon as there is a process
        slot = self._holders.of(entry)
        number, future = slot.request(COMMAND_S if wait_s is None else wait_s)
        slot.command(Reconnect(number, connection, delay_s, code, reason, wait=wait_s is not None))
        answer = await future
        assert isinstance(answer, ReconnectDone), "a worker answers Reconnect with ReconnectDone"
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        if answer.status == STATUS_CLOSING:
            raise WrongState(connection, answer.status)
        if wait_s is not None and answer.status != STATUS_CONNECTED:
            return await self._when_ready(entry, wait_s)  # its handler is still to be made
        return self._directory.record(connection)

    async def _when_ready(self, entry: Entry, wait_s: float | None) -> ConnectionRecord:
        if wait_s is not None:
            ready = self._directory.until(entry.created.id, lambda update: update.status == STATUS_CONNECTED)
            await first_of((ready,), wait_s)
            if not ready.done():
                raise WorkerSilent(entry.created.worker, "it is not ready in time")
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
        return await self.end(entry, code, reason)

    async def end(self, entry: Entry, code: int | None, reason: str | None) -> ConnectionRecord:
        """As `terminate`, also of what the configuration has, and with any code that may be on the wire."""
        connection = entry.created.id
        self._admission.check_writable()
        if self._holders.nobody(entry):
            # No process holds it, and none will be told to.
            self._reopenings.forget(connection)
            text = reason or "terminated while reconnecting"
            await self._endings.write([entry], text, ErrCode.WORKER_DIED, why="asked")
            return self._directory.record(connection)
        try:
            await self._told_to_end(entry, Terminate(0, connection, code, reason))
        except WorkerDied:
            if not await self._reopenings.until_ended_or_waiting(connection, ENDED_S):
                return await self.end(
                    entry, code, reason
                )  # it waits for another process: that one is not told to open it
        return self._directory.record(connection)

    async def _told_to_end(self, entry: Entry, order: Terminate) -> None:
        """Have the process that holds a connection end it, and wait for that; over its next link once more, if the link is lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + entry.created.close_timeout_s + ANSWER_MARGIN_S
        slot = self._holders.of(entry)
        ended: set[asyncio.Future[Any]] = set()
        while entry.update.status != STATUS_CLOSED:
            number, future = slot.request(deadline - loop.time(), with_link=True)
            slot.command(msgspec.structs.replace(order, request=number))
            if ended:
                await asyncio.wait({future, *ended}, return_when=asyncio.FIRST_COMPLETED)
                if not future.done():
                    return
            with contextlib.suppress(LinkLost):
                await future
                return
            ended = {self._directory.until(order.connection, lambda update: update.status == STATUS_CLOSED)}
            if not await first_of((slot.ready, *ended), deadline - loop.time()):
                raise WorkerSilent(slot.name, "no answer in time")
            slot = self._holders.of(entry)

    def follow(
        self, connection: int, cursor: str | None, kinds: frozenset[int], *, brief: bool = False
    ) -> Subscription:
        """Return the stream of one connection; it ends after its last event.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        entry = self._directory.entry(
            connection, here=True
        )  # held: the stream goes to its end, also once it is no longer retained
        events = EventFilter(connections=frozenset((connection,)), kinds=kinds)
        return self._feed.subscribe(events, cursor, "start", brief=brief, end_of=lambda: entry.end)
