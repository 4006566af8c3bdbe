"""Streams of a cluster: byte for byte the same at each node, and resumed at any other from any event, whoever leads the log."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mooring_service.cluster.objects import stream_name
from tests.cluster_kit.checker import check
from tests.cluster_kit.nodes import running_engine
from tests.cluster_kit.running import all_is_read, running_services
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, rounds, wait_for
from tests.servers import EchoServer

WAIT_S = 240.0  # a deadline, not a figure
Line = tuple[str, bytes]  # id, the bytes of one event as they stand in the stream


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, dead_after=60) as found:
        yield found


async def events(service: RunningService, query: str, after: str) -> AsyncIterator[Line]:
    """Yield what a node streams behind an event, as it comes."""
    headers = {"Accept": "text/event-stream"}
    timeout = aiohttp.ClientTimeout(total=None)
    path = f"/v1/events?{query}&after={after}"
    rest = b""
    async with service.client.get(path, headers=headers, timeout=timeout) as response:
        assert response.status == 200, await response.text()
        async for chunk in response.content.iter_any():
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                while block.startswith((b":", b"retry:")):  # comments, and what stands before the first event
                    block = block.partition(b"\n")[2]
                yield block[4 : block.index(b"\n")].decode(), block


async def last_of(service: RunningService, query: str) -> str:
    """Return the id of the last event that there is."""
    after = "start"
    while (page := await service.get(f"/v1/events?{query}&limit=1000&after={after}"))["events"]:
        after = page["events"][-1]["id"]
    return after


async def holds(servers: EngineServers, cluster: str, folder: Path, nodes: dict[str, RunningService]) -> int:
    """Stop all nodes, and check the law of the log; return how many events it holds."""
    await all_is_read(nodes)
    for service in nodes.values():
        await service.stop()
    async with running_engine(servers.urls) as engine:
        return len(await check(engine, cluster, {name: folder / name for name in nodes}, partial=True))


@rounds(3_000, 100_000, "count")
async def test_every_node_streams_the_same_events_byte_for_byte(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str, tmp_path: Path, count: int
) -> None:
    pushed = count // 12

    async def read(service: RunningService) -> tuple[int, int, list[str]]:
        """Read what all were sent; return the sum of its bytes, and its ids."""
        came, ids = 0, []
        total = 0
        async with contextlib.aclosing(events(service, "connection=" + ",".join(map(str, ours)), "start")) as stream:
            async for at, block in stream:
                came, total = zlib.crc32(block, came), total + len(block)
                ids.append(at)
                if len(ids) == 12 * (pushed + 1):
                    break
        return came, total, ids

    async with EchoServer() as server:
        services = [service for service in nodes.values() for _ in range(4)]
        url = f"{server.url}push?count={pushed}"
        ours = [(await service.open(url))["id"] for service in services]
        found = await asyncio.wait_for(asyncio.gather(*(read(service) for service in nodes.values())), WAIT_S)
        assert found[0] == found[1] == found[2]
        ids = found[0][2]
        positions = [int(one.partition("-")[2]) for one in ids]
        assert positions == sorted(set(positions))
        assert len({one.partition("-")[0] for one in ids}) == 1
    assert await holds(servers, cluster_name, tmp_path, nodes) >= len(ids)


class Seen:
    """What a subscriber has seen that changes the node all the time, and goes on behind some event, not always behind the newest."""

    def __init__(self, services: list[RunningService], query: str, seed: int) -> None:
        self.services, self.query, self.chosen = services, query, random.Random(seed)
        self.lines: list[Line] = []
        self.switches = 0
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # the id of the last event of all

    async def follow(self) -> None:
        while not self._is_over() or self.switches < 2:
            back = self.chosen.randrange(min(len(self.lines), 50)) if self.lines else 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.chosen.uniform(1, 5)):
                    await self._read(back, back + self.chosen.randrange(1, 200))
            self.switches += 1

    async def _read(self, back: int, count: int) -> None:
        again = self.lines[len(self.lines) - back :]
        after = self.lines[len(self.lines) - back - 1][0] if self.lines else "start"
        service = self.chosen.choice(self.services)
        async with contextlib.aclosing(events(service, self.query, after)) as stream:
            at = 0
            async for line in stream:
                if at < len(again):
                    assert line == again[at], f"{self.query}: {at} behind {after}"
                else:
                    self.lines.append(line)
                at += 1
                if at >= count or (at >= len(again) and self._is_over()):
                    return

    def _is_over(self) -> bool:
        return self.end.done() and bool(self.lines) and self.lines[-1][0] == self.end.result()


@rounds(1, 20)
@pytest.mark.timeout(900)
async def test_a_stream_goes_on_at_another_node_from_any_event_while_leaders_are_killed(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str, tmp_path: Path, rounds: int
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    stream = stream_name(cluster_name)
    over = asyncio.Event()

    async def talk(service: RunningService, connection: int) -> None:
        number = 0
        while not over.is_set():
            await service.send(connection, b"%d" % number)
            number += 1
            await asyncio.sleep(0.05)

        async def all_came_back() -> bool:
            return (await service.record(connection))["stats"]["messagesIn"] == number

        await wait_for(all_came_back, WAIT_S)

    async with EchoServer() as echo:
        services = [service for service in nodes.values() for _ in range(2)]
        ours = [(await service.open(echo.url))["id"] for service in services]
        queries = [
            "",
            "kind=onMessage",
            "worker=main-b",
            f"connection={ours[0]}",
            f"connection={ours[2]},{ours[5]}&kind=onMessage",
        ]
        followers = [Seen(services, query, seed + number) for number, query in enumerate(queries)]
        async with asyncio.TaskGroup() as going:
            for follower in followers:
                going.create_task(follower.follow())
            talking = [going.create_task(talk(service, one)) for service, one in zip(services, ours, strict=True)]
            for number in range(1, rounds + 1):
                print(f"kill {number}", flush=True)
                leader = await wait_for(lambda: (index := servers.leader(stream)) is not None and [index], WAIT_S)
                servers.kill(leader[0])
                before = (await nodes["a"].get("/v1/cluster"))["log"]["last"]

                async def it_goes_on(before: int = before) -> bool:
                    told = [await service.get("/v1/cluster") for service in nodes.values()]
                    return all(one["log"]["last"] > before + len(told) for one in told)

                await wait_for(it_goes_on, WAIT_S)
                await asyncio.to_thread(servers.start_all)
            over.set()
            await asyncio.gather(*talking)
            await all_is_read(nodes)
            for follower in followers:
                follower.end.set_result(await last_of(services[0], follower.query))
        for number, follower in enumerate(followers):
            whole = []
            async with contextlib.aclosing(events(services[number], follower.query, "start")) as stream_of_one:
                async for line in stream_of_one:
                    whole.append(line)
                    if line[0] == follower.end.result():
                        break
            print(f"{follower.query or 'all'}: {len(whole)} events, {follower.switches} times elsewhere")
            assert follower.lines == whole, "nothing is missing, nothing is there twice"
            assert follower.switches >= 2
    await holds(servers, cluster_name, tmp_path, nodes)
