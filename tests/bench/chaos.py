"""Chaos: faults of one kind, again and again, under the load of the design's prototype; at its end the checker says whether the law of the log held.

    python -m tests.bench.chaos [--case leader …] [--seeds 101 102 …] [--seconds 60]

The nodes have no workers: 3,000 events/s on 240 connections go through journal, chain, log and fold of three of them. What concerns workers and
the lives of whole services is in `tests/end_to_end/test_cluster_lives.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.bench.gateways import BENCH
from tests.cluster_kit.checker import check
from tests.cluster_kit.nodes import Node, running_engine, running_nodes, settled
from tests.cluster_kit.servers import EngineServers

CONNECTIONS, RATE, TICK_S = 240, 3_000, 0.02
SETTLE_S = 180.0
SEEDS = (101, 102, 103, 104, 105)

Nodes = dict[str, Node]
Fault = Callable[[Nodes, EngineServers, str, random.Random], Awaitable[None]]


async def leader(nodes: Nodes, servers: EngineServers, stream: str, chosen: random.Random) -> None:
    """The leader of the log is killed, and comes back."""
    index = await asyncio.to_thread(servers.leader, stream)
    if index is not None:
        servers.kill(index)
        await asyncio.sleep(chosen.uniform(0.5, 3))
        await asyncio.to_thread(servers.start_all)


async def engine(nodes: Nodes, servers: EngineServers, stream: str, chosen: random.Random) -> None:
    """All servers are killed, for a while."""
    for index in range(servers.count):
        servers.kill(index)
    await asyncio.sleep(chosen.uniform(1, 10))
    await asyncio.to_thread(servers.start_all)


async def stall(nodes: Nodes, servers: EngineServers, stream: str, chosen: random.Random) -> None:
    """One server stands still, and goes on."""
    index = chosen.randrange(servers.count)
    servers.kill(index, signal.SIGSTOP)
    await asyncio.sleep(chosen.uniform(1, 8))
    servers.kill(index, signal.SIGCONT)


async def restart(nodes: Nodes, servers: EngineServers, stream: str, chosen: random.Random) -> None:
    """A node ends as it is, and is back before it is missed."""
    node = nodes[chosen.choice(sorted(nodes))]
    await node.stop(handover=True)
    await asyncio.sleep(chosen.uniform(0, 2))
    await (await node.start()).ready()


async def everything(nodes: Nodes, servers: EngineServers, stream: str, chosen: random.Random) -> None:
    """All nodes end as they are, all servers are killed, all start."""
    for node in nodes.values():
        await node.stop(handover=True)
    await engine(nodes, servers, stream, chosen)
    for node in nodes.values():
        await node.start()
    for node in nodes.values():
        await node.ready()


CASES: dict[str, Fault] = {"leader": leader, "engine": engine, "stall": stall, "restart": restart, "all": everything}


async def load(nodes: Nodes, paused: asyncio.Event) -> None:
    """Commit events on all connections, but while a fault has taken the nodes away; ends by cancellation."""
    found = [(node, await node.open_connection()) for node in nodes.values() for _ in range(CONNECTIONS // len(nodes))]
    at = 0
    while True:
        await paused.wait()
        for _ in range(int(RATE * TICK_S)):
            node, connection = found[at % len(found)]
            node.commit(connection)
            at += 1
        await asyncio.sleep(TICK_S)


async def run(case: str, seed: int, seconds: float) -> dict[str, object]:
    """Return what became of one run: `wrong` is what the checker says, "" if the law held."""
    chosen, fault = random.Random(seed), CASES[case]
    with tempfile.TemporaryDirectory(prefix="mooring-chaos-") as made:
        folder = Path(made)
        servers = EngineServers(folder / "nats")
        await asyncio.to_thread(servers.start_all)
        cluster = f"chaos-{case}-{seed}"
        (folder / "nodes").mkdir()
        wrong, events, faults = "", 0, 0
        try:
            async with running_nodes(folder / "nodes", cluster, servers.urls, dead_after=15.0) as nodes:
                going = asyncio.Event()
                going.set()
                loading = asyncio.create_task(load(nodes, going))
                deadline = time.monotonic() + seconds
                while time.monotonic() < deadline:
                    await asyncio.sleep(chosen.uniform(1, 5))
                    if case in ("restart", "all"):
                        going.clear()
                        await asyncio.sleep(TICK_S * 2)
                    await fault(nodes, servers, f"mooring_{cluster}_log", chosen)
                    going.set()
                    faults += 1
                loading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await loading
                try:
                    await settled(nodes, SETTLE_S)
                    async with running_engine(servers.urls) as link:
                        events = len(await check(link, cluster, {name: node.folder for name, node in nodes.items()}))
                except AssertionError as exc:
                    wrong = str(exc)[:500] or "the checker"
        finally:
            servers.stop_all()
    return {"case": case, "seed": seed, "faults": faults, "events": events, "wrong": wrong, "load": os.getloadavg()[0]}


def main() -> None:
    """Run cases, and keep what became of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run, until the last fault")
    options = parser.parse_args()
    found = []
    for case in options.case or CASES:
        for seed in options.seeds:
            told = asyncio.run(run(case, seed, options.seconds))
            found.append(told)
            print(
                f"{case} {seed}: {told['wrong'] or 'right'}, {told['events']:,} events, {told['faults']} faults",
                flush=True,
            )
    path = BENCH / "results" / "chaos.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
