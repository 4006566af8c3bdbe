"""Opening a connection: its id, the stored intent, the dispatch, and the answer of the worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from mooring.background import outcome_of
from mooring.connection.asked import is_simple, opening_s, shown_of
from mooring.connection.secret_headers import secrets_of
from mooring.deadline import first_of
from mooring.errors import (
    ConnectError,
    ErrCode,
    ErrorEntry,
    InvalidRequest,
    LimitReached,
    WorkerBusy,
    WorkerDied,
    WorkerSilent,
    WorkerTooOld,
)
from mooring.events import now_us
from mooring.link.messages import PROTOCOL_VERSION, Open, Opened, OpenFailed, OpenInvalid, Terminate
from mooring.link.record import STATUS_CLOSED, STATUS_CONNECTING, ConnectionCreated, ConnectionUpdate
from mooring.name_errors import SecretNotAllowed
from mooring.options import ConnectionOptions, ConnectionRequest, effective, too_new
from mooring_service.admission import Admission
from mooring_service.directory import Directory
from mooring_service.endings import Endings
from mooring_service.journal.batch import Append, Claim
from mooring_service.journal.journal import Journal
from mooring_service.naming import Names
from mooring_service.processes.requests import LinkLost
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.supervisor import Supervisor
from mooring_service.processes.worker_state import WorkerState
from mooring_service.records import ConnectionRecord
from mooring_service.reopening import Reopenings
from mooring_service.reserved import ReservedIds

ENDED_S = 5.0  # after a death so long is waited for what is written of its connections
SILENT_S = 30.0  # beyond connectTimeout, which the worker keeps itself: for one that says nothing


SECRETS_VERSION = 6
"""A worker of an older version of the link would send ``${secret:…}`` as it stands."""


class OpenError(ConnectError):
    """A create that failed; the flags say which answer it deserves."""

    def __init__(
        self,
        errors: list[ErrorEntry],
        connection: int,
        *,
        timed_out: bool = False,
        terminated: bool = False,
        policy: bool = False,
        opening: bool = False,
    ) -> None:
        super().__init__(errors, connection)
        self.timed_out = timed_out
        self.terminated = terminated
        self.policy = policy
        self.opening = opening


def open_error(answer: OpenFailed, connection: int) -> OpenError:
    """Return what a worker has answered, as an error."""
    return OpenError(
        answer.errors,
        connection,
        timed_out=answer.timed_out,
        terminated=answer.terminated,
        policy=answer.policy,
        opening=answer.opening,
    )


def recorded_error(record: ConnectionRecord) -> OpenError:
    """Return what the record says of an open that has failed."""
    codes = {error.err_code for error in record.errors}
    return OpenError(
        record.errors,
        record.id,
        timed_out=ErrCode.CONNECT_TIMEOUT in codes,
        # One that was ended with its worker, too, however that had to be ended: somebody wanted it.
        terminated=not codes.isdisjoint((ErrCode.TERMINATED_WHILE_CONNECTING, ErrCode.WORKER_STOPPING)),
        policy=ErrCode.POLICY_REFUSED in codes,
        opening=ErrCode.OPENING_FAILED in codes,
    )


def invalid_error(answer: OpenInvalid) -> SecretNotAllowed | LimitReached | InvalidRequest:
    """Return why a worker has not begun, as an error."""
    if answer.secret:
        return SecretNotAllowed(answer.secret, answer.host)
    if answer.limit:
        return LimitReached("limits.max_connections_per_worker", answer.limit)
    return InvalidRequest(answer.errors)


def _check_takes(slot: Slot, request: ConnectionRequest, options: ConnectionOptions, admission: Admission) -> None:
    """Check that a worker takes something new, and knows all that it is asked for: it may be of an older program."""
    slot.check_room()
    if slot.draining:
        raise WorkerBusy(slot.name, "Draining")
    if slot.version >= PROTOCOL_VERSION:
        return
    unknown = too_new(admission.with_proxy(request), slot.version)
    if slot.version < SECRETS_VERSION:
        unknown += [f"${{secret:{name}}}" for name in secrets_of(options.headers)]
    if unknown:
        raise WorkerTooOld(slot.name, unknown)


def _dial_s(options: ConnectionOptions) -> float:
    """Return how long a first dial may take, its turn included."""
    turns = 2 if options.reconnect is not None and options.reconnect.first == "retry" else 1
    return options.connect_timeout_s * turns


class Opening(msgspec.Struct, frozen=True):
    """A dial under way: `done` ends with the record once Connected, or raises what went wrong. It is for one who waits, and may be cancelled."""

    connection: int
    done: asyncio.Future[ConnectionRecord]


class Openings:
    """The connections that are being opened."""

    def __init__(
        self,
        admission: Admission,
        journal: Journal,
        directory: Directory,
        endings: Endings,
        reopenings: Reopenings,
        names: Names,
        roster: Roster,
        supervisor: Supervisor,
    ) -> None:
        self._admission = admission
        self._journal = journal
        self._directory = directory
        self._endings = endings
        self._reopenings = reopenings
        self._names = names
        self._roster = roster
        self._supervisor = supervisor
        self._ids = ReservedIds(journal)
        self._under_way: Counter[str] = Counter()  # by worker: creates whose intent is not stored yet
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up what is being opened; the workers' answers are in the journal, or will be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ids.close()

    @property
    def next_connection(self) -> int:
        """The id that the next connection of a request gets; for the demo's greeting."""
        return self._ids.coming

    async def allot(self) -> None:
        """Reserve the next block of ids."""
        await self._ids.allot()

    async def open(
        self,
        request: ConnectionRequest,
        reference: str | None,
        begun: Callable[[int], tuple[str, bytes]] | None,
        *,
        declared: bool = False,
    ) -> Opening:
        """Begin a connection, under its name, if it has one: check, store the intent, dispatch. `declared`: the configuration has it.

        Args:
            reference: The handler's ``module:attribute``, if there is one.
            begun: Given the connection's id, the Idempotency-Key and the answer that are stored with the intent.

        Raises:
            InvalidRequest: If the handler asks for something that is not valid.
            NameTaken: If another connection has its name.
            PolicyRefused, SecretNotAllowed, LimitReached, WorkerBusy, WorkerTooOld, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        self._admission.check_way(request, declared=declared)
        worker = request.worker
        with self._names.taken(request.name or None):
            await self._admission.check_room(partial(self._check_limits, worker), worker, request.name or None)
            return await self._begin(request, reference, begun, declared)

    async def _begin(
        self,
        request: ConnectionRequest,
        reference: str | None,
        begun: Callable[[int], tuple[str, bytes]] | None,
        declared: bool,
    ) -> Opening:
        self._under_way[request.worker] += 1  # in the step in which there was room
        try:
            connection = await self._ids.next()
            options = effective(request)
            if request.name and self._admission.placing is not None:
                await self._taking(request, options)  # before: what a worker refuses must leave no name behind
                await self._admission.placing.hold_name(request.name)
            # The last wait before the intent is stored: what dies from here on reports this connection's end as well.
            slot = await self._taking(request, options)
            created = ConnectionCreated.of(
                connection,
                request.worker,
                None if request.handler is None else request.handler.name,
                now_us(),
                options,
                name=request.name or None,
                asked=shown_of(options),
                declared=declared,
                spec=request,
            )
            # The intent, before anything is started: a crash from here on still ends in an onTerminate.
            intent = Append(
                worker=slot.name, incarnation=slot.incarnation, created=[created],
                updates=[ConnectionUpdate(connection, STATUS_CONNECTING)],
                answers=[] if begun is None else [begun(connection)],
                claims=[Claim("name", request.name, connection)] if request.name and self._admission.placing else [],
            )  # fmt: skip
            slot.dispatched.add(connection)
            if request.name or not is_simple(request):  # a handler may ask for it to be kept
                self._reopenings.remember(connection, request)
            try:
                stored = self._journal.append_waiting(intent, fails_fast=True)
                self._journal.hurry()
                await stored
            except BaseException:
                slot.dispatched.discard(connection)
                self._reopenings.forget(connection)
                raise
        finally:
            self._under_way[request.worker] -= 1
            if not self._under_way[request.worker]:
                del self._under_way[request.worker]
        wait_s = opening_s(request, self._admission.known) + _dial_s(options) + SILENT_S
        order = Open(0, connection, request, reference, created.created_at_us, declared=declared)
        # At once, in the step that the commit has woken: all that it holds leaves in one write, ahead of what else there is to do.
        there = slot.welcomed and slot.process is not None and slot.incarnation == intent.incarnation
        answered = self._dispatch(slot, order, wait_s) if there else None
        done, task = outcome_of(partial(self._open, slot, intent.incarnation, order, wait_s, answered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Opening(connection, done)

    async def _taking(self, request: ConnectionRequest, options: ConnectionOptions) -> Slot:
        """Return the worker of a request: Running here, and able to take it."""
        async with self._admission.held(request.worker, self._roster.check_room):
            slot = await self._supervisor.ensure(request.worker)
        _check_takes(slot, request, options, self._admission)
        return slot

    def _check_limits(self, worker: str) -> None:
        limits = self._admission.config.limits
        if full_at := self._admission.full_at(self._directory.live_count + self._under_way.total()):
            raise LimitReached("limits.max_connections", full_at)
        if self._directory.live_count_of(worker) + self._under_way[worker] >= limits.max_connections_per_worker:
            raise LimitReached("limits.max_connections_per_worker", limits.max_connections_per_worker)
        self._roster.check_room(worker)

    def _dispatch(self, slot: Slot, order: Open, wait_s: float) -> asyncio.Future[Any]:
        """Have a process that is welcomed dial; return the future of its answer."""
        # From here on a hello knows of it, or it has not arrived.
        slot.dispatched.discard(order.connection)
        number, answered = slot.request(wait_s, with_link=True)
        slot.open(msgspec.structs.replace(order, request=number))
        return answered

    async def _open(
        self, slot: Slot, incarnation: str, order: Open, wait_s: float, answered: asyncio.Future[Any] | None
    ) -> ConnectionRecord:
        connection = order.connection
        try:
            answer = await self._answer(slot, incarnation, order, wait_s, answered)
        except WorkerDied as exc:
            if not await self._reopenings.until_ended_or_waiting(connection, ENDED_S):
                return self._directory.record(connection)  # it goes on trying, in the next process
            record, died = self._directory.record(connection), [ErrorEntry(ErrCode.WORKER_DIED, str(exc))]
            told = record.status == STATUS_CLOSED and record.errors
            raise (recorded_error(record) if told else OpenError(died, connection)) from exc
        except WorkerSilent as exc:
            answer = None
            if not await self._told_later(connection, wait_s):
                # Nobody waits any more: it must not open some day, when the worker's context comes to its handler.
                slot.command(Terminate(0, connection, None, "the worker did not come to it in time"))
                await self.wait_ended(connection)
                errors = self._directory.record(connection).errors or [ErrorEntry(ErrCode.CONNECT_TIMEOUT, str(exc))]
                raise OpenError(errors, connection, timed_out=True) from exc
        match answer:
            case None | Opened():
                return self._recorded(connection)
            case OpenFailed():
                raise open_error(answer, connection)
            case OpenInvalid():
                text = "; ".join(error.detail for error in answer.errors)
                killed = slot.state is WorkerState.STOPPING  # told before it was to dial
                await self._endings.write(
                    [self._directory.entry(connection)],
                    text,
                    ErrCode.WORKER_STOPPING if killed else ErrCode.HANDLER_FAILED,
                )
                raise WorkerBusy(slot.name, WorkerState.STOPPING.value) if killed else invalid_error(answer)
            case _:
                raise AssertionError(f"a worker answered Open with {type(answer).__name__}")

    async def _told_later(self, connection: int, waited_s: float) -> bool:
        """Wait on where the handler, which is known by now, lets the attempt take longer than the request; say whether it has ended."""
        more_s = self._directory.entry(connection).created.attempt_s + SILENT_S - waited_s
        return bool(await first_of((self._told(connection),), max(0.0, more_s)))

    def _told(self, connection: int) -> asyncio.Future[None]:
        """Wait for the record to tell how the first attempt has gone."""
        entry = self._directory.entry(connection)
        return self._directory.until(
            connection, lambda update: update.status != STATUS_CONNECTING or self._reopenings.waits(entry)
        )

    async def _answer(
        self, slot: Slot, incarnation: str, order: Open, wait_s: float, answered: asyncio.Future[Any] | None
    ) -> Any:
        """Have a process dial, and return its answer; None: its link was lost under that, and the record tells how it has gone.

        What the process turns out not to know of, once it has a link again, has not arrived (or was refused on the link that died):
        it is told again, once. `answered`: it was told already.

        Raises:
            WorkerDied: If the process has ended.
            WorkerSilent: If there is neither answer nor record in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        connection = order.connection
        for again in (False, True):
            if answered is None:
                if not slot.welcomed:  # its link was lost just now
                    await slot.until_welcomed(deadline - loop.time())
                slot.dispatched.discard(connection)
                if slot.process is None or slot.incarnation != incarnation:
                    raise WorkerDied(slot.name, "it ended before the dial")
                if not slot.welcomed:
                    break
                answered = self._dispatch(slot, order, deadline - loop.time())
            with contextlib.suppress(LinkLost):
                return await answered
            answered, unknown = None, loop.create_future()
            if not again:  # or it is the order that ends the link
                slot.untold[connection] = unknown
            told = self._told(connection)
            await first_of((unknown, told), deadline - loop.time())
            slot.untold.pop(connection, None)
            if told.done():
                return None
            if not unknown.done():
                break
        raise WorkerSilent(slot.name, "no answer in time")

    def _recorded(self, connection: int) -> ConnectionRecord:
        """Return the record of a connection that has opened, or goes on trying; else raise what went wrong, as the record has it."""
        record = self._directory.record(connection)
        if record.status != STATUS_CLOSED or record.opened_at is not None:
            created = self._directory.entry(connection).created
            if created.kept is None and created.name is None:
                self._reopenings.forget(connection)
            return record
        raise recorded_error(record)

    async def wait_ended(self, connection: int) -> None:
        """Wait (briefly) until the supervisor has reported the end of a connection whose worker has died."""
        await first_of((self._directory.until(connection, lambda update: update.ended),), ENDED_S)
