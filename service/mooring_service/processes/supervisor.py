"""Many workers: adopt, start, watch, back off, stop. It knows when; `worker_process.py` knows how.

One task per worker lives as long as its slot does (`_keep`); it waits on events (linked, exited, told to stop, a
deadline), it never polls; `watch.py` is the part of it that goes on while a process lives. Reports that concern
requests or the journal go to the `Reports` it was given.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Protocol

import msgspec

from mooring.background import Background
from mooring.errors import (
    JournalUnavailable,
    LimitReached,
    MooringError,
    Unavailable,
    UnknownWorker,
    WorkerBusy,
    WorkerDied,
)
from mooring.events import now_us
from mooring.link.channel import Channel
from mooring.link.messages import (
    PROTOCOL_VERSION,
    Hello,
    Reconfigure,
    Report,
    Welcome,
    WorkerSettings,
)
from mooring_service.config import SupervisorConfig
from mooring_service.journal.journal import Incarnation
from mooring_service.processes import worker_process
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.link_server import LinkServer
from mooring_service.processes.slot import IncarnationRecord, Slot
from mooring_service.processes.watch import watch
from mooring_service.processes.worker_process import Exit, ProcessIdentity
from mooring_service.processes.worker_state import WorkerEvent, WorkerState
from mooring_service.records import Killed

DRAIN_LINK_S = 2.0  # after a death: what is still in the socket is read for so long at most
ADOPT_S = 2.0  # where something must wait for workers that are being adopted: they dial at least twice a second
WRITE_RETRY_S = 1.0  # a restart that the journal cannot write down is tried again so often
ID_BLOCK = 256

log = logging.getLogger("mooring.supervisor")


class Reports(Protocol):
    """Who takes what workers report: the service."""

    def take(self, slot: Slot, reports: list[Report]) -> None:
        """Take the reports of one read, in order. Never `Hello`."""

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids; return the first."""

    async def save_incarnation(self, slot: Slot, *, ended: bool = False) -> None:
        """Keep who the process is."""

    async def worker_linked(self, slot: Slot, hello: Hello, *, fresh: bool) -> None:
        """A process has said hello; it is welcomed next."""

    async def worker_gone(self, slot: Slot, ended: Exit, reason: str, *, restarting: bool, asked: bool) -> int:
        """A process has ended: report what it could not, and mark it as ended, all at once.

        Returns how many connections ended with it.
        """


