"""The service: puts the floor together, starts it, and stops it in reverse. Its verbs are in `connections` and `workers`.

Two flows: a command goes down to the worker that holds the connection; a report comes up, is committed, folded into the
directory, and only then shown and acknowledged (`intake`).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mooring.background import Background
from mooring.errors import JournalUnavailable, Unavailable
from mooring.metrics import Histogram
from mooring_service.admission import Admission
from mooring_service.asks import Asks
from mooring_service.backups import Backups
from mooring_service.config import Config, ConfigError, SupervisorConfig
from mooring_service.connections import Connections
from mooring_service.directory import Directory, keep_pruned
from mooring_service.endings import Endings
from mooring_service.feed import Feed
from mooring_service.holders import Holders
from mooring_service.hooks.hooks import Hooks
from mooring_service.hooks.senders import Senders
from mooring_service.inheriting import Inheriting
from mooring_service.intake import Intake
from mooring_service.journal.file import check_version
from mooring_service.journal.journal import Journal, JournalUnusable
from mooring_service.journal.sqlite import SqliteJournal
from mooring_service.lock import StateLock
from mooring_service.naming import Names
from mooring_service.opening import Openings
from mooring_service.processes.execution import ForkerProcess
from mooring_service.processes.link_server import SOCKET_NAME, check_path
from mooring_service.processes.roster import Roster
from mooring_service.processes.supervisor import Supervisor
from mooring_service.readiness import Readiness, readiness_of
from mooring_service.reading import Reading
from mooring_service.reconciling import Reconciling
from mooring_service.reopening import Reopenings
from mooring_service.requesting import Requesting
from mooring_service.sending import Sending
from mooring_service.strays import Strays
from mooring_service.wanted import Wanted
from mooring_service.window import Window
from mooring_service.worker_settings import worker_settings
from mooring_service.workers import Workers

if TYPE_CHECKING:  # without [cluster] none of it is imported
    from mooring_service.membership import Membership

OPEN_RETRY_S = 1.0
STRAYS_S = 2.0
LEASE_S = 1.0

log = logging.getLogger("mooring.service")


def check_state_dir(state_dir: Path, store: str) -> None:
    """Check what a service would find in a state directory, without making anything.

    Raises:
        MooringError: If workers could not reach it, or a later mooring has written its journal.
    """
    check_path(state_dir / SOCKET_NAME)
    if store == "sqlite":
        check_version(state_dir / "journal.db")


class Service:
    """One service on one state directory.

    Args:
        config: Read once; see `mooring_service.config`.
        state_dir: An existing directory, mode 0700.
        journal: Not yet started.
        begun: The forker's process, if there is one already; whoever has begun it ends it where `start` does not come to that.

    Attributes:
        connections: The verbs of connections.
        wanted: Those of who wants one of a name.
        sending, requesting: What is sent over connections, and asked.
        workers, hooks: The verbs of workers, and of hooks.
        reopenings: What kept connections ask for, of which the next program of this process must be told.
        backups: Copies of the journal.
        reading: What is read of connections and events, in a cluster of all nodes; `here`: of this service alone.
        feed: The events of everything; those of one connection are followed in `connections`.
        kept_ends: How many ends of kept connections the service has written, by worker and why.
        cluster: This service as a node; None without `[cluster]`.
        refusal: Why it must not be started again as it is configured, where that is what it has died of; else "".
        died: Ends, with the reason, when this process can go on no longer: it is to end under its workers, for the next to adopt.
    """

    def __init__(
        self,
        config: Config,
        state_dir: Path,
        journal: Journal,
        *,
        app_dirs: list[str] | None = None,
        config_file: str = "the configuration",
        begun: ForkerProcess | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.journal = journal
        self.feed = Feed(journal, ring_bytes=config.journal.ring_bytes, max_subscribers=config.limits.max_subscribers)
        self.directory = Directory(config.retention.closed_connections, config.retention.closed_age, journal.now_ms)
        self._admission = Admission(config, journal, config_file)
        self._lock = StateLock(state_dir)
        self._background = Background(log)
        self._app_dirs = app_dirs or []
        self._roster = roster = Roster(config.limits.max_workers)
        self._endings = Endings(journal)
        self.kept_ends = self._endings.kept
        self.reopenings = Reopenings(self._admission, journal, self.directory, self._endings)
        self._window = Window(journal, roster, self.directory, self._admission)
        self._intake = Intake(
            journal, self.directory, self.feed, self._endings, self.reopenings, roster, self._window, self._background
        )
        self._supervisor = Supervisor(
            _supervision(config),
            worker_settings(config, self._app_dirs),
            state_dir,
            roster,
            self._intake,
            begun=begun,
        )
        names = Names(self.directory)
        self._openings = Openings(
            self._admission, journal, self.directory, self._endings, self.reopenings, names, roster, self._supervisor
        )
        holders = Holders(roster, self.reopenings)
        self.connections = Connections(
            self._admission, self.directory, self.feed, self._endings, self.reopenings, self._openings, holders
        )
        self.wanted = Wanted(
            self._admission, journal, self.directory, self.reopenings, names, holders, self.connections
        )
        self.sending = Sending(self._admission, self.directory, holders)
        self._reconciling = Reconciling(
            self._admission, self.directory, self.reopenings, self._openings, self.connections, self.wanted
        )
        parts = (journal, self.directory, self._endings, self.reopenings, roster, self._supervisor)
        self._strays = Strays(*parts, self._reconciling)
        self.requesting = Requesting(self._admission, self.directory, holders, journal, self.sending)
        self.workers = Workers(
            self._admission, self.directory, roster, self._supervisor, self._intake, self._background
        )
        self._asks = asks = self._intake.asks = Asks(self._admission, journal, roster, self._supervisor)
        self.backups = Backups(journal, state_dir)
        self._senders = Senders(self._admission, journal, self.feed, self.directory, state_dir, self._background)
        self.hooks = Hooks(self._admission, self._senders)
        self.refusal = ""
        heir = Inheriting(self._admission, *parts, self._strays.settled)
        self.cluster = _membership(config, self, roster, self._admission, asks, heir) if config.cluster.name else None
        if self.cluster is not None:
            self._intake.lease = self.cluster.until
        self._admission.placing = self.cluster
        self.here = Reading(self.connections, self.directory, self.feed)
        self.reading = self.cluster.reading(self.connections, self.directory) if self.cluster else self.here
        self._started = False
        self._unwritable = asyncio.Event()
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def refuse(self, reason: str) -> None:
        """End this process, and its workers: it must not be started again as it is configured."""
        self.refusal = reason
        if not self.died.done():
            self.died.set_result(reason)

    def acquire(self) -> None:
        """Take the state directory for this service. Must be called before `start`.

        Raises:
            StateDirectoryBusy: If another service holds it.
        """
        self._lock.acquire()

    async def start(self) -> None:
        """Listen for workers, open the journal, adopt them.

        While the journal's file cannot be had (a full disk) that is tried again behind the return: workers wait at the link and keep
        their connections, nothing else is served (`check_started`), and `readiness` says why.

        Raises:
            JournalUnusable: If a later mooring has written it.
            MooringError: If workers could not reach this state directory, or hooks.json cannot be read.
        """
        self._senders.load()
        self.backups.sweep()
        await self._supervisor.listen()
        try:
            await self._begin()
        except (JournalUnusable, ConfigError):
            await self._supervisor.hand_over()
            raise
        except JournalUnavailable as exc:
            log.error("the journal cannot be opened: %s; the workers wait, and it is tried again", exc)
            self._background.spawn(self._begin_later())

    async def _begin_later(self) -> None:
        # Ends once the journal is open, or by cancellation, when the service stops.
        while not self._started:
            await asyncio.sleep(OPEN_RETRY_S)
            try:
                await self._begin()
            except JournalUnavailable:
                continue
            log.warning("the journal is open")

    async def _begin(self) -> None:
        recovered = await self.journal.start(self._intake.on_committed, self._on_failure, self.died.set_result)
        self.directory.recover(self.journal.epoch, recovered.connections)
        self._reconciling.recall()
        if self.cluster is not None:
            await self.cluster.open(self.directory.live_count > 0, [ask.number for ask in recovered.asks])
        self.reopenings.recall()
        try:
            # Taken first: the first connection of a new state directory is number 1.
            await self._openings.allot()
        except JournalUnavailable as exc:
            log.error("the journal cannot be written: %s; nothing new is begun until it can be", exc)
        self._supervisor.adopt([stored for stored in recovered.incarnations if not stored.ended or stored.stands])
        if self.cluster is not None:
            self.cluster.recall()
        self._asks.do(recovered.asks)
        await self.hooks.start(recovered.hooks)
        known = {stored.incarnation for stored in recovered.incarnations if not stored.ended}
        # Told before anybody asks, but for a disk that takes nothing.
        await asyncio.wait({self._background.spawn(self._settle(known))}, timeout=STRAYS_S)
        self.workers.go_on_draining()
        self._background.spawn(keep_pruned(self.directory, self.journal))
        self._started = True

    def check_started(self) -> None:
        """Check that what there is of an earlier service is known.

        Raises:
            Unavailable: If it is not: the journal could not be opened yet.
        """
        if not self._started:
            raise Unavailable(f"the service is starting: {self.journal.failure or 'it adopts what there is'}")

    @property
    def restart_refusal(self) -> str | None:
        """Why the next service could not go on with what this one holds; None when it could."""
        # A damaged one is set aside by a start, and only by that.
        if self.journal.failure is None or self.journal.damaged:
            return None
        return f"the journal cannot be written: {self.journal.failure}"

    async def stop(self, *, handover: bool = False) -> None:
        """End the workers (or leave them running for the next service), then close the journal."""
        self.begin_stop()
        if handover:
            await self._asks.close(keep=True)
            await self._supervisor.hand_over()
        else:
            await self._end_workers()
            await self._asks.close()
        await self._senders.close()
        await self._background.close()
        await self._openings.close()
        self.feed.close()
        if self.cluster is not None:
            await self.cluster.stop(handover=handover)
        await self.journal.stop()
        self._lock.release()

    async def _end_workers(self) -> None:
        ending = asyncio.create_task(self._supervisor.stop("the service is stopping"))
        unwritable = asyncio.create_task(_until_nothing_can_be_told(self._roster, self._unwritable))
        await asyncio.wait({ending, unwritable}, return_when=asyncio.FIRST_COMPLETED)
        unwritable.cancel()
        if not ending.done():
            # The ends wait for a disk that takes nothing. The next start finds them missing, and reports them.
            log.error("the last events of the workers cannot be written: %s", self.journal.failure)
            ending.cancel()
            await asyncio.wait({ending})
        if not ending.cancelled():
            ending.result()

    def _on_failure(self, failure: str | None) -> None:
        if failure is None:
            self._unwritable.clear()
        else:
            self._unwritable.set()
        self._intake.on_failure(failure)

    def begin_stop(self) -> None:
        """From now on nothing new is started, and `/readyz` says so."""
        self._admission.stopping = True
        self._senders.begin_stop()

    def reconfigure(self, config: Config) -> None:
        """Take over what may change at run time (`RUNTIME_SETTINGS`)."""
        self._admission.config = config
        self.feed.max_subscribers = config.limits.max_subscribers
        self._window.acknowledge()
        if self._started:
            self._background.spawn(self.hooks.reconfigure(config))
            self._background.spawn(self._reconciling.reconcile())
        self._roster.max_workers = config.limits.max_workers
        self._supervisor.reconfigure(worker_settings(config, self._app_dirs))

    def readiness(self) -> Readiness:
        """Say whether requests can be served, and what is missing."""
        health = (self.cluster, self._senders.failing())
        return readiness_of(self._admission, self.journal, self._roster, self.directory, *health, started=self._started)

    @property
    def latency(self) -> Histogram:
        """From the socket to the subscribers."""
        return self._intake.latency

    async def _settle(self, known: set[str]) -> None:
        await self._strays.settle(known)
        placed = None if self.cluster is None else self.cluster.until_placed()
        self._background.spawn(self._strays.bring_back(placed))


async def _until_nothing_can_be_told(roster: Roster, unwritable: asyncio.Event) -> None:
    await roster.until_all_gone()
    await unwritable.wait()


def _supervision(config: Config) -> SupervisorConfig:
    """Return how workers are watched: in a cluster each is told every second that it may go on."""
    asked = config.supervisor
    if not config.cluster.name or asked.probe_interval <= LEASE_S:
        return asked
    return msgspec.structs.replace(asked, probe_interval=LEASE_S)


def _membership(
    config: Config, service: Service, roster: Roster, admission: Admission, asks: Asks, inheriting: Inheriting
) -> Membership:
    from mooring_service.membership import Membership  # only where there is a cluster

    assert isinstance(service.journal, SqliteJournal), "the configuration allows no other"

    def figures() -> tuple[int, int, int]:
        live = service.directory.live_count
        return live, len(roster), max(0, admission.config.limits.max_connections - live)

    def workers() -> set[str]:
        return {slot.name for slot in roster.slots()}

    return Membership(config, service.journal, service.state_dir, asks, figures, workers, service.refuse, inheriting)
