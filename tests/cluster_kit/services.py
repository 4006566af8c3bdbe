"""Services that are nodes of one cluster, as their users start them, and what tests ask of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from mooring_service.cluster import message as wire
from tests.cluster_kit.checker import Row, check, cut_short, read_log
from tests.cluster_kit.nodes import running_engine
from tests.cluster_kit.running import DEAD_AFTER_S, RunningNode
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer

PERSIST = {"reconnect": {"persist": True, "minDelay": 0.05, "maxDelay": 0.5}}
FOUND_S = 60.0  # a deadline, not a figure: `dead_after` is seconds, and the machine may be busy


class Nodes:
    """Services of one cluster, by name; `options`: of their command line."""

    def __init__(self, folder: Path, cluster: str, servers: EngineServers) -> None:
        self.folder, self.cluster, self.servers = folder, cluster, servers
        self.options: list[str] = []
        self.all: dict[str, RunningNode] = {}

    async def begin(self, names: str, beside: str = "", **settings: Any) -> list[RunningNode]:
        """Start services that are nodes, and wait until they have their places; `beside`: what else their configuration says."""
        found = [self._make(name, settings, beside) for name in names]
        await asyncio.gather(*(service.start() for service in found))
        await asyncio.gather(*(wait_for(service.is_ready, FOUND_S) for service in found))
        return found

    def _make(self, name: str, settings: dict[str, Any], beside: str) -> RunningNode:
        path = self.folder / f"{name}.toml"
        own = {"name": self.cluster, "node": name, "engine": self.servers.urls, "dead_after": DEAD_AFTER_S, **settings}
        lines = [f"{key} = {json.dumps(value)}" for key, value in own.items()]
        path.write_text("\n".join(["[cluster]", *lines, beside, ""]))
        service = self.all[name] = RunningNode(self.folder / name, "--config", str(path), *self.options)
        return service

    async def check(self, *, given_up: str = "", replaced: str = "", cut: bool = False) -> list[Row]:
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
                given_up=frozenset(given_up) | await cut_short(engine, self.cluster, names), partial=True, replaced=frozenset(replaced), cut=cut,
            )  # fmt: skip


async def kill(service: RunningService) -> None:
    """Kill a whole node: the service, and the processes of its workers."""
    await service.kill_all()


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


async def until_told(service: RunningService, kind: str, node: str, count: int = 1) -> dict[str, Any]:
    """Wait until so many events say something of a node; return the last."""

    async def is_told() -> Any:
        page = await service.get(f"/v1/events?after=start&limit=1000&kind={kind}")
        found = [event["event"] for event in page["events"] if event["event"]["node"] == node]
        return found[-1] if len(found) == count else None

    return await wait_for(is_told, FOUND_S, f"{kind} of {node}")


async def until_status(
    service: RunningService, connection: int, status: str, *, at_once: bool = True
) -> dict[str, Any]:
    """Wait until a node says so of a connection: whom it asks may not answer within a second, and of the log it may have read less.

    Such an answer is `stale`, and it alone may say something else; `at_once`: False where it may still come to that.
    """

    async def is_so() -> dict[str, Any] | None:
        record: dict[str, Any] = await service.get(f"/v1/connections/{connection}")
        assert not at_once or record.get("stale") or record["status"] == status, record
        return record if record["status"] == status else None

    found: dict[str, Any] = await wait_for(is_so, FOUND_S, f"{connection} is {status}")
    return found


async def until_stats(service: RunningService, connection: int, **stats: int) -> None:
    """Likewise of what it has counted."""

    async def is_so() -> bool:
        record = await service.get(f"/v1/connections/{connection}")
        found = all(record["stats"][name] == value for name, value in stats.items())
        assert found or record.get("stale"), record
        return found

    await wait_for(is_so, FOUND_S, f"{connection} has {stats}")


async def until_open(count: int, server: EchoServer) -> None:
    """Wait until a server has so many sockets open."""
    await wait_for(lambda: sum(not peer.gone.is_set() for peer in server.peers) == count, FOUND_S, f"{count} are open")


async def claims_of(servers: EngineServers, cluster: str, worker: str) -> list[tuple[str, object]]:
    """Return who has claimed a worker, or given it up (None), in the order of the log."""
    async with running_engine(servers.urls) as engine:
        log = await read_log(engine, cluster)
    return [
        (message.node, one.value)
        for _, message in log
        if message.kind == wire.ADD
        for addition in wire.additions(message.additions)
        for one in addition.claims
        if (one.what, one.key) == ("worker", worker)
    ]


async def until_given_up(servers: EngineServers, cluster: str, worker: str) -> None:
    """Wait until the log holds that nobody has a worker: that follows its end, and others may have read less of the log."""

    async def is_given_up() -> bool:
        return (await claims_of(servers, cluster, worker))[-1][1] is None

    await wait_for(is_given_up, FOUND_S, f"the worker {worker} is given up")


async def causes(service: RunningService, connection: int) -> list[str]:
    page = await service.get(f"/v1/connections/{connection}/events?after=start&limit=1000&kind=onDisconnect")
    return [event["event"]["cause"] for event in page["events"]]


async def metric(service: RunningService, name: str) -> float:
    """Return one sample of what a service has counted; `name` with its labels."""
    async with service.client.get("/metrics") as response:
        found = dict(line.rsplit(" ", 1) for line in (await response.text()).splitlines() if not line.startswith("#"))
    return float(found[name])


def stop_whole(service: RunningService) -> list[int]:
    """Freeze a service, and then the processes of its workers; return them all."""
    pids = [service.process.pid, *service.worker_pids()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


class Sockets(EchoServer):
    """Sees whether two sockets of one connection were ever open at once."""

    def __init__(self) -> None:
        super().__init__()
        self.overlaps = 0

    async def _handle(self, request: Any) -> Any:
        self.overlaps += any(not peer.gone.is_set() for peer in self.peers)
        return await super()._handle(request)


async def all_events_of_node(service: RunningService) -> list[dict[str, Any]]:
    page = await service.get("/v1/events?after=start&limit=1000&scope=node")
    return list(page["events"])


async def opened_once_more(service: RunningService, connection: int) -> None:
    """Wait until a connection is open again, wherever that is."""

    async def is_open() -> bool:
        path = f"/v1/connections/{connection}"
        page = await service.get(f"{path}/events?after=start&limit=1000&kind=onReconnect")
        return len(page["events"]) == 1 and (await service.get(path))["status"] == "Connected"

    await wait_for(is_open, FOUND_S)
