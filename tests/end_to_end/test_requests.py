"""Requests over a connection and their replies, through everything."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from tests.conftest import RunningService, wait_for
from tests.end_to_end.test_kept import STAYS_DOWN, status_of


class Answering:
    """A JSON-RPC server of the test: it answers what `script` says."""

    def __init__(self) -> None:
        self.received: list[Any] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.url = ""
        self.arrived = asyncio.Condition()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                value = json.loads(message.data)
                async with self.arrived:
                    self.received.append(value)
                    self.arrived.notify_all()
                await self.answer(socket, value)
        return socket

    async def answer(self, socket: web.WebSocketResponse, value: Any) -> None:
        method, id_ = value.get("method"), value.get("id")
        if method == "add":
            await socket.send_json({"id": id_, "result": sum(value["params"])})
        elif method == "fail":
            await socket.send_json({"id": id_, "error": {"code": -1, "message": "no"}})
        elif method == "ask_back":  # a request of the peer with the same id comes first
            await socket.send_json({"id": id_, "method": "are you there"})
            await socket.send_json({"id": id_, "result": "yes"})

    async def until(self, count: int) -> None:
        async with asyncio.timeout(100), self.arrived:
            await self.arrived.wait_for(lambda: len(self.received) >= count)


@pytest.fixture
async def peer() -> AsyncIterator[Answering]:
    made = Answering()
    app = web.Application()
    app.router.add_get("/", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"ws://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    await runner.cleanup()


async def ask(
    service: RunningService, connection: int, body: Any, status: int = 200, query: str = "", **headers: str
) -> Any:
    path = f"/v1/connections/{connection}/requests{query}"
    return await service.call("POST", path, status, json=body, headers=headers)


async def test_a_request_is_answered_with_its_reply_and_the_event_that_it_is(
    service: RunningService, peer: Answering
) -> None:
    opened = await service.open(peer.url, requests="jsonrpc")
    assert (opened["requests"], opened["reconnect"], opened["socket"]) == ("jsonrpc", None, 1)
    found = await ask(service, opened["id"], {"method": "add", "params": [1, 2]})
    assert found["reply"] == {"id": 1, "result": 3} and found["ms"] > 0
    events = await service.events(opened["id"], count=2)
    assert found["event"] == events[1]["id"] and json.loads(events[1]["event"]["data"]) == found["reply"]
    failed = await ask(service, opened["id"], {"method": "fail"}, 502)
    assert failed["type"].endswith(":peer-error") and failed["reply"]["error"]["message"] == "no"
    assert (await ask(service, opened["id"], {"method": "ask_back"}))["reply"] == {"id": 3, "result": "yes"}
    assert peer.received[0] == {"method": "add", "params": [1, 2], "id": 1}


async def test_a_reply_that_never_comes_and_one_that_is_late(service: RunningService, peer: Answering) -> None:
    connection = (await service.open(peer.url, requests="jsonrpc"))["id"]
    late = await ask(service, connection, {"method": "x"}, 504, "?timeout=0.1")
    assert late["type"].endswith(":reply-timeout")
    await peer.sockets[0].send_json({"id": 1, "result": "late"})
    await service.events(connection, count=2)
    await wait_for(lambda: _late_replies(service, connection, 1))
    waits = asyncio.create_task(ask(service, connection, {"method": "x", "id": 7}, 502, "?timeout=60"))
    await peer.until(2)
    in_use = await ask(service, connection, {"method": "x", "id": 7}, 409)
    assert in_use["type"].endswith(":id-in-use")
    await peer.sockets[0].close()
    assert (await waits)["type"].endswith(":reply-lost")


async def test_what_has_no_requests_or_no_socket_is_told_so(service: RunningService, peer: Answering) -> None:
    plain = (await service.open(peer.url))["id"]
    assert (await ask(service, plain, {}, 422))["type"].endswith(":no-requests")
    kept = (await service.open(peer.url, requests="jsonrpc", reconnect=STAYS_DOWN, whenDown="queue"))["id"]
    assert (await ask(service, kept, [], 422))["errors"][0]["pointer"] == ""
    assert (await ask(service, kept, {}, 422, "?timeout=0"))["errors"][0]["pointer"] == "query:timeout"
    await peer.sockets[-1].close(code=1013)
    await status_of(service, kept, "Reconnecting")
    assert (await ask(service, kept, {}, 409))["connectionStatus"] == "Reconnecting"
    for wrong in ("morse", {"id": "x", "reply": "/id"}, {"id": "", "reply": "/id"}):
        found = await service.open(peer.url, 422, requests=wrong)
        assert found["errors"][0]["pointer"].startswith("/requests")
    assert (await service.open(peer.url, 422, requests="cdp", dataType="blob"))["errors"][0]["pointer"] == "/requests"


@pytest.mark.timeout(300)
async def test_a_thousand_at_a_time_each_get_their_own_reply_however_they_are_shuffled(
    service: RunningService, peer: Answering
) -> None:  # 39
    connection = (await service.open(peer.url, requests="jsonrpc", reconnect={"minDelay": 0.05}))["id"]
    waiting = [
        asyncio.create_task(ask(service, connection, {"n": number}, query="?timeout=300")) for number in range(1_000)
    ]
    await peer.until(1_000)
    full = await ask(service, connection, {"n": "one too many"}, 429)
    assert (full["setting"], full["limit"]) == ("limits.max_pending_requests", 1_000)
    asked = peer.received[:]
    random.shuffle(asked)
    for value in asked:
        await peer.sockets[0].send_json({"id": value["id"], "result": value["n"]})
    found = await asyncio.gather(*waiting)
    assert [one["reply"]["result"] for one in found] == list(range(1_000))
    assert len({one["event"] for one in found}) == 1_000

    lost = [asyncio.create_task(ask(service, connection, {"n": number}, 502, "?timeout=300")) for number in range(50)]
    await peer.until(1_050)
    began = asyncio.get_running_loop().time()
    await peer.sockets[0].close()
    assert {one["type"].rpartition(":")[2] for one in await asyncio.gather(*lost)} == {"reply-lost"}
    assert asyncio.get_running_loop().time() - began < 100, "not at their timeout"
    await status_of(service, connection, "Connected")
    await wait_for(lambda: len(peer.sockets) == 2)
    await peer.sockets[1].send_json({"id": peer.received[-1]["id"], "result": "of the socket before"})
    await service.events(connection, count=1_004)
    await wait_for(lambda: _late_replies(service, connection, 1))


async def _late_replies(service: RunningService, connection: int, count: int) -> bool:
    return (await service.record(connection))["stats"]["lateReplies"] == count


async def test_hidden_replies_own_pointers_and_one_at_a_time(service: RunningService, peer: Answering) -> None:
    ocpp = {"id": "/id", "reply": "/id", "idType": "string", "hide": True, "oneAtATime": True}
    connection = (await service.open(peer.url, requests=ocpp))["id"]
    assert (await service.record(connection))["requests"] == ocpp
    first = asyncio.create_task(ask(service, connection, {"n": 1}, query="?timeout=60"))
    await peer.until(1)
    second = asyncio.create_task(ask(service, connection, {"n": 2}, query="?timeout=60"))
    late = await ask(service, connection, {"n": 3}, 504, "?timeout=0.2")
    assert late["type"].endswith(":reply-timeout") and len(peer.received) == 1, "it never had its turn"
    await peer.sockets[0].send_json({"id": "1"})
    assert await first == {"reply": {"id": "1"}, "event": None, "ms": (await first)["ms"]}
    await peer.until(2)
    assert peer.received[1]["n"] == 2
    await peer.sockets[0].send_json({"id": peer.received[1]["id"]})
    await second
    assert [event["kind"] for event in await service.events(connection)] == ["onOpen"]


async def test_a_request_under_a_key_is_sent_once_across_a_crash_and_its_answer_is_kept(
    service: RunningService, peer: Answering
) -> None:
    connection = (await service.open(peer.url, requests="jsonrpc"))["id"]
    key = {"Idempotency-Key": "k"}
    first = await ask(service, connection, {"method": "add", "params": [1]}, **key)
    assert await ask(service, connection, {"method": "add", "params": [1]}, **key) == first
    lost = asyncio.create_task(
        service.client.post(
            f"/v1/connections/{connection}/requests?timeout=60", json={"n": 1}, headers={"Idempotency-Key": "l"}
        )
    )
    await peer.until(2)
    await service.restart_after_kill()
    await asyncio.wait({lost})
    again = asyncio.create_task(_until_served(service, connection))
    await asyncio.sleep(0.3)
    await peer.sockets[0].send_json({"id": peer.received[1]["id"], "result": "once"})
    assert (await again)["reply"]["result"] == "once" and len(peer.received) == 2
    taken = await ask(service, connection, {"method": "add", "params": [2]}, 202, Prefer="respond-async")
    assert taken == {"id": 3}


async def _until_served(service: RunningService, connection: int) -> Any:
    while True:
        async with service.client.post(
            f"/v1/connections/{connection}/requests?timeout=60", json={"n": 1}, headers={"Idempotency-Key": "l"}
        ) as response:
            if response.status == 200:
                return await response.json()
        await asyncio.sleep(0.05)
