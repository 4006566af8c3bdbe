"""The way up: what workers report is committed, folded into the directory, and only then shown and acknowledged."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import assert_never

import msgspec

from mooring.background import Background
from mooring.errors import ErrCode, JournalUnavailable, LinkError
from mooring.events import Kind, WorkerExitedEvent, WorkerStartedEvent, now_us, worker_body
from mooring.link.messages import (
    AskCall,
    AskIds,
    AskKill,
    Called,
    CallFailed,
    Events,
    Goodbye,
    GrantIds,
    Hello,
    Opened,
    OpenFailed,
    OpenInvalid,
    Report,
    Resent,
    SendFailed,
    Sent,
    Stats,
    TerminateDone,
)
from mooring.metrics import Histogram
from mooring_service.adoption import unseen
from mooring_service.directory import Directory, Entry
from mooring_service.endings import Endings
from mooring_service.feed import Feed
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed, Journal
from mooring_service.processes.reports import ID_BLOCK
from mooring_service.processes.roster import Roster
from mooring_service.processes.slot import Slot
from mooring_service.processes.worker_process import Exit

QUEUE_HIGH_BYTES = 64 * 1024 * 1024  # the journal's queue: above it the links are not read
GRANT_RETRY_S = 1.0  # while the journal cannot be written

log = logging.getLogger("mooring.service")


class Intake:
    """Takes the reports of all workers. It is the supervisor's `Reports`, and the journal's listener.

    Attributes:
        latency: From the socket to the subscribers, of the oldest event of each frame.
    """

    def __init__(
        self,
        journal: Journal,
        directory: Directory,
        feed: Feed,
        endings: Endings,
        roster: Roster,
        background: Background,
        on_asks: Callable[[Slot, list[AskCall | AskKill]], None],
    ) -> None:
        self._journal = journal
        self._directory = directory
        self._feed = feed
        self._endings = endings
        self._roster = roster
        self._background = background
        self._on_asks = on_asks
        self._links_paused = False
        self.latency = Histogram()
        self._unseen: dict[str, frozenset[int]] = {}  # by incarnation: what its last hello did not know of

    def on_committed(self, committed: list[Committed]) -> None:
        """Take what one transaction has committed: fold, show, do what was asked for, acknowledge."""
        touched: dict[Slot, None] = {}
        fold = self._directory.fold
        for item in committed:
            fold(item)
        self._feed.publish(committed)
        now = time.monotonic_ns() // 1000
        for item in committed:
            # Not known, too: by the wall clock, as workers of the first version told it.
            if 0 < item.append.began_at_us <= now and not item.repeated:
                self.latency.observe((now - item.append.began_at_us) / 1e6)
        for item in committed:
            append = item.append
            if append.number:
                slot = self._roster.by_incarnation(append.incarnation)
                if slot is not None:
                    asks = slot.committed(append.number)
                    touched[slot] = None
                    if asks and not item.repeated:
                        self._on_asks(slot, asks)
        for slot in touched:
            slot.acknowledge()
        if self._links_paused and self._journal.queued_bytes < QUEUE_HIGH_BYTES // 2:
            self._links_paused = False
            for slot in self._roster.slots():
                slot.resume_reading()

    def on_failure(self, failure: str | None) -> None:
        """Take that the journal cannot be written now, or can again."""
        if failure is None:
            log.warning("the journal can be written again")
        else:
            log.error("the journal cannot be written: %s; connections stay open, events wait in the workers", failure)

    def take(self, slot: Slot, reports: list[Report]) -> None:
        """Take the reports of one read, in order.

        Raises:
            LinkError: If one of them is none of ours: the link ends, and what came before it is taken.
        """
        slot.last_report_at = time.monotonic()
        for report in reports:
            match report:
                case Events():
                    self._take_events(slot, report)
                case Sent() | SendFailed() | OpenInvalid():
                    slot.answer(report.request, report)
                case Opened() | OpenFailed() | TerminateDone() | Called() | CallFailed():
                    slot.answer(report.request, report, report.after)
                case Stats():
                    slot.stats = report
                    for update in report.updates:
                        self._directory.figures(update)
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
            began_at_us=events.began_at_us,
        )
        wrong = append.wrong
        if wrong is not None:
            raise LinkError(f"frame {events.number} cannot be stored: {wrong}")
        if events.asks:
            slot.asks[events.number] = events.asks
        self._journal.append(append)
        if self._journal.queued_bytes > QUEUE_HIGH_BYTES:
            slot.pause_reading()
            self._links_paused = True

    async def _grant(self, slot: Slot, incarnation: str) -> None:
        while slot.linked and slot.incarnation == incarnation:
            try:
                slot.command(GrantIds(await self.allot_ids(ID_BLOCK), ID_BLOCK))
            except JournalUnavailable:
                await asyncio.sleep(GRANT_RETRY_S)  # the worker asks once
            else:
                return

    async def save_incarnation(self, slot: Slot, *, ended: bool = False) -> None:
        """Keep who the process is."""
        await self._journal.save_incarnation(
            slot.incarnation, slot.name, msgspec.msgpack.encode(slot.record), ended=ended
        )

    def hello(self, slot: Slot, hello: Hello) -> None:
        """Take what a process says of its connections, and note which of them it does not know of."""
        live = (entry.created.id for entry in self._live_of(slot))
        named = (held.created.id for held in hello.connections)
        self._unseen[slot.incarnation] = unseen(live, named, slot.dispatched)
        for held in hello.connections:
            self._directory.figures(held.update)

    def worker_linked(self, slot: Slot, hello: Hello, *, fresh: bool) -> None:
        """Record that a process is Running; one that was adopted has been recorded before."""
        if fresh and not slot.announced:
            slot.announced = True
            event = WorkerStartedEvent(pid=hello.pid, incarnation=hello.incarnation, restarts=slot.restarts)
            body = worker_body(Kind.workerStarted, slot.name, now_us(), event)
            self._journal.append(
                Append(worker=slot.name, connections=bytes(8), kinds=bytes((Kind.workerStarted,)), bodies=body)
            )

    async def _reconcile(self, slot: Slot, incarnation: str, number: int) -> None:
        """All is sent again: what its hello did not know of, and is live even now, never reached the process."""
        candidates = self._unseen.pop(incarnation, frozenset())
        if not candidates:
            return
        if number > slot.stored:
            await self._journal.append_waiting(Append())  # everything before it has been committed then
        if slot.incarnation != incarnation:
            return
        lost = [entry for entry in self._live_of(slot) if entry.created.id in candidates]
        reason = "the service stopped before it was dialled"
        written = await self._endings.write(lost, reason, ErrCode.SERVICE_STOPPED)
        slot.failures[ErrCode.SERVICE_STOPPED] += written.kinds.count(Kind.onError)

    def _live_of(self, slot: Slot) -> list[Entry]:
        """Return the connections of the process of `slot` that have not ended."""
        return [entry for entry in self._directory.live_of(slot.name) if entry.incarnation == slot.incarnation]

    async def worker_gone(self, slot: Slot, ended: Exit, reason: str, *, restarting: bool, asked: bool) -> int:
        """A process has ended: report what it could not, and that it has ended, in one transaction."""
        await self._journal.append_waiting(Append())  # all that it had handed over is committed and folded then
        text = reason if asked else f"the worker died: {reason}"
        self._unseen.pop(slot.incarnation, None)
        lost = self._live_of(slot)
        err_code = ErrCode.WORKER_STOPPING if asked else ErrCode.WORKER_DIED
        event = WorkerExitedEvent(
            pid=slot.record.pid,
            exit_code=ended.exit_code,
            signal=ended.signal,
            reason=reason,
            restarting=restarting,
        )
        body = worker_body(Kind.workerExited, slot.name, now_us(), event)
        exited = Append(
            worker=slot.name,
            connections=bytes(8),
            kinds=bytes((Kind.workerExited,)),
            bodies=body,
            ended=slot.incarnation,
        )
        written = await self._endings.write(lost, text, err_code, then=exited)
        slot.failures[err_code] += written.kinds.count(Kind.onError)
        slot.announced = False
        return len(written.updates)

    async def allot_ids(self, count: int) -> int:
        """Reserve connection ids for ever; return the first."""
        return await self._journal.allot_ids(count)
