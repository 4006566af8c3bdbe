"""What a worker is made of, put together: connections, context, outbox and dialler round one I/O loop.

The runtime obeys commands and makes reports; where they come from and go to (`Uplink`) it does not know. The worker
process gives it the link to the service, the test kit a list.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, assert_never

import msgspec

from mooring.connection.connection import Connection
from mooring.connection.conversion import message_event
from mooring.connection.state import ConnectionState
from mooring.errors import ConnectError, Invalid, InvalidRequest, LimitReached, MooringError, SendError
from mooring.events import connection_body, now_us
from mooring.link.messages import (
    AskCall,
    AskKill,
    Call,
    Called,
    CallFailed,
    ConnectionCreated,
    ConnectionUpdate,
    HeldConnection,
    Open,
    OpenInvalid,
    Reconfigure,
    Report,
    Send,
    SendFailed,
    Sent,
    Stats,
    Terminate,
    TerminateDone,
    WorkerSettings,
)
from mooring.link.outbox import Outbox
from mooring.metrics import WorkerMetrics
from mooring.metrics import encode as encode_metrics
from mooring.options import ConnectionOptions, ConnectionRequest, resolve
from mooring.process.identity import cpu_s, rss_bytes
from mooring.usercode.construction import Constructions
from mooring.usercode.context import Context
from mooring.usercode.websocket import WebSocket
from mooring.wire.dial import Dialler
from mooring.wire.egress import EgressPolicy

STOP_POLL_S = 0.01
LEFTOVER_S = 1.0  # for the tasks and executor threads that user code has left behind when its last item has run
KILL_AGAIN_S = 5.0
KEYED_ANSWERS = 1_000  # answers of sends with an Idempotency-Key that are kept for a repeat after a crash


class Uplink(Protocol):
    """Where reports go."""

    def send(self, report: Report) -> None:
        """Report, if there is a link; an answer that finds none is lost with the request that waited for it."""

    def send_frame(self, data: bytes) -> bool:
        """Write a frame of the outbox if there is a link that takes it, and say whether it did."""

    def ask_ids(self) -> None:
        """The block of connection ids runs low."""


class _Nobody:
    """Stands for the worker itself in the outbox: events without a connection."""

    id_bytes = bytes(8)
    recorded_seq = 0

    def take_created(self) -> ConnectionCreated | None:
        return None

    def update(self) -> ConnectionUpdate | None:
        return None

    def mark_ended(self) -> None:
        pass


class Runtime:
    """One worker, from the inside. Made on the I/O loop; `post`, `wake`, `reserve` and `open_from_worker` are for
    every thread, all else is for the I/O loop only.

    Attributes:
        paused: Connections whose reading we have paused.
        connections: By id, until their last event is in the outbox.
        constructions: Connections to be, whose handler is still to be constructed.
    """

    def __init__(self, settings: WorkerSettings, uplink: Uplink) -> None:
        self.settings = settings
        self.worker = settings.worker
        self.loop = asyncio.get_running_loop()
        self.uplink = uplink
        self.outbox = Outbox(settings.outbox_bytes, uplink.send_frame, self.resume_paused)
        self.context = Context(self, settings.mailbox_items, settings.mailbox_bytes)
        self.dialler = Dialler(
            EgressPolicy(settings.egress_allow, settings.egress_deny), allow_insecure_tls=settings.allow_insecure_tls
        )
        self.connections: dict[int, Connection] = {}
        self.constructions = Constructions(self)
        self.paused: set[Connection] = set()
        self.nobody = _Nobody()
        self.stopping = False
        self.closed_by_stop = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._awake = False
        self._figures: dict[Connection, None] = {}
        self._ids: deque[tuple[int, int]] = deque()  # (next, end) blocks
        self._ids_left = 0
        self._ids_wanted: deque[Future[int]] = deque()
        self._room = threading.Condition()
        self._keyed: dict[str, Sent] = {}
        self.metrics = WorkerMetrics()
        self.context.observe = self.metrics.callback.observe

    def start(self) -> None:
        """Start the context's thread."""
        self.context.start()

    # ------------------------------------------------------------ between threads

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have `function` run on the I/O loop; many posts cost one wake-up."""
        self._posted.append((function, args))
        self.wake()

    def wake(self) -> None:
        """Have the I/O loop flush the outbox soon."""
        if not self._awake:
            self._awake = True
            try:
                self.loop.call_soon_threadsafe(self._run_posted)
            except RuntimeError:  # the loop is closed: the process is ending
                self._awake = False

    def _run_posted(self) -> None:
        self._awake = False  # before emptying: what comes later wakes again
        posted = self._posted
        for _ in range(len(posted)):
            function, args = posted.popleft()
            function(*args)
        self.outbox.flush()

    def reserve(self, connection: Connection, size: int) -> None:
        """Wait for room for `size` bytes to `connection`; for code in the worker, on any thread but the I/O loop.

        Raises:
            SendError: If the peer has not read for ``sendTimeout``.
        """
        limit = self.settings.outbound_bytes

        def has_room() -> bool:
            reserved = connection.reserved
            return reserved == 0 or reserved + size <= limit or connection.state is not ConnectionState.CONNECTED

        with self._room:
            if not has_room() and not self._room.wait_for(has_room, connection.options.send_timeout_s):
                raise SendError(connection.id)
            connection.reserved += size

    def release(self, connection: Connection, size: int) -> None:
        """Give reserved room back."""
        with self._room:
            connection.reserved -= size
            self._room.notify_all()

    # ------------------------------------------------------------ what connections ask for

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task of a connection; `stop` waits for all of them."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "a dial has failed in mooring itself", "exception": exc})

    def touch(self, connection: Connection) -> None:
        """The record of `connection` has changed: it is reported with the next flush."""
        self.outbox.touch(connection)
        self.wake()

    def figures_changed(self, connection: Connection) -> None:
        """Only figures have changed: they are reported with the next `Stats`."""
        self._figures[connection] = None

    def flush(self) -> int:
        """Make frames of everything now; return the number of the last one."""
        self.outbox.flush()
        return self.outbox.number

    def answer(self, report: Report) -> None:
        """Answer a request; whatever it depends on has been flushed before."""
        self.uplink.send(report)

    def answer_call(self, answer: Called | CallFailed) -> None:
        """Answer a call, behind the events of what it did."""
        self.answer(msgspec.structs.replace(answer, after=self.flush()))

    def forget(self, connection: Connection) -> None:
        """`connection` is over: no socket, no event to come."""
        self.connections.pop(connection.id, None)
        self._figures.pop(connection, None)

    def resume_paused(self) -> None:
        """There may be room again: let paused connections read."""
        for connection in list(self.paused):
            connection.resume_if_room()

    def message_bytes(self, connection: Connection, data: Any, payload: bytes) -> bytes:
        """Return the body of the ``onMessage`` that the context is taking up."""
        prefix = connection.message_prefix
        return connection_body(
            prefix, connection.seq, now_us(), message_event(connection.options.data_type, data, payload)
        )

    # ------------------------------------------------------------ commands

    def open(self, command: Open) -> None:
        """Dial for a request."""
        request = command.connection_request
        if self.stopping:
            self.answer(OpenInvalid(command.request, [Invalid("/worker", "the worker is being killed")]))
            return
        if len(self.connections) >= self.settings.max_connections:
            limit = LimitReached("limits.max_connections_per_worker", self.settings.max_connections)
            self.answer(OpenInvalid(command.request, [Invalid("/worker", str(limit))], limit=limit.limit))
            return
        if command.handler is None or request.handler is None:
            try:
                options = resolve(request)
            except InvalidRequest as exc:
                self.answer(OpenInvalid(command.request, exc.errors))
                return
            self.begin(command, options, None)
            return
        self.constructions.begin(command, command.handler)

    def begin(self, command: Open, options: ConnectionOptions, handler: object | None) -> Connection:
        """Dial for a request, once its handler (if it names one) is there."""
        created = self.created(command, options)
        return self._begin(created, options, handler, command.request)

    def created(self, command: Open, options: ConnectionOptions) -> ConnectionCreated:
        """Return the unchanging part of the record of what `command` opens."""
        handler = command.connection_request.handler
        name = None if handler is None else handler.name
        return self._created(command.connection, command.created_at_us or now_us(), options, name)

    def _created(
        self, connection: int, created_at_us: int, options: ConnectionOptions, handler_name: str | None
    ) -> ConnectionCreated:
        return ConnectionCreated.of(connection, self.worker, handler_name, created_at_us, options)

    def _begin(
        self, created: ConnectionCreated, options: ConnectionOptions, handler: object | None, request: int
    ) -> Connection:
        connection = Connection(self, created, options, handler)
        if handler is not None:
            connection.websocket = WebSocket(self, connection)
        self.connections[created.id] = connection
        if self.stopping:
            connection.dial(request)
            connection.stop(1001, "the worker is being killed")
        else:
            connection.dial(request)
        return connection

    def send(self, command: Send) -> None:
        """Write messages for a request."""
        if command.key is not None and command.key in self._keyed:
            self.answer(msgspec.structs.replace(self._keyed[command.key], request=command.request))
            return
        connection = self.connections.get(command.connection)
        answer = SendFailed(command.request, 0, "") if connection is None else connection.send(command)
        if answer is not None:
            self.answer_send(answer, command.key)

    def answer_send(self, answer: Sent | SendFailed, key: str | None) -> None:
        """Answer a send; what was written under a `key` is remembered, so that a repeat writes nothing."""
        if key is not None and isinstance(answer, Sent):
            self._keyed[key] = answer
            while len(self._keyed) > KEYED_ANSWERS:
                del self._keyed[next(iter(self._keyed))]
        self.answer(answer)

    def terminate(self, command: Terminate) -> None:
        """Close a connection for a request."""
        connection = self.connections.get(command.connection)
        waiting = self.constructions.give_up(command.connection)
        if waiting is not None:
            # Without its handler: no callback has to wait for the context, and no other can follow.
            connection = self.begin(waiting, resolve(waiting.connection_request), None)
        if connection is None:
            self.answer(TerminateDone(command.request, self.flush()))
        else:
            connection.terminate(command.code, command.reason, command.request)

    def call(self, command: Call) -> None:
        """Queue a call."""
        if self.stopping:
            self.answer(CallFailed(command.request, "", "the worker is being killed", "", discarded=True))
        elif self.context.full_of_calls:
            self.context.refuse_call(command)
        else:
            self.context.post_call(command)

    def reconfigure(self, command: Reconfigure) -> None:
        """Take over settings that change at run time."""
        self.settings = msgspec.structs.replace(self.settings, max_connections=command.max_connections)
        self.dialler.set_policy(
            EgressPolicy(command.egress_allow, command.egress_deny), allow_insecure_tls=command.allow_insecure_tls
        )

    # ------------------------------------------------------------ code in the worker

    def grant_ids(self, first: int, count: int) -> None:
        """Take a block of connection ids for connections that code in this worker opens."""
        if count:
            self._ids.append((first, first + count))
            self._ids_left += count
        while self._ids_wanted and self._ids_left:
            future = self._ids_wanted.popleft()
            if not future.cancelled():
                future.set_result(self._take_id())

    def _take_id(self) -> int:
        first, end = self._ids[0]
        if first + 1 == end:
            self._ids.popleft()
        else:
            self._ids[0] = (first + 1, end)
        self._ids_left -= 1
        return first

    def _want_id(self, future: Future[int]) -> None:
        if self._ids_left:
            future.set_result(self._take_id())
        else:
            self._ids_wanted.append(future)
        if self._ids_left < 32:
            self.uplink.ask_ids()

    def open_from_worker(self, request: ConnectionRequest, handler: object | None, name: str | None) -> WebSocket:
        """Open a connection for code in this worker, and wait until the handshake has ended.

        Raises:
            InvalidRequest: If the url, or what the handler asks for, is not valid.
            ConnectError: If the dial fails.
            LimitReached: If ``limits.max_connections_per_worker`` is reached.
            MooringError: If the worker is being killed, or no connection id can be had while the service is away.
        """
        options = resolve(request, handler)
        if self.stopping:
            raise MooringError("the worker is being killed")
        if len(self.connections) >= self.settings.max_connections:
            raise LimitReached("limits.max_connections_per_worker", self.settings.max_connections)
        id_wanted: Future[int] = Future()
        self.post(self._want_id, id_wanted)
        try:
            connection_id = id_wanted.result(options.connect_timeout_s)
        except TimeoutError:
            raise MooringError(
                "no connection id: the service is away, and the worker's block of ids is used up"
            ) from None
        opened: Future[Connection] = Future()

        def begin() -> None:
            created = self._created(connection_id, now_us(), options, name)
            connection = self._begin(created, options, handler, 0)
            connection.when_opened(opened)

        self.post(begin)
        # The dial has its own deadline; this one only guards against the I/O loop itself.
        connection = opened.result(options.connect_timeout_s + 30)
        if connection.opened_at_us is None:  # not `errors`: one that opened may have failed meanwhile
            raise ConnectError(connection.errors, connection_id)
        return connection.websocket or WebSocket(self, connection)

    # ------------------------------------------------------------ stopping and looking

    def ask(self, ask: AskCall | AskKill, size: int = 0) -> None:
        """Ask the service for something of `size` bytes, from any thread, in order."""
        self.outbox.ask(ask, size)
        self.wake()

    def kill(self, worker: str) -> None:
        """Ask the service to kill `worker`, from any thread."""
        self.ask(AskKill(worker))
        if worker == self.worker:
            # Nothing may run between the running item and the service's `Stop`.
            self.context.discard()
            self.post(self._expect_stop)

    def _expect_stop(self) -> None:
        self.loop.call_later(KILL_AGAIN_S, self._kill_again)

    def _kill_again(self) -> None:
        # Stored but not done: the service has died in between. A worker that discards everything must not live on.
        if not self.stopping:
            if not self.outbox.held_frames:
                self.ask(AskKill(self.worker))
            self._expect_stop()

    async def stop(self, reason: str, grace_s: float) -> None:
        """Run down: the running item ends, what is pending is discarded, connections close with 1001, each runs its
        ``onTerminate``; then the context's thread ends. It may take as long as the running item does, but waits no
        longer than a second for tasks and threads that user code has left behind.
        """
        self.stopping = True
        self.context.discard()
        held = list(self.connections.values())
        self.closed_by_stop = sum(connection.state is not ConnectionState.CLOSED for connection in held)
        for connection in held:
            connection.stop(1001, reason)
        deadline = self.loop.time() + grace_s
        while self.loop.time() < deadline and any(
            connection.state is not ConnectionState.CLOSED for connection in self.connections.values()
        ):
            await asyncio.sleep(STOP_POLL_S)
        for connection in list(self.connections.values()):
            connection.abandon(reason)
        self.context.finish()
        while not self.context.emptied:
            await asyncio.sleep(STOP_POLL_S)
        deadline = self.loop.time() + LEFTOVER_S
        while self.context.alive and self.loop.time() < deadline:
            await asyncio.sleep(STOP_POLL_S)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)
        self._run_posted()
        await self.dialler.close()

    def link_lost(self) -> None:
        """Nobody waits for answers any more."""
        self.constructions.nobody_waits()

    def held(self) -> list[HeldConnection]:
        """Return the connections that `Hello` names."""
        return self.constructions.held() + [
            HeldConnection(connection.created, update)
            for connection in self.connections.values()
            if (update := connection.update()) is not None
        ]

    def stats(self, probe: int = 0) -> Stats:
        """Return how the worker does."""
        figures, self._figures = self._figures, {}
        running = self.context.running
        self._measure()
        return Stats(
            probe=probe,
            mailbox=self.context.length,
            mailbox_bytes=self.context.length_bytes,
            running=None if running is None else running[0],
            running_s=0.0 if running is None else self.loop.time() - running[1],
            cpu_s=cpu_s(),
            rss_bytes=rss_bytes(),
            outbox=self.outbox.held_frames,
            outbox_bytes=self.outbox.held_bytes,
            inbound_paused=len(self.paused),
            metrics=encode_metrics(self.metrics),
            updates=[connection.update() for connection in figures],
            discarded=self.context.discarded,
        )

    def _measure(self) -> None:
        """Bring what is looked at, not counted, into the metrics: how full the queues are."""
        metrics, settings, context = self.metrics, self.settings, self.context
        metrics.callback_errors = context.callback_errors
        metrics.mailbox_fill = max(
            context.length / settings.mailbox_items, context.length_bytes / settings.mailbox_bytes
        )
        metrics.outbox_fill = self.outbox.held_bytes / settings.outbox_bytes
        metrics.inbound_bytes = metrics.outbound_bytes = most = most_bytes = most_out = 0
        for connection in self.connections.values():
            if connection.posted or connection.outbound_bytes:
                waiting = connection.posted_bytes - connection.taken_bytes
                metrics.inbound_bytes += waiting
                metrics.outbound_bytes += connection.outbound_bytes
                most = max(most, connection.posted - connection.taken)
                most_bytes = max(most_bytes, waiting)
                most_out = max(most_out, connection.outbound_bytes)
        metrics.inbound_fill = max(most / settings.inbound_messages, most_bytes / settings.inbound_bytes)
        metrics.outbound_fill = most_out / settings.outbound_bytes


def dispatch(runtime: Runtime, command: Open | Send | Terminate | Call) -> None:
    """Give one command of a request to `runtime`."""
    match command:
        case Send():
            runtime.send(command)
        case Open():
            runtime.open(command)
        case Terminate():
            runtime.terminate(command)
        case Call():
            runtime.call(command)
        case _:
            assert_never(command)
