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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, assert_never

import msgspec

from mooring.errors import (
    CallError,
    ConnectError,
    ConnectionClosed,
    ErrCode,
    ErrorEntry,
    HandlerError,
    InvalidRequest,
    JournalUnavailable,
    LimitReached,
    MooringError,
    PolicyRefused,
    SendError,
    Unavailable,
    UnknownFunction,
    WorkerBusy,
    WorkerDied,
    WrongState,
)
from mooring.events import (
    CallbackErrorEvent,
    ErrorEvent,
    Kind,
    TerminateEvent,
    WorkerExitedEvent,
    WorkerStartedEvent,
    body_prefix,
    connection_body,
    encode_event,
    now_us,
    worker_body,
)
from mooring.frames import ABNORMAL
from mooring.messages import (
    STATUS_CLOSED,
    STATUS_CONNECTED,
    STATUS_CONNECTING,
    AskCall,
    AskIds,
    AskKill,
    Call,
    Called,
    CallFailed,
    ConnectionCreated,
    ConnectionUpdate,
    Events,
    Goodbye,
    GrantIds,
    Hello,
    Open,
    Opened,
    OpenFailed,
    OpenInvalid,
    Report,
    Resent,
    Send,
    SendFailed,
    Sent,
    Stats,
    Terminate,
    Terminated,
    TerminateDone,
    WorkerSettings,
)
from mooring.options import (
    DEFAULT_CLOSE_TIMEOUT_S,
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_SEND_TIMEOUT_S,
    ConnectionRequest,
    check_close,
    check_request,
    check_worker_name,
)
from mooring_service.batch import Append, EventFilter
from mooring_service.config import Config
from mooring_service.directory import Directory, Entry
from mooring_service.feed import Feed, Subscription
from mooring_service.journal import Committed, Journal
from mooring_service.lock import StateLock
from mooring_service.records import ConnectionRecord, Killed, SentRecord, WorkerRecord
from mooring_service.slot import Slot
from mooring_service.supervisor import ID_BLOCK, Supervisor
from mooring_service.worker_process import Exit
from mooring_service.worker_state import WorkerState

ANSWER_MARGIN_S = 1.0  # the worker's own deadline comes first; this is for a worker that does not answer at all
PRUNE_INTERVAL_S = 5.0
QUEUE_HIGH_BYTES = 64 * 1024 * 1024  # the journal's queue: above it the links are not read

log = logging.getLogger("mooring.service")


class Readiness(msgspec.Struct, frozen=True):
    """Whether requests can be served: `reasons` says what is not there, `degraded` names Failed workers."""

    ready: bool
    reasons: list[str]
    degraded: list[str]


class OpenError(ConnectError):
    """A create that failed; the flags say which answer it deserves."""

    def __init__(
        self, errors: list[ErrorEntry], connection: int, *, timed_out: bool, terminated: bool, policy: bool
    ) -> None:
        super().__init__(errors, connection)
        self.timed_out = timed_out
        self.terminated = terminated
        self.policy = policy


