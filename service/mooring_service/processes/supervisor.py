"""Many workers: which of them are wanted, adopted, handed over. `lifecycle` knows what happens to each, and in which order."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import msgspec

from mooring.background import Background
from mooring.errors import Unavailable, WorkerBusy, WorkerDied
from mooring.link.messages import WorkerSettings
from mooring.process import identity
from mooring_service.config import SupervisorConfig
from mooring_service.journal.journal import Incarnation
from mooring_service.processes import orphans
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.execution import ForkerProcess
from mooring_service.processes.forker import Forker
from mooring_service.processes.lifecycle import Lifecycle
from mooring_service.processes.link_server import SOCKET_NAME, LinkServer
from mooring_service.processes.reception import Reception
from mooring_service.processes.reports import Reports
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import IncarnationRecord, Slot
from mooring_service.processes.starter import Starter
from mooring_service.processes.watch import ADOPT_S
from mooring_service.processes.worker_state import WorkerEvent, WorkerState
from mooring_service.records import Killed

log = logging.getLogger("mooring.supervisor")


class Supervisor:
    """The workers of one service, started, adopted and ended.

    Args:
        config: Deadlines and the restart budget.
        settings: What every worker is started with; name, identity and files are filled in for each.
        state_dir: Holds the link's socket, the workers' logs and exit records.
        roster: Where they are found; the supervisor fills it.
        reports: Who takes what workers report.
        begun: The forker's process, if there is one already: with `listen` it is ours.
    """

    def __init__(
        self,
        config: SupervisorConfig,
        settings: WorkerSettings,
        state_dir: Path,
        roster: Roster,
        reports: Reports,
        *,
        begun: ForkerProcess | None = None,
    ) -> None:
        self._config = config
        self._state_dir = state_dir
        self._roster = roster
        self._background = Background(log)
        self._stopping = False
        socket_path = state_dir / SOCKET_NAME
        self._forker = Forker(begun) if config.fork_workers else None
        self._starter = Starter(settings, state_dir, socket_path, reports, roster, self._forker)
        self._lifecycle = Lifecycle(config, self._starter, reports, roster)
        reception = Reception(reports, roster, self._background, lambda: self._starter.changeable)
        self._links = LinkServer(
            socket_path,
            find=roster.by_incarnation,
            on_hello=reception.hello,
            on_lost=reception.lost,
            on_refused=reports.worker_refused,
        )

    async def listen(self) -> None:
        """Listen for workers; until `adopt` they wait at the link, and know that there is a service."""
        for folder in ("logs", "exits"):
            (self._state_dir / folder).mkdir(mode=0o700, exist_ok=True)
        await self._links.listen()
        if self._forker is not None:
            self._forker.begin()

    def adopt(self, incarnations: list[Incarnation]) -> None:
        """Go on with the workers that an earlier service left: running ones, all at once; and those without a process.

        Args:
            incarnations: Processes that have not ended, as far as the journal knows, and ended ones whose worker stands.
        """
        running = [stored for stored in incarnations if not stored.ended]
        adopted = [self._slot_of(stored) for stored in running]
        self._roster.begin_adoption(adopted)
        for slot in adopted:
            self._run(slot, adopted=True)
        names = {stored.worker for stored in running}
        for stored in incarnations:
            if stored.ended and stored.worker not in names:
                self._stand(self._slot_of(stored))
        if self._forker is not None:
            # Not before: an adopted worker that has ended is a child of ours, and only its slot may ask how.
            self._background.spawn(orphans.bury(), name="orphans")
        self._links.begin()

    def _slot_of(self, stored: Incarnation) -> Slot:
        """Return a slot for a process that an earlier service has started."""
        slot = self._make_slot(stored.worker)
        self._roster.begin_process(slot, stored.incarnation)
        _recall(slot, stored)
        return slot

    def _stand(self, slot: Slot) -> None:
        """Go on with a worker whose process has died: it is to be started again, or has failed."""
        self._roster.end_process(slot)
        slot.stands = True
        slot.draining = False  # it is renewed by that
        slot.set_state(WorkerEvent.START)
        due = slot.record.restart_at
        if due is None:
            slot.set_state(WorkerEvent.GIVEN_UP)
            slot.gone.set()
            return
        slot.set_state(WorkerEvent.DIED)
        slot.restarts += 1
        slot.renew_ready()
        delay = max(0.0, due - time.monotonic()) if slot.record.boot_id == identity.boot_id() else 0.0
        slot.task = self._background.spawn(self._lifecycle.run(slot, delay=delay), name=f"worker {slot.name}")

    async def stop(self, reason: str) -> None:
        """End all workers, in parallel, each under the deadlines of `kill`. May be cancelled once they are all gone."""
        self._stopping = True
        if self._roster.adopting:
            # They hold events of the time without a service, and can hand them over only once they are linked.
            await asyncio.wait({self._roster.slot(name).ready for name in self._roster.adopting}, timeout=ADOPT_S)
        self._links.stopping = True
        try:
            await asyncio.gather(*(self._lifecycle.end(slot, reason, persist=True) for slot in self._roster.slots()))
        finally:
            await self._background.close()
            await self._end_forker()
            await self._links.close()

    async def hand_over(self) -> None:
        """Leave the workers running for the next service."""
        self._stopping = self._links.stopping = True
        await self._background.close()
        for slot in self._roster.slots():
            if slot.process is not None:
                slot.process.let_go()
        await self._end_forker()
        await self._links.close()

    async def _end_forker(self) -> None:
        if self._forker is not None:
            await self._forker.close()

    def reconfigure(self, settings: WorkerSettings) -> None:
        """Use `settings` for workers from now on, and tell the running ones what may change under them."""
        self._starter.settings = settings
        for slot in self._roster.slots():
            slot.command(self._starter.changeable)

    async def ensure(self, name: str) -> Slot:
        """Return the Running worker `name`; it is created by first use.

        Raises:
            WorkerBusy: If it is being killed, or Failed.
            WorkerDied: If it cannot be started.
            Unavailable: If the service is stopping, or the worker is still being adopted.
            LimitReached: If there are too many workers.
        """
        slot = self._roster.find(name)
        if slot is not None and slot.state is WorkerState.RUNNING and slot.linked:
            return slot
        if self._stopping:
            raise Unavailable("the service is stopping")
        if slot is None:
            self._roster.check_room(name)
            slot = self._make_slot(name)
            self._run(slot)
        elif slot.state in (WorkerState.FAILED, WorkerState.STOPPING):
            raise WorkerBusy(name, slot.state.value)
        elif name in self._roster.adopting:
            raise Unavailable(f"worker {name!r} is being adopted")
        await self._until_ready(slot)
        return slot

    async def start_worker(self, name: str) -> bool:
        """Have worker `name` Running; a Failed one is restarted. Returns True when it did not exist.

        Raises:
            As `ensure`.
        """
        slot = self._roster.find(name)
        if slot is None:
            await self.ensure(name)
            return True
        if slot.state is WorkerState.FAILED:
            slot.budget.reset()
            slot.reason = None
            self._run(slot)
        await self.ensure(name)
        return False

    async def kill(self, name: str) -> Killed:
        """End worker `name` for good.

        Raises:
            UnknownWorker: If there is none.
        """
        slot = self._roster.slot(name)
        slot.drains = False
        return await self._lifecycle.end(slot, "killed")

    async def end_all(self, reason: str) -> None:
        """End all workers for good, in parallel; the service goes on."""
        while slots := self._roster.slots():
            await asyncio.gather(*(self._lifecycle.end(slot, reason) for slot in slots))

    def stand_failed(self, name: str, reason: str) -> None:
        """Have a worker Failed that has no process here: a person is to start it."""
        if self._roster.find(name) is None:
            slot = self._make_slot(name)
            slot.reason = reason
            slot.set_state(WorkerEvent.START)
            slot.set_state(WorkerEvent.GIVEN_UP)

    async def renew(self, name: str) -> None:
        """End the process of worker `name` and start another one, which goes on with its kept connections.

        Raises:
            UnknownWorker: If there is none.
            WorkerBusy, WorkerDied, Unavailable: As `ensure`.
        """
        slot = self._roster.slot(name)
        slot.drains = True
        await self._lifecycle.end(slot, "drained")
        if slot.drains:  # nobody has killed it meanwhile
            await self.ensure(name)

    def begin_kill(self, slot: Slot) -> None:
        """Tell a worker to end: from here on what is asked of its name waits for a new process."""
        slot.drains = False
        self._lifecycle.begin_end(slot, "killed")

    async def wait_gone(self, name: str) -> None:
        """Wait until a worker that is being killed, or renewed, has ended; at once if it is not."""
        slot = self._roster.find(name)
        if slot is not None and slot.renewal is not None:
            await asyncio.wait({slot.renewal})
            slot = self._roster.find(name)
        if slot is not None and slot.state is WorkerState.STOPPING:
            await slot.gone.wait()

    async def wait_adopted(self, name: str) -> None:
        """Wait until the adoption of a worker has ended, well or not; at once if there is none."""
        while name in self._roster.adopting:
            await asyncio.wait({self._roster.slot(name).ready})

    def _make_slot(self, name: str) -> Slot:
        slot = Slot(name, _budget(self._config))
        self._roster.add(slot)
        return slot

    def _run(self, slot: Slot, *, adopted: bool = False) -> None:
        slot.set_state(WorkerEvent.START)
        slot.renew_ready()
        slot.task = self._background.spawn(self._lifecycle.run(slot, adopted=adopted), name=f"worker {slot.name}")

    async def _until_ready(self, slot: Slot) -> None:
        while True:
            try:
                await asyncio.shield(slot.ready)
            except WorkerDied:
                if slot.state is WorkerState.FAILED:
                    raise
            if slot.state is WorkerState.RUNNING and slot.linked:
                return
            if slot.state in (WorkerState.STOPPING, WorkerState.STOPPED):
                raise WorkerBusy(slot.name, WorkerState.STOPPING.value)
            await asyncio.sleep(0)  # it is being restarted: the next start has a future of its own


def _budget(config: SupervisorConfig) -> RestartBudget:
    return RestartBudget(config.restart_budget, config.restart_window, config.restart_delay, config.restart_delay_max)


def _recall(slot: Slot, stored: Incarnation) -> None:
    """Take what the journal knows of the process of a slot."""
    record = slot.record = msgspec.msgpack.decode(stored.record, type=IncarnationRecord)
    slot.stored = stored.stored
    slot.restarts = record.restarts
    slot.reason = record.reason
    slot.draining = record.draining
    if record.boot_id == identity.boot_id():  # else its times are of a clock that is no more
        slot.budget.deaths.extend(record.deaths)
