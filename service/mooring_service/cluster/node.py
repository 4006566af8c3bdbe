"""This service as a node of a cluster: puts the room together, begins and ends a life. All that `Service` knows of a cluster.

Order of a start: the journal and what it keeps for the cluster; the link and the stream; the epoch; the own chain, which says how to begin;
`up`; and only then the rest. None of it keeps the service from serving what it holds; a mistake that waiting does not mend ends it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mooring.background import Background
from mooring.errors import JournalUnavailable
from mooring.version import __version__
from mooring_service.cluster import message as wire
from mooring_service.cluster import objects
from mooring_service.cluster.birth import Birth, Kept, NameTaken, find_epoch, verified
from mooring_service.cluster.chain import Chain, now_s
from mooring_service.cluster.engine import Engine, EngineError
from mooring_service.cluster.fold import STOPPED, Fold, FoldedAsk
from mooring_service.cluster.forward import Forward
from mooring_service.cluster.keys import Keys
from mooring_service.cluster.lives import Judge, Mark, Standing, Timers
from mooring_service.cluster.message import Message, TooNew, Unreadable
from mooring_service.cluster.placement import Placement
from mooring_service.cluster.replicator import Identity, Replicator
from mooring_service.cluster.tail import Tail
from mooring_service.cluster_config import ClusterConfig
from mooring_service.config import ClusterRefused, JournalConfig
from mooring_service.journal.journal import Committed, Recovered
from mooring_service.journal.replica import Replica
from mooring_service.journal.sparse import SparseJournal
from mooring_service.journal.sqlite import SqliteJournal

RETRY_S = 0.2
LOOK_S = 0.25
SAVE_S = 1.0
POLL_S = 0.02
STOP_S = 2.0  # so long the end of a service waits until all is acknowledged
FULL_SHARE = 2  # of `journal.max_bytes`, one part in so many may wait to be replicated
NO_LIMIT = 1 << 60

log = logging.getLogger("mooring.cluster")
_pack = msgspec.msgpack.Encoder().encode


class Figures(msgspec.Struct, frozen=True):
    """How the service is: what beats tell."""

    connections: int
    workers: int
    room: int


class Cluster:
    """A node.

    Args:
        journal: Of this service, with a replica; it has started when `open` is called.
        figures: Says how the service is; `workers`: which workers it has.
        on_folded: Takes what the log has added to `cluster.db`, in its order.
        refuse: Ends this process: what waiting does not mend.
    """

    def __init__(
        self,
        config: ClusterConfig,
        journal_config: JournalConfig,
        journal: SqliteJournal,
        state_dir: Path,
        *,
        url: Callable[[], str],
        configuration: str,
        figures: Callable[[], Figures],
        workers: Callable[[], set[str]],
        on_folded: Callable[[list[Committed]], None],
        refuse: Callable[[str], None],
    ) -> None:
        assert journal.replica is not None, "made with one"
        self._config = config
        self._journal = journal
        self.replica = self._replica = journal.replica
        self._half_bytes = journal_config.max_bytes // FULL_SHARE
        self.name, self.node, self.configuration = config.name, config.node, configuration
        self._url, self._figures, self._workers = url, figures, workers
        self._on_folded, self._refuse = on_folded, refuse
        # Positions have holes, so they count no events: what is kept of the log is bounded by size and age.
        self.journal = SparseJournal(
            state_dir / "cluster.db", msgspec.structs.replace(journal_config, max_events=NO_LIMIT)
        )
        self.engine = Engine(objects.engine_settings(config))
        self._background = Background(log)
        self._run = os.urandom(wire.RUN_BYTES)
        now = now_s()
        self._mark = Mark(now)
        self.judge = Judge(config.node, Timers(config.dead_after, config.fit_s, config.fence_s), now)
        self._kept: Kept
        self.on_asks: Callable[[list[FoldedAsk]], None] = lambda asks: None
        self.fold: Fold
        self.tail: Tail
        self.forward: Forward
        self.placement: Placement
        self.keys: Keys
        self.chain: Chain | None = None
        self.warnings: list[str] = []
        self._returned: wire.Returned | None = None
        self._ready = asyncio.Event()  # the own `up` is folded, and its slot granted
        self._unreplicated_bytes = 0
        self._behind_since: float | None = None

    async def open(self, *, has_connections: bool) -> Recovered:
        """Look at what is kept of the cluster, and open `cluster.db`, whose records are returned; everything else goes on behind it.

        Raises:
            ClusterRefused: If this state directory cannot be a node of this cluster.
            JournalUnavailable: If `cluster.db` cannot be opened.
        """
        kept = self._replica.state
        if kept is None:
            if has_connections:
                raise ClusterRefused(
                    "this state directory has connections that have not ended, from before [cluster]: end them without it first, "
                    "or begin with an empty directory"
                )
            self._kept = Kept(self._config.name, os.urandom(4).hex())
        else:
            self._kept = msgspec.msgpack.decode(kept, type=Kept)
            if self._kept.cluster != self._config.name:
                raise ClusterRefused(
                    f"this state directory is of the cluster {self._kept.cluster!r}, not of {self._config.name!r}"
                )
        self._replica.slot = self._kept.slot or None
        recovered = await self.journal.start(self._on_folded, _say_failure)
        self.fold = Fold(self.journal.folded)
        self.fold.on_message = self._read
        self.tail = Tail(self.engine, self._config.name, self.fold, self.journal)
        self.tail.on_asks = self.on_asks
        self.journal.epoch = self.fold.epoch or self.journal.epoch
        self.placement = Placement(self.engine, self._journal, self.fold, self.node, lambda: self.life)
        self.keys = Keys(self.placement, self._journal, self.journal, self.fold, self.node, lambda: self.life)
        self.forward = Forward(self.engine, self.name, self.node, self.fold, self._background)
        self._background.spawn(self.engine.run())
        self._background.spawn(self._live())
        self._background.spawn(self._watch())
        return recovered

    async def stop(self, *, handover: bool) -> None:
        """End it. In order, with all that was committed in the log, this life ends with it: the others need not wait for that."""
        if self.chain is not None and not handover:
            await _leave(self.chain, self._replica, self._figures())
        await self._background.close()
        await self.journal.stop()

    async def _live(self) -> None:
        """Begin: until this node's chain goes on, or must not."""
        try:
            self.warnings = await verified(self.engine, self._config.name)
            await self._begin()
        except (objects.WrongEngine, NameTaken) as exc:
            self._refuse(str(exc))
        except (TooNew, Unreadable) as exc:
            self._refuse(f"the chain of node {self._config.node!r} cannot be read: {exc}")

    async def _begin(self) -> None:
        while True:
            try:
                epoch = self.fold.epoch or await find_epoch(self.engine, self._config.name, self._config.node)
                head = await Birth(self.engine, self._config, self._kept, self._replica, self._run).own_chain()
                break
            except EngineError as exc:
                log.warning("the engine cannot be asked: %s", exc)
                await asyncio.sleep(RETRY_S)
        kept = self._kept
        self._replica.slot = kept.slot or None
        kept.add_run(self._run)
        await self._save()
        prev = head.seq if head else 0
        same = head is not None and head.message.life == kept.life
        replicated = head.message.last if head is not None and same else kept.born
        identity = Identity(self._config.node, kept.life, self._run, frozenset(kept.runs), kept.born)
        state = Replicator(
            identity, epoch, prev, replicated, now_s(), lambda: os.urandom(wire.NONCE_BYTES - wire.RUN_BYTES)
        )
        self.chain = Chain(
            self.engine, self._config.name, self._replica, state, self, lambda: self.fold.applied,
            beat_s=self._config.beat_s, pace_s=self._config.pace,
        )  # fmt: skip
        if not kept.slot:  # nobody misses a node that has none: it looks first which is free
            self._background.spawn(self._read_on())
            await self.tail.caught_up.wait()
            kept.slot = self.fold.claims.next_slot
            self._say_up()
        else:
            self._say_up()
            self._background.spawn(self._read_on())
        await self.chain.run()

    def _say_up(self) -> None:
        assert self.chain is not None, "made before"
        up = wire.Up(
            self._kept.slot, __version__, wire.VERSION, self._url(), self._figures().room, self.configuration,
            self._config.dead_after, time.time_ns() // 1000, self._returned,
        )  # fmt: skip
        self._returned = None
        self.chain.say(wire.UP, wire.raw(up))

    async def _save(self) -> None:
        """Keep what a restart must know; while the disk takes nothing, that waits."""
        if self.chain is not None:
            self._kept.replicated = self.chain.state.replicated
        while True:
            try:
                await self._journal.save_cluster(_pack(self._kept), self._kept.replicated)
                return
            except JournalUnavailable as exc:
                log.error("the place in the cluster cannot be kept: %s", exc)
                await asyncio.sleep(SAVE_S)

    # Told by the chain

    def beat(self) -> wire.Beat:
        """Return how this node is."""
        figures = self._figures()
        return wire.Beat(figures.connections, figures.workers, figures.room, None, self.engine.url)

    async def rise(self) -> None:
        """This life is over. What its workers hold may be elsewhere: they end with the process, and the next start is a new life."""
        self._refuse("this node was declared lost: its connections may be open elsewhere")
        await asyncio.Event().wait()  # it ends us

    def refuse(self, reason: str) -> None:
        """This process must not go on."""
        self._refuse(reason)

    # Told by the fold, and looked at again and again

    def _read(self, message: Message) -> None:
        self.journal.epoch = self.fold.epoch
        now = now_s()
        state = self.fold.nodes[message.node]
        if message.kind == wire.LOST:
            self.judge.ended(message.node, message.life, Standing(state.over) if state.over else Standing.DEAD, now)
            return
        self.judge.heard(message.node, message.life, now)
        if message.kind == wire.UP and message.node == self._config.node and message.life == self._kept.life:
            if state.slot and state.slot == self._kept.slot:
                self._background.spawn(self._take_place())
            else:  # two began at once
                self._kept.slot = self.fold.claims.next_slot
                self._say_up()

    async def _read_on(self) -> None:
        await self.tail.run()
        if self.tail.too_new:
            self._refuse(self.tail.stopped)

    async def _take_place(self) -> None:
        if unlike := self.fold.unlike(self.node, self._config.dead_after):
            self._refuse(unlike)
            return
        await self._save()  # first: ids that were given out are never given out by another
        self._replica.slot = self._kept.slot
        self.placement.take(self._workers() | {default_worker(self.node)})
        self._ready.set()

    async def _watch(self) -> None:
        # Ends by cancellation, when the service stops.
        saved_at, saved = 0.0, -1
        while True:
            await asyncio.sleep(LOOK_S)
            chain, now = self.chain, now_s()
            if chain is None:
                continue
            state = chain.state
            self._mark.look(now, state.acked_seq, self.fold.applied)
            self.judge.look(now, state.acked_at, self._mark.fresh_at)
            if state.replicated >= self._replica.last:
                self._behind_since, self._unreplicated_bytes = None, 0
            else:
                self._behind_since = self._behind_since or now
                self._unreplicated_bytes = await self._replica.unreplicated_bytes(state.replicated)
            self._replica.full = self._unreplicated_bytes > self._half_bytes
            if state.replicated != saved and now - saved_at > SAVE_S and not self._replica.full:
                saved_at, saved = now, state.replicated
                await self._save()

    @property
    def ready(self) -> bool:
        """True once this node has its place in the log, and all that the log held then was read."""
        return self._ready.is_set() and self.tail.caught_up.is_set()

    @property
    def life(self) -> str:
        """The present life of this node."""
        return self._kept.life

    @property
    def unreplicated(self) -> tuple[int, int, float]:
        """Additions and bytes that the log has not acknowledged, and for how many seconds there have been some."""
        if self.chain is None:
            return self._replica.last - self._kept.replicated, 0, 0.0
        oldest_s = 0.0 if self._behind_since is None else now_s() - self._behind_since
        return max(0, self._replica.last - self.chain.state.replicated), self._unreplicated_bytes, oldest_s


def default_worker(node: str) -> str:
    """Return the worker of a create that names none."""
    return f"main-{node}"


def configuration_hash(*parts: object) -> str:
    """Return by what nodes' configurations are compared."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _say_failure(failure: str | None) -> None:
    if failure is None:
        log.warning("cluster.db can be written again")
    else:
        log.error("cluster.db cannot be written: %s", failure)


async def _leave(chain: Chain, replica: Replica, told: Figures) -> None:
    """End the life of `chain`, if all that was committed is in the log in time; else the next start goes on in it."""
    deadline = now_s() + STOP_S
    while now_s() < deadline and chain.state.replicated < replica.last:  # there is no event of it
        await asyncio.sleep(POLL_S)
    if chain.state.replicated < replica.last:
        return
    who = chain.state.identity
    lost = wire.Lost(who.life, who.node, 0, STOPPED, told.workers, told.connections, time.time_ns() // 1000)
    chain.say(wire.LOST, wire.raw(lost))
    while now_s() < deadline and chain.unsaid:
        await asyncio.sleep(POLL_S)
