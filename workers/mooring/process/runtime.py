"""What a worker is made of, put together: connections, context, outbox and dialler round one I/O loop.

It is what the rooms below ask for (`connection/host.py`, `usercode/host.py`) and what the link asks for. Commands reach it
through `commands.py`, its end is in `stopping.py`; where reports go (`Uplink`) it does not know: the worker process gives it
the link to the service, the test kit a list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Protocol

import msgspec

from mooring.background import Background
from mooring.connection.connection import Connection
from mooring.connection.host import PausedReader
from mooring.connection.kept import KeptConnection
from mooring.connection.live import LiveConnection
from mooring.connection.recorded import RecordedConnection
from mooring.connection.state import ConnectionState
from mooring.deadline import PASS_S
from mooring.errors import ConnectError, ErrCode, ErrorEntry, LimitReached, MooringError
from mooring.events import now_us
from mooring.handler_options import resolve
from mooring.link.keyed import KeyedAnswers
from mooring.link.messages import (
    AskCall,
    AskKill,
    Called,
    CallFailed,
    HeldConnection,
    Open,
    Reconfigure,
    Report,
    SendFailed,
    Sent,
    Stats,
    WorkerSettings,
)
from mooring.link.outbox import Outbox, Recorded
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionOptions, ConnectionRequest
from mooring.process.figures import Figures
from mooring.process.ids import ConnectionIds
from mooring.process.redialling import Redialling
from mooring.process.threads import Posts, Reservations, Room
from mooring.usercode.construction import Constructions
from mooring.usercode.context import Context
from mooring.usercode.handlers import check, class_name
from mooring.usercode.mailbox import CALL_COST_BYTES
from mooring.usercode.websocket import WebSocket
from mooring.wire.dial import Dialler
from mooring.wire.egress import EgressPolicy

IO_LOOP_S = 30.0
LOOK_S = 1.0  # so often we see to it that the context is awake while something waits for it
END_TASKS_S = 1.0

log = logging.getLogger("mooring.worker")


class Uplink(Protocol):
    """Where reports go."""

    def send(self, report: Report) -> None:
        """Report, if there is a link; an answer that finds none is lost with the request that waited for it."""

    def send_frame(self, data: bytes) -> bool:
        """Write a frame of the outbox if there is a link that takes it, and say whether it did."""

    def ask_ids(self) -> None:
        """The block of connection ids runs low."""


class Runtime:
    """One worker, from the inside. Made on the I/O loop; `post`, `wake`, `reserve`, `open`, `ask_call` and `kill` are for
    every thread, all else is for the I/O loop only.

    Attributes:
        connections: By id, until their last event is in the outbox.
        constructions: Connections to be, whose handler is still to be constructed.
        paused: Connections whose reading we have paused.
        room: In the outbox, for what code in the worker asks of the service.
        stopping: Set once the worker runs down: nothing new begins.
        draining: Likewise, where another process will open the kept connections again.
        closed_by_stop: How many connections it has closed then.
        last_ask: The number of the last call that code in a worker has asked for, of those that were taken.
    """

    def __init__(self, settings: WorkerSettings, uplink: Uplink) -> None:
        self.settings = settings
        self.worker = settings.worker
        self.loop = asyncio.get_running_loop()
        self.connections: dict[int, LiveConnection] = {}
        self.paused: set[PausedReader] = set()
        self.stopping = self.draining = False
        self.closed_by_stop = 0
        self.last_ask = 0
        self.answer: Callable[[Report], None] = uplink.send
        self.outbox = Outbox(settings.outbox_bytes, uplink.send_frame, self._on_room)
        self.room = Room(lambda: self.outbox.full)
        self._posts = Posts(self.loop, self.outbox.flush)
        # Called for each message: without a method of ours in between.
        self.post, self.wake = self._posts.post, self._posts.wake
        reservations = Reservations(settings.outbound_bytes)
        self.reserve, self.release = reservations.reserve, reservations.release
        self._figures = Figures(settings, self.connections)
        self.metrics = self._figures.metrics
        self.figures_changed = self._figures.changed
        self.context = Context(self, settings.mailbox_items, settings.mailbox_bytes)
        self.mailbox = self.context.mailbox
        self.constructions = Constructions(self)
        self.dialler = Dialler(
            EgressPolicy(settings.egress_allow, settings.egress_deny),
            allow_insecure_tls=settings.allow_insecure_tls,
            settings=settings.dial,
        )
        self.redials = Redialling(self.loop, settings.redial)
        self.keyed_sends: KeyedAnswers[Sent] = KeyedAnswers()
        self._ids = ConnectionIds(uplink.ask_ids)
        self._tasks = Background(log)

    def start(self) -> None:
        """Start the context's thread, and see to it that it stays awake."""
        self.context.thread.start()
        self._look_later()

    def _look_later(self) -> None:
        self._look_timer = self.loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self.context.wake_again()
        self._look_later()

    async def close(self) -> None:
        """End the tasks of connections, and hand over what was recorded; the last of what `stopping.run_down` does."""
        self._look_timer.cancel()
        try:
            async with asyncio.timeout(END_TASKS_S):
                await self._tasks.close()
        except TimeoutError:
            log.warning("a dial does not end")
        self._posts.run()
        await self.dialler.close()

    # What connections ask for.

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task of a connection."""
        return self._tasks.spawn(work)

    def touch(self, connection: Recorded) -> None:
        """The record of `connection` has changed: it is reported with the next flush."""
        self.outbox.touch(connection)
        self.wake()

    def flush(self) -> int:
        """Make frames of everything now; return the number of the last one."""
        self.outbox.flush()
        return self.outbox.number

    def answer_send(self, answer: Sent | SendFailed, key: str | None) -> None:
        """Answer a send; what was written under a `key` is remembered, so that a repeat writes nothing."""
        if isinstance(answer, Sent):
            self.keyed_sends.remember(key, answer)
        self.answer(answer)

    def answer_call(self, answer: Called | CallFailed) -> None:
        """Answer a call, behind the events of what it did."""
        self.answer(msgspec.structs.replace(answer, after=self.flush()))

    def forget(self, connection: RecordedConnection) -> None:
        """`connection` is over: no socket, no event to come."""
        self.connections.pop(connection.id, None)
        self._figures.forget(connection)

    def resume_paused(self) -> None:
        """There may be room again: let paused connections read."""
        for connection in list(self.paused):
            connection.resume_if_room()

    def resume(self, connection: RecordedConnection) -> None:
        """There may be room again for what `connection` reads."""
        found = self.connections.get(connection.id)
        if found is not None:
            found.resume_if_room()

    def _on_room(self) -> None:
        self.room.made()
        self.resume_paused()

    # How connections come to be.

    def check_limit(self) -> None:
        """Say whether a further connection may be.

        Raises:
            LimitReached: If ``limits.max_connections_per_worker`` is reached.
        """
        if len(self.connections) + len(self.constructions) >= self.settings.max_connections:
            raise LimitReached("limits.max_connections_per_worker", self.settings.max_connections)

    def created(self, command: Open, options: ConnectionOptions) -> ConnectionCreated:
        """Return the unchanging part of the record of what `command` opens."""
        handler = command.connection_request.handler
        name = None if handler is None else handler.name
        return self._created(command.connection, command.created_at_us or now_us(), options, name)

    def _created(
        self, connection: int, created_at_us: int, options: ConnectionOptions, handler_name: str | None
    ) -> ConnectionCreated:
        return ConnectionCreated.of(connection, self.worker, handler_name, created_at_us, options)

    def begin(self, command: Open, options: ConnectionOptions, handler: object | None) -> LiveConnection:
        """Dial for a request, once its handler (if it names one) is there."""
        return self._begin(self.created(command, options), options, handler, command)

    def _begin(
        self, created: ConnectionCreated, options: ConnectionOptions, handler: object | None, command: Open | None
    ) -> LiveConnection:
        resumed = None if command is None else command.resumed
        connection: LiveConnection
        if options.reconnect is None and resumed is None:
            connection = Connection(self, created, options, handler)
        else:
            spec = None if command is None else command.connection_request
            connection = KeptConnection(self, created, options, handler, resumed, spec)
        if handler is not None:
            connection.websocket = WebSocket(self, connection)
        self.connections[created.id] = connection
        connection.dial(0 if command is None else command.request)
        if self.stopping:
            connection.let_go("the worker is being killed", drain=self.draining)
        return connection

    def open(self, request: ConnectionRequest, handler: object | None) -> LiveConnection:
        """Open a connection for code in this worker, and wait until the dial has ended well.

        Raises:
            InvalidRequest: If the url, a callback of the handler, or what it asks for, is not valid.
            ConnectError: If the dial fails.
            LimitReached: If ``limits.max_connections_per_worker`` is reached.
            MooringError: If the worker is being killed, or no connection id can be had while the service is away.
        """
        if handler is not None:
            check(handler)
        options = resolve(request, handler)
        if self.stopping:
            raise MooringError("the worker is being killed")
        self.check_limit()
        id_wanted: Future[int] = Future()
        self.post(self._ids.want, id_wanted)
        # Once more, shortly: if the whole worker stood still, the I/O loop has not yet seen what the service has granted.
        for patience_s in (options.connect_timeout_s, PASS_S):
            wait((id_wanted,), patience_s)
        if id_wanted.cancel():
            raise MooringError("no connection id: the service is away, and the worker's block of ids is used up")
        connection_id = id_wanted.result()
        opened: Future[LiveConnection] = Future()
        name = None if handler is None else class_name(handler)

        def begin() -> None:
            try:
                self.check_limit()  # again: here nobody comes in between
            except LimitReached as exc:
                opened.set_exception(exc)
                return
            created = self._created(connection_id, now_us(), options, name)
            self._begin(created, options, handler, None).when_opened(opened)

        self.post(begin)
        try:
            # The dial has its own deadline; this one only guards against the I/O loop itself.
            connection = opened.result(options.connect_timeout_s + IO_LOOP_S)
        except TimeoutError:
            self.post(self._give_up, connection_id)
            raise ConnectError([ErrorEntry(ErrCode.CONNECT_TIMEOUT, "the worker did not come to it in time")]) from None
        # Not `errors`: one that opened may have failed meanwhile; a kept one may go on trying.
        if connection.opened_at_us is None and connection.state is ConnectionState.CLOSED:
            raise ConnectError(connection.errors, connection_id)
        return connection

    def _give_up(self, connection_id: int) -> None:
        connection = self.connections.get(connection_id)
        if connection is not None:
            connection.terminate(None, "whoever opened it waits no longer")

    # What code in the worker asks of the service.

    def ask_call(self, ask: AskCall, size: int) -> None:
        """Ask for a call with `size` bytes of parameters, in order, when the outbox has room.

        Raises:
            MooringError: If the worker ends before.
        """
        self.room.put(self.outbox.ask, ask, CALL_COST_BYTES + size)
        self.wake()

    def kill(self, worker: str) -> None:
        """Ask for `worker` to be killed, in order."""
        self.outbox.ask(AskKill(worker))
        self.wake()
        if worker == self.worker:
            self.context.discard()  # nothing may run between the running item and the service's `Stop`

    # What the link asks for.

    def link_lost(self) -> None:
        """Nobody waits for answers any more."""
        self.constructions.nobody_waits()

    def grant_ids(self, first: int, count: int) -> None:
        """Take a block of connection ids for connections that code in this worker opens."""
        self._ids.grant(first, count)

    def reconfigure(self, command: Reconfigure) -> None:
        """Take over settings that change at run time."""
        self.settings = msgspec.structs.replace(self.settings, max_connections=command.max_connections)
        if command.redial is not None:
            self.redials.configure(command.redial)
        self.dialler.set_policy(
            EgressPolicy(command.egress_allow, command.egress_deny),
            allow_insecure_tls=command.allow_insecure_tls,
            settings=command.dial,
        )

    def held(self) -> list[HeldConnection]:
        """Return the connections that `Hello` names."""
        return self.constructions.held() + [connection.held() for connection in self.connections.values()]

    def stats(self, probe: int = 0) -> Stats:
        """Return how the worker does."""
        return self._figures.stats(probe, self.context, self.outbox, len(self.paused))
