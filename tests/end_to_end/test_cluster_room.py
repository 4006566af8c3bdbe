"""What a node refuses leaves nothing behind: another one that has room does it, and what another one has is done there by whoever is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.running import is_engine_down
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import FOUND_S, Nodes, claims_of
from tests.conftest import RunningService, wait_for
from tests.end_to_end.with_user_code import call, options, seen_by
from tests.servers import EchoServer

LEASE = {"dead_after": 600}  # no test here is about a death


async def full(nodes: Nodes, limits: str, url: str) -> tuple[RunningService, RunningService]:
    """Return a node that has one connection, and no room beside it, and another one."""
    nodes.options += options()
    (a,) = await nodes.begin("a", f"[limits]\n{limits}\n", **LEASE)
    (b,) = await nodes.begin("b", **LEASE)
    await a.open(url)
    return a, b


async def refused(service: RunningService, method: str, path: str, body: dict[str, Any] | None = None) -> str:
    told = await service.call(method, path, 429, json=body)
    assert told["type"].endswith(":limit-reached"), told
    return str(told["setting"])


async def test_workers_that_a_full_node_refuses_are_had_by_one_with_room(
    nodes: Nodes, servers: EngineServers, cluster_name: str
) -> None:
    async with EchoServer() as echo:
        a, b = await full(nodes, "max_workers = 1", echo.url)
        assert await refused(a, "PUT", "/v1/workers/put") == "limits.max_workers"
        for worker, name in (("opened", {}), ("named", {"name": "one"})):
            body = {"url": echo.url, "worker": worker, **name}
            assert await refused(a, "POST", "/v1/connections", body) == "limits.max_workers"
        await refused(a, "PUT", "/v1/connections/two", {"url": echo.url, "worker": "named"})
        await refused(a, "POST", "/v1/workers/called/calls", {"function": "get_seen", "params": []})
        await call(a, "tell", "told", 1, worker="main-a")

        async def is_told() -> bool:
            page = await a.get("/v1/events?after=start&limit=1000&kind=callbackError")
            return [event["event"]["exception"] for event in page["events"]] == ["LimitReached"]

        await wait_for(is_told, FOUND_S)
        for worker in ("put", "opened", "named", "called", "told"):
            assert await claims_of(servers, cluster_name, worker) == []
            assert (await b.call("PUT", f"/v1/workers/{worker}", 201))["node"] == "b"
            # However full it is: what another one has is done there.
            assert (await a.call("PUT", f"/v1/workers/{worker}", 200))["node"] == "b"
        assert (await b.call("PUT", "/v1/connections/two", 201, json={"url": echo.url}))["node"] == "b"
        assert (await a.open(echo.url, worker="opened"))["node"] == "b"
        assert (await a.open(echo.url, worker="named", name="one"))["node"] == "b"
        assert await seen_by(a, "called") == []
    await nodes.check()


async def test_of_many_workers_that_are_begun_at_once_those_for_which_no_place_is_left_are_had_elsewhere(
    nodes: Nodes,
) -> None:
    async with EchoServer() as echo:
        a, b = await full(nodes, "max_workers = 3", echo.url)

        async def begin(worker: str) -> int:
            async with a.client.put(f"/v1/workers/{worker}") as response:
                told = await response.json()
                assert response.status in (201, 429), told
                return response.status

        workers = [f"w{number}" for number in range(8)]
        told = await asyncio.gather(*map(begin, workers))
        assert told.count(201) == 2
        for worker, status in zip(workers, told, strict=True):
            if status == 201:
                continue

            async def is_had(worker: str = worker) -> bool:  # it was claimed: that it is given up comes with the log
                async with b.client.put(f"/v1/workers/{worker}", json={"node": "b"}) as response:
                    told = await response.json()
                    assert response.status in (201, 409) or is_engine_down(response.status, told), told
                    return response.status == 201

            await wait_for(is_had, FOUND_S)
    await nodes.check()


async def test_names_that_a_full_node_refuses_are_had_by_one_with_room(
    nodes: Nodes, servers: EngineServers, cluster_name: str
) -> None:
    async with EchoServer() as echo:
        a, b = await full(nodes, "max_connections = 1", echo.url)
        wanted = {"url": echo.url}
        assert await refused(a, "PUT", "/v1/connections/put", wanted) == "limits.max_connections"
        await refused(a, "POST", "/v1/connections", {**wanted, "name": "opened"})
        await refused(a, "PUT", "/v1/connections/both", {**wanted, "worker": "desk"})
        await refused(a, "POST", "/v1/connections", {**wanted, "worker": "desk"})
        assert await claims_of(servers, cluster_name, "desk") == []
        made = await b.call("PUT", "/v1/connections/put", 201, json={**wanted, "node": "b"})
        assert (await a.call("PUT", "/v1/connections/put", 200, json=wanted))["id"] == made["id"]
        assert (await b.open(echo.url, name="opened"))["node"] == "b"
        assert (await a.open(echo.url, 409, name="opened"))["type"].endswith(":name-taken")
        assert (await b.call("PUT", "/v1/connections/both", 201, json={**wanted, "worker": "desk"}))["node"] == "b"
        assert (await a.open(echo.url, worker="desk"))["node"] == "b"
    await nodes.check()


async def test_a_full_node_that_has_not_read_who_has_it_by_now_refuses_nothing_for_that_one(
    nodes: Nodes, ways: Callable[[], Proxies]
) -> None:
    way = ways()
    (a,) = await nodes.begin("a", "[limits]\nmax_connections = 1\nmax_workers = 1\n", engine=way.urls, **LEASE)
    (b,) = await nodes.begin("b", **LEASE)
    async with EchoServer() as echo:
        await a.open(echo.url)
        way.hold()
        await b.call("PUT", "/v1/workers/desk", 201)
        made = await b.call("PUT", "/v1/connections/named", 201, json={"url": echo.url})
        for path, body in (("/v1/workers/desk", None), ("/v1/connections/named", {"url": echo.url})):
            async with a.client.put(path, json=body) as response:
                assert is_engine_down(response.status, await response.json()), await response.text()
        # What is its own is refused at once.
        await refused(a, "POST", "/v1/connections", {"url": echo.url})
        way.pass_on()
        assert (await a.call("PUT", "/v1/workers/desk", 200))["node"] == "b"
        assert (await a.call("PUT", "/v1/connections/named", 200, json={"url": echo.url}))["id"] == made["id"]
    await nodes.check()


async def test_a_name_that_a_worker_takes_no_connection_for_is_had_by_another_one(nodes: Nodes) -> None:
    nodes.options += options()
    a, b = await nodes.begin("ab", **LEASE)
    async with EchoServer() as echo:
        await a.open(echo.url, worker="drains")
        await a.call("POST", "/v1/workers/drains/drain", 202)
        told = await a.open(echo.url, 409, worker="drains", name="named")
        assert told["type"].endswith(":worker-busy")
        assert (await b.open(echo.url, name="named"))["node"] == "b"
    await nodes.check()


async def test_a_name_that_is_taken_elsewhere_leaves_the_worker_that_was_asked_for_free(
    nodes: Nodes, servers: EngineServers, cluster_name: str
) -> None:
    a, b = await nodes.begin("ab", **LEASE)
    async with EchoServer() as echo:
        made = await a.open(echo.url, name="named")
        await b.record(made["id"])  # it knows of it
        told = await b.open(echo.url, 409, worker="desk", name="named")
        assert told["type"].endswith(":name-taken")
        assert await claims_of(servers, cluster_name, "desk") == []
    await nodes.check()
