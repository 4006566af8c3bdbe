"""This service as a member of a cluster: the only file outside `cluster/` that imports it, and imported only where `[cluster]` is configured."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mooring.background import Background
from mooring.errors import UnknownConnection
from mooring_service.asks import Asks
from mooring_service.cluster.barriers import barrier, reach_of, settled
from mooring_service.cluster.copy import Pair
from mooring_service.cluster.fold import FoldedAsk
from mooring_service.cluster.forward import Command, Headers, Reply
from mooring_service.cluster.keys import Keys
from mooring_service.cluster.node import Cluster, Figures, configuration_hash
from mooring_service.cluster.status import degraded, doubt_of, engine_failure, figures_of, record_of
from mooring_service.cluster_errors import EngineDown, NodeUnreachable
from mooring_service.cluster_records import ClusterFigures, ClusterRecord
from mooring_service.config import Config
from mooring_service.connections import Connections
from mooring_service.directory import Directory, Entry, keep_pruned
from mooring_service.everywhere import Everywhere
from mooring_service.feed import Feed
from mooring_service.inheriting import Inheriting
from mooring_service.journal.journal import Committed
from mooring_service.journal.replica import SLOT_STEP
from mooring_service.journal.sqlite import SqliteJournal

BARRIER_S = 1.0

log = logging.getLogger("mooring.cluster")


class Membership:
    """The node that this service is, and what the log tells of all.

    Attributes:
        directory: The connections of all nodes, as the log tells of them.
        feed: The events of all nodes.
        keys: What Idempotency-Keys stand for at all nodes.
    """

    def __init__(
        self,
        config: Config,
        journal: SqliteJournal,
        state_dir: Path,
        asks: Asks,
        figures: Callable[[], tuple[int, int, int]],
        workers: Callable[[], set[str]],
        refuse: Callable[[str], None],
        inheriting: Inheriting,
    ) -> None:
        tokens = sorted((name, token.hash, sorted(token.scopes)) for name, token in config.tokens.items())
        equal = tokens, config.cluster.dead_after, _secret_hash(config.cluster.secret_file)
        self._cluster = Cluster(
            config.cluster,
            config.journal,
            journal,
            state_dir,
            url=lambda: config.cluster.advertise or "",
            configuration=configuration_hash(*equal),
            figures=lambda: Figures(*figures()),
            workers=workers,
            on_folded=self._show,
            refuse=refuse,
            estate=inheriting,
        )
        self._inheriting = inheriting
        of_all = self._cluster.journal
        self._background = Background(log)
        self._asks, self._journal = asks, journal
        self.keys: Keys
        self.directory = Directory(config.retention.closed_connections, config.retention.closed_age, of_all.now_ms)
        inheriting.of_all = self.directory
        self.feed = Feed(of_all, ring_bytes=config.journal.ring_bytes, max_subscribers=config.limits.max_subscribers)

    def _show(self, committed: list[Committed]) -> None:
        self.directory.epoch = self._cluster.journal.epoch
        for one in committed:
            self.directory.fold(one)
        self.feed.publish(committed)

    def _take_asks(self, asks: list[FoldedAsk]) -> None:
        for ask in asks:
            here = (ask.node, ask.life) == (self.node, self._cluster.life)
            if ask.writer == self.node:
                self._asks.told(ask.number, here=here)
            elif here:
                self._asks.take(ask.worker, ask.ask)

    async def _settle_asks(self, numbers: list[int]) -> None:
        """Of what was asked for before this start, forget what the log has told before, or never will."""
        assert self._journal.replica is not None, "made with one"
        await settled(self._cluster, self._journal.replica.last)
        for number in numbers:
            self._asks.told(number, here=False)

    async def open(self, has_connections: bool, asks: list[int]) -> None:
        """Begin; see `Cluster.open`. `asks`: the numbers of what code in workers has asked for, and is not done yet."""
        cluster = self._cluster
        recovered = await cluster.open(has_connections=has_connections)
        cluster.tail.on_asks = self._take_asks  # nothing is read before the next wait
        self.keys = Keys(cluster.placement, self._journal, cluster.journal, cluster.fold, self.node)
        self.directory.recover(self._cluster.fold.epoch, recovered.connections)
        cluster.copies.records = cluster.tail.known = partial(_records, self.directory)
        self._background.spawn(keep_pruned(self.directory, cluster.journal))
        self._background.spawn(self._settle_asks(asks))
        self._cluster.placement.where = self._holder_of

    def recall(self) -> None:
        """Behind the adoption of workers: what stood Failed, as the nodes that ran it have died, does so again."""
        self._cluster.heirs.recall()

    async def stop(self, *, handover: bool) -> None:
        """End; see `Cluster.stop`."""
        self.feed.close()
        await self._background.close()
        await self._cluster.stop(handover=handover)

    async def barrier(self) -> None:
        """Wait until all that the log holds now is shown here.

        Raises:
            EngineDown: If that cannot be said, or takes too long.
        """
        await barrier(self._cluster, BARRIER_S)

    @property
    def node(self) -> str:
        """The name of this node."""
        return self._cluster.node

    def default_worker(self, node: str | None = None) -> str:
        """The worker of a create that names none, at a node (None: this one)."""
        return self._cluster.placement.default_worker if node in (None, self.node) else f"main-{node}"

    def locate(self, worker: str, node: str | None, name: str | None = None) -> None:
        """Check that this node is where something of a worker is to be begun; see `Placement.locate`."""
        self._cluster.placement.locate(worker, node, name)

    def holds(self, worker: str) -> bool:
        """Say whether this node has a worker; see `Placement.holds`."""
        return self._cluster.placement.holds(worker)

    async def hold(self, worker: str, *, anew: bool = False) -> bool:
        """Have this node hold a worker; see `Placement.hold`."""
        return await self._cluster.placement.hold(worker, anew=anew)

    async def hold_name(self, name: str) -> None:
        """Have this node hold a name; see `Placement.hold_name`."""
        await self._cluster.placement.hold_name(name)

    def release(self, worker: str) -> asyncio.Future[Any]:
        """Give a worker up; the future, which nobody need wait for, ends once that is committed."""
        return self._cluster.placement.release(worker)

    def holder_of_worker(self, worker: str) -> str | None:
        """Return which other node has a worker; None: this one, or none that lives."""
        return self._cluster.placement.holder_of(worker)

    @property
    def live_nodes(self) -> list[str]:
        """The other nodes that live, as far as the log tells."""
        return sorted(name for name, state in self._cluster.fold.nodes.items() if name != self.node and not state.over)

    def workers_of(self, node: str) -> list[str]:
        """Return which workers another node has, as the log tells."""
        placement, workers = self._cluster.placement, self._cluster.fold.claims.workers
        return sorted(name for name in workers if placement.holder_of(name) == node)

    def holder_of(self, connection: int) -> str | None:
        """Return which other node has a connection; None if this one has it, or nobody is known to.

        Raises:
            NodeUnreachable: If it is this one, which has not taken it over yet.
        """
        worker = self._worker_of(connection)
        held = None if worker is None else self._cluster.fold.claims.workers.get(worker)
        if held is not None and held.inherited and self._cluster.placement.is_mine(held):
            raise NodeUnreachable(self.node)
        node = self._holder_of(connection)
        return None if node == self.node else node

    def was_begun_elsewhere(self, connection: int) -> bool:
        """Say whether the id of a connection was given out by another node."""
        return self._cluster.fold.claims.slots.get(connection // SLOT_STEP) != self.node

    def _worker_of(self, connection: int) -> str | None:
        """Return the worker of a connection that has not ended, as the log tells."""
        try:
            entry = self.directory.entry(connection)
        except UnknownConnection:
            return None
        return None if entry.update.ended else entry.created.worker

    def _holder_of(self, connection: int) -> str | None:
        worker = self._worker_of(connection)
        if worker is not None:
            return self._node_of(worker, connection)
        node = self._cluster.fold.claims.slots.get(connection // SLOT_STEP)
        state = None if node is None else self._cluster.fold.nodes.get(node)
        return None if state is None or state.over else node

    def _node_of(self, worker: str, connection: int) -> str:
        claims = self._cluster.fold.claims
        held = claims.workers.get(worker)
        return held.node if held is not None else claims.slots.get(connection // SLOT_STEP, "")

    def _holds(self, worker: str) -> bool:
        held = self._cluster.fold.claims.workers.get(worker)
        return held is not None and self._cluster.placement.is_mine(held)

    @property
    def may_open(self) -> bool:
        """See `Cluster.may_open`."""
        return self._cluster.may_open

    def until(self, persists: Callable[[], bool]) -> float:
        """Until when a worker may hold its connections; see `Lease.until`."""
        return self._cluster.lease.until(self._cluster.chain, persists)

    def check(self, *, asked: bool = False) -> None:
        """Raise `EngineDown` while what this node held is another's, or may be; `asked`: another node asks for something of it."""
        if doubt := doubt_of(self._cluster, asked=asked):
            raise EngineDown(doubt)

    async def until_placed(self) -> None:
        """Wait until this node may open again what it has lost."""
        await self._cluster.placed.wait()

    async def forward(
        self, node: str, method: str, path: str, headers: Headers, body: bytes, deadline_s: float
    ) -> tuple[int, Headers, bytes]:
        """Have another node answer a request: status, headers, body.

        Raises:
            EngineDown, NodeUnreachable, NodeSilent: As they say.
        """
        reply = await self._cluster.forward.ask(node, method, path, headers, body, deadline_s)
        return reply.status, reply.headers, reply.body

    async def serve(self, run: Callable[[str, str, Headers, bytes], Awaitable[tuple[int, Headers, bytes]]]) -> None:
        """Have `run` answer what other nodes pass on: given method, path, headers, body."""

        async def reply(command: Command) -> Reply:
            return Reply(*await run(command.method, command.path, command.headers, command.body))

        await self._cluster.forward.serve(self._cluster.copies.beside(reply))

    async def shown(self, timeout_s: float) -> bool:
        """Wait until what was committed here can be read at every node; say whether it was in time."""
        return await self._cluster.shown(timeout_s)

    def reading(self, connections: Connections, own: Directory) -> Everywhere:
        """Return what is read at every node."""
        own.ended_elsewhere = partial(_ended, self.directory)
        workers = (lambda worker: worker in self._cluster.fold.claims.workers), self._holds, self._node_of
        return Everywhere(connections, own, self.directory, self.feed, *workers, partial(reach_of, self._cluster))

    @property
    def reason(self) -> str | None:
        """Why this node has no place in the cluster yet, or takes no creates there; None once it does."""
        if self._cluster.ready:
            return None
        return f"engine: {engine_failure(self._cluster) or 'the log is being read, or does not have yet that the default worker is here and what became of what it had'}"

    @property
    def degraded(self) -> list[str]:
        """What is not as it should be."""
        blocked = [f"worker {worker}: {why}" for worker, why in sorted(self._inheriting.blocked.items())]
        return [*degraded(self._cluster), *blocked]

    @property
    def record(self) -> ClusterRecord:
        """The cluster as this node sees it."""
        return record_of(self._cluster)

    @property
    def figures(self) -> ClusterFigures:
        """What metrics tell."""
        return figures_of(self._cluster)


def _ended(directory: Directory, connection: int) -> Entry | None:
    """Return a connection that has ended, as the log tells of it: whoever had it, its record is the same at every node."""
    try:
        entry = directory.entry(connection)
    except UnknownConnection:
        return None
    return entry if entry.update.ended else None


def _records(directory: Directory) -> Iterator[Pair]:
    after: int | None = 0
    while after is not None:
        entries, after = directory.select(None, None, after)
        for entry in entries:
            yield entry.created, entry.update


def _secret_hash(secret_file: str | None) -> str:
    """Return by what the nodes see that they have one secret; it was read at the start, or there is no service."""
    return "" if secret_file is None else hashlib.sha256(Path(secret_file).read_bytes().strip()).hexdigest()
