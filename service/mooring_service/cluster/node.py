"""This service as a node of a cluster: puts the room together, begins and ends a life. All that `Service` knows of a cluster.

Order of a start: the journal and what it keeps for the cluster; the link and the stream; the epoch; the own chain, which says how to begin;
`up`; and only then the rest. None of it keeps the service from serving what it holds; a mistake that waiting does not mend ends it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from mooring.background import Background
from mooring.version import __version__
from mooring_service.cluster import message as wire
from mooring_service.cluster import objects
from mooring_service.cluster.backlog import Backlog
from mooring_service.cluster.birth import Birth, NameTaken, verified
from mooring_service.cluster.chain import Chain, now_s
from mooring_service.cluster.copies import Copies
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.fold import Fold, NodeState
from mooring_service.cluster.forward import Forward
from mooring_service.cluster.heirs import Estate, Heirs
from mooring_service.cluster.lease import Lease
from mooring_service.cluster.lifetimes import Verdicts, leave
from mooring_service.cluster.lives import Judge, Mark, Standing
from mooring_service.cluster.message import Message, TooNew, Unreadable
from mooring_service.cluster.own_life import OwnLife
from mooring_service.cluster.placement import Placement
from mooring_service.cluster.tail import Tail
from mooring_service.cluster_config import ClusterConfig
from mooring_service.config import JournalConfig
from mooring_service.journal.journal import Committed, Recovered
from mooring_service.journal.sparse import SparseJournal
from mooring_service.journal.sqlite import SqliteJournal

SHOWN_S = 2.0
LOOK_S = 0.25
NO_LIMIT = 1 << 60

log = logging.getLogger("mooring.cluster")


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
        estate: What nodes' workers leave, and what this service does with it.
        on_folded: Takes what the log has added to `cluster.db`, in its order.
        refuse: Ends this process: what waiting does not mend.

    Attributes:
        placed: Set while this node has its place, and all is read that the log had of it: only then something is opened again.
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
        estate: Estate,
    ) -> None:
        assert journal.replica is not None, "made with one"
        self._config, self._journal = config, journal
        self._replica = journal.replica
        self.backlog = Backlog(journal.replica, journal_config.max_bytes)
        self.name, self.node, self.configuration = config.name, config.node, configuration
        self._url, self._figures, self._workers = url, figures, workers
        self._on_folded, self.refuse, self._estate = on_folded, refuse, estate
        # Positions have holes, so they count no events: what is kept of the log is bounded by size and age.
        self.journal = SparseJournal(
            state_dir / "cluster.db", msgspec.structs.replace(journal_config, max_events=NO_LIMIT)
        )
        self.engine = Engine(objects.engine_settings(config))
        self._background = Background(log)
        now = now_s()
        self._mark = Mark(now)
        self.lease = Lease(config)
        self.judge = Judge(config.node, self.lease.timers, now)
        self.own: OwnLife
        self.fold: Fold
        self.tail: Tail
        self.forward: Forward
        self.copies: Copies
        self.placement: Placement
        self.heirs: Heirs
        self.verdicts: Verdicts
        self.chain: Chain | None = None
        self.placed = asyncio.Event()
        self._leaving = False

    async def open(self, *, has_connections: bool) -> Recovered:
        """Look at what is kept of the cluster, and open `cluster.db`, whose records are returned; everything else goes on behind it.

        Raises:
            ClusterRefused: If this state directory cannot be a node of this cluster.
            JournalUnavailable: If `cluster.db` cannot be opened.
        """
        ways = self._estate.end_all, self.backlog.lifted
        self.own = OwnLife(self.name, self.node, self._journal, *ways, has_connections=has_connections)
        recovered = await self.journal.start(self._on_folded, _say_failure)
        self.fold = Fold(self.journal.folded)
        self.fold.on_message = self._read
        self.tail = Tail(self.engine, self._config.name, self.fold, self.journal)
        self.journal.epoch = self.fold.epoch or self.journal.epoch
        self.placement = Placement(
            self.engine, self._journal, self.fold, self.node, lambda: "" if self.own.over else self.life
        )
        self.forward = Forward(self.engine, self.name, self.node, self.fold, self._background)
        self.copies = Copies(self.engine, self._config, self.fold, self.journal)
        self.tail.find_copy, self.tail.on_crossed = self.copies.find, self._crossed
        self.verdicts = Verdicts(self.engine, self.name, self.node, self.fold, self.judge, self._background)
        heir = self.fold, self.placement, self._journal, self._estate
        self.heirs = Heirs(*heir, self.node, self.shown, self._background)
        self.verdicts.hear_all(now_s())
        self._background.spawn(self.engine.run())
        self._background.spawn(_live(self.engine, self.name, self._begin, self.refuse))
        self._background.spawn(self._watch())
        self._background.spawn(self.backlog.watch(lambda: self.replicated, self.own.keep))
        return recovered

    async def stop(self, *, handover: bool) -> None:
        """End it. In order, with all that was committed in the log, this life ends with it: the others need not wait for that."""
        self._leaving = True
        if self.chain is not None and not handover:
            now = self._figures()
            await leave(self.chain, self._replica, lambda: self.heirs.busy, now.workers, now.connections)
        await self._background.close()
        await self.journal.stop()

    async def _begin(self) -> None:
        kept = self.own.kept
        birth = Birth(self.engine, self._config, kept, self._replica, self.own.run, self.fold)
        head = await birth.find()
        if birth.over or birth.behind or (head is not None and head.message.kind == wire.LOST):
            await self.own.follow(head, replicated=kept.replicated, slot=0 if birth.behind else kept.slot)
        else:
            kept.add_run(self.own.run)
        self._replica.slot = kept.slot or None
        replicated = head.message.last if head is not None and head.message.life == kept.life else kept.born
        await self.own.save(replicated)
        state = self.own.replicator(birth.epoch, head.seq if head else 0, replicated)
        self.chain = Chain(
            self.engine, self._config.name, self._replica, state, self, lambda: self.fold.applied,
            beat_s=self._config.beat_s, pace_s=self._config.pace,
        )  # fmt: skip
        if not kept.slot:  # nobody misses a node that has none: it looks first which is free
            self._background.spawn(_read_on(self.tail, self.refuse))
            await self.tail.caught_up.wait()
            kept.slot = self.fold.claims.next_slot
            self._say_up()
        else:
            self._say_up()
            self._background.spawn(_read_on(self.tail, self.refuse))
        await self.chain.run()

    def _say_up(self) -> None:
        assert self.chain is not None, "made before"
        up = wire.Up(
            self.own.kept.slot, __version__, wire.VERSION, self._url(), self._figures().room, self.configuration,
            self._config.dead_after, time.time_ns() // 1000, self.own.returned,
        )  # fmt: skip
        self.own.returned = None
        self.chain.say(wire.UP, wire.raw(up))

    def beat(self) -> wire.Beat:
        """Return how this node is."""
        figures = self._figures()
        return wire.Beat(figures.connections, figures.workers, figures.room, None, self.engine.url)

    async def rise(self) -> None:
        """This life is over: what its workers hold may be open elsewhere. All of it ends, and a new life begins."""
        assert self.chain is not None, "told by it"
        if self._leaving:
            await asyncio.Event().wait()  # it ends us
        self.own.over = True
        self.own.has_slot = False
        self.placed.clear()
        log.error("this node was declared lost: its connections may be open elsewhere, and end here")
        head = await self.own.give_up(self.engine, self.name, self.fold, self.chain.state)
        self.chain.begin(self.own.identity, head.seq if head else 0)
        await self.own.save(self.chain.state.replicated)
        self._say_up()

    # Told by the fold, and looked at again and again

    def _read(self, message: Message) -> None:
        self.journal.epoch = self.fold.epoch
        state = self.fold.nodes[message.node]
        if message.kind == wire.LOST:
            self.judge.ended(message.node, message.life, Standing(state.over) if state.over else Standing.DEAD, now_s())
            if message.node == self.node and message.life == self.life and self.chain is not None and not self._leaving:
                self.chain.say(wire.BEAT, wire.raw(self.beat()))  # the conflict tells the chain
            return
        self.judge.heard(message.node, message.life, now_s())
        if message.kind == wire.UP and message.node == self.node and message.life == self.life:
            self._is_up(state)

    def _crossed(self) -> None:
        """What messages would have told of the nodes, a copy may have."""
        self.verdicts.hear_all(now_s())
        own = self.fold.living(self.node, self.life)
        if own is not None and not self.own.has_slot:
            self._is_up(own)

    def _is_up(self, state: NodeState) -> None:
        if state.slot and state.slot == self.own.kept.slot:
            self._background.spawn(self._take_place())
        else:  # two began at once; and ids of a slot that is another's are given out no more
            self._replica.slot = None
            self.own.kept.slot = self.fold.claims.next_slot
            self._say_up()

    async def _take_place(self) -> None:
        if unlike := self.fold.unlike(self.node, self._config.dead_after):
            self.refuse(unlike)
            return
        assert self.chain is not None, "it has said so"
        life = self.life
        # First: ids that were given out are never given out by another.
        await self.own.save(self.chain.state.replicated)
        if not self.own.goes_on(life):
            return  # the next one takes its own place
        self._replica.slot = self.own.kept.slot
        self.own.has_slot = True
        while self.own.goes_on(life):
            await self.placement.take(self._workers())
            claimed = self._replica.last
            await self.tail.caught_up.wait()
            while self.own.goes_on(life) and not await self.shown(SHOWN_S, claimed):
                await asyncio.sleep(LOOK_S)
            if self.placement.holder_of(self.placement.default_worker) is None:
                break  # else another node was faster: the next name
        if self.own.goes_on(life):
            self.heirs.recall()
            self.placed.set()

    @property
    def replicated(self) -> int:
        """Up to which addition nothing waits for the log any more; see `OwnLife.replicated`."""
        return self.own.replicated(None if self.chain is None else self.chain.state)

    async def shown(self, timeout_s: float, addition: int = 0) -> bool:
        """Wait until what was committed here, all or up to `addition`, is shown here as part of the log; say whether it was in time."""
        if (chain := self.chain) is None or not self.engine.up.is_set():
            return False
        addition, until = addition or self._replica.last, now_s() + timeout_s
        seq = await chain.reach(addition, timeout_s)
        # Where its life is over by then, what of that was not published never will be.
        is_over = 0 < addition <= chain.state.identity.born
        return seq is not None and not is_over and await self.tail.reach(seq, max(0.0, until - now_s()))

    async def _watch(self) -> None:
        # Ends by cancellation, when the service stops. It waits for nobody: else the lease takes that for a process that stood still.
        while True:
            await asyncio.sleep(LOOK_S)
            chain, now = self.chain, now_s()
            self.lease.look(now, now if chain is None else chain.state.acked_at)
            if chain is None:
                continue
            state = chain.state
            if self.lease.may_again(self.may_open):
                self._background.spawn(self._estate.go_on())
            self._mark.look(now, state.acked_seq, self.fold.applied)
            self.judge.look(now, state.acked_at, self._mark.fresh_at)
            if self.placed.is_set() and not self._leaving:
                self.verdicts.look(now)
                self.heirs.look(now, fit=self.judge.fit_since is not None)

    @property
    def ready(self) -> bool:
        """True once this node has its place in the log, its own workers in it, all that the log held then was read, and creates are taken."""
        return self.placed.is_set() and self.tail.caught_up.is_set() and self.placement.takes_creates

    @property
    def may_open(self) -> bool:
        """True while nobody else can have taken what this node holds for left: it may open what it has lost."""
        return self.placed.is_set() and self.lease.holds(self.chain)

    @property
    def life(self) -> str:
        """The present life of this node."""
        return self.own.kept.life


async def _live(
    engine: Engine, cluster: str, begin: Callable[[], Awaitable[None]], refuse: Callable[[str], None]
) -> None:
    """Begin: until this node's chain goes on, or must not."""
    try:
        await verified(engine, cluster)
        await begin()
    except (objects.WrongEngine, NameTaken) as exc:
        refuse(str(exc))
    except (TooNew, Unreadable) as exc:
        refuse(f"the chain of this node cannot be read: {exc}")


async def _read_on(tail: Tail, refuse: Callable[[str], None]) -> None:
    await tail.run()
    if tail.too_new:
        refuse(tail.stopped)


def configuration_hash(*parts: object) -> str:
    """Return by what nodes' configurations are compared."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _say_failure(failure: str | None) -> None:
    if failure is None:
        log.warning("cluster.db can be written again")
    else:
        log.error("cluster.db cannot be written: %s", failure)
