"""Parts of a node, put together as tests need them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mooring.events import Kind
from mooring.link.record import ConnectionUpdate
from mooring_service.cluster import objects
from mooring_service.cluster.engine import ASK_TIMEOUT_S, READ_TIMEOUT_S, Engine, EngineError, EngineSettings
from mooring_service.cluster.forward import Command, Reply
from mooring_service.cluster.node import Cluster, Figures
from mooring_service.cluster.objects import StreamSettings, bounds, stream_name
from mooring_service.cluster_config import ClusterConfig
from mooring_service.config import JournalConfig
from mooring_service.journal.batch import Append
from mooring_service.journal.journal import Committed
from mooring_service.journal.replica import Replica
from mooring_service.journal.sqlite import SqliteJournal
from tests.conftest import wait_for

THREE = StreamSettings(max_bytes=256 << 20)
ONE = StreamSettings(replicas=1, max_bytes=256 << 20)
# Not longer: what was asked of a server that has just come back may never be answered, and is asked again.
ANSWER_S = 15.0


class Patient(Engine):
    """The link of a test, which asks a busy machine: what a node waits for no longer than a second or two has its time."""

    async def ask(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None, timeout_s: float = ASK_TIMEOUT_S
    ) -> bytes:
        if timeout_s in (ASK_TIMEOUT_S, READ_TIMEOUT_S):
            timeout_s = ANSWER_S
        return await super().ask(subject, data, headers, timeout_s)


@contextlib.asynccontextmanager
async def running_engine(urls: list[str], node: str = "test", **settings: Any) -> AsyncIterator[Engine]:
    """An engine's link that is up, and ends with the block."""
    engine = Patient(EngineSettings(urls=urls, node=node, **settings))
    running = asyncio.create_task(engine.run())
    try:
        await asyncio.wait_for(engine.up.wait(), 60)
        yield engine
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class NoEstate:
    """Of a service without workers; `left`: of each worker something is left all the same."""

    left = False

    def is_left(self, worker: str) -> bool:
        return self.left

    def could_have(self, worker: str) -> bool:
        return True

    async def take(self, worker: str) -> bool:
        return False

    async def open(self, worker: str) -> None:
        pass

    def stand_failed(self, worker: str) -> None:
        pass

    async def go_on(self) -> None:
        pass

    async def open_blocked(self) -> None:
        pass

    async def end_all(self) -> None:
        pass


async def _nothing(command: Command) -> Reply:
    return Reply(404, [], b"")


