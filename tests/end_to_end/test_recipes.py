"""A protocol without code: recipes through everything, against peers that follow a script."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.conftest import RunningService, wait_for
from tests.scripted import Scripted
from tests.servers import EchoServer

LOGIN: dict[str, Any] = {
    "opening": [
        {
            "send": {"type": "login", "token": "s3cret-canary"},
            "expect": {"/type": "welcome"},
            "fail": {"/type": "denied"},
            "timeout": 60,
        },
        {"send": {"type": "subscribe", "id": "${nextId}", "room": "${/room}"}},
    ]
}


async def lets_in(server: Scripted, socket: web.WebSocketResponse) -> None:
    """Say something before the answer, and something after the subscription."""
    await server.hear(socket)
    await socket.send_str("early")
    await socket.send_json({"type": "welcome", "room": 7})
    await server.hear(socket)
    await socket.send_str("news")
    await server.listen(socket)


async def test_open_means_ready_and_what_came_before_is_delivered_behind_it(service: RunningService) -> None:
    async with Scripted(lets_in) as server:
        opened = await service.open(server.url, recipe=LOGIN, reconnect={"minDelay": 0.05})
        assert (opened["status"], opened["ready"], opened["socket"]) == ("Connected", True, 1)
        assert opened["recipe"]["opening"][0]["send"] == {"type": "login", "token": "***"}
        events = await service.events(opened["id"], count=4)
        assert [event["kind"] for event in events] == ["onOpen", "onMessage", "onMessage", "onMessage"]
        assert [event["event"].get("data") for event in events[1:]] == [
            "early",
            '{"type": "welcome", "room": 7}',
            "news",
        ]
        assert [json.loads(text) for text in server.heard[0]] == [
            {"type": "login", "token": "s3cret-canary"},
            {"type": "subscribe", "id": 1, "room": 7},
        ]
        server.cut()
        events = await service.events(opened["id"], count=9)
        assert [event["kind"] for event in events[4:]] == [
            "onDisconnect", "onReconnect", "onMessage", "onMessage", "onMessage",
        ]  # fmt: skip
        assert json.loads(server.heard[1][1])["id"] == 2, "nextId goes on over sockets"


async def test_a_step_that_is_refused_or_not_answered_is_the_end_of_the_create(service: RunningService) -> None:
    async def denies(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.hear(socket)
        await socket.send_json({"type": "denied"})
        await server.listen(socket)

    async def says_nothing(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.listen(socket)

    async def closes(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.hear(socket)
        await socket.close(code=4401, message=b"who are you")

    for script, status, name, code in (
        (denies, 502, "opening-failed", 1006),
        (says_nothing, 504, "opening-timeout", 1006),
        (closes, 502, "opening-failed", 4401),
    ):
        for kept in (False, True):
            async with Scripted(script) as server:
                steps = [{**LOGIN["opening"][0], "timeout": 1 if status == 504 else 60}, LOGIN["opening"][1]]
                problem = await service.open(server.url, recipe={"opening": steps}, reconnect=kept, status=status)
                assert problem["type"].endswith(name), problem
                assert problem["errors"][0]["errCode"] == 112
                kinds = [event["kind"] for event in await service.events(problem["connection"], count=2)]
                assert kinds == ["onError", "onTerminate"]
                record = await service.record(problem["connection"])
                assert (record["status"], record["terminate"]["code"]) == ("Closed", code)
                assert len(server.handshakes) == 1


async def test_it_is_never_connected_before_the_steps_are_done(service: RunningService) -> None:
    let = asyncio.Event()

    async def waits(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.hear(socket)
        await let.wait()
        await socket.send_json({"type": "welcome", "room": 1})
        await server.listen(socket)

    async with Scripted(waits) as server:
        opened = await service.open(
            server.url, recipe=LOGIN, reconnect=True, status=202, request_headers={"Prefer": "respond-async"}
        )

        async def at_step() -> dict[str, Any] | None:
            record = await service.record(opened["id"])
            heard = server.heard and server.heard[0]
            return record if heard and record["down"] and record["down"]["phase"] == "opening" else None

        record = await wait_for(at_step, what="the first step")
        assert (record["status"], record["ready"]) == ("Connecting", False)
        assert record["opening"] == {"step": 1, "steps": 2}
        await service.send(opened["id"], "too early", status=409)
        let.set()
        assert [event["kind"] for event in await service.events(opened["id"], count=2)] == ["onOpen", "onMessage"]
        assert (await service.record(opened["id"]))["opening"] is None


async def test_an_echo_that_answers_itself_ends(service: RunningService, echo: EchoServer) -> None:
    opened = await service.open(echo.url, recipe={"answers": [{"when": "a", "send": "a"}]})
    await service.send(opened["id"], "a")
    events = await service.events(opened["id"], until="onTerminate")
    assert [event["kind"] for event in events[-2:]] == ["onError", "onTerminate"]
    assert events[-2]["event"]["errors"][0]["errCode"] == 210
