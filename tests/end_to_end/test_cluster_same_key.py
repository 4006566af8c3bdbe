"""One Idempotency-Key at several nodes in the same moment: one effect, and one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster_kit.running import running_services
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import until_stats
from tests.conftest import RunningService, rounds, wait_for
from tests.servers import EchoServer

FOUND_S = 60.0


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, dead_after=60) as found:
        yield found


@rounds(25, 500)
async def test_a_send_with_one_key_at_all_nodes_at_once_is_sent_once_and_answered_alike(
    nodes: dict[str, RunningService], rounds: int
) -> None:
    async with EchoServer() as echo:
        connection = (await nodes["a"].open(echo.url))["id"]
        await asyncio.gather(*(service.get(f"/v1/connections/{connection}") for service in nodes.values()))

        async def send(service: RunningService, number: int) -> tuple[int, dict[str, object]]:
            headers = {"Idempotency-Key": f"key-{number}", "Content-Type": "text/plain"}
            path = f"/v1/connections/{connection}/messages"
            async with service.client.post(path, data=b"%d" % number, headers=headers) as response:
                return response.status, await response.json()

        for number in range(rounds):
            told = await asyncio.gather(*(send(service, number) for service in nodes.values()))
            print(number, told)
            for status, said in told:
                assert status == 200 or (status == 409 and str(said["type"]).endswith("still-running")), said
            for service in nodes.values():
                assert (await send(service, number)) == (200, {"sent": 1, "bytes": len(str(number))})

        async def all_came_back() -> bool:
            return bool((await nodes["a"].get(f"/v1/connections/{connection}"))["stats"]["messagesIn"] == rounds)

        await wait_for(all_came_back, FOUND_S)
        await until_stats(nodes["b"], connection, messagesOut=rounds)


@rounds(25, 500)
async def test_a_key_that_two_nodes_use_for_different_sends_at_once_stands_for_what_each_has_done(
    nodes: dict[str, RunningService], rounds: int
) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo:
        mine = {service: (await service.open(echo.url))["id"] for service in (a, b)}
        for connection in mine.values():
            await asyncio.gather(*(service.get(f"/v1/connections/{connection}") for service in (a, b, c)))

        async def send(at: RunningService, service: RunningService, number: int) -> tuple[int, object, bool]:
            headers = {"Idempotency-Key": f"both-{number}", "Content-Type": "text/plain"}
            path = f"/v1/connections/{mine[service]}/messages"
            async with at.client.post(path, data=f"{number}", headers=headers) as response:
                told = await response.json()
                return response.status, told.get("type", told), "Idempotency-Replayed" in response.headers

        done = dict.fromkeys(mine, 0)
        for number in range(rounds):
            first = await asyncio.gather(*(send(service, service, number) for service in mine))
            assert 200 in [status for status, _, _ in first]
            for service, (status, told, _) in zip(mine, first, strict=True):
                done[service] += status == 200
                for at in (service, c):  # there its holder is asked
                    again = await send(at, service, number)
                    assert again == (status, told, status == 200)
                    if status != 200:
                        assert (status, str(told).rpartition(":")[2]) == (422, "key-reused")
        print(f"both were done {sum(done.values()) - rounds} times of {rounds}")

        async def all_came_back() -> bool:
            records = [await a.get(f"/v1/connections/{connection}") for connection in mine.values()]
            return [record["stats"]["messagesIn"] for record in records] == list(done.values())

        await wait_for(all_came_back, FOUND_S)
