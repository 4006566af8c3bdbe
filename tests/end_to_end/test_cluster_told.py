"""What an answer says of where it can be read: its header and its body are of one wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.services import FOUND_S, Nodes
from tests.conftest import wait_for
from tests.servers import EchoServer

BEHIND_S = 2.5  # longer than an answer waits, and not as long as two of them


async def test_no_answer_says_that_every_node_can_show_what_its_body_does_not_have(
    nodes: Nodes, ways: Callable[[], Proxies]
) -> None:
    way = ways()
    (a,) = await nodes.begin("a", engine=way.urls, dead_after=60)

    async def create() -> tuple[int, Any, str]:
        async with a.client.post("/v1/connections", json={"url": echo.url}) as response:
            return response.status, await response.json(), response.headers.get("Mooring-Committed", "")

    async def two_are_open_here() -> bool:
        page = await a.get("/v1/events?scope=node&after=start&kind=onOpen")
        return len(page["events"]) == 2

    async with EchoServer() as echo:
        status, record, committed = await create()
        assert status == 201 and (committed == "node" or record["lastEventId"])
        way.hold()
        creating = asyncio.create_task(create())
        await wait_for(two_are_open_here, FOUND_S)
        await asyncio.sleep(BEHIND_S)
        way.cut()
        way.pass_on()
        status, record, committed = await creating
        assert status == 201, record
        assert committed in ("cluster", "node")
        assert committed == "node" or record["lastEventId"]
