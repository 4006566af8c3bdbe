"""This service as a member of a cluster: the only file outside `cluster/` that imports it, and imported only where `[cluster]` is configured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from mooring.errors import UnknownConnection
from mooring_service.cluster.barriers import barrier
from mooring_service.cluster.forward import Command, Headers, Reply
from mooring_service.cluster.node import Cluster, Figures, configuration_hash
from mooring_service.cluster.status import degraded, engine_failure, figures_of, record_of
from mooring_service.cluster_errors import EngineDown, NodeUnreachable
from mooring_service.cluster_records import ClusterFigures, ClusterRecord
from mooring_service.config import Config
from mooring_service.connections import Connections
from mooring_service.directory import Directory
from mooring_service.everywhere import Everywhere
from mooring_service.feed import Feed
from mooring_service.inheriting import Inheriting
from mooring_service.journal.journal import Committed
from mooring_service.journal.replica import SLOT_STEP
from mooring_service.journal.sqlite import SqliteJournal

BARRIER_S = 1.0


class Membership:
    """The node that this service is, and what the log tells of all.

    Attributes:
        directory: The connections of all nodes, as the log tells of them.
        feed: The events of all nodes.
    """

    def __init__(
        self,
        config: Config,
        journal: SqliteJournal,
        state_dir: Path,
        figures: Callable[[], tuple[int, int, int]],
        workers: Callable[[], set[str]],
        refuse: Callable[[str], None],
        inheriting: Inheriting,
    ) -> None:
        tokens = sorted((name, token.hash, sorted(token.scopes)) for name, token in config.tokens.items())
        self._cluster = Cluster(
            config.cluster,
            config.journal,
            journal,
            state_dir,
            url=lambda: config.cluster.advertise or "",
            configuration=configuration_hash(tokens, config.cluster.dead_after),
            figures=lambda: Figures(*figures()),
            workers=workers,
            on_folded=self._show,
            refuse=refuse,
            estate=inheriting,
        )
        self._inheriting = inheriting
        of_all = self._cluster.journal
        self.directory = Directory(config.retention.closed_connections, config.retention.closed_age, of_all.now_ms)
        inheriting.of_all = self.directory
        self.feed = Feed(of_all, ring_bytes=config.journal.ring_bytes, max_subscribers=config.limits.max_subscribers)

    def _show(self, committed: list[Committed]) -> None:
        for one in committed:
            self.directory.fold(one)
        self.feed.publish(committed)

    async def open(self, *, has_connections: bool) -> None:
        """Begin; see `Cluster.open`."""
        recovered = await self._cluster.open(has_connections=has_connections)
        self.directory.recover(self._cluster.fold.epoch, recovered.connections)
        self._cluster.placement.where = self._holder_of

    async def stop(self, *, handover: bool) -> None:
        """End; see `Cluster.stop`."""
        self.feed.close()
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

    @property
    def default_worker(self) -> str:
        """The worker of a create that names none."""
        return self._cluster.placement.default_worker

    async def hold(self, worker: str) -> None:
        """Have this node hold a worker; see `Placement.hold`."""
        await self._cluster.placement.hold(worker)

    async def hold_name(self, name: str) -> None:
        """Have this node hold a name; see `Placement.hold_name`."""
        await self._cluster.placement.hold_name(name)

    async def release(self, worker: str) -> None:
        """Give a worker up."""
        await self._cluster.placement.release(worker)

    def holder_of_worker(self, worker: str) -> str | None:
        """Return which other node has a worker; None: this one, or none that lives."""
        return self._cluster.placement.holder_of(worker)

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

    def check(self) -> None:
        """Raise `EngineDown` while what this node held is another's, and it has no new place yet."""
        if self._cluster.own.over:
            raise EngineDown("this node was declared lost, and what it held ends")

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

        await self._cluster.forward.serve(reply)

    async def shown(self, timeout_s: float) -> bool:
        """Wait until what was committed here can be read at every node; say whether it was in time."""
        return await self._cluster.shown(timeout_s)

    def reading(self, connections: Connections, own: Directory) -> Everywhere:
        """Return what is read at every node."""
        return Everywhere(connections, own, self.directory, self.feed, self._holds, self._node_of, self.shown)

    @property
    def reason(self) -> str | None:
        """Why this node has no place in the cluster yet; None once it has one."""
        if self._cluster.ready:
            return None
        return f"engine: {engine_failure(self._cluster) or 'the log is being read'}"

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
