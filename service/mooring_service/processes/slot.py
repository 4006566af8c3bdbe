"""One worker as the service sees it: its state, its process, its link, and the requests that wait for its answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import Any

import msgspec

from mooring.deadline import within
from mooring.errors import MooringError, Unavailable
from mooring.events import rfc3339
from mooring.link.channel import Channel
from mooring.link.messages import (
    Call,
    Command,
    Goodbye,
    Open,
    Report,
    Stats,
    Stored,
)
from mooring_service.journal.journal import StoredAsk
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.requests import Requests
from mooring_service.processes.worker_process import WorkerProcess
from mooring_service.processes.worker_state import WorkerEvent, WorkerState, step
from mooring_service.records import RunningItem, WorkerRecord

# For a worker that does not read: what is asked of it beyond that is refused. Above the channel's own mark, so that it says when there is room.
COMMANDS_BYTES = 16 * 1024 * 1024
WINDOW_SINCE = 5  # from this version of the link on a worker keeps to its window of events
COUNTS_CALLS_SINCE = 5  # from this version on it says how many of what was asked of it has not ended
OPENS_AT_ONCE = 8  # of many that are dispatched in one pass: a write costs a twentieth of what they cost the worker
TAKES_SINCE = 3  # from this version of the link on a worker says what it has taken of what was asked for

log = logging.getLogger("mooring.supervisor")


class IncarnationRecord(msgspec.Struct, frozen=True):
    """What the journal keeps of a process, so that the next service can adopt it (opaque to the journal).

    Attributes:
        deaths: What counts for the restart budget; monotonic seconds, of the boot `boot_id`, as `restart_at`.
        reason: Why it has died.
        restart_at: When it is due to be started again, if it has died unasked; None: it is not.
    """

    secret: str
    pid: int = 0
    started_at_ticks: int = 0
    boot_id: str = ""
    started_at_us: int = 0
    restarts: int = 0
    exit_record: str = ""
    draining: bool = False
    deaths: list[float] = []
    reason: str | None = None
    restart_at: float | None = None


class Slot:
    """One named worker.

    Attributes:
        stored: Number of the last of its `Events` that the journal has committed.
        unstored_bytes: Of its `Events`: taken, and not committed yet.
        handed: Calls that code in workers has asked of it, by their numbers: sent, and not taken yet as far as we know.
        stands: Its last process has died unasked, and the journal says that the worker is there all the same.
        ended_for: The numbers of what asked for its end.
        dispatched: Connections whose `Open` is on its way to the link: no hello can know of them yet.
        untold: Connections whose create waits although the link was lost: each ends if the process turns out not to know of it.
        failures: onError events that the service wrote because the worker no longer could, by `errCode`.
        ready: Ends when the worker is Running; replaced at each start.
        reading: False while we do not read its link, because the journal's queue is full.
        renewal: While it has no connections any more and runs what is left in its mailbox, to be renewed: ends with that. What is asked
            of its name meanwhile waits.
        link_faults: How many of its links, one after the other, have ended because of what came on them.
        last_report_at: When anything of its process was last read, or its link came or went; monotonic seconds.
        stop_wanted: Ends when it is told to end for good.
        drains: It ends, and another process of its name follows, which goes on with its kept connections.
        persists: It ends with the service, and the next one goes on with what persists of its connections.
        disconnects: ``onDisconnect`` events that the service wrote because the worker no longer could, by cause.
        unsent: Messages that have died with its processes before they were sent.
    """

    def __init__(self, name: str, budget: RestartBudget) -> None:
        self.name = name
        self.budget = budget
        self.state = WorkerState.STOPPED
        self.process: WorkerProcess | None = None
        self.channel: Channel[Report] | None = None
        self.incarnation = ""
        self.version = 0  # of the link, as its last Hello told it
        self.record = IncarnationRecord("")
        self.stored = 0
        self.unstored_bytes = 0
        self.restarts = 0
        self.reason: str | None = None
        self.draining = False
        self.renewal: asyncio.Future[None] | None = None
        self.stats = Stats()
        self.goodbye: Goodbye | None = None
        self.dispatched: set[int] = set()
        self.untold: dict[int, asyncio.Future[None]] = {}
        self.announced = False  # a workerStarted of this process is in the journal
        self.handed: dict[int, tuple[StoredAsk, Call]] = {}
        self.ended_for: list[int] = []
        self.stands = False
        self.failures: Counter[int] = Counter()
        self.disconnects: Counter[str] = Counter()
        self.unsent = 0
        self.drains = False
        self.persists = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self.gone.set()
        self._room = asyncio.Event()
        self.unlinked = asyncio.Event()
        self.unlinked.set()
        self.no_process = asyncio.Event()
        self.no_process.set()
        self.reading = True
        self.last_report_at = 0.0
        self.link_faults = 0
        self.task: asyncio.Task[None] | None = None
        self.stop_wanted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stop_reason = ""
        self.closed_hard = 0  # connections that ended with the process, unreported by it
        self._requests = Requests(name)

    def set_state(self, event: WorkerEvent) -> None:
        """Move to the next state; the one place that does."""
        old, self.state = self.state, step(self.state, event)
        if old is not self.state:
            log.info("worker %s: %s -> %s", self.name, old.value, self.state.value, extra=self.tags)

    @property
    def tags(self) -> dict[str, str]:
        """What every line of the log that concerns this worker carries."""
        tags = {"worker": self.name}
        if self.incarnation:
            tags["incarnation"] = self.incarnation
        return tags

    @property
    def linked(self) -> bool:
        """True while commands reach the worker."""
        return self.channel is not None and self.channel.open

    @property
    def welcomed(self) -> bool:
        """True while the worker also answers: what reaches it between its hello and our welcome it obeys without a word."""
        return self.linked and self.ready.done() and self.ready.exception() is None

    async def until_welcomed(self, timeout_s: float) -> None:
        """Wait, so long at most, until the process has been welcomed on its next link, or has ended."""
        with contextlib.suppress(TimeoutError):
            async with within(timeout_s):
                if not self.linked:
                    await self.unlinked.wait()  # a link that is only closing has still to be lost
                await asyncio.wait({self.ready})

    def linked_by(self, channel: Channel[Report]) -> None:
        """The process has a link."""
        self.channel = channel
        channel.on_drained = self._room.set
        self._room.set()
        self.reading = True
        self.unlinked.clear()
        self.last_report_at = time.monotonic()

    def pause_reading(self) -> None:
        """Read no reports for now; nothing that is asked of the worker has a deadline meanwhile. Idempotent.

        What a dead process has left in its socket is little, and is read all the same.
        """
        if self.channel is not None and (self.process is None or not self.process.exited.done()):
            self.reading = False
            self.channel.pause_reading()

    def resume_reading(self) -> None:
        """Read reports again. Idempotent."""
        self.reading = True
        if self.channel is not None:
            self.channel.resume_reading()

    def link_lost(self, channel: Channel[Report]) -> bool:
        """`channel` has ended; the process may live. Returns False if it was not (or is no longer) the link."""
        if self.channel is not channel:
            return False
        self.channel = None
        self._room.set()
        self.reading = True
        self.unlinked.set()
        self.last_report_at = time.monotonic()
        self._requests.link_lost()
        return True

    def renew_ready(self) -> None:
        """Whoever waits for the worker from now on waits for its next start."""
        self.ready = asyncio.get_running_loop().create_future()
        # Nobody may be waiting for it; its failure is in the log and in the worker's record.
        self.ready.add_done_callback(lambda future: future.cancelled() or future.exception())

    def request(self, timeout_s: float, *, with_link: bool = False) -> tuple[int, asyncio.Future[Any]]:
        """Return a new request's number, and the future of its answer; see `Requests.begin`."""
        return self._requests.begin(timeout_s, with_link=with_link)

    def tell_again(self, connection: int) -> bool:
        """The process does not know of `connection`: True if its create still waits, and opens it over this link."""
        untold = self.untold.pop(connection, None)
        if untold is not None:
            untold.set_result(None)
        return untold is not None

    @property
    def takes_calls(self) -> bool:
        """True while a call can be given to its process."""
        return self.state is WorkerState.RUNNING and self.linked and self.renewal is None and self.has_room

    @property
    def has_room(self) -> bool:
        """False while the worker does not read what it was asked for."""
        return self.channel is None or self.channel.waiting_bytes < COMMANDS_BYTES

    def check_room(self) -> None:
        """Check that more may be asked of the worker.

        Raises:
            Unavailable: If it does not read what it was asked for.
        """
        if not self.has_room:
            raise Unavailable(f"worker {self.name!r} does not read what it is asked for")

    async def until_room(self) -> None:
        """Wait until more may be asked of the worker, or its link is lost."""
        while not self.has_room:
            self._room.clear()
            await self._room.wait()

    def command(self, command: Command) -> None:
        """Send a command; the caller has seen `linked`."""
        if self.channel is not None:
            self.channel.send(command)

    def open(self, order: Open) -> None:
        """Send an `Open`, as `command`: the worker begins with the first of many while further ones are made."""
        self.command(order)
        if self.channel is not None and self.channel.queued >= OPENS_AT_ONCE:
            self.channel.flush()

    def answer(self, request: int, answer: object, after: int = 0) -> bool:
        """Give an answer to the request that waits for it, once `after` is stored; False: it has still to be."""
        if after > self.stored:
            self._requests.answer_after(request, answer, after)
            return False
        self._requests.answer(request, answer)
        return True

    def committed(self, number: int) -> None:
        """The journal holds all up to `number`: release the answers that waited."""
        if number > self.stored:
            self.stored, self.link_faults = number, 0
        self._requests.stored(self.stored)

    def hand_over(self, ask: StoredAsk, call: Call) -> bool:
        """Send a call that was asked for. True: it is done only once the worker says that it has taken it."""
        self.command(call)
        if self.version < TAKES_SINCE:
            return False
        self.handed[ask.number] = (ask, call)
        return True

    def taken(self, number: int) -> list[int]:
        """The worker has taken all that was asked for up to `number`; return which of it had been handed over."""
        done = [handed for handed in self.handed if handed <= number]
        for handed in done:
            del self.handed[handed]
        return done

    def acknowledge(self, window_bytes: int, full_at: int, next_us: int = 0) -> None:
        """Tell the worker what it may forget, how much may be on its way, and the rest of `Stored`."""
        if self.linked:
            self.command(Stored(self.stored, window_bytes, full_at, next_us))

    def fail_requests(self, detail: str) -> None:
        """The process is gone: nobody will answer."""
        self._requests.fail(detail)

    def fail_ready(self, failure: MooringError) -> None:
        """Nobody need wait for this start any more."""
        if not self.ready.done():
            self.ready.set_exception(failure)

    def process_begun(self, process: WorkerProcess) -> None:
        """There is a process."""
        self.process = process
        self.no_process.clear()

    def process_gone(self) -> None:
        """Forget the process, and its link."""
        self.process = None
        self.no_process.set()
        self.channel = None
        self.unlinked.set()


def worker_record(slot: Slot, connections: int) -> WorkerRecord:
    """Return the public record of a worker that holds so many `connections`."""
    stats = slot.stats
    running = None
    if stats.running is not None:
        # What was reported, and the time since: a busy callback is seen ageing between two reports.
        running = RunningItem(stats.running, round(stats.running_s + time.monotonic() - slot.last_report_at, 3))
    live = slot.process is not None
    return WorkerRecord(
        name=slot.name,
        status=slot.state.value,
        pid=slot.process.pid if slot.process is not None else None,
        incarnation=slot.incarnation if live else None,
        started_at=rfc3339(slot.record.started_at_us) if live and slot.record.started_at_us else None,
        restarts=slot.restarts,
        connections=connections,
        mailbox=stats.mailbox,
        mailbox_bytes=stats.mailbox_bytes,
        running=running,
        cpu=round(stats.cpu_s, 3),
        rss=stats.rss_bytes,
        outbox=stats.outbox,
        outbox_bytes=stats.outbox_bytes,
        paused=stats.inbound_paused,
        draining=slot.draining,
        reason=slot.reason,
    )
