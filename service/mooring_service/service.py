"""The verbs that the API calls: open, send, terminate, call, kill, list, follow.

It puts the floor together (journal → feed → supervisor; stopped in reverse) and owns the two flows: a command goes down to
the worker that holds the connection; a report comes up, is committed, folded into the directory, and only then shown
and acknowledged.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, assert_never

import msgspec

from mooring.background import Background
from mooring.checks import check_close, check_worker_name
from mooring.errors import (
    CallError,
    ConnectionClosed,
    ErrCode,
    HandlerError,
    InvalidRequest,
    JournalUnavailable,
    MooringError,
    SendError,
    Unavailable,
    UnknownFunction,
    WorkerBusy,
    WorkerDied,
    WrongState,
)
from mooring.events import (
    CallbackErrorEvent,
    Kind,
    now_us,
    worker_body,
)
from mooring.link.messages import (
    STATUS_CLOSED,
    STATUS_CONNECTED,
    AskCall,
    AskKill,
    Call,
    Called,
    CallFailed,
    Send,
    SendFailed,
    Sent,
    Terminate,
)
from mooring.metrics import Histogram
from mooring.options import ConnectionRequest, check_request
from mooring.parameters import check_params
from mooring_service.config import Config, worker_settings
from mooring_service.directory import Directory, Entry
from mooring_service.endings import ends
from mooring_service.feed import Feed, Subscription
from mooring_service.intake import Intake
from mooring_service.journal.batch import Append, EventFilter
from mooring_service.journal.journal import Journal
from mooring_service.lock import StateLock
from mooring_service.opening import Opening, Openings
from mooring_service.processes.slot import Slot
from mooring_service.processes.supervisor import Supervisor
from mooring_service.processes.worker_state import WorkerState
from mooring_service.records import ConnectionRecord, Killed, SentRecord, WorkerRecord

ANSWER_MARGIN_S = 1.0  # the worker's own deadline comes first; this is for a worker that does not answer at all
PRUNE_INTERVAL_S = 5.0
STOP_POLL_S = 0.1
QUEUE_HIGH_BYTES = 64 * 1024 * 1024  # the journal's queue: above it the links are not read

log = logging.getLogger("mooring.service")


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served: `reasons` says what is not there, `degraded` names Failed workers."""

    ready: bool
    reasons: list[str]
    degraded: list[str]


