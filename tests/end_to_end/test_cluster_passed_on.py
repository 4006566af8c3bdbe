"""What is passed on to another node: it may take as long as it says, and a name means one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_kit.running import is_engine_down, running_services
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer, RawConnection, RawServer

WAIT_S = 90.0
LONG_S = 18  # than any verb may take by itself


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, "ab", dead_after=60) as found:
        yield found


async def test_a_request_may_take_as_long_as_its_connection_says(nodes: dict[str, RunningService]) -> None:
    slow = asyncio.Event()

    async def takes_its_time(connection: RawConnection) -> None:
        if slow.is_set():
            await asyncio.sleep(LONG_S)
        await connection.accept()
        while await connection.reader.read(1_000):  # and never answers a close
            pass

    a, b = nodes.values()
    async with RawServer(takes_its_time) as server:
        closing = (await a.open(server.url, closeTimeout=LONG_S))["id"]
        slow.set()
        opening = {"url": server.url, "node": "a", "connectTimeout": 3 * LONG_S}
        closed, opened = await asyncio.gather(
            b.call("DELETE", f"/v1/connections/{closing}"),
            b.call("PUT", "/v1/connections/messages", 201, json=opening),  # a name that is the word of a verb, too
        )
    assert closed["terminate"]["code"] == 1006
    assert (opened["name"], opened["node"]) == ("messages", "a")


async def test_a_stream_of_lines_by_name_goes_to_nobody_who_has_the_name_later(
    nodes: dict[str, RunningService],
) -> None:
    a, b = nodes.values()
    async with EchoServer() as echo:
        told: dict[str, Any] = {}
        after = 0

        async def stream(name: str) -> bool:
            """Say whether the engine was fast enough."""
            nonlocal told, after
            path = f"/v1/connections/{name}"
            before = (await a.call("PUT", path, 201, json={"url": echo.url}))["id"]
            await b.record(before)  # it knows of it

            async def lines() -> AsyncIterator[bytes]:
                nonlocal after
                yield b"1\n"

                async def is_sent() -> bool:
                    return bool((await a.record(before))["stats"]["messagesOut"] == 1)

                await wait_for(is_sent, WAIT_S)
                await a.call("DELETE", path)
                after = (await a.call("PUT", path, 201, json={"url": echo.url}))["id"]
                yield b"2\n"

            kind = {"Content-Type": "application/x-ndjson"}
            async with b.client.post(f"{path}/messages", data=lines(), headers=kind) as response:
                told = await response.json()
                return not is_engine_down(response.status, told)

        async with asyncio.timeout(WAIT_S):
            for number in range(100):
                if await stream(f"feed-{number}"):
                    break
        assert (told["status"], told["sent"]) == (410, 1), told
        assert (await a.record(after))["stats"]["messagesOut"] == 0