class Node:
    """A node without workers: a journal, what it publishes, and what it reads of the log. Its additions are made by the test."""

    def __init__(
        self,
        folder: Path,
        name: str,
        cluster: str,
        urls: list[str],
        *,
        max_bytes: int = 4 << 30,
        shown: type[list[Committed]] = list,
        **settings: Any,
    ) -> None:
        self.journal_config = JournalConfig(max_bytes=max_bytes)
        self.name, self.folder = name, folder
        folder.mkdir(exist_ok=True)
        self.config = ClusterConfig(name=cluster, node=name, engine=urls, **{"dead_after": 5.0, **settings})
        self.shown = shown()
        self.estate = NoEstate()
        self.refusals: list[str] = []
        self.sequences: dict[int, int] = {}  # by connection, of its last event

    async def start(self, *, has_connections: bool = False) -> Node:
        path = self.folder / "journal.db"
        self.journal = SqliteJournal(path, self.journal_config, replica=Replica(path))
        await self.journal.start(lambda _: None, lambda _: None)
        self.cluster = Cluster(
            self.config, self.journal_config, self.journal, self.folder,
            url=lambda: f"http://{self.name}", configuration="same", figures=lambda: Figures(len(self.sequences), 1, 1_000),
            workers=set, on_folded=self.shown.extend, refuse=self.refusals.append, estate=self.estate,
        )  # fmt: skip
        await self.cluster.open(has_connections=has_connections)
        await self.cluster.forward.serve(self.cluster.copies.beside(_nothing))
        return self

    async def ready(self) -> Node:
        await wait_for(lambda: self.cluster.ready or self.refusals, 90, f"{self.name} has its place")
        assert not self.refusals
        return self

    async def stop(self, *, handover: bool = False) -> None:
        await self.cluster.stop(handover=handover)
        await self.journal.stop()

    async def open_connection(self) -> int:
        return await self.journal.allot_ids(1)

    def commit(self, connection: int, count: int = 1, *, size: int = 100) -> None:
        """Add events of one connection, the first of which is its open, to the journal."""
        first = self.sequences.get(connection, 0) + 1
        self.sequences[connection] = first + count - 1
        bodies = [b'{"seq":%d,"data":"%s"}' % (seq, b"x" * size) for seq in range(first, first + count)]
        kinds = [Kind.onOpen if seq == 1 else Kind.onMessage for seq in range(first, first + count)]
        self.journal.append(
            Append(
                worker=f"main-{self.name}",
                connections=connection.to_bytes(8, "little") * count,
                kinds=bytes(kinds),
                bodies=b"\n".join(bodies),
                updates=[ConnectionUpdate(connection, "Connected", seq=first + count - 1)],
            )
        )

    def ids(self) -> list[tuple[int, int, bytes]]:
        """Every event that was shown: position, connection, body."""
        found: dict[int, tuple[int, int, bytes]] = {}
        for one in self.shown:
            batch = one.batch
            if batch is not None and batch.first not in found:
                for at, body in enumerate(batch.bodies):
                    found[batch.first + at] = (batch.first + at, batch.connections[at], body)
        return [found[position] for position in sorted(found)]

    @property
    def replicated(self) -> bool:
        """Is all that was committed acknowledged?"""
        chain, replica = self.cluster.chain, self.journal.replica
        return (
            chain is not None
            and replica is not None
            and chain.state.replicated == replica.last
            and not self.journal.queued_bytes
        )


@contextlib.asynccontextmanager
async def running_nodes(
    folder: Path, cluster: str, urls: list[str], names: str = "abc", **settings: Any
) -> AsyncIterator[dict[str, Node]]:
    """Nodes that have their places, on a log of their own."""
    async with running_engine(urls) as engine:
        await objects.create(engine, cluster, THREE)
    nodes = {name: Node(folder / name, name, cluster, urls, **settings) for name in names}
    try:
        for node in nodes.values():
            await node.start()
        for node in nodes.values():
            await node.ready()
        yield nodes
    finally:
        for node in nodes.values():
            await node.stop(handover=True)


async def settled(nodes: dict[str, Node], timeout_s: float = 90.0) -> None:
    """Wait until everything is acknowledged, and read everywhere."""
    await wait_for(lambda: all(node.replicated for node in nodes.values()), timeout_s, "all is acknowledged")
    top = max(node.cluster.chain.state.acked_seq for node in nodes.values())
    await wait_for(lambda: all(node.cluster.fold.applied >= top for node in nodes.values()), timeout_s, "all is read")
    await wait_for(
        lambda: not any(node.cluster.journal.queued_bytes for node in nodes.values()), timeout_s, "all is shown"
    )


async def forget_all(engine: Engine, cluster_name: str) -> None:
    """Have the log drop all that it holds, as it does by itself with what is too old."""
    stream = stream_name(cluster_name)
    config = (await engine.api(f"STREAM.INFO.{stream}", timeout_s=20))["config"]
    await engine.api(f"STREAM.UPDATE.{stream}", {**config, "max_age": 10**8, "duplicate_window": 10**8}, timeout_s=20)

    async def is_empty() -> bool:
        try:
            first, last = await bounds(engine, cluster_name)
        except EngineError:
            return False
        return first == last + 1

    await wait_for(is_empty, 60)
    await engine.api(f"STREAM.UPDATE.{stream}", config, timeout_s=20)
