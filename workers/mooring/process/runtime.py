"""What a worker is made of, put together: connections, context, outbox and dialler round one I/O loop.

It is what the rooms below ask for (`connection/host.py`, `usercode/host.py`) and what the link asks for. Commands reach it
through `commands.py`, how connections come to be is in `openings.py`, its end in `stopping.py`; where reports go (`Uplink`) it
does not know: the worker process gives it the link to the service, the test kit a list.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

import msgspec

from mooring.background import Background
from mooring.changes import Changes
from mooring.connection.asked import Known
from mooring.connection.changing import change
from mooring.connection.host import PausedReader
from mooring.connection.live import Left, LiveConnection
from mooring.connection.recorded import RecordedConnection
from mooring.deadline import within
from mooring.errors import MooringError
from mooring.link.held import HeldConnection
from mooring.link.keyed import KeyedAnswers
from mooring.link.messages import (
    AskCall,
    AskKill,
    Called,
    CallFailed,
    Reconfigure,
    Report,
    Stats,
    WorkerSettings,
)
from mooring.link.messages_changed import Changed
from mooring.link.messages_sent import Replied, RequestFailed, RequestTaken, SendFailed, SendQueued, Sent
from mooring.link.outbox import Outbox
from mooring.process.figures import Figures
from mooring.process.handing_over import HandingOver
from mooring.process.openings import Openings
from mooring.process.redialling import Redialling
from mooring.process.sleep import Sleep
from mooring.process.threads import Reservations, Room
from mooring.usercode.asked_code import run_code, tell_failure
from mooring.usercode.construction import Constructions
from mooring.usercode.context import Context
from mooring.usercode.mailbox import CALL_COST_BYTES
from mooring.wire.dial import Dialler
from mooring.wire.egress import EgressPolicy
from mooring.wire.ticks import Ticks

PROBE_S = 5.0  # so long a peer has to answer after a sleep, or its pingTimeout
LOOK_S = 1.0  # so often we see to it that the context is awake while something waits for it
END_TASKS_S = 1.0

log = logging.getLogger("mooring.worker")


class Uplink(Protocol):
    """Where reports go."""

    def send(self, report: Report) -> None:
        """Report, if there is a link; an answer that finds none goes over the next one."""

    def send_frame(self, data: bytes) -> bool:
        """Write a frame of the outbox if there is a link that takes it, and say whether it did."""

    def ask_ids(self) -> None:
        """The block of connection ids runs low."""


class Runtime:
    """One worker, from the inside. Made on the I/O loop; `post` and `wake` are for every thread, `reserve`, `open`, `ask_call`
    and `kill` for every thread but the I/O loop, all else is for the I/O loop only.

    Attributes:
        known: What recipes may name.
        connections: By id, until their last event is in the outbox.
        constructions: Connections to be, whose handler is still to be constructed.
        paused: Connections whose reading we have paused.
        room: In the outbox, for what code in the worker asks of the service.
        stopping: Set once the worker runs down: nothing new begins.
        left: Likewise: who goes on with the kept connections (`live.Left`).
        closed_by_stop: How many connections it has closed then.
        last_ask: The number of the last call that code in a worker has asked for, of those that were taken.
        full_at: How many connections the service holds, if these are all that it may; else 0.
    """

    def __init__(self, settings: WorkerSettings, uplink: Uplink) -> None:
        self.settings = settings
        self.worker = settings.worker
        self.loop = asyncio.get_running_loop()
        self.known = Known(settings.recipes, settings.functions, settings.in_memory)
        self.connections: dict[int, LiveConnection] = {}
        self.paused: set[PausedReader] = set()
        self._attended: set[int] = set()  # connections that do more than receive
        self.ticks = Ticks(self.loop)
        self.stopping = False
        self.left: Left = ""
        self.closed_by_stop = self.full_at = 0
        self.last_ask = 0
        self.answer: Callable[[Report], None] = uplink.send
        self.outbox = Outbox(settings.outbox_bytes, uplink.send_frame, self._on_room)
        self.room = Room(lambda: self.outbox.full)
        self._handing_over = handing_over = HandingOver(self.loop, self.outbox, self.answer)
        self.post, self.wake, self.flush = handing_over.post, handing_over.wake, handing_over.flush
        self.touch, self.touch_later = handing_over.touch, handing_over.touch_later
        self.answer_behind = handing_over.answer_behind
        reservations = Reservations(settings.outbound_bytes)
        self.reserve, self.release = reservations.reserve, reservations.release
        self._figures = Figures(settings)
        self.metrics = self._figures.metrics
        self.figures_changed, self.waits = self._figures.changed, self._figures.waits
        self.context = Context(self, settings.mailbox_items, settings.mailbox_bytes)
        self.mailbox = self.context.mailbox
        self.constructions = Constructions(self)
        self.dialler = Dialler(
            EgressPolicy(settings.egress_allow, settings.egress_deny),
            allow_insecure_tls=settings.allow_insecure_tls,
            settings=settings.dial,
        )
        self.redials = Redialling(self.loop, settings.redial)
        self.keyed_sends: KeyedAnswers[Sent | SendFailed | SendQueued] = KeyedAnswers()
        self.keyed_replies: KeyedAnswers[Replied | RequestFailed | RequestTaken] = KeyedAnswers()
        openings = Openings(self, uplink.ask_ids)
        self.check_limit, self.created, self.begin = openings.check_limit, openings.created, openings.begin
        self.check_secrets = openings.check_secrets
        self.open, self.grant_ids = openings.open, openings.grant_ids
        self._tasks = Background(log)
        self._sleep = Sleep()

    def start(self) -> None:
        """Start the context's thread, and see to it that it stays awake."""
        self.context.thread.start()
        self._look_later()

    def _look_later(self) -> None:
        self._look_timer = self.loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self.context.wake_again()
        if self._sleep.over():
            log.info("the machine has slept: all peers are asked whether they are there")
            for connection in list(self.connections.values()):
                connection.probe(PROBE_S)
        self._look_later()

    async def close(self) -> None:
        """End the tasks of connections, and hand over what was recorded; the last of what `stopping.run_down` does."""
        self._look_timer.cancel()
        try:
            async with within(END_TASKS_S):
                await self._tasks.close()
        except TimeoutError:
            log.warning("a dial does not end")
        await self.dialler.close()
        self.room.end()
        self._handing_over.end()

    # What connections ask for.

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task of a connection."""
        return self._tasks.spawn(work)

    def answer_send(self, answer: Sent | SendFailed | SendQueued, key: str | None) -> None:
        """Answer a send; what was written, or waits, under a `key` is remembered, so that a repeat does nothing."""
        if not isinstance(answer, SendFailed) or answer.why == "uncertain":
            self.keyed_sends.remember(key, answer)
        self.answer(answer)

    def answer_request(self, answer: Replied | RequestFailed | RequestTaken, key: str | None) -> None:
        """Answer a request over a connection; what was sent under a `key` is remembered, so that a repeat sends nothing."""
        if not isinstance(answer, RequestFailed) or answer.why in ("timeout", "lost"):
            self.keyed_replies.remember(key, answer, len(answer.payload) if isinstance(answer, Replied) else 0)
        self.answer(answer)

    def answer_call(self, answer: Called | CallFailed) -> None:
        """Answer a call, behind the events of what it did."""
        self.answer(msgspec.structs.replace(answer, after=self.flush()))

    def run_code(
        self,
        connection: RecordedConnection,
        callback: str,
        target: str | Callable[..., Any],
        params: dict[str, Any] | list[Any],
        *first: Any,
    ) -> asyncio.Future[Any]:
        """Have user code run for a connection, and return what it returns (`connection/host.Host.run_code`)."""
        reference = self.known.functions.get(target, target) if isinstance(target, str) else target
        return run_code(self, connection, callback, reference, params, first)

    def change(self, connection: LiveConnection, changes: Changes, done: Future[None]) -> None:
        """Change what a connection is asked for, for code in the worker; the service learns it, too."""
        try:
            change(connection, changes, self.dialler.secrets, self.known)
        except MooringError as exc:
            done.set_exception(exc)
        else:
            done.set_result(None)
            spec = connection.spec
            self.answer(Changed(0, connection.id, self.flush(), connection.state.value, spec=spec, done=True))

    def tell_failure(self, connection: RecordedConnection, callback: str, exc: BaseException) -> None:
        """Tell of what went wrong with code of a connection (`connection/host.Host.tell_failure`)."""
        tell_failure(self, connection, callback, exc)

    def attend(self, connection: RecordedConnection) -> None:
        """`connection` does more than receive."""
        self._attended.add(connection.id)

    def forget(self, connection: RecordedConnection) -> None:
        """`connection` is over: no socket, no event to come."""
        self.connections.pop(connection.id, None)
        self._attended.discard(connection.id)
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
        self.context.thread.wake()
        self.resume_paused()

    # What code in the worker asks of the service.

    def ask_call(self, ask: AskCall, size: int) -> None:
        """Ask for a call with `size` bytes of parameters, in order, when the outbox has room.

        Raises:
            MooringError: If the worker ends before, or has ended.
        """
        self.room.put(self.outbox.ask, ask, CALL_COST_BYTES + size)
        self.wake()

    def kill(self, worker: str) -> None:
        """Ask for `worker` to be killed, in order.

        Raises:
            MooringError: If this worker has ended.
        """
        self.room.put_at_once(self.outbox.ask, AskKill(worker))
        self.wake()
        if worker == self.worker:
            self.context.discard()  # nothing may run between the running item and the service's `Stop`

    # What the link asks for.

    @property
    def only_receives(self) -> bool:
        """True while messages are received and recorded, and nothing else waits for the I/O loop (`link/rest`)."""
        return not (
            self._attended
            or self._tasks.busy
            or self.paused
            or self.mailbox.length
            or self.mailbox.calls
            or self.stopping
        )

    def link_lost(self) -> None:
        """Nobody waits for answers any more."""
        self.constructions.nobody_waits()

    def reconfigure(self, command: Reconfigure) -> None:
        """Take over settings that change at run time."""
        self.settings = msgspec.structs.replace(
            self.settings,
            max_connections=command.max_connections,
            max_pending_requests=command.max_pending_requests,
        )
        if command.recipes is not None and command.functions is not None:
            self.known = Known(command.recipes, command.functions, command.in_memory)
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
