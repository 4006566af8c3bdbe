"""The verbs of workers: look, start, end, drain, call."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from mooring.background import Background
from mooring.checks import check_worker_name
from mooring.errors import (
    CallError,
    HandlerError,
    InvalidRequest,
    MooringError,
    Unavailable,
    WorkerBusy,
    WorkerError,
)
from mooring.link.messages import Call, Called, CallFailed, Probe, Stats
from mooring.parameters import check_params
from mooring_service.admission import Admission, check_name
from mooring_service.directory import Directory
from mooring_service.processes.reports import Reports
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import COUNTS_CALLS_SINCE, Slot, worker_record
from mooring_service.processes.supervisor import Supervisor
from mooring_service.processes.worker_state import WorkerState
from mooring_service.records import Killed, WorkerRecord

IDLE_POLL_S = 0.1
IDLE_TIMEOUT_S = 5.0

log = logging.getLogger("mooring.service")


class Workers:
    """What can be done with workers."""

    def __init__(
        self,
        admission: Admission,
        directory: Directory,
        roster: Roster,
        supervisor: Supervisor,
        reports: Reports,
        background: Background,
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._roster = roster
        self._supervisor = supervisor
        self._reports = reports
        self._background = background

    def records(self) -> list[WorkerRecord]:
        """Return all workers, by name."""
        return [self._record(slot) for slot in self._roster.slots()]

    def record(self, name: str) -> WorkerRecord:
        """Return one worker.

        Raises:
            UnknownWorker: If there is none.
        """
        return self._record(self._roster.slot(name))

    def _record(self, slot: Slot) -> WorkerRecord:
        record = worker_record(slot, self._directory.live_count_of(slot.name))
        placing = self._admission.placing
        return record if placing is None else msgspec.structs.replace(record, node=placing.node)

    def slots(self) -> list[Slot]:
        """Return all workers as the supervisor sees them, by name; for metrics."""
        return self._roster.slots()

    @property
    def adoption_s(self) -> float | None:
        """How long the adoption of running workers took; None while it is under way."""
        return self._roster.adoption_s

    def has(self, name: str) -> bool:
        """Say whether there is a worker of that name."""
        return self._roster.find(name) is not None

    async def start(self, name: str, node: str | None = None) -> tuple[WorkerRecord, bool]:
        """Have a worker Running, in a cluster at `node`; True when it was created.

        Raises:
            InvalidRequest: If the name is not a worker's name, or there is no such node.
            Elsewhere: If another node has it, or is asked for.
            LimitReached, WorkerBusy, WorkerDied, Unavailable, JournalUnavailable: As they say.
        """
        check_name(name)
        self._admission.locate(name, node)
        self._admission.check()
        slot = self._roster.find(name)
        anew = slot is not None and slot.state is WorkerState.FAILED
        async with self._admission.held(name, self._roster.check_room, anew=anew):
            created = await self._supervisor.start_worker(name)
        return self.record(name), created

    async def kill(self, name: str) -> Killed:
        """End a worker for good.

        Raises:
            UnknownWorker: If there is none.
        """
        killed = await self._supervisor.kill(name)
        if self._admission.placing is not None and not self.has(name):
            await asyncio.shield(self._admission.placing.release(name))
        return killed

    async def drain(self, name: str) -> WorkerRecord:
        """Take no new connections; once the last one has ended, and what was asked of it has run, restart the process.

        What is asked of its name from then on waits for the new process, with the code of today.
        """
        slot = self._roster.slot(name)
        if slot.process is not None:  # the next service goes on with it
            slot.record = msgspec.structs.replace(slot.record, draining=True)
            await self._reports.save_incarnation(slot)
        if not slot.draining:
            slot.draining = True
            self._background.spawn(self._end_drained(slot))
        return self._record(slot)

    def go_on_draining(self) -> None:
        """Go on with what an earlier service was draining."""
        for slot in self._roster.slots():
            if slot.draining:
                self._background.spawn(self._end_drained(slot))

    async def _end_drained(self, slot: Slot) -> None:
        # Those that are kept wait for the others: they are down for one start of a process, not for the length of the drain.
        while entry := next((one for one in self._directory.live_of(slot.name) if one.created.kept is None), None):
            await asyncio.wait({self._directory.until(entry.created.id, lambda update: update.ended)})
        if not self._drains(slot):
            return
        renewal = slot.renewal = asyncio.get_running_loop().create_future()
        try:
            await self._until_idle(slot)
            if self._drains(slot):
                await self._supervisor.renew(slot.name)
        except MooringError as exc:
            log.warning("worker %s was drained, and not started again: %s", slot.name, exc, extra=slot.tags)
        finally:
            slot.renewal = None
            renewal.set_result(None)

    def _drains(self, slot: Slot) -> bool:
        """Say whether it is still to be renewed: one that has died meanwhile was renewed by that, and one that is killed is gone, or about to."""
        return self._roster.find(slot.name) is slot and slot.draining and slot.state is not WorkerState.STOPPING

    async def _until_idle(self, slot: Slot) -> None:
        """Wait until what was asked of the worker has run; no longer than a call may take."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._admission.config.supervisor.call_timeout
        while self._drains(slot) and loop.time() < deadline and not await self._is_idle(slot):
            await asyncio.sleep(IDLE_POLL_S)  # there is no event for "nothing happens"

    async def _is_idle(self, slot: Slot) -> bool:
        if slot.process is None:
            return True
        if not slot.linked or slot.handed:
            return False
        # Behind all that was asked of it before: what is in the answer has come after that.
        number, future = slot.request(IDLE_TIMEOUT_S)
        slot.command(Probe(number))
        try:
            stats: Stats = await future
        except WorkerError:
            return False
        if slot.version < COUNTS_CALLS_SINCE:
            return not stats.mailbox and stats.running is None
        return not stats.calls

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
            Unavailable: If its mailbox is full, or it does not even read what it is asked for.
        """
        slot, reference = await self._callable(worker, function, params)
        number, future = slot.request(self._admission.config.supervisor.call_timeout)
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
        reference = self._admission.function(function)
        self._admission.check()
        # 4D: a call to a name that is being killed starts a new process once the old one has ended.
        await self._supervisor.wait_gone(worker)
        async with self._admission.held(worker, self._roster.check_room):
            slot = await self._supervisor.ensure(worker)
        slot.check_room()
        return slot, reference
