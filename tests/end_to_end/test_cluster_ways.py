"""The ways into a cluster: where things are made, who is asked, keys, clients of several addresses, one token."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring_api.client import Client, ServiceAway
from mooring_api.rest.access import derived_token
from tests.cluster_kit.running import configuration, running_services
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import until_stats
from tests.command_line import Ran, mooring, run
from tests.conftest import RunningService, rounds, wait_for
from tests.servers import EchoServer

FOUND_S = 60.0  # a deadline, not a figure


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, dead_after=60) as found:
        yield found


async def lists(service: RunningService, what: str, wanted: dict[str, object], query: str = "") -> None:
    """Wait until a node lists these workers: what another one does not say within a second is only what the log tells of it."""
    found: dict[str, object] = {}

    async def is_listed() -> bool:
        found.clear()
        found.update({one["name"]: one.get(what) for one in (await service.get(f"/v1/workers{query}"))["workers"]})
        return found == wanted

    try:
        await wait_for(is_listed, FOUND_S)
    finally:
        print(f"workers, {what}: {found}")


async def test_what_is_asked_for_at_a_node_is_made_there_and_every_node_lists_all_workers(
    nodes: dict[str, RunningService],
) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo:
        record = await a.open(echo.url, node="b")
        assert (record["node"], record["worker"]) == ("b", "main-b")
        record = await a.open(echo.url, node="c", worker="desk")
        assert (record["node"], record["worker"]) == ("c", "desk")
        problem = await a.call("POST", "/v1/connections", 409, json={"url": echo.url, "worker": "desk", "node": "b"})
        assert (problem["type"].rpartition(":")[2], problem["node"], problem["asked"]) == ("worker-elsewhere", "c", "b")
        asked = {"url": echo.url, "worker": "desk", "node": "b"}
        assert (await a.call("PUT", "/v1/connections/at.b", 409, json=asked))["type"] == problem["type"]
        described = (await a.get("/openapi.json"))["paths"]
        for method, path in (("post", "/v1/connections"), ("put", "/v1/connections/{id}")):
            assert "`worker-elsewhere`" in described[path][method]["responses"]["409"]["description"]
        problem = await a.call("POST", "/v1/connections", 422, json={"url": echo.url, "node": "nobody"})
        assert problem["errors"][0]["pointer"] == "/node"
        named = await a.call("PUT", "/v1/connections/wanted", 201, json={"url": echo.url, "node": "b"})
        assert named["node"] == "b"
        for service in nodes.values():  # a program says the same at each node
            assert (await service.call("PUT", "/v1/connections/wanted", 200, json={"url": echo.url}))["id"] == named[
                "id"
            ]
        await c.call("PUT", "/v1/connections/wanted", 409, json={"url": echo.url, "node": "c"})
        started = await a.call("PUT", "/v1/workers/lone", 201, json={"node": "b"})
        assert started["node"] == "b"
        assert (await c.call("PUT", "/v1/workers/lone", 200))["pid"] == started["pid"]
        await c.call("PUT", "/v1/workers/lone", 409, json={"node": "c"})
        for service in nodes.values():
            await lists(service, "node", {"desk": "c", "lone": "b", "main-b": "b"})
            await lists(service, "node", {"desk": "c"}, "?node=c")

        async def all_are_shown() -> bool:
            shown = await mooring(a, "workers")
            return [line.split()[1] for line in shown.out.splitlines()[1:]] == ["c", "b", "b"]

        await wait_for(all_are_shown, FOUND_S)
        listed = await mooring(a, "ls")
        assert "NODE" in listed.out.splitlines()[0]
        b.process.send_signal(signal.SIGSTOP)
        try:
            stale = await a.get(f"/v1/connections/{named['id']}")
            assert (stale["stale"], stale["node"], stale["status"]) == (True, "b", "Connected")
            lone = await a.get("/v1/workers/lone")
            assert (lone["stale"], lone["status"], lone["node"]) == (True, "Unknown", "b")
            await lists(a, "stale", {"desk": None, "lone": True, "main-b": True})
        finally:
            b.process.send_signal(signal.SIGCONT)


async def test_a_client_of_several_addresses_goes_on_at_the_next_and_loses_no_event(
    nodes: dict[str, RunningService], tmp_path: Path
) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo, Client([a.url, b.url, c.url], a.token) as client:
        record = await client.open(echo.url, node="c")
        for service in nodes.values():  # what a node does not know of it must ask the engine
            await service.get(f"/v1/connections/{record.id}")
        came: list[int] = []
        ids: list[str] = []

        async def follow() -> None:
            async for event in client.events(connection=record.id, kinds=["onMessage"]):
                came.append(int(event.event["data"]))
                ids.append(event.id)
                if came[-1] == 299:
                    return

        following = asyncio.create_task(follow())
        for number in range(300):
            if number == 100:
                await wait_for(lambda: len(came) > 20)
                await a.kill()
            if number == 200:
                await wait_for(lambda: len(came) > 120, 60)
                await b.kill()
            await client.send(record.id, str(number))
        await asyncio.wait_for(following, 60)
        assert came == list(range(300)), "none is lost, none comes twice"
        assert ids == sorted(set(ids), key=lambda one: int(one.partition("-")[2]))
        ran = await mooring_at(f"{a.url},{b.url},{c.url}", a.token, "show", str(record.id))
        assert "Connected" in ran.out
    with pytest.raises(ServiceAway, match=r"no service answers at .*; no service answers at"):
        async with Client(f"{a.url},{b.url}", a.token) as nobody:
            await nobody.workers()
    with pytest.raises(ServiceAway, match="of several addresses none can be unix:PATH"):
        Client([a.url, "unix:/tmp/socket"], a.token)


async def test_the_client_and_the_command_line_ask_for_what_one_node_has(
    nodes: dict[str, RunningService],
) -> None:
    a, b, _ = nodes.values()
    async with EchoServer() as echo, Client(a.url, a.token) as client:
        here, there = [await client.open(echo.url, node=name) for name in ("a", "b")]
        await client.connection(there.id)
        assert [one.id for one in (await client.connections(node="b")).connections] == [there.id]
        assert json.loads((await mooring(a, "ls", "--node", "b", "--json")).out)["id"] == there.id

        async def is_listed() -> bool:  # what another node does not say within a second, only the log tells
            ran = await mooring(a, "workers", "--node", "b", "--json")
            found = [one.name for one in await client.workers(node="b")]
            return found == ["main-b"] == [json.loads(line)["name"] for line in ran.out.splitlines()]

        await wait_for(is_listed, FOUND_S)
        looked = json.loads((await mooring(a, "top", "--node", "b", "--count", "1", "--json")).out)
        assert [one["worker"] for one in looked["rates"]] == ["main-b"]
        for words in (("ls", "--node", "bb"), ("workers", "--node", "bb"), ("top", "--node", "bb")):
            ran = await mooring(a, *words)
            assert (ran.code, ran.errors) == (1, "Error: the cluster has no node 'bb'; did you mean 'b'?\n")

        own = await client.page(after="start", scope="node", limit=1000)
        assert {event.connection for event in own.events} - {None} == {here.id}
        assert own.next.partition("-")[0] != (await client.page(after="start")).next.partition("-")[0]
        for record in (there, here):
            await client.send(record.id, "x")
        async with asyncio.timeout(60):
            first = await anext(client.events(after=own.next, scope="node", kinds=["onMessage"]))
        assert (first.connection, first.id.partition("-")[0]) == (here.id, own.next.partition("-")[0])
        ran = await mooring(a, "tail", "--scope", "node", "--after", "start", "--json", "--limit", str(len(own.events)))
        assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [event.id for event in own.events]
        await client.terminate(here.id)
        async with asyncio.timeout(60):
            seen = [event async for event in client.events(connection=here.id, scope="node")]
        assert [event.kind for event in seen] == ["onOpen", "onMessage", "onTerminate"]
        assert {event.id.partition("-")[0] for event in seen} == {own.next.partition("-")[0]}
    async with Client([a.url, b.url], a.token) as several:
        with pytest.raises(ValueError, match="at its own address"):
            await several.page(scope="node")
    ran = await mooring_at(f"{a.url},{b.url}", a.token, "tail", "--scope", "node")
    assert ran.code == 1 and "at its own address" in ran.errors


async def test_nodes_of_one_secret_have_one_token_and_a_secret_that_others_can_read_is_refused(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    path = configuration(tmp_path, "a", cluster_name, servers.urls)
    assert derived_token(str(tmp_path / "secret")) == derived_token(str(tmp_path / "secret"))
    service = RunningService(tmp_path / "a", "--config", path)
    for mode, text, why in ((0o644, "x" * 32, "can be read by others"), (0o600, "short", "holds fewer than 16 bytes")):
        (tmp_path / "secret").write_text(text)
        (tmp_path / "secret").chmod(mode)
        ran = await run("serve", "--config", path, "--state-dir", str(service.state_dir))
        assert ran.code != 0
        assert f"cluster.secret_file: {tmp_path / 'secret'} {why}" in ran.errors
        checked = await run("check", "--config", path, "--state-dir", str(service.state_dir))
        assert checked.code != 0
        assert why in checked.out + checked.errors


async def mooring_at(url: str, token: str, *words: str) -> Ran:
    """The command line with addresses, as a program on another machine would run it."""
    return await run("--url", url, *words, env={"MOORING_TOKEN": token})


@rounds(3, 40)
async def test_one_idempotency_key_at_many_nodes_at_once_makes_one_connection(
    nodes: dict[str, RunningService], rounds: int
) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo:
        for number in range(rounds):
            key = {"Idempotency-Key": f"make-{number}"}

            async def create(
                service: RunningService, headers: dict[str, str] = key
            ) -> tuple[int, dict[str, object], bool]:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline:
                    async with service.client.post(
                        "/v1/connections", json={"url": echo.url}, headers=headers
                    ) as response:
                        told = await response.json()
                        if response.status < 300:
                            return response.status, told, "Idempotency-Replayed" in response.headers
                        # Nothing was done; the second on a busy machine.
                        assert told["type"].rpartition(":")[2] in ("still-running", "engine-down"), told
                    await asyncio.sleep(0.01)
                raise AssertionError("it runs for ever")

            answers = await asyncio.gather(*(create(service) for service in nodes.values() for _ in range(3)))
            assert {status for status, _, _ in answers} == {201}
            assert len({told["id"] for _, told, _ in answers}) == 1
            assert not all(replayed for _, _, replayed in answers)
            await c.get(f"/v1/connections/{answers[0][1]['id']}")
        listed = (await c.get("/v1/connections?limit=1000"))["connections"]
        assert len(listed) == rounds
        reused = await b.call(
            "POST",
            "/v1/connections",
            422,
            json={"url": echo.url, "dataType": "blob"},
            headers={"Idempotency-Key": "make-0"},
        )
        assert reused["type"].endswith("key-reused")
        one = listed[0]["id"]
        for service in nodes.values():  # whoever is asked, its holder has done it once
            sent = await service.call(
                "POST", f"/v1/connections/{one}/messages", 200, data="once",
                headers={"Content-Type": "text/plain", "Idempotency-Key": "send-0"},
            )  # fmt: skip
            assert sent["sent"] == 1
        made = [
            await service.call(
                "POST",
                "/v1/connections",
                201,
                json={"url": echo.url, "worker": "desk"},
                headers={"Idempotency-Key": "desk-0"},
            )
            for service in nodes.values()
        ]
        assert len({told["id"] for told in made}) == 1

        async def it_has_come_back_once() -> bool:
            return (await a.get(f"/v1/connections/{one}"))["stats"]["messagesIn"] == 1

        await wait_for(it_has_come_back_once)
        await until_stats(b, one, messagesOut=1)
