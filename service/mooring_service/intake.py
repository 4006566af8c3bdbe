"""The way up: what workers report is committed, folded into the directory, and only then shown and acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol, assert_never

import msgspec

from mooring.background import Background
from mooring.errors import ErrCode, JournalUnavailable, LinkError
from mooring.events import Kind, WorkerStartedEvent, now_us, worker_body
from mooring.link.messages import (
    AskIds,
    Called,
    CallFailed,
    Events,
    Goodbye,
    GrantIds,
    Hello,
    Opened,
    OpenFailed,
    OpenInvalid,
    Probe,
    ReconnectDone,
    Report,
    Resent,
    Stats,
    Taken,
    TerminateDone,
)
from mooring.link.messages_changed import Changed
from mooring.link.messages_sent import QueueDropped, Replied, RequestFailed, RequestTaken, SendFailed, SendQueued, Sent
from mooring.metrics import Histogram
from mooring_service.deaths import Deaths
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.feed import Feed
from mooring_service.hellos import Hellos
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed, Journal, StoredAsk
from mooring_service.processes.reports import ID_BLOCK
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_process import Exit
from mooring_service.processes.worker_state import WorkerState
from mooring_service.reopening import Reopenings
from mooring_service.window import Window

SCATTERED = 256  # more events than this in a commit are a flood: who sends them is told at once
GRANT_RETRY_S = 1.0  # while the journal cannot be written

log = logging.getLogger("mooring.service")
_pack = msgspec.msgpack.Encoder().encode


class Asking(Protocol):
    """Who does what code in workers asks for."""

    def do(self, asks: list[StoredAsk], *, taken: bool = False) -> None:
        """Do what is in the journal, or was given back by a process that has died. `taken`: for another node."""

    def discard(self, worker: str) -> None:
        """A worker is told to end: what waits for it is not done any more."""


class Intake:
    """Takes the reports of all workers. It is the supervisor's `Reports`, and the journal's listener.

    Attributes:
        asks: Who does what code in workers asks for; set before the journal starts.
        lease: In a cluster, returns until when a worker may hold its connections, given what says whether one of them is persisted.
        latency: From the socket to the subscribers, of the oldest event of each frame.
    """

    asks: Asking
    lease: Callable[[Callable[[], bool]], float] = staticmethod(lambda persists: 0.0)

    def __init__(
        self,
        journal: Journal,
        directory: Directory,
        feed: Feed,
        endings: Endings,
        reopenings: Reopenings,
        roster: Roster,
        window: Window,
        background: Background,
    ) -> None:
        self._journal = journal
        self._directory = directory
        self._feed = feed
        self._endings = endings
        self._reopenings = reopenings
        self._roster = roster
        self._background = background
        self._window = window
        self._deaths = Deaths(journal, endings, reopenings)
        self.latency = Histogram()
        self._hellos = Hellos(directory, reopenings, background)

    def on_committed(self, committed: list[Committed]) -> None:
        """Take what one transaction has committed: fold, show, do what was asked for, acknowledge."""
        fold = self._directory.fold
        for item in committed:
            fold(item)
        self._feed.publish(committed)
        touched: dict[Slot, None] = {}
        events = 0
        now = time.monotonic_ns() // 1000
        for item in committed:
            append = item.append
            # Not known, too: by the wall clock, as workers of the first version told it.
            if 0 < append.began_at_us <= now and not item.repeated:
                self.latency.observe((now - append.began_at_us) / 1e6)
            if append.number:
                slot = self._roster.by_incarnation(append.incarnation)
                if slot is not None:
                    self._window.stored(slot, append.size)
                    slot.committed(append.number)
                    touched[slot] = None
                    events += len(append.kinds)
            if append.asks and not item.repeated:
                self.asks.do(
                    [StoredAsk(number, append.worker, ask) for number, ask in enumerate(append.asks, item.first_ask)],
                    taken=append.taken,
                )
            for update in append.updates:
                if update.ended:
                    self._reopenings.forget(update.id)
        # What is shown only a little later need not hurry either: one event after the other would be a commit each.
        passes = self._feed.passes
        scattered = (events > 1 or passes.pause_s > 0) and events <= SCATTERED
        self._window.acknowledge(touched, passes if scattered else None)
        self._window.go_on()

    def on_failure(self, failure: str | None) -> None:
        """Take that the journal cannot be written now, or can again."""
        if failure is None:
            log.warning("the journal can be written again")
        else:
            log.error("the journal cannot be written: %s; connections stay open, events wait in the workers", failure)

    def until(self, slot: Slot) -> float:
        """Until when a worker may hold its connections, in a cluster; 0.0: nobody else wants them."""
        return self.lease(lambda: any(entry.created.persists for entry in self._live_of(slot)))

    def take(self, slot: Slot, reports: list[Report]) -> None:
        """Take the reports of one read, in order.

        Raises:
            LinkError: If one of them is none of ours: the link ends, and what came before it is taken.
        """
        slot.last_report_at = time.monotonic()
        taken, answered = 0, True
        for report in reports:
            match report:
                case Events():
                    self._take_events(slot, report)
                case Sent() | SendFailed() | OpenInvalid() | RequestFailed() | RequestTaken():
                    slot.answer(report.request, report)
                case SendQueued() | QueueDropped() | Replied():
                    answered &= slot.answer(report.request, report, report.after)
                case Opened() | OpenFailed() | TerminateDone() | ReconnectDone() | Called() | CallFailed():
                    answered &= slot.answer(report.request, report, report.after)
                case Changed(request, connection, after, spec=spec):
                    if spec is not None:
                        self._reopenings.remember(connection, spec)
                    answered &= slot.answer(request, report, after)
                case Stats():
                    slot.stats = report
                    slot.answer(report.probe, report)
                    for update in report.updates:
                        self._directory.figures(update)
                case Taken(ask):
                    taken = ask
                case AskIds():
                    self._background.spawn(self._grant(slot, slot.incarnation))
                case Resent(number):
                    self._background.spawn(self._reconcile(slot, slot.incarnation, number))
                case Goodbye():
                    slot.goodbye = report
                case Hello():
                    log.warning("worker %s said hello twice", slot.name, extra=slot.tags)
                case _:
                    assert_never(report)
        if taken:
            self._journal.append(Append(asks_done=slot.taken(taken)))
        if not answered:
            self._journal.hurry()

    def _take_events(self, slot: Slot, events: Events) -> None:
        append = Append(
            worker=slot.name,
            incarnation=slot.incarnation,
            number=events.number,
            connections=events.connections,
            kinds=events.kinds,
            bodies=events.bodies,
            created=events.created,
            updates=events.updates,
            asks=[_pack(ask) for ask in events.asks],
            began_at_us=events.began_at_us,
        )
        wrong = append.wrong
        if wrong is not None:
            raise LinkError(f"frame {events.number} cannot be stored: {wrong}")
        self._journal.append(append, others_follow=self._window.others_follow(slot))
        self._window.queued(slot, append.size)

    @property
    def bounds(self) -> tuple[int, int]:
        """What a worker may: `window_bytes` and `full_at` of its welcome."""
        return self._window.bounds

    async def _grant(self, slot: Slot, incarnation: str) -> None:
        while slot.linked and slot.incarnation == incarnation:
            try:
                slot.command(GrantIds(await self.allot_ids(ID_BLOCK), ID_BLOCK))
            except JournalUnavailable:
                await asyncio.sleep(GRANT_RETRY_S)  # the worker asks once
            else:
                return

    async def save_incarnation(self, slot: Slot, *, ended: bool = False, stands: bool = False) -> None:
        """Keep who the process is, or that it has ended."""
        record = msgspec.msgpack.encode(slot.record)
        await self._journal.save_incarnation(slot.incarnation, slot.name, record, ended=ended, stands=stands)
        slot.stands = stands

    def hello(self, slot: Slot, hello: Hello) -> None:
        """Take what a process says of its connections, and note which of them it does not know of."""
        self._hellos.take(slot, hello, (entry.created.id for entry in self._live_of(slot)))

    def worker_refused(self, slot: Slot, hello: Hello) -> None:
        """A process is of a version of the link that is not spoken here: it ends, and another one goes on with what is kept."""
        self._hellos.learn(slot, hello)
        slot.drains = True

    def worker_linked(self, slot: Slot, hello: Hello, *, fresh: bool) -> None:
        """Record that a process is Running; one that was adopted has been recorded before."""
        if until := self.until(slot):
            slot.command(Probe(0, until))  # before it holds anything: this service may die before the first question
        if fresh and not slot.announced:
            slot.announced = True
            event = WorkerStartedEvent(pid=hello.pid, incarnation=hello.incarnation, restarts=slot.restarts)
            body = worker_body(Kind.workerStarted, slot.name, now_us(), event)
            self._journal.append(
                Append(worker=slot.name, connections=bytes(8), kinds=bytes((Kind.workerStarted,)), bodies=body)
            )
            self._background.spawn(self._reopenings.open_again(slot))

    async def _reconcile(self, slot: Slot, incarnation: str, number: int) -> None:
        """All is sent again: what its hello did not know of, and is live even now, never reached the process."""
        candidates = await self._hellos.unseen(incarnation)
        if not candidates:
            return
        if number > slot.stored:
            await self._journal.append_waiting(Append())  # everything before it has been committed then
        if slot.incarnation != incarnation:
            return
        lost = [
            entry
            for entry in self._live_of(slot)
            if entry.created.id in candidates and not slot.tell_again(entry.created.id)
        ]
        again = [entry.created.id for entry in lost if self._reopenings.waits(entry)]
        if again:
            await self._reopenings.open_again(slot, again)
            lost = [entry for entry in lost if entry.created.id not in again]
        reason = "the service stopped before it was dialled"
        written = await self._endings.write(lost, reason, ErrCode.SERVICE_STOPPED)
        slot.failures[ErrCode.SERVICE_STOPPED] += written.kinds.count(Kind.onError)

    def _live_of(self, slot: Slot) -> list[Entry]:
        """Return the connections of the process of `slot` that have not ended."""
        return [entry for entry in self._directory.live_of(slot.name) if entry.incarnation == slot.incarnation]

    def worker_ending(self, slot: Slot) -> None:
        """A worker is told to end; what waits for one that is renewed, waits for that."""
        if slot.renewal is None:
            self.asks.discard(slot.name)

    async def worker_gone(self, slot: Slot, ended: Exit, reason: str, *, restarting: bool, asked: bool) -> int:
        """A process has ended: report what it could not, and that it has ended."""
        await self._journal.append_waiting(Append())  # all that it had handed over is committed and folded then
        await self._hellos.unseen(slot.incarnation)
        count = await self._deaths.write(
            slot,
            self._live_of(slot),
            ended,
            reason,
            restarting=restarting,
            asked=asked,
            save=lambda: self.save_incarnation(slot, ended=True, stands=not asked),
        )
        slot.announced = False
        # Else it is started again in the same slot. Not `asked`: it may be renewed since it has died.
        slot.drains = slot.drains and slot.state is WorkerState.STOPPING
        handed, slot.handed, slot.ended_for = slot.handed, {}, []
        if slot.state is not WorkerState.STOPPING or (slot.drains and not asked):
            # What it has not taken is for the next process.
            self.asks.do([ask for ask, _ in handed.values()], taken=True)
        elif not asked:  # it was told to end since it died
            self._journal.append(Append(asks_done=list(handed)))
        return count

    async def worker_ended(self, slot: Slot) -> None:
        """There is no such worker any more: what waited for its next process ends."""
        reason = slot.stop_reason or "killed"
        await self._reopenings.end_waiting(slot.name, reason, ErrCode.WORKER_STOPPING, persisted=not slot.persists)

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids for ever; return the first."""
        return await self._journal.allot_ids(count)
