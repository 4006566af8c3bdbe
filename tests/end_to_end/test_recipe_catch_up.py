"""A numbered feed without a hole: what was missed comes before what is live, also where the service dies in the middle of it."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.conftest import ROOT, StartService, wait_for
from tests.scripted import Scripted

CODE = "tests.end_to_end.recipe_code"


@pytest.mark.parametrize("service_dies", [False, True])
async def test_the_journal_has_each_number_once_in_order(start_service: StartService, service_dies: bool) -> None:
    async def feed(server: Scripted, socket: web.WebSocketResponse) -> None:
        begin = 1 if len(server.sockets) == 1 else 1_050
        for number in range(begin, begin + (1_000 if begin == 1 else 50)):
            await socket.send_str(str(number))
        if begin == 1:
            await server.hear(socket)
        await server.listen(socket)

    service = await start_service("--app-dir", str(ROOT), "--function", f"fetch_slowly={CODE}:fetch_slowly")
    async with Scripted(feed) as server:
        opened = await service.open(
            server.url, recipe={"catchUp": {"function": "fetch_slowly"}}, reconnect={"minDelay": 0.05}, dataTimeout=3, pingInterval=0.5,
            pingTimeout=3, whenSilent="report",
        )  # fmt: skip
        await service.events(opened["id"], count=1_001)
        server.cut()
        await service.events(opened["id"], "onReconnect")
        if service_dies:
            await asyncio.sleep(0.3)
            await service.restart_after_kill()

        async def caught_up() -> list[int] | None:
            events = await service.events(opened["id"], count=1)
            numbers = [int(event["event"]["data"]) for event in events if event["kind"] == "onMessage"]
            return numbers if len(numbers) >= 1_099 else None

        assert await wait_for(caught_up, what="all numbers") == list(range(1, 1_100))
        events = await service.events(opened["id"])
        filled = [int(event["event"]["data"]) for event in events if event["event"].get("filled")]
        assert filled == list(range(1_001, 1_050))
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert "onTerminate" not in [event["kind"] for event in events], "the peer is not judged dead meanwhile"
