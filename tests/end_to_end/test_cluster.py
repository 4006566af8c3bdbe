"""Three services that are nodes of one cluster, as their users start and ask them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mooring_service.cluster.engine import Down, Unknown
from tests.cluster_kit.checker import check
from tests.cluster_kit.nodes import running_engine
from tests.cluster_kit.running import all_is_read, configuration, is_engine_down, running_services
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import metric, until_given_up, until_status
from tests.command_line import mooring
from tests.conftest import RunningService, rounds, wait_for
from tests.servers import EchoServer


@pytest.fixture
async def nodes(servers: EngineServers, cluster_name: str, tmp_path: Path) -> AsyncIterator[dict[str, RunningService]]:
    async with running_services(servers, cluster_name, tmp_path, dead_after=60) as found:
        yield found


async def test_three_services_show_one_log_and_each_other(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with EchoServer() as echo:
        records = [await service.open(echo.url) for service in nodes.values()]
        assert len({record["id"] // 10**12 for record in records}) == 3
        for (_, service), record in zip(nodes.items(), records, strict=True):
            for number in range(20):
                await service.send(record["id"], b"%d" % number)
    for service, record in zip(nodes.values(), records, strict=True):
        await service.events(record["id"], until="onTerminate")  # the server has gone, and nothing more happens
    await all_is_read(nodes)
    first = nodes["a"]

    async def all_are_told() -> Any:
        told = await first.get("/v1/cluster")
        is_whole = [node["name"] for node in told["nodes"]] == ["a", "b", "c"] and told["engine"]["status"] == "up"
        return told if is_whole else None

    told = await wait_for(all_are_told)
    assert told["name"] == cluster_name
    assert {node["status"] for node in told["nodes"]} == {"Live"}
    assert not any(node["configDiffers"] for node in told["nodes"])

    async def status() -> str:
        shown = await mooring(first, "cluster", "status")
        assert f"cluster {cluster_name}, node a" in shown.out
        return shown.out if "all of it is read" in shown.out else ""  # a beat may just be on its way

    await wait_for(status)
    listed = await mooring(first, "cluster", "nodes", "--json")
    assert [json.loads(line)["slot"] for line in listed.out.splitlines()]

    async def is_up() -> bool:
        return await metric(first, "mooring_cluster_engine_up") == 1

    await wait_for(is_up)
    assert await metric(first, 'mooring_cluster_nodes{status="Live"}') == 3
    async with running_engine(servers.urls) as engine:
        rows = await check(engine, cluster_name, {name: tmp_path / name for name in nodes})
    assert len(rows) >= 3 * 21
    for service in nodes.values():
        assert await service.stop() == 0


@rounds(20, 1_000)
async def test_every_node_reads_what_any_of_them_has(nodes: dict[str, RunningService], rounds: int) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo:
        for number in range(rounds):  # at once: whoever has a 201 from one finds it at each other
            record = await (a, b, c)[number % 3].open(echo.url, name=f"n{number}")
            other = (b, c, a)[number % 3]
            found = await other.get(f"/v1/connections/{record['id']}")
            assert found["node"] == record["node"] == "abc"[number % 3]
            assert (await c.get(f"/v1/connections/n{number}"))["id"] == record["id"]
        await b.send(record["id"], b"hello") if record["node"] == "b" else None
        for service in nodes.values():  # none of them may have read up to the last one yet
            await service.get(f"/v1/connections/{record['id']}")
        listed = [await service.get("/v1/connections?limit=1000") for service in nodes.values()]
        assert [one["id"] for one in listed[0]["connections"]] == [one["id"] for one in listed[1]["connections"]]
        assert len(listed[2]["connections"]) == rounds
        for name in nodes:
            of_one = (await b.get(f"/v1/connections?limit=1000&node={name}"))["connections"]
            assert [one["id"] for one in of_one] == [
                one["id"] for one in listed[0]["connections"] if one["node"] == name
            ]
        page = await b.get("/v1/connections?limit=7")
        rest = await b.get(f"/v1/connections?limit=1000&after={page['next']}")
        assert [one["id"] for one in page["connections"] + rest["connections"]] == [
            one["id"] for one in listed[0]["connections"]
        ]
        mine = next(one for one in listed[0]["connections"] if one["node"] == "a")
        for number in range(30):
            await a.send(mine["id"], b"%d" % number)

        async def all_are_there() -> bool:
            pages = [await service.get(f"/v1/connections/{mine['id']}/events") for service in nodes.values()]
            return len(pages[0]["events"]) == 31 and pages[0] == pages[1] == pages[2]

        await wait_for(all_are_there)
        events = (await a.get("/v1/events?after=start&limit=1000"))["events"]
        half = events[len(events) // 2]["id"]
        await b.get("/v1/connections/999999999", 404)  # behind the end of the log
        resumed = (await b.get(f"/v1/events?after={half}&limit=1000"))["events"]
        assert resumed[: len(events) - len(events) // 2 - 1] == events[len(events) // 2 + 1 :], (
            "nothing is missing, nothing twice"
        )
        local = (await a.get("/v1/events?after=start&limit=1000&scope=node"))["events"]
        assert {event.get("connection") for event in local if "connection" in event} == {
            one["id"] for one in listed[0]["connections"] if one["node"] == "a"
        }
        assert local[0]["id"].split("-")[0] != events[0]["id"].split("-")[0]
        async with b.client.post("/v1/connections", json={"url": echo.url}) as response:
            record, committed = await response.json(), response.headers["Mooring-Committed"]
            assert response.status == 201, record
        last = record["lastEventId"]
        if last is None:  # the log did not have it within two seconds; that it has it may be found right behind them
            assert committed == "node"
            last = (await c.get(f"/v1/connections/{record['id']}"))["lastEventId"]
        assert last == (await c.events(record["id"], count=1))[0]["id"], "where a stream goes on"
    await a.get("/v1/connections/999999999", 404)
    refused = await a.call("PUT", "/v1/hooks/h", 409, json={"url": "http://127.0.0.1:1/"})
    assert refused["type"].endswith("not-in-cluster")
    async with a.client.post("/v1/connections", json={"url": "ws://127.0.0.1:1/"}) as response:
        assert response.status == 502

    async def all_are_told_of_the_end() -> bool:  # told again, if a busy machine has taken longer than an answer waits
        async with a.client.delete(f"/v1/connections/{mine['id']}") as response:
            assert response.status == 200
            return response.headers["Mooring-Committed"] == "cluster"

    await wait_for(all_are_told_of_the_end)
    await until_status(b, mine["id"], "Closed")


async def test_every_node_does_what_is_asked_of_any(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str
) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo:
        record = await a.open(echo.url, name="mine")
        one = record["id"]
        for number in range(20):
            assert (await (b, c)[number % 2].send(one, b"%d" % number))["sent"] == 1
        lines = b"".join(b'"%d"\n' % number for number in range(2_000))
        told = await b.send("mine", lines, "application/x-ndjson")
        assert told["sent"] == 2_000
        large = await c.send(one, b"x" * 3_000_000)
        assert large == {"sent": 1, "bytes": 3_000_000}

        async def all_came_back() -> bool:
            return (await c.get(f"/v1/connections/{one}"))["stats"]["messagesIn"] == 2_021

        await wait_for(all_came_back, 60)
        texts = []
        after = "start"
        while len(texts) < 2_021:
            page = await c.get(f"/v1/connections/{one}/events?kind=onMessage&limit=1000&after={after}")
            after = page["next"]
            texts += [event["event"]["data"] for event in page["events"]]
        assert texts[20:2_020] == [f"{number}" for number in range(2_000)] or texts[20:2_020] == [
            f'"{n}"' for n in range(2_000)
        ]
        problem = await b.call("DELETE", f"/v1/connections/{one}?code=5", 422)
        assert problem["type"].endswith("invalid")
        gone = await c.call("DELETE", "/v1/connections/mine", 200)
        assert gone["status"] == "Closed"
        assert (
            await b.call(
                "POST", f"/v1/connections/{one}/messages", 410, data="x", headers={"Content-Type": "text/plain"}
            )
        )["status"] == 410
        await b.call("DELETE", "/v1/connections/77", 404)
        other = (await a.open(echo.url))["id"]
        await b.get(f"/v1/connections/{other}")
        await a.kill()
        async with running_engine(servers.urls) as engine:

            async def nobody_listens_there() -> bool:  # the engine's servers tell each other a moment later
                try:
                    await engine.ask(f"mooring.{cluster_name}.cmd.a", b"", timeout_s=0.2)
                except Down:
                    return True
                except Unknown:
                    return False
                return False

            await wait_for(nobody_listens_there, 90)

        async def it_is_unreachable() -> bool:  # its own server may be the last one to hear of it: silent until then
            path = f"/v1/connections/{other}/messages"
            problem = await b.call("POST", path, None, data="x", headers={"Content-Type": "text/plain"})
            kind = problem["type"].rpartition(":")[2]
            assert (problem["status"], kind) in ((503, "node-unreachable"), (503, "engine-down"), (504, "node-silent"))
            assert kind == "engine-down" or problem["node"] == "a"
            return bool(kind == "node-unreachable")

        await wait_for(it_is_unreachable, 90)


async def test_a_message_that_is_sent_waits_for_no_log_and_what_becomes_of_its_key_does(
    nodes: dict[str, RunningService], servers: EngineServers
) -> None:
    a, b, _ = nodes.values()

    async def committed(service: RunningService, connection: int, **headers: str) -> str:
        path, headers = f"/v1/connections/{connection}/messages", {"Content-Type": "text/plain", **headers}
        async with service.client.post(path, data="x", headers=headers) as response:
            assert response.status == 200
            return response.headers.get("Mooring-Committed", "")

    async def everywhere(service: RunningService, connection: int, key: str) -> bool:
        return await committed(service, connection, **{"Idempotency-Key": key}) == "cluster"

    async with EchoServer() as echo:
        one = (await a.open(echo.url))["id"]
        await b.get(f"/v1/connections/{one}")
        for service in (a, b):
            assert await committed(service, one) == ""
            key = service.state_dir.name
            await wait_for(lambda service=service, key=key: everywhere(service, one, key), 90)
        for index in range(servers.count):
            servers.kill(index, signal.SIGSTOP)
        try:
            assert await committed(a, one) == ""
            assert await committed(a, one, **{"Idempotency-Key": "k"}) == "node"
        finally:
            servers.start_all()


@rounds(10, 333)
async def test_a_worker_and_a_name_live_at_one_node_and_each_other_finds_them_there(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str, rounds: int
) -> None:
    a, b, c = nodes.values()
    async with EchoServer() as echo:
        assert (await a.open(echo.url))["worker"] == "main-a"
        first = await b.open(echo.url, worker="desk")
        assert first["node"] == "b"
        for service in (a, c):
            assert (await service.open(echo.url, worker="desk"))["node"] == "b"

        async def all_are_there() -> bool:
            told = await a.get("/v1/workers/desk")
            assert told.get("stale") or told["connections"] == 3, told
            return bool(told["connections"] == 3)

        await wait_for(all_are_there)
        workers = await asyncio.gather(
            *(service.open(echo.url, worker="race") for service in nodes.values() for _ in range(5))
        )
        assert len({record["node"] for record in workers}) == 1

        async def put(service: RunningService) -> tuple[int, dict[str, object]]:
            while True:
                async with service.client.put("/v1/connections/only", json={"url": echo.url}) as response:
                    told = await response.json()
                    if not is_engine_down(response.status, told):
                        return response.status, told
                await asyncio.sleep(0.2)

        answers = await asyncio.gather(*(put(service) for service in nodes.values() for _ in range(rounds)))
        assert sorted(status for status, _ in answers)[-1] == 201
        assert sum(status == 201 for status, _ in answers) == 1
        made = {record["id"] for status, record in answers if status in (200, 201)}
        assert len(made) == 1
        async with a.client.delete("/v1/workers/desk") as response:
            assert response.status == 200
            # A busy machine may take longer than an answer waits.
            if response.headers["Mooring-Committed"] != "cluster":
                await until_given_up(servers, cluster_name, "desk")
        await c.get("/v1/connections/77", 404)  # behind the end of the log
        assert (await c.open(echo.url, worker="desk"))["node"] == "c"


@rounds(5, 50)
async def test_what_is_asked_of_a_worker_that_moves_is_done_where_it_is_or_refused(
    nodes: dict[str, RunningService], servers: EngineServers, cluster_name: str, tmp_path: Path, rounds: int
) -> None:
    """Who asks has read less of the log than the nodes between which it moves: they say who has it, or that they have not."""
    over = asyncio.Event()
    opened: set[int] = set()
    told: Counter[str] = Counter()

    async def ask(service: RunningService, method: str, path: str, body: dict[str, object] | None = None) -> int:
        async with asyncio.timeout(60), service.client.request(method, path, json=body) as response:
            answer = await response.json()
            told[f"{method} {response.status} {str(answer.get('type', '')).rpartition(':')[2]}"] += 1
            if response.status == 201 and method == "POST":
                opened.add(answer["id"])
        return response.status

    async def use(service: RunningService) -> None:
        while not over.is_set():
            await ask(service, "POST", "/v1/connections", {"url": echo.url, "worker": "desk"})

    async with EchoServer() as echo, asyncio.TaskGroup() as going:
        for service in nodes.values():
            going.create_task(use(service))
        for number in range(rounds):
            one, other = list(nodes.values())[number % 3], list(nodes.values())[(number + 1) % 3]
            await ask(one, "DELETE", "/v1/workers/desk")
            await ask(other, "PUT", "/v1/workers/desk", {"node": "abc"[(number + 1) % 3]})
            await asyncio.sleep(0.05)
        over.set()
    print(dict(told))
    known = {"terminated", "worker-busy", "worker-elsewhere", "worker-not-found", "node-unreachable", "engine-down"}
    assert {one.split()[2] for one in told if one.split()[1][0] != "2"} <= known
    assert not any(one.startswith("POST") and one.endswith("worker-elsewhere") for one in told), (
        "nobody asked for a node"
    )
    assert opened, "some were done"

    async def nobody_has_it() -> bool:
        async with nodes["a"].client.delete("/v1/workers/desk") as response:
            told = await response.json()
            assert response.status in (200, 404) or str(told["type"]).rpartition(":")[2] in known, told
            return response.status in (200, 404)

    await wait_for(nobody_has_it)
    for service in nodes.values():
        for one in opened:
            await until_status(service, one, "Closed", at_once=False)
    for service in nodes.values():
        await service.stop()
    async with running_engine(servers.urls) as engine:
        await check(engine, cluster_name, {name: tmp_path / name for name in nodes}, partial=True)


async def test_a_service_without_its_engine_serves_and_says_so(tmp_path: Path) -> None:
    service = RunningService(
        tmp_path / "state", "--config", configuration(tmp_path, "a", "none", ["nats://127.0.0.1:1"])
    )
    try:
        await service.start()

        async def tells_the_engine() -> bool:
            ready = await service.get("/readyz", 503)
            return any(reason.startswith("engine: nats://127.0.0.1:1") for reason in ready["reasons"])

        await wait_for(tells_the_engine)
        assert (await service.get("/v1/cluster"))["engine"]["status"] == "down"
        problem = await service.get("/v1/connections/5", 503)
        assert problem["type"].endswith("engine-down"), "nobody can say that it is not elsewhere"
    finally:
        await service.clean_up()


async def test_a_start_that_waiting_does_not_mend_ends_with_78_and_one_sentence(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    service = RunningService(tmp_path / "state", "--config", configuration(tmp_path, "a", cluster_name, servers.urls))
    try:
        await service.start()
        assert await asyncio.to_thread(service.process.wait, 90) == 78
        await wait_for(
            lambda: (
                f"the engine has no stream mooring_{cluster_name}_log: run `mooring cluster init` once" in service.log()
            )
        )
    finally:
        await service.clean_up()
