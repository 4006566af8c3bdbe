"""A cluster on one machine: three servers of the engine, three nodes. What a flood, a scattered event, a passed-on send and a backlog take.

The nodes of flood, latency and backlog have no workers, and stand in this process: what is measured is the way through journal, log and fold.
The sends go through real services.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mooring_service.journal.journal import Committed
from tests.bench import cluster_cost
from tests.cluster_kit.nodes import Node, running_nodes, settled
from tests.cluster_kit.running import running_services
from tests.cluster_kit.servers import PROGRAM, EngineServers
from tests.cluster_kit.services import kill
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer

Figures = dict[str, float]
FLOOD_BATCH = 200
BEHIND_EVENTS = 20_000  # so far a flood runs ahead of the slowest node


class Adds(Protocol):
    """Where rows of the table and raw figures go."""

    figures: dict[str, Any]

    def add(self, what: str, ours: str, compared: str, reach: str) -> None:
        """Add a row."""


class Stamped(list[Committed]):
    """What a node has shown, and when it showed each event of one connection."""

    def __init__(self) -> None:
        super().__init__()
        self.events = 0
        self.at: list[float] = []

    def extend(self, items: Iterable[Committed]) -> None:
        """Take what is shown now."""
        now = time.perf_counter()
        for one in items:
            self.events += len(one.append.kinds)
            self.at += [now] * len(one.append.kinds)


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of some values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def latency(nodes: dict[str, Node], rate: int, seconds: float) -> Figures:
    """Return how long an event takes from its commit at one node until another shows it, in milliseconds, beside the mean acknowledgement."""
    a, b = nodes["a"], nodes["b"]
    connection = await a.open_connection()
    assert isinstance(b.shown, Stamped) and a.cluster.chain is not None
    await settled(nodes)
    ack, before = a.cluster.chain.ack, len(b.shown.at)
    acks, spent = sum(ack.counts), ack.sum
    sent: list[float] = []
    burst = max(1, rate // 500)
    begun = time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        if len(sent) < (now - begun) * rate:
            a.commit(connection, burst)
            sent += [now] * burst
        await asyncio.sleep(0.0005)
    await settled(nodes)
    taken = [(shown - at) * 1000 for at, shown in zip(sent, b.shown.at[before:], strict=False)]
    return {
        "p50": quantile(taken, 0.5), "p99": quantile(taken, 0.99),
        "ack": (ack.sum - spent) / max(1, sum(ack.counts) - acks) * 1000, "events": len(taken),
    }  # fmt: skip


async def flood(nodes: dict[str, Node], seconds: float) -> Figures:
    """Return how many events a second all nodes show while one floods, and how far the slowest was behind at most."""
    a = nodes["a"]
    connection = await a.open_connection()
    await settled(nodes)
    logs = [node.shown for node in nodes.values()]
    first = [log.events for log in logs]  # type: ignore[attr-defined]
    sent, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        shown = min(log.events - at for log, at in zip(logs, first, strict=True))  # type: ignore[attr-defined]
        if sent - shown < BEHIND_EVENTS:
            a.commit(connection, FLOOD_BATCH, size=150)
            sent += FLOOD_BATCH
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.001)
    await settled(nodes)
    passed = time.perf_counter() - begun
    return {"rate": sent / passed, "cpu_us": (time.process_time() - cpu) / sent * 1e6}


async def backlog(nodes: dict[str, Node], servers: EngineServers, rate: int, seconds: float) -> Figures:
    """Return how fast what was committed without the engine is in the log once it is back, and shown by all nodes, in events a second."""
    a = nodes["a"]
    connection = await a.open_connection()
    await settled(nodes)
    for index in range(servers.count):
        servers.kill(index)
    sent, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        if sent < passed * rate:
            a.commit(connection, FLOOD_BATCH, size=150)
            sent += FLOOD_BATCH
        await asyncio.sleep(0.001)
    arose = sent / (time.perf_counter() - begun)
    assert a.cluster.chain is not None
    waiting = a.cluster.chain.state.replicated
    starting = asyncio.create_task(
        asyncio.to_thread(servers.start_all)
    )  # it may be drained before all of them are ready
    while a.cluster.chain.state.replicated == waiting:  # an election
        await asyncio.sleep(0.005)
    begun = time.perf_counter()
    while not a.replicated:
        await asyncio.sleep(0.005)
    drained = sent / (time.perf_counter() - begun)
    await settled(nodes)
    shown = sent / (time.perf_counter() - begun)
    await starting
    return {"drained": drained, "shown": shown, "arose": arose, "events": sent}


async def sends(servers: EngineServers, folder: Path, count: int) -> Figures:
    """Return what a send takes at the node that holds its connection, and through another one, in milliseconds."""
    async with running_services(servers, "bench-sends", folder, "ab", dead_after=60) as services, EchoServer() as echo:
        a, b = services.values()
        one = (await a.open(echo.url))["id"]
        taken: dict[str, list[float]] = {"local": [], "passed on": []}
        for _ in range(count):  # in turns
            for name, service in (("local", a), ("passed on", b)):
                begun = time.perf_counter()
                await service.send(one, b"x" * 100)
                taken[name].append((time.perf_counter() - begun) * 1000)
        return {name: statistics.median(values) for name, values in taken.items()}


async def a_death(servers: EngineServers, folder: Path) -> Figures:
    """Return how long after the kill of a node the other tells it, and has what persists open, in seconds (`dead_after` 15)."""
    async with running_services(servers, "bench-death", folder, "ab", dead_after=15) as services, EchoServer() as echo:
        a, b = services.values()
        kept = (await a.open(echo.url, reconnect={"persist": True}))["id"]
        await b.get(f"/v1/connections/{kept}")
        killed_at = time.perf_counter()
        await kill(a)
        taken: Figures = {}
        for kind in ("nodeLost", "onReconnect"):
            await wait_for(lambda kind=kind: _told(b, kind), 60)  # type: ignore[misc]
            taken[kind] = time.perf_counter() - killed_at
        return taken


async def _told(service: RunningService, kind: str) -> bool:
    return bool((await service.get(f"/v1/events?after=start&limit=1000&kind={kind}"))["events"])


class Setting(msgspec.Struct):
    """What a part is measured with."""

    report: Adds
    quick: bool
    servers: EngineServers
    folder: Path  # of this part

    @property
    def seconds(self) -> float:
        """How long is measured."""
        return 3.0 if self.quick else 10.0

    async def with_nodes(self, name: str, work: Callable[[dict[str, Node]], Awaitable[Figures]]) -> Figures:
        """Measure with three nodes that have a log of their own."""
        folder = self.folder / name
        folder.mkdir()
        urls = self.servers.urls
        async with running_nodes(folder, f"bench-{name}", urls, dead_after=60.0, shown=Stamped) as nodes:
            found = self.report.figures[f"cluster {name}"] = await work(nodes)
        return found


async def _latencies(setting: Setting) -> None:
    for rate in (200, 10_000):
        found = await setting.with_nodes(
            f"latency-{rate}",
            lambda nodes, rate=rate: latency(nodes, rate, setting.seconds),  # type: ignore[misc]
        )
        setting.report.add(
            f"cluster: commit to shown elsewhere, {rate:,} events/s",
            f"p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms",
            f"{found['p50'] / found['ack']:.1f} × the mean acknowledgement ({found['ack']:.1f} ms)", "≤ 3 ×; p99 ≤ 20 ms",
        )  # fmt: skip


async def _floods(setting: Setting) -> None:
    found = await setting.with_nodes("flood", lambda nodes: flood(nodes, setting.seconds))
    setting.report.add(
        "cluster: flood of one node, shown at all three", f"{found['rate']:,.0f} events/s",
        f"{found['cpu_us']:.1f} µs CPU an event, of three nodes in one process", "≥ 50,000/s",
    )  # fmt: skip


async def _backlogs(setting: Setting) -> None:
    seconds = 3.0 if setting.quick else 30.0
    found = await setting.with_nodes("backlog", lambda nodes: backlog(nodes, setting.servers, 10_000, seconds))
    setting.report.add(
        f"cluster: a backlog of {found['events']:,.0f} events", f"drained at {found['drained']:,.0f} events/s",
        f"{found['drained'] / found['arose']:.1f} × the rate at which it arose; shown at all three {found['shown'] / found['arose']:.1f} ×", "≥ 5 ×",
    )  # fmt: skip


async def _sends(setting: Setting) -> None:
    found = await sends(setting.servers, setting.folder, 100 if setting.quick else 500)
    setting.report.figures["cluster sends"] = found
    setting.report.add(
        "cluster: a send through another node, p50", f"{found['passed on']:.1f} ms",
        f"local {found['local']:.1f} ms, {found['passed on'] - found['local']:+.1f} ms", "local + 1.5 ms",
    )  # fmt: skip


async def _deaths(setting: Setting) -> None:
    found = setting.report.figures["cluster death"] = await a_death(setting.servers, setting.folder)
    setting.report.add(
        "cluster: a node is killed: told, what persists is open elsewhere", f"{found['nodeLost']:.1f} s, {found['onReconnect']:.1f} s",
        "dead_after 15", "≤ 20 s, ≤ 22 s",
    )  # fmt: skip


async def _costs(setting: Setting) -> None:
    await asyncio.to_thread(costs, setting.report, setting.servers.urls, setting.quick)


PARTS: dict[str, Callable[[Setting], Awaitable[None]]] = {
    "latency": _latencies,
    "flood": _floods,
    "backlog": _backlogs,
    "sends": _sends,
    "death": _deaths,
    "cost": _costs,
}


def section(report: Adds, quick: bool, parts: Iterable[str] = tuple(PARTS)) -> None:
    """Measure a cluster."""
    if PROGRAM is None:
        print("without a cluster: nats-server is not installed")
        return
    asyncio.run(_measure(report, quick, parts))


async def _measure(report: Adds, quick: bool, parts: Iterable[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="mooring-bench-") as made:
        servers = EngineServers(Path(made) / "nats")
        try:
            await asyncio.to_thread(servers.start_all)
            for name in parts:
                (Path(made) / name).mkdir()
                await PARTS[name](Setting(report, quick, servers, Path(made) / name))
        finally:
            servers.stop_all()


def costs(report: Adds, urls: list[str], quick: bool) -> None:
    """Measure what a node costs beside a single service, in turns."""
    count, turns = (100_000, 1) if quick else (400_000, 5)
    found: dict[str, list[Figures]] = {"alone": [], "a node": []}
    for turn in range(turns):
        found["alone"].append(cluster_cost.alone(count))
        found["a node"].append(cluster_cost.flood(f"bench-cost-{turn}", urls, count))
    report.figures["cluster cost"] = found
    alone, node = (
        [statistics.median(one[key] for one in each) for key in ("cpu_us", "rate")] for each in found.values()
    )
    report.add(
        "cluster: flood of a service with [cluster], CPU of the service an event", f"{node[0]:.1f} µs, {node[1]:,.0f} events/s",
        f"{node[0] / alone[0]:.1f} × that without ({alone[0]:.1f} µs, {alone[1]:,.0f} events/s)", "≤ 4 ×",
    )  # fmt: skip
