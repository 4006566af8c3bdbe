"""What an Idempotency-Key stands for outlives the node that answered; and nothing secret that is asked for lies in the engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cluster_kit.running import is_engine_down, running_services
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import kill
from tests.conftest import RunningService, files_in, wait_for
from tests.servers import EchoServer

FOUND_S = 90.0  # a deadline, not a figure: `dead_after` is 7, and the machine may be busy
CANARY = "canary-4711-of-a-header"


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, "ab") as found:
        yield found


async def test_an_answer_outlives_the_node_that_gave_it_and_a_create_that_died_with_its_node_is_told_as_failed(
    nodes: dict[str, RunningService],
) -> None:
    a, b = nodes.values()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it never takes what is in its backlog
        await _outlive(a, b, silent.getsockname()[1])


async def _outlive(a: RunningService, b: RunningService, port: int) -> None:
    async with EchoServer() as echo:
        bodies = {
            "plain": {"url": echo.url},
            "kept": {"url": echo.url, "reconnect": {"persist": True, "minDelay": 0.05}},
            "dying": {"url": f"ws://127.0.0.1:{port}/", "connectTimeout": 300},
        }

        async def create(service: RunningService, what: str) -> tuple[int, dict[str, object], bool]:
            headers = {"Idempotency-Key": what}
            async with service.client.post("/v1/connections", json=bodies[what], headers=headers) as response:
                return response.status, await response.json(), "Idempotency-Replayed" in response.headers

        async def is_made(what: str) -> object:
            status, told, _ = await create(a, what)
            assert status == 201 or is_engine_down(status, told), told
            return told.get("id")

        made = {what: await wait_for(lambda what=what: is_made(what), FOUND_S) for what in ("plain", "kept")}
        dying = asyncio.create_task(create(a, "dying"))

        async def it_is_begun() -> list[int]:
            page = await b.get("/v1/connections?status=Connecting")
            return [record["id"] for record in page["connections"] if record["id"] not in made.values()]

        (begun,) = await wait_for(it_is_begun, FOUND_S)
        await kill(a)
        await asyncio.gather(dying, return_exceptions=True)
        for what, connection in made.items():

            async def it_is_answered(what: str = what, connection: object = connection) -> bool:
                status, told, replayed = await create(b, what)
                if status in (503, 504):
                    return False
                assert (status, told["id"], replayed) == (201, connection, True)
                return True

            await wait_for(it_is_answered, FOUND_S)

        async def it_is_told_as_failed() -> dict[str, object] | None:
            status, told, _ = await create(b, "dying")
            assert status in (502, 503, 504), told
            return told if status == 502 else None

        told = await wait_for(it_is_told_as_failed, FOUND_S)
        assert told["connection"] == begun
        assert [error["errCode"] for error in told["errors"]] == [305]
        listed = (await b.get("/v1/connections"))["connections"]
        assert {record["id"] for record in listed} == {*made.values(), begun}, "nothing was made anew"


async def test_no_header_value_that_was_asked_for_lies_in_the_engine_or_in_any_state_directory(
    nodes: dict[str, RunningService], servers: EngineServers, tmp_path: Path
) -> None:
    a, b = nodes.values()
    async with EchoServer() as echo:
        asked = {"headers": {"Authorization": CANARY}}
        one = await a.open(echo.url, **asked)
        other = await b.open(echo.url, name="kept", node="a", reconnect=True, **asked)
        await b.call("PATCH", f"/v1/connections/{other['id']}", 200, json={"headers": {"X-Key": CANARY}})
        refused = await a.call(
            "POST", "/v1/connections", 422, json={"url": echo.url, "reconnect": {"persist": True}, **asked}
        )
        assert refused["type"].endswith("invalid"), "what others open again names its secrets"
        await b.get(f"/v1/connections/{one['id']}")
        for folder in (tmp_path, servers.root):
            for path, content in files_in(folder):
                assert CANARY.encode() not in content, path