class Supervisor:
    """All workers of one service.

    Args:
        config: Deadlines and the restart budget.
        settings: What every worker is started with; name, identity and files are filled in here.
        state_dir: Holds the link's socket, the workers' logs and exit records.
        max_workers: One more is refused; adopted ones always find a place.
    """

    def __init__(
        self, config: SupervisorConfig, settings: WorkerSettings, state_dir: Path, reports: Reports, *, max_workers: int
    ) -> None:
        self._config = config
        self._settings = settings
        self._state_dir = state_dir
        self._reports = reports
        self.max_workers = max_workers
        self._slots: dict[str, Slot] = {}
        self._by_incarnation: dict[str, Slot] = {}
        self._background = Background(log)
        self._stopping = False
        self._adoption_begin = time.monotonic()
        self._links = LinkServer(
            state_dir / "link.sock", find=self.by_incarnation, on_hello=self._on_hello, on_lost=self._on_link_lost
        )
        self.adopting: set[str] = set()
        self.adoption_s: float | None = None

    # ------------------------------------------------------------ looking

    def slot(self, name: str) -> Slot:
        """Return the slot of worker `name`.

        Raises:
            UnknownWorker: If there is none.
        """
        try:
            return self._slots[name]
        except KeyError:
            raise UnknownWorker(name) from None

    def find(self, name: str) -> Slot | None:
        """Return the slot of worker `name`, or None."""
        return self._slots.get(name)

    def slots(self) -> list[Slot]:
        """Return all workers, by name."""
        return [self._slots[name] for name in sorted(self._slots)]

    def by_incarnation(self, incarnation: str) -> Slot | None:
        """Return the worker whose process is `incarnation`."""
        return self._by_incarnation.get(incarnation)

    # ------------------------------------------------------------ start and stop

    async def start(self, incarnations: list[Incarnation]) -> None:
        """Listen for workers, and adopt those that an earlier service left running, all at once."""
        for folder in ("logs", "exits"):
            (self._state_dir / folder).mkdir(mode=0o700, exist_ok=True)
        await self._links.start()
        self._adoption_begin = time.monotonic()
        for stored in incarnations:
            self._adopt(stored)
        if not self.adopting:
            self.adoption_s = 0.0

    def _adopt(self, stored: Incarnation) -> None:
        slot = self._make_slot(stored.worker)
        slot.incarnation = stored.incarnation
        slot.record = msgspec.msgpack.decode(stored.record, type=IncarnationRecord)
        slot.stored = stored.stored
        slot.restarts = slot.record.restarts
        slot.draining = slot.record.draining
        slot.set_state(WorkerEvent.START)
        slot.gone.clear()
        self._by_incarnation[slot.incarnation] = slot
        self.adopting.add(slot.name)
        self._run(slot, self._keep(slot, adopted=True))

    @property
    def all_gone(self) -> bool:
        """True when no worker process is left, whether or not its end has been written down."""
        return all(slot.process is None for slot in self._slots.values())

    async def stop(self, reason: str) -> None:
        """End all workers, in parallel, each under the deadlines of `kill`. May be cancelled once they are `all_gone`."""
        self._stopping = True
        if self.adopting:
            # They hold events of the time without a service, and can hand them over only once they are linked.
            await asyncio.wait({self._slots[name].ready for name in self.adopting}, timeout=ADOPT_S)
        self._links.stopping = True
        try:
            await asyncio.gather(*(self._end(slot, reason) for slot in self.slots()))
        finally:
            await self._background.close()
            await self._links.close()

    async def hand_over(self) -> None:
        """Leave the workers running for the next service."""
        self._stopping = self._links.stopping = True
        await self._background.close()
        for slot in self._slots.values():
            if slot.process is not None:
                slot.process.let_go()
        await self._links.close()

    def reconfigure(self, settings: WorkerSettings, max_workers: int) -> None:
        """Use `settings` for workers from now on, and tell the running ones what may change under them."""
        self._settings = settings
        self.max_workers = max_workers
        for slot in self.slots():
            slot.command(self._reconfigure())

    def _reconfigure(self) -> Reconfigure:
        settings = self._settings
        return Reconfigure(
            settings.egress_allow, settings.egress_deny, settings.allow_insecure_tls, settings.max_connections
        )

    # ------------------------------------------------------------ verbs

    async def ensure(self, name: str) -> Slot:
        """Return the Running worker `name`; it is created by first use.

        Raises:
            WorkerBusy: If it is being killed, or Failed.
            WorkerDied: If it cannot be started.
            Unavailable: If the service is stopping, or the worker is still being adopted.
            LimitReached: If there are too many workers.
        """
        slot = self._slots.get(name)
        if slot is not None and slot.state is WorkerState.RUNNING and slot.linked:
            return slot
        if self._stopping:
            raise Unavailable("the service is stopping")
        if slot is None:
            if len(self._slots) >= self.max_workers:
                raise LimitReached("limits.max_workers", self.max_workers)
            slot = self._create(name)
        elif slot.state in (WorkerState.FAILED, WorkerState.STOPPING):
            raise WorkerBusy(name, slot.state.value)
        elif name in self.adopting:
            raise Unavailable(f"worker {name!r} is being adopted")
        await self._until_ready(slot)
        return slot

    async def start_worker(self, name: str) -> bool:
        """Have worker `name` Running; a Failed one is restarted. Returns True when it did not exist.

        Raises:
            As `ensure`.
        """
        slot = self._slots.get(name)
        if slot is None:
            await self.ensure(name)
            return True
        if slot.state is WorkerState.FAILED:
            slot.budget.reset()
            slot.reason = None
            slot.set_state(WorkerEvent.START)
            self._run(slot, self._keep(slot))
        await self.ensure(name)
        return False

    async def kill(self, name: str) -> Killed:
        """End worker `name` for good.

        Raises:
            UnknownWorker: If there is none.
        """
        slot = self.slot(name)
        self.begin_kill(slot)
        return await self._end(slot, "killed")

    def begin_kill(self, slot: Slot, reason: str = "killed") -> None:
        """Tell a worker to end: from here on what is asked of its name waits for a new process."""
        if slot.state not in (WorkerState.STOPPING, WorkerState.FAILED):
            slot.set_state(WorkerEvent.STOP)
            slot.stop_reason = reason
            slot.stop_wanted.set()

    async def wait_gone(self, name: str) -> None:
        """Wait until a worker that is being killed has ended; at once if it is not."""
        slot = self._slots.get(name)
        if slot is not None and slot.state is WorkerState.STOPPING:
            await slot.gone.wait()

    def _make_slot(self, name: str) -> Slot:
        config = self._config
        budget = RestartBudget(
            config.restart_budget, config.restart_window, config.restart_delay, config.restart_delay_max
        )
        slot = Slot(name, budget)
        self._slots[name] = slot
        return slot

    def _create(self, name: str) -> Slot:
        slot = self._make_slot(name)
        slot.set_state(WorkerEvent.START)
        self._run(slot, self._keep(slot))
        return slot

    def _run(self, slot: Slot, coroutine: Coroutine[None, None, None]) -> None:
        slot.renew_ready()
        slot.task = self._background.spawn(coroutine, name=f"worker {slot.name}")

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

    async def _end(self, slot: Slot, reason: str) -> Killed:
        if slot.state is WorkerState.FAILED:
            slot.set_state(WorkerEvent.STOP)
            slot.set_state(WorkerEvent.ENDED)
            self._forget(slot)
            return Killed(0, 0)
        self.begin_kill(slot, reason)
        if slot.task is not None:
            await asyncio.wait({slot.task})
        goodbye = slot.goodbye
        if goodbye is not None:
            return Killed(goodbye.discarded, goodbye.closed)
        return Killed(slot.stats.mailbox, slot.closed_hard)

    def _forget(self, slot: Slot) -> None:
        self._by_incarnation.pop(slot.incarnation, None)
        if self._slots.get(slot.name) is slot:
            del self._slots[slot.name]
        slot.gone.set()

    # ------------------------------------------------------------ one worker's life

    async def _keep(self, slot: Slot, *, adopted: bool = False) -> None:
        """Start, watch and restart one worker until it is told to stop, or has failed for good."""
        again = False
        while adopted or not slot.stop_wanted.is_set():
            delay = None
            if adopted:
                if slot.record.pid == 0:
                    # Its service died before it had written down the pid: if it lives, its hello says who it is.
                    await asyncio.wait({slot.ready}, timeout=ADOPT_S)
                who = slot.record
                slot.process = worker_process.adopt(ProcessIdentity(who.pid, who.started_at_ticks, who.boot_id))
            failure = None if adopted else await self._spawn(slot)
            if failure is not None:
                delay = self._not_started(slot, failure, again=again)
            else:
                reason = await watch(slot, self._config)
                delay = await self._take_leave(slot, reason)
            if delay is None:
                return
            adopted, again = False, True
            stop = asyncio.create_task(slot.stop_wanted.wait())
            await asyncio.wait({stop}, timeout=delay)
            stop.cancel()
            if not slot.stop_wanted.is_set():
                slot.set_state(WorkerEvent.START)
        self._ended(slot)

    def _ended(self, slot: Slot) -> None:
        """`slot` has ended as told."""
        slot.set_state(WorkerEvent.ENDED)
        slot.fail_ready(WorkerDied(slot.name, "killed"))
        self._forget(slot)

    def _not_started(self, slot: Slot, failure: OSError | MooringError, *, again: bool) -> float | None:
        """Take that no process could be started; return the delay before the next attempt, None when there is none."""
        log.error("worker %s cannot be started: %s", slot.name, failure, extra=slot.tags)
        slot.reason = str(failure)
        self._by_incarnation.pop(slot.incarnation, None)
        unwritable = failure if isinstance(failure, JournalUnavailable) else None
        slot.fail_ready(unwritable or WorkerDied(slot.name, f"cannot be started: {failure}"))
        if unwritable and not again:
            self.begin_kill(slot)  # nothing was started: the next use of the name may try anew
        if slot.state is WorkerState.STOPPING:
            self._ended(slot)
            return None
        delay = slot.budget.died(time.monotonic(), random.random()) if again and not unwritable else None
        if unwritable:
            delay = WRITE_RETRY_S  # no fault of the worker's: it costs nothing of its budget
        if delay is None:
            slot.set_state(WorkerEvent.GIVEN_UP)
            slot.gone.set()
            return None
        slot.set_state(WorkerEvent.DIED)
        slot.renew_ready()
        return delay

    async def _spawn(self, slot: Slot) -> OSError | MooringError | None:
        """Start a process; return why there is none."""
        slot.incarnation = secrets.token_hex(8)
        slot.stored = 0
        slot.draining = False
        slot.goodbye = None
        slot.asks.clear()
        slot.gone.clear()
        slot.stats = type(slot.stats)()
        self._by_incarnation[slot.incarnation] = slot
        slot.record = IncarnationRecord(
            secret=secrets.token_hex(32),
            started_at_us=now_us(),
            restarts=slot.restarts,
            exit_record=str(self._state_dir / "exits" / f"{slot.incarnation}.json"),
        )
        # Before the process exists: a service that dies right here leaves a worker that its successor knows.
        try:
            await self._reports.save_incarnation(slot)
        except MooringError as exc:
            return exc
        settings = msgspec.structs.replace(
            self._settings,
            worker=slot.name,
            incarnation=slot.incarnation,
            secret=slot.record.secret,
            socket_path=str(self._links.path),
            log_file=str(self.log_file(slot.name)),
            exit_record=slot.record.exit_record,
            restarts=slot.restarts,
        )
        try:
            slot.process = worker_process.start(settings)
        except OSError as exc:
            await self._reports.save_incarnation(slot, ended=True)
            return exc
        who = slot.process.identity
        slot.record = msgspec.structs.replace(
            slot.record, pid=who.pid, started_at_ticks=who.started_at_ticks, boot_id=who.boot_id
        )
        try:
            await self._reports.save_incarnation(slot)
        except MooringError as exc:
            slot.process.send_signal(signal.SIGKILL)  # it holds nothing yet, and no successor of ours could find it
            await slot.process.exited.wait()
            slot.process_gone()
            await self._reports.save_incarnation(slot, ended=True)
            return exc
        return None

    def log_file(self, name: str) -> Path:
        """Return the path of a worker's log."""
        return self._state_dir / "logs" / f"{name}.log"

    async def _take_leave(self, slot: Slot, reason: str) -> float | None:
        """Report a death; return the delay before the restart, or None when there is none."""
        self.adopted(slot)
        try:
            # What the process wrote before it died is still in the socket.
            await asyncio.wait_for(slot.unlinked.wait(), DRAIN_LINK_S)
        except TimeoutError:
            if slot.channel is not None:
                slot.channel.abort()
        ended = slot.process.exit if slot.process is not None and slot.process.exit is not None else Exit(None, None)
        record = worker_process.take_exit_record(slot.record.exit_record)
        # What the process wrote down itself is the truth, unless a signal ended it first.
        text = record.reason if record is not None and ended.signal is None else reason or ended.text
        slot.fail_requests(text)
        asked = slot.state is WorkerState.STOPPING
        delay = None
        if not asked:
            delay = slot.budget.died(time.monotonic(), random.random())
            slot.reason = text
        slot.process_gone()
        slot.closed_hard = await self._reports.worker_gone(
            slot, ended, slot.stop_reason if asked else text, restarting=delay is not None, asked=asked
        )
        self._by_incarnation.pop(slot.incarnation, None)
        if slot.state is WorkerState.STOPPING:  # not `asked`: it may have been told to end after it had died
            self._ended(slot)
            return None
        slot.fail_ready(WorkerDied(slot.name, text))
        if delay is None:
            log.error("worker %s is Failed: %s, and the restart budget is used up", slot.name, text, extra=slot.tags)
            slot.set_state(WorkerEvent.GIVEN_UP)
            slot.gone.set()
            return None
        log.warning("worker %s has died: %s; restart in %.2f s", slot.name, text, delay, extra=slot.tags)
        slot.restarts += 1
        slot.set_state(WorkerEvent.DIED)
        slot.renew_ready()
        return delay

    def adopted(self, slot: Slot) -> None:
        """The adoption of `slot` has ended, well or not."""
        if slot.name in self.adopting:
            self.adopting.discard(slot.name)
            if not self.adopting:
                self.adoption_s = time.monotonic() - self._adoption_begin

    # ------------------------------------------------------------ the link

    def _on_hello(self, slot: Slot, channel: Channel[Report], hello: Hello) -> None:
        slot.version = hello.version
        channel.on_messages = lambda _, reports: self._reports.take(slot, reports)
        self._background.spawn(self._welcome(slot, channel, hello), name=f"welcome {slot.name}")

    async def _welcome(self, slot: Slot, channel: Channel[Report], hello: Hello) -> None:
        fresh = slot.record.pid == 0 or slot.name not in self.adopting
        try:
            if slot.record.pid == 0:
                slot.record = msgspec.structs.replace(
                    slot.record, pid=hello.pid, started_at_ticks=hello.started_at_ticks, boot_id=hello.boot_id
                )
                await self._reports.save_incarnation(slot)
            first = await self._reports.allot_ids(ID_BLOCK)
        except MooringError as exc:
            log.warning("worker %s cannot be welcomed now: %s", slot.name, exc, extra=slot.tags)
            channel.abort()
            return
        if slot.channel is not channel:
            return  # lost again meanwhile: perhaps it has died, and its successor is being started in this slot
        await self._reports.worker_linked(slot, hello, fresh=fresh)
        channel.send(Welcome(slot.stored, first, ID_BLOCK, PROTOCOL_VERSION))
        if not fresh:
            channel.send(self._reconfigure())  # it was started by a service that may have had other settings
        if slot.state is WorkerState.STARTING:
            slot.set_state(WorkerEvent.LINKED)
        self.adopted(slot)
        if slot.state is WorkerState.RUNNING and not slot.ready.done():
            slot.ready.set_result(None)

    def _on_link_lost(self, slot: Slot) -> None:
        if slot.state is WorkerState.RUNNING:
            slot.set_state(WorkerEvent.LINK_LOST)
            slot.renew_ready()