class Service:
    """One service on one state directory.

    Args:
        config: Read once; see `mooring_service.config`.
        state_dir: An existing directory, mode 0700.
        journal: Not yet started.
    """

    def __init__(self, config: Config, state_dir: Path, journal: Journal, *, app_dirs: list[str] | None = None) -> None:
        self.config = config
        self.state_dir = state_dir
        self.journal = journal
        self.feed = Feed(journal, ring_bytes=config.journal.ring_bytes, max_subscribers=config.limits.max_subscribers)
        self.directory = Directory(config.retention.closed_connections, config.retention.closed_age)
        self._lock = StateLock(state_dir)
        self._background = Background(log)
        self._intake = Intake(journal, self.directory, self.feed, self._background, self._do_asks)
        self._app_dirs = app_dirs or []
        settings = worker_settings(config, self._app_dirs)
        self._supervisor = Supervisor(
            config.supervisor, settings, state_dir, self._intake, max_workers=config.limits.max_workers
        )
        self._intake.supervisor = self._supervisor
        self._openings = Openings(config, journal, self.directory, self._intake, self._supervisor)
        self._asks_waiting: Counter[str] = Counter()  # by worker: calls that code in workers asked for, not yet given
        self._stopping = False
        self._started = False

    # ------------------------------------------------------------ life

    def acquire(self) -> None:
        """Take the state directory for this service. Must be called before `start`.

        Raises:
            StateDirectoryBusy: If another service holds it.
        """
        self._lock.acquire()

    async def start(self) -> None:
        """Open the journal, adopt the workers."""
        recovered = await self.journal.start(self._intake.on_committed, self._intake.on_failure)
        self.directory.recover(self.journal.epoch, recovered.connections)
        # Taken first: the first connection of a new state directory is number 1.
        await self._openings.allot()
        await self._supervisor.start([stored for stored in recovered.incarnations if not stored.ended])
        known = {stored.incarnation for stored in recovered.incarnations if not stored.ended}
        await self._end_strays(known)
        for slot in self._supervisor.slots():
            if slot.draining:
                self._background.spawn(self._drain(slot))
        self._background.spawn(self._prune())
        self._started = True

    async def stop(self, *, handover: bool = False) -> None:
        """End the workers (or leave them running for the next service), then close the journal."""
        self._stopping = True
        if handover:
            await self._supervisor.hand_over()
        else:
            await self._end_workers()
        await self._background.close()
        await self._openings.close()
        self.feed.close()
        await self.journal.stop()
        self._lock.release()

    async def _end_workers(self) -> None:
        ending = asyncio.create_task(self._supervisor.stop("the service is stopping"))
        while not ending.done():
            await asyncio.wait({ending}, timeout=STOP_POLL_S)
            if self.journal.failure is not None and self._supervisor.all_gone:
                # The ends wait for a disk that takes nothing. The next start finds them missing, and reports them.
                log.error("the last events of the workers cannot be written: %s", self.journal.failure)
                ending.cancel()
                await asyncio.wait({ending})
        if not ending.cancelled():
            ending.result()

    def reconfigure(self, config: Config) -> None:
        """Take over what may change at run time (`RUNTIME_SETTINGS`)."""
        self.config = config
        self.feed.max_subscribers = config.limits.max_subscribers
        self._openings.config = config
        self._supervisor.reconfigure(worker_settings(config, self._app_dirs), config.limits.max_workers)

    def begin_stop(self) -> None:
        """From now on nothing new is started, and `/readyz` says so."""
        self._stopping = True

    def readiness(self) -> Readiness:
        """Say whether requests can be served, and what is missing."""
        reasons: list[str] = []
        if self._stopping:
            reasons.append("stopping")
        if not self._started:
            reasons.append("starting")
        if self.journal.failure is not None:
            reasons.append(f"journal: {self.journal.failure}")
        if self._supervisor.adopting:
            reasons.append(f"adopting: {', '.join(sorted(self._supervisor.adopting))}")
        degraded = [slot.name for slot in self._supervisor.slots() if slot.state is WorkerState.FAILED]
        return Readiness(not reasons, reasons, degraded)

    async def _prune(self) -> None:
        # Ends by cancellation, when the service stops.
        while True:
            await asyncio.sleep(PRUNE_INTERVAL_S)
            gone = self.directory.prune(time.monotonic())
            if gone:
                try:
                    await self.journal.forget_connections(gone)
                except JournalUnavailable as exc:
                    log.warning("ended connections cannot be forgotten in the journal now: %s", exc)

    async def _end_strays(self, known: set[str]) -> None:
        """Connections whose worker's process is known to have ended, and that have no onTerminate: a double death."""
        strays = [
            entry
            for name in self.directory.workers()
            for entry in self.directory.live_of(name)
            if entry.incarnation not in known
        ]
        if strays:
            reason = "the worker ended while the service was away"
            await self.journal.append_waiting(ends(strays, reason, ErrCode.WORKER_DIED))

    def _check_writable(self) -> None:
        if self._stopping:
            raise Unavailable("the service is stopping")
        if self.journal.failure is not None:
            raise JournalUnavailable(self.journal.failure)

    # ------------------------------------------------------------ what code in workers asks for

    def _do_asks(self, slot: Slot, asks: list[AskCall | AskKill]) -> None:
        for ask in asks:
            match ask:
                case AskCall(worker, name, params):
                    self._ask_call(slot, worker, name, params)
                case AskKill(worker):
                    target = self._supervisor.find(worker)
                    if target is not None:  # KILL WORKER ignores unknown names, as 4D does
                        # Told at once, so that a call that follows waits for the next process.
                        self._supervisor.begin_kill(target)
                        self._background.spawn(self._supervisor.kill(worker))
                case _:
                    assert_never(ask)

    def _ask_call(self, slot: Slot, worker: str, name: str, params: Any) -> None:
        target = self._supervisor.find(worker)
        reference = self.config.functions.get(name)
        running = target is not None and target.state is WorkerState.RUNNING and target.linked
        if target is not None and running and reference is not None and not self._asks_waiting[worker]:
            target.command(Call(0, name, reference, params))
        else:
            # Tasks resume in the order in which they were made; nothing may overtake them meanwhile.
            self._asks_waiting[worker] += 1
            self._background.spawn(self._ask_call_later(slot, worker, name, params))

    async def _ask_call_later(self, slot: Slot, worker: str, name: str, params: Any) -> None:
        try:
            await self.call_later(worker, name, params)
        except MooringError as exc:
            log.error("worker %s asked for %s in worker %s: %s", slot.name, name, worker, exc, extra=slot.tags)
            event = CallbackErrorEvent(callback=name, exception=type(exc).__name__, message=str(exc), traceback="")
            body = worker_body(Kind.callbackError, slot.name, now_us(), event)
            self.journal.append(
                Append(worker=slot.name, connections=bytes(8), kinds=bytes((Kind.callbackError,)), bodies=body)
            )
        finally:
            self._asks_waiting[worker] -= 1
            if not self._asks_waiting[worker]:
                del self._asks_waiting[worker]

    # ------------------------------------------------------------ connections

    async def open(
        self, request: ConnectionRequest, *, begun: Callable[[int], tuple[str, bytes]] | None = None
    ) -> Opening:
        """Begin a connection: check, store the intent, dispatch.

        Args:
            begun: Given the connection's id, the Idempotency-Key and the answer that are stored with the intent.

        Raises:
            InvalidRequest: If anything of the request is not valid; nothing was started.
            UnknownFunction: If the handler is not in the configuration.
            PolicyRefused, LimitReached, WorkerBusy, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        wrong = check_request(request)
        if wrong:
            raise InvalidRequest(wrong)
        self._check_writable()
        reference = None
        if request.handler is not None:
            reference = self._look_up("handlers", self.config.handlers, request.handler.name)
        return await self._openings.open(request, reference, begun)

    @property
    def next_connection(self) -> int:
        """The id that the next connection of a request gets; for the demo's greeting."""
        return self._openings.next_connection

    def connection(self, connection: int) -> ConnectionRecord:
        """Return the record of a connection.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        return self.directory.record(connection)

    def connections(
        self, *, worker: str | None, status: str | None, after: int, limit: int
    ) -> tuple[list[ConnectionRecord], int | None]:
        """Return a page of records by id, and where the next page begins (None: there is none)."""
        found: list[ConnectionRecord] = []
        for entry in self.directory.select(worker, status, after):
            if len(found) == limit:
                return found, found[-1].id
            found.append(self.directory.to_record(entry))
        return found, None

    def _holder(self, entry: Entry) -> Slot:
        """Return the worker that holds a connection, and takes commands."""
        slot = self._supervisor.by_incarnation(entry.incarnation)
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
        entry = self.directory.entry(connection)
        status = entry.update.status
        if status != STATUS_CONNECTED:
            if status == STATUS_CLOSED:
                raise ConnectionClosed(connection)
            raise WrongState(connection, status)
        if self.journal.failure is not None:
            raise JournalUnavailable(self.journal.failure)
        return entry

    async def send(self, connection: int, *, binary: bool, payloads: list[bytes], key: str | None = None) -> SentRecord:
        """Write messages to a connection's socket, in order.

        Raises:
            UnknownConnection, WrongState, ConnectionClosed, JournalUnavailable: As `check_connected`.
            SendError: If the peer is not reading.
            WorkerSilent, WorkerDied, Unavailable: If its worker does not answer.
        """
        entry = self.check_connected(connection)
        slot = self._holder(entry)
        number, future = slot.request(entry.created.send_timeout_s + ANSWER_MARGIN_S)
        slot.command(Send(number, connection, binary, payloads, key))
        answer = await future
        if isinstance(answer, Sent):
            self.directory.sent(connection, answer.messages_out, answer.bytes_out)
            return SentRecord(answer.sent, answer.bytes)
        assert isinstance(answer, SendFailed), "a worker answers Send with Sent or SendFailed"
        if answer.stalled:
            raise SendError(connection, answer.sent)
        if answer.status in ("", STATUS_CLOSED):
            raise ConnectionClosed(connection)
        raise WrongState(connection, answer.status)

    async def terminate(self, connection: int, code: int | None, reason: str | None) -> ConnectionRecord:
        """Close a connection and return its final record. Idempotent.

        Raises:
            InvalidRequest: If code or reason may not be sent.
            UnknownConnection: If it never existed or is no longer retained.
            JournalUnavailable: If its end cannot be recorded now; it is not begun then.
            WorkerSilent, Unavailable: If its worker does not answer.
        """
        wrong = check_close(code, reason)
        if wrong:
            raise InvalidRequest(wrong)
        entry = self.directory.entry(connection)
        if entry.update.status == STATUS_CLOSED:
            return self.directory.record(connection)
        if self.journal.failure is not None:
            raise JournalUnavailable(self.journal.failure)
        try:
            slot = self._holder(entry)
            number, future = slot.request(entry.created.close_timeout_s + ANSWER_MARGIN_S)
            slot.command(Terminate(number, connection, code, reason))
            await future
        except WorkerDied:
            await self._openings.wait_ended(connection)
        return self.directory.record(connection)

    # ------------------------------------------------------------ workers

    def workers(self) -> list[WorkerRecord]:
        """Return all workers, by name."""
        return [slot.to_record(self.directory.live_count_of(slot.name)) for slot in self._supervisor.slots()]

    def worker(self, name: str) -> WorkerRecord:
        """Return one worker.

        Raises:
            UnknownWorker: If there is none.
        """
        return self._supervisor.slot(name).to_record(self.directory.live_count_of(name))

    def slots(self) -> list[Slot]:
        """Return all workers as the supervisor sees them, by name; for metrics."""
        return self._supervisor.slots()

    @property
    def adoption_s(self) -> float | None:
        """How long the adoption of running workers took; None while it is under way."""
        return self._supervisor.adoption_s

    @property
    def latency(self) -> Histogram:
        """From the socket to the subscribers."""
        return self._intake.latency

    def has_worker(self, name: str) -> bool:
        """Say whether a worker of that name exists, or left connections that are retained."""
        return self._supervisor.find(name) is not None

    async def start_worker(self, name: str) -> tuple[WorkerRecord, bool]:
        """Have a worker Running; True when it was created.

        Raises:
            InvalidRequest: If the name is not a worker's name.
            WorkerBusy, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        self._check_name(name)
        self._check_writable()
        created = await self._supervisor.start_worker(name)
        return self.worker(name), created

    async def kill_worker(self, name: str) -> Killed:
        """End a worker for good.

        Raises:
            UnknownWorker: If there is none.
        """
        return await self._supervisor.kill(name)

    async def drain_worker(self, name: str) -> WorkerRecord:
        """Take no new connections; once the last one has ended, restart the process (with the code of today)."""
        slot = self._supervisor.slot(name)
        if slot.process is not None:  # the next service goes on with it
            slot.record = msgspec.structs.replace(slot.record, draining=True)
            await self._intake.save_incarnation(slot)
        if not slot.draining:
            slot.draining = True
            self._background.spawn(self._drain(slot))
        return slot.to_record(self.directory.live_count_of(name))

    async def _drain(self, slot: Slot) -> None:
        while self.directory.live_count_of(slot.name):
            await asyncio.sleep(0.1)
        # One that has died meanwhile was renewed by that.
        if self._supervisor.find(slot.name) is slot and slot.draining:
            try:
                await self._supervisor.kill(slot.name)
                await self._supervisor.ensure(slot.name)
            except MooringError as exc:
                log.warning("worker %s was drained, and not started again: %s", slot.name, exc, extra=slot.tags)

    async def call(
        self, worker: str, function: str, params: dict[str, Any] | list[Any], *, key: str | None = None
    ) -> bytes:
        """Run a function in a worker's context; return its result as JSON.

        Raises:
            InvalidRequest: If the worker's name or the parameters are not valid.
            UnknownFunction: If the function is not in the configuration.
            HandlerError: If it cannot be imported.
            CallError: If it raised.
            WorkerDied: If the process ended under it.
        """
        slot, reference = await self._callable(worker, function, params)
        number, future = slot.request(self.config.supervisor.call_timeout)
        slot.command(Call(number, function, reference, params, key))
        answer = await future
        if isinstance(answer, Called):
            return answer.result
        assert isinstance(answer, CallFailed), "a worker answers Call with Called or CallFailed"
        if answer.discarded:
            raise WorkerBusy(worker, WorkerState.STOPPING.value)
        if answer.full:
            raise Unavailable(answer.message)
        if answer.invalid:
            raise HandlerError(function, answer.message)
        raise CallError(answer.exception, answer.message, answer.traceback)

    async def call_later(
        self, worker: str, function: str, params: dict[str, Any] | list[Any], *, key: str | None = None
    ) -> None:
        """Have a function run in a worker's context; return once it is queued there.

        Raises:
            As `call`, but what the function raises becomes a ``callbackError`` of the worker.
        """
        slot, reference = await self._callable(worker, function, params)
        slot.command(Call(0, function, reference, params, key))

    async def _callable(self, worker: str, function: str, params: dict[str, Any] | list[Any]) -> tuple[Slot, str]:
        wrong = check_worker_name(worker) + check_params(params, "/params")
        if wrong:
            raise InvalidRequest(wrong)
        reference = self._look_up("functions", self.config.functions, function)
        self._check_writable()
        # 4D: a call to a name that is being killed starts a new process once the old one has ended.
        await self._supervisor.wait_gone(worker)
        return await self._supervisor.ensure(worker), reference

    @staticmethod
    def _check_name(name: str) -> None:
        wrong = check_worker_name(name)
        if wrong:
            raise InvalidRequest(wrong)

    @staticmethod
    def _look_up(table: str, names: dict[str, str], name: str) -> str:
        reference = names.get(name)
        if reference is None:
            nearest = difflib.get_close_matches(name, names, 1)
            raise UnknownFunction(table, name, nearest[0] if nearest else None)
        return reference

    # ------------------------------------------------------------ events

    def follow(
        self, events: EventFilter, cursor: str | None, *, default: Literal["start", "now"], brief: bool = False
    ) -> Subscription:
        """Return the stream of the events that match, from `cursor` on; `brief` as in `Feed.subscribe`.

        Raises:
            LimitReached: If there are too many subscribers.
        """
        return self.feed.subscribe(events, cursor, default, brief=brief)

    def follow_connection(
        self, connection: int, cursor: str | None, kinds: frozenset[int], *, brief: bool = False
    ) -> Subscription:
        """Return the stream of one connection; it ends after its last event.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        entry = self.directory.entry(connection)  # held: the stream goes to its end, also once it is no longer retained
        events = EventFilter(connections=frozenset((connection,)), kinds=kinds)
        return self.feed.subscribe(events, cursor, "start", brief=brief, end_of=lambda: entry.end)
