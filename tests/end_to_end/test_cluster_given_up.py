"""What another node has given up is free wherever it is asked for, also where the log was not read so far yet; and no request goes to and fro for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.running import is_engine_down
from tests.cluster_kit.services import FOUND_S, Nodes
from tests.conftest import wait_for
from tests.servers import EchoServer


async def test_a_worker_that_was_ended_is_not_told_to_be_elsewhere_by_a_node_that_has_not_read_that(
    nodes: Nodes, ways: Callable[[], Proxies]
) -> None:
    way = ways()
    (a,) = await nodes.begin("a", dead_after=600)
    (b,) = await nodes.begin("b", dead_after=600, engine=way.urls)
    async with EchoServer() as echo:
        await a.call("PUT", "/v1/workers/desk", 201)
        wanted = {"url": echo.url, "worker": "desk", "node": "b"}
        told = await b.call("POST", "/v1/connections", 409, json=wanted)
        assert (told["type"].rpartition(":")[2], told["node"], told["asked"]) == ("worker-elsewhere", "a", "b")
        way.hold()
        await a.call("DELETE", "/v1/workers/desk", 200)
        async with b.client.post("/v1/connections", json=wanted) as response:
            told = await response.json()
            assert is_engine_down(response.status, told), told
        way.pass_on()

        async def is_made() -> bool:  # the link may have ended meanwhile: then it cannot be asked for a moment
            async with b.client.post("/v1/connections", json=wanted) as response:
                told = await response.json()
                if is_engine_down(response.status, told):
                    return False
                assert (response.status, told.get("node")) == (201, "b"), told
                return True

        await wait_for(is_made, FOUND_S)
    await nodes.check()


async def test_what_two_nodes_send_to_each_other_is_answered(nodes: Nodes) -> None:
    (a,) = await nodes.begin("a", dead_after=600)
    (b,) = await nodes.begin("b", dead_after=600)
    async with EchoServer() as echo:
        made = await a.open(echo.url, name="named")
        await b.record(made["id"])  # it knows of it
        # The one has the name, and the other is asked for.
        wanted = {"url": echo.url, "name": "named", "node": "b"}
        async with asyncio.timeout(FOUND_S):
            told = await b.call("POST", "/v1/connections", 503, json=wanted)
        assert told["type"].rpartition(":")[2] in ("node-unreachable", "engine-down")
    await nodes.check()