class Opening(msgspec.Struct, frozen=True):
    """A dial under way: `done` ends with the record once Connected, or raises what went wrong."""

    connection: int
    done: asyncio.Future[ConnectionRecord]


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
        self.feed = Feed(journal, max_subscribers=config.limits.max_subscribers)
        self.directory = Directory("", 0, 0)
        self._lock = StateLock(state_dir)
        self._supervisor = Supervisor(config.supervisor, _worker_settings(config, app_dirs or []), state_dir, self)
        self._stopping = False
        self._started = False
        self._ids: list[int] = []
        self._allotting = asyncio.Lock()
        self._openings: set[asyncio.Task[ConnectionRecord]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening_count = 0
        # Ids that this service has dispatched and that no Hello can know of yet, by worker.
        self._dispatched: dict[str, set[int]] = {}
        self._links_paused = False

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Take the lock, open the journal, adopt the workers.

        Raises:
            StateDirectoryBusy: If another service holds the state directory.
        """
        self._lock.acquire()
        recovered = await self.journal.start(self._on_committed, self._on_failure)
        retention = self.config.retention
        self.directory = Directory(self.journal.epoch, retention.closed_connections, retention.closed_age)
        self.directory.recover(recovered.connections)
        # Taken first: the first connection of a new state directory is number 1.
        await self._next_ids()
        await self._supervisor.start([stored for stored in recovered.incarnations if not stored.ended])
        known = {stored.incarnation for stored in recovered.incarnations if not stored.ended}
        await self._end_strays(known)
        self._spawn(self._prune())
        self._started = True

    async def stop(self, *, handover: bool = False) -> None:
        """End the workers (or leave them running for the next service), then close the journal."""
        self._stopping = True
        if handover:
            await self._supervisor.hand_over()
        else:
            await self._supervisor.stop("the service is stopping")
        for task in [*self._tasks, *self._openings]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._openings, return_exceptions=True)
        self.feed.close()
        await self.journal.stop()
        self._lock.release()

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

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a background task of the service has failed", exc_info=exc)

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
            await self._store(self._ends(strays, reason, ErrCode.WORKER_DIED))

    # ------------------------------------------------------------ the journal's side

    def _on_committed(self, committed: list[Committed]) -> None:
        touched: dict[Slot, None] = {}
        fold = self.directory.fold
        for item in committed:
            fold(item)
        self.feed.publish(committed)
        for item in committed:
            append = item.append
            if append.number:
                slot = self._supervisor.by_incarnation(append.incarnation)
                if slot is not None:
                    asks = slot.committed(append.number)
                    touched[slot] = None
                    if asks and not item.repeated:
                        self._do_asks(slot, asks)
        for slot in touched:
            slot.acknowledge()
        if self._links_paused and self.journal.queued_bytes < QUEUE_HIGH_BYTES // 2:
            self._links_paused = False
            for slot in self._supervisor.slots():
                if slot.channel is not None:
                    slot.channel.resume_reading()

    def _on_failure(self, failure: str | None) -> None:
        if failure is None:
            log.warning("the journal can be written again")
        else:
            log.error("the journal cannot be written: %s; connections stay open, events wait in the workers", failure)

    async def _store(self, append: Append) -> Committed:
        return await self.journal.append_waiting(append)

    def _check_writable(self) -> None:
        if self._stopping:
            raise Unavailable("the service is stopping")
        if self.journal.failure is not None:
            raise JournalUnavailable(self.journal.failure)

    # ------------------------------------------------------------ Reports: what workers say

    def take(self, slot: Slot, reports: list[Report]) -> None:
        """Take the reports of one read, in order."""
        slot.last_report_at = time.monotonic()
        for report in reports:
            match report:
                case Events():
                    if report.asks:
                        slot.asks[report.number] = report.asks
                    self.journal.append(
                        Append(
                            worker=slot.name,
                            incarnation=slot.incarnation,
                            number=report.number,
                            connections=report.connections,
                            kinds=report.kinds,
                            bodies=report.bodies,
                            created=report.created,
                            updates=report.updates,
                        )
                    )
                    if self.journal.queued_bytes > QUEUE_HIGH_BYTES and slot.channel is not None:
                        slot.channel.pause_reading()
                        self._links_paused = True
                case Sent() | SendFailed() | Called() | CallFailed() | OpenInvalid():
                    slot.answer(report.request, report)
                case Opened() | OpenFailed() | TerminateDone():
                    slot.answer(report.request, report, report.after)
                case Stats():
                    slot.stats = report
                    for update in report.updates:
                        self.directory.figures(update)
                case AskIds():
                    self._spawn(self._grant(slot))
                case Resent(number):
                    self._spawn(self._reconcile(slot, slot.incarnation, number))
                case Goodbye():
                    slot.goodbye = report
                case Hello():
                    log.warning("worker %s said hello twice", slot.name)
                case _:
                    assert_never(report)

    async def _grant(self, slot: Slot) -> None:
        first = await self.allot_ids(ID_BLOCK)
        if slot.linked:
            slot.command(GrantIds(first, ID_BLOCK))

    def _do_asks(self, slot: Slot, asks: list[AskCall | AskKill]) -> None:
        for ask in asks:
            match ask:
                case AskCall(worker, name, params):
                    self._ask_call(slot, worker, name, params)
                case AskKill(worker):
                    self._spawn(self._ask_kill(worker))
                case _:
                    assert_never(ask)

    def _ask_call(self, slot: Slot, worker: str, name: str, params: Any) -> None:
        target = self._supervisor.find(worker)
        reference = self.config.functions.get(name)
        if reference is not None and target is not None and target.state is WorkerState.RUNNING and target.linked:
            target.command(Call(0, name, reference, params))  # the common case keeps its order without a task
        else:
            self._spawn(self._ask_call_later(slot, worker, name, params))

    async def _ask_call_later(self, slot: Slot, worker: str, name: str, params: Any) -> None:
        try:
            await self.call_later(worker, name, params)
        except MooringError as exc:
            log.error("worker %s asked for %s in worker %s: %s", slot.name, name, worker, exc)
            event = CallbackErrorEvent(callback=name, exception=type(exc).__name__, message=str(exc), traceback="")
            body = worker_body(Kind.callbackError, slot.name, now_us(), event)
            self.journal.append(
                Append(worker=slot.name, connections=bytes(8), kinds=bytes((Kind.callbackError,)), bodies=body)
            )

    async def _ask_kill(self, worker: str) -> None:
        if self._supervisor.find(worker) is not None:  # KILL WORKER ignores unknown names, as 4D does
            await self._supervisor.kill(worker)

    async def save_incarnation(self, slot: Slot, *, ended: bool = False) -> None:
        """Keep who the process is."""
        await self.journal.save_incarnation(
            slot.incarnation, slot.name, msgspec.msgpack.encode(slot.record), ended=ended
        )

    async def worker_linked(self, slot: Slot, hello: Hello, *, fresh: bool) -> None:
        """Record that a process is Running; one that was adopted has been recorded before."""
        slot.held = {held.created.id for held in hello.connections}
        if fresh and not slot.announced:
            slot.announced = True
            event = WorkerStartedEvent(pid=hello.pid, incarnation=hello.incarnation, restarts=slot.restarts)
            body = worker_body(Kind.workerStarted, slot.name, now_us(), event)
            self.journal.append(
                Append(worker=slot.name, connections=bytes(8), kinds=bytes((Kind.workerStarted,)), bodies=body)
            )

    async def _reconcile(self, slot: Slot, incarnation: str, number: int) -> None:
        """After an adoption: what the directory holds as open, and the worker does not have, never reached it."""
        dispatched = self._dispatched.get(slot.name, set())
        if number > slot.stored:
            await self._store(Append())  # everything before it has been committed then
        if slot.incarnation != incarnation:
            return
        lost = [
            entry
            for entry in self.directory.live_of(slot.name)
            if entry.incarnation == incarnation
            and entry.created.id not in slot.held
            and entry.created.id not in dispatched
        ]
        if lost:
            await self._store(self._ends(lost, "the service stopped before it was dialled", ErrCode.SERVICE_STOPPED))

    async def worker_gone(self, slot: Slot, ended: Exit, reason: str, *, restarting: bool, asked: bool) -> int:
        """A process has ended: report what it could not, and that it has ended."""
        await self._store(Append())  # all that it had handed over is committed and folded then
        text = reason if asked else f"the worker died: {reason}"
        lost = [entry for entry in self.directory.live_of(slot.name) if entry.incarnation == slot.incarnation]
        append = self._ends(lost, text, ErrCode.WORKER_STOPPING if asked else ErrCode.WORKER_DIED)
        event = WorkerExitedEvent(
            pid=slot.record.pid,
            exit_code=ended.exit_code,
            signal=ended.signal,
            reason=reason,
            restarting=restarting,
        )
        body = worker_body(Kind.workerExited, slot.name, now_us(), event)
        await self._store(
            msgspec.structs.replace(
                append,
                worker=slot.name,
                connections=append.connections + bytes(8),
                kinds=append.kinds + bytes((Kind.workerExited,)),
                bodies=append.bodies + b"\n" + body if append.bodies else body,
            )
        )
        slot.announced = False
        return len(lost)

    def _ends(self, entries: list[Entry], reason: str, err_code: ErrCode) -> Append:
        """Return what ends `entries`: the onTerminates (and onErrors of dials) that their worker could not report."""
        ids: list[bytes] = []
        kinds: list[int] = []
        bodies: list[bytes] = []
        updates: list[ConnectionUpdate] = []
        time_us = now_us()
        for entry in entries:
            created, update = entry.created, entry.update
            seq = update.seq
            errors = update.errors

            def add(kind: Kind, event: msgspec.Struct, seq: int, created: ConnectionCreated = created) -> None:
                ids.append(created.id.to_bytes(8, "little", signed=True))
                kinds.append(kind)
                prefix = body_prefix(kind, created.id, created.worker)
                bodies.append(connection_body(prefix, seq, time_us, encode_event(event)))

            if update.status == STATUS_CONNECTING:
                errors = [ErrorEntry(err_code, reason)]
                seq += 1
                add(Kind.onError, ErrorEvent(errors=errors), seq)
            # Closed already, but its onTerminate was still in the worker's mailbox: the end is known.
            end = update.terminate or Terminated(ABNORMAL, reason, False)
            seq += 1
            add(Kind.onTerminate, TerminateEvent(code=end.code, reason=end.reason, was_clean=end.was_clean), seq)
            updates.append(
                msgspec.structs.replace(
                    update,
                    status=STATUS_CLOSED,
                    seq=seq,
                    errors=errors,
                    terminate=end,
                    closed_at_us=update.closed_at_us or time_us,
                    ended=True,
                )
            )
        worker = entries[0].created.worker if entries else ""
        return Append(
            worker=worker,
            connections=b"".join(ids),
            kinds=bytes(kinds),
            bodies=b"\n".join(bodies),
            updates=updates,
        )

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids for ever; return the first."""
        return await self.journal.allot_ids(count)

    async def _next_id(self) -> int:
        async with self._allotting:
            if not self._ids:
                await self._next_ids()
            return self._ids.pop()

    @property
    def next_connection(self) -> int:
        """The id that the next connection of a request gets; for the demo's greeting."""
        return self._ids[-1] if self._ids else 0

    async def _next_ids(self) -> None:
        first = await self.journal.allot_ids(ID_BLOCK)
        self._ids = list(range(first + ID_BLOCK - 1, first - 1, -1))

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
        if request.tls and not request.tls.verify and not self.config.egress.allow_insecure_tls:
            raise PolicyRefused("tls.verify false is refused: [egress] allow_insecure_tls is not set")
        limits = self.config.limits
        if self.directory.live_count + self._opening_count >= limits.max_connections:
            raise LimitReached("limits.max_connections", limits.max_connections)
        if self.directory.live_count_of(request.worker) >= limits.max_connections_per_worker:
            raise LimitReached("limits.max_connections_per_worker", limits.max_connections_per_worker)
        self._opening_count += 1
        try:
            slot = await self._supervisor.ensure(request.worker)
            if slot.draining:
                raise WorkerBusy(slot.name, "Draining")
            connection = await self._next_id()
            created = ConnectionCreated(
                connection,
                request.url,
                request.worker,
                None if request.handler is None else request.handler.name,
                request.data_type or "text",
                list(request.headers or ()),
                now_us(),
                not request.tls or request.tls.verify,
                request.send_timeout or DEFAULT_SEND_TIMEOUT_S,
                request.close_timeout or DEFAULT_CLOSE_TIMEOUT_S,
            )
            # The intent, before anything is started: a crash from here on still ends in an onTerminate.
            intent = Append(
                worker=slot.name,
                incarnation=slot.incarnation,
                created=[created],
                updates=[ConnectionUpdate(connection, STATUS_CONNECTING)],
                answers=[] if begun is None else [begun(connection)],
            )
            dispatched = self._dispatched.setdefault(slot.name, set())
            dispatched.add(connection)
            await self.journal.append_waiting(intent, fails_fast=True)
        finally:
            self._opening_count -= 1
        task = asyncio.get_running_loop().create_task(self._open(slot, request, created, reference, dispatched))
        self._openings.add(task)
        task.add_done_callback(self._opening_done)
        return Opening(connection, task)

    def _opening_done(self, task: asyncio.Task[ConnectionRecord]) -> None:
        self._openings.discard(task)
        if not task.cancelled():
            task.exception()  # whoever did not wait finds it in the record and the events

    async def _open(
        self,
        slot: Slot,
        request: ConnectionRequest,
        created: ConnectionCreated,
        reference: str | None,
        dispatched: set[int],
    ) -> ConnectionRecord:
        connection = created.id
        connect_timeout_s = request.connect_timeout or DEFAULT_CONNECT_TIMEOUT_S
        try:
            if not slot.linked:
                raise WorkerDied(slot.name, "it ended before the dial")
            number, future = slot.request()
            slot.command(Open(number, connection, request, reference, created.created_at_us))
            # The worker keeps connectTimeout itself; a handler's own setting may be longer than what we know of.
            answer = await slot.answered(number, future, connect_timeout_s + 30)
        except WorkerDied as exc:
            await self._ended(connection)
            raise OpenError(
                [ErrorEntry(ErrCode.WORKER_DIED, str(exc))], connection, timed_out=False, terminated=False, policy=False
            ) from exc
        finally:
            dispatched.discard(connection)
        match answer:
            case Opened():
                return self.directory.record(connection)
            case OpenFailed():
                raise OpenError(
                    answer.errors,
                    connection,
                    timed_out=answer.timed_out,
                    terminated=answer.terminated,
                    policy=answer.policy,
                )
            case OpenInvalid():
                text = "; ".join(error.detail for error in answer.errors)
                await self._store(self._ends([self.directory.entry(connection)], text, ErrCode.HANDLER_FAILED))
                if answer.limit:
                    raise LimitReached("limits.max_connections_per_worker", answer.limit)
                raise InvalidRequest(answer.errors)
            case _:
                raise AssertionError(f"a worker answered Open with {type(answer).__name__}")

    async def _ended(self, connection: int) -> None:
        """Wait (briefly) until the supervisor has reported the end of a connection whose worker has died."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and not self.directory.entry(connection).update.ended:
            await asyncio.sleep(0.01)

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

    async def send(self, connection: int, *, binary: bool, payloads: list[bytes], key: str | None = None) -> SentRecord:
        """Write messages to a connection's socket, in order.

        Raises:
            UnknownConnection, WrongState, ConnectionClosed: By the connection's state.
            SendError: If the peer is not reading.
            WorkerSilent, WorkerDied, Unavailable: If its worker does not answer.
        """
        entry = self.directory.entry(connection)
        status = entry.update.status
        if status != STATUS_CONNECTED:
            if status == STATUS_CLOSED:
                raise ConnectionClosed(connection)
            raise WrongState(connection, status)
        if self.journal.failure is not None:
            raise JournalUnavailable(self.journal.failure)
        slot = self._holder(entry)
        number, future = slot.request()
        slot.command(Send(number, connection, binary, payloads, key))
        answer = await slot.answered(number, future, entry.created.send_timeout_s + ANSWER_MARGIN_S)
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
            WorkerSilent, Unavailable: If its worker does not answer.
        """
        wrong = check_close(code, reason)
        if wrong:
            raise InvalidRequest(wrong)
        entry = self.directory.entry(connection)
        if entry.update.status == STATUS_CLOSED:
            return self.directory.record(connection)
        try:
            slot = self._holder(entry)
            number, future = slot.request()
            slot.command(Terminate(number, connection, code, reason))
            await slot.answered(number, future, entry.created.close_timeout_s + ANSWER_MARGIN_S)
        except WorkerDied:
            await self._ended(connection)
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
        if not slot.draining:
            slot.draining = True
            self._spawn(self._drain(slot))
        return self.worker(name)

    async def _drain(self, slot: Slot) -> None:
        while self.directory.live_count_of(slot.name):
            await asyncio.sleep(0.1)
        if self._supervisor.find(slot.name) is slot:
            await self._supervisor.kill(slot.name)
            await self._supervisor.ensure(slot.name)

    async def call(
        self, worker: str, function: str, params: dict[str, Any] | list[Any], *, key: str | None = None
    ) -> bytes:
        """Run a function in a worker's context; return its result as JSON.

        Raises:
            InvalidRequest: If the worker's name is not valid.
            UnknownFunction: If the function is not in the configuration.
            HandlerError: If it cannot be imported.
            CallError: If it raised.
            WorkerDied: If the process ended under it.
        """
        slot, reference = await self._callable(worker, function)
        number, future = slot.request()
        slot.command(Call(number, function, reference, params, key))
        answer = await slot.answered(number, future, self.config.supervisor.call_timeout)
        if isinstance(answer, Called):
            return answer.result
        assert isinstance(answer, CallFailed), "a worker answers Call with Called or CallFailed"
        if answer.discarded:
            raise WorkerBusy(worker, WorkerState.STOPPING.value)
        if answer.invalid:
            raise HandlerError(function, answer.message)
        raise CallError(answer.exception, answer.message, answer.traceback)

    async def call_later(self, worker: str, function: str, params: dict[str, Any] | list[Any]) -> None:
        """Have a function run in a worker's context; return once it is queued there.

        Raises:
            As `call`, but what the function raises becomes a ``callbackError`` of the worker.
        """
        slot, reference = await self._callable(worker, function)
        slot.command(Call(0, function, reference, params))

    async def _callable(self, worker: str, function: str) -> tuple[Slot, str]:
        self._check_name(worker)
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

    def follow(self, events: EventFilter, cursor: str | None, *, default: Literal["start", "now"]) -> Subscription:
        """Return the stream of the events that match, from `cursor` on.

        Raises:
            LimitReached: If there are too many subscribers.
        """
        return self.feed.subscribe(events, cursor, default)

    def follow_connection(self, connection: int, cursor: str | None, kinds: frozenset[int]) -> Subscription:
        """Return the stream of one connection; it ends after its last event.

        Raises:
            UnknownConnection: If it never existed or is no longer retained.
        """
        self.directory.entry(connection)
        events = EventFilter(connections=frozenset((connection,)), kinds=kinds)
        return self.feed.subscribe(
            events,
            cursor,
            "start",
            end_of=lambda: self.directory.end_of(connection) if connection in self.directory else 0,
        )


def _worker_settings(config: Config, app_dirs: list[str]) -> WorkerSettings:
    worker, egress = config.worker, config.egress
    return WorkerSettings(
        worker="",
        incarnation="",
        secret="",
        socket_path="",
        log_file="",
        exit_record="",
        app_dirs=app_dirs,
        functions=config.functions,
        handlers=config.handlers,
        orphan_time_s=worker.orphan_time,
        mailbox_items=worker.mailbox_items,
        mailbox_bytes=worker.mailbox_bytes,
        inbound_messages=worker.inbound_messages,
        inbound_bytes=worker.inbound_bytes,
        outbound_bytes=worker.outbound_bytes,
        outbox_bytes=worker.outbox_bytes,
        max_connections=config.limits.max_connections_per_worker,
        egress_allow=list(egress.allow),
        egress_deny=list(egress.deny),
        allow_insecure_tls=egress.allow_insecure_tls,
        log_max_bytes=worker.log_max_bytes,
        log_files=worker.log_files,
    )
