"""One worker as the service sees it: its state, its process, its link, and the requests that wait for its answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

from mooring.errors import MooringError, WorkerDied, WorkerSilent
from mooring.events import rfc3339
from mooring.link.channel import Channel
from mooring.link.messages import (
    AskCall,
    AskKill,
    Command,
    Goodbye,
    Report,
    Stats,
    Stored,
)
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.worker_process import WorkerProcess
from mooring_service.processes.worker_state import WorkerEvent, WorkerState, step
from mooring_service.records import RunningItem, WorkerRecord

SWEEP_S = 0.25

log = logging.getLogger("mooring.supervisor")


class IncarnationRecord(msgspec.Struct, frozen=True):
    """What the journal keeps of a process, so that the next service can adopt it (opaque to the journal)."""

    secret: str
    pid: int = 0
    started_at_ticks: int = 0
    boot_id: str = ""
    started_at_us: int = 0
    restarts: int = 0
    exit_record: str = ""
    draining: bool = False


class Slot:
    """One named worker.

    Attributes:
        stored: Number of the last of its `Events` that the journal has committed.
        asks: What its code asked for, by the number of the `Events` that held it; done when that is committed.
        dispatched: Connections whose `Open` is on its way to the link: no hello can know of them yet.
        failures: onError events that the service wrote because the worker no longer could, by `errCode`.
        ready: Ends when the worker is Running; replaced at each start.
        reading: False while we do not read its link, because the journal's queue is full.
        link_faults: How many of its links, one after the other, have ended because of what came on them.
        last_report_at: When anything of its process was last read, or its link came or went; monotonic seconds.
        stop_wanted: Ends when it is told to end for good.
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
        self.restarts = 0
        self.reason: str | None = None
        self.draining = False
        self.stats = Stats()
        self.goodbye: Goodbye | None = None
        self.dispatched: set[int] = set()
        self.announced = False  # a workerStarted of this process is in the journal
        self.asks: dict[int, list[AskCall | AskKill]] = {}
        self.failures: Counter[int] = Counter()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self.gone.set()
        self.unlinked = asyncio.Event()
        self.unlinked.set()
        self.reading = True
        self.last_report_at = 0.0
        self.link_faults = 0
        self.task: asyncio.Task[None] | None = None
        self.stop_wanted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stop_reason = ""
        self.closed_hard = 0  # connections that ended with the process, unreported by it
        self._requests: dict[int, tuple[asyncio.Future[Any], float]] = {}  # by number, with their deadlines
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        # Not from 0: an answer that a worker still owes to an earlier service must not be taken for one of ours.
        self._next_request = secrets.randbits(40) << 20
        self._after: deque[tuple[int, Callable[[], None]]] = deque()

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

    def linked_by(self, channel: Channel[Report]) -> None:
        """The process has a link."""
        self.channel = channel
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
        self.reading = True
        self.unlinked.set()
        self.last_report_at = time.monotonic()
        return True

    def renew_ready(self) -> None:
        """Whoever waits for the worker from now on waits for its next start."""
        self.ready = asyncio.get_running_loop().create_future()
        # Nobody may be waiting for it; its failure is in the log and in the worker's record.
        self.ready.add_done_callback(lambda future: future.cancelled() or future.exception())

    def request(self, timeout_s: float) -> tuple[int, asyncio.Future[Any]]:
        """Return a new request's number, and the future of its answer.

        The future raises `WorkerSilent` if no answer comes in time (a quarter of a second more or less), and
        `WorkerDied` if the process ends under it.
        """
        self._next_request += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._requests[self._next_request] = (future, loop.time() + timeout_s)
        if self._sweep_timer is None:
            self._sweep_later()
        return self._next_request, future

    def _sweep(self) -> None:
        # One timer for all requests: they are many and short, and their deadlines are long.
        now = asyncio.get_running_loop().time()
        late_s = now - self._sweep_at
        if late_s > SWEEP_S:
            # We were away, at most since the sweep before: what was answered meanwhile is read before anybody is judged.
            self._requests = {
                number: (future, deadline + SWEEP_S + late_s) for number, (future, deadline) in self._requests.items()
            }
        for request in [number for number, (_, deadline) in self._requests.items() if deadline <= now]:
            future, _ = self._requests.pop(request)
            if not future.done():
                future.set_exception(WorkerSilent(self.name, "no answer in time"))
        self._sweep_timer = None
        if self._requests:
            self._sweep_later()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep_at = loop.time() + SWEEP_S
        self._sweep_timer = loop.call_at(self._sweep_at, self._sweep)

    def command(self, command: Command) -> None:
        """Send a command; the caller has seen `linked`."""
        if self.channel is not None:
            self.channel.send(command)

    def answer(self, request: int, answer: object, after: int = 0) -> None:
        """Give an answer to the request that waits for it, once `after` is stored."""
        if after > self.stored:
            self._after.append((after, lambda: self._answer_now(request, answer)))
        else:
            self._answer_now(request, answer)

    def _answer_now(self, request: int, answer: object) -> None:
        waiting = self._requests.pop(request, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(answer)

    def committed(self, number: int) -> list[AskCall | AskKill]:
        """The journal holds all up to `number`: release the answers that waited; return what may now be done."""
        if number > self.stored:
            self.stored, self.link_faults = number, 0
        while self._after and self._after[0][0] <= self.stored:
            self._after.popleft()[1]()
        return self.asks.pop(number, [])

    def acknowledge(self) -> None:
        """Tell the worker what it may forget."""
        if self.linked:
            self.command(Stored(self.stored))

    def fail_requests(self, detail: str) -> None:
        """The process is gone: nobody will answer."""
        requests, self._requests = self._requests, {}
        self._after.clear()
        for future, _ in requests.values():
            if not future.done():
                future.set_exception(WorkerDied(self.name, detail))

    def fail_ready(self, failure: MooringError) -> None:
        """Nobody need wait for this start any more."""
        if not self.ready.done():
            self.ready.set_exception(failure)

    def process_gone(self) -> None:
        """Forget the process, and its link."""
        self.process = None
        self.channel = None
        self.unlinked.set()

    def to_record(self, connections: int) -> WorkerRecord:
        """Return the public record."""
        stats = self.stats
        running = None
        if stats.running is not None:
            # What was reported, and the time since: a busy callback is seen ageing between two reports.
            running = RunningItem(stats.running, round(stats.running_s + time.monotonic() - self.last_report_at, 3))
        live = self.process is not None
        return WorkerRecord(
            name=self.name,
            status=self.state.value,
            pid=self.process.pid if self.process is not None else None,
            incarnation=self.incarnation if live else None,
            started_at=rfc3339(self.record.started_at_us) if live and self.record.started_at_us else None,
            restarts=self.restarts,
            connections=connections,
            mailbox=stats.mailbox,
            mailbox_bytes=stats.mailbox_bytes,
            running=running,
            cpu=round(stats.cpu_s, 3),
            rss=stats.rss_bytes,
            outbox=stats.outbox,
            outbox_bytes=stats.outbox_bytes,
            paused=stats.inbound_paused,
            draining=self.draining,
            reason=self.reason,
        )
