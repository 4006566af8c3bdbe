"""Whoever ends a connection while it renews or opens ends it at once, and no socket follows; clocks stand still while we do not read."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from mooring.testing import LocalWorker, Server, ServerConnection
from tests.conftest import RunningService, wait_for
from tests.scripted import HttpServer, Scripted

AGAIN = {"minDelay": 0.05, "maxDelay": 0.1}


async def _phase(service: RunningService, connection: int, phase: str) -> bool:
    down = (await service.record(connection)).get("down")
    return bool(down and down["phase"] == phase)


@pytest.mark.parametrize("again", [False, True], ids=["the first socket", "the second one"])
@pytest.mark.parametrize("phase", ["renewing", "opening"])
async def test_it_is_terminated_in_each_phase_at_once(shared: RunningService, phase: str, again: bool) -> None:
    goes_on = asyncio.Event()
    if again:
        goes_on.set()

    async def gives(request: web.Request) -> web.Response:
        if phase == "renewing":
            await goes_on.wait()
        return web.json_response({"token": "t"})

    async def answers(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.hear(socket)
        await socket.send_str("one")
        await server.hear(socket)
        if phase == "opening" and not goes_on.is_set():
            await server.listen(socket)
        else:
            await socket.send_str("two")
            await server.listen(socket)

    async with HttpServer(gives) as url, Scripted(answers) as server:
        recipe = {
            "renew": {"http": {"url": url, "values": {"token": "/token"}}, "timeout": 300},
            "opening": [{"send": "1", "expect": "one"}, {"send": "2", "expect": "two", "timeout": 300}],
        }
        opened = await shared.open(
            server.url, recipe=recipe, reconnect=AGAIN, closeTimeout=60, status=201 if again else 202,
            request_headers={} if again else {"Prefer": "respond-async"},
        )  # fmt: skip
        if again:
            goes_on.clear()
            server.cut()
        await wait_for(lambda: _phase(shared, opened["id"], phase), what=f"it is {phase}")
        began = time.monotonic()
        final = await shared.call("DELETE", f"/v1/connections/{opened['id']}")
        assert final["status"] == "Closed"
        assert time.monotonic() - began < 30, "neither its step nor its close handshake is waited for"
        events = await shared.events(opened["id"], "onTerminate")
        kinds = [event["kind"] for event in events if event["kind"] != "onMessage"]
        assert kinds == (["onOpen", "onDisconnect", "onTerminate"] if again else ["onError", "onTerminate"])
        assert events[-1]["event"]["code"] == 1006
        handshakes = len(server.handshakes)
        goes_on.set()
        await asyncio.sleep(0.3)
        assert len(server.handshakes) == handshakes, "no socket follows"


class Blocks:
    """Its first callback takes its time, while far more comes than may wait for it."""

    data_timeout = 3
    when_silent = "report"
    ping_interval = 0.5
    ping_timeout = 3

    def __init__(self) -> None:
        self.heard = 0
        self.silences: list[int] = []

    def on_message(self, ws: Any, event: Any) -> None:
        if self.heard == 0:
            time.sleep(8)
        self.heard += 1

    def on_silence(self, ws: Any, event: Any) -> None:
        self.silences.append(self.heard)


def test_nobody_is_judged_while_we_do_not_read() -> None:
    async def floods(connection: ServerConnection) -> None:
        for number in range(5_000):
            await connection.send(f"{number} " + "x" * 2_000)
        await connection.receive(3600)

    handler = Blocks()
    with Server(floods) as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        worker.wait_for("onMessage", 5_000, timeout_s=60)
        worker.wait_for("onSilence", timeout_s=60)
        ws.terminate()
        worker.wait_for("onTerminate")
    assert handler.heard == 5_000
    assert handler.silences[0] == 5_000, "it is silent only once all was read"
    assert not [event for event in worker.events if event["kind"] == "onError"]
