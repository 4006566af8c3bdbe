"""What becomes of a node's connections when it dies, stops or returns: told once, and opened again elsewhere if they persist."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mooring_service.cluster import objects
from tests.cluster_kit.checker import Row, check
from tests.cluster_kit.nodes import THREE, running_engine
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer

PERSIST = {"reconnect": {"persist": True, "minDelay": 0.05, "maxDelay": 0.5}}
FOUND_S = 60.0  # a deadline, not a figure: `dead_after` is 5, and the machine may be busy

Begin = Callable[..., Any]


class Nodes:
    """Services of one cluster, by name."""

    def __init__(self, folder: Path, cluster: str, servers: EngineServers) -> None:
        self.folder, self.cluster, self.servers = folder, cluster, servers
        self.all: dict[str, RunningService] = {}

    async def begin(self, names: str, **settings: Any) -> list[RunningService]:
        """Start services that are nodes, and wait until they have their places."""
        found = [self._make(name, settings) for name in names]
        await asyncio.gather(*(service.start() for service in found))
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in found))
        return found

    def _make(self, name: str, settings: dict[str, Any]) -> RunningService:
        path = self.folder / f"{name}.toml"
        own = {"name": self.cluster, "node": name, "engine": self.servers.urls, "dead_after": 5, **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        path.write_text("\n".join(["[cluster]", *lines, ""]))
        service = self.all[name] = RunningService(self.folder / name, "--config", str(path))
        return service

    async def check(self, *, given_up: str = "") -> list[Row]:
        """Check the law of the log in what there is now, once every node that lives has read it."""
        living = [service for service in self.all.values() if service.process.poll() is None]

        async def all_is_read() -> bool:
            told = [await service.get("/v1/cluster") for service in living]
            return not any(one["unreplicated"]["additions"] for one in told)

        await wait_for(all_is_read, FOUND_S)
        for service in living:
            await service.stop()
        names = [name for name, service in self.all.items() if service in living]
        # They have stopped one after the other, so none has read all that the last ones have said.
        async with running_engine(self.servers.urls) as engine:
            return await check(
                engine, self.cluster, {name: self.folder / name for name in names},
                given_up=frozenset(given_up), partial=True,
            )  # fmt: skip


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[Nodes]:
    async with running_engine(servers.urls) as engine:
        await objects.create(engine, cluster_name, THREE)
    found = Nodes(tmp_path, cluster_name, servers)
    try:
        yield found
    finally:
        for service in found.all.values():
            await service.clean_up()


async def kill(service: RunningService) -> None:
    """Kill a whole node: the service, and the processes of its workers."""
    workers = service.worker_pids()
    await service.kill()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


async def all_events(service: RunningService, path: str = "/v1/events") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = "start"
    while True:
        page = await service.get(f"{path}?after={after}&limit=1000")
        if not page["events"]:
            return found
        found += page["events"]
        after = page["next"]


async def opened_at(service: RunningService, connection: int, node: str, *, again: int = 1) -> dict[str, Any]:
    """Wait until a connection was opened `again` at a node, as another service tells."""

    async def is_open() -> Any:
        path = f"/v1/connections/{connection}"
        page = await service.get(f"{path}/events?after=start&limit=1000&kind=onReconnect")
        record = await service.get(path)
        return record if (record["node"], record["status"], len(page["events"])) == (node, "Connected", again) else None

    return await wait_for(is_open, FOUND_S, f"{connection} is open at {node}")


async def test_what_a_killed_node_held_is_told_once_and_what_persists_is_open_elsewhere(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab")
    async with EchoServer() as echo:
        kept = (await a.open(echo.url, name="kept", **PERSIST))["id"]
        plain = (await a.open(echo.url))["id"]
        other = (await a.open(echo.url, worker="other"))["id"]
        for number in range(10):
            await a.send(kept, b"%d" % number)
            await a.send(plain, b"%d" % number)
        await b.get(f"/v1/connections/{other}")
        await kill(a)
        assert (await opened_at(b, kept, "b"))["worker"] == "main-a"
        assert (await b.send(kept, b"again"))["sent"] == 1
        assert (await b.get("/v1/connections/kept"))["id"] == kept

        async def is_told() -> bool:
            records = [await b.get(f"/v1/connections/{one}") for one in (plain, other)]
            return [record["status"] for record in records] == ["Closed", "Closed"]

        await wait_for(is_told, FOUND_S)
        events = await all_events(b)
        of_kept = [event for event in events if event.get("connection") == kept]
        assert [event["seq"] for event in of_kept] == list(range(1, len(of_kept) + 1))
        (down,) = [event["event"] for event in of_kept if event["kind"] == "onDisconnect"]
        assert (down["cause"], down["code"]) == ("nodeLost", 1006)
        assert [error["errCode"] for error in down["errors"]] == [305]
        (back,) = [event["event"] for event in of_kept if event["kind"] == "onReconnect"]
        assert back["restarted"]
        for one in (plain, other):
            kinds = [event["kind"] for event in events if event.get("connection") == one]
            assert kinds[-2:] == ["onError", "onTerminate"] and kinds.count("onTerminate") == 1
        (lost,) = [event["event"] for event in events if event["kind"] == "nodeLost"]
        assert (lost["node"], lost["by"]) == ("a", "b")
        assert lost["silentMs"] >= 5_000
        assert (await b.get("/v1/cluster"))["nodes"][0]["status"] == "Dead"
        await b.get("/v1/workers/main-a")
        await b.get("/v1/workers/other", 404)

        # It returns with its directory: a new life, in which nothing of the old one goes on.
        await a.start()
        await wait_for(a.is_ready, FOUND_S)
        returned = [event["event"] for event in await all_events(b) if event["kind"] == "nodeReturned"]
        assert [one["life"] for one in returned] == [lost["life"]]
        assert (await a.get(f"/v1/connections/{kept}"))["node"] == "b"
        assert (await a.send(kept, b"from a"))["sent"] == 1
        fresh = await a.open(echo.url)
        assert (fresh["worker"], fresh["node"]) == ("main-a-2", "a")
        assert [one["id"] for one in (await a.get("/v1/connections?status=Connected"))["connections"]] == sorted(
            [kept, fresh["id"]]
        )
    await nodes.check(given_up="a")
