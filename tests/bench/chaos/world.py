"""What a run has to do with: three services that are nodes, their ways to the engine, and the load on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from mooring_service.cluster import objects
from tests.bench.chaos.feed import Feed
from tests.bench.chaos.reader import Reader
from tests.bench.chaos.rest import SETTLE_S, until_equal
from tests.cluster_kit import services
from tests.cluster_kit.nodes import THREE, running_engine
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import PERSIST, stop_whole
from tests.conftest import RunningService, wait_for

NAMES = "abc"
CONNECTIONS, RATE = 240, 3_000
OPENS = 16  # at once


class World:
    """The nodes of one run, what was done to them, and what is expected.

    Args:
        chosen: What is random in the run.
        dead_after: Of `[cluster]`; the faults last as it says.
        max_age: How many seconds the log keeps; None: as ever.

    Attributes:
        running: Names of the nodes that are meant to run.
        replaced: Names of those whose state directory is not the one that it was.
        began: When the last fault began, of which takeovers are to follow (`time.time`).
        exact: The heir of `heir` was killed with the ends committed and unpublished.
    """

    def __init__(
        self,
        folder: Path,
        servers: EngineServers,
        cluster: str,
        chosen: random.Random,
        *,
        dead_after: float,
        unsure: str,
        rate: float = RATE,
        connections: int = CONNECTIONS,
        max_age: float | None = None,
    ) -> None:
        self.folder, self.servers, self.cluster, self.chosen = folder, servers, cluster, chosen
        self.dead_after, self.unsure, self.connections, self.max_age = dead_after, unsure, connections, max_age
        self.nodes = services.Nodes(folder, cluster, servers)
        self.feed = Feed(rate)
        self.running: set[str] = set()
        self.replaced: set[str] = set()
        self.kept: set[int] = set()
        self.began = 0.0
        self.exact = False
        self._ways: dict[str, Proxies] = {}
        self._opened = 0

    @contextlib.asynccontextmanager
    async def begun(self) -> AsyncIterator[Reader]:
        """Everything runs, and is under load; all of it ends with the block."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._clean_up)
            async with running_engine(self.servers.urls) as engine:
                keeps = THREE if self.max_age is None else msgspec.structs.replace(THREE, max_age_s=self.max_age)
                await objects.create(engine, self.cluster, keeps)
            for name in NAMES:
                self._ways[name] = Proxies(self.servers.ports)
            await asyncio.gather(*(self._begin(name) for name in NAMES))
            await stack.enter_async_context(self.feed)
            await self.fill(persist=True)
            await wait_for(lambda: self.feed.open_count == self.connections, SETTLE_S, "all are open")
            await until_equal(self.alive, self.feed, self.kept)
            self.feed.flowing.set()
            yield await stack.enter_async_context(Reader(lambda: list(self.alive.values()), self.chosen))

    async def _begin(self, name: str) -> None:
        settings = {"engine": self._ways[name].urls, "dead_after": self.dead_after, "unsure": self.unsure}
        await self.nodes.begin(name, **settings)
        self.running.add(name)

    async def _clean_up(self) -> None:
        for service in self.nodes.all.values():
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(signal.SIGKILL)
        for service in self.nodes.all.values():
            await service.clean_up()
        for way in self._ways.values():
            way.close()

    @property
    def alive(self) -> dict[str, RunningService]:
        """The services that are meant to run, by name."""
        return {name: self.nodes.all[name] for name in sorted(self.running)}

    # What faults are made of

    def after(self, seconds: float) -> float:
        """Return a time that was chosen for nodes that are missed after 15 s, as long as `dead_after` makes it."""
        return seconds * self.dead_after / 15

    async def rest(self, least: float, most: float | None = None) -> None:
        """Sleep for `after` of so many seconds, or of something between."""
        await asyncio.sleep(self.after(least if most is None else self.chosen.uniform(least, most)))

    def one(self, *others: str) -> str:
        """Choose a node that runs, and is none of these."""
        return self.chosen.choice(sorted(self.running - set(others)))

    def mark(self) -> None:
        """A fault begins."""
        self.began = time.time()

    async def kill(self, name: str) -> None:
        """Kill a service and the processes of its workers."""
        self.running.discard(name)
        await services.kill(self.nodes.all[name])

    async def kill_service(self, name: str) -> None:
        """Kill a service alone: its workers go on."""
        self.running.discard(name)
        await self.nodes.all[name].kill()

    async def start(self, *names: str) -> None:
        """Start nodes again, and wait until they have their places."""
        found = [self.nodes.all[name] for name in names]
        await asyncio.gather(*(service.start() for service in found))
        self.running.update(names)
        await asyncio.gather(*(self.until_ready(name) for name in names))

    async def until_ready(self, name: str) -> None:
        """Wait until a node serves everything."""
        service = self.nodes.all[name]
        await wait_for(service.is_ready, SETTLE_S, f"{name} is ready")

    def freeze(self, name: str) -> list[int]:
        """Stop all processes of a node; return them."""
        self.running.discard(name)
        return stop_whole(self.nodes.all[name])

    async def thaw(self, name: str, pids: list[int]) -> None:
        """Have a node go on."""
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.running.add(name)
        await self.until_ready(name)

    def way(self, name: str) -> Proxies:
        """Return the way of a node to the engine."""
        return self._ways[name]

    def log_size(self, name: str) -> int:
        """Return how much a service has logged."""
        path = self.nodes.all[name].log_path
        return path.stat().st_size if path.exists() else 0

    def said(self, name: str, since: int, *texts: str) -> bool:
        """Say whether a service has logged one of these behind `since`."""
        path = self.nodes.all[name].log_path
        with path.open("rb") as file:
            file.seek(since)
            found = file.read().decode(errors="replace")
        return any(text in found for text in texts)

    async def slot(self, name: str) -> int:
        """Return from which slot a node gives out ids."""
        told = await self.nodes.all[name].get("/v1/cluster")
        return next(int(one["slot"]) for one in told["nodes"] if one["name"] == name)

    async def fill(self, *, persist: bool = False) -> None:
        """Open connections at the nodes that run, in turns and at two workers of each, until all sockets are there; every other one persists if `persist`."""
        missing = max(0, self.connections - self.feed.open_count)
        turns = asyncio.Semaphore(OPENS)

        async def open_one(number: int) -> None:
            name = sorted(self.running)[number % len(self.running)]
            service = self.nodes.all[name]
            again = number // len(NAMES)
            options: dict[str, Any] = PERSIST if persist and again % 2 else {}
            if again % 4 >= 2:
                options = {**options, "worker": f"second-{name}"}
            async with (
                turns,
                service.client.post("/v1/connections", json={"url": f"{self.feed.url}{number}", **options}) as response,
            ):
                told = await response.json()
                if response.status == 201 and persist and again % 2:
                    self.kept.add(told["id"])
                assert response.status == 201 or not persist, told

        first, self._opened = self._opened, self._opened + missing
        await asyncio.gather(*(open_one(number) for number in range(first, first + missing)))
